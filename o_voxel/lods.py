"""Levels of detail of a finished asset: fewer triangles and smaller textures, for objects that are farther away."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .bake.options import BakeOptions
from .bake.transfer import transfer_colors, transfer_textures
from .core.progress import Progress, scaled
from .material import TEXTURE_CHANNELS, TexturedMesh
from .mesh.normals import smooth_by_angle
from .mesh.parts import with_parts_of
from .mesh.repair.clean import weld
from .mesh.simplify import simplify
from .values import Mesh

SMALLEST_TEXTURE = 64
MOST_LEVELS = 8


@dataclass(frozen=True)
class LodOptions:
    """levels: meshes in all, the finished one included.  ratio: triangles of a level, as a part of the one before.

    gutter, crease_deg: of the unwrap of each level, see `transfer_textures`.
    """

    levels: int = 3
    ratio: float = 0.5
    gutter: int = 2
    crease_deg: float = 60.0

    def __post_init__(self) -> None:
        if not 1 <= self.levels <= MOST_LEVELS:
            raise ValueError(f"levels: expected 1 to {MOST_LEVELS}, got {self.levels}")
        if not 0 < self.ratio < 1:
            raise ValueError(f"ratio: expected more than 0 and less than 1, got {self.ratio}")


@torch.no_grad()
def make_lods(
    mesh: TexturedMesh, options: LodOptions = LodOptions(), *, progress: Progress | None = None
) -> tuple[TexturedMesh, ...]:
    """Returns `options.levels` meshes, the first is `mesh` itself, vertices [V, 3], faces [F, 3], on its device.

    Each further one is the welded surface of the first, simplified to `ratio` times the triangles of the level before,
    with the materials of the first: textures of half the side, at least SMALLEST_TEXTURE, or vertex colours if the mesh
    has no textures, and the parts of its nearest faces. A level may have more triangles where simplification finds no
    collapse that preserves the surface. Deterministic. progress: called with the fraction done, 0 to 1; may raise, to
    cancel. Raises as `simplify` and `transfer_textures`.
    """
    levels = [mesh]
    # Without the splits of vertices along seams and creases.
    welded, _ = weld(mesh.mesh, 0.0)
    for level in range(1, options.levels):
        bar = scaled(progress, (level - 1) / (options.levels - 1), 1 / (options.levels - 1))
        faces = max(4, round(len(mesh.mesh.faces) * options.ratio**level))
        light = simplify(welded, faces, progress=scaled(bar, 0.0, 0.3))
        levels.append(_painted(light, mesh, level, options, scaled(bar, 0.3, 0.7)))
    return tuple(levels)


def _painted(light: Mesh, source: TexturedMesh, level: int, options: LodOptions, progress: Progress) -> TexturedMesh:
    if not source.textured:
        shaded, normals, _ = smooth_by_angle(light, options.crease_deg, progress=scaled(progress, 0.0, 0.3))
        if source.vertex_colors is None and len(source.materials) == 1:
            return with_parts_of(TexturedMesh(shaded, source.materials, normals=normals), source)
        return transfer_colors(shaded, source, normals=normals, progress=scaled(progress, 0.3, 0.7))
    mapped = any(material.normal_texture is not None for material in source.materials)
    side = max(SMALLEST_TEXTURE, _largest_side(source) >> level)
    return transfer_textures(
        light,
        source,
        BakeOptions(resolution=side, normal_map=mapped),
        keep_uv=False,
        gutter=options.gutter,
        crease_deg=options.crease_deg,
        progress=progress,
    )


def _largest_side(mesh: TexturedMesh) -> int:
    textures = [getattr(material, name) for material in mesh.materials for name in TEXTURE_CHANNELS]
    return max(max(texture.image.shape[:2]) for texture in textures if texture is not None)
