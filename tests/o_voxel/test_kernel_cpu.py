"""How numba's kernels are compiled: once for all integers, without an entry that nobody uses, the collector at rest."""

import gc
import importlib
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from comfyui_trellis2.o_voxel.core.compiling.background import Background
from comfyui_trellis2.o_voxel.core.compiling.gc_pause import PAUSE, Pause, paused

pytest.importorskip("numba")
SOURCE = """
import numpy as np

def _count(values, low, strict):
    found = 0
    for v in values:
        if v > low or (v == low and not strict):
            found += 1
    return found

def count(values):
    small = np.int32(1)
    return _count(values, 0, True), _count(values, small, False), _count(values, len(values), values[0] > 0)
"""


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> object:
    """A module of two kernels, compiled."""
    from comfyui_trellis2.o_voxel.core.kernel_cpu import cached_njit

    folder = tmp_path_factory.mktemp("kernels")
    (folder / "kernels_of_a_test.py").write_text(SOURCE, encoding="utf-8")
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.syspath_prepend(str(folder))
    module = importlib.import_module("kernels_of_a_test")
    monkeypatch.undo()
    module._count = cached_njit(module._count)
    module.count = cached_njit(module.count)
    yield module
    del sys.modules[module.__name__]


@pytest.mark.slow
def test_constants_and_narrow_integers_compile_nothing_anew(kernels: object):
    import numpy as np

    assert kernels.count(np.array([3, 1, 0, 2])) == (3, 3, 0)
    assert len(kernels._count.signatures) == 1
    assert [str(kind) for kind in kernels._count.signatures[0][1:]] == ["int64", "bool"]


@pytest.mark.slow
def test_python_may_not_call_what_has_no_entry(kernels: object):
    import numpy as np

    values = np.array([3, 1])
    kernels.count(values)
    for _ in range(2):  # also where it is compiled
        with pytest.raises(TypeError, match="other kernels may call it, Python may not"):
            kernels._count(values, 1, True)


@pytest.mark.slow
def test_every_entry_of_a_kernel_is_one():
    """What Python functions of kernel modules call is compiled with an entry: by the module's source."""
    import ast

    root = Path(__file__).parents[2]
    wrong = []
    for file in [file for name in ("o_voxel", "trellis2") for file in (root / name).rglob("kernel_cpu*.py")]:
        module = importlib.import_module("comfyui_trellis2." + ".".join(file.relative_to(root).with_suffix("").parts))
        closed = {name for name, value in vars(module).items() if "_compile_for_args" in getattr(value, "__dict__", {})}
        compiled = {name for name, value in vars(module).items() if hasattr(value, "py_func")}
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and node.name not in compiled:
                own = {inner.name for inner in ast.walk(node) if isinstance(inner, ast.FunctionDef)}
                names = {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)}
                wrong += [(file.name, name) for name in names & closed - own]
    assert wrong == []


# Kernels are made while numba does not show what its release may lack; numba itself needs it when they are compiled.
WITHOUT = """
import importlib, sys, types
import numba
sys.path.insert(0, sys.argv[2])
pack = types.ModuleType("pack"); pack.__path__ = [sys.argv[1]]; sys.modules["pack"] = pack
module, name = sys.argv[3].rsplit(".", 1)
module = importlib.import_module(module)
hidden = vars(module).pop(name)
from pack.o_voxel.core.compiling.notice import NOTICE
from pack.o_voxel.core.kernel_cpu import cached_njit
import kernels_of_a_test as kernels, numpy
kernels._count, kernels.count = cached_njit(kernels._count), cached_njit(kernels.count)
setattr(module, name, hidden)
print(*kernels.count(numpy.array([3, 1, 0, 2])), NOTICE.kernels > 0)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "missing",
    ["core.event.register", "core.event.Listener", "core.registry.cpu_target", "np.linalg.ensure_blas"],
)
def test_kernels_compile_where_numba_lacks_what_is_its_own(tmp_path: Path, missing: str):
    (tmp_path / "kernels_of_a_test.py").write_text(SOURCE, encoding="utf-8")
    command = [sys.executable, "-c", WITHOUT, str(Path(__file__).parents[2]), str(tmp_path), f"numba.{missing}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["3", "3", "0", str("event" not in missing)], done.stderr


@pytest.mark.parametrize("missing", ["get_call_template", "_compile_for_args", "_insert"])
def test_a_dispatcher_may_lack_what_is_replaced(monkeypatch: pytest.MonkeyPatch, missing: str):
    """Its kernel stays as numba made it. Not closed to Python, it has an entry, or a call ends the process."""
    from comfyui_trellis2.o_voxel.core import kernel_cpu

    class Dispatcher:
        def __init__(self, function: object, no_cpython_wrapper: bool = False, **options: object) -> None:
            self.py_func, self.has_entry = function, not no_cpython_wrapper

        def stay(self, *args: object) -> str:
            return "numba's"

    own = {"get_call_template", "_compile_for_args", "_insert"} - {missing}
    for name in own:
        setattr(Dispatcher, name, Dispatcher.stay)
    monkeypatch.setattr(kernel_cpu, "njit", lambda **options: lambda function: Dispatcher(function, **options))

    def _inner() -> None:
        """Called by kernels."""

    kernel = kernel_cpu.cached_njit(_inner)
    assert not hasattr(kernel, missing)
    closed = missing == "get_call_template"
    assert kernel.has_entry is not closed
    replaced = own & set(vars(kernel))
    assert replaced == (own if closed else {"get_call_template"})
    if closed:
        with pytest.raises(TypeError, match="Python may not"):
            kernel._compile_for_args()


def test_the_collector_goes_on_after_the_last_pause():
    assert gc.isenabled()
    with paused():
        assert not gc.isenabled()
        with paused():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(KeyError), paused():
        raise KeyError
    assert gc.isenabled()


def test_a_collector_that_was_off_stays_off():
    pause = Pause()
    gc.disable()
    try:
        pause.begin()
        pause.end()
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_pauses_of_threads_overlap():
    PAUSE.begin()
    other = threading.Thread(target=PAUSE.begin)
    other.start()
    other.join()
    PAUSE.end()
    assert not gc.isenabled()
    PAUSE.end()
    assert gc.isenabled()


@pytest.mark.slow
def test_numba_still_multiplies_matrices():
    """It is kept from importing scipy.linalg while it loads; a kernel with a product of matrices finds it."""
    code = """
import sys, types
pack = types.ModuleType("pack"); pack.__path__ = [sys.argv[1]]; sys.modules["pack"] = pack
import pack.o_voxel.core.kernel_cpu, numba, numpy
assert "scipy.linalg" not in sys.modules
print(numba.njit(lambda a: a @ a)(numpy.full((2, 2), 2.0))[0, 0], numba.np.arraymath.ensure_blas.__name__)
"""
    root = str(Path(__file__).parents[2])
    done = subprocess.run([sys.executable, "-c", code, root], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["8.0", "ensure_blas"]


def test_what_is_compiled_beside_other_work_is_so_once():
    background, done = Background(), []

    def fail() -> None:
        raise ValueError("no compiler")

    tasks = [lambda: done.append(threading.current_thread()), fail, lambda: done.append("after a failure")]
    thread = background.start(tasks)
    thread.join()
    assert done == [thread, "after a failure"]
    assert background.start(tasks) is None
    assert not thread.daemon, "else the process may end within numba's compiler"
    background.start([lambda: done.append("new"), *tasks]).join()
    assert done[2:] == ["new"]


@pytest.mark.slow
def test_the_tasks_compile_all_that_their_callers_need():
    """Afterwards an atlas is packed and a picture encoded by the same entries."""
    import numpy as np
    from comfyui_trellis2.o_voxel.files.meshes import png
    from comfyui_trellis2.o_voxel.files.meshes.png import kernel_cpu as encoder
    from comfyui_trellis2.o_voxel.ops import pack_charts
    from comfyui_trellis2.o_voxel.ops.pack_charts import kernel_cpu as packer

    entries = [encoder.deflate, encoder.filter_rows, packer.trace_all, packer.place_all, packer.box_areas_of]
    pack_charts.compile_kernels()
    png.compile_kernels()
    before = [set(map(str, entry.signatures)) for entry in entries]
    square = np.tile(np.array([[0.0, 0.0], [3.0, 0.0], [3.0, 1.0], [0.0, 1.0]]), (70, 1))
    following = square.reshape(70, 4, 2)[:, [1, 2, 3, 0]].reshape(-1, 2)
    pack_charts.pack(pack_charts.Outlines(square, following, np.arange(0, 281, 4), np.full(70, 3.0)), 256, 2)
    png.encode_png(np.random.default_rng(0).integers(0, 255, (40, 30, 3), np.uint8), backend="numba")
    assert [set(map(str, entry.signatures)) for entry in entries] == before
    assert all(before)
