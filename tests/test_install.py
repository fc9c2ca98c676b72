"""install.py: what it reads, what it would run, and that torch is never in what ComfyUI Manager makes it run."""

import importlib.metadata
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
from comfyui_trellis2 import install
from comfyui_trellis2.install import InstallError, Machine, environment, requirements, torch_build

Requirement, parse_requirement = requirements.Requirement, requirements.parse_requirement

ROOT = Path(install.__file__).parent
NAMES = [r.name for r in requirements.read_requirements(ROOT / "requirements.txt")]
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
        requirements.release("unknown")


def test_requirements_file_names_no_torch(tmp_path: Path):
    assert {"torch", "triton"}.isdisjoint(NAMES)
    file = tmp_path / "requirements.txt"
    file.write_text("# a comment\n\nnumpy # why\nTorch>=2\n")
    with pytest.raises(ValueError, match="ComfyUI brings itself, got torch"):
        requirements.read_requirements(file)


def test_missing_is_absent_or_out_of_bounds():
    wanted = [parse_requirement(line) for line in ("a", "b>=2", "c>=2")]
    assert [str(r) for r in requirements.missing(wanted, {"b": "1.9", "c": "2.0"})] == ["a", "b>=2"]


def test_installed_versions_sees_this_environment():
    versions = requirements.installed_versions()
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
    monkeypatch.setattr(shutil, "which", lambda name: "/bin/uv")
    run = Commands()
    assert install.main([], machine(run, without("tqdm"), modules=())) == 0
    assert run.ran[0][:5] == ["/bin/uv", "pip", "install", "--python", "python"]


def test_neither_pip_nor_uv_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert install.main([], machine(Commands(), without("tqdm"), modules=())) == 1
    assert "ensurepip" in capsys.readouterr().out


@pytest.mark.parametrize("mode", ["--test", "--test-kernels", "--demo", "--lint", "--types"])
def test_outside_an_environment_the_script_runs_again_in_one(tmp_path: Path, mode: str):
    run = Commands(lambda command: 5 if "install.py" in command[1] else 0)
    assert install.main([mode, "-k", "grid"], machine(run, root=tmp_path, in_venv=False)) == 5
    python = str(environment.venv_python(tmp_path))
    assert run.ran == [
        ["python", "-m", "venv", "--clear", str(tmp_path / ".venv")],
        [python, str(tmp_path / "install.py"), mode, "-k", "grid"],
    ]


def test_types_are_checked_under_the_name_of_the_package(tmp_path: Path):
    """mypy refuses a package in a folder such as trellis2-assets, whose name is none in Python."""
    (tmp_path / "requirements.txt").touch()
    (tmp_path / "o_voxel").mkdir()
    run = Commands()
    assert install.main(["--types", "--strict"], machine(run, {"torch": "2.7", "mypy": "2.4.1"}, root=tmp_path)) == 0
    (command,) = run.ran
    assert command[1:4] == ["-m", "mypy", "--strict"]
    assert (tmp_path / command[4]).samefile(tmp_path / "o_voxel")
    assert Path(command[4]).parent.name == install.ALIAS
    assert install.main(["--types"], machine(run, {"torch": "2.7", "mypy": "2.4.1"}, root=tmp_path)) == 0


def existing_venv(root: Path) -> str:
    python = environment.venv_python(root)
    python.parent.mkdir(parents=True)
    python.touch()
    return str(python)


def test_a_working_environment_is_used_again(tmp_path: Path):
    python, run = existing_venv(tmp_path), Commands()
    assert install.main(["--test"], machine(run, root=tmp_path, in_venv=False)) == 0
    assert [command[0] for command in run.ran] == [python, python]
    assert "venv" not in run.ran[0] + run.ran[1]


def test_an_environment_without_pip_is_mended_not_cleared(tmp_path: Path):
    python, run = existing_venv(tmp_path), Commands(lambda command: int(environment.HAS_PIP in command))
    assert environment.ensure_venv(machine(run, root=tmp_path, in_venv=False)) == Path(python)
    assert run.ran[1:] == [["python", "-m", "venv", str(tmp_path / ".venv")]]


def test_without_ensurepip_a_pip_brings_a_pip(tmp_path: Path):
    run = Commands()
    environment.ensure_venv(machine(run, root=tmp_path, modules=("venv", "pip")))
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
        environment.ensure_venv(machine(Commands(lambda command: 1), root=tmp_path))


@pytest.fixture
def nvidia(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with an NVIDIA GPU, whatever this one has."""
    monkeypatch.setattr(torch_build, "find_gpu", lambda: "nvidia")


@pytest.fixture
def copies(tmp_path: Path) -> tuple[Path, Path]:
    """Roots of a copy of the pack without the built-in checkpoint, and of one with it."""
    for name in ("bare", "whole"):
        folder = tmp_path / name / "trellis2" / "checkpoint"
        folder.mkdir(parents=True)
        shutil.copy(ROOT / "trellis2" / "checkpoint" / "builtin.py", folder)
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
    assert run.ran[0][:3] == ["python", str(copies[1] / "install.py"), "--run-cli"]
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


def test_torch_is_installed_only_where_it_is_absent_and_only_in_an_environment(nvidia: None):
    run = Commands()
    assert install.main(["--test"], machine(run, without("torch") | TESTING)) == 0
    torch, tests = run.ran
    assert torch[-1] == torch_build.TORCH and tests[2] == install.PYTEST
    assert install.main(["--test"], machine(failing := Commands(lambda command: 3), without("torch"))) == 3
    assert len(failing.ran) == 1


def test_tests_get_their_arguments_and_their_exit_code_is_passed_on():
    run = Commands(lambda command: 2)
    assert install.main(["--test", "tests/test_x.py", "-k", "a"], machine(run, COMPLETE | TESTING)) == 2
    assert run.ran == [["python", "-c", install.PYTEST, *install.PARALLEL, "tests/test_x.py", "-k", "a"]]


def test_fast_leaves_out_what_is_slow_and_what_needs_a_gpu():
    run = Commands()
    assert install.main(["--test", "--fast", "-k", "a"], machine(run, COMPLETE | TESTING)) == 0
    assert run.ran[0][-4:] == ["-m", "not slow and not gpu", "-k", "a"]


@pytest.mark.parametrize(
    ("installed", "other"), [("3.9.0", f"triton=={install.TRITON_PINNED}"), (install.TRITON_PINNED, "triton")]
)
def test_kernels_are_tested_under_the_triton_that_is_not_installed(installed: str, other: str):
    run = Commands()
    assert install.main(["--test-kernels", "-x"], machine(run, COMPLETE | TESTING | {"triton": installed})) == 0
    add, test = run.ran
    assert add[:3] == ["python", "-m", "pip"] and add[-1] == other and "--no-deps" in add
    assert test[:2] == ["env", f"PYTHONPATH={option(add, '--target')}"], "before the environment's own, for this run"
    assert test[2:5] == ["python", "-c", install.PYTEST] and test[-3:] == ["-m", "triton", "-x"]
    assert not Path(option(add, "--target")).exists()


def test_a_second_triton_that_does_not_install_fails_the_kernels_tests():
    run = Commands(lambda command: 6 if "--target" in command else 0)
    assert install.main(["--test-kernels"], machine(run, COMPLETE | TESTING | {"triton": "3.9.0"})) == 6
    assert len(run.ran) == 1


def test_without_triton_there_are_no_kernels_to_test(capsys: pytest.CaptureFixture):
    versions = {name: version for name, version in (COMPLETE | TESTING).items() if name != "triton"}
    run = Commands()
    assert install.main(["--test-kernels"], machine(run, versions)) == 0
    assert not any(install.PYTEST in command for command in run.ran)
    assert "there is no kernel to test" in capsys.readouterr().out


def test_the_pinned_triton_is_what_torch_requires():
    """Where torch's metadata names it: its build with CUDA for Linux."""
    if not (wanted := pinned_by_torch(importlib.metadata.requires("torch"))):
        pytest.skip("this build of torch names no Triton")
    if importlib.metadata.version("torch").partition("+")[0] != torch_build.TORCH.partition("==")[2]:
        pytest.skip("another torch than install.py's")
    assert wanted == [install.TRITON_PINNED]


def pinned_by_torch(required: list[str] | None) -> list[str]:
    lines = [line.partition(";")[0].strip() for line in required or []]
    return [line.partition("==")[2] for line in lines if line.startswith("triton==")]


def test_the_pin_is_read_from_torchs_metadata():
    lines = ["filelock", 'triton==3.7.1; platform_system == "Linux"', "tritonclient==2"]
    assert pinned_by_torch(lines) == ["3.7.1"]
    assert pinned_by_torch(None) == []


LINUX = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the usual build of torch has no CUDA")


@LINUX
def test_cpu_takes_the_build_that_pip_reaches(copies: tuple[Path, Path]):
    run = Commands()
    assert install.main(["--demo", "--cpu"], machine(run, without("torch"), root=copies[1])) == 0
    assert run.ran[0][-1] == f"{torch_build.TORCH}+cpu"
    assert "--cpu" not in run.ran[-1]


@LINUX
@pytest.mark.parametrize("found", [None, "/bin/uv"])
def test_cpu_takes_uvs_build_where_pip_reaches_none(monkeypatch: pytest.MonkeyPatch, found: str | None):
    monkeypatch.setattr(shutil, "which", lambda name: found)
    run = Commands(lambda command: int(command[-1].endswith("+cpu")))
    assert install.main(["--test", "--cpu"], machine(run, without("torch") | TESTING)) == 0
    steps = run.ran[1:-1]
    assert [step[-1] for step in steps] == ([torch_build.TORCH] if found else ["uv", torch_build.TORCH])
    assert steps[-1][: 1 if found else 3] == ([found] if found else ["python", "-m", "uv"])
    assert option(steps[-1], "--python") == "python" and option(steps[-1], "--torch-backend") == "cpu"


@LINUX
@pytest.mark.parametrize(
    ("gpu", "options", "first"),
    [
        (None, [], "torch==2.13.0+cpu"),
        (None, ["--cuda"], "torch==2.13.0"),
        ("nvidia", [], "torch==2.13.0"),
        ("nvidia", ["--cpu"], "torch==2.13.0+cpu"),
        ("amd", [], "torch==2.13.0"),
    ],
)
def test_torch_is_chosen_by_the_gpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, gpu: str | None, options: Sequence[str], first: str
):
    monkeypatch.setattr(torch_build, "find_gpu", lambda: gpu)
    run = Commands()
    assert install.main(["--test", *options], machine(run, without("torch") | TESTING)) == 0
    assert run.ran[0][-1] == first
    said = capsys.readouterr().out
    assert ("no GPU was found" in said) is (gpu is None and not options)
    assert ("an AMD GPU was found" in said) is (gpu == "amd")


@LINUX
def test_a_build_without_cuda_that_was_not_asked_for_is_no_error(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch_build, "find_gpu", lambda: None)
    run = Commands(lambda command: int("cpu" in command[-1] or "uv" in command))
    assert install.main(["--test"], machine(run, without("torch") | TESTING)) == 0
    assert run.ran[-2][-1] == torch_build.TORCH and "uv" not in run.ran[-2]


def test_the_gpu_is_found_by_what_its_driver_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    driver, kfd = tmp_path / "version", tmp_path / "kfd"
    monkeypatch.setattr(torch_build, "DRIVER_FILES", (str(driver),))
    monkeypatch.setattr(torch_build, "KFD", str(kfd))
    monkeypatch.setattr(torch_build, "nvidia_cards", lambda: ())
    assert torch_build.find_gpu() is None
    kfd.touch()
    assert torch_build.find_gpu() == "amd"
    driver.touch()
    assert torch_build.find_gpu() == "nvidia"
    driver.unlink()
    monkeypatch.setattr(torch_build, "nvidia_cards", lambda: ("RTX 5090",))
    assert torch_build.find_gpu() == "nvidia"


def test_offline_packages_come_from_the_folder_alone(tmp_path: Path):
    run = Commands()
    assert install.main(["--offline", str(tmp_path)], machine(run, without("tqdm"))) == 0
    (command,) = run.ran
    assert option(command, "--find-links") == str(tmp_path) and "--no-index" in command
    run = Commands(lambda command: 1)
    told = ["--test", "--cpu", "--offline", str(tmp_path)]
    assert install.main(told, machine(run, without("torch") | TESTING)) == 1
    assert not [command for command in run.ran if "uv" in command]


def test_offline_is_passed_on_as_a_whole_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    existing_venv(tmp_path)
    (tmp_path / "house").mkdir()
    monkeypatch.chdir(tmp_path)
    for given in (["--offline", "house"], ["--offline=house"]):
        run = Commands()
        assert install.main(["--test", *given, "-x"], machine(run, root=tmp_path, in_venv=False)) == 0
        assert run.ran[-1][2:] == ["--test", "-x", "--offline", str(tmp_path / "house")]


@pytest.mark.parametrize(
    "arguments", [["--dry-run"], ["--accept-licence"], ["--test", "--dry-run"], ["--offline", "nowhere"]]
)
def test_options_of_another_mode_are_refused(arguments: Sequence[str]):
    with pytest.raises(SystemExit):
        install.main(arguments, machine(run := Commands(), without("tqdm")))
    assert run.ran == []


def test_wheels_are_checked(tmp_path: Path, capsys: pytest.CaptureFixture):
    (tmp_path / "x-1.0-py3-none-any.whl").write_bytes(b"")
    assert install.main(["--check-wheel", str(tmp_path / "x-1.0-py3-none-any.whl")], machine(Commands())) == 1
    assert "refused" in capsys.readouterr().out
    assert install.main(["--check-wheel", str(tmp_path / "none-1.0-py3-none-any.whl")], machine(Commands())) == 1
    assert "cannot be checked" in capsys.readouterr().out


@LINUX
def test_no_torch_without_cuda_is_said(capsys: pytest.CaptureFixture):
    run = Commands(lambda command: 1)
    assert install.main(["--demo", "--cpu"], machine(run, without("torch"))) == 1
    assert "say --cuda" in capsys.readouterr().out
    assert not [command for command in run.ran if command[-1] == torch_build.TORCH and "uv" not in command]


@pytest.mark.parametrize("arguments", [["--cpu", "--demo"], ["--fast"], ["--cpu"]])
def test_options_before_the_mode_install_nothing(arguments: Sequence[str]):
    with pytest.raises(SystemExit):
        install.main(arguments, machine(run := Commands(), without("tqdm")))
    assert run.ran == []


@pytest.mark.parametrize("arguments", [["--what"], ["x", "--test"], ["--demo", "--test"], ["--accelerator"]])
def test_unknown_arguments_are_refused(arguments: Sequence[str]):
    with pytest.raises(SystemExit) as stop:
        install.main(arguments, machine(run := Commands()))
    assert stop.value.code == 2
    assert run.ran == []


def test_run_cli_loads_this_tree_and_passes_the_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    commands = tmp_path / "trellis2" / "cli"
    commands.mkdir(parents=True)
    for folder in (tmp_path, commands.parent, commands):
        (folder / "__init__.py").touch()
    (commands / "main.py").write_text("def main(argv):\n    return len(argv)\n")
    monkeypatch.setattr(install, "ALIAS", "install_probe")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    try:
        here = machine(run := Commands(), root=tmp_path, modules=("torch",))
        assert install.main(["--run-cli", "generate", "--test", "x"], here) == 3
        assert run.ran == []
        assert str(tmp_path) not in sys.path
    finally:
        for name in [name for name in sys.modules if name.startswith("install_probe")]:
            del sys.modules[name]


def test_run_cli_without_torch_runs_in_the_environment_that_the_demo_made(
    tmp_path: Path, capsys: pytest.CaptureFixture
):
    python, run = existing_venv(tmp_path), Commands(lambda command: 3 if "--run-cli" in command else 0)
    assert install.main(["--run-cli", "doctor", "--x"], machine(run, root=tmp_path, in_venv=False)) == 3
    assert run.ran[-1] == [python, str(tmp_path / "install.py"), "--run-cli", "doctor", "--x"]
    assert "in .venv" in capsys.readouterr().err


def test_run_cli_without_torch_makes_an_environment(tmp_path: Path):
    run = Commands()
    assert install.main(["--run-cli", "doctor"], machine(run, root=tmp_path, in_venv=False)) == 0
    assert run.ran[0][:3] == ["python", "-m", "venv"]
    assert run.ran[1][0] == str(environment.venv_python(tmp_path)) and run.ran[1][-2:] == ["--run-cli", "doctor"]


def test_run_cli_in_an_environment_without_torch_installs_it_first(copies: tuple[Path, Path], nvidia: None):
    run = Commands(lambda command: 8)
    here = machine(run, without("torch"), root=copies[1])
    assert install.main(["--run-cli", "doctor"], here) == 8
    assert run.ran[0][-1] == torch_build.TORCH


@pytest.mark.skipif(os.name == "nt", reason="the command is a shell script")
def test_the_environments_command_runs_the_tree_with_its_arguments(tmp_path: Path):
    root = tmp_path / "a folder's"
    existing_venv(root)
    environment.venv_python(root).write_text('#!/bin/sh\nprintf "<%s>" "$@"\nexit 9\n')
    environment.venv_python(root).chmod(0o755)
    environment.ensure_venv(machine(Commands(), root=root))
    done = subprocess.run([environment.command_file(root), "a b", "*"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (9, f"<{root / 'install.py'}><--run-cli><a b><*>")


def test_a_command_that_pip_put_there_stays(tmp_path: Path):
    existing_venv(tmp_path)
    file = environment.command_file(tmp_path)
    file.write_text("pip's")
    environment.ensure_venv(machine(Commands(), root=tmp_path))
    assert file.read_text() == "pip's"


def test_an_interrupt_is_130():
    def stop(command: list[str]) -> int:
        raise KeyboardInterrupt

    assert install.main(["--test"], machine(Commands(stop), COMPLETE | TESTING)) == 130


def test_an_accelerator_without_a_build_is_said(capsys: pytest.CaptureFixture):
    run = Commands()
    assert install.main(["--accelerator", "no-such-thing"], machine(run)) == 1
    assert "no-such-thing: no build is listed" in capsys.readouterr().out
    assert run.ran == []


def test_the_real_machine_describes_this_interpreter():
    here = environment.this_machine(ROOT)
    assert (here.root, here.python) == (ROOT, sys.executable)
    assert here.has_module("json")
    assert not here.has_module("no_such_module")
    probe = "import os, sys; sys.exit(3 if os.getcwd() == sys.argv[1] else 4)"
    assert here.run([sys.executable, "-c", probe, str(ROOT)]) == 3
