"""Chunked evaluation of row-wise functions, which bounds the memory of their wide temporaries.

Chunk sizes are constants, independent of free memory: a matrix product may round differently with another number of
rows, and results must not depend on other users of the GPU.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# Bytes of the widest temporary. Larger ones gain no speed: products of this size fill a large GPU.
TEMPORARY_BYTES = 256 * 2**20
# Fewer rows would not fill a GPU at the widest levels.
MIN_ROWS = 16_384


def chunk_size(n: int, width_bytes: int) -> int:
    """Returns the rows of a chunk, of n rows that need `width_bytes` of temporary memory each; chunks are about
    equal."""
    most = max(MIN_ROWS, TEMPORARY_BYTES // max(1, width_bytes))
    return -(-n // max(1, -(-n // most)))


def chunked(work: Callable[..., Tensor], out: Tensor | None, *inputs: Tensor, rows: int) -> Tensor:
    """Computes work(*inputs, out=None) for `rows` rows of the inputs at a time. Returns its result, [N, ...].

    work: acts on each row independently and returns one row for each, written to `out` if given.
    out: [N, ...], memory for the result, which may be one of the inputs; None allocates it. Ignored, with the work done
    whole, if the result needs gradients or N is at most `rows`.
    """
    n = len(inputs[0])
    if n <= rows:
        return work(*inputs, out=None)
    first = work(*(tensor[:rows] for tensor in inputs), out=None)
    if first.requires_grad:
        return work(*inputs, out=None)
    if out is None:
        out = torch.empty(n, *first.shape[1:], dtype=first.dtype, device=first.device)
    out[:rows] = first
    for start in range(rows, n, rows):
        part = slice(start, start + rows)
        work(*(tensor[part] for tensor in inputs), out=out[part])
    return out
