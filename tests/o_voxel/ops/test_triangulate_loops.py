"""Triangulated loops against all triangulations there are, and the backends alike."""

import math

import pytest
import torch
from comfyui_trellis2.o_voxel.ops.triangulate_loops import triangulate_loops
from comfyui_trellis2.o_voxel.ops.triangulate_loops.reference import BEND, FOLD

NONE = torch.zeros(0, 2, dtype=torch.int64)


def ring(n, noise=0.0, seed=0):
    turn = 2 * math.pi * torch.arange(n, dtype=torch.float64) / n
    points = torch.stack([turn.cos(), turn.sin(), torch.zeros(n, dtype=torch.float64)], 1)
    return points + noise * torch.rand(n, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rims(n, seed=0):
    rim = torch.randn(n, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return rim / rim.norm(dim=1, keepdim=True)


def starts(*sizes):
    return torch.tensor([0, *sizes]).cumsum(0)


def all_triangulations(i, j):
    """Every way to cut the part of a polygon from corner i to corner j, as lists of triangles."""
    if j - i < 2:
        return [[]]
    return [
        [(i, k, j), *near, *far]
        for k in range(i + 1, j)
        for near in all_triangulations(i, k)
        for far in all_triangulations(k, j)
    ]


def cost(points, rim, triangles):
    """What a triangulation costs, edge by edge."""
    n = len(points)
    perimeter = (points - points.roll(1, 0)).norm(dim=1).sum()
    normals, total = {(i, (i + 1) % n): [rim[i]] for i in range(n)}, 0.0
    for i, k, j in triangles:
        face = torch.linalg.cross(points[k] - points[i], points[j] - points[i])
        for a, b in ((i, k), (k, j), (j, i)):
            total += (points[a] - points[b]).square().sum()
            rim_edge = (a + 1) % n == b
            normals.setdefault((a, b) if rim_edge else (min(a, b), max(a, b)), []).append(face / face.norm())
    for (a, b), (here, there) in normals.items():
        length, cosine = (points[a] - points[b]).norm(), (here * there).sum()
        total += BEND * length**2 * (1 - cosine) + FOLD * length * perimeter * max(-cosine, 0)
    return float(total)


@pytest.mark.parametrize("n", [3, 4, 5, 6, 7])
def test_it_is_the_best_of_all(backend, n):
    points, rim = ring(n, 0.8, seed=n), rims(n, seed=n)
    triangles, whole = triangulate_loops(points, rim, starts(n), NONE, backend=backend)
    assert whole.tolist() == [True]
    costs = sorted(cost(points, rim, way) for way in all_triangulations(0, n - 1))
    assert cost(points, rim, triangles.tolist()) == pytest.approx(costs[0], rel=1e-12)
    assert len(costs) == 1 or costs[1] > costs[0] * (1 + 1e-9)


def test_a_barred_chord_is_not_used(backend):
    points, rim = ring(6, 0.3), rims(6)
    barred = NONE
    for _ in range(4):
        triangles, _ = triangulate_loops(points, rim, starts(6), barred, backend=backend)
        sides = {tuple(sorted((int(t[k]), int(t[(k + 1) % 3])))) for t in triangles for k in range(3)}
        chords = sorted(side for side in sides if side[1] - side[0] not in (1, 5))
        used = {tuple(pair) for pair in barred.tolist()}
        assert not used & set(chords)
        barred = torch.cat([barred, torch.tensor(chords[:1]).flip(1)]).sort(1).values


def test_with_every_chord_barred_there_is_none(backend):
    barred = torch.tensor([[3, 1], [0, 2]])
    triangles, whole = triangulate_loops(ring(4), rims(4), starts(4), barred, backend=backend)
    assert whole.tolist() == [False]
    assert len(triangles) == 0


def test_a_line_there_and_back_has_none(backend):
    points = torch.zeros(6, 3, dtype=torch.float64)
    points[:, 0] = torch.tensor([0, 1, 2, 3, 2, 1])
    assert not triangulate_loops(points, rims(6), starts(6), NONE, backend=backend)[1].any()


@pytest.mark.parametrize("n", [3, 20, 63, 128])
def test_a_flat_loop_is_covered_once(backend, n):
    points = ring(n)
    points[:, :2] *= 1 + 0.3 * torch.cos(5 * torch.atan2(points[:, 1], points[:, 0]))[:, None]
    triangles, whole = triangulate_loops(points, torch.zeros(n, 3).double(), starts(n), NONE, backend=backend)
    assert whole.all()
    assert len(triangles) == n - 2
    a, b, c = points[triangles].unbind(1)
    areas = torch.linalg.cross(b - a, c - a)[:, 2] / 2
    x, y = points[:, 0], points[:, 1]
    assert areas.min() > 0
    torch.testing.assert_close(areas.sum(), (x * y.roll(-1) - y * x.roll(-1)).sum() / 2)


def test_backends_agree_on_many_loops():
    pytest.importorskip("numba")
    sizes = [3, 40, 17, 64, 4, 4, 9, 3, 100] * 3
    points = torch.cat([ring(n, 0.5, seed) for seed, n in enumerate(sizes)])
    barred = torch.tensor([[5, 9], [7, 20], [50, 44], [2, 60]])
    results = [
        triangulate_loops(points, rims(len(points)), starts(*sizes), barred, backend=name)
        for name in ("numba", "reference")
    ]
    for numba, reference in zip(*results, strict=True):
        assert torch.equal(numba, reference)
    assert results[0][1].all()


def test_nothing_to_do(backend):
    empty = torch.zeros(0, 3, dtype=torch.float64)
    triangles, whole = triangulate_loops(empty, empty, starts(), NONE, backend=backend)
    assert triangles.shape == (0, 3)
    assert whole.shape == (0,)


@pytest.mark.parametrize("n", [2, 129])
def test_loops_too_short_or_long_are_named(n):
    with pytest.raises(ValueError, match=f"3 to 128 points, got {n} to {n}"):
        triangulate_loops(ring(n), rims(n), starts(n), NONE)
