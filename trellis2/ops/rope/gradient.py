"""Differentiable RMS norm and rotation: the kernel forward, torch operations backward. Autograd over the reference
launches about three times as many."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable


class NormRotate(Function):
    """`kernel.norm_rotate` of x [T, H, d] with one gamma [H, d], or none, and cos and sin [T, d / 2], or none."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, gamma: Tensor | None, cos: Tensor | None, sin: Tensor | None, scale: float
    ) -> Tensor:
        from . import kernel

        ctx.save_for_backward(x, gamma, cos, sin)
        ctx.scale = scale
        return kernel.norm_rotate(x, gamma, None if cos is None else (cos, sin), scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """With u = x / ||x||, g the gradient [T, H, d] rotated back and h = scale gamma g: (h - (h . u) u) / ||x|| for
        x, and scale u g, summed over tokens, for gamma."""
        from . import kernel

        x, gamma, cos, sin = ctx.saved_tensors
        grad = grad.float()
        if cos is not None:
            grad = kernel.norm_rotate(grad, None, (cos, -sin), 1.0)
        if gamma is None:
            return grad.to(x.dtype), None, None, None, None
        wide = x.float()
        length = wide.norm(dim=-1, keepdim=True).clamp_min(1e-12)
        unit, grad = wide / length, grad * ctx.scale
        of_gamma = grad * unit
        towards = grad * gamma
        of_x = (towards - (of_gamma * gamma).sum(dim=-1, keepdim=True) * unit) / length
        return of_x.to(x.dtype), of_gamma.sum(dim=0), None, None, None
