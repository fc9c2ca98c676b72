"""Layer normalisation with weights, or with a modulation per batch item (adaptive layer norm), fused with the residual
addition before it and the quantisation for a linear layer after it.

Letters: T packed tokens, B batch items, C channels.
"""

from __future__ import annotations

from types import ModuleType
from typing import cast

import torch
from torch import Tensor

from ....o_voxel.core.backend import Backend, always, resolve_backend, triton_probe
from ....o_voxel.core.checks import FLOATS, check_tensor
from ..quantized_linear.formats import Format, Quantized
from . import reference
from .reference import ResidualBranch, add_branch

BACKENDS = (Backend("triton", triton_probe), Backend("reference", always))


def norm_modulate(
    x: Tensor,  # [T, C]
    scale: Tensor,  # [B, C]
    shift: Tensor,  # [B, C]
    item: Tensor | None,  # [T] int64: the item of each token; None when B is 1
    *,
    eps: float = 1e-6,
    backend: str = "auto",
) -> Tensor:  # [T, C]
    """Returns LN(x) * (1 + scale[item]) + shift[item], [T, C] in x's dtype; the norm has no weights and runs in
    fp32."""
    return cast(Tensor, add_norm_modulate(x, None, scale, shift, item, eps=eps, backend=backend)[1])


def layer_norm(
    x: Tensor,  # [T, C]
    weight: Tensor | None,  # [C] fp32; None: 1
    bias: Tensor | None,  # [C] fp32; None where weight is
    *,
    silu: bool = False,
    eps: float = 1e-6,
    backend: str = "auto",
) -> Tensor:  # [T, C]
    """Returns LN(x) * weight + bias, or SiLU of it, [T, C] in fp32 and rounded once, to x's dtype."""
    _, c = check_tensor(x, "x", (None, None), FLOATS).shape
    for name, part in (("weight", weight), ("bias", bias)):
        if weight is not None:
            check_tensor(part, name, (c,), torch.float32)
    return _backend(x, weight, backend).affine(x, None, weight, bias, None, eps, None, silu)[1]


def add_norm_modulate(
    x: Tensor,  # [T, C]
    branch: ResidualBranch | None,  # None: nothing is added
    scale: Tensor,  # [B, C]
    shift: Tensor,  # [B, C]
    item: Tensor | None,  # [T] int64; None when B is 1
    *,
    form: Format | None = None,
    eps: float = 1e-6,
    backend: str = "auto",
) -> tuple[Tensor, Tensor | Quantized]:  # [T, C] each
    """Returns (s, LN(s) * (1 + scale[item]) + shift[item]), [T, C] each, with s = x + branch, rounded to x's dtype.

    form: number format to quantise the second output to, row by row, without prior rounding to x's dtype.
    """
    c = _check_sum(x, branch, item)
    check_tensor(scale, "scale", (None if item is not None else 1, c), FLOATS)
    check_tensor(shift, "shift", tuple(scale.shape), FLOATS)
    return _backend(x, scale, backend).modulate(x, branch, scale, shift, item, eps, form)


def add_norm_affine(
    x: Tensor,  # [T, C]
    branch: ResidualBranch | None,  # None: nothing is added
    weight: Tensor,  # [C] fp32
    bias: Tensor,  # [C] fp32
    item: Tensor | None,  # [T] int64; None when B is 1
    *,
    form: Format | None = None,
    eps: float = 1e-6,
    backend: str = "auto",
) -> tuple[Tensor, Tensor | Quantized]:  # [T, C] each
    """Returns (s, LN(s) * weight + bias), [T, C] each, with s and form as in `add_norm_modulate`."""
    c = _check_sum(x, branch, item)
    check_tensor(weight, "weight", (c,), torch.float32)
    check_tensor(bias, "bias", (c,), torch.float32)
    return _backend(x, weight, backend).affine(x, branch, weight, bias, item, eps, form)


def _check_sum(x: Tensor, branch: ResidualBranch | None, item: Tensor | None) -> int:
    """Checks x, branch and item, and returns C."""
    t, c = check_tensor(x, "x", (None, None), FLOATS).shape
    if branch is not None:
        check_tensor(branch.values, "branch", (t, c), x.dtype)
        for name, part in (("gate", branch.gate), ("constant", branch.constant)):
            if part is not None:
                check_tensor(part, name, (None if item is not None else 1, c), FLOATS)
    if item is not None:
        check_tensor(item, "item", (t,), torch.int64)
    return c


def _backend(x: Tensor, weight: Tensor | None, backend: str) -> ModuleType:
    trained = torch.is_grad_enabled() and (x.requires_grad or (weight is not None and weight.requires_grad))
    if resolve_backend(backend, BACKENDS, x.device, x.dtype) == "triton" and not trained:
        from . import kernel

        return kernel
    return reference


__all__ = [
    "BACKENDS",
    "ResidualBranch",
    "add_branch",
    "add_norm_affine",
    "add_norm_modulate",
    "layer_norm",
    "norm_modulate",
]
