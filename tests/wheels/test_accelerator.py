"""Adding an accelerator: whole or undone, whatever fails, with a pip of the test's own into a folder of its own."""

import errno
import hashlib
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import textwrap
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from comfyui_trellis2.wheels import accelerator, recipes, transaction
from comfyui_trellis2.wheels.accelerator import Request, add_accelerator
from comfyui_trellis2.wheels.check.libraries import Libraries
from comfyui_trellis2.wheels.check.machine import Card
from comfyui_trellis2.wheels.check.machine import Machine as Here
from comfyui_trellis2.wheels.check.tags import this_python
from comfyui_trellis2.wheels.environment import InstallError, Machine
from comfyui_trellis2.wheels.resolve import Index, Package, Wheel

from .binaries import elf, fatbin, wheel

NEW = "fastmesh-2.0-py3-none-any.whl"
PACKAGE = Package(
    name="fastmesh", probe="import fastmesh", licence="MIT", use="tests", recipe=("make {arch} {folder}",)
)


class Site:
    """A folder of packages, with a pip that unpacks and deletes. `fail`: what goes wrong: "half", "stop", "torch"."""

    def __init__(self, base: Path) -> None:
        self.path, self.house, self.fail = base / "site", base / "house", ""
        self.path.mkdir()
        self.house.mkdir()
        self.ran: list[list[str]] = []
        self.add("torch-2.8.0-py3-none-any.whl", {"torch.py": "version = 2.8"})

    def add(self, name: str, files: dict) -> None:
        with zipfile.ZipFile(wheel(self.house, name, files)) as archive:
            archive.extractall(self.path)
        (self.house / name).unlink()

    def versions(self) -> dict[str, str]:
        found = importlib.metadata.distributions(path=[str(self.path)])
        return {one.metadata["Name"]: one.version for one in found if one.metadata["Name"]}

    def files(self) -> dict[str, bytes]:
        return {
            str(file.relative_to(self.path)): file.read_bytes()
            for file in sorted(self.path.rglob("*"))
            if file.is_file()
        }

    def remove(self, name: str) -> None:
        found = transaction.distribution(self.path, name)
        for file in (found.files or ()) if found else ():
            Path(str(found.locate_file(file))).unlink(missing_ok=True)

    def __call__(self, command: Sequence[str]) -> int:
        self.ran.append(list(command))
        if command[1] == "-c":
            code = f"import sys; sys.path.insert(0, {str(self.path)!r})\n{command[2]}"
            return subprocess.run([sys.executable, "-c", code], check=False).returncode
        if "uninstall" in command:
            for name in command[command.index("-y") + 1 :]:
                self.remove(name)
        elif command[-1].endswith(".whl"):
            return self.install(Path(command[-1]))
        return 0

    def install(self, file: Path) -> int:
        self.remove(file.name.partition("-")[0])
        with zipfile.ZipFile(file) as archive:
            for name in archive.namelist():
                archive.extract(name, self.path)
                if self.fail == "half":
                    return 1
                if self.fail == "stop":
                    raise KeyboardInterrupt
        if self.fail == "torch":
            self.remove("torch")
            self.add("torch-2.9.0-py3-none-any.whl", {"torch.py": "version = 2.9"})
        return 0


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    site = Site(tmp_path)
    monkeypatch.setattr(accelerator, "site_packages", lambda: site.path)
    return site


def add(
    site: Site, package: Package = PACKAGE, *, offline: bool = True, wheels: Sequence[Wheel] = (), **request
) -> int:
    machine = Machine(
        site.path, sys.executable, True, site.versions, lambda name: True, site, site.house if offline else None
    )
    here = Here(python=this_python(), libraries=Libraries([]))
    return add_accelerator(
        machine, Request(package.name, **request), here, Index({package.name: package}, tuple(wheels))
    )


def test_what_works_is_installed_once(site: Site, capsys: pytest.CaptureFixture):
    wheel(site.house, NEW, {"fastmesh/__init__.py": "import torch"})
    wheel(site.house, "fastmesh-1.9-py3-none-any.whl", {"fastmesh.py": "1/0"})
    assert add(site) == 0
    assert site.versions() == {"torch": "2.8.0", "fastmesh": "2.0"}
    assert not (site.path / transaction.FOLDER).exists()
    assert "fastmesh is installed and works. Licence: MIT" in capsys.readouterr().out
    installs = [command for command in site.ran if "install" in command]
    assert all("--no-index" in command for command in installs)
    assert "--no-deps" in installs[0] and "-c" in installs[1]
    site.ran.clear()
    assert add(site) == 0
    assert [command for command in site.ran if "install" in command] == []
    assert "nothing to do" in capsys.readouterr().out


OLD_FILES = {"fastmesh/__init__.py": "old = 1", "fastmesh/gone.py": "x = 1", "fastmesh/data/a.bin": bytes(range(256))}


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("fail", ["probe", "half", "torch"])
def test_what_fails_is_undone(site: Site, capsys: pytest.CaptureFixture, before: bool, fail: str):
    if before:
        site.add("fastmesh-1.0-py3-none-any.whl", OLD_FILES)
    was = site.files()
    wheel(site.house, NEW, {"fastmesh/__init__.py": "raise OSError('no such symbol')", "fastmesh/more.py": ""})
    site.fail = fail
    if fail == "torch":
        wheel(site.house, NEW, {"fastmesh/__init__.py": ""})
        assert add(site) == 1
        assert "it changed torch; install again: torch==2.8.0" in capsys.readouterr().out
        assert site.versions().get("fastmesh") == ("1.0" if before else None)
        return
    assert add(site) == 1
    assert site.files() == was
    assert "all is as it was before" in capsys.readouterr().out
    assert (site.path / "fastmesh").exists() is before


def test_an_interrupt_is_undone_and_goes_on(site: Site):
    site.add("fastmesh-1.0-py3-none-any.whl", OLD_FILES)
    was = site.files()
    wheel(site.house, NEW, {"fastmesh/__init__.py": ""})
    site.fail = "stop"
    with pytest.raises(KeyboardInterrupt):
        add(site)
    assert site.files() == was


KILLED = """
import os, sys, zipfile
from pathlib import Path
sys.path.insert(0, sys.argv[4])
import wheels.transaction as transaction
site, wheel = Path(sys.argv[1]), Path(sys.argv[2])
with transaction.locked(site) as folder:
    if sys.argv[3] == "kept":
        transaction._files_of = lambda *a: os._exit(9)
    transaction.begin(folder, site, "fastmesh", wheel)
    (site / "fastmesh" / "gone.py").unlink()
    (site / "fastmesh-1.0.dist-info" / "RECORD").unlink()
    (site / "fastmesh" / "data").rename(site / "~astmesh")
    zipfile.ZipFile(wheel).extract("fastmesh/__init__.py", site)
    os._exit(9)
"""


@pytest.mark.parametrize("when", ["kept", "half"])
def test_a_kill_is_undone_at_the_next_start(site: Site, capsys: pytest.CaptureFixture, when: str):
    site.add("fastmesh-1.0-py3-none-any.whl", OLD_FILES)
    was = site.files()
    file = wheel(site.house, NEW, {"fastmesh/__init__.py": "new = 1"})
    root = str(Path(accelerator.__file__).parents[1])
    done = subprocess.run([sys.executable, "-c", KILLED, site.path, file, when, root], check=False)
    assert done.returncode == 9
    assert (site.files() != was) and (site.path / transaction.FOLDER).exists()
    file.unlink()
    assert add(site) == 1  # the folder has no build any more; what was interrupted is undone first
    assert site.files() == was
    assert ("was interrupted" in capsys.readouterr().out) is (when == "half")


def test_two_processes_do_not_install_at_once(site: Site):
    hold = "import sys; sys.path.insert(0, sys.argv[2])\nimport wheels.transaction as t; from pathlib import Path\n"
    hold += "with t.locked(Path(sys.argv[1])):\n    print('held', flush=True)\n    sys.stdin.read()"
    root = str(Path(accelerator.__file__).parents[1])
    command = [sys.executable, "-c", hold, site.path, root]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(InstallError, match="another install"):
            add(site)
        other.stdin.close()
    wheel(site.house, NEW, {"fastmesh.py": ""})
    assert add(site) == 0


def test_a_folder_that_cannot_be_written_is_said(site: Site):
    (site.path / transaction.FOLDER).write_text("a file where the folder should be")
    with pytest.raises(InstallError, match=r"cannot be written to: .*; nothing was changed"):
        add(site)


def test_a_full_disk_changes_nothing(site: Site, monkeypatch: pytest.MonkeyPatch):
    site.add("fastmesh-1.0-py3-none-any.whl", OLD_FILES)
    was = site.files()
    wheel(site.house, NEW, {"fastmesh.py": ""})

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(transaction.shutil, "copy2", full)
    with pytest.raises(InstallError, match="No space left on device; nothing was changed"):
        add(site)
    assert site.files() == was


def test_a_wheel_that_would_not_load_is_not_installed(site: Site, capsys: pytest.CaptureFixture):
    was = site.files()
    tag = f"cp{sys.version_info[0]}{sys.version_info[1]}-none-{this_python().platform}"
    wheel(site.house, f"fastmesh-2.0-{tag}.whl", {"fastmesh.so": elf(needed=("libnowhere.so.7",))})
    if sys.platform != "linux":
        pytest.skip("the libraries of this test are for Linux")
    assert add(site) == 1
    assert add(site, dry_run=True) == 1
    said = capsys.readouterr().out
    assert "needs libnowhere.so.7" in said and "make 8.0;8.6;8.9;9.0;12.0 wheelhouse" in said and "would refuse" in said
    assert site.files() == was and site.ran == []


def test_a_dry_run_changes_nothing(site: Site, capsys: pytest.CaptureFixture):
    was = site.files()
    wheel(site.house, NEW, {"fastmesh.py": ""})
    assert add(site, dry_run=True) == 0
    row = Wheel(
        package="fastmesh",
        version="2.0",
        platform="any",
        python="any",
        torch="any",
        cuda="any",
        file=NEW,
        sha256="1" * 64,
    )
    assert add(site, offline=False, wheels=[row], dry_run=True) == 0
    said = capsys.readouterr().out
    assert f"would install {NEW}" in said and f"would download fastmesh==2.0 with SHA-256 {'1' * 64}" in said
    assert site.files() == was and site.ran == []


def test_a_build_is_downloaded_by_its_checksum(site: Site, monkeypatch: pytest.MonkeyPatch):
    file = wheel(site.house, NEW, {"fastmesh.py": ""})
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    row = Wheel(
        package="fastmesh",
        version="2.0",
        platform="any",
        python="any",
        torch="any",
        cuda="any",
        file=NEW,
        sha256=digest,
    )
    asked = []

    def run(command: Sequence[str]) -> int:
        if "download" in command:
            asked.append(Path(command[command.index("-r") + 1]).read_text())
            shutil.copy(file, command[-1])
            return 0
        return site(command)

    machine = Machine(site.path, sys.executable, True, site.versions, lambda name: True, run)
    here = Here(python=this_python(), libraries=Libraries([]))
    index = Index({"fastmesh": PACKAGE}, (replace(row, sha256="2" * 64),))
    with pytest.raises(InstallError, match="expected SHA-256 222"):
        add_accelerator(machine, Request("fastmesh"), here, index)
    assert "fastmesh" not in site.versions()
    assert add_accelerator(machine, Request("FastMesh"), here, Index({"fastmesh": PACKAGE}, (row,))) == 0
    assert asked[-1] == f"fastmesh==2.0 --hash=sha256:{digest}\n"
    assert site.versions()["fastmesh"] == "2.0"


def test_a_damaged_wheelhouse_is_said(site: Site):
    wheel(site.house, NEW, {"fastmesh.py": ""})
    (site.house / accelerator.MANIFEST).write_text(json.dumps({"files": {NEW: "3" * 64}}))
    with pytest.raises(InstallError, match="it is damaged; make the wheelhouse again"):
        add(site)
    (site.house / accelerator.MANIFEST).write_text("[1")
    with pytest.raises(InstallError, match="make the wheelhouse again"):
        add(site)


def test_a_licence_that_is_not_free_is_asked(site: Site, capsys: pytest.CaptureFixture):
    wheel(site.house, NEW, {"fastmesh.py": ""})
    package = replace(PACKAGE, consent=True, licence="non-commercial")
    assert add(site, package) == 1
    assert "add --accept-licence" in capsys.readouterr().out
    assert add(site, package, consent=True) == 0


def test_where_a_build_is_published_is_said(site: Site, capsys: pytest.CaptureFixture):
    row = Wheel(package="fastmesh", version="2.0", platform="any", python="any", torch="any", cuda="any", file=NEW,
                sha256="1" * 64, source="github:owner/fastmesh@v2.0")  # fmt: skip
    assert add(site, offline=False, wheels=[row]) == 1
    assert f"{NEW} is published by the GitHub project owner/fastmesh, v2.0" in capsys.readouterr().out


def test_no_build_gives_the_recipe_for_this_card(capsys: pytest.CaptureFixture):
    cards = (Card("RTX 4090", (8, 9)), Card("RTX 5090", (12, 0)), Card("RTX 4090", (8, 9)))
    here = Here(python=this_python(), libraries=Libraries([]), cards=cards)
    package = replace(PACKAGE, recipe=("TORCH_CUDA_ARCH_LIST={arch} FLASH={majors} make",))
    lines = recipes.recipe(package, here)
    assert "  TORCH_CUDA_ARCH_LIST=8.9;12.0 FLASH=80;120 make" in lines
    assert lines[-1] == "  python install.py --accelerator fastmesh --offline wheelhouse"
    assert recipes.recipe(replace(package, recipe=()), here) == []


@pytest.mark.slow
def test_with_pip_in_an_environment(tmp_path: Path):
    """The real pip: installs 1.0, is left with it by a 2.0 that fails, and by one without device code for the card."""
    root, house = Path(accelerator.__file__).parents[1], tmp_path / "house"
    house.mkdir()
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "env")], check=True)
    python = tmp_path / "env" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    code = f"""
        import sys; sys.path.insert(0, {str(root)!r})
        from pathlib import Path
        from wheels import accelerator, environment, resolve
        from wheels.check.libraries import Libraries
        from wheels.check.machine import Card, Machine
        from wheels.check.tags import this_python
        from dataclasses import replace
        machine = replace(environment.this_machine(Path({str(tmp_path)!r})), offline=Path({str(house)!r}))
        package = resolve.Package(name="fastmesh", probe="import fastmesh", licence="MIT", use="tests")
        here = Machine(python=this_python(), libraries=Libraries([]), cards=(Card("RTX 5090", (12, 0)),))
        sys.exit(accelerator.add_accelerator(machine, accelerator.Request("fastmesh"), here,
            resolve.Index({{"fastmesh": package}})))
    """
    command = [python, "-c", textwrap.dedent(code)]

    def installed() -> str:
        show = "import fastmesh, importlib.metadata as m; print(fastmesh.value, m.version('fastmesh'))"
        return subprocess.run([python, "-c", show], capture_output=True, text=True, check=False).stdout

    wheel(house, "fastmesh-1.0-py3-none-any.whl", {"fastmesh/__init__.py": "value = 1"})
    assert subprocess.run(command, check=False).returncode == 0
    assert installed() == "1 1.0\n"
    wheel(house, NEW, {"fastmesh/__init__.py": "import nothing_of_this_name", "fastmesh/b.py": ""})
    assert subprocess.run(command, check=False).returncode == 1
    assert installed() == "1 1.0\n"
    if sys.platform == "linux":
        tag = f"cp{sys.version_info[0]}{sys.version_info[1]}-none-{this_python().platform}"
        code = elf(sections={".nv_fatbin": fatbin("sm_80")}, machine=62 if "x86" in tag else 183)
        wheel(house, f"fastmesh-3.0-{tag}.whl", {"fastmesh/__init__.py": "value = 3", "fastmesh/x.so": code})
        assert subprocess.run(command, check=False).returncode == 1
    assert installed() == "1 1.0\n"
