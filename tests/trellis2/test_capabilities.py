"""What a checkpoint and a device can do is told before any network is loaded, with a choice that works."""

from dataclasses import replace

import pytest
import torch
from comfyui_trellis2.trellis2 import capabilities
from comfyui_trellis2.trellis2.capabilities import PIPELINE_TYPES, Capabilities, device_problem
from comfyui_trellis2.trellis2.checkpoint.layouts import COMFY_ORG, Checkpoint
from comfyui_trellis2.trellis2.networks import Networks
from comfyui_trellis2.trellis2.pipeline import Pipeline
from comfyui_trellis2.trellis2.runtime.residency import KeepLoaded
from comfyui_trellis2.trellis2.sampling import stages
from comfyui_trellis2.trellis2.sparse import SparseTensor
from comfyui_trellis2.trellis2.values import ImageCondition, ShapeLatent, SparseStructure, TextureLatent
from PIL import Image

EVERY = list(PIPELINE_TYPES)
VOXELS = torch.tensor([[1, 2, 3], [4, 5, 6]], dtype=torch.int32)


def only(tiny, tmp_path, wanted) -> Pipeline:
    """The tiny checkpoint with those of its roles; the weights stay behind, so that loading any would fail."""
    pipeline = Pipeline.load(str(tiny), KeepLoaded("cpu"))
    models = {role: path for role, path in pipeline.config.models.items() if wanted(role)}
    pipeline.config = replace(pipeline.config, models=models, default_pipeline_type="512")
    pipeline.networks = Unloadable(pipeline.checkpoint, pipeline.residency)
    return pipeline


class Unloadable(Networks):
    """Networks of which none may be loaded."""

    def model(self, role, *_):
        raise AssertionError(f"{role} was loaded")


@pytest.fixture
def coarse(tiny, tmp_path) -> Pipeline:
    """Has networks for 512 alone, as mini."""
    return only(tiny, tmp_path, lambda role: not role.endswith("1024"))


def condition(objects=1, channels=32, fine=True) -> ImageCondition:
    tokens = torch.zeros(objects, 1, 5, channels)
    return ImageCondition(tokens, tokens if fine else None)


def structure(grid=32, objects=1) -> SparseStructure:
    return SparseStructure((VOXELS,) * objects, grid, (((8, 16, 16, 16),),) * objects)


def latent(kind, pipeline, resolution=512, space=None, channels=None, shift=0):
    stats = pipeline.config.shape_slat_normalization
    if kind is TextureLatent:
        stats = pipeline.config.tex_slat_normalization
    slat = SparseTensor.from_items([(VOXELS + shift, torch.zeros(2, channels or len(stats.mean)))])
    return kind(slat, (resolution,), (((1,),),), stats.fingerprint if space is None else space)


def test_of_checkpoints(tiny, coarse):
    whole = Pipeline.load(str(tiny), KeepLoaded("cpu")).capabilities
    assert (whole.shapes, whole.textures, whole.pipeline_types) == ((512, 1024), (512, 1024), EVERY)
    assert coarse.capabilities.pipeline_types == ["512"]
    # Comfy-Org publishes no texture flow at 512.
    theirs = Capabilities.of(Checkpoint.open(COMFY_ORG, download=None).config)
    assert theirs.pipeline_types == EVERY[1:]
    with pytest.raises(ValueError, match=r"pipeline_type '512': .*only for \['1024', '1024_cascade'"):
        theirs.check_type("512")
    with pytest.raises(ValueError, match=r"resolution 512: .*no texture network for it, only for 1024 and more"):
        theirs.check_texture(512)
    theirs.check_shape(512)


@pytest.mark.parametrize("kind", EVERY[1:])
def test_a_type_without_networks_is_refused_before_any_is_loaded(coarse, kind):
    with pytest.raises(ValueError, match=rf"pipeline_type '{kind}': .*only for \['512'\]; choose"):
        coarse.run([[Image.new("RGB", (8, 8))]], pipeline_type=kind)


def test_a_stage_without_a_network_is_refused_before_any_is_loaded(coarse):
    shape = latent(ShapeLatent, coarse)
    with pytest.raises(ValueError, match=r"grid 64: .*choose grid 32"):
        coarse.sample_structure(condition(), seed=1, resolution=64)
    with pytest.raises(ValueError, match=r"resolution 1024: .*no shape network"):
        coarse.sample_shape(condition(), structure(64), seed=1)
    with pytest.raises(ValueError, match=r"resolution 1536: .*no shape network above 512.*the model's own"):
        coarse.cascade_shape(condition(), shape, seed=1, resolution=1536)
    with pytest.raises(ValueError, match=r"resolution 1024: .*no texture network"):
        coarse.sample_texture(condition(), replace(shape, resolutions=(1024,)), seed=1)


def test_a_checkpoint_of_the_structure_alone_samples_it(tiny, tmp_path):
    """As training does, before the flows of the shape exist."""
    alone = only(tiny, tmp_path, lambda role: "slat" not in role).capabilities
    for grid in (32, 64):
        alone.check_structure(grid)
    with pytest.raises(ValueError, match=r"no shape network; choose another model"):
        alone.check_shape(512)


@pytest.fixture
def whole(tiny, tmp_path) -> Pipeline:
    return only(tiny, tmp_path, lambda role: True)


def test_coarse_tokens_are_refused_before_any_network_is_loaded(whole):
    short = condition(fine=False)
    for sample in (
        lambda: whole.sample_shape(short, structure(64), seed=1),
        lambda: whole.cascade_shape(short, latent(ShapeLatent, whole), seed=1, resolution=1024),
        lambda: whole.sample_texture(short, latent(ShapeLatent, whole, 1024), seed=1),
    ):
        with pytest.raises(ValueError, match=r"condition: expected image tokens at 1024.*set tokens to 1024"):
            sample()


def test_another_batch_is_refused_before_any_network_is_loaded(whole):
    shape, two = latent(ShapeLatent, whole), condition(objects=2)
    for sample in (
        lambda: whole.sample_shape(two, structure(), seed=1),
        lambda: whole.cascade_shape(two, shape, seed=1, resolution=1024),
        lambda: whole.sample_texture(two, shape, seed=1),
    ):
        with pytest.raises(ValueError, match=r"condition: expected 1 objects.*got 2"):
            sample()


@pytest.mark.parametrize("wrong", [{"channels": 8, "space": ""}, {"space": "another"}], ids=["channels", "numbers"])
def test_values_of_another_checkpoint_are_refused_before_any_network_is_loaded(whole, wrong):
    shape, texture = latent(ShapeLatent, whole), latent(TextureLatent, whole)
    foreign = latent(ShapeLatent, whole, **wrong)
    for work in (
        lambda: whole.cascade_shape(condition(), foreign, seed=1, resolution=1024),
        lambda: whole.sample_texture(condition(), foreign, seed=1),
        lambda: whole.decode(foreign),
    ):
        with pytest.raises(ValueError, match=r"shape: expected a shape of this checkpoint"):
            work()
    with pytest.raises(ValueError, match=r"texture: expected a texture of this checkpoint"):
        whole.decode(shape, latent(TextureLatent, whole, **wrong))
    with pytest.raises(ValueError, match=r"texture: its voxels are not those of the shape"):
        whole.decode(shape, latent(TextureLatent, whole, shift=1))
    with pytest.raises(AssertionError, match=r"shape_slat_decoder was loaded"):
        whole.decode(shape, texture)
    with pytest.raises(AssertionError, match=r"shape_slat_decoder was loaded"):
        whole.decode(replace(shape, space=""), replace(texture, space=""))


def test_tokens_of_another_encoder_are_refused_before_sampling(pipeline, monkeypatch):
    for name in ("sample_structure_latent", "sample_sparse_latent"):
        monkeypatch.setattr(stages, name, lambda *_, **__: pytest.fail("sampled"))
    other = condition(channels=48)
    for sample in (
        lambda: pipeline.sample_structure(other, seed=1),
        lambda: pipeline.sample_shape(other, structure(), seed=1),
        lambda: pipeline.sample_texture(other, latent(ShapeLatent, pipeline), seed=1),
    ):
        with pytest.raises(ValueError, match=r"condition: expected image tokens of 32 channels, got 48"):
            sample()


# Devices

OLD, NEW = (7, 5), (9, 0)


@pytest.mark.parametrize(
    ("device", "card", "dtype", "quantization", "says"),
    [
        ("cpu", None, "auto", "fp8", "'fp8' needs a GPU.*choose 'none'"),
        ("cpu", None, "auto", "int8", None),
        ("cpu", None, "float16", "none", None),
        ("cuda", OLD, "auto", "fp8", "'fp8' needs an Ada.*choose 'int8' or 'none'"),
        ("cuda", (8, 6), "auto", "fp8", "'fp8' needs an Ada"),
        ("cuda", OLD, "bfloat16", "none", "'bfloat16' needs an Ampere.*choose 'auto'"),
        ("cuda", OLD, "float16", "int8", None),
        ("cuda", NEW, "bfloat16", "fp8", None),
        ("mps", None, "auto", "int8", "'int8' does not work on mps; choose 'none'"),
    ],
)
def test_a_device_is_asked_for_what_it_computes(monkeypatch, device, card, dtype, quantization, says):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: card)
    problem = device_problem(torch.device(device), dtype, quantization)
    if says is None:
        assert problem is None
    else:
        assert problem is not None
        with pytest.raises(ValueError, match=says):
            raise ValueError(problem)


def test_a_device_without_a_format_is_noticed(monkeypatch):
    """A device that this machine lacks stands for one that lacks the format: torch raises for either."""
    absent = torch.device("meta")
    assert "precision 'bfloat16' does not work on meta; choose 'float32'" in device_problem(absent, "bfloat16", "none")
    assert capabilities._multiplies(torch.device("cpu"), torch.bfloat16)


def test_a_pipeline_refuses_what_its_device_lacks(tiny):
    with pytest.raises(ValueError, match=r"'fp8' needs a GPU, and the networks run on cpu"):
        Pipeline.load(str(tiny), KeepLoaded("cpu"), quantization="fp8")
