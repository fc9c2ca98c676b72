"""The pack is loaded by path, as ComfyUI does it, under the name that pip gives it; the root is never on `sys.path`.

Markers: `slow`, more than a second of one core; `gpu`, skipped without a CUDA device; `triton`, what runs a Triton
kernel, which `kernel_tests` reads from the tests' source, so that nobody has to remember it.
"""

import ast
import importlib.metadata
import importlib.util
import os
import platform
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

WORKERS = 2  # a worker needs up to 3 GB of memory
# Workers of pytest-xdist share the cores. Thread pools read these when torch and numba are imported.
if "PYTEST_XDIST_WORKER" in os.environ:  # noqa: TID251 the thread pools have no argument for it
    for variable in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ.setdefault(variable, str(max(1, (os.cpu_count() or 1) // WORKERS)))  # noqa: TID251 the same

import pytest  # noqa: E402 after the environment that it reads
import torch  # noqa: E402 after the environment that it reads

ROOT = Path(__file__).resolve().parents[1]
SHOWN = ("torch", "triton", "numba", "numpy")
FOLDERS = ("nodes", "trellis2", "o_voxel")

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


def versions() -> str:
    """What the tests run with, by the metadata of what this process would import."""
    found = [f"Python {platform.python_version()}"]
    for name in SHOWN:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            found.append(f"no {name}")
    return ", ".join(found)


def pytest_sessionstart(session: pytest.Session) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None and not hasattr(session.config, "workerinput"):
        reporter.write_line(versions())


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """For -n auto. One process where there is a GPU: tests that measure its memory need it for themselves."""
    return 0 if torch.cuda.is_available() else min(WORKERS, os.cpu_count() or 1)


@cache
def kernel_modules() -> frozenset[str]:
    """Dotted names below the root of the modules that import Triton: "o_voxel.ops.raster.kernel"."""
    files = [file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py")]
    named = [file for file in files if re.search("^(import|from) triton", file.read_text(encoding="utf-8"), re.M)]
    return frozenset(".".join(file.relative_to(ROOT).with_suffix("").parts) for file in named)


def _uses(node: ast.AST) -> Iterator[str]:
    """What a piece of a test module names of Triton: a kernel's module, or "triton" itself."""
    for inner in ast.walk(node):
        names = []
        if isinstance(inner, ast.ImportFrom):
            names = [f"{inner.module}.{alias.name}" for alias in inner.names]
        elif isinstance(inner, ast.Import):
            names = [alias.name for alias in inner.names]
        elif isinstance(inner, ast.Constant) and isinstance(inner.value, str):
            names = [inner.value]
            if inner.value in ("triton", "triton.knobs") or inner.value.startswith("triton-"):
                yield "triton"
        for name in names:
            below = name.partition(".")[2]  # without the alias that the tests load the pack under
            yield from (kernel for kernel in kernel_modules() if f"{below}.".startswith(f"{kernel}."))


@cache
def kernel_tests(file: Path) -> tuple[frozenset[str], frozenset[str]]:
    """(functions of a test file that use Triton, by whatever helper, fixture or constant of it; kernels that it names).

    A statement of the module itself that names Triton, such as importorskip, is for all its functions.
    """
    text = file.read_text(encoding="utf-8")
    if ".ops." not in text:
        return frozenset(), frozenset()
    body = ast.parse(text).body
    pieces: dict[str, list[ast.AST]] = {}
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            pieces.setdefault(node.name, []).append(node)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for name in {n.id for target in targets for n in ast.walk(target) if isinstance(n, ast.Name)}:
                pieces.setdefault(name, []).append(node)
        else:
            pieces.setdefault("", []).append(node)
    uses = {name: {use for node in nodes for use in _uses(node)} for name, nodes in pieces.items()}
    mentioned = {
        name: {n.id if isinstance(n, ast.Name) else n.arg for node in nodes for n in ast.walk(node)
               if isinstance(n, ast.Name | ast.arg)}
        for name, nodes in pieces.items()
    }  # fmt: skip
    reached = {name for name in pieces if uses[name] or uses.get("")}
    while more := {name for name in pieces if name not in reached and mentioned[name] & reached}:
        reached |= more
    return frozenset(reached), frozenset().union(*uses.values()) - {"triton"}


def _runs_triton(item: pytest.Item) -> bool:
    backend = item.callspec.params.get("backend") if hasattr(item, "callspec") else None
    other = isinstance(backend, str) and "triton" not in backend
    return not other and getattr(item, "originalname", item.name) in kernel_tests(item.path)[0]


def pytest_itemcollected(item: pytest.Item) -> None:
    if _runs_triton(item):
        item.add_marker("triton")
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


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
