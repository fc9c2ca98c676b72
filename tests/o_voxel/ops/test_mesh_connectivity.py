"""Edges, components with a parity, and fans of corners, against SciPy and plain loops; and the backends alike."""

import numpy as np
import pytest
import torch
from comfyui_trellis2.o_voxel.ops.mesh_connectivity import components, corner_groups, match_edges
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

SIZES = (0, 1, 63, 1000)
sizes = pytest.mark.parametrize("n", SIZES)


def draw(top, *shape, seed=0):
    return torch.randint(0, max(top, 1), shape, generator=torch.Generator().manual_seed(seed))


# 4 vertices have buckets of hundreds of edges, 500 of a few.
@pytest.mark.slow
@sizes
@pytest.mark.parametrize("vertices", [4, 500])
def test_edges_hold_the_half_edges_with_the_same_ends(backend, n, vertices):
    faces = draw(vertices, n, 3)
    order, start = match_edges(faces, vertices, backend=backend)
    expected = {}
    for half in range(3 * n):
        a, b = faces[half // 3, half % 3].item(), faces[half // 3, (half % 3 + 1) % 3].item()
        expected.setdefault((min(a, b), max(a, b)), []).append(half)
    found = [order[i:j].tolist() for i, j in zip(start[:-1], start[1:], strict=True)]
    assert found == [expected[key] for key in sorted(expected)]
    assert start[-1] == 3 * n


@sizes
@pytest.mark.parametrize("links", [0.3, 0.9, 4])
def test_labels_are_the_lowest_nodes(backend, n, links):
    count = int(n * links)
    first, second = draw(n, count), draw(n, count, seed=1)
    label, parity = components(n, first, second, torch.zeros(count, dtype=torch.bool), backend=backend)
    graph = coo_matrix((np.ones(count), (first.numpy(), second.numpy())), (n, n))
    _, component = connected_components(graph, directed=False) if n else (0, np.zeros(0, int))
    lowest = [np.flatnonzero(component == c)[0] for c in component]
    assert label.tolist() == lowest
    assert not parity.any()


@sizes
@pytest.mark.parametrize("links", [0.9, 4])
def test_parities_follow_the_first_links(backend, n, links):
    count = int(n * links)
    first, second = draw(n, count), draw(n, count, seed=1)
    odd = draw(2, count, seed=2).bool()
    label, parity = components(n, first, second, odd, backend=backend)
    group, side = list(range(n)), [False] * n
    for a, b, differ in zip(first.tolist(), second.tolist(), odd.tolist(), strict=True):
        if group[a] != group[b]:
            old, new = max(group[a], group[b]), min(group[a], group[b])
            change = side[a] ^ side[b] ^ differ
            for node in [i for i in range(n) if group[i] == old]:
                group[node], side[node] = new, side[node] ^ change
    assert label.tolist() == group
    assert parity.tolist() == side


def test_a_long_chain_in_the_worst_order(backend):
    n = 5000
    node = torch.randperm(n, generator=torch.Generator().manual_seed(3))
    odd = draw(2, n - 1).bool()
    label, parity = components(n, node[:-1], node[1:], odd, backend=backend)
    assert not label.any()
    expected = torch.cat([odd.new_zeros(1), odd.cumsum(0) % 2 == 1])
    assert torch.equal(parity[node], expected ^ expected[node == 0])


def disc(count, closed, seed):
    """(twin, flip, corners at the middle) of `count` faces around a vertex, each wound at random."""
    generator = torch.Generator().manual_seed(seed)
    flip = torch.rand(count, generator=generator) < 0.5
    shift = torch.randint(0, 3, (count,), generator=generator)
    face = torch.arange(count)
    # Turned the right way each face is (middle, i, i + 1): half-edge 0 leaves the middle and 2 comes back to it.
    middle = 3 * face + shift
    leaving = torch.where(flip, 3 * face + (shift + 2) % 3, middle)
    coming = torch.where(flip, middle, 3 * face + (shift + 2) % 3)
    twin = torch.full((3 * count,), -1)
    twin[coming], twin[leaving.roll(-1)] = leaving.roll(-1), coming
    if not closed:
        twin[coming[-1]] = twin[leaving[0]] = -1
    return twin, flip, middle


@pytest.mark.parametrize("closed", [True, False], ids=["closed", "open"])
@pytest.mark.parametrize("count", [2, 3, 5, 8, 64, 1000])
def test_a_fan_is_one_group(backend, count, closed):
    twin, flip, middle = disc(count, closed, seed=count)
    group = corner_groups(twin, flip, backend=backend)
    assert (group[middle] == middle.min()).all()
    outer = torch.ones(3 * count, dtype=torch.bool)
    outer[middle] = False
    sizes = group[outer].unique(return_counts=True)[1]
    assert sizes.max() <= 2
    assert (sizes == 1).sum() == (0 if closed else 2)


def test_no_twin_is_a_corner_alone(backend):
    for n in SIZES:
        group = corner_groups(torch.full((3 * n,), -1), torch.zeros(n, dtype=torch.bool), backend=backend)
        assert torch.equal(group, torch.arange(3 * n))


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match=r"faces: expected int64, got int32"):
        match_edges(torch.zeros(1, 3, dtype=torch.int32), 1)
    with pytest.raises(ValueError, match=r"second: expected shape \[2\], got \[1\]"):
        components(2, torch.zeros(2).long(), torch.zeros(1).long(), torch.zeros(2).bool())
    with pytest.raises(ValueError, match=r"flip: expected shape \[2\], got \[6\]"):
        corner_groups(torch.zeros(6).long(), torch.zeros(6).bool())
    with pytest.raises(ValueError, match="backend"):
        match_edges(torch.zeros(1, 3).long(), 1, backend="fast")
