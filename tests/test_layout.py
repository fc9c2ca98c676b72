"""The layout and the budgets that the code keeps."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("nodes", "trellis2", "o_voxel", "wheels", "tools")
MODULES = sorted([*ROOT.glob("*.py"), *(file for name in PACKAGES for file in (ROOT / name).rglob("*.py"))])
TESTS = {file.stem for file in (ROOT / "tests").rglob("test_*.py")}
BENCHES = {file.stem for file in (ROOT / "tests" / "bench").glob("bench_*.py")}
OPS = sorted(
    folder
    for package in ("trellis2", "o_voxel")
    for folder in (ROOT / package / "ops").iterdir()
    if any(folder.glob("*.py"))  # a folder that moved leaves its __pycache__ behind
)
COMPILED = {".c", ".cc", ".cpp", ".cu", ".cuh", ".h", ".hpp", ".pyx", ".so", ".pyd", ".dll", ".dylib", ".whl"}

MODULE_LINES = 400
FUNCTION_LINES = 80
KERNEL_LINES = 150

modules = pytest.mark.parametrize("file", MODULES, ids=lambda file: str(file.relative_to(ROOT)))


def parse(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def functions(tree: ast.Module) -> Iterator[tuple[str, int, int]]:
    """(name, lines without the docstring, allowed lines) of every function; a kernel is one with a jit decorator."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            doc = node.body[0] if ast.get_docstring(node) is not None else None
            lines = node.end_lineno - node.lineno + 1 - (doc.end_lineno - doc.lineno + 1 if doc else 0)
            jit = any("jit" in ast.unparse(decorator) for decorator in node.decorator_list)
            yield node.name, lines, KERNEL_LINES if jit else FUNCTION_LINES


@pytest.mark.parametrize("folder", OPS, ids=lambda folder: folder.name)
def test_an_op_has_a_reference_a_test_and_with_a_kernel_a_bench(folder: Path):
    names = {file.name for file in folder.glob("*.py")}
    assert {"__init__.py", "reference.py"} <= names
    assert f"test_{folder.name}" in TESTS
    if any(re.fullmatch(r"kernel(_cpu.*)?\.py", name) for name in names):
        assert f"bench_{folder.name}" in BENCHES


@pytest.mark.slow
@modules
def test_budgets(file: Path):
    assert len(file.read_text(encoding="utf-8").splitlines()) <= MODULE_LINES
    assert [(name, lines) for name, lines, allowed in functions(parse(file)) if lines > allowed] == []


@pytest.mark.slow
@modules
def test_no_global_no_bare_except_no_star(file: Path):
    wrong = []
    for node in ast.walk(parse(file)):
        star = isinstance(node, ast.ImportFrom) and node.names[0].name == "*"
        bare = isinstance(node, ast.ExceptHandler) and node.type is None
        if star or bare or isinstance(node, ast.Global):
            wrong.append((node.lineno, type(node).__name__))
    assert wrong == []


@pytest.mark.slow
@modules
def test_what_the_linter_is_told_to_pass_has_a_reason(file: Path):
    silenced = [line for line in file.read_text(encoding="utf-8").splitlines() if re.search(r"#\s*(noqa|type:)", line)]
    assert [line for line in silenced if not re.search(r"# noqa: [A-Z]+\d+(, [A-Z]+\d+)* \S+ \S+", line)] == []


def test_every_ignored_rule_has_a_reason():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    everywhere = text.partition("\nignore = [\n")[2].partition("\n]\n")[0].splitlines()
    by_file = text.partition("\n[tool.ruff.lint.per-file-ignores]\n")[2].partition("\n\n")[0].splitlines()
    assert everywhere
    assert by_file
    assert [line for line in everywhere + by_file if len(line.partition("#")[2].split()) < 4] == []


def test_nothing_is_compiled_ahead():
    assert [file for name in PACKAGES for file in (ROOT / name).rglob("*") if file.suffix in COMPILED] == []


def test_every_folder_of_modules_is_a_package():
    folders = {file.parent for file in MODULES}
    assert [folder for folder in sorted(folders) if not (folder / "__init__.py").exists()] == []


def test_the_root_is_not_on_the_path():
    assert ROOT.resolve() not in [Path(entry).resolve() for entry in sys.path]


def test_the_measure_sees_what_is_too_long():
    body = "\n".join(["    x = 1"] * FUNCTION_LINES)
    tree = ast.parse(f'def f():\n    """Doc."""\n{body}\n\n@numba.njit(cache=True)\ndef g():\n{body}\n')
    assert list(functions(tree)) == [("f", FUNCTION_LINES + 1, FUNCTION_LINES), ("g", FUNCTION_LINES + 1, KERNEL_LINES)]


# What would run code or commands from a file or a name, by its dotted name, and what to do instead.
CLOSED = {
    "pickle": "read safetensors, JSON or arrays",
    "marshal": "read safetensors, JSON or arrays",
    "shelve": "read safetensors, JSON or arrays",
    "torch.load": "read safetensors",
    "torch.save": "write safetensors",
    "torch.hub.load": "download named files, and read them",
    "eval": "parse the text",
    "exec": "parse the text",
    "os.system": "pass a list to subprocess.run",
    "os.popen": "pass a list to subprocess.run",
    "subprocess.getoutput": "pass a list to subprocess.run",
    "subprocess.getstatusoutput": "pass a list to subprocess.run",
    "yaml.load": "read JSON",
}


def closed_calls(tree: ast.Module) -> list[str]:
    """What of CLOSED a module imports or calls, and calls with shell, trust_remote_code or allow_pickle."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [name.name for name in node.names if name.name.partition(".")[0] in CLOSED]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found += [
                f"{node.module}.{n.name}" for n in node.names if {node.module, f"{node.module}.{n.name}"} & {*CLOSED}
            ]
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            found += [name] if name in CLOSED else []
            flags = ("shell", "trust_remote_code", "allow_pickle")
            open_ = [k.arg for k in node.keywords if k.arg in flags and ast.unparse(k.value) != "False"]
            found += [f"{name}({flag})" for flag in open_]
            if name in ("np.load", "numpy.load") and "allow_pickle" not in [k.arg for k in node.keywords]:
                found += [f"{name} without allow_pickle=False"]
    return found


@pytest.mark.slow
@modules
def test_no_file_and_no_name_runs_code(file: Path):
    assert closed_calls(parse(file)) == []


def test_the_measure_sees_what_runs_code():
    text = (
        "import pickle\nfrom os import system\nfrom torch import load\neval('1')\ntorch.load(p)\nos.system('ls')\n"
        "subprocess.run('ls', shell=True)\nnp.load(p)\nnp.load(p, allow_pickle=True)\nmodel.eval()\n"
        "subprocess.run(['ls'])\nnp.load(p, allow_pickle=False)\n"
    )
    assert closed_calls(ast.parse(text)) == [
        "pickle",
        "os.system",
        "torch.load",
        "eval",
        "torch.load",
        "os.system",
        "subprocess.run(shell)",
        "np.load without allow_pickle=False",
        "np.load(allow_pickle)",
    ]
