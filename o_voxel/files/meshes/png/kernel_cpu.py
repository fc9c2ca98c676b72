"""numba loops of the PNG encoder: row filters, and a deflate encoder that matches runs of one byte only.

Format: PNG specification (ISO/IEC 15948), deflate (RFC 1951). Code lengths: Huffman 1952, by the two-queue method.
"""

from __future__ import annotations

import numpy as np

from ....core.kernel_cpu import cached_njit

# Filter types tried on each row, as in `filters`.
SUB, UP, PAETH = 1, 2, 4
# Filtered bytes per deflate block, each with a code of its own.
BLOCK_BYTES = 1 << 16
# Literals and lengths of deflate; the symbol that ends a block; the longest codes of these, and of the code lengths.
SYMBOLS, END, MOST_BITS, MOST_LENGTH_BITS = 286, 256, 15, 7
LEAST_RUN, MOST_RUN = 3, 258
# The order in which deflate stores the lengths of the code lengths' code.
LENGTH_ORDER = np.array([16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15])


def _run_tokens() -> np.ndarray:
    """[MOST_RUN + 1] uint32, by the length of a run: symbol, extra bits << 9, their value << 12 (RFC 1951, 3.2.5)."""
    found = np.zeros(MOST_RUN + 1, np.uint32)
    length, symbol = LEAST_RUN, END + 1
    for bits in (*[0] * 8, *(bits for bits in range(1, 6) for _ in range(4))):
        for value in range(1 << bits):
            found[min(length, MOST_RUN)] = symbol | bits << 9 | value << 12
            length += 1
        symbol += 1
    found[MOST_RUN] = symbol
    return found


RUN_TOKENS = _run_tokens()


@cached_njit
def _predict(left, up, corner, paeth):
    """Writes Paeth's predictions [W] of a row, as `filters.paeth`: in bytes, LLVM makes vectors of many lanes of it."""
    for i in range(len(paeth)):
        a, b, c = left[i], up[i], corner[i]
        to_left, to_up = np.uint8(b - c if b > c else c - b), np.uint8(a - c if a > c else c - a)
        small, large = (to_left, to_up) if to_left < to_up else (to_up, to_left)
        between = ((a > c) != (b > c)) & (np.uint8(large - small) < small)
        paeth[i] = c if between else (a if to_left <= to_up else b)


@cached_njit
def _difference(here, prediction, out):
    """Writes `here` less its prediction; returns the sum of the differences' distances from 0."""
    cost = np.int64(0)
    for i in range(len(here)):
        difference = np.uint8(here[i] - prediction[i])
        other = np.uint8(-difference)
        out[i] = difference
        cost += difference if difference < other else other
    return cost


@cached_njit
def filter_rows(rows: np.ndarray, start: int, end: int, channels: int) -> np.ndarray:
    """Filters rows `start` to `end` of `rows` [H, W C] uint8: [R, 1 + W C] uint8, as `filters.filter_rows`."""
    width = rows.shape[1]
    result = np.empty((end - start, 1 + width), np.uint8)
    # Two rows with a pixel of zeros before each.
    padded = np.zeros((2, channels + width), np.uint8)
    paeth, other = np.empty(width, np.uint8), np.empty(width, np.uint8)
    for row in range(max(start - 1, 0), end):
        this, last = padded[row & 1], padded[(row + 1) & 1]
        here, left, up, corner = this[channels:], this[:width], last[channels:], last[:width]
        for i in range(width):
            here[i] = rows[row, i]
        if row < start:
            continue
        out = result[row - start, 1:]
        best, cost = SUB, _difference(here, left, out)
        _predict(left, up, corner, paeth)
        for kind in (UP, PAETH):
            now = _difference(here, up if kind == UP else paeth, other)
            if now < cost:
                best, cost = kind, now
                for i in range(width):
                    out[i] = other[i]
        result[row - start, 0] = best
    return result


@cached_njit
def _sorted_symbols(counts):
    """The symbols that occur, rarest first; of the same count, the lowest first. By comb sort."""
    n = 0
    order = np.empty(len(counts), np.int64)
    for symbol in range(len(counts)):
        if counts[symbol] > 0:
            order[n] = symbol
            n += 1
    gap, swapped = n, True
    while gap > 1 or swapped:
        gap = gap * 10 // 13 if gap > 1 else 1
        swapped = False
        for i in range(n - gap):
            a, b = order[i], order[i + gap]
            if counts[a] > counts[b] or (counts[a] == counts[b] and a > b):
                order[i], order[i + gap] = b, a
                swapped = True
    return order[:n]


@cached_njit
def _code(counts, codes):
    """Writes the canonical Huffman codes, lowest bit first, with their lengths << 16; else 0.

    counts: [S] int64, at least two of them above 0: of SYMBOLS, or of the 19 lengths of their codes. Where a code would
    be longer than deflate allows, they are halved until none is.
    """
    most = MOST_BITS if len(counts) == SYMBOLS else MOST_LENGTH_BITS
    while True:
        order = _sorted_symbols(counts)
        n = len(order)
        weight, parent, depth = np.zeros(2 * n, np.int64), np.zeros(2 * n, np.int64), np.zeros(2 * n, np.int64)
        for i in range(n):
            weight[i] = counts[order[i]]
        leaf, joined = 0, n
        for new in range(n, 2 * n - 1):
            for _ in range(2):
                if leaf < n and (joined == new or weight[leaf] <= weight[joined]):
                    child = leaf
                    leaf += 1
                else:
                    child = joined
                    joined += 1
                weight[new] += weight[child]
                parent[child] = new
        deepest = 0
        for i in range(2 * n - 3, -1, -1):
            depth[i] = depth[parent[i]] + 1
            deepest = depth[i] if depth[i] > deepest else deepest
        if deepest <= most:
            break
        for i in range(n):
            counts[order[i]] = (counts[order[i]] + 1) >> 1
    for symbol in range(len(codes)):
        codes[symbol] = 0
    for i in range(n):
        codes[order[i]] = depth[i] << 16
    code = 0
    for bits in range(1, most + 1):
        code <<= 1
        for symbol in range(len(codes)):
            if codes[symbol] == bits << 16:
                turned = 0
                for bit in range(bits):
                    turned |= (code >> bit & 1) << (bits - 1 - bit)
                codes[symbol] |= turned
                code += 1


@cached_njit
def _tokens(data, tokens, counts):
    """Writes the tokens of `data` [B] uint8 and counts their symbols; returns how many.

    A token is a literal, or a run of the byte before it as in RUN_TOKENS.
    """
    size, count, i = len(data), 0, 0
    last = -1
    while i < size:
        byte = np.int64(data[i])
        if byte == last and i + 2 < size and data[i + 1] == byte and data[i + 2] == byte:
            end = i + MOST_RUN if i + MOST_RUN < size else size
            begin, i = i, i + LEAST_RUN
            while i < end and data[i] == byte:
                i += 1
            token = np.int64(RUN_TOKENS[i - begin])
        else:
            token, last = byte, byte
            i += 1
        tokens[count] = token
        counts[token & 511] += 1
        count += 1
    return count


@cached_njit
def _put(out, state, fields):
    """Appends the `fields` [N]: value | number of bits << 16, at most 15.

    state: [3] uint64, bits that wait, fewer than 32; their number; bytes written.
    """
    waiting, number, at = state[0], state[1], state[2]
    for field in fields:
        waiting |= np.uint64(field & 0xFFFF) << number
        number += np.uint64(field >> 16)
        while number >= np.uint64(8):
            out[at] = np.uint8(waiting)
            waiting >>= np.uint64(8)
            number -= np.uint64(8)
            at += np.uint64(1)
    state[0], state[1], state[2] = waiting, number, at


@cached_njit
def _head(codes, last):
    """The fields, as for `_put`, before a block's tokens: its kind, and its code [SYMBOLS] and that of distances.

    The distances are 1 and, never used, 2, of one bit each: some readers refuse a code that is not complete.
    """
    counts, by_length = np.zeros(19, np.int64), np.zeros(19, np.int64)
    fields = np.empty(5 + 19 + SYMBOLS + 2, np.int64)
    for symbol in range(SYMBOLS):
        counts[codes[symbol] >> 16] += 1
    counts[1] += 2
    if counts[0] == 0:
        counts[0] = 1
    _code(counts, by_length)
    fields[0] = (1 if last else 0) | 1 << 16
    fields[1] = 2 | 2 << 16
    fields[2] = (SYMBOLS - 257) | 5 << 16
    fields[3] = 1 | 5 << 16
    fields[4] = (19 - 4) | 4 << 16
    for i in range(19):
        fields[5 + i] = by_length[LENGTH_ORDER[i]] >> 16 | 3 << 16
    for symbol in range(SYMBOLS):
        fields[24 + symbol] = by_length[codes[symbol] >> 16]
    fields[24 + SYMBOLS] = fields[25 + SYMBOLS] = by_length[1]
    return fields


@cached_njit
def _put_tokens(out, state, tokens, count, codes):
    """Appends `count` tokens with the code [SYMBOLS] of their block, four bytes at a time."""
    waiting, number, at = state[0], state[1], state[2]
    for i in range(count):
        token = np.uint64(tokens[i])
        symbol = token & np.uint64(511)
        code = np.uint64(codes[symbol])
        waiting |= (code & np.uint64(0xFFFF)) << number
        number += code >> np.uint64(16)
        if symbol > np.uint64(END):
            # The extra bits of the length, then the one distance, 1: one bit, 0.
            waiting |= (token >> np.uint64(12)) << number
            number += ((token >> np.uint64(9)) & np.uint64(7)) + np.uint64(1)
        if number >= np.uint64(32):
            out[at] = np.uint8(waiting)
            out[at + np.uint64(1)] = np.uint8(waiting >> np.uint64(8))
            out[at + np.uint64(2)] = np.uint8(waiting >> np.uint64(16))
            out[at + np.uint64(3)] = np.uint8(waiting >> np.uint64(24))
            at += np.uint64(4)
            waiting >>= np.uint64(32)
            number -= np.uint64(32)
    state[0], state[1], state[2] = waiting, number, at


@cached_njit
def deflate(data: np.ndarray, last: bool) -> np.ndarray:
    """Deflates `data` [B] uint8 to [N] uint8, byte-aligned. last: ends the stream; else an empty block aligns it.

    Blocks of BLOCK_BYTES with dynamic codes; the only matches are runs of one byte, at distance 1.
    """
    blocks = (len(data) + BLOCK_BYTES - 1) // BLOCK_BYTES
    # Codes have at most 15 bits; and a margin for each block's codes.
    out = np.empty(2 * len(data) + 512 * (blocks + 1), np.uint8)
    state = np.zeros(3, np.uint64)
    tokens = np.empty(BLOCK_BYTES, np.uint32)
    counts, codes = np.zeros(SYMBOLS, np.int64), np.zeros(SYMBOLS, np.int64)
    for block in range(blocks):
        counts[:] = 0
        counts[END] = 1
        count = _tokens(data[block * BLOCK_BYTES : (block + 1) * BLOCK_BYTES], tokens, counts)
        _code(counts, codes)
        _put(out, state, _head(codes, last and block == blocks - 1))
        _put_tokens(out, state, tokens, count, codes)
        _put(out, state, codes[END : END + 1])
    # An empty stored block: its kind, zeros to the next byte, its length and the complement of that.
    tail = np.zeros(6, np.int64)
    if not last:
        tail[0] = 3 << 16
    tail[1] = (-(state[1] + np.uint64(tail[0] >> 16)) & np.uint64(7)) << np.uint64(16)
    if not last:
        for i in range(2, 6):
            tail[i] = (0 if i < 4 else 255) | 8 << 16
    _put(out, state, tail)
    return out[: state[2]].copy()
