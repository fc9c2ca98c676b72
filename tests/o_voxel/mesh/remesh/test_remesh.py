"""Remeshing and the outer shell: closed, manifold and close to the input for any input."""

import numpy as np
import pytest
import torch
import trimesh
from comfyui_trellis2.o_voxel.mesh.connectivity.manifold import split_non_manifold
from comfyui_trellis2.o_voxel.mesh.remesh.contour import contour
from comfyui_trellis2.o_voxel.mesh.remesh.narrow_band import sample_narrow_band
from comfyui_trellis2.o_voxel.mesh.remesh.outer_shell import outer_shell
from comfyui_trellis2.o_voxel.mesh.remesh.remesh import fit_grid, remesh
from comfyui_trellis2.o_voxel.mesh.remesh.shrinkwrap import ProjectOptions, shrinkwrap
from comfyui_trellis2.o_voxel.ops.closest_point import build_index, closest_point
from comfyui_trellis2.o_voxel.values import Mesh

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def to_mesh(shape):
    return Mesh(torch.tensor(shape.vertices, dtype=torch.float32).to(DEVICE), torch.tensor(shape.faces).to(DEVICE))


def to_trimesh(mesh):
    return trimesh.Trimesh(mesh.vertices.cpu().numpy(), mesh.faces.cpu().numpy(), process=False)


def ball():
    return to_mesh(trimesh.creation.icosphere(3, radius=0.4))


def ring():
    return to_mesh(trimesh.creation.torus(0.4, 0.12))


def box():
    return to_mesh(trimesh.creation.box((1.0, 0.7, 0.5)))


def sheet(tilt=0.3):
    square = trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], [[0, 1, 2], [0, 2, 3]])
    square.apply_transform(trimesh.transformations.rotation_matrix(tilt, [1, 0.7, 0.2]))
    return to_mesh(square)


def nested():
    return to_mesh(trimesh.util.concatenate([trimesh.creation.icosphere(3, radius=r) for r in (0.4, 0.25)]))


def tube():
    """Closed, and thinner than a voxel at 32."""
    return to_mesh(trimesh.creation.cylinder(radius=0.01, height=1.0, sections=12))


def fan():
    """Five triangles on one edge."""
    angle = np.arange(5) * 1.1
    tips = np.stack([np.cos(angle), np.sin(angle), np.full(5, 0.5)], 1)
    vertices = np.concatenate([[[0, 0, 0], [0, 0, 1]], tips])
    return to_mesh(trimesh.Trimesh(vertices, [[0, 1, k + 2] for k in range(5)], process=False))


def crossing_boxes():
    boxes = [trimesh.creation.box((0.6,) * 3).apply_translation(at) for at in ((0, 0, 0), (0.3, 0.25, 0.2))]
    return to_mesh(trimesh.util.concatenate(boxes))


def many():
    grid = np.stack(np.meshgrid(*[np.arange(3)] * 3, indexing="ij"), -1).reshape(-1, 3) / 3
    return to_mesh(trimesh.util.concatenate([trimesh.creation.box((0.15,) * 3).apply_translation(at) for at in grid]))


def triangle():
    return Mesh(
        torch.tensor([[0.0, 0, 0], [1, 0, 0], [0.3, 0.8, 0.2]]).to(DEVICE), torch.tensor([[0, 1, 2]]).to(DEVICE)
    )


def soup():
    """Random intersecting triangles, some degenerate."""
    vertices = torch.rand(120, 3, generator=torch.Generator().manual_seed(0))
    faces = torch.arange(120).reshape(-1, 3)
    faces[3] = faces[3, 0]
    faces[4, 1] = faces[4, 0]
    return Mesh(vertices.to(DEVICE), faces.to(DEVICE))


SHAPES = [ball, ring, box, sheet, nested, tube, fan, crossing_boxes, many, triangle, soup]
shapes = pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.__name__)


def assert_closed_manifold(mesh):
    """Two faces an edge, in opposite directions; one fan a vertex; no vertex without faces; outwards on the whole."""
    shape = to_trimesh(mesh)
    assert shape.is_watertight
    assert shape.is_winding_consistent
    sides = shape.faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
    assert (np.unique(np.sort(sides, 1), axis=0, return_counts=True)[1] == 2).all()
    assert len(split_non_manifold(mesh)[0].vertices) == len(mesh.vertices)
    assert np.array_equal(np.unique(shape.faces), np.arange(len(mesh.vertices)))
    assert shape.volume > 0


def distance(mesh, other, voxel):
    """Maximum distance in voxels from the vertices and face centroids of `mesh` to `other`."""
    points = torch.cat([mesh.vertices, mesh.vertices[mesh.faces].mean(1)])
    return float(closest_point(build_index(other), points).distance.max()) / voxel


def winding(mesh, points):
    """Winding number of the mesh around each of `points` [P, 3], by the solid angles of its faces."""
    a, b, c = (mesh.vertices[mesh.faces].double()[None] - points.double()[:, None, None]).unbind(2)
    la, lb, lc = (one.norm(dim=2) for one in (a, b, c))
    volume = (a * torch.linalg.cross(b, c)).sum(2)
    rest = la * lb * lc + (a * b).sum(2) * lc + (b * c).sum(2) * la + (c * a).sum(2) * lb
    return torch.atan2(volume, rest).sum(1) / (2 * torch.pi)


def assert_holds(made, mesh, voxel):
    """The result encloses the whole surface, except where it was projected onto it."""
    corners = mesh.vertices[mesh.faces]
    area = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]).norm(dim=1)
    samples = corners.mean(1)[area > 0][:100]
    near = closest_point(build_index(made), samples).distance / voxel
    assert ((winding(made, samples) > 0.5) | (near < 0.4)).all()


def voxel_size(mesh, resolution):
    used = mesh.vertices[mesh.faces.flatten()]
    return float((used.amax(0) - used.amin(0)).max()) / resolution


@pytest.mark.slow
@shapes
@pytest.mark.parametrize("project", [0.0, 1.0])
def test_closed_and_near(shape, project):
    mesh = shape()
    made = remesh(mesh, 24, project=project)
    assert_closed_manifold(made)
    voxel = voxel_size(mesh, 24)
    assert distance(made, mesh, voxel) < 1.75
    assert_holds(made, mesh, voxel)
    if project == 0:
        assert float(closest_point(build_index(mesh), made.vertices).distance.min()) / voxel > 0.4


@pytest.mark.parametrize("shape", [ball, ring, box, many], ids=lambda shape: shape.__name__)
def test_moved_back_it_is_on_the_surface(shape):
    mesh = shape()
    made = remesh(mesh, 32, project=1.0)
    away = closest_point(build_index(mesh), made.vertices).distance / voxel_size(mesh, 32)
    assert float((away < 0.06).float().mean()) > 0.95


@pytest.mark.parametrize("tilt", [0.0, np.pi / 4, 0.8])
def test_a_sheet_has_one_surface_around(tilt):
    assert to_trimesh(remesh(sheet(tilt), 40, band=0.55)).euler_number == 2


def test_nested_shells_stay():
    """Each of two balls has a shell on either side."""
    made = to_trimesh(remesh(nested(), 40))
    assert sorted(part.volume > 0 for part in made.split()) == [False, False, True, True]


def test_narrow_gaps_close_with_a_wide_band():
    halves = [trimesh.creation.box((0.4, 1, 0.4)).apply_translation((x, 0, 0)) for x in (-0.25, 0.25)]
    mesh = to_mesh(trimesh.util.concatenate(halves))  # a gap of 0.1: four voxels at 40
    assert [to_trimesh(remesh(mesh, 40, band=band, project=0.0)).body_count for band in (1.0, 2.5)] == [4, 3]


@pytest.mark.parametrize("shape", [box, crossing_boxes, soup], ids=lambda shape: shape.__name__)
@pytest.mark.parametrize("part", [0.0, 1.0])
def test_no_face_turns_over(shape, part):
    """Corners of the input pull many vertices to one point without flipping faces."""
    mesh = shape()
    grid = fit_grid(mesh, 24, 1.0)
    target = Mesh(grid.to_grid(mesh.vertices), mesh.faces)
    index = build_index(target)
    shell = contour(sample_narrow_band(index, tuple(n // 4 for n in grid.shape), 1.0))
    made = shrinkwrap(shell, target, index, ProjectOptions(1.0, part, 2.0))
    before, after = (vertices[made.faces] for vertices in (shell.vertices, made.vertices))
    old, new = (torch.linalg.cross(at[:, 1] - at[:, 0], at[:, 2] - at[:, 0]) for at in (before, after))
    still = ((before - after).abs() < 1e-5).all(2).all(1)
    assert (((old * new).sum(1) > 0) | still).all()


@pytest.mark.parametrize("tilt", [0.0, 0.8])
def test_the_two_sides_of_a_sheet_stay_apart(tilt):
    """A file's reader may merge vertices at one place: four faces on an edge, and no solid."""
    made = remesh(sheet(tilt), 24, project=1.0)
    _, place = np.unique(made.vertices.cpu().numpy(), axis=0, return_inverse=True)
    assert len(np.unique(place)) == len(made.vertices)


def test_concave_creases_come_back():
    """Two intersecting rotated boxes: vertices lie along all their intersection lines."""
    both = crossing_boxes()
    turned = trimesh.transformations.rotation_matrix(0.5, [1, 0.7, 0.2])[:3, :3]
    rotation = torch.tensor(turned, dtype=torch.float32, device=DEVICE)
    made = outer_shell(Mesh(both.vertices @ rotation.T, both.faces), 40)
    voxel = voxel_size(Mesh(both.vertices @ rotation.T, both.faces), 40)
    # Where the top of the first meets the second's side at x = 0: from y = -0.05 to 0.3, at z = 0.3.
    line = torch.tensor([[0.0, -0.05, 0.3]], device=DEVICE) + torch.linspace(0.05, 0.3, 30, device=DEVICE)[
        :, None
    ] * torch.tensor([[0.0, 1, 0]], device=DEVICE)
    away = closest_point(build_index(made), line @ rotation.T).distance / voxel
    assert float(away.max()) < 0.1


@pytest.mark.parametrize("offset, scale", [((0, 0, 0), 1e-3), ((100.0, -50, 7), 20.0)])
def test_where_and_how_large_does_not_matter(offset, scale):
    mesh = ring()
    moved = Mesh(mesh.vertices * scale + torch.tensor(offset, device=DEVICE), mesh.faces)
    made, expected = remesh(moved, 32), remesh(mesh, 32)
    assert_closed_manifold(made)
    assert len(made.faces) == pytest.approx(len(expected.faces), rel=0.01)
    assert distance(made, moved, voxel_size(moved, 32)) < 1.75


def test_same_bytes_and_the_input_left_alone():
    mesh = soup()
    kept = mesh.vertices.clone(), mesh.faces.clone()
    first, second = remesh(mesh, 24), remesh(mesh, 24)
    assert torch.equal(first.vertices, second.vertices)
    assert torch.equal(first.faces, second.faces)
    assert torch.equal(mesh.vertices, kept[0])
    assert torch.equal(mesh.faces, kept[1])
    assert first.faces.dtype == mesh.faces.dtype
    assert remesh(Mesh(mesh.vertices, mesh.faces.int()), 24).faces.dtype == torch.int32


@pytest.mark.skipif(DEVICE.type != "cpu", reason="compares what runs on a CPU")
def test_backends_agree():
    made, expected = (remesh(triangle(), 10, backend=backend) for backend in ("numba", "reference"))
    assert torch.equal(made.faces, expected.faces)
    torch.testing.assert_close(made.vertices, expected.vertices)


def test_empty():
    for vertices in (torch.zeros(0, 3), torch.eye(3)):
        made = remesh(Mesh(vertices, torch.zeros(0, 3, dtype=torch.int64)), 64)
        assert made.vertices.shape == made.faces.shape == (0, 3)


def test_vertices_without_faces_do_not_count():
    mesh = ball()
    more = Mesh(torch.cat([mesh.vertices, mesh.vertices.new_tensor([[50.0, 0, 0]])]), mesh.faces)
    assert torch.equal(remesh(more, 20).vertices, remesh(mesh, 20).vertices)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"resolution": 7}, "resolution: expected 8 to 1024 voxels, got 7"),
        ({"resolution": 1025}, "resolution"),
        ({"band": 0.5}, "band: expected 0.55 to 8"),
        ({"band": float("nan")}, "band"),
        ({"project": 1.5}, "project: expected 0 to 1, got 1.5"),
        ({"backend": "cumesh"}, "'cumesh'"),
    ],
)
def test_malformed(options, message):
    with pytest.raises(ValueError, match=message):
        remesh(triangle(), **{"resolution": 16} | options)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_not_finite(value):
    mesh = ball()
    vertices = mesh.vertices.clone()
    vertices[5, 0] = value
    with pytest.raises(ValueError, match="finite"):
        remesh(Mesh(vertices, mesh.faces), 16)


def test_a_point_is_no_surface():
    with pytest.raises(ValueError, match="some extent"):
        remesh(Mesh(torch.ones(3, 3), torch.tensor([[0, 1, 2]])), 16)


def test_progress_and_cancel():
    seen = []
    remesh(ball(), 24, progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    assert all(0 <= part <= 1 for part in seen)

    def cancel(part):
        if part >= seen[len(seen) // 2]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        remesh(ball(), 24, progress=cancel)


# The outer shell.


def volume(mesh):
    return to_trimesh(mesh).volume


@pytest.mark.slow
@shapes
@pytest.mark.parametrize("project, gaps", [(0.0, 0.0), (1.0, 0.0), (1.0, 5.0)])
def test_a_closed_solid(shape, project, gaps):
    mesh = shape()
    made = outer_shell(mesh, 24, project=project, close_gaps=gaps)
    assert_closed_manifold(made)
    assert all(part.volume > 0 for part in to_trimesh(made).split(only_watertight=False))
    voxel = voxel_size(mesh, 24)
    if gaps == 0:
        assert distance(made, mesh, voxel) < 1.3
    assert_holds(made, mesh, voxel)


@pytest.mark.slow
@pytest.mark.parametrize(
    "shape, bodies, euler", [(ball, 1, 2), (ring, 1, 0), (box, 1, 2), (nested, 1, 2), (crossing_boxes, 1, 2)]
)
def test_solids_come_back(shape, bodies, euler):
    """Interior geometry is removed; the volume is that of the outer surface."""
    made = to_trimesh(outer_shell(shape(), 48))
    assert (made.body_count, made.euler_number) == (bodies, euler)
    if shape is nested:
        expected = trimesh.creation.icosphere(3, radius=0.4).volume
    elif shape is crossing_boxes:
        expected = 2 * 0.6**3 - 0.3 * 0.35 * 0.4
    else:
        expected = volume(shape())
    assert made.volume == pytest.approx(expected, rel=0.01)


def test_parts_stay_apart():
    assert to_trimesh(outer_shell(many(), 48)).body_count == 27


@pytest.mark.parametrize("tilt", [0.0, 0.3, np.pi / 4, 0.8, 1.2])
@pytest.mark.parametrize("project", [0.0, 1.0])
def test_a_sheet_is_a_thin_solid(tilt, project):
    """Watertight at every slope, and 1.1 voxels thick whatever `project` is."""
    mesh = sheet(tilt)
    made = outer_shell(mesh, 40, project=project)
    assert to_trimesh(made).euler_number == 2
    thickness = volume(made) / voxel_size(mesh, 40)
    assert thickness == pytest.approx(1.1, rel=0.25)


def test_a_tube_thinner_than_a_voxel_stays_in_one_piece():
    made = to_trimesh(outer_shell(tube(), 32))
    assert (made.body_count, made.euler_number) == (1, 2)


def open_box(hole):
    """A box with a round hole of that diameter in its top."""
    solid = trimesh.creation.box((1.0, 1.0, 1.0)).subdivide_to_size(0.03, max_iter=10)
    middle = solid.triangles_center
    cut = (np.linalg.norm(middle[:, :2], axis=1) < hole / 2) & (middle[:, 2] > 0.49)
    solid.update_faces(~cut)
    solid.remove_unreferenced_vertices()
    return to_mesh(solid)


@pytest.mark.slow
def test_gaps_close():
    """A hole of six voxels lets the flood in, unless gaps of eight are closed, level with the rim."""
    mesh = open_box(6 / 40)
    assert volume(outer_shell(mesh, 40)) < 0.3
    closed = outer_shell(mesh, 40, close_gaps=8.0)
    assert volume(closed) == pytest.approx(1.0, rel=0.02)
    lid = closed.vertices[closed.vertices[:, :2].norm(dim=1) < 2 / 40]
    assert float((lid[:, 2][lid[:, 2] > 0] - 0.5).abs().max()) * 40 < 1.0


@pytest.mark.slow
def test_without_gaps_closing_changes_little():
    plain, closed = (outer_shell(ball(), 40, close_gaps=gaps, project=0.0) for gaps in (0.0, 6.0))
    assert volume(closed) == pytest.approx(volume(plain), rel=0.01)


def test_the_shell_gives_the_same_bytes():
    first, second = (outer_shell(soup(), 24, close_gaps=3.0) for _ in range(2))
    assert torch.equal(first.vertices, second.vertices)
    assert torch.equal(first.faces, second.faces)


@pytest.mark.skipif(DEVICE.type != "cpu", reason="compares what runs on a CPU")
def test_backends_give_the_same_shell():
    made, expected = (outer_shell(triangle(), 10, backend=backend) for backend in ("numba", "reference"))
    assert torch.equal(made.faces, expected.faces)
    torch.testing.assert_close(made.vertices, expected.vertices)


@shapes
def test_another_library_takes_it_for_a_solid(shape):
    manifold3d = pytest.importorskip("manifold3d", reason="manifold3d is not installed")
    for project in (0.0, 1.0):
        made = outer_shell(shape(), 24, project=project)
        arrays = made.vertices.cpu().numpy(), made.faces.cpu().numpy().astype(np.uint32)
        solid = manifold3d.Manifold(manifold3d.Mesh(*arrays))
        assert solid.status() == manifold3d.Error.NoError
        assert solid.volume() == pytest.approx(volume(made), rel=1e-3)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"resolution": 2000}, "resolution: expected 8 to 1024 voxels, got 2000"),
        ({"close_gaps": -1.0}, "close_gaps: expected 0 to 32"),
        ({"close_gaps": float("nan")}, "close_gaps"),
        ({"project": -0.1}, "project: expected 0 to 1"),
        ({"backend": "cumesh"}, "'cumesh'"),
    ],
)
def test_malformed_for_a_shell(options, message):
    with pytest.raises(ValueError, match=message):
        outer_shell(triangle(), **{"resolution": 16} | options)


def test_a_shell_of_nothing():
    made = outer_shell(Mesh(torch.eye(3), torch.zeros(0, 3, dtype=torch.int64)), 64)
    assert made.vertices.shape == made.faces.shape == (0, 3)
    with pytest.raises(ValueError, match="finite"):
        outer_shell(Mesh(torch.full((3, 3), torch.nan), torch.tensor([[0, 1, 2]])), 64)


def test_cancelling_a_shell():
    seen = []
    outer_shell(ball(), 24, close_gaps=3.0, progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 1.0

    def cancel(part):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        outer_shell(ball(), 24, progress=cancel)
