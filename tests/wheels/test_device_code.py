"""Fat binaries: which cards their headers name, and which cards run what."""

import random

import pytest
from comfyui_trellis2.wheels.check.device_code import Target, cuda_modules, rocm_targets

from .binaries import bundle, fatbin


@pytest.mark.parametrize(
    ("target", "capability", "runs"),
    [
        ("sm_80", (8, 0), True),
        ("sm_80", (8, 6), True),
        ("sm_86", (8, 0), False),
        ("sm_80", (9, 0), False),
        ("sm_90", (12, 0), False),
        ("sm_120", (12, 0), True),
        ("sm_120", (12, 1), True),
        ("sm_90a", (9, 0), True),
        ("sm_120a", (12, 1), False),
        ("sm_100f", (10, 3), True),
        ("sm_100f", (12, 0), False),
        ("compute_80", (12, 0), True),
        ("compute_90", (8, 9), False),
        ("compute_90a", (12, 0), False),
        ("compute_120f", (12, 1), True),
    ],
)
def test_which_card_runs_what(target: str, capability: tuple[int, int], runs: bool):
    ((found,),) = cuda_modules(fatbin(target))
    assert str(found) == target
    assert found.runs_on(capability) is runs


def test_containers_lie_one_after_another_with_anything_between():
    data = bytes(8) + fatbin("sm_80", "compute_80") + b"\x50\xed\x55\xba" + bytes(20) + fatbin("sm_120")
    assert cuda_modules(data) == [{Target(80), Target(80, ptx=True)}, {Target(120)}]
    assert cuda_modules(data, [(8, len(fatbin("sm_80", "compute_80")))]) == [{Target(80), Target(80, ptx=True)}]
    assert cuda_modules(b"no device code") == []


def test_a_container_that_is_cut_off_is_said():
    with pytest.raises(ValueError, match="truncated"):
        cuda_modules(fatbin("sm_80")[:-4])


def test_malformed_containers_end():
    good, generator = fatbin("sm_80", "sm_90a", "compute_90") * 2, random.Random(3)
    for _ in range(3000):
        data = bytearray(good)
        for _ in range(3):
            data[generator.randrange(len(data))] = generator.choice((0, 1, 255, generator.randrange(256)))
        try:
            cuda_modules(bytes(data))
        except ValueError:
            continue


def test_amds_bundles():
    data = bundle(
        "host-x86_64-unknown-linux-gnu-", "hipv4-amdgcn-amd-amdhsa--gfx90a:xnack-", "hipv4-amdgcn-amd-amdhsa--gfx1100"
    )
    assert rocm_targets(data, [(0, len(data))]) == {"gfx90a", "gfx1100"}
    assert rocm_targets(b"CCOB" + bytes(40), [(0, 44)]) is None
    assert rocm_targets(data[:60], [(0, 60)]) == frozenset()
