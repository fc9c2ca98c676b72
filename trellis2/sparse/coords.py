"""The voxels of one batch layout. What is derived from them is computed once and held here, by identity:
two tensors share a neighbour map exactly when they share a CoordSet."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from ...o_voxel.core.checks import INTEGERS, check_tensor
from ...o_voxel.ops.hash_grid import HashGrid, hash_grid, pack_keys
from ..ops.submanifold_conv import child_neighbors, child_rows, neighbor_map

T = TypeVar("T")


class CoordSet:
    """Voxel coordinates of a batch; immutable.

    rows: [N, 4] int32 (batch, x, y, z), unique, from 0 up, the voxels of one item contiguous, items in order.
    lengths: voxels of each item, on the host, so that no kernel has to be waited for.
    origin: the coarser voxels that these subdivide, if they do; their neighbours then follow from the parents'.
    """

    def __init__(self, rows: Tensor, lengths: Sequence[int], origin: Origin | None = None) -> None:
        check_tensor(rows, "CoordSet.rows", (None, 4), torch.int32)
        if sum(lengths) != len(rows):
            raise ValueError(f"CoordSet.lengths: expected a sum of {len(rows)}, got {list(lengths)}")
        self.rows = rows
        self.lengths = tuple(int(n) for n in lengths)
        self._origin = origin
        self._derived: dict[Hashable, object] = {}

    @classmethod
    def from_items(cls, items: Sequence[Tensor]) -> CoordSet:
        """One item for each [N_i, 3] int tensor of voxels (x, y, z), coordinates from 0 up."""
        if not items:
            raise ValueError("items: expected at least one")
        rows = [
            torch.nn.functional.pad(
                check_tensor(item, f"items[{i}]", (None, 3), INTEGERS).to(torch.int32), (1, 0), value=i
            )
            for i, item in enumerate(items)
        ]
        return cls(torch.cat(rows), [len(item) for item in items])

    @classmethod
    def from_rows(cls, rows: Tensor, batch_size: int | None = None) -> CoordSet:
        """Rows [N, 4] int (batch, x, y, z); without `batch_size`, the items are those up to the last one named.

        Raises ValueError when the rows of an item are not contiguous and in order.
        """
        rows = check_tensor(rows, "rows", (None, 4), INTEGERS).to(torch.int32)
        item = rows[:, 0].long()
        if bool((rows < 0).any()):
            raise ValueError("rows: expected items and coordinates from 0 up, got negative ones")
        if bool((item.diff() < 0).any()):
            raise ValueError("rows: expected the voxels of one item after the other, got items out of order")
        lengths = torch.bincount(item, minlength=batch_size or 1).tolist()
        if batch_size is not None and len(lengths) > batch_size:
            raise ValueError(f"rows: expected items below {batch_size}, got {len(lengths) - 1}")
        return cls(rows, lengths)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def batch_size(self) -> int:
        return len(self.lengths)

    @property
    def device(self) -> torch.device:
        return self.rows.device

    @property
    def voxels(self) -> Tensor:
        """[N, 3] int32 (x, y, z)."""
        return self.rows[:, 1:]

    @property
    def item(self) -> Tensor | None:
        """[N] int64, the batch item of each voxel; None when there is only one."""
        return None if self.batch_size == 1 else self.derive("item", lambda: self.rows[:, 0].long())

    def derive(self, key: Hashable, build: Callable[[], T]) -> T:
        """What `build` returns, computed at the first call with this key and held from then on."""
        if key not in self._derived:
            self._derived[key] = build()
        return self._derived[key]

    def index(self) -> HashGrid:
        """The hash grid over the rows."""
        return self.derive("index", lambda: hash_grid(self.rows))

    def neighbors(self, dilation: int = 1) -> Tensor:
        """[N, 27] int32, see `neighbor_map`."""
        if dilation == 1 and self._origin is not None:
            return self.derive(("neighbors", 1), self._inherited_neighbors)
        return self.derive(("neighbors", dilation), lambda: neighbor_map(self.rows, dilation))

    def some_neighbors(self, start: int, stop: int) -> Tensor:
        """Rows `start` to `stop` of `neighbors()`; of voxels that subdivide coarser ones the whole map is not made."""
        origin = self._origin
        if origin is None or ("neighbors", 1) in self._derived:
            return self.neighbors()[start:stop]
        rows = self.derive("rows", lambda: child_rows(len(origin.coarse), origin.parent, origin.child))
        part = slice(start, stop)
        return child_neighbors(origin.coarse.neighbors(), origin.parent[part], origin.child[part], rows=rows)

    def coarsen(self) -> Subdivision:
        """The voxels of half the resolution, in lexicographic order, and which of ours are their children."""
        return self.derive("coarsen", self._coarsen)

    def subdivide(self, mask: Tensor) -> Subdivision:
        """The children that `mask` [N, 8] bool selects, in the order of their parents, child index ascending."""
        check_tensor(mask, "mask", (len(self), 8), torch.bool)
        parent, child = mask.nonzero(as_tuple=True)
        offset = torch.stack([child & 1, child >> 1 & 1, child >> 2 & 1], dim=1)
        scale = torch.tensor((1, 2, 2, 2), dtype=torch.int32, device=self.device)
        fine = self.rows[parent] * scale
        fine[:, 1:] += offset.to(torch.int32)
        counts = torch.stack([part.sum() for part in mask.split(self.lengths)]).tolist()
        return Subdivision(self, CoordSet(fine, counts, Origin(self, parent, child)), parent, child)

    def to(self, device: torch.device | str) -> CoordSet:
        """The same voxels on `device`; nothing derived travels along."""
        rows = self.rows.to(device)
        return self if rows is self.rows else CoordSet(rows, self.lengths)

    def same_voxels(self, other: CoordSet) -> bool:
        """Whether both hold equal rows in equal order."""
        return self is other or (self.lengths == other.lengths and torch.equal(self.rows, other.rows.to(self.device)))

    def _inherited_neighbors(self) -> Tensor:
        """The neighbour map from the parents' one, without any search: a neighbour's parent is the parent itself or
        one of its neighbours."""
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
    """Where fine voxels come from: parent and child as in `Subdivision`."""

    coarse: CoordSet
    parent: Tensor
    child: Tensor


@dataclass(frozen=True, eq=False)
class Subdivision:
    """How coarse voxels split into fine ones, M of them.

    parent: [M] int64, row of the coarse voxel.  child: [M] int64 in 0..7, x%2 + 2 (y%2) + 4 (z%2).
    """

    coarse: CoordSet
    fine: CoordSet
    parent: Tensor
    child: Tensor

    def mask(self) -> Tensor:
        """[N, 8] bool: which children each coarse voxel has."""
        out = torch.zeros(len(self.coarse), 8, dtype=torch.bool, device=self.parent.device)
        out[self.parent, self.child] = True
        return out
