"""Small algebra on many vectors. They are [3, N] here, a row an axis: torch is several times faster along the last."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner products [...] of a and b [3, ...]."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def length(a: Tensor) -> Tensor:
    """Lengths [...] of a [3, ...], each from 1e-18 to 1e18, or 0."""
    square = dot(a, a)
    return square * square.clamp(min=1e-37).rsqrt()


def cross(a: Tensor, b: Tensor) -> Tensor:
    """Cross products [3, ...] of a and b [3, ...]."""
    return torch.stack((a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]))


def unit(a: Tensor) -> Tensor:
    """a [3, ...] at length 1; 0 stays 0. Lengths may be from 1e-18 to 1e18."""
    return a * dot(a, a).clamp(min=1e-37).rsqrt()


def column(values: Sequence[float], like: Tensor) -> Tensor:
    """A constant vector [3, 1] on the device and of the dtype of `like`."""
    return like.new_tensor(values)[:, None]


def _step(device: torch.device) -> int:
    # Up to 32,767 numbers, here six an item, most operations of torch start no threads of their own. Such threads wait
    # for each other after every operation, which made a picture ten times slower on a machine with other work. Advanced
    # indexing, sqrt, exp, erf, cos and round start them from 2,048 numbers on: pieces use index_select and the like.
    return 5 << 10 if device.type == "cpu" else 1 << 19


def spans(count: int, device: torch.device) -> list[slice]:
    """`count` items in pieces: as much as a GPU likes, or on the CPU what its cache and one thread like."""
    step = _step(device)
    return [slice(start, min(start + step, count)) for start in range(0, count, step)]


def bands(size: tuple[int, int], device: torch.device) -> list[slice]:
    """The rows of a picture of (H, W) pixels in pieces, as `spans`."""
    height, width = size
    rows = max(1, _step(device) // width)
    return [slice(start, min(start + rows, height)) for start in range(0, height, rows)]


def for_each(pieces: Sequence[slice], device: torch.device, work: Callable[[slice], None]) -> None:
    """Call `work` on every piece, on the CPU from as many threads as torch uses; pieces must write apart."""
    if device.type != "cpu":
        for piece in pieces:
            work(piece)
        return
    inference = torch.is_inference_mode_enabled()  # a thread's own state: a host may have set it in ours

    def in_thread(piece: slice) -> None:
        with torch.inference_mode(inference), torch.no_grad():
            work(piece)

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        list(pool.map(in_thread, pieces))
