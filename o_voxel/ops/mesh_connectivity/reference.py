"""Mesh connectivity in plain torch, on any device: sorting, Borůvka's algorithm, and pointer jumping."""

from __future__ import annotations

import torch
from torch import Tensor


def match_edges(faces: Tensor, vertex_count: int) -> tuple[Tensor, Tensor]:
    """See the op: (order [3 F], start [E + 1]) int64 from faces [F, 3] int64."""
    ends = faces.roll(-1, 1)
    key = (torch.minimum(faces, ends) * vertex_count + torch.maximum(faces, ends)).flatten()
    key, order = key.sort(stable=True)
    begins = torch.ones_like(key, dtype=torch.bool)
    begins[1:] = key[1:] != key[:-1]
    start = begins.nonzero().squeeze(1)
    return order, torch.cat([start, start.new_tensor([len(key)])])


def components(count: int, first: Tensor, second: Tensor, odd: Tensor) -> tuple[Tensor, Tensor]:
    """See the op: (label [count] int64, parity [count] bool).

    Each round takes every tree's lowest edge (Borůvka); the edge order is total, so the forest is that of Kruskal.
    """
    node = torch.arange(count, device=first.device)
    parent, parity = node.clone(), torch.zeros(count, dtype=torch.bool, device=first.device)
    first, second, odd = _apart(first, second, odd)
    while len(first):
        links = len(first)
        rank = torch.arange(links, device=first.device)
        lowest = torch.full_like(parent, links)
        lowest.scatter_reduce_(0, first, rank, "amin").scatter_reduce_(0, second, rank, "amin")
        root = (lowest < links).nonzero().squeeze(1)
        link = lowest[root]
        other = first[link] + second[link] - root
        hooked = ~((lowest[other] == link) & (root < other))
        parent[root[hooked]] = other[hooked]
        parity[root[hooked]] = odd[link[hooked]]
        _flatten(parent, parity, root)
        odd = odd ^ parity[first] ^ parity[second]
        first, second, odd = _apart(parent[first], parent[second], odd)
    _flatten(parent, parity, node)
    label = torch.full_like(parent, count).scatter_reduce_(0, parent, node, "amin")[parent]
    return label, parity ^ parity[label]


def _apart(first: Tensor, second: Tensor, odd: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The edges [L] between different nodes. A mask would be searched, and waited for, once for each of the three."""
    rows = (first != second).nonzero().squeeze(1)
    return first[rows], second[rows], odd[rows]


def _flatten(parent: Tensor, parity: Tensor, nodes: Tensor) -> None:
    """Points `nodes` at the roots of their trees, in place, by pointer jumping: each round halves the depth."""
    while len(nodes):
        above = parent[nodes]
        nodes = nodes[parent[above] != above]
        above = parent[nodes]
        parity[nodes], parent[nodes] = parity[nodes] ^ parity[above], parent[above]


def corner_groups(twin: Tensor, flip: Tensor) -> Tensor:
    """See the op: [3 F] int64. Pointer jumping along each fan; open fans then reduce at their last corner."""
    corner = torch.arange(len(twin), device=twin.device)
    incoming = corner - corner % 3 + (corner + 2 - corner // 3 * 3) % 3
    across = twin[torch.where(flip.repeat_interleave(3), incoming, corner)]
    last = across < 0
    face = across // 3
    ahead = torch.where(flip[face], across, face * 3 + (across - face * 3 + 1) % 3)
    ahead = torch.where(last, corner, ahead)
    label, growing = corner, len(twin) > 0
    while growing:
        lower, further = torch.minimum(label, label[ahead]), ahead[ahead]
        growing = bool(((lower != label) | (last[further] != last[ahead])).any())
        label, ahead = lower, further
    gathered = torch.full_like(label, len(twin)).scatter_reduce_(0, ahead, label, "amin")
    return gathered[ahead]
