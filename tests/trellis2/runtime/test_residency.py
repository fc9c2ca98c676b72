"""Where networks are while they are used and afterwards, and flow transformers whose blocks stream."""

import gc
import logging
import weakref
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from comfyui_trellis2.trellis2.checkpoint.weights import randomize
from comfyui_trellis2.trellis2.models import build_model
from comfyui_trellis2.trellis2.runtime import memory, streaming
from comfyui_trellis2.trellis2.runtime.pinned import PAGE, PORTABLE, PinnedBuffer, pinned_bytes, upload
from comfyui_trellis2.trellis2.runtime.placement import tensors_of, weights_kept
from comfyui_trellis2.trellis2.runtime.residency import KeepLoaded, OneAtATime
from comfyui_trellis2.trellis2.runtime.streaming import Streamed, choose_blocks, choose_residency, weights_at_once
from comfyui_trellis2.trellis2.sparse import CoordSet, PackedSequences, SparseTensor
from torch import nn

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
GIB = 2**30
BLOCKS = 7


class Cancelled(Exception):
    """What a progress callback raises."""


def network() -> nn.Module:
    """With a parameter that two layers share, a buffer, and one that is not there."""
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.BatchNorm1d(3))
    model[1].weight = model[0].weight
    model.register_buffer("nothing", None)
    return model.requires_grad_(False).eval()


@pytest.fixture
def flow() -> nn.Module:
    args = {"resolution": 8, "in_channels": 4, "out_channels": 4, "model_channels": 96, "cond_channels": 32}
    args |= {"num_blocks": BLOCKS, "num_heads": 2, "mlp_ratio": 4, "pe_mode": "rope", "share_mod": True}
    args |= {"qk_rms_norm": True, "qk_rms_norm_cross": True, "dtype": "float32"}
    model = build_model({"name": "SLatFlowModel", "args": args}, "flow", device="cpu")
    randomize(model, torch.Generator().manual_seed(0))
    return model


@pytest.fixture
def small_weights_stream(monkeypatch):
    """The test's narrow layers count as large."""
    monkeypatch.setattr(streaming, "SMALLEST", 2**12)


def inputs() -> tuple:
    generator = torch.Generator().manual_seed(1)
    voxels = torch.randint(0, 8, (30, 3), generator=generator).unique(dim=0).int().to(DEVICE)
    coords = CoordSet.from_items([voxels])
    x = SparseTensor(torch.randn(len(coords), 4, generator=generator).to(DEVICE), coords)
    image = PackedSequences(torch.randn(9, 32, generator=generator).to(DEVICE), (9,))
    return x, torch.full((1,), 500.0, device=DEVICE), image


def pointers(model: nn.Module) -> list[int]:
    return [tensor.data_ptr() for _, _, tensor in tensors_of(model)]


# Plain residencies


def test_one_at_a_time_gives_back_the_very_weights():
    model, residency = network(), OneAtATime(DEVICE)
    before, parameters = pointers(model), list(model.parameters())
    for leave in (None, Cancelled):
        with pytest.raises(Cancelled) if leave else contextmanager(lambda: (yield))(), residency.use(model, 5) as used:
            assert used is model
            assert {tensor.device.type for _, _, tensor in tensors_of(model)} == {DEVICE}
            if leave:
                raise leave
        assert pointers(model) == before
        assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    assert residency.device == torch.device(DEVICE)


def test_weights_that_came_while_used_are_brought_to_the_cpu():
    model = network()
    with weights_kept(model):
        model[0].bias = nn.Parameter(torch.ones(3), requires_grad=False)
    assert model[0].bias.tolist() == [1, 1, 1]


def test_keep_loaded_leaves_networks_where_they_are():
    model, residency = network(), KeepLoaded(DEVICE)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with residency.use(model) as used:
        assert used is model
    assert {tensor.device.type for _, _, tensor in tensors_of(model)} == {DEVICE}
    assert all(torch.equal(tensor.cpu(), before[name]) for name, tensor in model.state_dict().items())
    placed = pointers(model)
    residency.release()
    with residency.use(model):
        assert pointers(model) == placed


# The choice


@pytest.mark.parametrize(
    "vram, device, total, kind, weights",
    [
        ("high", "cpu", 1, KeepLoaded, None),
        ("high", "cuda", 1, KeepLoaded, None),
        ("auto", "cuda", 80 * GIB, KeepLoaded, None),
        ("auto", "cuda", 24 * GIB, Streamed, None),
        ("low", "cuda", 80 * GIB, Streamed, GIB),
        ("auto", "cpu", 8 * GIB, OneAtATime, None),
        ("low", "mps", 8 * GIB, OneAtATime, None),
    ],
)
def test_the_choice(monkeypatch, vram, device, total, kind, weights):
    monkeypatch.setattr(streaming, "device_memory", lambda device: memory.DeviceMemory(total, total))
    residency = choose_residency(vram, device)
    assert type(residency) is kind and residency.device == torch.device(device)
    assert getattr(residency, "weights", None) == weights


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValueError, match=r"vram: expected one of \('auto', 'high', 'low'\), got 'medium'"):
        choose_residency("medium", "cpu")


# Streaming


@pytest.mark.slow
def test_blocks_are_chosen_by_the_room(flow, small_weights_stream):
    whole = sum(tensor.nbytes for _, _, tensor in tensors_of(flow))
    assert choose_blocks(flow, whole) == [] and weights_at_once(flow, whole) == whole
    assert choose_blocks(network(), 0) == []
    counts = set()
    for room in range(0, whole, 50_000):
        chosen = choose_blocks(flow, room)
        counts.add(len(chosen))
        assert len({id(block) for block in chosen}) == len(chosen) <= BLOCKS
        assert [block for block in flow.blocks if any(block is one for one in chosen)] == chosen
        assert weights_at_once(flow, room) <= max(room, weights_at_once(flow, 0))
    assert counts == {4, 6} and weights_at_once(flow, 0) < 0.6 * whole


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.0, 0.75])
def test_a_streamed_network_computes_as_a_whole_one(flow, small_weights_stream, share):
    x, t, image = inputs()
    with OneAtATime(DEVICE).use(flow):
        expected = [flow(x, t, flow.prepare(image)).feats, flow(x, t / 2, flow.prepare(image)).feats]
    launch, weights = flow.backends.launch, None
    room = int(share * sum(tensor.nbytes for _, _, tensor in tensors_of(flow)))
    residency = Streamed(DEVICE, room)
    for _ in range(2):
        with residency.use(flow) as used:
            assert used is flow and flow.backends.launch == "eager"
            held = {
                tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
                for _, _, tensor in tensors_of(flow)
            }
            assert sum(held.values()) <= weights_at_once(flow, room) + 4096
            prepared = flow.prepare(image)
            assert torch.equal(flow(x, t, prepared).feats, expected[0])
            assert torch.equal(flow(x, t / 2, prepared).feats, expected[1])
            assert torch.equal(flow(x, t, prepared).feats, expected[0])
        assert flow.backends.launch == launch and (weights is None or pointers(flow) == weights)
        weights = pointers(flow)
        assert not any(block._forward_hooks or block._forward_pre_hooks for block in flow.blocks)
    residency.release()


@pytest.fixture
def packed(monkeypatch) -> list:
    """The blocks that were packed."""
    pack, blocks = streaming._pack, []
    monkeypatch.setattr(streaming, "_pack", lambda block, bytes_: (blocks.append(block), pack(block, bytes_)))
    return blocks


def test_later_uses_copy_no_weights(flow, small_weights_stream, packed):
    before = {name: tensor.clone() for name, tensor in flow.state_dict().items()}
    for _ in range(3):
        with Streamed(DEVICE, 0).use(flow):
            pass
        assert len(packed) == 6
    assert all(torch.equal(tensor, before[name]) for name, tensor in flow.state_dict().items())
    whole = sum(tensor.nbytes for _, _, tensor in tensors_of(flow))
    with Streamed(DEVICE, int(0.75 * whole)).use(flow):  # other blocks: the one that stayed so far may stream now
        pass
    assert 6 <= len(packed) <= 7


@pytest.mark.slow
@pytest.mark.parametrize("change", ["value", "data", "layer", "dtype", "move"])
def test_weights_that_were_replaced_are_packed_anew(flow, small_weights_stream, packed, change):
    x, t, image = inputs()
    with Streamed(DEVICE, 0).use(flow):
        pass
    layer = flow.blocks[0].mlp.mlp[0]
    if change == "value":
        layer.weight.mul_(0.5)
    elif change == "data":
        layer.weight.data = 0.5 * layer.weight.data
    elif change == "layer":
        flow.blocks[0].mlp.mlp[0] = nn.Linear(layer.in_features, layer.out_features)
        flow.requires_grad_(False)
    elif change == "dtype":
        flow.double().float()
    else:
        flow.to("meta" if DEVICE == "cpu" else DEVICE)
        flow.to_empty(device="cpu") if DEVICE == "cpu" else flow.cpu()
        randomize(flow, torch.Generator().manual_seed(3))
    with OneAtATime(DEVICE).use(flow):
        expected = flow(x, t, flow.prepare(image)).feats
    with Streamed(DEVICE, 0).use(flow):
        assert torch.equal(flow(x, t, flow.prepare(image)).feats, expected)
    assert len(packed) == 6 + {"value": 0, "data": 1, "layer": 1}.get(change, 6)


@pytest.mark.slow
def test_page_locked_weights_are_freed_with_the_network(flow, small_weights_stream, monkeypatch):
    empty, made = np.empty, []

    def tracked(*args, **options):
        array = empty(*args, **options)
        made.append(weakref.ref(array))
        return array

    residency = Streamed(DEVICE, 0)
    with monkeypatch.context() as patch:
        patch.setattr(np, "empty", tracked)
        with residency.use(flow):
            pass
    assert len(made) == 6 and all(array() is not None for array in made)
    flow.blocks[0].double()
    assert [array() is None for array in made] == [True] + [False] * 5
    kept = flow.blocks[1].mlp.mlp[0].weight.clone(), flow.blocks[1].mlp.mlp[0].weight
    block = next(k for k, array in enumerate(made) if array() is not None and _covers(array(), kept[1]))
    del flow.blocks
    gc.collect()
    assert [k for k, array in enumerate(made) if array() is not None] == [block]
    assert torch.equal(*kept)


def _covers(array: np.ndarray, tensor: torch.Tensor) -> bool:
    return 0 <= tensor.data_ptr() - array.ctypes.data < array.nbytes


def test_a_host_with_little_memory_keeps_the_weights_where_they_are(flow, small_weights_stream, packed, monkeypatch):
    x, t, image = inputs()
    with OneAtATime(DEVICE).use(flow):
        expected = flow(x, t, flow.prepare(image)).feats
    needed = sum(streaming._size(block) for block in choose_blocks(flow, 0))
    before, residency, total = pointers(flow), Streamed(DEVICE, 0), 8 * needed
    for uses, (free, shared) in enumerate(((3 * needed - 1, True), (3 * needed - 1, True), (3 * needed, False)), 1):
        monkeypatch.setattr(streaming, "host_memory", lambda free=free: memory.DeviceMemory(total, free))
        with residency.use(flow):
            assert torch.equal(flow(x, t, flow.prepare(image)).feats, expected)
        assert len(packed) == 6 * uses
        assert (pointers(flow) == before) == shared
    residency.release()


def test_memory_is_locked_for_all_cards_as_long_as_it_is_used(monkeypatch):
    locked, current = {}, []

    class Runtime:
        error = 0

        def cudaHostRegister(self, address, size, flags):
            assert address % PAGE == 0 == size % PAGE and flags == PORTABLE and current == ["cuda:1"]
            locked[address] = size
            return self.error

        def cudaHostUnregister(self, address):
            del locked[address]

    @contextmanager
    def device(chosen):
        current.append(str(chosen))
        yield
        current.pop()

    monkeypatch.setattr(torch.cuda, "cudart", Runtime)
    monkeypatch.setattr(torch.cuda, "device", device)
    memory = pinned_bytes(5000, torch.device("cuda:1"))
    assert locked == {memory.data_ptr(): 2 * PAGE} and memory.untyped_storage().nbytes() == len(memory) == 5000
    view = memory[100:].view(torch.float32)
    del memory
    assert len(locked) == 1
    del view
    assert locked == {}
    monkeypatch.setattr(Runtime, "error", 2)
    memory = pinned_bytes(10, torch.device("cuda:1")).fill_(3)
    assert memory.tolist() == [3] * 10
    del memory
    assert len(locked) == 1  # what was not locked is not unlocked


def test_a_cancelled_forward_does_not_disturb_the_next(flow, small_weights_stream):
    x, t, image = inputs()
    with OneAtATime(DEVICE).use(flow):
        expected = flow(x, t, image).feats
    for at in (1, 2, BLOCKS - 1):
        with Streamed(DEVICE, 0).use(flow):
            prepared, inner = flow.prepare(image), flow.blocks[at].mlp.forward
            flow.blocks[at].mlp.forward = cancel
            with pytest.raises(Cancelled):
                flow(x, t, prepared)
            flow.blocks[at].mlp.forward = inner
            assert torch.equal(flow(x, t, prepared).feats, expected)


def cancel(*_):
    raise Cancelled


def test_room_is_what_the_work_leaves(flow, small_weights_stream, monkeypatch, caplog):
    whole = sum(tensor.nbytes for _, _, tensor in tensors_of(flow))
    monkeypatch.setattr(streaming, "device_memory", lambda device: memory.DeviceMemory(10**9, whole + 1000))
    caplog.set_level(logging.INFO)
    with Streamed(DEVICE).use(flow, workspace=1000):
        assert "streaming" not in caplog.text
    with Streamed(DEVICE).use(flow, workspace=1001):
        assert "streaming 4 blocks" in caplog.text


def test_a_pinned_buffer_grows_and_is_released():
    host = PinnedBuffer()
    small = host.get(100, torch.device(DEVICE))
    assert len(small) == 100 and host.get(50, torch.device(DEVICE)).data_ptr() == small.data_ptr()
    assert len(host.get(10_000, torch.device(DEVICE))) == 10_000
    host.release()
    host.release()
    assert len(host.get(1, torch.device(DEVICE))) == 1


@pytest.mark.gpu  # nothing is uploaded without a CUDA device
def test_an_upload_moves_every_number(monkeypatch):
    monkeypatch.setattr("comfyui_trellis2.trellis2.runtime.pinned.PIECE_BYTES", 2**20 + 256)
    model = nn.ModuleList([nn.Linear(1000, 1500), nn.Linear(7, 3)]).requires_grad_(False)
    model.register_buffer("phases", torch.randn(2**18, dtype=torch.complex64))
    model[0].weight.data = model[0].weight.data.half()
    model.append(nn.Linear(1000, 1500))
    model[2].weight = model[0].weight
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert upload(model, torch.device(DEVICE), PinnedBuffer()) is model
    assert model[2].weight is model[0].weight
    for name, tensor in model.state_dict().items():
        assert tensor.device.type == DEVICE and torch.equal(tensor.cpu(), before[name])


# What there is, and what is needed


def test_host_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    assert memory.host_memory() is None
    memory.MEMINFO.write_text(
        "MemTotal:       16000 kB\nMemFree:  1000 kB\nMemAvailable:    4000 kB\nHugePages_Total: 0\n"
    )
    assert memory.host_memory() == memory.DeviceMemory(16000 * 1024, 4000 * 1024)
    memory.MEMINFO.write_text("MemTotal:       16000 kB\n")
    assert memory.host_memory() is None


def test_device_memory():
    found = memory.device_memory(torch.device(DEVICE))
    assert 0 < found.free <= found.total
    if DEVICE == "cuda":
        held = torch.empty(2**26, dtype=torch.uint8, device=DEVICE)
        assert found.free - memory.device_memory(torch.device(DEVICE)).free >= 2**25
        del held
        assert abs(memory.device_memory(torch.device(DEVICE)).free - found.free) < 2**27


def test_work_space_grows_with_tokens_and_fits_the_measured_ones(flow):
    config = replace(flow.config, model_channels=1536, num_blocks=30, mlp_ratio=5.3334, dtype="bfloat16")
    assert memory.flow_workspace(config, 0, 0) < GIB
    assert memory.flow_workspace(config, 9556, 4101) < memory.flow_workspace(config, 9556, 8202)
    assert memory.workspace(flow, 10) == memory.flow_workspace(flow.config, 10, 0)
    assert memory.workspace(network(), 10**9) == GIB
    assert memory.decoder_workspace(0) < memory.decoder_workspace(9556) < memory.decoder_workspace(38400)
    assert memory.workspace(SimpleNamespace(), 0) == GIB


# Several cards


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_every_card_streams_the_same_bytes(flow, small_weights_stream):
    x, t, image = inputs()
    found = []
    for device in ("cuda:1", "cuda:0", "cuda:1"):
        with Streamed(device, 0).use(flow):
            assert torch.cuda.current_device() == 0
            coords = x.coords.to(device)
            given = (
                SparseTensor(x.feats.to(device), coords),
                t.to(device),
                PackedSequences(image.feats.to(device), image.lengths),
            )
            for _ in range(2):
                found.append(flow(given[0], given[1], flow.prepare(given[2])).feats.cpu())
    assert all(torch.equal(out, found[0]) for out in found)
