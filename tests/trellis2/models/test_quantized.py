"""Eight-bit layers in the flow networks, the rotation of packed files, and files that are packed already."""

import json

import pytest
import torch
from comfyui_trellis2.trellis2.checkpoint.hub import MissingFileError
from comfyui_trellis2.trellis2.checkpoint.int8_file import hadamard_matrix, hadamard_transform, split_int8_layers
from comfyui_trellis2.trellis2.checkpoint.layouts import Checkpoint
from comfyui_trellis2.trellis2.checkpoint.weights import CheckpointError, load_weights, read_tensors, save_weights
from comfyui_trellis2.trellis2.models.quantized import (
    LAYERS,
    QuantizedLinear,
    check_format,
    quantizable,
    quantize_model,
)
from comfyui_trellis2.trellis2.ops.quantized_linear import FORMATS, quantize_rows
from comfyui_trellis2.trellis2.pipeline import Pipeline
from comfyui_trellis2.trellis2.runtime.residency import KeepLoaded
from comfyui_trellis2.trellis2.sparse import CoordSet, PackedSequences, SparseTensor

CPU = torch.device("cpu")
GROUP = 16
# Relative to the output, of Gaussian weights and inputs: two roundings of 1/254 or 1/16 of a large value.
ERROR = {"int8": 0.015, "fp8": 0.04}

formats = pytest.mark.parametrize("name", list(FORMATS))


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def mark(**said) -> torch.Tensor:
    return torch.tensor(list(json.dumps(said).encode()), dtype=torch.uint8)


def packed(name, weight, group=GROUP):
    """A layer as ComfyUI stores it."""
    rows = quantize_rows(hadamard_transform(weight.float(), group), FORMATS["int8"])
    said = mark(format="int8_tensorwise", convrot=True, convrot_groupsize=group)
    return {f"{name}.weight": rows.values, f"{name}.weight_scale": rows.scale[:, None], f"{name}.comfy_quant": said}


def relative(out, wanted):
    return float((out.double() - wanted.double()).norm() / wanted.double().norm())


@pytest.mark.parametrize("size", [4, 16, 64, 256])
def test_rotation_is_its_own_inverse(size):
    matrix = hadamard_matrix(size, CPU, torch.float32)
    torch.testing.assert_close(matrix @ matrix, torch.eye(size))
    assert torch.equal(matrix, matrix.T)
    assert torch.equal(matrix.abs(), torch.full((size, size), size**-0.5))
    assert matrix[0].sign().tolist()[:4] == [1, 1, 1, -1]
    x = draw(5, 2 * size)
    torch.testing.assert_close(hadamard_transform(hadamard_transform(x, size), size), x)


@pytest.mark.parametrize("size", [0, 1, 2, 8, 32, 48, 128])
def test_other_groups_have_no_rotation(size):
    with pytest.raises(ValueError, match="expected a group of 4, 16, 64, 256"):
        hadamard_matrix(size, CPU, torch.float32)
    with pytest.raises(ValueError, match="expected a multiple of 16 channels, got 24"):
        hadamard_transform(torch.zeros(2, 24), 16)


def test_rotation_tames_an_outlier():
    """What it is for: one channel a hundred times as loud leaves the others their digits."""
    x, weight = draw(50, 64), draw(30, 64, seed=1)
    x[:, 5] *= 100
    wanted = x @ weight.T
    bias = torch.zeros(30)
    plain = QuantizedLinear(quantize_rows(weight, FORMATS["int8"]), bias, FORMATS["int8"])
    turned = QuantizedLinear(
        quantize_rows(hadamard_transform(weight, 64), FORMATS["int8"]), bias, FORMATS["int8"], rotation=64
    )
    quiet = torch.arange(64) != 5
    loud = x[:, 5:6] * weight[:, 5]
    error = [(layer(x) - wanted).norm() / (x[:, quiet] @ weight[:, quiet].T).norm() for layer in (plain, turned)]
    assert error[1] < error[0] / 2
    assert loud.norm() > 10 * (wanted - loud).norm()


@formats
@pytest.mark.parametrize("rotation", [0, GROUP])
@pytest.mark.parametrize("activation", [None, "gelu"])
def test_layer(name, rotation, activation):
    x, weight, bias = draw(70, 64), draw(48, 64, seed=1), draw(48, seed=2)
    turned = hadamard_transform(weight, rotation) if rotation else weight
    layer = QuantizedLinear(quantize_rows(turned, FORMATS[name]), bias, FORMATS[name], rotation)
    active = torch.nn.functional.gelu(x, approximate="tanh") if activation else x
    out = layer(x, activation)
    assert out.dtype == torch.float32
    assert 1e-3 < relative(out, active @ weight.T + bias) < ERROR[name]
    if not rotation:
        assert torch.equal(layer(quantize_rows(active, FORMATS[name])), out)


def test_unknown_format():
    with pytest.raises(ValueError, match=r"quantization: expected 'none' or one of \['int8', 'fp8'\], got 'int4'"):
        check_format("int4", CPU)


@pytest.fixture(scope="module")
def flows(tiny):
    return Checkpoint.open(str(tiny))


def run(model):
    axis = torch.arange(4)
    coords = CoordSet.from_items([torch.cartesian_prod(axis, axis, axis), torch.cartesian_prod(axis[:2], axis, axis)])
    x = SparseTensor(draw(96, model.config.in_channels), coords)
    condition = PackedSequences(draw(12, model.config.cond_channels, seed=1), (5, 7))
    with torch.no_grad():
        return model(x, torch.tensor([700.0, 300.0]), condition).feats


@formats
def test_only_the_large_layers_of_flow_models_change(flows, name):
    plain = flows.load_model("shape_slat_flow_model_512", dtype="float32")
    model = quantize_model(flows.load_model("shape_slat_flow_model_512", dtype="float32"), name, CPU)
    changed = [path for path, layer in model.named_modules() if isinstance(layer, QuantizedLinear)]
    assert changed == [f"blocks.{k}.{layer}" for k in range(2) for layer in LAYERS]
    before, after = plain.state_dict(), model.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before if key.rpartition(".")[0] not in changed)
    assert all(after[f"{path}.weight"].dtype == FORMATS[name].dtype for path in changed)
    assert 1e-4 < relative(run(model), run(plain)) < 2 * ERROR[name]
    decoder = flows.load_model("tex_slat_decoder")
    assert quantizable(decoder) == []
    assert quantize_model(decoder, name, CPU) is decoder


def test_a_pipeline_quantises_as_it_loads(tiny):
    pipeline = Pipeline.load(str(tiny), KeepLoaded("cpu"), quantization="int8")
    with pipeline.model("shape_slat_flow_model_512") as flow:
        assert flow.blocks[0].mlp.mlp[0].weight.dtype == torch.int8
    with pytest.raises(ValueError, match="quantization: expected 'none' or one of"):
        Pipeline.load(str(tiny), KeepLoaded("cpu"), quantization="int4")


@pytest.fixture(scope="module")
def comfy_folder(tiny, tmp_path_factory):
    """The tiny shape flow at 512 in Comfy-Org's packed file: every linear layer that the rotation divides."""
    folder = tmp_path_factory.mktemp("packed")
    path = Checkpoint.open(str(tiny)).config.models["shape_slat_flow_model_512"]
    state, tensors = read_tensors(tiny / f"{path}.safetensors"), {}
    for key, value in state.items():
        layer = key.removesuffix(".weight")
        if value.ndim == 2 and value.shape[1] % GROUP == 0 and layer != key:
            tensors |= packed(layer, value)
        else:
            tensors[key] = value
    tensors = {f"model.img2shape_512.{key}": value for key, value in tensors.items()}
    save_weights(tensors, folder / "diffusion_models" / "trellis_2_int8_convrot.safetensors")
    return folder


@pytest.fixture
def shrunk(tiny, monkeypatch):
    """The published configurations are those of the tiny networks."""
    from comfyui_trellis2.trellis2.checkpoint import layouts as module

    real = module._read_json
    config = Checkpoint.open(str(tiny)).config

    def read(path):
        data = real(path)
        if path.name == "published.json":
            data["models"] = {role: real(tiny / f"{where}.json") for role, where in config.models.items()}
        return data

    monkeypatch.setattr(module, "_read_json", read)


@pytest.mark.parametrize("quantization", ["none", "int8", "fp8"])
def test_a_packed_file_is_the_same_network(flows, comfy_folder, shrunk, quantization):
    plain = flows.load_model("shape_slat_flow_model_512", dtype="float32")
    opened = Checkpoint.open(str(comfy_folder), quantization=quantization)
    model = opened.load_model("shape_slat_flow_model_512", dtype="float32")
    layer = model.blocks[0].self_attn.to_qkv
    if quantization == "int8":
        assert (layer.weight.dtype, layer.rotation) == (torch.int8, GROUP)
    elif quantization == "fp8":
        assert (layer.weight.dtype, layer.rotation) == (torch.float8_e4m3fn, 0)
    else:
        assert layer.weight.dtype == torch.float32
    assert isinstance(model.t_embedder.mlp[0], torch.nn.Linear)
    assert 1e-4 < relative(run(model), run(plain)) < 2 * ERROR["fp8" if quantization == "fp8" else "int8"]


def test_which_file_is_taken(comfy_folder, shrunk, tmp_path):
    asked = []

    def download(repository, name, folder):
        asked.append(name)
        raise MissingFileError(name)

    for quantization in ("none", "int8"):
        opened = Checkpoint.open("Comfy-Org/TRELLIS.2", tmp_path, download, quantization=quantization)
        with pytest.raises(MissingFileError):
            opened.require(["shape_slat_flow_model_512"])
    assert asked == [f"diffusion_models/trellis_2_{kind}.safetensors" for kind in ("bf16", "int8_convrot")]


def network():
    return torch.nn.Sequential(torch.nn.Linear(32, 8), torch.nn.Linear(8, 8))


def test_marks_of_other_writers():
    weight = draw(8, 32)
    tensors = packed("0", weight) | {"0.bias": torch.zeros(8)}
    tensors["0.comfy_quant"] = mark(format="int8_tensorwise", params={"convrot": True, "convrot_groupsize": GROUP})
    tensors["0.weight_scale"] = tensors["0.weight_scale"].flatten()
    plain, layers = split_int8_layers(tensors)
    assert list(plain) == ["0.bias"]
    assert relative(layers["0"].dequantize(), weight) < 0.01
    tensors["0.comfy_quant"] = mark(format="int8_tensorwise", per_row=False, orig_shape=[8, 32])
    tensors["0.weight_scale"] = torch.tensor(0.5)
    assert torch.equal(split_int8_layers(tensors)[1]["0"].dequantize(), tensors["0.weight"] * 0.5)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"0.comfy_quant": mark(format="nvfp4")}, "0: expected weights quantised as 'int8_tensorwise', got .*nvfp4"),
        (
            {"0.comfy_quant": mark(format="int8_tensorwise", zero_point=3)},
            "0: expected weights quantised as .*zero_point",
        ),
        ({"0.comfy_quant": torch.zeros(4, dtype=torch.uint8)}, r"0\.comfy_quant: expected the bytes of a JSON object"),
        ({"0.weight": torch.zeros(8, 32)}, "0: expected an int8 matrix"),
        ({"0.weight_scale": torch.zeros(3)}, r"0: expected 1 or 8 numbers in weight_scale, got \[3\]"),
        (
            {"0.comfy_quant": mark(format="int8_tensorwise", convrot=True)},
            "0: expected a multiple of 256 input channels",
        ),
        ({"0.input_scale": torch.ones(1)}, r"unexpected keys \['0\.input_scale'\]"),
        ({"0.bias": None}, r"missing keys \['0\.bias'\]"),
    ],
)
def test_a_packed_file_that_says_something_else_is_refused(change, message):
    tensors = dict(network().state_dict()) | packed("0", draw(8, 32)) | change
    tensors = {key: value for key, value in tensors.items() if value is not None}
    with pytest.raises(CheckpointError, match=message):
        load_weights(network(), tensors, "x.safetensors")
