"""Files of an asset for a game engine: its levels of detail and collision hulls, in one GLB or in a file each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from ...core.atomic_io import FilePath, write_files
from ...core.progress import Progress, scaled
from ...material import TexturedMesh
from ...values import Mesh
from .gltf.glb import MoreNodes, encode_glb
from .options import SaveOptions
from .prepare import pivot_of, prepared
from .write import save_mesh


def save_for_engine(
    path: FilePath,
    levels: Sequence[TexturedMesh],
    collision: Sequence[Mesh] = (),
    options: SaveOptions = SaveOptions(),
    *,
    one_file: bool = False,
    progress: Progress | None = None,
) -> list[Path]:
    """Writes the levels of detail, the finest first, and the convex hulls of `collision`; returns the files' paths.

    one_file: `path`, a GLB with the levels as MSFT_lod and the hulls as nodes UCX_<name>_<number>. Otherwise a file per
    level, <name>_lod0, <name>_lod1 …, or `path` itself for a single one, and <name>_collision for the hulls.
    All share the pivot of the finest level. Meshes: vertices [V, 3], faces [F, 3]. progress: called with the fraction
    done, 0 to 1; may raise. Raises ValueError without levels, for another format than .glb with `one_file`, and as
    `save_mesh`.
    """
    target = Path(path)
    if not levels:
        raise ValueError("levels: expected at least one mesh, got none")
    stem = target.stem.rstrip("_")  # ComfyUI's names end in one
    if one_file:
        if target.suffix.lower() != ".glb":
            raise ValueError(f"{target.name}: expected .glb, the only format with levels of detail in one file")
        more = MoreNodes(stem, tuple(levels[1:]), tuple(collision))
        made = encode_glb(levels[0], options=options, more=more, progress=scaled(progress, 0.0, 0.9))
        return [write_files({target: made.content}, scaled(progress, 0.9, 0.1))]
    start, still = pivot_of(levels[0].mesh, options.pivot), replace(options, pivot="as is")
    parts = [(f"_lod{i}" if len(levels) > 1 else "", level) for i, level in enumerate(levels)]
    if collision:
        parts.append(("_collision", TexturedMesh(joined(collision))))
    written = []
    for number, (ending, mesh) in enumerate(parts):
        moved = prepared(mesh, SaveOptions(pivot=options.pivot), start)
        bar = scaled(progress, number / len(parts), 1 / len(parts))
        name = target.with_name(f"{stem if ending else target.stem}{ending}{target.suffix}")
        written.append(save_mesh(name, moved, still, progress=bar).path)
    return written


def joined(meshes: Sequence[Mesh]) -> Mesh:
    """Returns several meshes ([V, 3], [F, 3]) as one, without merging vertices."""
    starts = torch.tensor([0, *(len(mesh.vertices) for mesh in meshes)]).cumsum(0).tolist()
    faces = [mesh.faces + start for mesh, start in zip(meshes, starts, strict=False)]
    return Mesh(torch.cat([mesh.vertices for mesh in meshes]), torch.cat(faces))
