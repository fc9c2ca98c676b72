"""Wheel names against Pythons, and the same question asked of pip's own tags."""

import subprocess
import sys
from dataclasses import replace

import pytest
from comfyui_trellis2.wheels.check.tags import Python, mismatch, parse_name, this_python

LINUX = Python(version=(3, 11), platform="linux_x86_64", libc=("glibc", (2, 31)))
WINDOWS = Python(version=(3, 11), platform="win_amd64")
MAC = Python(version=(3, 11), platform="macosx_arm64", macos=(14, 2))


@pytest.mark.parametrize(
    ("tags", "here", "fits"),
    [
        ("cp311-cp311-manylinux_2_28_x86_64", LINUX, True),
        ("cp311-cp311-manylinux_2_34_x86_64", LINUX, False),
        ("cp311-cp311-manylinux2014_x86_64.manylinux_2_34_x86_64", LINUX, True),
        ("cp311-cp311-manylinux1_x86_64", LINUX, True),
        ("cp311-cp311-manylinux_2_28_aarch64", LINUX, False),
        ("cp311-cp311-musllinux_1_2_x86_64", LINUX, False),
        ("cp311-cp311-musllinux_1_2_x86_64", replace(LINUX, libc=("musl", (1, 2))), True),
        ("cp311-cp311-manylinux_2_28_x86_64", replace(LINUX, libc=("musl", (1, 2))), False),
        ("cp311-cp311-linux_x86_64", LINUX, True),
        ("cp310-cp310-linux_x86_64", LINUX, False),
        ("cp39-abi3-linux_x86_64", LINUX, True),
        ("cp312-abi3-linux_x86_64", LINUX, False),
        ("cp39-abi3-linux_x86_64", replace(LINUX, version=(3, 13), free_threaded=True), False),
        ("cp313-cp313t-linux_x86_64", replace(LINUX, version=(3, 13), free_threaded=True), True),
        ("cp313-cp313t-linux_x86_64", replace(LINUX, version=(3, 13)), False),
        ("py39-none-manylinux_2_28_x86_64", LINUX, True),
        ("py2.py3-none-any", WINDOWS, True),
        ("py2-none-any", LINUX, False),
        ("pp311-pypy311_pp73-win_amd64", WINDOWS, False),
        ("cp311-cp311-win_amd64", WINDOWS, True),
        ("cp311-cp311-win_arm64", WINDOWS, False),
        ("cp311-cp311-macosx_11_0_arm64", MAC, True),
        ("cp311-cp311-macosx_15_0_arm64", MAC, False),
        ("cp311-cp311-macosx_10_9_universal2", MAC, True),
        ("cp311-cp311-macosx_10_9_x86_64", MAC, False),
    ],
)
def test_tags(tags: str, here: Python, fits: bool):
    assert (mismatch(parse_name(f"x-1.0-{tags}.whl"), here) is None) is fits


def test_a_wheels_name_is_parsed():
    name = parse_name("flash_attn-2.8.3+cu12torch2.8cxx11abiTRUE-1_b-cp311-cp311-linux_x86_64.whl")
    assert (name.name, name.version, name.abi) == ("flash-attn", "2.8.3+cu12torch2.8cxx11abiTRUE", ("cp311",))


@pytest.mark.parametrize("name", ["x-1.0.whl", "x-1.0-py3-none-any.zip", "x 1-1.0-py3-none-any.whl", "x.tar.gz"])
def test_other_names_are_refused(name: str):
    with pytest.raises(ValueError, match="expected NAME-VERSION"):
        parse_name(name)


def test_this_python_fits_what_pip_says_it_does():
    """pip's own list of tags, from most to least specific."""
    code = "from pip._internal.utils.compatibility_tags import get_supported; print(*get_supported())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("this environment has no pip that lists its tags")
    tags, here = done.stdout.split(), this_python()
    assert [tag for tag in tags if not tag.startswith("pp") and mismatch(parse_name(f"x-1-{tag}.whl"), here)] == []
    other = [tag.replace("cp311", "cp399").replace("x86_64", "mips") for tag in tags[:50]]
    assert [tag for tag in other if tag not in tags and not mismatch(parse_name(f"x-1-{tag}.whl"), here)] == []
