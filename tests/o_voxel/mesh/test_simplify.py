"""Simplification: what must hold of the result, measured with trimesh and with brute force."""

import numpy as np
import pytest
import torch
import trimesh
from comfyui_trellis2.o_voxel.mesh.connectivity.manifold import split_non_manifold
from comfyui_trellis2.o_voxel.mesh.simplify import distinct_faces, edge_faces, simplify
from comfyui_trellis2.o_voxel.ops.closest_point import build_index, closest_point
from comfyui_trellis2.o_voxel.ops.simplify import collapse_edges, reference
from comfyui_trellis2.o_voxel.ops.simplify.graph import LOCK, build_graph
from comfyui_trellis2.o_voxel.ops.simplify.rounds import run_rounds
from comfyui_trellis2.o_voxel.values import Mesh

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SIDE = 60

backends = pytest.mark.parametrize("backend", ["library", "numba", "reference"])
ways = pytest.mark.parametrize("backend", ["numba", "reference"])


def to_mesh(shape):
    return Mesh(torch.tensor(shape.vertices, dtype=torch.float32), torch.tensor(shape.faces))


def to_trimesh(mesh):
    return trimesh.Trimesh(mesh.vertices.numpy(), mesh.faces.numpy(), process=False)


def bumpy():
    """A closed surface of 20,480 faces, in units of about an edge."""
    ball = trimesh.creation.icosphere(5)
    x, y, z = ball.vertices.T
    radius = 40 + 2 * np.sin(9 * x) * np.sin(8 * y) * np.sin(7 * z) + 0.5 * np.sin(30 * x) * np.sin(31 * y)
    ball.vertices *= radius[:, None]
    return to_mesh(ball)


def thin_box():
    """Two voxels thin, flat on all sides."""
    box = trimesh.creation.box((40, 30, 1.5)).subdivide_to_size(2.0, max_iter=20)
    box.merge_vertices()
    return to_mesh(box)


def ring():
    """A tube that closes: genus 1."""
    return to_mesh(trimesh.creation.torus(30, 4, major_sections=120, minor_sections=24))


def sheet(side=SIDE):
    """An open sheet with a hole, ragged and noisy."""
    y, x = torch.meshgrid(torch.arange(side).float(), torch.arange(side).float(), indexing="ij")
    generator = torch.Generator().manual_seed(1)
    z = 3 * torch.sin(x / 9) * torch.cos(y / 11) + 0.05 * torch.randn(side, side, generator=generator)
    rows = torch.arange(side * side).reshape(side, side)
    a, b, c, d = rows[:-1, :-1], rows[:-1, 1:], rows[1:, 1:], rows[1:, :-1]
    faces = torch.stack([torch.stack([a, b, c], -1), torch.stack([a, c, d], -1)], 2).reshape(-1, 3)
    vertices = torch.stack([x, y, z], -1).reshape(-1, 3)
    middle = vertices[faces].mean(1)[:, :2]
    hole = (middle - torch.tensor([0.4, 0.4]) * side).norm(dim=1) < 0.1 * side
    return Mesh(vertices, faces[~hole])


def two_boxes():
    """Two closed boxes that touch along an edge, which so has four faces."""
    boxes = [trimesh.creation.box((8, 8, 8)).apply_translation(at) for at in ((0, 0, 0), (8, 8, 0))]
    joined = trimesh.util.concatenate(boxes)
    for _ in range(3):
        joined = joined.subdivide()
    joined.merge_vertices()
    return to_mesh(joined)


def sample(mesh, count, seed):
    """Points evenly over the surface."""
    generator = torch.Generator().manual_seed(seed)
    corners = mesh.vertices[mesh.faces]
    area = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]).norm(dim=1)
    face = torch.multinomial(area, count, True, generator=generator)
    r = torch.rand(count, 2, generator=generator)
    s = r[:, :1].sqrt()
    weights = torch.cat([1 - s, s * (1 - r[:, 1:]), s * r[:, 1:]], 1)
    return (corners[face] * weights[..., None]).sum(1)


def mean_distance(mesh, other):
    """Two-sided, over 20,000 points each way."""
    return sum(
        float(closest_point(build_index(a), sample(b, 20_000, 3)).distance.mean()) / 2
        for a, b in ((mesh, other), (other, mesh))
    )


def normals(mesh):
    corners = mesh.vertices[mesh.faces]
    return torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])


def border(mesh):
    """Open edges as [B, 2, 3] positions."""
    sides = mesh.faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
    _, number, count = sides.sort(1).values.unique(dim=0, return_inverse=True, return_counts=True)
    return mesh.vertices[sides[count[number] == 1]]


def border_distance(mesh, other):
    """The largest distance from points along the open edges of `mesh` to those of `other`."""
    t = torch.linspace(0, 1, 9)[None, :, None]
    edges = border(mesh)
    points = (edges[:, :1] * (1 - t) + edges[:, 1:] * t).reshape(-1, 1, 3)
    start, way = border(other)[None, :, 0], (border(other)[:, 1] - border(other)[:, 0])[None]
    part = (((points - start) * way).sum(2, keepdim=True) / way.square().sum(2, keepdim=True)).clamp(0, 1)
    return float((points - start - part * way).norm(dim=2).amin(1).max())


def by_kernels(mesh, target):
    """The Triton steps, run as they are: on a GPU, or in the interpreter."""
    from comfyui_trellis2.o_voxel.ops.simplify import kernel

    graph = build_graph(mesh.vertices.to(DEVICE), mesh.faces.to(DEVICE, torch.int32), None)
    graph = run_rounds(graph, kernel, target, float("inf"), None)
    return Mesh(graph.position.cpu(), graph.faces.cpu().long())


@pytest.fixture
def wide_programs(monkeypatch):
    """The interpreter takes as long for a program of any width."""
    from comfyui_trellis2.o_voxel.ops.simplify import kernel

    if DEVICE.type == "cpu":
        monkeypatch.setattr(kernel, "BLOCK", 4096)


@pytest.mark.slow
@ways
@pytest.mark.parametrize("shape", [bumpy, thin_box, ring], ids=lambda shape: shape.__name__)
@pytest.mark.parametrize("share", [0.25, 0.05])
def test_closed_stays_closed(shape, share, backend):
    mesh = shape()
    target = int(len(mesh.faces) * share)
    found = to_trimesh(simplify(mesh, target, backend=backend))
    assert target - 2 <= len(found.faces) <= target
    assert found.is_watertight
    assert found.is_winding_consistent
    source = to_trimesh(mesh)
    assert found.euler_number == source.euler_number
    assert found.volume == pytest.approx(source.volume, rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.25, 0.05])
@pytest.mark.parametrize("shape", [bumpy, ring], ids=lambda shape: shape.__name__)
def test_as_near_as_the_library(shape, share):
    mesh = shape()
    target = int(len(mesh.faces) * share)
    names = "reference", "numba", "library"
    rounds, heap, theirs = (mean_distance(mesh, simplify(mesh, target, backend=name)) for name in names)
    assert 0 < rounds < 1.2 * theirs
    assert 0 < heap < 1.1 * theirs


@pytest.mark.slow
@ways
@pytest.mark.parametrize("share", [0.25, 0.05])
def test_no_face_is_turned(share, backend):
    mesh = bumpy()
    found = simplify(mesh, int(len(mesh.faces) * share), backend=backend)
    nearest = closest_point(build_index(mesh), found.vertices[found.faces].mean(1)).face
    assert ((normals(found) * normals(mesh)[nearest]).sum(1) > 0).all()


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.25, 0.1])
def test_an_open_border_stays_within_a_voxel(share):
    mesh = sheet()
    for backend in ("numba", "reference"):
        found = simplify(mesh, int(len(mesh.faces) * share), backend=backend)
        assert len(found.faces) <= int(len(mesh.faces) * share)
        assert border_distance(found, mesh) < 1
        assert border_distance(mesh, found) < 1
        assert to_trimesh(found).euler_number == to_trimesh(mesh).euler_number
        assert int((edge_faces(found.faces) > 2).sum()) == 0


def test_auto_goes_on_where_the_library_keeps_too_much():
    mesh = sheet()
    target = 120
    assert len(simplify(mesh, target, backend="library").faces) > target
    found = simplify(mesh, target)
    assert target - 2 <= len(found.faces) <= target


@ways
@pytest.mark.parametrize("share", [0.5, 0.1])
def test_no_new_edges_of_more_than_two_faces(share, backend):
    for mesh in (two_boxes(), Mesh(*fans())):
        before = int((edge_faces(mesh.faces) > 2).sum())
        assert before > 0
        found = simplify(mesh, int(len(mesh.faces) * share), backend=backend)
        assert int((edge_faces(found.faces) > 2).sum()) <= before
        assert len(found.faces) < 0.7 * len(mesh.faces)


def fans(leaves=5, side=8):
    """Square sheets that all have one edge in common, in little triangles."""
    parts, faces, offset = [], [], 0
    flat = sheet(side).vertices[:, :2]
    for k in range(leaves):
        angle = torch.tensor(2 * torch.pi * k / leaves)
        parts.append(torch.stack([flat[:, 0] * angle.cos(), flat[:, 0] * angle.sin(), flat[:, 1]], 1))
        rows = torch.arange(side * side).reshape(side, side)
        a, b, c, d = rows[:-1, :-1], rows[:-1, 1:], rows[1:, 1:], rows[1:, :-1]
        faces.append(torch.stack([a, b, c, a, c, d], -1).reshape(-1, 3) + offset)
        offset += side * side
    shape = trimesh.Trimesh(torch.cat(parts).numpy(), torch.cat(faces).numpy(), process=False)
    shape.merge_vertices()
    return torch.tensor(shape.vertices, dtype=torch.float32), torch.tensor(shape.faces)


@ways
def test_touching_boxes_keep_their_shape(backend):
    mesh = two_boxes()
    found = simplify(mesh, 60, backend=backend)
    assert len(found.faces) <= 60
    assert mean_distance(mesh, found) < 3e-3


def cracked(mesh):
    """`mesh` as cleaning leaves it: each edge of more than two faces is cut into coincident ones."""
    split, _ = split_non_manifold(mesh)
    assert len(split.vertices) > len(mesh.vertices)
    assert int((edge_faces(split.faces) > 2).sum()) == 0
    return split


@pytest.mark.parametrize("target", [200, 40])
def test_cracks_of_cleaning_do_not_open(target):
    """Sheets that were cut along the edge that they share are still there, and still at the same place."""
    whole = Mesh(*fans())
    mesh = cracked(whole)
    found = simplify(mesh, target, backend="numba")
    assert len(found.faces) <= target
    assert int((edge_faces(found.faces) > 2).sum()) == 0
    assert mean_distance(whole, found) < 0.05
    shape = to_trimesh(found)
    assert shape.is_winding_consistent
    shape.merge_vertices()
    assert shape.body_count == 1


def test_solids_that_touch_stay_closed():
    found = to_trimesh(simplify(cracked(two_boxes()), 60, backend="numba"))
    assert len(found.faces) <= 60
    assert found.is_watertight
    assert found.is_winding_consistent
    assert found.volume == pytest.approx(2 * 8**3, rel=0.01)


@pytest.mark.slow
def test_locked_vertices_stay_to_the_bit():
    mesh = bumpy()
    scaled = Mesh(mesh.vertices / 1024 + 0.1, mesh.faces)
    locked = torch.zeros(len(mesh.vertices), dtype=torch.bool)
    locked[torch.randperm(len(mesh.vertices), generator=torch.Generator().manual_seed(0))[:300]] = True
    found = simplify(scaled, 2000, locked=locked)
    assert len(found.faces) <= 2000
    there = {tuple(row) for row in found.vertices.tolist()}
    assert all(tuple(row) in there for row in scaled.vertices[locked].tolist())
    unlocked = simplify(scaled, 2000, backend="reference")
    there = {tuple(row) for row in unlocked.vertices.tolist()}
    assert not all(tuple(row) in there for row in scaled.vertices[locked].tolist())


def test_a_seam_that_is_locked_does_not_open():
    """Two halves that share positions along a cut, but no vertices, as at the seam of a texture."""
    mesh = sheet()
    left = mesh.vertices[mesh.faces].mean(1)[:, 0] < SIDE / 2
    left_rows = mesh.faces[left].unique()
    seam = torch.zeros(len(mesh.vertices), dtype=torch.bool)
    seam[np.intersect1d(left_rows, mesh.faces[~left].unique())] = True
    cut = Mesh(
        torch.cat([mesh.vertices, mesh.vertices]),
        torch.cat([mesh.faces[left], mesh.faces[~left] + len(mesh.vertices)]),
    )
    found = to_trimesh(simplify(cut, 2000, locked=torch.cat([seam, seam])))
    found.merge_vertices()
    assert found.euler_number == to_trimesh(mesh).euler_number


@pytest.mark.slow
def test_an_error_bounds_the_distance():
    mesh = bumpy()
    counts = []
    for error in (0.0, 0.02, 0.1, 0.5):
        found = simplify(mesh, max_error=error)
        counts.append(len(found.faces))
        assert mean_distance(mesh, found) < 1.5 * error + 1e-4
        assert to_trimesh(found).is_watertight
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > 0.9 * len(mesh.faces)
    assert counts[-1] < 0.1 * len(mesh.faces)
    assert len(simplify(mesh, 5000, max_error=0.02).faces) == counts[1]
    assert 4998 <= len(simplify(mesh, 5000, max_error=0.5).faces) <= 5000


def test_what_is_flat_needs_few_faces():
    found = simplify(thin_box(), max_error=1e-3)
    assert len(found.faces) < 60
    assert mean_distance(thin_box(), found) < 1e-3


@backends
def test_sizes_do_not_matter(backend):
    mesh = ring()
    found = simplify(mesh, 1000, backend=backend)
    for scale in (2.0**-10, 2.0**10):
        other = simplify(Mesh(mesh.vertices * scale, mesh.faces), 1000, backend=backend)
        assert torch.equal(other.faces, found.faces)
        torch.testing.assert_close(other.vertices / scale, found.vertices)


@pytest.mark.slow
@backends
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64], ids=str)
def test_the_same_twice_and_the_input_left_alone(backend, dtype):
    mesh = Mesh(ring().vertices, ring().faces.to(dtype))
    found = [simplify(mesh, 1000, backend=backend) for _ in range(2)]
    assert torch.equal(found[0].vertices, found[1].vertices)
    assert torch.equal(found[0].faces, found[1].faces)
    assert found[0].faces.dtype == dtype
    assert found[0].vertices.dtype == torch.float32
    assert torch.equal(mesh.vertices, ring().vertices)
    assert torch.equal(mesh.faces.long(), ring().faces)


def test_few_enough_faces_are_returned_as_they_are():
    mesh = ring()
    assert simplify(mesh, len(mesh.faces)) is mesh
    assert simplify(mesh, 10**9) is mesh
    empty = Mesh(torch.zeros(3, 3), torch.zeros(0, 3, dtype=torch.int64))
    assert simplify(empty, 1) is empty
    assert simplify(empty, max_error=1.0) is empty


@pytest.mark.slow
def test_the_least_that_topology_allows():
    single = Mesh(torch.eye(3), torch.tensor([[0, 1, 2]]))
    assert torch.equal(simplify(single, max_error=10.0).vertices, single.vertices)
    for backend in ("numba", "reference"):
        assert len(simplify(bumpy(), 1, backend=backend).faces) == 4
    balls = [trimesh.creation.icosphere(2), trimesh.creation.icosphere(2).apply_translation((3, 0, 0))]
    pair = to_mesh(trimesh.util.concatenate(balls))
    assert len(simplify(pair, 1, backend="reference").faces) == 4  # one part goes, the last stays
    assert len(simplify(pair, max_error=1e3, backend="reference").faces) == 8


def perforated(side=40, step=4):
    """A curved sheet with a hole in every `step`-th square, each way."""
    whole = sheet(side)
    square = torch.arange((side - 1) ** 2)
    row, column = square // (side - 1), square % (side - 1)
    corner = torch.stack([row, column], 1)[torch.arange(2 * len(square)) // 2]
    rows = torch.arange(side * side).reshape(side, side)
    a, b, c, d = rows[:-1, :-1], rows[:-1, 1:], rows[1:, 1:], rows[1:, :-1]
    full = torch.stack([torch.stack([a, b, c], -1), torch.stack([a, c, d], -1)], 2).reshape(-1, 3)
    inner = (corner > 0).all(1) & (corner < side - 2).all(1)
    hole = inner & (corner % step == 1).all(1)
    return Mesh(whole.vertices, full[~hole])


def crumbs(count=60):
    """A ball among small parts: half of them single triangles, half closed ones of 20 faces."""
    generator = torch.Generator().manual_seed(2)
    parts = [trimesh.creation.icosphere(4, 20.0)]
    for k in range(count):
        place = torch.randn(3, generator=generator)
        place = (30 * place / place.norm()).numpy()
        if k % 2:
            part = trimesh.creation.icosahedron()
        else:
            part = trimesh.Trimesh(np.eye(3), [[0, 1, 2]], process=False)
        parts.append(part.apply_translation(place))
    return to_mesh(trimesh.util.concatenate(parts))


@pytest.mark.slow
@ways
def test_small_holes_close_where_the_budget_needs_it(backend):
    mesh = perforated()
    holes = 1 - to_trimesh(mesh).euler_number
    assert holes > 50
    for target in (300, 60):
        found = simplify(mesh, target, backend=backend)
        shape = to_trimesh(found)
        assert target - 2 <= len(found.faces) <= target
        assert shape.is_winding_consistent
        assert int((edge_faces(found.faces) > 2).sum()) == 0
    assert 1 - shape.euler_number < 0.1 * holes
    assert mean_distance(mesh, found) < 0.7
    light = simplify(mesh, int(0.9 * len(mesh.faces)), backend=backend)
    assert 1 - to_trimesh(light).euler_number == holes
    bounded = simplify(mesh, max_error=0.5, backend=backend)
    assert 1 - to_trimesh(bounded).euler_number == holes


@ways
def test_crumbs_go_where_the_budget_needs_it(backend):
    mesh = crumbs()
    found = to_trimesh(simplify(mesh, 40, backend=backend))
    assert 36 <= len(found.faces) <= 40
    largest = max(found.split(only_watertight=False), key=lambda part: part.area)
    assert largest.is_watertight
    assert largest.area == pytest.approx(4 * np.pi * 20**2, rel=0.3)
    assert to_trimesh(simplify(mesh, 4000, backend=backend)).body_count == 61


def test_it_ends_soon_where_no_collapse_is_left():
    """The handle of a torus keeps the rounds from less than 14 triangles; there is nothing to spend them on."""
    rounds = []
    mesh = to_mesh(trimesh.creation.torus(30, 4, major_sections=40, minor_sections=12))
    found = simplify(mesh, 1, backend="reference", progress=rounds.append)
    assert 4 <= len(found.faces) <= 40
    assert len(rounds) < 80


def test_the_bar_follows_the_work():
    mesh, seen = perforated(), []
    simplify(mesh, 60, backend="reference", progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 1
    assert sum(part >= 0.97 for part in seen) < 0.2 * len(seen)
    assert len(seen) < 60


def test_the_graph_stays_that_of_its_faces():
    """After holes closed and parts went, the graph is the one that its faces give."""
    graph = build_graph(perforated().vertices, perforated().faces.to(torch.int32), None)
    found = run_rounds(graph, reference, 200, float("inf"), None)
    again = build_graph(found.position, found.faces, None)
    order = (found.ends.amin(1).long() * len(found.position) + found.ends.amax(1)).argsort()
    assert torch.equal(found.ends.sort(1).values[order], again.ends)
    assert torch.equal(found.count[order], again.count)
    assert torch.equal(found.degree[found.faces.unique().long()], again.degree[found.faces.unique().long()])


def test_coincident_and_degenerate_faces():
    faces = torch.tensor([[0, 1, 2]]).repeat(10_000, 1)
    turned = torch.where(torch.arange(10_000)[:, None] % 2 == 0, faces, faces[:, [2, 1, 0]])
    mesh = Mesh(torch.cat([torch.eye(3), torch.zeros(1, 3)]), turned)
    found = simplify(mesh, 5)
    assert torch.equal(found.faces, torch.tensor([[0, 1, 2]]))
    assert torch.equal(found.vertices, torch.eye(3))
    nothing = simplify(Mesh(torch.eye(3), torch.tensor([[0, 1, 1], [2, 2, 2]])), 1)
    assert (len(nothing.faces), len(nothing.vertices)) == (0, 0)
    heap = Mesh(torch.zeros(12, 3), trimesh_faces := torch.tensor(trimesh.creation.icosahedron().faces))
    assert len(simplify(heap, 10, backend="reference").faces) <= len(trimesh_faces)


def test_distinct_faces():
    faces = torch.tensor([[0, 1, 2], [3, 4, 5], [2, 1, 0], [5, 3, 4], [1, 1, 2], [4, 3, 5], [0, 2, 1], [6, 7, 8]])
    assert distinct_faces(faces).tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert distinct_faces(faces[:4], even_out=True).tolist() == []
    assert distinct_faces(faces, even_out=True).tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert distinct_faces(faces[:0]).shape == (0, 3)


def test_progress_and_cancel():
    seen = []
    for backend in ("library", "numba", "reference"):
        simplify(ring(), 1000, backend=backend, progress=seen.append)
        assert seen[-1] == 1
    assert all(0 <= part <= 1 for part in seen)
    assert len(seen) > 5

    def cancel(part):
        raise KeyboardInterrupt

    for backend in ("numba", "reference"):
        with pytest.raises(KeyboardInterrupt):
            simplify(ring(), 1000, backend=backend, progress=cancel)


def test_the_graph():
    """Two triangles over a square: five edges, all but one open; what they cost to fold is known."""
    position = torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
    faces = torch.tensor([[0, 1, 2], [0, 2, 3]], dtype=torch.int32)
    graph = build_graph(position, faces, torch.tensor([False, False, False, True]))
    assert graph.ends.tolist() == [[0, 1], [0, 2], [0, 3], [1, 2], [2, 3]]
    assert graph.count.tolist() == [1, 2, 1, 1, 1]
    assert graph.degree.tolist() == [2, 2, 2, 2 + LOCK]
    assert torch.equal(graph.facing, torch.tensor([[0.0, 0, 1]] * 2))
    # The planes z = 0 of area 1/2 and 1 at corner 1 and 0, and two upright ones of weight 10 on each.
    assert graph.quadric[1].tolist() == [10, 0, 0, 10, 0, 0.5, 0, 0, 0, 0]
    assert graph.quadric[0].tolist() == [10, 0, 0, 10, 0, 1, 0, 0, 0, 0]
    allowed = reference.may_collapse(graph)
    assert allowed.tolist() == [True, False, True, True, True]
    target, quadric, way = reference.merge(graph, graph.ends)
    assert way[0].tolist() == [1, 0, 0]
    torch.testing.assert_close(target[0], torch.tensor([0.5, 0, 0]))
    torch.testing.assert_close(reference.quadric_at(quadric, target)[0], torch.tensor(10 * 0.25 * 2))
    torch.testing.assert_close(target[2], way[2])  # to the locked corner


def test_quadrics_are_sums_of_squared_distances():
    generator = torch.Generator().manual_seed(0)
    normal = torch.nn.functional.normalize(torch.randn(50, 3, generator=generator), dim=1)
    at, point, origin = (torch.randn(50, 3, generator=generator) for _ in range(3))
    entries = torch.stack([normal[:, i] * normal[:, j] for i, j in ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))], 1)
    plane = torch.cat([entries, torch.zeros(50, 4)], 1)  # through its own origin, `at`
    moved = reference.recenter(plane, origin - at)
    expected = ((point - at) * normal).sum(1).square()
    torch.testing.assert_close(reference.quadric_at(moved, point - origin), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("shape", [bumpy, sheet, two_boxes], ids=lambda shape: shape.__name__)
def test_chosen_edges_share_no_face(shape):
    mesh = shape()
    graph = build_graph(mesh.vertices, mesh.faces.to(torch.int32), None)
    cost = reference.edge_costs(graph, 1, 1e12)
    limit = cost[cost.isfinite()].median()
    chosen = reference.choose_edges(graph, cost, limit, 1)
    assert (cost[chosen] <= limit).all()
    assert len(chosen) > 0.02 * len(cost)
    owner = torch.full((len(mesh.vertices),), -1)
    ends = graph.ends[chosen].long()
    owner[ends] = torch.arange(len(chosen))[:, None]
    assert (owner[ends] == torch.arange(len(chosen))[:, None]).all()
    around = owner[mesh.faces]
    met = torch.where(around < 0, around.amax(1, keepdim=True), around)
    assert (met == around.amax(1, keepdim=True)).all()


@pytest.mark.slow
@pytest.mark.parametrize("shape", [sheet, two_boxes], ids=lambda shape: shape.__name__)
def test_the_kernels_do_what_the_reference_does(shape, wide_programs):
    from comfyui_trellis2.o_voxel.ops.simplify import kernel

    mesh = shape()
    graph = build_graph(mesh.vertices.to(DEVICE), mesh.faces.to(DEVICE, torch.int32), None)
    graph = run_rounds(graph, reference, int(len(mesh.faces) * 0.6), 1e12, None)  # so that quadrics are not bare
    for error in (0.01, 1e12):
        cost, expected = (steps.edge_costs(graph, 3, error) for steps in (kernel, reference))
        assert torch.equal(cost.isfinite(), expected.isfinite())
        torch.testing.assert_close(cost, expected, rtol=1e-3, atol=1e-5)
    limit = expected[expected.isfinite()].quantile(0.8)
    chosen, wanted = (steps.choose_edges(graph, expected, limit, 3) for steps in (kernel, reference))
    assert torch.equal(chosen, wanted)
    for found, wanted in zip(*(steps.merge_edges(graph, chosen) for steps in (kernel, reference)), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)
    label = torch.full((len(graph.position),), -1, dtype=torch.int32, device=DEVICE)
    label[graph.ends[chosen].long()] = torch.arange(len(chosen), dtype=torch.int32, device=DEVICE)[:, None]
    target = graph.position[graph.ends[chosen, 0].long()] + torch.randn(
        len(chosen), 3, generator=torch.Generator().manual_seed(0)
    ).to(DEVICE)
    spoiled = []
    for most in (limit * 0, limit * 1e6):
        spoils, star = kernel.check_faces(graph, label, target, most)
        expected_spoils, expected_star = reference.check_faces(graph, label, target, most)
        assert torch.equal(star, expected_star)
        assert torch.equal(spoils, expected_spoils)
        spoiled.append(int(spoils.sum()))
    assert 0 < spoiled[1] <= spoiled[0] < len(spoils)


@pytest.mark.parametrize("backend, least", [("numba", 200), ("reference", 20)])
def test_a_wire_gives_its_rings_before_a_ball_its_shape(backend, least):
    """A hoop of thin wire around a ball: its faces become long and thin, which costs little that is to be seen. The
    ball had no face left, on both backends, when thin faces were forbidden."""
    hoop = trimesh.creation.torus(0.5, 0.0005, major_sections=240, minor_sections=12)
    both = to_mesh(trimesh.util.concatenate([trimesh.creation.icosphere(4, 0.4), hoop]))
    made = simplify(both, 400, backend=backend)
    inside = made.vertices[made.faces.long()].mean(1).norm(dim=1) < 0.45
    assert len(made.faces) <= 400
    assert int(inside.sum()) > least


@pytest.mark.slow
def test_the_kernels_simplify(wide_programs):
    mesh = ring()
    found = by_kernels(mesh, 800)
    assert 798 <= len(found.faces) <= 800
    shape = to_trimesh(found)
    assert shape.is_watertight
    assert shape.is_winding_consistent
    assert shape.euler_number == 0
    library = mean_distance(mesh, simplify(mesh, 800, backend="library"))
    assert mean_distance(mesh, found) < 1.2 * library


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_not_finite(value):
    mesh = ring()
    vertices = mesh.vertices.clone()
    vertices[5, 0] = value
    with pytest.raises(ValueError, match="finite"):
        simplify(Mesh(vertices, mesh.faces), 100)


@pytest.mark.parametrize(
    "options, message",
    [
        ({}, "a number of faces or a max_error"),
        ({"faces": 0}, "faces: expected at least 1, got 0"),
        ({"max_error": -1.0}, "max_error: expected 0 or more"),
        ({"max_error": float("nan")}, "max_error"),
        ({"faces": 9, "backend": "cumesh"}, "'cumesh'"),
        ({"max_error": 1.0, "backend": "library"}, "neither max_error nor locked"),
        ({"faces": 9, "locked": torch.zeros(3, dtype=torch.bool)}, r"locked: expected shape \[2880\], got \[3\]"),
    ],
)
def test_malformed(options, message):
    with pytest.raises(ValueError, match=message):
        simplify(ring(), **options)


def test_faces_out_of_range():
    with pytest.raises(ValueError, match="faces of vertices 0 to 2"):
        simplify(Mesh(torch.eye(3), torch.tensor([[0, 1, 3]])), 1)


def test_the_op_alone():
    mesh = ring()
    position, faces = collapse_edges(mesh.vertices, mesh.faces.to(torch.int32), 500, backend="reference")
    assert position.shape == mesh.vertices.shape
    assert (faces.dtype, len(faces)) == (torch.int32, 500)


@pytest.mark.slow
def test_no_part_pays_for_one_that_is_hard():
    """The library cannot simplify the flat, finely divided cylinder, and takes all from the ball instead."""
    hard = trimesh.creation.cylinder(0.1, 0.6)
    for _ in range(4):
        hard = hard.subdivide()
    ball = trimesh.creation.icosphere(4, 0.2)
    ball.apply_translation((0.5, 0, 0))
    both = trimesh.util.concatenate([hard, ball])
    mesh = Mesh(torch.tensor(both.vertices, dtype=torch.float32), torch.tensor(both.faces))
    light = simplify(mesh, 2000)
    assert len(light.faces) <= 2000
    assert int((light.vertices[light.faces.long()].mean(1)[:, 0] > 0.25).sum()) > 500
