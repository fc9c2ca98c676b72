"""The reader of shared libraries: hand-made files, the installed torch's, and malformed ones, which must end."""

import random
import struct
from importlib.util import find_spec
from pathlib import Path

import pytest
from comfyui_trellis2.wheels.check.elf import ElfError, ElfFile, kind_of
from comfyui_trellis2.wheels.check.libraries import Libraries, map_file, offers, read_cache, uses_cxx11_abi

from .binaries import elf, elf32

RICH = {
    "needed": ("libstdc++.so.6", "libc.so.6"),
    "soname": "libx.so.1",
    "needs": {"libstdc++.so.6": ("GLIBCXX_3.4", "CXXABI_1.3.9"), "libc.so.6": ("GLIBC_2.14",)},
    "defines": ("libx.so.1", "X_1.0", "X_1.1"),
    "undefined": ("memcpy", "_ZN3c105ErrorC2ENSt7__cxx11"),
    "exports": ("PyInit_x", "other", "third"),
    "sections": {".nv_fatbin": b"abcd" * 5, ".text": b"x"},
}


def test_a_hand_made_library_reads_as_it_was_laid_out():
    file = ElfFile(elf(**RICH))
    assert (file.needed, file.soname) == (RICH["needed"], "libx.so.1")
    assert file.version_needs == RICH["needs"]
    assert file.version_definitions == set(RICH["defines"])
    assert [file.defines(name) for name in ("PyInit_x", "other", "third", "memcpy", "fourth")] == [True] * 3 + [
        False
    ] * 2
    (part,) = file.sections(".nv_fatbin")
    assert part[1] == 20
    assert file.sections(".no") == []


@pytest.mark.parametrize("stripped", [False, True])
def test_symbols_are_counted_without_a_section_table(stripped: bool):
    file = ElfFile(elf(**RICH, stripped=stripped))
    assert file.undefined() == list(RICH["undefined"])
    assert file.defined() == list(RICH["exports"])
    assert (file.sections(".text") is None) is stripped


def test_a_library_without_symbols_or_dynamic_segment_is_empty():
    file = ElfFile(elf(stripped=True))
    assert (file.needed, file.undefined(), file.version_needs) == ((), [], {})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "expected an ELF file, got 0 bytes"),
        (b"MZ" + bytes(90), "expected an ELF file"),
        (b"\x7fELF\x07\x01" + bytes(30), "class and byte order"),
        (elf32(), "got 32 bits, i386"),
        (elf(**RICH)[:50], "lies outside"),
        (elf(**RICH)[:300], "truncated: a segment ends"),
        (elf(**RICH)[:-100], "truncated: the section table"),
    ],
)
def test_what_is_no_64_bit_library_is_refused(data: bytes, message: str):
    with pytest.raises(ElfError, match=message):
        ElfFile(data).sections(".text")


def test_the_kind_of_a_library():
    kind = kind_of(elf(machine=183))
    assert (kind.bits, kind.machine, kind.shared) == (64, "aarch64", True)


def read_all(data: bytes) -> None:
    file = ElfFile(data)
    reads = [
        lambda name=name: getattr(file, name) for name in ("needed", "search", "version_needs", "version_definitions")
    ]
    for read in (*reads, file.undefined, file.defined, lambda: file.defines("other"), lambda: file.sections(".text")):
        try:
            read()
        except ElfError:
            continue


def test_malformed_libraries_end_in_the_error_and_soon():
    """Every byte range may hold anything: no other error, no walk without end. A hang fails the run's time limit."""
    good, generator = elf(**RICH), random.Random(5)
    for _ in range(1500):
        data = bytearray(good)
        for _ in range(generator.choice((1, 2, 8))):
            place = generator.randrange(len(data))
            value = generator.choice((0, 1, 0x7F, 0xFF, generator.randrange(256)))
            data[place : place + generator.choice((1, 4, 8))] = bytes([value]) * 4
        try:
            read_all(bytes(data[: generator.choice((len(data), generator.randrange(len(data))))]))
        except ElfError:
            continue


def test_lists_that_overlap_are_walked_once():
    """65,535 entries with 65,535 auxiliaries each, one byte apart: 4·10⁹ steps if each were followed."""
    data = bytearray(elf(needs={"libc.so.6": ("GLIBC_2.0",)}, sections={".pad": bytes(200_000)}))
    entry = data.index(struct.pack("<HHI", 1, 1, 1)[:4], 176)
    data[entry : entry + 16] = struct.pack("<HHIII", 1, 65535, 1, 1, 1)
    for tag in range(len(data) - 8):
        if data[tag : tag + 8] == struct.pack("<Q", 0x6FFFFFFF):
            data[tag + 8 : tag + 16] = struct.pack("<Q", 2**40)
    with pytest.raises(ElfError):
        dict(ElfFile(bytes(data)).version_needs)


def test_the_loaders_cache_names_files():
    entries = read_cache()
    if not entries:
        pytest.skip("this system has no cache of the loader's")
    assert all(Path(file).is_absolute() for _, file in entries)
    assert read_cache(Path(__file__)) == []


LIB = Path(find_spec("torch").origin).parent / "lib"


@pytest.mark.skipif(not (LIB / "libc10.so").exists(), reason="torch's libraries are for another system")
def test_torchs_own_libraries_resolve_among_themselves():
    """They load, as this process shows, so every symbol of torch's that its bindings want must be found."""
    torch = [ElfFile(map_file(LIB / name)) for name in ("libc10.so", "libtorch_cpu.so", "libtorch_python.so")]
    assert uses_cxx11_abi(torch[0]) is __import__("torch")._C._GLIBCXX_USE_CXX11_ABI
    wanted = [name for name in torch[2].undefined() if name.startswith("_ZN3c10")]
    assert len(wanted) > 100
    assert [name for name in wanted[:300] if not offers(torch, name)] == []
    assert not offers(torch, wanted[0] + "x")
    here = Libraries([LIB], read_cache(), torch[0].kind.machine)
    for name, versions in torch[2].version_needs.items():
        if provider := here.find(name):
            assert set(versions) <= provider.version_definitions
