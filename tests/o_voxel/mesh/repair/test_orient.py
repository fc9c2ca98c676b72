"""Consistent outward orientation, checked with trimesh."""

import pytest
import torch
from comfyui_trellis2.o_voxel.mesh.repair.orient import orient
from comfyui_trellis2.o_voxel.values import Mesh


def open_ball(shapes, level=3, below=0.6):
    """A sphere without its top."""
    ball = shapes.sphere(level)
    return shapes.without(ball, ball.vertices[ball.faces.long()].mean(1)[:, 2] > below)


def outward_share(mesh, middle=(0, 0, 0)):
    corners = mesh.vertices[mesh.faces.long()] - torch.tensor(middle)
    normal = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    return float(((normal * corners.mean(1)).sum(1) > 0).float().mean())


@pytest.mark.slow
@pytest.mark.parametrize("outward", ["volume", "views"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_closed_and_open_shells_face_outward(shapes, backend, outward, share):
    for shell in (shapes.sphere(3), open_ball(shapes), open_ball(shapes, below=0.0)):
        mesh = shapes.scramble(shell, share=share)
        before = mesh.faces.clone()
        result = orient(mesh, outward, backend=backend)
        assert outward_share(result) == 1
        assert shapes.to_trimesh(result).is_winding_consistent
        assert torch.equal(mesh.faces, before)
        assert torch.equal(result.faces.sort(1).values, mesh.faces.sort(1).values)
        assert torch.equal(result.faces[:, 0], mesh.faces[:, 0])


def test_each_component_by_itself(shapes, backend):
    balls = [shapes.sphere(2, 0.4), shapes.box((3, 0, 0)), open_ball(shapes)]
    balls[2] = Mesh(balls[2].vertices + torch.tensor([6.0, 0, 0]), balls[2].faces)
    mesh = shapes.scramble(shapes.stack(*balls))
    parts = shapes.to_trimesh(orient(mesh, backend=backend)).split(only_watertight=False)
    assert [part.volume > 0 for part in parts] == [True] * 3


def test_a_thin_plate_has_two_fronts(shapes, backend):
    plate = shapes.box(size=(1, 1, 1e-4))
    for seed in range(4):
        assert shapes.to_trimesh(orient(shapes.scramble(plate, seed), backend=backend)).volume == pytest.approx(1e-4)


@pytest.mark.parametrize("up", [True, False])
def test_a_flat_sheet_keeps_what_most_faces_have(shapes, backend, up):
    sheet = shapes.sheet(12, bump=0.01)
    result = orient(shapes.scramble(sheet, share=0.2 if up else 0.8), backend=backend)
    expected = sheet.faces if up else sheet.faces[:, [0, 2, 1]]
    assert torch.equal(result.faces, expected)


def test_views_turn_a_bowl_that_hides_its_inside(shapes):
    """A deep bowl with a lid that does not touch it: only its outside is seen."""
    bowl = open_ball(shapes, below=0.9)
    lid = shapes.sheet(1)
    lid = Mesh((lid.vertices - torch.tensor([0.5, 0.5, 0])) * 1.5 + torch.tensor([0, 0, 0.96]), lid.faces)
    result = orient(shapes.scramble(shapes.stack(bowl, lid)), "views")
    assert outward_share(Mesh(result.vertices, result.faces[: len(bowl.faces)])) == 1


def test_what_no_view_sees_is_turned_by_its_volume(shapes):
    nested = shapes.scramble(shapes.stack(shapes.sphere(2), shapes.sphere(1, 0.3)))
    result = orient(nested, "views")
    assert outward_share(result) == 1


def test_far_away_and_small(shapes, backend):
    """The volume is about the component's centroid, and independent of scale."""
    ball = shapes.scramble(shapes.sphere(2))
    moved = Mesh(ball.vertices * 1e-3 + 100, ball.faces)
    assert outward_share(orient(moved, backend=backend), (100, 100, 100)) > 0.95
    tiny = Mesh(ball.vertices * 1e-12, ball.faces)
    assert torch.equal(orient(tiny, backend=backend).faces, orient(ball, backend=backend).faces)


@pytest.mark.slow
@pytest.mark.parametrize("outward", ["volume", "views"])
def test_nothing_and_little(shapes, backend, outward):
    empty = Mesh(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.int32))
    triangle = Mesh(torch.eye(3), torch.tensor([[0, 1, 2]]))
    point = Mesh(torch.zeros(3, 3), torch.tensor([[0, 1, 2], [2, 1, 0], [0, 0, 1]]))
    assert shapes.same(orient(empty, outward, backend=backend), empty)
    assert len(orient(triangle, outward, backend=backend).faces) == 1
    assert len(orient(point, outward, backend=backend).faces) == 3


def test_another_way_out_is_named(shapes):
    with pytest.raises(ValueError, match="outward: expected one of \\['volume', 'views'\\], got 'up'"):
        orient(shapes.box(), "up")
