"""The quads' look-ups: the kernel against the reference. `test_dual_grid` checks the surface they make."""

import pytest
import torch
from comfyui_trellis2.o_voxel.ops.dual_quads import dual_quads
from comfyui_trellis2.o_voxel.ops.dual_quads.reference import find_corners
from comfyui_trellis2.o_voxel.ops.hash_grid import hash_grid

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def scattered(n):
    generator = torch.Generator().manual_seed(n)
    cells = torch.cartesian_prod(*[torch.arange(12, dtype=torch.int32)] * 3)
    coords = cells[torch.randperm(len(cells), generator=generator)[:n]]
    return coords.to(DEVICE), (torch.rand(n, 3, generator=generator) < 0.5).to(DEVICE)


@pytest.mark.slow
@pytest.mark.parametrize("n", [0, 1, 63, 1000])
def test_kernel_equals_reference(n):
    from comfyui_trellis2.o_voxel.ops.dual_quads import kernel
    from comfyui_trellis2.o_voxel.ops.hash_grid.kernel import build_table

    coords, intersected = scattered(n)
    edges = intersected.reshape(-1).nonzero().squeeze(1)
    expected = find_corners(coords, hash_grid(coords, backend="reference"), edges)
    assert torch.equal(kernel.find_corners(coords, *build_table(coords), edges), expected)
    if n == 1000:
        assert (expected >= 0).all(1).any()
        assert (expected < 0).any()


def test_edges_ascend_and_name_the_owner():
    coords, intersected = scattered(1000)
    quads, edges = dual_quads(coords, intersected)
    assert (edges.diff() > 0).all()
    assert torch.equal(quads[:, 0].long(), edges // 3)
    assert intersected.reshape(-1)[edges].all()


def test_bad_input():
    coords, intersected = scattered(63)
    with pytest.raises(ValueError, match="intersected"):
        dual_quads(coords, intersected[:5])
    with pytest.raises(ValueError, match="coords"):
        dual_quads(coords.long(), intersected)
