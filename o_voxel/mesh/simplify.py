"""Fewer faces for the same surface: to a number of faces, to an error, or to whichever comes first."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..core.backend import explain, resolve_backend
from ..core.checks import check_tensor
from ..core.progress import Progress, in_background, scaled
from ..ops.simplify import BACKENDS, collapse_edges
from ..values import Mesh
from .connectivity.manifold import split_surface
from .connectivity.surface import join_faces
from .connectivity.topology import ValidMesh, check_mesh
from .connectivity.weld import close_vertices

# For the estimate of the time, on two CPU cores.
FACES_A_SECOND = 80_000


@torch.no_grad()
def simplify(
    mesh: Mesh,
    faces: int | None = None,
    *,
    max_error: float | None = None,
    locked: Tensor | None = None,
    backend: str = "auto",
    progress: Progress | None = None,
) -> Mesh:
    """A mesh of at most `faces` faces with the shape of `mesh`, by edge collapses at the least quadric error.

    faces: how many are wanted; one less where a closed surface has an even number. None: as `max_error` says.
    max_error: world units; no vertex is put where its root-mean-square distance to the planes of the faces that it
    stands for, by area, is more. With both, whichever comes first.
    locked: [V] bool, vertices that neither move nor go, such as those on both sides of a texture seam.
    backend: "triton" (GPU) and "reference" (plain torch), both in rounds; "numba" (CPU), one collapse at a time, always
    the cheapest; "library" (CPU: fast-simplification; no `max_error`, no `locked`); or "auto": "triton" on a GPU,
    "numba" on the CPU.
    progress: called with the part done, 0 to 1; may raise, to cancel. The library calls it by estimate.

    Vertices at the same place are one while it works, unless they are locked, so that the cracks which cleaning makes
    along edges of many faces do not open. Where no edge had more than two faces, none has in the result: what touches
    there is split again, at the same place. A closed surface without such vertices stays one. Winding stays; no face
    turns by more than 78 degrees from how it was, until nothing else is left ("library" promises none of this).
    With `faces`, open borders are held by planes upright on them, within a mean edge down to a fortieth of the faces in
    the tests; holes close, borders move inward, curves where many faces meet join, and parts go, each where that costs
    no more than what else must go; the last part stays. With `max_error` alone the surface stays connected as it is.
    Handles of closed surfaces stay until they are flat. Where nothing more can be taken, it ends, and the result has
    more faces than were asked for. What rounds could not take, "numba" does on the CPU. Faces that name a vertex twice
    or stand where another does are dropped, then vertices without faces. A mesh with few enough faces is returned as it
    is.

    The same bytes each time, on one backend; another gives another mesh of the same quality. Sizes do not matter:
    lengths are taken in units of about the mean edge. Memory on the GPU: 0.25 KiB a face; on the CPU 0.3 KiB.

    After Garland and Heckbert 1997, one collapse at a time or in rounds of independent ones.
    Raises ValueError for neither bound, a bound out of range, positions not finite, or faces of vertices not there.
    """
    check_mesh(mesh)
    _check_bounds(faces, max_error)
    if locked is not None:
        check_tensor(locked, "locked", (len(mesh.vertices),), torch.bool)
    chosen = _choose(backend, mesh, max_error, locked)
    if len(mesh.faces) == 0 or (max_error is None and len(mesh.faces) <= faces):
        return mesh
    return in_background(
        lambda report: _simplified(mesh, (faces, max_error), locked, chosen, report),
        progress,
        1 + len(mesh.faces) / FACES_A_SECOND,
    )


def _simplified(
    mesh: Mesh,
    limits: tuple[int | None, float | None],
    locked: Tensor | None,
    chosen: str,
    report: Progress,
) -> Mesh:
    """`simplify` after its checks. limits: faces and max_error."""
    faces, max_error = limits
    joined = None if chosen == "library" else _joined(mesh.vertices, mesh.faces, locked)
    rows = distinct_faces(mesh.faces if joined is None else joined[mesh.faces.long()])
    if len(rows) == 0:
        return _compact(mesh.vertices, rows, mesh.faces.dtype)
    unit = _unit(mesh.vertices, rows)
    target, error = faces or 0, float("inf") if max_error is None else max_error / unit
    origin = (mesh.vertices.amin(0) + mesh.vertices.amax(0)) / 2
    position = (mesh.vertices - origin) / unit

    if chosen == "library":
        placed, rows = _by_library(position, rows, target, report)
        return _compact(placed * unit + origin, rows, mesh.faces.dtype)
    placed, left = collapse_edges(
        position, rows, target, max_error=error, locked=locked, backend=chosen, progress=scaled(report, 0.05, 0.9)
    )
    if chosen != "numba" and len(left) > target and max_error is None:
        placed, left = _finish(placed, left, target, locked)
    # What did not move keeps its very place.
    vertices = torch.where(placed == position, mesh.vertices, placed * unit + origin)
    # A closed surface without coincident vertices has stayed a manifold.
    if (joined is not None or bool((edge_faces(rows) == 1).any())) and _is_manifold(mesh.faces):
        vertices, left = _split(vertices, left)
    return _compact(vertices, left, mesh.faces.dtype)


def _finish(position: Tensor, faces: Tensor, target: int, locked: Tensor | None) -> tuple[Tensor, Tensor]:
    """What rounds could not take, one at a time on the CPU where that works there: positions [V, 3], faces [G, 3]."""
    faces = distinct_faces(faces)
    if len(faces) == 0 or not _has_numba():
        return position, faces
    fixed = None if locked is None else locked.cpu()
    placed, left = collapse_edges(position.cpu(), faces.cpu(), target, locked=fixed, backend="numba")
    return placed.to(position.device), left.to(faces.device)


def _has_numba() -> bool:
    return explain(BACKENDS, torch.device("cpu"))["numba"] in ("chosen", "works")


def _is_manifold(faces: Tensor) -> bool:
    """Whether no edge has more than two of `faces` [F, 3], those that name a vertex twice aside."""
    a, b, c = faces.unbind(1)
    return bool((edge_faces(faces[(a != b) & (b != c) & (c != a)]) <= 2).all())


def _by_library(position: Tensor, faces: Tensor, target: int, progress: Progress) -> tuple[Tensor, Tensor]:
    """The library's mesh, without what it pressed flat."""
    if len(faces) <= target:
        return position, faces
    placed, rows = collapse_edges(position, faces, target, backend="library", progress=scaled(progress, 0.1, 0.7))
    return placed, distinct_faces(rows, even_out=True)


def _split(vertices: Tensor, faces: Tensor) -> tuple[Tensor, Tensor]:
    """Vertices [W, 3] and faces [F, 3] int32 of a manifold: sheets that touch each get their own vertices there.

    Faces of a part that sheets join wind as most of it do.
    """
    rows = faces.long()
    surface = join_faces(vertices, rows)
    split, source, _ = split_surface(rows, len(vertices), surface)
    if bool(surface.flip.any()):
        sums = torch.zeros_like(surface.label).index_add_(0, surface.label, 2 * surface.flip.long() - 1)
        turned = surface.flip ^ (sums[surface.label] > 0)
        split = torch.where(turned[:, None], split.flip(1), split)
    return vertices[source], split.to(torch.int32)


def _joined(vertices: Tensor, faces: Tensor, locked: Tensor | None) -> Tensor | None:
    """The row [V] int32 that stands for each vertex: the first at the same place that `faces` use, itself if locked.

    None where no two are at one place.
    """
    own = torch.arange(len(vertices), device=vertices.device)
    used = torch.zeros_like(own, dtype=torch.bool)
    used[faces.flatten().long()] = True
    if locked is not None:
        used &= ~locked
    loose = used.nonzero().flatten()
    first = own.index_copy(0, loose, loose[close_vertices(vertices[loose], 0.0)])
    return None if bool((first == own).all()) else first.to(torch.int32)


def _check_bounds(faces: int | None, max_error: float | None) -> None:
    if faces is None and max_error is None:
        raise ValueError("simplify: expected a number of faces or a max_error, got neither")
    if faces is not None and faces < 1:
        raise ValueError(f"faces: expected at least 1, got {faces}")
    if max_error is not None and not 0 <= max_error < float("inf"):
        raise ValueError(f"max_error: expected 0 or more, got {max_error}")


def _choose(backend: str, mesh: Mesh, max_error: float | None, locked: Tensor | None) -> str:
    """The backend, of those that can do what is asked."""
    able = [choice for choice in BACKENDS if choice.name != "library" or (max_error is None and locked is None)]
    if backend == "library" and len(able) < len(BACKENDS):
        raise ValueError('backend "library": expected neither max_error nor locked, got one')
    return resolve_backend(backend, able, mesh.vertices.device)


def edge_faces(faces: Tensor) -> Tensor:
    """How many of `faces` [F, 3] int each of their edges has, [E] int64."""
    low, high = torch.stack([faces, faces.roll(-1, 1)], dim=2).reshape(-1, 2).long().aminmax(dim=1)
    return torch.unique(low << 32 | high, return_counts=True)[1]


def distinct_faces(faces: Tensor, *, even_out: bool = False) -> Tensor:
    """`faces` [F, 3] as [G, 3] int32 in the same order, without those that name a vertex twice or stand on another.

    Of faces with the same corners the first is kept. even_out: only of an odd number of them; two such faces are what
    is left of a piece that was pressed flat, and what is around it closes without them.
    """
    a, b, c = faces.unbind(1)
    rows = ((a != b) & (b != c) & (c != a)).nonzero().flatten()
    corners = faces[rows].long()
    low, high = corners.aminmax(dim=1)
    corners = torch.stack([low, corners.sum(1) - low - high, high], dim=1)
    last = high.sort(stable=True).indices
    order = last[(corners[last, 0] << 32 | corners[last, 1]).sort(stable=True).indices]
    corners = corners[order]
    first = torch.ones_like(order, dtype=torch.bool)
    first[1:] = (corners[1:] != corners[:-1]).any(1)
    start = first.nonzero().flatten()
    if even_out:
        start = start[torch.diff(start, append=start.new_tensor([len(order)])) % 2 == 1]
    return faces[rows[order[start].sort().values]].to(torch.int32)


def _unit(vertices: Tensor, faces: Tensor) -> float:
    """The power of two next to the mean edge: scaling by it is exact."""
    corners = vertices[faces.long()]
    mean = float((corners - corners.roll(1, 1)).norm(dim=2).mean())
    return 2.0 ** round(math.log2(mean)) if mean > 0 else 1.0


def _compact(vertices: Tensor, faces: Tensor, dtype: torch.dtype) -> Mesh:
    """The mesh of `faces` with the vertices that they use, in order."""
    used = torch.zeros(len(vertices), dtype=torch.bool, device=vertices.device)
    used[faces.flatten().long()] = True
    number = (used.cumsum(0) - 1).to(dtype)
    return ValidMesh(vertices[used], number[faces.long()])
