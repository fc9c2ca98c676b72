"""The stages on the tiny checkpoint: batches, seeds, views, progress, cancelling, and what they leave untouched."""

import dataclasses
import hashlib
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from comfyui_trellis2.trellis2.checkpoint.config import SamplerConfig
from comfyui_trellis2.trellis2.checkpoint.layouts import Checkpoint
from comfyui_trellis2.trellis2.pipeline import PIPELINE_TYPES, Pipeline, PipelineType
from comfyui_trellis2.trellis2.runtime.residency import KeepLoaded, OneAtATime, default_device, default_dtype
from comfyui_trellis2.trellis2.sampling.stages import cascade_voxels, normalize
from comfyui_trellis2.trellis2.sampling.view_weights import voxel_weights
from comfyui_trellis2.trellis2.sparse import CoordSet, SparseTensor
from comfyui_trellis2.trellis2.values import ImageCondition
from PIL import Image
from torch import nn

SEED = 7
STEPS = 2
OBJECTS = range(3)
LENGTHS = (20, 17, 14)
STAGES = ("condition", "structure", "shape", "cascade", "texture", "decode")


def picture(seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def stepped(sampler: SamplerConfig, steps: int = STEPS) -> SamplerConfig:
    return replace(sampler, params=replace(sampler.params, steps=steps))


class Stages:
    """The six stages of one pipeline, each a function of its inputs, with few steps."""

    def __init__(self, pipeline: Pipeline, steps: int = STEPS) -> None:
        self.pipeline, config = pipeline, pipeline.config
        self.sparse_structure = stepped(config.sparse_structure_sampler, steps)
        self.shape_slat = stepped(config.shape_slat_sampler, steps)
        self.tex_slat = stepped(config.tex_slat_sampler, steps)

    def condition(self, objects, **options):
        return self.pipeline.condition(objects, **options)

    def structure(self, condition, seed=SEED, **options):
        return self.pipeline.sample_structure(condition, seed=seed, sampler=self.sparse_structure, **options)

    def shape(self, condition, structure, seed=SEED, **options):
        return self.pipeline.sample_shape(condition, structure, seed=seed, sampler=self.shape_slat, **options)

    def cascade(self, condition, shape, seed=SEED, resolution=1024, **options):
        return self.pipeline.cascade_shape(
            condition, shape, seed=seed, resolution=resolution, sampler=self.shape_slat, **options
        )

    def texture(self, condition, shape, seed=SEED, **options):
        return self.pipeline.sample_texture(condition, shape, seed=seed, sampler=self.tex_slat, **options)

    def decode(self, shape, texture=None, **options):
        return self.pipeline.decode(shape, texture, **options)


@pytest.fixture(scope="module")
def stages(pipeline) -> Stages:
    return Stages(pipeline)


@pytest.fixture(scope="module")
def objects() -> list[list[Image.Image]]:
    return [[picture(i)] for i in OBJECTS]


@pytest.fixture(scope="module")
def condition(stages, objects) -> ImageCondition:
    return stages.condition(objects)


@pytest.fixture(scope="module")
def structure(stages, condition):
    return stages.structure(condition)


@pytest.fixture(scope="module")
def few(structure):
    """The structure with only its first voxels, another number for each object."""
    return replace(structure, items=tuple(v[:n] for v, n in zip(structure.items, LENGTHS, strict=True)))


@pytest.fixture(scope="module")
def shape(stages, condition, few):
    return stages.shape(condition, few)


@pytest.fixture(scope="module")
def cascade(stages, condition, shape):
    return stages.cascade(condition, shape)


@pytest.fixture(scope="module")
def texture(stages, condition, shape):
    return stages.texture(condition, shape)


@pytest.fixture(scope="module")
def assets(stages, shape, texture):
    return stages.decode(shape, texture)


@pytest.fixture(scope="module")
def inputs(objects, condition, few, shape, texture) -> dict[str, tuple]:
    """What each stage is called with."""
    return {
        "condition": (objects,),
        "structure": (condition,),
        "shape": (condition, few),
        "cascade": (condition, shape),
        "texture": (condition, shape),
        "decode": (shape, texture),
    }


@pytest.fixture(scope="module")
def outputs(condition, structure, shape, cascade, texture, assets) -> dict[str, object]:
    """What each stage returned for them."""
    return dict(zip(STAGES, (condition, structure, shape, cascade, texture, assets), strict=True))


def item(value, i: int):
    """Object i of a batched value, alone."""
    alone = slice(i, i + 1)
    if isinstance(value, list):
        return value[alone]
    if isinstance(value, ImageCondition):
        return replace(value, tokens_512=value.tokens_512[alone], tokens_1024=value.tokens_1024[alone])
    if hasattr(value, "slat"):
        slat = SparseTensor.from_items([value.slat.items()[i]])
        return replace(value, slat=slat, resolutions=value.resolutions[alone], noise_history=value.noise_history[alone])
    return replace(value, items=value.items[alone], noise_history=value.noise_history[alone])


def leaves(value) -> list:
    """All tensors, images and plain values inside, in order."""
    if isinstance(value, CoordSet):
        return [value.rows, value.lengths]
    if dataclasses.is_dataclass(value):
        return [leaf for field in dataclasses.fields(value) for leaf in leaves(getattr(value, field.name))]
    if isinstance(value, list | tuple):
        return [leaf for part in value for leaf in leaves(part)]
    return [value]


def digest(*values) -> str:
    found = hashlib.sha256()
    for leaf in leaves(values):
        if isinstance(leaf, torch.Tensor):
            found.update(f"{leaf.dtype} {tuple(leaf.shape)}".encode() + leaf.contiguous().numpy().tobytes())
        else:
            found.update(leaf.tobytes() if isinstance(leaf, Image.Image) else repr(leaf).encode())
    return found.hexdigest()


def assert_same_latent(batch, single, i: int) -> None:
    (voxels, feats), ((single_voxels, single_feats),) = batch.slat.items()[i], single.slat.items()
    assert torch.equal(voxels, single_voxels)
    torch.testing.assert_close(feats, single_feats, atol=1e-4, rtol=0)
    assert single.resolutions == (batch.resolutions[i],) and single.noise_history == (batch.noise_history[i],)


@pytest.mark.slow
def test_the_digest_sees_every_part(shape, condition):
    feats = shape.slat.feats.clone()
    feats[-1, -1] += 1e-3
    changed = replace(shape, slat=shape.slat.replace(feats))
    assert digest(shape) != digest(changed) and digest(shape) == digest(replace(shape))
    assert digest(condition) != digest(replace(condition, view_mode="cycle"))
    assert digest(picture(0)) == digest(picture(0)) != digest(picture(1))


# Batches


@pytest.mark.slow
@pytest.mark.parametrize("i", OBJECTS)
def test_a_batch_of_conditions_is_single_runs(stages, objects, condition, i):
    assert condition.tokens_512.shape == (3, 1, 1029, 32) and condition.tokens_1024.shape == (3, 1, 4101, 32)
    assert digest(stages.condition(objects[i : i + 1])) == digest(item(condition, i))


@pytest.mark.slow
@pytest.mark.parametrize("i", OBJECTS)
def test_a_batch_of_structures_is_single_runs(stages, condition, structure, i):
    single = stages.structure(item(condition, i), seed=SEED + i)
    assert torch.equal(single.items[0], structure.items[i])
    assert single.resolution == structure.resolution == 32 and single.noise_history == (structure.noise_history[i],)


@pytest.mark.slow
def test_a_finer_structure_holds_the_same_voxels(tiny, condition):
    stages = Stages(still(tiny))
    coarse, fine = stages.structure(condition), stages.structure(condition, resolution=64)
    assert (coarse.resolution, fine.resolution) == (32, 64)
    assert fine.items[0].max() > 32
    for few, many in zip(coarse.items, fine.items, strict=True):
        assert torch.equal(torch.unique(many // 2, dim=0), few)


@pytest.mark.slow
@pytest.mark.parametrize("i", OBJECTS)
def test_a_batch_of_shapes_is_single_runs(stages, condition, few, shape, i):
    single = stages.shape(item(condition, i), item(few, i), seed=SEED + i)
    assert_same_latent(shape, single, i)
    assert torch.equal(shape.slat.items()[i][0], few.items[i])
    assert shape.resolutions == (512, 512, 512)
    other = stages.shape(item(condition, i), item(few, i), seed=SEED + i + 1)
    assert (other.slat.feats - single.slat.feats).abs().max() > 1


def test_a_batch_of_fine_shapes_is_single_runs(stages, condition, few):
    fine = replace(few, resolution=64)
    batch = stages.shape(condition, fine)
    assert batch.resolutions == (1024, 1024, 1024)
    for i in OBJECTS:
        assert_same_latent(batch, stages.shape(item(condition, i), item(fine, i), seed=SEED + i), i)


@pytest.mark.slow
@pytest.mark.parametrize("i", OBJECTS)
def test_a_batch_of_cascades_is_single_runs(stages, condition, shape, cascade, i):
    assert_same_latent(cascade, stages.cascade(item(condition, i), item(shape, i), seed=SEED + i), i)
    assert cascade.resolutions == (1024, 1024, 1024)
    assert cascade.slat.coords.voxels.max() < 64


@pytest.mark.slow
def test_cascades_reach_resolutions_of_their_own(stages, condition, shape):
    free = stages.cascade(condition, shape, resolution=1536)
    assert free.resolutions == (1536, 1536, 1536)
    lengths = free.slat.coords.lengths
    cap = max(lengths)
    assert sorted(lengths)[1] < cap
    capped = stages.cascade(condition, shape, resolution=1536, max_tokens=cap)
    assert [r == 1536 for r in capped.resolutions] == [n < cap for n in lengths]
    for i in OBJECTS:
        reached, count = capped.resolutions[i], capped.slat.coords.lengths[i]
        assert reached % 128 == 0 and 1024 <= reached <= 1536
        assert count < cap or reached == 1024
        single = stages.cascade(item(condition, i), item(shape, i), seed=SEED + i, resolution=1536, max_tokens=cap)
        assert_same_latent(capped, single, i)
    for reached, asset in zip(
        capped.resolutions, stages.decode(capped, stages.texture(condition, capped)), strict=True
    ):
        assert asset.field.grid.shape == (reached,) * 3
        assert asset.field.coords.max() < reached and asset.mesh.vertices.abs().max() < 0.51


@pytest.mark.parametrize("count", [0, 1, 63, 1000])
def test_cascade_voxels_hold_the_centres_of_the_fine_ones(count):
    fine = torch.randint(0, 512, (count, 3), generator=torch.Generator().manual_seed(count), dtype=torch.int32)
    voxels, reached = cascade_voxels(fine, 512, 1536, 49152)
    # The centre (i + 1/2) / 512 of a fine voxel lies in voxel floor(96 (i + 1/2) / 512), here in integers.
    expected = {tuple(96 * (2 * i + 1) // 1024 for i in row) for row in fine.tolist()}
    assert reached == 1536 and voxels.dtype == torch.int32
    assert voxels.tolist() == sorted(map(list, expected))


@pytest.mark.slow
def test_a_cascade_stops_at_its_floor(stages, condition, shape, cascade):
    floor = stages.cascade(condition, shape, resolution=2048, max_tokens=1)
    assert digest(floor) == digest(cascade)


@pytest.mark.parametrize("latent", ["shape", "cascade"])
def test_a_batch_of_textures_is_single_runs(request, stages, condition, latent):
    latent = request.getfixturevalue(latent)
    batch = stages.texture(condition, latent)
    assert torch.equal(batch.slat.coords.rows, latent.slat.coords.rows)
    for i in OBJECTS:
        assert_same_latent(batch, stages.texture(item(condition, i), item(latent, i), seed=SEED + i), i)


@pytest.mark.slow
@pytest.mark.parametrize("i", OBJECTS)
def test_a_batch_of_decodes_is_single_runs(stages, shape, texture, assets, i):
    batch, (single,) = assets[i], stages.decode(item(shape, i), item(texture, i))
    assert torch.equal(batch.mesh.faces, single.mesh.faces) and len(single.mesh.faces) > 100
    torch.testing.assert_close(batch.mesh.vertices, single.mesh.vertices, atol=1e-6, rtol=0)
    assert torch.equal(batch.field.coords, single.field.coords)
    torch.testing.assert_close(batch.field.attrs, single.field.attrs, atol=1e-4, rtol=0)
    assert batch.field.grid == single.field.grid and batch.field.grid.shape == (512, 512, 512)
    assert len(batch.field.coords) == len(batch.mesh.vertices)


def test_a_decode_without_a_texture_has_the_same_surface(stages, shape, assets):
    bare = stages.decode(shape)
    assert [asset.field for asset in bare] == [None, None, None]
    assert digest([asset.mesh for asset in bare]) == digest([asset.mesh for asset in assets])


def test_an_object_without_voxels_does_not_disturb_the_others(stages, condition, few, shape):
    gap = replace(few, items=(few.items[0], few.items[1][:0], few.items[2]))
    batch = stages.shape(condition, gap)
    assert batch.slat.coords.lengths == (LENGTHS[0], 0, LENGTHS[2])
    for i in (0, 2):
        torch.testing.assert_close(batch.slat.items()[i][1], shape.slat.items()[i][1], atol=1e-4, rtol=0)


# Seeds and noise


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_a_second_run_gives_the_same_bytes_reports_progress_and_leaves_its_inputs(stages, inputs, outputs, stage):
    before, stream, fractions = digest(inputs[stage]), torch.get_rng_state(), []
    again = getattr(stages, stage)(*inputs[stage], progress=fractions.append)
    assert digest(again) == digest(outputs[stage])
    assert digest(inputs[stage]) == before
    assert torch.equal(torch.get_rng_state(), stream)
    assert fractions == sorted(set(fractions)) and fractions[0] > 0 and fractions[-1] == 1
    if stage in ("structure", "shape", "texture"):
        assert fractions == [0.5, 1]


@pytest.mark.slow
def test_another_seed_gives_another_sample(stages, inputs, outputs):
    other = stages.structure(item(inputs["structure"][0], 0), seed=SEED + 1)
    assert not torch.equal(other.items[0], outputs["structure"].items[0])
    for stage in ("shape", "cascade", "texture"):
        other = getattr(stages, stage)(*(item(value, 0) for value in inputs[stage]), seed=SEED + 1)
        feats = outputs[stage].slat.items()[0][1]
        assert (other.slat.feats - feats).abs().max() > 1


@pytest.mark.slow
def test_a_fresh_pipeline_gives_the_same_bytes(tiny, objects, condition, structure, few, shape, cascade, assets):
    fresh = Stages(Pipeline.load(str(tiny), OneAtATime("cpu"), dtype="float32"))
    assert digest(fresh.condition(objects[:1])) == digest(item(condition, 0))
    assert digest(fresh.structure(condition)) == digest(structure)
    again = fresh.shape(condition, few)
    assert digest(again, fresh.cascade(condition, again)) == digest(shape, cascade)
    assert digest(fresh.decode(again, fresh.texture(condition, again))) == digest(assets)


def no_velocity(x, *_):
    return torch.zeros_like(x) if isinstance(x, torch.Tensor) else x.replace(torch.zeros_like(x.feats))


def still(tiny) -> Pipeline:
    """A pipeline of its own whose flow networks predict no velocity, so that its samples are their noise."""
    pipeline = Pipeline.load(str(tiny), KeepLoaded("cpu"), dtype="float32")
    for role in pipeline.config.models:
        if "flow" in role:
            with pipeline.model(role) as flow:
                flow.forward = no_velocity
    return pipeline


@pytest.mark.slow
def test_an_items_stages_draw_from_one_stream(tiny, condition):
    """Noise in the reference's order: structure, shape, finer shape, texture, all after one seeding."""
    pipeline, latents = still(tiny), []
    stages = Stages(pipeline)
    with pipeline.model("sparse_structure_decoder") as decoder:
        decoder.register_forward_pre_hook(lambda _module, args: latents.append(args[0]))
    structure = stages.structure(condition)
    structure = replace(structure, items=tuple(v[:n] for v, n in zip(structure.items, LENGTHS, strict=True)))
    shape = stages.shape(condition, structure)
    cascade = stages.cascade(condition, shape)
    texture = stages.texture(condition, cascade)
    sampled = [normalize(value.slat, pipeline.config.shape_slat_normalization) for value in (shape, cascade)]
    sampled.append(normalize(texture.slat, pipeline.config.tex_slat_normalization))
    assert len(latents) == 1 and latents[0].shape == (3, 8, 16, 16, 16)
    for i in OBJECTS:
        stream = torch.Generator().manual_seed(SEED + i)
        noise = torch.randn(8, 16, 16, 16, generator=stream)
        torch.testing.assert_close(latents[0][i], noise, atol=1e-4, rtol=0)
        for latent in sampled:
            got = latent.items()[i][1]
            torch.testing.assert_close(got, torch.randn(got.shape, generator=stream), atol=1e-4, rtol=0)


@pytest.mark.slow
def test_the_last_seed_wraps_around(tiny, condition):
    stages = Stages(still(tiny))
    pair = ImageCondition(condition.tokens_512[:2], condition.tokens_1024[:2])
    batch = stages.structure(pair, seed=2**64 - 1)
    assert torch.equal(batch.items[1], stages.structure(item(pair, 1), seed=0).items[0])
    assert torch.equal(batch.items[0], stages.structure(item(pair, 0), seed=-1).items[0])


# Views


def seen(condition: ImageCondition, views: int, mode: str) -> ImageCondition:
    """The same condition from that many identical views."""
    tokens = (tokens.repeat_interleave(views, dim=1) for tokens in (condition.tokens_512, condition.tokens_1024))
    return ImageCondition(*tokens, mode, sides(views, mode))


def sides(views: int, mode: str) -> torch.Tensor | None:
    """Directions of views from the left, front, right, as far as there are views."""
    return torch.tensor([[1.0, 0, 0], [0, -1, 0], [-1, 0, 0]])[:views] if mode == "blend" else None


def of_views(condition: ImageCondition, order: tuple[int, ...], mode: str) -> ImageCondition:
    """One object whose views are these items of the batch."""
    tokens = (t[list(order), 0][None] for t in (condition.tokens_512, condition.tokens_1024))
    return ImageCondition(*tokens, mode, sides(len(order), mode))


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["average", "cycle"])
def test_identical_views_are_one_view(stages, condition, structure, shape, cascade, texture, mode):
    views, alone = seen(item(condition, 0), 2, mode), item(shape, 0)
    assert views.tokens_512.shape[:2] == (1, 2)
    assert torch.equal(stages.structure(views).items[0], structure.items[0])
    for stage, expected in (("cascade", cascade), ("texture", texture)):
        several = getattr(stages, stage)(views, alone)
        assert_same_latent(expected, several, 0)
        if mode == "cycle":
            assert torch.equal(several.slat.feats, getattr(stages, stage)(item(condition, 0), alone).slat.feats)


def test_identical_views_of_a_batch_are_one_view(stages, condition, few, shape):
    several = stages.shape(seen(condition, 3, "average"), few)
    torch.testing.assert_close(several.slat.feats, shape.slat.feats, atol=1e-4, rtol=0)


@pytest.mark.slow
def test_views_are_conditioned_one_by_one(stages, objects, condition):
    views = [images[0] for images in objects]
    together = stages.condition([views[:2], views[1:]], view_mode="cycle")
    assert together.tokens_512.shape == (2, 2, 1029, 32) and together.view_mode == "cycle"
    for row, picked in zip(together.tokens_1024, ([0, 1], [1, 2]), strict=True):
        assert torch.equal(row, condition.tokens_1024[picked, 0])


def test_average_is_the_mean_of_the_velocities(pipeline, condition, shape):
    """In a single step a sample is linear in the velocity."""
    once, alone = Stages(pipeline, steps=1), item(shape, 0)
    first, second, both = (
        once.texture(of_views(condition, order, "average"), alone).slat.feats for order in ((0,), (1,), (0, 1))
    )
    assert (first - second).abs().max() > 0.01
    torch.testing.assert_close(both, (first + second) / 2, atol=1e-4, rtol=0)


def test_a_blend_is_each_voxels_own_mean(pipeline, condition, shape):
    """In a single step a sample is linear in the velocity, voxel by voxel."""
    once, alone = Stages(pipeline, steps=1), item(shape, 0)
    first, second = (once.texture(of_views(condition, (k,), "average"), alone).slat.feats for k in (0, 1))
    both = of_views(condition, (0, 1), "blend")
    weights = voxel_weights(both.directions, alone.slat.coords, both.temperature)
    assert weights[0].std() > 0.1
    found = once.texture(both, alone).slat.feats
    torch.testing.assert_close(found, weights[0] * first + weights[1] * second, atol=1e-4, rtol=0)


def test_a_batch_of_blends_is_single_runs(stages, condition, few, shape):
    views = seen(condition, 3, "blend")
    together = stages.shape(views, few)
    torch.testing.assert_close(together.slat.feats, shape.slat.feats, atol=1e-4, rtol=0)  # identical views are one


def test_cycle_takes_one_view_a_step(pipeline, stages, condition, shape):
    once, alone = Stages(pipeline, steps=1), item(shape, 0)
    for order in ((0, 1), (1, 0)):
        got, expected = (once.texture(of_views(condition, o, "cycle"), alone) for o in (order, order[:1]))
        assert torch.equal(got.slat.feats, expected.slat.feats)
    samples = [
        stages.texture(of_views(condition, order, mode), alone).slat.feats
        for order, mode in (((0,), "cycle"), ((1,), "cycle"), ((0, 1), "cycle"), ((1, 0), "cycle"), ((0, 1), "average"))
    ]
    for k, one in enumerate(samples):
        assert all((one - other).abs().max() > 1e-3 for other in samples[k + 1 :])


@pytest.mark.parametrize("mode, forwards", [("average", 3 * STEPS), ("cycle", STEPS), ("blend", 3 * STEPS)])
def test_what_views_cost(tiny, condition, shape, mode, forwards):
    pipeline = Pipeline.load(str(tiny), KeepLoaded("cpu"), dtype="float32")
    calls, prepared = [], []
    with pipeline.model("tex_slat_flow_model_512") as flow:
        flow.register_forward_hook(lambda *_: calls.append(1))
        prepare = flow.prepare
        flow.prepare = lambda view: prepared.append(1) or prepare(view)
    Stages(pipeline).texture(seen(condition, 3, mode), shape)
    assert len(prepared) == 3  # keys and values of a view, once for all steps
    # The published texture sampler has a guidance strength of 1: no negative branch.
    assert len(calls) == forwards


# Progress, cancelling


class Cancelled(Exception):
    pass


@pytest.mark.slow
@pytest.mark.parametrize(
    "stage, role, begin, forwards",
    [
        ("condition", "image_encoder", 0, 2),  # both sizes of one image
        ("structure", "sparse_structure_flow_model", 0, 2),  # a guided step
        ("shape", "shape_slat_flow_model_512", 0, 2),
        ("cascade", "shape_slat_flow_model_1024", 0, 0),  # in the decoder, before the flow
        ("cascade", "shape_slat_flow_model_1024", 0.21, 2),
        ("texture", "tex_slat_flow_model_512", 0, 1),  # a step without guidance
        ("decode", "tex_slat_decoder", 0, 0),  # in the shape's half
        ("decode", "tex_slat_decoder", 0.51, 1),
    ],
)
def test_raising_from_progress_stops_within_one_step(tiny, stages, inputs, outputs, stage, role, begin, forwards):
    pipeline = Pipeline.load(str(tiny), KeepLoaded("cpu"), dtype="float32")
    cancelled, ran, calls = Stages(pipeline), [], []
    given = (inputs[stage][0][:2],) if stage == "condition" else [item(value, 0) for value in inputs[stage]]
    with pipeline.model(role) as network:
        network.register_forward_pre_hook(lambda *_: ran.append(1))

    def cancel(fraction: float) -> None:
        calls.append(fraction)
        if fraction >= begin:
            raise Cancelled

    with pytest.raises(Cancelled):
        getattr(cancelled, stage)(*given, progress=cancel)
    assert [fraction >= begin for fraction in calls].count(True) == 1 and calls[-1] < 1
    assert len(ran) == forwards
    expected = item(outputs[stage], 0) if stage == "structure" else getattr(stages, stage)(*given)
    assert digest(getattr(cancelled, stage)(*given)) == digest(expected)


def test_steps_are_the_checkpoints_unless_given(pipeline, condition, shape):
    fractions = []
    pipeline.sample_texture(condition, shape, seed=SEED, progress=fractions.append)
    assert fractions == pytest.approx([k / 12 for k in range(1, 13)])


# The whole run, models and memory


def test_pipeline_types(pipeline):
    expected = {
        "512": PipelineType(structure=32, shape=512, cascade=None),
        "1024": PipelineType(structure=64, shape=1024, cascade=None),
        "1024_cascade": PipelineType(structure=32, shape=512, cascade=1024),
        "1536_cascade": PipelineType(structure=32, shape=512, cascade=1536),
        "2048_cascade": PipelineType(structure=32, shape=512, cascade=2048),
    }
    assert expected == PIPELINE_TYPES
    assert {name: kind.resolution for name, kind in PIPELINE_TYPES.items()} == {
        "512": 512, "1024": 1024, "1024_cascade": 1024, "1536_cascade": 1536, "2048_cascade": 2048,
    }  # fmt: skip
    assert pipeline.pipeline_type(None) is PIPELINE_TYPES["1024_cascade"]
    assert pipeline.pipeline_type("512") is PIPELINE_TYPES["512"]


def test_an_unknown_pipeline_type_is_refused_before_any_work(tiny, objects):
    pipeline = Pipeline.load(str(tiny), Watched())
    with pytest.raises(ValueError, match=r"pipeline type: .*'1024_cascade'.*got '768'"):
        pipeline.run(objects, pipeline_type="768")
    assert pipeline.residency.events == []


class Watched:
    """A residency that notes who comes and goes."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        self.inner, self.events, self.present, self.asked = OneAtATime("cpu"), [], [], []

    @contextmanager
    def use(self, model, workspace):
        self.asked.append(workspace)
        self.present.append(model)
        self.events.append((type(model).__name__, len(self.present)))
        try:
            with self.inner.use(model, workspace) as placed:
                yield placed
        finally:
            self.present.remove(model)

    def release(self) -> None:
        self.events.append("release")


@pytest.mark.slow
@pytest.mark.parametrize("name", list(PIPELINE_TYPES))
def test_a_run_is_its_stages_in_order(tiny, objects, name):
    checkpoint, kind = Counted(Checkpoint.open(str(tiny))), PIPELINE_TYPES[name]
    pipeline = Pipeline(checkpoint, Watched(), dtype="float32")
    with pipeline.model("sparse_structure_decoder") as decoder:
        decoder.register_forward_hook(lambda _module, _args, out: out - out.flatten().topk(10).values[-1])
    pipeline.residency.events.clear()
    told = []
    (asset,) = pipeline.run(
        objects[:1], pipeline_type=name, seed=SEED, steps=1, progress=lambda stage, done: told.append((stage, done))
    )
    ran = [stage for stage in STAGES if stage != "cascade" or kind.cascade]
    assert list(dict.fromkeys(stage for stage, _ in told)) == ran
    assert [done for _, done in told if done == 1] == [1] * len(ran)
    assert sorted(told, key=lambda entry: (ran.index(entry[0]), entry[1])) == told
    sizes = {"512": (512,), "1024": (1024,)}.get(name, (512, 1024))
    flows = [f"shape_slat_flow_model_{size}" for size in sizes] + [f"tex_slat_flow_model_{sizes[-1]}"]
    assert [role for role in checkpoint.loaded if "slat_flow" in role] == flows
    assert len(checkpoint.loaded) == len(flows) + 5
    assert max(count for _, count in pipeline.residency.events) == 1 and pipeline.residency.present == []
    assert min(pipeline.residency.asked) > 2**27
    assert asset.field.grid.shape == (kind.resolution,) * 3 and len(asset.mesh.faces) > 0

    stages = Stages(pipeline, steps=1)
    condition = stages.condition(objects[:1])
    shape = stages.shape(condition, stages.structure(condition, resolution=kind.structure))
    if kind.cascade:
        shape = stages.cascade(condition, shape, resolution=kind.cascade)
    assert digest(stages.decode(shape, stages.texture(condition, shape))) == digest([asset])


def test_a_cancelled_stage_leaves_the_device(tiny, condition):
    pipeline = Pipeline.load(str(tiny), Watched())

    def cancel(_fraction: float) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        Stages(pipeline).structure(item(condition, 0), progress=cancel)
    assert len(pipeline.residency.events) == 1 and pipeline.residency.present == []


class Counted:
    """A checkpoint that notes which networks are loaded."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint, self.config, self.loaded = checkpoint, checkpoint.config, []
        self.quantization, self.name = checkpoint.quantization, checkpoint.name

    def load_model(self, role, **options):
        self.loaded.append(role)
        return self.checkpoint.load_model(role, **options)


@pytest.mark.slow
def test_networks_load_once_until_unloaded_and_then_run_equal(tiny, condition, few, shape):
    checkpoint = Counted(Checkpoint.open(str(tiny)))
    pipeline = Pipeline(checkpoint, Watched(), dtype="float32")
    stages = Stages(pipeline)

    def run() -> str:
        return digest(stages.shape(condition, few), stages.cascade(condition, shape), stages.decode(shape))

    assert checkpoint.loaded == []
    first, roles = run(), ["shape_slat_flow_model_512", "shape_slat_decoder", "shape_slat_flow_model_1024"]
    assert run() == first and checkpoint.loaded == roles
    assert "release" not in pipeline.residency.events
    pipeline.unload()
    assert pipeline.residency.events[-1] == "release"
    assert run() == first and checkpoint.loaded == roles * 2


def test_the_default_device_works():
    assert torch.ones(2, device=default_device()).sum() == 2


def test_the_default_types_are_the_devices(monkeypatch):
    assert default_dtype(torch.device("cpu")) == "float32"
    cards = {0: (7, 5), 1: (8, 0), None: (9, 0)}
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: cards[device.index])
    for index, expected in ((0, "float16"), (1, None)):
        assert default_dtype(torch.device("cuda", index)) == expected
    assert default_dtype(torch.device("cuda")) is None
    assert default_dtype(torch.device("mps")) is None


def test_a_pipeline_on_the_cpu_runs_in_single_precision(tiny, condition, few, shape):
    assert digest(Stages(Pipeline.load(str(tiny), KeepLoaded("cpu"))).shape(condition, few)) == digest(shape)


@pytest.mark.slow
@pytest.mark.parametrize("dtype, bound", [("float16", 0.3), ("bfloat16", 2.0)])
def test_other_types_run_on_the_cpu_and_give_single_precision(tiny, condition, few, shape, dtype, bound):
    stages = Stages(Pipeline.load(str(tiny), KeepLoaded("cpu"), dtype=dtype))
    sample = stages.shape(condition, few)
    assert sample.slat.feats.dtype == torch.float32
    assert 0 < (sample.slat.feats - shape.slat.feats).abs().max() < bound
    (asset, *_) = stages.decode(shape, stages.texture(condition, shape))
    assert asset.mesh.vertices.dtype == asset.field.attrs.dtype == torch.float32
    assert bool(torch.isfinite(asset.mesh.vertices).all() and torch.isfinite(asset.field.attrs).all())


# Bad input


@pytest.mark.slow
def test_an_empty_structure_is_refused(tiny, condition):
    pipeline = still(tiny)
    with pipeline.model("sparse_structure_decoder") as decoder:
        last = decoder.out_layer[-1]
        last.bias = nn.Parameter(last.bias - 1e4, requires_grad=False)
    with pytest.raises(ValueError, match=r"empty structure for object 0: .*seed"):
        Stages(pipeline).structure(condition)


@pytest.mark.slow
def test_an_empty_structure_in_a_batch_is_named(tiny, condition):
    pipeline = still(tiny)
    with pipeline.model("sparse_structure_decoder") as decoder:
        decoder.register_forward_hook(lambda _module, _args, out: out.index_fill(0, torch.tensor([1]), -1.0))
    with pytest.raises(ValueError, match="empty structure for object 1"):
        Stages(pipeline).structure(condition)


@pytest.mark.parametrize("objects", [[], [[]], [[picture(0)], []], [[picture(0)], [picture(1), picture(2)]]])
def test_unequal_or_absent_views_are_refused(stages, objects):
    with pytest.raises(ValueError, match="objects: expected the same number of views for each"):
        stages.condition(objects)


def test_an_image_that_is_not_prepared_is_refused(stages):
    with pytest.raises(ValueError, match="RGB"):
        stages.condition([[picture(0).convert("RGBA")]])


@pytest.mark.slow
def test_an_unknown_view_mode_is_refused(stages, objects):
    with pytest.raises(ValueError, match=r"view_mode: .*'average', 'cycle'.*'concat'"):
        stages.condition(objects, view_mode="concat")


def test_a_condition_without_fine_tokens_is_refused_where_they_are_needed(stages, objects, shape, few):
    coarse = stages.condition(objects, resolution=512)
    assert coarse.tokens_1024 is None
    assert digest(stages.shape(coarse, few)) == digest(shape)
    with pytest.raises(ValueError, match="1024"):
        stages.cascade(coarse, shape)
    with pytest.raises(ValueError, match="1024"):
        stages.shape(coarse, replace(few, resolution=64))


@pytest.mark.slow
@pytest.mark.parametrize("resolution", [48, 0, 128])
def test_a_structure_of_another_grid_is_refused(tiny, condition, resolution):
    with pytest.raises(ValueError, match=rf"resolution: expected a grid of 32 or 64.*, got {resolution}"):
        Stages(still(tiny)).structure(condition, resolution=resolution)


def test_a_texture_of_another_shape_is_refused(stages, cascade, texture):
    with pytest.raises(ValueError, match="texture: its voxels are not those of the shape"):
        stages.decode(cascade, texture)


@pytest.mark.parametrize("stage", ["shape", "cascade", "texture"])
def test_a_condition_of_another_batch_is_refused_in_the_users_words(stages, condition, inputs, stage):
    with pytest.raises(ValueError, match="condition"):
        getattr(stages, stage)(item(condition, 0), *inputs[stage][1:])
