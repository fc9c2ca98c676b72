"""Where networks are while they are used and afterwards, and flow transformers whose blocks stream."""

import logging
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from comfyui_trellis2.trellis2.checkpoint.weights import randomize
from comfyui_trellis2.trellis2.models import build_model
from comfyui_trellis2.trellis2.runtime import memory, streaming
from comfyui_trellis2.trellis2.runtime.pinned import HostMemory, upload
from comfyui_trellis2.trellis2.runtime.residency import KeepLoaded, OneAtATime, tensors_of, weights_kept
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
    with residency.use(model) as used:
        assert used is model
    assert {tensor.device.type for _, _, tensor in tensors_of(model)} == {DEVICE}


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


@pytest.mark.parametrize("share", [0.0, 0.75])
def test_a_streamed_network_computes_as_a_whole_one(flow, small_weights_stream, share):
    x, t, image = inputs()
    with OneAtATime(DEVICE).use(flow):
        expected = [flow(x, t, flow.prepare(image)).feats, flow(x, t / 2, flow.prepare(image)).feats]
    before, launch = pointers(flow), flow.backends.launch
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
        assert pointers(flow) == before and flow.backends.launch == launch
        assert not any(block._forward_hooks or block._forward_pre_hooks for block in flow.blocks)
    residency.release()


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


def test_host_memory_grows_and_is_released():
    host = HostMemory()
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
    assert upload(model, torch.device(DEVICE), HostMemory()) is model
    assert model[2].weight is model[0].weight
    for name, tensor in model.state_dict().items():
        assert tensor.device.type == DEVICE and torch.equal(tensor.cpu(), before[name])


# What there is, and what is needed


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
