"""Features on voxels, and token sequences of different lengths. Both immutable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...o_voxel.core.checks import check_tensor
from .coords import CoordSet


@dataclass(frozen=True, eq=False)
class SparseTensor:
    """feats: [N, C], row i belongs to voxel i of `coords`."""

    feats: Tensor
    coords: CoordSet

    def __post_init__(self) -> None:
        check_tensor(self.feats, "SparseTensor.feats", (len(self.coords), None))

    def replace(self, feats: Tensor) -> SparseTensor:
        """Other features on the same voxels."""
        return SparseTensor(feats, self.coords)

    def to(self, device: torch.device | str) -> SparseTensor:
        return SparseTensor(self.feats.to(device), self.coords.to(device))

    def items(self) -> list[tuple[Tensor, Tensor]]:
        """(voxels [N_i, 3] int32, features [N_i, C]) of each batch item."""
        lengths = self.coords.lengths
        return list(zip(self.coords.voxels.split(lengths), self.feats.split(lengths), strict=True))

    @classmethod
    def from_items(cls, items: Sequence[tuple[Tensor, Tensor]]) -> SparseTensor:
        """The batch of (voxels, features) pairs: the inverse of `items`."""
        voxels, feats = zip(*items, strict=True)
        return cls(torch.cat(feats), CoordSet.from_items(voxels))


@dataclass(frozen=True, eq=False)
class Ragged:
    """Sequences packed one after the other. feats: [T, C].  lengths: tokens of each item, summing to T."""

    feats: Tensor
    lengths: tuple[int, ...]

    def __post_init__(self) -> None:
        check_tensor(self.feats, "Ragged.feats", (sum(self.lengths), None))

    @classmethod
    def from_items(cls, items: Sequence[Tensor]) -> Ragged:
        """One sequence for each [L_i, C] tensor; a [B, L, C] tensor is B of them."""
        return cls(torch.cat(list(items)), tuple(len(item) for item in items))

    def replace(self, feats: Tensor) -> Ragged:
        return Ragged(feats, self.lengths)
