"""Pixal3D's flows, of the structure and of latents: image tokens for the whole object, features for every token.

The files beside this test hold one flow of the pipeline alone, which `test_c9_pixal3d_pipeline` runs: these networks
come with the whole set (`--goldens`).
"""

import pytest
import torch
from comfyui_trellis2.trellis2.models import Backends
from comfyui_trellis2.trellis2.models.quantized import QuantizedLinear, quantize_model
from comfyui_trellis2.trellis2.models.transformer import PreparedCondition
from comfyui_trellis2.trellis2.sparse import CoordSet, PackedSequences, ProjectedSequences, SparseTensor

ATOL = 5e-5
TORSO = 0.015  # relative, of a bf16 torso
NAMES = tuple(f"c9_pixal3d_{name}" for name in ("ss_flow", "slat_flow_shape", "slat_flow_tex"))

names = pytest.mark.parametrize("name", NAMES)


def condition_of(data, *, without=()):
    """The condition of the file, with zeros for the parts named."""
    parts = {key: torch.zeros_like(data[key]) if key in without else data[key] for key in ("global", "proj")}
    tokens = PackedSequences.from_items(parts["global"])
    return ProjectedSequences(tokens.feats, tokens.lengths, parts["proj"].reshape(-1, parts["proj"].shape[-1]))


def nothing(data):
    """The negative condition, as sampling makes it."""
    items, _, channels = data["global"].shape
    return PackedSequences(torch.zeros(items, channels), (1,) * items)


def run(model, data, times, condition):
    if "coords" not in data:
        return model(data["x"], data[f"t_{times}"], condition)
    coords = CoordSet(data["coords"].int(), data["seqlens"].tolist())
    concat = SparseTensor(data["concat_cond"], coords) if "concat_cond" in data else None
    return model(SparseTensor(data["x"], coords), data[f"t_{times}"], condition, concat).feats


def stored(data, key, actual):
    """(ours, theirs) of an array of which the file may hold the first object alone."""
    if key in data:
        return actual, data[key]
    return actual[:1], data[f"{key}_item0"]


@names
@pytest.mark.parametrize("times", ["a", "b"])
def test_velocity(network, arrays, close, name, times):
    data = arrays(f"{name}.data.npz")
    before = {key: value.clone() for key, value in data.items()}
    close(run(network(name), data, times, condition_of(data)), data[f"out_{times}"], ATOL)
    assert all(torch.equal(value, before[key]) for key, value in data.items())


@names
def test_a_prepared_condition_comes_back_from_its_tensors(network, arrays, close, name):
    data, model = arrays(f"{name}.data.npz"), network(name)
    for condition, odd in ((condition_of(data), 1), (nothing(data), 0)):
        prepared = model.prepare(condition)
        flat = prepared.tensors()
        assert len(flat) % 2 == odd and (prepared.projected is not None) == bool(odd)
        expected = run(model, data, "b", prepared)
        again = run(model, data, "b", PreparedCondition.of(flat, prepared.lengths))
        assert torch.equal(again, expected)


@names
def test_the_negative_condition_keeps_the_biases(network, arrays, close, name):
    data, model = arrays(f"{name}.data.npz"), network(name)
    for condition in (nothing(data), condition_of(data, without=("global", "proj"))):
        close(run(model, data, "b", condition), data["out_b_zero"], ATOL)
    assert (data["out_b_zero"] - data["out_b"]).abs().max() > 100 * ATOL


@names
@pytest.mark.parametrize("part", ["global", "proj"])
def test_one_of_the_two_alone(network, arrays, close, name, part):
    data, model = arrays(f"{name}.data.npz"), network(name)
    ours = run(model, data, "b", condition_of(data, without=(part,)))
    close(*stored(data, f"out_b_zero_{part}", ours), ATOL)
    if part == "proj":
        tokens = PackedSequences.from_items(data["global"])
        close(*stored(data, f"out_b_zero_{part}", run(model, data, "b", tokens)), ATOL)
    else:
        # A single token of zeros is as many, beside projected features too.
        one = ProjectedSequences(nothing(data).feats, nothing(data).lengths, condition_of(data).projected)
        close(*stored(data, f"out_b_zero_{part}", run(model, data, "b", one)), ATOL)


@names
def test_the_parts_of_a_block(network, arrays, close, watch, name):
    data, model = arrays(f"{name}.data.npz"), network(name)
    image, first = model.blocks[0].cross_attn, "_first64" if "coords" not in data else ""
    seen = watch(cross_block0=image.cross_attn_block, proj0=image.proj_linear, cross0=image, h_block0=model.blocks[0])
    run(model, data, "b", condition_of(data))
    item = CoordSet(data["coords"].int(), data["seqlens"].tolist()).item if "coords" in data else None
    items = len(data["global"])
    if item is None:
        item = torch.arange(items).repeat_interleave(model.config.resolution**3)
    for key, value in seen.items():
        value = value if isinstance(value, torch.Tensor) else value.total(item)
        value = value.unflatten(0, (items, -1))[:, :64] if first else value
        close(value, data[f"{key}{first}_b"], ATOL)


@names
def test_the_reference_attention(network, arrays, close, name):
    data = arrays(f"{name}.data.npz")
    model = network(name, backends=Backends(attention="reference"))
    close(run(model, data, "b", condition_of(data)), data["out_b"], ATOL)


@names
def test_bf16_torso(network, arrays, relative_error, name):
    data = arrays(f"{name}.data.npz")
    out = run(network(name, dtype="bfloat16"), data, "b", condition_of(data))
    assert out.dtype == torch.float32
    assert relative_error(*stored(data, "out_b_bf16_torso", out)) < TORSO
    assert 1e-4 < relative_error(out, data["out_b"]) < TORSO


@names
@pytest.mark.parametrize(("quantization", "rounding"), [("int8", 0.015), ("fp8", 0.06)])
def test_eight_bit_torso(network, arrays, relative_error, name, quantization, rounding):
    data = arrays(f"{name}.data.npz")
    model = quantize_model(network(name), quantization, torch.device("cpu"))
    assert isinstance(model.blocks[0].cross_attn.proj_linear, QuantizedLinear)
    error = relative_error(run(model, data, "b", condition_of(data)), data["out_b"])
    assert 1e-3 < error < rounding, error
    assert relative_error(run(model, data, "b", nothing(data)), data["out_b_zero"]) < rounding


@names
@pytest.mark.parametrize("key", ["proj_linear.weight", "proj_linear.bias", "cross_attn_block.to_kv.weight"])
def test_tolerance_sees_one_percent(network, arrays, scaled, name, key):
    data = arrays(f"{name}.data.npz")
    out = run(network(name, edit=scaled(rf"blocks.0.cross_attn.{key}")), data, "b", condition_of(data))
    assert (out - data["out_b"]).abs().max() > ATOL


@names
def test_other_features_are_refused(network, arrays, name):
    data, model = arrays(f"{name}.data.npz"), network(name)
    good = condition_of(data)
    wide = ProjectedSequences(good.feats, good.lengths, good.projected.repeat(1, 2))
    with pytest.raises(ValueError, match=r"expected \d+ projected features a token, got \d+"):
        run(model, data, "b", wide)
    short = ProjectedSequences(good.feats, good.lengths, good.projected[:-1])
    with pytest.raises(ValueError, match=r"expected projected features of \d+ tokens, got \d+"):
        run(model, data, "b", short)
