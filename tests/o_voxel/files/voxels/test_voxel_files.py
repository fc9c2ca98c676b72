""".npz and .ply, the choice by suffix, what records turn into, and damage to a file of any format."""

import io
import os
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from comfyui_trellis2.o_voxel.core.atomic_io import atomic_write
from comfyui_trellis2.o_voxel.core.grid import Grid
from comfyui_trellis2.o_voxel.files import (
    VoxelRecords,
    VxzLayout,
    dual_grid_to_records,
    field_to_records,
    read_npz,
    read_ply,
    read_voxels,
    records_to_dual_grid,
    records_to_field,
    write_npz,
    write_ply,
    write_voxels,
)
from comfyui_trellis2.o_voxel.values import DualGrid, VoxelField
from hypothesis import given, settings
from hypothesis import strategies as st

SUFFIXES = pytest.mark.parametrize("suffix", ["vxz", "npz", "ply"])
DTYPES = (torch.uint16, torch.uint32, torch.int8, torch.int16, torch.int32, torch.float32, torch.float64)
GRID = Grid.cube(16)


def sample(size: int) -> VoxelRecords:
    generator = torch.Generator().manual_seed(size)
    cells = torch.randperm(4096, generator=generator)[:size]
    coords = torch.stack([cells // 256, cells // 16 % 16, cells % 16], dim=1).to(torch.int32)
    values = torch.randint(0, 256, (size, 4), generator=generator).to(torch.uint8)
    return VoxelRecords(coords, {"base_color": values[:, :3], "metallic": values[:, 3:]})


def by_place(records: VoxelRecords) -> dict[tuple[int, ...], list]:
    values = torch.cat([v.double() for v in records.attrs.values()], dim=1)
    return dict(zip(map(tuple, records.coords.tolist()), values.tolist(), strict=True))


def same(a: VoxelRecords, b: VoxelRecords) -> bool:
    shapes = [{name: (values.shape, values.dtype) for name, values in r.attrs.items()} for r in (a, b)]
    return shapes[0] == shapes[1] and list(a.attrs) == list(b.attrs) and by_place(a) == by_place(b)


@pytest.mark.slow
@SUFFIXES
@pytest.mark.parametrize("size", [0, 1, 63, 1000])
def test_round_trip(suffix: str, size: int, tmp_path: Path):
    records = sample(size)
    write_voxels(tmp_path / f"a.{suffix}", records)
    write_voxels(str(tmp_path / f"b.{suffix.upper()}"), records)
    read = read_voxels(tmp_path / f"a.{suffix}")
    assert same(read, records)
    assert read.coords.dtype == torch.int32
    assert read.grid is None
    assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix.upper()}").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"a.{suffix}", f"b.{suffix.upper()}"]
    if suffix != "vxz":
        assert torch.equal(read.coords, records.coords)


@pytest.mark.parametrize("suffix", ["npz", "ply"])
def test_other_types_of_values(suffix: str, tmp_path: Path):
    generator = torch.Generator().manual_seed(0)
    attrs = {f"a_{i}": torch.randint(0, 99, (63, 2), generator=generator).to(dtype) for i, dtype in enumerate(DTYPES)}
    attrs["fine"] = torch.rand(63, 1, generator=generator, dtype=torch.float64)
    records = VoxelRecords(sample(63).coords, attrs)
    write_voxels(tmp_path / f"a.{suffix}", records)
    assert same(read_voxels(tmp_path / f"a.{suffix}"), records)


def test_numpy_reads_our_npz_and_we_read_numpys(tmp_path: Path):
    records = sample(63)
    for compress in (True, False):
        write_npz(tmp_path / "a.npz", records, compress)
        with np.load(tmp_path / "a.npz") as arrays:
            assert list(arrays) == ["coord", "base_color", "metallic"]
            assert arrays["coord"].dtype == np.uint16
            assert np.array_equal(arrays["coord"], records.coords)
            assert np.array_equal(arrays["base_color"], records.attrs["base_color"])
    fortran = np.asfortranarray(records.coords.numpy().astype(">i8") - 99)
    np.savez(tmp_path / "b.npz", coord=fortran, metallic=records.attrs["metallic"].numpy().astype(">f4"))
    read = read_npz(tmp_path / "b.npz")
    assert torch.equal(read.coords, records.coords - 99)
    assert torch.equal(read.attrs["metallic"], records.attrs["metallic"].float())


def test_big_endian_ply_with_comments_and_faces(tmp_path: Path):
    table = np.zeros(2, [("x", ">f8"), ("y", ">i2"), ("z", ">f4"), ("a_1", "u1"), ("a_0", "u1")])
    table["x"], table["y"], table["z"], table["a_0"], table["a_1"] = (0.6, -2.4), (7, 8), (3, 4), (5, 6), (1, 2)
    head = "ply\nformat binary_big_endian 1.0\ncomment by hand\nelement vertex 2\nproperty double x\nproperty int16 y\n"
    head += "property float32 z\nproperty uchar a_1\nproperty uint8 a_0\n"
    head += "element face 1\nproperty list uchar int i\nend_header\n"
    (tmp_path / "a.ply").write_bytes(head.encode() + table.tobytes() + b"\x03abcdabcdabcd")
    read = read_ply(tmp_path / "a.ply")
    assert read.coords.tolist() == [[1, 7, 3], [-2, 8, 4]]
    assert {name: values.tolist() for name, values in read.attrs.items()} == {"a": [[5, 1], [6, 2]]}


def test_the_grid_is_the_callers(tmp_path: Path):
    write_voxels(tmp_path / "a.npz", sample(63))
    assert read_voxels(tmp_path / "a.npz", GRID).grid == GRID
    with pytest.raises(ValueError, match=r"a\.npz: expected voxels inside \(16, 8, 16\), got \["):
        read_voxels(tmp_path / "a.npz", Grid((16, 8, 16), (0, 0, 0), (1, 1, 1)))


@pytest.mark.parametrize("call", [read_voxels, lambda path: write_voxels(path, sample(1))])
def test_other_suffixes(call: Callable, tmp_path: Path):
    with pytest.raises(ValueError, match=r"a\.obj: expected a file name that ends in \.vxz, \.npz, \.ply, got '\.obj'"):
        call(tmp_path / "a.obj")


@pytest.mark.slow
def test_a_layout_is_for_vxz(tmp_path: Path):
    write_voxels(tmp_path / "a.vxz", sample(63), VxzLayout(8, "parent"))
    assert same(read_voxels(tmp_path / "a.vxz"), sample(63))
    with pytest.raises(ValueError, match="expected no layout"):
        write_voxels(tmp_path / "a.npz", sample(63), VxzLayout())


def with_coord(value: int) -> VoxelRecords:
    return VoxelRecords(torch.tensor([[0, 0, value]], dtype=torch.int32), {})


@pytest.mark.parametrize(
    ("write", "records", "message"),
    [
        (write_npz, with_coord(-1), "expected 0 to 65535 in a .npz, got -1 to 0"),
        (write_npz, with_coord(1 << 16), "expected 0 to 65535"),
        (write_npz, VoxelRecords(with_coord(0).coords, {"coord": torch.zeros(1, 1)}), "keeps the name 'coord'"),
        (write_ply, with_coord((1 << 24) + 1), "expected at most 2\\*\\*24"),
        (write_ply, with_coord(-(1 << 31)), "expected at most 2\\*\\*24"),
        (write_ply, VoxelRecords(with_coord(0).coords, {"base color": torch.zeros(1, 1)}), "without spaces"),
        (write_ply, VoxelRecords(with_coord(0).coords, {"größe": torch.zeros(1, 1)}), "ASCII names"),
    ],
)
def test_what_a_format_cannot_hold(write: Callable, records: VoxelRecords, message: str, tmp_path: Path):
    with pytest.raises(ValueError, match=message):
        write(tmp_path / "a", records)
    assert list(tmp_path.iterdir()) == []


def npy(values: np.ndarray, header: bytes | None = None) -> bytes:
    """A .npy member; with its header's text, if given, in place of the true one."""
    buffer = io.BytesIO()
    np.save(buffer, values)
    data = buffer.getvalue()
    return data if header is None else data[:8] + struct.pack("<H", len(header)) + header + values.tobytes()


COORD = npy(np.zeros((2, 3), np.uint16))
HEAD = b"{'descr': '<u2', 'fortran_order': False, 'shape': (%s), }\n"


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({}, "expected an array 'coord', got"),
        ({"alpha.npy": COORD}, r"expected an array 'coord', got \['alpha'\]"),
        (
            {"coord.npy": npy(np.zeros((2, 2), np.uint16))},
            r"coord: expected whole numbers \[\*, 3\], got uint16 \[2, 2\]",
        ),
        ({"coord.npy": npy(np.zeros((2, 3)))}, "coord: expected whole numbers .* got float64"),
        ({"coord.npy": npy(np.full((2, 3), 1 << 40))}, "expected values in int32's range"),
        ({"coord.npy": npy(np.full((2, 3), 1 << 63, np.uint64))}, "expected values in int32's range"),
        ({"coord.npy": COORD[:-1]}, "array 'coord': expected 140 bytes for uint16"),
        ({"coord.npy": COORD + b"\0"}, "array 'coord': expected 140 bytes"),
        ({"coord.npy": b"\x93NUMPY"}, "expected a numpy array of format 1 or 2"),
        ({"coord.npy": npy(np.zeros(6, np.uint16), HEAD % b"1000000000000, 3")}, "expected .* bytes"),
        ({"coord.npy": npy(np.zeros(6, np.uint16), HEAD % b"9" * 90)}, "header of a plain numpy array"),
        ({"coord.npy": npy(np.zeros(6, np.uint16), b"__import__('os')\n")}, "header of a plain numpy array"),
        (
            {"coord.npy": COORD, "a.npy": npy(np.zeros((2, 1), "U4"))},
            "array 'a': expected a header of a plain numpy array",
        ),
        ({"coord.npy": COORD, "a.npy": npy(np.zeros((2, 1), bool))}, "got bool"),
        ({"coord.npy": COORD, "a.npy": npy(np.zeros(2, np.uint8))}, r"expected shape \[2, \*\], got \[2\]"),
        ({"coord.npy": COORD, "a.npy": npy(np.zeros((3, 1), np.uint8))}, r"expected shape \[2, \*\], got \[3, 1\]"),
        ({"coord.npy": COORD, "a.npy": npy(np.zeros((2, 0), np.uint8))}, "expected at least 1 channel"),
        ({"coord.npy": COORD, "coord": COORD}, "unique names"),
    ],
)
def test_malformed_npz(members: dict[str, bytes], message: str, tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "odd.npz", "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    with pytest.raises(ValueError, match=rf"odd\.npz: .*{message}"):
        read_npz(tmp_path / "odd.npz")


def test_npz_bombs_and_limits(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "odd.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("coord.npy", bytes(64 << 20))
    for limit, message in ((1 << 20, "arrays of 67108864 bytes: expected at most 1048576"), (1 << 30, "numpy array")):
        tracemalloc.start()
        with pytest.raises(ValueError, match=message):
            read_npz(tmp_path / "odd.npz", limit)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
        tracemalloc.stop()


PLY = b"ply\nformat binary_little_endian 1.0\nelement vertex 1\nproperty float x\nproperty float y\nproperty float z\n"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "expected 'end_header'"),
        (PLY, "expected 'end_header'"),
        (b"end_header\n", "expected a binary .ply"),
        (PLY.replace(b"binary_little_endian", b"ascii") + b"end_header\n1 2 3\n", "expected a binary .ply"),
        (PLY.replace(b"format binary_little_endian 1.0", b"format") + b"end_header\n", "expected a binary .ply"),
        (PLY.replace(b"vertex 1", b"vertex -1") + b"end_header\n", "expected 'element vertex <count>'"),
        (PLY.replace(b"vertex 1", b"face 1") + b"end_header\n", "expected 'element vertex <count>'"),
        (PLY + b"property list uchar int i\nend_header\n" + bytes(12), "expected 'property <type> <name>'"),
        (PLY + b"property half h\nend_header\n" + bytes(12), "expected 'property <type> <name>'"),
        (PLY + b"property float x\nend_header\n" + bytes(16), "of a new name, got 'property"),
        (PLY + b"property int x\nend_header\n" + bytes(16), "of a new name, got 'property"),
        (PLY.replace(b"float z", b"float w_0") + b"end_header\n" + bytes(12), "expected the properties x, y, z, got"),
        (PLY + b"end_header\n" + bytes(11), "1 voxels of 12 bytes: expected at most 11 bytes"),
        (PLY.replace(b"vertex 1", b"vertex 999999999999") + b"end_header\n" + bytes(12), "expected at most 12 bytes"),
        (PLY.replace(b"vertex 1", b"vertex " + b"9" * 5000) + b"end_header\n" + bytes(12), "expected|limit"),
        (PLY + b"property uchar red\nend_header\n" + bytes(13), "attribute '': expected properties <name>_0 on"),
        (PLY + b"property uchar a_1\nend_header\n" + bytes(13), r"attribute 'a': .* got \['1'\]"),
        (PLY + b"property uchar a_0\nproperty char a_1\nend_header\n" + bytes(14), "expected one type"),
        (PLY + b"end_header\n" + struct.pack("<3f", 1, 2, float("nan")), "expected values in int32's range"),
        (PLY + b"end_header\n" + struct.pack("<3f", 1, 2, 3e9), "expected values in int32's range"),
        (PLY + b"end_header\n" + bytes(8) + b"\1\0\xa0\x7f", "expected values in int32's range"),
        (PLY + "comment größe\nend_header\n".encode() + bytes(12), "ascii"),
    ],
)
def test_malformed_ply(data: bytes, message: str, tmp_path: Path):
    (tmp_path / "odd.ply").write_bytes(data)
    with pytest.raises(ValueError, match=rf"odd\.ply: .*{message}"):
        read_ply(tmp_path / "odd.ply")


def originals(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A small file of each kind, made once."""
    folder = tmp_path_factory.getbasetemp() / "originals"
    if not folder.exists():
        folder.mkdir()
        for codec in ("none", "deflate", "lzma"):
            for name in ("none", "parent", "neighbor"):
                write_voxels(folder / f"{codec}_{name}.vxz", sample(63), VxzLayout(8, name, codec))
        write_voxels(folder / "a.npz", sample(63))
        write_npz(folder / "stored.npz", sample(63), compress=False)
        write_voxels(folder / "a.ply", sample(63))
    return sorted(folder.iterdir())


@pytest.mark.slow
@given(data=st.data())
@settings(derandomize=True, deadline=None, database=None, max_examples=250)
def test_damaged_files_are_read_or_refused(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory):
    """Bytes changed, cut off, or put in twice: never another exception than ValueError, and never without bounds."""
    source = data.draw(st.sampled_from(originals(tmp_path_factory)))
    damaged = bytearray(source.read_bytes())
    for _ in range(data.draw(st.integers(0, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    start = data.draw(st.integers(0, len(damaged)))
    match data.draw(st.sampled_from(["keep", "cut", "repeat", "remove"])):
        case "cut":
            del damaged[start:]
        case "repeat":
            damaged[start:start] = damaged[start : start + 20]
        case "remove":
            del damaged[start : start + 7]
    path = tmp_path_factory.getbasetemp() / f"damaged{source.suffix}"
    path.write_bytes(damaged)
    tracemalloc.start()
    try:
        read_voxels(path)
    except ValueError as error:
        assert str(path) in str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 8 << 20


@pytest.mark.slow
@SUFFIXES
def test_every_truncation_is_refused(suffix: str, tmp_path_factory: pytest.TempPathFactory):
    for source in originals(tmp_path_factory):
        if source.suffix == f".{suffix}":
            whole = source.read_bytes()
            path = tmp_path_factory.getbasetemp() / f"cut.{suffix}"
            for length in range(0, len(whole), 7):
                path.write_bytes(whole[:length])
                with pytest.raises(ValueError, match=r"cut\."):
                    read_voxels(path)


def test_writes_appear_whole_or_not_at_all(tmp_path: Path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def fail() -> None:
        with atomic_write(path) as file:
            file.write(b"half")
            assert path.read_bytes() == b"old"
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]
    os.link(path, tmp_path / "old.bin")
    with atomic_write(path) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new"
    assert (tmp_path / "old.bin").read_bytes() == b"old", "the file was written over, not replaced"
    assert sorted(os.listdir(tmp_path)) == ["a.bin", "old.bin"]
    write_voxels(tmp_path / "new" / "a.vxz", sample(1))  # a missing folder is made, as for meshes
    assert os.listdir(tmp_path / "new") == ["a.vxz"]


def dual_grid(size: int) -> DualGrid:
    generator = torch.Generator().manual_seed(size)
    dual = torch.rand(size, 3, generator=generator) * 1.2 - 0.1
    flags = torch.rand(size, 3, generator=generator) < 0.5
    return DualGrid(sample(size).coords, dual, flags, GRID, torch.rand(size, generator=generator))


@pytest.mark.parametrize("size", [0, 1, 63, 1000])
def test_dual_grid_and_records(size: int):
    grid = dual_grid(size)
    records = dual_grid_to_records(grid)
    clamped = np.clip(grid.dual.numpy(), 0, 1)
    assert np.array_equal(records.attrs["vertices"], np.floor(clamped * np.float32(255)).astype(np.uint8))
    assert np.array_equal(records.attrs["intersected"][:, 0], grid.intersected.numpy() @ [1, 2, 4])
    read = records_to_dual_grid(records)
    assert read.grid == GRID
    assert read.split_weight is None
    assert torch.equal(read.intersected, grid.intersected)
    assert (torch.from_numpy(clamped) - read.dual).abs().max() <= 1.0001 / 255 if size else len(read.dual) == 0
    again = dual_grid_to_records(read)
    assert torch.equal(again.attrs["vertices"], records.attrs["vertices"])


def test_every_stored_level_survives_a_round_trip():
    levels = torch.arange(256, dtype=torch.uint8)
    coords = torch.zeros(256, 3, dtype=torch.int32)
    attrs = {"vertices": levels[:, None].expand(256, 3), "intersected": levels[:, None] % 8}
    again = dual_grid_to_records(records_to_dual_grid(VoxelRecords(coords, attrs), GRID))
    assert all(torch.equal(again.attrs[name], attrs[name]) for name in attrs)
    pbr = {"base_color": attrs["vertices"], **dict.fromkeys(("metallic", "roughness", "alpha"), levels[:, None])}
    again = field_to_records(records_to_field(VoxelRecords(coords, pbr), GRID))
    assert all(torch.equal(again.attrs[name], pbr[name]) for name in pbr)


@pytest.mark.parametrize("size", [0, 1, 63])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_field_and_records(size: int, dtype: torch.dtype):
    attrs = (torch.rand(size, 6, generator=torch.Generator().manual_seed(size)) * 1.2 - 0.1).to(dtype)
    records = field_to_records(VoxelField(sample(size).coords, attrs, GRID))
    assert list(records.attrs) == ["base_color", "metallic", "roughness", "alpha"]
    expected = np.rint(np.clip(attrs.float().numpy(), 0, 1) * 255)
    assert np.array_equal(torch.cat(list(records.attrs.values()), 1), expected)
    field = records_to_field(records)
    assert field.grid == GRID
    assert np.array_equal(field.attrs, (expected / 255).astype(np.float32))


def test_field_of_float_records_is_as_stored():
    values = torch.tensor([[1.5, -0.5, 0.25, 0.1, 0.2, 0.3]])
    attrs = {
        "alpha": values[:, 5:],
        "base_color": values[:, :3],
        "metallic": values[:, 3:4],
        "roughness": values[:, 4:5],
    }
    field = records_to_field(VoxelRecords(torch.zeros(1, 3, dtype=torch.int32), attrs), GRID)
    assert torch.equal(field.attrs, values)


def pbr_records(**changes: torch.Tensor) -> VoxelRecords:
    attrs = {
        "base_color": torch.zeros(1, 3),
        **{name: torch.zeros(1, 1) for name in ("metallic", "roughness", "alpha")},
    }
    return VoxelRecords(torch.zeros(1, 3, dtype=torch.int32), attrs | changes)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: records_to_field(pbr_records()), "grid: expected one, since the records carry none"),
        (lambda: records_to_field(sample(1), GRID), "expected an attribute 'roughness', got"),
        (lambda: records_to_field(pbr_records(alpha=torch.zeros(1, 2)), GRID), r"alpha: expected shape \[1, 1\]"),
        (
            lambda: records_to_field(pbr_records(alpha=torch.zeros(1, 1, dtype=torch.int32)), GRID),
            "alpha: expected uint8",
        ),
        (lambda: records_to_dual_grid(sample(1), GRID), "expected an attribute 'vertices'"),
        (lambda: records_to_dual_grid(flagged(8), GRID), "intersected: expected values from 0 to 7, got 8"),
        (lambda: field_to_records(field_of(torch.zeros(1, 5))), r"VoxelField.attrs: expected shape \[1, 6\]"),
        (lambda: field_to_records(field_of(torch.full((1, 6), torch.nan))), "VoxelField.attrs: expected finite values"),
        (lambda: VoxelRecords(torch.zeros(1, 3), {}), "VoxelRecords.coords: expected int32"),
        (lambda: pbr_records(alpha=torch.zeros(2, 1)), r"attrs\['alpha'\]: expected shape \[1, \*\]"),
        (lambda: pbr_records(alpha=torch.zeros(1, 0)), "expected at least 1 channel, got 0"),
        (lambda: pbr_records(alpha=torch.zeros(1, 1, dtype=torch.bool)), "expected uint8 or"),
        (lambda: pbr_records(**{"a\n": torch.zeros(1, 1)}), "expected printable names"),
        (lambda: pbr_records(**{"": torch.zeros(1, 1)}), "expected printable names"),
    ],
)
def test_bad_records(call: Callable, message: str):
    with pytest.raises(ValueError, match=message):
        call()


def flagged(value: int) -> VoxelRecords:
    flags = torch.full((1, 1), value, dtype=torch.uint8)
    vertices = torch.zeros(1, 3, dtype=torch.uint8)
    return VoxelRecords(torch.zeros(1, 3, dtype=torch.int32), {"vertices": vertices, "intersected": flags})


def field_of(attrs: torch.Tensor) -> VoxelField:
    return VoxelField(torch.zeros(1, 3, dtype=torch.int32), attrs, GRID)
