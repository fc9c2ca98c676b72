"""The surfaces of a mesh: which face goes on in which, and which faces to turn so that they wind alike."""

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
    """A mesh's faces joined two by two.

    twin: [3 F] int64, the half-edge in which the surface goes on, -1 where it ends.  label: [F] int64, the lowest face
    of each component.  flip: [F] bool, the faces to turn so that a component winds as its lowest face does; then every
    pair of twins runs in opposite directions.  seam: [S] int64, half-edges on edges that more than two faces share, or
    where no winding fits (a Möbius strip), and the surface was cut.
    """

    twin: Tensor
    label: Tensor
    flip: Tensor
    seam: Tensor

    @property
    def boundary(self) -> Tensor:
        """Faces [F] bool with an end of the surface."""
        return (self.twin < 0).reshape(-1, 3).any(1)


def join_faces(
    vertices: Tensor, faces: Tensor, matched: tuple[Tensor, Tensor] | None = None, *, backend: str = "auto"
) -> Surface:
    """The surfaces that faces [F, 3] int64 form. matched: their `match_edges`, where that is there already.

    At an edge of more than two faces they go on in pairs (see `fans`); an odd one ends there. Faces with a vertex
    twice stand alone. Deterministic.
    """
    order, start = matched or proper_edges(faces, len(vertices), backend)
    size = start.diff()
    first = start[:-1][size == 2]
    pairs = order[first], order[first + 1]
    odd = _same_way(faces, *pairs)
    label, flip = components(len(faces), pairs[0] // 3, pairs[1] // 3, odd, backend=backend)
    surface = _with_pairs(torch.full_like(faces, -1).flatten(), pairs, odd, label, flip)
    fans = order[torch.repeat_interleave(size > 2, size)]
    return _join_fans(vertices, faces, surface, fans, size[size > 2], backend) if len(fans) else surface


def _with_pairs(twin: Tensor, pairs: tuple[Tensor, Tensor], odd: Tensor, label: Tensor, flip: Tensor) -> Surface:
    """A surface with `pairs` of half-edges joined too, but for those whose winding does not fit."""
    fits = ~(odd ^ flip[pairs[0] // 3] ^ flip[pairs[1] // 3])
    cut = torch.cat([half[~fits] for half in pairs])
    half, other = pairs[0][fits], pairs[1][fits]
    twin = twin.scatter(0, half, other).scatter_(0, other, half)
    return Surface(twin, label, flip, cut)


def proper_edges(faces: Tensor, vertex_count: int, backend: str) -> tuple[Tensor, Tensor]:
    """`match_edges` over those of the faces [F, 3] int64 that have three different vertices."""
    proper = ~has_twin_corners(faces)
    if bool(proper.all()):
        return match_edges(faces, vertex_count, backend=backend)
    kept = proper.nonzero().squeeze(1)
    order, start = match_edges(faces[kept], vertex_count, backend=backend)
    return kept[order // 3] * 3 + order % 3, start


def has_twin_corners(faces: Tensor) -> Tensor:
    """Faces [F] bool that name a vertex twice."""
    a, b, c = faces.unbind(1)
    return (a == b) | (b == c) | (c == a)


def _same_way(faces: Tensor, half: Tensor, other: Tensor) -> Tensor:
    """Whether two half-edges of one edge run in the same direction: both start at the same vertex."""
    return origins(faces)[half] == origins(faces)[other]


def _join_fans(vertices: Tensor, faces: Tensor, known: Surface, fans: Tensor, size: Tensor, backend: str) -> Surface:
    """`known` with `fans` [M] joined too: half-edges of K fans, size [K] of each."""
    start = torch.cat([size.new_zeros(1), size.cumsum(0)])
    outward = enclosing(vertices, faces, known.label, known.flip, known.boundary)
    partner = pair_radial_faces(vertices, faces, fans, start, known.label, *outward)
    low = fans < partner
    pairs = fans[low], partner[low]
    odd = _same_way(faces, *pairs)
    first, second = pairs[0] // 3, pairs[1] // 3
    differ = odd ^ known.flip[first] ^ known.flip[second]
    best = _by_support(known.label[first], known.label[second], differ)
    links = known.label[first][best], known.label[second][best], differ[best]
    merged, parity = components(len(faces), *links, backend=backend)
    joined = _with_pairs(known.twin, pairs, odd, merged[known.label], known.flip ^ parity[known.label])
    return replace(joined, seam=torch.cat([known.seam, fans]))


def _by_support(first: Tensor, second: Tensor, differ: Tensor) -> Tensor:
    """Order [L] in which links come first that say what the most links between the same two surfaces say."""
    link = torch.stack([torch.minimum(first, second), torch.maximum(first, second), differ.to(torch.int64)], 1)
    _, same, count = link.unique(dim=0, return_inverse=True, return_counts=True)
    return count[same].sort(descending=True, stable=True).indices


def select_surface(surface: Surface, kept: Tensor) -> Surface:
    """`surface` for the faces `kept` [K] int64, ascending and whole components; without its seam."""
    number = torch.full_like(surface.label, -1).scatter_(0, kept, torch.arange(len(kept), device=kept.device))
    twin = surface.twin.reshape(-1, 3)[kept].flatten()
    twin = torch.where(twin < 0, twin, number[twin // 3] * 3 + twin % 3)
    return Surface(twin, number[surface.label[kept]], surface.flip[kept], kept[:0])
