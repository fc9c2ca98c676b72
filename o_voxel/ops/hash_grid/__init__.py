"""Spatial index from voxel coordinates to row numbers, for neighbour maps, surface extraction and sampling."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.backend import Backend, always, resolve_backend, triton_probe
from ...core.checks import INTEGERS, check_tensor
from .reference import pack_keys, search_keys, sort_keys

BACKENDS = (Backend("triton", triton_probe), Backend("reference", always))


@dataclass(frozen=True, eq=False)
class HashGrid:
    """An index over a set of voxels; build once, query often. The layout of `keys` and `rows` is the backend's."""

    keys: Tensor
    rows: Tensor
    dims: int
    backend: str

    def find(self, query: Tensor) -> Tensor:
        """Returns the row number [...] int64 of each query coordinate [..., D] int, -1 if there is no such voxel.

        Queries may lie outside the grid by any amount that int32 holds.
        """
        if query.ndim < 1 or query.shape[-1] != self.dims:
            raise ValueError(f"query: expected shape [..., {self.dims}], got {list(query.shape)}")
        if self.backend == "triton":
            from .kernel import find

            return find(self.keys, self.rows, query.to(torch.int32))
        return search_keys(self.keys, self.rows, query)


def hash_grid(coords: Tensor, *, backend: str = "auto") -> HashGrid:
    """Indexes the voxels `coords` [N, 3] (x, y, z) or [N, 4] (batch, x, y, z), int.

    Coordinates and batch indices are in [0, 65000). Of equal rows the first is found. Deterministic.
    backend: "triton" (a hash table, at most 24 bytes per voxel) or "reference" (sorted keys, 16 bytes per voxel and a
    binary search).
    """
    dims = coords.shape[-1] if isinstance(coords, Tensor) and coords.ndim == 2 else 3
    check_tensor(coords, "coords", (None, 4 if dims == 4 else 3), INTEGERS)
    chosen = resolve_backend(backend, BACKENDS, coords.device)
    if chosen == "triton":
        from .kernel import build_table

        return HashGrid(*build_table(coords.to(torch.int32)), dims, chosen)
    return HashGrid(*sort_keys(pack_keys(coords)), dims, chosen)


__all__ = ["BACKENDS", "HashGrid", "hash_grid", "pack_keys"]
