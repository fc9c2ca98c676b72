"""Close the small holes of a mesh with patches that follow the surface around them."""

from __future__ import annotations

import torch
from torch import Tensor

from ...core.vectors import cross, dot, length, unit
from ...ops.triangulate_loops import MAX_POINTS, triangulate_loops
from ...ops.triangulate_loops.reference import BEND, FLAT
from ...values import Mesh
from ..connectivity.manifold import split_surface
from ..connectivity.row_map import RowMap
from ..connectivity.surface import Surface, join_faces
from ..connectivity.topology import ValidMesh, check_mesh
from .hole_loops import Loops, find_loops

# A patch that lies back on the surface around it closes the outline of a sheet, not a hole: mean cosine at its rim.
FOLDED = -0.5
# A loop whose area is below this share of its perimeter squared is a slit.
SLIT = 1e-6
# Patches of fewer edges stay flat.
CURVED_FROM = 8
# The triangles that one with corners 0 to 2 and new points 3 to 5 on its sides is cut into, -1 for none: with none to
# three sides cut, and, last, with two where the other diagonal is shorter.
NONE = (-1, -1, -1)
PIECES = (
    (0, 1, 2, *NONE, *NONE, *NONE),
    (0, 3, 2, 3, 1, 2, *NONE, *NONE),
    (3, 1, 4, 0, 3, 4, 0, 4, 2, *NONE),
    (0, 3, 5, 3, 1, 4, 5, 4, 2, 3, 4, 5),
    (3, 1, 4, 0, 3, 2, 3, 4, 2, *NONE),
)
# Corners of equal cost are told apart by their rows, well mixed.
MIX = 0x9E3779B1


def fill_holes(
    mesh: Mesh, max_perimeter: float = 3e-2, curved: bool = True, *, backend: str = "auto"
) -> tuple[Mesh, RowMap]:
    """The mesh with a patch in every hole of at most `max_perimeter`, in world units.

    A hole is a loop of edges with one face. Its patch is the triangulation that bends least and has the best shapes, of
    those that add no edge twice to a surface; of a loop of more than 128 edges, corners are cut off first until 128 are
    left. `curved` gives patches of 8 edges or more a vertex in the middle of each inner edge, raised by the slopes of
    the surface around. Where no triangulation fits, the loop's centre becomes a vertex.

    Not closed: the outline of a lone face or open sheet (its patch would lie back on the sheet), slits without area,
    loops along edges of more than two faces. Weld first: along unwelded seams every face ends. Vertices and faces keep
    their rows; new ones follow. Patches wind like most faces around them. Deterministic; backends ("auto", "numba",
    "reference") agree but for rounding. Raises ValueError for a negative perimeter.
    """
    check_perimeter(max_perimeter)
    faces = check_mesh(mesh).faces.to(torch.int64)
    surface = join_faces(mesh.vertices, faces, backend=backend)
    split, source, joined = split_surface(faces, len(mesh.vertices), surface, backend=backend)
    points, patch = hole_faces(mesh.vertices[source], split, joined, surface.seam, max_perimeter, curved, backend)
    source = torch.cat([source, len(mesh.vertices) + torch.arange(len(points), device=source.device)])
    return add_faces(mesh, RowMap.unchanged(mesh), points, source[patch])


def check_perimeter(max_perimeter: float) -> None:
    """Raises ValueError for a perimeter that `fill_holes` does not take."""
    if not max_perimeter >= 0:
        raise ValueError(f"max_perimeter: expected 0 or more, got {max_perimeter}")


def add_faces(mesh: Mesh, rows: RowMap, points: Tensor, faces: Tensor) -> tuple[Mesh, RowMap]:
    """`mesh` and its rows with vertices `points` [N, 3] and `faces` [T, 3] after those that are there."""
    grown = ValidMesh(torch.cat([mesh.vertices, points]), torch.cat([mesh.faces, faces.to(mesh.faces.dtype)]))
    pairs = ((rows.vertices, points), (rows.faces, faces))
    return grown, RowMap(*(torch.cat([row, row.new_full((len(new),), -1)]) for row, new in pairs))


def hole_faces(
    vertices: Tensor, faces: Tensor, surface: Surface, shut: Tensor, max_perimeter: float, curved: bool, backend: str
) -> tuple[Tensor, Tensor]:
    """(points [N, 3] float32, patches [T, 3] int64) that close the holes; the points are the vertices after the last.

    `find_loops` has the arguments, and `fill_holes` the last two.
    """
    loops = find_loops(vertices, faces, surface, shut, max_perimeter)
    triangles, whole = _triangulate(loops, backend)
    centers, fans = _fans(loops, ~whole)
    points, triangles = torch.cat([loops.points, centers]), torch.cat([triangles, fans])
    owner = loops.loop[triangles[:, 0]]
    fits = _fits(loops, points, triangles, owner)[owner]
    triangles, owner = triangles[fits], owner[fits]
    if curved:
        points, triangles, owner = _curve(loops, points, triangles, owner)
    (a, b, c), turned = triangles.unbind(1), loops.turned[owner]
    triangles = torch.stack([a, torch.where(turned, c, b), torch.where(turned, b, c)], 1)
    new = points[len(loops.points) :]
    used = torch.zeros(len(points), dtype=torch.bool)
    used[triangles.flatten()] = True
    used = used[len(loops.points) :]
    row = torch.cat([loops.vertex, len(vertices) + used.cumsum(0) - 1])
    return new[used].to(vertices), row[triangles].to(faces.device)


def _triangulate(loops: Loops, backend: str) -> tuple[Tensor, Tensor]:
    """(triangles [T, 3], rows of the loops' points; whether each loop has some [L])."""
    row, rim, cut = _shorten(loops)
    size = torch.bincount(loops.loop[row], minlength=len(loops.sizes))
    short = size <= MAX_POINTS
    row = row[short[loops.loop[row]]]
    number = torch.full_like(loops.vertex, -1).scatter_(0, row, torch.arange(len(row)))
    joined = number[loops.joined]
    start = torch.cat([size.new_zeros(1), size[short].cumsum(0)])
    inner, found = triangulate_loops(loops.points[row], rim[row], start, joined[(joined >= 0).all(1)], backend=backend)
    whole = short.masked_scatter(short, found)
    triangles = torch.cat([cut, row[inner]])
    return triangles[whole[loops.loop[triangles[:, 0]]]], whole


def _shorten(loops: Loops) -> tuple[Tensor, Tensor, Tensor]:
    """(rows [N] of points, rim [P, 3], triangles [T, 3]): what is left of long loops, and the corners cut off.

    In each round corners that point into the hole, and cost less than both of their neighbours, are cut off.
    """
    rim, left, parts = loops.rim.clone(), torch.ones_like(loops.vertex, dtype=torch.bool), []
    row = (loops.sizes > MAX_POINTS)[loops.loop].nonzero().squeeze(1)
    bars = loops.joined.sort(1).values @ torch.tensor([len(left), 1]) if len(row) else row
    while len(row):
        loop = loops.loop[row]
        size = torch.bincount(loop, minlength=len(loops.sizes))
        begin = size.cumsum(0) - size
        place = torch.arange(len(row)) - begin[loop]
        before, after = (begin[loop] + (place + step) % size[loop] for step in (-1, 1))
        a, b, c = row[before], row, row[after]
        cost, normal = _corner_cost(loops.points[a], loops.points[b], loops.points[c], rim[a], rim[b])
        barred = torch.isin(torch.minimum(a, c) * len(left) + torch.maximum(a, c), bars)
        cost = cost.masked_fill(barred | (size <= MAX_POINTS)[loop], torch.inf)
        mixed = row * MIX % (1 << 32)
        cheaper = [(cost < cost[at]) | ((cost == cost[at]) & (mixed < mixed[at])) for at in (before, after)]
        cut = cost.isfinite() & cheaper[0] & cheaper[1]
        parts.append(torch.stack([a, b, c], 1)[cut])
        rim[a[cut]], left[b[cut]] = normal[cut], False
        row = row[~cut] if bool(cut.any()) else row[:0]
    return left.nonzero().squeeze(1), rim, torch.cat([loops.start.new_zeros(0, 3), *parts])


def _corner_cost(a: Tensor, b: Tensor, c: Tensor, rim_a: Tensor, rim_b: Tensor) -> tuple[Tensor, Tensor]:
    """(what cutting off each corner b costs [N], infinite where it turns outward; the normals [N, 3])."""
    normal = unit(cross(b - a, c - a))
    bends = [1 - dot(normal, rim) for rim in (rim_a, rim_b)]
    sides = [dot(side, side) for side in (b - a, c - b, c - a)]
    cost = sides[0] + sides[1] + sides[2] + BEND * (sides[0] * bends[0] + sides[1] * bends[1])
    flat = length(cross(b - a, c - a)) <= FLAT * sides[0].maximum(sides[1]).maximum(sides[2])
    return cost.masked_fill(flat | (bends[0] > 1) | (bends[1] > 1), torch.inf), normal


def _normals(points: Tensor, triangles: Tensor) -> Tensor:
    a, b, c = points[triangles].unbind(1)
    return cross(b - a, c - a)


def _fans(loops: Loops, needed: Tensor) -> tuple[Tensor, Tensor]:
    """(the middle [N, 3] of each loop that `needed` [L] marks, triangles [T, 3] from its edges to it)."""
    loop = needed.nonzero().squeeze(1)
    sums = torch.zeros(len(needed), 3, dtype=torch.float64).index_add_(0, loops.loop, loops.points)
    centers = (sums / loops.sizes[:, None])[loop]
    row = needed[loops.loop].nonzero().squeeze(1)
    apex = len(loops.points) + (needed.cumsum(0) - 1)[loops.loop[row]]
    return centers, torch.stack([row, loops.following[row], apex], 1)


def _fits(loops: Loops, points: Tensor, triangles: Tensor, owner: Tensor) -> Tensor:
    """Loops [L] bool whose patch closes a hole: it is no slit, and does not lie back on the surface around it."""
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
    """Sides [T, 3] bool that run from one of the `points` to the next of a loop."""
    beyond = loops.following.new_full((len(points) - len(loops.vertex),), -1)
    return torch.cat([loops.following, beyond])[triangles] == triangles.roll(-1, 1)


def _curve(loops: Loops, points: Tensor, triangles: Tensor, owner: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(points, triangles, owner) with a new point in the middle of each chord of the larger loops.

    The point is that of a cubic curve that leaves both ends along the surface there (the edge of a PN triangle).
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
    return points, *_divide(points, triangles, middle, owner)


def _divide(points: Tensor, triangles: Tensor, middle: Tensor, owner: Tensor) -> tuple[Tensor, Tensor]:
    """(triangles, owner) cut at the points `middle` [T, 3] of their sides, -1 for a side that stays whole."""
    cut = middle >= 0
    cuts = cut.sum(1)
    # Turned so that a single cut is on the first side, and a single whole side is the last.
    turn = torch.where(cuts == 1, cut.int().argmax(1), (~cut).int().argmax(1) + 1)
    side = (turn[:, None] + torch.arange(3)) % 3
    corners = torch.cat([triangles.gather(1, side), middle.gather(1, side)], 1)
    a, _, c, ab, bc, _ = corners.unbind(1)
    far = length(points[a] - points[bc]) > length(points[ab] - points[c])
    pieces = torch.tensor(PIECES)[torch.where(cuts == 2, 2 + 2 * far, cuts)]
    kept = (pieces[:, ::3] >= 0).flatten().nonzero().squeeze(1)
    return corners.gather(1, pieces.clamp_min(0)).reshape(-1, 3)[kept], owner[kept // 4]
