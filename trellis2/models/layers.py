"""Small layers shared by several networks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from ..ops.norm_modulate import layer_norm
from ..ops.quantized_linear import Quantized


@dataclass(frozen=True)
class Backends:
    """The implementation of each op of a network; see `resolve_backend`. launch: see `GraphCache.begin`."""

    attention: str = "auto"
    conv: str = "auto"
    rope: str = "auto"
    norm: str = "auto"
    linear: str = "auto"  # of quantised layers only
    launch: str = "auto"


@contextmanager
def without_memory() -> Iterator[None]:
    """Context manager in which modules are built on the meta device, and no initialiser runs: they would write nothing
    there, but take seconds, most of them to import torch's decompositions of `uniform_`."""
    with torch.device("meta"), _WithoutInit():
        yield


class _WithoutInit(TorchFunctionMode):
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        named = dict(kwargs or {})
        if getattr(func, "__module__", None) == nn.init.__name__:
            return args[0] if args else named["tensor"]
        return func(*args, **named)


class LayerNorm32(nn.LayerNorm):
    """Layer norm of [..., C], optionally followed by SiLU, computed in fp32 and returned in the input's dtype."""

    def forward(self, x: Tensor, silu: bool = False) -> Tensor:
        """x: [..., C] float. Returns the same shape and dtype."""
        rows = x.reshape(-1, x.shape[-1])
        return layer_norm(rows, self.weight, self.bias, silu=silu, eps=self.eps).view(x.shape)


class MultiHeadRMSNorm(nn.Module):
    """Weights gamma [H, d] fp32 of an RMS norm that `rms_norm_rope` computes, fused with the rotation."""

    def __init__(self, heads: int, head_channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(heads, head_channels))


class TimestepEmbedder(nn.Module):
    """Sinusoidal embedding of the time, cosines first, through a two-layer MLP: [B] fp32 to [B, C] fp32."""

    FREQUENCIES = 128
    MAX_PERIOD = 10_000

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(2 * self.FREQUENCIES, channels), nn.SiLU(), nn.Linear(channels, channels))

    def forward(self, t: Tensor) -> Tensor:
        """t: [B] fp32. Returns [B, C] fp32."""
        steps = torch.arange(self.FREQUENCIES, dtype=torch.float32, device=t.device)
        angles = t[:, None].float() * torch.exp(-math.log(self.MAX_PERIOD) * steps / self.FREQUENCIES)
        return self.mlp(torch.cat([angles.cos(), angles.sin()], dim=-1))


class FeedForward(nn.Module):
    """Linear, tanh-approximated GELU, linear: [T, C] to [T, C]."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(channels, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, channels))

    def forward(self, x: Tensor | Quantized) -> Tensor:
        """x: [T, C] in the weights' dtype, or quantised. Returns [T, C]."""
        first, _, last = self.mlp
        if not isinstance(last, nn.Linear):
            return last(first(x), activation="gelu")
        if isinstance(first, nn.Linear) and _fuses_gelu(x, first):
            # cuBLAS fuses this activation into the product, which saves a pass over the widest tensor.
            return last(torch._addmm_activation(first.bias, x, first.weight.t(), use_gelu=True))
        return self.mlp(x)


def _fuses_gelu(x: Tensor, layer: nn.Linear) -> bool:
    """True if `torch._addmm_activation` supports these: private to torch, without a gradient, and in one 16-bit dtype
    only."""
    if not x.is_cuda or x.dtype == torch.float32 or x.dtype != layer.weight.dtype:
        return False
    learning = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (x, layer.weight, layer.bias))
    return not learning and hasattr(torch, "_addmm_activation")


def sinusoidal_positions(positions: Tensor, channels: int) -> Tensor:
    """Returns the absolute position embedding [T, C] float32 of voxels [T, 3]: per axis sines then cosines, zero-padded
    to C."""
    per_axis = channels // 3 // 2
    exponents = torch.arange(per_axis, dtype=torch.float32, device=positions.device) / per_axis
    angles = positions.to(torch.float32)[:, :, None] / 10_000**exponents
    waves = torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(1)
    return F.pad(waves, (0, channels - waves.shape[1]))


def cast_layers(modules: Iterable[nn.Module], kinds: tuple[type[nn.Module], ...], dtype: torch.dtype) -> None:
    """Converts the layers of these kinds inside `modules` to `dtype`; norms and everything else stay fp32."""
    for module in modules:
        for layer in module.modules():
            if isinstance(layer, kinds):
                layer.to(dtype)
