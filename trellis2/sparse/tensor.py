"""Features on voxels, and packed token sequences. Both immutable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...o_voxel.core.checks import check_tensor
from .coords import CoordSet


@dataclass(frozen=True, eq=False)
class SparseTensor:
    """Features of voxels. feats: [N, C], row i for voxel i of `coords`. Raises ValueError for another length."""

    feats: Tensor
    coords: CoordSet

    def __post_init__(self) -> None:
        check_tensor(self.feats, "SparseTensor.feats", (len(self.coords), None))

    def replace(self, feats: Tensor) -> SparseTensor:
        """Returns other features [N, D] on the same voxels."""
        return SparseTensor(feats, self.coords)

    def to(self, device: torch.device | str) -> SparseTensor:
        """Returns the same features and voxels on `device`; see `CoordSet.to`."""
        return SparseTensor(self.feats.to(device), self.coords.to(device))

    def items(self) -> list[tuple[Tensor, Tensor]]:
        """Returns (voxels [N_i, 3] int32, features [N_i, C]) of each batch item."""
        lengths = self.coords.lengths
        return list(zip(self.coords.voxels.split(lengths), self.feats.split(lengths), strict=True))

    @classmethod
    def from_items(cls, items: Sequence[tuple[Tensor, Tensor]]) -> SparseTensor:
        """Makes a batch of pairs (voxels [N_i, 3] integer, features [N_i, C]): the inverse of `items`."""
        voxels, feats = zip(*items, strict=True)
        return cls(torch.cat(feats), CoordSet.from_items(voxels))


@dataclass(frozen=True, eq=False)
class PackedSequences:
    """Token sequences of different lengths, packed without padding.

    feats: [T, C], one sequence after the other.  lengths: tokens of each, summing to T, else ValueError.
    """

    feats: Tensor
    lengths: tuple[int, ...]

    def __post_init__(self) -> None:
        check_tensor(self.feats, "PackedSequences.feats", (sum(self.lengths), None))

    @classmethod
    def from_items(cls, items: Sequence[Tensor] | Tensor) -> PackedSequences:
        """Makes one sequence of each [L_i, C] tensor; a [B, L, C] tensor gives B sequences."""
        return cls(torch.cat(list(items)), tuple(len(item) for item in items))

    def replace(self, feats: Tensor) -> PackedSequences:
        """Returns other features [T, D] in sequences of the same lengths."""
        return PackedSequences(feats, self.lengths)

    def to(self, device: torch.device | str) -> PackedSequences:
        """Returns the same sequences on `device`."""
        return self.replace(self.feats.to(device))


@dataclass(frozen=True, eq=False)
class ProjectedSequences(PackedSequences):
    """Image tokens of each object, and of every latent token the features of the pixels that it projects to.

    feats, lengths: of the image tokens.  projected: [T, P], row i for token i of the latent, items in order.
    """

    projected: Tensor

    def __post_init__(self) -> None:
        super().__post_init__()
        check_tensor(self.projected, "ProjectedSequences.projected", (None, None))

    def replace(self, feats: Tensor) -> ProjectedSequences:
        """Returns other image tokens of the same lengths, with the same projected features."""
        return ProjectedSequences(feats, self.lengths, self.projected)

    def to(self, device: torch.device | str) -> ProjectedSequences:
        """Returns the same sequences and features on `device`."""
        return ProjectedSequences(self.feats.to(device), self.lengths, self.projected.to(device))
