"""Preparing an image, and the ComfyUI tensors on either side. The reference's bytes are in golden/test_c8_*."""

import numpy as np
import pytest
import torch
from comfyui_trellis2.trellis2.image import from_comfy, prepare_image, to_comfy, to_pixels
from PIL import Image


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def scene(width, height, box, colour=(200, 100, 50)):
    """A transparent RGBA image of hidden green with an opaque rectangle (left, upper, right, lower: end exclusive)."""
    image = Image.new("RGBA", (width, height), (0, 255, 0, 0))
    image.paste((*colour, 255), box)
    return image


def comfy_load(rgba):
    """What ComfyUI's LoadImage gives for an RGBA file: IMAGE [1, H, W, 3] and MASK [1, H, W] = 1 - alpha."""
    values = np.asarray(rgba).astype(np.float32) / 255.0
    return torch.from_numpy(values[None, ..., :3].copy()), 1.0 - torch.from_numpy(values[None, ..., 3].copy())


def same(first, second):
    return first.mode == second.mode and np.array_equal(np.asarray(first), np.asarray(second))


@pytest.mark.parametrize("width, height, side", [(3, 2, 2), (10, 4, 8), (4, 11, 10), (63, 64, 62), (1, 3, 2)])
@pytest.mark.parametrize("left, upper", [(0, 0), (7, 2), (30, 36)])
def test_crop_is_the_object_on_a_square(width, height, side, left, upper):
    image = scene(100, 100, (left, upper, left + width, upper + height))
    out = np.asarray(prepare_image(image))
    assert out.shape == (side, side, 3)
    lit = (out == (200, 100, 50)).all(-1)
    assert (out[~lit] == 0).all()
    rows, columns = lit.any(1).sum(), lit.any(0).sum()
    assert min(height, side) - 1 <= rows <= height and min(width, side) - 1 <= columns <= width
    assert lit.sum() == rows * columns


def test_crop_may_leave_the_image():
    out = np.asarray(prepare_image(scene(40, 10, (0, 0, 33, 5))))
    assert out.shape == (32, 32, 3)
    assert (out[:14] == 0).all() and (out[14:19] == (200, 100, 50)).all() and (out[19:] == 0).all()


def test_crop_spans_only_pixels_above_the_threshold():
    pixels = np.zeros((50, 50, 4), np.uint8)
    pixels[5:45, 5:45] = (255, 255, 255, 204)
    pixels[20:31, 20:31, 3] = 205
    out = np.asarray(prepare_image(Image.fromarray(pixels)))
    assert out.shape == (10, 10, 3) and set(np.unique(out)) <= {204, 205}


def test_mask_equals_alpha():
    rgba = Image.fromarray(noise(37, 53, 4))
    expected = prepare_image(rgba)
    assert same(prepare_image(rgba.convert("RGB"), rgba.getchannel("A")), expected)
    other = Image.fromarray(np.dstack([np.asarray(rgba)[..., :3], noise(37, 53, seed=1)]))
    assert same(prepare_image(other, rgba.getchannel("A")), expected)


def test_other_modes_equal_their_rgba():
    grey = Image.fromarray(noise(20, 30))
    mask = scene(30, 20, (3, 4, 20, 16)).getchannel("A")
    assert same(prepare_image(grey, mask), prepare_image(grey.convert("RGB"), mask.convert("1")))
    palette = Image.fromarray(noise(20, 30) // 86).convert("P")
    palette.info["transparency"] = bytes([0, 255, 255])
    assert same(prepare_image(palette), prepare_image(palette.convert("RGBA")))
    assert same(prepare_image(palette, mask), prepare_image(palette.convert("RGBA").convert("RGB"), mask))


def test_large_images_are_reduced_first_and_hidden_colours_do_not_bleed():
    big = scene(2048, 1000, (300, 100, 1301, 801))
    out = prepare_image(big)
    assert same(out, prepare_image(big.resize((1024, 500), Image.Resampling.LANCZOS)))
    assert out.size == (498, 498)
    red, green = (np.asarray(out)[..., channel].astype(int) for channel in (0, 1))
    assert (green <= red / 2 + 2).all()


@pytest.mark.slow
@pytest.mark.parametrize("size", [(1024, 700), (1, 1024)])
def test_images_of_the_limit_are_not_resampled(size):
    values = noise(size[1], size[0], 4)
    values[..., 3] = 255
    values[:5, :, 3] = 0
    out = np.asarray(prepare_image(Image.fromarray(values)))
    rows = values[5:, :, :3].reshape(-1, 3)
    assert {tuple(v) for v in out[::97, ::97].reshape(-1, 3)} <= {tuple(v) for v in rows} | {(0, 0, 0)}


def test_inputs_are_not_changed():
    rgba, mask = Image.fromarray(noise(30, 30, 4)), Image.fromarray(noise(30, 30, seed=2))
    before = rgba.tobytes(), mask.tobytes()
    first, second = prepare_image(rgba, mask), prepare_image(rgba, mask)
    assert same(first, second) and (rgba.tobytes(), mask.tobytes()) == before


@pytest.mark.parametrize(
    "image, mask, message",
    [
        (Image.new("RGB", (8, 8)), None, "remove the background"),
        (Image.new("RGBA", (8, 8), (1, 2, 3, 255)), None, "remove the background"),
        (Image.new("RGBA", (8, 8)), None, "everything is transparent"),
        (Image.new("RGBA", (8, 8), (9, 9, 9, 204)), None, "largest is 204"),
        (Image.new("RGB", (8, 8)), Image.new("L", (8, 8)), "may be inverted"),
        (scene(8, 8, (3, 3, 4, 4)), None, "1x1 pixels"),
        (scene(8, 8, (3, 3, 5, 5)), None, "2x2 pixels"),
        (Image.new("RGB", (1, 1)), Image.new("L", (1, 1), 255), "1x1 pixels"),
        (Image.new("RGB", (8, 8)), Image.new("L", (8, 9), 255), r"mask: expected the image's size \(8, 8\)"),
        (Image.new("RGB", (8, 8)), Image.new("RGB", (8, 8)), "mask: expected mode L or 1, got RGB"),
        (Image.new("I;16", (8, 8)), None, "got I;16"),
        (scene(2, 5000, (0, 0, 1, 5000)), None, "too narrow"),
    ],
)
def test_what_cannot_be_prepared_raises(image, mask, message):
    with pytest.raises(ValueError, match=message):
        prepare_image(image, mask)


def test_an_explicit_mask_may_be_all_object():
    image = Image.fromarray(noise(9, 9, 3))
    out = prepare_image(image, Image.new("L", (9, 9), 255))
    assert np.array_equal(np.asarray(out), np.asarray(image)[:8, :8])


def test_comfy_tensors_give_the_files_bytes_back():
    values = np.dstack([noise(16, 16, 3), np.arange(256, dtype=np.uint8).reshape(16, 16)])
    rgba = Image.fromarray(values)
    image, mask = comfy_load(rgba)
    [back] = from_comfy(image, alpha=1.0 - mask)
    assert same(back, rgba)
    ramp = Image.fromarray(np.arange(768, dtype=np.uint8).reshape(16, 16, 3))
    assert same(from_comfy(to_comfy([ramp]))[0].convert("RGB"), ramp)
    assert same(from_comfy(to_comfy([ramp]).half())[0].convert("RGB"), ramp)


def test_alpha_shapes():
    images = torch.from_numpy(noise(3, 5, 7, 3)).float() / 255
    alpha = torch.from_numpy(noise(3, 5, 7, seed=1)).float() / 255
    each = from_comfy(images, alpha)
    assert len(each) == 3 and all(image.mode == "RGBA" and image.size == (7, 5) for image in each)
    assert np.array_equal(np.asarray(each[2].getchannel("A")), (alpha[2] * 255).round().byte().numpy())
    for shared in (alpha[0], alpha[:1]):
        assert all(same(a.getchannel("A"), each[0].getchannel("A")) for a in from_comfy(images, shared))
    four = torch.cat([images, alpha[..., None]], -1)
    assert all(same(a, b) for a, b in zip(from_comfy(four), each, strict=True))
    assert same(from_comfy(four, alpha[1])[0].getchannel("A"), each[1].getchannel("A"))
    assert from_comfy(images)[0].getextrema()[3] == (255, 255)
    assert from_comfy(images[:0]) == []


def test_values_are_clamped_and_inputs_unchanged():
    images = torch.tensor([-0.5, 0.0, 1.0, 1.5, 0.5, 0.002]).view(1, 1, 2, 3)
    before = images.clone()
    assert np.asarray(from_comfy(images)[0])[..., :3].ravel().tolist() == [0, 0, 255, 255, 128, 1]
    assert torch.equal(images, before)


@pytest.mark.parametrize(
    "images, alpha, message",
    [
        (torch.zeros(5, 7, 3), None, "images"),
        (torch.zeros(1, 5, 7, 2), None, "3 or 4 channels"),
        (torch.zeros(1, 5, 7, 3, dtype=torch.uint8), None, "images: expected float16"),
        (torch.full((1, 5, 7, 3), float("nan")), None, "images: .* NaN"),
        (torch.zeros(1, 5, 7, 3), torch.full((5, 7), float("nan")), "alpha: .* NaN"),
        (torch.zeros(1, 5, 7, 3), torch.zeros(1, 7, 5), r"alpha: expected \[1, 5, 7\]"),
        (torch.zeros(3, 5, 7, 3), torch.zeros(2, 5, 7), r"got \[2, 5, 7\]"),
        (torch.zeros(1, 5, 7, 3), torch.zeros(1, 1, 5, 7), "alpha"),
        (torch.zeros(1, 5, 7, 3), torch.zeros(1, 64, 64), "LoadImage gives 64x64"),
    ],
)
def test_other_tensors_raise(images, alpha, message):
    with pytest.raises(ValueError, match=message):
        from_comfy(images, alpha)


def test_from_comfy_wants_tensors():
    with pytest.raises(TypeError, match="alpha"):
        from_comfy(torch.zeros(1, 5, 7, 3), np.zeros((5, 7)))


def test_to_comfy_batches():
    images = [Image.fromarray(noise(6, 4, 3, seed=seed)) for seed in range(2)]
    batch = to_comfy(images)
    assert batch.shape == (2, 6, 4, 3) and batch.dtype == torch.float32
    assert np.array_equal((batch[1] * 255).round().byte().numpy(), np.asarray(images[1]))
    mixed = [images[0], Image.new("RGB", (9, 9))]
    with pytest.raises(ValueError, match="4x6, 9x9; pass size="):
        to_comfy(mixed)
    assert to_comfy(mixed, size=8).shape == (2, 8, 8, 3)
    resized = images[0].resize((8, 8), Image.Resampling.LANCZOS)
    assert torch.equal(to_comfy(mixed, size=8)[:1], to_comfy([resized]))


@pytest.mark.parametrize(
    "images, size, message",
    [
        ([], None, "at least one"),
        ([Image.new("RGBA", (2, 2))], None, r"images\[0\]: .* got mode RGBA"),
        ([Image.new("RGB", (2, 2))], 0, "size"),
    ],
)
def test_to_comfy_raises(images, size, message):
    with pytest.raises(ValueError, match=message):
        to_comfy(images, size)


def test_to_pixels_normalises():
    pixels = to_pixels(Image.new("RGB", (5, 9), (0, 128, 255)), 32)
    assert pixels.shape == (3, 32, 32) and pixels.dtype == torch.float32
    expected = torch.tensor([-0.485 / 0.229, (128 / 255 - 0.456) / 0.224, (1 - 0.406) / 0.225])
    torch.testing.assert_close(pixels, expected.view(3, 1, 1).expand(3, 32, 32), atol=1e-6, rtol=1e-6)


def test_to_pixels_raises():
    with pytest.raises(ValueError, match="image: expected an RGB image"):
        to_pixels(Image.new("RGBA", (5, 9)), 32)
    with pytest.raises(ValueError, match="size"):
        to_pixels(Image.new("RGB", (5, 9)), 0)
