"""The .vxz format: round trips, its octree and filters against slow twins, and what a malformed file must not do."""

import copy
import itertools
import json
import lzma
import sys
import tracemalloc
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from comfyui_trellis2.o_voxel.files import VoxelRecords, VxzLayout, read_vxz, read_vxz_header, write_vxz
from comfyui_trellis2.o_voxel.files.voxels.vxz.compression import CODECS, compress, decompress
from comfyui_trellis2.o_voxel.files.voxels.vxz.filters import apply_filter, undo_filter
from comfyui_trellis2.o_voxel.files.voxels.vxz.octree import count_leaves, decode_octree, encode_octree
from comfyui_trellis2.o_voxel.voxels.morton import decode_z_order, encode_z_order
from hypothesis import given, settings
from hypothesis import strategies as st

FILTERS = ("none", "parent", "neighbor")
INTERLEAVES = ("none", "as_is", "all")
PLAIN = VxzLayout(chunk_size=4, compression="none")
PACKED = pytest.mark.parametrize("codec", ["deflate", "lzma", "zstd"])
bounded = settings(derandomize=True, deadline=None, database=None, max_examples=150)


def sample(size: int, span: int = 16, shift: int = 0) -> VoxelRecords:
    """`size` voxels in no order, with two attributes of values that are near their neighbours'."""
    generator = torch.Generator().manual_seed(size)
    cells = torch.randperm(span**3, generator=generator)[:size]
    coords = torch.stack([cells // span**2, cells // span % span, cells % span], dim=1)
    noise = torch.randint(0, 9, (size, 3), generator=generator)
    color = (coords * 11 + noise) % 256
    attrs = {"base_color": color.to(torch.uint8), "metallic": (noise[:, :1] * 30).to(torch.uint8)}
    return VoxelRecords((coords + shift).to(torch.int32), attrs)


def as_set(records: VoxelRecords) -> dict[tuple[int, ...], tuple[int, ...]]:
    values = torch.cat(list(records.attrs.values()), dim=1) if records.attrs else torch.zeros(len(records), 0)
    return dict(zip(map(tuple, records.coords.tolist()), map(tuple, values.tolist()), strict=True))


def need_codec(codec: str) -> None:
    if codec == "zstd":
        pytest.importorskip("zstandard")


def layouts() -> list[VxzLayout]:
    every = itertools.product((2, 8, 32), FILTERS, CODECS, INTERLEAVES)
    return [VxzLayout(size, f, c, None if c == "none" else 1, i) for size, f, c, i in every]


@pytest.mark.slow
@pytest.mark.parametrize(
    "layout", layouts(), ids=lambda x: f"{x.chunk_size}-{x.filter}-{x.compression}-{x.attr_interleave}"
)
def test_round_trip_of_every_layout(layout: VxzLayout, tmp_path: Path):
    need_codec(layout.compression)
    records = sample(63)
    write_vxz(tmp_path / "a.vxz", records, layout, threads=1)
    read = read_vxz(tmp_path / "a.vxz", threads=1)
    assert len(read) == 63
    assert as_set(read) == as_set(records)
    assert read_vxz_header(tmp_path / "a.vxz").layout == replace(layout, compression_level=None)


@pytest.mark.parametrize("filter_name", FILTERS)
@pytest.mark.parametrize(
    ("size", "span", "shift"), [(0, 1, 0), (1, 9, 0), (1000, 40, -20), (4096, 16, 1 << 20), (512, 8, 0)]
)
def test_sizes_and_places(size: int, span: int, shift: int, filter_name: str, tmp_path: Path):
    records = sample(size, span, shift)
    write_vxz(tmp_path / "a.vxz", records, VxzLayout(16, filter_name, "deflate"))
    read = read_vxz(tmp_path / "a.vxz")
    assert as_set(read) == as_set(records)
    assert {name: values.shape[1] for name, values in read.attrs.items()} == {"base_color": 3, "metallic": 1}
    assert read.coords.dtype == torch.int32


def test_rows_are_by_chunk_then_z_order(tmp_path: Path):
    write_vxz(tmp_path / "a.vxz", sample(1000), PLAIN)
    coords = read_vxz(tmp_path / "a.vxz").coords
    block = coords // 4
    keys = [*zip(*block.T.tolist(), encode_z_order(coords % 4).tolist(), strict=True)]
    assert keys == sorted(keys)


def test_same_bytes_twice_in_any_order_with_any_threads(tmp_path: Path):
    records = sample(1000)
    kept = copy.deepcopy(records)
    backwards = VoxelRecords(records.coords.flip(0), {name: values.flip(0) for name, values in records.attrs.items()})
    for name, value, threads in (("a", records, 1), ("b", records, 3), ("c", backwards, None)):
        write_vxz(tmp_path / name, value, VxzLayout(8, "parent", "deflate"), threads)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() == (tmp_path / "c").read_bytes()
    assert torch.equal(records.coords, kept.coords)
    assert torch.equal(records.attrs["base_color"], kept.attrs["base_color"])


def test_voxels_without_attributes(tmp_path: Path):
    for interleave in INTERLEAVES:
        write_vxz(tmp_path / "a.vxz", VoxelRecords(sample(63).coords, {}), VxzLayout(attr_interleave=interleave))
        assert as_set(read_vxz(tmp_path / "a.vxz")).keys() == as_set(sample(63)).keys()


def slow_octree(codes: list[int], depth: int) -> list[int]:
    if depth == 0:
        return []
    unit = 8 ** (depth - 1)
    children = {digit: [c % unit for c in codes if c // unit == digit] for digit in range(8)}
    present = [digit for digit in children if children[digit]]
    return [sum(1 << d for d in present), *(byte for d in present for byte in slow_octree(children[d], depth - 1))]


def slow_parent_filter(codes: list[int], values: list[int], depth: int) -> list[int]:
    """What the filter stores for one channel, by recursion: the root's value, then each node's further children."""

    def visit(members: list[int], level: int) -> None:
        unit = 8 ** (depth - 1 - level)
        groups = [list(group) for _, group in itertools.groupby(members, key=lambda i: codes[i] // unit)]
        stored.extend((values[b[0]] - values[a[0]]) % 256 for a, b in itertools.pairwise(groups))
        for group in groups if level < depth - 1 else ():
            visit(group, level + 1)

    stored = [values[0]]
    visit(list(range(len(codes))), 0)
    return stored


def slow_neighbor_filter(points: list[tuple[int, ...]], values: list[int]) -> list[int]:
    known = dict(zip(points, values, strict=True))
    stored = []
    for (x, y, z), value in zip(points, values, strict=True):
        steps = [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (1, 0, 1), (0, 1, 1), (1, 1, 1)]
        found = [known[p] for p in ((x - a, y - b, z - c) for a, b, c in steps) if p in known]
        stored.append((value - (found[-1] if found else 0)) % 256)
    return stored


@pytest.mark.parametrize("depth", [1, 2, 4])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.6, 1.0])
def test_octree_and_filters_equal_slow_twins(depth: int, share: float):
    generator = np.random.default_rng(depth)
    codes = np.union1d(np.flatnonzero(generator.random(8**depth) < share), 8**depth - 2)
    rows = generator.integers(0, 256, (len(codes), 2), np.uint8)
    octree = encode_octree(codes, depth)
    assert octree.tolist() == slow_octree(codes.tolist(), depth)
    assert count_leaves(octree, depth) == len(codes)
    assert decode_octree(octree, depth, len(codes)).tolist() == codes.tolist()
    points = list(map(tuple, decode_z_order(torch.from_numpy(codes)).tolist()))
    for channel in range(2):
        column = rows[:, channel].tolist()
        parent, neighbor = (apply_filter(rows, codes, name, depth)[:, channel] for name in ("parent", "neighbor"))
        assert parent.tolist() == slow_parent_filter(codes.tolist(), column, depth)
        assert neighbor.tolist() == slow_neighbor_filter(points, column)
    for name in FILTERS:
        assert np.array_equal(undo_filter(apply_filter(rows, codes, name, depth), codes, name, depth), rows)


def test_a_deep_octree():
    codes = np.unique(np.random.default_rng(0).integers(0, 8**10, 1000))
    octree = encode_octree(codes, 10)
    assert count_leaves(octree, 10) == len(codes)
    assert np.array_equal(decode_octree(octree, 10, len(codes)), codes)


@pytest.mark.parametrize(
    ("octree", "message"),
    [
        ([], "ends before its last node"),
        ([3, 1], "ends before its last node"),
        ([0], "without children"),
        ([1, 0], "without children"),
        ([1, 1, 1], "goes on after"),
    ],
)
def test_malformed_octrees(octree: list[int], message: str):
    with pytest.raises(ValueError, match=message):
        count_leaves(np.array(octree, np.uint8), 2)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"chunk_size": 0}, "power of two from 2 to 1024, got 0"),
        ({"chunk_size": 1}, "power of two"),
        ({"chunk_size": 48}, "power of two"),
        ({"chunk_size": 2048}, "power of two"),
        ({"filter": "median"}, "filter: expected none, parent, neighbor, got 'median'"),
        ({"compression": "gzip"}, "compression: expected none, deflate, lzma, zstd"),
        ({"attr_interleave": "some"}, "attr_interleave: expected none, as_is, all"),
        ({"compression_level": 10}, "expected 0 to 9 for lzma, got 10"),
        ({"compression": "zstd", "compression_level": 23}, "expected 1 to 22 for zstd, got 23"),
        ({"compression": "none", "compression_level": 1}, "expected 0 to 0 for none"),
    ],
)
def test_bad_layouts(fields: dict, message: str):
    with pytest.raises(ValueError, match=message):
        VxzLayout(**fields)


def coords_of(*rows: list[int]) -> VoxelRecords:
    return VoxelRecords(torch.tensor(rows, dtype=torch.int32), {"a": torch.zeros(len(rows), 1, dtype=torch.uint8)})


@pytest.mark.parametrize(
    ("records", "layout", "message"),
    [
        (coords_of([1, 2, 3], [0, 0, 0], [1, 2, 3]), PLAIN, "each voxel once, got 1 again"),
        (coords_of([0, 0, 0], [0, 1 << 21, 0]), PLAIN, "at most 2\\*\\*21 voxels"),
        (coords_of([-(1 << 31), 0, 0], [(1 << 31) - 1, 0, 0]), PLAIN, "at most 2\\*\\*21 voxels"),
        (VoxelRecords(sample(1).coords, {"a": torch.zeros(1, 1)}), PLAIN, "attribute 'a' of a .vxz: expected uint8"),
        (VoxelRecords(sample(1).coords, {"svo": sample(1).attrs["metallic"]}), PLAIN, "keeps the name 'svo'"),
        (coords_of([0, 0, 0]), VxzLayout(1024, "neighbor"), "or the original could not read the file; got 1024"),
        (
            VoxelRecords(sample(1).coords, {"a": torch.zeros(1, 4097, dtype=torch.uint8)}),
            PLAIN,
            "at most 4096 channels",
        ),
    ],
)
def test_what_a_vxz_cannot_hold(records: VoxelRecords, layout: VxzLayout, message: str, tmp_path: Path):
    with pytest.raises(ValueError, match=message):
        write_vxz(tmp_path / "a.vxz", records, layout)
    assert list(tmp_path.iterdir()) == []


def split_file(path: Path) -> tuple[dict, bytes]:
    data = path.read_bytes()
    end = int.from_bytes(data[4:8], "big")
    return json.loads(data[8:end]), data[end:]


def join_file(path: Path, fields: object, data: bytes) -> Path:
    text = json.dumps(fields).encode()
    path.write_bytes(b"VXZ\0" + (8 + len(text)).to_bytes(4, "big") + text + data)
    return path


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, bytes]:
    """Header fields and data of a small uncompressed file of several chunks, each with svo, base_color, metallic."""
    path = tmp_path_factory.mktemp("plain") / "plain.vxz"
    write_vxz(path, sample(63, span=8), PLAIN)
    return split_file(path)


def moved(fields: dict, number: int, name: str, offset: int, size: int) -> None:
    span = fields["chunks"][number][name]
    fields["chunks"][number][name] = [span[0] + offset, span[1] + size]


MALFORMED = {
    "no chunk_size": (lambda f: f.pop("chunk_size"), "expected a field 'chunk_size'"),
    "chunk_size 3": (lambda f: f.update(chunk_size=3), "power of two"),
    "chunk_size true": (lambda f: f.update(chunk_size=True), "whole number, got True"),
    "chunk_size float": (lambda f: f.update(chunk_size=4.0), "whole number, got 4.0"),
    "filter list": (lambda f: f.update(filter=["none"]), "filter: expected"),
    "compression unknown": (lambda f: f.update(compression="rle"), "compression: expected"),
    "voxels negative": (lambda f: f.update(num_voxel=-1), "whole number, got -1"),
    "voxels fewer": (lambda f: f.update(num_voxel=62), "expected 62 voxels, got more"),
    "voxels more": (lambda f: f.update(num_voxel=64), "expected 64 voxels, got 63"),
    "voxels absurd": (lambda f: f.update(num_voxel=1 << 60), "num_voxel: got 1152921504606846976 in"),
    "attr object": (lambda f: f.update(attr={}), "attr: expected a list"),
    "attr entry": (lambda f: f.update(attr=["base_color"]), r"expected \[name, channels\]"),
    "attr twice": (lambda f: f.update(attr=[["a", 1], ["a", 1]]), "unique names"),
    "attr no channels": (lambda f: f.update(attr=[["a", 0]]), "1 to 4096 channels"),
    "attr too wide": (lambda f: f.update(attr=[["a", 1 << 40]]), "1 to 4096 channels"),
    "attr reserved": (lambda f: f.update(attr=[["svo", 1]]), "keeps the name 'svo'"),
    "attr unprintable": (lambda f: rename(f, "base\ncolor"), "expected printable names"),
    "attr wider": (lambda f: f.update(attr=[["base_color", 4], ["metallic", 1]]), "base_color: expected"),
    "chunks null": (lambda f: f.update(chunks=None), "chunks: expected a list"),
    "chunks fewer": (lambda f: f["chunks"].pop(), "voxels, got"),
    "chunk list": (lambda f: f["chunks"].__setitem__(1, []), "chunk 1: entry: expected a JSON object"),
    "chunk twice": (lambda f: f["chunks"].append(f["chunks"][0]), "expected each idx once"),
    "chunk overlaps": (lambda f: moved(f, 1, "ptr", -1, 0), "chunks: the one at byte .* overlaps"),
    "chunk outside": (lambda f: moved(f, 1, "ptr", 1 << 40, 0), r"chunk 1: ptr: expected \[offset, size\] within"),
    "chunk negative": (lambda f: f["chunks"][0].update(ptr=[-1, 5]), "chunk 0: ptr: expected a whole number"),
    "chunk too short": (lambda f: moved(f, 1, "ptr", 0, -1), "chunk 1: metallic: expected"),
    "index far": (lambda f: f["chunks"][0].update(idx=[0, 1 << 30, 0]), "voxels in int32's range"),
    "index short": (lambda f: f["chunks"][0].update(idx=[0, 0]), "expected three indices"),
    "index float": (lambda f: f["chunks"][0].update(idx=[0, 0.5, 0]), "whole number, got 0.5"),
    "stream missing": (lambda f: f["chunks"][0].pop("metallic"), "chunk 0: expected the entries"),
    "stream unknown": (lambda f: f["chunks"][0].update(gloss=[0, 0]), "chunk 0: expected the entries"),
    "stream overlaps": (lambda f: moved(f, 0, "metallic", -1, 0), "chunk 0: streams: the one at byte"),
    "stream outside": (lambda f: moved(f, 0, "metallic", 0, 1), r"metallic: expected \[offset, size\] within"),
    "stream text": (lambda f: f["chunks"][0].update(svo="0, 9"), "svo: expected a list"),
    "stream three": (lambda f: f["chunks"][0].update(svo=[0, 1, 2]), r"svo: expected \[offset, size\]"),
    "octree short": (lambda f: moved(f, 0, "svo", 0, -1), "octree ends before its last node"),
    "values short": (lambda f: moved(f, 0, "metallic", 0, -1), r"chunk \(0, 0, 0\): metallic: expected"),
}


def rename(fields: dict, name: str) -> None:
    fields["attr"][0][0] = name
    for chunk in fields["chunks"]:
        chunk[name] = chunk.pop("base_color")


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_headers_name_the_file_and_the_fault(case: str, plain: tuple[dict, bytes], tmp_path: Path):
    change, message = MALFORMED[case]
    fields = copy.deepcopy(plain[0])
    change(fields)
    path = join_file(tmp_path / "odd.vxz", fields, plain[1])
    with pytest.raises(ValueError, match=rf"odd\.vxz: .*{message}"):
        read_vxz(path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "expected a .vxz file, got 0 bytes"),
        (b"VXZ\0\0\0", "got 6 bytes"),
        (b"PK\3\4\0\0\0\x0a{}", "begins with b'PK"),
        (b"VXZ\1\0\0\0\x0a{}", "of version 0"),
        (b"VXZ\0\0\0\0\x07{}", "header ends at byte 7"),
        (b"VXZ\0\xff\xff\xff\xff{}", "header ends at byte 4294967295, expected at most 10"),
        (b"VXZ\0\0\0\0\x0a{]", "header is not JSON"),
        (b"VXZ\0\0\0\0\x0b\xff\xfe\x00", "header is not JSON"),
        (b"VXZ\0\0\0\0\x0a[]", "header: expected a JSON object"),
        (b"VXZ\0\0\x01\x86\xa8" + b"[" * 100_000, "header is not JSON"),
        (b"VXZ\0\0\0\0\x0a{}", "expected a field"),
    ],
)
def test_malformed_starts(data: bytes, message: str, tmp_path: Path):
    (tmp_path / "odd.vxz").write_bytes(data)
    for read in (read_vxz, read_vxz_header):
        with pytest.raises(ValueError, match=rf"odd\.vxz: .*{message}"):
            read(tmp_path / "odd.vxz")


def test_a_header_over_the_limit_is_not_read(tmp_path: Path):
    with open(tmp_path / "odd.vxz", "wb") as file:
        file.write(b"VXZ\0" + (65 << 20).to_bytes(4, "big"))
        file.truncate(70 << 20)
    with pytest.raises(ValueError, match="header ends at byte 68157440, expected at most 67108864"):
        measured(lambda: read_vxz(tmp_path / "odd.vxz"))


def measured(call: Callable[[], object], limit: int = 4 << 20) -> None:
    """Calls, and fails if Python or numpy held more than `limit` bytes at once."""
    tracemalloc.start()
    try:
        call()
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < limit


@PACKED
def test_bombs_are_not_expanded(codec: str, tmp_path: Path):
    need_codec(codec)
    bomb = compress(bytes(32 << 20), codec, 1)
    octree = compress(b"\x01\x01", codec, 1)
    for streams in ((octree, bomb), (bomb, octree)):
        svo, color = map(len, streams)
        entry = {"idx": [0, 0, 0], "svo": [0, svo], "a": [svo, color], "ptr": [0, svo + color]}
        head = {"num_voxel": 1, "chunk_size": 4, "filter": "none", "compression": codec, "attr_interleave": "as_is"}
        path = join_file(tmp_path / "bomb.vxz", head | {"attr": [["a", 1]], "chunks": [entry]}, b"".join(streams))
        with pytest.raises(ValueError):
            read_vxz(path)  # what the first call imports is not the file's
        with pytest.raises(ValueError, match=rf"bomb\.vxz: chunk \(0, 0, 0\): (svo|a): {codec} stream: expected"):
            measured(lambda path=path: read_vxz(path))


def test_claims_are_not_believed(tmp_path: Path):
    entry = {"idx": [0, 0, 0], "svo": [0, 2], "a": [2, 1], "ptr": [0, 3]}
    head = {"chunk_size": 1024, "filter": "none", "compression": "none", "attr_interleave": "as_is", "attr": [["a", 1]]}
    for claim, message in ((1 << 28, "octree ends"), (1 << 30, "expected at most 4294967296 bytes; allow more with")):
        path = join_file(tmp_path / "claim.vxz", head | {"num_voxel": claim, "chunks": [entry]}, b"\x01\x01\x07")
        with pytest.raises(ValueError, match=message):
            measured(lambda path=path: read_vxz(path))


def test_max_bytes(tmp_path: Path):
    write_vxz(tmp_path / "a.vxz", sample(63), PLAIN)
    assert len(read_vxz(tmp_path / "a.vxz", max_bytes=63 * 16)) == 63
    with pytest.raises(ValueError, match=r"63 voxels of 4 channels.*expected at most 1007 bytes"):
        read_vxz(tmp_path / "a.vxz", 63 * 16 - 1)


JSON_VALUES = st.sampled_from(
    [None, True, -1, 0, 1, 2, 3.5, 1 << 31, 1 << 70, "", "svo", [], [0, 1], [[0, 1]], {}, {"a": 1}]
)


@pytest.mark.slow
@given(data=st.data())
@bounded
def test_fuzzed_headers_are_read_or_refused(
    data: st.DataObject, plain: tuple, tmp_path_factory: pytest.TempPathFactory
):
    fields = copy.deepcopy(plain[0])
    for _ in range(data.draw(st.integers(1, 2))):
        node = fields
        while True:
            keys = list(node) if isinstance(node, dict) else list(range(len(node)))
            key = data.draw(st.sampled_from(keys))
            deeper = isinstance(node[key], dict | list) and node[key] and data.draw(st.integers(0, 3))
            if not deeper:
                break
            node = node[key]
        node[key] = data.draw(JSON_VALUES)
    path = join_file(tmp_path_factory.getbasetemp() / "fuzzed.vxz", fields, plain[1])
    try:
        read_vxz(path, threads=1)
    except ValueError as error:
        assert str(path) in str(error)


@PACKED
def test_damaged_streams(codec: str):
    need_codec(codec)
    data = bytes(range(256)) * 4
    packed = compress(data, codec, 1)
    assert decompress(packed, codec, 1024) == data
    for damaged, message in (
        (packed[:-1], "cut short|damaged"),
        (packed[: len(packed) // 2], "cut short|damaged"),
        (packed + b"\0", "more bytes|damaged"),
        (b"", "cut short|damaged|stated size"),
        (b"\xff" * 64, "damaged"),
    ):
        with pytest.raises(ValueError, match=message):
            decompress(damaged, codec, 1024)
    with pytest.raises(ValueError, match=r"expected .*at most 1023 bytes"):
        decompress(packed, codec, 1023)


def test_streams_are_raw():
    """Any decoder of these formats reads them: no zlib or xz container around the streams."""
    data = bytes(1000) + b"end"
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9}]
    assert zlib.decompress(compress(data, "deflate", 9), wbits=-15) == data
    assert lzma.decompress(compress(data, "lzma", 9), lzma.FORMAT_RAW, filters=filters) == data
    assert compress(data, "none", 0) == data


def test_zstd_without_a_decoder_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("compression.zstd", "zstandard"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match="pip install zstandard"):
        write_vxz(tmp_path / "a.vxz", sample(63), VxzLayout(compression="zstd"))
    assert list(tmp_path.iterdir()) == []


def test_a_missing_file_is_an_os_error(tmp_path: Path):
    for read in (read_vxz, read_vxz_header):
        with pytest.raises(FileNotFoundError):
            read(tmp_path / "none.vxz")
