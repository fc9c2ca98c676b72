"""Frames: which axis is up."""

import torch
from comfyui_trellis2.o_voxel.core.grid import to_y_up, to_z_up


def test_up_axes():
    axes = torch.eye(3)
    assert torch.equal(to_y_up(axes), torch.tensor([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]]))
    assert torch.equal(to_z_up(axes), torch.tensor([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]]))
    points = torch.randn(50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(to_z_up(to_y_up(points)), points)
    assert torch.linalg.det(to_z_up(axes)) > 0
