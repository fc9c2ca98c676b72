"""A procedural dataset: everyday objects by family and seed, as textured meshes, voxels and pictures."""

from .families import FAMILIES, HELD_OUT, TRAIN
from .objects import HELD_OUT_SEEDS, TRAIN_SEEDS, make_object
from .samples import RenderedObject, make_rendered_object
from .views import View, draw_views, framed_fov

# Version of the objects and pictures. Raise it whenever a family, material, shape, view or the renderer changes them:
# cached samples of other versions are not used. test_world.py fails when they change under an old version.
WORLD_VERSION = 1

TRAIN_FAMILIES = tuple(TRAIN)
HELD_OUT_FAMILIES = tuple(HELD_OUT)

__all__ = [
    "FAMILIES",
    "HELD_OUT_FAMILIES",
    "HELD_OUT_SEEDS",
    "TRAIN_FAMILIES",
    "TRAIN_SEEDS",
    "WORLD_VERSION",
    "RenderedObject",
    "View",
    "draw_views",
    "framed_fov",
    "make_object",
    "make_rendered_object",
]
