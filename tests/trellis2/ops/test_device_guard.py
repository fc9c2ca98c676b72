"""Kernels launch on the device of their tensors, whichever is torch's current one, and probes are of one device."""

import ast
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from comfyui_trellis2.o_voxel.core import backend
from comfyui_trellis2.o_voxel.core.device import cached_per_device, device_guard
from torch import Tensor
from torch._subclasses import FakeTensorMode

ROOT = Path(__file__).parents[3]
KERNELS = sorted(file for package in ("o_voxel", "trellis2") for file in (ROOT / package).rglob("kernel*.py"))
CACHES = {"cache", "lru_cache"}


@dataclass(frozen=True, eq=False)
class Pair:
    count: int
    values: Tensor


class Cards:
    """Stands in for torch's current device, of two."""

    def __init__(self) -> None:
        self.current = 0

    @contextmanager
    def device(self, index: int):
        before, self.current = self.current, index
        try:
            yield
        finally:
            self.current = before


@pytest.fixture
def cards(monkeypatch):
    cards = Cards()
    monkeypatch.setattr(torch.cuda, "current_device", lambda: cards.current)
    monkeypatch.setattr(torch.cuda, "device", cards.device)
    return cards


def on(device: str) -> Tensor:
    with FakeTensorMode():
        return torch.empty(3, device=device)


@pytest.mark.parametrize("index", [0, 1])
def test_a_launch_is_on_the_device_of_its_first_tensor(cards, index):
    @device_guard
    def launch(*args: object, **kwargs: object) -> int:
        return cards.current

    x, other = on(f"cuda:{index}"), on("cuda:1")
    assert launch(x, other) == index
    assert launch("name", 3, x) == index
    assert launch(Pair(3, x), other) == index
    assert launch(7, values=x) == index
    assert launch(torch.device("cuda", index)) == index
    assert cards.current == 0


def test_the_current_device_comes_back_after_an_error(cards):
    @device_guard
    def launch(x: Tensor) -> None:
        assert cards.current == 1
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        launch(on("cuda:1"))
    assert cards.current == 0


def test_on_the_cpu_nothing_is_asked_of_cuda(monkeypatch):
    monkeypatch.setattr(torch.cuda, "current_device", lambda: pytest.fail("a CPU tensor needs no CUDA"))
    assert device_guard(lambda x: x + 1)(torch.zeros(1)).item() == 1


def test_a_launch_without_a_device_is_refused():
    with pytest.raises(TypeError, match="expected an argument with a tensor"):
        device_guard(lambda n: n)(3)


@pytest.mark.slow
def test_a_guard_does_not_break_a_compiled_graph():
    twice = device_guard(lambda x: x * 2)
    compiled = torch.compile(lambda x: twice(x).sum(), fullgraph=True, backend="eager")
    assert compiled(torch.ones(3)).item() == 6


# A launch is the one call whose function is a subscript: kernel[grid](...)


def launches(tree: ast.AST) -> list[ast.Call]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Subscript)]


def decorators(function: ast.FunctionDef) -> list[str]:
    return [ast.unparse(decorator) for decorator in function.decorator_list]


def unguarded(source: str) -> list[int]:
    """Lines of launches outside a function with the guard, at any depth."""
    tree = ast.parse(source)
    guarded = {
        call
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef) and "device_guard" in decorators(function)
        for call in launches(function)
    }
    return [call.lineno for call in launches(tree) if call not in guarded]


@pytest.mark.slow
@pytest.mark.parametrize("file", KERNELS, ids=lambda file: str(file.relative_to(ROOT).parent))
def test_every_launch_is_guarded(file):
    source = file.read_text(encoding="utf-8")
    if "import triton" in source:
        assert unguarded(source) == []


@pytest.mark.slow
def test_every_kernel_file_is_looked_at():
    assert sum(len(launches(ast.parse(file.read_text(encoding="utf-8")))) for file in KERNELS) > 35


def test_a_launch_without_the_guard_is_found():
    assert unguarded("@device_guard\ndef f(x):\n    kernel[1](x)\n") == []
    assert unguarded("def f(x):\n    kernel[(1,)](x)\n") == [2]


# Probes


@pytest.mark.parametrize("device", ["cpu", "cuda:0", "cuda:1"])
def test_a_probe_runs_once_a_device(device):
    asked = []
    probe = cached_per_device(lambda device, dtype: asked.append(device))
    for dtype in (torch.float16, torch.float32, torch.float16):
        probe(torch.device(device), dtype)
    assert asked == [torch.device(device)] * 2


def test_a_device_without_a_number_is_the_current_one(cards):
    asked = []
    probe = cached_per_device(asked.append)
    for cards.current in (0, 1, 0, 1):
        probe(torch.device("cuda"))
    assert asked == [torch.device("cuda:0"), torch.device("cuda:1")]


def test_the_answer_of_one_card_is_not_that_of_another(cards, monkeypatch):
    # A process that has worked on both cards has its answers already.
    monkeypatch.setattr(backend, "_launch_triton", cached_per_device(backend._launch_triton.__wrapped__))
    monkeypatch.setattr(backend, "find_spec", lambda name: None if cards.current else pytest.fail("the wrong card"))
    cards.current = 1
    assert backend.triton_probe(torch.device("cuda"), torch.float32) == "triton is not installed"


def test_what_is_cached_of_a_device_is_cached_by_its_number():
    """In the ops nothing that takes a device is cached otherwise."""
    wrong = []
    for file in sorted(file for package in ("o_voxel", "trellis2") for file in (ROOT / package / "ops").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and CACHES & {name.partition("(")[0] for name in decorators(node)}:
                wrong += [node.name for argument in node.args.args[:1] if argument.arg == "device"]
    assert wrong == []


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_a_kernel_runs_on_the_second_card():
    from comfyui_trellis2.o_voxel.ops.hash_grid import hash_grid

    voxels = torch.tensor([[1, 2, 3], [4, 5, 6]], dtype=torch.int32, device="cuda:1")
    assert torch.cuda.current_device() == 0
    assert hash_grid(voxels, backend="triton").find(voxels).tolist() == [0, 1]
    assert backend.triton_probe(torch.device("cuda:1"), torch.float32) is None
