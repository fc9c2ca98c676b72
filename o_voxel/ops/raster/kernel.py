"""Triangle rasterisation in Triton: an atomic minimum on a (depth, face) key, independent of the drawing order.

Small faces take one lane each; faces whose rectangle exceeds SMALL_PIXELS take one program per tile. Fused
multiply-adds are off: shared edges need exactly opposite values, and the reference's bytes its order of operations.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...core.device import device_guard
from .reference import DEPTH_STEPS, EMPTY, MARGIN_PIXELS, NEGLIGIBLE, face_boxes, pixel_centers

SMALL_PIXELS = 96
TILE = 16
TILES_A_LAUNCH = 1 << 22
BLOCK = 128
_EMPTY = tl.constexpr(EMPTY)
_DEPTH_STEPS = tl.constexpr(DEPTH_STEPS)
_NEGLIGIBLE = tl.constexpr(NEGLIGIBLE)
_MARGIN_PIXELS = tl.constexpr(MARGIN_PIXELS)


@device_guard
def rasterize_gpu(clip: Tensor, faces: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Returns face [H, W] int32, barycentrics [H, W, 3] and depth [H, W] float32; arguments as `rasterize`."""
    height, width = size
    clip, faces = clip.contiguous(), faces.contiguous()
    centers = pixel_centers(size, clip.device)
    keys = torch.full((height * width,), EMPTY, dtype=torch.int64, device=clip.device)
    if len(faces):
        large = torch.zeros(len(faces), dtype=torch.bool, device=clip.device)
        grid = (triton.cdiv(len(faces), BLOCK),)
        _draw_small[grid](
            clip, faces, *centers, keys, large, len(faces), height, width, BLOCK, SMALL_PIXELS, enable_fp_fusion=False
        )
        _draw_large_faces(clip, faces, large.nonzero().flatten(), size, keys)
    face = torch.empty(size, dtype=torch.int32, device=clip.device)
    bary = torch.empty((height, width, 3), dtype=torch.float32, device=clip.device)
    depth = torch.empty(size, dtype=torch.float32, device=clip.device)
    grid = (triton.cdiv(height * width, BLOCK),)
    _interpolate[grid](
        clip, faces, *centers, keys, face, bary, depth, height * width, width, BLOCK, enable_fp_fusion=False
    )
    return face, bary, depth


@device_guard
def _draw_large_faces(clip: Tensor, faces: Tensor, large: Tensor, size: tuple[int, int], keys: Tensor) -> None:
    """Draws the faces `large` [N] int64 into `keys` [H * W] int64, every tile of their rectangles."""
    if not len(large):
        return
    boxes = face_boxes(clip[faces[large]].double(), size)
    columns = (boxes[:, 2] + TILE - 1) // TILE
    ends = (columns * ((boxes[:, 3] + TILE - 1) // TILE)).cumsum(dim=0)
    total = int(ends[-1])
    for start in range(0, total, TILES_A_LAUNCH):
        item = torch.arange(start, min(start + TILES_A_LAUNCH, total), device=clip.device)
        row = torch.searchsorted(ends, item, right=True)
        local = item - torch.where(row > 0, ends[row - 1], 0)
        x, y = boxes[row, 0] + local % columns[row] * TILE, boxes[row, 1] + local // columns[row] * TILE
        _draw_tiles[(len(item),)](
            clip, faces, *pixel_centers(size, clip.device), keys, large[row], x, y, *size, TILE, enable_fp_fusion=False
        )


@triton.jit
def _load_face(clip, faces, face, mask):
    """Loads x, y, z, w of the three corners of faces [N] int64, as float64."""
    i = clip + tl.load(faces + 3 * face, mask, 0).to(tl.int64) * 4
    j = clip + tl.load(faces + 3 * face + 1, mask, 0).to(tl.int64) * 4
    k = clip + tl.load(faces + 3 * face + 2, mask, 0).to(tl.int64) * 4
    x0, y0 = tl.load(i, mask, 0.0).to(tl.float64), tl.load(i + 1, mask, 0.0).to(tl.float64)
    z0, w0 = tl.load(i + 2, mask, 0.0).to(tl.float64), tl.load(i + 3, mask, 0.0).to(tl.float64)
    x1, y1 = tl.load(j, mask, 0.0).to(tl.float64), tl.load(j + 1, mask, 0.0).to(tl.float64)
    z1, w1 = tl.load(j + 2, mask, 0.0).to(tl.float64), tl.load(j + 3, mask, 0.0).to(tl.float64)
    x2, y2 = tl.load(k, mask, 0.0).to(tl.float64), tl.load(k + 1, mask, 0.0).to(tl.float64)
    z2, w2 = tl.load(k + 2, mask, 0.0).to(tl.float64), tl.load(k + 3, mask, 0.0).to(tl.float64)
    return x0, y0, z0, w0, x1, y1, z1, w1, x2, y2, z2, w2


@triton.jit
def _edges(x0, y0, w0, x1, y1, w1, x2, y2, w2):
    """Returns the coefficients and determinant of reference.edge_functions, negated if the determinant is negative."""
    a0, b0, c0 = y1 * w2 - y2 * w1, x2 * w1 - x1 * w2, x1 * y2 - x2 * y1
    a1, b1, c1 = y2 * w0 - y0 * w2, x0 * w2 - x2 * w0, x2 * y0 - x0 * y2
    a2, b2, c2 = y0 * w1 - y1 * w0, x1 * w0 - x0 * w1, x0 * y1 - x1 * y0
    t0, t1, t2 = x0 * a0, y0 * b0, w0 * c0
    det = (t0 + t1) + t2
    rounding = ((tl.abs(t0) + tl.abs(t1)) + tl.abs(t2)) * _NEGLIGIBLE
    s = tl.where(det < 0, -1.0, 1.0)
    det = tl.where(tl.abs(det) > rounding, tl.abs(det), 0.0)
    return a0 * s, b0 * s, c0 * s, a1 * s, b1 * s, c1 * s, a2 * s, b2 * s, c2 * s, det


@triton.jit
def _owns(e, a, b):
    """Returns whether a pixel with edge value e is inside, or on an edge that is a left or top one."""
    return (e > 0) | ((e == 0) & ((a > 0) | ((a == 0) & (b < 0))))


@triton.jit
def _key(a0, b0, c0, a1, b1, c1, a2, b2, c2, det, z0, z1, z2, px, py, face):
    """Returns keys of depth above, face below; _EMPTY where the pixel is outside the face or the view volume."""
    e0, e1, e2 = a0 * px + (b0 * py + c0), a1 * px + (b1 * py + c1), a2 * px + (b2 * py + c2)
    inside = _owns(e0, a0, b0) & _owns(e1, a1, b1) & _owns(e2, a2, b2) & (det > 0)
    depth = ((e0 * z0 + e1 * z1) + e2 * z2) / tl.where(det > 0, det, 1.0)
    inside = inside & (depth >= -1) & (depth <= 1)
    step = ((tl.where(inside, depth, 0.0) + 1) * _DEPTH_STEPS).to(tl.int64)
    return tl.where(inside, (step << 32) | face, _EMPTY)


@triton.jit
def _span(n0, n1, n2, w0, w1, w2, sign, side):
    """Returns the first and last + 1 pixel [N] int32, of `side` along an axis, that may be covered; all w > 0."""
    p0, p1, p2 = sign * n0 / w0, sign * n1 / w1, sign * n2 / w2
    low = (tl.minimum(p0, tl.minimum(p1, p2)) + 1) * (side * 0.5) - 0.5
    high = (tl.maximum(p0, tl.maximum(p1, p2)) + 1) * (side * 0.5) - 0.5
    low = tl.minimum(tl.maximum(tl.ceil(low - _MARGIN_PIXELS), 0.0), side * 1.0)
    high = tl.minimum(tl.maximum(tl.floor(high + _MARGIN_PIXELS) + 1, 0.0), side * 1.0)
    return low.to(tl.int32), high.to(tl.int32)


@triton.jit
def _beyond(n0, n1, n2, w0, w1, w2):
    """Returns whether the three corners are outside the same plane of the view volume's pair along an axis."""
    return ((n0 > w0) & (n1 > w1) & (n2 > w2)) | ((n0 < -w0) & (n1 < -w1) & (n2 < -w2))


@triton.jit(do_not_specialize=["count"])
def _draw_small(
    clip, faces, centers_x, centers_y, keys, large, count, height, width, BLOCK: tl.constexpr, LIMIT: tl.constexpr
):
    """Draws the faces of at most LIMIT pixels, one per lane; marks the others in `large` [F] bool."""
    face = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = face < count
    x0, y0, z0, w0, x1, y1, z1, w1, x2, y2, z2, w2 = _load_face(clip, faces, face, mask)
    a0, b0, c0, a1, b1, c1, a2, b2, c2, det = _edges(x0, y0, w0, x1, y1, w1, x2, y2, w2)
    unseen = _beyond(x0, x1, x2, w0, w1, w2) | _beyond(y0, y1, y2, w0, w1, w2) | _beyond(z0, z1, z2, w0, w1, w2)
    seen = mask & (det > 0) & (unseen == 0) & ((w0 > 0) | (w1 > 0) | (w2 > 0))
    front = (w0 > 0) & (w1 > 0) & (w2 > 0)
    u0, u1, u2 = tl.where(front, w0, 1.0), tl.where(front, w1, 1.0), tl.where(front, w2, 1.0)
    left, right = _span(x0, x1, x2, u0, u1, u2, 1.0, width)
    top, bottom = _span(y0, y1, y2, u0, u1, u2, -1.0, height)
    pixels = tl.maximum(right - left, 0) * tl.maximum(bottom - top, 0)
    small = seen & front & (pixels <= LIMIT)
    tl.store(large + face, seen & (small == 0), mask)
    pixels = tl.where(small, pixels, 0)
    x, y = left, top
    for step in range(tl.max(pixels, 0)):
        active = step < pixels
        px, py = tl.load(centers_x + x, active, 0.0), tl.load(centers_y + y, active, 0.0)
        key = _key(a0, b0, c0, a1, b1, c1, a2, b2, c2, det, z0, z1, z2, px, py, face)
        tl.atomic_min(keys + y * width + x, key, active & (key != _EMPTY), sem="relaxed")
        wrap = x + 1 == right
        y = tl.where(wrap, y + 1, y)
        x = tl.where(wrap, left, x + 1)


@triton.jit
def _draw_tiles(clip, faces, centers_x, centers_y, keys, tile_face, tile_x, tile_y, height, width, TILE: tl.constexpr):
    """Draws one tile of TILE x TILE pixels per program: of face tile_face, from (tile_x, tile_y), [N] int64 each."""
    face = tl.load(tile_face + tl.program_id(0))
    lane = tl.arange(0, TILE * TILE)
    x = tl.load(tile_x + tl.program_id(0)) + lane % TILE
    y = tl.load(tile_y + tl.program_id(0)) + lane // TILE
    mask = (x < width) & (y < height)
    faces_here = face + tl.zeros_like(x)
    x0, y0, z0, w0, x1, y1, z1, w1, x2, y2, z2, w2 = _load_face(clip, faces, faces_here, mask)
    a0, b0, c0, a1, b1, c1, a2, b2, c2, det = _edges(x0, y0, w0, x1, y1, w1, x2, y2, w2)
    px, py = tl.load(centers_x + x, mask, 0.0), tl.load(centers_y + y, mask, 0.0)
    key = _key(a0, b0, c0, a1, b1, c1, a2, b2, c2, det, z0, z1, z2, px, py, faces_here)
    tl.atomic_min(keys + y * width + x, key, mask & (key != _EMPTY), sem="relaxed")


@triton.jit
def _interpolate(clip, faces, centers_x, centers_y, keys, face_out, bary, depth, count, width, BLOCK: tl.constexpr):
    """Decodes the keys [H * W]: face, barycentrics and depth of each pixel, as reference.interpolate."""
    pixel = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = pixel < count
    key = tl.load(keys + pixel, mask, _EMPTY)
    hit = key != _EMPTY
    face = key & 0xFFFFFFFF
    x0, y0, z0, w0, x1, y1, z1, w1, x2, y2, z2, w2 = _load_face(clip, faces, face, hit)
    a0, b0, c0, a1, b1, c1, a2, b2, c2, det = _edges(x0, y0, w0, x1, y1, w1, x2, y2, w2)
    px, py = tl.load(centers_x + pixel % width, mask, 0.0), tl.load(centers_y + pixel // width, mask, 0.0)
    e0, e1, e2 = a0 * px + (b0 * py + c0), a1 * px + (b1 * py + c1), a2 * px + (b2 * py + c2)
    total = tl.where(hit, (e0 + e1) + e2, 1.0)
    tl.store(face_out + pixel, tl.where(hit, face, -1).to(tl.int32), mask)
    tl.store(bary + 3 * pixel, tl.where(hit, e0 / total, 0.0).to(tl.float32), mask)
    tl.store(bary + 3 * pixel + 1, tl.where(hit, e1 / total, 0.0).to(tl.float32), mask)
    tl.store(bary + 3 * pixel + 2, tl.where(hit, e2 / total, 0.0).to(tl.float32), mask)
    z = ((e0 * z0 + e1 * z1) + e2 * z2) / tl.where(hit, det, 1.0)
    tl.store(depth + pixel, tl.where(hit, z, float("inf")).to(tl.float32), mask)
