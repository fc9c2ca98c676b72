"""numba loops of the meshopt decoders, byte by byte. Imported only when a compressed file is read.

Source: appendix A of the specification of KHR_meshopt_compression (Khronos).
"""

from __future__ import annotations

import numpy as np

from .....core.kernel_cpu import cached_njit

WORD = 0xFFFFFFFF
# Elements of a group, and bytes of the largest block.
GROUP, BLOCK_BYTES, BLOCK_ELEMENTS = 16, 8192, 256
FAULT = -1


@cached_njit
def unpack_deltas(data: np.ndarray, version: int, deltas: np.ndarray, end: int) -> int:
    """Writes the stored differences of an attribute stream `data` [B] uint8 to `deltas` [N, stride] uint8, zeroed.

    end: where the tail begins. Returns the position behind the last block, or FAULT.
    """
    count, stride = deltas.shape
    block = min((BLOCK_BYTES // stride) & ~15, BLOCK_ELEMENTS)
    position, first = 1, 0
    while first < count:
        size = min(block, count - first)
        control = position
        if version == 1:
            position += stride // 4
        for column in range(stride):
            if position > end:
                return FAULT
            kind = 4
            if version == 1:
                kind = (int(data[control + column // 4]) >> (2 * (column % 4))) & 3
            if kind == 2:
                continue
            if kind == 3:
                if position + size > end:
                    return FAULT
                for row in range(size):
                    deltas[first + row, column] = data[position + row]
                position += size
                continue
            groups = (size + GROUP - 1) // GROUP
            header = position
            position += (groups + 3) // 4
            if position > end:
                return FAULT
            for group in range(groups):
                code = (int(data[header + group // 4]) >> (2 * (group % 4))) & 3
                # Bits of a stored difference: 0, 1, 2, 4 or 8.
                if kind == 0:
                    bits = 0 if code == 0 else 1 << (code - 1)
                elif kind == 1:
                    bits = 1 << code
                else:
                    bits = 0 if code == 0 else 1 << code
                if bits == 0:
                    continue
                extra = position + 2 * bits
                if extra > end:
                    return FAULT
                sentinel = (1 << bits) - 1
                for element in range(GROUP):
                    bit = element * bits
                    byte = int(data[position + bit // 8])
                    if bits == 1:
                        value = (byte >> (bit % 8)) & 1
                    else:
                        value = (byte >> (8 - bits - bit % 8)) & sentinel
                    if bits < 8 and value == sentinel:
                        if extra >= end:
                            return FAULT
                        value = int(data[extra])
                        extra += 1
                    row = group * GROUP + element
                    if row < size:
                        deltas[first + row, column] = value
                position = extra
        first += size
    return position


@cached_njit
def read_varint(data: np.ndarray, position: int, end: int) -> tuple[int, int]:
    """Reads an unsigned LEB128 number of at most five bytes; returns (number, next position), or (0, FAULT)."""
    value, shift = 0, 0
    while position < end and shift < 35:
        byte = int(data[position])
        position += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value & WORD, position
    return 0, FAULT


@cached_njit
def read_index(data: np.ndarray, position: int, end: int, last: int) -> tuple[int, int]:
    """Reads an index as its zigzag difference from `last`; returns (index, next position), or (_, FAULT)."""
    value, position = read_varint(data, position, end)
    delta = ~(value >> 1) if value & 1 else value >> 1
    return (last + delta) & WORD, position


@cached_njit
def decode_indices(data: np.ndarray, out: np.ndarray) -> int:
    """Decodes a stream of indices `data` [B] uint8 to `out` [N] int64. Returns 0, or FAULT."""
    end, position = len(data) - 4, 1
    last = np.zeros(2, np.int64)
    for i in range(len(out)):
        value, position = read_varint(data, position, end)
        if position < 0:
            return FAULT
        delta = value >> 2
        if value & 2:
            delta = ~delta
        last[value & 1] = (last[value & 1] + delta) & WORD
        out[i] = last[value & 1]
    return 0 if position == end else FAULT


@cached_njit
def _vertex(kind, vertices, newest, following, data, position, end, last):
    """Returns (vertex, next new vertex, last stored index, next position), or a position of FAULT.

    kind: 0 for the next new vertex, `following`; 15 for an index stored at `position`; else how many places of the ring
    `vertices` it is behind `newest`.
    """
    if kind == 0:
        return following, (following + 1) & WORD, last, position
    if kind < 15:
        return vertices[(newest - kind) & 15], following, last, position
    last, position = read_index(data, position, end, last)
    return last, following, last, position


@cached_njit
def decode_triangles(data: np.ndarray, out: np.ndarray) -> int:
    """Decodes a stream of triangles `data` [B] uint8 to their indices `out` [3 T] int64. Returns 0, or FAULT."""
    count = len(out) // 3
    end, position = len(data) - 16, 1 + count
    if position > end:
        return FAULT
    # Rings of the last 16 edges and vertices; unwritten entries are -1.
    edges = np.full((16, 2), -1, np.int64)
    vertices = np.full(16, -1, np.int64)
    newest_edge, newest_vertex, following, last = 0, 0, 0, 0
    for triangle in range(count):
        code = int(data[1 + triangle])
        high, low = code >> 4, code & 15
        if high < 15:
            edge = (newest_edge - 1 - high) & 15
            a, b = edges[edge, 0], edges[edge, 1]
            push_c = True
            if low == 0:
                c = following
                following = (following + 1) & WORD
            elif low < 13:
                c = vertices[(newest_vertex - 1 - low) & 15]
                push_c = False
            elif low < 15:
                last = (last + (1 if low == 14 else -1)) & WORD
                c = last
            else:
                last, position = read_index(data, position, end, last)
                if position < 0:
                    return FAULT
                c = last
        else:
            if low < 14:
                pair = int(data[end + low])
                plain = False
            else:
                if position >= end:
                    return FAULT
                pair = int(data[position])
                position += 1
                plain = True
                if pair == 0:
                    following = 0
            second, third = pair >> 4, pair & 15
            if not plain and (second == 15 or third == 15):
                return FAULT
            first = 15 if low == 15 else 0
            a, following, last, position = _vertex(first, vertices, newest_vertex, following, data, position, end, last)
            if position < 0:
                return FAULT
            b, following, last, position = _vertex(
                second, vertices, newest_vertex, following, data, position, end, last
            )
            if position < 0:
                return FAULT
            c, following, last, position = _vertex(third, vertices, newest_vertex, following, data, position, end, last)
            if position < 0:
                return FAULT
            edges[newest_edge & 15, 0], edges[newest_edge & 15, 1] = b, a
            newest_edge += 1
            vertices[newest_vertex & 15] = a
            newest_vertex += 1
            if second == 0 or second == 15:
                vertices[newest_vertex & 15] = b
                newest_vertex += 1
            push_c = third == 0 or third == 15
        if a < 0 or b < 0 or c < 0:
            return FAULT
        edges[newest_edge & 15, 0], edges[newest_edge & 15, 1] = c, b
        edges[(newest_edge + 1) & 15, 0], edges[(newest_edge + 1) & 15, 1] = a, c
        newest_edge += 2
        if push_c:
            vertices[newest_vertex & 15] = c
            newest_vertex += 1
        out[3 * triangle], out[3 * triangle + 1], out[3 * triangle + 2] = a, b, c
    return 0 if position == end else FAULT
