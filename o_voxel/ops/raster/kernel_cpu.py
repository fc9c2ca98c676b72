"""Triangle rasterisation in numba: one horizontal band of the image at a time, on all of torch's threads.

Bands are independent, each with its faces in ascending order, so the result does not depend on the threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ...core.kernel_cpu import cached_njit
from .reference import DEPTH_STEPS, MARGIN_PIXELS, NEGLIGIBLE, pixel_centers

BAND_ROWS = 16
FACES_A_TASK = 1 << 16


def rasterize_cpu(clip: Tensor, faces: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Returns face [H, W] int32, barycentrics [H, W, 3] and depth [H, W] float32; arguments as `rasterize`."""
    height, width = size
    corners, triangles = clip.detach().contiguous().numpy(), faces.to(torch.int32).contiguous().numpy()
    centers = [axis.numpy() for axis in pixel_centers(size, clip.device)]
    spans = [(i, min(i + FACES_A_TASK, len(triangles))) for i in range(0, len(triangles), FACES_A_TASK)]
    bands = [(row, min(row + BAND_ROWS, height)) for row in range(0, height, BAND_ROWS)]
    boxes = np.empty((len(triangles), 4), np.int32)
    counts = np.zeros((len(bands), len(spans)), np.int64)
    face = np.empty((height, width), np.int32)
    bary, depth = np.empty((height, width, 3), np.float32), np.empty((height, width), np.float32)
    threads = torch.get_num_threads()
    # A pool of one thread costs more than a small picture.
    with ThreadPoolExecutor(threads) if threads > 1 else nullcontext() as pool:

        def each(task: Callable[[int], None], items: Iterable) -> None:
            list((map if pool is None else pool.map)(task, range(len(items))))

        each(lambda i: find_boxes(corners, triangles, height, width, *spans[i], boxes, counts[:, i]), spans)
        ends = counts.cumsum().reshape(counts.shape)
        starts = ends - counts
        members = np.empty(int(counts.sum()), np.int32)
        each(lambda i: fill_bands(boxes, *spans[i], starts[:, i].copy(), members), spans)

        def draw(i: int) -> None:
            inside = members[ends[i - 1, -1] if i else 0 : ends[i, -1]] if spans else members
            draw_band(corners, triangles, boxes, inside, *centers, *bands[i], face)
            interpolate_band(corners, triangles, face, *centers, *bands[i], bary, depth)

        each(draw, bands)
    return torch.from_numpy(face), torch.from_numpy(bary), torch.from_numpy(depth)


_compiled = partial(cached_njit, error_model="numpy")


@_compiled
def _edges(corners, i, j, k):
    """Returns the nine coefficients and the determinant, as reference.edge_functions."""
    x0, y0, w0 = np.float64(corners[i, 0]), np.float64(corners[i, 1]), np.float64(corners[i, 3])
    x1, y1, w1 = np.float64(corners[j, 0]), np.float64(corners[j, 1]), np.float64(corners[j, 3])
    x2, y2, w2 = np.float64(corners[k, 0]), np.float64(corners[k, 1]), np.float64(corners[k, 3])
    a0, b0, c0 = y1 * w2 - y2 * w1, x2 * w1 - x1 * w2, x1 * y2 - x2 * y1
    a1, b1, c1 = y2 * w0 - y0 * w2, x0 * w2 - x2 * w0, x2 * y0 - x0 * y2
    a2, b2, c2 = y0 * w1 - y1 * w0, x1 * w0 - x0 * w1, x0 * y1 - x1 * y0
    t0, t1, t2 = x0 * a0, y0 * b0, w0 * c0
    det = (t0 + t1) + t2
    if abs(det) <= NEGLIGIBLE * ((abs(t0) + abs(t1)) + abs(t2)):
        det = 0.0
    return a0, b0, c0, a1, b1, c1, a2, b2, c2, det


@_compiled
def find_boxes(corners, faces, height, width, first, last, boxes, counts):
    """Writes boxes [F, 4] int32 (x0, y0, x1, y1) of faces first to last, and counts the faces per band [B]."""
    for f in range(first, last):
        low_x, low_y, high_x, high_y = np.inf, np.inf, -np.inf, -np.inf
        # A bit for each side of the view volume that all corners so far lie beyond.
        beyond, behind = 63, 0
        for corner in range(3):
            v = faces[f, corner]
            x, y, z = np.float64(corners[v, 0]), np.float64(corners[v, 1]), np.float64(corners[v, 2])
            w = np.float64(corners[v, 3])
            beyond &= (x > w) | (y > w) << 1 | (z > w) << 2 | (x < -w) << 3 | (y < -w) << 4 | (z < -w) << 5
            if w <= 0:
                behind += 1
                continue
            if w != 1.0:
                x, y = x / w, y / w
            x = (x + 1) * (width / 2) - 0.5
            y = (1 - y) * (height / 2) - 0.5
            low_x, high_x = min(low_x, x), max(high_x, x)
            low_y, high_y = min(low_y, y), max(high_y, y)
        x0, y0, x1, y1 = 0, 0, 0, 0
        if behind < 3 and beyond == 0:
            x1, y1 = width, height
            if behind == 0:
                x0 = np.int64(min(max(np.ceil(low_x - MARGIN_PIXELS), 0), width))
                y0 = np.int64(min(max(np.ceil(low_y - MARGIN_PIXELS), 0), height))
                x1 = np.int64(max(min(np.floor(high_x + MARGIN_PIXELS) + 1, width), 0))
                y1 = np.int64(max(min(np.floor(high_y + MARGIN_PIXELS) + 1, height), 0))
        boxes[f, 0], boxes[f, 1], boxes[f, 2], boxes[f, 3] = x0, y0, x1, y1
        if x1 > x0 and y1 > y0:
            for band in range(y0 // BAND_ROWS, (y1 - 1) // BAND_ROWS + 1):
                counts[band] += 1


@_compiled
def fill_bands(boxes, first, last, cursors, members):
    """Appends the faces first to last, with `boxes` [F, 4], to the lists of their bands, at `cursors` [B]."""
    for f in range(first, last):
        x0, y0, x1, y1 = boxes[f]
        if x1 > x0 and y1 > y0:
            for band in range(y0 // BAND_ROWS, (y1 - 1) // BAND_ROWS + 1):
                members[cursors[band]] = f
                cursors[band] += 1


@_compiled
def draw_band(corners, faces, boxes, members, centers_x, centers_y, first_row, last_row, face):
    """Writes the nearest of the ascending faces `members` [n] into rows first_row to last_row of `face` [H, W]."""
    nearest = np.full((last_row - first_row, face.shape[1]), 2**31 - 1, np.int32)
    for y in range(first_row, last_row):
        for x in range(face.shape[1]):
            face[y, x] = -1
    for f in members:
        i, j, k = faces[f, 0], faces[f, 1], faces[f, 2]
        a0, b0, c0, a1, b1, c1, a2, b2, c2, det = _edges(corners, i, j, k)
        if det == 0:
            continue
        if det < 0:
            a0, b0, c0, a1, b1, c1, a2, b2, c2, det = -a0, -b0, -c0, -a1, -b1, -c1, -a2, -b2, -c2, -det
        z0, z1, z2 = np.float64(corners[i, 2]), np.float64(corners[j, 2]), np.float64(corners[k, 2])
        owns0 = a0 > 0 or (a0 == 0 and b0 < 0)
        owns1 = a1 > 0 or (a1 == 0 and b1 < 0)
        owns2 = a2 > 0 or (a2 == 0 and b2 < 0)
        for y in range(max(boxes[f, 1], first_row), min(boxes[f, 3], last_row)):
            py = centers_y[y]
            row0, row1, row2 = b0 * py + c0, b1 * py + c1, b2 * py + c2
            for x in range(boxes[f, 0], boxes[f, 2]):
                px = centers_x[x]
                e0, e1, e2 = a0 * px + row0, a1 * px + row1, a2 * px + row2
                if e0 < 0 or e1 < 0 or e2 < 0:
                    continue
                if (e0 == 0 and not owns0) or (e1 == 0 and not owns1) or (e2 == 0 and not owns2):
                    continue
                depth = ((e0 * z0 + e1 * z1) + e2 * z2) / det
                if depth < -1 or depth > 1:
                    continue
                step = np.int64((depth + 1) * DEPTH_STEPS)
                if step < nearest[y - first_row, x]:
                    nearest[y - first_row, x] = step
                    face[y, x] = f


@_compiled
def interpolate_band(corners, faces, face, centers_x, centers_y, first_row, last_row, bary, depth):
    """Writes barycentrics [H, W, 3] and depth [H, W] of rows first_row to last_row, as reference.interpolate."""
    for y in range(first_row, last_row):
        py, current = centers_y[y], -1
        for x in range(face.shape[1]):
            f = face[y, x]
            if f < 0:
                bary[y, x, 0], bary[y, x, 1], bary[y, x, 2] = 0, 0, 0
                depth[y, x] = np.inf
                continue
            if f != current:
                current = f
                i, j, k = faces[f, 0], faces[f, 1], faces[f, 2]
                a0, b0, c0, a1, b1, c1, a2, b2, c2, det = _edges(corners, i, j, k)
                z0, z1, z2 = np.float64(corners[i, 2]), np.float64(corners[j, 2]), np.float64(corners[k, 2])
                row0, row1, row2 = b0 * py + c0, b1 * py + c1, b2 * py + c2
            px = centers_x[x]
            e0, e1, e2 = a0 * px + row0, a1 * px + row1, a2 * px + row2
            total = (e0 + e1) + e2
            bary[y, x, 0], bary[y, x, 1], bary[y, x, 2] = e0 / total, e1 / total, e2 / total
            depth[y, x] = ((e0 * z0 + e1 * z1) + e2 * z2) / det
