"""Writes a mesh file in the format of its suffix."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ...core.atomic_io import FilePath, write_files
from ...core.progress import Progress, scaled
from ...material import TexturedMesh
from ...values import Mesh
from .gltf.glb import ENCODE_SHARE, encode_glb
from .obj import write_obj
from .options import UP_OF_SUFFIX, SaveOptions
from .ply import write_ply_mesh
from .stl import write_stl

WRITERS = {".obj": write_obj, ".ply": write_ply_mesh, ".stl": write_stl}


@dataclass(frozen=True)
class SavedMesh:
    """path: main file.  size: its bytes, without companion files.  changes: quality reductions for `max_bytes`."""

    path: Path
    size: int
    changes: tuple[str, ...] = ()


def save_mesh(
    path: FilePath,
    mesh: Mesh | TexturedMesh,
    options: SaveOptions = SaveOptions(),
    *,
    progress: Progress | None = None,
) -> SavedMesh:
    """Writes `mesh` in the format of the suffix: .glb, .obj (with .mtl and .png files), .ply or .stl.

    Creates missing folders; writes each file atomically. Deterministic.  progress: called with the fraction done, 0 to
    1; if it raises, nothing is written.
    Raises ValueError for another suffix, an empty mesh, non-finite numbers, an unreachable `max_bytes`, or `max_bytes`
    for a format other than GLB; OSError if a file cannot be written.
    """
    target = Path(path)
    suffix = target.suffix.lower()
    if suffix not in UP_OF_SUFFIX:
        raise ValueError(f"{target.name}: expected a name that ends in {', '.join(UP_OF_SUFFIX)}")
    if suffix == ".glb":
        fitted = encode_glb(mesh, options=options, progress=scaled(progress, 0.0, ENCODE_SHARE))
        written = write_files({target: fitted.content}, scaled(progress, ENCODE_SHARE, 1 - ENCODE_SHARE))
        return SavedMesh(written, len(fitted.content), fitted.changes)
    if options.max_bytes is not None:
        raise ValueError(f"max_bytes: expected None for a {suffix} file; only .glb is fitted to a size")
    written = WRITERS[suffix](target, mesh, options, progress)
    return SavedMesh(written, written.stat().st_size)
