"""The pack is loaded by path, as ComfyUI does it, under pip's name for it; the root is never on `sys.path`."""

import importlib.util
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]

# Without a GPU the kernels run in Triton's interpreter, which has to be asked for before Triton is imported.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # noqa: TID251 Triton has no argument for it


def _load_pack() -> None:
    name, folder = "comfyui_trellis2", [str(ROOT)]
    spec = importlib.util.spec_from_file_location(name, ROOT / "__init__.py", submodule_search_locations=folder)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)


if "comfyui_trellis2" not in sys.modules:
    _load_pack()


def _skip_without_triton(error: ModuleNotFoundError) -> None:
    """Where Triton is missing, a test that imports a kernel is skipped; what imports one unasked is at fault."""
    frames = traceback.extract_tb(error.__traceback__)
    places = [frame.filename for frame in frames if not frame.filename.startswith("<")]
    asked = [i for i, place in enumerate(places) if Path(place).is_relative_to(ROOT / "tests")]
    kernels = places[asked[-1] + 1 :] if asked else []
    if error.name == "triton" and kernels and all(Path(place).stem.startswith("kernel") for place in kernels):
        pytest.skip("triton is not installed")
    raise error


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> object:
    try:
        return (yield)
    except ModuleNotFoundError as error:
        return _skip_without_triton(error)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> object:
    try:
        return (yield)
    except ModuleNotFoundError as error:
        return _skip_without_triton(error)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--goldens", default=str(ROOT / "tests" / "golden" / "data"), help="folder of golden files")


@pytest.fixture(scope="session")
def golden(request: pytest.FixtureRequest) -> Callable[[str], Path]:
    """golden("c1_x.json") is the path of that golden file; the test is skipped where the set lacks it."""
    folder = Path(request.config.getoption("--goldens"))

    def find(name: str) -> Path:
        path = folder / name
        if not path.exists():
            pytest.skip(f"no {name} in {folder}")
        return path

    return find
