"""The choice of what becomes of a cleaned surface, by its own figures: keep it, drop its inside, or wrap it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.progress import Progress, scaled, silent
from ...values import Mesh
from ..connectivity.components import face_components
from ..connectivity.row_map import select_faces
from ..connectivity.topology import ValidMesh, edges
from .hidden import area_share, hidden_faces

# A decoder's surface and a voxelised assembly have several per cent of both; modelled and scanned ones, and single
# sheets, next to none of the first.
RAGGED_JOINTS, RAGGED_RIMS = 0.01, 0.01
# Area that nobody sees, from which on removing it pays.
BURIED = 0.02
# Directions that look for buried faces; fewer than `remove_hidden_faces` takes, it is one question of several.
DIRECTIONS = 64
# Voxels along the longest side for each square root of a wanted triangle: a triangle's edge is then about three voxels.
VOXELS_A_ROOT = 1.15
LEAST_VOXELS, VOXEL_STEP = 160, 32
# Holes of a ragged surface up to this part of its longest side are closed before its inside is flooded.
GAP = 0.025


@dataclass(frozen=True)
class SurfaceFigures:
    """What a surface is like. parts: sets of connected faces.  rims: share of edges with one face, after cleaning.
    joints: share of edges with more than two faces, before cleaning.  buried: share of the area that is not seen from
    outside, below BURIED an upper bound; None if not measured. Shares are 0 to 1.
    """

    parts: int
    rims: float
    joints: float
    buried: float | None = None

    @property
    def ragged(self) -> bool:
        """Whether sheets meet and end all over it, so that it has no clear inside."""
        return self.joints >= RAGGED_JOINTS and self.rims >= RAGGED_RIMS

    def __str__(self) -> str:
        share = "" if self.buried is None else f"{self.buried:.1%}" if self.buried >= BURIED else f"under {BURIED:.0%}"
        buried = f", {share} of the area hidden" if share else ""
        return (
            f"{self.parts:,} part{'' if self.parts == 1 else 's'}, {self.rims:.1%} open and {self.joints:.1%} "
            f"non-manifold edges{buried}"
        )


@dataclass(frozen=True, eq=False)
class Choice:
    """surface: "cleaned", "hidden removed" or "outer shell".  why: one sentence for the user.
    hidden: mask [F] bool of the faces to remove for "hidden removed", else None.
    """

    surface: str
    why: str
    hidden: Tensor | None = None


def measure(raw: Mesh, cleaned: Mesh) -> SurfaceFigures:
    """Measures a surface before and after `clean`, faces [F, 3] of each; does not look for buried area."""
    checked = ValidMesh(raw.vertices, raw.faces)  # by `clean`
    before, after = edges(checked).sizes, edges(cleaned).sizes
    parts = len(face_components(cleaned).unique())
    return SurfaceFigures(parts, _share(after == 1), _share(before > 2))


def choose_surface(raw: Mesh, cleaned: Mesh, *, progress: Progress = silent) -> Choice:
    """Chooses the surface to make an asset from, of a mesh before and after `clean`: [V, 3] vertices, [F, 3] faces.

    Sheets that meet and end all over it: "outer shell". A noticeable part of the area hidden, and dropping it opens
    little: "hidden removed". Otherwise "cleaned": also a single sheet, or a scan with a border. Deterministic.
    progress: called with the fraction done.
    """
    figures = measure(raw, cleaned)
    progress(0.1)
    if figures.ragged:
        return Choice("outer shell", f"outer shell chosen: {figures}")
    if figures.parts == 1 and figures.joints == 0:  # one sheet or solid hides nothing of itself but folds
        return Choice("cleaned", f"surface kept as cleaned: {figures}")
    bar = scaled(progress, 0.1, 0.8)
    hidden = hidden_faces(cleaned, directions=DIRECTIONS, enough=1 - BURIED, progress=bar)
    buried = area_share(cleaned, hidden)
    figures = SurfaceFigures(figures.parts, figures.rims, figures.joints, buried)
    if buried < BURIED:
        return Choice("cleaned", f"surface kept as cleaned: {figures}")
    opened = _share(edges(select_faces(cleaned, ~hidden)[0]).sizes == 1)
    progress(1.0)
    if opened - figures.rims < RAGGED_RIMS or figures.joints < RAGGED_JOINTS:
        return Choice("hidden removed", f"hidden faces removed: {figures}", hidden)
    return Choice(
        "outer shell", f"outer shell chosen: {figures}, and removing that would open {opened:.1%} of the edges"
    )


def shell_resolution(faces: int, most: int) -> int:
    """Voxels along the longest side that a shell of `faces` triangles after simplification needs, up to `most`."""
    wanted = VOXELS_A_ROOT * faces**0.5
    return max(8, min(most, max(LEAST_VOXELS, VOXEL_STEP * round(wanted / VOXEL_STEP))))


def _share(mask: Tensor) -> float:
    return float(mask.to(torch.float64).mean()) if len(mask) else 0.0
