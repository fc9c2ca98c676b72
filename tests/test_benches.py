"""The benches of whole pipelines, as far as they run without a card: what they write, measure, force and refuse."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from comfyui_trellis2.trellis2.checkpoint.layouts import IMAGE_ENCODER, Checkpoint
from comfyui_trellis2.trellis2.checkpoint.tiny import make_tiny
from comfyui_trellis2.trellis2.checkpoint.weights import read_tensors
from comfyui_trellis2.trellis2.sparse import CoordSet

BENCH = Path(__file__).parent / "bench"


def load(name: str) -> ModuleType:
    """A module of tests/bench, under the name by which the benches import it."""
    spec = importlib.util.spec_from_file_location(name, BENCH / f"{name}.py")
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


surfaces, bench, goals = load("surfaces"), load("bench"), load("goals")
bench_pipeline, bench_batch, bench_load = load("bench_pipeline"), load("bench_batch"), load("bench_load")
DECODER = "sparse_structure_decoder"


@pytest.mark.slow
def test_all_networks_of_a_cascade_and_both_textures_are_16_gb():
    assert set(bench_pipeline.ROLES) <= set(bench_load.ROLES)
    models = [bench_load.described(role)[2] for role in bench_load.ROLES]
    size = sum(tensor.nbytes for model in models for tensor in model.state_dict().values())
    assert 16e9 < size < 16.5e9


@pytest.mark.slow
def test_a_made_checkpoint_opens_as_a_published_one(tmp_path):
    bench_load.make_published(tmp_path, [DECODER])
    checkpoint = Checkpoint.open(str(tmp_path))
    (weights,) = [path for path in checkpoint.layout.files(DECODER) if path.suffix == ".safetensors"]
    stored, model = read_tensors(weights), checkpoint.load_model(DECODER)
    assert sum(tensor.numel() for tensor in stored.values()) == 73_671_201  # as published
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, stored[name])
        assert tensor.abs().max() > 0


def test_the_encoder_s_description_is_read_as_the_published_one(tmp_path):
    _, description, model = bench_load.described(IMAGE_ENCODER)
    assert json.loads(json.dumps(description))["hidden_size"] == 1024
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(303e6, rel=0.01)


def test_what_is_too_small_for_the_weights_is_said(tmp_path, monkeypatch):
    assert bench_load.lacking(tmp_path, 1000) is None
    assert "GB of the disk" in bench_load.lacking(tmp_path, 10**18)
    monkeypatch.setattr(bench_load.shutil, "disk_usage", lambda folder: SimpleNamespace(free=10**19))
    monkeypatch.setattr(bench_load, "host_memory", lambda: SimpleNamespace(free=10**9))
    assert "GB of the main memory, of which 1.0 are free" in bench_load.lacking(tmp_path, 10**9)


@pytest.mark.slow
def test_nothing_is_written_where_there_is_no_room(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench_load.shutil, "disk_usage", lambda folder: SimpleNamespace(free=10**9))
    monkeypatch.setattr(bench_load, "make_published", lambda *_: pytest.fail("it writes"))
    monkeypatch.setattr(sys, "argv", ["bench_load.py", "--folder", str(tmp_path)])
    assert bench_load.main() == 0
    assert "left out: needs 18.0 GB of the disk, of which 1.0 are free" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(bench_load.MainMemory.held() is None, reason="the system does not tell what a process holds")
def test_a_copy_in_main_memory_shows_and_a_mapped_file_does_not(tmp_path):
    size = 64 << 20
    with bench_load.MainMemory() as memory:
        torch.ones(size, dtype=torch.uint8)
    assert 0.9 * size < memory.peak < 1.5 * size
    path = tmp_path / "x"
    path.write_bytes(bytes(size))
    mapped = torch.from_file(str(path), size=size, dtype=torch.uint8, shared=True)
    with bench_load.MainMemory() as memory:
        assert int(mapped[::4096].sum()) == 0
    assert memory.peak < 0.5 * size


@pytest.mark.slow
def test_every_load_begins_without_networks(tmp_path):
    make_tiny(tmp_path)
    pipeline = bench_load.load(tmp_path, bench_load.ROLES)
    assert set(pipeline.networks.loaded) == set(bench_load.ROLES)
    assert all(p.device.type == bench.DEVICE.type for m in pipeline.networks.loaded.values() for p in m.parameters())
    times, _ = bench_load.timed_loads(tmp_path, [DECODER], 3)
    assert times == sorted(times)
    assert len(times) == 3


def test_the_forced_shape_is_the_same_for_all_objects_of_a_batch():
    surface = bench.surface_voxels(64)
    shape = bench_pipeline.ForcedShape.__new__(bench_pipeline.ForcedShape)
    shape.masks, shape.resolution = {}, 64
    latent = shape._coarsened(surface, 4)[-1].voxels
    shape._masks(64, latent)
    blocks = [SimpleNamespace(logits=lambda x: torch.zeros(len(x.coords), 8)) for _ in range(4)]
    coords = CoordSet.from_items([latent] * 3)
    for level, block in enumerate(blocks):
        shape.force(block, level)
        coords = coords.subdivide(block.logits(SimpleNamespace(coords=coords)) > 0).fine
    expected = torch.unique(surface, dim=0)
    for item in coords.voxels.split(coords.lengths):
        assert torch.equal(torch.unique(item, dim=0), expected)
    with pytest.raises(RuntimeError, match="forced shape: expected"):
        blocks[1].logits(SimpleNamespace(coords=coords))


ROW = {"stage": "whole", "type": "1024_cascade", "vram": "high", "variant": "bf16"}


def test_a_batch_is_compared_with_as_many_singles():
    rows = [ROW | {"objects": n, "median_s": s, "peak_gib": g} for n, s, g in ((1, 3.5, 16.6), (4, 10.0, 24.0))]
    text = bench_batch.compared([*rows, rows[0] | {"stage": "decode", "median_s": 0.1}])
    assert "one by one 14.000 s, peak 16.60 GiB; as a batch 10.000 s, peak 24.00 GiB; 1.400 times" in text


def test_a_batch_that_the_memory_does_not_hold_is_left_out(monkeypatch, capsys):
    def run_case(layout, case, runs):
        if case.objects > 1:
            raise torch.OutOfMemoryError("out of memory\nand much more")
        return [ROW | {"median_s": 3.5, "peak_gib": 16.6}]

    monkeypatch.setattr(bench_batch, "run_case", run_case)
    rows = bench_batch.measured(None, bench_pipeline.Case.parse("1024_cascade:high:0"), 4, 1)
    assert [row["objects"] for row in rows] == [1]
    assert "left out: a batch of 4 of 1024_cascade high bf16: out of memory\n" in capsys.readouterr().out
