"""Layer normalisation followed by weights, or by a modulation per batch item (adaptive layer norm); with it, in the
same pass, what comes before it in a residual network (adding a branch) and after it (quantising for a linear layer).

Letters: T packed tokens, B batch items, C channels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ....o_voxel.checks import FLOATS, check_tensor
from ....o_voxel.ops.backend import Choice, always, resolve_backend, triton_probe
from ..quantized_linear.formats import Format, Quantized
from . import reference

CHOICES = (Choice("triton", triton_probe), Choice("reference", always))


def norm_modulate(
    x: Tensor,  # [T, C]
    scale: Tensor,  # [B, C]
    shift: Tensor,  # [B, C]
    item: Tensor | None,  # [T] int64: the item of each token; None when B is 1
    *,
    eps: float = 1e-6,
    backend: str = "auto",
) -> Tensor:  # [T, C]
    """LN(x) * (1 + scale[item]) + shift[item]; the norm has no weights and is taken in fp32. Returns x's dtype."""
    return add_norm_modulate(x, None, None, scale, shift, item, eps=eps, backend=backend)[1]


def norm_affine(
    x: Tensor,  # [T, C]
    weight: Tensor,  # [C] fp32
    bias: Tensor,  # [C] fp32
    *,
    eps: float = 1e-6,
    backend: str = "auto",
) -> Tensor:  # [T, C]
    """LN(x) * weight + bias in fp32, returned in x's dtype: the norm with weights of its own."""
    return add_norm_affine(x, None, None, weight, bias, None, eps=eps, backend=backend)[1]


def add_norm_modulate(
    x: Tensor,  # [T, C]
    branch: Tensor | None,  # [T, C] in x's dtype; None: nothing is added
    gate: Tensor | None,  # [B, C]; None: 1
    scale: Tensor,  # [B, C]
    shift: Tensor,  # [B, C]
    item: Tensor | None,  # [T] int64; None when B is 1
    *,
    form: Format | None = None,
    eps: float = 1e-6,
    backend: str = "auto",
) -> tuple[Tensor, Tensor | Quantized]:  # [T, C] each
    """(s, LN(s) * (1 + scale[item]) + shift[item]) with s = x + gate[item] * branch, rounded to x's dtype.

    form: the number format to quantise the second to, row by row, before it is ever rounded to x's dtype.
    """
    t, c = _check_sum(x, branch, gate, item)
    check_tensor(scale, "scale", (None if item is not None else 1, c), FLOATS)
    check_tensor(shift, "shift", tuple(scale.shape), FLOATS)
    return _backend(x, backend).modulate(x, branch, gate, scale, shift, item, eps, form)


def add_norm_affine(
    x: Tensor,  # [T, C]
    branch: Tensor | None,  # [T, C] in x's dtype; None: nothing is added
    gate: Tensor | None,  # [B, C]; None: 1
    weight: Tensor,  # [C] fp32
    bias: Tensor,  # [C] fp32
    item: Tensor | None,  # [T] int64; None when B is 1
    *,
    form: Format | None = None,
    eps: float = 1e-6,
    backend: str = "auto",
) -> tuple[Tensor, Tensor | Quantized]:  # [T, C] each
    """(s, LN(s) * weight + bias) with s and form as in `add_norm_modulate`."""
    _, c = _check_sum(x, branch, gate, item)
    check_tensor(weight, "weight", (c,), torch.float32)
    check_tensor(bias, "bias", (c,), torch.float32)
    return _backend(x, backend).affine(x, branch, gate, weight, bias, item, eps, form)


def _check_sum(x: Tensor, branch: Tensor | None, gate: Tensor | None, item: Tensor | None) -> tuple[int, int]:
    t, c = check_tensor(x, "x", (None, None), FLOATS).shape
    if branch is not None:
        check_tensor(branch, "branch", (t, c), x.dtype)
    if gate is not None:
        check_tensor(gate, "gate", (None if item is not None else 1, c), FLOATS)
    if item is not None:
        check_tensor(item, "item", (t,), torch.int64)
    return t, c


def _backend(x: Tensor, backend: str):  # noqa: ANN202 a module: the kernel's or the reference
    if resolve_backend(backend, CHOICES, x.device, x.dtype) == "triton" and not x.requires_grad:
        from . import kernel

        return kernel
    return reference


__all__ = ["CHOICES", "add_norm_affine", "add_norm_modulate", "norm_affine", "norm_modulate"]
