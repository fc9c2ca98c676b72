"""DINOv3: key layouts, configuration, shapes, RoPE. The numbers are in golden/test_c8_image_and_dino.py."""

import math

import pytest
import torch
from comfyui_trellis2.trellis2.models.dino import (
    VIT_L16,
    DinoConfig,
    DinoVisionTransformer,
    rope_phases,
    to_transformers_keys,
)

TINY_VALUES = {
    "model_type": "dinov3_vit",
    "hidden_act": "gelu",
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "num_register_tokens": 4,
}
TINY = DinoConfig.from_transformers(TINY_VALUES)
TO_TIMM = (
    ("embeddings.patch_embeddings.", "patch_embed.proj."),
    ("embeddings.cls_token", "cls_token"),
    ("embeddings.register_tokens", "reg_token"),
    ("layer.", "blocks."),
    ("layer_scale1.lambda1", "gamma_1"),
    ("layer_scale2.lambda1", "gamma_2"),
    ("attention.o_proj", "attn.proj"),
    ("attention.q_proj.bias", "attn.q_bias"),
    ("attention.v_proj.bias", "attn.v_bias"),
    ("mlp.up_proj", "mlp.fc1"),
    ("mlp.down_proj", "mlp.fc2"),
)


def random_state(config=TINY, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = DinoVisionTransformer(config, device="meta").state_dict()
    return {key: torch.randn(value.shape, generator=generator) * 0.2 for key, value in shapes.items()}


def without_biases(state):
    """The same weights with zero query and value biases, as the distilled models are published."""
    zeroed = (".q_proj.bias", ".v_proj.bias")
    return {key: torch.zeros_like(value) if key.endswith(zeroed) else value for key, value in state.items()}


def to_timm(state, config=TINY, *, biases=True):
    """timm's vit_*_patch16_dinov3 names (with `biases`: the _qkvb variant)."""
    timm = {}
    for key, value in state.items():
        skipped = key == "embeddings.mask_token" or key.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight"))
        if skipped or (key.endswith(("q_proj.bias", "v_proj.bias")) and not biases):
            continue
        for ours, theirs in TO_TIMM:
            key = key.replace(ours, theirs)
        timm[key] = value
    for index in range(config.num_layers):
        parts = [state[f"layer.{index}.attention.{name}_proj.weight"] for name in "qkv"]
        timm[f"blocks.{index}.attn.qkv.weight"] = torch.cat(parts)
    return timm


def loaded(state, config=TINY, **options):
    model = DinoVisionTransformer(config, device="meta", **options)
    model.load_state_dict(state, strict=True, assign=True)
    return model


def pixels(count, size=48, seed=1):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("layout", ["transformers", "transformers_5", "comfy", "timm_qkvb", "timm"])
def test_every_layout_gives_the_same_features(layout):
    state = without_biases(random_state()) if layout == "timm" else random_state()
    file = {
        "transformers": lambda: state,
        "transformers_5": lambda: {key.replace("layer.", "model.layer.", 1): value for key, value in state.items()},
        "comfy": lambda: state | {f"naf.image_encoder.0.{name}": torch.ones(3) for name in ("weight", "bias")},
        "timm_qkvb": lambda: to_timm(state),
        "timm": lambda: to_timm(state, biases=False),
    }[layout]()
    names = list(file)
    model = loaded(to_transformers_keys(file))
    assert list(file) == names
    assert torch.equal(model(pixels(2)), loaded(state)(pixels(2)))


def test_query_and_value_biases_of_timm_matter():
    state = random_state()
    assert not torch.allclose(loaded(state)(pixels(1)), loaded(without_biases(state))(pixels(1)))


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda s: s | {"blocks.0.attn.gate.weight": torch.ones(1)}, "1 unknown names: blocks.0.attn.gate.weight"),
        (lambda s: s | {"head.weight": torch.ones(1)}, "head.weight"),
        (lambda s: {f"visual.{k}": v for k, v in s.items()}, "layout"),
        (lambda s: {}, "no weights"),
    ],
)
def test_unknown_names_raise(spoil, message):
    with pytest.raises(ValueError, match=message):
        to_transformers_keys(spoil(to_timm(random_state())))


@pytest.mark.parametrize("key", ["blocks.1.gamma_2", "blocks.1.attn.q_bias", "blocks.1.attn.qkv.weight", "reg_token"])
def test_a_missing_tensor_of_timm_is_not_invented(key):
    timm = to_timm(random_state())
    del timm[key]
    with pytest.raises(RuntimeError, match="Missing key"):
        loaded(to_transformers_keys(timm))


@pytest.mark.parametrize("key", ["embeddings.mask_token", "norm.bias", "layer.0.norm1.weight"])
def test_transformers_names_load_strictly(key):
    state = random_state()
    with pytest.raises(RuntimeError, match="Unexpected key"):
        loaded(to_transformers_keys(state | {"layer.0.mlp.gate_proj.weight": torch.ones(1)}))
    del state[key]
    with pytest.raises(RuntimeError, match="Missing key"):
        loaded(to_transformers_keys(state))


def test_the_large_model_has_the_published_tensors():
    model = DinoVisionTransformer(VIT_L16, device="meta", dtype=torch.bfloat16)
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    assert len(shapes) == 415 and sum(math.prod(shape) for shape in shapes.values()) == 303_129_600
    assert all(value.dtype == torch.bfloat16 and value.is_meta for value in model.state_dict().values())
    assert not list(model.buffers())
    layer = {
        "attention.q_proj.weight": (1024, 1024), "attention.q_proj.bias": (1024,),
        "attention.k_proj.weight": (1024, 1024),
        "attention.v_proj.weight": (1024, 1024), "attention.v_proj.bias": (1024,),
        "attention.o_proj.weight": (1024, 1024), "attention.o_proj.bias": (1024,),
        "layer_scale1.lambda1": (1024,), "layer_scale2.lambda1": (1024,),
        "mlp.up_proj.weight": (4096, 1024), "mlp.up_proj.bias": (4096,),
        "mlp.down_proj.weight": (1024, 4096), "mlp.down_proj.bias": (1024,),
        "norm1.weight": (1024,), "norm1.bias": (1024,), "norm2.weight": (1024,), "norm2.bias": (1024,),
    }  # fmt: skip
    expected = {f"layer.{index}.{key}": shape for index in range(24) for key, shape in layer.items()} | {
        "embeddings.cls_token": (1, 1, 1024), "embeddings.mask_token": (1, 1, 1024),
        "embeddings.register_tokens": (1, 4, 1024), "embeddings.patch_embeddings.weight": (1024, 3, 16, 16),
        "embeddings.patch_embeddings.bias": (1024,), "norm.weight": (1024,), "norm.bias": (1024,),
    }  # fmt: skip
    assert shapes == expected


@pytest.mark.parametrize("biases, tensors, values", [(False, 318, 303_079_424), (True, 366, 303_128_576)])
def test_the_large_model_of_timm_becomes_the_published_tensors(biases, tensors, values):
    state = DinoVisionTransformer(VIT_L16, device="meta").state_dict()
    timm = to_timm(state, VIT_L16, biases=biases)
    assert len(timm) == tensors and sum(value.numel() for value in timm.values()) == values
    converted = to_transformers_keys(timm)
    assert {k: v.shape for k, v in converted.items()} == {k: v.shape for k, v in state.items()}


@pytest.mark.parametrize("size", [16, 48])
def test_tokens_are_class_registers_patches(size):
    tokens = loaded(random_state())(pixels(2, size))
    assert tokens.shape == (2, 1 + 4 + (size // 16) ** 2, 24) and tokens.dtype == torch.float32
    torch.testing.assert_close(tokens.mean(-1), torch.zeros(tokens.shape[:2]), atol=1e-5, rtol=0)
    torch.testing.assert_close(tokens.var(-1, unbiased=False), torch.ones(tokens.shape[:2]), atol=1e-3, rtol=0)


def test_a_batch_equals_single_runs():
    model, images = loaded(random_state()), pixels(3)
    singles = torch.cat([model(image[None]) for image in images])
    torch.testing.assert_close(model(images), singles, atol=1e-5, rtol=0)
    assert torch.equal(model(images), model(images))
    assert model(images[:0]).shape == (0, 14, 24)


def test_only_position_tells_equal_patches_apart():
    patches = loaded(random_state())(torch.ones(1, 3, 48, 48))[0, 5:].view(3, 3, -1)
    assert (patches[0, 0] - patches[0, 1]).abs().max() > 1e-3
    assert (patches[0, 1] - patches[1, 0]).abs().max() > 1e-3


def test_the_model_is_frozen():
    tokens = loaded(random_state())(pixels(1))
    assert not tokens.requires_grad


@pytest.mark.parametrize(
    "value",
    [
        torch.zeros(3, 32, 32),
        torch.zeros(1, 1, 32, 32),
        torch.zeros(1, 3, 32, 48),
        torch.zeros(1, 3, 40, 40),
        torch.zeros(1, 3, 0, 0),
        torch.zeros(1, 3, 32, 32, dtype=torch.uint8),
    ],
)
def test_other_pixels_raise(value):
    with pytest.raises(ValueError, match="pixels"):
        loaded(random_state())(value)


@pytest.mark.parametrize("side", [1, 3, 4])
def test_rope_angles(side):
    cos, sin = rope_phases(VIT_L16, side)
    assert cos.shape == sin.shape == (side * side, 32) and cos.dtype == torch.float32
    for row in range(side):
        for column in range(side):
            for axis, index in enumerate((row, column)):
                centre = 2 * (index + 0.5) / side - 1
                for j in (0, 1, 15):
                    angle = 2 * math.pi * centre / 100 ** (j / 16)
                    place = row * side + column, 16 * axis + j
                    assert cos[place].item() == pytest.approx(math.cos(angle), abs=2e-6)
                    assert sin[place].item() == pytest.approx(math.sin(angle), abs=2e-6)


def test_config_reads_every_field():
    published = {
        "model_type": "dinov3_vit", "hidden_act": "gelu", "hidden_size": 1024, "image_size": 224, "key_bias": False,
        "intermediate_size": 4096, "layer_norm_eps": 1e-05, "mlp_bias": True, "num_attention_heads": 16,
        "num_channels": 3, "num_hidden_layers": 24, "num_register_tokens": 4, "patch_size": 16, "proj_bias": True,
        "query_bias": True, "rope_theta": 100.0, "use_gated_mlp": False, "value_bias": True, "drop_path_rate": 0.0,
    }  # fmt: skip
    assert DinoConfig.from_transformers(published) == VIT_L16
    odd = DinoConfig.from_transformers(
        TINY_VALUES | {"query_bias": False, "key_bias": True, "mlp_bias": False, "patch_size": 8, "rope_theta": 50.0}
    )
    assert not odd.query_bias and odd.key_bias and not odd.mlp_bias and odd.patch_size == 8 and odd.rope_theta == 50.0
    keys = set(random_state(odd))
    assert "layer.0.attention.k_proj.bias" in keys and "layer.0.attention.q_proj.bias" not in keys
    assert "layer.0.mlp.up_proj.bias" not in keys


@pytest.mark.parametrize(
    "change, message",
    [
        ({"use_gated_mlp": True}, "use_gated_mlp"),
        ({"hidden_act": "silu"}, "hidden_act"),
        ({"model_type": "dinov2"}, "model_type"),
        ({"num_channels": 4}, "num_channels"),
        ({"hidden_size": None}, "hidden_size"),
        ({"hidden_size": 28}, "multiple of 4"),
    ],
)
def test_other_configurations_raise(change, message):
    with pytest.raises(ValueError, match=message):
        DinoConfig.from_transformers(TINY_VALUES | change)
    absent = {key: value for key, value in TINY_VALUES.items() if key != "num_attention_heads"}
    with pytest.raises(ValueError, match="num_attention_heads"):
        DinoConfig.from_transformers(absent)
