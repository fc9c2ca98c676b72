"""Mesh -> flexible dual grid, slab by slab: which backend, how thick the slabs, in what order."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

import torch

from ..backend import Choice, always
from .soup import Part, QefWeights, Soup, cut_slabs

Progress = Callable[[float], None]


def run_slabs(soup, weights, backend, progress=None):
    from . import reference as b
    ny, nz = soup.shape[1:]
    layers = max(1, b.SLAB_VOXELS // (ny*nz))
    slabs = cut_slabs(soup, layers)
    return [b.voxelize_slab(soup, s, weights) for s in slabs]
