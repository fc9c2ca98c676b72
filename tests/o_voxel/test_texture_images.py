"""Textures as pictures and back: what was not touched stays to the bit."""

from dataclasses import replace

import pytest
import torch
from comfyui_trellis2.o_voxel.material import Material, Texture, TexturedMesh
from comfyui_trellis2.o_voxel.texture_images import TextureImages, texture_images, with_texture_images
from comfyui_trellis2.o_voxel.values import Mesh

TRIANGLE = Mesh(torch.eye(3), torch.tensor([[0, 1, 2]]))
UV = torch.tensor([[0.0, 0], [1, 0], [0, 1]])


def noise(height, width, channels, seed=0, **sampler) -> Texture:
    generator = torch.Generator().manual_seed(seed)
    return Texture(torch.randint(256, (height, width, channels), dtype=torch.uint8, generator=generator), **sampler)


def mesh(*materials: Material) -> TexturedMesh:
    return TexturedMesh(TRIANGLE, materials, uv=UV)


RICH = Material(
    base_color_factor=(0.3, 0.6, 0.9),
    base_color_texture=noise(8, 4, 3),
    roughness_texture=noise(4, 4, 1, 1),
    metallic_factor=0.37,
    occlusion_texture=noise(16, 16, 1, 2),
    normal_texture=noise(8, 8, 3, 3),
    emissive_factor=(2.0, 1.0, 0.1),
    alpha_factor=0.4,
)


@pytest.mark.parametrize(
    "material", [Material(), RICH, replace(RICH, alpha_mode="BLEND", alpha_texture=noise(2, 2, 1))]
)
def test_untouched_pictures_change_nothing(material):
    before = mesh(Material(), material)
    assert with_texture_images(before, texture_images(material), 1) is before
    assert with_texture_images(before, TextureImages(), 0) is before


def test_pictures_are_the_textures_or_their_factors():
    images = texture_images(RICH)
    assert torch.equal(images.base_color, RICH.base_color_texture.image)
    assert torch.equal(images.normal, RICH.normal_texture.image)
    assert images.orm.shape == (16, 16, 3)
    assert torch.equal(images.orm[..., :1], RICH.occlusion_texture.image)
    assert set(images.orm[..., 2].unique().tolist()) == {94}  # 0.37 * 255 = 94.35
    assert images.emissive[0, 0].tolist() == [255, 255, 26] and images.alpha[0, 0].tolist() == [102]
    plain = texture_images(Material())
    assert plain.normal[0, 0].tolist() == [128, 128, 255] and plain.base_color.shape == (64, 64, 3)
    assert plain.orm[0, 0].tolist() == [255, 255, 255]


def test_a_new_picture_of_another_size_replaces_one_map_alone():
    larger = RICH.base_color_texture.image.repeat_interleave(2, 0).repeat_interleave(2, 1)
    kept = RICH.base_color_texture.image.clone()
    (changed,) = with_texture_images(mesh(RICH), TextureImages(base_color=larger)).materials
    assert torch.equal(changed.base_color_texture.image, larger)
    assert vars(changed) == {**vars(RICH), "base_color_texture": changed.base_color_texture}
    assert torch.equal(RICH.base_color_texture.image, kept)


def test_one_channel_of_orm_leaves_the_others():
    orm = texture_images(RICH).orm.clone()
    orm[..., 1] = 7
    (changed,) = with_texture_images(mesh(RICH), TextureImages(orm=orm)).materials
    assert changed.roughness_texture.image.unique().tolist() == [7]
    assert changed.occlusion_texture is RICH.occlusion_texture and changed.metallic_texture is None
    assert changed.metallic_factor == 0.37


def test_a_map_that_was_missing_takes_the_factor_over():
    picture = noise(4, 4, 3, 9).image
    plain = Material(base_color_factor=(0.2, 0.2, 0.2), roughness_texture=noise(4, 4, 1, wrap=("clamp", "repeat")))
    images = TextureImages(base_color=picture, emissive=picture, normal=picture)
    (changed,) = with_texture_images(mesh(plain), images).materials
    assert changed.base_color_factor == (1.0, 1.0, 1.0) and changed.emissive_factor == (1.0, 1.0, 1.0)
    assert torch.equal(changed.normal_texture.image, picture)
    assert changed.base_color_texture.wrap == ("clamp", "repeat")  # packed into one file with its neighbours


def test_alpha_chooses_the_mode():
    for values, mode in (([[[0], [255]]], "MASK"), ([[[9], [255]]], "BLEND")):
        alpha = torch.tensor(values, dtype=torch.uint8)
        (changed,) = with_texture_images(mesh(Material()), TextureImages(alpha=alpha)).materials
        assert changed.alpha_mode == mode and torch.equal(changed.alpha_texture.image, alpha)
    cut = Material(alpha_mode="MASK")
    assert with_texture_images(mesh(cut), TextureImages(alpha=alpha)).materials[0].alpha_mode == "MASK"


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="UV coordinates"):
        with_texture_images(TexturedMesh(TRIANGLE), TextureImages())
    with pytest.raises(ValueError, match="material: expected 0 to 0, got 1"):
        with_texture_images(mesh(Material()), TextureImages(), 1)
    with pytest.raises(ValueError, match=r"normal: expected \[H, W, 3\] uint8, got \[4, 4, 1\]"):
        with_texture_images(mesh(Material()), TextureImages(normal=noise(4, 4, 1).image))
