"""A network's forward as a CUDA graph: recorded once for a layout of its tokens, replayed every step without host work.

Recordings stay with their network, so that the next stage over the same layout replays them at once. What varies
between stages (samples, times, the image's keys and values) is copied into a recording's own inputs; what it reads
besides, weights and what follows from coordinates, must be what it was. A network keeps one recording a branch, of the
last layout; several views share it, each copied in when its turn comes.

Most of what one holds are its inputs: the keys and values of 4,101 image tokens are 0.7 GiB in a published network in
16 bits. The memory of activations is shared by all recordings of a device, so they run one at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn

from ..sparse import CoordSet

# forward(x, t, *inputs)
Forward = Callable[..., Tensor]

# Above this many tokens the card is busier than the host, and a recording would only cost its warm-up forward.
MAX_TOKENS = 16_384


@dataclass(frozen=True, eq=False)
class Layout:
    """The tokens of a stage, and how a network runs on them.

    launch: "eager", "graph", or "auto": a graph where it pays.  tokens: of all items together.
    key: what the work depends on besides its inputs' shapes, the weights and the coordinates.
    coords: where the tokens are, None where that follows from their shapes.
    """

    launch: str
    tokens: int
    key: Hashable = None
    coords: CoordSet | None = None

    def recorded_on(self, device: torch.device, recorder: str) -> bool:
        """Whether to record on `device`; `recorder`: the type of devices that can. Raises ValueError for an unknown
        `launch`, or "graph" on a device that cannot."""
        if self.launch not in ("auto", "graph", "eager"):
            raise ValueError(f"launch: expected 'auto', 'graph' or 'eager', got {self.launch!r}")
        if self.launch == "graph" and device.type != recorder:
            raise ValueError(f"launch 'graph' needs a {recorder.upper()} device, got {device}")
        pays = device.type == recorder and self.tokens <= MAX_TOKENS
        return self.launch == "graph" or (self.launch == "auto" and pays)

    def same(self, other: Layout) -> bool:
        """Whether a recording for one does for the other. Waits for the device where coordinates are compared."""
        if self.key != other.key or self.coords is None or other.coords is None:
            return self.key == other.key and self.coords is other.coords
        return self.coords.same_voxels(other.coords)


class Step(Protocol):
    """One branch's forward in a stage."""

    def load(self, inputs: Sequence[Tensor]) -> None:
        """From now on run on these `inputs`. May copy them, and then does not hold on to them."""

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """forward(x, t, *inputs)."""


class Graph(Protocol):
    """Work that is done again without the host. recorder: the type of devices that can."""

    recorder: str

    def record(self, work: Callable[[], Tensor]) -> Tensor:
        """What `work` returns, whose numbers are there after every `replay` only."""

    def replay(self) -> None:
        """Do the work again, on the same addresses."""


class Recordings:
    """The recordings of a network, one a branch. Copies and pickles of the network have none of them."""

    def __init__(self, graph: type[Graph] | None = None) -> None:
        self._new_graph = graph or CudaGraph
        self._kept: dict[str, _Recording] = {}
        self._layout: Layout | None = None
        self._weights: tuple[Hashable, ...] = ()

    def __reduce__(self) -> tuple[type[Recordings], tuple[type[Graph]]]:
        return Recordings, (self._new_graph,)

    def __len__(self) -> int:
        return len(self._kept)

    def forget(self) -> None:
        """Give back the memory of all recordings."""
        self._kept.clear()
        self._layout, self._weights = None, ()

    def begin(self, network: nn.Module, layout: Layout, device: torch.device) -> None:
        """A stage of `network`, whose recordings these are: what it cannot replay is forgotten before its own needs
        memory. Raises ValueError, see `Layout.recorded_on`."""
        if not layout.recorded_on(device, self._new_graph.recorder):
            return self.forget()
        # A graph reads from addresses: whoever moved or replaced a weight, and however, made it worthless.
        weights = tuple((tensor.data_ptr(), tensor.dtype) for tensor in weights_of(network))
        if self._layout is None or weights != self._weights or not layout.same(self._layout):
            self.forget()
        self._layout, self._weights = layout, weights

    def step(self, branch: str, forward: Forward, x: Tensor, inputs: Sequence[Tensor]) -> Step:
        """`forward` on tensors like x and `inputs`, in the stage that began. The first call of a new recording runs as
        it is, which compiles kernels for its shapes; the second records, and it is replayed from then on."""
        if self._layout is None:
            return _Plain(forward)
        like = tuple((tensor.shape, tensor.dtype, tensor.device) for tensor in (x, *inputs))
        if branch not in self._kept or self._kept[branch].like != like:
            self._kept.pop(branch, None)
            self._kept[branch] = _Recording(like, inputs)
        return _Recorded(self._kept[branch], forward, self._layout, self._new_graph)


def weights_of(model: nn.Module) -> Iterator[Tensor]:
    """Every parameter and buffer inside, in a fraction of the time that torch takes to find their names too."""
    for module in model.modules():
        yield from (t for t in (*module._parameters.values(), *module._buffers.values()) if t is not None)


def forget(model: nn.Module) -> None:
    """Give back the memory of a network's recordings, if it is a network with any."""
    recordings = getattr(model, "recordings", None)
    if isinstance(recordings, Recordings):
        recordings.forget()


class _Plain:
    """A step that is not recorded."""

    def __init__(self, forward: Forward) -> None:
        self._forward = forward

    def load(self, inputs: Sequence[Tensor]) -> None:
        self._inputs = inputs

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        return self._forward(x, t, *self._inputs)


class _Recording:
    """What stays: the inputs, and the graph once there is one. The forward itself does not: it knows the network, which
    could then not be freed at once."""

    def __init__(self, like: Hashable, inputs: Sequence[Tensor]) -> None:
        self.like = like
        self.inputs = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for tensor in inputs]
        self.warm = False
        self.graph: Graph | None = None

    def record(self, forward: Forward, x: Tensor, t: Tensor, graph: Graph, layout: Layout) -> None:
        """layout: holds what `forward` read of the coordinates, which the graph goes on reading."""
        self.x, self.t, self.layout = x.clone(), t.clone(), layout
        self.out = graph.record(lambda: forward(self.x, self.t, *self.inputs))
        self.graph = graph

    def replay(self, x: Tensor, t: Tensor) -> Tensor:
        self.x.copy_(x)
        self.t.copy_(t)
        self.graph.replay()
        return self.out.clone()


class _Recorded:
    """A recording in use by a stage."""

    def __init__(self, recording: _Recording, forward: Forward, layout: Layout, new_graph: type[Graph]) -> None:
        self._recording, self._forward, self._layout, self._new_graph = recording, forward, layout, new_graph

    def load(self, inputs: Sequence[Tensor]) -> None:
        for own, given in zip(self._recording.inputs, inputs, strict=True):
            own.copy_(given)

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        recording = self._recording
        if not recording.warm:
            out = self._forward(x, t, *recording.inputs)
            recording.warm = True
            return out
        if recording.graph is None:
            recording.record(self._forward, x, t, self._new_graph(), self._layout)
        return recording.replay(x, t)


class CudaGraph:
    """The recorder of CUDA devices."""

    recorder = "cuda"

    def record(self, work: Callable[[], Tensor]) -> Tensor:
        graph, pool = torch.cuda.CUDAGraph(), _Pool.of(torch.cuda.current_device())
        with torch.cuda.graph(graph, pool=pool.handle):
            out = work()
        self._graph, self._pool = graph, pool
        return out

    def replay(self) -> None:
        self._graph.replay()


class _Pool:
    """A device's memory for the activations of recordings: as they never run at the same time, several take no more
    than the largest. It lasts as long as a graph holds it; torch takes a handle amiss whose graphs are all gone."""

    _living: ClassVar[WeakValueDictionary[int, _Pool]] = WeakValueDictionary()

    def __init__(self) -> None:
        self.handle = torch.cuda.graph_pool_handle()

    @classmethod
    def of(cls, device: int) -> _Pool:
        pool = cls._living.get(device)
        if pool is None:
            pool = cls._living[device] = cls()
        return pool
