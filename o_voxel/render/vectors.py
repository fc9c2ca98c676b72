"""Vector algebra on [3, N] tensors, a layout several times faster in torch than [N, 3], and parallel loops."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Returns dot products [...] of a and b [3, ...]."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def length(a: Tensor) -> Tensor:
    """Returns lengths [...] of a [3, ...], valid from 1e-18 to 1e18, and for 0."""
    square = dot(a, a)
    return square * square.clamp(min=1e-37).rsqrt()


def cross(a: Tensor, b: Tensor) -> Tensor:
    """Returns cross products [3, ...] of a and b [3, ...]."""
    return torch.stack((a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]))


def unit(a: Tensor) -> Tensor:
    """Normalises a [3, ...]; 0 stays 0. Lengths may be from 1e-18 to 1e18."""
    return a * dot(a, a).clamp(min=1e-37).rsqrt()


def column(values: Sequence[float], like: Tensor) -> Tensor:
    """Returns a constant vector [3, 1] with the device and dtype of `like`."""
    return like.new_tensor(values)[:, None]


def _step(device: torch.device) -> int:
    # Below 32,768 elements, here six per item, most torch operations do not start threads. Such threads synchronise
    # after every operation, which made rendering ten times slower on a busy machine. Advanced indexing, sqrt, exp, erf,
    # cos and round start them from 2,048 elements: code run on pieces uses index_select and the like.
    return 5 << 10 if device.type == "cpu" else 1 << 19


def spans(count: int, device: torch.device) -> list[slice]:
    """Splits `count` items into slices sized for the GPU, or for one thread and the cache of a CPU."""
    step = _step(device)
    return [slice(start, min(start + step, count)) for start in range(0, count, step)]


def bands(size: tuple[int, int], device: torch.device) -> list[slice]:
    """Splits the rows of an image of `size` (H, W) pixels into slices, as `spans`."""
    height, width = size
    rows = max(1, _step(device) // width)
    return [slice(start, min(start + rows, height)) for start in range(0, height, rows)]


def for_each(pieces: Sequence[slice], device: torch.device, work: Callable[[slice], None]) -> None:
    """Calls `work` on every piece, on the CPU from as many threads as torch uses; pieces must write disjoint data."""
    if device.type != "cpu":
        for piece in pieces:
            work(piece)
        return
    inference = torch.is_inference_mode_enabled()  # thread-local: a host may have enabled it in this thread

    def in_thread(piece: slice) -> None:
        with torch.inference_mode(inference), torch.no_grad():
            work(piece)

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        list(pool.map(in_thread, pieces))
