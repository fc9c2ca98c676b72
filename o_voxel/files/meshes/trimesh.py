"""Conversion between TexturedMesh and trimesh objects, which other node packs exchange as TRIMESH.

trimesh has v up, as here. Its PBR factors are linear, 8-bit or float; its vertex colours are assumed to be sRGB.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ...core.color import linear_to_srgb, to_bytes, to_srgb
from ...material import PLAIN, Material, Texture, TexturedMesh
from ...names import stored_name
from .comfy import to_comfy_mesh
from .reading.images import UNREADABLE, pixels
from .reading.mtl import OpenImage, pbr_fields
from .reading.pieces import FactorSpace, Parts, Piece, joined, transformed

if TYPE_CHECKING:
    import trimesh
    from PIL import Image

log = logging.getLogger(__name__)

# What trimesh gives to a mesh with texture coordinates and no material: one grey, in an image.
PLACEHOLDER = (100, 100, 100, 255)


def from_trimesh(
    scene: trimesh.Scene | trimesh.Trimesh,
    *,
    y_up: bool,
    factors: FactorSpace = "srgb",
    warn: Callable[[str], None] = log.warning,
    open_image: OpenImage | None = None,
    parts: Parts | None = None,
) -> TexturedMesh:
    """Converts a trimesh scene or mesh to a TexturedMesh on the CPU, vertices [V, 3] float32. y_up: frame of the input.

    PBR factors are taken as linear, 8-bit ones too; textures repeat.
    warn: called with one line for each texture that cannot be decoded, which is left out.
    open_image: finds the further textures of an OBJ's material library; None: they are left out.
    parts: of the file that the scene is from; None: the scene's nodes, or the mesh, by the names that trimesh has.
    Raises ValueError without faces.
    """
    if factors not in ("srgb", "stored"):
        raise ValueError(f"factors: expected 'srgb' or 'stored', got {factors!r}")
    reader = _MaterialReader(factors, warn, open_image or (lambda name: None))
    found = list(_instances(scene))
    if not found:
        raise ValueError("expected at least one triangle, got none")
    pieces = [_piece(part, matrix, reader, y_up) for part, matrix, _ in found]
    if parts is None:
        pieces = [replace(piece, part_ids=number) for number, piece in enumerate(pieces)]
        return joined(pieces, reader.materials, [name for _, _, name in found])
    if parts.ids and [len(piece.faces) for piece in pieces] != [len(ids) for ids in parts.ids]:
        warn("its objects cannot be told apart: they are joined, without their names")
        parts = Parts()
    elif parts.ids:
        pieces = [replace(piece, part_ids=ids) for piece, ids in zip(pieces, parts.ids, strict=True)]
    return joined(pieces, reader.materials, parts.names)


def to_trimesh(mesh: TexturedMesh) -> trimesh.Trimesh:
    """Converts a TexturedMesh on the CPU with one material to a trimesh mesh, y up: vertices [V, 3] split at UV seams,
    8-bit images, linear factors, sRGB vertex colours. Drops the material's alpha and normal scale, and parts: the mesh
    is one object, named as the first part if there is no other.

    Raises ValueError as `to_comfy_mesh`; ModuleNotFoundError without trimesh or Pillow.
    """
    import trimesh
    from PIL import Image
    from trimesh.visual.material import PBRMaterial

    def image(value: Tensor | None) -> Image.Image | None:
        return None if value is None else Image.fromarray(to_bytes(value[0], "half even").numpy())

    flat = to_comfy_mesh(mesh)
    factors, orm = flat.material, image(flat.metallic_roughness)
    surface = PBRMaterial(
        baseColorFactor=factors["base_color_factor"],
        metallicFactor=factors["metallic_factor"],
        roughnessFactor=factors["roughness_factor"],
        emissiveFactor=factors["emissive_factor"],
        baseColorTexture=image(flat.texture),
        metallicRoughnessTexture=orm,
        occlusionTexture=orm if flat.occlusion_in_mr else None,
        normalTexture=image(flat.normal_map),
        emissiveTexture=image(flat.emissive),
        doubleSided=factors["double_sided"],
        name=mesh.materials[0].name or None,
    )
    options = {"vertices": flat.vertices[0].numpy(), "faces": flat.faces[0].numpy(), "process": False}
    if len(mesh.part_names) == 1 and mesh.part_names[0]:
        options["metadata"] = {"name": mesh.part_names[0]}
    if flat.normals is not None:
        options["vertex_normals"] = flat.normals[0].numpy()
    if flat.uvs is not None:
        uv = flat.uvs[0].numpy() * np.float32((1, -1)) + np.float32((0, 1))
        return trimesh.Trimesh(**options, visual=trimesh.visual.TextureVisuals(uv=uv, material=surface))
    if flat.vertex_colors is not None:
        linear, alpha = flat.vertex_colors[0].split((3, 1), 1)
        colors = to_bytes(torch.cat([to_srgb(linear), alpha], 1), "half even").numpy()
        return trimesh.Trimesh(**options, vertex_colors=colors)
    return trimesh.Trimesh(**options)


@dataclass
class _MaterialReader:
    """Converts materials, each once, with shared textures."""

    factors: FactorSpace
    warn: Callable[[str], None]
    open_image: OpenImage
    materials: list[Material] = field(default_factory=list)
    rows: dict[int, int] = field(default_factory=dict)
    images: dict[int, np.ndarray | None] = field(default_factory=dict)
    textures: dict[tuple, Texture] = field(default_factory=dict)
    # Keeps objects alive, so that their ids stay unique.
    alive: list[object] = field(default_factory=list)

    def row(self, material: object) -> int:
        """Returns the index of a trimesh material in `materials`; None is plain white, non-metallic."""
        if id(material) not in self.rows:
            self.alive.append(material)
            self.rows[id(material)] = len(self.materials)
            self.materials.append(self._read(material))
        return self.rows[id(material)]

    def _read(self, material: Any) -> Material:
        if material is None or _is_placeholder(material):
            return PLAIN
        if hasattr(material, "baseColorFactor"):
            return self._pbr(material)
        texture = self._texture(getattr(material, "image", None), (0, 1, 2))
        color = np.ones(4) if texture is not None else np.asarray(material.diffuse, np.float64) / 255
        rough = float(np.clip((2 / (max(material.glossiness, 0.0) + 2)) ** 0.25, 0, 1))
        fields = {
            "base_color_factor": tuple(color[:3].tolist()),
            "base_color_texture": texture,
            "metallic_factor": 0.0,
            "roughness_factor": rough,
            "alpha_mode": "BLEND" if color[3] < 1 else "OPAQUE",
            "alpha_factor": float(color[3]),
            "name": _own_name(material),
        }
        return Material(**fields | pbr_fields(getattr(material, "kwargs", {}), self.open_image))

    def _pbr(self, material: Any) -> Material:
        color, light = _factor(material.baseColorFactor, 4), _factor(material.emissiveFactor, 3, 0.0)
        if self.factors == "srgb":
            color[:3], light = linear_to_srgb(color[:3]), linear_to_srgb(light)
        mode = material.alphaMode or "OPAQUE"
        packed = material.metallicRoughnessTexture
        return Material(
            base_color_factor=tuple(color[:3].clip(0, 1).tolist()),
            base_color_texture=self._texture(material.baseColorTexture, (0, 1, 2)),
            metallic_factor=_unit(material.metallicFactor),
            metallic_texture=self._texture(packed, (2,)),
            roughness_factor=_unit(material.roughnessFactor),
            roughness_texture=self._texture(packed, (1,)),
            emissive_factor=tuple(light.clip(0).tolist()),
            emissive_texture=self._texture(material.emissiveTexture, (0, 1, 2)),
            alpha_mode=mode,
            alpha_cutoff=0.5 if material.alphaCutoff is None else float(material.alphaCutoff),
            alpha_factor=float(color[3].clip(0, 1)),
            alpha_texture=None if mode == "OPAQUE" else self._texture(material.baseColorTexture, (3,)),
            normal_texture=self._texture(material.normalTexture, (0, 1, 2)),
            occlusion_texture=self._texture(material.occlusionTexture, (0,)),
            double_sided=bool(material.doubleSided),
            name=stored_name(material.name),
        )

    def _texture(self, image: Image.Image | None, channels: tuple[int, ...]) -> Texture | None:
        """Returns `channels` of an image's RGBA; cached. None without an image, and for one that cannot be decoded."""
        if image is None:
            return None
        if id(image) not in self.images:
            self.alive.append(image)
            try:
                self.images[id(image)] = pixels(image)
            except UNREADABLE as error:
                name = image.info.get("file_path") or "of a material"
                self.warn(f"texture {name}: it cannot be read and is left out: {error}")
                self.images[id(image)] = None
        whole, key = self.images[id(image)], (id(image), channels)
        if whole is not None and key not in self.textures:
            self.textures[key] = Texture(torch.from_numpy(np.ascontiguousarray(whole[..., list(channels)])))
        return self.textures.get(key)


def _is_placeholder(material: Any) -> bool:
    """Whether trimesh made up a material for a mesh that has none."""
    image = getattr(material, "image", None)
    return image is not None and max(image.size) <= 4 and bool((pixels(image) == PLACEHOLDER).all())


def _own_name(material: Any) -> str:
    """A simple material's name; its property would make one up."""
    return stored_name(vars(material).get("_name"))


def _unit(value: float | None) -> float:
    return 1.0 if value is None else float(np.clip(value, 0, 1))


def _factor(value: np.ndarray | None, count: int, default: float = 1.0) -> np.ndarray:
    """Converts a trimesh colour, [3 or 4] 8-bit or float, to [count] float64; missing channels are `default`."""
    out = np.full(count, default)
    if value is not None:
        value = np.asarray(value)
        value = value / 255 if value.dtype.kind in "iu" else value
        out[: len(value)] = value[:count]
    return out


def _instances(scene: trimesh.Scene | trimesh.Trimesh) -> Iterator[tuple[trimesh.Trimesh, np.ndarray, str]]:
    """Yields each object with triangles, its world matrix [4, 4] and its name, without copies of images."""
    if hasattr(scene, "faces"):
        instances = [(scene, np.eye(4), stored_name(scene.metadata.get("name")))]
    else:
        nodes = ((node, *scene.graph[node]) for node in scene.graph.nodes_geometry)
        instances = [(scene.geometry[name], matrix, _title(node)) for node, matrix, name in nodes]
    yield from (found for found in instances if len(getattr(found[0], "faces", ())) > 0)


def _title(node: object) -> str:
    """A node's name; "" for one that trimesh made up."""
    name = stored_name(node)
    return "" if re.fullmatch(r"geometry_\d+", name) else name


def _piece(part: trimesh.Trimesh, matrix: np.ndarray, reader: _MaterialReader, y_up: bool) -> Piece:
    vertices, normals, faces = transformed(part.vertices, part.vertex_normals, part.faces, matrix, y_up)
    visual, kind = part.visual, part.visual.kind
    uv = colors = None
    ids = np.zeros(len(faces), np.int64)
    if kind == "texture":
        uv, colors = visual.uv, visual.vertex_attributes.get("color")
        numbers = getattr(visual, "face_materials", None)
        if numbers is not None and hasattr(visual.material, "materials"):
            ids += np.array([reader.row(m) for m in visual.material.materials], np.int64)[np.asarray(numbers)]
        else:
            ids += reader.row(visual.material)
    else:
        colors = visual.vertex_colors if kind == "vertex" else None
        ids += reader.row(None)
    if kind == "face":
        vertices, normals = vertices[faces].reshape(-1, 3), normals[faces].reshape(-1, 3)
        colors, faces = np.repeat(visual.face_colors, 3, 0), np.arange(len(vertices)).reshape(-1, 3)
    uv = None if uv is None else np.asarray(uv, np.float32)
    colors = None if colors is None else _rgba(np.asarray(colors))
    return Piece(vertices, faces, normals, ids, uv, colors)


def _rgba(colors: np.ndarray) -> np.ndarray:
    """Converts colours [N, 3 or 4], full-range integers or floats, to sRGB [N, 4] float32 in [0, 1]."""
    values = colors / np.iinfo(colors.dtype).max if colors.dtype.kind in "iu" else colors.astype(np.float64)
    rgba = np.ones((len(values), 4))
    rgba[:, : values.shape[1]] = values.clip(0, 1)
    return rgba.astype(np.float32)
