"""Mip levels, texture reads and table layout, against plain Python arithmetic."""

import itertools
import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from comfyui_trellis2.o_voxel.material import Material, Texture
from comfyui_trellis2.o_voxel.ops.texture_sample import pack_textures, texture_sample
from comfyui_trellis2.o_voxel.ops.texture_sample.tables import mip_chain


def area_mean(values, size):
    """Rows of `values` [n] as `size` means by area, as fractions."""
    n = len(values)
    out = []
    for i in range(size):
        low, high = Fraction(i * n, size), Fraction((i + 1) * n, size)
        parts = [(min(high, k + 1) - max(low, Fraction(k))) * values[k] for k in range(n) if k + 1 > low and k < high]
        out.append(sum(parts) / (high - low))
    return out


@pytest.mark.parametrize("shape", [(8, 8), (5, 7), (1, 6), (9, 1), (4, 3), (1, 1)])
def test_mip_levels_are_area_means_rounded_down(shape):
    image = torch.randint(0, 256, (*shape, 2), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    levels = mip_chain(image)
    assert levels[0] is image
    assert tuple(levels[-1].shape) == (1, 1, 2)
    for fine, coarse in itertools.pairwise(levels):
        height, width = (max(1, n // 2) for n in fine.shape[:2])
        for channel in range(2):
            rows = [area_mean(row, width) for row in fine[..., channel].tolist()]
            columns = [area_mean(column, height) for column in zip(*rows, strict=True)]
            expected = [[math.floor(value) for value in row] for row in zip(*columns, strict=True)]
            assert coarse[..., channel].tolist() == expected


def wrapped(texel, size, mode):
    if mode == "clamp":
        return min(max(texel, 0), size - 1)
    if mode == "mirror":
        turns, place = divmod(texel, size)
        return place if turns % 2 == 0 else size - 1 - place
    return texel % size


def plain_read(image, u, v, wrap, mode):
    """One texel or the mix of four, in Python's floats."""
    height, width, _ = image.shape
    x, y = u * width, (1 - v) * height
    if mode == "nearest":
        return image[wrapped(math.floor(y), height, wrap[1]), wrapped(math.floor(x), width, wrap[0])] / 255
    x0, y0 = math.floor(x - 0.5), math.floor(y - 0.5)
    total = 0
    for dx, dy in itertools.product((0, 1), repeat=2):
        weight = (x - 0.5 - x0 if dx else 1 - (x - 0.5 - x0)) * (y - 0.5 - y0 if dy else 1 - (y - 0.5 - y0))
        total = total + weight * image[wrapped(y0 + dy, height, wrap[1]), wrapped(x0 + dx, width, wrap[0])] / 255
    return total


@pytest.mark.parametrize("backend", ["numba", "reference"])
@pytest.mark.parametrize("mode", ["linear", "nearest"])
@pytest.mark.parametrize("wrap", list(itertools.product(["repeat", "clamp", "mirror"], repeat=2)), ids="-".join)
def test_a_texture_is_read_where_it_should(wrap, mode, backend):
    generator = torch.Generator().manual_seed(2)
    image = torch.randint(0, 256, (6, 11, 3), generator=generator, dtype=torch.uint8)
    materials = (Material(), Material(base_color_texture=Texture(image, wrap, mode)))
    (table,) = pack_textures(materials, {"base_color_texture": (0, 1, 2)}, torch.device("cpu"))
    uv = torch.rand(200, 2, generator=generator) * 7 - 3
    lod = torch.linspace(0, 3, 200) if mode == "linear" else torch.zeros(200)
    found = texture_sample(table, torch.ones(200, dtype=torch.int64), uv, lod, backend=backend).numpy()
    levels = [level.numpy().astype(float) for level in mip_chain(image)]
    for row, (u, v), level in zip(found, uv.double().tolist(), lod.tolist(), strict=True):
        near, part = math.floor(level), level % 1
        fine, coarse = (plain_read(levels[min(k, 3)], u, v, wrap, mode) for k in (near, near + 1))
        np.testing.assert_allclose(row, (1 - part) * fine + part * coarse, atol=2e-5)


def test_slots_of_the_same_layout_share_a_table():
    image = [torch.full((4, 4, c), c, dtype=torch.uint8) for c in (3, 1, 1)]
    first = Material(
        base_color_texture=Texture(image[0]), metallic_texture=Texture(image[1]), roughness_texture=Texture(image[2])
    )
    slots = {"base_color_texture": (0, 1, 2), "metallic_texture": (3,), "roughness_texture": (4,)}
    (table,) = pack_textures((first, first), slots, torch.device("cpu"))
    assert table.channels == (0, 1, 2, 3, 4)
    assert table.texels.shape == (16 + 4 + 1, 5)
    other = replace(first, metallic_texture=Texture(image[1], ("clamp", "clamp")))
    assert [t.channels for t in pack_textures((first, other), slots, torch.device("cpu"))] == [(0, 1, 2, 4), (3,)]
    assert pack_textures((Material(),), slots, torch.device("cpu")) == ()


def test_arguments_are_checked():
    materials = (Material(base_color_texture=Texture(torch.zeros(2, 2, 3, dtype=torch.uint8))),)
    (table,) = pack_textures(materials, {"base_color_texture": (0, 1, 2)}, torch.device("cpu"))
    ids, uv, lod = torch.zeros(3, dtype=torch.int64), torch.zeros(3, 2), torch.zeros(3)
    assert texture_sample(table, ids, uv, lod).shape == (3, 3)
    for arguments in ((ids.int(), uv, lod), (ids, uv.double(), lod), (ids, uv[:2], lod), (ids, uv, lod[:, None])):
        with pytest.raises(ValueError, match="expected"):
            texture_sample(table, *arguments)
    with pytest.raises(ValueError, match="backend"):
        texture_sample(table, ids, uv, lod, backend="cuda")
