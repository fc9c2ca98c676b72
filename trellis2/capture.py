"""A network's forward as a CUDA graph: recorded once a stage, replayed every step without host work."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Forward = Callable[[Tensor, Tensor], Tensor]
Pool = tuple[int, int]

# Above this many tokens the card is busier than the host, and a recording would only cost its warm-up forward.
MAX_TOKENS = 16_384


def recorded(forward: Forward, mode: str, tokens: int, device: torch.device, pool: Pool | None = None) -> Forward:
    """`forward(x, t)` itself, or its recording. mode: "eager", "graph", or "auto": a graph where it pays.

    pool: see `graph_pool`; recordings that never run at the same time may share one, and so their memory.

    Shapes, and every tensor that `forward` closes over, must stay what they are at the first call. Raises ValueError
    for an unknown mode, or "graph" on a device without CUDA.
    """
    if mode not in ("auto", "graph", "eager"):
        raise ValueError(f"launch: expected 'auto', 'graph' or 'eager', got {mode!r}")
    if mode == "graph" and device.type != "cuda":
        raise ValueError(f"launch 'graph' needs a CUDA device, got {device}")
    pays = device.type == "cuda" and tokens <= MAX_TOKENS
    return _Recording(forward, pool) if mode == "graph" or (mode == "auto" and pays) else forward


def graph_pool(device: torch.device) -> Pool | None:
    """Memory for recordings that never run at the same time, so that several take no more than the largest."""
    return torch.cuda.graph_pool_handle() if device.type == "cuda" else None


class _Recording:
    """The first call runs as it is, which compiles kernels; the second records, and replays from then on."""

    def __init__(self, forward: Forward, pool: Pool | None) -> None:
        self._forward, self._pool, self._warm = forward, pool, False
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        if not self._warm:
            self._warm = True
            return self._forward(x, t)
        if self._graph is None:
            self._x, self._t, self._graph = x.clone(), t.clone(), torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph, pool=self._pool):
                self._out = self._forward(self._x, self._t)
        self._x.copy_(x)
        self._t.copy_(t)
        self._graph.replay()
        return self._out.clone()
