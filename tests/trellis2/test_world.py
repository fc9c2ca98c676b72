"""The procedural world: every family makes valid objects, the same for a seed, and samples are ready for training."""

import numpy as np
import pytest
import torch
from pack.o_voxel.convert import voxelize
from pack.o_voxel.dual_grid import dual_grid_to_mesh
from pack.o_voxel.grid import Grid
from pack.o_voxel.mesh.topology import edge_table
from pack.trellis2.image import prepare_image
from pack.trellis2.training.world import (
    FAMILIES,
    HELD_OUT_FAMILIES,
    HELD_OUT_SEEDS,
    TRAIN_FAMILIES,
    TRAIN_SEEDS,
    make_object,
    make_sample,
)
from pack.trellis2.training.world.dice import Dice
from pack.trellis2.training.world.objects import EXTENT, assemble
from pack.trellis2.training.world.shapes import box, cylinder, extrude, patch, sphere, sweep, triangulate
