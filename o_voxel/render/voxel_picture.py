"""A quick picture of voxels as shaded blocks: no kernel to compile, and no work on the GPU that samples.

In a parallel projection all blocks look alike, so one is drawn, and stamped for every voxel from far to near (the
painter's algorithm, exact here: of two blocks on one line of sight, the one with the nearer centre is in front).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .camera import Bounds, Camera, View

CAMERA = Camera(yaw_deg=30.0, pitch_deg=25.0, orthographic=True)
BACKGROUND, BLOCK = (0.13, 0.13, 0.14), (0.76, 0.75, 0.73)  # sRGB
# Brightness of a block's faces along x, y and z, of its rim, and of the farthest block.
FACES, RIM, FAR = (0.62, 0.8, 1.0), 0.78, 0.62
SAMPLES = 2  # a side of a pixel
RIM_FROM = 8  # samples a side of the smallest block with a visible rim


def voxel_picture(voxels: Tensor, size: int = 256, colors: Tensor | None = None) -> Tensor:
    """Draws voxels [N, 3] int as blocks, fitted to the picture: [size, size, 3] uint8 sRGB, on the CPU.

    colors: [N, 3] sRGB in [0, 1], None: clay.  N = 0 gives the background. Deterministic.
    """
    samples = size * SAMPLES
    image = np.tile(np.float32(BACKGROUND), (samples * samples, 1))
    if len(voxels):
        cells = voxels.detach().cpu().numpy().astype(np.int64)
        tint = np.tile(np.float32(BLOCK), (len(cells), 1)) if colors is None else colors.detach().cpu().float().numpy()
        _stamp(image, samples, cells, tint)
    image = image.reshape(size, SAMPLES, size, SAMPLES, 3).mean(axis=(1, 3))
    return torch.from_numpy((image.clip(0, 1) * 255).round().astype(np.uint8))


def _stamp(image: NDArray, samples: int, cells: NDArray, tint: NDArray) -> None:
    """Draws blocks at cells [N, 3] in colours `tint` [N, 3] into image [samples², 3]."""
    low, high = cells.min(axis=0), cells.max(axis=0) + 1
    view = CAMERA.view(Bounds.around(torch.from_numpy(np.float32([low, high]))), (samples, samples))
    axes = np.array([view.right, view.up, view.back])
    side = view.scale[0] * samples / 2  # samples along a block's edge
    front = _visible(cells, np.sign(axes[2]).astype(np.int64))
    depth = cells[front] @ axes[2]
    order = np.argsort(depth, kind="stable")  # the farthest first
    front, depth = front[order], depth[order]
    center = (low + high) / 2
    across, upward = ((cells[front] + 0.5 - center) @ axes[:2].T).T * side
    column, row = np.int64(np.floor(across + samples / 2)), np.int64(np.floor(samples / 2 - upward))
    offsets, shade = _block(view, side)
    target = (row[:, None] + offsets[:, 1]) * samples + (column[:, None] + offsets[:, 0])
    # Written in order: where blocks overlap, the last one, which is the nearest, stays.
    winner = np.full(samples * samples, -1, np.int64)
    winner[target.ravel()] = np.arange(target.size)
    (covered,) = (winner >= 0).nonzero()
    block, part = np.divmod(winner[covered], len(shade))
    nearness = (depth - depth[0]) / max(depth[-1] - depth[0], 1e-6)
    brightness = shade[part] * (FAR + (1 - FAR) * nearness[block])
    image[covered] = tint[front[block]] * np.float32(brightness)[:, None]


def _visible(cells: NDArray, toward: NDArray) -> NDArray:
    """Rows of the cells [N, 3] with an empty neighbour on one of the three sides that look at the eye."""
    shifted = cells - cells.min(axis=0) + 1
    taken = np.zeros(shifted.max(axis=0) + 2, bool)
    taken[tuple(shifted.T)] = True
    hidden = np.ones(len(cells), bool)
    for axis in range(3):
        neighbour = shifted.copy()
        neighbour[:, axis] += toward[axis]
        hidden &= taken[tuple(neighbour.T)]
    return (~hidden).nonzero()[0]


def _block(view: View, side: float) -> tuple[NDArray, NDArray]:
    """One block around its centre: offsets [K, 2] in samples, right and down, and their brightness [K]."""
    reach = int(np.ceil(side * 0.9)) + 1
    right, down = np.meshgrid(np.arange(-reach, reach + 1), np.arange(-reach, reach + 1))
    plane = (right[..., None] * np.array(view.right) - down[..., None] * np.array(view.up)) / side
    slack = 0.7 / side  # centres are rounded to samples; without it, gaps would show between blocks
    rim = 0.5 - (1.0 / side if side >= RIM_FROM else 0.0)
    brightness = np.zeros(right.shape)
    for axis, looks in enumerate(view.back):
        # Where the line of sight through each sample meets the face's plane, in blocks.
        steps = (0.5 - np.sign(looks) * plane[..., axis]) / abs(looks)
        meets = plane + steps[..., None] * np.array(view.back)
        along = np.abs(np.delete(meets, axis, axis=-1)).max(axis=-1)
        lit = FACES[axis] * np.where(along > rim, RIM, 1.0) if side >= RIM_FROM else np.full(along.shape, FACES[axis])
        inside = along <= 0.5 + slack
        brightness = np.where(inside & ((along <= 0.5) | (brightness == 0)), lit, brightness)
    drawn = brightness > 0
    return np.stack((right[drawn], down[drawn]), axis=1), brightness[drawn]
