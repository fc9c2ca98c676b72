"""What engines expect of a mesh: its pivot, and the sign of its normal maps."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ...material import Material, TexturedMesh
from ...values import Mesh
from .options import Pivot, SaveOptions


def pivot_point(points: Tensor, pivot: Pivot) -> Tensor:
    """Returns the point [3] float32 that is put at the origin, of the bounding box of `points` [N, 3], z up."""
    if pivot == "as is" or not len(points):
        return points.new_zeros(3)
    low, high = points.amin(0), points.amax(0)
    middle = (low + high) / 2
    return torch.cat([middle[:2], low[2:]]) if pivot == "base" else middle


def pivot_of(mesh: Mesh, pivot: Pivot) -> Tensor:
    """Returns the `pivot_point` [3] of the vertices that the faces of `mesh`, [V, 3] and [F, 3], use."""
    if pivot == "as is":
        return mesh.vertices.new_zeros(3)
    used = torch.zeros(len(mesh.vertices), dtype=torch.bool, device=mesh.vertices.device)
    used[mesh.faces.flatten().long()] = True
    return pivot_point(mesh.vertices[used], pivot)


def prepared(mesh: TexturedMesh, options: SaveOptions, start: Tensor | None = None) -> TexturedMesh:
    """Returns `mesh`, vertices [V, 3], with the pivot and the normal maps of `options`; itself if they are its own.

    start: [3] float32, the point to put at the origin; None: the mesh's own `pivot_point`.
    """
    if options.pivot != "as is":
        vertices = mesh.mesh.vertices
        start = pivot_of(mesh.mesh, options.pivot) if start is None else start
        mesh = replace(mesh, mesh=Mesh(vertices - start.to(vertices), mesh.mesh.faces))
    if options.normal_maps == "directx":
        mesh = replace(mesh, materials=tuple(map(with_green_turned_over, mesh.materials)))
    return mesh


def with_green_turned_over(material: Material) -> Material:
    """Returns `material` with +y of its normal map ([H, W, 3] uint8) pointing down, as DirectX has it, or back up."""
    texture = material.normal_texture
    if texture is None:
        return material
    image = texture.image.clone()
    # 128 is level: 127 steps either way, and 0 is one beyond.
    image[..., 1] = (256 - image[..., 1].int()).clamp(0, 255).to(torch.uint8)
    return replace(material, normal_texture=replace(texture, image=image))


def has_color(material: Material) -> bool:
    """Whether a material has another base colour than white: a texture or a factor."""
    return material.base_color_texture is not None or material.base_color_factor != (1.0, 1.0, 1.0)
