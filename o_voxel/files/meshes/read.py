"""Reads GLB, glTF, OBJ, PLY and STL with materials: glTF by `reading.gltf`, the others through trimesh.

Frames: glTF and OBJ are y-up, (x, y, z) becomes (x, -z, y); PLY and STL define no up axis and are read unchanged.
Texture coordinates: v up, as in OBJ.
"""

from __future__ import annotations

import io
import logging
import struct
from collections.abc import Callable
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from ...core.progress import Progress, in_background
from ...material import TexturedMesh
from .reading.companions import absent, companion
from .reading.gltf.load import load_gltf
from .reading.images import UNREADABLE as IMAGE_ERRORS
from .reading.images import decoded, opened
from .reading.libraries import ALL_LIBRARIES, with_one_library
from .reading.obj_indices import positive_indices
from .reading.obj_parts import obj_parts
from .reading.obj_scene import obj_scene
from .reading.pieces import FactorSpace, Parts
from .reading.ply import plain_ply
from .reading.texts import utf8, utf8_stl
from .trimesh import from_trimesh

if TYPE_CHECKING:
    import trimesh

log = logging.getLogger(__name__)

Up = Literal["auto", "y", "z"]
Warn = Callable[[str], None]

# Default limit of what a file may unfold to, in bytes: 120 textures of 4096 by 4096.
MAX_UNFOLDED = 8 << 30
UP_OF_SUFFIX = {".glb": "y", ".gltf": "y", ".obj": "y", ".ply": "z", ".stl": "z"}
# For the estimate of the time.
BYTES_A_SECOND = 20e6
GLTF_SUFFIXES = (".glb", ".gltf")
CONVERSIONS = {".obj": lambda content: positive_indices(utf8(content)), ".ply": plain_ply, ".stl": utf8_stl}
# Exceptions that the readers, trimesh and Pillow raise for malformed files.
UNREADABLE = (
    ArithmeticError,
    AttributeError,
    ImportError,
    LookupError,
    NameError,
    NotImplementedError,
    OSError,
    RecursionError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
)


def load_textured_mesh(
    path: str | Path,
    *,
    up: Up = "auto",
    factors: FactorSpace = "srgb",
    progress: Progress | None = None,
    on_warning: Warn | None = None,
    max_bytes: int = MAX_UNFOLDED,
) -> TexturedMesh:
    """Reads a mesh file with materials, UVs, vertex colours and normals; on the CPU, z up.

    Returns vertices [V, 3] float32 in file units and faces [F, 3] int64 of all objects, with their scene transforms;
    vertices are not merged, centred or scaled. Its parts are the glTF nodes that have triangles, the objects (or else
    the groups) of an OBJ, the solids of an STL; names are the file's, at most `names.MAX_NAME` characters.
    up: up axis of the file; "auto" chooses by suffix.
    factors: glTF factors and vertex colours are linear. "srgb" encodes them like the texels; "stored" keeps base colour
    and emissive factors unchanged, as the original does, which darkens untextured parts.
    metallic is 0 for PLY and STL, and for OBJ unless its library has the PBR extension.
    What a glTF file may hold: see `reading.gltf.load`.
    progress: called with the fraction done, 0 to 1, by estimate; may raise, to cancel.
    on_warning: called with one line for each thing that is left out, such as a texture that cannot be read. None: the
    lines are logged.
    max_bytes: of the vertices, faces and pixels that a glTF file may unfold to, by compression, instances or counts.
    Deterministic. Raises FileNotFoundError; ValueError for an unknown suffix, a folder, an unreadable file, a required
    extension that is not read, or a file without triangles; ModuleNotFoundError without trimesh.
    """
    if factors not in ("srgb", "stored"):
        raise ValueError(f"factors: expected 'srgb' or 'stored', got {factors!r}")
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in UP_OF_SUFFIX:
        raise ValueError(f"{path.name}: expected one of {', '.join(UP_OF_SUFFIX)}")
    if path.is_dir():
        raise ValueError(f"{path}: expected a mesh file, got a folder")
    if not path.is_file():
        raise FileNotFoundError(f"no mesh file {path}")
    if suffix not in GLTF_SUFFIXES and find_spec("trimesh") is None:
        raise ModuleNotFoundError(f"{path.name}: this needs the package trimesh, which install.py adds")
    if up not in ("auto", "y", "z"):
        raise ValueError(f"up: expected 'auto', 'y' or 'z', got {up!r}")
    y_up = (UP_OF_SUFFIX[suffix] if up == "auto" else up) == "y"

    said: set[str] = set()

    def warn(line: str) -> None:
        if line not in said:
            said.add(line)
            if on_warning is None:
                log.warning("%s: %s", path.name, line)
            else:
                on_warning(line)

    def read(report: Progress) -> TexturedMesh:
        try:
            # Values too large for float32 become inf, which consumers of the mesh reject.
            with np.errstate(over="ignore", invalid="ignore"):
                if suffix in GLTF_SUFFIXES:
                    return load_gltf(path, y_up=y_up, factors=factors, warn=warn, report=report, max_bytes=max_bytes)
                scene, parts = _read(path, suffix, warn)
                report(0.6)
                further = lru_cache(maxsize=None)(lambda name: _pixels(path, name, warn))
                return from_trimesh(scene, y_up=y_up, factors=factors, warn=warn, open_image=further, parts=parts)
        except UNREADABLE as error:
            raise ValueError(f"{path.name}: not a readable {suffix[1:]} mesh: {_reason(error):.400}") from error

    return in_background(read, progress, 1 + path.stat().st_size / BYTES_A_SECOND)


def _reason(error: BaseException) -> str:
    """What is wrong with a file, in one line."""
    if isinstance(error, KeyError):
        return f"it lacks {error}"
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    malformed = not text or isinstance(error, AttributeError | NameError | TypeError)
    return f"malformed content ({text or type(error).__name__})" if malformed else text


def _read(path: Path, suffix: str, warn: Warn) -> tuple[trimesh.Scene, Parts | None]:
    """Reads an OBJ, PLY or STL, and the parts of it, see `from_trimesh`."""
    import trimesh

    content, libraries = CONVERSIONS[suffix](path.read_bytes()), b""
    if suffix == ".obj":
        content, libraries = with_one_library(path, content, warn)

    class Files(trimesh.resolvers.FilePathResolver):
        def get(self, name: str) -> bytes:
            return libraries if name == ALL_LIBRARIES else _texture(path, name, warn)

    files = Files(str(path))
    if suffix == ".obj":
        scene = obj_scene(content, files)
        try:
            return scene, obj_parts(content)
        except UNREADABLE as error:
            warn(f"its objects cannot be told apart: they are joined, without their names: {_reason(error):.200}")
            return scene, Parts()
    scene = trimesh.load_scene(io.BytesIO(content), file_type=suffix[1:], resolver=files, process=False)
    # A PLY has no names, and that of a lone solid is its program's.
    return scene, None if len(scene.geometry) > 1 else Parts()


def _texture(path: Path, name: str, warn: Warn) -> bytes:
    """The content of a texture that a mesh file or its library names."""
    words = name.split()
    # Options such as "-s 2 2 2" stand before a texture's name.
    found = companion(path, name) or (companion(path, words[-1]) if words[:1] and words[0].startswith("-") else None)
    if found is None:
        warn(absent("texture", path, name))
        raise FileNotFoundError(f"{name}: expected a file in the folder of {path.name}")
    content = found.read_bytes()
    try:
        # trimesh leaves out what it cannot open, without a word, and opens what it should not.
        with opened(io.BytesIO(content)):
            pass
    except IMAGE_ERRORS as error:
        warn(f"texture {name!r:.120} cannot be read and is left out: {error}")
        raise FileNotFoundError(name) from error
    return content


def _pixels(path: Path, name: str, warn: Warn) -> np.ndarray | None:
    """A texture's RGBA [H, W, 4] uint8; None, with a warning, for one that cannot be read."""
    try:
        return decoded(_texture(path, name, warn))
    except FileNotFoundError:
        return None
    except IMAGE_ERRORS as error:
        warn(f"texture {name!r:.120} cannot be read and is left out: {error}")
        return None
