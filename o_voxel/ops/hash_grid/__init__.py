"""Row numbers of voxels by coordinate: the look-up under neighbour maps, surface extraction and sampling."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ...checks import INTEGERS, check_tensor
from ..backend import Choice, always, resolve_backend
from .reference import pack_keys, search_keys, sort_keys

CHOICES = (Choice("reference", always),)


@dataclass(frozen=True, eq=False)
class HashGrid:
    """An index over the voxels it was built from; build once, look up often."""

    keys: Tensor
    rows: Tensor
    dims: int

    def find(self, query: Tensor) -> Tensor:
        """Row number [...] int64 of each query coordinate [..., D] int, -1 where there is no such voxel.

        Queries may lie outside the grid by any amount.
        """
        if query.ndim < 1 or query.shape[-1] != self.dims:
            raise ValueError(f"query: expected shape [..., {self.dims}], got {list(query.shape)}")
        return search_keys(self.keys, self.rows, query)


def hash_grid(coords: Tensor, *, backend: str = "auto") -> HashGrid:
    """Index the voxels `coords` [N, 3] (x, y, z) or [N, 4] (batch, x, y, z), int, each coordinate in [0, 65000).

    Of equal rows the first is found. Deterministic.
    """
    dims = coords.shape[-1] if isinstance(coords, Tensor) and coords.ndim == 2 else 3
    check_tensor(coords, "coords", (None, 4 if dims == 4 else 3), INTEGERS)
    resolve_backend(backend, CHOICES, coords.device)
    keys, rows = sort_keys(pack_keys(coords))
    return HashGrid(keys, rows, dims)


__all__ = ["CHOICES", "HashGrid", "hash_grid", "pack_keys"]
