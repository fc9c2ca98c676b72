"""Space-filling orders: against codes computed bit by bit, and by what such a curve must be."""

import itertools

import pytest
import torch
from comfyui_trellis2.o_voxel.voxels.morton import decode_hilbert, decode_z_order, encode_hilbert, encode_z_order

TOP = (1 << 21) - 1
SIZES = pytest.mark.parametrize("size", [0, 1, 63, 1000])


def random_coords(size: int, bits: int = 21) -> torch.Tensor:
    return torch.randint(0, 1 << bits, (size, 3), generator=torch.Generator().manual_seed(size), dtype=torch.int32)


def slow_z_order(point: list[int]) -> int:
    return sum((value >> bit & 1) << (3 * bit + 2 - axis) for axis, value in enumerate(point) for bit in range(21))


@SIZES
def test_z_order_is_the_interleaved_bits(size: int):
    coords = random_coords(size)
    codes = encode_z_order(coords)
    assert codes.dtype == torch.int64
    assert codes.tolist() == [slow_z_order(point) for point in coords.tolist()]
    decoded = decode_z_order(codes)
    assert decoded.dtype == torch.int32
    assert torch.equal(decoded, coords)


@SIZES
@pytest.mark.parametrize("bits", [1, 2, 10, 11, 20, 21])
def test_hilbert_comes_back(size: int, bits: int):
    coords = random_coords(size, bits)
    codes = encode_hilbert(coords, bits)
    assert codes.dtype == torch.int64
    assert torch.equal(decode_hilbert(codes, bits), coords)


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_hilbert_visits_each_voxel_once_by_single_steps(bits: int):
    path = decode_hilbert(torch.arange(8**bits), bits)
    assert len({tuple(point) for point in path.tolist()}) == 8**bits
    assert (path.diff(dim=0).abs().sum(dim=1) == 1).all()
    assert path[0].tolist() == [0, 0, 0]


def test_hilbert_curves_three_bits_apart_agree():
    coords = random_coords(500, 10)
    assert torch.equal(encode_hilbert(coords, 10), encode_hilbert(coords, 13))
    assert torch.equal(encode_hilbert(coords, 12), encode_hilbert(coords, 21))
    assert not torch.equal(encode_hilbert(coords, 10), encode_hilbert(coords, 11))


@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))))
def test_axes_name_the_columns_from_the_highest_bit(axes: tuple[int, int, int]):
    coords = random_coords(63)
    moved = coords[:, list(axes)]
    assert torch.equal(encode_z_order(coords, axes), encode_z_order(moved))
    assert torch.equal(encode_hilbert(coords, 21, axes), encode_hilbert(moved, 21))
    assert torch.equal(decode_z_order(encode_z_order(coords, axes), axes), coords)
    assert torch.equal(decode_hilbert(encode_hilbert(coords, 21, axes), 21, axes), coords)


@pytest.mark.gpu
def test_a_gpu_gives_the_same_codes():
    coords = random_coords(1000)
    on_gpu = coords.cuda()
    assert torch.equal(encode_z_order(on_gpu).cpu(), encode_z_order(coords))
    assert torch.equal(encode_hilbert(on_gpu, 21).cpu(), encode_hilbert(coords, 21))
    assert torch.equal(decode_z_order(encode_z_order(on_gpu)), on_gpu)
    assert torch.equal(decode_hilbert(encode_hilbert(on_gpu, 21), 21), on_gpu)


def test_the_ends_of_the_range():
    corners = torch.tensor(list(itertools.product((0, TOP), repeat=3)), dtype=torch.int64)
    codes = encode_z_order(corners)
    assert codes.min() == 0
    assert codes.max() == (1 << 63) - 1
    assert torch.equal(decode_z_order(codes).long(), corners)
    assert torch.equal(decode_hilbert(encode_hilbert(corners, 21), 21).long(), corners)


def test_inputs_are_left_alone_and_int64_gives_the_same():
    coords = random_coords(63, 10)
    kept = coords.clone()
    assert torch.equal(encode_hilbert(coords), encode_hilbert(coords.long()))
    codes = encode_z_order(coords)
    assert torch.equal(decode_z_order(codes), decode_z_order(codes.int()))
    assert torch.equal(coords, kept)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: encode_z_order(torch.tensor([[0, 0, TOP + 1]])), "coords: expected values from 0 to 2097151"),
        (lambda: encode_z_order(torch.tensor([[0, -1, 0]])), "got -1 to 0"),
        (lambda: encode_hilbert(torch.tensor([[0, 1024, 0]])), "from 0 to 1023, got 0 to 1024"),
        (lambda: encode_z_order(torch.zeros(4, 2, dtype=torch.int32)), r"expected shape \[\*, 3\]"),
        (lambda: encode_z_order(torch.zeros(4, 3)), "expected int32 or int64"),
        (lambda: decode_z_order(torch.tensor([-1])), "codes: expected values from 0"),
        (lambda: decode_hilbert(torch.tensor([8]), 1), "from 0 to 7"),
        (lambda: encode_hilbert(torch.zeros(1, 3, dtype=torch.int32), 22), "bits: expected 1 to 21, got 22"),
        (lambda: decode_hilbert(torch.zeros(1, dtype=torch.int64), 0), "bits: expected 1 to 21, got 0"),
        (lambda: encode_z_order(torch.zeros(1, 3, dtype=torch.int32), (0, 1, 1)), "axes: expected an order of 0, 1, 2"),
        (lambda: decode_z_order(torch.zeros(1, dtype=torch.int64), (0, 1, 3)), "axes: expected an order of 0, 1, 2"),
    ],
)
def test_bad_arguments(call: object, message: str):
    with pytest.raises(ValueError, match=message):
        call()
