"""Every node by itself: what it declares, and what it says to bad input."""

from dataclasses import replace

import pytest
import torch
from comfyui_trellis2.nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS, host, sockets
from comfyui_trellis2.nodes.files.meshes import SaveGLB
from comfyui_trellis2.nodes.image import BACKGROUND, OBJECT, ExampleImage, PrepareImage
from comfyui_trellis2.nodes.model import LoadModel, SamplerSettings, schedule_of
from comfyui_trellis2.nodes.stages import DecodeMesh, SampleStructure
from comfyui_trellis2.nodes.widgets import configured
from comfyui_trellis2.o_voxel.values import Mesh
from comfyui_trellis2.trellis2.checkpoint import builtin
from comfyui_trellis2.trellis2.checkpoint.hub import MissingFileError
from comfyui_trellis2.trellis2.image import ALPHA
from comfyui_trellis2.trellis2.pipeline import Pipeline

NODES = sorted(NODE_CLASS_MAPPINGS.items())


@pytest.mark.parametrize(("name", "node"), NODES)
def test_declaration(name, node, comfy):
    assert name.startswith("T2")
    assert name in NODE_DISPLAY_NAME_MAPPINGS
    assert node.DESCRIPTION
    assert callable(getattr(node, node.FUNCTION))
    assert len(node.RETURN_TYPES) == len(node.RETURN_NAMES)
    declared = node.INPUT_TYPES()
    for group in (declared[kind] for kind in declared if kind != "hidden"):
        for widget, (_, options) in group.items():
            assert len(options.get("tooltip", "")) > 10, f"{name}.{widget} has no tooltip"


def test_stage_defaults_are_the_published_ones(comfy):
    (pipeline,) = LoadModel().load("tiny", "auto", "auto")
    stages = {
        "T2SampleStructure": pipeline.config.sparse_structure_sampler,
        "T2SampleShape": pipeline.config.shape_slat_sampler,
        "T2ShapeCascade": pipeline.config.shape_slat_sampler,
        "T2SampleTexture": pipeline.config.tex_slat_sampler,
    }
    for name, sampler in stages.items():
        widgets = NODE_CLASS_MAPPINGS[name].INPUT_TYPES()["required"]
        assert widgets["steps"][1]["default"] == sampler.params.steps
        strength = widgets["guidance"][1]["default"]
        assert f"{sampler.params.guidance_strength} of the published" in widgets["guidance"][1]["tooltip"]
        assert configured(sampler, sampler.params.steps, strength) == sampler
        assert configured(sampler, 3, 2.5).params.guidance_strength == 2.5


def test_sampler_settings_reach_the_sampler(comfy):
    (pipeline,) = LoadModel().load("tiny", "auto", "auto")
    (chosen,) = SamplerSettings().settings(0.1, 0.2, 0.3, 4.0)
    params = configured(pipeline.config.shape_slat_sampler, 5, 2.0, chosen).params
    assert (params.steps, params.guidance_strength, params.guidance_rescale) == (5, 2.0, 0.1)
    assert (params.guidance_interval, params.rescale_t) == ((0.2, 0.3), 4.0)
    with pytest.raises(ValueError, match="start <= end"):
        SamplerSettings().settings(0.1, 0.9, 0.3, 4.0)
    with pytest.raises(ValueError, match=r"rescale_t: expected at least 0\.1"):
        SamplerSettings().settings(0.1, 0.2, 0.3, 0.0)


def test_sampler_settings_left_alone_are_the_checkpoints_own(comfy):
    """Connected to any stage for its step cache only, the node changes nothing else there."""
    (pipeline,) = LoadModel().load("tiny", "auto", "auto")
    widgets = SamplerSettings.INPUT_TYPES()["required"]
    defaults = {name: options["default"] for name, (_, options) in widgets.items()}
    assert all(widgets[name][1]["min"] <= value for name, value in defaults.items())
    config = pipeline.config
    for base in (config.sparse_structure_sampler, config.shape_slat_sampler, config.tex_slat_sampler):
        (cached,) = SamplerSettings().settings(**defaults, step_cache=True)
        found = configured(base, base.params.steps, -1.0, cached)
        assert found == replace(base, params=replace(base.params, step_cache=True))
    (half,) = SamplerSettings().settings(**{**defaults, "interval_start": 0.95})
    assert configured(config.shape_slat_sampler, 4, -1.0, half).params.guidance_interval == (0.95, 1.0)
    with pytest.raises(ValueError, match=r"start <= end, got 0\.95 and 0\.9"):
        configured(config.tex_slat_sampler, 4, -1.0, half)


def test_integrator_and_sigmas_reach_the_sampler(comfy):
    (pipeline,) = LoadModel().load("tiny", "auto", "auto")
    own = dict.fromkeys(("guidance_rescale", "interval_start", "interval_end", "rescale_t"), -1.0)
    sigmas = torch.tensor([1.0, 0.9, 0.6, 0.1, 0.0])  # float32: the 0.6 there is above the one of an interval
    (chosen,) = SamplerSettings().settings(**own, integrator="heun", sigmas=sigmas)
    base = pipeline.config.tex_slat_sampler
    params = configured(base, 12, -1.0, chosen).params
    assert (params.integrator, params.times, params.steps) == ("heun", (1.0, 0.9, 0.6, 0.1, 0.0), 4)
    assert replace(params, integrator="euler", times=None, steps=base.params.steps) == base.params
    inputs = SamplerSettings.INPUT_TYPES()["optional"]
    assert list(inputs) == ["step_cache", "integrator", "sigmas"] and inputs["sigmas"][0] == "SIGMAS"
    assert "2 x steps - 1" in inputs["integrator"][1]["tooltip"]
    with pytest.raises(ValueError, match="step_cache: expected integrator euler, got rk4"):
        SamplerSettings().settings(**own, step_cache=True, integrator="rk4")


@pytest.mark.parametrize(
    "sigmas",
    [torch.tensor([14.6, 7.0, 0.0]), torch.tensor([0.8, 0.4, 0.0]), torch.tensor([1.0, 0.5]), torch.tensor([]),
     torch.ones(2, 2), [1.0, 0.0], torch.tensor([1.0, float("nan"), 0.0])],
    ids=["other models", "late", "unfinished", "empty", "two dimensions", "a list", "NaN"],
)  # fmt: skip
def test_sigmas_that_are_no_flow_schedule_are_refused(sigmas):
    with pytest.raises(ValueError, match=r"sigmas.*expected"):
        schedule_of(sigmas)


def test_mask_conventions_agree():
    image, mask = ExampleImage().load("chair")
    kept = mask.clone()
    by_background, _ = PrepareImage().prepare(image, BACKGROUND, mask)["result"]
    by_object, preview = PrepareImage().prepare(image, OBJECT, 1 - mask)["result"]
    assert by_background.images[0].tobytes() == by_object.images[0].tobytes()
    assert preview.shape == (1, 512, 512, 3)
    assert torch.equal(mask, kept)


@pytest.mark.parametrize(
    ("image", "mask", "says"),
    [
        (torch.rand(1, 64, 64, 3), None, "(?i)mask|matte|alpha"),
        (torch.rand(1, 64, 64, 3), torch.ones(1, 64, 64), "(?i)transparent"),
        (torch.rand(1, 1, 1, 3), torch.full((1, 1, 1), 0.1), "(?i)object.*px|px|pixel"),
        (torch.rand(1, 64, 64, 3), torch.zeros(1, 32, 32), "(?i)size|32"),
    ],
    ids=["no matte", "all transparent", "1x1", "other size"],
)
def test_bad_pictures(image, mask, says):
    with pytest.raises(ValueError, match=says):
        PrepareImage().prepare(image, BACKGROUND, mask)


def photo(count=1, size=128):
    """IMAGE of a red disc on light grey, as Load Image gives it for a file without alpha, and its MASK."""
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    disc = (torch.hypot(y - size / 2.0, x - size / 2.0) < size / 4)[..., None]
    image = torch.where(disc, torch.tensor([0.8, 0.2, 0.1]), torch.tensor([0.9, 0.9, 0.9]))
    return image.expand(count, -1, -1, -1).clone(), torch.zeros(count, 64, 64)


@pytest.mark.parametrize("wired", [True, False], ids=["mask wired", "image alone"])
def test_a_photo_without_alpha_is_cut(wired):
    image, mask = photo()
    out = PrepareImage().prepare(image, BACKGROUND, mask if wired else None)
    images, preview = out["result"]
    assert images.images[0].size == (62, 62) or abs(images.images[0].width - 64) <= 4
    assert preview[0, 0, 0].tolist() == [0, 0, 0] and preview[0, 256, 256].max() > 0.7
    assert len(out["ui"]["text"]) == 1 and "plain background removed" in out["ui"]["text"][0]
    with pytest.raises(ValueError, match=r"64x64|transparent background"):
        PrepareImage().prepare(image, BACKGROUND, mask if wired else None, ALPHA)


def test_a_file_with_an_opaque_alpha_channel_is_cut_as_well():
    image, _ = photo()
    out = PrepareImage().prepare(image, BACKGROUND, torch.zeros(1, 128, 128))
    assert "plain background removed" in out["ui"]["text"][0]


def test_prepare_image_names_the_widget_and_the_socket():
    image, mask = photo(2)
    with pytest.raises(ValueError, match="2 masks for 2 images, got 1"):
        PrepareImage().prepare(image, BACKGROUND, torch.rand(1, 128, 128))
    assert len(PrepareImage().prepare(image, BACKGROUND, mask[:1])["result"][0].images) == 2
    inside = torch.zeros(1, 128, 128)
    inside[:, 40:90, 40:90] = 1
    with pytest.raises(ValueError, match=r"inverted.*mask_marks"):
        PrepareImage().prepare(image[:1], BACKGROUND, inside)
    assert PrepareImage().prepare(image[:1], OBJECT, inside)["ui"]["text"] == ["alpha or mask"]
    noise = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match=r"not plain(.|\n)*MASK to mask(.|\n)*background to rembg"):
        PrepareImage().prepare(noise, BACKGROUND)


def test_wrong_socket_objects_are_named(comfy):
    (pipeline,) = LoadModel().load("tiny", "auto", "auto")
    with pytest.raises(TypeError, match=r"T2_CONDITION: expected a ImageCondition.*got builtins\.dict"):
        SampleStructure().sample(pipeline, {}, 1, 1, 1.0, "32")
    with pytest.raises(TypeError, match="T2_PIPELINE"):
        DecodeMesh().decode(torch.nn.Identity(), object())
    with pytest.raises(TypeError, match="T2_MESH"):
        SaveGLB().save("mesh", "x")
    for socket in sockets.VALUES:
        with pytest.raises(TypeError, match=socket):
            sockets.expect(object(), socket)


def test_missing_checkpoint_files_are_named(comfy, tmp_path, monkeypatch):
    (tmp_path / "trellis2" / "half").mkdir(parents=True)
    monkeypatch.setattr(host.folders, "models_folder", lambda: tmp_path)
    with pytest.raises(MissingFileError, match=r"pipeline\.json is missing from .*half(.|\n)*hf download microsoft"):
        LoadModel().load("half", "auto", "auto")


def test_saving_stays_inside_the_output_folder(comfy):
    mesh = Mesh(torch.rand(3, 3), torch.tensor([[0, 1, 2]], dtype=torch.int32))
    assert SaveGLB().save(mesh, "a/b")["result"][0] == "a/b_00001_.glb"
    assert SaveGLB().save(mesh, "a/b")["result"][0] == "a/b_00002_.glb"
    with pytest.raises(ValueError, match="inside"):
        SaveGLB().save(mesh, "../outside")
    with pytest.raises(ValueError, match="at least one face"):
        SaveGLB().save(Mesh(torch.rand(3, 3), torch.zeros(0, 3, dtype=torch.int32)), "empty")


def test_checkpoints_are_listed_before_downloads(comfy, monkeypatch, models):
    pixal3d = [f"{owner}/Pixal3D{end}" for owner in ("Comfy-Org", "TencentARC") for end in ("", ":multiview")]
    published = ["tiny", "microsoft/TRELLIS.2-4B", "Comfy-Org/TRELLIS.2", *pixal3d]
    monkeypatch.setattr(host.folders, "find_built_in", lambda: models)
    assert host.model_choices() == ["mini (built in)", *published]
    choices, options = LoadModel.INPUT_TYPES()["required"]["model"]
    assert options.get("default", choices[0]) == "mini (built in)" and "no download" in options["tooltip"]
    monkeypatch.setattr(host.folders, "find_built_in", lambda: None)
    assert host.model_choices() == published
    assert "comes without" in LoadModel.INPUT_TYPES()["required"]["model"][1]["tooltip"]


def test_a_local_folder_of_pixal3d_is_listed_for_several_views_too(comfy, monkeypatch, tmp_path):
    folder = tmp_path / "models"
    monkeypatch.setattr(host.folders, "models_folder", lambda: folder)
    for name in ("mine/pipeline.json", "mine/pipeline_mv.json", "TencentARC/Pixal3D/pipeline_mv.json"):
        (folder / "trellis2" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "trellis2" / name).touch()
    assert [name for name in host.model_choices() if "mine" in name] == ["mine", "mine:multiview"]
    assert host.model_choices().count("TencentARC/Pixal3D:multiview") == 1
    mine = folder / "trellis2" / "mine"
    assert host.model_source("mine:multiview") == (f"{mine}:multiview", mine)
    assert host.model_source("mine") == (str(mine), mine)


def test_gguf_files_are_listed_by_quantisation_and_opened(comfy, monkeypatch, tmp_path, models):
    folder = tmp_path / "models"
    monkeypatch.setattr(host.folders, "models_folder", lambda: folder)
    names = [
        "diffusion_models/ss_flow_64_Q4_K_M.gguf",
        "diffusion_models/slat_flow_img2shape_512_Q4_K_M.gguf",
        "diffusion_models/flux1-dev-Q4_K_M.gguf",
        "unet/trellis_2-q8_0.gguf",
        "trellis2/mine/refiner/ss_flow_64.gguf",
        "Trellis2/pipeline.json",
        "Trellis2/shape/slat_flow_img2shape_512_Q6_K.gguf",
        "elsewhere/trellis_2-Q5_K.gguf",
    ]
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    listed = [
        "Trellis2/*Q6_K.gguf",
        "diffusion_models/*Q4_K_M.gguf",
        "trellis2/mine/ss_flow_64.gguf",
        "unet/*q8_0.gguf",
    ]
    assert host.model_choices()[-4:] == listed
    assert LoadModel.VALIDATE_INPUTS(model=listed[1]) is True
    with pytest.raises(ValueError, match=r"Q4_K_M\.gguf: not a whole GGUF file"):
        LoadModel().load(listed[1], "auto", "auto")


def test_the_built_in_checkpoint_is_opened_where_it_is(comfy, monkeypatch, models):
    monkeypatch.setattr(host.folders, "built_in", lambda: models / "trellis2" / "tiny")
    (pipeline,) = LoadModel().load("mini (built in)", "auto", "auto")
    assert pipeline.config.default_pipeline_type == "1024_cascade"


def test_without_its_weights_the_built_in_checkpoint_is_refused(comfy, monkeypatch):
    monkeypatch.setattr(builtin, "find_built_in", lambda: None)
    for load in (lambda: LoadModel().load("mini (built in)", "auto", "auto"), lambda: Pipeline.load("mini")):
        with pytest.raises(FileNotFoundError, match="comes without its trained checkpoint"):
            load()
