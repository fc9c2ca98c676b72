"""The whole of Pixal3D on a tiny random checkpoint: one picture and several views, to a mesh that is z up."""

from dataclasses import replace

import pytest
import torch
from comfyui_trellis2.o_voxel.values import to_device
from comfyui_trellis2.trellis2.checkpoint.tiny import make_tiny_pixal3d
from comfyui_trellis2.trellis2.image import prepare_image
from comfyui_trellis2.trellis2.image.views import NAMED_VIEWS, ViewBlend, ViewDirection
from comfyui_trellis2.trellis2.pipeline import Pipeline
from comfyui_trellis2.trellis2.projection.camera import MARGIN, Pose, ViewRig
from comfyui_trellis2.trellis2.projection.frame import mesh_to_z_up, voxels_to_z_up
from comfyui_trellis2.trellis2.runtime.residency import KeepLoaded
from comfyui_trellis2.trellis2.runtime.streaming import Streamed
from comfyui_trellis2.trellis2.sampling import stages
from comfyui_trellis2.trellis2.stage_pictures import picture_of
from PIL import Image, ImageDraw

FEW = 12  # voxels of a structure
ROUND = ViewRig(directions=tuple(NAMED_VIEWS[name] for name in ("front", "left", "back")))


def cut_out(color: str, box=(60, 40, 130, 150)) -> Image.Image:
    image = Image.new("RGBA", (200, 180))
    ImageDraw.Draw(image).ellipse(box, fill=color)
    return image


PICTURES = [cut_out("red"), cut_out("green", (40, 60, 150, 120)), cut_out("blue")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_tiny_pixal3d(tmp_path_factory.mktemp("models") / "owner" / "tiny")


@pytest.fixture(scope="module")
def few(monkeypatch_module):
    """A random decoder occupies a thousand voxels."""
    found = stages.occupied_voxels
    monkeypatch_module.setattr(stages, "occupied_voxels", lambda *given: [v[:FEW] for v in found(*given)])


@pytest.fixture(scope="module")
def monkeypatch_module():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def pipeline(folder, few):
    return opened(folder, KeepLoaded("cpu"))


def opened(folder, residency, **options):
    """The tiny checkpoint with samplers of two steps."""
    return Pipeline.load(str(folder), residency, dtype="float32", **options)._sampling(*[{"steps": 2}] * 3)


@pytest.fixture(scope="module")
def one(pipeline):
    return pipeline.condition([PICTURES[:1]])


@pytest.fixture(scope="module")
def several(pipeline):
    return pipeline.condition([PICTURES], view_mode=ROUND)


@pytest.fixture(scope="module")
def shape(pipeline, one):
    structure = pipeline.sample_structure(one, seed=1)
    return pipeline.sample_shape(one, structure, seed=1)


def test_the_condition_holds_pictures_and_cameras(one, several):
    assert one.tokens_512.shape[:3] == (1, 1, 1029) and several.tokens_1024.shape[:3] == (1, 3, 4101)
    for condition, views in ((one, 1), (several, 3)):
        projection = condition.projection
        assert projection.pictures_512.shape == (1, views, 3, 512, 512)
        assert projection.pictures_1024.shape == (1, views, 3, 1024, 1024)
        assert condition.num_tokens(512) == condition.num_tokens(1024) == 5
    # A picture alone is cropped with a margin, which stays black.
    frame = prepare_image(PICTURES[0], margin=MARGIN)
    assert frame.size == (120, 120) and prepare_image(PICTURES[0]).size == (110, 110)
    moved = to_device(several, torch.device("cpu"))
    assert moved is several


@pytest.mark.slow
def test_from_a_picture_to_a_mesh(pipeline):
    told = []
    latents = pipeline.sample([PICTURES[:1]], seed=1, steps=2, progress=lambda *now: told.append(now))
    assert latents.shape.y_up and latents.texture.y_up and latents.structure.y_up
    for stage in ("condition", "structure", "shape", "cascade", "texture"):
        done = [fraction for name, fraction in told if name == stage]
        assert done == sorted(done) and done[-1] == pytest.approx(1)
    (asset,) = pipeline.decode(latents.shape, latents.texture)
    assert len(asset.mesh.vertices) > 0 and len(asset.field.coords) > 0
    (raw,) = pipeline.decode(replace(latents.shape, y_up=False), replace(latents.texture, y_up=False))
    assert torch.equal(mesh_to_z_up(raw.mesh).vertices, asset.mesh.vertices)
    (resolution,) = latents.shape.resolutions
    assert torch.equal(voxels_to_z_up(raw.field.coords, resolution), asset.field.coords)
    # Vertex i is in voxel i, or in its margin: both were turned alike.
    apart = asset.field.grid.to_grid(asset.mesh.vertices) - (asset.field.coords + 0.5)
    assert apart.abs().max() <= 1.01


@pytest.mark.slow
def test_views_cost_one_run_of_the_network_a_step(pipeline, several, shape):
    found, runs = [], pipeline.networks.loaded["shape_slat_flow_model_512"]
    hook = runs.register_forward_hook(lambda *_: found.append(1))
    structure = pipeline.sample_structure(several, seed=1)
    sampler = pipeline.config.shape_slat_sampler
    unguided = replace(sampler, params=replace(sampler.params, steps=3, guidance_strength=1.0))
    pipeline.sample_shape(several, structure, seed=1, sampler=unguided)
    hook.remove()
    assert len(found) == 3


@pytest.mark.slow
def test_what_a_view_shows_changes_the_result(pipeline, several):
    turned = replace(several, projection=replace(several.projection, cameras=several.projection.cameras.flip(1)))
    first, other = (pipeline.sample_structure(c, seed=1).items[0] for c in (several, turned))
    assert first.tolist() != other.tolist()


@pytest.mark.slow
def test_a_batch_is_its_objects(pipeline):
    together = pipeline.condition([PICTURES[:1], PICTURES[1:2]])
    structure = pipeline.sample_structure(together, seed=5)
    both = pipeline.sample_shape(together, structure, seed=5)
    for k in range(2):
        alone = pipeline.condition([[PICTURES[k]]])
        single = pipeline.sample_structure(alone, seed=5 + k)
        assert torch.equal(single.items[0], structure.items[k])
        latent = pipeline.sample_shape(alone, single, seed=5 + k)
        mine = both.slat.feats.split(both.slat.coords.lengths)[k]
        torch.testing.assert_close(latent.slat.feats, mine, atol=2e-4, rtol=0)


@pytest.mark.slow
def test_int8_is_close(folder, few, one, shape):
    pipeline = opened(folder, KeepLoaded("cpu"), quantization="int8")
    structure = pipeline.sample_structure(one, seed=1)
    latent = pipeline.sample_shape(one, replace(structure, items=shape_voxels(shape)), seed=1)
    error = (latent.slat.feats - shape.slat.feats).norm() / shape.slat.feats.norm()
    assert 1e-4 < error < 0.3


def shape_voxels(shape):
    return shape.slat.coords.voxels.split(shape.slat.coords.lengths)


@pytest.mark.slow
def test_the_step_cache_works(pipeline, one):
    structure = pipeline.sample_structure(one, seed=1)
    sampler = pipeline.config.shape_slat_sampler
    samplers = [replace(sampler, params=replace(sampler.params, steps=6, step_cache=on)) for on in (False, True)]
    plain, cached = (pipeline.sample_shape(one, structure, seed=1, sampler=one_of).slat.feats for one_of in samplers)
    assert cached.isfinite().all()
    assert not torch.equal(cached, plain)


@pytest.mark.slow
def test_streamed_networks_give_the_same_bits(folder, few, one, shape):
    streaming = opened(folder, Streamed("cpu", weights=1))
    structure = streaming.sample_structure(one, seed=1)
    latent = streaming.sample_shape(one, structure, seed=1)
    assert torch.equal(latent.slat.feats, shape.slat.feats)


def test_modes_and_cameras_that_clash_are_refused(pipeline):
    blend = ViewBlend(ROUND.directions)
    for mode, said in ((blend, "blend"), ("cycle", "cycle")):
        with pytest.raises(ValueError, match=rf"view_mode {said}: this checkpoint projects every view"):
            pipeline.condition([PICTURES], view_mode=mode)
    with pytest.raises(ValueError, match=r"expected the side that each of 3 pictures was taken from, got 0"):
        pipeline.condition([PICTURES])
    with pytest.raises(ValueError, match=r"each of 2 pictures was taken from, got 3"):
        pipeline.condition([PICTURES[:2]], view_mode=ROUND)
    for fov in (0.5, 171, float("nan")):
        with pytest.raises(ValueError, match=r"fov: expected 1 to 170 degrees"):
            ViewRig(fov)
    with pytest.raises(ValueError, match="got both"):
        ViewRig(20.0, poses=(Pose(((1, 0, 0, 0), (0, 0, -1, -2), (0, 1, 0, 0), (0, 0, 0, 1)), 20.0),))


@pytest.mark.slow
def test_a_surface_that_is_too_fine_is_refused_early(pipeline, one, shape):
    with pytest.raises(ValueError, match="up to 1536"):
        pipeline.cascade_shape(one, shape, seed=1, resolution=2048)
    with pytest.raises(ValueError, match="pipeline_type '512'"):
        pipeline.sample([PICTURES[:1]], pipeline_type="512")


@pytest.mark.slow
def test_stages_are_drawn_upright(pipeline, one):
    structure = pipeline.sample_structure(one, seed=1)
    turned = tuple(voxels_to_z_up(item, structure.resolution) for item in structure.items)
    upright = replace(structure, items=turned, y_up=False)
    assert picture_of(structure).tobytes() == picture_of(upright).tobytes()


def test_cameras_from_directions():
    cameras, fov = ROUND.cameras(3)
    assert fov.tolist() == pytest.approx([0.349066] * 3, rel=1e-5)
    distance = MARGIN * 0.5 / torch.tan(fov[0] / 2).item()
    for camera, named in zip(cameras, ROUND.directions, strict=True):
        assert camera[:3, 3].tolist() == pytest.approx([distance * part for part in named.vector], abs=1e-5)
        # It looks at the centre, upright.
        assert torch.allclose(camera[:3, 2] * distance, camera[:3, 3], atol=1e-5)
        assert camera[:3, 1].tolist() == pytest.approx([0, 0, 1], abs=1e-6)
    # Without a front, the first view stands for it.
    moved, _ = ViewRig(directions=(ViewDirection(90), ViewDirection(180))).cameras(2)
    wanted, _ = ViewRig(directions=(ViewDirection(0), ViewDirection(90))).cameras(2)
    assert torch.allclose(moved, wanted, atol=1e-5)
