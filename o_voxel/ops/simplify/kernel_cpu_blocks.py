"""Collapses one at a time, the cheapest first, in numba: a large mesh in blocks of its own on all cores, then as one.

Each block collapses what is cheap by a limit that grows for all of them alike, so that they take what one heap over all
would take first, up to a few times the faces that are wanted. What the edges between blocks see of one block only waits
for the end. 665,224 faces to 32,000 on two shared cores: 26.4 s by one heap, 21.9 s in blocks (11.3 and 13.0 s of the
processor), the same mean distance.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...core.progress import Progress
from ...voxels.morton import encode_hilbert
from . import kernel_cpu
from .graph import BORDER_WEIGHT, open_sides_of
from .kernel_cpu_heap import BLOCK, HEAP, LEFT, State, prepare, resume

# Collapses between two reports: about a tenth of a second.
STEPS = 5_000
# Faces of a block; and how many times the wanted faces are left when the blocks are joined.
BLOCK_FACES, KEPT = 32_000, 4
# From so many times the wanted faces on it pays.
LEAST_RATIO = 2 * KEPT
# The price limit grows by this from round to round. A closed surface's faces go with about the third root of it.
GROWTH = 4.0
# A round takes at most half of a block's faces: at the last, at least half of KEPT times the wanted ones are left.
SHARE, ROUNDS = 2, 64
CURVE_BITS = 10


class _Blocks(NamedTuple):
    """states: of the blocks.  rows: the vertices [v] int64 of each, in the order of its state.  bound: how many faces
    stay because two of their corners are fixed or between blocks.
    """

    states: list[State]
    rows: list[np.ndarray]
    bound: int


def collapse_one_by_one(
    position: Tensor,
    faces: Tensor,
    limits: tuple[int, float],
    locked: Tensor | None,
    progress: Progress,
) -> tuple[Tensor, Tensor]:
    """`collapse_edges` by heaps. limits: target and max_error. The same bytes on any number of cores."""
    (target, max_error), total = limits, len(faces)
    place, fixed = position.double().numpy(), np.zeros(len(position), np.bool_)
    if locked is not None:
        fixed = locked.numpy()
    ends, face = open_sides_of(faces, len(position))

    def report(left: int) -> None:
        progress((total - left) / (total - target))

    if target and max_error == float("inf") and total >= max(2 * BLOCK_FACES, LEAST_RATIO * target):
        blocks = _divide(position, faces, (ends, face), fixed)
        _collapse_blocks(blocks, target, report)
        rows, state = _join(blocks, place, fixed)
    else:
        rows = np.arange(len(place))
        state = prepare(place, faces.numpy(), ends.numpy(), BORDER_WEIGHT, fixed)
    kernel_cpu.start(state, max_error)
    may = kernel_cpu.LOOSE if target else kernel_cpu.STRICT
    while not kernel_cpu.run(state, target, max_error, may, STEPS, np.inf):
        report(state.size[LEFT])
    placed = position.clone()
    placed[torch.from_numpy(rows)] = torch.from_numpy(state.place).float()
    return placed, torch.from_numpy(rows[state.faces[state.faces[:, 0] >= 0]]).to(torch.int32)


def _divide(position: Tensor, faces: Tensor, sides: tuple[Tensor, Tensor], fixed: np.ndarray) -> _Blocks:
    """The mesh in blocks of neighbouring faces. sides: as `open_sides_of`.  fixed: [V] bool."""
    middle = position[faces.long()].mean(1)
    low, high = middle.amin(0), middle.amax(0)
    scale = ((1 << CURVE_BITS) - 1) / (high - low).amax().clamp_min(1e-30)
    cell = ((middle - low) * scale).long().clamp(0, (1 << CURVE_BITS) - 1)
    order = encode_hilbert(cell, CURVE_BITS).argsort(stable=True)
    count = -(-len(faces) // BLOCK_FACES)
    owner = torch.empty_like(order)
    owner[order] = torch.arange(len(order)) * count // len(order)
    # Vertices of several blocks are fixed in each.
    corner, number = faces.long().flatten(), owner.repeat_interleave(3)
    first = torch.full((len(position),), count).scatter_reduce_(0, corner, number, "amin")
    last = torch.full((len(position),), -1).scatter_reduce_(0, corner, number, "amax")
    shared = (first != last).numpy() | fixed
    ends, owner_of_side = sides[0].numpy(), owner[sides[1]].numpy()
    place, owners = position.double().numpy(), owner[order]
    start = torch.searchsorted(owners, torch.arange(count + 1)).tolist()
    corners, order = faces.numpy(), order.numpy()

    def block(k: int) -> tuple[State, np.ndarray]:
        rows, local = np.unique(corners[order[start[k] : start[k + 1]]], return_inverse=True)
        own = np.searchsorted(rows, ends[owner_of_side == k]).astype(np.int32).reshape(-1, 2)
        state = prepare(place[rows], local.reshape(-1, 3).astype(np.int32), own, BORDER_WEIGHT, shared[rows])
        state.size[BLOCK] = 1
        kernel_cpu.start(state, np.inf)
        return state, rows

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        states, rows = map(list, zip(*pool.map(block, range(count)), strict=True))
    return _Blocks(states, rows, int((shared[corners].sum(1) >= 2).sum()))


def _collapse_blocks(blocks: _Blocks, target: int, report: Progress) -> None:
    """Collapses in all blocks until KEPT times the target are left besides what is bound, or nothing cheap is."""
    states, wanted = blocks.states, KEPT * target + blocks.bound

    def left() -> int:
        return sum(int(state.size[LEFT]) for state in states)

    def collapse(state: State) -> None:
        least = int(state.size[LEFT]) // SHARE
        while not kernel_cpu.run(state, least, np.inf, kernel_cpu.LOOSE, STEPS, most):
            report(left())

    prices = np.concatenate([state.price[: state.size[HEAP]] for state in states])
    most = float(np.median(prices)) if len(prices) else 0.0
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for _ in range(ROUNDS):
            if left() <= wanted or not any(state.size[HEAP] for state in states):
                return
            list(pool.map(collapse, states))
            report(left())
            most = max(most * GROWTH, np.finfo(np.float64).tiny)


def _join(blocks: _Blocks, place: np.ndarray, fixed: np.ndarray) -> tuple[np.ndarray, State]:
    """The vertices [v] int64 that are left, and the State of the whole mesh over them. place: [V, 3] float64."""
    place, quadric = place.copy(), np.zeros((len(place), 10))
    faces, facing = [], []
    for state, rows in zip(blocks.states, blocks.rows, strict=True):
        alive = state.faces[:, 0] >= 0
        faces.append(rows[state.faces[alive]])
        facing.append(state.facing[alive])
        place[rows] = state.place
        quadric[rows] += state.quadric
    rows, local = np.unique(np.concatenate(faces), return_inverse=True)
    local = local.reshape(-1, 3).astype(np.int32)
    return rows, resume(place[rows], local, quadric[rows], np.concatenate(facing), fixed[rows])
