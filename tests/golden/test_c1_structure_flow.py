"""The reference's SparseStructureFlowModel: RoPE and absolute positions, shared and per-block modulation."""

import pytest
import torch
from comfyui_trellis2.trellis2.models import Backends
from comfyui_trellis2.trellis2.models.quantized import quantize_model
from comfyui_trellis2.trellis2.sparse import PackedSequences

ATOL = 5e-5
TORSO = 0.015  # relative, of a bf16 torso
NAMES = ("c1_ss_flow_rope", "c1_ss_flow_ape", "c1_ss_flow_rope_nonorm")

names = pytest.mark.parametrize("name", NAMES)


def run(model, data, times):
    return model(data["x"], data[f"t_{times}"], PackedSequences.from_items(data["cond"]))


@pytest.mark.slow
@names
@pytest.mark.parametrize("times", ["a", "b"])
def test_velocity(network, arrays, close, name, times):
    data = arrays(f"{name}.data.npz")
    before = {key: value.clone() for key, value in data.items()}
    close(run(network(name), data, times), data[f"out_{times}"], ATOL)
    assert all(torch.equal(value, before[key]) for key, value in data.items())


@pytest.mark.slow
@names
def test_velocity_with_the_reference_attention(network, arrays, close, name):
    data = arrays(f"{name}.data.npz")
    close(run(network(name, backends=Backends(attention="reference")), data, "b"), data["out_b"], ATOL)


@names
@pytest.mark.parametrize("times", ["a", "b"])
def test_time(network, arrays, close, name, times):
    data = arrays(f"{name}.data.npz")
    model = network(name)
    embedded = model.t_embedder(data[f"t_{times}"])
    close(embedded, data[f"t_emb_{times}"], ATOL)
    if f"mod_{times}" in data:
        close(model.adaLN_modulation(embedded), data[f"mod_{times}"], ATOL)


@names
def test_hidden_states(network, arrays, close, watch, name):
    data = arrays(f"{name}.data.npz")
    model = network(name)
    blocks = {f"h_block{k}_first64_b": block for k, block in enumerate(model.blocks)}
    seen = watch(h_input_layer_first64_b=model.input_layer, **blocks)
    run(model, data, "b")
    items = len(data["x"])
    item = torch.arange(items).repeat_interleave(model.config.resolution**3) if items > 1 else None
    for key, hidden in seen.items():
        hidden = hidden if isinstance(hidden, torch.Tensor) else hidden.total(item)
        close(hidden.unflatten(0, (items, -1))[:, :64], data[key], ATOL)


@names
def test_position_table(network, arrays, name):
    data = arrays(f"{name}.data.npz")
    model = network(name)
    derived = model.derived_buffers()
    for key, table in derived.items():
        torch.testing.assert_close(table, model.get_buffer(key), atol=5e-6, rtol=0)
    if "rope_phases_real" in data:
        phases = torch.complex(data["rope_phases_real"], data["rope_phases_imag"])
        torch.testing.assert_close(derived["rope_phases"], phases, atol=5e-6, rtol=0)


@names
def test_a_file_without_the_position_table(network, arrays, close, name):
    data = arrays(f"{name}.data.npz")
    model = network(name, edit=lambda tensors: [tensors.pop(key, None) for key in ("rope_phases", "pos_emb")])
    close(run(model, data, "b"), data["out_b"], ATOL)


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


def test_the_measures_see_zeros_and_one_percent(close, relative_error):
    expected = torch.randn(100, generator=torch.Generator().manual_seed(0))
    for wrong in (torch.zeros(100), expected * 1.01, expected.flip(0), torch.full((100,), torch.nan), expected[:1]):
        with pytest.raises(AssertionError):
            close(wrong, expected, ATOL)
    with pytest.raises(AssertionError):
        close(torch.zeros(100), torch.zeros(100), ATOL)
    assert relative_error(expected * 1.02, expected) > TORSO
