"""Sparse tensors: features on voxels, and the voxels with everything derived from them."""

from .coords import CoordSet, Subdivision
from .layers import SubmanifoldConv3d, channel_to_spatial, spatial_to_channel
from .tensor import Ragged, SparseTensor
from .tiles import Part, cut

__all__ = [
    "CoordSet",
    "Part",
    "Ragged",
    "SparseTensor",
    "Subdivision",
    "SubmanifoldConv3d",
    "channel_to_spatial",
    "cut",
    "spatial_to_channel",
]
