"""The flood: every backend against the reference, and the reference against scipy's labels."""

import pytest
import torch
from comfyui_trellis2.o_voxel.ops.flood_fill import flood_fill
from scipy import ndimage

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture
def flood():
    from comfyui_trellis2.o_voxel.ops.flood_fill.kernel import flood

    return flood


def to_bits(points):
    """Blocks [X, Y, Z] int64 of points [4 X, 4 Y, 4 Z] bool."""
    x, y, z = (n // 4 for n in points.shape)
    blocks = points.reshape(x, 4, y, 4, z, 4).permute(0, 2, 4, 1, 3, 5).reshape(x, y, z, 64)
    return (blocks.long() << torch.arange(64)).sum(-1)


def maze(shape, share, seed=0):
    """Free points [4 X, 4 Y, 4 Z] bool; near a share of 0.31 they hang together by long ways."""
    return torch.rand([4 * n for n in shape], generator=torch.Generator().manual_seed(seed)) < share


def by_labels(points, seed):
    label = torch.from_numpy(ndimage.label(points.numpy())[0])
    return (label == label[seed]) & points


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.2, 0.34, 0.5, 1.0])
def test_against_labels(flood, share):
    points = maze((5, 3, 4), share)
    points[0, 0, 0] = True
    seeds = torch.zeros(5, 3, 4, dtype=torch.int64)
    seeds[0, 0, 0] = 1
    expected = to_bits(by_labels(points, (0, 0, 0)))
    for backend in ("reference", "numba"):
        assert torch.equal(flood_fill(to_bits(points), seeds, backend=backend), expected)
    assert torch.equal(flood(to_bits(points).to(DEVICE), (seeds & to_bits(points)).to(DEVICE)).cpu(), expected)


@pytest.mark.slow
@pytest.mark.parametrize("n", [0, 1, 63, 1000])
def test_sizes(flood, n):
    """Lines of blocks, and seeds all over."""
    free, seeds = to_bits(maze((n, 1, 1), 0.5)), to_bits(maze((n, 1, 1), 0.02, 1))
    expected = flood_fill(free, seeds, backend="reference")
    assert torch.equal(expected & free, expected)
    assert torch.equal(flood_fill(free, seeds, backend="numba"), expected)
    if n:
        assert torch.equal(flood(free.to(DEVICE), (free & seeds).to(DEVICE)).cpu(), expected)


def test_a_seed_that_is_not_free_reaches_nothing():
    free = torch.tensor([[[~1]]])
    assert flood_fill(free, torch.tensor([[[1]]])).item() == 0


def test_input_is_left_alone():
    free, seeds = to_bits(maze((3, 3, 3), 0.6)), to_bits(maze((3, 3, 3), 0.1, 1))
    kept = free.clone(), seeds.clone()
    flood_fill(free, seeds)
    assert torch.equal(free, kept[0])
    assert torch.equal(seeds, kept[1])


def test_malformed():
    free = torch.zeros(2, 2, 2, dtype=torch.int64)
    with pytest.raises(ValueError, match="free"):
        flood_fill(free.int(), free)
    with pytest.raises(ValueError, match=r"seeds: expected shape \[2, 2, 2\]"):
        flood_fill(free, free[:1])
    with pytest.raises(ValueError, match="'fast'"):
        flood_fill(free, free, backend="fast")
