"""The reference's SLatFlowModel and ElasticSLatFlowModel: two objects in one batch, with and without concat_cond."""

import pytest
import torch
from comfyui_trellis2.trellis2.models import Backends
from comfyui_trellis2.trellis2.models.quantized import quantize_model
from comfyui_trellis2.trellis2.sparse import CoordSet, PackedSequences, SparseTensor

ATOL = 5e-5
TORSO = 0.015  # relative, of a bf16 torso
NAMES = ("c2_slat_flow_shape", "c2_slat_flow_tex", "c2_slat_flow_ape")

names = pytest.mark.parametrize("name", NAMES)


def coord_set(rows):
    """The reference's coordinates [N, 4] (batch, x, y, z) as ours."""
    return CoordSet(rows.int(), torch.bincount(rows[:, 0].long()).tolist())


def run(model, data, times, condition=None):
    coords = coord_set(data["coords"])
    concat = SparseTensor(data["concat_cond"], coords) if "concat_cond" in data else None
    condition = PackedSequences.from_items(data["cond"]) if condition is None else condition
    out = model(SparseTensor(data["x"], coords), data[f"t_{times}"], condition, concat)
    assert out.coords is coords
    return out.feats


@names
@pytest.mark.parametrize("times", ["a", "b"])
def test_velocity(network, arrays, close, name, times):
    data = arrays(f"{name}.data.npz")
    before = {key: value.clone() for key, value in data.items()}
    close(run(network(name), data, times), data[f"out_{times}"], ATOL)
    assert all(torch.equal(value, before[key]) for key, value in data.items())


@names
def test_velocity_with_conditions_of_different_lengths(network, arrays, close, name):
    data = arrays(f"{name}.data.npz")
    condition = PackedSequences.from_items([data["cond"][0, :11], data["cond"][1, :23]])
    expected = data["out_b_varlen_cond_11_23"]
    close(run(network(name), data, "b", condition), expected, ATOL)
    assert (expected - data["out_b"]).abs().max() > 100 * ATOL


@names
def test_one_token_of_zeros_is_as_many_as_there_are(network, arrays, close, name):
    """The negative condition. One token is all that anyone can attend to, so its part is the same for all."""
    data = arrays(f"{name}.data.npz")
    condition = torch.zeros_like(data["cond"])
    whole = run(network(name), data | {"cond": condition}, "b")
    close(run(network(name), data | {"cond": condition[:, :1]}, "b"), whole, ATOL)
    other = data["cond"][:, :1]
    attended = run(network(name), data | {"cond": other.expand_as(data["cond"])}, "b")
    close(run(network(name), data | {"cond": other}, "b"), attended, ATOL)


@names
def test_velocity_with_the_reference_attention(network, arrays, close, name):
    data = arrays(f"{name}.data.npz")
    close(run(network(name, backends=Backends(attention="reference")), data, "b"), data["out_b"], ATOL)


@names
def test_lengths(arrays, name):
    data = arrays(f"{name}.data.npz")
    assert list(coord_set(data["coords"]).lengths) == data["seqlens"].tolist()


@names
def test_hidden_states(network, arrays, close, watch, name):
    data = arrays(f"{name}.data.npz")
    model = network(name)
    seen = watch(**{f"h_block{k}_b": block for k, block in enumerate(model.blocks)})
    run(model, data, "b")
    item = coord_set(data["coords"]).item
    for key, stream in seen.items():
        close(stream.total(item), data[key], ATOL)


@names
def test_a_batch_is_its_items(network, arrays, name):
    data = arrays(f"{name}.data.npz")
    model = network(name)
    together = run(model, data, "b")
    for i in data["coords"][:, 0].unique():
        mine = data["coords"][:, 0] == i
        single = {key: data[key][mine] for key in ("coords", "x", "concat_cond") if key in data}
        single |= {"t_b": data["t_b"][i, None], "cond": data["cond"][i, None]}
        single["coords"] = single["coords"] * torch.tensor([0, 1, 1, 1], dtype=torch.int32)
        torch.testing.assert_close(run(model, single, "b"), together[mine], atol=ATOL, rtol=0)


@names
def test_bf16_torso(network, arrays, relative_error, name):
    data = arrays(f"{name}.data.npz")
    out = run(network(name, dtype="bfloat16"), data, "b")
    assert out.dtype == torch.float32
    assert relative_error(out, data["out_b_bf16_torso"]) < TORSO
    assert 1e-4 < relative_error(out, data["out_b"]) < TORSO


@names
@pytest.mark.parametrize(("quantization", "rounding"), [("int8", 0.015), ("fp8", 0.06)])
def test_eight_bit_torso(network, arrays, relative_error, name, quantization, rounding):
    data = arrays(f"{name}.data.npz")
    model = quantize_model(network(name), quantization, torch.device("cpu"))
    error = relative_error(run(model, data, "b"), data["out_b"])
    assert 1e-3 < error < rounding, error


@names
@pytest.mark.parametrize(
    "key", ["t_embedder.mlp.2.weight", "blocks.0.self_attn.to_qkv.weight", "blocks.0.cross_attn.to_kv.weight"]
)
def test_tolerance_sees_one_percent(network, arrays, scaled, name, key):
    data = arrays(f"{name}.data.npz")
    out = run(network(name, edit=scaled(key)), data, "b")
    assert (out - data["out_b"]).abs().max() > ATOL


def test_tolerance_sees_a_forgotten_concat(network, arrays):
    data = arrays("c2_slat_flow_tex.data.npz")
    out = run(network("c2_slat_flow_tex"), data | {"concat_cond": torch.zeros_like(data["concat_cond"])}, "b")
    assert (out - data["out_b"]).abs().max() > ATOL
