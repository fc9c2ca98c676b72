"""Reads GLB, glTF, OBJ, PLY and STL with materials, through trimesh.

Frames: glTF and OBJ are y-up, (x, y, z) becomes (x, -z, y); PLY and STL define no up axis and are read unchanged.
Texture coordinates: v up, as in OBJ; trimesh flips glTF's v on reading.
"""

from __future__ import annotations

import io
import json
import struct
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ...core.progress import Progress, in_background
from ...material import TexturedMesh
from .companions import companion
from .gltf.dequantize import expand_normalized
from .gltf.document import GLB_MAGIC, JSON_CHUNK
from .trimesh import MATERIAL_NAME, FactorSpace, from_trimesh

if TYPE_CHECKING:
    import trimesh

Up = Literal["auto", "y", "z"]

UP_OF_SUFFIX = {".glb": "y", ".gltf": "y", ".obj": "y", ".ply": "z", ".stl": "z"}
# For the estimate of the time.
BYTES_A_SECOND = 20e6
GLTF_SUFFIXES = (".glb", ".gltf")
# Exceptions that trimesh and Pillow raise for malformed files.
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


def load_textured_mesh(
    path: str | Path, *, up: Up = "auto", factors: FactorSpace = "srgb", progress: Progress | None = None
) -> TexturedMesh:
    """Reads a mesh file with materials, UVs, vertex colours and normals; on the CPU, z up.

    Returns vertices [V, 3] float32 in file units and faces [F, 3] int64 of all objects, with their scene transforms;
    vertices are not merged, centred or scaled.
    up: up axis of the file; "auto" chooses by suffix.
    factors: glTF factors and vertex colours are linear. "srgb" encodes them like the texels; "stored" keeps base colour
    and emissive factors unchanged, as the original does, which darkens untextured parts.
    metallic is 0 for formats other than glTF. Second UV sets and texture transforms are ignored with a UserWarning.
    progress: called with the fraction done, 0 to 1, by estimate; may raise, to cancel.
    Deterministic. Raises FileNotFoundError; ValueError for an unknown suffix, an unreadable file, or one without
    triangles; ModuleNotFoundError without trimesh.
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

    def read(report: Progress) -> TexturedMesh:
        try:
            # Values too large for float32 become inf, which consumers of the mesh reject.
            with np.errstate(over="ignore", invalid="ignore"):
                scene, header = _read(path, suffix)
                report(0.6)
                return from_trimesh(scene, y_up=y_up, factors=factors, gltf=header)
        except UNREADABLE as error:
            raise ValueError(f"{path.name}: not a readable {suffix[1:]} mesh: {error}") from error

    return in_background(read, progress, 1 + path.stat().st_size / BYTES_A_SECOND)


def _read(path: Path, suffix: str) -> tuple[trimesh.Scene, dict[str, Any]]:
    """Returns (scene, glTF JSON or {})."""
    import trimesh

    class Files(trimesh.resolvers.FilePathResolver):
        def get(self, name: str) -> bytes:
            # The files beside `path` and below, whatever the version of trimesh allows.
            found = companion(path, name)
            if found is None:
                raise FileNotFoundError(f"{name}: expected a file in the folder of {path.name}")
            content = found.read_bytes()
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
    """Re-encodes Latin-1 text as UTF-8, so that names still match between files; keeps valid UTF-8."""
    try:
        content.decode()
    except UnicodeDecodeError:
        return content.decode("latin-1").encode()
    return content


def _split_glb(content: bytes) -> tuple[dict[str, Any], bytes]:
    """Splits a GLB file into (JSON, bytes of the following chunks)."""
    if len(content) < 20:
        raise ValueError(f"expected a header of 20 bytes, got {len(content)}")
    magic, version, length, json_length, kind = struct.unpack_from("<5I", content)
    if (magic, version, kind) != (GLB_MAGIC, 2, JSON_CHUNK):
        raise ValueError("expected 'glTF', version 2 and a JSON chunk")
    if length > len(content) or 20 + json_length > length:
        raise ValueError(f"expected {max(length, 20 + json_length)} bytes, got {len(content)}")
    return json.loads(content[20 : 20 + json_length]), content[20 + json_length : length]
