"""Hole filling by minimum-weight triangulation of boundary loops (after Liepa 2003), with curved (PN) patches.

Letters: P points of all loops, L loops, T triangles, N new points.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...core.progress import Progress, in_background
from ...core.vectors import cross, dot, length, unit
from ...ops.triangulate_loops import MAX_POINTS, triangulate_loops
from ...ops.triangulate_loops.reference import BEND, FLAT
from ...values import Mesh
from ..connectivity.manifold import split_surface
from ..connectivity.row_map import RowMap
from ..connectivity.surface import Surface, join_faces
from ..connectivity.topology import ValidMesh, check_mesh
from .hole_loops import Loops, find_loops

# Mean cosine between patch and rim normals below which a patch folds back onto an open sheet: no hole.
FOLDED = -0.5
# A loop whose area is below this share of its perimeter squared is a slit.
SLIT = 1e-6
# Patches with fewer rim edges stay flat.
CURVED_FROM = 8
# Subdivision of a triangle with corners 0 to 2 and points 3 to 5 on its sides, -1 for none: with zero to three split
# sides, and, last, with two split sides where the other diagonal is shorter.
NONE = (-1, -1, -1)
PIECES = (
    (0, 1, 2, *NONE, *NONE, *NONE),
    (0, 3, 2, 3, 1, 2, *NONE, *NONE),
    (3, 1, 4, 0, 3, 4, 0, 4, 2, *NONE),
    (0, 3, 5, 3, 1, 4, 5, 4, 2, 3, 4, 5),
    (3, 1, 4, 0, 3, 2, 3, 4, 2, *NONE),
)
# For the estimate of the time, on two CPU cores.
FACES_A_SECOND = 400_000
# Hash multiplier: ties between corners of equal cost are broken by hashed rows.
HASH = 0x9E3779B1


def fill_holes(
    mesh: Mesh,
    max_perimeter: float = 3e-2,
    curved: bool = True,
    *,
    backend: str = "auto",
    progress: Progress | None = None,
) -> tuple[Mesh, RowMap]:
    """Fills every hole with a perimeter of at most `max_perimeter`, in world units; returns (mesh, rows).

    mesh: [V, 3] float32 vertices, [F, 3] int32 or int64 faces. A hole is a closed loop of boundary edges. Its patch is
    the triangulation of least bending and edge length that duplicates no existing edge; loops of more than 128 edges
    are first reduced to 128 by ear clipping. `curved` adds a vertex in the middle of each inner edge of patches of 8
    edges or more, raised by the slope of the surrounding surface. Loops without a valid triangulation get a triangle
    fan around their centroid.

    Not filled: the outline of a single face or open sheet (its patch would fold back onto it), slits without area,
    loops along non-manifold edges. Weld first: unwelded seams are boundaries. Vertices and faces keep their rows; new
    rows follow. Patches follow the majority winding of their adjacent faces. Deterministic; backends ("auto", "numba",
    "reference") agree up to rounding. progress: called with the fraction done, 0 to 1; may raise, to cancel.
    Raises ValueError for a negative perimeter.
    """
    check_perimeter(max_perimeter)
    check_mesh(mesh)
    seconds = 1 + len(mesh.faces) / FACES_A_SECOND
    return in_background(lambda report: _filled(mesh, max_perimeter, curved, backend, report), progress, seconds)


def _filled(mesh: Mesh, max_perimeter: float, curved: bool, backend: str, report: Progress) -> tuple[Mesh, RowMap]:
    """`fill_holes` of a checked mesh."""
    faces = mesh.faces.to(torch.int64)
    surface = join_faces(mesh.vertices, faces, backend=backend)
    report(0.3)
    split, source, joined = split_surface(faces, len(mesh.vertices), surface, backend=backend)
    report(0.5)
    points, patch = hole_faces(mesh.vertices[source], split, joined, surface.seam, max_perimeter, curved, backend)
    source = torch.cat([source, len(mesh.vertices) + torch.arange(len(points), device=source.device)])
    return add_faces(mesh, RowMap.unchanged(mesh), points, source[patch])


def check_perimeter(max_perimeter: float) -> None:
    """Raises ValueError unless `max_perimeter` is 0 or more."""
    if not max_perimeter >= 0:
        raise ValueError(f"max_perimeter: expected 0 or more, got {max_perimeter}")


def add_faces(mesh: Mesh, rows: RowMap, points: Tensor, faces: Tensor) -> tuple[Mesh, RowMap]:
    """Appends vertices `points` [N, 3] float32 and `faces` [T, 3] integers to a mesh, and -1 rows to its map."""
    grown = ValidMesh(torch.cat([mesh.vertices, points]), torch.cat([mesh.faces, faces.to(mesh.faces.dtype)]))
    pairs = ((rows.vertices, points), (rows.faces, faces))
    return grown, RowMap(*(torch.cat([row, row.new_full((len(new),), -1)]) for row, new in pairs))


def hole_faces(
    vertices: Tensor, faces: Tensor, surface: Surface, skip: Tensor, max_perimeter: float, curved: bool, backend: str
) -> tuple[Tensor, Tensor]:
    """Computes the patches of all holes: (new points [N, 3] float32, triangles [T, 3] int64).

    vertices: [V, 3] float32.  faces: [F, 3] int64.  skip: [S] int64 half-edges; loops that contain one are not filled.
    Triangles index the vertices followed by the new points. Other arguments as `find_loops` and `fill_holes`.
    """
    loops = find_loops(vertices, faces, surface, skip, max_perimeter)
    triangles, solved = _triangulate(loops, backend)
    centers, fans = _centroid_fans(loops, ~solved)
    points, triangles = torch.cat([loops.points, centers]), torch.cat([triangles, fans])
    owner = loops.loop[triangles[:, 0]]
    valid = _is_valid_patch(loops, points, triangles, owner)[owner]
    triangles, owner = triangles[valid], owner[valid]
    if curved:
        points, triangles, owner = _curve_patches(loops, points, triangles, owner)
    (a, b, c), flipped = triangles.unbind(1), loops.flipped[owner]
    triangles = torch.stack([a, torch.where(flipped, c, b), torch.where(flipped, b, c)], 1)
    new = points[len(loops.points) :]
    used = torch.zeros(len(points), dtype=torch.bool)
    used[triangles.flatten()] = True
    used = used[len(loops.points) :]
    row = torch.cat([loops.vertex, len(vertices) + used.cumsum(0) - 1])
    return new[used].to(vertices), row[triangles].to(faces.device)


def _triangulate(loops: Loops, backend: str) -> tuple[Tensor, Tensor]:
    """(triangles [T, 3] int64, rows of the loops' points; mask [L] bool of the loops that have a triangulation)."""
    row, rim, cut = _clip_ears(loops)
    size = torch.bincount(loops.loop[row], minlength=len(loops.sizes))
    short = size <= MAX_POINTS
    row = row[short[loops.loop[row]]]
    number = torch.full_like(loops.vertex, -1).scatter_(0, row, torch.arange(len(row)))
    joined = number[loops.joined]
    start = torch.cat([size.new_zeros(1), size[short].cumsum(0)])
    inner, found = triangulate_loops(loops.points[row], rim[row], start, joined[(joined >= 0).all(1)], backend=backend)
    solved = short.masked_scatter(short, found)
    triangles = torch.cat([cut, row[inner]])
    return triangles[solved[loops.loop[triangles[:, 0]]]], solved


def _clip_ears(loops: Loops) -> tuple[Tensor, Tensor, Tensor]:
    """Ear clipping of long loops: (rows [N] of the remaining points, rim [P, 3], clipped triangles [T, 3]).

    Each round clips all convex corners that cost less than both their neighbours.
    """
    rim, left, parts = loops.rim.clone(), torch.ones_like(loops.vertex, dtype=torch.bool), []
    row = (loops.sizes > MAX_POINTS)[loops.loop].nonzero().squeeze(1)
    existing = loops.joined.sort(1).values @ torch.tensor([len(left), 1]) if len(row) else row
    while len(row):
        loop = loops.loop[row]
        size = torch.bincount(loop, minlength=len(loops.sizes))
        begin = size.cumsum(0) - size
        position = torch.arange(len(row)) - begin[loop]
        before, after = (begin[loop] + (position + step) % size[loop] for step in (-1, 1))
        a, b, c = row[before], row, row[after]
        cost, normal = _corner_cost(loops.points[a], loops.points[b], loops.points[c], rim[a], rim[b])
        is_existing = torch.isin(torch.minimum(a, c) * len(left) + torch.maximum(a, c), existing)
        cost = cost.masked_fill(is_existing | (size <= MAX_POINTS)[loop], torch.inf)
        hashed = row * HASH % (1 << 32)
        cheaper = [(cost < cost[at]) | ((cost == cost[at]) & (hashed < hashed[at])) for at in (before, after)]
        cut = cost.isfinite() & cheaper[0] & cheaper[1]
        parts.append(torch.stack([a, b, c], 1)[cut])
        rim[a[cut]], left[b[cut]] = normal[cut], False
        row = row[~cut] if bool(cut.any()) else row[:0]
    return left.nonzero().squeeze(1), rim, torch.cat([loops.start.new_zeros(0, 3), *parts])


def _corner_cost(a: Tensor, b: Tensor, c: Tensor, rim_a: Tensor, rim_b: Tensor) -> tuple[Tensor, Tensor]:
    """(cost [N] of clipping corner b, infinite if reflex or flat; triangle normals [N, 3]); all inputs [N, 3]."""
    normal = unit(cross(b - a, c - a))
    bends = [1 - dot(normal, rim) for rim in (rim_a, rim_b)]
    sides = [dot(side, side) for side in (b - a, c - b, c - a)]
    cost = sides[0] + sides[1] + sides[2] + BEND * (sides[0] * bends[0] + sides[1] * bends[1])
    flat = length(cross(b - a, c - a)) <= FLAT * sides[0].maximum(sides[1]).maximum(sides[2])
    return cost.masked_fill(flat | (bends[0] > 1) | (bends[1] > 1), torch.inf), normal


def _normals(points: Tensor, triangles: Tensor) -> Tensor:
    """Normals [T, 3] of triangles [T, 3], of twice their area."""
    a, b, c = points[triangles].unbind(1)
    return cross(b - a, c - a)


def _centroid_fans(loops: Loops, needed: Tensor) -> tuple[Tensor, Tensor]:
    """(centroids [N, 3] of the loops in the mask `needed` [L] bool, triangle fans [T, 3] around them)."""
    loop = needed.nonzero().squeeze(1)
    sums = torch.zeros(len(needed), 3, dtype=torch.float64).index_add_(0, loops.loop, loops.points)
    centers = (sums / loops.sizes[:, None])[loop]
    row = needed[loops.loop].nonzero().squeeze(1)
    apex = len(loops.points) + (needed.cumsum(0) - 1)[loops.loop[row]]
    return centers, torch.stack([row, loops.following[row], apex], 1)


def _is_valid_patch(loops: Loops, points: Tensor, triangles: Tensor, owner: Tensor) -> Tensor:
    """Mask [L] bool of the loops whose patch is no slit and does not fold back onto the adjacent surface."""
    nothing = torch.zeros(len(loops.sizes), dtype=torch.float64)
    size = length(loops.points[loops.following] - loops.points)
    perimeter = nothing.index_add(0, loops.loop, size)
    normals = _normals(points, triangles)
    area = torch.stack([nothing.index_add(0, owner, part) for part in (normals / 2).unbind(1)], 1)
    side, face = _on_rim(loops, points, triangles).T.nonzero(as_tuple=True)
    row = triangles[face, side]
    bends = size[row] * dot(unit(normals)[face], loops.rim[row])
    agreement = nothing.index_add(0, owner[face], bends)
    return (length(area) > SLIT * perimeter * perimeter) & (agreement > FOLDED * perimeter)


def _on_rim(loops: Loops, points: Tensor, triangles: Tensor) -> Tensor:
    """Mask [T, 3] bool of the triangle sides on a loop, from one of its points to the next."""
    beyond = loops.following.new_full((len(points) - len(loops.vertex),), -1)
    return torch.cat([loops.following, beyond])[triangles] == triangles.roll(-1, 1)


def _curve_patches(loops: Loops, points: Tensor, triangles: Tensor, owner: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Adds the middle point of each inner edge of the larger loops; returns (points, triangles, owner).

    The point lies on the cubic edge curve of a PN triangle (Vlachos et al. 2001), tangent to the surface at both ends.
    owner: [T] int64, the loop of each triangle.
    """
    count = len(loops.vertex)
    head = triangles.roll(-1, 1)
    low, high = triangles.minimum(head), triangles.maximum(head)
    larger = (loops.sizes >= CURVED_FROM)[owner][:, None]
    chord = larger & (high < count) & ~_on_rim(loops, points, triangles)
    pair, row = (low * count + high)[chord].unique(return_inverse=True)
    middle = torch.full_like(triangles, -1).masked_scatter_(chord, len(points) + row)
    before = torch.empty_like(loops.following).scatter_(0, loops.following, torch.arange(count))
    slope = unit(loops.rim + loops.rim[before])
    i, j = pair // count, pair % count
    a, b, n, m = points[i], points[j], slope[i], slope[j]
    lift = n * dot(b - a, n)[:, None] - m * dot(b - a, m)[:, None]
    points = torch.cat([points, (a + b) / 2 - lift / 8])
    return points, *_subdivide(points, triangles, middle, owner)


def _subdivide(points: Tensor, triangles: Tensor, middle: Tensor, owner: Tensor) -> tuple[Tensor, Tensor]:
    """Splits triangles [T, 3] at points `middle` [T, 3] on their sides, -1 for unsplit sides; (triangles, owner)."""
    cut = middle >= 0
    cuts = cut.sum(1)
    # Rotate so that a single split side comes first, and a single unsplit side last.
    shift = torch.where(cuts == 1, cut.int().argmax(1), (~cut).int().argmax(1) + 1)
    side = (shift[:, None] + torch.arange(3)) % 3
    corners = torch.cat([triangles.gather(1, side), middle.gather(1, side)], 1)
    a, _, c, ab, bc, _ = corners.unbind(1)
    longer = length(points[a] - points[bc]) > length(points[ab] - points[c])
    parts = torch.tensor(PIECES)[torch.where(cuts == 2, 2 + 2 * longer, cuts)]
    kept = (parts[:, ::3] >= 0).flatten().nonzero().squeeze(1)
    return corners.gather(1, parts.clamp_min(0)).reshape(-1, 3)[kept], owner[kept // 4]
