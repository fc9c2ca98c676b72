"""The closest point on a mesh against trimesh's own formula over all pairs."""

import numpy as np
import pytest
import torch
from comfyui_trellis2.o_voxel.ops.closest_point import ClosestPoints, build_index, closest_point
from comfyui_trellis2.o_voxel.values import Mesh
from trimesh.creation import icosphere
from trimesh.triangles import closest_point as closest_on_triangles

SIZES = (1, 63, 1000)
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

faces_of = pytest.mark.parametrize("faces", SIZES)
backends = pytest.mark.parametrize("backend", ["numba", "reference"])


def somewhere(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def soup(faces):
    """Triangles of all sizes in no order; some without area, some without length."""
    corners = somewhere(faces, 1, 3, seed=faces) + 0.2 * somewhere(faces, 1, 1, seed=5) * somewhere(faces, 3, 3, seed=6)
    corners[3::7, 2] = corners[3::7, :2].mean(1)
    corners[5::11] = corners[5::11, :1]
    return Mesh(corners.reshape(-1, 3), torch.arange(3 * faces, dtype=torch.int32).reshape(-1, 3))


def sphere():
    ball = icosphere(3)
    return Mesh(torch.tensor(ball.vertices, dtype=torch.float32), torch.tensor(ball.faces))


def queries(count):
    """Points about the unit cube, some far off."""
    points = somewhere(count, 3, seed=count + 1) * 1.5 - 0.25
    points[::10] = points[::10] * 30 - 15
    return points


def distances(mesh, points):
    """[N, F] float64, by trimesh; a triangle without area is as near as its longest edge, in small steps."""
    corners = mesh.vertices[mesh.faces.long()].double().numpy()
    pairs = np.repeat(corners[None], len(points), 0).reshape(-1, 3, 3)
    from_points = np.repeat(points.double().numpy()[:, None], len(corners), 1).reshape(-1, 3)
    normals = np.linalg.norm(np.cross(pairs[:, 1] - pairs[:, 0], pairs[:, 2] - pairs[:, 0]), axis=1)
    thin = normals < 1e-7
    found = np.empty_like(from_points)
    found[~thin] = closest_on_triangles(pairs[~thin], from_points[~thin])
    found[thin] = along_longest_edge(pairs[thin], from_points[thin])
    return np.linalg.norm(found - from_points, axis=1).reshape(len(points), len(corners))


def along_longest_edge(corners, points):
    sides = np.roll(corners, -1, 1) - corners
    longest = np.linalg.norm(sides, axis=2).argmax(1)
    start, side = (x[np.arange(len(x)), longest] for x in (corners, sides))
    steps = np.linspace(0, 1, 2001)[:, None, None]
    candidates = start + steps * side
    best = np.linalg.norm(candidates - points, axis=2).argmin(0)
    return candidates[best, np.arange(len(points))]


def check(mesh, points, found):
    """`found` is what brute force finds, its face is one of the nearest, and its weights give a point that far off."""
    assert [x.dtype for x in found] == [torch.float32, torch.int64, torch.float32]
    expected = distances(mesh, points)
    np.testing.assert_allclose(found.distance, expected.min(1), atol=2e-6, rtol=1e-6)
    rows = np.arange(len(points))
    np.testing.assert_allclose(expected[rows, found.face], expected.min(1), atol=2e-6, rtol=1e-6)
    corners = mesh.vertices[mesh.faces[found.face].long()]
    place = (corners * found.barycentric[..., None]).sum(1)
    assert (found.barycentric >= 0).all()
    torch.testing.assert_close(found.barycentric.sum(1), torch.ones(len(points)))
    torch.testing.assert_close((place - points).norm(dim=1), found.distance, atol=2e-6, rtol=2e-6)


def on_gpu(index, points, max_distance=float("inf")):
    """The Triton kernels, run as they are: on a GPU, or in the interpreter."""
    from comfyui_trellis2.o_voxel.ops.closest_point.kernel import closest_gpu

    leaf, order = torch.sort(index.tree.likely_leaves(points))
    return ClosestPoints(*closest_gpu(index.tree, points, leaf, order, max_distance))


@pytest.fixture
def wide_programs(monkeypatch):
    """The interpreter takes as long for a program of any width."""
    from comfyui_trellis2.o_voxel.ops.closest_point import kernel

    if DEVICE.type == "cpu":
        monkeypatch.setattr(kernel, "BLOCK", 64)


@pytest.mark.slow
@backends
@faces_of
def test_against_all_pairs(faces, backend):
    mesh, points = soup(faces), queries(63)
    check(mesh, points, closest_point(build_index(mesh), points, backend=backend))


@pytest.mark.slow
@backends
def test_on_a_closed_surface(backend):
    mesh = sphere()
    points = torch.cat([queries(200), mesh.vertices[:20], torch.zeros(1, 3)])
    found = closest_point(build_index(mesh), points, backend=backend)
    check(mesh, points, found)
    assert (found.distance[200:220] == 0).all()


def test_backends_agree_to_the_bit():
    mesh, points = soup(1000), queries(1000)
    index = build_index(mesh)
    one, other = (closest_point(index, points, backend=name) for name in ("numba", "reference"))
    for a, b in zip(one, other, strict=True):
        assert torch.equal(a, b)


@pytest.mark.slow
@pytest.mark.parametrize("faces, limit", [(1, None), (63, None), (1000, None), (63, 3)])
def test_the_kernel_finds_what_the_reference_finds(faces, limit, monkeypatch, wide_programs):
    from comfyui_trellis2.o_voxel.ops.closest_point import kernel

    if limit:
        monkeypatch.setattr(kernel, "STEPS_A_LAUNCH", limit)  # so that queries go on in a second launch
    mesh, points = soup(faces), queries(63)
    expected = closest_point(build_index(mesh), points, backend="reference")
    index = build_index(Mesh(mesh.vertices.to(DEVICE), mesh.faces.to(DEVICE)))
    found = on_gpu(index, points.to(DEVICE))
    assert torch.equal(found.face.cpu(), expected.face)
    torch.testing.assert_close(found.distance.cpu(), expected.distance, rtol=1e-6, atol=0)
    torch.testing.assert_close(found.barycentric.cpu(), expected.barycentric, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_the_kernel_within_a_distance(wide_programs):
    mesh, points = soup(63), queries(63)
    index = build_index(Mesh(mesh.vertices.to(DEVICE), mesh.faces.to(DEVICE)))
    found = on_gpu(index, points.to(DEVICE), 0.1)
    expected = closest_point(build_index(mesh), points, 0.1)
    assert torch.equal(found.face.cpu(), expected.face)
    assert 0 < (expected.face < 0).sum() < 63


@backends
@pytest.mark.parametrize("reach", [0.0, 0.05, 0.3])
def test_max_distance(backend, reach):
    mesh = soup(63)
    points = torch.cat([queries(200), mesh.vertices[:5]])
    index = build_index(mesh)
    everywhere = closest_point(index, points)
    found = closest_point(index, points, reach, backend=backend)
    near = everywhere.distance <= reach
    assert near.any()
    assert not near.all()
    assert torch.equal(found.face, torch.where(near, everywhere.face, -1))
    assert torch.equal(found.distance, torch.where(near, everywhere.distance, torch.inf))
    assert torch.equal(found.barycentric, torch.where(near[:, None], everywhere.barycentric, 0.0))


@backends
def test_of_equally_near_faces_the_first(backend):
    """A fan of 12 faces in three copies, asked at the corners, on the edges and off the surface."""
    angle = torch.arange(12) / 12 * 2 * torch.pi
    rim = torch.stack([angle.cos(), angle.sin(), torch.zeros(12)], 1)
    vertices = torch.cat([torch.zeros(1, 3), rim])
    fan = torch.stack([torch.zeros(12), torch.arange(12) + 1, (torch.arange(12) + 1) % 12 + 1], 1).to(torch.int64)
    index = build_index(Mesh(vertices, fan.repeat(3, 1).flip(0)))
    points = torch.cat([vertices, torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, -3.0]])])
    found = closest_point(index, points, backend=backend)
    # Reversed, face i is the fan's face 11 - i % 12; rim corner k is in the fan's faces k - 1 and k.
    first = [0, 0, *(11 - k for k in range(1, 12))]
    assert found.face.tolist() == [*first, 0, 0]


@backends
def test_equal_for_any_order_of_the_queries(backend):
    index = build_index(soup(1000))
    points = queries(1000)
    shuffled = torch.randperm(1000, generator=torch.Generator().manual_seed(3))
    for a, b in zip(
        closest_point(index, points, backend=backend),
        closest_point(index, points[shuffled], backend=backend),
        strict=True,
    ):
        assert torch.equal(a[shuffled], b)


@pytest.mark.slow
@backends
@pytest.mark.parametrize("scale, offset", [(2.0**-20, 0.0), (2.0**20, 0.0), (1.0, 4096.0)])
def test_far_from_the_origin_and_at_any_scale(backend, scale, offset):
    vertices, points = soup(63).vertices * scale + offset, queries(63) * scale + offset
    moved = Mesh(vertices, soup(63).faces)
    back = Mesh((vertices - offset) / scale, moved.faces)
    found = closest_point(build_index(moved), points, backend=backend)
    expected = distances(back, (points - offset) / scale).min(1)
    np.testing.assert_allclose(found.distance / scale, expected, rtol=1e-5, atol=2e-6)


@backends
def test_many_queries_equally_far_from_everything(backend):
    points = torch.zeros(50, 3)
    found = closest_point(build_index(sphere()), points, backend=backend)
    assert len(found.face.unique()) == 1
    np.testing.assert_allclose(found.distance, distances(sphere(), points[:1]).min(), rtol=1e-6)


def test_no_faces_and_no_queries():
    empty = Mesh(torch.zeros(4, 3), torch.zeros(0, 3, dtype=torch.int64))
    found = closest_point(build_index(empty), torch.rand(5, 3, generator=torch.Generator().manual_seed(0)))
    assert found.distance.isinf().all()
    assert (found.face == -1).all()
    assert (found.barycentric == 0).all()
    none = closest_point(build_index(sphere()), torch.zeros(0, 3))
    assert [len(x) for x in none] == [0, 0, 0]


def test_many_coincident_faces():
    mesh = Mesh(torch.eye(3), torch.tensor([[0, 1, 2]]).repeat(10_000, 1))
    found = closest_point(build_index(mesh), queries(63))
    assert (found.face == 0).all()
    single = closest_point(build_index(Mesh(torch.eye(3), torch.tensor([[0, 1, 2]]))), queries(63))
    assert torch.equal(found.distance, single.distance)


def test_inputs_are_left_alone():
    mesh, points = soup(63), queries(63)
    before = mesh.vertices.clone(), mesh.faces.clone(), points.clone()
    closest_point(build_index(mesh), points)
    assert all(torch.equal(a, b) for a, b in zip(before, (mesh.vertices, mesh.faces, points), strict=True))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_not_finite(value):
    mesh = soup(63)
    broken = mesh.vertices.clone()
    broken[7, 1] = value
    with pytest.raises(ValueError, match=r"mesh\.vertices: expected finite"):
        build_index(Mesh(broken, mesh.faces))
    with pytest.raises(ValueError, match="points: expected finite"):
        closest_point(build_index(mesh), torch.full((3, 3), value))


@pytest.mark.parametrize("row", [-1, 9])
def test_faces_out_of_range(row):
    with pytest.raises(ValueError, match=r"mesh\.faces: expected rows of 9 vertices"):
        build_index(Mesh(torch.zeros(9, 3), torch.tensor([[0, 1, row]])))


def test_malformed():
    index = build_index(soup(63))
    with pytest.raises(ValueError, match=r"points: expected shape \[\*, 3\]"):
        closest_point(index, torch.zeros(5, 2))
    with pytest.raises(ValueError, match="points: expected float32"):
        closest_point(index, torch.zeros(5, 3, dtype=torch.float64))
    for reach in (-1.0, float("nan")):
        with pytest.raises(ValueError, match="max_distance"):
            closest_point(index, torch.zeros(5, 3), reach)
    with pytest.raises(ValueError, match="'embree'"):
        closest_point(index, torch.zeros(5, 3), backend="embree")
