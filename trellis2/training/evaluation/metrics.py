"""Metrics of a generated object against the true one: structure IoU, surface F-score, colour difference."""

from __future__ import annotations

import torch
from torch import Tensor

from ....o_voxel.core.checks import check_tensor
from ....o_voxel.core.color import to_lab
from ....o_voxel.mesh.connectivity.components import face_components
from ....o_voxel.mesh.connectivity.topology import edges
from ....o_voxel.ops.closest_point import build_index, closest_point
from ....o_voxel.ops.raster import rasterize
from ....o_voxel.render.camera import Bounds, Camera
from ....o_voxel.values import Mesh


def structure_iou(predicted: Tensor, true: Tensor) -> float:
    """Intersection over union of voxels [N, 3] and [M, 3] int on one grid, without duplicates; 1 if both are empty."""
    both = torch.cat([check_tensor(predicted, "predicted", (None, 3)), check_tensor(true, "true", (None, 3))])
    union = len(torch.unique(both, dim=0))
    return (len(both) - union) / union if union else 1.0


def surface_points(mesh: Mesh, count: int, generator: torch.Generator) -> Tensor:
    """Stratified uniform samples [count, 3] fp32 of a mesh's surface, on its device.

    generator: on the CPU.  Raises ValueError for a mesh without area.
    """
    corner = mesh.vertices[mesh.faces.long()]
    total = _face_areas(mesh).cumsum(0)
    if len(total) == 0 or not float(total[-1]) > 0:
        raise ValueError("mesh: expected faces with an area, got none")
    # One point in each of `count` strata of equal area: lower variance than independent samples.
    offset, u, v = (torch.rand(count, generator=generator, dtype=torch.float64).to(total.device) for _ in range(3))
    target = (torch.arange(count, device=total.device) + offset) / count * total[-1]
    face = torch.searchsorted(total, target).clamp_max(len(total) - 1)
    root = u.sqrt()
    weight = torch.stack([1 - root, root * (1 - v), root * v], dim=1).float()
    return (corner[face] * weight[:, :, None]).sum(1)


class TrueSurface:
    """A true mesh whose samples and index are made once, for any number of predictions.

    count: samples of each surface.  seed: of the samples.  Raises ValueError for a mesh without area.
    """

    def __init__(self, mesh: Mesh, count: int = 20_000, seed: int = 0) -> None:
        self._sample = lambda other: surface_points(other, count, torch.Generator().manual_seed(seed))
        self._points, self._index = self._sample(mesh), build_index(mesh)

    def f_score(self, predicted: Mesh, distance: float) -> float:
        """Harmonic mean of precision and recall: the fractions of the samples of each surface that lie within
        `distance` (world units) of the other (Knapitsch et al. 2017); 0 for a prediction without area."""
        if not float(_face_areas(predicted).sum()) > 0:
            return 0.0
        pairs = (self._index, self._sample(predicted)), (build_index(predicted), self._points)
        precision, recall = (
            float((closest_point(index, points, distance).face >= 0).float().mean()) for index, points in pairs
        )
        return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def f_score(predicted: Mesh, true: Mesh, distance: float, count: int = 20_000, seed: int = 0) -> float:
    """`TrueSurface.f_score` of one prediction. Raises ValueError for a true mesh without area."""
    return TrueSurface(true, count, seed).f_score(predicted, distance)


def edge_faults(mesh: Mesh) -> tuple[float, float]:
    """Shares, 0 to 1, of a mesh's edges that one face has (open) and that more than two have; 0 of a mesh without."""
    sizes = edges(mesh).sizes
    return (float((sizes == 1).float().mean()), float((sizes > 2).float().mean())) if len(sizes) else (0.0, 0.0)


def component_count(mesh: Mesh) -> int:
    """Number of sets of faces that are connected across shared edges."""
    return len(torch.unique(face_components(mesh)))


def visible_points(mesh: Mesh, camera: Camera, size: int = 256) -> Tensor:
    """World positions [P, 3] fp32 of the visible surface: one for each covered pixel of a size x size picture."""
    view = camera.view(Bounds.around(mesh.vertices), (size, size))
    raster = rasterize(view.to_clip(mesh.vertices), mesh.faces, (size, size))
    seen = raster.face >= 0
    corner = mesh.vertices[mesh.faces.long()[raster.face[seen].long()]]
    return (corner * raster.bary[seen][:, :, None]).sum(1)


def delta_e(first: Tensor, second: Tensor) -> Tensor:
    """CIE 1976 colour difference [...] of sRGB colours [..., 3] fp32 in [0, 1]; 2.3 is just noticeable."""
    return (to_lab(first) - to_lab(second)).norm(dim=-1)


def _face_areas(mesh: Mesh) -> Tensor:
    """Twice the area [F] of each face, fp64."""
    corner = mesh.vertices[mesh.faces.long()]
    return torch.linalg.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0]).norm(dim=1).double()
