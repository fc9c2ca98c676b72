"""The signatures of flash-attn 2.8."""

from softmax_written_out import attend, attend_packed


def flash_attn_func(
    q,
    k,
    v,
    dropout_p=0.0,
    softmax_scale=None,
    causal=False,
    window_size=(-1, -1),
    softcap=0.0,
    alibi_slopes=None,
    deterministic=False,
    return_attn_probs=False,
):
    assert (dropout_p, softmax_scale, causal, return_attn_probs) == (0.0, None, False, False)
    return attend(q, k, v)


def flash_attn_varlen_func(
    q,
    k,
    v,
    cu_seqlens_q,
    cu_seqlens_k,
    max_seqlen_q,
    max_seqlen_k,
    dropout_p=0.0,
    softmax_scale=None,
    causal=False,
    window_size=(-1, -1),
    softcap=0.0,
    alibi_slopes=None,
    deterministic=False,
    return_attn_probs=False,
    block_table=None,
):
    assert (dropout_p, softmax_scale, causal, return_attn_probs) == (0.0, None, False, False)
    longest = [int(ends.diff().max()) for ends in (cu_seqlens_q, cu_seqlens_k)]
    assert [type(n) for n in (max_seqlen_q, max_seqlen_k)] == [int, int] and [max_seqlen_q, max_seqlen_k] == longest
    return attend_packed(q, k, v, cu_seqlens_q, cu_seqlens_k)
