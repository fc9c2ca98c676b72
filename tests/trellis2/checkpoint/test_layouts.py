"""Both published layouts, and the image encoder wherever it is: every network loads strictly, or says why not."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from comfyui_trellis2.trellis2.checkpoint import layouts as module
from comfyui_trellis2.trellis2.checkpoint.config import ConfigError
from comfyui_trellis2.trellis2.checkpoint.hub import MissingFileError
from comfyui_trellis2.trellis2.checkpoint.image_models import load_encoder
from comfyui_trellis2.trellis2.checkpoint.layouts import COMFY_ORG, MICROSOFT, Checkpoint
from comfyui_trellis2.trellis2.checkpoint.weights import CheckpointError, read_tensors, save_weights
from comfyui_trellis2.trellis2.models.dino import DinoConfig
from comfyui_trellis2.trellis2.pipeline import Pipeline
from comfyui_trellis2.trellis2.runtime.residency import KeepLoaded
from PIL import Image

DINO = "facebook/dinov3-vitl16-pretrain-lvd1689m"
COMFY_DINO = "clip_vision/dino_v3_vit_l.safetensors"
TIMM = "timm/vit_large_patch16_dinov3.lvd1689m"
SHAPE_512 = "ckpts/slat_flow_img2shape_dit_1_3B_512_bf16"
ENCODER, SHAPE_ENCODER = "shape_slat_encoder", "ckpts/shape_enc_next_dc_f16c32_fp16"
# ComfyUI's names, written again here so that a slip in the package's own table shows.
COMFY_FILES = {
    "diffusion_models/trellis_2_bf16.safetensors": {
        "sparse_structure_flow_model": "model.structure_model.",
        "shape_slat_flow_model_512": "model.img2shape_512.",
        "shape_slat_flow_model_1024": "model.img2shape.",
        "tex_slat_flow_model_1024": "model.shape2txt.",
    },
    "vae/trellis_2_shape_vae_bf16.safetensors": {
        "sparse_structure_decoder": "struct_dec.",
        "shape_slat_decoder": "shape_dec.",
    },
    "vae/trellis_2_texture_vae_bf16.safetensors": {"tex_slat_decoder": "txt_dec."},
}
ROLES = (
    "sparse_structure_flow_model",
    "sparse_structure_decoder",
    "shape_slat_flow_model_512",
    "shape_slat_flow_model_1024",
    "shape_slat_decoder",
    "tex_slat_flow_model_512",
    "tex_slat_flow_model_1024",
    "tex_slat_decoder",
)
COMFY_ROLES = tuple(role for roles in COMFY_FILES.values() for role in roles)
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


def to_timm(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """timm's vit_*_patch16_dinov3_qkvb names, of transformers' names."""
    timm = {}
    for key, value in state.items():
        block, _, last = key.rpartition(".attention.")
        if last in ("k_proj.weight", "v_proj.weight") or key == "embeddings.mask_token":
            continue
        if last == "q_proj.weight":
            parts = [state[f"{block}.attention.{name}_proj.weight"] for name in "qkv"]
            key, value = f"{block}.attn.qkv.weight", torch.cat(parts)
        for theirs, ours in TO_TIMM:
            key = key.replace(theirs, ours)
        timm[key] = value
    return timm


def no_download(repository: str, name: str, folder: Path | None) -> Path:
    raise MissingFileError(f"{name}: the test has no {repository}")


def opened(folder: Path, download=no_download) -> Checkpoint:
    return Checkpoint.open(str(folder), download=download)


def assert_same_weights(got: torch.nn.Module, expected: torch.nn.Module) -> None:
    got, expected = got.state_dict(), expected.state_dict()
    assert list(got) == list(expected)
    assert {key: value.dtype for key, value in got.items()} == {key: value.dtype for key, value in expected.items()}
    assert [key for key in got if not torch.equal(got[key], expected[key])] == []


@pytest.fixture
def copy(tiny, tmp_path) -> Path:
    """A checkpoint that a test may spoil."""
    return shutil.copytree(tiny, tmp_path / "models" / "owner" / "ours")


@pytest.fixture(scope="module")
def encoder_state(tiny) -> dict[str, torch.Tensor]:
    return read_tensors(tiny / DINO / "model.safetensors")


@pytest.fixture(scope="module")
def comfy(tiny, tmp_path_factory, encoder_state) -> Path:
    """The tiny networks in Comfy-Org's layout: all of a kind in one file, told apart by prefix, no position tables."""
    folder = tmp_path_factory.mktemp("comfy") / "models"
    paths = opened(tiny).config.models
    for name, roles in COMFY_FILES.items():
        tensors = {}
        for role, prefix in roles.items():
            state = read_tensors(tiny / f"{paths[role]}.safetensors")
            tensors |= {prefix + key: value for key, value in state.items() if key != "rope_phases"}
        save_weights(tensors, folder / name)
    save_weights(encoder_state | {"naf.image_encoder.0.weight": torch.ones(3)}, folder / COMFY_DINO)
    return folder


@pytest.fixture
def shrunk(tiny, monkeypatch) -> None:
    """The package's published table and encoder, of the tiny networks' sizes."""
    real = module._read_json
    published = real(Path(module.__file__).with_name("published.json"))
    paths = published["pipeline"]["args"]["models"] | published["texturing"]["args"]["models"]
    models = {r: real(tiny / f"{path}.json") for r, path in paths.items()}
    table = published | {"models": models}
    monkeypatch.setattr(module, "_read_json", lambda path: table if path.name == "published.json" else real(path))
    monkeypatch.setattr(module, "VIT_L16", DinoConfig.from_transformers(real(tiny / DINO / "config.json")))


@pytest.mark.parametrize("role", [*ROLES, "image_encoder"])
def test_every_role_of_a_folder_loads_with_its_files_weights(tiny, role):
    checkpoint = opened(tiny)
    model = checkpoint.load_model(role)
    stored = read_tensors(tiny / (f"{checkpoint.config.models.get(role, f'{DINO}/model')}.safetensors"))
    loaded = model.state_dict()
    assert set(loaded) == set(stored)
    assert all(torch.equal(loaded[key], stored[key]) and loaded[key].dtype == stored[key].dtype for key in stored)
    assert not model.training and not any(p.requires_grad or p.is_meta for p in model.parameters())


@pytest.mark.parametrize("role", ROLES)
def test_a_dtype_is_of_the_torso_only(tiny, role):
    published, full = opened(tiny).load_model(role), opened(tiny).load_model(role, dtype="float32")
    half = torch.bfloat16 if "flow" in role else torch.float16
    assert {p.dtype for p in published.parameters()} == {half, torch.float32}
    assert {p.dtype for p in full.parameters()} == {torch.float32}
    for before, after in zip(published.parameters(), full.parameters(), strict=True):
        assert torch.equal(before.float(), after)


def test_a_role_that_is_not_there_is_refused(tiny):
    with pytest.raises(MissingFileError, match=r"tex_slat_encoder: .*tex_slat_decoder"):
        opened(tiny).load_model("tex_slat_encoder")


def test_the_shape_encoder_is_named_in_the_texturing_file(tiny):
    checkpoint = opened(tiny)
    model, stored = checkpoint.load_model(ENCODER), read_tensors(tiny / f"{SHAPE_ENCODER}.safetensors")
    assert type(model).__name__ == "ShapeEncoder"
    assert all(torch.equal(value, stored[key]) for key, value in model.state_dict().items())
    assert ENCODER not in checkpoint.config.models


def test_the_texturing_file_of_a_repository_is_read_when_it_is_needed(tiny):
    asked = []

    def download(repository: str, name: str, folder: Path | None) -> Path:
        asked.append(name)
        return tiny / name

    checkpoint = Checkpoint.open(MICROSOFT, download=download)
    assert asked == ["pipeline.json"]
    checkpoint.require([ENCODER])
    assert asked[1:] == ["texturing_pipeline.json", f"{SHAPE_ENCODER}.json", f"{SHAPE_ENCODER}.safetensors"]


@pytest.mark.parametrize("gone", ["texturing_pipeline.json", f"{SHAPE_ENCODER}.safetensors"])
def test_without_the_shape_encoder_the_message_says_how_to_get_it(copy, gone):
    (copy / gone).unlink()
    with pytest.raises(MissingFileError, match=f"{ENCODER}: .*meshes as input need it.*{gone}") as caught:
        opened(copy).require([ENCODER])
    assert f'hf download {MICROSOFT} {gone} --local-dir "{copy}"' in str(caught.value)


def test_a_texturing_file_of_another_latent_space_is_refused(copy):
    path = copy / "texturing_pipeline.json"
    content = json.loads(path.read_text())
    content["args"]["shape_slat_normalization"]["std"][0] += 1
    path.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=r"expected the shape_slat_normalization of pipeline\.json"):
        opened(copy).require([ENCODER])
    del content["args"]["models"]
    path.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=r"texturing_pipeline.json: .*missing keys \['models'\]"):
        opened(copy).require([ENCODER])


def test_comfy_orgs_files_have_no_shape_encoder(comfy, shrunk):
    with pytest.raises(MissingFileError, match=f"{ENCODER} is not part of {COMFY_ORG}: use {MICROSOFT}$"):
        opened(comfy).require([ENCODER])


@pytest.mark.parametrize("suffix", ["json", "safetensors"])
def test_a_missing_file_is_named_with_folder_repository_and_command(copy, suffix):
    (copy / f"{SHAPE_512}.{suffix}").unlink()
    checkpoint = opened(copy)
    checkpoint.require([role for role in ROLES if role != "shape_slat_flow_model_512"])
    with pytest.raises(MissingFileError) as caught:
        checkpoint.require(list(ROLES))
    command = f'hf download {MICROSOFT} {SHAPE_512}.{suffix} --local-dir "{copy}"'
    assert f"{SHAPE_512}.{suffix} is missing from {copy}" in str(caught.value) and command in str(caught.value)


def test_one_message_lists_every_missing_file(copy, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    gone = [f"{SHAPE_512}.json", f"{SHAPE_512}.safetensors", f"{DINO}/config.json", f"{DINO}/model.safetensors"]
    for name in gone:
        (copy / name).unlink()
    (copy / DINO).rmdir()
    with pytest.raises(MissingFileError) as caught:
        opened(copy).require(["shape_slat_flow_model_512"])
    first, _, listed = str(caught.value).partition("These files of the checkpoint are missing:")
    assert f"{SHAPE_512}.json is missing from {copy}" in first
    assert [line.strip() for line in listed.splitlines() if line] == sorted(gone)


def test_a_missing_file_of_another_repository_is_to_be_had_from_there(copy):
    name = "ckpts/ss_dec_conv3d_16l8_fp16.safetensors"
    (copy / "microsoft/TRELLIS-image-large" / name).unlink()
    with pytest.raises(MissingFileError) as caught:
        opened(copy).require(list(ROLES))
    assert f"hf download microsoft/TRELLIS-image-large {name}" in str(caught.value)


def test_a_folder_without_a_pipeline_is_refused(tmp_path):
    with pytest.raises(MissingFileError, match=f"pipeline.json is missing from .*{MICROSOFT}"):
        opened(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[1, 2]", '{"name": "Trellis2ImageTo3DPipeline"}'])
def test_a_damaged_pipeline_is_refused_by_name(copy, content):
    (copy / "pipeline.json").write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        opened(copy)
    assert str(copy / "pipeline.json") in str(caught.value)


def test_a_damaged_model_description_is_refused_by_name(copy):
    path = copy / f"{SHAPE_512}.json"
    description = json.loads(path.read_text(encoding="utf-8"))
    description["args"]["window_size"] = 8
    path.write_text(json.dumps(description), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        opened(copy).load_model("shape_slat_flow_model_512")
    assert str(path) in str(caught.value) and "window_size" in str(caught.value)


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda state, key: {k: v for k, v in state.items() if k != key}, "missing keys ['{key}']"),
        (lambda state, key: state | {"ema": torch.ones(1)}, "unexpected keys ['ema']"),
        (lambda state, key: state | {key: state[key][:-1]}, "misshapen keys ['{key} "),
    ],
    ids=["missing", "extra", "misshapen"],
)
@pytest.mark.parametrize("role", ["shape_slat_flow_model_512", "shape_slat_decoder", "image_encoder"])
def test_weights_that_do_not_fit_are_refused_by_name(copy, role, spoil, message):
    path = opened(copy).layout.files(role)[1]
    state = {key: value.clone() for key, value in read_tensors(path).items()}
    key = list(state)[-1]
    save_weights(spoil(state, key), path)
    with pytest.raises(CheckpointError) as caught:
        opened(copy).load_model(role)
    assert str(path) in str(caught.value) and message.format(key=key) in str(caught.value)


def test_damaged_weights_are_refused_by_name(copy):
    path = copy / f"{SHAPE_512}.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError) as caught:
        opened(copy).load_model("shape_slat_flow_model_512")
    assert str(path) in str(caught.value)


def test_an_encoder_without_its_first_token_is_refused_by_name(copy, encoder_state):
    path = copy / DINO / "model.safetensors"
    kept = {key: value.clone() for key, value in encoder_state.items() if key != "embeddings.cls_token"}
    save_weights(kept, path)
    with pytest.raises(CheckpointError) as caught:
        opened(copy).load_model("image_encoder")
    assert str(path) in str(caught.value)


def test_an_encoder_of_another_kind_is_refused_by_name(copy):
    path = copy / DINO / "config.json"
    values = json.loads(path.read_text(encoding="utf-8")) | {"hidden_act": "silu"}
    path.write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        opened(copy).load_model("image_encoder")
    assert str(path) in str(caught.value) and "hidden_act" in str(caught.value)


@pytest.mark.parametrize("role", [*COMFY_ROLES, "image_encoder"])
def test_single_files_hold_the_same_networks(tiny, comfy, shrunk, role):
    got = opened(comfy).load_model(role, dtype="float32")
    assert_same_weights(got, opened(tiny).load_model(role, dtype="float32"))
    assert not got.training and not any(p.requires_grad or p.is_meta for p in got.parameters())


def test_single_files_have_the_published_configuration(tiny, comfy):
    ours, published = opened(comfy).config, opened(tiny).config
    assert set(published.models) - set(ours.models) == {"tex_slat_flow_model_512"}
    assert replace(published, models=ours.models) == ours
    assert all(published.models[role] == path for role, path in ours.models.items())


def test_a_role_that_single_files_lack_is_refused(comfy, shrunk):
    with pytest.raises(MissingFileError, match=f"tex_slat_flow_model_512 .*{COMFY_ORG}.*{MICROSOFT}"):
        opened(comfy).load_model("tex_slat_flow_model_512")


def test_a_single_file_without_the_roles_keys_is_refused(comfy, shrunk, tmp_path):
    copy = shutil.copytree(comfy, tmp_path / "models")
    path = copy / "vae/trellis_2_shape_vae_bf16.safetensors"
    tensors = {key: value.clone() for key, value in read_tensors(path).items() if not key.startswith("struct_dec.")}
    save_weights(tensors, path)
    opened(copy).load_model("shape_slat_decoder")
    with pytest.raises(MissingFileError) as caught:
        opened(copy).load_model("sparse_structure_decoder")
    assert str(path) in str(caught.value) and "struct_dec." in str(caught.value)


def test_a_single_file_with_a_wrong_key_is_refused(comfy, shrunk, tmp_path):
    copy = shutil.copytree(comfy, tmp_path / "models")
    path = copy / "vae/trellis_2_texture_vae_bf16.safetensors"
    tensors = {key: value.clone() for key, value in read_tensors(path).items()}
    save_weights(tensors | {"txt_dec.ema": torch.ones(1)}, path)
    with pytest.raises(CheckpointError, match=r"txt_dec\.\*.*unexpected keys \['ema'\]"):
        opened(copy).load_model("tex_slat_decoder")


def test_a_missing_single_file_is_named_with_folder_repository_and_command(comfy, shrunk, tmp_path):
    copy = shutil.copytree(comfy, tmp_path / "models")
    name = "vae/trellis_2_texture_vae_bf16.safetensors"
    (copy / name).unlink()
    with pytest.raises(MissingFileError) as caught:
        opened(copy).load_model("tex_slat_decoder")
    assert f'hf download {COMFY_ORG} {name} --local-dir "{copy}"' in str(caught.value)


def test_comfy_orgs_repository_downloads_only_what_is_used(comfy, shrunk):
    asked = []

    def download(repository: str, name: str, folder: Path | None) -> Path:
        asked.append((repository, name, folder))
        return comfy / name

    checkpoint = Checkpoint.open(COMFY_ORG, download=download)
    assert asked == []
    checkpoint.load_model("shape_slat_decoder")
    assert set(asked) == {(COMFY_ORG, "vae/trellis_2_shape_vae_bf16.safetensors", None)}


@pytest.mark.slow
def test_both_layouts_make_the_same_object(tiny, comfy, shrunk):
    picture = Image.linear_gradient("L").convert("RGB").resize((48, 48))
    made = []
    for folder in (tiny, comfy):
        pipeline = Pipeline(opened(folder), KeepLoaded("cpu"), dtype="float32")
        made += pipeline.run([[picture]], pipeline_type="1024", seed=5, steps=1)
    ours, theirs = made
    assert len(ours.mesh.faces) > 0
    assert torch.equal(ours.field.coords, theirs.field.coords) and torch.equal(ours.mesh.faces, theirs.mesh.faces)
    # Equal to rounding only: a matrix product's last digits depend on where in memory its weights begin.
    torch.testing.assert_close(ours.mesh.vertices, theirs.mesh.vertices, atol=1e-6, rtol=0)
    torch.testing.assert_close(ours.field.attrs, theirs.field.attrs, atol=1e-3, rtol=0)


@pytest.mark.parametrize("layout", ["transformers", "comfy", "timm"])
def test_the_encoder_loads_from_every_key_layout(tiny, tmp_path, encoder_state, layout):
    state = dict(encoder_state)
    if layout == "comfy":
        state["naf.image_encoder.0.weight"] = torch.ones(3)
    if layout == "timm":
        state = to_timm(state)
        assert "blocks.1.attn.qkv.weight" in state and "embeddings.cls_token" not in state
    save_weights(state, tmp_path / "encoder.safetensors")
    values = json.loads((tiny / DINO / "config.json").read_text(encoding="utf-8"))
    loaded = load_encoder(tmp_path / "encoder.safetensors", DinoConfig.from_transformers(values)).state_dict()
    # timm leaves out the mask token, which only pretraining uses.
    compared = [key for key in encoder_state if layout != "timm" or key != "embeddings.mask_token"]
    assert set(loaded) == set(encoder_state)
    assert all(torch.equal(loaded[key], encoder_state[key]) for key in compared)


def without_encoder(copy: Path) -> Path:
    shutil.rmtree(copy / "facebook")
    return copy


def test_the_encoder_beside_the_folder_is_taken_before_any_download(copy):
    shutil.move(copy / "facebook" / Path(DINO).name, copy.parent / Path(DINO).name)
    place = copy.parent / Path(DINO).name
    assert opened(without_encoder(copy)).layout.files("image_encoder") == [
        place / "config.json",
        place / "model.safetensors",
    ]


@pytest.mark.parametrize("first", [DINO, COMFY_ORG, TIMM])
def test_ungated_copies_of_the_encoder_are_tried_in_order(copy, tmp_path, encoder_state, shrunk, first):
    save_weights(encoder_state, tmp_path / "hub" / "transformers.safetensors")
    save_weights(to_timm(encoder_state), tmp_path / "hub" / "timm.safetensors")
    shutil.copy(copy / DINO / "config.json", tmp_path / "hub" / "config.json")
    order = [DINO, COMFY_ORG, TIMM]
    available = {
        (DINO, "config.json"): "config.json",
        (DINO, "model.safetensors"): "transformers.safetensors",
        (COMFY_ORG, COMFY_DINO): "transformers.safetensors",
        (TIMM, "model.safetensors"): "timm.safetensors",
    }
    asked = []

    def download(repository: str, name: str, folder: Path | None) -> Path:
        asked.append(repository)
        if order.index(repository) < order.index(first):
            raise MissingFileError(f"{name}: {repository} is gated")
        return tmp_path / "hub" / available[repository, name]

    model = opened(without_encoder(copy), download).load_model("image_encoder")
    assert list(dict.fromkeys(asked)) == order[: order.index(first) + 1]
    assert torch.equal(model.embeddings.cls_token, encoder_state["embeddings.cls_token"])


def test_a_gated_half_of_the_encoder_is_passed_over_whole(copy, tmp_path, encoder_state, shrunk):
    save_weights(encoder_state, tmp_path / "encoder.safetensors")
    config = Path(shutil.copy(copy / DINO / "config.json", tmp_path / "config.json"))

    def download(repository: str, name: str, folder: Path | None) -> Path:
        if (repository, name) == (DINO, "config.json"):
            return config
        if repository == COMFY_ORG:
            return tmp_path / "encoder.safetensors"
        raise MissingFileError("gated")

    assert opened(without_encoder(copy), download).layout.files("image_encoder") == [tmp_path / "encoder.safetensors"]


def test_without_any_encoder_every_source_is_named(copy):
    with pytest.raises(MissingFileError) as caught:
        opened(without_encoder(copy)).load_model("image_encoder")
    places = [str(caught.value).find(name) for name in (DINO, COMFY_ORG, TIMM)]
    assert -1 not in places and places == sorted(places)


def test_an_encoder_that_is_not_in_any_repository_is_refused(copy):
    data = json.loads((copy / "pipeline.json").read_text(encoding="utf-8"))
    data["args"]["image_cond_model"]["args"]["model_name"] = "dinov3"
    (copy / "pipeline.json").write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises((MissingFileError, ConfigError), match="dinov3"):
        opened(copy).load_model("image_encoder")
