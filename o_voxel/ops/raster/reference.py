"""Triangle rasterisation in plain torch: the rules of every backend, and the fallback.

With v = (x, y, w) of a clip-space vertex, the edge function opposite vertex i is e_i = v_j x v_k, a linear form of the
pixel (px, py, 1). Homogeneous edge functions need no clipping: a pixel is inside when the three have the sign of the
determinant, which also puts it in front of the camera (Olano and Greer, Triangle Scan Conversion using 2D Homogeneous
Coordinates, 1997). The products of two float32 are exact in float64, so two faces get exactly opposite values on a
shared edge. The order of operations is fixed, without fused multiply-adds: all backends return the same bytes.

Letters: F faces, P pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

DEPTH_STEPS = 2**30 - 64  # depth keys fill 31 bits; exact in float32, in case a compiler passes it as one
EMPTY = 2**63 - 1
NEGLIGIBLE = 2.0**-50  # of the determinant's terms: rounding can leave this much of a zero area
MARGIN_PIXELS = 1e-6  # boxes only have to contain the face
PIXELS_A_STEP = 1 << 21


def pixel_centers(size: tuple[int, int], device: torch.device) -> tuple[Tensor, Tensor]:
    """Returns NDC of pixel centres, float64: x [W] left to right, y [H] from the top (+1) row down."""
    height, width = size
    x = (2 * torch.arange(width, dtype=torch.float64, device=device) + 1) / width - 1
    y = 1 - (2 * torch.arange(height, dtype=torch.float64, device=device) + 1) / height
    return x, y


def edge_functions(corners: Tensor) -> tuple[Tensor, Tensor]:
    """Returns edge coefficients [F, 3, 3] of (px, py, 1) and determinant [F] of clip-space `corners` [F, 3, 4] float64.

    The determinant is exactly 0 for a degenerate face.
    """
    x, y, w = corners[..., 0], corners[..., 1], corners[..., 3]
    j, k = [1, 2, 0], [2, 0, 1]
    a = y[:, j] * w[:, k] - y[:, k] * w[:, j]
    b = x[:, k] * w[:, j] - x[:, j] * w[:, k]
    c = x[:, j] * y[:, k] - x[:, k] * y[:, j]
    terms = x[:, 0] * a[:, 0], y[:, 0] * b[:, 0], w[:, 0] * c[:, 0]
    det = (terms[0] + terms[1]) + terms[2]
    rounding = NEGLIGIBLE * ((terms[0].abs() + terms[1].abs()) + terms[2].abs())
    return torch.stack((a, b, c), dim=-1), torch.where(det.abs() > rounding, det, 0.0)


def face_boxes(corners: Tensor, size: tuple[int, int]) -> Tensor:
    """Returns pixel rectangles [F, 4] int64 (x, y, width, height) that contain the faces `corners` [F, 3, 4] float64.

    Width and height are 0 for a face outside the view volume; a face that crosses the camera plane gets the full image.
    """
    height, width = size
    xyz, w = corners[..., :3], corners[..., 3]
    outside = ((xyz > w[..., None]).all(dim=1) | (xyz < -w[..., None]).all(dim=1)).any(dim=1) | (w <= 0).all(dim=1)
    crossing = (w <= 0).any(dim=1)
    ndc = xyz[..., :2] / torch.where(w > 0, w, 1.0)[..., None]
    extent = corners.new_tensor([width, height])
    pixel = (ndc * corners.new_tensor([1.0, -1.0]) + 1) * (extent / 2) - 0.5
    low = torch.minimum((pixel.amin(dim=1) - MARGIN_PIXELS).ceil().clamp(min=0), extent)
    high = torch.minimum((pixel.amax(dim=1) + MARGIN_PIXELS).floor() + 1, extent)
    low = torch.where(crossing[:, None], 0.0, low)
    high = torch.where(crossing[:, None], extent, high)
    sides = torch.where(outside[:, None], 0.0, (high - low).clamp(min=0))
    return torch.cat((low, sides), dim=1).to(torch.int64)


def evaluate(edges: Tensor, px: Tensor, py: Tensor) -> Tensor:
    """Evaluates edge functions `edges` [P, 3, 3] at px, py [P] float64: [P, 3]."""
    return edges[..., 0] * px[:, None] + (edges[..., 1] * py[:, None] + edges[..., 2])


def interpolate_depth(values: Tensor, z: Tensor, det: Tensor) -> Tensor:
    """Returns z / w [P] at the pixel, from clip z [P, 3], edge values [P, 3] and determinant [P]."""
    return ((values[:, 0] * z[:, 0] + values[:, 1] * z[:, 1]) + values[:, 2] * z[:, 2]) / det


def visible_faces(clip: Tensor, faces: Tensor, size: tuple[int, int]) -> Tensor:
    """Returns the nearest face of each pixel [H, W] int32, -1 if none; of equal depths the lowest face.

    clip: [V, 4] float32.  faces: [F, 3] int. Tests every pixel of every face's rectangle, PIXELS_A_STEP at a time.
    """
    height, width = size
    centers_x, centers_y = pixel_centers(size, clip.device)
    corners = clip[faces].double()
    boxes = face_boxes(corners, size)
    ends = (boxes[:, 2] * boxes[:, 3]).cumsum(dim=0)
    keys = torch.full((height * width,), EMPTY, dtype=torch.int64, device=clip.device)
    total = int(ends[-1]) if len(ends) else 0
    for start in range(0, total, PIXELS_A_STEP):
        item = torch.arange(start, min(start + PIXELS_A_STEP, total), device=clip.device)
        face = torch.searchsorted(ends, item, right=True)
        x0, y0, columns, rows = boxes[face].unbind(dim=1)
        local = item - (ends[face] - columns * rows)
        x, y = x0 + local % columns, y0 + local // columns
        key = _keys(corners[face], face, centers_x[x], centers_y[y])
        keys.scatter_reduce_(0, y * width + x, key, "amin")
    return torch.where(keys == EMPTY, -1, keys & 0xFFFFFFFF).to(torch.int32).view(height, width)


def _keys(corners: Tensor, face: Tensor, px: Tensor, py: Tensor) -> Tensor:
    """Returns keys [P] int64, depth above, face below; EMPTY for pixels outside the face or the view volume."""
    edges, det = edge_functions(corners)
    edges, det = edges * det.sign()[:, None, None], det.abs()
    values = evaluate(edges, px, py)
    a, b = edges[..., 0], edges[..., 1]
    top_left = (a > 0) | ((a == 0) & (b < 0))
    inside = ((values > 0) | ((values == 0) & top_left)).all(dim=1) & (det > 0)
    depth = interpolate_depth(values, corners[..., 2], torch.where(det > 0, det, 1.0))
    inside &= (depth >= -1) & (depth <= 1)
    step = (torch.where(inside, depth, 0.0) + 1) * DEPTH_STEPS
    return torch.where(inside, (step.to(torch.int64) << 32) | face, EMPTY)


def interpolate(clip: Tensor, faces: Tensor, face: Tensor) -> tuple[Tensor, Tensor]:
    """Returns barycentrics [H, W, 3] and depth [H, W], float32, of the visible faces `face` [H, W] int32."""
    height, width = face.shape
    centers_x, centers_y = pixel_centers((height, width), clip.device)
    bary = torch.zeros((height * width, 3), dtype=torch.float32, device=clip.device)
    depth = torch.full((height * width,), torch.inf, dtype=torch.float32, device=clip.device)
    for pixel in (face.flatten() >= 0).nonzero().flatten().split(PIXELS_A_STEP):
        corners = clip[faces[face.flatten()[pixel].long()]].double()
        edges, det = edge_functions(corners)
        values = evaluate(edges, centers_x[pixel % width], centers_y[pixel // width])
        total = (values[:, 0] + values[:, 1]) + values[:, 2]
        bary[pixel] = (values / total[:, None]).float()
        depth[pixel] = interpolate_depth(values, corners[..., 2], det).float()
    return bary.view(height, width, 3), depth.view(height, width)
