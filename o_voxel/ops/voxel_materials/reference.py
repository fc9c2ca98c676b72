"""Material sampling in plain torch, one slab of voxels at a time, on any device.

Letters: P (voxel, triangle) pairs, N voxels, F triangles, M materials, C channels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...core.progress import Progress
from ..texture_sample import texture_sample
from .scan_lines import cuts
from .scene import ALPHA, ALPHA_CODES, FLAT_SINE, Scene, dot, normalize

LEAST_WEIGHT = 1e-3


def weighted_means(
    scene: Scene,
    voxels: Tensor,
    triangles: Tensor,
    ends: Tensor,
    slab: int,
    report: Progress,
) -> Tensor:
    """Returns [N, C] float32: each voxel's mean over its samples, weighted by 1 - signed distance / grid side.

    voxels: [N, 3] int64.  triangles: [P] int64, grouped by voxel in ascending order.  ends: [N] int64, each voxel's
    last pair + 1.  slab: pairs per step. Voxels without a pair get 0. Sums run in the order of the triangles.
    """
    parts = [scene.factors.new_zeros(0, scene.factors.shape[1])]
    counts = torch.diff(ends, prepend=ends.new_zeros(1))
    for i, j, before, items in cuts(ends, slab):
        voxel = voxels[i:j].repeat_interleave(counts[i:j], dim=0, output_size=items)
        values, weight = sample(scene, voxel, triangles[before : before + items])
        weighted = torch.cat((values * weight[:, None], weight[:, None]), 1)
        sums = torch.segment_reduce(weighted, "sum", lengths=counts[i:j], axis=0, unsafe=True)
        parts.append(torch.where(counts[i:j, None] > 0, sums[:, :-1] / sums[:, -1:], 0.0))
        report(j / len(ends))
    return torch.cat(parts)


def sample(scene: Scene, voxels: Tensor, triangles: Tensor) -> tuple[Tensor, Tensor]:
    """Returns (values [P, C], weights [P]) float32 of triangles [P] at the projected centres of voxels [P, 3]."""
    bary, distance = project(scene.plane[triangles], (voxels.to(torch.float32) + 0.5) * scene.voxel_size)
    material = scene.material[triangles]
    values = bary.new_ones(len(bary), scene.factors.shape[1])
    uv = None if scene.uv is None else _blend(bary, scene.uv[triangles])
    for column, table in enumerate(scene.tables):
        texels = texture_sample(table, material, uv, scene.lod[triangles, column], backend="reference")
        if not table.everywhere:
            texels = torch.where((table.last_level[material] >= 0)[:, None], texels, 1.0)
        values[:, table.channels] = texels
    if scene.normal_at >= 0:
        at = slice(scene.normal_at, scene.normal_at + 3)
        values[:, at] = _normals(scene, values[:, at], bary, triangles, material)
    factors = scene.factors[material]
    if scene.normal_at >= 0:
        factors[:, scene.normal_at :] = 1.0
    values = values * factors
    if scene.colors is not None:
        tint = _blend(bary, scene.colors[triangles]).clamp(0.0, 1.0)
        values[:, :3] *= tint[:, :3]
        values[:, ALPHA] *= tint[:, 3]
    values[:, ALPHA] = _alpha(scene, values[:, ALPHA], material)
    return values, (1 - distance / scene.side).clamp_min(LEAST_WEIGHT)


def project(plane: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Returns (barycentrics [P, 3], signed distance [P]) of points [P, 3] over triangles, rows of Scene.plane.

    Barycentrics are not clamped: textures extrapolate beyond the triangle. On a nearly degenerate triangle the closest
    point on the longer of its edges ab and ac is taken instead.
    """
    corner, ab, ac, normal = (plane[:, i : i + 3] for i in (0, 3, 6, 9))
    d00, d01, d11, determinant = plane[:, 12:].unbind(1)
    distance = dot(points - corner, normal)
    offset = (points - distance[:, None] * normal) - corner
    d20, d21 = dot(offset, ab), dot(offset, ac)
    v = (d11 * d20 - d01 * d21) / determinant
    w = (d00 * d21 - d01 * d20) / determinant
    line = determinant <= FLAT_SINE * d00 * d11
    use_ab = d00 >= d11
    on_edge = torch.where(use_ab, d20, d21) / torch.where(use_ab, d00, d11)
    on_edge = torch.nan_to_num(on_edge, nan=0.0).clamp(0.0, 1.0)
    v = torch.where(line, torch.where(use_ab, on_edge, 0.0), v)
    w = torch.where(line, torch.where(use_ab, 0.0, on_edge), w)
    return torch.stack((1 - v - w, v, w), 1), distance


def _blend(bary: Tensor, corners: Tensor) -> Tensor:
    """Returns [P, K] values at barycentrics [P, 3] of the three corners' values [P, 3 K]."""
    a, b, c = corners.chunk(3, 1)
    return bary[:, :1] * a + bary[:, 1:2] * b + bary[:, 2:] * c


def _alpha(scene: Scene, alpha: Tensor, material: Tensor) -> Tensor:
    mode = scene.alpha_mode[material]
    mask = (alpha >= scene.alpha_cutoff[material]).to(torch.float32)
    alpha = torch.where(mode == ALPHA_CODES["MASK"], mask, alpha)
    return torch.where(mode == ALPHA_CODES["OPAQUE"], 1.0, alpha)


def _normals(scene: Scene, texels: Tensor, bary: Tensor, triangles: Tensor, material: Tensor) -> Tensor:
    """Returns [P, 3] interpolated normals, perturbed by the normal texture where the material has one."""
    smooth = _blend(bary, scene.normals[triangles])
    table = next((t for t in scene.tables if scene.normal_at in t.channels), None)
    if table is None:
        return smooth
    x, y, z = ((texels * 2 - 1) * scene.factors[material, scene.normal_at :])[..., None].unbind(1)
    along_u, along_v = scene.tangents[triangles].chunk(2, 1)
    bent = normalize((x * along_u + y * along_v) + z * smooth)
    return torch.where((table.last_level[material] >= 0)[:, None], bent, smooth)
