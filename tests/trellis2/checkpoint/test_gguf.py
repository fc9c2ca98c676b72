"""GGUF files: blocks to the bit of the `gguf` package, headers that are whole or refused, flows from every layout."""

import json
import shutil
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from comfyui_trellis2.trellis2.checkpoint.config import ConfigError
from comfyui_trellis2.trellis2.checkpoint.gguf import layout
from comfyui_trellis2.trellis2.checkpoint.gguf.blocks import BLOCKS
from comfyui_trellis2.trellis2.checkpoint.gguf.file import FORMATS, GgufFile
from comfyui_trellis2.trellis2.checkpoint.gguf.layout import FLOWS, PARTS, STARTS
from comfyui_trellis2.trellis2.checkpoint.hub import MissingFileError
from comfyui_trellis2.trellis2.checkpoint.layouts import Checkpoint
from comfyui_trellis2.trellis2.checkpoint.weights import CheckpointError, read_tensors, save_weights
from comfyui_trellis2.trellis2.models.quantized import QuantizedLinear, quantizable
from comfyui_trellis2.trellis2.pipeline import Pipeline
from comfyui_trellis2.trellis2.runtime.residency import KeepLoaded
from PIL import Image

from .gguf_files import BLOCKS as SIZES
from .gguf_files import quantize, random_blocks, write_gguf

FLOW = "ckpts/ss_flow_img_dit_1_3B_64_bf16"
STRUCTURE = "sparse_structure_flow_model"
WIDE = (STRUCTURE, "shape_slat_flow_model_512", "tex_slat_flow_model_512")
# Half a step of a group's spread over its spread: 1 / (2 (2^bits - 1)), of Gaussian weights some six times their
# deviation, and the rounding of the scales; as relative error of a matrix.
WEIGHT_ERROR = {"Q8_0": 0.006, "Q6_K": 0.03, "Q5_K": 0.05, "Q4_K": 0.09}
forms = pytest.mark.parametrize("form", list(BLOCKS))


def relative(got: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((got.double() - wanted.double()).norm() / wanted.double().norm())


def stored(tensor: torch.Tensor, form: str) -> tuple[str, tuple[int, ...], bytes]:
    """A tensor for `write_gguf`: in blocks where its rows are whole blocks, else in 16 or 32 bits, as converters do."""
    shape = tuple(tensor.shape)
    if tensor.ndim == 2 and form in SIZES and shape[1] % SIZES[form][0] == 0:
        return form, shape, quantize(tensor.float().numpy(), form)
    if tensor.ndim < 2:
        return "F32", shape, tensor.float().numpy().tobytes()
    plain = form if form in ("BF16", "F16", "F32") else "F16"
    dtype = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}[plain]
    return plain, shape, tensor.to(dtype).contiguous().flatten().view(torch.uint8).numpy().tobytes()


def as_gguf(source: Path, path: Path, form: str, rename=lambda key: key, **metadata) -> None:
    state = {key: value for key, value in read_tensors(source).items() if not value.is_complex()}
    write_gguf(path, {rename(key): stored(value, form) for key, value in state.items()}, **metadata)


def aliased(key: str) -> str:
    for alias, name in STARTS.items():
        key = alias + key.removeprefix(name) if key.startswith(name) else key
    for alias, name in PARTS.items():
        key = key.replace(name, alias)
    return key


# Blocks


@forms
@pytest.mark.parametrize("count", [1, 7, 2500])
def test_blocks_are_the_packages_to_the_bit(form, count):
    package = pytest.importorskip("gguf")
    blocks = random_blocks(form, count, np.random.default_rng(count))
    wanted = package.quants.dequantize(blocks, package.GGMLQuantizationType[form]).ravel()
    got = BLOCKS[form].dequantize(torch.from_numpy(blocks).flatten())
    assert np.array_equal(got.numpy().view(np.int32), wanted.view(np.int32))


@forms
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_pieces_join_without_a_seam_and_round_once(form, dtype, monkeypatch, tmp_path):
    blocks, size = random_blocks(form, 37, np.random.default_rng(1)), BLOCKS[form].size
    whole = BLOCKS[form].dequantize(torch.from_numpy(blocks).flatten()).to(dtype)
    write_gguf(tmp_path / "x.gguf", {"w": (form, (37, size), blocks)})
    monkeypatch.setattr("comfyui_trellis2.trellis2.checkpoint.gguf.blocks.CHUNK", 5 * size)
    got = GgufFile.open(tmp_path / "x.gguf").tensors["w"].read(dtype).flatten()
    assert torch.equal(got.view(torch.uint8), whole.view(torch.uint8))


def test_a_block_by_hand():
    """d = 0.5, dmin = 2; the first group has scale 3, minimum 1 and integers 0, 1, 2, …: 1.5 q - 2."""
    block = np.zeros(144, np.uint8)
    block[:4] = np.array([0.5, 2.0], np.float16).view(np.uint8)
    block[4], block[8] = 3, 1
    block[16:32] = np.arange(16)
    got = BLOCKS["Q4_K"].dequantize(torch.from_numpy(block))
    assert got[:16].tolist() == [1.5 * q - 2 for q in range(16)]
    assert got[32:].abs().max() == 0


@pytest.mark.parametrize("form", list(WEIGHT_ERROR))
def test_weights_come_back_within_half_a_step(form):
    weights = torch.randn(64, 512, generator=torch.Generator().manual_seed(0))
    raw = torch.frombuffer(bytearray(quantize(weights.numpy(), form)), dtype=torch.uint8)
    got = BLOCKS[form].dequantize(raw).view_as(weights)
    assert WEIGHT_ERROR[form] / 4 < relative(got, weights) < WEIGHT_ERROR[form]


def test_codes_and_sizes_are_the_packages():
    package = pytest.importorskip("gguf")
    kinds = {int(kind): kind.name for kind in package.GGMLQuantizationType}
    assert {code: name for code, name in FORMATS.items() if code in kinds} == {
        code: name for code, name in kinds.items() if code in FORMATS
    }
    sizes = {name: package.GGML_QUANT_SIZES[package.GGMLQuantizationType[name]] for name in BLOCKS}
    assert {name: (form.size, form.bytes) for name, form in BLOCKS.items()} == sizes


# Files


def small(**changes):
    """A file's tensors: a matrix of blocks, a vector, 16-bit ones of three dimensions."""
    blocks = random_blocks("Q4_K", 6, np.random.default_rng(0))
    tensors = {
        "a.weight": ("Q4_K", (3, 512), blocks),
        "a.bias": ("F32", (3,), np.arange(3, dtype=np.float32)),
        "c": ("BF16", (2, 1, 3), torch.arange(6).to(torch.bfloat16).view(torch.uint8).numpy()),
    }
    return tensors | changes


def test_tensors_have_their_shapes_and_values(tmp_path):
    path = tmp_path / "x.gguf"
    tensors = small()
    write_gguf(path, tensors, general__architecture="flux", general__alignment=64, words=["a", "bc"], share=0.5)
    file = GgufFile.open(path)
    assert {name: tensor.shape for name, tensor in file.tensors.items()} == {n: s for n, (_, s, _) in tensors.items()}
    assert file.metadata == {"general.architecture": "flux", "general.alignment": 64, "share": 0.5}
    wanted = BLOCKS["Q4_K"].dequantize(torch.from_numpy(tensors["a.weight"][2]).flatten()).half()
    assert torch.equal(file.tensors["a.weight"].read(torch.float16).flatten(), wanted)
    assert file.tensors["a.bias"].read(torch.bfloat16).tolist() == [0, 1, 2]
    assert file.tensors["c"].read(torch.float32).tolist() == [[[0, 1, 2]], [[3, 4, 5]]]


def test_a_shape_that_a_converter_noted_is_taken(tmp_path):
    path = tmp_path / "x.gguf"
    write_gguf(path, {"c": ("F32", (2, 6), bytes(48))}, comfy__gguf__orig_shape__c=[2, 3, 2])
    assert GgufFile.open(path).tensors["c"].shape == (2, 3, 2)
    write_gguf(path, {"c": ("F32", (2, 6), bytes(48))}, comfy__gguf__orig_shape__c=[2, 7])
    with pytest.raises(CheckpointError, match=r"x\.gguf"):
        GgufFile.open(path)


def test_the_packages_files_are_read_and_ours_by_the_package(tmp_path):
    package = pytest.importorskip("gguf")
    theirs, ours = tmp_path / "theirs.gguf", tmp_path / "ours.gguf"
    weights = np.random.default_rng(0).standard_normal((4, 96)).astype(np.float32)
    blocks = package.quants.quantize(weights, package.GGMLQuantizationType.Q8_0)
    writer = package.GGUFWriter(theirs, "flux")
    writer.add_tensor("w", blocks, raw_dtype=package.GGMLQuantizationType.Q8_0)
    writer.add_tensor("b", weights[0])
    for write in (
        writer.write_header_to_file,
        writer.write_kv_data_to_file,
        writer.write_tensors_to_file,
        writer.close,
    ):
        write()
    file = GgufFile.open(theirs)
    assert file.tensors["w"].shape == (4, 96) and file.metadata["general.architecture"] == "flux"
    wanted = package.quants.dequantize(blocks, package.GGMLQuantizationType.Q8_0)
    assert np.array_equal(file.tensors["w"].read(torch.float32).numpy(), wanted)
    assert np.array_equal(file.tensors["b"].read(torch.float32).numpy(), weights[0])
    write_gguf(ours, small(), general__architecture="flux")
    for tensor in package.GGUFReader(ours).tensors:
        form, shape, _ = small()[tensor.name]
        assert (tensor.tensor_type.name, tuple(reversed(tensor.shape.tolist()))) == (form, shape)
        if form in BLOCKS:
            wanted = package.quants.dequantize(tensor.data, tensor.tensor_type)
            got = GgufFile.open(ours).tensors[tensor.name].read(torch.float32).numpy()
            assert np.array_equal(got.view(np.int32), wanted.view(np.int32))


def test_any_truncation_is_refused_by_name(tmp_path):
    path = tmp_path / "x.gguf"
    write_gguf(path, small(), general__architecture="flux", words=["a"])
    whole = path.read_bytes()
    for length in [*range(0, 320, 7), len(whole) // 2, len(whole) - 32]:
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"x\.gguf: not a whole GGUF file"):
            GgufFile.open(path)


@pytest.mark.parametrize("form", ["IQ4_XS", "MXFP4", "NVFP4"])
def test_formats_that_are_not_read_are_refused_by_name(tmp_path, form):
    path = tmp_path / "x.gguf"
    write_gguf(path, small(b=(form, (1, 256), bytes(300))))
    with pytest.raises(CheckpointError, match=rf"x\.gguf: tensors in {form} are not read; take the file in Q4_K_M"):
        GgufFile.open(path)


def test_other_versions_and_orders_of_bytes_are_refused(tmp_path):
    path = tmp_path / "x.gguf"
    for version in (1, struct.unpack(">I", struct.pack("<I", 3))[0]):
        write_gguf(path, small(), version=version)
        with pytest.raises(CheckpointError, match="expected GGUF version 2 or 3, little-endian"):
            GgufFile.open(path)
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(CheckpointError, match="does not begin with GGUF"):
        GgufFile.open(path)
    write_gguf(path, {"a": ("Q4_K", (2, 128), bytes(144))})
    with pytest.raises(CheckpointError, match="in blocks of 256"):
        GgufFile.open(path)


# Checkpoints


@pytest.fixture(scope="module")
def wide(tiny, tmp_path_factory) -> Path:
    """The tiny checkpoint with flows of 256 channels and one block at 512: blocks of K formats fit their rows."""
    from comfyui_trellis2.trellis2.checkpoint.weights import randomize
    from comfyui_trellis2.trellis2.models import build_model

    folder = shutil.copytree(tiny, tmp_path_factory.mktemp("wide") / "wide")
    generator = torch.Generator().manual_seed(3)
    paths = Checkpoint.open(str(tiny)).config.models
    for role in WIDE:
        file = folder / f"{paths[role]}.json"
        description = json.loads(file.read_text())
        description["args"] |= {"model_channels": 256, "num_blocks": 1}
        file.write_text(json.dumps(description))
        model = build_model(description, role, dtype="float32", device="cpu")
        randomize(model, generator)
        state = {key: value if value.is_complex() else value.bfloat16() for key, value in model.state_dict().items()}
        save_weights(state, folder / f"{paths[role]}.safetensors")
    return folder


def converted(wide: Path, folder: Path, form: str = "Q8_0", tag: str = "Q8_0", rename=lambda key: key) -> Path:
    """`wide` with GGUF files in place of its flows."""
    paths = Checkpoint.open(str(wide)).config.models
    flows = [f"{paths[role]}.safetensors" for role in FLOWS]
    shutil.copytree(wide, folder, ignore=lambda _, names: [n for n in names if f"ckpts/{n}" in flows])
    for role in FLOWS:
        as_gguf(wide / f"{paths[role]}.safetensors", folder / f"{paths[role]}_{tag}.gguf", form, rename)
    return folder


@pytest.fixture(scope="module")
def eight(wide, tmp_path_factory) -> Path:
    return converted(wide, tmp_path_factory.mktemp("gguf") / "eight")


def test_a_folder_whose_flows_are_gguf_files_opens(wide, eight):
    checkpoint = Checkpoint.open(str(eight))
    assert checkpoint.name == "eight Q8_0"
    assert set(checkpoint.config.models) == set(Checkpoint.open(str(wide)).config.models)
    assert checkpoint.layout.files(STRUCTURE) == [eight / f"{FLOW}_Q8_0.gguf"]
    for role in (*FLOWS, "shape_slat_decoder"):
        got, wanted = (Checkpoint.open(str(where)).load_model(role).state_dict() for where in (eight, wide))
        assert {key: value.dtype for key, value in got.items()} == {key: value.dtype for key, value in wanted.items()}
        errors = {key: relative(got[key], wanted[key]) for key in got if not got[key].is_complex()}
        assert max(errors.values()) < WEIGHT_ERROR["Q8_0"], errors
        assert (role in FLOWS) == (max(errors.values()) > 0)


@pytest.mark.parametrize("form", ["Q4_K", "Q5_K", "Q6_K", "BF16", "F32"])
def test_each_quantisation_and_what_is_mixed_in(wide, tmp_path, form):
    path = tmp_path / f"ss_flow_img_dit_1_3B_64_bf16_{form}.gguf"
    as_gguf(wide / f"{FLOW}.safetensors", path, form)
    shutil.copy(wide / f"{FLOW}.json", path.with_name("ss_flow_img_dit_1_3B_64_bf16.json"))
    kinds = {tensor.form for tensor in GgufFile.open(path).tensors.values()}
    assert kinds == ({form, "F32", "F16"} if form in BLOCKS else {form, "F32"})
    got = Checkpoint.open(str(path)).load_model(STRUCTURE).state_dict()
    wanted = Checkpoint.open(str(wide)).load_model(STRUCTURE).state_dict()
    error = max(relative(got[key], wanted[key]) for key in got if not got[key].is_complex())
    assert error == 0 if form in ("BF16", "F32") else 0 < error < WEIGHT_ERROR[form]


@pytest.mark.parametrize("prefix", ["", "model.", "model.diffusion_model."])
def test_key_prefixes_and_aliases(wide, tmp_path, prefix):
    source = wide / f"{FLOW}.safetensors"
    as_gguf(source, tmp_path / "ss_flow_64_Q8_0.gguf", "Q8_0", lambda key: prefix + aliased(key))
    as_gguf(source, tmp_path / "plain" / "ss_flow_64_Q8_0.gguf", "Q8_0")
    for folder in (tmp_path, tmp_path / "plain"):
        shutil.copy(wide / f"{FLOW}.json", folder / "ss_flow_64.json")
    assert any("blk." in name for name in GgufFile.open(tmp_path / "ss_flow_64_Q8_0.gguf").tensors)
    got = Checkpoint.open(str(tmp_path / "plain" / "ss_flow_64_Q8_0.gguf")).load_model(STRUCTURE).state_dict()
    (tmp_path / "plain" / "ss_flow_64_Q8_0.gguf").unlink()
    wanted = Checkpoint.open(str(tmp_path / "ss_flow_64_Q8_0.gguf")).load_model(STRUCTURE).state_dict()
    assert all(torch.equal(got[key], wanted[key]) for key in wanted)


def comfy_prefixes(eight: Path, folder: Path) -> Path:
    """One file with all flows under ComfyUI's prefixes, among files of other models."""
    paths, tensors = Checkpoint.open(str(eight)).config.models, {}
    prefixes = {"sparse_structure_flow_model": "structure_model.", "shape_slat_flow_model_512": "img2shape_512."}
    prefixes |= {"shape_slat_flow_model_1024": "img2shape.", "tex_slat_flow_model_1024": "shape2txt."}
    for role, prefix in prefixes.items():
        for name, tensor in GgufFile.open(eight / "ckpts" / paths[role]).tensors.items():
            raw = tensor.path.read_bytes()[tensor.offset : tensor.offset + tensor.length]
            tensors[f"model.{prefix}{name}"] = (tensor.form, tensor.shape, raw)
    write_gguf(folder / "diffusion_models" / "trellis_2-Q8_0.gguf", tensors)
    write_gguf(folder / "diffusion_models" / "flux-Q8_0.gguf", {"img_in.weight": ("F32", (2, 2), bytes(16))})
    return folder


def assert_same(checkpoint: Checkpoint, folder: Path, role: str) -> None:
    got, wanted = (opened.load_model(role).state_dict() for opened in (checkpoint, Checkpoint.open(str(folder))))
    assert list(got) == list(wanted) and all(torch.equal(got[key], wanted[key]) for key in wanted)


@pytest.fixture
def published(wide, monkeypatch) -> None:
    """The package's published table, of the wide networks' sizes."""
    paths = Checkpoint.open(str(wide)).config.models
    models = {role: json.loads((wide / f"{path}.json").read_text()) for role, path in paths.items()}
    monkeypatch.setattr(layout, "published_models", lambda: models)


def test_a_file_of_comfyuis_folder_takes_the_rest_from_there(wide, eight, published, tmp_path):
    folder, asked = comfy_prefixes(eight, tmp_path / "models"), []

    def download(repository, name, where):
        asked.append((repository, name, where))
        raise MissingFileError(name)

    source = str(folder / "diffusion_models" / "*Q8_0.gguf")
    checkpoint = Checkpoint.open(source, folder, download)
    assert checkpoint.name == "diffusion_models Q8_0"
    assert "tex_slat_flow_model_512" not in checkpoint.config.models
    for role in ("shape_slat_flow_model_512", "tex_slat_flow_model_1024"):
        got, wanted = (
            checkpoint.load_model(role).state_dict(),
            Checkpoint.open(str(eight)).load_model(role).state_dict(),
        )
        assert all(torch.equal(got[key], wanted[key]) for key in wanted)
    with pytest.raises(MissingFileError):
        checkpoint.require(["shape_slat_decoder"])
    assert asked == [("Comfy-Org/TRELLIS.2", "vae/trellis_2_shape_vae_bf16.safetensors", folder)]
    with pytest.raises(MissingFileError, match=r"flow_model_512: none of the files .*trellis_2-Q8_0.* holds it"):
        checkpoint.require(["tex_slat_flow_model_512"])
    with pytest.raises(
        MissingFileError, match=r"(?s)vae/trellis_2_shape_vae\S+ is missing from .*hf download"
    ) as caught:
        Checkpoint.open(source).require(["shape_slat_decoder"])
    assert "trellis_2_bf16" not in str(caught.value) and "clip_vision" in str(caught.value)


def test_folders_that_another_pack_sorts_its_files_into(wide, eight, tmp_path):
    """Aero-Ex/Trellis2-GGUF: flows and decoders in folders of their own, configurations beside them."""
    folder, paths = tmp_path / "Trellis2", Checkpoint.open(str(wide)).config.models
    shutil.copytree(eight, folder, ignore=lambda _, names: [name for name in names if name in ("ckpts", "microsoft")])
    where = {STRUCTURE: "refiner", "sparse_structure_decoder": "decoders/Stage1"}
    for role, path in paths.items():
        kind = "shape" if "img2shape" in path else "texture"
        into = folder / where.get(role, "decoders/Stage2" if role.endswith("decoder") else kind)
        into.mkdir(parents=True, exist_ok=True)
        for file in (eight / path).parent.glob(Path(path).name + "*"):
            shutil.copy(file, into)
    checkpoint = Checkpoint.open(str(folder))
    for role in (STRUCTURE, "tex_slat_flow_model_1024", "sparse_structure_decoder", "shape_slat_decoder"):
        got, wanted = (
            checkpoint.load_model(role).state_dict(),
            Checkpoint.open(str(eight)).load_model(role).state_dict(),
        )
        assert all(torch.equal(got[key], wanted[key]) for key in wanted)


def test_several_quantisations_are_asked_for(eight, wide, tmp_path, monkeypatch):
    folder = shutil.copytree(eight, tmp_path / "both")
    as_gguf(wide / f"{FLOW}.safetensors", folder / f"{FLOW}_Q4_K_M.gguf", "Q4_K")
    with pytest.raises(ConfigError, match=r"several quantisations; choose .*\*Q4_K_M\.gguf or .*\*Q8_0\.gguf"):
        Checkpoint.open(str(folder))
    monkeypatch.chdir(folder.parent)
    for source in (folder / f"{FLOW}_Q4_K_M.gguf", folder / "*Q4_K_M.gguf", f"both/{FLOW}_Q4_K_M.gguf"):
        checkpoint = Checkpoint.open(str(source))
        assert checkpoint.layout.files(STRUCTURE) == [folder / f"{FLOW}_Q4_K_M.gguf"]
        assert set(FLOWS) & set(checkpoint.config.models) == {STRUCTURE}
    for name, message in (("*Q6_K.gguf", "has such a name"), ("none.gguf", "expected a GGUF file")):
        with pytest.raises(MissingFileError, match=message):
            Checkpoint.open(str(folder / name))


def test_safetensors_are_taken_before_gguf_files(wide, tmp_path):
    folder = shutil.copytree(wide, tmp_path / "mixed")
    as_gguf(wide / f"{FLOW}.safetensors", folder / f"{FLOW}_Q8_0.gguf", "Q8_0")
    assert Checkpoint.open(str(folder)).layout.files(STRUCTURE)[1].suffix == ".safetensors"
    mixed = Checkpoint.open(str(folder / "*Q8_0.gguf"))
    assert mixed.layout.files(STRUCTURE)[0].suffix == ".gguf"
    assert mixed.layout.files("tex_slat_flow_model_512")[1].suffix == ".safetensors"


@pytest.mark.parametrize(
    "name, channels, message",
    [
        ("img2shape_Q8_0", 32, "expected 512 or 1024 in its name"),
        ("img2shape_512_Q8_0", 7, "expected a flow of 8, 32 or 64 channels, got 7"),
        ("img2shape_512_Q8_0", None, "expected the keys of TRELLIS.2's flows, got"),
    ],
)
def test_a_file_without_a_role_is_refused(tmp_path, name, channels, message):
    key, shape = ("other.weight", (2, 2)) if channels is None else ("img_in.weight", (4, channels))
    write_gguf(tmp_path / f"{name}.gguf", {key: ("F32", shape, bytes(4 * shape[0] * shape[1]))})
    with pytest.raises(CheckpointError, match=message):
        Checkpoint.open(str(tmp_path / f"{name}.gguf"))


def test_two_files_with_one_flow_are_refused(eight, tmp_path):
    folder = shutil.copytree(eight, tmp_path / "twice")
    shutil.copy(folder / f"{FLOW}_Q8_0.gguf", folder / f"{FLOW}-Q8_0.gguf")
    with pytest.raises(CheckpointError, match="both hold the sparse_structure_flow_model"):
        Checkpoint.open(str(folder))


@pytest.mark.parametrize("quantization", ["int8", "fp8"])
def test_weights_are_quantised_again_as_they_are_read(wide, tmp_path, quantization):
    path = tmp_path / "ss_flow_img_dit_1_3B_64_bf16_Q6_K.gguf"
    as_gguf(wide / f"{FLOW}.safetensors", path, "Q6_K")
    shutil.copy(wide / f"{FLOW}.json", path.with_name("ss_flow_img_dit_1_3B_64_bf16.json"))
    plain = Checkpoint.open(str(path)).load_model(STRUCTURE, dtype="float32")
    names, before = quantizable(plain), plain.state_dict()
    model = Checkpoint.open(str(path), quantization=quantization).load_model(STRUCTURE, dtype="float32")
    error = {"int8": 0.01, "fp8": 0.04}[quantization]
    for name in names:
        layer = model.get_submodule(name)
        assert isinstance(layer, QuantizedLinear) and layer.form.name == quantization and layer.rotation == 0
        got = layer.weight.float() * layer.weight_scale[:, None]
        assert 0 < relative(got, before[f"{name}.weight"]) < error
    after = model.state_dict()
    others = [key for key in before if key.rpartition(".")[0] not in names or key.endswith("bias")]
    assert others and all(torch.equal(after[key], before[key]) for key in others)


@pytest.mark.slow
@pytest.mark.parametrize("form, bound, share", [("Q8_0", 0.02, 0.06), ("Q4_K", 0.2, 0.4)])
def test_a_converted_checkpoint_makes_the_object_of_its_twin(wide, tmp_path, form, bound, share):
    """bound: of the latents' relative error after two steps.  share: of the surface's voxels that differ; a random
    decoder, unlike a trained one, turns on each digit."""
    folder, made = converted(wide, tmp_path / "model", form, form), []
    picture = Image.linear_gradient("L").convert("RGB").resize((48, 48))
    for source in (wide, folder):
        pipeline = Pipeline.load(str(source), KeepLoaded("cpu"), dtype="float32")
        begun = pipeline.starting_from(replace(made[0], shape=None, texture=None)) if made else pipeline
        made.append(begun.sample([[picture]], pipeline_type="512", seed=5, steps=2))
    wanted, got = made
    errors = [
        relative(ours.slat.feats, theirs.slat.feats)
        for ours, theirs in ((got.shape, wanted.shape), (got.texture, wanted.texture))
    ]
    assert 1e-4 < max(errors) < bound, errors
    (ours,), (theirs,) = (pipeline.decode(latents.shape, latents.texture) for latents in (got, wanted))
    assert len(ours.mesh.faces) > 0
    voxels, others = ({tuple(row) for row in asset.field.coords.tolist()} for asset in (ours, theirs))
    assert len(voxels ^ others) < share * len(others), (len(voxels ^ others), len(others))
