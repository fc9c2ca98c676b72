"""Samples voxel materials at mesh vertices."""

from __future__ import annotations

import torch
from torch import Tensor

from ..core.checks import FLOATS, check_tensor
from ..core.progress import Progress, in_background
from ..material import Material, TexturedMesh
from ..ops.grid_sample import grid_sample
from ..ops.hash_grid import hash_grid
from ..values import PBR_CHANNELS, Mesh, VoxelField

# For the estimate of the time, on two CPU cores.
VERTICES_A_SECOND = 2_000_000


def vertex_materials(mesh: Mesh, field: VoxelField, *, progress: Progress | None = None) -> Tensor:
    """Samples field.attrs [N, C] at the mesh vertices, trilinearly; returns [V, C] float32 in [0, 1].

    progress: called with the fraction done, 0 to 1; may raise, to cancel.
    """

    def sample(report: Progress) -> Tensor:
        table = hash_grid(field.coords)
        report(0.6)
        return grid_sample(field.attrs.float(), table, field.grid.to_grid(mesh.vertices)).clamp(0, 1)

    return in_background(sample, progress, 0.5 + len(field.coords) / VERTICES_A_SECOND)


def colored(mesh: Mesh, materials: Tensor) -> TexturedMesh:
    """Returns `mesh` with vertex colours [V, 4] float32 from `materials` [V, 6] float (PBR_CHANNELS).

    Metallic and roughness become one factor each, the mean over the vertices in use. The material is double-sided,
    because a raw dual-grid surface has no consistent winding. Raises ValueError for another shape or non-finite values.
    """
    check_tensor(materials, "materials", (len(mesh.vertices), 6), FLOATS)
    if not bool(torch.isfinite(materials).all()):
        raise ValueError("materials: expected finite numbers, got NaN or infinity")
    values = materials.to(mesh.vertices.device).float().clamp(0, 1)
    used = values[mesh.faces.long().unique()]
    means = {name: float(used[:, PBR_CHANNELS[name]].mean()) for name in ("metallic", "roughness")}
    surface = Material(metallic_factor=means["metallic"], roughness_factor=means["roughness"], double_sided=True)
    colors = torch.nn.functional.pad(values[:, PBR_CHANNELS["base_color"]], (0, 1), value=1.0)
    return TexturedMesh(mesh, (surface,), vertex_colors=colors)
