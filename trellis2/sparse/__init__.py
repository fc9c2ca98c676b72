"""Sparse tensors: features on voxels, and voxel sets that cache data derived from their coordinates."""

from .coords import CoordSet, Subdivision
from .layers import SubmanifoldConv3d, spatial_to_channel
from .tensor import PackedSequences, ProjectedSequences, SparseTensor
from .tiles import Tile, with_halo

__all__ = [
    "CoordSet",
    "PackedSequences",
    "ProjectedSequences",
    "SparseTensor",
    "Subdivision",
    "SubmanifoldConv3d",
    "Tile",
    "spatial_to_channel",
    "with_halo",
]
