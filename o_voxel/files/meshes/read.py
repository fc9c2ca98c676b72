"""Mesh files in: GLB, glTF, OBJ, PLY and STL, read by trimesh, to our frame and our materials.

Frames: glTF and OBJ are y-up, (x, y, z) becomes (x, -z, y); PLY and STL name no up and are taken as they are.
Texture coordinates: v up, as OBJ has it; glTF counts v down and trimesh turns it round while reading.
"""

from __future__ import annotations

import io
import json
import struct
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from ...material import Material, Texture, TexturedMesh
from ...values import Mesh
from .gltf.dequantize import expand_normalized
from .gltf.document import GLB_MAGIC, JSON_CHUNK

if TYPE_CHECKING:
    import trimesh
    from PIL import Image

Up = Literal["auto", "y", "z"]
FactorSpace = Literal["srgb", "stored"]

UP_OF_SUFFIX = {".glb": "y", ".gltf": "y", ".obj": "y", ".ply": "z", ".stl": "z"}
GLTF_SUFFIXES = (".glb", ".gltf")
WRAP_OF_CODE = {10497: "repeat", 33071: "clamp", 33648: "mirror"}
NEAREST_CODES = (9728, 9984, 9986)
NAME = "#"
# What trimesh and Pillow let escape when a file is not what it says.
UNREADABLE = (
    ArithmeticError,
    AttributeError,
    ImportError,
    LookupError,
    NameError,
    NotImplementedError,
    OSError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
)


def load_mesh(path: str | Path, *, up: Up = "auto") -> Mesh:
    """The triangles of a mesh file: vertices float32, z up, faces int64. As `load_textured_mesh`, less materials."""
    return load_textured_mesh(path, up=up).mesh


def load_textured_mesh(path: str | Path, *, up: Up = "auto", factors: FactorSpace = "srgb") -> TexturedMesh:
    """A mesh file with its materials, UVs, vertex colours and normals, on the CPU, in world units, z up.

    All objects of a scene, each where it stands, in one mesh; nothing is merged, moved or scaled.
    up: the file's own up axis; "auto" goes by the suffix.
    factors: glTF's factors and vertex colours are linear light. "srgb" encodes them as the texels are; "stored" takes
    the base colour's and emissive factors as they stand, as the original does, and darkens untextured parts.
    Files that are not glTF know no metal: metallic is 0 there. Second UV sets and texture transforms are ignored with
    a UserWarning. Deterministic.
    Raises FileNotFoundError, or ValueError for an unknown suffix, an unreadable file, or one without triangles;
    ModuleNotFoundError without trimesh.
    """
    if factors not in ("srgb", "stored"):
        raise ValueError(f"factors: expected 'srgb' or 'stored', got {factors!r}")
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in UP_OF_SUFFIX:
        raise ValueError(f"{path.name}: expected one of {', '.join(UP_OF_SUFFIX)}")
    if not path.is_file():
        raise FileNotFoundError(f"no mesh file {path}")
    if find_spec("trimesh") is None:
        raise ModuleNotFoundError(f"{path.name}: this needs the package trimesh, which install.py adds")
    if up not in ("auto", "y", "z"):
        raise ValueError(f"up: expected 'auto', 'y' or 'z', got {up!r}")
    y_up = (UP_OF_SUFFIX[suffix] if up == "auto" else up) == "y"
    try:
        # Numbers too large for float32 become inf here, which whoever uses the mesh refuses.
        with np.errstate(over="ignore", invalid="ignore"):
            scene, header = _read(path, suffix)
            return from_trimesh(scene, y_up=y_up, factors=factors, gltf=header)
    except UNREADABLE as error:
        raise ValueError(f"{path.name}: not a readable {suffix[1:]} mesh: {error}") from error


def from_trimesh(
    scene: trimesh.Scene | trimesh.Trimesh,
    *,
    y_up: bool,
    factors: FactorSpace = "srgb",
    gltf: Mapping[str, Any] | None = None,
) -> TexturedMesh:
    """A trimesh scene or mesh as a TexturedMesh on the CPU; y_up: its frame is glTF's.

    gltf: the file's JSON, where the materials are called "#0", "#1", ...; it has the wrap modes and exact factors that
    trimesh drops. Without it, a PBR material's 8-bit factors are linear all the same. Raises ValueError without faces.
    """
    if factors not in ("srgb", "stored"):
        raise ValueError(f"factors: expected 'srgb' or 'stored', got {factors!r}")
    reader = _MaterialReader(gltf or {}, factors)
    pieces = [_piece(part, matrix, reader, y_up) for part, matrix in _placed(scene)]
    if not pieces:
        raise ValueError("expected at least one triangle, got none")
    return _joined(pieces, reader.materials)


def linear_to_srgb(values: np.ndarray) -> np.ndarray:
    """Linear light in [0, 1] to sRGB encoding (IEC 61966-2-1), float64, any shape; above 1 the curve continues."""
    values = np.asarray(values, np.float64)
    return np.where(values <= 0.0031308, 12.92 * values, 1.055 * np.maximum(values, 0.0031308) ** (1 / 2.4) - 0.055)


@dataclass(frozen=True, eq=False)
class _Piece:
    """One object: arrays as in TexturedMesh, float32 and int64; `uv` and `colors` may be missing."""

    vertices: np.ndarray
    faces: np.ndarray
    normals: np.ndarray
    material_ids: np.ndarray
    uv: np.ndarray | None
    colors: np.ndarray | None


@dataclass
class _MaterialReader:
    """Materials met so far, each read once, and the images they share."""

    gltf: Mapping[str, Any]
    factors: FactorSpace
    materials: list[Material] = field(default_factory=list)
    rows: dict[int, int] = field(default_factory=dict)
    textures: dict[tuple, Texture] = field(default_factory=dict)
    # Ids name objects only while these live.
    alive: list[object] = field(default_factory=list)

    def row(self, material: object) -> int:
        """The row of a trimesh material in `materials`; None is a plain white one without metal."""
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
        """The material as the file's JSON has it, found by its number; {} without a file."""
        name = str(material.name or "")
        return self.gltf["materials"][int(name[len(NAME) :])] if self.gltf and name.startswith(NAME) else {}

    def _texture(
        self, image: Image.Image | None, channels: tuple[int, ...], reference: Mapping[str, Any] | None = None
    ) -> Texture | None:
        """`channels` of an image's RGBA, read as the glTF texture `reference` says; the same object for the same."""
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
        """(wrap along u and v, filter) of a glTF texture reference."""
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
    """A trimesh colour, 8-bit or float, 3 or 4 long, as `count` floats; missing ones are `default`."""
    out = np.full(count, default)
    if value is not None:
        value = np.asarray(value)
        value = value / 255 if value.dtype.kind in "iu" else value
        out[: len(value)] = value[:count]
    return out


def _read(path: Path, suffix: str) -> tuple[trimesh.Scene, dict[str, Any]]:
    """(the scene, the file's JSON, {} unless it is glTF)."""
    import trimesh

    class Files(trimesh.resolvers.FilePathResolver):
        def get(self, name: str) -> bytes:
            content = super().get(name)
            return _utf8(content) if name.lower().endswith(".mtl") else content

    content = path.read_bytes()
    options = {"file_type": suffix[1:], "resolver": Files(str(path)), "process": False}
    if suffix not in GLTF_SUFFIXES:
        content = _utf8(content) if suffix == ".obj" else content
        return trimesh.load_scene(io.BytesIO(content), **options), {}
    header, rest = _split_glb(content) if suffix == ".glb" else (json.loads(content), b"")
    rest = expand_normalized(header, rest)
    for number, material in enumerate(header.get("materials", [])):
        material["name"] = f"{NAME}{number}"
    text = json.dumps(header).encode()
    if suffix == ".glb":
        text += b" " * (-len(text) % 4)
        start = struct.pack("<5I", GLB_MAGIC, 2, 20 + len(text) + len(rest), len(text), JSON_CHUNK)
        text = start + text + rest
    return trimesh.load_scene(io.BytesIO(text), **options), header


def _utf8(content: bytes) -> bytes:
    """Text in UTF-8, or else in Latin-1, as UTF-8; names that agree between two files still do."""
    try:
        content.decode()
    except UnicodeDecodeError:
        return content.decode("latin-1").encode()
    return content


def _split_glb(content: bytes) -> tuple[dict[str, Any], bytes]:
    """(JSON, the chunks after it) of a GLB file."""
    if len(content) < 20:
        raise ValueError(f"expected a header of 20 bytes, got {len(content)}")
    magic, version, length, json_length, kind = struct.unpack_from("<5I", content)
    if (magic, version, kind) != (GLB_MAGIC, 2, JSON_CHUNK):
        raise ValueError("expected 'glTF', version 2 and a JSON chunk")
    if length > len(content) or 20 + json_length > length:
        raise ValueError(f"expected {max(length, 20 + json_length)} bytes, got {len(content)}")
    return json.loads(content[20 : 20 + json_length]), content[20 + json_length : length]


def _placed(scene: trimesh.Scene | trimesh.Trimesh) -> Iterator[tuple[trimesh.Trimesh, np.ndarray]]:
    """Every object with triangles and its matrix [4, 4] to the world; unlike `Scene.dump`, images are not copied."""
    if hasattr(scene, "faces"):
        placed = [(scene, np.eye(4))]
    else:
        nodes = (scene.graph[node] for node in scene.graph.nodes_geometry)
        placed = [(scene.geometry[name], matrix) for matrix, name in nodes]
    yield from ((part, matrix) for part, matrix in placed if len(getattr(part, "faces", ())) > 0)


def _piece(part: trimesh.Trimesh, matrix: np.ndarray, reader: _MaterialReader, y_up: bool) -> _Piece:
    vertices, normals, faces = _moved(part, matrix, y_up)
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


def _moved(part: trimesh.Trimesh, matrix: np.ndarray, y_up: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(vertices, normals, both [N, 3] float32, faces [F, 3] int64) in the world, z up; a mirror turns faces over."""
    turn = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]]) if y_up else np.eye(3)
    linear = turn @ matrix[:3, :3]
    vertices = np.asarray(part.vertices) @ linear.T + turn @ matrix[:3, 3]
    mirrored = np.linalg.det(linear) < 0
    # The matrix of cofactors takes normals along under any linear map, also a flat one.
    cofactors = np.stack([np.cross(linear[(i + 1) % 3], linear[(i + 2) % 3]) for i in range(3)])
    normals = np.asarray(part.vertex_normals) @ cofactors.T * (-1.0 if mirrored else 1.0)
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    normals = np.divide(normals, length, out=np.zeros_like(normals), where=length > 0)
    faces = np.asarray(part.faces, np.int64)
    faces = faces[:, ::-1] if mirrored else faces
    return vertices.astype(np.float32), normals.astype(np.float32), np.ascontiguousarray(faces)


def _rgba(colors: np.ndarray, linear: bool) -> np.ndarray:
    """[N, 4] float32 in [0, 1], sRGB encoded, of colours [N, 3 or 4], integers over their full range or floats."""
    values = colors / np.iinfo(colors.dtype).max if colors.dtype.kind in "iu" else colors.astype(np.float64)
    rgba = np.ones((len(values), 4))
    rgba[:, : values.shape[1]] = values.clip(0, 1)
    if linear:
        rgba[:, :3] = linear_to_srgb(rgba[:, :3])
    return rgba.astype(np.float32)


def _joined(pieces: Sequence[_Piece], materials: Sequence[Material]) -> TexturedMesh:
    """One mesh of all pieces; where only some have UVs or colours, the others get 0 or white."""

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
    """Each piece's first row among all vertices."""
    first = 0
    for piece in pieces:
        yield first
        first += len(piece.vertices)
