"""The markers that tests/conftest.py gives, and how many processes the tests take."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from . import conftest

ROOT = Path(__file__).parents[1]
SOURCE = '''
import pytest
from comfyui_trellis2.o_voxel.ops.raster import rasterize

BACKENDS = ["numba", "triton"]
each = pytest.mark.parametrize("backend", BACKENDS)

def run():
    from comfyui_trellis2.o_voxel.ops.raster.kernel import rasterize_gpu

@pytest.fixture
def made():
    return run()

def test_by_helper():
    run()

def test_by_fixture(made):
    pass

@each
def test_by_parameter(backend):
    pass

def test_without():
    """A test that says triton."""
    rasterize()
'''


def test_a_test_runs_triton_by_any_way_that_its_file_shows(tmp_path: Path):
    file = tmp_path / "test_x.py"
    file.write_text(SOURCE)
    functions, kernels = conftest.kernel_tests(file)
    assert {name for name in functions if name.startswith("test_")} == {
        "test_by_helper", "test_by_fixture", "test_by_parameter"
    }  # fmt: skip
    assert kernels == {"o_voxel.ops.raster.kernel"}


def test_a_statement_of_the_file_is_for_all_its_tests(tmp_path: Path):
    file = tmp_path / "test_x.py"
    file.write_text('import pytest\npytest.importorskip("triton.knobs")\nx = "pack.ops.y"\ndef test_a():\n    pass\n')
    assert "test_a" in conftest.kernel_tests(file)[0]


def test_every_op_with_a_kernel_has_a_test_that_runs_it():
    """Of this the second run under another Triton is made: an op that it misses would be tested under one alone."""
    named = set().union(*(conftest.kernel_tests(file)[1] for file in (ROOT / "tests").rglob("test_*.py")))
    ops = {kernel.rpartition(".")[0].partition(".ops.")[2].partition(".")[0] for kernel in conftest.kernel_modules()}
    assert len(ops - {""}) > 10
    assert ops - {""} <= {kernel.partition(".ops.")[2].partition(".")[0] for kernel in named}


def collected(file: Path, *options: str) -> list[str]:
    """Names of the tests of this repository's `file` that pytest would run with `options`."""
    code = "import sys; sys.path[:] = filter(None, sys.path); import pytest; sys.exit(pytest.main())"
    command = [sys.executable, "-c", code, "--collect-only", "-p", "no:xdist", *options, str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return [line.partition("::")[2] for line in done.stdout.splitlines() if "::" in line]


@pytest.mark.slow
def test_markers_choose_tests():
    names = collected(ROOT / "tests" / "o_voxel" / "ops" / "test_connected_components.py", "-m", "triton")
    assert names and all("triton" in name for name in names)


@pytest.mark.slow
def test_an_unknown_marker_is_an_error(tmp_path: Path):
    file = tmp_path / "test_x.py"
    file.write_text("import pytest\n@pytest.mark.sloow\ndef test_a():\n    pass\n")
    with pytest.raises(AssertionError, match="'sloow' not found in `markers`"):
        collected(file, "-c", str(ROOT / "pyproject.toml"))


def test_the_versions_are_those_that_are_imported():
    # A build for CUDA says 2.13.0+cu130 of itself and 2.13.0 in its metadata.
    assert f"torch {torch.__version__.partition('+')[0]}" in conftest.versions()


def test_processes_share_the_cores():
    workers = conftest.pytest_xdist_auto_num_workers()
    assert workers == 0 if torch.cuda.is_available() else 1 <= workers <= (os.cpu_count() or 1)
    if "PYTEST_XDIST_WORKER" in os.environ:  # noqa: TID251 that is how a worker knows that it is one
        assert torch.get_num_threads() * workers <= max(workers, os.cpu_count() or 1)
