"""Taubin smoothing: noise goes, volume, creases and borders stay."""

import pytest
import torch
import trimesh
from comfyui_trellis2.o_voxel.mesh.repair.smooth import smooth_taubin
from comfyui_trellis2.o_voxel.values import Mesh

from ...shapes import mesh, sheet, sphere


def volume(made):
    return trimesh.Trimesh(made.vertices.numpy(), made.faces.numpy(), process=False).volume


def test_noise_goes_and_the_volume_stays():
    smooth = sphere(4)
    noise = torch.randn(len(smooth.vertices), 3, generator=torch.Generator().manual_seed(0)) * 0.01
    made = smooth_taubin(Mesh(smooth.vertices + noise, smooth.faces), 20, crease_deg=180)
    away = [(found.norm(dim=1) - 1).std() for found in (smooth.vertices + noise, made.vertices)]
    assert away[1] < away[0] / 3
    assert volume(made) == pytest.approx(volume(smooth), rel=0.01)
    assert torch.equal(made.faces, smooth.faces)


def test_creases_stay():
    cube = trimesh.creation.box().subdivide_to_size(0.2)
    made = smooth_taubin(mesh(cube.vertices, cube.faces), 30)
    on_edge = (mesh(cube.vertices, cube.faces).vertices.abs() > 0.499).sum(1) >= 2
    assert torch.equal(made.vertices[on_edge], mesh(cube.vertices, cube.faces).vertices[on_edge])
    assert made.vertices.abs().amax() <= 0.5
    assert volume(made) == pytest.approx(1.0, abs=1e-4)


def test_a_border_moves_along_itself():
    """A square's sides stay straight lines, and its corners are the only vertices that may leave them."""
    flat = sheet(8)
    noisy = flat.vertices.clone()
    noisy[:, 2] = torch.randn(len(noisy), generator=torch.Generator().manual_seed(1)) * 0.01
    inside = ((flat.vertices[:, :2] > 0) & (flat.vertices[:, :2] < 1)).all(1)
    noisy[~inside, 2] = 0
    made = smooth_taubin(Mesh(noisy, flat.faces), 10, crease_deg=180)
    assert (made.vertices[~inside, 2] == 0).all()
    assert made.vertices[inside, 2].std() < noisy[inside, 2].std() / 2


def test_no_rounds_and_wrong_arguments():
    ball = sphere(1)
    assert torch.equal(smooth_taubin(ball, 0).vertices, ball.vertices)
    for message, arguments in (("rounds", (-1,)), ("strength", (1, 0.0)), ("strength", (1, 1.5))):
        with pytest.raises(ValueError, match=message):
            smooth_taubin(ball, *arguments)
    with pytest.raises(ValueError, match="crease_deg"):
        smooth_taubin(ball, crease_deg=200)


def test_cancel():
    def stop(_):
        raise InterruptedError

    with pytest.raises(InterruptedError):
        smooth_taubin(sphere(2), 5, progress=stop)
