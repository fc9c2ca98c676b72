"""Row by row: what acts on each voxel alone is computed for some rows at a time, so that no wide temporary is whole.

The sizes are constants and do not follow the memory that is free: a matrix product may round otherwise when it has
another number of rows, and a result should not depend on what else the card holds.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# Bytes of the widest temporary. A larger one gains no speed: its products fill a large card.
TEMPORARY_BYTES = 256 * 2**20
# Fewer rows than this would not fill a card at the widest levels.
FEWEST_ROWS = 16_384


def rows_of(n: int, width_bytes: int) -> int:
    """How many of n rows to compute at a time when each needs `width_bytes` of temporary memory: equal shares."""
    most = max(FEWEST_ROWS, TEMPORARY_BYTES // max(1, width_bytes))
    return -(-n // max(1, -(-n // most)))


def by_rows(work: Callable[..., Tensor], out: Tensor | None, *inputs: Tensor, rows: int) -> Tensor:
    """work(*inputs, out=None), for `rows` rows of the inputs at a time. work: acts on every row alone and returns as
    many, in `out` where it is given one.

    out: [N, ...], where the result may be written: memory that nobody else reads, or None for new memory. It may be
    one of the inputs. Where gradients are wanted, or N is at most `rows`, it is left as it is. Returns the result.
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
