"""Golden c6, files and orders: the original's files give the original's contents, and we write the original's bytes."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from comfyui_trellis2.o_voxel.core.grid import Grid
from comfyui_trellis2.o_voxel.files import (
    VoxelRecords,
    VxzHeader,
    dual_grid_to_records,
    read_voxels,
    read_vxz_header,
    records_to_dual_grid,
    write_npz,
    write_ply,
    write_vxz,
)
from comfyui_trellis2.o_voxel.files.voxels.vxz.compression import decompress
from comfyui_trellis2.o_voxel.files.voxels.vxz.filters import apply_filter, undo_filter
from comfyui_trellis2.o_voxel.files.voxels.vxz.octree import count_leaves, decode_octree, encode_octree
from comfyui_trellis2.o_voxel.values import DualGrid
from comfyui_trellis2.o_voxel.voxels.morton import decode_hilbert, decode_z_order, encode_hilbert, encode_z_order

Golden = Callable[[str], Path]
FILES = ("default.vxz", "parent_deflate_chunk16.vxz", "neighbor_zstd_chunk32.vxz", "none_chunk32.vxz")
PBR = ["base_color", "metallic", "roughness", "alpha"]


@pytest.fixture(scope="module")
def decoded(golden: Golden) -> dict[str, np.ndarray]:
    with np.load(golden("c6_io_decoded.npz")) as arrays:
        return dict(arrays)


def rows(records: VoxelRecords) -> np.ndarray:
    return torch.cat(list(records.attrs.values()), dim=1).numpy()


def need_codec(name: str) -> None:
    if "zstd" in name:
        pytest.importorskip("zstandard")


def contents(path: Path, header: VxzHeader) -> list[dict[str, bytes]]:
    """Each chunk's decompressed streams."""
    data = path.read_bytes()[header.data_start :]
    chunks = []
    for chunk in header.chunks:
        blob = data[chunk.span[0] : sum(chunk.span)]
        spans = chunk.streams.items()
        chunks.append({name: decompress(blob[a : a + n], header.layout.compression, 1 << 20) for name, (a, n) in spans})
    return chunks


@pytest.mark.parametrize("name", [*FILES, "npz", "ply"])
def test_contents_of_the_originals_files(name: str, golden: Golden, decoded: dict):
    need_codec(name)
    separator = "_" if name.endswith("vxz") else "."
    records = read_voxels(golden(f"c6_io{separator}{name}"))
    key = "io_" + name.replace(".", "_")
    assert list(records.attrs) == PBR
    assert records.coords.dtype == torch.int32
    np.testing.assert_array_equal(records.coords.numpy(), decoded[f"{key}.coord"])
    np.testing.assert_array_equal(rows(records), decoded[f"{key}.attr"])


def test_the_interleave_that_the_original_cannot_read(golden: Golden):
    records = read_voxels(golden("c6_io_interleave_all.vxz"))
    whole = read_voxels(golden("c6_io_default.vxz"))
    order, expected = encode_z_order(records.coords).argsort(), encode_z_order(whole.coords).argsort()
    np.testing.assert_array_equal(records.coords[order], whole.coords[expected])
    np.testing.assert_array_equal(rows(records)[order], rows(whole)[expected])


@pytest.mark.slow
@pytest.mark.parametrize("name", [*FILES, "dualgrid_sphere32.vxz", "interleave_all.vxz"])
def test_we_write_the_originals_layout(name: str, golden: Golden, tmp_path: Path):
    need_codec(name)
    theirs, ours = golden(f"c6_io_{name}"), tmp_path / "ours.vxz"
    header = read_vxz_header(theirs)
    records = read_voxels(theirs)
    shuffled = torch.randperm(len(records), generator=torch.Generator().manual_seed(0))
    attrs = {name: values[shuffled] for name, values in records.attrs.items()}
    write_vxz(ours, VoxelRecords(records.coords[shuffled], attrs), header.layout)
    our_header = read_vxz_header(ours)
    assert contents(ours, our_header) == contents(theirs, header)
    assert our_header.channels == header.channels
    assert [chunk.index for chunk in our_header.chunks] == [chunk.index for chunk in header.chunks]
    assert header_text(ours) == header_text(theirs)
    if "none" in name:
        assert ours.read_bytes() == theirs.read_bytes()


def header_text(path: Path) -> str:
    """The header as text, less the numbers that depend on the compressor's version."""
    data = path.read_bytes()
    fields = json.loads(data[8 : int.from_bytes(data[4:8], "big")])
    fields |= {"compressed_size": 0, "compress_ratio": 0}
    fields["chunks"] = [{name: value if name == "idx" else 0 for name, value in c.items()} for c in fields["chunks"]]
    return json.dumps(fields)


def test_headers(golden: Golden):
    for name, fields in json.loads(golden("c6_io_headers.json").read_text()).items():
        header = read_vxz_header(golden(name))
        assert header.num_voxels == fields["num_voxel"]
        assert list(header.channels.items()) == [tuple(entry) for entry in fields["attr"]]
        assert [list(chunk.span) for chunk in header.chunks] == [chunk["ptr"] for chunk in fields["chunks"]]
        assert header.layout.level == fields["compression_level"]


def test_we_write_the_originals_npz_and_ply(golden: Golden, tmp_path: Path):
    write_ply(tmp_path / "ours.ply", read_voxels(golden("c6_io.ply")))
    assert (tmp_path / "ours.ply").read_bytes() == golden("c6_io.ply").read_bytes()
    write_npz(tmp_path / "ours.npz", read_voxels(golden("c6_io.npz")))
    with zipfile.ZipFile(tmp_path / "ours.npz") as ours, zipfile.ZipFile(golden("c6_io.npz")) as theirs:
        assert ours.namelist() == theirs.namelist()
        assert [ours.read(name) for name in ours.namelist()] == [theirs.read(name) for name in theirs.namelist()]


@pytest.mark.parametrize("prefix", ["", "big_"])
def test_orders(prefix: str, decoded: dict):
    coords = torch.from_numpy(decoded[f"{prefix}coord"])
    for key, encode, decode in (
        ("morton", encode_z_order, decode_z_order),
        ("hilbert", encode_hilbert, decode_hilbert),
    ):
        codes = encode(coords)
        assert codes.dtype == torch.int64
        np.testing.assert_array_equal(codes, decoded[prefix + key])
        np.testing.assert_array_equal(decode(torch.from_numpy(decoded[prefix + key])), coords)


def test_order_of_permuted_axes(decoded: dict):
    coords, codes = torch.from_numpy(decoded["coord"]), decoded["morton_perm120"]
    np.testing.assert_array_equal(encode_z_order(coords, axes=(1, 2, 0)), codes)
    np.testing.assert_array_equal(decode_z_order(torch.from_numpy(codes), axes=(1, 2, 0)), coords)


def test_octree_and_filters(decoded: dict):
    codes = np.sort(decoded["morton"]).astype(np.int64)
    octree, values = decoded["svo_depth5"], decoded["svo_attr_sorted"]
    np.testing.assert_array_equal(encode_octree(codes, 5), octree)
    assert count_leaves(octree, 5) == len(codes)
    np.testing.assert_array_equal(decode_octree(octree, 5, len(codes)), codes)
    for name in ("parent", "neighbor"):
        np.testing.assert_array_equal(apply_filter(values, codes, name, 5), decoded[f"svo_{name}_delta"])
        np.testing.assert_array_equal(undo_filter(decoded[f"svo_{name}_delta"], codes, name, 5), values)


def test_dual_grid_file(golden: Golden, decoded: dict):
    """The stored grid is the golden dual grid, through our conversion; and back to within a step."""
    with np.load(golden("c6_dual_grid.npz")) as arrays:
        coords = torch.from_numpy(arrays["sphere.32.voxel_indices"].astype(np.int32))
        dual = torch.from_numpy(arrays["sphere.32.dual_vertices"]) * 32 - coords
        intersected = torch.from_numpy(arrays["sphere.32.intersected"])
    grid = Grid.cube(32)
    records = read_voxels(golden("c6_io_dualgrid_sphere32.vxz"), grid)
    np.testing.assert_array_equal(records.coords, decoded["dualgrid.coord"])
    np.testing.assert_array_equal(records.attrs["vertices"], decoded["dualgrid.vertices"])
    np.testing.assert_array_equal(records.attrs["intersected"], decoded["dualgrid.intersected"])
    order = encode_z_order(coords).argsort()
    made = dual_grid_to_records(DualGrid(coords[order], dual[order], intersected[order], grid))
    for mine, theirs in ((made.coords, records.coords), *zip(made.attrs.values(), records.attrs.values(), strict=True)):
        np.testing.assert_array_equal(mine, theirs)
    read = records_to_dual_grid(records)
    assert read.grid == grid
    np.testing.assert_array_equal(read.intersected, intersected[order])
    np.testing.assert_allclose(read.dual, dual[order].clamp(0, 1), atol=1.0001 / 255)
