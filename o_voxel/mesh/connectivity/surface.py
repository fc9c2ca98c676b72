"""Half-edge twins, connected components and consistent winding of a mesh that may be non-manifold."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...ops.mesh_connectivity import components, match_edges
from .orientation import enclosing
from .radial_edges import pair_radial_faces
from .topology import origins


@dataclass(frozen=True, eq=False)
class Surface:
    """Pairwise adjacency of a mesh's faces.

    twin: [3 F] int64, the opposite half-edge, -1 at a boundary.  label: [F] int64, the lowest face of each component.
    flip: [F] bool, the faces to flip so that a component winds like its lowest face; twins then run in opposite
    directions.  seam: [S] int64, half-edges on non-manifold edges, and on cuts through non-orientable parts (a Möbius
    strip).
    """

    twin: Tensor
    label: Tensor
    flip: Tensor
    seam: Tensor

    @property
    def boundary(self) -> Tensor:
        """Mask [F] bool of the faces with a boundary edge."""
        return (self.twin < 0).reshape(-1, 3).any(1)


def join_faces(
    vertices: Tensor, faces: Tensor, matched: tuple[Tensor, Tensor] | None = None, *, backend: str = "auto"
) -> Surface:
    """Builds the `Surface` of faces [F, 3] int64 with vertices [V, 3] float32.

    matched: result of `proper_edges` if already computed. The faces around a non-manifold edge are paired (see
    `radial_edges`); an unpaired one gets a boundary. Degenerate faces have no twins. Deterministic.
    """
    order, start = matched or proper_edges(faces, len(vertices), backend)
    size = start.diff()
    first = start[(size == 2).nonzero().squeeze(1)]
    pairs = order[first], order[first + 1]
    odd = _same_way(faces, *pairs)
    label, flip = components(len(faces), pairs[0] // 3, pairs[1] // 3, odd, backend=backend)
    surface = _with_pairs(torch.full_like(faces, -1).flatten(), pairs, odd, label, flip)
    crowded = (size > 2).nonzero().squeeze(1)
    if not len(crowded):
        return surface
    half = edge_halves(order, start, crowded)
    return _join_radial(vertices, faces, surface, half, size[crowded], backend)


def edge_halves(order: Tensor, start: Tensor, edge: Tensor) -> Tensor:
    """The half-edges [M] int64 of the edges `edge` [K] int64, one edge after another; order, start: of `Edges`."""
    size = start[edge + 1] - start[edge]
    end = size.cumsum(0)
    step = torch.repeat_interleave(start[edge] - end + size, size)
    return order[step + torch.arange(len(step), device=step.device)]


def _with_pairs(twin: Tensor, pairs: tuple[Tensor, Tensor], odd: Tensor, label: Tensor, flip: Tensor) -> Surface:
    """Joins half-edge `pairs` in `twin` [3 F], except pairs with inconsistent winding, which go to the seam."""
    wrong = odd ^ flip[pairs[0] // 3] ^ flip[pairs[1] // 3]
    cut, fits = wrong.nonzero().squeeze(1), (~wrong).nonzero().squeeze(1)
    half, other = pairs[0][fits], pairs[1][fits]
    cut = torch.cat([pairs[0][cut], pairs[1][cut]])
    twin = twin.scatter(0, half, other).scatter_(0, other, half)
    return Surface(twin, label, flip, cut)


def proper_edges(faces: Tensor, vertex_count: int, backend: str) -> tuple[Tensor, Tensor]:
    """`match_edges` of the faces [F, 3] int64 with three distinct vertices: (half-edges [N], start [E + 1]) int64."""
    proper = ~has_twin_corners(faces)
    if bool(proper.all()):
        return match_edges(faces, vertex_count, backend=backend)
    kept = proper.nonzero().squeeze(1)
    order, start = match_edges(faces[kept], vertex_count, backend=backend)
    return kept[order // 3] * 3 + order % 3, start


def has_twin_corners(faces: Tensor) -> Tensor:
    """Mask [F] bool of the degenerate faces, with a repeated vertex; faces: [F, 3] integers."""
    a, b, c = faces.unbind(1)
    return (a == b) | (b == c) | (c == a)


def _same_way(faces: Tensor, half: Tensor, other: Tensor) -> Tensor:
    """Mask [N] bool: do the half-edges `half` and `other` [N] of an edge run in the same direction?"""
    return origins(faces)[half] == origins(faces)[other]


def _join_radial(
    vertices: Tensor, faces: Tensor, surface: Surface, half: Tensor, size: Tensor, backend: str
) -> Surface:
    """Joins the half-edges `half` [M] of K non-manifold edges in `surface`; size: [K] faces at each edge."""
    start = torch.cat([size.new_zeros(1), size.cumsum(0)])
    outward = enclosing(vertices, faces, surface.label, surface.flip, surface.boundary)
    partner = pair_radial_faces(vertices, faces, half, start, surface.label, *outward)
    low = half < partner
    pairs = half[low], partner[low]
    odd = _same_way(faces, *pairs)
    first, second = pairs[0] // 3, pairs[1] // 3
    differ = odd ^ surface.flip[first] ^ surface.flip[second]
    best = _by_majority(surface.label[first], surface.label[second], differ)
    links = surface.label[first][best], surface.label[second][best], differ[best]
    merged, parity = components(len(faces), *links, backend=backend)
    joined = _with_pairs(surface.twin, pairs, odd, merged[surface.label], surface.flip ^ parity[surface.label])
    return replace(joined, seam=torch.cat([surface.seam, half]))


def _by_majority(first: Tensor, second: Tensor, differ: Tensor) -> Tensor:
    """Order [L] of links by decreasing number of links with the same parity between the same two components."""
    link = torch.stack([torch.minimum(first, second), torch.maximum(first, second), differ.to(torch.int64)], 1)
    _, same, count = link.unique(dim=0, return_inverse=True, return_counts=True)
    return count[same].sort(descending=True, stable=True).indices


def select_surface(surface: Surface, kept: Tensor) -> Surface:
    """Restricts `surface` to the faces `kept` [K] int64, ascending and whole components.

    The result has twin [3 K], label [K] and flip [K], and no seam.
    """
    number = torch.full_like(surface.label, -1).scatter_(0, kept, torch.arange(len(kept), device=kept.device))
    twin = surface.twin.reshape(-1, 3)[kept].flatten()
    twin = torch.where(twin < 0, twin, number[twin // 3] * 3 + twin % 3)
    return Surface(twin, number[surface.label[kept]], surface.flip[kept], kept[:0])
