"""Submanifold 3x3x3 convolution: outputs exist only where inputs do, absent neighbours contribute nothing.

Letters: N voxels, C input channels, D output channels, K = 27 kernel taps in (x, y, z) row-major order, M children of
the N voxels at twice the resolution.

A map of some rows only, [n, 27], gives those rows' outputs from the features of all. With the Triton kernels they are
bit-identical to the whole's, if `tile_neighbors` gets the number of all rows as `total`; the reference's matrix
products may round differently at other sizes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ....o_voxel.core.backend import Backend, always, numba_probe, resolve_backend, triton_probe
from ....o_voxel.core.checks import FLOATS, check_tensor
from ....o_voxel.ops.hash_grid import hash_grid
from . import reference

if TYPE_CHECKING:
    from .kernel_maps import TiledMap

TAPS = 27
CHILDREN = 8


def _triton_probe(device: torch.device, dtype: torch.dtype) -> str | None:
    return "has no 64-bit matrix product" if dtype == torch.float64 else triton_probe(device, dtype)


def _numba_probe(device: torch.device, dtype: torch.dtype) -> str | None:
    return f"takes float32, not {dtype}" if dtype != torch.float32 else numba_probe(device, dtype)


BACKENDS = (Backend("triton", _triton_probe), Backend("numba", _numba_probe), Backend("reference", always))


def neighbor_map(coords: Tensor, *, backend: str = "auto") -> Tensor:
    """Returns the row of every voxel's 27 neighbours: [N, 27] int32, -1 where absent.

    coords: [N, 4] int32 (batch, x, y, z), unique, in the range of `hash_grid`. Tap k = (kx, ky, kz) row-major is the
    voxel (x, y, z) + (kx, ky, kz) - 1.
    """
    check_tensor(coords, "coords", (None, 4), torch.int32)
    chosen = resolve_backend(backend, BACKENDS, coords.device)
    if chosen == "triton":
        from .kernel_blocks import neighbors_by_blocks

        return neighbors_by_blocks(coords)
    index = hash_grid(coords, backend="reference")
    rows = torch.arange(len(coords), dtype=torch.int32, device=coords.device)
    out = torch.full((len(coords), TAPS), -1, dtype=torch.int32, device=coords.device)
    out[:, TAPS // 2] = rows
    # The map is symmetric: i has j at tap k exactly when j has i at tap 26 - k. Half the look-ups give the whole map.
    for tap in range(TAPS // 2):
        step = (tap // 9 - 1, tap // 3 % 3 - 1, tap % 3 - 1)
        offset = torch.tensor((0, *step), dtype=torch.int32, device=coords.device)
        found = index.find(coords + offset)
        out[:, tap] = found.to(torch.int32)
        present = found >= 0
        out[found[present], TAPS - 1 - tap] = rows[present]
    return out


def child_rows(parents: int, parent: Tensor, child: Tensor) -> Tensor:
    """Returns the row of each parent's eight children: [N, 8] int32, -1 where absent. parent, child: [M] int64, see
    `child_neighbors`."""
    rows = torch.full((parents, CHILDREN), -1, dtype=torch.int32, device=parent.device)
    rows[parent, child] = torch.arange(len(parent), dtype=torch.int32, device=parent.device)
    return rows


def child_neighbors(
    neighbors: Tensor, parent: Tensor, child: Tensor, *, rows: Tensor | None = None, backend: str = "auto"
) -> Tensor:
    """Derives the neighbour map [M, 27] int32 of voxels at twice the resolution from their parents' [N, 27] int32,
    without a search: a neighbour's parent is the parent itself or one of its neighbours.

    parent: [M] int64, a row of `neighbors`.  child: [M] int64 in 0..7, x%2 + 2 (y%2) + 4 (z%2).
    rows: the `child_rows` of all children, if `parent` and `child` list only some of them.
    """
    _check_children(neighbors, parent, child)
    if rows is None:
        rows = child_rows(len(neighbors), parent, child)
    check_tensor(rows, "rows", (len(neighbors), CHILDREN), torch.int32)
    chosen = resolve_backend(backend, BACKENDS, neighbors.device)
    if chosen == "triton":
        from . import kernel_maps as work
    elif chosen == "numba":
        from . import kernel_cpu as work
    else:
        work = reference
    return work.child_neighbors(neighbors, parent, child, rows)


def submanifold_conv(
    feats: Tensor,  # [N, C]
    neighbors: Tensor,  # [n, 27] int32
    weight: Tensor,  # [D, 3, 3, 3, C]
    bias: Tensor | None,  # [D]
    *,
    tiles: Callable[[], TiledMap] | None = None,
    backend: str = "auto",
) -> Tensor:  # [n, D]
    """out[i] = bias + sum over taps k of weight[:, k] @ feats[neighbors[i, k]], in the dtype of `feats`.

    A cross-correlation whose first kernel axis is x, as in the published checkpoints (facts: FlexGEMM layout).
    Accumulates in fp32; deterministic. tiles: returns a cached `tile_neighbors(neighbors)`; called by the Triton
    backend only.  backend: "triton" (GPU), "numba" (CPU, float32), "reference" (plain torch) or "auto". Differentiable
    once in feats, weight and bias, for a whole map made by `neighbor_map` or `child_neighbors`, which is symmetric.
    Raises ValueError on a shape or dtype that does not fit, and if gradients are required through a map of some rows
    only. Under torch.autocast it computes in that dtype, as torch's own layers do.
    """
    feats, weight, bias = _autocast(feats, weight, bias)
    _check_conv(feats, neighbors, weight, bias)
    if len(neighbors) != len(feats) and _wants_gradients(feats, weight, bias):
        raise ValueError(f"neighbors: gradients need the map of all {len(feats)} rows, got {len(neighbors)}")
    plan = _plan(neighbors, tiles or (lambda: tile_neighbors(neighbors)), backend, feats)
    return _Convolution.apply(feats, weight, bias, plan)


def child_conv(
    feats: Tensor,  # [N, C]
    neighbors: Tensor,  # [N, 27] int32
    weight: Tensor,  # [8 D, 3, 3, 3, C]
    bias: Tensor | None,  # [8 D]
    parent: Tensor,  # [M] int64
    child: Tensor,  # [M] int64
    *,
    tiles: Callable[[], TiledMap] | None = None,
    backend: str = "auto",
) -> Tensor:  # [M, D]
    """`submanifold_conv` with the output channels of eight children, computed for existing children only: out[m] is
    channels child[m] * D to (child[m] + 1) * D of row parent[m].

    parent, child: some of the children, or all.  tiles: returns a cached `tile_neighbors(neighbors, parent, child)`.
    The reference computes all eight children of the listed parents; gradients, those of all parents.
    """
    feats, weight, bias = _autocast(feats, weight, bias)
    _check_conv(feats, neighbors, weight, bias)
    _check_children(neighbors, parent, child)
    if len(weight) % CHILDREN:
        raise ValueError(f"weight: expected a multiple of {CHILDREN} output channels, got {len(weight)}")
    if _wants_gradients(feats, weight, bias):
        out = submanifold_conv(feats, neighbors, weight, bias, backend=backend)
        return out.unflatten(1, (CHILDREN, -1))[parent, child]
    chosen = resolve_backend(backend, BACKENDS, feats.device, feats.dtype)
    if chosen == "numba":
        from .kernel_cpu import convolve

        return convolve(feats, neighbors, weight, bias, parent, child)
    if chosen != "triton":
        return reference.child_conv(feats, neighbors, weight, bias, parent, child)
    from . import kernel

    arranged = tile_neighbors(neighbors, parent, child) if tiles is None else tiles()
    return kernel.convolve(feats, arranged, weight, bias)


def tile_neighbors(
    neighbors: Tensor, parent: Tensor | None = None, child: Tensor | None = None, *, total: int | None = None
) -> TiledMap:
    """Arranges a neighbour map [N, 27] int32 for the Triton kernel, shared by every layer on the same voxels; with
    `parent` and `child`, [M] int64 both, for `child_conv`.

    total: number of all rows, if these are only some of them: it selects the kernel's order of summation, so that parts
    are bit-identical to the whole.
    """
    from . import kernel_maps

    return kernel_maps.tile_neighbors(neighbors, parent, child, total)


@dataclass(frozen=True)
class _Plan:
    """A backend bound to one map. convolve(feats, weight, bias); weight_gradient(output's gradient, feats)."""

    convolve: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    weight_gradient: Callable[[Tensor, Tensor], Tensor]


def _plan(neighbors: Tensor, tiles: Callable[[], TiledMap], backend: str, feats: Tensor) -> _Plan:
    """Binds the backend for these features to the map."""
    chosen = resolve_backend(backend, BACKENDS, feats.device, feats.dtype)
    if chosen == "triton":
        from . import kernel

        arranged = tiles()
        return _Plan(
            lambda feats, weight, bias: kernel.convolve(feats, arranged, weight, bias),
            lambda grad, feats: kernel.weight_gradient(grad, feats, neighbors),
        )
    work = reference
    if chosen == "numba":
        from . import kernel_cpu as work
    return _Plan(
        lambda feats, weight, bias: work.convolve(feats, neighbors, weight, bias),
        lambda grad, feats: reference.weight_gradient(grad, feats, neighbors),
    )


class _Convolution(torch.autograd.Function):
    """The input's gradient is the same convolution of the output's gradient, with flipped taps."""

    @staticmethod
    def forward(ctx: Any, feats: Tensor, weight: Tensor, bias: Tensor | None, plan: _Plan) -> Tensor:
        ctx.save_for_backward(feats, weight)
        ctx.plan = plan
        return plan.convolve(feats, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (feats, weight), wanted = ctx.saved_tensors, ctx.needs_input_grad
        return (
            ctx.plan.convolve(grad, reference.transpose_weight(weight), None) if wanted[0] else None,
            ctx.plan.weight_gradient(grad, feats) if wanted[1] else None,
            grad.sum(0) if wanted[2] else None,
            None,
        )


def _wants_gradients(feats: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    tensors = [feats, weight] if bias is None else [feats, weight, bias]
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def _autocast(*tensors: Any) -> tuple[Any, ...]:
    """Casts tensors to the dtype of the autocast active on the first one's device; unchanged without one.

    Arguments that are no tensors are left to the checks that follow.
    """
    if not all(tensor is None or isinstance(tensor, Tensor) for tensor in tensors):
        return tensors
    kind = tensors[0].device.type
    if not torch.is_autocast_enabled(kind):
        return tensors
    dtype = torch.get_autocast_dtype(kind)
    return tuple(None if tensor is None else tensor.to(dtype) for tensor in tensors)


def _check_conv(feats: Tensor, neighbors: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    _, c = check_tensor(feats, "feats", (None, None), FLOATS).shape
    check_tensor(neighbors, "neighbors", (None, TAPS), torch.int32)
    check_tensor(weight, "weight", (None, 3, 3, 3, c), feats.dtype)
    if bias is not None:
        check_tensor(bias, "bias", (len(weight),), feats.dtype)


def _check_children(neighbors: Tensor, parent: Tensor, child: Tensor) -> None:
    check_tensor(neighbors, "neighbors", (None, TAPS), torch.int32)
    check_tensor(parent, "parent", (None,), torch.int64)
    check_tensor(child, "child", (len(parent),), torch.int64)


__all__ = [
    "BACKENDS",
    "child_conv",
    "child_neighbors",
    "child_rows",
    "neighbor_map",
    "submanifold_conv",
    "tile_neighbors",
]
