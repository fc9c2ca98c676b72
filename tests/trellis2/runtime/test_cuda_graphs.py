"""Recordings of a network's steps: which are made, kept and forgotten, and that they compute what the network does.

Without a GPU a stand-in records: it does the work anew, on the recording's own inputs, with the forward of that time.
"""

import copy
import gc
import weakref
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import pytest
import torch
from comfyui_trellis2.nodes import host
from comfyui_trellis2.trellis2.checkpoint.config import SamplerArgs, SamplerConfig, SamplerParams
from comfyui_trellis2.trellis2.checkpoint.weights import randomize
from comfyui_trellis2.trellis2.models import Backends, build_model
from comfyui_trellis2.trellis2.models.quantized import quantize_model
from comfyui_trellis2.trellis2.pipeline import Pipeline
from comfyui_trellis2.trellis2.runtime.cuda_graphs import MAX_TOKENS, CudaGraph, GraphCache
from comfyui_trellis2.trellis2.runtime.placement import place, tensors_of
from comfyui_trellis2.trellis2.runtime.residency import KeepLoaded, OneAtATime
from comfyui_trellis2.trellis2.sampling.flow_sampling import sample_sparse_latent, sample_structure_latent
from comfyui_trellis2.trellis2.sampling.projected import StageGuide
from comfyui_trellis2.trellis2.sparse import CoordSet, ProjectedSequences, SparseTensor
from comfyui_trellis2.trellis2.values import ImageCondition
from torch.utils._python_dispatch import TorchDispatchMode

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
DEVICE = CUDA if torch.cuda.is_available() else CPU
gpu = pytest.mark.gpu  # only a CUDA device records


class Rerun(CudaGraph):
    """A stand-in for a graph; as with one, there are no numbers before the first replay."""

    device_type = "cpu"

    def _record(self, work, device):
        self.work, self.out = work, work().fill_(torch.nan)
        return self.out

    def _replay(self):
        self.out.copy_(self.work())


class Once(Rerun):
    """Does nothing again, and so holds on to nothing."""

    def _record(self, work, device):
        return work()

    def _replay(self):
        pass


@pytest.fixture
def recorder():
    """What records here, counting its recordings in `made`."""

    class Counted(Rerun if DEVICE == CPU else CudaGraph):
        made = 0

        def _record(self, work, device):
            type(self).made += 1
            return super()._record(work, device)

    return Counted


def network(name="SLatFlowModel", seed=0, **changes):
    args = {"resolution": 8, "in_channels": 4, "out_channels": 4, "model_channels": 48, "cond_channels": 32}
    args |= {"num_blocks": 3, "num_heads": 2, "mlp_ratio": 4, "pe_mode": "rope", "share_mod": True}
    args |= {"qk_rms_norm": True, "qk_rms_norm_cross": True, "dtype": "float32"}
    model = build_model({"name": name, "args": args | changes}, "flow", device="cpu")
    randomize(model, torch.Generator().manual_seed(seed))
    return model.to(DEVICE)


def pair(recorder, *args, **changes):
    """Two equal networks: one that records, one that does not."""
    ours, plain = network(*args, **changes), network(*args, **changes)
    ours.graphs, plain.backends = GraphCache(recorder), Backends(launch="eager")
    return ours, plain


def voxels(*counts, seed=0):
    """Items of that many voxels of a grid of 8 a side; another seed, other voxels."""
    generator = torch.Generator().manual_seed(seed)
    flat = [torch.randperm(512, generator=generator)[:count].sort().values for count in counts]
    return CoordSet.from_items([torch.stack([f // 64, f // 8 % 8, f % 8], 1).int() for f in flat]).to(DEVICE)


def draw(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def seen(items=1, views=1, seed=0, mode="average", tokens=9):
    return ImageCondition(draw(items, views, tokens, 32, seed=seed), None, mode)


def sampler(**changes):
    params = {"steps": 6, "guidance_strength": 3.0, "guidance_rescale": 0.7, "rescale_t": 3.0}
    params |= {"guidance_interval": (0.6, 1.0)} | changes
    name, args = "FlowEulerGuidanceIntervalSampler", SamplerArgs(sigma_min=1e-5)
    return SamplerConfig(name=name, args=args, params=SamplerParams(**params))


@torch.no_grad()
def stage(flow, coords=None, seed=0, condition=None, settings=None, concat=False, progress=None):
    """A stage's sample of everything drawn with `seed`."""
    coords = coords or voxels(30)
    condition = condition or seen(coords.batch_size, seed=seed)
    noise = SparseTensor(draw(len(coords), 4, seed=100 + seed), coords)
    known = SparseTensor(draw(len(coords), 3, seed=200 + seed), coords) if concat else None
    settings = settings or sampler()
    options = {"image_size": 512, "concat": known, "progress": progress}
    return sample_sparse_latent(flow, noise, condition, settings, **options).feats


def assert_as_plain(ours, plain, *args, **options):
    """On the CPU to the bit: the stand-in does the same operations on the same layouts."""
    got, wanted = stage(ours, *args, **options), stage(plain, *args, **options)
    if DEVICE == CPU:
        assert torch.equal(got, wanted)
    torch.testing.assert_close(got, wanted, atol=1e-4, rtol=0)
    assert len(plain.graphs) == 0


# What is recorded


@pytest.fixture
def allocator(monkeypatch):
    """Sets the name of torch's allocator on the GPU, which a build without CUDA has none of."""
    return lambda name: monkeypatch.setattr("torch.cuda.get_allocator_backend", lambda: name)


def test_what_is_recorded(allocator):
    allocator("native")
    graphs = GraphCache()
    for launch, tokens, device in (("auto", 1, CPU), ("eager", 1, CUDA), ("auto", MAX_TOKENS + 1, CUDA)):
        assert not graphs._pays(launch, tokens, device)
    assert graphs._pays("auto", MAX_TOKENS, CUDA)
    assert graphs._pays("graph", MAX_TOKENS + 1, CUDA)
    assert graphs._new_graph is CudaGraph


def test_what_cannot_be_recorded_is_refused():
    flow = network().to(CPU)
    with pytest.raises(ValueError, match="launch: expected 'auto', 'graph' or 'eager', got 'jit'"):
        flow.graphs.begin(flow, CPU, launch="jit", tokens=1)
    with pytest.raises(ValueError, match="'graph' cannot be had: it needs a CUDA device, got cpu"):
        flow.graphs.begin(flow, CPU, launch="graph", tokens=1)


def test_the_allocator_that_comfyui_selects_is_not_recorded_with(allocator):
    """Triton refuses pointers that cudaMallocAsync gives during a recording: seen in ComfyUI on an H200."""
    allocator("cudaMallocAsync")
    flow = network()
    assert not flow.graphs._pays("auto", 1, CUDA)
    with pytest.raises(ValueError, match="native allocator, got cudaMallocAsync"):
        flow.graphs.begin(flow, CUDA, launch="graph", tokens=1)


# The same numbers


@pytest.mark.slow
def test_a_later_stage_replays_from_its_first_step(recorder):
    ours, plain = pair(recorder)
    for seed in range(3):
        assert_as_plain(ours, plain, voxels(30), seed=seed)
        assert recorder.made == len(ours.graphs) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"coords": voxels(20, 1, 33)},
        {"settings": sampler(step_cache=True)},
        {"settings": sampler(guidance_rescale=0.0, guidance_interval=(0.3, 0.7))},
        {"settings": sampler(guidance_strength=1.0)},
        {"settings": sampler(steps=1)},
        {"settings": sampler(steps=2)},
    ],
    ids=["items", "step cache", "interval", "unguided", "one step", "two steps"],
)
def test_settings(recorder, options):
    ours, plain = pair(recorder)
    for seed in range(3):
        assert_as_plain(ours, plain, seed=seed, **options)
    guided = options.get("settings", sampler()).params.guidance_strength != 1
    assert recorder.made == len(ours.graphs) == 1 + guided


def test_input_channels_beside_the_noise_are_not_those_of_the_first_stage(recorder):
    ours, plain = pair(recorder, in_channels=7)
    for seed in range(3):
        assert_as_plain(ours, plain, seed=seed, concat=True)
    assert recorder.made == 2


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["average", "cycle"])
def test_views_share_a_recording(recorder, mode):
    ours, plain = pair(recorder)
    for seed, views in ((0, 2), (1, 2), (2, 3), (3, 1)):
        assert_as_plain(ours, plain, seed=seed, condition=seen(views=views, seed=seed, mode=mode))
    assert recorder.made == 2


@pytest.mark.slow
@pytest.mark.parametrize("items", [1, 2])
@pytest.mark.parametrize("position", ["rope", "ape"])
def test_whole_grids(recorder, items, position):
    ours, plain = pair(recorder, "SparseStructureFlowModel", resolution=4, pe_mode=position)
    with torch.no_grad():
        for seed in range(3):
            given = draw(items, 4, 4, 4, 4, seed=seed), seen(items, seed=seed), sampler()
            got, wanted = (sample_structure_latent(flow, *given) for flow in (ours, plain))
            torch.testing.assert_close(got, wanted, atol=0 if DEVICE == CPU else 1e-4, rtol=0)
    assert recorder.made == 2


# Other layouts


@pytest.mark.slow
def test_another_layout_takes_the_place_of_the_last(recorder):
    ours, plain = pair(recorder)
    layouts = [
        {"coords": voxels(30)},
        {"coords": voxels(31)},
        {"coords": voxels(31, seed=1)},
        {"coords": voxels(20, 11, seed=1)},
        {"coords": voxels(11, 20, seed=1)},
        {"coords": voxels(30), "condition": seen(tokens=8, seed=5)},
        {"coords": voxels(30)},
    ]
    for k, layout in enumerate(layouts):
        for seed in range(2):
            assert_as_plain(ours, plain, seed=seed, **layout)
        assert recorder.made == 2 * (k + 1) and len(ours.graphs) == 2


def test_other_backends_are_recorded_anew(recorder):
    ours, plain = pair(recorder)
    stage(ours)
    for model in (ours, plain):
        model.backends = replace(model.backends, rope="reference")
    assert_as_plain(ours, plain)
    assert recorder.made == 4


def test_a_layout_that_does_not_pay_leaves_nothing_behind(recorder, monkeypatch):
    ours, plain = pair(recorder)
    stage(ours)
    monkeypatch.setattr("comfyui_trellis2.trellis2.runtime.cuda_graphs.MAX_TOKENS", 29)
    assert_as_plain(ours, plain)
    assert recorder.made == 2 and len(ours.graphs) == 0


def test_a_stage_without_guidance_leaves_no_negative_of_another_layout(recorder):
    ours, _ = pair(recorder)
    stage(ours)
    stage(ours, voxels(31), settings=sampler(guidance_strength=1.0))
    assert len(ours.graphs) == 1


# Weights that move or are replaced


@pytest.mark.slow
@pytest.mark.parametrize("change", ["to", "float", "data", "submodule", "quantized"])
def test_recordings_are_of_the_weights_that_are_there(recorder, change):
    ours, plain = pair(recorder)
    stage(ours)
    for model in (ours, plain):
        if change == "to":
            model.to(CPU)
            assert len(model.graphs) == 0
            model.to(DEVICE)
        elif change == "float":
            assert len(model.float().graphs) == 0
        elif change == "data":
            for module, name, tensor in list(tensors_of(model)):
                place(module, name, 0.5 * tensor)
        elif change == "submodule":
            model.set_submodule("blocks.1.mlp", network(seed=1).blocks[1].mlp)
        else:
            quantize_model(model, "int8", DEVICE)
    made = recorder.made
    assert_as_plain(ours, plain, seed=1)
    assert recorder.made == made + 2


def test_residencies(recorder):
    ours, plain = pair(recorder)
    for _ in range(2):
        with KeepLoaded(DEVICE).use(ours) as used:
            assert_as_plain(used, plain)
    assert recorder.made == 2 == len(ours.graphs)
    ours.to(CPU)
    for k in range(2):
        with OneAtATime(DEVICE).use(ours) as used:
            assert_as_plain(used, plain)
        assert recorder.made == 2 * (k + 2) and len(ours.graphs) == 0


def test_networks_that_comfyui_takes_off_the_card_take_their_recordings_along(recorder, monkeypatch):
    """It moves them with `.to`, when it likes; one that is there is left alone."""
    management = SimpleNamespace(get_torch_device=lambda: DEVICE, unet_offload_device=lambda: CPU)
    management.load_models_gpu = lambda patchers, **_: None
    patcher = SimpleNamespace(ModelPatcher=lambda model, **devices: model)
    monkeypatch.setattr(host.comfyui, "module", {"comfy.model_patcher": patcher}.get)
    residency = host.ComfyResidency(management)
    ours, plain = pair(recorder)
    for seed in range(2):
        with residency.use(ours) as used:
            assert_as_plain(used, plain, seed=seed)
    assert recorder.made == 2 == len(ours.graphs)
    ours.to(CPU)
    assert len(ours.graphs) == 0


@pytest.mark.slow
def test_unloading_forgets_recordings_that_others_hold_the_network_of(tiny, recorder):
    pipeline = Pipeline.load(str(tiny), KeepLoaded(DEVICE), dtype="float32")
    condition = seen()
    role = "sparse_structure_flow_model"
    with pipeline.model(role) as flow:
        flow.graphs = GraphCache(recorder)
    for seed in range(2):
        pipeline.sample_structure(condition, seed=seed)
    assert len(flow.graphs) == 2 == recorder.made
    pipeline.unload()
    assert len(flow.graphs) == 0


# What recordings hold


@pytest.mark.slow
def test_copies_of_a_network_have_no_recordings(recorder):
    ours, plain = pair(recorder)
    keys = list(ours.state_dict())
    stage(ours)
    other = copy.deepcopy(ours)
    assert list(ours.state_dict()) == keys == list(other.state_dict())
    assert len(other.graphs) == 0 and len(ours.graphs) == 2
    assert_as_plain(other, plain, seed=1)
    assert_as_plain(ours, plain, seed=2)
    assert recorder.made == 4


def test_a_network_is_freed_at_once(recorder):
    flow = network()
    flow.graphs = GraphCache(Once if DEVICE == CPU else recorder)
    stage(flow)
    assert len(flow.graphs) == 2
    gone, enabled = weakref.ref(flow), gc.isenabled()
    gc.disable()
    try:
        del flow
        assert gone() is None
    finally:
        (gc.enable if enabled else gc.disable)()


def test_the_keys_and_values_of_a_single_view_are_held_once(recorder):
    ours, _ = pair(recorder)
    prepare, made = ours.prepare, []

    def prepared(view):
        condition = prepare(view)
        made.extend(weakref.ref(tensor) for tensor in condition.tensors())
        return condition

    ours.prepare = prepared
    alive = []
    stage(ours, progress=lambda _: alive.append(sum(tensor() is not None for tensor in made)))
    assert alive == [0] * 6 and len(made) == 2 * 2 * 3


@pytest.mark.slow
def test_the_coordinates_that_a_graph_reads_stay(recorder):
    """Of two equal sets the one that it was recorded with, which is not the first where that took only one step."""
    ours, _ = pair(Once if DEVICE == CPU else recorder)
    stage(ours, voxels(30), settings=sampler(steps=1))
    coords = voxels(30)
    stage(ours, coords)
    kept = weakref.ref(coords)
    stage(ours, voxels(30))
    del coords
    gc.collect()
    assert kept() is not None
    ours.graphs.clear()
    gc.collect()
    assert kept() is None


# The host


class Ops(TorchDispatchMode):
    """Notes the operations that wait for a device, or would if the tensors were on one."""

    WAITING = ("lift_fresh", "_local_scalar_dense", "nonzero", "equal", "_unique", "masked_select", "item")

    def __init__(self):
        super().__init__()
        self.seen, self.waited = set(), []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        self.seen.add(name)
        if name.startswith(self.WAITING) or (name == "_to_copy" and (kwargs or {}).get("device") is not None):
            self.waited.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.slow
@pytest.mark.parametrize("counts", [(30,), (20, 1, 33)])
@pytest.mark.parametrize("concat", [False, True])
def test_a_step_waits_for_nothing(counts, concat):
    """After the first step, in which a stage may still make what it then keeps."""
    flow = network(in_channels=7 if concat else 4)
    flow.backends = Backends(launch="eager")
    ops = Ops()
    steps = []

    def progress(fraction):
        steps.append(len(ops.waited))

    with ops:
        stage(flow, voxels(*counts), concat=concat, progress=progress)
    assert {"addmm", "linear"} & ops.seen and len(steps) == 6
    assert ops.waited[steps[0] :] == []


def test_waiting_is_noticed():
    x = torch.ones(3, device=DEVICE)
    for work in (lambda: torch.tensor([1, 2], device=DEVICE), lambda: x.new_tensor([1.0]), lambda: float(x[0])):
        with Ops() as ops:
            work()
        assert ops.waited


# On the card


@gpu
def test_memory_goes_with_the_recordings_and_recording_again_works():
    flow = network(model_channels=192, num_blocks=4)
    held = 2 * 4 * 4101 * 192 * 4
    condition = seen(tokens=4101)
    stage(flow, condition=condition)  # libraries keep working memory of their own from the first time on
    flow.graphs.clear()
    for _ in range(3):
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        first = stage(flow, condition=condition)
        assert len(flow.graphs) == 2 and torch.cuda.memory_allocated() - before > held
        torch.testing.assert_close(stage(flow, condition=condition), first, atol=1e-4, rtol=0)
        del first
        flow.graphs.clear()
        assert torch.cuda.memory_allocated() - before < held / 2


@gpu
def test_networks_that_share_memory_do_not_disturb_each_other(recorder):
    pairs = [pair(recorder, seed=k, model_channels=48 * (k + 1)) for k in range(3)]
    for seed in range(3):
        for ours, plain in pairs:
            assert_as_plain(ours, plain, seed=seed)
    assert recorder.made == 6
    pairs[0][0].graphs.clear()
    for ours, plain in pairs:
        assert_as_plain(ours, plain, seed=4)
    assert recorder.made == 8


# Several cards


class Cards:
    """Stands in for torch.cuda with several cards: what is recorded and replayed, and on which."""

    def __init__(self, monkeypatch):
        self.current, self.streams, self.recorded, self.replayed, cards = 0, 0, [], [], self

        class Graph:
            def pool(self):
                return self.handle

            def replay(self):
                cards.replayed.append(cards.current)

        class Stream:
            def __init__(self, device=None):
                cards.streams += 1
                self.device = torch.device("cuda", cards.current) if device is None else device

        @contextmanager
        def graph(graph, pool=None, stream=None):
            graph.handle = pool or object()
            cards.recorded.append((cards.current, stream.device.index, graph.handle))
            yield

        @contextmanager
        def device(chosen):
            before, cards.current = cards.current, chosen.index
            yield
            cards.current = before

        for name, fake in {"CUDAGraph": Graph, "Stream": Stream, "graph": graph, "device": device}.items():
            monkeypatch.setattr(torch.cuda, name, fake)
        monkeypatch.setattr("comfyui_trellis2.trellis2.runtime.cuda_graphs._recording_stream", cache(Stream))
        monkeypatch.setattr(CudaGraph, "_living", weakref.WeakSet())


def test_a_graph_is_recorded_and_replayed_on_the_device_of_its_tensors(monkeypatch):
    cards = Cards(monkeypatch)
    graphs = [CudaGraph([]) for _ in range(3)]
    for graph, index in zip(graphs, (1, 0, 1), strict=True):
        graph._record(lambda: torch.zeros(1), torch.device("cuda", index))
        graph._replay()
    assert cards.replayed == [1, 0, 1]
    assert [place[:2] for place in cards.recorded] == [(1, 1), (0, 0), (1, 1)] and cards.streams == 2
    first, second, third = (place[2] for place in cards.recorded)
    assert first is third is not second


def test_a_pool_is_not_used_after_its_last_graph(monkeypatch):
    cards = Cards(monkeypatch)
    for _ in range(2):
        graph = CudaGraph([])
        graph._record(lambda: torch.zeros(1), torch.device("cuda:1"))
        del graph
    assert cards.recorded[0][2] is not cards.recorded[1][2]


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("launch", ["graph", "eager"])
def test_every_card_computes_the_same_bytes(launch):
    assert torch.cuda.current_device() == 0
    found = {}
    for device in ("cuda:1", "cuda:0", "cuda:1"):
        flow = network().to(device)
        flow.backends = Backends(launch=launch)
        coords = voxels(30).to(device)
        with torch.no_grad():
            for _ in range(2):
                noise = SparseTensor(draw(30, 4, seed=1).to(device), coords)
                out = sample_sparse_latent(flow, noise, seen(), sampler(), resolution=512).feats
                assert out.device == torch.device(device)
                found.setdefault(device, []).append(out.cpu())
        assert len(flow.graphs) == (2 if launch == "graph" else 0)
    for outs in found.values():
        assert all(torch.equal(out, found["cuda:0"][0]) for out in outs)


@pytest.mark.parametrize("counts", [(30,), (20, 11)])
def test_projected_features_are_inputs_of_a_recording(recorder, counts):
    """Those of another picture are copied in, and the negative, which has none, has a recording of its own."""
    ours, plain = pair(recorder, image_attn_mode="proj", proj_in_channels=64)
    coords = voxels(*counts)
    for seed in (0, 7):
        tokens, features = draw(5 * len(counts), 32, seed=seed), draw(len(coords), 64, seed=seed + 1)
        guide = StageGuide(ProjectedSequences(tokens, (5,) * len(counts), features))
        assert_as_plain(ours, plain, coords, seed=seed, condition=guide)
    assert recorder.made == 2
