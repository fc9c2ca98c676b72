"""Dequantises the blocks of GGUF files in torch, to the bit as the `gguf` package does in numpy, and many times faster.

A block holds 32 or 256 consecutive weights of a row. Formats without K: a float16 scale d, in some a float16 offset m,
and integers q of 4, 5 or 8 bits; the weight is d q, or d q + m. Formats with K: groups of 16 or 32 weights with scales
and minima of 4 or 6 bits, themselves in units of d and dmin; the weight is (d s) q - (dmin m). Integers are packed so
that the low halves of the bytes hold the first half of a group, the high halves the second. (Facts: the layout of
ggml's block structs, as the `gguf` package 0.19 reads it. Products and sums are rounded to float32 in its order.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

# Weights of a format with K, and the groups that share a scale.
SUPER = 256
# Weights that are dequantised at a time: few enough to stay in the cache, enough to hide the calls.
CHUNK = 1 << 19


@dataclass(frozen=True)
class BlockFormat:
    """A block format. size: weights of a block.  bytes: of a block.

    unpack: blocks [N, bytes] uint8 to weights [N, size] float32.
    """

    size: int
    bytes: int
    unpack: Callable[[Tensor], Tensor]

    @property
    def piece(self) -> int:
        """Bytes of the blocks that are dequantised at a time."""
        return max(1, CHUNK // self.size) * self.bytes

    def dequantize(self, raw: Tensor) -> Tensor:
        """Returns the weights of whole blocks, flat, float32. raw: flat, uint8; as many as `piece` are quickest."""
        return self.unpack(raw.view(-1, self.bytes)).flatten()


def _half(blocks: Tensor, start: int) -> Tensor:
    """A float16 of each block, as float32 [N, 1]."""
    return blocks[:, start : start + 2].contiguous().view(torch.float16).float()


def _planes(packed: Tensor, width: int, bits: int) -> Tensor:
    """Integers of `bits` bits of bytes [N, G * width]: the lowest bits of all bytes of a group, then the next.

    Eight integers are a word: [N, G, 8 / bits, width / 8] int64. A shift moves eight at once, which is why it is quick.
    """
    # A clone, as a single row that is part of a block counts as contiguous, with the block's length.
    own = packed.clone(memory_format=torch.contiguous_format)
    words, mask = own.view(torch.int64).unflatten(1, (-1, width // 8)), _in_all((1 << bits) - 1)
    return torch.stack([(words >> shift) & mask for shift in range(0, 8, bits)], dim=2)


def _in_all(byte: int) -> int:
    """A word with `byte`, below 128, in all its bytes."""
    return int.from_bytes(bytes([byte] * 8), "little")


def _fifth_bits(packed: Tensor) -> Tensor:
    """Bit 4 of 32 integers, in place, of 4 bytes [N, 4], weight i in bit i: words [N, 4] int64."""
    shifts = torch.arange(8, dtype=torch.uint8, device=packed.device)
    spread = ((torch.arange(256, dtype=torch.uint8, device=packed.device)[:, None] >> shifts) & 1) << 4
    return spread.view(torch.int64).flatten()[packed.int()]


def _signed(words: Tensor, offset: int) -> Tensor:
    """The integers of words [N, …], less an offset: [N, K] int8."""
    return words.flatten(1).view(torch.int8) - offset


def _unsigned(words: Tensor) -> Tensor:
    """The integers of words [N, …]: [N, K] uint8."""
    return words.flatten(1).view(torch.uint8)


def _q4_0(blocks: Tensor) -> Tensor:
    return _signed(_planes(blocks[:, 2:], 16, 4), 8) * _half(blocks, 0)


def _q4_1(blocks: Tensor) -> Tensor:
    return (_unsigned(_planes(blocks[:, 4:], 16, 4)) * _half(blocks, 0)).add_(_half(blocks, 2))


def _q5_0(blocks: Tensor) -> Tensor:
    q = _planes(blocks[:, 6:], 16, 4).flatten(1) | _fifth_bits(blocks[:, 2:6])
    return _signed(q, 16) * _half(blocks, 0)


def _q5_1(blocks: Tensor) -> Tensor:
    q = _planes(blocks[:, 8:], 16, 4).flatten(1) | _fifth_bits(blocks[:, 4:8])
    return (_unsigned(q) * _half(blocks, 0)).add_(_half(blocks, 2))


def _q8_0(blocks: Tensor) -> Tensor:
    return blocks[:, 2:].view(torch.int8) * _half(blocks, 0)


def _scales_and_minima(packed: Tensor) -> tuple[Tensor, Tensor]:
    """Eight 6-bit scales and eight minima [N, 8] of 12 bytes: four of each in the low bits of bytes 0 to 7, the low
    bits of the others in bytes 8 to 11, and their high bits in the high bits of bytes 0 to 7."""
    scale, minimum, rest = packed.unflatten(1, (3, 4)).unbind(1)
    scales = torch.cat((scale & 63, (rest & 15) | ((scale >> 2) & 48)), dim=1)
    minima = torch.cat((minimum & 63, (rest >> 4) | ((minimum >> 2) & 48)), dim=1)
    return scales, minima


def _scaled(q: Tensor, scale: Tensor, minimum: Tensor | None = None) -> Tensor:
    """Integers q [N, K] times the scales of their groups, less their minima: [N, K]. scale, minimum: [N, G] float32."""
    out = q.unflatten(1, (scale.shape[1], -1)) * scale[:, :, None]
    return (out if minimum is None else out.sub_(minimum[:, :, None])).flatten(1)


def _q2_k(blocks: Tensor) -> Tensor:
    packed, q = blocks[:, :16], _unsigned(_planes(blocks[:, 16:80], 32, 2))
    return _scaled(q, _half(blocks, 80) * (packed & 15), _half(blocks, 82) * (packed >> 4))


def _q3_k(blocks: Tensor) -> Tensor:
    low, high = blocks[:, 96:104], blocks[:, 104:108]
    scales = torch.cat((low & 15, low >> 4), dim=1)
    scales = scales | torch.cat([((high >> shift) & 3) << 4 for shift in range(0, 8, 2)], dim=1)
    # A bit of the mask that is not set takes 4 off.
    taken = (_planes(blocks[:, :32], 32, 1) ^ _in_all(1)) << 2
    q = _signed(_planes(blocks[:, 32:96], 32, 2), 0).sub_(_signed(taken, 0))
    return _scaled(q, _half(blocks, 108) * (scales.view(torch.int8) - 32))


def _q4_k(blocks: Tensor) -> Tensor:
    scales, minima = _scales_and_minima(blocks[:, 4:16])
    q = _unsigned(_planes(blocks[:, 16:], 32, 4))
    return _scaled(q, _half(blocks, 0) * scales, _half(blocks, 2) * minima)


def _q5_k(blocks: Tensor) -> Tensor:
    scales, minima = _scales_and_minima(blocks[:, 4:16])
    q = _planes(blocks[:, 48:], 32, 4).flatten(1) | (_planes(blocks[:, 16:48], 32, 1).flatten(1) << 4)
    return _scaled(_unsigned(q), _half(blocks, 0) * scales, _half(blocks, 2) * minima)


def _q6_k(blocks: Tensor) -> Tensor:
    q = _planes(blocks[:, :128], 64, 4).flatten(1) | (_planes(blocks[:, 128:192], 32, 2).flatten(1) << 4)
    return _scaled(_signed(q, 32), _half(blocks, 208) * blocks[:, 192:208].view(torch.int8))


BLOCKS: Mapping[str, BlockFormat] = {
    "Q4_0": BlockFormat(32, 18, _q4_0),
    "Q4_1": BlockFormat(32, 20, _q4_1),
    "Q5_0": BlockFormat(32, 22, _q5_0),
    "Q5_1": BlockFormat(32, 24, _q5_1),
    "Q8_0": BlockFormat(32, 34, _q8_0),
    "Q2_K": BlockFormat(SUPER, 84, _q2_k),
    "Q3_K": BlockFormat(SUPER, 110, _q3_k),
    "Q4_K": BlockFormat(SUPER, 144, _q4_k),
    "Q5_K": BlockFormat(SUPER, 176, _q5_k),
    "Q6_K": BlockFormat(SUPER, 210, _q6_k),
}
