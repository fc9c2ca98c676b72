"""Mesh files in: GLB, glTF, OBJ, PLY and STL, read by trimesh, to our frame and our materials.

Frames: glTF and OBJ are y-up, (x, y, z) becomes (x, -z, y); PLY and STL name no up and are taken as they are.
Texture coordinates: v up, as OBJ has it; glTF counts v down and trimesh turns it round while reading.
"""

from __future__ import annotations

import io
import json
import struct
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ...material import TexturedMesh
from .gltf.dequantize import expand_normalized
from .gltf.document import GLB_MAGIC, JSON_CHUNK
from .trimesh import MATERIAL_NAME, FactorSpace, from_trimesh

if TYPE_CHECKING:
    import trimesh

Up = Literal["auto", "y", "z"]

UP_OF_SUFFIX = {".glb": "y", ".gltf": "y", ".obj": "y", ".ply": "z", ".stl": "z"}
GLTF_SUFFIXES = (".glb", ".gltf")
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
        material["name"] = f"{MATERIAL_NAME}{number}"
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
