"""Model management inside ComfyUI, by a stand-in that notes what it is asked for."""

from types import SimpleNamespace

import pytest
import torch
from comfyui_trellis2.nodes import host
from comfyui_trellis2.trellis2.runtime.residency import default_device
from comfyui_trellis2.trellis2.runtime.streaming import LOW_WEIGHTS, Streamed, choose_residency
from torch import nn

GIB = 2**30


class Management:
    """ComfyUI's model_management, as much of it as we call."""

    def __init__(self, device: str, total: int) -> None:
        self.device, self.total, self.asked = torch.device(device), total, []

    def get_torch_device(self):
        return self.device

    def get_total_memory(self, device):
        return self.total

    def unet_offload_device(self):
        return torch.device("cpu")

    def extra_reserved_memory(self):
        return 1000

    def load_models_gpu(self, patchers, memory_required, force_full_load):
        self.asked.append((patchers[0].model, memory_required, force_full_load))

    def free_memory(self, wanted, device):
        self.asked.append((wanted, device))


@pytest.fixture
def comfy(monkeypatch):
    """comfy(device, total) puts the pack into a ComfyUI with that card."""

    def enter(device, total=24 * GIB):
        management = Management(device, total)
        patcher = SimpleNamespace(ModelPatcher=lambda model, **devices: SimpleNamespace(model=model, **devices))
        known = {"comfy.model_management": management, "comfy.model_patcher": patcher}
        monkeypatch.setattr(host.comfyui, "module", known.get)
        return management

    return enter


def test_networks_are_loaded_with_room_for_their_work(comfy):
    management, model = comfy("cpu"), nn.Linear(3, 3)
    residency = host.residency("auto")
    for _ in range(2):
        with residency.use(model, workspace=12345) as used:
            assert used is model
    assert management.asked == [(model, 12345, True)] * 2
    residency.release()


@pytest.mark.parametrize(
    "vram, device, total, streams",
    [
        ("auto", "cuda", 24 * GIB, False),
        ("auto", "cuda", 4 * GIB, True),
        ("high", "cuda", 4 * GIB, False),
        ("low", "cuda", 24 * GIB, True),
        ("low", "cpu", 24 * GIB, False),
    ],
)
def test_the_mode(comfy, vram, device, total, streams):
    comfy(device, total)
    residency = host.residency(vram)
    assert isinstance(residency, Streamed) is streams
    assert residency.device == torch.device(device)


def test_streaming_asks_comfyui_to_make_room(comfy):
    management, model = comfy("cuda"), nn.Linear(3, 3)
    residency = host.residency("low")
    residency.device = torch.device("cpu")
    before = model.weight.data_ptr()
    with residency.use(model, workspace=500):
        pass
    assert management.asked == [(4 * (9 + 3) + 500 + 1000, torch.device("cpu"))]
    assert model.weight.data_ptr() == before and residency.weights == LOW_WEIGHTS


def test_an_unknown_mode_is_refused(comfy, monkeypatch):
    for enter in (lambda: comfy("cpu"), lambda: monkeypatch.setattr(host.comfyui, "module", lambda name: None)):
        enter()
        with pytest.raises(ValueError, match="vram: expected one of"):
            host.residency("medium")


def test_outside_comfyui(monkeypatch):
    monkeypatch.setattr(host.comfyui, "module", lambda name: None)
    assert type(host.residency("high")) is type(choose_residency("high", default_device()))
