"""Query and key preparation: RMS normalisation per head, then rotary position embedding in three dimensions.

Letters: T tokens, H heads, d channels a head.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ....o_voxel.core.backend import Backend, always, resolve_backend, triton_probe
from ....o_voxel.core.checks import FLOATS, check_tensor
from . import reference

BACKENDS = (Backend("triton", triton_probe), Backend("reference", always))


def rotary_angles(positions: Tensor, head_channels: int, base: tuple[float, float] = (1.0, 10000.0)) -> Tensor:
    """Returns rotation angles [T, d / 2] float32 of voxel positions [T, 3] (x, y, z), int.

    Each axis has F = d // 2 // 3 frequencies base[0] * base[1] ** (-j / F); the rest of d / 2 is padded with angle 0.
    """
    check_tensor(positions, "positions", (None, 3))
    per_axis = head_channels // 2 // 3
    exponents = torch.arange(per_axis, dtype=torch.float32, device=positions.device) / per_axis
    frequencies = base[0] / base[1] ** exponents
    angles = (positions.to(torch.float32)[:, :, None] * frequencies).flatten(1)
    return torch.nn.functional.pad(angles, (0, head_channels // 2 - 3 * per_axis))


def rms_norm_rope(
    x: Tensor,  # [T, H, d]
    gamma: Tensor | None,  # [H, d] fp32; None: no norm
    rotation: tuple[Tensor, Tensor] | None,  # (cos, sin), [T, d / 2] fp32 each; None: no rotation
    *,
    backend: str = "auto",
) -> Tensor:  # [T, H, d]
    """Returns x / ||x|| * sqrt(d) * gamma, [T, H, d], with pairs (x[2i], x[2i+1]) rotated by angle i. In fp32, returned
    in x's dtype."""
    t, heads, width = check_tensor(x, "x", (None, None, None), FLOATS).shape
    _check(t, heads, width, () if gamma is None else (gamma,), rotation)
    if resolve_backend(backend, BACKENDS, x.device, x.dtype) == "triton":
        return _by_kernel(x, gamma, rotation)
    return reference.norm_rotate(x, gamma, rotation, scale=math.sqrt(width))


def qk_norm_rope(
    qkv: Tensor,  # [T, 3, H, d]
    gammas: tuple[Tensor, Tensor] | None,  # of queries and of keys, [H, d] fp32 each; None: no norm
    rotation: tuple[Tensor, Tensor] | None,  # as in `rms_norm_rope`
    *,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:  # [T, H, d] each
    """Applies `rms_norm_rope` to queries and keys of a packed projection [T, 3, H, d], in one pass over both."""
    t, _, heads, width = check_tensor(qkv, "qkv", (None, 3, None, None), FLOATS).shape
    _check(t, heads, width, gammas or (), rotation)
    if resolve_backend(backend, BACKENDS, qkv.device, qkv.dtype) == "triton":
        both = _by_kernel(qkv[:, :2].flatten(1, 2), gammas, rotation)
        return both[:, :heads], both[:, heads:]
    parts = zip(qkv.unbind(1), gammas or (None, None), strict=False)
    q, k = (rms_norm_rope(part, gamma, rotation, backend="reference") for part, gamma in parts)
    return q, k


def _by_kernel(
    x: Tensor, gammas: tuple[Tensor, Tensor] | Tensor | None, rotation: tuple[Tensor, Tensor] | None
) -> Tensor:
    """gammas: [H, d], or a pair, of the first heads and of the rest."""
    scale = math.sqrt(x.shape[-1])
    pair = gammas if isinstance(gammas, tuple) else () if gammas is None else (gammas,)
    if torch.is_grad_enabled() and any(part.requires_grad for part in (x, *pair)):
        from .gradient import NormRotate

        return NormRotate.apply(x, torch.cat(pair) if pair else None, *(rotation or (None, None)), scale)
    from . import kernel

    return kernel.norm_rotate(x, gammas, rotation, scale)


def _check(
    tokens: int, heads: int, width: int, gammas: tuple[Tensor, ...], rotation: tuple[Tensor, Tensor] | None
) -> None:
    for gamma in gammas:
        check_tensor(gamma, "gamma", (heads, width), torch.float32)
    for name, part in zip(("cos", "sin"), rotation or (), strict=False):
        check_tensor(part, name, (tokens, width // 2), torch.float32)


__all__ = ["BACKENDS", "qk_norm_rope", "rms_norm_rope", "rotary_angles"]
