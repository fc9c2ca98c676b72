"""Model management inside ComfyUI, by a stand-in that notes what it is asked for."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from comfyui_trellis2.nodes import host
from comfyui_trellis2.trellis2.runtime.residency import default_device
from comfyui_trellis2.trellis2.runtime.streaming import LOW_WEIGHTS, Streamed, choose_residency
from torch import nn

GIB = 2**30


class Management:
    """ComfyUI's model_management, as much of it as we call. state: the name of its vram_state."""

    def __init__(self, device: str, total: int, state: str) -> None:
        self.device, self.total, self.asked = torch.device(device), total, []
        self.vram_state = SimpleNamespace(name=state)

    def get_torch_device(self):
        return self.device

    def get_total_memory(self, device):
        return self.total

    def unet_offload_device(self):
        return torch.device("cpu")

    def extra_reserved_memory(self):
        return 1000

    def load_models_gpu(self, patchers, memory_required, force_full_load):
        """As under --novram, layers that do not fetch their weights stay where they are."""
        self.asked.append((patchers[0].model, memory_required, force_full_load))
        if self.vram_state.name != "NO_VRAM":
            patchers[0].model.to(self.device)

    def free_memory(self, wanted, device):
        self.asked.append((wanted, device))


class Patcher:
    """ComfyUI's ModelPatcher, as much of it as we call."""

    def __init__(self, model, load_device, offload_device) -> None:
        self.model, self.offload_device = model, offload_device

    def detach(self):
        self.model.to(self.offload_device)


@pytest.fixture
def comfy(monkeypatch):
    """comfy(device, total, state) puts the pack into a ComfyUI with that card."""

    def enter(device, total=24 * GIB, state="NORMAL_VRAM"):
        management = Management(device, total, state)
        patcher = SimpleNamespace(ModelPatcher=Patcher)
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


@pytest.mark.parametrize("vram", ["auto", "high", "low"])
def test_novram_streams_whatever_the_widget_says(comfy, vram):
    comfy("cuda", state="NO_VRAM")
    residency = host.residency(vram)
    assert isinstance(residency, Streamed) and residency.weights == LOW_WEIGHTS


@pytest.mark.parametrize("state", ["LOW_VRAM", "HIGH_VRAM", "NORMAL_VRAM"])
def test_other_states_leave_the_choice_to_comfyui(comfy, state):
    comfy("cuda", state=state)
    assert not isinstance(host.residency("auto"), Streamed)


def test_novram_asks_for_room_where_nothing_streams(comfy):
    management, model = comfy("cpu", state="NO_VRAM"), nn.Linear(3, 3)
    before = model.weight.data_ptr()
    residency = host.residency("auto")
    with residency.use(model, workspace=500) as used:
        assert used is model
    assert management.asked == [(4 * (9 + 3) + 500 + 1000, torch.device("cpu"))]
    assert model.weight.data_ptr() == before and not isinstance(residency, Streamed)


def test_a_network_left_off_the_device_comes_for_the_use_alone(comfy, monkeypatch):
    """As by a ComfyUI that loads in part, in whatever state."""
    management, model, used = comfy("cpu"), nn.Linear(3, 3, device="meta"), []
    management.load_models_gpu = lambda patchers, **room: management.asked.append(patchers[0].model)

    class Passing:
        def __init__(self, *arguments) -> None:
            used.append(arguments)

        @contextmanager
        def use(self, model, workspace):
            used.append((model, workspace))
            yield model
            used.append("left")

    monkeypatch.setattr(host.model_residency, "_passing_through", Passing)
    monkeypatch.setattr(Patcher, "detach", lambda patcher: management.asked.append("detached"))
    with host.residency("auto").use(model, workspace=500) as placed:
        assert placed is model and used == [(management, torch.device("cpu")), (model, 500)]
    assert used[-1] == "left" and management.asked == [model, "detached"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("told", [True, False])
def test_novram_computes_on_the_card(comfy, told):
    """told: the pipeline was made under --novram; else ComfyUI leaves the weights off without a word."""
    management, model = comfy("cuda", state="NO_VRAM"), nn.Linear(300, 300)
    management.vram_state.name = "NO_VRAM" if told else "NORMAL_VRAM"
    residency, x = host.residency("auto"), torch.randn(4, 300)
    assert isinstance(residency, Streamed) is told
    management.vram_state.name = "NO_VRAM"
    want = model(x)
    for _ in range(2):
        with residency.use(model, workspace=500) as placed:
            torch.testing.assert_close(placed(x.cuda()).cpu(), want)
        assert model.weight.device.type == "cpu"


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


def test_the_folders_are_comfyuis_or_beside_the_pack(monkeypatch, tmp_path):
    assert [host.folders.comfy_folder(place) for place in host.folders.PLACES] == [
        host.ROOT / "input",
        host.ROOT / "output",
        host.ROOT / "temp",
    ]
    theirs = SimpleNamespace(
        get_input_directory=lambda: str(tmp_path / "in"),
        get_output_directory=lambda: str(tmp_path / "out"),
        get_temp_directory=lambda: str(tmp_path / "tmp"),
    )
    monkeypatch.setattr(host.comfyui, "module", {"folder_paths": theirs}.get)
    assert [host.folders.comfy_folder(place).name for place in ("temp", "input", "output")] == ["tmp", "in", "out"]
