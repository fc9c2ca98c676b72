"""A network's forward as CUDA graphs: recorded once for a set of tokens, replayed every step without host work.

The graphs stay with their network, so that the next stage over the same tokens replays them at once. What varies
between stages (sample, time, the image's keys and values) is copied into a graph's own inputs; whatever else it reads,
the weights and what is derived from coordinates, must be unchanged. A network keeps one graph a guidance branch, for
its last tokens; several views share it, each copied in when its turn comes.

Most of a graph's memory are its inputs: the keys and values of 4,101 image tokens are 0.7 GiB in a published network in
16 bits. The memory of activations is shared by all graphs of a device, so they run one at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import cache
from typing import ClassVar
from weakref import WeakSet

import torch
from torch import Tensor, nn

from ..sparse import CoordSet

# forward(x, t, *inputs)
Forward = Callable[..., Tensor]
# step(x, t, inputs=None): forward(x, t, *inputs), with the last inputs where there are none.
Step = Callable[..., Tensor]

# Above this many tokens the card is busier than the host, and recording would only cost its warm-up forward.
MAX_TOKENS = 16_384


class CudaGraph:
    """A forward with inputs of its own. The first call runs it as it is, which compiles kernels for its shapes; the
    second records it; from then on it is replayed.

    It does not keep the forward, which refers to the network: the network could not be freed at once.
    """

    device_type = "cuda"
    _living: ClassVar[WeakSet[CudaGraph]] = WeakSet()

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        self.inputs = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for tensor in inputs]
        self._warm = self._recorded = False

    def load(self, inputs: Sequence[Tensor]) -> None:
        """Copy `inputs`, which the next calls run on."""
        for own, given in zip(self.inputs, inputs, strict=True):
            own.copy_(given)

    def __call__(self, forward: Forward, x: Tensor, t: Tensor, coords: CoordSet | None = None) -> Tensor:
        """forward(x, t, *inputs).  coords: holds tensors that `forward` reads, and is kept as long as the graph."""
        if not self._warm:
            out = forward(x, t, *self.inputs)
            self._warm = True
            return out
        if not self._recorded:
            self._x, self._t, self._coords = x.clone(), t.clone(), coords
            self._out = self._record(lambda: forward(self._x, self._t, *self.inputs), x.device)
            self._recorded = True
        self._x.copy_(x)
        self._t.copy_(t)
        self._replay()
        return self._out.clone()

    def _record(self, work: Callable[[], Tensor], device: torch.device) -> Tensor:
        """The output of `work`, which has its numbers after a replay only."""
        # Graphs of a device share memory through a living one's: the handle of a pool whose graphs are all freed is an
        # error in torch.
        pools = (other._graph.pool() for other in self._living if other._device == device)
        graph, pool = torch.cuda.CUDAGraph(), next(pools, None)
        with torch.cuda.device(device), torch.cuda.graph(graph, pool=pool, stream=_recording_stream(device)):
            out = work()
        self._graph, self._device = graph, device
        self._living.add(self)
        return out

    def _replay(self) -> None:
        with torch.cuda.device(self._device):
            self._graph.replay()


class GraphCache:
    """The graphs of a network, one a branch. Copies and pickles of the network have none of them."""

    def __init__(self, graph: type[CudaGraph] = CudaGraph) -> None:
        self._new_graph = graph
        self._kept: dict[str, tuple[Hashable, CudaGraph]] = {}
        self._records = False
        self._key: Hashable = None
        self._coords: CoordSet | None = None
        self._weights: tuple[Hashable, ...] = ()

    def __reduce__(self) -> tuple[type[GraphCache], tuple[type[CudaGraph]]]:
        return GraphCache, (self._new_graph,)

    def __len__(self) -> int:
        return len(self._kept)

    def clear(self) -> None:
        """Free the memory of all graphs."""
        self._kept.clear()
        self._records, self._key, self._coords, self._weights = False, None, None, ()

    def begin(
        self,
        network: nn.Module,
        device: torch.device,
        *,
        launch: str,
        tokens: int,
        key: Hashable = None,
        coords: CoordSet | None = None,
    ) -> None:
        """Begin a stage of `network`, whose graphs these are: those that it cannot replay are freed before it needs
        memory of its own. Waits for the device where it compares coordinates.

        launch: "eager", "graph", or "auto": a graph where it pays.  tokens: of all items together.
        key: what the forward depends on besides its inputs' shapes, the weights and the coordinates.
        coords: where the tokens are, None where that follows from their shapes.

        Raises ValueError for an unknown `launch`, or "graph" on a device without CUDA graphs.
        """
        if not self._pays(launch, tokens, device):
            return self.clear()
        # CUDA graphs bake in addresses: a weight that was moved or replaced, however, makes them worthless.
        weights = tuple((tensor.data_ptr(), tensor.dtype) for tensor in weights_of(network))
        if not self._records or weights != self._weights or key != self._key or not self._same_voxels(coords):
            self.clear()
        self._records, self._key, self._coords, self._weights = True, key, coords, weights

    def step(self, branch: str, forward: Forward, x: Tensor, inputs: Sequence[Tensor]) -> Step:
        """`forward` on tensors like x and `inputs`, as a step of the stage that began. A step that is recorded copies
        its inputs and does not hold on to them."""
        if not self._records:
            return _eager(forward, inputs)
        like = tuple((tensor.shape, tensor.dtype, tensor.device) for tensor in (x, *inputs))
        if branch not in self._kept or self._kept[branch][0] != like:
            self._kept.pop(branch, None)  # its memory goes before the new one's is needed
            self._kept[branch] = like, self._new_graph(inputs)
        graph, coords = self._kept[branch][1], self._coords
        graph.load(inputs)

        def replayed(x: Tensor, t: Tensor, inputs: Sequence[Tensor] | None = None) -> Tensor:
            if inputs is not None:
                graph.load(inputs)
            return graph(forward, x, t, coords)

        return replayed

    def _pays(self, launch: str, tokens: int, device: torch.device) -> bool:
        able = device.type == self._new_graph.device_type
        if launch not in ("auto", "graph", "eager"):
            raise ValueError(f"launch: expected 'auto', 'graph' or 'eager', got {launch!r}")
        if launch == "graph" and not able:
            raise ValueError(f"launch 'graph' needs a {self._new_graph.device_type.upper()} device, got {device}")
        return launch == "graph" or (launch == "auto" and able and tokens <= MAX_TOKENS)

    def _same_voxels(self, coords: CoordSet | None) -> bool:
        if coords is None or self._coords is None:
            return coords is self._coords
        return coords.same_voxels(self._coords)


def weights_of(model: nn.Module) -> Iterator[Tensor]:
    """Every parameter and buffer inside, in a fraction of the time that torch takes to find their names too."""
    for module in model.modules():
        yield from (t for t in (*module._parameters.values(), *module._buffers.values()) if t is not None)


def clear_graphs(model: nn.Module) -> None:
    """Free the memory of a network's graphs, if it is a network with any."""
    graphs = getattr(model, "graphs", None)
    if isinstance(graphs, GraphCache):
        graphs.clear()


def _eager(forward: Forward, first: Sequence[Tensor]) -> Step:
    """A step that is not recorded."""
    last = first

    def step(x: Tensor, t: Tensor, inputs: Sequence[Tensor] | None = None) -> Tensor:
        nonlocal last
        last = last if inputs is None else inputs
        return forward(x, t, *last)

    return step


@cache
def _recording_stream(device: torch.device) -> torch.cuda.Stream:
    """The stream that a device's graphs are recorded on. torch's own is of the device that recorded first. One a
    device: libraries keep working memory for every stream."""
    return torch.cuda.Stream(device)
