"""Samples voxel materials at mesh vertices."""

from __future__ import annotations

import torch
from torch import Tensor

from ..core.checks import FLOATS, check_tensor
from ..core.color import to_bytes
from ..core.progress import Progress, in_background
from ..material import Material, Texture, TexturedMesh, alpha_mode
from ..ops.grid_sample import grid_sample
from ..ops.hash_grid import hash_grid
from ..values import PBR_CHANNELS, Mesh, VoxelField

# For the estimate of the time, on two CPU cores.
VERTICES_A_SECOND = 2_000_000
# Texels a side of the ramp that metallic and roughness are looked up in: one per byte value.
RAMP = 256
# Steps of a byte by which values may differ that share a factor.
SAME = 1.0


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
    """Returns `mesh` with vertex colours [V, 4] float32 from `materials` [V, 6] float (PBR_CHANNELS), alpha included.

    Metallic and roughness are one factor each if they hardly vary over the vertices in use. Otherwise they are exact at
    every vertex by a texture coordinate, (metallic, roughness), into a ramp of both; file formats have no vertex
    attribute for them. The alpha mode is `alpha_mode`'s, by vertices. The material is double-sided, because a raw
    dual-grid surface has no consistent winding. Raises ValueError for another shape or non-finite values.
    """
    check_tensor(materials, "materials", (len(mesh.vertices), 6), FLOATS)
    if not bool(torch.isfinite(materials).all()):
        raise ValueError("materials: expected finite numbers, got NaN or infinity")
    values = materials.to(mesh.vertices.device).float().clamp(0, 1)
    used = values[mesh.faces.long().unique()]
    surface = values[:, PBR_CHANNELS["metallic"].start : PBR_CHANNELS["roughness"].stop]
    seen = used[:, PBR_CHANNELS["metallic"].start : PBR_CHANNELS["roughness"].stop]
    mode = alpha_mode(to_bytes(used[:, PBR_CHANNELS["alpha"]]).flatten())
    opaque = torch.ones_like(values[:, PBR_CHANNELS["alpha"]])
    alpha = opaque if mode == "OPAQUE" else values[:, PBR_CHANNELS["alpha"]]
    colors = torch.cat([values[:, PBR_CHANNELS["base_color"]], alpha], 1)
    if not len(seen) or bool(((seen.amax(0) - seen.amin(0)) * 255 <= SAME).all()):
        metallic, roughness = seen.mean(0).tolist() if len(seen) else (0.0, 1.0)
        plain = Material(metallic_factor=metallic, roughness_factor=roughness, alpha_mode=mode, double_sided=True)
        return TexturedMesh(mesh, (plain,), vertex_colors=colors)
    ramp = torch.arange(RAMP, device=values.device).to(torch.uint8).expand(RAMP, RAMP)[..., None]
    textured = Material(
        metallic_texture=Texture(ramp.contiguous(), wrap=("clamp", "clamp")),
        roughness_texture=Texture(ramp.transpose(0, 1).flip(0).contiguous(), wrap=("clamp", "clamp")),
        alpha_mode=mode,
        double_sided=True,
    )
    # Texel centres of the ramp are half a texel inside.
    uv = (surface * (RAMP - 1) + 0.5) / RAMP
    return TexturedMesh(mesh, (textured,), uv=uv, vertex_colors=colors)
