"""The index of optional accelerators: what it may hold, and which build is picked for which machine."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from comfyui_trellis2.wheels import resolve as wheels
from comfyui_trellis2.wheels.resolve import Host, Wheel, resolve

ROW = Wheel(
    package="fast-attention",
    version="2.8.1",
    platform="linux_x86_64",
    python="3.11",
    torch="2.13",
    cuda="13.0",
    url="https://example.invalid/fast_attention-2.8.1-cp311-cp311-linux_x86_64.whl",
    sha256="0" * 64,
)
HOST = Host(platform="linux_x86_64", python="3.11", torch="2.13", cuda="13.0")


def written(path: Path, *rows: object, schema: int = 1) -> Path:
    path.write_text(json.dumps({"schema": schema, "wheels": list(rows)}))
    return path


def test_the_index_of_the_repository_reads():
    assert isinstance(wheels.read_index(Path(wheels.__file__).with_name("index.json")), tuple)


def test_rows_round_trip(tmp_path: Path):
    rows = (ROW, replace(ROW, python="3.10+", cuda="none"), replace(ROW, torch="any", platform="any"))
    assert wheels.read_index(written(tmp_path / "i.json", *map(asdict, rows))) == rows


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sha256": "0" * 63}, "sha256: expected"),
        ({"sha256": "A" * 64}, "sha256: expected"),
        ({"url": "http://example.invalid/a.whl"}, "url: expected"),
        ({"url": "https://example.invalid/a.tar.gz"}, "url: expected"),
        ({"python": "cp311"}, "python: expected"),
        ({"torch": "2.13.0"}, "torch: expected"),
        ({"cuda": 13.0}, "cuda: expected"),
        ({"platform": "Linux"}, "platform: expected"),
        ({"extra": "x"}, "expected the columns"),
    ],
)
def test_malformed_rows_are_refused(tmp_path: Path, change: dict, message: str):
    with pytest.raises(ValueError, match=f"i.json: wheel 1: {message}"):
        wheels.read_index(written(tmp_path / "i.json", asdict(ROW), asdict(ROW) | change))


@pytest.mark.parametrize("row", [None, [], {}, "x"])
def test_rows_that_are_no_rows_are_refused(tmp_path: Path, row: object):
    with pytest.raises(ValueError, match="wheel 0: expected the columns"):
        wheels.read_index(written(tmp_path / "i.json", row))


def test_another_schema_and_repeated_rows_are_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r'expected \{"schema": 1'):
        wheels.read_index(written(tmp_path / "i.json", schema=2))
    with pytest.raises(ValueError, match="repeated row"):
        wheels.read_index(written(tmp_path / "i.json", asdict(ROW), asdict(ROW)))


def test_a_build_that_fits_is_picked_with_its_checksum():
    choice = resolve("Fast_Attention", HOST, [ROW])
    assert choice.wheel is ROW
    assert choice.reason == "Fast_Attention: 2.8.1 fits linux_x86_64, Python 3.11, torch 2.13, CUDA 13.0"
    assert ROW.requirement == f"fast-attention @ {ROW.url}#sha256={ROW.sha256}"


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
    choice = resolve("fast-attention", host, [ROW, replace(ROW, python="3.9")])
    assert choice.wheel is None
    assert choice.reason == f"fast-attention: {reason}"


def test_an_unlisted_package_is_said():
    assert resolve("other", HOST, [ROW]).reason == "other: no build is listed"
    assert resolve("other", HOST, []).wheel is None


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
    ],
)
def test_cuda_fits_within_a_major_and_not_ahead_of_the_host(built: str, here: str | None, fits: bool):
    choice = resolve("fast-attention", replace(HOST, cuda=here), [replace(ROW, cuda=built)])
    assert (choice.wheel is not None) is fits


@pytest.mark.parametrize(
    ("built", "here", "fits"),
    [("3.10+", "3.10", True), ("3.10+", "3.14", True), ("3.10+", "3.9", False), ("any", "3.9", True)],
)
def test_python_may_be_a_lower_bound(built: str, here: str, fits: bool):
    choice = resolve("fast-attention", replace(HOST, python=here), [replace(ROW, python=built)])
    assert (choice.wheel is not None) is fits


def test_the_newest_version_wins_then_the_newest_cuda():
    host = replace(HOST, cuda="13.2")
    rows = [replace(ROW, version="2.10.0", cuda=cuda) for cuda in ("13.0", "13.1")] + [replace(ROW, version="2.9.0")]
    for index in (rows, rows[::-1]):
        assert resolve("fast-attention", host, index).wheel == rows[1]


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
    assert wheels.platform_name(system, machine) == name


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
