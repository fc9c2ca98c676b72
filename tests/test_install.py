"""install.py: what it reads, what it would run, and that torch is never in what ComfyUI Manager makes it run."""

import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
from comfyui_trellis2 import install
from comfyui_trellis2.install import InstallError, Machine, Requirement, parse_requirement

ROOT = Path(install.__file__).parent
NAMES = [r.name for r in install.read_requirements(ROOT / "requirements.txt")]
COMPLETE = {**dict.fromkeys(NAMES, "9.0"), "torch": "2.13.0+cpu"}
TESTING = {parse_requirement(line).name: "99.0" for line in install.TEST_REQUIREMENTS}


class Commands:
    """A runner that keeps what it is given, with the constraints' text, and answers with `code(command)`."""

    def __init__(self, code: Callable[[list[str]], int] = lambda command: 0) -> None:
        self.code = code
        self.ran: list[list[str]] = []
        self.pins: list[str] = []

    def __call__(self, command: Sequence[str]) -> int:
        self.ran.append(list(command))
        if "-c" in command and "pip" in command:
            self.pins.append(Path(command[list(command).index("-c") + 1]).read_text(encoding="utf-8"))
        return self.code(list(command))


def machine(
    run: Commands,
    versions: Mapping[str, str] = COMPLETE,
    root: Path = ROOT,
    in_venv: bool = True,
    modules: Sequence[str] = ("pip", "venv", "ensurepip"),
) -> Machine:
    return Machine(root, "python", in_venv, lambda: versions, lambda name: name in modules, run)


def without(*names: str) -> dict[str, str]:
    return {name: version for name, version in COMPLETE.items() if name not in names}


@pytest.mark.parametrize(
    ("line", "requirement"),
    [
        ("numpy", Requirement("numpy")),
        (" huggingface_hub ", Requirement("huggingface-hub")),
        ("fast-simplification>=0.2.0", Requirement("fast-simplification", ((">=", "0.2.0"),))),
        ("a.b >= 1.0, <2", Requirement("a-b", ((">=", "1.0"), ("<", "2")))),
    ],
)
def test_requirement_lines(line: str, requirement: Requirement):
    assert parse_requirement(line) == requirement


@pytest.mark.parametrize("line", ["", "numpy~=1.0", "a[b]", "-r x.txt", "a @ file:///x.whl", "a>=1.0; x", "a>=", "a=1"])
def test_richer_requirement_lines_are_refused(line: str):
    with pytest.raises(ValueError, match="expected NAME"):
        parse_requirement(line)


@pytest.mark.parametrize(
    ("bound", "version", "allowed"),
    [
        (">=0.2.0", "0.2", True),
        (">=0.2.0", "0.1.13", False),
        (">=2.9", "2.13.0+cpu", True),
        ("<2", "2.0.0", False),
        ("==2.13.0", "2.13.0+cu130", True),
        ("!=1.0", "1.0.0.post1", False),
        (">1,<=3", "3.0", True),
        (">1,<=3", "3.0.1", False),
    ],
)
def test_bounds_compare_numbers(bound: str, version: str, allowed: bool):
    assert parse_requirement("x" + bound).allows(version) is allowed


def test_a_version_without_numbers_is_refused():
    with pytest.raises(ValueError, match="expected numbers"):
        install.release("unknown")


def test_requirements_file_names_no_torch(tmp_path: Path):
    assert {"torch", "triton"}.isdisjoint(NAMES)
    file = tmp_path / "requirements.txt"
    file.write_text("# a comment\n\nnumpy # why\nTorch>=2\n")
    with pytest.raises(ValueError, match="ComfyUI brings itself, got torch"):
        install.read_requirements(file)


def test_missing_is_absent_or_out_of_bounds():
    wanted = [parse_requirement(line) for line in ("a", "b>=2", "c>=2")]
    assert [str(r) for r in install.missing(wanted, {"b": "1.9", "c": "2.0"})] == ["a", "b>=2"]


def test_installed_versions_sees_this_environment():
    versions = install.installed_versions()
    assert {"numpy", "torch", "pytest"} <= set(versions)
    assert versions["pytest"] == pytest.__version__


def test_nothing_runs_when_all_is_there(capsys: pytest.CaptureFixture):
    run = Commands()
    assert install.main([], machine(run)) == 0
    assert run.ran == []
    assert f"all {len(NAMES)} are present" in capsys.readouterr().out


@pytest.mark.parametrize("torch", ["2.13.0+cpu", None])
def test_manager_mode_only_adds_and_never_torch(torch: str | None):
    versions = without("scipy", "torch") | {"fast-simplification": "0.1.0", "other": "1.2"}
    versions |= {"torch": torch} if torch else {}
    run = Commands()
    assert install.main([], machine(run, versions, in_venv=False)) == 0
    (command,) = run.ran
    assert command[:3] == ["python", "-m", "pip"]
    assert command[-2:] == ["scipy", "fast-simplification>=0.2.0"]
    assert not [word for word in command if word.lower().startswith(("torch", "triton"))]
    pins = run.pins[0].split()
    assert {"numpy==9.0", "other==1.2", "triton<0"} <= set(pins)
    assert ("torch==2.13.0+cpu" if torch else "torch<0") in pins
    assert not [pin for pin in pins if pin.startswith(("scipy", "fast-simplification"))]


def test_one_that_cannot_be_installed_costs_only_itself(capsys: pytest.CaptureFixture):
    run = Commands(lambda command: 7 if "scipy" in command else 0)
    assert install.main([], machine(run, without("scipy", "tqdm"))) == 7
    assert [command[-1] for command in run.ran] == ["tqdm", "scipy", "tqdm"]
    assert "could not install scipy (needed)" in capsys.readouterr().out


def test_an_optional_one_that_cannot_be_installed_is_said_and_passes(capsys: pytest.CaptureFixture):
    run = Commands(lambda command: 1 if "numba" in command else 0)
    assert install.main([], machine(run, without("numba", "tqdm"))) == 0
    assert "could not install numba (optional" in capsys.readouterr().out


def test_uv_serves_where_there_is_no_pip(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(install.shutil, "which", lambda name: "/bin/uv")
    run = Commands()
    assert install.main([], machine(run, without("tqdm"), modules=())) == 0
    assert run.ran[0][:5] == ["/bin/uv", "pip", "install", "--python", "python"]


def test_neither_pip_nor_uv_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    monkeypatch.setattr(install.shutil, "which", lambda name: None)
    assert install.main([], machine(Commands(), without("tqdm"), modules=())) == 1
    assert "ensurepip" in capsys.readouterr().out


@pytest.mark.parametrize("mode", ["--test", "--demo", "--lint"])
def test_outside_an_environment_the_script_runs_again_in_one(tmp_path: Path, mode: str):
    run = Commands(lambda command: 5 if "install.py" in command[1] else 0)
    assert install.main([mode, "-k", "grid"], machine(run, root=tmp_path, in_venv=False)) == 5
    python = str(install.venv_python(tmp_path))
    assert run.ran == [
        ["python", "-m", "venv", "--clear", str(tmp_path / ".venv")],
        [python, str(tmp_path / "install.py"), mode, "-k", "grid"],
    ]


def existing_venv(root: Path) -> str:
    python = install.venv_python(root)
    python.parent.mkdir(parents=True)
    python.touch()
    return str(python)


def test_a_working_environment_is_used_again(tmp_path: Path):
    python, run = existing_venv(tmp_path), Commands()
    assert install.main(["--test"], machine(run, root=tmp_path, in_venv=False)) == 0
    assert [command[0] for command in run.ran] == [python, python]
    assert "venv" not in run.ran[0] + run.ran[1]


def test_an_environment_without_pip_is_mended_not_cleared(tmp_path: Path):
    python, run = existing_venv(tmp_path), Commands(lambda command: int(install.HAS_PIP in command))
    assert install.ensure_venv(machine(run, root=tmp_path, in_venv=False)) == Path(python)
    assert run.ran[1:] == [["python", "-m", "venv", str(tmp_path / ".venv")]]


def test_without_ensurepip_a_pip_brings_a_pip(tmp_path: Path):
    run = Commands()
    install.ensure_venv(machine(run, root=tmp_path, modules=("venv", "pip")))
    make, bring = run.ran
    assert "--without-pip" in make
    assert bring[-1] == "pip"
    assert Path(bring[bring.index("--target") + 1]).is_relative_to(tmp_path / ".venv")


@pytest.mark.parametrize("modules", [(), ("venv",), ("pip",)])
def test_no_way_to_an_environment_is_said(tmp_path: Path, modules: Sequence[str], capsys: pytest.CaptureFixture):
    assert install.main(["--demo"], machine(Commands(), root=tmp_path, in_venv=False, modules=modules)) == 1
    assert "sudo apt install python3-venv" in capsys.readouterr().out


def test_a_failing_venv_says_what_to_do(tmp_path: Path):
    with pytest.raises(InstallError, match="python3-venv"):
        install.ensure_venv(machine(Commands(lambda command: 1), root=tmp_path))


@pytest.fixture
def copies(tmp_path: Path) -> tuple[Path, Path]:
    """Roots of a copy of the pack without the built-in checkpoint, and of one with it."""
    for name in ("bare", "whole"):
        (tmp_path / name / "trellis2").mkdir(parents=True)
        shutil.copy(ROOT / "trellis2" / "builtin.py", tmp_path / name / "trellis2")
    (tmp_path / "whole" / "assets" / "mini").mkdir(parents=True)
    (tmp_path / "whole" / "assets" / "mini" / "pipeline.json").touch()
    for name in ("bare", "whole"):
        (tmp_path / name / "requirements.txt").touch()
    return tmp_path / "bare", tmp_path / "whole"


def option(command: Sequence[str], name: str) -> str:
    return command[list(command).index(name) + 1]


def test_demo_makes_a_mesh_with_the_built_in_checkpoint(copies: tuple[Path, Path]):
    run = Commands()
    assert install.main(["--demo", "--seed", "3"], machine(run, root=copies[1])) == 0
    (generate,) = (command[3:] for command in run.ran)
    assert generate[:4] == ["generate", install.DEMO_IMAGE, "-o", install.DEMO_OUTPUT]
    assert option(generate, "--model") == "assets/mini"
    assert generate[-2:] == ["--seed", "3"]


def test_demo_without_weights_says_that_its_model_is_random(copies: tuple[Path, Path], capsys: pytest.CaptureFixture):
    run = Commands()
    assert install.main(["--demo"], machine(run, root=copies[0])) == 0
    make, generate = (command[3:] for command in run.ran)
    assert make == ["make-tiny", install.TINY_MODEL] and option(generate, "--model") == install.TINY_MODEL
    assert "the demo's model is random" in capsys.readouterr().out


@pytest.mark.parametrize("copy", [0, 1])
def test_demo_takes_another_picture_and_model(copies: tuple[Path, Path], copy: int, capsys: pytest.CaptureFixture):
    run = Commands()
    own = ["--picture", "my.png", "--model", "owner/name", "--preset", "film"]
    assert install.main(["--demo", *own], machine(run, root=copies[copy])) == 0
    (generate,) = (command[3:] for command in run.ran)
    assert generate[1] == "my.png" and option(generate, "--model") == "owner/name"
    assert generate[-2:] == ["--preset", "film"], "the last of two is the one that counts"
    assert "random" not in capsys.readouterr().out


def test_demo_stops_at_the_first_failure(copies: tuple[Path, Path]):
    run = Commands(lambda command: 4)
    assert install.main(["--demo"], machine(run, root=copies[0])) == 4
    assert len(run.ran) == 1


def test_torch_is_installed_only_where_it_is_absent_and_only_in_an_environment():
    run = Commands()
    assert install.main(["--test"], machine(run, without("torch") | TESTING)) == 0
    assert [command[-1] for command in run.ran] == [install.TORCH, install.PYTEST]
    assert install.main(["--test"], machine(failing := Commands(lambda command: 3), without("torch"))) == 3
    assert len(failing.ran) == 1


def test_tests_get_their_arguments_and_their_exit_code_is_passed_on():
    run = Commands(lambda command: 2)
    assert install.main(["--test", "tests/test_x.py", "-k", "a"], machine(run, COMPLETE | TESTING)) == 2
    assert run.ran == [["python", "-c", install.PYTEST, "tests/test_x.py", "-k", "a"]]


@pytest.mark.parametrize("arguments", [["--what"], ["x", "--test"], ["--demo", "--test"], ["--accelerator"]])
def test_unknown_arguments_are_refused(arguments: Sequence[str]):
    with pytest.raises(SystemExit) as stop:
        install.main(arguments, machine(run := Commands()))
    assert stop.value.code == 2
    assert run.ran == []


def test_run_cli_loads_this_tree_and_passes_the_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "trellis2").mkdir()
    (tmp_path / "__init__.py").touch()
    (tmp_path / "trellis2" / "__init__.py").touch()
    (tmp_path / "trellis2" / "cli.py").write_text("def main(argv):\n    return len(argv)\n")
    monkeypatch.setattr(install, "ALIAS", "install_probe")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    try:
        assert install.main(["--run-cli", "generate", "--test", "x"], machine(Commands(), root=tmp_path)) == 3
        assert str(tmp_path) not in sys.path
    finally:
        for name in [name for name in sys.modules if name.startswith("install_probe")]:
            del sys.modules[name]


def test_an_interrupt_is_130():
    def stop(command: list[str]) -> int:
        raise KeyboardInterrupt

    assert install.main(["--test"], machine(Commands(stop), COMPLETE | TESTING)) == 130


def test_an_accelerator_without_a_build_is_said(capsys: pytest.CaptureFixture):
    run = Commands()
    assert install.main(["--accelerator", "no-such-thing"], machine(run)) == 1
    assert "no-such-thing: no build is listed" in capsys.readouterr().out
    assert run.ran == []
    sys.modules.pop(f"{install.ALIAS}_wheels_resolve")


def test_the_real_machine_describes_this_interpreter():
    here = install.this_machine()
    assert (here.root, here.python) == (ROOT, sys.executable)
    assert here.has_module("json")
    assert not here.has_module("no_such_module")
    probe = "import os, sys; sys.exit(3 if os.getcwd() == sys.argv[1] else 4)"
    assert here.run([sys.executable, "-c", probe, str(ROOT)]) == 3
