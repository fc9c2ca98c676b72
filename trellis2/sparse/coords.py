"""Voxel coordinates of a batch, with a cache of derived data: hash grid, neighbour map, coarser voxels.

The cache belongs to the object, not to equal coordinates: two tensors share a neighbour map if and only if they share a
CoordSet. Letters: B batch items, N voxels of all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TypeVar, cast

import torch
from torch import Tensor

from ...o_voxel.core.checks import INTEGERS, check_tensor
from ...o_voxel.core.device import normal_tensors
from ...o_voxel.ops.hash_grid import HashGrid, hash_grid, pack_keys
from ..ops.submanifold_conv import child_neighbors, child_rows, neighbor_map

T = TypeVar("T")
# Packed keys sort in the order of the items only up to this many.
MAX_ITEMS = 1 << 15


class CoordSet:
    """Voxel coordinates of a batch; immutable.

    rows: [N, 4] int32 (batch, x, y, z), unique, not negative, the voxels of an item contiguous, items in order.
    lengths: number of voxels of each item, on the host, so that reading it never synchronises with the device.
    origin: the coarser voxels that these subdivide, from which their neighbour map is derived without a search.

    Raises ValueError for another shape or dtype, or lengths that do not sum to N.
    """

    def __init__(self, rows: Tensor, lengths: Sequence[int], origin: Origin | None = None) -> None:
        check_tensor(rows, "CoordSet.rows", (None, 4), torch.int32)
        if sum(lengths) != len(rows):
            raise ValueError(f"CoordSet.lengths: expected a sum of {len(rows)}, got {list(lengths)}")
        if len(lengths) > MAX_ITEMS:
            raise ValueError(f"CoordSet.lengths: expected at most {MAX_ITEMS} items, got {len(lengths)}")
        self.rows = rows
        self.lengths = tuple(int(n) for n in lengths)
        self._origin = origin
        self._derived: dict[Hashable, object] = {}

    @classmethod
    def from_items(cls, items: Sequence[Tensor]) -> CoordSet:
        """Makes one batch item of each [N_i, 3] integer tensor of voxels (x, y, z). Raises ValueError if none is
        given."""
        if not items:
            raise ValueError("items: expected at least one")
        rows = [
            torch.nn.functional.pad(
                check_tensor(item, f"items[{i}]", (None, 3), INTEGERS).to(torch.int32), (1, 0), value=i
            )
            for i, item in enumerate(items)
        ]
        return cls(torch.cat(rows), [len(item) for item in items])

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def batch_size(self) -> int:
        """B, the number of batch items."""
        return len(self.lengths)

    @property
    def device(self) -> torch.device:
        """The device of `rows`."""
        return self.rows.device

    @property
    def nbytes(self) -> int:
        """Bytes of `rows`, the only tensor that `to` moves."""
        return self.rows.nbytes

    @property
    def voxels(self) -> Tensor:
        """[N, 3] int32 (x, y, z)."""
        return self.rows[:, 1:]

    @property
    def item(self) -> Tensor | None:
        """[N] int64, the batch item of each voxel; None if B is 1."""
        return None if self.batch_size == 1 else self.derive("item", lambda: self.rows[:, 0].long())

    def derive(self, key: Hashable, build: Callable[[], T]) -> T:
        """Returns the cached result of `build()` under `key`, computed at the first call with this key."""
        if key not in self._derived:
            self._derived[key] = normal_tensors(build)()
        return cast(T, self._derived[key])

    def index(self) -> HashGrid:
        """Returns the cached hash grid that finds a row by its coordinates."""
        return self.derive("index", lambda: hash_grid(self.rows))

    def neighbors(self) -> Tensor:
        """Returns the cached neighbour map [N, 27] int32, see `neighbor_map`."""
        if self._origin is not None:
            return self.derive("neighbors", self._inherited_neighbors)
        return self.derive("neighbors", lambda: neighbor_map(self.rows))

    def some_neighbors(self, start: int, stop: int) -> Tensor:
        """Returns rows `start` to `stop` of `neighbors()`, [n, 27] int32, without the whole map if voxels have an
        origin."""
        origin = self._origin
        if origin is None or "neighbors" in self._derived:
            return self.neighbors()[start:stop]
        rows = self.derive("rows", lambda: child_rows(len(origin.coarse), origin.parent, origin.child))
        part = slice(start, stop)
        return child_neighbors(origin.coarse.neighbors(), origin.parent[part], origin.child[part], rows=rows)

    def coarsen(self) -> Subdivision:
        """Returns the voxels of half the resolution, in lexicographic order, as parents of these. Cached."""
        return self.derive("coarsen", self._coarsen)

    def subdivide(self, mask: Tensor) -> Subdivision:
        """Returns the children selected by `mask` [N, 8] bool, ordered by parent, then by child index."""
        check_tensor(mask, "mask", (len(self), 8), torch.bool)
        parent, child = mask.nonzero(as_tuple=True)
        offset = torch.stack([child & 1, child >> 1 & 1, child >> 2 & 1], dim=1)
        scale = torch.tensor((1, 2, 2, 2), dtype=torch.int32, device=self.device)
        fine = self.rows[parent] * scale
        fine[:, 1:] += offset.to(torch.int32)
        counts = torch.stack([part.sum() for part in mask.split(self.lengths)]).tolist()
        return Subdivision(self, CoordSet(fine, counts, Origin(self, parent, child)), parent, child)

    def to(self, device: torch.device | str) -> CoordSet:
        """Returns the same voxels on `device`, without the cache; this object if it is there already."""
        rows = self.rows.to(device)
        return self if rows is self.rows else CoordSet(rows, self.lengths)

    def same_voxels(self, other: CoordSet) -> bool:
        """True if both hold equal rows in equal order. Synchronises with the device unless they are one object."""
        return self is other or (self.lengths == other.lengths and torch.equal(self.rows, other.rows.to(self.device)))

    def _inherited_neighbors(self) -> Tensor:
        """Derives the neighbour map [N, 27] int32 from the parents' one without a search: a neighbour's parent is the
        voxel's own parent or one of the parent's neighbours."""
        origin = self._origin
        return child_neighbors(origin.coarse.neighbors(), origin.parent, origin.child)

    def _coarsen(self) -> Subdivision:
        halved = self.rows.clone()
        halved[:, 1:] //= 2
        keys, parent = torch.unique(pack_keys(halved), return_inverse=True)
        coarse = torch.empty(len(keys), 4, dtype=torch.int32, device=self.device)
        coarse[parent] = halved
        counts = torch.bincount(coarse[:, 0].long(), minlength=self.batch_size).tolist()
        bits = (self.voxels & 1).long()
        return Subdivision(CoordSet(coarse, counts), self, parent, bits[:, 0] + 2 * bits[:, 1] + 4 * bits[:, 2])


@dataclass(frozen=True, eq=False)
class Origin:
    """Coarse voxels subdivided by M fine ones. parent, child: [M] int64 as in `Subdivision`."""

    coarse: CoordSet
    parent: Tensor
    child: Tensor


@dataclass(frozen=True, eq=False)
class Subdivision:
    """M fine voxels and their parents.

    parent: [M] int64, row of the coarse voxel.  child: [M] int64 in 0..7, x%2 + 2 (y%2) + 4 (z%2).
    """

    coarse: CoordSet
    fine: CoordSet
    parent: Tensor
    child: Tensor

    def mask(self) -> Tensor:
        """Returns [N, 8] bool, True where the coarse voxel has that child."""
        out = torch.zeros(len(self.coarse), 8, dtype=torch.bool, device=self.parent.device)
        out[self.parent, self.child] = True
        return out
