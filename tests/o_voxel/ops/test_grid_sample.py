"""Trilinear sampling against the eight corners summed in float64."""

import itertools

import pytest
import torch
from comfyui_trellis2.o_voxel.ops.grid_sample import grid_sample, grid_samples
from comfyui_trellis2.o_voxel.ops.hash_grid import hash_grid

SIZES = (0, 1, 63, 1000)
CHANNELS = 6
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
ROUNDING = {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 8e-3, torch.float64: 1e-5}

sizes = pytest.mark.parametrize("n", SIZES)
counts = pytest.mark.parametrize("q", SIZES)
backends = pytest.mark.parametrize("backend", ["numba", "reference"])


def field(n, dtype=torch.float32):
    """n voxels of a 12-wide grid in no order, and values on them."""
    generator = torch.Generator().manual_seed(n)
    cells = torch.cartesian_prod(*[torch.arange(12, dtype=torch.int32)] * 3)
    return cells[torch.randperm(len(cells), generator=generator)[:n]], torch.rand(n, CHANNELS, generator=generator).to(
        dtype
    )


def somewhere(q):
    return torch.rand(q, 3, generator=torch.Generator().manual_seed(7)) * 15 - 1.5


def expected(coords, feats, points):
    value = {tuple(voxel): row for voxel, row in zip(coords.tolist(), feats.double(), strict=True)}
    out = torch.zeros(len(points), feats.shape[1], dtype=torch.float64)
    for i, point in enumerate((points.double() - 0.5).tolist()):
        low = [int(x // 1) for x in point]
        total = 0.0
        for corner in itertools.product((0, 1), repeat=3):
            voxel = tuple(a + b for a, b in zip(low, corner, strict=True))
            if voxel in value:
                weight = 1.0
                for x, a, b in zip(point, low, corner, strict=True):
                    weight *= x - a if b else 1 - (x - a)
                out[i] += weight * value[voxel]
                total += weight
        out[i] /= max(total, 1e-12)
    return out


def near(coords, points):
    """Whether a voxel's centre is less than one away along every axis, [Q] bool."""
    off = (points[:, None] - coords - 0.5).abs().amax(2) if len(coords) else points.new_ones(len(points), 1)
    return (off < 1).any(1)


@sizes
@counts
@backends
def test_against_the_eight_corners(n, q, backend):
    coords, feats = field(n)
    points = somewhere(q)
    out, reached = grid_samples(feats, hash_grid(coords), points, backend=backend)
    assert out.dtype == torch.float32
    assert torch.equal(reached, near(coords, points))
    torch.testing.assert_close(out.double(), expected(coords, feats, points), atol=ROUNDING[torch.float32], rtol=0)


@pytest.mark.slow
@counts
def test_the_kernel_against_the_eight_corners(q, monkeypatch):
    """The Triton kernel, run as it is: on a GPU, or in the interpreter, which takes as long for any width."""
    from comfyui_trellis2.o_voxel.ops.grid_sample import kernel
    from comfyui_trellis2.o_voxel.ops.hash_grid import HashGrid
    from comfyui_trellis2.o_voxel.ops.hash_grid import kernel as hash_kernel

    for module in (kernel, hash_kernel):
        monkeypatch.setattr(module, "BLOCK", 1024)
    coords, feats = field(1000)
    points = torch.cat([somewhere(q), torch.tensor([[1e30, 0, 0], [-1e30, 3, 3], [5, 5, 70_000.0]])])
    index = HashGrid(*hash_kernel.build_table(coords.to(DEVICE)), 3, "triton")
    out, reached = kernel.trilinear_gpu(feats.to(DEVICE), index, points.to(DEVICE))
    torch.testing.assert_close(out.cpu().double(), expected(coords, feats, points), atol=1e-5, rtol=0)
    assert torch.equal(reached.cpu(), near(coords, points))


@pytest.mark.parametrize("dtype", list(ROUNDING), ids=str)
@backends
def test_rounding(dtype, backend):
    coords, feats = field(1000, dtype)
    points = somewhere(63)
    out = grid_sample(feats, hash_grid(coords), points, backend=backend)
    assert out.dtype == dtype
    torch.testing.assert_close(out.double(), expected(coords, feats, points), atol=ROUNDING[dtype], rtol=0)


def test_a_centre_gives_the_voxels_own_value():
    coords, feats = field(63)
    assert torch.equal(grid_sample(feats, hash_grid(coords), coords + 0.5), feats)


def test_a_constant_field_is_constant_up_to_its_rim():
    coords, feats = field(63)
    points = torch.cat([coords + 0.01, coords + 0.99])
    out = grid_sample(torch.full_like(feats, 0.7), hash_grid(coords), points)
    torch.testing.assert_close(out, torch.full_like(out, 0.7), atol=1e-6, rtol=0)


def test_a_linear_field_is_reproduced():
    coords = torch.cartesian_prod(*[torch.arange(5)] * 3)
    feats = torch.stack([coords @ torch.tensor([1, 10, 100]), coords[:, 0]], dim=1).float()
    points = 0.5 + 4 * torch.rand(63, 3, generator=torch.Generator().manual_seed(0))
    wanted = torch.stack([(points - 0.5) @ torch.tensor([1.0, 10.0, 100.0]), points[:, 0] - 0.5], dim=1)
    torch.testing.assert_close(grid_sample(feats, hash_grid(coords), points), wanted, atol=1e-4, rtol=0)


@backends
def test_far_away_is_zero(backend):
    coords, feats = field(63)
    far = torch.tensor([[-2.0, 5, 5], [5, 5, 14.5], [1e6, 0, 0], [-1e30, 1e30, 0], [70_000.0, 1, 1]])
    values, reached = grid_samples(feats, hash_grid(coords), far, backend=backend)
    assert torch.equal(values, torch.zeros(5, CHANNELS))
    assert not reached.any()


@backends
def test_of_equal_voxels_the_first_counts(backend):
    coords = torch.tensor([[2, 2, 2], [2, 2, 3], [2, 2, 2]], dtype=torch.int32)
    feats = torch.tensor([[1.0], [2.0], [5.0]])
    points = torch.tensor([[2.5, 2.5, 2.75], [2.5, 2.5, 2.5]])
    assert grid_sample(feats, hash_grid(coords), points, backend=backend).flatten().tolist() == [1.25, 1]


def test_inputs_are_left_alone_and_the_output_repeats():
    coords, feats = field(63)
    index, points = hash_grid(coords), somewhere(63)
    before = feats.clone(), points.clone()
    assert torch.equal(grid_sample(feats, index, points), grid_sample(feats, index, points))
    assert torch.equal(feats, before[0])
    assert torch.equal(points, before[1])


def test_the_measure_sees_one_percent():
    coords, feats = field(1000)
    points = somewhere(63)
    wanted = expected(coords, feats, points)
    for values, places in (
        (feats * 1.01, points),
        (feats, points + 0.01),
        (feats, points.flip(1)),
        (feats * 0, points),
    ):
        out = grid_sample(values, hash_grid(coords), places)
        assert (out.double() - wanted).abs().max() > 100 * ROUNDING[torch.float32]


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"feats": torch.zeros(62, CHANNELS)}, r"feats: expected shape \[63, \*\], got \[62, 6\]"),
        ({"feats": torch.zeros(63, CHANNELS, dtype=torch.uint8)}, "feats: expected float16"),
        ({"points": torch.zeros(5, 4)}, r"points: expected shape \[\*, 3\], got \[5, 4\]"),
        ({"points": torch.zeros(5, 3).double()}, "points: expected float32, got float64"),
        ({"index": hash_grid(torch.zeros(63, 4, dtype=torch.int32))}, r"index: expected one over coordinates \[N, 3\]"),
        ({"backend": "texture"}, "backend: expected 'auto' or one of .*, got 'texture'"),
    ],
)
def test_malformed(changed, message):
    coords, feats = field(63)
    given = {"feats": feats, "index": hash_grid(coords), "points": torch.zeros(5, 3)} | changed
    with pytest.raises(ValueError, match=message):
        grid_sample(**given)


def test_nearest_and_fill():
    coords = torch.tensor([[2, 2, 2], [5, 2, 2]], dtype=torch.int32)
    feats, index = torch.tensor([[1.0], [2.0]]), hash_grid(coords)
    points = torch.tensor([[2.9, 2.5, 2.1], [3.2, 2.5, 2.5], [4.6, 2.5, 2.5], [100.0, 2.0, 2.0], [-9.0, 0.0, 0.0]])
    assert grid_sample(feats, index, points, mode="nearest").flatten().tolist() == [1, 0, 0, 0, 0]
    filled = grid_sample(feats, index, points, mode="nearest", fill_from=coords)
    assert filled.flatten().tolist() == [1, 1, 2, 2, 1]
    # Trilinear reaches a voxel from up to one voxel off its centre; only what is farther is filled.
    blended = grid_sample(feats, index, points, fill_from=coords)
    assert blended.flatten().tolist() == [1, 1, 2, 2, 1]
    assert grid_sample(feats, index, points).flatten().tolist() == [1, 1, 2, 0, 0]


def test_fill_against_brute_force():
    generator = torch.Generator().manual_seed(5)
    coords = torch.unique(torch.randint(0, 30, (63, 3), generator=generator, dtype=torch.int32), dim=0)
    points = torch.rand(1000, 3, generator=generator) * 40 - 5
    feats = torch.arange(len(coords), dtype=torch.float32)[:, None]
    found = grid_sample(feats, hash_grid(coords), points, mode="nearest", fill_from=coords).long().squeeze(1)
    assert torch.equal(found, (points[:, None] - coords - 0.5).double().square().sum(-1).argmin(1))


def test_bad_mode_and_fill():
    coords = torch.zeros(1, 3, dtype=torch.int32)
    with pytest.raises(ValueError, match="mode: expected one of"):
        grid_sample(torch.ones(1, 2), hash_grid(coords), torch.zeros(1, 3), mode="cubic")
    with pytest.raises(ValueError, match="fill_from"):
        grid_sample(torch.ones(1, 2), hash_grid(coords), torch.zeros(1, 3), fill_from=coords[:0])
