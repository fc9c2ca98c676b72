"""The nodes of the stages: widgets as released, numbers in place of lists, guidance, pictures, refusals at once."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from comfyui_trellis2.nodes import NODE_CLASS_MAPPINGS, host, image, stages
from comfyui_trellis2.nodes.model import LoadModel
from comfyui_trellis2.nodes.sockets import PreparedImages
from comfyui_trellis2.nodes.stages import ImageTo3D
from comfyui_trellis2.nodes.widgets import chosen
from comfyui_trellis2.trellis2.ops.attention import libraries
from comfyui_trellis2.trellis2.pipeline import Pipeline
from comfyui_trellis2.trellis2.sparse import SparseTensor
from comfyui_trellis2.trellis2.stage_pictures import latent_colors, picture_of
from comfyui_trellis2.trellis2.values import ImageCondition, ShapeLatent, SparseStructure
from PIL import Image

# What the nodes declared before they shared their blocks.
RELEASED = json.loads((Path(__file__).parent / "stage_inputs.json").read_text(encoding="utf-8"))


def inputs(declared):
    """[(name, required or optional, type, options)] in the canvas's order, without what only explains or folds away."""
    return [
        (name, group, kind, {key: value for key, value in options.items() if key not in ("tooltip", "advanced")})
        for group, entries in declared.items()
        for name, (kind, options) in entries.items()
    ]


@pytest.mark.parametrize("name", list(RELEASED))
def test_released_inputs_are_as_they_were_and_new_ones_follow(name):
    now = json.loads(json.dumps(NODE_CLASS_MAPPINGS[name].INPUT_TYPES()))
    before = inputs(RELEASED[name])
    for (*_, kind, _), (_, _, new, _) in zip(before, inputs(now), strict=False):
        if isinstance(kind, list):  # new choices follow the released ones
            assert new[: len(kind)] == kind
            kind[:] = new
    assert inputs(now)[: len(before)] == before
    assert all(group == "optional" for _, group, *_ in inputs(now)[len(before) :])


# Numbers in place of lists

SIZES = {
    ("T2SampleStructure", "grid"): ["32", "64"],
    ("T2ShapeCascade", "resolution"): ["1024", "1536", "2048"],
    ("T2ImageCondition", "tokens"): ["1024", "512"],
}


AFTERWARDS = ("view_temperature", "fov")  # widgets that came later


@pytest.mark.parametrize(("node", "widget"), list(SIZES))
def test_a_list_of_sizes_has_a_number_beside_it(node, widget):
    optional = NODE_CLASS_MAPPINGS[node].INPUT_TYPES()["optional"]
    kind, options = optional[f"{widget}_override"]
    assert (kind, options["forceInput"]) == ("INT", True)
    assert all("_override" in name or name in AFTERWARDS for name in optional if name != "sampler")


def test_a_number_is_one_of_the_list():
    for (_, widget), sizes in SIZES.items():
        for size in sizes:
            assert chosen(widget, sizes, "a", int(size)) == size
        assert chosen(widget, sizes, "a", None) == "a"
        with pytest.raises(ValueError, match=rf"{widget}_override: .*sizes of {widget}, {', '.join(sizes)}, got 48"):
            chosen(widget, sizes, "a", 48)


class Noted:
    """A pipeline that notes what its stages are asked for, and does nothing."""

    def __init__(self, pipeline):
        self.config, self.asked = pipeline.config, {}
        self.pipeline_type = pipeline.pipeline_type

    def note(self, *_, **options):
        self.asked |= options
        return None

    condition = sample_structure = cascade_shape = note


@pytest.mark.parametrize("given", [None, 64, 1536, 512])
def test_the_number_reaches_the_stage(comfy, monkeypatch, given):
    (pipeline,) = LoadModel().load("tiny", "auto", "auto")
    noted, shape, tokens = Noted(pipeline), object(), object()
    for module in (image, stages):
        monkeypatch.setattr(module, "expect", lambda value, _socket: value)
    nodes = NODE_CLASS_MAPPINGS
    if given in (None, 64):
        nodes["T2SampleStructure"]().sample(noted, tokens, 1, 2, -1.0, "32", grid_override=given)
        assert noted.asked["resolution"] == (given or 32)
    if given in (None, 1536):
        nodes["T2ShapeCascade"]().sample(noted, tokens, shape, 1, 2, -1.0, "1024", 1024, resolution_override=given)
        assert noted.asked["resolution"] == (given or 1024)
    if given in (None, 512):
        pictures = SimpleNamespace(images=(), directions=None)
        nodes["T2ImageCondition"]().condition(noted, pictures, "x", "average", "1024", tokens_override=given)
        assert noted.asked["resolution"] == (given or 1024)


# Guidance in one node


@pytest.fixture
def ran(monkeypatch):
    """The pipelines that ImageTo3D ran, which are not run."""
    found = []
    monkeypatch.setattr(Pipeline, "run", lambda self, *_, **__: found.append(self) or [])
    return found


def one_node(pipeline, **options):
    pictures = PreparedImages((Image.new("RGB", (8, 8)),))
    return ImageTo3D().generate(pipeline, pictures, "512", 1, 2, 1024, "separate objects", "average", **options)


def test_guidance_is_the_models_own_unless_given(comfy, ran):
    (pipeline,) = LoadModel().load("tiny", "auto", "auto")
    one_node(pipeline)
    one_node(pipeline, guidance_structure=2.0, guidance_shape=3.0, guidance_texture=4.0)
    one_node(pipeline, guidance_shape=0.0)
    default, all_three, one = (p.config for p in ran)
    assert default == pipeline.config

    def strengths(config):
        samplers = config.sparse_structure_sampler, config.shape_slat_sampler, config.tex_slat_sampler
        return [sampler.params.guidance_strength for sampler in samplers]

    assert strengths(all_three) == [2.0, 3.0, 4.0]
    assert strengths(one) == [7.5, 0.0, 1.0]
    assert strengths(pipeline.config) == [7.5, 7.5, 1.0]
    assert all(p.networks is pipeline.networks for p in ran)


# Refusals when the graph is queued


def test_load_model_refuses_at_the_queue_what_the_machine_lacks(comfy, monkeypatch):
    monkeypatch.setattr(host.model_residency, "default_device", lambda: torch.device("cpu"))
    ask = LoadModel.VALIDATE_INPUTS
    assert ask(model="tiny", precision="auto", quantization="none") is True
    assert ask() is True
    assert ask(model=None, precision=None, quantization=None) is True
    assert "'fp8' needs a GPU" in ask(model="tiny", precision="auto", quantization="fp8")
    assert "model: expected one of" in ask(model="absent")
    assert "'microsoft/TRELLIS.2-4B'" in ask(model="absent")
    assert "precision: expected one of" in ask(precision="int4")
    assert "quantization: expected one of" in ask(quantization="int4")
    assert ask(attention="sdpa") is True
    assert ask(attention="cudnn").startswith("attention 'cudnn': runs on a GPU, not on cpu; choose 'auto'")
    assert "attention: expected one of" in ask(attention="flash")


def test_an_attention_library_that_does_not_work_is_refused_before_anything_is_loaded(comfy, monkeypatch):
    monkeypatch.setattr(host.model_residency, "default_device", lambda: torch.device("cpu"))
    monkeypatch.setattr(host, "model_source", lambda model: pytest.fail("looked for the model"))
    monkeypatch.setattr(
        libraries, "_missing", lambda modules, path: [m for m in modules if m == "flash_attn_interface"]
    )
    for name, reason in (("flash-attn-3", "not installed"), ("xformers", "runs on a GPU, not on cpu")):
        assert reason in LoadModel.VALIDATE_INPUTS(attention=name)
        with pytest.raises(ValueError, match=f"attention '{name}': {reason}"):
            LoadModel().load("tiny", "auto", name)


# Pictures

VOXELS = torch.tensor([[1, 2, 3], [4, 5, 6], [1, 2, 4]], dtype=torch.int32)


def values():
    feats = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    shape = ShapeLatent(SparseTensor.from_items([(VOXELS, feats)]), (512,), ((),))
    return SparseStructure((VOXELS,), 32, ((),)), shape


class Bar:
    """ComfyUI's progress bar."""

    def __init__(self, total, hook, told):
        self.total, self.hook, self.told = total, hook, told

    def update_absolute(self, value, total=None, preview=None):
        self.told.append((value / self.total, preview))


@pytest.fixture
def shown(monkeypatch):
    """shown(hook) puts the pack into a ComfyUI whose bars have that hook; returns what they are told."""

    def enter(hook):
        told = []
        utils = SimpleNamespace(ProgressBar=lambda total: Bar(total, hook, told))
        monkeypatch.setattr(host.comfyui, "module", {"comfy.utils": utils}.get)
        return told

    return enter


def test_a_picture_is_shown_where_there_is_somebody_to_see_it(shown, monkeypatch):
    told = shown(print)
    host.show(lambda: picture_of(values()[0]), 0.5)
    ((fraction, (kind, picture, size)),) = told
    assert (fraction, kind, picture.size, size) == (0.5, "JPEG", (256, 256), 256)
    assert len(picture.getcolors(2**16)) > 10
    told = shown(None)
    host.show(lambda: pytest.fail("drawn"))
    monkeypatch.setattr(host.comfyui, "module", lambda _name: None)
    host.show(lambda: pytest.fail("drawn"))
    assert told == []


def test_one_node_shows_what_its_stages_sampled(comfy, ran, shown, monkeypatch):
    (pipeline,) = LoadModel().load("tiny", "auto", "auto")
    told = []
    monkeypatch.setattr(host, "show", lambda draw, fraction=1.0: told.append((draw().size, fraction)))
    one_node(pipeline)
    (run,) = ran
    structure, shape = values()
    for stage, value in (("structure", structure), ("shape", shape), ("cascade", shape)):
        run._show(stage, value)
    assert told == [((256, 256), done / 6) for done in (2, 3, 4)]


def test_a_batch_is_drawn_side_by_side():
    many = SparseStructure((VOXELS,) * 6, 32, ((),) * 6)
    assert picture_of(many).size == (4 * 256, 256)


def test_the_colours_of_a_latent_do_not_depend_on_eigenvectors_signs(monkeypatch):
    feats = torch.randn(50, 8, generator=torch.Generator().manual_seed(1))
    colors = latent_colors(feats)
    assert colors.shape == (50, 3) and colors.min() >= 0 and colors.max() <= 1 and colors.std(dim=0).min() > 0.05
    found = torch.linalg.eigh
    monkeypatch.setattr(torch.linalg, "eigh", lambda a: (found(a)[0], -found(a)[1]))
    assert torch.equal(latent_colors(feats), colors)
    assert latent_colors(torch.ones(3, 8)).isfinite().all()
    assert latent_colors(torch.ones(1, 8)).isfinite().all()


def test_pictures_draw_from_no_random_state():
    before = torch.get_rng_state()
    for value in values():
        picture_of(value)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_short_condition_is_named_with_the_widget():
    with pytest.raises(ValueError, match="set tokens to 1024 in Image Condition"):
        ImageCondition(torch.zeros(1, 1, 3, 4), None).views(1024)
