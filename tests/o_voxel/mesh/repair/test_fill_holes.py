"""Hole filling, checked with trimesh and against the shapes the holes were cut from."""

import math

import numpy as np
import pytest
import torch
from comfyui_trellis2.o_voxel.mesh.repair.fill_holes import fill_holes
from comfyui_trellis2.o_voxel.values import Mesh


def centers(mesh):
    return mesh.vertices[mesh.faces.long()].mean(1)


def punched(shapes, level=4, radius=0.3):
    """A unit ball with six round holes."""
    ball = shapes.sphere(level)
    spots = torch.cat([torch.eye(3), -torch.eye(3)])
    return shapes.without(ball, torch.cdist(centers(ball), spots).amin(1) < radius)


def filled(shapes, mesh, perimeter, backend, curved=True):
    """Fills the mesh and checks the invariants of every filling."""
    before = mesh.faces.clone()
    whole, rows = fill_holes(mesh, perimeter, curved, backend=backend)
    old = len(mesh.faces)
    assert torch.equal(mesh.faces, before)
    assert torch.equal(whole.faces[:old], mesh.faces)
    assert torch.equal(whole.vertices[: len(mesh.vertices)], mesh.vertices)
    assert rows.faces.tolist() == [*range(old), *[-1] * (len(whole.faces) - old)]
    added = len(whole.vertices) - len(mesh.vertices)
    assert rows.vertices.tolist() == [*range(len(mesh.vertices)), *[-1] * added]
    assert len(np.unique(np.sort(whole.faces.numpy(), 1), axis=0)) == len(whole.faces)
    return whole


@pytest.mark.slow
@pytest.mark.parametrize("curved", [True, False])
@pytest.mark.parametrize("radius", [0.08, 0.16, 0.45])
def test_a_punched_ball_is_whole_again(shapes, backend, radius, curved):
    mesh = punched(shapes, radius=radius)
    whole = filled(shapes, mesh, 10, backend, curved)
    result = shapes.to_trimesh(whole)
    assert result.is_volume
    assert result.euler_number == 2
    assert (len(whole.vertices) > len(mesh.vertices)) == (curved and radius > 0.1)


def test_curved_patches_follow_the_ball(shapes, backend):
    """The mean error of curved patches against the unit ball is less than a third of that of flat ones."""
    errors = []
    for curved in (True, False):
        whole = filled(shapes, punched(shapes, radius=0.45), 10, backend, curved)
        patch = Mesh(whole.vertices, whole.faces[len(punched(shapes, radius=0.45).faces) :])
        points = shapes.to_trimesh(patch).sample(4000, seed=0)
        errors.append(np.abs(np.linalg.norm(points, axis=1) - 1).mean())
    assert errors[0] < errors[1] / 3


def test_only_holes_up_to_the_perimeter(shapes, backend):
    ball = shapes.sphere(4)
    near = [torch.cdist(centers(ball), spot[None])[:, 0] for spot in torch.eye(3)]
    mesh = shapes.without(ball, (near[0] < 0.1) | (near[1] < 0.2) | (near[2] < 0.3))
    edges = shapes.to_trimesh(mesh).outline().length
    rims = sorted(path.length(mesh.vertices.numpy()) for path in shapes.to_trimesh(mesh).outline().entities)
    assert sum(rims) == pytest.approx(edges)
    for count, limit in [(0, rims[0] - 1e-4), (1, rims[0] + 1e-4), (1, rims[1] - 1e-4), (2, rims[1] + 1e-4), (3, 100)]:
        whole = filled(shapes, mesh, limit, backend)
        assert len(shapes.to_trimesh(whole).outline().entities) == 3 - count


def test_a_tube_gets_flat_caps(shapes, backend):
    n, turn = 40, np.arange(40) * 2 * np.pi / 40
    rings = [np.stack([np.cos(turn), np.sin(turn), np.full(n, z)], 1) for z in (0.0, 1.0, 2.0)]
    i = np.arange(n)
    faces = []
    for ring in (0, n):
        a, b, c, d = ring + i, ring + (i + 1) % n, ring + n + (i + 1) % n, ring + n + i
        faces += [np.stack([a, b, c], 1), np.stack([a, c, d], 1)]
    mesh = shapes.mesh(np.concatenate(rings), np.concatenate(faces))
    whole = filled(shapes, mesh, 10, backend)
    result = shapes.to_trimesh(whole)
    assert result.is_volume
    assert result.volume == pytest.approx(n * math.sin(2 * math.pi / n), rel=1e-3)
    assert whole.vertices[:, 2].unique().shape[0] <= 3 + 40


@pytest.mark.slow
@pytest.mark.parametrize("n", [127, 128, 129, 300, 1001])
def test_large_holes_of_odd_shape(shapes, backend, n):
    """A star-shaped hole in a plate, in two levels once it has more than 128 edges, is covered just once."""
    turn = torch.arange(n, dtype=torch.float64) * 2 * math.pi / n
    radius = 1 + 0.35 * torch.cos(5 * turn)
    inner = torch.stack([radius * turn.cos(), radius * turn.sin(), torch.zeros(n)], 1)
    outer = torch.stack([3 * turn.cos(), 3 * turn.sin(), torch.zeros(n)], 1)
    i, j = torch.arange(n), (torch.arange(n) + 1) % n
    plate = torch.cat([torch.stack([i, n + i, n + j], 1), torch.stack([i, n + j, j], 1)])
    mesh = Mesh(torch.cat([inner, outer]).float(), plate)
    rim = float((inner - inner.roll(1, 0)).norm(dim=1).sum())
    whole = filled(shapes, mesh, rim + 0.01, backend)
    corners = whole.vertices[whole.faces[len(plate) :]].double()
    areas = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])[:, 2] / 2
    x, y = inner[:, 0], inner[:, 1]
    assert float(areas.sum()) == pytest.approx(float((x * y.roll(-1) - y * x.roll(-1)).sum() / 2), rel=1e-6)
    assert areas.min() > 0
    assert shapes.to_trimesh(whole).is_winding_consistent


def test_what_is_no_hole_stays_open(shapes, backend):
    triangle = shapes.mesh(np.eye(3), [[0, 1, 2]])
    crumbs = [shapes.sheet(1), shapes.sheet(1, 0.3), shapes.sheet(3), shapes.sheet(4, 0.1), shapes.moebius()]
    for mesh in (triangle, *crumbs, shapes.sphere(1), Mesh(torch.zeros(0, 3), torch.zeros(0, 3).long())):
        assert shapes.same(filled(shapes, mesh, 100, backend), mesh)


def test_a_cup_is_closed(shapes, backend):
    ball = shapes.sphere(3)
    cup = shapes.without(ball, centers(ball)[:, 2] > 0)
    whole = filled(shapes, cup, 100, backend)
    assert shapes.to_trimesh(whole).is_volume


def test_a_slit_stays_open(shapes, backend):
    """A sheet with three duplicated vertices along its middle: both sides of the slit coincide."""
    sheet = shapes.sheet(8, bump=0.3)
    doubled = [4 * 9 + j for j in (3, 4, 5)]
    row = torch.arange(81)
    row[doubled] = 81 + torch.arange(3)
    right = centers(sheet)[:, 0] > 0.5
    faces = torch.where(right[:, None], row[sheet.faces.long()].int(), sheet.faces)
    mesh = Mesh(torch.cat([sheet.vertices, sheet.vertices[doubled]]), faces)
    assert (shapes.edge_sizes(mesh) == 1).sum() == 32 + 8
    assert shapes.same(filled(shapes, mesh, 3, backend), mesh)
    # Pulled open, it is a hole.
    vertices = mesh.vertices.clone()
    vertices[81:, 0] += 0.05
    assert len(filled(shapes, Mesh(vertices, mesh.faces), 3, backend).faces) > len(mesh.faces)


def test_no_edge_is_doubled(shapes, backend):
    """Two faces of a tetrahedron: one diagonal of the open quad is an existing edge."""
    points = [[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]
    for faces in ([[0, 2, 1], [0, 1, 3]], [[0, 2, 1], [1, 2, 3]], [[0, 1, 3], [0, 3, 2]]):
        whole = filled(shapes, shapes.mesh(points, faces), 100, backend)
        assert len(whole.vertices) == 4
        assert shapes.to_trimesh(whole).is_volume


def test_with_every_diagonal_taken_the_middle_becomes_a_vertex(shapes, backend):
    """The torus of seven vertices, each joined to each, without the faces of one."""
    faces = [[(i + k) % 7 for k in corner] for i in range(7) for corner in ((0, 1, 3), (0, 3, 2))]
    torus = shapes.mesh(np.random.default_rng(3).normal(size=(7, 3)), faces)
    assert (shapes.edge_sizes(torus) == 2).all()
    assert len(shapes.edge_sizes(torus)) == 21
    mesh = shapes.without(torus, (torus.faces == 0).any(1))
    whole = filled(shapes, mesh, 100, backend)
    assert len(whole.vertices) == 8
    torch.testing.assert_close(whole.vertices[7], torus.vertices[1:].mean(0))
    assert shapes.to_trimesh(whole).is_watertight


@pytest.mark.parametrize("turned", [0.0, 0.2, 0.8, 1.0])
def test_patches_wind_like_most_around_them(shapes, backend, turned):
    mesh = shapes.scramble(punched(shapes, radius=0.3), share=turned)
    whole = filled(shapes, mesh, 10, backend)
    corners = whole.vertices[whole.faces[len(mesh.faces) :].long()]
    normal = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    outward = (normal * corners.mean(1)).sum(1) > 0
    assert outward.all() if turned < 0.5 else not outward.any()


def test_loops_along_a_fan_stay_open(shapes, backend):
    fan = shapes.fan([0, 120, 240])
    assert shapes.same(filled(shapes, fan, 100, backend), fan)


def test_backends_fill_alike(shapes):
    pytest.importorskip("numba")
    mesh = punched(shapes, radius=0.45)
    whole = [fill_holes(mesh, 10, backend=name)[0] for name in ("numba", "reference")]
    assert shapes.same(*whole)


def test_a_negative_perimeter_is_named(shapes):
    for perimeter in (-1.0, float("nan")):
        with pytest.raises(ValueError, match="max_perimeter: expected 0 or more"):
            fill_holes(shapes.box(), perimeter)
