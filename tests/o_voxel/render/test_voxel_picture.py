"""Blocks against rays that are cast at every voxel, one by one."""

import numpy as np
import pytest
import torch
from comfyui_trellis2.o_voxel.render import voxel_picture as module
from comfyui_trellis2.o_voxel.render.camera import Bounds
from comfyui_trellis2.o_voxel.render.voxel_picture import BACKGROUND, CAMERA, voxel_picture

SIZE = 48


def cast(voxels, colors):
    """[SIZE, SIZE, 3] uint8: the colour of the nearest voxel on the ray through each pixel's centre, and whether the
    neighbouring pixels see the same one."""
    low, high = voxels.amin(0).float(), voxels.amax(0).float() + 1
    view = CAMERA.view(Bounds.around(torch.stack((low, high))), (SIZE, SIZE))
    right, up, back = (np.array(axis) for axis in (view.right, view.up, view.back))
    seen = np.full((SIZE, SIZE), -1)
    for row in range(SIZE):
        for column in range(SIZE):
            x, y = (2 * column + 1) / SIZE - 1, 1 - (2 * row + 1) / SIZE
            eye = np.array(view.position) + right * x / view.scale[0] + up * y / view.scale[1]
            near = (voxels.numpy() + (back < 0) - eye) / -back  # where the ray passes the planes of each box
            far = (voxels.numpy() + (back > 0) - eye) / -back
            enter, leave = np.minimum(near, far).max(1), np.maximum(near, far).min(1)
            hit = (enter < leave).nonzero()[0]
            if len(hit):
                seen[row, column] = hit[enter[hit].argmin()]
    padded = np.pad(seen, 1, mode="edge")
    shifted = [padded[i : i + SIZE, j : j + SIZE] for i in range(3) for j in range(3)]
    table = np.concatenate((colors.numpy(), np.float32([BACKGROUND])))
    return (table[seen] * 255).round().astype(np.uint8), np.all([other == seen for other in shifted], axis=0)


@pytest.fixture
def flat(monkeypatch):
    """Every face as bright as the other."""
    monkeypatch.setattr(module, "FACES", (1.0, 1.0, 1.0))
    monkeypatch.setattr(module, "RIM", 1.0)
    monkeypatch.setattr(module, "FAR", 1.0)


@pytest.mark.slow
@pytest.mark.parametrize(("count", "grid", "place"), [(1, 1, 0), (12, 3, 0), (30, 4, 100), (40, 8, 5)])
def test_the_nearest_voxel_is_seen(flat, count, grid, place):
    generator = torch.Generator().manual_seed(count)
    cells = torch.cartesian_prod(*[torch.arange(grid)] * 3).reshape(-1, 3)
    voxels = cells[torch.randperm(len(cells), generator=generator)[:count]].int() + place
    colors = torch.rand(count, 3, generator=generator)
    expected, sure = cast(voxels, colors)
    assert sure.mean() > 0.3
    assert np.abs(voxel_picture(voxels, SIZE, colors).numpy()[sure].astype(int) - expected[sure]).max() <= 1


def test_faces_differ_and_the_far_is_darker():
    picture = voxel_picture(torch.zeros(1, 3, dtype=torch.int32), 64).numpy()
    assert len({tuple(color) for color in picture[24:40, 16:48].reshape(-1, 3)}) >= 3
    one = torch.tensor([[0, 0, 0]], dtype=torch.int32)
    both = torch.cat((one, one + torch.tensor([0, 9, 0], dtype=torch.int32)))  # the second is behind
    near, far = (voxel_picture(both, 64, torch.eye(2, 3)).numpy()[..., i].max() for i in range(2))
    assert near > far > 60


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_without_voxels_the_background_is_left(dtype):
    picture = voxel_picture(torch.zeros(0, 3, dtype=dtype), 32)
    assert picture.dtype == torch.uint8 and picture.shape == (32, 32, 3)
    assert len(picture.reshape(-1, 3).unique(dim=0)) == 1


def test_the_order_of_voxels_does_not_matter_and_the_input_stays():
    voxels = torch.cartesian_prod(*[torch.arange(6)] * 3).int()
    kept, order = voxels.clone(), torch.randperm(len(voxels), generator=torch.Generator().manual_seed(3))
    colors = torch.rand(len(voxels), 3, generator=torch.Generator().manual_seed(4))
    assert torch.equal(voxel_picture(voxels, 64, colors), voxel_picture(voxels[order], 64, colors[order]))
    assert torch.equal(voxels, kept)


@pytest.mark.gpu
def test_voxels_on_the_gpu_give_the_same_picture():
    voxels = torch.cartesian_prod(*[torch.arange(9)] * 3).int()
    colors = torch.rand(len(voxels), 3, generator=torch.Generator().manual_seed(5))
    assert torch.equal(voxel_picture(voxels.cuda(), 64, colors.cuda()), voxel_picture(voxels, 64, colors))
