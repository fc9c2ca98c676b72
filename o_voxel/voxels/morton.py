"""Space-filling curves: Morton (z-order) and Hilbert codes of voxels as int64, up to 2**21 voxels per axis.

A z-order code interleaves the bits of the axes, the first axis highest: code = 4 spread(x) + 2 spread(y) + spread(z).
The Hilbert code follows Skilling (AIP Conf. Proc. 707, 2004) and ends with the same interleave. All functions are
exact, run on the device of their input, accept empty input, and synchronise once, to check the range.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..core.checks import check_tensor

MAX_BITS = 21
Axes = tuple[int, int, int]

# (shift, mask) per step of spreading bits to every third position; compacting reverses the steps.
_SPREAD = (
    (32, 0x001F00000000FFFF),
    (16, 0x001F0000FF0000FF),
    (8, 0x100F00F00F00F00F),
    (4, 0x10C30C30C30C30C3),
    (2, 0x1249249249249249),
)
_COMPACT = (
    (2, 0x10C30C30C30C30C3),
    (4, 0x100F00F00F00F00F),
    (8, 0x001F0000FF0000FF),
    (16, 0x001F00000000FFFF),
    (32, 0x00000000001FFFFF),
)


def encode_z_order(coords: Tensor, axes: Axes = (0, 1, 2)) -> Tensor:
    """Returns z-order codes [N] int64 of `coords` [N, 3] int32 or int64, each in 0 to 2**21 - 1.

    axes: columns of the highest, middle and lowest bit of each triple. Raises ValueError for values out of range.
    """
    return _interleave(_columns(coords, axes, MAX_BITS))


def decode_z_order(codes: Tensor, axes: Axes = (0, 1, 2)) -> Tensor:
    """Returns voxel coords [N, 3] int32 of z-order `codes` [N] int32 or int64: `encode_z_order` inverted, same axes."""
    return _stack(_separate(_checked_codes(codes, MAX_BITS)), axes)


def encode_hilbert(coords: Tensor, bits: int = 10, axes: Axes = (0, 1, 2)) -> Tensor:
    """Returns Hilbert codes [N] int64, in a cube of 2**bits voxels per side, of `coords` [N, 3] int32 or int64.

    bits: 1 to 21; 10 is the original's curve. Curves of b and b + 3 bits agree where both are defined; others differ.
    axes: as in `encode_z_order`. Raises ValueError for a coordinate outside the cube.
    """
    point = _columns(coords, axes, bits)
    for level in range(bits - 1, 0, -1):
        for axis in range(3):
            point = _reflect(point, axis, level)
    point[1] = point[1] ^ point[0]
    point[2] = point[2] ^ point[1]
    parity = point[2]
    for shift in (1, 2, 4, 8, 16):
        parity = parity ^ (parity >> shift)
    return _interleave([column ^ (parity >> 1) for column in point])


def decode_hilbert(codes: Tensor, bits: int = 10, axes: Axes = (0, 1, 2)) -> Tensor:
    """Returns voxel coords [N, 3] int32 of Hilbert `codes` [N] int32 or int64; inverse of `encode_hilbert`."""
    _check_bits(bits)
    x, y, z = _separate(_checked_codes(codes, bits))
    point = [x ^ (z >> 1), y ^ x, z ^ y]
    for level in range(1, bits):
        for axis in (2, 1, 0):
            point = _reflect(point, axis, level)
    return _stack(point, axes)


def _reflect(point: list[Tensor], axis: int, level: int) -> list[Tensor]:
    """Skilling's step: below bit `level`, inverts x where the axis has that bit set, else swaps x and the axis."""
    low = (1 << level) - 1
    has_bit = (point[axis] >> level & 1).bool()
    change = torch.where(has_bit, low, (point[0] ^ point[axis]) & low)
    result = list(point)
    result[axis] = point[axis] ^ change.masked_fill(has_bit, 0)
    result[0] = point[0] ^ change
    return result


def _interleave(columns: list[Tensor]) -> Tensor:
    code = torch.zeros_like(columns[0])
    for column in columns:
        for shift, mask in _SPREAD:
            column = (column | column << shift) & mask
        code = code << 1 | column
    return code


def _separate(codes: Tensor) -> list[Tensor]:
    columns = []
    for axis in range(3):
        column = codes >> (2 - axis) & _SPREAD[-1][1]
        for shift, mask in _COMPACT:
            column = (column | column >> shift) & mask
        columns.append(column)
    return columns


def _columns(coords: Tensor, axes: Axes, bits: int) -> list[Tensor]:
    _check_axes(axes)
    _check_bits(bits)
    check_tensor(coords, "coords", (None, 3), (torch.int32, torch.int64))
    _check_range(coords, "coords", 1 << bits)
    return [coords[:, axis].to(torch.int64) for axis in axes]


def _stack(columns: list[Tensor], axes: Axes) -> Tensor:
    _check_axes(axes)
    return torch.stack([columns[axes.index(axis)] for axis in range(3)], dim=1).to(torch.int32)


def _checked_codes(codes: Tensor, bits: int) -> Tensor:
    check_tensor(codes, "codes", (None,), (torch.int32, torch.int64))
    _check_range(codes, "codes", 1 << 3 * bits)
    return codes.to(torch.int64)


def _check_range(values: Tensor, name: str, end: int) -> None:
    if values.numel() == 0:
        return
    low, high = torch.stack(values.aminmax()).tolist()
    if low < 0 or high >= end:
        raise ValueError(f"{name}: expected values from 0 to {end - 1}, got {low} to {high}")


def _check_bits(bits: int) -> None:
    if not 1 <= bits <= MAX_BITS:
        raise ValueError(f"bits: expected 1 to {MAX_BITS}, got {bits}")


def _check_axes(axes: Axes) -> None:
    if sorted(axes) != [0, 1, 2]:
        raise ValueError(f"axes: expected an order of 0, 1, 2, got {tuple(axes)}")
