"""Memory runs out: a node runs once more in the room that other models leave; then its error names the widget."""

from types import SimpleNamespace

import pytest
import torch
from comfyui_trellis2.nodes import NODE_CLASS_MAPPINGS, host
from comfyui_trellis2.nodes.host.devices import DEVICE, NETWORKS, POLICY
from comfyui_trellis2.nodes.host.out_of_memory import WIDGETS, guard_memory, remedy
from comfyui_trellis2.trellis2.runtime.memory import with_less

FULL = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has …")


def node(*outcomes):
    """A node whose calls raise or return these in turn; and how often it was called."""
    calls = []

    class Node:
        FUNCTION = "run"

        @classmethod
        def INPUT_TYPES(cls):
            return {"required": {"mesh": ("X",), "texture_size": ("INT",)}, "optional": {"faces": ("INT",)}}

        def run(self, mesh, texture_size, faces=3):
            calls.append((mesh, texture_size, faces))
            outcome = outcomes[len(calls) - 1]
            if isinstance(outcome, BaseException):
                raise outcome
            return outcome

    return guard_memory(guard_memory(Node, "T2BakeTextures"), "T2BakeTextures"), calls


@pytest.fixture
def freed(monkeypatch):
    """What is asked of ComfyUI's model management, in order."""
    asked = []
    management = SimpleNamespace(
        unload_all_models=lambda: asked.append("unload"),
        soft_empty_cache=lambda: asked.append("empty"),
        get_torch_device=lambda: torch.device("cpu"),
    )
    monkeypatch.setattr(host.comfyui, "module", {"comfy.model_management": management}.get)
    return asked


def test_the_second_run_has_the_room_of_other_models(freed):
    made, calls = node(FULL, "done")
    assert made().run(mesh=1, texture_size=4096) == "done"
    assert freed == ["unload", "empty"]
    assert calls == [(1, 4096, 3)] * 2


def test_the_second_error_names_the_widgets_and_stays_one_of_memory(freed):
    made, calls = node(FULL, FULL)
    message = r"memory of cpu is full, .* Lower texture_size \(now 4096\) or faces; or take fewer faces .*Simplify Mesh"
    with pytest.raises(torch.OutOfMemoryError, match=message) as told:
        made().run(mesh=1, texture_size=4096)
    assert "Tried to allocate" not in str(told.value).partition("(CUDA")[0]
    assert len(calls) == 2


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: not enough memory: you tried …")])
def test_the_main_memory_is_not_asked_twice(freed, error):
    made, calls = node(error)
    with pytest.raises(MemoryError, match=r"main memory is full. Lower texture_size \(now 64\)"):
        made().run(mesh=1, texture_size=64)
    assert (len(calls), freed) == (1, [])


def test_other_errors_pass(freed):
    for error in (RuntimeError("a bug"), ValueError("a user's")):
        made, calls = node(error)
        with pytest.raises(type(error), match=str(error)):
            made().run(mesh=1, texture_size=64)
        assert len(calls) == 1


@pytest.mark.parametrize("name", NODE_CLASS_MAPPINGS)
def test_every_node_has_a_remedy(name):
    kind = NODE_CLASS_MAPPINGS[name]
    assert getattr(kind, kind.FUNCTION).guards_memory
    said = remedy(kind, name, {})
    assert said.endswith(".")
    if POLICY[name] in (DEVICE, NETWORKS):
        assert "lower" in said.lower() or "Simplify Mesh" in said
    inputs = kind.INPUT_TYPES()
    own = {*inputs.get("required", {}), *inputs.get("optional", {})}
    lowered = (
        said.rstrip(".").partition(";")[0].removeprefix("Lower ").split(" or ") if said.startswith("Lower") else []
    )
    assert set(lowered) <= own & {*WIDGETS}


def test_with_less_is_asked_once_and_frees_before():
    seen = []

    def work(budget):
        seen.append(budget)
        if budget > 10:
            raise FULL
        return budget

    assert with_less(work, 100, lambda: 10, torch.device("cpu")) == 10
    assert with_less(work, 5, lambda: pytest.fail("not needed"), torch.device("cpu")) == 5
    with pytest.raises(torch.OutOfMemoryError):
        with_less(work, 100, lambda: 20, torch.device("cpu"))
    assert seen == [100, 10, 5, 100, 20]
