"""The check of whole wheels, hand-made, against machines laid out in a folder."""

import re
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from comfyui_trellis2.wheels.check import verdict
from comfyui_trellis2.wheels.check.libraries import Libraries, loader_folders
from comfyui_trellis2.wheels.check.machine import Card, Machine, Torch, amd_architectures, nvidia_cards
from comfyui_trellis2.wheels.check.tags import Python
from comfyui_trellis2.wheels.check.verdict import check_wheel

from .binaries import bundle, elf, elf32, fatbin, pe, wheel

LINUX = "cp311-cp311-manylinux_2_28_x86_64.whl"
OLD, NEW = "_ZN3c105ErrorC2ERKSs", "_ZN3c105ErrorC2ERKNSt7__cxx1112basic_stringIcEE"
BLACKWELL, AMPERE = Card("RTX 5090", (12, 0)), Card("A100", (8, 0))


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """Linux with libstdc++ 3.4.29 and a torch for CUDA 12 with the C++11 ABI."""
    system, torch = tmp_path / "system", tmp_path / "torch" / "lib"
    system.mkdir()
    torch.mkdir(parents=True)
    cxx = [f"GLIBCXX_3.4.{i}" for i in range(30)] + ["GLIBCXX_3.4", "CXXABI_1.3"]
    (system / "libstdc++.so.6").write_bytes(elf(defines=cxx))
    (system / "libc.so.6").write_bytes(elf(defines=[f"GLIBC_2.{i}" for i in range(32)]))
    (torch / "libc10.so").write_bytes(elf(exports=[NEW, "_ZN3c104DeviceE"]))
    (torch / "libcudart.so.12").write_bytes(elf())
    return Machine(
        python=Python(version=(3, 11), platform="linux_x86_64", libc=("glibc", (2, 31))),
        libraries=Libraries([torch, system]),
        torch=Torch(version="2.8.0+cu128", cuda="12.8", hip=None, folder=torch),
    )


def said(tmp_path: Path, machine: Machine, *files: bytes, name: str = LINUX, requires: Sequence[str] = ()) -> str:
    """The verdict on a wheel with `files` as its libraries."""
    named = {f"x/lib{chr(97 + i)}.so": data for i, data in enumerate(files)}
    return "\n".join(check_wheel(wheel(tmp_path, f"x-1.0-{name}", named, requires), machine).lines())


GOOD = {
    "needed": ("libstdc++.so.6", "libc10.so", "libcudart.so.12"),
    "needs": {"libstdc++.so.6": ("GLIBCXX_3.4.29",), "libc.so.6": ("GLIBC_2.31",)},
    "undefined": (NEW, "malloc"),
    "exports": ("PyInit_x",),
}


def test_what_loads_fits(tmp_path: Path, machine: Machine):
    assert said(tmp_path, machine, elf(**GOOD), requires=["torch>=2.8", "numpy"]) == f"x-1.0-{LINUX}: fits this machine"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"needs": {"libstdc++.so.6": ("GLIBCXX_3.4.99",)}}, "needs GLIBCXX_3.4.99 .*up to GLIBCXX_3.4.29"),
        ({"needs": {"libc.so.6": ("GLIBC_2.38", "GLIBC_2.34")}}, "needs GLIBC_2.38 of libc.so.6; .*up to GLIBC_2.31"),
        ({"needed": ("libcudart.so.13",)}, "needs libcudart.so.13.*\n.*for CUDA 13, torch here has CUDA 12.8"),
        ({"needed": ("libtorch_hip.so",)}, "needs libtorch_hip.so.*\n.*torch with ROCm"),
        ({"needed": ("libcuda.so.1",)}, "needs libcuda.so.1.*\n.*NVIDIA's driver"),
        ({"undefined": (OLD,)}, "_GLIBCXX_USE_CXX11_ABI=0, torch here with 1"),
        ({"undefined": ("_ZN2at3newEv",)}, "wants 1 symbols that torch 2.8.0\\+cu128 .* _ZN2at3newEv"),
        ({"machine": 183}, "is for aarch64, this machine is x86_64"),
    ],
)  # fmt: skip
def test_what_would_not_load_is_refused_with_the_reason_and_a_remedy(
    tmp_path: Path, machine: Machine, change: dict, reason: str
):
    text = said(tmp_path, machine, elf(**GOOD | change))
    assert text.startswith(f"x-1.0-{LINUX}: refused")
    assert re.search(reason, text), text
    assert "remedy: " in text


def test_damaged_libraries_and_wheels_are_refused(tmp_path: Path, machine: Machine):
    assert "libb.so: expected 64 bits, little-endian, got 32 bits, i386" in said(tmp_path, machine, elf(), elf32())
    assert "truncated" in said(tmp_path, machine, elf(**GOOD)[:-40])
    assert "is empty" in said(tmp_path, machine, b"")
    assert "is no library for Linux" in said(tmp_path, machine, b"\xcf\xfa\xed\xfe" + bytes(60))
    file = wheel(tmp_path, f"x-1.0-{LINUX}", {"x/a.so": elf(**GOOD)})
    data = bytearray(file.read_bytes())
    file.write_bytes(data[:-30])
    assert "is damaged or no wheel" in "\n".join(check_wheel(file, machine).lines())
    data[60] ^= 255
    file.write_bytes(data)
    assert check_wheel(file, machine).refused
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x/a.py", "")
    assert "expected one METADATA" in "\n".join(check_wheel(file, machine).lines())


def test_what_would_fill_the_disk_is_refused_before_it_is_unpacked(
    tmp_path: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch
):
    file = wheel(tmp_path, f"x-1.0-{LINUX}", {"x/a.so": bytes(1000)})
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=999))
    with pytest.raises(OSError, match="the check unpacks"):
        check_wheel(file, machine)
    monkeypatch.setattr(verdict, "LARGEST", 900)
    assert "its libraries would take" in "\n".join(check_wheel(file, machine).lines())


def test_tags_refuse_before_anything_is_read(tmp_path: Path, machine: Machine):
    text = said(tmp_path, machine, elf32(), name="cp312-cp312-win_amd64.whl")
    assert text.splitlines()[1] == "  is built for win_amd64, this is Python 3.11, linux_x86_64, glibc 2.31"
    assert "libb.so" not in text


def test_what_the_wheel_brings_counts(tmp_path: Path, machine: Machine):
    user = elf(needed=("libb.so",), needs={"libb.so": ("B_1",)}, undefined=("_ZN2at4mineEv",))
    assert "fits" in said(tmp_path, machine, user, elf(soname="libb.so", defines=("B_1",), exports=("_ZN2at4mineEv",)))
    assert "needs B_1 of libb.so" in said(tmp_path, machine, user, elf(defines=("B_0",), exports=("_ZN2at4mineEv",)))


def test_variants_of_a_library_are_alternatives(tmp_path: Path, machine: Machine):
    """As bitsandbytes brings one for every CUDA, of which it loads one."""
    files = {
        "x/libx_cuda128.so": elf(needed=("libcudart.so.12",)),
        "x/libx_cuda130.so": elf(needed=("libcudart.so.13",)),
    }
    judged = check_wheel(wheel(tmp_path, f"x-1.0-{LINUX}", files), machine)
    assert not judged.refused
    assert "note: x/libx_cuda130.so: needs libcudart.so.13" in "\n".join(judged.lines())
    del files["x/libx_cuda128.so"]
    assert check_wheel(wheel(tmp_path, f"x-1.0-{LINUX}", files), machine).refused


def test_a_library_that_a_requirement_brings_is_a_remark(tmp_path: Path, machine: Machine):
    text = said(tmp_path, machine, elf(needed=("libcudnn.so.9",)), requires=["nvidia-cudnn-cu12==9.1; x == 'y'"])
    assert "fits" in text and "note: x/liba.so: needs libcudnn.so.9, which should come with nvidia-cudnn-cu12" in text


@pytest.mark.parametrize(
    ("requires", "links", "refused"),
    [("torch==2.9.0", True, True), ("torch==2.9.0", False, False), ("torch (>=2.4)", True, False)],
)
def test_a_wheel_for_another_torch(tmp_path: Path, machine: Machine, requires: str, links: bool, refused: bool):
    text = said(tmp_path, machine, elf(**GOOD) if links else elf(), requires=[requires, "torch==9; extra == 'x'"])
    assert ("refused" in text) is refused
    assert (requires in text) is (requires == "torch==2.9.0")


def test_without_torch_the_missing_library_says_so(tmp_path: Path, machine: Machine):
    machine = replace(machine, torch=None, libraries=Libraries(machine.libraries.folders[1:]))
    assert "install torch first" in said(tmp_path, machine, elf(**GOOD))


@pytest.mark.parametrize(
    ("targets", "card", "refused", "words"),
    [
        (["sm_80"], BLACKWELL, True, "has device code for sm_80 only; nothing of it runs on RTX 5090 \\(sm_120\\)"),
        (["sm_80", "compute_80"], BLACKWELL, False, "has only PTX for RTX 5090"),
        (["sm_80", "sm_120"], BLACKWELL, False, ""),
        (["compute_90"], AMPERE, True, "nothing of it runs on A100"),
        (["sm_90a"], Card("H100", (9, 0)), False, ""),
    ],
)
def test_device_code(tmp_path: Path, machine: Machine, targets: list, card: Card, refused: bool, words: str):
    code = elf(**GOOD, sections={".nv_fatbin": fatbin(*targets)})
    text = said(tmp_path, replace(machine, cards=(card,)), code)
    assert ("refused" in text) is refused
    assert re.search(words, text)
    assert ("TORCH_CUDA_ARCH_LIST" in text) is refused
    assert "no NVIDIA GPU was found" in said(tmp_path, machine, code)


def test_a_part_without_code_and_a_second_card_are_remarks(tmp_path: Path, machine: Machine):
    code = elf(sections={".nv_fatbin": fatbin("sm_80") + fatbin("sm_90a")})
    assert "note: 1 of 2 parts of its device code" in said(tmp_path, replace(machine, cards=(AMPERE,)), code)
    both = said(tmp_path, replace(machine, cards=(BLACKWELL, AMPERE)), code)
    assert "fits" in both and "note: has device code for sm_80, sm_90a only; nothing of it runs on RTX 5090" in both


def test_amds_device_code(tmp_path: Path, machine: Machine):
    code = elf(sections={".hip_fatbin": bundle("hipv4-amdgcn-amd-amdhsa--gfx942")})
    assert "refused" in said(tmp_path, replace(machine, gfx=("gfx1100",)), code)
    assert "refused" not in said(tmp_path, replace(machine, gfx=("gfx942",)), code)


@pytest.fixture
def windows(tmp_path: Path, machine: Machine) -> Machine:
    folder = tmp_path / "dlls"
    folder.mkdir()
    for name in ("torch_python.dll", "c10.dll", "MSVCP140.dll", "python311.dll", "cudart64_12.dll"):
        (folder / name).touch()
    return replace(machine, python=Python(version=(3, 11), platform="win_amd64"), dll_folders=(folder,))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (
            pe("KERNEL32.dll", "api-ms-win-crt-heap-l1-1-0.dll", "python311.dll", "torch_python.dll", "msvcp140.dll"),
            None,
        ),
        (pe("python3.dll", "cudart64_12.dll"), None),
        (pe("python312.dll"), "needs python312.dll, this is Python 3.11, win_amd64"),
        (pe("cudart64_110.dll"), "needs cudart64_110.dll.*\n.*built for CUDA 11, torch here has CUDA 12.8"),
        (pe("c10_cuda.dll"), "needs c10_cuda.dll"),
        (pe("c10.dll", machine=0xAA64), "is for arm64, this machine is amd64"),
        (pe("c10.dll")[:700], "truncated"),
        (pe("c10.dll", code=fatbin("sm_80")), "nothing of it runs on RTX 5090"),
        (b"MZ" + bytes(8), "truncated"),
    ],
)
def test_windows_libraries(tmp_path: Path, windows: Machine, data: bytes, reason: str | None):
    file = wheel(tmp_path, "x-1.0-cp311-cp311-win_amd64.whl", {"x/x.cp311-win_amd64.pyd": data})
    text = "\n".join(check_wheel(file, replace(windows, cards=(BLACKWELL,))).lines())
    assert ("refused" in text) is (reason is not None), text
    assert reason is None or re.search(reason, text), text


def test_a_condas_libstdcxx_is_the_one_of_the_process(tmp_path: Path, machine: Machine):
    """conda's Python has loaded its own before any wheel is; then come torch's folder and NVIDIA's wheels."""
    site, prefix = tmp_path, tmp_path / "conda"
    (prefix / "lib").mkdir(parents=True)
    (site / "nvidia" / "cu13" / "lib").mkdir(parents=True)
    assert prefix / "lib" not in loader_folders(site, prefix, "x86_64")
    (prefix / "conda-meta").mkdir()
    folders = loader_folders(site, prefix, "x86_64")
    assert folders[:3] == [prefix / "lib", site / "torch" / "lib", site / "nvidia" / "cu13" / "lib"]
    newer = elf(**GOOD | {"needs": {"libstdc++.so.6": ("GLIBCXX_3.4.32",)}})
    assert "refused" in said(tmp_path, machine, newer)
    (prefix / "lib" / "libstdc++.so.6").write_bytes(elf(defines=["GLIBCXX_3.4.32"]))
    conda = replace(machine, libraries=Libraries([prefix / "lib", *machine.libraries.folders]))
    assert "fits" in said(tmp_path, conda, newer)


def test_cards_are_asked_in_a_process_of_its_own():
    assert nvidia_cards(probe="print('[[\"RTX 5090\", 12, 0]]')") == (BLACKWELL,)
    assert nvidia_cards(probe="import os; os.abort()") == ()
    assert nvidia_cards(probe="print('no JSON')") == ()


def test_amds_cards_are_the_kernels(tmp_path: Path):
    for i, version in enumerate((0, 90402, 110000, 90010)):
        (tmp_path / str(i)).mkdir()
        (tmp_path / str(i) / "properties").write_text(f"cpu_cores 4\ngfx_target_version {version}\nx 1\n")
    assert amd_architectures(tmp_path) == ("gfx1100", "gfx90a", "gfx942")
