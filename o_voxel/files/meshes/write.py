"""One way to a mesh file of any format."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ...core.atomic_io import FilePath, write_files
from ...material import TexturedMesh
from ...values import Mesh
from .gltf.glb import encode_glb
from .obj import write_obj
from .options import UP_OF_SUFFIX, SaveOptions
from .ply import write_ply_mesh
from .stl import write_stl

WRITERS = {".obj": write_obj, ".ply": write_ply_mesh, ".stl": write_stl}


@dataclass(frozen=True)
class SavedMesh:
    """path: the file to open.  size: its bytes, without files beside it.  changes: what `max_bytes` cost, in words."""

    path: Path
    size: int
    changes: tuple[str, ...] = ()


def save_mesh(path: FilePath, mesh: Mesh | TexturedMesh, options: SaveOptions = SaveOptions()) -> SavedMesh:
    """Writes `mesh` in the format of the suffix: .glb, .obj (with .mtl and .png beside it), .ply or .stl.

    Missing folders are made; every file appears whole or not at all. The same bytes for the same input.
    Raises ValueError for another suffix, for an empty mesh or numbers that are not finite, and for `max_bytes` that
    cannot be kept, or that are given for a format other than GLB; OSError where a file cannot be written.
    """
    target = Path(path)
    suffix = target.suffix.lower()
    if suffix not in UP_OF_SUFFIX:
        raise ValueError(f"{target.name}: expected a name that ends in {', '.join(UP_OF_SUFFIX)}")
    if suffix == ".glb":
        fitted = encode_glb(mesh, options=options)
        return SavedMesh(write_files({target: fitted.content}), len(fitted.content), fitted.changes)
    if options.max_bytes is not None:
        raise ValueError(f"max_bytes: expected None for a {suffix} file; only .glb is fitted to a size")
    written = WRITERS[suffix](target, mesh, options)
    return SavedMesh(written, written.stat().st_size)
