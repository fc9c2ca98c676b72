"""Importing the pack does nothing, and its imports run one way: nodes, trellis2, o_voxel, torch."""

import ast
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("nodes", "trellis2", "o_voxel", "wheels")
MODULES = sorted([*ROOT.glob("*.py"), *(file for name in PACKAGES for file in (ROOT / name).rglob("*.py"))])
MAY_USE = {"nodes": {"nodes", "trellis2", "o_voxel"}, "trellis2": {"trellis2", "o_voxel"}, "": {"", "nodes"}}
HOST = ("comfy", "folder_paths", "server", "execution", "node_helpers")
ON_FIRST_CALL = {"numba", "triton", "comfy", "transformers", "trimesh", "fast_simplification", "huggingface_hub"}

PROBE = """
import importlib, importlib.util, json, logging, os, random, sys, threading, warnings
from pathlib import Path

import numpy, torch

root, base, report, *names = sys.argv[1:]

def state():
    return {
        "environment": dict(os.environ),
        "sys.path": list(sys.path),
        "folder": os.getcwd(),
        "files": sorted(map(str, Path(base).rglob("*"))),
        "torch seed": (torch.initial_seed(), torch.get_rng_state().tolist()),
        "numpy seed": str(numpy.random.get_state()),
        "random seed": random.getstate(),
        "dtype and device": (torch.get_default_dtype(), torch.get_default_device()),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads(), threading.active_count()),
        "gradients": torch.is_grad_enabled(),
        "precision": torch.get_float32_matmul_precision(),
        "determinism": torch.are_deterministic_algorithms_enabled(),
        "cuda": torch.cuda.is_initialized(),
        "logging": (logging.root.level, list(logging.root.handlers)),
        "warnings": list(warnings.filters),
        "hooks": (sys.excepthook, sys.displayhook),
    }

loaded, before = set(sys.modules), state()
spec = importlib.util.spec_from_file_location("probe", Path(root, "__init__.py"), submodule_search_locations=[root])
sys.modules["probe"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["probe"])
for name in names:
    importlib.import_module("probe" + name)
after = state()
changed = {key: f"{before[key]} -> {after[key]}"[:2000] for key in before if before[key] != after[key]}
Path(report).write_text(json.dumps({"changed": changed, "loaded": sorted(set(sys.modules) - loaded)}))
"""


def is_kernel(module: str) -> bool:
    """Whether a module's last name is that of one which compiles kernels, and so is imported at the first call."""
    return module == "kernel" or module.startswith("kernel_")


def dotted(file: Path) -> str:
    """A file's module name below the root: ".o_voxel.core.grid", or "" for the root itself."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    return "".join(f".{part}" for part in parts if part != "__init__")


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What importing every module but the kernels did: in a process with an emptied environment, from a copy."""
    base = tmp_path_factory.mktemp("imports")
    copy, home, report = base / "copy", base / "home", base.with_name(f"{base.name}.json")
    home.mkdir()
    for file in [*MODULES, *(file for name in PACKAGES for file in (ROOT / name).rglob("*.json"))]:
        (copy / file.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, copy / file.relative_to(ROOT))
    names = [dotted(file) for file in MODULES if not is_kernel(file.stem)]
    needed = ("SYSTEMROOT", "LD_LIBRARY_PATH")
    environment = {key: os.environ[key] for key in needed if key in os.environ}  # noqa: TID251 torch may need these two
    environment |= dict.fromkeys(("HOME", "TMPDIR", "TEMP", "TMP"), str(home))
    command = [sys.executable, "-B", "-c", PROBE, str(copy), str(base), str(report), *names]
    done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return json.loads(report.read_text())


@pytest.mark.slow
def test_importing_changes_nothing(imported: dict):
    assert imported["changed"] == {}


@pytest.mark.slow
def test_importing_loads_no_kernel_and_no_heavy_library(imported: dict):
    assert "probe.o_voxel.core.grid" in imported["loaded"]
    ours = [name for name in imported["loaded"] if name.startswith("probe.")]
    assert [name for name in ours if is_kernel(name.rpartition(".")[2])] == []
    assert ON_FIRST_CALL.intersection(name.partition(".")[0] for name in imported["loaded"]) == set()


def imports(tree: ast.Module) -> Iterator[tuple[ast.AST, int, str, bool]]:
    """(node, level, dotted name, whether at import time) of every name that a module imports."""
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)]
    checking = [n for n in ast.walk(tree) if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.dump(n.test)]
    later = {id(inner) for outer in functions + checking for inner in ast.walk(outer)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node, 0, alias.name, id(node) not in later
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                name = f"{node.module}.{alias.name}" if node.module else alias.name
                yield node, node.level, name, id(node) not in later


def target(file: Path, level: int, name: str) -> str | None:
    """The name below the root ("o_voxel.values.Mesh") of a relative import; None outside the root."""
    package = file.relative_to(ROOT).parent.parts
    if level - 1 > len(package):
        return None
    return ".".join([*package[: len(package) - level + 1], name])


@pytest.mark.slow
@pytest.mark.parametrize("file", MODULES, ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_run_one_way(file: Path):
    place = file.relative_to(ROOT)
    package = place.parts[0] if len(place.parts) > 1 else ""
    kernel = is_kernel(file.stem)
    light = {"torch", "numpy", *sys.stdlib_module_names}
    wrong = []
    for node, level, name, at_import in imports(ast.parse(file.read_text(encoding="utf-8"))):
        top = name.partition(".")[0]
        bad = "no relative import" if level == 0 and top in (*PACKAGES, "comfyui_trellis2", "install") else ""
        if level:
            module = target(file, level, name)
            used = module.partition(".")[0] if module else "outside"
            if used not in MAY_USE.get(package, {package}):
                bad = f"{package or 'the root'} may not use {used}"
            if at_import and not kernel and any(map(is_kernel, module.split(".")[1:] if module else [])):
                bad = "a kernel imported before its first call"
        elif top.startswith(HOST) and package != "nodes":
            bad = "only nodes/ may know ComfyUI"
        elif top == "triton" and (not kernel or file.stem.startswith("kernel_cpu")):
            bad = "Triton only in kernel*.py that are not kernel_cpu*.py"
        elif top == "numba" and at_import and not kernel:
            bad = "numba only in kernel_cpu*.py, or inside a function that probes for it"
        elif package == "o_voxel" and at_import and not kernel and top not in light:
            bad = "o_voxel imports torch and numpy, anything else inside the function that needs it"
        elif package == "wheels" and top not in sys.stdlib_module_names:
            bad = "standard library only"
        if bad:
            wrong.append(f"{place}:{node.lineno}: {name}: {bad}")
    assert wrong == []


@pytest.mark.parametrize(
    ("level", "name", "module"),
    [
        (1, "weld.pairs", "o_voxel.mesh.connectivity.weld.pairs"),
        (2, "simplify.simplify", "o_voxel.mesh.simplify.simplify"),
        (3, "values.Mesh", "o_voxel.values.Mesh"),
        (5, "x", None),
    ],
)
def test_relative_names_resolve(level: int, name: str, module: str | None):
    assert target(ROOT / "o_voxel" / "mesh" / "connectivity" / "manifold.py", level, name) == module


def test_only_the_standard_library_installs():
    tree = ast.parse((ROOT / "install.py").read_text(encoding="utf-8"))
    names = {name.partition(".")[0] for _, level, name, _ in imports(tree) if level == 0}
    assert names <= {*sys.stdlib_module_names, "__future__"}
