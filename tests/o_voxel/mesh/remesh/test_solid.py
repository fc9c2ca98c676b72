"""Printable solids: closed, of as many bodies as asked, no wall thinner than asked."""

import numpy as np
import pytest
import torch
import trimesh
from comfyui_trellis2.o_voxel.mesh.info import mesh_info
from comfyui_trellis2.o_voxel.mesh.remesh.solid import solid
from comfyui_trellis2.o_voxel.values import Mesh

from ...shapes import box, mesh, sheet, sphere, stack


def walls(made, count=150):
    """Thickness [N] under the middles of some faces, by brute force: each ray against all triangles, in float64."""
    corners = made.vertices.numpy().astype(float)[made.faces.numpy()]
    a, u, v = corners[:, 0], corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    normal = np.cross(u, v)
    area = np.linalg.norm(normal, axis=1)
    normal /= area[:, None]
    found = []
    for face in np.random.default_rng(0).choice(len(a), count, p=area / area.sum()):
        way, start = -normal[face], corners[face].mean(0)
        h = np.cross(way, v)
        det = (u * h).sum(1)
        with np.errstate(divide="ignore", invalid="ignore"):
            s = ((start - a) * h).sum(1) / det
            q = np.cross(start - a, u)
            t, far = q @ way / det, (v * q).sum(1) / det
            hit = (s >= 0) & (t >= 0) & (s + t <= 1) & (far > 1e-6)
        hit[face] = False
        other = np.where(hit, far, np.inf).argmin()
        if normal[other] @ normal[face] < -0.5:
            found.append(far[other])
    return np.array(found)


def bowl():
    ball = sphere(3, 0.5)
    lower = ball.vertices[ball.faces.long()].mean(1)[:, 2] < 0.1
    return Mesh(ball.vertices, ball.faces[lower])


@pytest.mark.parametrize("shape", [bowl(), sheet(4, 0.2)], ids=["bowl", "cloth"])
def test_a_sheet_gets_the_wall(shape):
    made, report = solid(shape, 32, min_wall=0.1)
    figures = mesh_info(made)
    assert (figures.watertight, figures.oriented, figures.parts) == (True, True, 1)
    assert report.thickened > 0.9
    assert "walls thinner than 3 mm were thickened: 9" in report.lines("3 mm")[0]
    thickness = walls(made)
    assert len(thickness) > 100
    assert thickness.min() > 0.1 * 0.98
    assert np.median(thickness) < 0.125


def test_thick_walls_and_sharp_edges_stay():
    made, report = solid(box(), 32, min_wall=0.3)
    assert (report.thickened, report.lines("1 mm")) == (0.0, [])
    assert mesh_info(made).volume == pytest.approx(1.0, abs=1e-3)


def test_the_largest_bodies_stay():
    three = stack(box(), box((2, 0, 0), (0.5, 0.5, 0.5)), box((0, 2, 0), (0.4, 0.4, 0.4)))
    made, report = solid(three, 48, bodies=2)
    assert mesh_info(made).parts == report.bodies == 2
    assert (report.left_out, report.left_out_share) == (1, pytest.approx(0.064 / 1.189, rel=0.05))
    assert made.vertices[:, 1].max() < 1


def test_another_library_takes_a_thickened_one_for_a_solid():
    made, _ = solid(bowl(), 24, min_wall=0.12)
    found = trimesh.Trimesh(made.vertices.numpy(), made.faces.numpy())  # merges vertices at one place
    assert found.is_volume


def test_nothing_and_wrong_arguments():
    empty = mesh(np.zeros((0, 3)), np.zeros((0, 3)))
    assert len(solid(empty, 16)[0].faces) == 0
    with pytest.raises(ValueError, match="min_wall: expected 0"):
        solid(box(), 16, min_wall=-1.0)
    with pytest.raises(ValueError, match="bodies: expected 1"):
        solid(box(), 16, bodies=0)


def test_the_same_bytes_and_cancel():
    once, again = (solid(bowl(), 16, min_wall=0.2)[0] for _ in range(2))
    assert torch.equal(once.vertices, again.vertices) and torch.equal(once.faces, again.faces)

    def stop(_):
        raise InterruptedError

    with pytest.raises(InterruptedError):
        solid(bowl(), 16, min_wall=0.2, progress=stop)
