"""PNG images, read back by Pillow."""

import io
import os
import zlib

import numpy as np
import pytest
from comfyui_trellis2.o_voxel.files.meshes.png import BAND_BYTES, NUMBA_BYTES, encode_png
from comfyui_trellis2.o_voxel.files.meshes.png.kernel_cpu import deflate
from PIL import Image


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def waves(height: int, width: int, channels: int) -> np.ndarray:
    """Smooth in every direction, as a baked texture is, with charts that end sharply."""
    y, x, c = np.mgrid[0:height, 0:width, 0:channels]
    smooth = 128 + 60 * np.sin(x / 40 + c) + 50 * np.cos((x + y) / 61 - c) + noise(height, width, channels) % 3
    return np.where((x // 100 + y // 80) % 3 == 0, 40 * c, smooth).astype(np.uint8)


def read(content: bytes, channels: int) -> np.ndarray:
    image = Image.open(io.BytesIO(content))
    assert (image.format, image.mode) == ("PNG", {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[channels])
    return np.asarray(image).reshape(image.height, image.width, channels)


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (9, 1), (63, 65), (2, BAND_BYTES // 3), (1000, 301)], ids=str)
@pytest.mark.parametrize("level", [0, 1, 6])
def test_every_pixel_comes_back(size, channels, level):
    for image in (noise(*size, channels), np.zeros((*size, channels), np.uint8), waves(*size, channels)):
        np.testing.assert_array_equal(read(encode_png(image, level), channels), image)


def test_values_at_the_ends_of_the_range_come_back():
    """Predictions tie and wrap here: every triple of neighbours from few values."""
    image = np.random.default_rng(1).choice(np.array([0, 1, 127, 128, 254, 255], np.uint8), (200, 300, 3))
    np.testing.assert_array_equal(read(encode_png(image), 3), image)


@pytest.mark.slow
@pytest.mark.parametrize("level", [1, 6])
def test_the_bytes_do_not_depend_on_threads(level):
    image = waves(500, 900, 4)
    assert image.nbytes > 4 * BAND_BYTES
    once = encode_png(image, level, threads=1)
    assert all(encode_png(image, level, threads=threads) == once for threads in (2, 3, 16, None))


def test_the_stream_is_one_zlib_stream():
    """Stricter readers than Pillow check the header and the Adler-32 of all bands."""
    image = waves(300, 900, 3)
    content = encode_png(image)
    at, stream, kinds = 8, b"", []
    while at < len(content):
        size, kind = int.from_bytes(content[at : at + 4], "big"), content[at + 4 : at + 8]
        body = content[at + 8 : at + 8 + size]
        assert int.from_bytes(content[at + 8 + size : at + 12 + size], "big") == zlib.crc32(kind + body)
        stream += body if kind == b"IDAT" else b""
        kinds.append(kind)
        at += 12 + size
    assert (kinds[0], kinds[-1]) == (b"IHDR", b"IEND") and kinds.count(b"IDAT") > 3
    assert len(zlib.decompress(stream)) == image.nbytes + len(image)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (9, 1), (63, 65), (1000, 301)], ids=str)
def test_the_compiled_encoder_gives_every_pixel_back(size):
    for channels in (1, 2, 3, 4):
        for image in (noise(*size, channels), np.zeros((*size, channels), np.uint8), waves(*size, channels)):
            content = encode_png(image, backend="numba")
            np.testing.assert_array_equal(read(content, channels), image)
            for level in (0, 6):
                assert encode_png(image, level, backend="numba") == encode_png(image, level, backend="zlib")


@pytest.mark.slow
@pytest.mark.parametrize(
    "data",
    [
        np.repeat(np.arange(300) % 256, np.arange(300) + 1).astype(np.uint8),
        np.zeros(3 * (1 << 16) + 259, np.uint8),
        # Counts as Fibonacci's numbers: without a limit the rarest of their symbols would have codes of 23 bits.
        np.random.default_rng(0).permutation(
            np.concatenate([np.full(int(1.618**n / 2.236 + 0.5), 2 * n, np.uint8) for n in range(1, 24)])
        ),
        noise(1 << 17),
        np.tile(np.array([5, 9], np.uint8), 500),
    ],
    ids=["runs of every length", "one byte", "deep code", "noise", "two bytes"],
)
@pytest.mark.parametrize("last", [False, True])
def test_what_is_deflated_is_inflated_by_zlib(data, last):
    packed = deflate(data, last).tobytes()
    inflate = zlib.decompressobj(-15)
    assert inflate.decompress(packed) == data.tobytes()
    assert inflate.eof is last
    if not last:
        # Byte-aligned: what follows is a stream of its own.
        assert inflate.decompress(deflate(data[:9], True).tobytes()) == data[:9].tobytes()
        assert inflate.eof
    by_zlib = zlib.compressobj(1, zlib.DEFLATED, -15, 9, zlib.Z_RLE)
    assert len(packed) <= 1.03 * len(by_zlib.compress(data.tobytes()) + by_zlib.flush()) + 200 * (
        1 + len(data) // 65536
    )


@pytest.mark.slow
def test_large_images_are_encoded_by_the_compiled_encoder_and_as_small():
    image = waves(1700, 1701, 3)
    assert image.nbytes > NUMBA_BYTES
    content = encode_png(image)
    assert content == encode_png(image, backend="numba", threads=3) != encode_png(image, backend="zlib")
    assert len(content) <= 1.01 * len(encode_png(image, backend="zlib"))
    assert encode_png(image[:300]) == encode_png(image[:300], backend="zlib")


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_texture_is_about_as_small_as_pillows(channels):
    image = waves(512, 512, channels)
    file = io.BytesIO()
    Image.fromarray(image.squeeze()).save(file, "png")
    assert len(encode_png(image)) <= 1.05 * len(file.getvalue())


def test_views_are_read_as_they_are():
    image = noise(20, 30, 4)
    for view in (image[::-1], image[:, ::2, :3], image[..., 3:]):
        np.testing.assert_array_equal(read(encode_png(view), view.shape[2]), view)


@pytest.mark.parametrize(
    "image",
    [np.zeros((0, 4, 3), np.uint8), np.zeros((4, 0, 3), np.uint8), np.zeros((4, 4), np.uint8),
     np.zeros((4, 4, 5), np.uint8), np.zeros((4, 4, 0), np.uint8), np.zeros((4, 4, 3), np.float32)],
    ids=["no rows", "no columns", "flat", "five channels", "no channels", "float"],
)  # fmt: skip
def test_what_is_no_image_is_refused(image):
    with pytest.raises(ValueError, match="image: expected"):
        encode_png(image)


@pytest.mark.parametrize("level", [-1, 10])
def test_levels_that_there_are_not(level):
    with pytest.raises(ValueError, match="level"):
        encode_png(noise(4, 4, 3), level)


def test_a_machine_that_does_not_know_its_cores(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    image = noise(4, 4, 3)
    np.testing.assert_array_equal(read(encode_png(image), 3), image)
