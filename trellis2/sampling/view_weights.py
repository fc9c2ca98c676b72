"""How well each view sees each token: the weights of `blend_views`.

On voxels a view's score is facing times visibility. Facing is the cosine between its direction and the normal of the
filled structure; visibility falls by 1/e for every filled voxel that a parallel ray to the camera passes. The filled
structure is what no ray along an axis reaches from outside. Weights are a softmax of the scores over the views.

Before there is a structure, a token's score is its position along the view's direction: the half of the cube on the
camera's side belongs to the view, and the centre to all views alike.

Letters: V views, T voxels of all objects, B objects, R voxels a side.
"""

from __future__ import annotations

from math import ceil, sqrt

import torch
from torch import Tensor

from ..sparse import CoordSet

SMOOTHED = 5  # voxels a side of the box that the filled structure is averaged over before its gradient is taken
MARGIN = SMOOTHED // 2 + 2  # empty voxels around the structure: the box and the gradient stay inside the grid
# Voxels from a voxel's centre to where its rays start, along its normal and along the ray: past its own layer.
OFF_SURFACE, OFF_CENTER = 1.0, 1.5
SHEET_FACING = 0.5  # of a sheet without an inside, which has no side to face a view with


def grid_weights(directions: Tensor, resolution: int, temperature: float) -> Tensor:
    """Returns weights [V, 1, 1, R, R, R] fp32 of the tokens of a grid without a structure; they add up to 1 over V.

    directions: [V, 3] fp32 unit vectors to the cameras.  temperature: above 0, of the softmax; a cube's face is at 1.
    """
    axis = (torch.arange(resolution, dtype=torch.float32, device=directions.device) + 0.5) * (2 / resolution) - 1
    x, y, z = (column[:, None, None, None] for column in directions.unbind(1))
    scores = (x * axis[:, None, None] + y * axis[:, None] + z * axis).clamp_min(0)
    return torch.softmax(scores / temperature, dim=0)[:, None, None]


def voxel_weights(directions: Tensor, coords: CoordSet, temperature: float) -> Tensor:
    """Returns weights [V, T, 1] fp32 of voxels; they add up to 1 over V. What no view sees gets equal weights.

    directions: [V, 3] fp32 unit vectors to the cameras, on the device of coords.  temperature: above 0, of the softmax
    of scores from 0 to 1. An item's weights do not depend on the rest of its batch.
    """
    return torch.softmax(voxel_scores(directions, coords) / temperature, dim=0)[:, :, None]


def voxel_scores(directions: Tensor, coords: CoordSet) -> Tensor:
    """Returns [V, T] fp32 from 0 to 1: how well each view sees each voxel. Synchronises with the device once."""
    if len(coords) == 0:
        return directions.new_zeros(len(directions), 0)
    voxels = coords.voxels.long() + MARGIN
    side = int(voxels.max()) + 1 + MARGIN
    occupied = torch.zeros((coords.batch_size, side, side, side), dtype=torch.bool, device=coords.device)
    item = coords.rows[:, 0].long()
    x, y, z = voxels.unbind(1)
    occupied[item, x, y, z] = True
    solid = filled(occupied)
    normals = _normals(solid, item, voxels)
    length = normals.norm(dim=1)
    # Sums by hand: a matrix product may round to TF32 on a GPU.
    cosine = sum(directions[:, k, None] * normals[None, :, k] for k in range(3))
    facing = cosine.clamp_min(0) + SHEET_FACING * (1 - length)
    return facing * _visibility(solid, item, voxels + 0.5 + OFF_SURFACE * normals, directions)


def filled(occupied: Tensor) -> Tensor:
    """Returns [B, R, R, R] bool: the voxels that no ray along an axis, either way, reaches from outside before it hits
    one of `occupied` [B, R, R, R] bool. Cavities that are open along an axis stay empty."""
    outside = torch.zeros_like(occupied)
    for dim in (1, 2, 3):
        outside |= occupied.cumsum(dim, dtype=torch.int32) == 0
        outside |= occupied.flip(dim).cumsum(dim, dtype=torch.int32).flip(dim) == 0
    return ~outside


def _normals(solid: Tensor, item: Tensor, voxels: Tensor) -> Tensor:
    """[T, 3] fp32 outward normals at voxels [T, 3] int64; length 1 at a flat face, less at a sheet, down to 0."""
    smooth = torch.nn.functional.avg_pool3d(solid[:, None].float(), SMOOTHED, stride=1, padding=SMOOTHED // 2)[:, 0]
    slopes = []
    for axis in range(3):
        step = torch.zeros(3, dtype=torch.int64, device=voxels.device)
        step[axis] = 1
        (x, y, z), after = (voxels - step).unbind(1), (voxels + step).unbind(1)
        slopes.append(smooth[item, x, y, z] - smooth[item, after[0], after[1], after[2]])
    # A flat face falls from 1 to 0 over the box: by 2 / SMOOTHED from one neighbour to the other.
    normals = torch.stack(slopes, 1) * (SMOOTHED / 2)
    return normals / normals.norm(dim=1, keepdim=True).clamp_min(1)


def _visibility(solid: Tensor, item: Tensor, starts: Tensor, directions: Tensor) -> Tensor:
    """[V, T] fp32 exp(-filled voxels passed) along parallel rays from starts [T, 3], in voxels, one sample a voxel."""
    side = solid.shape[1]
    flat = solid.flatten()
    base = item * side**3
    passed = torch.zeros((len(directions), len(starts)), dtype=torch.float32, device=starts.device)
    for step in range(ceil(sqrt(3) * side)):
        place = (starts + (OFF_CENTER + step) * directions[:, None]).floor().long()
        # The outermost voxels are empty, so that a ray that left the grid reads nothing there.
        x, y, z = place.clamp_(0, side - 1).unbind(2)
        passed += flat[base + (x * side + y) * side + z]
    return torch.exp(-passed)
