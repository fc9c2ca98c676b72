"""Texture sampling in numba, on all of torch's threads; the order of float32 operations is the reference's."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ...core.kernel_cpu import cached_njit
from .tables import TextureTable

SAMPLES_A_TASK = 1 << 15

_compiled = partial(cached_njit, error_model="numpy")


def sample_cpu(table: TextureTable, material: Tensor, uv: Tensor, lod: Tensor) -> Tensor:
    """As reference.sample_bilinear: texels [P, C] float32 in [0, 1]; material [P], uv [P, 2], lod [P]."""
    values = np.empty((len(material), table.texels.shape[1]), np.float32)
    images = (table.texels, table.offset, table.height, table.width, table.wrap, table.nearest)
    images = tuple(part.contiguous().numpy() for part in images)
    queries = tuple(part.contiguous().numpy() for part in (material, uv, lod))

    def sample(start: int) -> None:
        span = slice(start, start + SAMPLES_A_TASK)
        sample_range(*images, *(part[span] for part in queries), values[span])

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        list(pool.map(sample, range(0, len(values), SAMPLES_A_TASK)))
    return torch.from_numpy(values)


@_compiled
def wrapped(texel, size, wrap):
    """The texel in [0, size) by the mode `wrap`: repeat 0, clamp 1, mirror 2. numpy's remainder is never negative."""
    if wrap == 1:
        return min(max(texel, 0), size - 1)
    if wrap == 2:
        place = texel % (2 * size)
        return min(place, 2 * size - 1 - place)
    return texel % size


@_compiled
def taps(position, size, wrap, nearest):
    """Two texels along an axis and the weight of the second."""
    half = np.float32(0.5)
    low = np.floor(position) if nearest else np.floor(position - half)
    weight = np.float32(0) if nearest else position - low - half
    texel = np.int64(low)
    return wrapped(texel, size, wrap), wrapped(texel + 1, size, wrap), weight


@_compiled
def sample_range(texels, offset, height, width, wrap, nearest, material, uv, lod, values):
    """Writes the values [P, C] of samples: material [P], uv [P, 2], lod [P]; the others as in TextureTable."""
    one, scale = np.float32(1), np.float32(255)
    for p in range(len(material)):
        row = material[p]
        lower = np.floor(lod[p])
        fraction = lod[p] - lower
        for step in range(2 if fraction > 0 else 1):
            level = np.int64(lower) + step
            columns, rows, first = width[row, level], height[row, level], offset[row, level]
            x0, x1, fx = taps(uv[p, 0] * np.float32(columns), columns, wrap[row, 0], nearest[row])
            y0, y1, fy = taps((one - uv[p, 1]) * np.float32(rows), rows, wrap[row, 1], nearest[row])
            w00, w01, w10, w11 = (one - fx) * (one - fy), fx * (one - fy), (one - fx) * fy, fx * fy
            above, below = first + y0 * columns, first + y1 * columns
            for c in range(texels.shape[1]):
                total = w00 * np.float32(texels[above + x0, c])
                total += w01 * np.float32(texels[above + x1, c])
                total += w10 * np.float32(texels[below + x0, c])
                total += w11 * np.float32(texels[below + x1, c])
                total /= scale
                if step == 0:
                    values[p, c] = total if fraction == 0 else (one - fraction) * total
                else:
                    values[p, c] += fraction * total
