"""Open shares of the sky against those of planes, corners, pits and balls, which are known."""

import math

import pytest
import torch
import trimesh
from comfyui_trellis2.o_voxel.ops.ambient_occlusion import (
    ambient_occlusion,
    picture_axes,
    render_depth_maps,
    sphere_directions,
)
from comfyui_trellis2.o_voxel.values import Mesh

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
RAYS, SIDE = 200, 128
backends = pytest.mark.parametrize("backend", ["numba", "reference"])


def quads(*corners):
    """A mesh of quads, each of four corners in turn."""
    points = torch.tensor(corners, dtype=torch.float32)
    first = 4 * torch.arange(len(points))[:, None]
    faces = torch.cat([first + torch.tensor([0, 1, 2]), first + torch.tensor([0, 2, 3])])
    return Mesh(points.reshape(-1, 3), faces)


FLOOR = [(-1, -1, 0), (1, -1, 0), (1, 1, 0), (-1, 1, 0)]
# On the floor's border, much higher than the point in front of them is far.
WALL_X = [(-1, -1, 0), (-1, 1, 0), (-1, 1, 2), (-1, -1, 2)]
WALL_Y = [(-1, -1, 0), (1, -1, 0), (1, -1, 2), (-1, -1, 2)]
UP = [0.0, 0.0, 1.0]


def shares(mesh, points, normals, *, rays=RAYS, backend="numba", **options):
    depth_maps = render_depth_maps(mesh, sphere_directions(rays), SIDE, backend="numba")
    normals = torch.tensor(normals).expand(len(points), 3)
    return ambient_occlusion(depth_maps, torch.tensor(points), normals, backend=backend, **options)


@pytest.mark.slow
@backends
def test_an_open_plane_sees_all_the_sky(backend):
    points = [[x / 10, y / 10, 0.0] for x in range(-9, 10, 3) for y in range(-9, 10, 3)]
    assert shares(quads(FLOOR), points, UP, backend=backend).tolist() == [1.0] * len(points)


@pytest.mark.slow
@backends
def test_a_wall_takes_half_and_a_corner_three_quarters(backend):
    beside, corner = [-0.93, 0.0, 0.0], [-0.93, -0.93, 0.0]
    half = shares(quads(FLOOR, WALL_X), [beside, [0.9, 0.0, 0.0]], UP, backend=backend)
    assert abs(half[0] - 0.5) < 0.04
    # 1.9 away from a wall 2 high: (1 - cos of its angle, for one infinitely long) / 2 at most is gone.
    assert 1 - (1 - math.cos(math.atan2(2, 1.9))) / 2 - 0.02 < half[1] < 1
    quarter = shares(quads(FLOOR, WALL_X, WALL_Y), [corner], UP, backend=backend)
    assert abs(quarter[0] - 0.25) < 0.04


@pytest.mark.slow
def test_the_bottom_of_a_pit_is_as_dark_as_its_opening_is_small():
    """The view factor from a small patch to a coaxial disc: r^2 / (r^2 + h^2)."""
    pit = trimesh.creation.cylinder(radius=1.0, height=2.0, sections=64)
    top = pit.face_normals[:, 2] > 0.9
    open_pit = Mesh(torch.tensor(pit.vertices, dtype=torch.float32), torch.tensor(pit.faces[~top]))
    assert abs(shares(open_pit, [[0.0, 0.0, -1.0]], UP, rays=400)[0] - 1 / (1 + 2**2)) < 0.03
    closed = Mesh(open_pit.vertices, torch.tensor(pit.faces))
    assert shares(closed, [[0.0, 0.0, -1.0], [0.5, 0.2, -1.0]], UP).tolist() == [0, 0]
    assert shares(closed, [[0.0, 0.0, 1.0]], UP).tolist() == [1]


def test_a_ball_does_not_shade_itself():
    ball = trimesh.creation.icosphere(4)
    points = torch.tensor(ball.triangles_center, dtype=torch.float32)
    depth_maps = render_depth_maps(Mesh(torch.tensor(ball.vertices, dtype=torch.float32), torch.tensor(ball.faces)),
                   sphere_directions(64), SIDE)  # fmt: skip
    share = ambient_occlusion(depth_maps, points, torch.nn.functional.normalize(points, dim=1))
    assert share.mean() > 0.998
    assert share.min() > 0.95


def test_smooth_normals_at_an_edge_do_not_shade_it():
    box = trimesh.creation.box((1, 1, 1))
    mesh = Mesh(torch.tensor(box.vertices, dtype=torch.float32), torch.tensor(box.faces))
    depth_maps = render_depth_maps(mesh, sphere_directions(64), SIDE)
    points = torch.tensor(box.triangles_center, dtype=torch.float32)
    flat = torch.tensor(box.face_normals, dtype=torch.float32)
    smooth = torch.nn.functional.normalize(points, dim=1)
    assert ambient_occlusion(depth_maps, points, smooth, flat).min() > 0.99
    assert ambient_occlusion(depth_maps, points, smooth).min() < 0.95


@pytest.mark.slow
def test_what_is_out_of_reach_does_not_count():
    lid = [(-1, -1, 1), (1, -1, 1), (1, 1, 1), (-1, 1, 1)]
    room, middle = quads(FLOOR, lid), [[0.0, 0.0, 0.0]]
    assert shares(room, middle, UP)[0] < 0.6
    assert shares(room, middle, UP, reach=0.9)[0] == 1
    # As far as a slanted direction goes to the lid.
    assert shares(room, middle, UP, reach=1.2)[0] < 0.75


@pytest.mark.slow
def test_nothing_in_front_and_nothing_at_all():
    mesh = quads(FLOOR)
    assert shares(mesh, [[0.0, 0.0, 0.0]], [0.0, 0.0, 0.0]).tolist() == [1]
    assert shares(mesh, [[50.0, 0.0, -90.0]], UP).tolist() == [1]
    empty = Mesh(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.int32))
    assert shares(empty, [[0.0, 0.0, 0.0]], UP).tolist() == [1]
    depth_maps = render_depth_maps(mesh, sphere_directions(4), 16)
    assert ambient_occlusion(depth_maps, torch.zeros(0, 3), torch.zeros(0, 3)).shape == (0,)


def scene(count):
    generator = torch.Generator().manual_seed(count)
    mesh = quads(FLOOR, WALL_X, WALL_Y)
    points = torch.rand(count, 3, generator=generator) * torch.tensor([2.0, 2, 2]) - torch.tensor([1.0, 1, 0])
    return mesh, points, torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=1)


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 63, 1000])
def test_backends_agree(count, monkeypatch):
    """A pixel's test turns over where rounding does: one picture of many, for few points."""
    from comfyui_trellis2.o_voxel.ops.ambient_occlusion import kernel

    monkeypatch.setattr(kernel, "BLOCK", 1024)
    mesh, points, normals = scene(count)
    depth_maps = render_depth_maps(mesh, sphere_directions(16), 64)
    flat = torch.nn.functional.normalize(normals + 0.3 * points, dim=1)
    wanted = ambient_occlusion(depth_maps, points, normals, flat, backend="reference")
    parts = [
        part.to(DEVICE)
        for part in (depth_maps.depth, depth_maps.axes, depth_maps.center, depth_maps.radius, points, normals, flat)
    ]
    others = (
        ambient_occlusion(depth_maps, points, normals, flat, backend="numba"),
        kernel.ambient_occlusion_gpu(*parts, math.inf).cpu(),
    )
    for share in others:
        off = (share - wanted).abs()
        assert (off < 1e-4).float().mean() > 0.995
        assert off.max() < 0.2
    assert 0.2 < wanted.mean() < 0.98 or count == 1


def test_same_bytes_twice():
    mesh, points, normals = scene(1000)
    first, second = (
        ambient_occlusion(render_depth_maps(mesh, sphere_directions(16), 64), points, normals) for _ in range(2)
    )
    assert torch.equal(first, second)


def test_directions_are_even_and_axes_square():
    towards = sphere_directions(500)
    assert (towards.norm(dim=1) - 1).abs().max() < 1e-6
    assert towards.mean(0).abs().max() < 2e-3
    near = (towards @ towards.T).fill_diagonal_(-1).amax(1).clamp(max=1).acos()
    assert near.min() > 0.75 * near.median()
    axes = picture_axes(towards)
    torch.testing.assert_close(axes @ axes.mT, torch.eye(3).expand(500, 3, 3), atol=1e-6, rtol=0)
    assert (torch.linalg.det(axes) > 0.99).all()


def test_progress_may_stop_the_drawing():
    done = []
    render_depth_maps(quads(FLOOR), sphere_directions(4), 8, progress=done.append)
    assert done == [0.25, 0.5, 0.75, 1.0]

    def stop(share):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        render_depth_maps(quads(FLOOR), sphere_directions(4), 8, progress=stop)


def test_malformed():
    depth_maps = render_depth_maps(quads(FLOOR), sphere_directions(4), 8)
    with pytest.raises(ValueError, match=r"normals: expected shape \[2, 3\], got \[1, 3\]"):
        ambient_occlusion(depth_maps, torch.zeros(2, 3), torch.zeros(1, 3))
    with pytest.raises(ValueError, match="reach: expected None or more than 0, got 0"):
        ambient_occlusion(depth_maps, torch.zeros(2, 3), torch.zeros(2, 3), reach=0)
    with pytest.raises(ValueError, match="directions: expected float32"):
        render_depth_maps(quads(FLOOR), sphere_directions(4).double(), 8)
