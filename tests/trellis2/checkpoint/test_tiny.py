"""The tiny random checkpoint: the published files, a few megabytes, the same bytes for a seed."""

import json
from pathlib import Path

import pytest
import torch
from comfyui_trellis2.trellis2.checkpoint import tiny as module
from comfyui_trellis2.trellis2.checkpoint.tiny import make_tiny
from comfyui_trellis2.trellis2.checkpoint.weights import read_tensors

PUBLISHED = (
    "ckpts/ss_flow_img_dit_1_3B_64_bf16",
    "ckpts/slat_flow_img2shape_dit_1_3B_512_bf16",
    "ckpts/slat_flow_img2shape_dit_1_3B_1024_bf16",
    "ckpts/shape_dec_next_dc_f16c32_fp16",
    "ckpts/slat_flow_imgshape2tex_dit_1_3B_512_bf16",
    "ckpts/slat_flow_imgshape2tex_dit_1_3B_1024_bf16",
    "ckpts/tex_dec_next_dc_f16c32_fp16",
    "ckpts/shape_enc_next_dc_f16c32_fp16",
    "microsoft/TRELLIS-image-large/ckpts/ss_dec_conv3d_16l8_fp16",
)
ENCODER = "facebook/dinov3-vitl16-pretrain-lvd1689m"


def contents(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture(scope="module")
def files(tiny) -> dict[str, bytes]:
    return contents(tiny)


def test_it_has_the_published_files_and_no_others(files):
    expected = {f"{name}.{suffix}" for name in PUBLISHED for suffix in ("json", "safetensors")}
    expected |= {"pipeline.json", "texturing_pipeline.json"}
    assert set(files) == expected | {f"{ENCODER}/config.json", f"{ENCODER}/model.safetensors"}


def test_it_is_small(files):
    assert 1e6 < sum(map(len, files.values())) < 8e6


def test_the_pipeline_is_the_published_one(files):
    published = json.loads(Path(module.__file__).with_name("published.json").read_text(encoding="utf-8"))
    assert json.loads(files["pipeline.json"]) == published["pipeline"]
    assert json.loads(files["texturing_pipeline.json"]) == published["texturing"]
    models = published["pipeline"]["args"]["models"] | published["texturing"]["args"]["models"]
    assert set(models.values()) == set(PUBLISHED)
    for role, path in models.items():
        ours, theirs = json.loads(files[f"{path}.json"]), published["models"][role]
        assert ours["name"] == theirs["name"] and set(ours["args"]) == set(theirs["args"])
        kept = ("resolution", "in_channels", "out_channels", "latent_channels", "pe_mode", "dtype", "use_fp16")
        assert [ours["args"].get(key) for key in kept] == [theirs["args"].get(key) for key in kept]


@pytest.mark.parametrize("name", PUBLISHED)
def test_weights_are_finite_and_of_the_published_types(tiny, name):
    tensors = read_tensors(tiny / f"{name}.safetensors")
    half = torch.bfloat16 if "flow" in name else torch.float16
    dtypes = {half, torch.float32, torch.complex64} if "ss_flow" in name else {half, torch.float32}
    assert {value.dtype for value in tensors.values()} == dtypes
    assert all(bool(torch.isfinite(torch.view_as_real(v) if v.is_complex() else v).all()) for v in tensors.values())


def test_the_same_seed_writes_the_same_bytes(files, tmp_path):
    assert make_tiny(tmp_path / "again") == tmp_path / "again"
    assert contents(tmp_path / "again") == files


def test_another_seed_writes_other_weights_in_the_same_files(files, tmp_path):
    other = contents(make_tiny(tmp_path / "other", seed=1))
    assert set(other) == set(files)
    assert {name for name in files if other[name] == files[name]} == {name for name in files if name.endswith(".json")}


def test_the_global_random_stream_neither_matters_nor_moves(files, tmp_path):
    torch.rand(3)
    before = torch.get_rng_state()
    assert contents(make_tiny(tmp_path / "again")) == files
    assert torch.equal(before, torch.get_rng_state())
