"""A procedural world: any number of distinct everyday objects by family and seed, as meshes, voxels and pictures."""

from .families import FAMILIES, HELD_OUT, TRAIN
from .objects import HELD_OUT_SEEDS, TRAIN_SEEDS, make_object
from .samples import Sample, make_sample
from .views import View, draw_views

TRAIN_FAMILIES = tuple(TRAIN)
HELD_OUT_FAMILIES = tuple(HELD_OUT)

__all__ = [
    "FAMILIES",
    "HELD_OUT_FAMILIES",
    "HELD_OUT_SEEDS",
    "TRAIN_FAMILIES",
    "TRAIN_SEEDS",
    "Sample",
    "View",
    "draw_views",
    "make_object",
    "make_sample",
]
