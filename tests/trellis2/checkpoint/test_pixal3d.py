"""Pixal3D's published files: their keys, shapes and dtypes, and which files a checkpoint is made of."""

import json

import pytest
import torch
from comfyui_trellis2.trellis2.capabilities import Capabilities
from comfyui_trellis2.trellis2.checkpoint import config, image_models, pixal3d
from comfyui_trellis2.trellis2.checkpoint.hub import MissingFileError
from comfyui_trellis2.trellis2.checkpoint.layouts import COMFY_ORG, IMAGE_ENCODER, IMAGE_UPSAMPLER, Checkpoint
from comfyui_trellis2.trellis2.checkpoint.tiny import make_tiny_pixal3d
from comfyui_trellis2.trellis2.checkpoint.weights import CheckpointError, load_weights, save_weights
from comfyui_trellis2.trellis2.models import build_model
from comfyui_trellis2.trellis2.models.naf import NafConfig, NafUpsampler

# Role -> parameters, bytes of the published file, keys; the files are float32, with a header of at most 100 kB.
FLOWS = {
    "sparse_structure_flow_model": (1_339_411_976, 5_359_822_584, 701),
    "shape_slat_flow_model_512": (1_386_671_648, 5_546_764_048, 700),
    "shape_slat_flow_model_1024": (1_386_671_648, 5_546_764_048, 700),
    "tex_slat_flow_model_1024": (1_386_720_800, 5_546_960_656, 700),
}
HEADER = 100_000
GOLDEN = {
    "sparse_structure_flow_model": "gen/ss_flow_img_dit_1_3B_64_bf16:denoiser",
    "shape_slat_flow_model_512": "gen/slat_flow_img2shape_dit_1_3B_512_bf16:denoiser",
    "shape_slat_flow_model_1024": "gen/slat_flow_img2shape_dit_1_3B_512_bf16_ft1024:denoiser",
    "tex_slat_flow_model_1024": "gen/slat_flow_imgshape2tex_dit_1_3B_512_bf16_ft1024:denoiser",
}
DTYPES = {"F32": torch.float32, "C64": torch.complex64}

flows = pytest.mark.parametrize("role", FLOWS)


@pytest.fixture(scope="module")
def published():
    path = pixal3d.Path(pixal3d.__file__).with_name("published.json")
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return make_tiny_pixal3d(tmp_path_factory.mktemp("models") / "owner" / "tiny")


def trellis2_keys(golden, role):
    """TRELLIS.2's keys and shapes of a role, from the reference's list."""
    models = json.loads(golden("state_dict_full.json").read_text())["models"]
    table = models[GOLDEN[role]]
    while "$same_as" in table:
        table = models[table["$same_as"]]
    return table


def pixal3d_keys(golden, role):
    """Those of Pixal3D: the attention to the image has a module of its own, beside the linear layer."""
    keys = {}
    for key, (shape, dtype) in trellis2_keys(golden, role).items():
        keys[key.replace(".cross_attn.", ".cross_attn.cross_attn_block.")] = shape, dtype
    width = 1024 if role.startswith("sparse") else 2048
    for block in range(30):
        keys[f"blocks.{block}.cross_attn.proj_linear.weight"] = [1536, width], "F32"
        keys[f"blocks.{block}.cross_attn.proj_linear.bias"] = [1536], "F32"
    return keys


@flows
def test_published_flows_load_strictly(golden, published, role):
    parameters, size, count = FLOWS[role]
    model = build_model(pixal3d.description_of(published["models"][role]), role)
    keys = pixal3d_keys(golden, role)
    assert len(keys) == len(model.state_dict()) == count
    assert sum(p.numel() for p in model.parameters()) == parameters
    # As stored: float32 under a bfloat16 name, and the table of rotations as complex numbers.
    stored = {
        key: torch.empty(shape, dtype=torch.complex64 if dtype == "C64" else torch.float32, device="meta")
        for key, (shape, dtype) in keys.items()
    }
    assert 0 < size - sum(tensor.nbytes for tensor in stored.values()) < HEADER
    load_weights(model, stored, role)
    torso = model.blocks[0].cross_attn
    assert torso.proj_linear.weight.dtype == torso.cross_attn_block.to_q.weight.dtype == torch.bfloat16
    assert model.out_layer.weight.dtype == torch.float32
    without = {key: value for key, value in stored.items() if key != "blocks.7.cross_attn.proj_linear.bias"}
    with pytest.raises(CheckpointError, match=r"missing keys \['blocks.7.cross_attn.proj_linear.bias'\]"):
        load_weights(build_model(pixal3d.description_of(published["models"][role]), role), without, role)
    plain = build_model(published["models"][role], role)
    with pytest.raises(CheckpointError, match="missing keys"):
        load_weights(plain, stored, role)


def test_decoders_are_those_of_trellis2(published):
    for role in ("shape_slat_decoder", "tex_slat_decoder", "sparse_structure_decoder"):
        assert pixal3d.description_of(published["models"][role]) == published["models"][role]
    pipeline = config.parse_pipeline(pixal3d.pipeline_of(published["pipeline"]), "here")
    theirs = config.parse_pipeline(published["pipeline"], "there")
    assert pipeline.projects and not theirs.projects
    assert set(theirs.models) - set(pipeline.models) == {"tex_slat_flow_model_512"}
    assert pipeline.shape_slat_normalization == theirs.shape_slat_normalization


def test_the_upsampler_has_the_published_size():
    model = NafUpsampler(NafConfig())
    state = model.state_dict()
    assert (len(state), sum(p.numel() for p in model.parameters())) == (37, 662_528)
    assert all(key.startswith("image_encoder.") for key in state)
    assert state["image_encoder.rope.periods"].shape == (16,)
    torch.testing.assert_close(state["image_encoder.rope.periods"][1], torch.tensor(100 ** (2 / 32)))


@pytest.mark.parametrize(
    ("source", "flow", "pipeline"),
    [
        ("Comfy-Org/Pixal3D", "pixal3d", None),
        ("Comfy-Org/Pixal3D:multiview", "pixal3d_multiview", None),
        ("TencentARC/Pixal3D", None, "pipeline.json"),
        ("TencentARC/Pixal3D:multiview", None, "pipeline_mv.json"),
    ],
)
def test_what_is_downloaded(tmp_path, tiny, source, flow, pipeline):
    asked = []

    def download(repository, name, folder):
        asked.append((repository, name))
        if pipeline == name:
            return tiny / name
        raise MissingFileError(name)

    for quantization, form in (("none", "bf16"), ("int8", "int8_convrot")):
        asked.clear()
        checkpoint = Checkpoint.open(source, tmp_path, download, quantization=quantization)
        assert checkpoint.name == source and checkpoint.config.projects
        for role in ("shape_slat_flow_model_512", IMAGE_UPSAMPLER):
            with pytest.raises(MissingFileError):
                checkpoint.require([role])
        encoder = ("Comfy-Org/Pixal3D", "clip_vision/dino_v3_L_naf_fp32.safetensors")
        assert asked[-1] == encoder
        if flow is not None:
            assert asked[0] == ("Comfy-Org/Pixal3D", f"diffusion_models/{flow}_{form}.safetensors")
        else:
            assert asked[:2] == [
                ("TencentARC/Pixal3D", pipeline),
                ("TencentARC/Pixal3D", "ckpts/slat_flow_img2shape_dit_1_3B_512_bf16.json"),
            ]


def test_a_folder_is_told_by_its_keys(tmp_path):
    folder = tmp_path / "diffusion_models"
    prefix = "model.structure_model."
    for name, key, projects in (
        ("trellis_2_bf16", "blocks.0.cross_attn.to_q.weight", False),
        ("trellis_2_bf16", pixal3d.PROJECTS, True),
        ("pixal3d_int8_convrot", pixal3d.PROJECTS, True),
        ("pixal3d_multiview_bf16", pixal3d.PROJECTS, True),
    ):
        path = folder / f"{name}.safetensors"
        save_weights({prefix + key: torch.zeros(2, 2)}, path)
        checkpoint = Checkpoint.open(str(tmp_path))
        assert checkpoint.config.projects is projects
        assert Capabilities.of(checkpoint.config).projects is projects
        assert checkpoint.layout.files("sparse_structure_flow_model") == [path]
        expected = "dino_v3_L_naf_fp32" if projects else "dino_v3_vit_l"
        assert f"clip_vision/{expected}.safetensors" in checkpoint.layout.missing()
        path.unlink()
    assert pixal3d.projects(tmp_path / "absent") is False


def test_the_upsampler_of_an_encoder_file(tmp_path, tiny):
    checkpoint = Checkpoint.open(str(tiny))
    own = checkpoint.load_model(IMAGE_UPSAMPLER)
    both = {f"naf.{key}": value for key, value in own.state_dict().items()} | {"embeddings.cls_token": torch.zeros(1)}
    save_weights(both, tmp_path / "both.safetensors")
    loaded = image_models.load_upsampler(tmp_path / "both.safetensors")
    for key, value in own.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value)
    save_weights({"embeddings.cls_token": torch.zeros(1)}, tmp_path / "encoder.safetensors")
    with pytest.raises(CheckpointError, match=r"take clip_vision/dino_v3_L_naf_fp32.safetensors of Comfy-Org/Pixal3D"):
        image_models.load_upsampler(tmp_path / "encoder.safetensors")


def test_a_folder_without_the_upsampler_finds_comfy_orgs(tmp_path, tiny):
    folder = tmp_path / "trellis2" / "TencentARC" / "Pixal3D"
    folder.mkdir(parents=True)
    (folder / "pipeline.json").write_bytes((tiny / "pipeline.json").read_bytes())
    both = tmp_path / "clip_vision" / "dino_v3_L_naf_fp32.safetensors"
    both.parent.mkdir()
    both.touch()
    checkpoint = Checkpoint.open(str(folder))
    assert checkpoint.layout.files(IMAGE_UPSAMPLER) == [both]
    assert checkpoint.layout.files(IMAGE_ENCODER) == [both]
    # TRELLIS.2's checkpoints have none.
    plain = Checkpoint.open(COMFY_ORG, download=None)
    with pytest.raises(MissingFileError, match=r"image_upsampler is not part of Comfy-Org/TRELLIS.2"):
        plain.require([IMAGE_UPSAMPLER])


def test_its_capabilities(tiny):
    found = Capabilities.of(Checkpoint.open(str(tiny)).config)
    assert found.pipeline_types == ["1024_cascade", "1536_cascade"]
    for name in ("512", "1024", "2048_cascade"):
        with pytest.raises(ValueError, match=r"only for \['1024_cascade', '1536_cascade'\]"):
            found.check_type(name)
    found.check_structure(32)
    with pytest.raises(ValueError, match=r"grid 64: .*only on 32"):
        found.check_structure(64)
    found.check_cascade(1536)
    with pytest.raises(ValueError, match="resolution 2048: Pixal3D checkpoints sample up to 1536"):
        found.check_cascade(2048)
    with pytest.raises(ValueError, match="no texture network for it, only for 1024 and more"):
        found.check_texture(512)


def test_both_pipeline_files_of_the_tiny_one(tiny):
    one, several = (Checkpoint.open(f"{tiny}{end}") for end in ("", pixal3d.MULTIVIEW))
    assert one.config == several.config
    assert one.config.projects
