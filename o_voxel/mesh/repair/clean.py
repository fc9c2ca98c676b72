"""Mesh cleanup before simplification, unwrapping and baking: single repairs, and `clean`, which runs all of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.progress import Progress, in_background
from ...values import Mesh
from ..connectivity.components import check_limits, large_enough
from ..connectivity.manifold import split_surface
from ..connectivity.row_map import RowMap, select_faces
from ..connectivity.surface import edge_halves, has_twin_corners, join_faces, proper_edges, select_surface
from ..connectivity.topology import ValidMesh, check_mesh, origins, preceding
from ..connectivity.weld import close_vertices
from .fill_holes import add_faces, check_perimeter, hole_faces
from .orient import OUTWARD, faces_to_turn, turn, turn_surface

# For the estimate of the time, on two CPU cores.
FACES_A_SECOND = 300_000


@dataclass(frozen=True, kw_only=True)
class CleanOptions:
    """Options of `clean`. Lengths are in world units.

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
    """Raises ValueError unless `distance` is finite and 0 or more."""
    if not 0 <= distance < float("inf"):
        raise ValueError(f"weld distance: expected 0 or more, got {distance}")


def weld(mesh: Mesh, distance: float = 1e-6, *, backend: str = "auto") -> tuple[Mesh, RowMap]:
    """Merges vertices within `distance` of each other, in world units; returns (mesh, rows).

    mesh: [V, 3] float32 vertices, [F, 3] int32 or int64 faces. Chains of such vertices merge into their first vertex,
    whose position is kept (single linkage). 0 merges coincident vertices. Faces keep their rows; those with merged
    corners become degenerate (see `remove_degenerate_faces`). Cost grows with the number of vertex pairs within twice
    the distance. Deterministic; backends "auto", "numba", "reference". Raises ValueError for a negative distance.
    """
    check_distance(distance)
    label = close_vertices(check_mesh(mesh).vertices, distance, backend=backend)
    first = label == torch.arange(len(label), device=label.device)
    number = (first.cumsum(0) - 1)[label].to(mesh.faces.dtype)
    vertices = first.nonzero().squeeze(1)
    faces = torch.arange(len(mesh.faces), device=label.device)
    return ValidMesh(mesh.vertices[vertices], number[mesh.faces]), RowMap(vertices, faces)


def remove_degenerate_faces(mesh: Mesh) -> tuple[Mesh, RowMap]:
    """Removes faces with a repeated vertex, and unreferenced vertices; returns (mesh, rows).

    mesh: [V, 3] float32 vertices, [F, 3] int32 or int64 faces. Faces with three collinear vertices are kept: removing
    them would open the mesh.
    """
    return select_faces(mesh, ~has_twin_corners(check_mesh(mesh).faces))


def remove_duplicate_faces(mesh: Mesh, *, backend: str = "auto") -> tuple[Mesh, RowMap]:
    """Removes faces with the same vertices as an earlier face, in any winding, and unreferenced vertices.

    mesh: [V, 3] float32 vertices, [F, 3] int32 or int64 faces. Degenerate faces are kept. Returns (mesh, rows).
    Deterministic; identical on every backend ("auto", "numba", "reference").
    """
    faces = check_mesh(mesh).faces.to(torch.int64)
    return select_faces(mesh, ~_duplicates(faces, *proper_edges(faces, len(mesh.vertices), backend)))


def remove_unused_vertices(mesh: Mesh) -> tuple[Mesh, RowMap]:
    """Removes vertices that no face uses; [V, 3] vertices, [F, 3] faces. Returns (mesh, rows)."""
    return select_faces(check_mesh(mesh), torch.ones_like(mesh.faces[:, 0], dtype=torch.bool))


def _duplicates(faces: Tensor, order: Tensor, start: Tensor) -> Tensor:
    """Mask [F] bool of faces [F, 3] with the same vertices as an earlier one; order, start: their `proper_edges`."""
    size = start.diff()
    pair = start[(size == 2).nonzero().squeeze(1)]
    first, second = order[pair], order[pair + 1]
    equal = origins(faces)[preceding(first)] == origins(faces)[preceding(second)]
    crowded = (size > 2).nonzero().squeeze(1)
    edge, half = torch.repeat_interleave(crowded, size[crowded]), edge_halves(order, start, crowded)
    tip = origins(faces)[preceding(half)]
    by_tip = tip.sort(stable=True).indices
    by_tip = by_tip[edge[by_tip].sort(stable=True).indices]
    edge, half, tip = edge[by_tip], half[by_tip], tip[by_tip]
    duplicate = (edge[1:] == edge[:-1]) & (tip[1:] == tip[:-1])
    found = torch.zeros(len(faces), dtype=torch.bool, device=faces.device)
    found[torch.cat([second[equal], half[1:][duplicate]]) // 3] = True
    return found


def clean(
    mesh: Mesh, options: CleanOptions = CleanOptions(), *, progress: Progress | None = None, backend: str = "auto"
) -> tuple[Mesh, RowMap]:
    """Repairs a mesh into consistently oriented manifold surfaces; returns (mesh, rows).

    mesh: [V, 3] float32 vertices, [F, 3] int32 or int64 faces. Steps, each also a public function: weld vertices;
    remove degenerate and duplicate faces; split non-manifold edges and vertices and non-orientable strips; remove small
    components; orient faces consistently and outward; fill small holes; remove unreferenced vertices. Every edge ends
    up with one or two faces of the same winding. Kept rows keep their order; new rows follow.

    progress: called with the fraction done, 0 to 1, after every step and meanwhile; its exceptions propagate.
    Deterministic; identical on every backend ("auto", "numba", "reference"), except for the rounding of hole patches.
    Raises ValueError for non-finite vertices or face indices out of range.
    """
    check_mesh(mesh)
    seconds = 1 + len(mesh.faces) / FACES_A_SECOND
    return in_background(lambda report: _clean(mesh, options, backend, report), progress, seconds)


def _clean(mesh: Mesh, options: CleanOptions, backend: str, report: Progress) -> tuple[Mesh, RowMap]:
    """`clean` of a checked mesh."""
    faces = mesh.faces.to(torch.int64)
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
    cleaned = ValidMesh(vertices, faces.to(mesh.faces.dtype))
    cleaned, rows = add_faces(cleaned, RowMap(source, row), *patches)
    cleaned, used = remove_unused_vertices(cleaned)
    report(1.0)
    return cleaned, used.after(rows)


def _distinct_faces(
    faces: Tensor, row: Tensor, vertex_count: int, backend: str
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    """Drops degenerate and duplicate faces; returns (faces [F, 3], input rows [F], their `proper_edges`)."""
    proper = ~has_twin_corners(faces)
    if not bool(proper.all()):
        kept = proper.nonzero().squeeze(1)
        faces, row = faces[kept], row[kept]
    matched = proper_edges(faces, vertex_count, backend)
    duplicate = _duplicates(faces, *matched)
    if bool(duplicate.any()):
        kept = (~duplicate).nonzero().squeeze(1)
        faces, row, matched = faces[kept], row[kept], _edges_without(duplicate, *matched)
    return faces, row, matched


def _edges_without(gone: Tensor, order: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    """The `proper_edges` of the faces not in `gone` [F] bool, from those of all, which are not sorted again."""
    number = (~gone).cumsum(0) - 1
    stays = ~gone[order // 3]
    start = torch.cat([start.new_zeros(1), stays.cumsum(0)])[start]
    order = order[stays.nonzero().squeeze(1)]
    filled = start.diff().nonzero().squeeze(1)
    return 3 * number[order // 3] + order % 3, torch.cat([start[filled], start[-1:]])
