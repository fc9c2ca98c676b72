"""What the blocks of a coarse grid read in a crop: outlines to the pixel, colours and patches."""

import torch
from comfyui_trellis2.trellis2.image.prepare import normalize_unit
from comfyui_trellis2.trellis2.projection.blocks import (
    FINE,
    PLACES,
    SHADED,
    block_channels,
    block_features,
    block_places,
)
from comfyui_trellis2.trellis2.projection.framing import OrbitView, colors, cropped, framed
from comfyui_trellis2.trellis2.training.data.dataset import world_sample

SIDE = 8


def read(sample, points):
    """Features of the first picture of a sample, framed about points, without patches worth the name."""
    pixels = normalize_unit(sample.images[:1].float() / 255).movedim(-1, 1)
    places = block_places(framed(points, OrbitView(*sample.cameras[0].tolist())), SIDE)
    return places, block_features(places, torch.zeros(1, 4, 2), colors(pixels, 32, 4), torch.ones(1))


def test_parts_of_blocks_carve_the_object():
    """No part that the object occupies lies outside of its outline, and the outline leaves out most of the cube."""
    sample = world_sample(7, resolution=64, image_size=128, views=1, materials=False)
    grid = sample.voxels.dual_grid
    points = grid.grid.centers(grid.coords)
    places, found = read(sample, points)
    assert places.shape == (1, SIDE**3, PLACES, 2) and found.shape == (SIDE**3, block_channels(2))
    cover = (
        found[:, -1 - FINE**3 : -1].view(*[SIDE] * 3, *[FINE] * 3).permute(0, 3, 1, 4, 2, 5).reshape(*[SIDE * FINE] * 3)
    )
    filled = torch.zeros(*[SIDE * FINE] * 3, dtype=torch.bool)
    x, y, z = (grid.coords // 2).long().unbind(1)
    filled[x, y, z] = True
    # A cell that the surface only grazes has its centre beside the outline, by half a cell.
    assert float((cover[filled] > 0.05).float().mean()) > 0.97
    assert float((cover > 0.05).float().mean()) < 0.7


def test_parts_lie_in_their_block():
    view, points = OrbitView(20.0, 10.0, 25.0), torch.rand(50, 3, generator=torch.Generator().manual_seed(1)) - 0.5
    places = block_places(framed(points, view), 4)[0]
    cell = torch.tensor([1, 2, 3])
    mine = places[1 * 16 + 2 * 4 + 3]
    centre = (cell + 0.5)[None] / 4 - 0.5
    torch.testing.assert_close(mine[:1], cropped(centre, points, view))
    part = torch.tensor([3, 0, 2])  # of FINE a side
    inner = (cell * FINE + part + 0.5)[None] / (4 * FINE) - 0.5
    index = 1 + SHADED**3 + int(part[0]) * FINE**2 + int(part[1]) * FINE + int(part[2])
    torch.testing.assert_close(mine[index : index + 1], cropped(inner, points, view))


def test_nothing_lies_beyond_the_picture():
    """A white picture is covered, and what lies outside of it is not."""
    white = colors(normalize_unit(torch.ones(1, 64, 64, 3)).movedim(-1, 1), 16, 4)
    places = torch.full((1, 2, PLACES, 2), 0.5)
    places[:, 1] = torch.tensor([-0.1, 0.5])
    found = block_features(places, torch.zeros(1, 4, 2), white, torch.zeros(1))
    assert found[0, -1 - FINE**3 : -1].tolist() == [1.0] * FINE**3
    assert found[1, -1 - FINE**3 : -1].tolist() == [0.0] * FINE**3
    assert found[:, -1].tolist() == [0.0, 0.0]
