"""To and from what other nodes pass around: core's MESH, and the TRIMESH of the mesh packs.

Both are in glTF's frame, y up. A MESH has one index for place and texture, counts v down like glTF, and holds linear
vertex colours, images [B, H, W, 3] in [0, 1] and a dictionary of factors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..o_voxel.core.color import to_linear, to_srgb
from ..o_voxel.files.meshes.read import from_trimesh
from ..o_voxel.files.meshes.vertex_buffer import to_y_up
from ..o_voxel.material import Material, Texture, TexturedMesh
from ..o_voxel.mesh.connectivity.row_map import unify_indices
from ..o_voxel.values import Mesh
from . import host
from .sockets import COMFY_MESH, MESH, TEXTURED_MESH, TRIMESH, expect
from .widgets import CATEGORY

if TYPE_CHECKING:
    import trimesh


SOURCE = "From Bake Textures, Game-Ready Asset, Unwrap or Load Mesh. One material: bake several into one first."


class ToComfyMesh:
    CATEGORY = CATEGORY
    DESCRIPTION = "A mesh for ComfyUI's own mesh nodes (MESH), with its textures but for alpha; turned to y up."
    FUNCTION = "convert"
    RETURN_TYPES = (COMFY_MESH,)
    RETURN_NAMES = ("mesh",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"textured_mesh": (TEXTURED_MESH, {"tooltip": SOURCE})}}

    def convert(self, textured_mesh: TexturedMesh) -> tuple[Any]:
        source = host.at_rest(expect(textured_mesh, TEXTURED_MESH))
        if len(source.materials) != 1:
            raise ValueError(f"textured_mesh: expected one material, got {len(source.materials)}; bake them into one")
        (material,) = source.materials
        mesh, uv, rows = source.mesh, None, torch.arange(len(source.mesh.vertices))
        if source.uv is not None:
            faces = mesh.faces if source.uv_faces is None else source.uv_faces
            mesh, uv, rows = unify_indices(mesh, source.uv, faces)
        colors = None if source.vertex_colors is None else source.vertex_colors[rows].clone()
        if colors is not None:
            colors[:, :3] = to_linear(colors[:, :3])
        orm = _packed(material.occlusion_texture, material.roughness_texture, material.metallic_texture)
        return (
            host.comfy_mesh(
                vertices=to_y_up(mesh.vertices)[None],
                faces=mesh.faces.to(torch.int64)[None],
                uvs=None if uv is None else torch.stack([uv[:, 0], 1 - uv[:, 1]], 1)[None],
                vertex_colors=None if colors is None else colors[None],
                normals=None if source.normals is None else to_y_up(source.normals[rows])[None],
                texture=_image(material.base_color_texture),
                metallic_roughness=orm,
                occlusion_in_mr=orm is not None and material.occlusion_texture is not None,
                normal_map=_image(material.normal_texture),
                emissive=_image(material.emissive_texture),
                material={
                    "base_color_factor": [*to_linear(torch.tensor(material.base_color_factor)).tolist(), 1.0],
                    "metallic_factor": material.metallic_factor,
                    "roughness_factor": material.roughness_factor,
                    "normal_scale": material.normal_scale,
                    "emissive_factor": to_linear(torch.tensor(material.emissive_factor)).tolist(),
                    "double_sided": material.double_sided,
                },
            ),
        )


class FromComfyMesh:
    CATEGORY = CATEGORY
    DESCRIPTION = "ComfyUI's own MESH, a batch as a list, with its colours and textures; turned to z up."
    FUNCTION = "convert"
    RETURN_TYPES = (TEXTURED_MESH, MESH)
    RETURN_NAMES = ("textured_mesh", "mesh")
    OUTPUT_IS_LIST = (True, True)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"mesh": (COMFY_MESH, {"tooltip": "From any node of ComfyUI that makes a MESH."})}}

    def convert(self, mesh: Any) -> tuple[list[TexturedMesh], list[Mesh]]:
        if not all(hasattr(mesh, name) for name in ("vertices", "faces")):
            raise TypeError(f"mesh: expected ComfyUI's MESH, got {type(mesh).__module__}.{type(mesh).__qualname__}")
        found = [_item(mesh, index) for index in range(len(mesh.vertices))]
        return found, [item.mesh for item in found]


class ToTrimesh:
    CATEGORY = CATEGORY
    DESCRIPTION = "A mesh for packs that pass trimesh objects (TRIMESH), with its textures; turned to y up."
    FUNCTION = "convert"
    RETURN_TYPES = (TRIMESH,)
    RETURN_NAMES = ("trimesh",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"textured_mesh": (TEXTURED_MESH, {"tooltip": SOURCE})}}

    def convert(self, textured_mesh: TexturedMesh) -> tuple[trimesh.Trimesh]:
        (mesh,) = ToComfyMesh().convert(textured_mesh)
        return (_trimesh(mesh),)


class FromTrimesh:
    CATEGORY = CATEGORY
    DESCRIPTION = "A trimesh object or scene (TRIMESH) of another pack, with its materials."
    FUNCTION = "convert"
    RETURN_TYPES = (TEXTURED_MESH, MESH)
    RETURN_NAMES = ("textured_mesh", "mesh")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        up = "Which axis points up in it. y is glTF's, and what mesh packs pass around."
        return {
            "required": {
                "trimesh": (TRIMESH, {"tooltip": "From a node of another mesh pack."}),
                "up": (["y", "z"], {"default": "y", "tooltip": up}),
            }
        }

    def convert(self, trimesh: Any, up: str) -> tuple[TexturedMesh, Mesh]:
        if not hasattr(trimesh, "faces") and not hasattr(trimesh, "geometry"):
            kind = type(trimesh)
            raise TypeError(f"trimesh: expected a trimesh mesh or scene, got {kind.__module__}.{kind.__qualname__}")
        found = from_trimesh(trimesh, y_up=up == "y")
        return found, found.mesh


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


def _item(batch: Any, index: int) -> TexturedMesh:
    """One mesh of a MESH."""
    counts = getattr(batch, "vertex_counts", None), getattr(batch, "face_counts", None)
    vertex_count = len(batch.vertices[index]) if counts[0] is None else int(counts[0][index])
    face_count = len(batch.faces[index]) if counts[1] is None else int(counts[1][index])

    def rows(name: str) -> Tensor | None:
        values = getattr(batch, name, None)
        return None if values is None else values[index][:vertex_count].detach().cpu().float()

    def texture(name: str, channels: slice = slice(0, 3)) -> Texture | None:
        images = getattr(batch, name, None)
        if images is None or uv is None:
            return None
        pixels = images[min(index, len(images) - 1)][..., channels]
        return Texture((pixels.detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8).contiguous())

    uv, colors, normals = rows("uvs"), rows("vertex_colors"), rows("normals")
    if colors is not None:
        colors = torch.cat([to_srgb(colors[:, :3]), colors[:, 3:4].clamp(0, 1), torch.ones(len(colors), 1)], 1)[:, :4]
    orm = "metallic_roughness"
    factors = getattr(batch, "material", None) or {}
    material = Material(
        base_color_texture=texture("texture"),
        metallic_texture=texture(orm, slice(2, 3)),
        roughness_texture=texture(orm, slice(1, 2)),
        occlusion_texture=texture(orm, slice(0, 1)) if getattr(batch, "occlusion_in_mr", False) else None,
        normal_texture=texture("normal_map"),
        emissive_texture=texture("emissive"),
        emissive_factor=(1.0, 1.0, 1.0) if getattr(batch, "emissive", None) is not None else (0.0, 0.0, 0.0),
        metallic_factor=_given(factors, "metallic_factor", 0.0 if getattr(batch, orm, None) is None else 1.0),
        roughness_factor=_given(factors, "roughness_factor", 1.0),
        double_sided=bool(factors.get("double_sided", True)),
    )
    vertices = batch.vertices[index][:vertex_count].detach().cpu().float()
    return TexturedMesh(
        Mesh(_to_z_up(vertices), batch.faces[index][:face_count].detach().cpu().to(torch.int64)),
        (material,),
        uv=None if uv is None else torch.stack([uv[:, 0], 1 - uv[:, 1]], 1),
        vertex_colors=colors,
        normals=None if normals is None else _to_z_up(normals),
    )


def _given(factors: dict[str, Any], name: str, default: float) -> float:
    """A factor of a MESH, whose negative numbers say that none was given."""
    value = float(factors.get(name, -1.0))
    return default if value < 0 else min(value, 1.0)


def _to_z_up(vectors: Tensor) -> Tensor:
    x, y, z = vectors.unbind(1)
    return torch.stack([x, -z, y], dim=1)


def _trimesh(mesh: Any) -> trimesh.Trimesh:
    """The only mesh of a MESH as trimesh holds it: v up, 8-bit images."""
    import trimesh
    from PIL import Image
    from trimesh.visual.material import PBRMaterial

    def image(value: Tensor | None) -> Image.Image | None:
        return None if value is None else Image.fromarray((value[0] * 255).round().to(torch.uint8).numpy())

    factors = mesh.material
    orm = image(mesh.metallic_roughness)
    surface = PBRMaterial(
        baseColorFactor=factors["base_color_factor"],
        metallicFactor=factors["metallic_factor"],
        roughnessFactor=factors["roughness_factor"],
        emissiveFactor=factors["emissive_factor"],
        baseColorTexture=image(mesh.texture),
        metallicRoughnessTexture=orm,
        occlusionTexture=orm if mesh.occlusion_in_mr else None,
        normalTexture=image(mesh.normal_map),
        emissiveTexture=image(mesh.emissive),
        doubleSided=factors["double_sided"],
    )
    options = {"vertices": mesh.vertices[0].numpy(), "faces": mesh.faces[0].numpy(), "process": False}
    if mesh.normals is not None:
        options["vertex_normals"] = mesh.normals[0].numpy()
    if mesh.uvs is not None:
        uv = mesh.uvs[0].numpy() * np.float32((1, -1)) + np.float32((0, 1))
        return trimesh.Trimesh(**options, visual=trimesh.visual.TextureVisuals(uv=uv, material=surface))
    if mesh.vertex_colors is not None:
        colors = (to_srgb(mesh.vertex_colors[0]) * 255).round().to(torch.uint8).numpy()
        return trimesh.Trimesh(**options, vertex_colors=colors)
    return trimesh.Trimesh(**options)
