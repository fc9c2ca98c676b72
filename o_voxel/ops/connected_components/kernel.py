"""Connected components in Triton: lock-free union-find that hooks the higher of two roots below the lower.

Parents only decrease, by atomic minima, so the order of the lanes does not matter: the root of a tree is its lowest
node. A lane whose root was hooked by another lane continues with the value that lane wrote.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...core.device import device_guard

BLOCK = 128


@device_guard
def connected_gpu(count: int, first: Tensor, second: Tensor) -> Tensor:
    """As `connected`, checked there: labels [count] int64 from edges `first`, `second` [L] int64."""
    parent = torch.arange(count, device=first.device)
    if len(first):
        _hook[(triton.cdiv(len(first), BLOCK),)](parent, first.contiguous(), second.contiguous(), len(first), BLOCK)
        _climb[(triton.cdiv(count, BLOCK),)](parent, count, BLOCK)
    return parent


@triton.jit
def _up(parent_ptr, node, active):
    """Returns the parent of each lane's node and points the node at its grandparent (path halving)."""
    parent = tl.load(parent_ptr + node, mask=active, other=0, volatile=True)
    above = tl.load(parent_ptr + parent, mask=active, other=0, volatile=True)
    tl.atomic_min(parent_ptr + node, above, mask=active & (above < parent), sem="relaxed")
    return tl.where(active, parent, node)


@triton.jit(do_not_specialize=["n"])
def _hook(parent_ptr, first_ptr, second_ptr, n, BLOCK: tl.constexpr):
    lane = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    a, b = tl.load(first_ptr + lane, mask=lane < n, other=0), tl.load(second_ptr + lane, mask=lane < n, other=0)
    active = (lane < n) & (a != b)
    while tl.sum(active.to(tl.int32), 0) > 0:
        above_a, above_b = _up(parent_ptr, a, active), _up(parent_ptr, b, active)
        roots = active & (above_a == a) & (above_b == b)
        high, low = tl.maximum(a, b), tl.minimum(a, b)
        found = tl.atomic_min(parent_ptr + high, low, mask=roots, sem="relaxed")
        a, b = tl.where(roots, found, above_a), tl.where(roots, low, above_b)
        active = active & (a != b) & ((roots & (found == high)) == 0)


@triton.jit(do_not_specialize=["count"])
def _climb(parent_ptr, count, BLOCK: tl.constexpr):
    """Points every node at its root."""
    node = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    used = node < count
    root = tl.load(parent_ptr + node, mask=used, other=0, volatile=True)
    active = used
    while tl.sum(active.to(tl.int32), 0) > 0:
        above = tl.load(parent_ptr + root, mask=active, other=0, volatile=True)
        active = active & (above != root)
        root = tl.where(active, above, root)
    tl.store(parent_ptr + node, root, mask=used)
