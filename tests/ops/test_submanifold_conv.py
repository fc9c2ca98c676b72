"""Submanifold convolution against torch's dense one, and the neighbour map against a dictionary."""

import pytest
import torch
from pack.o_voxel.ops.hash_grid import hash_grid
from pack.trellis2.ops.submanifold_conv import neighbor_map, reference, submanifold_conv
from pack.trellis2.sparse import CoordSet, SparseTensor, SubmanifoldConv3d
from torch.nn import functional as F

SIZES = (0, 1, 63, 1000)
SHAPE = (2, 9, 11, 13)  # batch, x, y, z
CIN, COUT = 5, 3
ROUNDING = {torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 8e-2, torch.float64: 1e-12}

sizes = pytest.mark.parametrize("n", SIZES)


def voxels(n, seed=0):
    """n of the 2574 cells of two items, sorted: enough for full neighbourhoods at 1000, and for lone voxels at 63."""
    cells = torch.cartesian_prod(*(torch.arange(size, dtype=torch.int32) for size in SHAPE))
    return cells[torch.randperm(len(cells), generator=torch.Generator().manual_seed(seed))[:n].sort().values]


def numbers(*shape, seed=1, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def weights(dtype=torch.float64):
    return numbers(COUT, 3, 3, 3, CIN, seed=2, dtype=dtype), numbers(COUT, seed=3, dtype=dtype)


def dense(coords, feats, weight, bias, dilation=1):
    """The same through conv3d on the whole volume, in float64."""
    volume = torch.zeros(*SHAPE, CIN, dtype=torch.float64)
    volume[tuple(coords.long().T)] = feats.double()
    kernel = weight.double().permute(0, 4, 1, 2, 3)
    bias = None if bias is None else bias.double()
    out = F.conv3d(volume.permute(0, 4, 1, 2, 3), kernel, bias, padding=dilation, dilation=dilation)
    return out.permute(0, 2, 3, 4, 1)[tuple(coords.long().T)]


def brute_force_map(coords, dilation):
    row = {tuple(voxel): i for i, voxel in enumerate(coords.tolist())}
    steps = torch.cartesian_prod(*[torch.arange(-1, 2)] * 3) * dilation
    found = [
        [row.get((b, x + dx, y + dy, z + dz), -1) for dx, dy, dz in steps.tolist()] for b, x, y, z in coords.tolist()
    ]
    return torch.tensor(found, dtype=torch.int32).reshape(-1, 27)


def neighbors(coords, dilation=1):
    return neighbor_map(coords, hash_grid(coords), dilation)


@sizes
@pytest.mark.parametrize("dilation", [1, 2, 5])
def test_neighbor_map(n, dilation):
    coords = voxels(n)
    assert torch.equal(neighbors(coords, dilation), brute_force_map(coords, dilation))


def test_neighbor_map_in_any_order_and_far_out():
    coords = voxels(63)[torch.randperm(63, generator=torch.Generator().manual_seed(4))]
    expected = brute_force_map(coords, 1)
    assert torch.equal(neighbors(coords), expected)
    far = coords + torch.tensor([0, 60_000, 40_000, 64_900], dtype=torch.int32)
    assert torch.equal(neighbors(far), expected)


def test_neighbor_map_dilation():
    with pytest.raises(ValueError, match="dilation: expected at least 1, got 0"):
        neighbors(voxels(1), 0)


@sizes
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("biased", [True, False])
def test_against_the_dense_convolution(n, dilation, biased):
    coords, feats, (weight, bias) = voxels(n), numbers(n, CIN), weights()
    bias = bias if biased else None
    out = submanifold_conv(feats, neighbors(coords, dilation), weight, bias)
    expected = dense(coords, feats, weight, bias, dilation)
    assert out.shape == (n, COUT)
    torch.testing.assert_close(out, expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize("dtype", list(ROUNDING), ids=str)
def test_rounding(dtype):
    coords, feats, (weight, bias) = voxels(1000), numbers(1000, CIN, dtype=dtype), weights(dtype)
    out = submanifold_conv(feats, neighbors(coords), weight, bias)
    expected = dense(coords, feats, weight, bias)
    assert out.dtype == dtype
    torch.testing.assert_close(out.double(), expected, atol=ROUNDING[dtype], rtol=ROUNDING[dtype])


def test_half_precision_accumulates_in_fp32():
    """A sum whose partial sums leave the grid of halves: 27 taps of C small numbers beside one of 2048."""
    coords = torch.cartesian_prod(torch.arange(1), *[torch.arange(3)] * 3).int()
    feats = torch.full((27, 64), 0.25, dtype=torch.float16)
    feats[0, 0] = 2048
    out = submanifold_conv(feats, neighbors(coords), torch.ones(1, 3, 3, 3, 64, dtype=torch.float16), None)
    exact = 2048 + (27 * 64 - 1) * 0.25
    assert abs(float(out[13, 0]) - exact) <= 1


@pytest.mark.parametrize("rows", [0, 1, 7, 62, 63, 64])
def test_blocks(monkeypatch, rows):
    coords, feats, (weight, bias) = voxels(63), numbers(63, CIN), weights()
    monkeypatch.setattr(reference, "BLOCK_BYTES", rows * 27 * CIN * feats.element_size() + 1)
    out = submanifold_conv(feats, neighbors(coords), weight, bias)
    torch.testing.assert_close(out, dense(coords, feats, weight, bias), atol=1e-10, rtol=0)


def test_the_measure_sees_one_percent_and_swapped_axes():
    coords, feats, (weight, bias) = voxels(63), numbers(63, CIN, dtype=torch.float32), weights(torch.float32)
    expected = dense(coords, feats, weight, bias)
    for wrong in (weight * 1.01, weight.transpose(1, 3).contiguous(), weight.flip(1), torch.zeros_like(weight)):
        out = submanifold_conv(feats, neighbors(coords), wrong, bias)
        assert (out.double() - expected).abs().max() > 100 * ROUNDING[torch.float32]


def test_inputs_are_left_alone_and_the_output_repeats():
    given = (numbers(63, CIN), neighbors(voxels(63)), *weights())
    before = [tensor.clone() for tensor in given]
    assert torch.equal(submanifold_conv(*given), submanifold_conv(*given))
    assert all(torch.equal(a, b) for a, b in zip(given, before, strict=True))


def test_layer():
    layer = SubmanifoldConv3d(CIN, COUT, dilation=2).double().requires_grad_(False)
    coords, feats = voxels(63), numbers(63, CIN)
    x = SparseTensor(feats, CoordSet.from_rows(coords))
    out = layer(x)
    assert out.coords is x.coords
    torch.testing.assert_close(out.feats, dense(coords, feats, layer.weight, layer.bias, 2), atol=1e-10, rtol=0)


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"feats": numbers(CIN)}, r"feats: expected shape \[\*, \*\]"),
        ({"feats": numbers(63, CIN).long()}, "feats: expected float16"),
        (
            {"neighbors": torch.zeros(62, 27, dtype=torch.int32)},
            r"neighbors: expected shape \[63, 27\], got \[62, 27\]",
        ),
        ({"neighbors": torch.zeros(63, 27, dtype=torch.int64)}, "neighbors: expected int32, got int64"),
        ({"weight": numbers(COUT, 3, 3, 3, CIN + 1)}, r"weight: expected shape \[\*, 3, 3, 3, 5\]"),
        ({"weight": numbers(COUT, CIN, 3, 3, 3)}, "weight: expected shape"),
        ({"weight": weights(torch.float32)[0]}, "weight: expected float64, got float32"),
        ({"bias": numbers(COUT + 1)}, r"bias: expected shape \[3\], got \[4\]"),
        ({"bias": weights(torch.float16)[1]}, "bias: expected float64, got float16"),
        ({"backend": "fastest"}, "backend: expected 'auto' or one of .*, got 'fastest'"),
    ],
)
def test_malformed(changed, message):
    weight, bias = weights()
    given = {"feats": numbers(63, CIN), "neighbors": neighbors(voxels(63)), "weight": weight, "bias": bias} | changed
    with pytest.raises(ValueError, match=message):
        submanifold_conv(**given)


def test_malformed_coords():
    coords = voxels(63)
    with pytest.raises(ValueError, match=r"coords: expected shape \[\*, 4\]"):
        neighbor_map(coords[:, 1:], hash_grid(coords))
    with pytest.raises(ValueError, match="coords: expected int32, got int64"):
        neighbor_map(coords.long(), hash_grid(coords))
    with pytest.raises(TypeError, match=r"feats: expected a torch\.Tensor, got list"):
        submanifold_conv([[1.0]], neighbors(coords), *weights())
