"""The container files and the installer: what they name exists and agrees, and no registry's host is written."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from comfyui_trellis2 import install

ROOT = Path(install.__file__).parent
DOCKERFILE = (ROOT / "container" / "Dockerfile").read_text(encoding="utf-8")
COMPOSE = (ROOT / "container" / "compose.yaml").read_text(encoding="utf-8")
REGISTRIES = re.compile(
    r"pypi\.org|pythonhosted\.org|download\.pytorch\.org|pypi\.nvidia|anaconda\.org|--(extra-)?index-url"
)


def test_the_image_has_the_installers_torch():
    assert f"ARG TORCH_VERSION={install.torch_build.TORCH.partition('==')[2]}\n" in DOCKERFILE


def test_what_the_dockerfile_copies_and_runs_exists():
    ignored = (ROOT / "container" / "Dockerfile.dockerignore").read_text(encoding="utf-8").split("\n")
    kept = {"install.py", "wheels", "nodes", "trellis2", "o_voxel", "assets", "requirements.txt", "workflows", "web"}
    assert kept.isdisjoint(ignored) and all((ROOT / name).exists() for name in kept)
    assert DOCKERFILE.count("custom_nodes/ComfyUI-TRELLIS2/install.py") == 2


def test_compose_uses_the_dockerfiles_arguments_and_folders():
    arguments = set(re.findall(r"^ARG (\w+)", DOCKERFILE, re.MULTILINE))
    used = {name for block in re.findall(r"args: \{(.*)\}", COMPOSE) for name in re.findall(r"(\w+):", block)}
    assert used and used <= arguments
    assert set(re.findall(r"dockerfile: (\S+)", COMPOSE)) == {"container/Dockerfile"}
    for folder in re.findall(r"- \S+:(/opt/comfyui/\S+)", COMPOSE):
        name = folder.removeprefix("/opt/comfyui/")
        assert name in DOCKERFILE, f"the image does not make {folder}, which its user could then not write to"
    assert "127.0.0.1:8188:8188" in COMPOSE


@pytest.mark.parametrize("name", ["wheels", "container", "docs/install", "install.py", "requirements.txt"])
def test_no_registrys_host_is_written(name: str):
    path = ROOT / name
    files = (
        [path]
        if path.is_file()
        else [file for file in path.rglob("*") if file.suffix in (".py", ".json", ".md", ".js", "")]
    )
    texts = {file: file.read_text(encoding="utf-8") for file in files if file.is_file()}
    assert texts and [str(file) for file, text in texts.items() if REGISTRIES.search(text)] == []


def test_the_installer_starts_on_a_bare_python():
    """No site-packages, no environment: as on a machine that has nothing yet."""
    command = [sys.executable, "-I", "-S", str(ROOT / "install.py"), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "") and "--check-wheel" in done.stdout
