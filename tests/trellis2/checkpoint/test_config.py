"""Configurations: what is read, and what is refused by name."""

import copy
import json
from pathlib import Path

import pytest
import torch
from comfyui_trellis2.trellis2.checkpoint import config
from comfyui_trellis2.trellis2.checkpoint.config import (
    ConfigError,
    FlowConfig,
    Normalization,
    SamplerParams,
    ShapeDecoderConfig,
    StructureDecoderConfig,
    parse,
    parse_pipeline,
    parse_texturing,
)
from comfyui_trellis2.trellis2.checkpoint.image_models import read_encoder_config
from comfyui_trellis2.trellis2.checkpoint.stored import read_json
from comfyui_trellis2.trellis2.models import NETWORKS, build_model

FLOW = {
    "resolution": 16,
    "in_channels": 8,
    "model_channels": 32,
    "cond_channels": 24,
    "out_channels": 8,
    "num_blocks": 2,
    "num_heads": 2,
}
DECODER = {
    "resolution": 256,
    "latent_channels": 8,
    "model_channels": [16, 8],
    "num_blocks": [1, 0],
    "block_type": ["SparseConvNeXtBlock3d"] * 2,
    "up_block_type": ["SparseResBlockC2S3d"],
}


@pytest.fixture(scope="module")
def published():
    return json.loads(Path(config.__file__).with_name("published.json").read_text(encoding="utf-8"))


def test_the_published_pipeline_parses(published):
    parsed = parse_pipeline(published["pipeline"], "published.json")
    texturing = parse_texturing(published["texturing"], "published.json")
    assert set(parsed.models) | set(texturing.models) == set(published["models"]) and len(parsed.models) == 8
    assert set(texturing.models) - set(parsed.models) == {"shape_slat_encoder"}
    assert texturing.tex_slat_sampler == parsed.tex_slat_sampler
    assert parsed.models["sparse_structure_decoder"] == "microsoft/TRELLIS-image-large/ckpts/ss_dec_conv3d_16l8_fp16"
    assert parsed.default_pipeline_type == "1024_cascade"
    assert parsed.image_cond_model.args.model_name == "facebook/dinov3-vitl16-pretrain-lvd1689m"
    structure, shape, texture = (
        parsed.sparse_structure_sampler.params,
        parsed.shape_slat_sampler.params,
        parsed.tex_slat_sampler.params,
    )
    assert (structure.steps, shape.steps, texture.steps) == (12, 12, 12)
    assert structure == SamplerParams(
        steps=12, guidance_strength=7.5, guidance_rescale=0.7, guidance_interval=(0.6, 1.0), rescale_t=5.0
    )
    assert (shape.guidance_rescale, shape.rescale_t) == (0.5, 3.0)
    assert (texture.guidance_strength, texture.guidance_interval) == (1.0, (0.6, 0.9))
    assert parsed.tex_slat_sampler.args.sigma_min == 1e-5
    for stats in (parsed.shape_slat_normalization, parsed.tex_slat_normalization):
        assert len(stats.mean) == len(stats.std) == 32
    assert parsed.shape_slat_normalization.mean[0] == 0.781296 and parsed.tex_slat_normalization.std[-1] == 2.77519


@pytest.mark.slow
def test_the_published_models_parse_and_build(published):
    heads = {}
    for role, description in published["models"].items():
        parsed = parse(NETWORKS[description["name"]][0], description["args"], role)
        assert build_model(description, role).config == parsed
        if isinstance(parsed, FlowConfig):
            heads[role] = (parsed.resolution, parsed.heads, parsed.head_channels, parsed.torso_dtype)
        else:
            assert parsed.torso_dtype == torch.float16
    assert heads == {
        "sparse_structure_flow_model": (16, 12, 128, torch.bfloat16),
        "shape_slat_flow_model_512": (32, 12, 128, torch.bfloat16),
        "shape_slat_flow_model_1024": (64, 12, 128, torch.bfloat16),
        "tex_slat_flow_model_512": (32, 12, 128, torch.bfloat16),
        "tex_slat_flow_model_1024": (64, 12, 128, torch.bfloat16),
    }


def test_lists_become_tuples_and_the_input_stays():
    before = copy.deepcopy(DECODER)
    parsed = parse(ShapeDecoderConfig, DECODER, "here")
    assert before == DECODER
    assert parsed.model_channels == (16, 8) and parsed.out_channels == 7 and parsed.voxel_margin == 0.5
    hash(parsed)
    with pytest.raises(AttributeError):
        parsed.resolution = 512


def test_unknown_keys_are_named():
    extra = dict.fromkeys(("a1", "b2", "c3", "d4", "e5", "f6"), 1)
    with pytest.raises(ConfigError, match=r"flow\.json: unknown keys \['a1', 'b2', 'c3', 'd4', 'e5'\]"):
        parse(FlowConfig, FLOW | extra, "flow.json")


def test_missing_keys_are_named():
    absent = {key: value for key, value in FLOW.items() if key not in ("in_channels", "num_blocks")}
    with pytest.raises(ConfigError, match=r"flow\.json: .*missing keys \['in_channels', 'num_blocks'\]"):
        parse(FlowConfig, absent, "flow.json")


@pytest.mark.parametrize(
    "path, value, message",
    [
        (("shape_slat_sampler", "params", "cfg_scale"), 3, r"shape_slat_sampler\.params: unknown keys \['cfg_scale'\]"),
        (("shape_slat_sampler", "name"), "FlowEulerSampler", "FlowEulerGuidanceIntervalSampler.*'FlowEulerSampler'"),
        (("tex_slat_sampler", "params"), {"steps": 12}, r"tex_slat_sampler\.params: .*missing keys"),
        (("tex_slat_sampler", "params", "steps"), 0, "steps: expected at least 1, got 0"),
        (("tex_slat_sampler", "params", "steps"), "12", r"tex_slat_sampler\.params"),
        (("sparse_structure_sampler", "args"), [1e-5], r"sparse_structure_sampler\.args: expected an object, got list"),
        (("image_cond_model", "args", "patch"), 16, r"image_cond_model\.args: unknown keys \['patch'\]"),
        (("tex_slat_normalization", "std"), [1.0, 2.0], "normalization"),
        (("preprocessor",), {}, r"unknown keys \['preprocessor'\]"),
    ],
)
def test_a_wrong_pipeline_is_refused(published, path, value, message):
    data = copy.deepcopy(published["pipeline"])
    place = data["args"]
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(ConfigError, match=message):
        parse_pipeline(data, "pipeline.json")


@pytest.mark.parametrize(
    "data", [[], None, {}, {"name": "Trellis2ImageTo3DPipeline"}, {"name": "TrellisImageTo3DPipeline", "args": {}}]
)
def test_what_is_not_a_pipeline_is_refused(data):
    with pytest.raises(ConfigError, match=r"pipeline\.json"):
        parse_pipeline(data, "pipeline.json")


@pytest.mark.parametrize("name", ["sparse_structure_sampler", "image_cond_model", "models"])
def test_a_part_of_the_pipeline_that_is_absent_is_named(published, name):
    args = {key: value for key, value in published["pipeline"]["args"].items() if key != name}
    with pytest.raises(ConfigError, match=rf"missing keys \['{name}'\]"):
        parse_pipeline(published["pipeline"] | {"args": args}, "pipeline.json")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"pe_mode": "learned"}, "pe_mode: expected 'ape' or 'rope', got 'learned'"),
        ({"num_heads": 3}, "model_channels: expected a multiple of 3 heads, got 32"),
        ({"num_heads": None, "num_head_channels": 12, "model_channels": 33}, "a multiple of 2 heads, got 33"),
        ({"dtype": "int8"}, "dtype: expected one of .*'float32'.*got 'int8'"),
        ({"model_channels": "32"}, r"flow\.json"),
    ],
)
def test_a_wrong_flow_is_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        parse(FlowConfig, FLOW | change, "flow.json")


def test_fewer_channels_than_a_head_has_are_refused():
    args = {key: value for key, value in FLOW.items() if key != "num_heads"}
    with pytest.raises(ConfigError, match="32"):
        parse(FlowConfig, args, "flow.json")


@pytest.mark.parametrize("change", [{"pe_mode": "learned"}, {"num_heads": 3}, {"dtype": "int8"}])
def test_a_wrong_value_is_refused_naming_the_file(change):
    with pytest.raises(ConfigError, match=r"flow\.json"):
        parse(FlowConfig, FLOW | change, "flow.json")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"num_blocks": [1]}, "num_blocks, block_type: expected 2 entries .*got 1 and 2"),
        ({"block_type": ["SparseConvNeXtBlock3d"] * 3}, "got 2 and 3"),
        ({"block_type": ["SparseConvNeXtBlock3d", "SparseResBlock3d"]}, "block_type: .*SparseResBlock3d"),
        ({"up_block_type": ["SparseResBlockUpsample3d"]}, "up_block_type: .*SparseResBlockUpsample3d"),
        ({"down_block_type": []}, r"unknown keys \['down_block_type'\]"),
        ({"model_channels": [24, 16]}, "model_channels: 24 and 16 do not fit"),
    ],
)
def test_a_wrong_sparse_decoder_is_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        parse(ShapeDecoderConfig, DECODER | change, "shape.json")


def test_another_norm_is_refused():
    args = {"latent_channels": 8, "channels": [8, 4], "num_res_blocks": 1, "out_channels": 1}
    assert parse(StructureDecoderConfig, args, "here").torso_dtype == torch.float32
    assert parse(StructureDecoderConfig, args | {"use_fp16": True}, "here").torso_dtype == torch.float16
    both = args | {"use_fp16": True, "dtype": "bfloat16"}
    assert parse(StructureDecoderConfig, both, "here").torso_dtype == torch.bfloat16
    with pytest.raises(ConfigError, match=r"norm_type: expected 'layer'.*'group'"):
        parse(StructureDecoderConfig, args | {"norm_type": "group"}, "here")


@pytest.mark.parametrize("mean, std", [((0.0,), (0.0,)), ((0.0,), (-1.0,)), ((0.0, 1.0), (1.0,))])
def test_a_wrong_normalization_is_refused(mean, std):
    with pytest.raises(ConfigError, match="positive stds"):
        Normalization(mean=mean, std=std)


@pytest.mark.parametrize(
    "description",
    [
        {"name": "Trellis3FlowModel", "args": FLOW},
        {"name": "SLatFlowModel"},
        {"name": "SLatFlowModel", "args": FLOW, "version": 2},
    ],
)
def test_an_unknown_network_is_refused(description):
    with pytest.raises(ConfigError, match=r"flow\.json: .*SparseStructureFlowModel"):
        build_model(description, "flow.json")


def test_a_given_dtype_overrides_the_files():
    model = build_model({"name": "SLatFlowModel", "args": FLOW | {"dtype": "bfloat16"}}, "flow.json", dtype="float16")
    assert torch.float16 in {p.dtype for p in model.parameters()}
    assert torch.bfloat16 not in {p.dtype for p in model.parameters()}
    with pytest.raises(ConfigError, match=r"dtype: .*'float8'"):
        build_model({"name": "SLatFlowModel", "args": FLOW}, "flow.json", dtype="float8")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"num_blocks": 10**9}, r"flow\.json\.num_blocks: expected 0 to 256, got 1000000000"),
        ({"model_channels": 10**9, "num_heads": 1}, r"model_channels: expected 1 to 65536"),
        ({"num_heads": 0}, "num_heads: expected 1 to 1024, got 0"),
        ({"num_heads": None, "num_head_channels": 0}, "num_head_channels: expected 1 to"),
        ({"resolution": 4097}, "resolution: expected 1 to 4096"),
        ({"resolution": True}, "resolution: expected a whole number, got True"),
        ({"mlp_ratio": float("nan")}, "mlp_ratio: expected a finite number, got nan"),
        ({"mlp_ratio": 10**400}, "mlp_ratio: expected a finite number, got a larger number"),
        ({"rope_freq": [1.0]}, "rope_freq: expected a list of 2 values"),
        ({"qk_rms_norm": "yes"}, "qk_rms_norm: expected true or false, got 'yes'"),
        ({"dtype": ["float32"]}, "dtype: expected a text"),
    ],
)
def test_a_network_that_nobody_could_build_is_refused_at_once(change, message):
    with pytest.raises(ConfigError, match=message):
        build_model({"name": "SLatFlowModel", "args": FLOW | change}, "flow.json")


def test_layers_by_level_are_counted_in_all():
    with pytest.raises(ConfigError, match="num_blocks: expected at most 256 layers in all, got 300"):
        parse(ShapeDecoderConfig, DECODER | {"num_blocks": [150, 150]}, "shape.json")
    with pytest.raises(ConfigError, match="model_channels: expected at most 16 levels, got 17"):
        parse(ShapeDecoderConfig, DECODER | {"model_channels": [8] * 17}, "shape.json")


def test_a_dense_grid_of_positions_is_bounded():
    """It is made on the CPU for a file that lacks it."""
    with pytest.raises(ConfigError, match="resolution: expected at most 64 for a dense grid, got 65"):
        build_model({"name": "SparseStructureFlowModel", "args": FLOW | {"resolution": 65}}, "flow.json")


@pytest.mark.parametrize("content", ["[" * 100_000, "1" * 5000, "{", "\ufeff{}", '{"a": 1}' + " " * (4 << 20)])
def test_json_that_cannot_be_read_is_refused_by_name(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"a\.json"):
        read_json(path)
    with pytest.raises(ConfigError, match=r"a\.json"):
        read_encoder_config(path)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"num_hidden_layers": 10**9}, "expected 1 to 256 for num_layers, got 1000000000"),
        ({"num_attention_heads": 0}, "expected 1 to 1024 for num_heads"),
        ({"hidden_size": True}, "expected an integer for hidden_size"),
        ({"rope_theta": "100"}, "expected rope_theta as 100.0, got '100'"),
        ({"layer_norm_eps": float("inf")}, "expected layer_norm_eps"),
        ({"patch_size": 0}, "expected 1 to 1024 for patch_size"),
        ({"query_bias": 1}, "expected query_bias as True, got 1"),
    ],
)
def test_a_wrong_image_encoder_is_refused_by_name(tmp_path, change, message):
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**sizes, "num_register_tokens": 4, **change}), encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        read_encoder_config(path)
