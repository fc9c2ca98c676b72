"""Reading weights: strict, whole, in the right type, and without a second copy."""

import json
import re
from pathlib import Path

import pytest
import torch
from comfyui_trellis2.trellis2.checkpoint.weights import (
    CheckpointError,
    load_weights,
    randomize,
    read_tensors,
    save_weights,
)
from comfyui_trellis2.trellis2.models import build_model
from torch import nn

FLOW = "ckpts/ss_flow_img_dit_1_3B_64_bf16"


def network(layers=3, dtype=torch.float32, device="meta"):
    """Keys "0.weight", "0.bias", "1.weight", …"""
    return nn.Sequential(*(nn.Linear(3, 3, device=device, dtype=dtype) for _ in range(layers)))


def state(layers=3, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = network(layers).state_dict()
    return {key: torch.randn(value.shape, generator=generator).to(dtype) for key, value in shapes.items()}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "flow.safetensors"
    save_weights(state(), path)
    return path


def refused(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_weights(network(), read_tensors(path), str(path))
    return str(caught.value)


def test_a_file_comes_back_as_it_was_written(file):
    tensors = read_tensors(file)
    assert list(tensors) == sorted(state())
    assert all(torch.equal(tensors[key], value) for key, value in state().items())
    assert [path.name for path in file.parent.iterdir()] == ["flow.safetensors"]


def test_a_prefix_selects_and_is_taken_off(file):
    selected = read_tensors(file, "1.")
    assert set(selected) == {"bias", "weight"} and torch.equal(selected["weight"], state()["1.weight"])
    assert read_tensors(file, "model.") == {}


def test_a_loaded_network_computes_with_the_weights_and_is_frozen():
    model = load_weights(network(), state(), "here")
    expected = torch.ones(2, 3)
    for layer in range(3):
        expected = expected @ state()[f"{layer}.weight"].T + state()[f"{layer}.bias"]
    torch.testing.assert_close(model(torch.ones(2, 3)), expected)
    assert not any(p.requires_grad or p.is_meta for p in model.parameters())
    assert not model.training


def test_missing_keys_are_refused_with_the_first_five():
    tensors = state(6)
    gone = list(tensors)[1:8]
    tensors = {key: value for key, value in tensors.items() if key not in gone}
    with pytest.raises(CheckpointError, match=re.escape(f"x.safetensors: missing keys {gone[:5]} and 2 more")):
        load_weights(network(6), tensors, "x.safetensors")


def test_extra_keys_are_refused_with_the_first_five():
    extra = {f"ema.{k}": torch.zeros(1) for k in range(5)}
    with pytest.raises(CheckpointError, match=re.escape(f"x.safetensors: unexpected keys {list(extra)}") + "$"):
        load_weights(network(), state() | extra, "x.safetensors")
    extra["ema.5"] = torch.zeros(1)
    with pytest.raises(CheckpointError, match=re.escape(f"{list(extra)[:5]} and 1 more")):
        load_weights(network(), state() | extra, "x.safetensors")


@pytest.mark.parametrize("shape", [(9,), (3, 4), (1, 3, 3), (1, 1), ()])
def test_misshapen_keys_are_refused_with_both_shapes(shape):
    wrong = {"1.weight": torch.zeros(shape)}
    message = f"x.safetensors: misshapen keys ['1.weight {list(shape)}, expected [3, 3]']"
    with pytest.raises(CheckpointError, match=re.escape(message)):
        load_weights(network(), state() | wrong, "x.safetensors")
    many = {key: torch.zeros(7) for key in state(4)}
    with pytest.raises(CheckpointError, match=r"\['0\.weight .*'2\.weight \[7\], expected \[3, 3\]'\] and 3 more"):
        load_weights(network(4), many, "x.safetensors")


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 100, -109, -108, -50, -4, -1])
def test_a_truncated_file_is_refused_by_name(file, length):
    whole = file.read_bytes()
    file.write_bytes(whole[:length])
    message = refused(file)
    assert str(file) in message and "download it again" in message


def test_a_longer_file_is_refused_by_name(file):
    file.write_bytes(file.read_bytes() + bytes(8))
    assert str(file) in refused(file)


@pytest.mark.slow
def test_any_bit_flipped_in_the_header_is_refused_by_name(tmp_path):
    path = tmp_path / "flow.safetensors"
    save_weights(state(1), path)
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    for position in range(header):
        for bit in range(8):
            spoiled = bytearray(whole)
            spoiled[position] ^= 1 << bit
            path.write_bytes(spoiled)
            with pytest.raises(CheckpointError) as caught:
                load_weights(network(1), read_tensors(path), str(path))
            assert str(path) in str(caught.value), (position, bit)


@pytest.mark.parametrize(
    "content", [b"<html>429 Too Many Requests</html>", b"version https://git-lfs.github.com/spec/v1\n"]
)
def test_what_is_not_safetensors_is_refused_by_name(file, content):
    file.write_bytes(content)
    assert str(file) in refused(file)


def test_an_absent_file_is_refused_by_name(tmp_path):
    assert "absent.safetensors" in refused(tmp_path / "absent.safetensors")


def test_tensors_of_the_right_type_are_taken_without_a_copy(file):
    tensors = read_tensors(file)
    loaded = load_weights(network(), tensors, str(file)).state_dict()
    assert {key: value.data_ptr() for key, value in loaded.items()} == {k: v.data_ptr() for k, v in tensors.items()}


def test_reading_maps_the_file(file):
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("the system does not list its mappings")
    tensors = read_tensors(file)
    rows = [line.split() for line in maps.read_text(encoding="utf-8").splitlines()]
    spans = [tuple(int(end, 16) for end in row[0].split("-")) for row in rows if row[-1] == str(file)]
    assert spans
    assert all(any(low <= t.data_ptr() < high for low, high in spans) for t in tensors.values())


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_each_tensor_takes_the_type_that_the_network_declares(stored):
    model = network()
    model[1].to(torch.bfloat16)
    tensors = state(dtype=stored)
    loaded = load_weights(model, tensors, "here").state_dict()
    declared = dict.fromkeys(state(), torch.float32) | {"1.weight": torch.bfloat16, "1.bias": torch.bfloat16}
    assert {key: value.dtype for key, value in loaded.items()} == declared
    assert all(torch.equal(value, tensors[key].to(declared[key])) for key, value in loaded.items())
    assert {value.dtype for value in tensors.values()} == {stored}


def structure_flow(tiny: Path):
    description = json.loads((tiny / f"{FLOW}.json").read_text(encoding="utf-8"))
    return build_model(description, FLOW)


def test_an_absent_position_table_is_computed(tiny):
    tensors = read_tensors(tiny / f"{FLOW}.safetensors")
    without = {key: value for key, value in tensors.items() if key != "rope_phases"}
    assert len(without) == len(tensors) - 1
    loaded = load_weights(structure_flow(tiny), without, FLOW)
    stored = load_weights(structure_flow(tiny), tensors, FLOW)
    assert loaded.rope_phases.dtype == torch.complex64 and loaded.rope_phases.shape == (16**3, 8)
    assert torch.equal(loaded.rope_phases, stored.rope_phases)
    assert torch.equal(loaded.rope_phases, tensors["rope_phases"])
    assert "rope_phases" not in without


def test_a_stored_position_table_is_used_as_it_is(tiny):
    tensors = read_tensors(tiny / f"{FLOW}.safetensors")
    other = tensors | {"rope_phases": tensors["rope_phases"] * 1j}
    assert torch.equal(load_weights(structure_flow(tiny), other, FLOW).rope_phases, other["rope_phases"])
    with pytest.raises(CheckpointError, match=r"misshapen keys.*rope_phases"):
        load_weights(structure_flow(tiny), tensors | {"rope_phases": tensors["rope_phases"][:-1]}, FLOW)


def test_weights_that_do_not_follow_from_the_configuration_must_be_there(tiny):
    tensors = read_tensors(tiny / f"{FLOW}.safetensors")
    key = next(key for key in tensors if key != "rope_phases")
    del tensors[key]
    with pytest.raises(CheckpointError, match=re.escape(f"{FLOW}: missing keys ['{key}']") + "$"):
        load_weights(structure_flow(tiny), tensors, FLOW)


def test_writing_replaces_a_file_whole_or_not_at_all(file):
    before = file.read_bytes()
    with pytest.raises((TypeError, ValueError, AttributeError)):
        save_weights({"0.weight": "not a tensor"}, file)
    assert file.read_bytes() == before
    save_weights({"x": torch.ones(4, 2).T}, file)
    assert torch.equal(read_tensors(file)["x"], torch.ones(2, 4))


def test_random_weights_are_the_seeds_own_and_leave_the_global_stream():
    models = [network(device="cpu") for _ in range(3)]
    before = torch.get_rng_state()
    for model, seed in zip(models, (1, 1, 2), strict=True):
        randomize(model, torch.Generator().manual_seed(seed))
    assert torch.equal(before, torch.get_rng_state())
    first, second, other = (torch.cat([p.flatten() for p in model.parameters()]) for model in models)
    assert torch.equal(first, second) and not torch.equal(first, other)
