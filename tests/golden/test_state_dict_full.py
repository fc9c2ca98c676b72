"""Every published configuration at full size: the same keys, shapes and dtypes, and so the same files load."""

import json
from pathlib import Path

import pytest
import torch
from comfyui_trellis2.trellis2.checkpoint import config
from comfyui_trellis2.trellis2.models import build_model

FLOWS = ("img2shape_dit_1_3B_512_bf16", "imgshape2tex_dit_1_3B_512_bf16")
VAES = tuple(f"scvae/{kind}_vae_next_dc_f16c32_fp16" for kind in ("shape", "tex"))
NAMES = (
    *(f"gen/slat_flow_{name}{end}" for name in FLOWS for end in (":denoiser", ":denoiser@dtype=bfloat16")),
    *(f"gen/slat_flow_{name}_ft1024:denoiser" for name in FLOWS),
    "gen/ss_flow_img_dit_1_3B_64_bf16:denoiser",
    "gen/ss_flow_img_dit_1_3B_64_bf16:denoiser@dtype=bfloat16",
    *(f"{name}{end}:{half}" for name in VAES for end in ("", "_ft_512") for half in ("encoder", "decoder")),
    "ss_dec_conv3d_16l8_fp16",
    "ss_enc_conv3d_16l8_fp16",
)
DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.complex64: "C64"}

names = pytest.mark.parametrize("name", NAMES)


@pytest.fixture(scope="module")
def published(golden):
    return json.loads(golden("state_dict_full.json").read_text())


def table(published, name):
    """The keys of a model; "$same_as" names another model with the same ones."""
    found = published["models"][name]
    return table(published, found["$same_as"]) if "$same_as" in found else found


def build(published, name, **changed):
    total = published["totals"][name]
    return build_model({"name": total["class"], "args": total["args"] | changed}, name)


def described(model):
    return {key: [list(value.shape), DTYPES[value.dtype]] for key, value in model.state_dict().items()}


def test_every_model_is_tested(published):
    assert set(published["models"]) == set(published["totals"]) == set(NAMES)


@pytest.mark.slow
@names
def test_keys_shapes_dtypes(published, name):
    model = build(published, name)
    assert all(tensor.is_meta for tensor in model.state_dict().values())
    assert described(model) == table(published, name)


@pytest.mark.slow
@names
def test_totals(published, name):
    total, state = published["totals"][name], build(published, name).state_dict()
    assert sum(p.numel() for p in build(published, name).parameters()) == total["n_parameters"]
    assert sum(value.nbytes for value in state.values()) == total["bytes"]
    assert [name for name, _ in build(published, name).named_buffers()] == total["buffers"]


@pytest.mark.parametrize("name", [name for name in NAMES if "@dtype=" in name])
def test_the_torso_dtype_is_an_argument(published, name):
    plain, dtype = name.split("@dtype=")
    total = published["totals"][plain]
    model = build_model({"name": total["class"], "args": total["args"]}, plain, dtype=dtype)
    assert described(model) == table(published, name)
    assert table(published, name) != table(published, plain)


def test_another_configuration_is_told_apart(published):
    name = NAMES[0]
    for changed in ({"num_heads": 24}, {"share_mod": False}, {"num_blocks": 29}, {"mlp_ratio": 5.333}):
        assert described(build(published, name, **changed)) != table(published, name)


def test_the_published_shape_encoder(published):
    """The description that comes with the package, which the texturing file's encoder is checked against."""
    ours = json.loads(Path(config.__file__).with_name("published.json").read_text(encoding="utf-8"))
    model = build_model(ours["models"]["shape_slat_encoder"], "shape_slat_encoder")
    assert described(model) == table(published, "scvae/shape_vae_next_dc_f16c32_fp16:encoder")
