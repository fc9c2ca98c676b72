"""A raw mesh made fit for simplification, unwrapping and baking: each repair, and all of them in one go."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.progress import Progress, silent
from ...values import Mesh
from ..connectivity.components import check_limits, large_enough
from ..connectivity.manifold import split_surface
from ..connectivity.row_map import RowMap, select_faces
from ..connectivity.surface import has_twin_corners, join_faces, proper_edges, select_surface
from ..connectivity.topology import ValidMesh, check_mesh, origins, preceding
from ..connectivity.weld import close_vertices
from .fill_holes import add_faces, check_perimeter, hole_faces
from .orient import OUTWARD, faces_to_turn, turn, turn_surface


@dataclass(frozen=True, kw_only=True)
class CleanOptions:
    """What `clean` does. Lengths are in world units.

    weld_distance: see `weld`.  min_area_share, min_faces, keep_largest: see `remove_small_components`.  outward: see
    `orient`.  max_hole_perimeter, curved_fill: see `fill_holes`; 0 fills nothing.
    """

    weld_distance: float = 1e-6
    min_area_share: float = 1e-5
    min_faces: int = 0
    keep_largest: int | None = None
    outward: str = "volume"
    max_hole_perimeter: float = 3e-2
    curved_fill: bool = True

    def __post_init__(self) -> None:
        check_distance(self.weld_distance)
        check_limits(self.min_area_share, self.min_faces, self.keep_largest)
        check_perimeter(self.max_hole_perimeter)
        if self.outward not in OUTWARD:
            raise ValueError(f"outward: expected one of {list(OUTWARD)}, got {self.outward!r}")


def check_distance(distance: float) -> None:
    """Raises ValueError for a distance that `weld` does not take."""
    if not 0 <= distance < float("inf"):
        raise ValueError(f"weld distance: expected 0 or more, got {distance}")


def weld(mesh: Mesh, distance: float = 1e-6, *, backend: str = "auto") -> tuple[Mesh, RowMap]:
    """The mesh with vertices that lie within `distance` of each other, in world units, made one.

    Vertices that a chain of such steps joins become one, the first of them, which stays where it is. 0 joins vertices
    at the very same place. Faces keep their rows; one whose corners were joined names a vertex twice (see
    `remove_degenerate_faces`). The cost grows with the pairs of vertices within twice the distance. Deterministic;
    backends "auto", "numba", "reference". Raises ValueError for a negative distance.
    """
    check_distance(distance)
    label = close_vertices(check_mesh(mesh).vertices, distance, backend=backend)
    first = label == torch.arange(len(label), device=label.device)
    number = (first.cumsum(0) - 1)[label].to(mesh.faces.dtype)
    vertices = first.nonzero().squeeze(1)
    faces = torch.arange(len(mesh.faces), device=label.device)
    return ValidMesh(mesh.vertices[vertices], number[mesh.faces]), RowMap(vertices, faces)


def remove_degenerate_faces(mesh: Mesh) -> tuple[Mesh, RowMap]:
    """The mesh without faces that name a vertex twice, and without vertices that no face uses.

    A face of three vertices on a line stays: without it the mesh would be open there.
    """
    return select_faces(mesh, ~has_twin_corners(check_mesh(mesh).faces))


def remove_duplicate_faces(mesh: Mesh, *, backend: str = "auto") -> tuple[Mesh, RowMap]:
    """The mesh with one face, the first, for each set of three vertices, however wound; without unused vertices.

    Faces that name a vertex twice all stay.
    Deterministic; the same on every backend ("auto", "numba", "reference").
    """
    faces = check_mesh(mesh).faces.to(torch.int64)
    return select_faces(mesh, ~_duplicates(faces, *proper_edges(faces, len(mesh.vertices), backend)))


def remove_unused_vertices(mesh: Mesh) -> tuple[Mesh, RowMap]:
    """The mesh without vertices that no face uses."""
    return select_faces(check_mesh(mesh), torch.ones_like(mesh.faces[:, 0], dtype=torch.bool))


def _duplicates(faces: Tensor, order: Tensor, start: Tensor) -> Tensor:
    """Faces [F] bool with the same vertices as an earlier one; order, start: their `proper_edges`."""
    size = start.diff()
    pair = start[:-1][size == 2]
    first, second = order[pair], order[pair + 1]
    equal = origins(faces)[preceding(first)] == origins(faces)[preceding(second)]
    edge = torch.repeat_interleave(torch.arange(len(size), device=size.device)[size > 2], size[size > 2])
    half = order[torch.repeat_interleave(size > 2, size)]
    tip = origins(faces)[preceding(half)]
    by_tip = tip.sort(stable=True).indices
    by_tip = by_tip[edge[by_tip].sort(stable=True).indices]
    edge, half, tip = edge[by_tip], half[by_tip], tip[by_tip]
    again = (edge[1:] == edge[:-1]) & (tip[1:] == tip[:-1])
    found = torch.zeros(len(faces), dtype=torch.bool, device=faces.device)
    found[torch.cat([second[equal], half[1:][again]]) // 3] = True
    return found


def clean(
    mesh: Mesh, options: CleanOptions = CleanOptions(), *, progress: Progress | None = None, backend: str = "auto"
) -> tuple[Mesh, RowMap]:
    """The mesh made a set of oriented surfaces: every edge with one or two faces, that wind alike.

    In order: vertices welded; faces that name a vertex twice, and later ones of the same three vertices, removed;
    non-manifold edges and vertices, and strips that no winding fits, split; small components removed; faces wound alike
    with their front outside; small holes filled; unused vertices removed. What stays keeps its order, and what is new
    follows. Each step is also a function of its own.

    progress: called with the part done, 0 to 1, after every step; what it raises ends the work and reaches the caller.
    Deterministic; the same on every backend ("auto", "numba", "reference"), but for the rounding of patches.
    Raises ValueError for vertices that are not finite and faces that name none.
    """
    report = progress or silent
    faces = check_mesh(mesh).faces.to(torch.int64)
    row = torch.arange(len(faces), device=faces.device)
    if len(faces):
        faces = close_vertices(mesh.vertices, options.weld_distance, backend=backend)[faces]
    report(0.15)
    faces, row, matched = _distinct_faces(faces, row, len(mesh.vertices), backend)
    report(0.3)
    surface = join_faces(mesh.vertices, faces, matched, backend=backend)
    faces, source, surface = split_surface(faces, len(mesh.vertices), surface, backend=backend)
    report(0.6)
    vertices = mesh.vertices[source]
    limits = options.min_area_share, options.min_faces, options.keep_largest
    kept = large_enough(vertices, faces, surface.label, *limits).nonzero().squeeze(1)
    faces, row, surface = faces[kept], row[kept], select_surface(surface, kept)
    report(0.7)
    flip = faces_to_turn(vertices, faces, surface, options.outward)
    faces, surface = turn(faces, flip), turn_surface(surface, flip)
    report(0.85)
    patches = hole_faces(vertices, faces, surface, row[:0], options.max_hole_perimeter, options.curved_fill, backend)
    whole = ValidMesh(vertices, faces.to(mesh.faces.dtype))
    whole, rows = add_faces(whole, RowMap(source, row), *patches)
    whole, used = remove_unused_vertices(whole)
    report(1.0)
    return whole, used.after(rows)


def _distinct_faces(
    faces: Tensor, row: Tensor, vertex_count: int, backend: str
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    """(faces, rows of them, their edges) without those that name a vertex twice or repeat an earlier one."""
    proper = ~has_twin_corners(faces)
    if not bool(proper.all()):
        faces, row = faces[proper], row[proper]
    matched = proper_edges(faces, vertex_count, backend)
    again = _duplicates(faces, *matched)
    if bool(again.any()):
        faces, row = faces[~again], row[~again]
        matched = proper_edges(faces, vertex_count, backend)
    return faces, row, matched
