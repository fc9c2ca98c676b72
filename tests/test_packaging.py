"""One tree, three ways in: ComfyUI's load by path, `pip install .`, and what the registry reads."""

import importlib.util
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from comfyui_trellis2 import install
from comfyui_trellis2.install import requirements as reading
from PIL import Image

tomllib = pytest.importorskip("tomllib", reason="tomllib is part of Python since 3.11")

ROOT = Path(__file__).parents[1]
PACKAGES = ("nodes", "trellis2", "o_voxel", "wheels")
SHIPPED = (*PACKAGES, "assets", "subgraphs", "web", "workflows")
BUILD = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"
USE = """
import importlib.metadata, sys
sys.path.insert(0, sys.argv[1])
import comfyui_trellis2.nodes, comfyui_trellis2.o_voxel.core.grid
(distribution,) = importlib.metadata.distributions(name="trellis2-assets", path=[sys.argv[1]])
(script,) = distribution.entry_points.select(group="console_scripts")
assert callable(script.load()), script
assert comfyui_trellis2.__file__.startswith(sys.argv[1])
"""


@pytest.fixture(scope="module")
def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def files(root: Path) -> set[str]:
    """What the package holds: every file of the tree below `root` but the root's own and what git ignores."""
    found = [file for name in SHIPPED for file in (root / name).rglob("*") if file.is_file()]
    found = [file for file in found if "__pycache__" not in file.parts and file.suffix not in (".nbi", ".nbc", ".md")]
    return {file.relative_to(root).as_posix() for file in found}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the built wheel unpacked. The build runs on a copy: setuptools writes into the tree."""
    base = tmp_path_factory.mktemp("wheel")
    skipped = shutil.ignore_patterns(".*", "tests", "output", "build", "__pycache__", "*.nbi", "*.nbc", "*.egg-info")
    shutil.copytree(ROOT, base / "tree", ignore=skipped)
    command = [sys.executable, "-W", "error::UserWarning", "-c", BUILD, str(base)]
    done = subprocess.run(command, cwd=base / "tree", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (wheel,) = base.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(base / "site")
    return base / "site"


def test_a_download_stays_small():
    """40 MB of it are the built-in model. Pictures are WebP or JPEG; weights are committed once a training."""
    assert sum((ROOT / name).stat().st_size for name in files(ROOT)) <= 46e6


def test_the_registry_leaves_out_what_users_do_not_run():
    ignored = (ROOT / ".comfyignore").read_text(encoding="utf-8").split()
    assert {"tests/", "tools/", "docs/training-log.md"} <= set(ignored)
    assert not any(name.rstrip("/").split("/")[0] in SHIPPED for name in ignored)


def test_the_listed_packages_are_those_of_the_tree(project: dict):
    folders = {file.parent.relative_to(ROOT).parts for name in PACKAGES for file in (ROOT / name).rglob("*.py")}
    found = {".".join(("comfyui_trellis2", *parts)) for parts in {(), *folders}}
    listed = project["tool"]["setuptools"]["packages"]
    assert (sorted(found - set(listed)), sorted(set(listed) - found)) == ([], []), "(not listed, not there)"
    assert listed == sorted(listed)


@pytest.mark.slow
def test_the_wheel_holds_the_tree_under_one_name(site: Path):
    names = {entry.name for entry in site.iterdir()}
    (info,) = names - {"comfyui_trellis2"}
    assert info.endswith(".dist-info")
    assert files(site / "comfyui_trellis2") == files(ROOT)


@pytest.mark.slow
def test_the_wheel_imports_and_its_command_loads(site: Path, tmp_path: Path):
    command = [sys.executable, "-B", "-W", "error", "-c", USE, str(site)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_dependencies_are_requirements_and_torch(project: dict):
    dependencies = [reading.parse_requirement(line) for line in project["project"]["dependencies"]]
    requirements = reading.read_requirements(ROOT / "requirements.txt")
    assert dependencies[0].name == "torch"
    assert dependencies[0].allows(install.torch_build.TORCH.partition("==")[2])
    assert dependencies[1:] == requirements
    testing = (line.partition(";") for line in project["project"]["optional-dependencies"]["test"])
    here = [name for name, _, where in testing if not where or sys.platform == "linux"]
    assert tuple(here) == install.TEST_REQUIREMENTS
    assert set(install.environment.OPTIONAL) <= {requirement.name for requirement in requirements}


def test_what_the_registry_reads(project: dict):
    assert re.fullmatch(r"\d+\.\d+\.\d+", project["project"]["version"])
    assert re.fullmatch(r"[a-z][a-z0-9-]{1,98}", project["project"]["name"])
    assert project["project"]["requires-python"] == ">={}.{}".format(*install.OLDEST_PYTHON)
    comfy = project["tool"]["comfy"]
    assert {"PublisherId", "DisplayName", "requires-comfyui"} <= set(comfy)
    # Ids of other packs, which the registry compares in lower case.
    assert project["project"]["name"] not in ("comfyui-trellis2", "trellis2", "trellis2-gguf")
    repository = project["project"]["urls"]["Repository"]
    raw = repository.replace("https://github.com", "https://raw.githubusercontent.com") + "/main/"
    for picture, ratio in (("Icon", 1), ("Banner", 21 / 9)):
        assert comfy[picture].startswith(raw)
        with Image.open(ROOT / comfy[picture].removeprefix(raw)) as image:
            assert image.width / image.height == pytest.approx(ratio, rel=0.01)
            assert picture != "Icon" or image.width <= 400
    assert "MIT License" in (ROOT / "LICENSE").read_text(encoding="utf-8")


@pytest.fixture
def loaded() -> Iterator[ModuleType]:
    """The pack as ComfyUI loads it: by path, under a name made of the path, hyphen and slashes included."""
    name = "/home/me/ComfyUI/custom_nodes/ComfyUI-TRELLIS2-1_x_0"
    spec = importlib.util.spec_from_file_location(name, ROOT / "__init__.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    yield module
    for key in [key for key in sys.modules if key.startswith(name)]:
        del sys.modules[key]


@pytest.mark.slow
def test_comfyui_finds_two_mappings_its_web_folder_and_nothing_else(loaded: ModuleType):
    assert sorted(loaded.__all__) == ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS", "WEB_DIRECTORY"]
    assert (ROOT / loaded.WEB_DIRECTORY).is_dir()
    public = {name for name in vars(loaded) if not name.startswith("_")}
    assert public - set(loaded.__all__) <= set(PACKAGES)


@pytest.mark.slow
def test_comfyui_can_read_every_node(loaded: ModuleType):
    nodes = loaded.NODE_CLASS_MAPPINGS
    assert nodes
    assert set(nodes) == set(loaded.NODE_DISPLAY_NAME_MAPPINGS)
    assert [name for name in nodes if not name.startswith("T2")] == []
    for node in nodes.values():
        assert callable(getattr(node, node.FUNCTION))
        assert "required" in node.INPUT_TYPES()
        assert node.CATEGORY
        assert isinstance(node.RETURN_TYPES, tuple)
