"""Conversion between TexturedMesh and trimesh objects, which other node packs exchange as TRIMESH.

trimesh has v up, as here. Its PBR factors are linear, 8-bit or float; its vertex colours are assumed to be sRGB.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from ...core.color import linear_to_srgb, to_bytes, to_srgb
from ...core.grid import to_z_up
from ...material import Material, Texture, TexturedMesh
from ...values import Mesh
from .comfy import to_comfy_mesh

if TYPE_CHECKING:
    import trimesh
    from PIL import Image

FactorSpace = Literal["srgb", "stored"]

WRAP_OF_CODE = {10497: "repeat", 33071: "clamp", 33648: "mirror"}
NEAREST_CODES = (9728, 9984, 9986)
# Prefix of a material's index in the glTF JSON.
MATERIAL_NAME = "#"


def from_trimesh(
    scene: trimesh.Scene | trimesh.Trimesh,
    *,
    y_up: bool,
    factors: FactorSpace = "srgb",
    gltf: Mapping[str, Any] | None = None,
) -> TexturedMesh:
    """Converts a trimesh scene or mesh to a TexturedMesh on the CPU, vertices [V, 3] float32. y_up: frame of the input.

    gltf: the file's JSON, with materials named "#0", "#1", ...; provides the wrap modes and exact factors that trimesh
    drops. Without it, 8-bit PBR factors are still taken as linear. Raises ValueError without faces.
    """
    if factors not in ("srgb", "stored"):
        raise ValueError(f"factors: expected 'srgb' or 'stored', got {factors!r}")
    reader = _MaterialReader(gltf or {}, factors)
    pieces = [_piece(part, matrix, reader, y_up) for part, matrix in _instances(scene)]
    if not pieces:
        raise ValueError("expected at least one triangle, got none")
    return _joined(pieces, reader.materials)


def to_trimesh(mesh: TexturedMesh) -> trimesh.Trimesh:
    """Converts a TexturedMesh on the CPU with one material to a trimesh mesh, y up: vertices [V, 3] split at UV seams,
    8-bit images, linear factors, sRGB vertex colours. Drops the material's alpha and normal scale.

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
    )
    options = {"vertices": flat.vertices[0].numpy(), "faces": flat.faces[0].numpy(), "process": False}
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


@dataclass(frozen=True, eq=False)
class _Piece:
    """One object; arrays as in TexturedMesh, float32 and int64. uv [V, 2] and colors [V, 4] may be None."""

    vertices: np.ndarray
    faces: np.ndarray
    normals: np.ndarray
    material_ids: np.ndarray
    uv: np.ndarray | None
    colors: np.ndarray | None


@dataclass
class _MaterialReader:
    """Converts materials, each once, with shared textures."""

    gltf: Mapping[str, Any]
    factors: FactorSpace
    materials: list[Material] = field(default_factory=list)
    rows: dict[int, int] = field(default_factory=dict)
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

    def _read(self, material: object) -> Material:
        if material is None:
            return Material(metallic_factor=0.0)
        if hasattr(material, "baseColorFactor"):
            return self._pbr(material)
        image = getattr(material, "image", None)
        color = np.ones(4) if image is not None else np.asarray(material.diffuse, np.float64) / 255
        rough = float(np.clip((2 / (max(material.glossiness, 0.0) + 2)) ** 0.25, 0, 1))
        return Material(
            base_color_factor=tuple(color[:3].tolist()),
            base_color_texture=self._texture(image, (0, 1, 2)),
            metallic_factor=0.0,
            roughness_factor=rough,
            alpha_mode="BLEND" if color[3] < 1 else "OPAQUE",
            alpha_factor=float(color[3]),
        )

    def _pbr(self, material: Any) -> Material:
        stored = self._stored(material)
        inner = stored.get("pbrMetallicRoughness", {})
        color = np.asarray(inner.get("baseColorFactor", _factor(material.baseColorFactor, 4)), np.float64)
        emissive = np.asarray(stored.get("emissiveFactor", _factor(material.emissiveFactor, 3, 0.0)), np.float64)
        strength = stored.get("extensions", {}).get("KHR_materials_emissive_strength", {})
        emissive = emissive * strength.get("emissiveStrength", 1.0)
        if self.factors == "srgb":
            color[:3], emissive = linear_to_srgb(color[:3]), linear_to_srgb(emissive)
        base, rough_metal = inner.get("baseColorTexture"), inner.get("metallicRoughnessTexture")
        normal = stored.get("normalTexture")
        mode = material.alphaMode or "OPAQUE"
        packed = material.metallicRoughnessTexture
        return Material(
            base_color_factor=tuple(color[:3].clip(0, 1).tolist()),
            base_color_texture=self._texture(material.baseColorTexture, (0, 1, 2), base),
            metallic_factor=_unit(inner.get("metallicFactor", material.metallicFactor)),
            metallic_texture=self._texture(packed, (2,), rough_metal),
            roughness_factor=_unit(inner.get("roughnessFactor", material.roughnessFactor)),
            roughness_texture=self._texture(packed, (1,), rough_metal),
            emissive_factor=tuple(emissive.clip(0).tolist()),
            emissive_texture=self._texture(material.emissiveTexture, (0, 1, 2), stored.get("emissiveTexture")),
            alpha_mode=mode,
            alpha_cutoff=0.5 if material.alphaCutoff is None else float(material.alphaCutoff),
            alpha_factor=float(color[3].clip(0, 1)),
            alpha_texture=None if mode == "OPAQUE" else self._texture(material.baseColorTexture, (3,), base),
            normal_scale=float((normal or {}).get("scale", 1.0)),
            normal_texture=self._texture(material.normalTexture, (0, 1, 2), normal),
            occlusion_texture=self._texture(material.occlusionTexture, (0,), stored.get("occlusionTexture")),
            double_sided=bool(material.doubleSided),
        )

    def _stored(self, material: Any) -> Mapping[str, Any]:
        """Returns the material's glTF JSON by its index; {} without a file."""
        name = str(material.name or "")
        return (
            self.gltf["materials"][int(name[len(MATERIAL_NAME) :])]
            if self.gltf and name.startswith(MATERIAL_NAME)
            else {}
        )

    def _texture(
        self, image: Image.Image | None, channels: tuple[int, ...], reference: Mapping[str, Any] | None = None
    ) -> Texture | None:
        """Returns `channels` of an image's RGBA with the sampler of the glTF texture `reference`; cached."""
        if image is None:
            return None
        wrap, mode = self._sampler(reference)
        key = (id(image), channels, wrap, mode)
        if key not in self.textures:
            self.alive.append(image)
            pixels = np.asarray(image.convert("RGBA"))[..., list(channels)]
            self.textures[key] = Texture(torch.from_numpy(np.ascontiguousarray(pixels)), wrap, mode)
        return self.textures[key]

    def _sampler(self, reference: Mapping[str, Any] | None) -> tuple[tuple[str, str], str]:
        """Returns (wrap along u and v, filter) of a glTF texture reference."""
        if not reference:
            return ("repeat", "repeat"), "linear"
        if reference.get("texCoord", 0) != 0 or "KHR_texture_transform" in reference.get("extensions", {}):
            warnings.warn("a texture's own UV set or transform is ignored", UserWarning, stacklevel=2)
        number = self.gltf["textures"][reference["index"]].get("sampler")
        sampler = {} if number is None else self.gltf["samplers"][number]
        wrap = tuple(WRAP_OF_CODE[sampler.get(name, 10497)] for name in ("wrapS", "wrapT"))
        return wrap, "nearest" if sampler.get("magFilter") in NEAREST_CODES else "linear"


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


def _instances(scene: trimesh.Scene | trimesh.Trimesh) -> Iterator[tuple[trimesh.Trimesh, np.ndarray]]:
    """Yields each object with triangles and its world matrix [4, 4]; unlike `Scene.dump`, does not copy images."""
    if hasattr(scene, "faces"):
        instances = [(scene, np.eye(4))]
    else:
        nodes = (scene.graph[node] for node in scene.graph.nodes_geometry)
        instances = [(scene.geometry[name], matrix) for matrix, name in nodes]
    yield from ((part, matrix) for part, matrix in instances if len(getattr(part, "faces", ())) > 0)


def _piece(part: trimesh.Trimesh, matrix: np.ndarray, reader: _MaterialReader, y_up: bool) -> _Piece:
    vertices, normals, faces = _transformed(part, matrix, y_up)
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
    colors = None if colors is None else _rgba(np.asarray(colors), linear=bool(reader.gltf))
    return _Piece(vertices, faces, normals, ids, uv, colors)


def _transformed(part: trimesh.Trimesh, matrix: np.ndarray, y_up: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(vertices [N, 3], normals [N, 3], float32, faces [F, 3] int64) in world space, z up; mirroring flips winding."""
    # Rows: images of the three axes and of the origin. Adding 0 turns -0 into 0, which would change file bytes.
    columns = torch.from_numpy(np.array(matrix[:3].T, np.float64))
    *axes, origin = (to_z_up(columns) if y_up else columns).numpy() + 0.0
    linear = np.stack(axes, 1)
    vertices = np.asarray(part.vertices) @ linear.T + origin
    mirrored = np.linalg.det(linear) < 0
    # Normals transform by the cofactor matrix, also for singular maps.
    cofactors = np.stack([np.cross(linear[(i + 1) % 3], linear[(i + 2) % 3]) for i in range(3)])
    normals = np.asarray(part.vertex_normals) @ cofactors.T * (-1.0 if mirrored else 1.0)
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    normals = np.divide(normals, length, out=np.zeros_like(normals), where=length > 0)
    faces = np.asarray(part.faces, np.int64)
    faces = faces[:, ::-1] if mirrored else faces
    return vertices.astype(np.float32), normals.astype(np.float32), np.ascontiguousarray(faces)


def _rgba(colors: np.ndarray, linear: bool) -> np.ndarray:
    """Converts colours [N, 3 or 4], full-range integers or floats, to sRGB [N, 4] float32 in [0, 1]."""
    values = colors / np.iinfo(colors.dtype).max if colors.dtype.kind in "iu" else colors.astype(np.float64)
    rgba = np.ones((len(values), 4))
    rgba[:, : values.shape[1]] = values.clip(0, 1)
    if linear:
        rgba[:, :3] = linear_to_srgb(rgba[:, :3])
    return rgba.astype(np.float32)


def _joined(pieces: Sequence[_Piece], materials: Sequence[Material]) -> TexturedMesh:
    """Concatenates pieces into one mesh; pieces without UVs or colours get 0 or white if others have them."""

    def column(pick: Callable[[_Piece], np.ndarray | None], width: int, fill: float) -> Tensor | None:
        if all(pick(piece) is None for piece in pieces):
            return None
        blank = np.float32(fill)
        parts = [np.full((len(p.vertices), width), blank) if pick(p) is None else pick(p) for p in pieces]
        return torch.from_numpy(np.concatenate(parts))

    faces = np.concatenate([piece.faces + first for piece, first in zip(pieces, _firsts(pieces), strict=True)])
    uv = column(lambda piece: piece.uv, 2, 0.0)
    textured = any(isinstance(value, Texture) for material in materials for value in vars(material).values())
    if uv is None and textured:
        uv = torch.zeros(sum(len(piece.vertices) for piece in pieces), 2)
    return TexturedMesh(
        Mesh(torch.from_numpy(np.concatenate([piece.vertices for piece in pieces])), torch.from_numpy(faces)),
        tuple(materials),
        material_ids=torch.from_numpy(np.concatenate([piece.material_ids for piece in pieces])),
        uv=uv,
        vertex_colors=column(lambda piece: piece.colors, 4, 1.0),
        normals=torch.from_numpy(np.concatenate([piece.normals for piece in pieces])),
    )


def _firsts(pieces: Sequence[_Piece]) -> Iterator[int]:
    """Yields the index of each piece's first vertex."""
    first = 0
    for piece in pieces:
        yield first
        first += len(piece.vertices)
