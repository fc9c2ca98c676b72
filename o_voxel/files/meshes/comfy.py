"""Conversion between TexturedMesh and ComfyUI's MESH.

A MESH is y-up as in glTF, has one index for positions and UVs, v down, linear vertex colours, images [B, H, W, 3] float
in [0, 1] and a dictionary of factors; colour factors are linear, and a factor below 0 means unset.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...core.color import linear_to_srgb, to_bytes, to_linear, to_srgb
from ...core.grid import Vector3, to_y_up, to_z_up
from ...material import Material, Texture, TexturedMesh
from ...mesh.connectivity.row_map import unify_indices
from ...values import Mesh


@dataclass(frozen=True, eq=False)
class ComfyMesh:
    """Constructor arguments of a MESH with one item, on the CPU.

    vertices: [1, V, 3] float32.  faces: [1, F, 3] int64.  uvs: [1, V, 2] float32, v down.
    vertex_colors: [1, V, 4] float32.  normals: [1, V, 3] float32.
    texture, metallic_roughness, normal_map, emissive: [1, H, W, 3] float32 in [0, 1]; metallic_roughness has
    roughness in green, metallic in blue and, with occlusion_in_mr, occlusion in red.
    material: base_color_factor (four numbers), emissive_factor (three), metallic_factor, roughness_factor,
    normal_scale, double_sided.
    """

    vertices: Tensor
    faces: Tensor
    uvs: Tensor | None
    vertex_colors: Tensor | None
    normals: Tensor | None
    texture: Tensor | None
    metallic_roughness: Tensor | None
    occlusion_in_mr: bool
    normal_map: Tensor | None
    emissive: Tensor | None
    material: dict[str, Any]


def to_comfy_mesh(mesh: TexturedMesh) -> ComfyMesh:
    """Converts a TexturedMesh on the CPU, V vertices [V, 3], with one material; drops alpha, which a MESH lacks.

    Raises ValueError for several materials, and if occlusion, roughness and metallic textures differ in size.
    """
    if len(mesh.materials) != 1:
        raise ValueError(f"textured_mesh: expected one material, got {len(mesh.materials)}; bake them into one")
    (material,) = mesh.materials
    flat, uv, rows = mesh.mesh, None, torch.arange(len(mesh.mesh.vertices))
    if mesh.uv is not None:
        flat, uv, rows = unify_indices(flat, mesh.uv, mesh.uv_rows)
    colors = None if mesh.vertex_colors is None else mesh.vertex_colors[rows].clone()
    if colors is not None:
        colors[:, :3] = to_linear(colors[:, :3])
    orm = _packed(material.occlusion_texture, material.roughness_texture, material.metallic_texture)
    return ComfyMesh(
        vertices=to_y_up(flat.vertices)[None],
        faces=flat.faces.to(torch.int64)[None],
        uvs=None if uv is None else _flipped(uv)[None],
        vertex_colors=None if colors is None else colors[None],
        normals=None if mesh.normals is None else to_y_up(mesh.normals[rows])[None],
        texture=_image(material.base_color_texture),
        metallic_roughness=orm,
        occlusion_in_mr=orm is not None and material.occlusion_texture is not None,
        normal_map=_image(material.normal_texture),
        emissive=_image(material.emissive_texture),
        material={
            "base_color_factor": [*_linear(material.base_color_factor), 1.0],
            "metallic_factor": material.metallic_factor,
            "roughness_factor": material.roughness_factor,
            "normal_scale": material.normal_scale,
            "emissive_factor": _linear(material.emissive_factor),
            "double_sided": material.double_sided,
        },
    )


def from_comfy_mesh(batch: Any) -> list[TexturedMesh]:
    """Converts each item of a MESH, on any device, to a TexturedMesh on the CPU; drops alpha of images and factors.

    batch: a MESH, or any object with its attributes: `vertices` [B, V, 3], `faces` [B, F, 3]; others may be missing or
    None. Raises TypeError without these two.
    """
    if not all(hasattr(batch, name) for name in ("vertices", "faces")):
        raise TypeError(f"mesh: expected ComfyUI's MESH, got {type(batch).__module__}.{type(batch).__qualname__}")
    return [_item(batch, index) for index in range(len(batch.vertices))]


def _item(batch: Any, index: int) -> TexturedMesh:
    """Converts item `index`."""
    counts = getattr(batch, "vertex_counts", None), getattr(batch, "face_counts", None)
    vertex_count = len(batch.vertices[index]) if counts[0] is None else int(counts[0][index])
    face_count = len(batch.faces[index]) if counts[1] is None else int(counts[1][index])

    def rows(name: str) -> Tensor | None:
        values = getattr(batch, name, None)
        return None if values is None else values[index][:vertex_count].detach().cpu().float()

    uv, colors, normals = rows("uvs"), rows("vertex_colors"), rows("normals")
    if colors is not None:
        colors = torch.cat([to_srgb(colors[:, :3]), colors[:, 3:4].clamp(0, 1), torch.ones(len(colors), 1)], 1)[:, :4]
    return TexturedMesh(
        Mesh(to_z_up(rows("vertices")), batch.faces[index][:face_count].detach().cpu().to(torch.int64)),
        (_material(batch, index, textured=uv is not None),),
        uv=None if uv is None else _flipped(uv),
        vertex_colors=colors,
        normals=None if normals is None else to_z_up(normals),
    )


def _material(batch: Any, index: int, *, textured: bool) -> Material:
    """Converts the material of item `index`. textured: the item has UVs; otherwise its images are ignored."""

    def texture(name: str, channels: slice = slice(0, 3)) -> Texture | None:
        images = getattr(batch, name, None)
        if images is None or not textured:
            return None
        pixels = images[min(index, len(images) - 1)][..., channels].detach().cpu()
        return Texture(to_bytes(pixels.float(), "half even").contiguous())

    orm = "metallic_roughness"
    factors = getattr(batch, "material", None) or {}
    glow = 0.0 if getattr(batch, "emissive", None) is None else 1.0
    return Material(
        base_color_factor=tuple(np.minimum(_srgb(factors, "base_color_factor", 1.0), 1.0).tolist()),
        base_color_texture=texture("texture"),
        metallic_factor=_factor(factors, "metallic_factor", 0.0 if getattr(batch, orm, None) is None else 1.0),
        metallic_texture=texture(orm, slice(2, 3)),
        roughness_factor=_factor(factors, "roughness_factor", 1.0),
        roughness_texture=texture(orm, slice(1, 2)),
        occlusion_texture=texture(orm, slice(0, 1)) if getattr(batch, "occlusion_in_mr", False) else None,
        normal_scale=1.0 if factors.get("normal_scale") is None else float(factors["normal_scale"]),
        normal_texture=texture("normal_map"),
        emissive_factor=tuple(_srgb(factors, "emissive_factor", glow).tolist()),
        emissive_texture=texture("emissive"),
        double_sided=bool(factors.get("double_sided", True)),
    )


def _factor(factors: Mapping[str, Any], name: str, default: float) -> float:
    """Returns a scalar factor clamped to [0, 1], or the default if it is missing, None or below 0."""
    value = factors.get(name)
    return default if value is None or float(value) < 0 else min(float(value), 1.0)


def _srgb(factors: Mapping[str, Any], name: str, default: float) -> np.ndarray:
    """Returns a colour factor [3] float64, sRGB encoded, or the default if it is missing, None or below 0."""
    values = factors.get(name)
    if values is None or min(map(float, values[:3])) < 0:
        return np.full(3, default)
    return linear_to_srgb([float(value) for value in values[:3]])


def _linear(color: Vector3) -> list[float]:
    return to_linear(torch.tensor(color, dtype=torch.float64)).tolist()


def _flipped(uv: Tensor) -> Tensor:
    """Flips v of UVs [V, 2]."""
    return torch.stack([uv[:, 0], 1 - uv[:, 1]], 1)


def _image(texture: Texture | None) -> Tensor | None:
    """Returns the image as [1, H, W, 3] float32 in [0, 1]."""
    return None if texture is None else texture.image.float().expand(-1, -1, 3)[None] / 255


def _packed(occlusion: Texture | None, roughness: Texture | None, metallic: Texture | None) -> Tensor | None:
    """Packs occlusion, roughness and metallic into [1, H, W, 3] float32; a missing texture is 1."""
    channels = (occlusion, roughness, metallic)
    sizes = {texture.image.shape[:2] for texture in channels if texture is not None}
    if not sizes:
        return None
    if len(sizes) > 1:
        raise ValueError(f"textures: expected occlusion, roughness and metallic of one size, got {sorted(sizes)}")
    blank = torch.full((*next(iter(sizes)), 1), 255, dtype=torch.uint8)
    return torch.cat([blank if part is None else part.image for part in channels], 2)[None].float() / 255
