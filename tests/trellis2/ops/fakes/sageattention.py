"""The signature of SageAttention 2.2, with keys rounded to 8 bits, about as its kernels do."""

from softmax_written_out import attend


def sageattn(q, k, v, tensor_layout="HND", is_causal=False, sm_scale=None, return_lse=False, **kwargs):
    assert (tensor_layout, is_causal, sm_scale, return_lse, kwargs) == ("NHD", False, None, False, {})
    step = k.abs().amax() / 127
    return attend(q, (k / step).round() * step, v)
