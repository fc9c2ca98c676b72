"""Records a network's forward as CUDA graphs, once per token set, and replays them every step without host work.

A network keeps its graphs, so that the next stage over the same tokens replays them at once. Inputs that vary between
stages (sample, time, the image's keys and values) are copied into the graph's input buffers; all other tensors it
reads, weights and tensors derived from coordinates, must be unchanged. A network keeps one graph per guidance branch,
for its last tokens; several views share it, each copied in before its step.

Most of a graph's memory holds its inputs: the keys and values of 4,101 image tokens are 0.7 GiB in a published network
in 16 bits. All graphs of a device share the memory of activations, so they run one at a time.
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
# step(x, t, inputs=None): forward(x, t, *inputs), with the previous inputs for None.
Step = Callable[..., Tensor]

# Above this many tokens the GPU is the bottleneck, and recording would only cost its warm-up forward.
MAX_TOKENS = 16_384


class CudaGraph:
    """A forward recorded on input buffers of its own. The first call runs it eagerly, which compiles kernels for its
    shapes; the second records it; later calls replay it.

    Holds no reference to the forward, which refers to the network: the cycle would delay freeing the network.
    """

    device_type = "cuda"
    _living: ClassVar[WeakSet[CudaGraph]] = WeakSet()
    _graph: torch.cuda.CUDAGraph
    _device: torch.device

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        self.inputs = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for tensor in inputs]
        self._warm = self._recorded = False

    def load(self, inputs: Sequence[Tensor]) -> None:
        """Copies `inputs` to the input buffers for the next calls."""
        for buffer, tensor in zip(self.inputs, inputs, strict=True):
            buffer.copy_(tensor)

    def __call__(self, forward: Forward, x: Tensor, t: Tensor, coords: CoordSet | None = None) -> Tensor:
        """Returns forward(x, t, *inputs).

        x, t: like those of the first call.  coords: owns tensors that `forward` reads; kept alive as long as the graph.
        """
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
        """Records `work` and returns its output tensor, which is valid only after a replay."""
        # Graphs of a device share the pool of a living one: reusing a pool handle after its last graph was freed is an
        # error in torch.
        pools = (other._graph.pool() for other in self._living if other._device == device)
        graph, pool = torch.cuda.CUDAGraph(), next(pools, None)
        with torch.cuda.device(device), torch.cuda.graph(graph, pool=pool, stream=_recording_stream(device)):
            out = work()
        self._graph, self._device = graph, device
        self._living.add(self)
        return out

    @classmethod
    def why_not(cls, device: torch.device) -> str | None:
        """Returns why `device` cannot record, or None if it can.

        ComfyUI selects cudaMallocAsync on most cards. Memory that it allocates during a recording has no address that
        the driver knows until the graph runs, and Triton refuses such pointers.
        """
        if device.type != cls.device_type:
            return f"it needs a {cls.device_type.upper()} device, got {device}"
        if device.type == "cuda" and torch.cuda.get_allocator_backend() != "native":
            return f"it needs torch's native allocator, got {torch.cuda.get_allocator_backend()}"
        return None

    def _replay(self) -> None:
        with torch.cuda.device(self._device):
            self._graph.replay()


class GraphCache:
    """The CUDA graphs of a network, one per branch. Copies and pickles of the network have an empty cache."""

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
        """Frees the memory of all graphs."""
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
        """Begins a stage of `network`, the owner of this cache: frees the graphs that the stage cannot replay before it
        allocates. Synchronises with the device if it compares coordinates.

        launch: "eager", "graph", or "auto": a graph where it is faster.  tokens: of all items together.
        key: what the forward depends on besides its inputs' shapes, the weights and the coordinates.
        coords: the tokens' voxels; None if they follow from the shapes.

        Raises ValueError for an unknown `launch`, or "graph" where it cannot be had, see `CudaGraph.why_not`.
        """
        if not self._pays(launch, tokens, device):
            return self.clear()
        # CUDA graphs bake in addresses: moving or replacing a weight invalidates them.
        weights = tuple((tensor.data_ptr(), tensor.dtype) for tensor in weights_of(network))
        if not self._records or weights != self._weights or key != self._key or not self._same_voxels(coords):
            self.clear()
        self._records, self._key, self._coords, self._weights = True, key, coords, weights

    def step(self, branch: str, forward: Forward, x: Tensor, inputs: Sequence[Tensor]) -> Step:
        """Returns `forward`, on tensors like x and `inputs`, as a step of the current stage. A recorded step copies its
        inputs and keeps no reference to them."""
        if not self._records:
            return _eager(forward, inputs)
        like = tuple((tensor.shape, tensor.dtype, tensor.device) for tensor in (x, *inputs))
        if branch not in self._kept or self._kept[branch][0] != like:
            self._kept.pop(branch, None)  # freed before the new one allocates
            self._kept[branch] = like, self._new_graph(inputs)
        graph, coords = self._kept[branch][1], self._coords
        graph.load(inputs)

        def replayed(x: Tensor, t: Tensor, inputs: Sequence[Tensor] | None = None) -> Tensor:
            if inputs is not None:
                graph.load(inputs)
            return graph(forward, x, t, coords)

        return replayed

    def _pays(self, launch: str, tokens: int, device: torch.device) -> bool:
        if launch not in ("auto", "graph", "eager"):
            raise ValueError(f"launch: expected 'auto', 'graph' or 'eager', got {launch!r}")
        reason = None if launch == "eager" else self._new_graph.why_not(device)
        if launch == "graph" and reason:
            raise ValueError(f"launch 'graph' cannot be had: {reason}")
        return launch == "graph" or (launch == "auto" and reason is None and tokens <= MAX_TOKENS)

    def _same_voxels(self, coords: CoordSet | None) -> bool:
        if coords is None or self._coords is None:
            return coords is self._coords
        return coords.same_voxels(self._coords)


def weights_of(model: nn.Module) -> Iterator[Tensor]:
    """Yields every parameter and buffer, in a fraction of the time of torch's iterators, which also build names."""
    for module in model.modules():
        yield from (t for t in (*module._parameters.values(), *module._buffers.values()) if t is not None)


def clear_graphs(model: nn.Module) -> None:
    """Frees the memory of a network's graphs, if it has any."""
    graphs = getattr(model, "graphs", None)
    if isinstance(graphs, GraphCache):
        graphs.clear()


def _eager(forward: Forward, first: Sequence[Tensor]) -> Step:
    """Returns a step that is not recorded."""
    last = first

    def step(x: Tensor, t: Tensor, inputs: Sequence[Tensor] | None = None) -> Tensor:
        nonlocal last
        last = last if inputs is None else inputs
        return forward(x, t, *last)

    return step


@cache
def _recording_stream(device: torch.device) -> torch.cuda.Stream:
    """Returns the stream that records a device's graphs. torch's default belongs to the device that recorded first. One
    per device: libraries keep a workspace for every stream."""
    return torch.cuda.Stream(device)
