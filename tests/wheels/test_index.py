"""The index of optional accelerators: what it may hold, and which build is picked for which machine."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from comfyui_trellis2.wheels import resolve as wheels
from comfyui_trellis2.wheels.check.tags import platform_name
from comfyui_trellis2.wheels.resolve import Host, Wheel, pick_wheel

ROW = Wheel(
    package="fast-attention",
    version="2.8.1",
    platform="linux_x86_64",
    python="3.11",
    torch="2.13",
    cuda="13.0",
    file="fast_attention-2.8.1-cp311-cp311-manylinux_2_28_x86_64.whl",
    sha256="0" * 64,
)
HOST = Host(platform="linux_x86_64", python="3.11", torch="2.13", cuda="13.0")
PACKAGE = {"probe": "import fast_attention", "licence": "MIT", "use": "attention"}
BUILD = {name: getattr(ROW, name) for name in ("package", "version", "torch", "cuda", "source")}
BUILD["files"] = {ROW.file: ROW.sha256}
FREE = ("MIT", "BSD", "Apache", "MPL")


def written(path: Path, *builds: object, schema: int = 2, package: object = PACKAGE) -> Path:
    path.write_text(json.dumps({"schema": schema, "packages": {"fast-attention": package}, "builds": list(builds)}))
    return path


def test_the_index_of_the_repository_reads_and_its_licences_are_free_or_asked():
    index = wheels.read_index(Path(wheels.__file__).with_name("index.json"))
    assert {"xformers", "flash-attn", "sageattention", "triton-windows", "nvdiffrast", "dracopy"} <= set(index.packages)
    assert [p.name for p in index.packages.values() if not p.licence.startswith(FREE) and not p.consent] == []
    assert index.packages["nvdiffrast"].consent
    assert not any(index.packages[wheel.package].consent for wheel in index.wheels)
    for package in index.packages.values():
        for line in package.recipe:
            assert "://" not in line and line.format(arch="9.0", majors="90", gfx="gfx90a", folder="x")
        assert package.recipe or any(wheel.package == package.name for wheel in index.wheels)


def test_a_build_becomes_a_row_for_each_file(tmp_path: Path):
    other = "fast_attention-2.8.1-cp39-abi3-win_amd64.whl"
    build = BUILD | {"files": {ROW.file: ROW.sha256, other: "1" * 64}}
    index = wheels.read_index(written(tmp_path / "i.json", build, package={**PACKAGE, "recipe": ["make {arch}"]}))
    assert index.wheels == (ROW, replace(ROW, file=other, sha256="1" * 64, platform="win_amd64", python="3.9+"))
    assert index.packages["fast-attention"].recipe == ("make {arch}",)


@pytest.mark.parametrize(
    ("tags", "columns"),
    [
        ("cp311-cp311-manylinux_2_24_aarch64.manylinux_2_28_aarch64", ("linux_aarch64", "3.11")),
        ("cp39-abi3-manylinux2014_x86_64", ("linux_x86_64", "3.9+")),
        ("py39-none-win_amd64", ("win_amd64", "3.9+")),
        ("cp314-cp314-macosx_11_0_arm64", ("macosx_arm64", "3.14")),
        ("cp311-cp311-musllinux_1_2_x86_64", ("musllinux_x86_64", "3.11")),
        ("py3-none-any", ("any", "any")),
    ],
)
def test_columns_follow_from_the_name(tags: str, columns: tuple[str, str]):
    assert wheels.columns_of(f"x-1.0-{tags}.whl", "x", "1.0", "") == columns


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"files": {ROW.file: "0" * 63}}, "expected .*, got '0"),
        ({"files": {ROW.file: "A" * 64}}, "expected .*, got 'A"),
        ({"files": {}}, "files: expected"),
        ({"files": {"fast_attention-2.8.1.tar.gz": "0" * 64}}, "expected NAME-VERSION"),
        ({"files": {"other-2.8.1-py3-none-any.whl": "0" * 64}}, "expected a file of fast-attention 2.8.1"),
        ({"version": "2.8.2"}, "expected a file of fast-attention 2.8.2"),
        ({"source": "https://example.invalid"}, "source: expected"),
        ({"source": "github:owner"}, "source: expected"),
        ({"torch": "2.13.0"}, "torch: expected"),
        ({"cuda": 13.0}, "cuda: expected"),
        ({"extra": "x"}, "expected the columns"),
    ],
)
def test_malformed_builds_are_refused(tmp_path: Path, change: dict, message: str):
    other = BUILD | {"files": {"fast_attention-2.8.1-py3-none-any.whl": "0" * 64}}
    with pytest.raises(ValueError, match=f"build 1: .*{message}|{message}"):
        wheels.read_index(written(tmp_path / "i.json", other, BUILD | change))


@pytest.mark.parametrize("row", [None, [], {}, "x"])
def test_builds_that_are_no_objects_are_refused(tmp_path: Path, row: object):
    with pytest.raises(ValueError, match="build 0: expected the columns"):
        wheels.read_index(written(tmp_path / "i.json", row))


@pytest.mark.parametrize(
    "package", [None, {}, {**PACKAGE, "x": 1}, {**PACKAGE, "recipe": "make"}, {**PACKAGE, "consent": "no"}]
)
def test_malformed_packages_are_refused(tmp_path: Path, package: object):
    with pytest.raises(ValueError, match=r"i.json: fast-attention: "):
        wheels.read_index(written(tmp_path / "i.json", package=package))


def test_another_schema_repeated_files_and_unknown_packages_are_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r'expected \{"schema": 2'):
        wheels.read_index(written(tmp_path / "i.json", schema=1))
    with pytest.raises(ValueError, match="repeated"):
        wheels.read_index(written(tmp_path / "i.json", BUILD, BUILD))
    stray = BUILD | {"package": "x", "files": {"x-2.8.1-py3-none-any.whl": "0" * 64}}
    with pytest.raises(ValueError, match="builds of x, which"):
        wheels.read_index(written(tmp_path / "i.json", stray))


def test_a_build_that_fits_is_picked_with_its_checksum():
    choice = pick_wheel("Fast_Attention", HOST, [ROW])
    assert choice.wheel is ROW
    assert choice.reason == "Fast_Attention: 2.8.1 fits linux_x86_64, Python 3.11, torch 2.13, CUDA 13.0"
    assert ROW.requirement == f"fast-attention==2.8.1 --hash=sha256:{ROW.sha256}"


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        (replace(HOST, platform="win_amd64"), "no build for platform win_amd64; there are builds for linux_x86_64"),
        (replace(HOST, python="3.14"), "no build for python 3.14; there are builds for 3.9, 3.11"),
        (replace(HOST, torch="2.6"), "no build for torch 2.6; there are builds for 2.13"),
        (replace(HOST, torch=None, cuda=None), "no build for torch none; there are builds for 2.13"),
        (replace(HOST, cuda=None), "no build for cuda none; there are builds for 13.0"),
        (replace(HOST, cuda="12.8"), "no build for cuda 12.8; there are builds for 13.0"),
    ],
)
def test_the_reason_names_the_first_property_that_no_build_fits(host: Host, reason: str):
    choice = pick_wheel("fast-attention", host, [ROW, replace(ROW, python="3.9")])
    assert choice.wheel is None
    assert choice.reason == f"fast-attention: {reason}"


def test_an_unlisted_package_is_said():
    assert pick_wheel("other", HOST, [ROW]).reason == "other: no build is listed"
    assert pick_wheel("other", HOST, []).wheel is None


@pytest.mark.parametrize(
    ("built", "here", "fits"),
    [
        ("12.6", "12.8", True),
        ("12.8", "12.6", False),
        ("12.8", "13.0", False),
        ("none", None, True),
        ("none", "13.0", False),
        ("any", None, True),
        ("any", "13.0", True),
        ("13.0", None, False),
        ("rocm6.4", "13.0", False),
    ],
)
def test_cuda_fits_within_a_major_and_not_ahead_of_the_host(built: str, here: str | None, fits: bool):
    choice = pick_wheel("fast-attention", replace(HOST, cuda=here), [replace(ROW, cuda=built)])
    assert (choice.wheel is not None) is fits


def test_rocm_fits_a_torch_with_rocm():
    host = replace(HOST, cuda=None, rocm="6.4")
    fits = {
        cuda: pick_wheel("fast-attention", host, [replace(ROW, cuda=cuda)]) for cuda in ("rocm6.3", "rocm7.0", "none")
    }
    assert [bool(choice.wheel) for choice in fits.values()] == [True, False, False]
    assert "no build for cuda rocm6.4; there are builds for rocm7.0" in fits["rocm7.0"].reason


def test_torch_may_be_a_lower_bound():
    row = replace(ROW, torch="2.10+")
    assert pick_wheel("fast-attention", HOST, [row]).wheel
    assert pick_wheel("fast-attention", replace(HOST, torch="2.9"), [row]).wheel is None
    assert pick_wheel("fast-attention", replace(HOST, torch=None), [row]).wheel is None


@pytest.mark.parametrize(
    ("built", "here", "fits"),
    [("3.10+", "3.10", True), ("3.10+", "3.14", True), ("3.10+", "3.9", False), ("any", "3.9", True)],
)
def test_python_may_be_a_lower_bound(built: str, here: str, fits: bool):
    choice = pick_wheel("fast-attention", replace(HOST, python=here), [replace(ROW, python=built)])
    assert (choice.wheel is not None) is fits


def test_the_newest_version_wins_then_the_newest_cuda():
    host = replace(HOST, cuda="13.2")
    rows = [replace(ROW, version="2.10.0", cuda=cuda) for cuda in ("13.0", "13.1")] + [replace(ROW, version="2.9.0")]
    for index in (rows, rows[::-1]):
        assert pick_wheel("fast-attention", host, index).wheel == rows[1]


@pytest.mark.parametrize(
    ("system", "machine", "name"),
    [
        ("Linux", "x86_64", "linux_x86_64"),
        ("Linux", "aarch64", "linux_aarch64"),
        ("Windows", "AMD64", "win_amd64"),
        ("Darwin", "arm64", "macosx_arm64"),
    ],
)
def test_platform_names(system: str, machine: str, name: str):
    assert platform_name(system, machine) == name


@pytest.mark.parametrize(
    ("text", "cuda"),
    [
        ("debug = False\ncuda: Optional[str] = '13.0'\nhip = None\n", "13.0"),
        ('cuda = "12.8"\n', "12.8"),
        ("cuda: Optional[str] = None\nhip: Optional[str] = '6.4'\n", None),
        ("", None),
    ],
)
def test_cuda_of_a_torch(text: str, cuda: str | None):
    assert wheels.cuda_of(text) == cuda


def test_this_host_agrees_with_torch():
    import torch

    host = wheels.this_host()
    assert host.torch == ".".join(torch.__version__.split(".")[:2])
    assert host.cuda == torch.version.cuda
