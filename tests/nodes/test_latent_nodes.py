"""Save Latent and Load Latent: names, what the node shows, what is absent, and a texture on a shape from a file."""

from types import SimpleNamespace

import pytest
import torch
from comfyui_trellis2.nodes import host
from comfyui_trellis2.nodes.files.latents import LoadLatent, SaveLatent
from comfyui_trellis2.trellis2.checkpoint.config import SamplerParams
from comfyui_trellis2.trellis2.sparse import SparseTensor
from comfyui_trellis2.trellis2.values import Made, ShapeLatent, SparseStructure, TextureLatent

VOXELS = torch.tensor([[1, 2, 3], [4, 5, 6], [1, 2, 4]], dtype=torch.int32)
PARAMS = SamplerParams(
    steps=12, guidance_strength=7.5, guidance_rescale=0.5, guidance_interval=(0.6, 1.0), rescale_t=3.0
)


def shape(kind=ShapeLatent):
    made = (Made("shape", 42, PARAMS, "mini"),)
    return kind(SparseTensor.from_items([(VOXELS, torch.arange(24.0).reshape(3, 8))]), (512,), ((),), made=made)


def choices():
    return LoadLatent.INPUT_TYPES()["required"]["file"][0]


def test_saved_and_loaded(comfy):
    assert choices() == ["none"]
    saved = SaveLatent().save("latents/cup", shape=shape(), prompt={"1": {}}, extra_pnginfo={"workflow": {"nodes": []}})
    assert saved["result"] == ("latents/cup_00001_.safetensors",)
    assert "shape: mini, seed 42, 12 steps, euler, guidance 7.5" in saved["ui"]["text"]
    SaveLatent().save("latents/cup", structure=SparseStructure((VOXELS,), 32, ((),)))
    assert sorted(choices()) == [f"latents/cup_0000{n}_.safetensors [output]" for n in (1, 2)]
    name = "latents/cup_00001_.safetensors [output]"
    assert LoadLatent.VALIDATE_INPUTS(file=name) is True
    loaded = LoadLatent().load(name)
    structure, latent, texture = loaded["result"]
    assert structure is None and texture is None
    assert torch.equal(latent.slat.feats, shape().slat.feats) and latent.made == shape().made
    assert loaded["ui"]["text"] == saved["ui"]["text"][1:]
    content = (comfy / "latents" / "cup_00001_.safetensors").read_bytes()
    assert b'"prompt"' in content and b'"workflow"' in content


def test_an_absent_output_says_so_where_it_is_connected(comfy, monkeypatch):
    SaveLatent().save("latents/cup", texture=shape(TextureLatent))
    graphs = SimpleNamespace(ExecutionBlocker=lambda message: ("blocked", message))
    monkeypatch.setattr(host.comfyui, "module", {"comfy_execution.graph_utils": graphs}.get)
    monkeypatch.setattr(host, "show_text", lambda lines: None)
    monkeypatch.setattr(host, "progress", lambda: None)
    structure, latent, texture = LoadLatent().load("latents/cup_00001_.safetensors [output]")["result"]
    assert structure == ("blocked", structure[1]) and "it has no structure, only texture" in structure[1]
    assert "it has no shape" in latent[1]
    assert isinstance(texture, TextureLatent)


def test_refusals(comfy, tmp_path):
    with pytest.raises(ValueError, match="connect one of them"):
        SaveLatent().save("latents/cup")
    with pytest.raises(TypeError, match="T2_SHAPE: expected a ShapeLatent"):
        SaveLatent().save("latents/cup", shape=shape(TextureLatent))
    with pytest.raises(ValueError, match="inside ComfyUI's output folder"):
        SaveLatent().save("../cup", shape=shape())
    assert "closed to graphs" in LoadLatent.VALIDATE_INPUTS(file="../secret.safetensors")
    (tmp_path / "input").mkdir()
    (tmp_path / "input" / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}" + bytes(8))
    assert choices() == ["model.safetensors"]
    with pytest.raises(ValueError, match=r"^model\.safetensors: expected a file of Save Latent"):
        LoadLatent().load("model.safetensors")


def test_a_changed_file_is_read_again(comfy):
    SaveLatent().save("latents/cup", shape=shape())
    name = "latents/cup_00001_.safetensors [output]"
    before = LoadLatent.IS_CHANGED(file=name)
    path = comfy / "latents" / "cup_00001_.safetensors"
    path.write_bytes(path.read_bytes() + b"x")
    assert before and LoadLatent.IS_CHANGED(file=name) != before
