"""Submanifold convolution against torch's dense one, the neighbour map against a dictionary, and the kernels, on the
GPU or in Triton's interpreter, against both."""

from importlib import import_module
from importlib.util import find_spec

import pytest
import torch
from comfyui_trellis2.trellis2.ops.submanifold_conv import (
    child_conv,
    child_neighbors,
    child_rows,
    neighbor_map,
    reference,
    submanifold_conv,
    tile_neighbors,
)
from comfyui_trellis2.trellis2.sparse import CoordSet, SparseTensor, SubmanifoldConv3d
from torch.nn import functional as F

SIZES = (0, 1, 63, 1000)
SHAPE = (2, 9, 11, 13)  # batch, x, y, z
CIN, COUT = 5, 3
ROUNDING = {torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 8e-2, torch.float64: 1e-12}

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

sizes = pytest.mark.parametrize("n", SIZES)
groups = pytest.mark.parametrize("split_rows", [0, 2**15], ids=["one group", "three groups"])


@pytest.fixture
def kernel():
    if find_spec("triton") is None:
        pytest.skip("triton is not installed")
    return import_module("comfyui_trellis2.trellis2.ops.submanifold_conv.kernel")


@pytest.fixture
def maps(kernel):
    return import_module("comfyui_trellis2.trellis2.ops.submanifold_conv.kernel_maps")


@pytest.fixture
def poisoned(monkeypatch):
    """Memory that is not written is not a number; an index that is not written points nowhere."""
    plain = torch.empty

    def empty(*args, **kwargs):
        out = plain(*args, **kwargs)
        return out.fill_(torch.nan if out.is_floating_point() else 2**30)

    monkeypatch.setattr(torch, "empty", empty)


def voxels(n, seed=0):
    """n of the 2574 cells of two items, sorted: enough for full neighbourhoods at 1000, and for lone voxels at 63."""
    cells = torch.cartesian_prod(*(torch.arange(size, dtype=torch.int32) for size in SHAPE))
    return cells[torch.randperm(len(cells), generator=torch.Generator().manual_seed(seed))[:n].sort().values]


def item_lengths(coords):
    return torch.bincount(coords[:, 0].long(), minlength=SHAPE[0]).tolist()


def numbers(*shape, seed=1, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def weights(dtype=torch.float64):
    return numbers(COUT, 3, 3, 3, CIN, seed=2, dtype=dtype), numbers(COUT, seed=3, dtype=dtype)


def dense(coords, feats, weight, bias):
    """The same through conv3d on the whole volume, in float64."""
    volume = torch.zeros(*SHAPE, CIN, dtype=torch.float64)
    volume[tuple(coords.long().T)] = feats.double()
    kernel = weight.double().permute(0, 4, 1, 2, 3)
    bias = None if bias is None else bias.double()
    out = F.conv3d(volume.permute(0, 4, 1, 2, 3), kernel, bias, padding=1)
    return out.permute(0, 2, 3, 4, 1)[tuple(coords.long().T)]


def brute_force_map(coords):
    row = {tuple(voxel): i for i, voxel in enumerate(coords.tolist())}
    steps = torch.cartesian_prod(*[torch.arange(-1, 2)] * 3)
    found = [
        [row.get((b, x + dx, y + dy, z + dz), -1) for dx, dy, dz in steps.tolist()] for b, x, y, z in coords.tolist()
    ]
    return torch.tensor(found, dtype=torch.int32).reshape(-1, 27)


def neighbors(coords):
    return neighbor_map(coords)


@sizes
def test_neighbor_map(n):
    coords = voxels(n)
    assert torch.equal(neighbors(coords), brute_force_map(coords))


def test_neighbor_map_in_any_order_and_far_out():
    coords = voxels(63)[torch.randperm(63, generator=torch.Generator().manual_seed(4))]
    expected = brute_force_map(coords)
    assert torch.equal(neighbors(coords), expected)
    far = coords + torch.tensor([0, 60_000, 40_000, 64_900], dtype=torch.int32)
    assert torch.equal(neighbors(far), expected)


@sizes
@pytest.mark.parametrize("biased", [True, False])
def test_against_the_dense_convolution(n, biased):
    coords, feats, (weight, bias) = voxels(n), numbers(n, CIN), weights()
    bias = bias if biased else None
    out = submanifold_conv(feats, neighbors(coords), weight, bias)
    expected = dense(coords, feats, weight, bias)
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
    layer = SubmanifoldConv3d(CIN, COUT).double().requires_grad_(False)
    coords, feats = voxels(63), numbers(63, CIN)
    x = SparseTensor(feats, CoordSet(coords, item_lengths(coords)))
    out = layer(x)
    assert out.coords is x.coords
    torch.testing.assert_close(out.feats, dense(coords, feats, layer.weight, layer.bias), atol=1e-10, rtol=0)


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"feats": numbers(CIN)}, r"feats: expected shape \[\*, \*\]"),
        ({"feats": numbers(63, CIN).long()}, "feats: expected float16"),
        (
            {"neighbors": torch.zeros(63, 26, dtype=torch.int32)},
            r"neighbors: expected shape \[\*, 27\], got \[63, 26\]",
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


def test_some_rows_are_those_of_the_whole():
    coords, feats, (weight, bias) = voxels(1000), numbers(1000, CIN), weights()
    around = neighbors(coords)
    whole = submanifold_conv(feats, around, weight, bias)
    for rows in (slice(0, 0), slice(0, 1), slice(937, 1000), torch.arange(999, 0, -7)):
        some = submanifold_conv(feats, around[rows], weight, bias)
        torch.testing.assert_close(some, whole[rows], atol=1e-12, rtol=0)
    with pytest.raises(ValueError, match="gradients need the map of all 1000 rows, got 10"):
        submanifold_conv(feats.requires_grad_(), around[:10], weight, bias)


def test_malformed_coords():
    coords = voxels(63)
    with pytest.raises(ValueError, match=r"coords: expected shape \[\*, 4\]"):
        neighbor_map(coords[:, 1:])
    with pytest.raises(ValueError, match="coords: expected int32, got int64"):
        neighbor_map(coords.long())
    with pytest.raises(TypeError, match=r"feats: expected a torch\.Tensor, got list"):
        submanifold_conv([[1.0]], neighbors(coords), *weights())


# Training


@pytest.mark.parametrize("n", [0, 1, 27])
def test_gradients(n):
    coords = torch.cartesian_prod(torch.arange(1), *[torch.arange(3)] * 3).int()[:n]
    around, (weight, bias) = neighbors(coords), weights()
    given = [numbers(n, CIN).requires_grad_(), weight.requires_grad_(), bias.requires_grad_()]

    def convolve(feats, weight, bias):
        return submanifold_conv(feats, around, weight, bias)

    assert n == 0 or torch.autograd.gradcheck(convolve, given, fast_mode=True)
    convolve(*given).sum().backward()
    assert [tensor.grad.shape for tensor in given] == [tensor.shape for tensor in given]


def test_gradients_against_the_dense_convolution():
    coords, feats, (weight, bias) = voxels(1000), numbers(1000, CIN), weights()
    towards = numbers(1000, COUT, seed=5)
    ours, theirs = ([t.clone().requires_grad_() for t in (feats, weight, bias)] for _ in range(2))
    (submanifold_conv(ours[0], neighbors(coords), ours[1], ours[2]) * towards).sum().backward()
    (dense_differentiable(coords, *theirs) * towards).sum().backward()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-9, rtol=0)


def test_autocast_computes_in_its_dtype_and_gives_gradients_in_the_parameters():
    around, (weight, bias) = neighbors(voxels(63)), weights(torch.float32)
    feats = numbers(63, CIN).float()
    with torch.autocast("cpu", torch.bfloat16):
        out = submanifold_conv(feats, around, weight.requires_grad_(), bias.requires_grad_())
    assert out.dtype == torch.bfloat16
    plain = submanifold_conv(feats, around, weight, bias)
    torch.testing.assert_close(out.float(), plain, atol=ROUNDING[torch.bfloat16], rtol=0)
    out.float().sum().backward()
    assert weight.grad.dtype == bias.grad.dtype == torch.float32 and bool(weight.grad.any())


def dense_differentiable(coords, feats, weight, bias):
    volume = torch.zeros(*SHAPE, CIN, dtype=torch.float64).index_put(tuple(coords.long().T), feats)
    out = F.conv3d(volume.permute(0, 4, 1, 2, 3), weight.permute(0, 4, 1, 2, 3), bias, padding=1)
    return out.permute(0, 2, 3, 4, 1)[tuple(coords.long().T)]


@pytest.mark.parametrize("wanted", [0, 1, 2])
def test_only_the_gradients_that_are_asked_for(wanted):
    given = [numbers(63, CIN), *weights()]
    given[wanted].requires_grad_()
    submanifold_conv(given[0], neighbors(voxels(63)), given[1], given[2]).sum().backward()
    assert [tensor.grad is not None for tensor in given] == [i == wanted for i in range(3)]


# Children


def family(n, seed=6):
    """n parents and some of their children: (parents' CoordSet, its subdivision)."""
    rows = voxels(n)
    coarse = CoordSet(rows, item_lengths(rows))
    return coarse, coarse.subdivide(torch.rand(n, 8, generator=torch.Generator().manual_seed(seed)) < 0.5)


def child_case(n, dtype=torch.float64, c=CIN, d=COUT):
    coarse, split = family(n)
    weight, bias = numbers(8 * d, 3, 3, 3, c, seed=2, dtype=dtype), numbers(8 * d, seed=3, dtype=dtype)
    return numbers(n, c, dtype=dtype), neighbors(coarse.rows), weight, bias, split.parent, split.child


@sizes
def test_child_neighbors(n):
    coarse, split = family(n)
    found = child_neighbors(neighbors(coarse.rows), split.parent, split.child)
    assert torch.equal(found, brute_force_map(split.fine.rows))


@sizes
def test_child_conv(n):
    feats, around, weight, bias, parent, child = child_case(n)
    out = child_conv(feats, around, weight, bias, parent, child)
    whole = submanifold_conv(feats, around, weight, bias)
    expected = [whole[p, c * COUT : (c + 1) * COUT] for p, c in zip(parent.tolist(), child.tolist(), strict=True)]
    expected = torch.stack(expected) if expected else whole.new_empty(0, COUT)
    torch.testing.assert_close(out, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("block", [1, 2**10, 2**20])
def test_some_children_are_those_of_all(monkeypatch, block):
    feats, around, weight, bias, parent, child = child_case(1000)
    whole, everywhere = child_conv(feats, around, weight, bias, parent, child), child_neighbors(around, parent, child)
    monkeypatch.setattr(reference, "BLOCK_BYTES", block)
    rows = child_rows(len(feats), parent, child)
    for some in (slice(0, 0), slice(5, 6), slice(len(parent) - 70, None)):
        few = child_conv(feats, around, weight, bias, parent[some], child[some])
        torch.testing.assert_close(few, whole[some], atol=1e-12, rtol=0)
        assert torch.equal(child_neighbors(around, parent[some], child[some], rows=rows), everywhere[some])
    with pytest.raises(ValueError, match=r"rows: expected shape \[1000, 8\]"):
        child_neighbors(around, parent, child, rows=rows[1:])


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"parent": torch.zeros(3, dtype=torch.int32)}, "parent: expected int64, got int32"),
        ({"child": torch.zeros(3, dtype=torch.int64)}, r"child: expected shape"),
        ({"weight": numbers(9, 3, 3, 3, CIN), "bias": None}, "weight: expected a multiple of 8 output channels, got 9"),
    ],
)
def test_malformed_children(changed, message):
    names = ("feats", "neighbors", "weight", "bias", "parent", "child")
    with pytest.raises(ValueError, match=message):
        child_conv(**dict(zip(names, child_case(63), strict=True)) | changed)


# Kernels


def on_device(*tensors):
    return [None if tensor is None else tensor.to(DEVICE) for tensor in tensors]


@pytest.mark.slow
@sizes
@pytest.mark.parametrize("shift", [0, 60_001])
def test_neighbor_map_by_blocks(poisoned, kernel, monkeypatch, n, shift):
    blocks = import_module("comfyui_trellis2.trellis2.ops.submanifold_conv.kernel_blocks")
    if DEVICE == "cpu":  # a program of the interpreter takes as long for more
        monkeypatch.setattr(blocks, "LOOKUPS", 4096)
        monkeypatch.setattr(blocks, "ENTRIES", 4096)
    coords = voxels(n)[torch.randperm(n, generator=torch.Generator().manual_seed(4))]
    coords[:, 1:] += shift
    assert torch.equal(blocks.neighbors_by_blocks(coords.to(DEVICE)).cpu(), brute_force_map(coords))


@pytest.mark.gpu  # collisions of many voxels
@pytest.mark.parametrize("share", [1.0, 0.1])
def test_neighbor_map_by_blocks_of_many(share):
    blocks = import_module("comfyui_trellis2.trellis2.ops.submanifold_conv.kernel_blocks")
    axis = torch.arange(100, dtype=torch.int32, device=DEVICE)
    coords = torch.cartesian_prod(torch.arange(2, dtype=torch.int32, device=DEVICE), axis, axis, axis)
    generator = torch.Generator().manual_seed(0)
    coords = coords[torch.randperm(len(coords), generator=generator).to(DEVICE)[: int(share * len(coords))]]
    found = blocks.neighbors_by_blocks(coords)
    assert torch.equal(found, neighbor_map(coords, backend="reference"))
    assert torch.equal(found, blocks.neighbors_by_blocks(coords))


@pytest.mark.slow
@sizes
def test_child_neighbors_kernel(maps, poisoned, n):
    coarse, split = family(n)
    rows = child_rows(len(coarse), split.parent, split.child)
    found = maps.child_neighbors(*on_device(neighbors(coarse.rows), split.parent, split.child, rows))
    assert torch.equal(found.cpu(), brute_force_map(split.fine.rows))


@pytest.mark.slow
@sizes
@groups
@pytest.mark.parametrize("of_children", [False, True])
def test_tiles_hold_the_map(maps, poisoned, monkeypatch, n, split_rows, of_children):
    monkeypatch.setattr(maps, "SPLIT_ROWS", split_rows)
    monkeypatch.setattr(maps, "SORT_ROWS", 40)
    coarse, split = family(n // 4 if of_children else n)
    around, child, given = neighbors(coarse.rows), torch.zeros(len(coarse), dtype=torch.int64), ()
    expected = around
    if of_children:
        child, given, expected = split.child, (split.parent, split.child), around[split.parent]
    tiles = tile_neighbors(*on_device(around, *given))
    held = torch.full_like(expected, -1)
    seen = torch.zeros(tiles.groups, len(expected), dtype=torch.int64)
    for t, count in enumerate(tiles.counts.tolist()):
        place = tiles.out_rows[t].cpu().long()
        group, row = place // max(len(expected), 1), place % max(len(expected), 1)
        row, group, section = row[place >= 0], group[place >= 0], int(tiles.sections[t])
        seen[group, row] += 1
        assert count == 0 or bool((group * tiles.children + child[row] == section).all())
        for slot in range(count):
            source = tiles.sources[t, slot].cpu()
            held[row, int(tiles.taps[t, slot])] = source[place >= 0]
            assert bool((source >= 0).any()) and bool((source[place < 0] == -1).all())
    assert bool((seen == 1).all())
    assert torch.equal(held, expected)


@pytest.mark.slow
def test_tiles_gather_rows_of_one_pattern(kernel):
    """A plane, a line and lone voxels, shuffled: no tile has more taps than its own kind of voxel."""
    plane = torch.cartesian_prod(*(torch.arange(size) for size in (1, 1, 34, 34)))
    line = torch.cartesian_prod(*(torch.arange(size) for size in (1, 1, 1, 258))) + torch.tensor([0, 60, 60, 0])
    lone = 3 * torch.cartesian_prod(*(torch.arange(size) for size in (1, 4, 8, 8))) + torch.tensor([0, 90, 90, 0])
    rows = torch.cat([plane, line, lone]).int()
    rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))]
    tiles = tile_neighbors(neighbors(rows).to(DEVICE))
    assert float(tiles.counts.sum()) < 1.25 * (8 * 9 + 3 + 1 + 4 * 9) < 27 * len(tiles.counts)


ON_GPU_ONLY = pytest.mark.gpu  # too much for Triton's interpreter, which also takes bfloat16 for integers
DTYPES = pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float16, pytest.param(torch.bfloat16, marks=ON_GPU_ONLY)], ids=str
)


def assert_as_good(ours, plain, exact):
    """Our error is at most twice that of plain torch at the same dtype."""
    assert ours.dtype == plain.dtype
    assert ours.shape == exact.shape
    if exact.numel():
        error = (plain.double() - exact).abs().max()
        assert float((ours.double().cpu() - exact).abs().max()) <= 2 * float(error) + 1e-6 * float(exact.abs().max())


@pytest.mark.slow
@DTYPES
@groups
@pytest.mark.parametrize(
    "n, c, d",
    [(0, 5, 3), (1, 72, 136), (63, 64, 40), (63, 1, 1), (1000, 5, 3), pytest.param(1000, 64, 129, marks=ON_GPU_ONLY)],
)
def test_convolution_kernel(kernel, maps, poisoned, monkeypatch, n, dtype, split_rows, c, d):
    monkeypatch.setattr(maps, "SPLIT_ROWS", split_rows)
    biased = d != 40
    around, feats = neighbors(voxels(n)), numbers(n, c, dtype=dtype)
    weight = (numbers(d, 3, 3, 3, c, seed=2) / c**0.5).to(dtype)
    bias = numbers(d, seed=3, dtype=dtype) if biased else None
    exact = reference.convolve(feats.double(), around, weight.double(), None if bias is None else bias.double())
    plain = reference.convolve(feats, around, weight, bias)
    ours = kernel.convolve(*on_device(feats), tile_neighbors(around.to(DEVICE)), *on_device(weight, bias))
    assert_as_good(ours, plain, exact)


@pytest.mark.slow
@pytest.mark.parametrize("n", [0, 1, 63, pytest.param(1000, marks=ON_GPU_ONLY)])
@DTYPES
@groups
def test_child_convolution_kernel(kernel, maps, poisoned, monkeypatch, n, dtype, split_rows):
    monkeypatch.setattr(maps, "SPLIT_ROWS", split_rows)
    feats, around, weight, bias, parent, child = child_case(n, dtype, c=32, d=17)
    exact = child_conv(feats.double(), around, weight.double(), bias.double(), parent, child)
    plain = child_conv(feats, around, weight, bias, parent, child)
    tiles = tile_neighbors(*on_device(around, parent, child))
    assert_as_good(kernel.convolve(*on_device(feats), tiles, *on_device(weight, bias)), plain, exact)


@pytest.mark.slow
@pytest.mark.parametrize("config", ["HOPPER", "HOPPER_WIDE", "NVIDIA", "AMD"])
def test_every_tile_shape(kernel, poisoned, monkeypatch, config):
    monkeypatch.setattr(kernel, "choose_config", lambda *_: getattr(kernel, config))
    around = neighbors(torch.tensor([[0, 0, 0, z] for z in range(9)], dtype=torch.int32))
    feats, weight = numbers(9, 128, dtype=torch.float16), (numbers(136, 3, 3, 3, 128, seed=2) / 40).half()
    ours = kernel.convolve(*on_device(feats), tile_neighbors(around.to(DEVICE)), *on_device(weight, None))
    exact = reference.convolve(feats.double(), around, weight.double(), None)
    assert_as_good(ours, reference.convolve(feats, around, weight, None), exact)


@pytest.mark.slow
@pytest.mark.parametrize("split_rows", [0, 149, 2**15])
def test_the_kernel_gives_some_rows_as_it_gives_all(kernel, maps, monkeypatch, split_rows):
    monkeypatch.setattr(maps, "SPLIT_ROWS", split_rows)
    feats, weight = numbers(150, 24, dtype=torch.float16), numbers(40, 3, 3, 3, 24, seed=2, dtype=torch.float16)
    around = neighbors(voxels(150))
    whole = kernel.convolve(*on_device(feats), tile_neighbors(around.to(DEVICE)), *on_device(weight, None))
    for rows in (slice(0, 1), slice(17, 150)):
        tiles = tile_neighbors(around[rows].to(DEVICE), total=150)
        assert torch.equal(kernel.convolve(*on_device(feats), tiles, *on_device(weight, None)), whole[rows])


@pytest.mark.slow
def test_the_kernel_repeats_itself(kernel):
    given = on_device(numbers(150, 24, dtype=torch.float16), numbers(40, 3, 3, 3, 24, seed=2, dtype=torch.float16))
    before = [tensor.clone() for tensor in given]
    around = neighbors(voxels(150)).to(DEVICE)
    first, second = (kernel.convolve(given[0], tile_neighbors(around), given[1], None) for _ in range(2))
    assert torch.equal(first, second)
    assert all(torch.equal(a, b) for a, b in zip(given, before, strict=True))


def test_the_error_bound_sees_a_lost_tap_and_one_percent(kernel):
    feats, (weight, bias), around = numbers(63, CIN, dtype=torch.float32), weights(torch.float32), neighbors(voxels(63))
    exact = reference.convolve(feats.double(), around, weight.double(), bias.double())
    plain = reference.convolve(feats, around, weight, bias)
    lost = around.clone()
    lost[7, 13] = -1
    for wrong in (plain * 1.01, torch.zeros_like(plain), reference.convolve(feats, lost, weight, bias)):
        with pytest.raises(AssertionError):
            assert_as_good(wrong, plain, exact)


@pytest.mark.slow
@DTYPES
@pytest.mark.parametrize("n, c, d, splits", [(0, 5, 3, 1), (1, 5, 3, 1), (150, 24, 17, 2)])
def test_weight_gradient_kernel(kernel, poisoned, monkeypatch, dtype, n, c, d, splits):
    monkeypatch.setattr(kernel, "GRADIENT_PROGRAMS", 27 * splits)
    around, grad, feats = neighbors(voxels(n)), numbers(n, d, seed=7, dtype=dtype), numbers(n, c, dtype=dtype)
    ours = kernel.weight_gradient(*on_device(grad, feats, around))
    exact = reference.weight_gradient(grad.double(), feats.double(), around)
    assert_as_good(ours, reference.weight_gradient(grad, feats, around), exact)


@pytest.mark.slow
@DTYPES
def test_gradients_of_the_kernel(kernel, monkeypatch, dtype):
    """Through the same autograd function, with the kernel forced."""
    ops = import_module("comfyui_trellis2.trellis2.ops.submanifold_conv")
    around = neighbors(voxels(63))
    monkeypatch.setattr(ops, "resolve_backend", lambda *_: "triton")
    leaves = [
        numbers(63, 24, dtype=dtype),
        numbers(20, 3, 3, 3, 24, seed=2, dtype=dtype),
        numbers(20, seed=3, dtype=dtype),
    ]
    ours, plain, exact = (
        [tensor.clone().to(to).requires_grad_() for tensor in leaves] for to in (DEVICE, dtype, torch.float64)
    )
    ops.submanifold_conv(ours[0], around.to(DEVICE), ours[1], ours[2]).sum().backward()
    monkeypatch.undo()
    for given in (plain, exact):
        submanifold_conv(given[0], around, given[1], given[2]).sum().backward()
    for ours_, plain_, exact_ in zip(ours, plain, exact, strict=True):
        assert_as_good(ours_.grad, plain_.grad, exact_.grad)


@pytest.mark.parametrize(("cin", "cout"), [(5, 3), (8, 16), (72, 136)], ids=["padded", "one tile", "several tiles"])
def test_numba_against_the_reference(cin, cout):
    coords = voxels(1001)
    near = neighbors(coords)
    feats, weight = numbers(1001, cin, dtype=torch.float32), numbers(8 * cout, 3, 3, 3, cin, dtype=torch.float32)
    bias, few = numbers(8 * cout, seed=5, dtype=torch.float32), near[100:233]
    close = {"atol": 1e-5 * (10 * cin) ** 0.5, "rtol": 1e-5}
    for rows, shift in ((near, bias[:cout]), (few, None)):
        both = [submanifold_conv(feats, rows, weight[:cout], shift, backend=name) for name in ("numba", "reference")]
        torch.testing.assert_close(*both, **close)
    mask = numbers(1001, 8, seed=6) > 0
    parent, child = mask.nonzero(as_tuple=True)
    for some in (slice(None), slice(7, 7), torch.randperm(len(parent), generator=torch.Generator().manual_seed(1))):
        which = parent[some], child[some]
        both = [child_conv(feats, near, weight, bias, *which, backend=name) for name in ("numba", "reference")]
        torch.testing.assert_close(*both, **close)
    maps = [child_neighbors(near, parent, child, backend=name) for name in ("numba", "reference")]
    assert torch.equal(*maps)


def test_numba_does_not_depend_on_the_rows_beside():
    """The same bits for a part of the rows, whatever they are paired with."""
    near, feats = neighbors(voxels(1000)), numbers(1000, 16, dtype=torch.float32)
    weight = numbers(16, 3, 3, 3, 16, seed=2, dtype=torch.float32)
    whole = submanifold_conv(feats, near, weight, None, backend="numba")
    for part in (slice(0, 1), slice(3, 700), slice(999, 1000)):
        assert torch.equal(submanifold_conv(feats, near[part], weight, None, backend="numba"), whole[part])


def test_numba_takes_float32_alone():
    feats, (weight, bias) = numbers(1, CIN), weights()
    with pytest.raises(ValueError, match="takes float32, not torch"):
        submanifold_conv(feats, neighbors(voxels(1)), weight, bias, backend="numba")
