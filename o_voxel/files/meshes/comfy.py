"""Between ComfyUI's own MESH and ours.

A MESH is in glTF's frame, y up. It has one index for place and texture, counts v down, and holds linear vertex colours,
images [B, H, W, 3] in [0, 1] and a dictionary of factors, colours among them in linear light, where a number below 0
stands for none.
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
    """The parts of a MESH of one item, on the CPU, under the names of the class's arguments.

    vertices: [1, V, 3] float32.  faces: [1, F, 3] int64.  uvs: [1, V, 2] float32, v down.
    vertex_colors: [1, V, 4] float32.  normals: [1, V, 3] float32.
    texture, metallic_roughness, normal_map, emissive: [1, H, W, 3] float32 in [0, 1]; green of metallic_roughness is
    roughness, blue metallic and, with occlusion_in_mr, red occlusion.
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
    """A TexturedMesh on the CPU with one material as the parts of a MESH. Alpha, which a MESH lacks, is left out.

    Raises ValueError for several materials, and where occlusion, roughness and metallic differ in size.
    """
    if len(mesh.materials) != 1:
        raise ValueError(f"textured_mesh: expected one material, got {len(mesh.materials)}; bake them into one")
    (material,) = mesh.materials
    flat, uv, rows = mesh.mesh, None, torch.arange(len(mesh.mesh.vertices))
    if mesh.uv is not None:
        faces = flat.faces if mesh.uv_faces is None else mesh.uv_faces
        flat, uv, rows = unify_indices(flat, mesh.uv, faces)
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
    """Each item of a MESH, on whatever device, as a TexturedMesh on the CPU. Alpha of images and factors is left out.

    batch: ComfyUI's MESH or anything with its attributes; all but `vertices` and `faces` may be missing or None.
    Raises TypeError without these two.
    """
    if not all(hasattr(batch, name) for name in ("vertices", "faces")):
        raise TypeError(f"mesh: expected ComfyUI's MESH, got {type(batch).__module__}.{type(batch).__qualname__}")
    return [_item(batch, index) for index in range(len(batch.vertices))]


def _item(batch: Any, index: int) -> TexturedMesh:
    """One mesh of a MESH."""
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
    """The material of one item. textured: whether it has texture coordinates, without which no image is taken."""

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
        metallic_factor=_given(factors, "metallic_factor", 0.0 if getattr(batch, orm, None) is None else 1.0),
        metallic_texture=texture(orm, slice(2, 3)),
        roughness_factor=_given(factors, "roughness_factor", 1.0),
        roughness_texture=texture(orm, slice(1, 2)),
        occlusion_texture=texture(orm, slice(0, 1)) if getattr(batch, "occlusion_in_mr", False) else None,
        normal_scale=1.0 if factors.get("normal_scale") is None else float(factors["normal_scale"]),
        normal_texture=texture("normal_map"),
        emissive_factor=tuple(_srgb(factors, "emissive_factor", glow).tolist()),
        emissive_texture=texture("emissive"),
        double_sided=bool(factors.get("double_sided", True)),
    )


def _given(factors: Mapping[str, Any], name: str, default: float) -> float:
    """A number of a MESH's material in [0, 1], or the default for one that is missing, None or below 0."""
    value = factors.get(name)
    return default if value is None or float(value) < 0 else min(float(value), 1.0)


def _srgb(factors: Mapping[str, Any], name: str, default: float) -> np.ndarray:
    """A colour [3] float64 of a MESH's material in sRGB encoding; the default where it is missing, None or below 0."""
    values = factors.get(name)
    if values is None or min(map(float, values[:3])) < 0:
        return np.full(3, default)
    return linear_to_srgb([float(value) for value in values[:3]])


def _linear(color: Vector3) -> list[float]:
    return to_linear(torch.tensor(color, dtype=torch.float64)).tolist()


def _flipped(uv: Tensor) -> Tensor:
    """Coordinates [V, 2] with v counted from the other end."""
    return torch.stack([uv[:, 0], 1 - uv[:, 1]], 1)


def _image(texture: Texture | None) -> Tensor | None:
    """[1, H, W, 3] float in [0, 1]."""
    return None if texture is None else texture.image.float().expand(-1, -1, 3)[None] / 255


def _packed(occlusion: Texture | None, roughness: Texture | None, metallic: Texture | None) -> Tensor | None:
    """[1, H, W, 3] float: occlusion, roughness, metallic, 1 where one of them has no texture."""
    channels = (occlusion, roughness, metallic)
    sizes = {texture.image.shape[:2] for texture in channels if texture is not None}
    if not sizes:
        return None
    if len(sizes) > 1:
        raise ValueError(f"textures: expected occlusion, roughness and metallic of one size, got {sorted(sizes)}")
    blank = torch.full((*next(iter(sizes)), 1), 255, dtype=torch.uint8)
    return torch.cat([blank if part is None else part.image for part in channels], 2)[None].float() / 255
