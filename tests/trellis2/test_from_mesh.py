"""A mesh as input, on the tiny checkpoint: its latent, new textures on its own coordinates, a refined shape."""

from dataclasses import replace

import pytest
import torch
from comfyui_trellis2.o_voxel.bake.options import BakeOptions
from comfyui_trellis2.o_voxel.files.meshes.read import load_textured_mesh
from comfyui_trellis2.o_voxel.files.meshes.write import save_mesh
from comfyui_trellis2.o_voxel.material import Material, TexturedMesh
from comfyui_trellis2.o_voxel.values import Mesh, to_device
from comfyui_trellis2.trellis2.checkpoint.hub import MissingFileError
from comfyui_trellis2.trellis2.from_mesh import FromMesh, encode_mesh, refine_mesh, texture_mesh
from comfyui_trellis2.trellis2.sampling.flow_matching import noised, schedule, to_sample
from comfyui_trellis2.trellis2.values import ImageCondition

# A small grid: 1024's networks, for every resolution but 512.
SETTINGS = FromMesh(resolution=32, seed=3, steps=2)


@pytest.fixture(scope="module")
def sheet():
    """A folded sheet far from the cube, with UVs: two triangles a square, 4 by 4."""
    x, y = torch.meshgrid(torch.linspace(-1, 1, 5), torch.linspace(-1, 1, 5), indexing="ij")
    vertices = torch.stack([x, y, 0.5 * x.abs()], 2).reshape(-1, 3) * 30 + 200
    rows = torch.arange(25).view(5, 5)
    a, b, c, d = (part.reshape(-1) for part in (rows[:-1, :-1], rows[1:, :-1], rows[1:, 1:], rows[:-1, 1:]))
    faces = torch.cat([torch.stack([a, b, c], 1), torch.stack([a, c, d], 1)])
    return TexturedMesh(Mesh(vertices, faces), uv=torch.stack([x, y], 2).reshape(-1, 2) / 2 + 0.5)


@pytest.fixture(scope="module")
def condition(pipeline):
    tokens = torch.randn(1, 1, 5, 32, generator=torch.Generator().manual_seed(0))
    return ImageCondition(tokens, tokens)


@pytest.fixture(scope="module")
def shape(pipeline, sheet):
    return encode_mesh(pipeline, sheet, 32)


def test_a_mesh_is_encoded_on_the_voxels_of_its_surface(pipeline, sheet, shape):
    assert shape.resolutions == (32,) and shape.slat.feats.shape[1] == 32
    assert shape.space == pipeline.config.shape_slat_normalization.fingerprint
    assert torch.equal((shape.surface.voxels // 16).unique(dim=0), shape.slat.coords.voxels)
    # Its place and size do not matter, to a rounding; with fit off they do.
    moved = replace(sheet, mesh=Mesh((sheet.mesh.vertices - 200) / 8, sheet.mesh.faces))
    assert torch.equal(encode_mesh(pipeline, moved, 32).surface.rows, shape.surface.rows)
    with pytest.raises(ValueError, match="expected a surface inside the unit cube"):
        encode_mesh(pipeline, sheet, 32, fit=False)
    with pytest.raises(ValueError, match="expected a multiple of 16, got 100"):
        encode_mesh(pipeline, sheet, 100)


@pytest.mark.slow
def test_an_encoded_shape_is_decoded_on_its_own_voxels(pipeline, condition, shape):
    sampler = pipeline.config.tex_slat_sampler
    sampler = replace(sampler, params=replace(sampler.params, steps=1))
    texture = pipeline.sample_texture(condition, shape, seed=1, sampler=sampler)
    (asset,) = pipeline.decode(shape, texture)
    (field,) = pipeline.decode_materials(shape, texture)
    assert torch.equal(field.coords, shape.surface.voxels)
    assert torch.equal(asset.field.coords, field.coords) and torch.equal(asset.field.attrs, field.attrs)
    resting = to_device(to_device(shape, "cpu"), "cpu")
    assert torch.equal(resting.surface.rows, shape.surface.rows)
    sampled = replace(shape, surface=None)
    with pytest.raises(ValueError, match="expected one that was encoded from a mesh"):
        pipeline.decode_materials(sampled, texture)
    # Without its voxels the decoder predicts others.
    (guessed,) = pipeline.decode(sampled, texture)
    assert not torch.equal(guessed.field.coords, field.coords)


@pytest.mark.slow
def test_painted_parts_and_materials_keep_their_names(pipeline, condition, sheet, tmp_path):
    whole = replace(
        sheet,
        materials=(Material(name="Lack"), Material(name="Stoff")),
        material_ids=torch.arange(32) % 2,
        part_ids=torch.arange(32) // 8 % 3,
        part_names=("Bein", "Sitz", "Bein"),
        normals=torch.nn.functional.normalize(torch.rand(25, 3), dim=1),
    )
    source = load_textured_mesh(save_mesh(tmp_path / "a.glb", whole).path)
    made = texture_mesh(pipeline, source, condition, SETTINGS, BakeOptions(resolution=64))
    back = load_textured_mesh(save_mesh(tmp_path / "b.glb", made).path)
    for name in ("vertices", "faces"):
        assert torch.equal(getattr(back.mesh, name), getattr(source.mesh, name))
    for name in ("uv", "normals", "part_ids", "material_ids"):
        assert torch.equal(getattr(back, name), getattr(source, name)), name
    assert back.part_names == ("Bein", "Sitz", "Bein")
    assert [material.name for material in back.materials] == ["Lack", "Stoff"]
    assert all(material.base_color_texture is not None for material in back.materials)


@pytest.mark.slow
def test_a_mesh_gets_textures_and_keeps_the_rest(pipeline, condition, sheet):
    said = []
    made = texture_mesh(
        pipeline,
        sheet,
        condition,
        SETTINGS,
        BakeOptions(resolution=64),
        progress=lambda stage, fraction: said.append((stage, fraction)),
    )
    assert made.mesh.vertices is sheet.mesh.vertices and made.uv is sheet.uv
    assert made.materials[0].base_color_texture.image.float().std() > 1
    stages = list(dict.fromkeys(stage for stage, _ in said))
    assert stages == ["encode", "texture", "decode", "bake"] and said[-1] == ("bake", 1.0)
    assert all(0 <= fraction <= 1 for _, fraction in said)
    again = texture_mesh(pipeline, sheet, condition, SETTINGS, BakeOptions(resolution=64))
    assert torch.equal(again.materials[0].base_color_texture.image, made.materials[0].base_color_texture.image)


def test_without_an_encoder_nothing_is_computed(pipeline, condition, sheet, monkeypatch):
    def missing(*roles):
        raise MissingFileError(f"{roles[0]}: not there")

    monkeypatch.setattr(pipeline.networks, "require", missing)
    monkeypatch.setattr("comfyui_trellis2.trellis2.from_mesh.mesh_to_dual_grid", lambda *_, **__: pytest.fail("ran"))
    with pytest.raises(MissingFileError, match="shape_slat_encoder: not there"):
        texture_mesh(pipeline, sheet, condition, SETTINGS)


@pytest.mark.slow
def test_strength_is_the_time_that_the_flow_starts_at(pipeline, condition, shape):
    sampler = pipeline.config.shape_slat_sampler
    sampler = replace(sampler, params=replace(sampler.params, steps=2))
    made = {
        s: pipeline.refine_shape(condition, shape, seed=5, strength=s, sampler=sampler) for s in (0.0, 0.2, 0.7, 1.0)
    }
    assert torch.equal(made[0.0].slat.feats, shape.slat.feats)
    away = [(made[s].slat.feats - shape.slat.feats).square().mean().item() for s in made]
    assert away[0] == 0 and away[1] < away[2] < away[3]
    assert all(result.surface is None and result.slat.coords is not None for result in made.values())
    assert made[0.7].noise_history == (((len(shape.slat.coords), 32),),)
    # At 1 only the voxels remain: any other shape on them gives the same.
    other = replace(shape, slat=shape.slat.replace(-shape.slat.feats))
    fresh = pipeline.refine_shape(condition, other, seed=5, strength=1.0, sampler=sampler)
    torch.testing.assert_close(fresh.slat.feats, made[1.0].slat.feats, atol=1e-3, rtol=0)
    with pytest.raises(ValueError, match="strength: expected 0 to 1, got"):
        pipeline.refine_shape(condition, shape, seed=5, strength=1.5)


@pytest.mark.slow
def test_a_refined_mesh_is_a_new_surface(pipeline, condition, sheet):
    asset = refine_mesh(pipeline, sheet, condition, SETTINGS, strength=0.4)
    assert len(asset.mesh.vertices) == len(asset.field.coords) > 0
    bare = refine_mesh(pipeline, sheet, condition, SETTINGS, strength=0.4, texture=False)
    assert bare.field is None and torch.equal(bare.mesh.faces, asset.mesh.faces)


@pytest.mark.parametrize("rescale", [1.0, 3.0, 5.0])
def test_a_schedule_from_the_middle(rescale):
    times = schedule(6, rescale, 0.4)
    assert times[0] == pytest.approx(0.4, abs=1e-12) and times[-1] == 0 and len(times) == 7
    assert all(a > b for a, b in zip(times, times[1:], strict=False))
    whole = schedule(24, rescale)
    middle = min(whole, key=lambda t: abs(t - 0.4))
    rest = whole[whole.index(middle) :]
    assert schedule(len(rest) - 1, rescale, middle) == pytest.approx(rest, abs=1e-12)
    assert schedule(12, rescale) == schedule(12, rescale, 1.0)


def test_noised_samples_imply_themselves():
    sample, noise = torch.randn(2, 50, 4, generator=torch.Generator().manual_seed(2))
    for t in (0.1, 0.5, 1.0):
        velocity = (1 - 1e-5) * noise - sample
        back = to_sample(noised(sample, noise, t, 1e-5), velocity, t, 1e-5)
        torch.testing.assert_close(back, sample, atol=1e-5, rtol=0)
