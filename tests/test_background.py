"""install.py has the kernels compiled in the background: what it starts, and when it does not."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from comfyui_trellis2 import install
from comfyui_trellis2.install import Machine, background, requirements

ROOT = Path(install.__file__).parent
NAMES = [r.name for r in requirements.read_requirements(ROOT / "requirements.txt")]
COMPLETE = {**dict.fromkeys(NAMES, "9.0"), "torch": "2.13.0+cpu"}


class Started(list):
    """Keeps the commands that would be started, and answers as `background.start` does."""

    answer = ""

    def __call__(self, command: Sequence[str]) -> str:
        self.append(list(command))
        return self.answer


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(background.VARIABLE, raising=False)


def machine(start: Started, code: int = 0, versions: dict[str, str] = COMPLETE) -> Machine:
    return Machine(ROOT, "python", True, lambda: versions, lambda name: True, lambda command: code, start=start)


def test_an_install_starts_it_and_says_how_to_skip_it(capsys: pytest.CaptureFixture):
    started = Started()
    assert install.main([], machine(started)) == 0
    (command,) = started
    user = ["-s"] if sys.flags.no_user_site else []
    assert command == ["python", *user, str(ROOT / "install.py"), "--run-cli", "precompile", "--comfyui", "--quietly"]
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "compiled in the background" in line]
    assert background.LOG in line and "--no-compile" in line and "TRELLIS2_NO_COMPILE=1" in line


@pytest.mark.parametrize("why", ["option", "variable", "no torch", "a failed install", "no way to start"])
def test_an_install_does_not_start_it(why: str, monkeypatch: pytest.MonkeyPatch):
    started = Started()
    versions = {
        n: v for n, v in COMPLETE.items() if (n, why) not in (("torch", "no torch"), ("scipy", "a failed install"))
    }
    if why == "variable":
        monkeypatch.setenv(background.VARIABLE, "1")
    here = machine(started, code=3 if why == "a failed install" else 0, versions=versions)
    here = replace(here, start=None) if why == "no way to start" else here
    code = install.main(["--no-compile"] if why == "option" else [], here)
    assert code == (3 if why == "a failed install" else 0)
    assert started == []


def test_what_cannot_be_started_fails_no_install(capsys: pytest.CaptureFixture):
    started = Started()
    started.answer = "[Errno 13] Permission denied"
    assert install.main([], machine(started)) == 0
    assert "at their first use" in capsys.readouterr().out


def test_the_option_goes_with_no_job(capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit):
        install.main(["--lint", "--no-compile"], machine(Started()))
    assert "--no-compile" in capsys.readouterr().err


@pytest.mark.parametrize(("value", "skipped"), [(None, False), ("0", False), ("", False), ("1", True), ("yes", True)])
def test_the_variable(value: str | None, skipped: bool):
    assert background.skipped({} if value is None else {background.VARIABLE: value}) is skipped


def test_the_flags_of_each_system():
    assert background.flags("posix") == {"start_new_session": True}
    (flags,) = background.flags("nt").values()
    for name in ("CREATE_NO_WINDOW", "CREATE_NEW_PROCESS_GROUP", "BELOW_NORMAL_PRIORITY_CLASS"):
        value = {"CREATE_NO_WINDOW": 0x08000000, "CREATE_NEW_PROCESS_GROUP": 0x200}.get(name, 0x4000)
        assert flags & getattr(subprocess, name, value) == value
    # Without a console, each of its own children would open a window.
    assert not flags & 0x00000008


def test_it_is_started_with_its_output_in_a_file(tmp_path: Path):
    asked = {}
    assert (
        background.start(["a", "b"], tmp_path, popen=lambda words, **options: asked.update(options, words=words)) == ""
    )
    assert asked["words"] == ["a", "b"] and asked["cwd"] == tmp_path
    assert asked["stdin"] == subprocess.DEVNULL and asked["stderr"] == subprocess.STDOUT
    assert Path(asked["stdout"].name) == tmp_path / background.LOG


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path):
    (tmp_path / "output").touch()
    assert background.start(["a"], tmp_path, popen=lambda *a, **k: pytest.fail("started")) != ""


@pytest.mark.skipif(os.name == "nt", reason="a process group of its own is looked at")
def test_it_outlives_its_parent(tmp_path: Path):
    begun = time.monotonic()
    script = "import os, time; time.sleep(0.3); print('session', os.getsid(0) == os.getpid())"
    child = f"""
import importlib.util, sys
from pathlib import Path
spec = importlib.util.spec_from_file_location("background", {background.__file__!r})
module = importlib.util.module_from_spec(spec); spec.loader.exec_module(module)
assert module.start([sys.executable, "-S", "-c", {script!r}], Path({str(tmp_path)!r})) == ""
"""
    subprocess.run([sys.executable, "-S", "-c", child], check=True)
    log = tmp_path / background.LOG
    assert log.read_text() == "", "the parent has not waited"
    while not log.read_text() and time.monotonic() - begun < 20:
        time.sleep(0.05)
    assert log.read_text() == "session True\n"
