"""The batch command for real, on a tiny checkpoint: generate's bytes, broken pictures, kills, processes."""

import csv
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from comfyui_trellis2.trellis2.batch import ray_workers
from comfyui_trellis2.trellis2.batch.finish import camera_search
from comfyui_trellis2.trellis2.batch.rows import RowOptions, read_rows
from comfyui_trellis2.trellis2.batch.worker import BatchStoppedError, Worker
from comfyui_trellis2.trellis2.checkpoint.tiny import FEW_FACES, make_tiny
from comfyui_trellis2.trellis2.cli.main import main
from comfyui_trellis2.trellis2.pipeline import Pipeline
from PIL import Image

ROOT = Path(__file__).resolve().parents[3]
CHILD = """
import importlib, sys, types
pack = types.ModuleType("trellis2_child")
pack.__path__ = [sys.argv.pop(1)]
sys.modules[pack.__name__] = pack
sys.exit(importlib.import_module("trellis2_child.trellis2.cli.main").main())
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A tiny checkpoint whose surfaces have few voxels."""
    return make_tiny(tmp_path_factory.mktemp("models") / "small", size=FEW_FACES)


@pytest.fixture
def pictures(tmp_path):
    """Two pictures of three discs that can be made, and two that are broken."""
    folder = tmp_path / "in"
    folder.mkdir()
    y, x = np.mgrid[0:96, 0:96]
    for number, radius in enumerate((20, 30, 40)):
        inside = np.hypot(y - 48, x - 48) < radius
        picture = Image.fromarray(np.where(inside[..., None], (200, 40, 60 * number), 0).astype(np.uint8))
        picture.putalpha(Image.fromarray((255 * inside).astype(np.uint8)))
        picture.save(folder / f"disc{number}.png")
    (folder / "broken.png").write_bytes(b"no picture")
    (folder / "half.png").write_bytes((folder / "disc0.png").read_bytes()[:200])
    return folder


def arguments(pictures, out, model, *more):
    return ["batch", str(pictures), "-o", str(out), "--model", str(model), "--resolution", "512", "--steps", "1", *more]


def table(out):
    with (out / "results.csv").open(newline="", encoding="utf-8") as file:
        return {line["file"]: line for line in csv.DictReader(file)}


@pytest.mark.slow
def test_a_batch_is_resumed_after_a_kill_and_has_the_bytes_of_generate(pictures, tmp_path, model, capsys):
    out = tmp_path / "out"
    command = arguments(pictures, out, model, "--device", "cpu")
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(ROOT), *command], stderr=subprocess.DEVNULL)
    while child.poll() is None and not (out / "disc0.glb").is_file():
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
    child.wait()
    kept = (out / "disc0.glb").stat().st_mtime_ns
    assert not (out / "disc2.glb").is_file()

    assert main(command) == 1
    said = capsys.readouterr().out
    assert "3 of 5 made" in said and "2 failed" in said and "broken.png: expected a picture" in said
    found = table(out)
    assert [found[name]["status"] for name in ("broken.glb", "half.glb")] == ["failed"] * 2
    assert sorted(path.name for path in out.iterdir()) == ["disc0.glb", "disc1.glb", "disc2.glb", "results.csv"]
    if found["disc0.glb"]["finished"] < found["disc1.glb"]["finished"]:  # its line was written before the kill
        assert kept <= (out / "disc0.glb").stat().st_mtime_ns

    one = tmp_path / "one.glb"
    single = ["generate", str(pictures / "disc1.png"), "-o", str(one), *command[4:]]
    assert main(single) == 0
    assert one.read_bytes() == (out / "disc1.glb").read_bytes()
    assert int(found["disc1.glb"]["bytes"]) == one.stat().st_size

    spread = tmp_path / "spread"
    assert main(arguments(pictures, spread, model, "--device", "cpu,cpu")) == 1
    for name in ("disc0.glb", "disc1.glb", "disc2.glb"):
        assert (spread / name).read_bytes() == (out / name).read_bytes()


@pytest.mark.slow
def test_ray_makes_the_same_bytes(pictures, tmp_path, model, monkeypatch):
    """With as many threads as here, since torch's sums on a CPU follow their number."""
    pytest.importorskip("ray")
    monkeypatch.setattr(ray_workers, "threads", lambda ray: torch.get_num_threads())
    one, cluster = tmp_path / "one", tmp_path / "cluster"
    assert main(arguments(pictures, one, model, "--device", "cpu")) == 1
    assert main(arguments(pictures, cluster, model, "--device", "cpu", "--ray", "--workers", "2")) == 1
    for name in ("disc0.glb", "disc1.glb", "disc2.glb"):
        assert (cluster / name).read_bytes() == (one / name).read_bytes()
    assert table(cluster)["broken.glb"]["error"] == table(one)["broken.glb"]["error"]


@pytest.fixture
def worker(model):
    made = Worker(Pipeline.load(str(model)), {})
    yield made
    made.close()


def test_a_cancel_is_no_failure_of_the_row(pictures, tmp_path, worker):
    class Cancelled(Exception):
        pass

    def cancel(fraction):
        raise Cancelled

    row = read_rows(pictures, RowOptions())[1]
    with pytest.raises(Cancelled):
        worker.make(row, tmp_path, progress=cancel)
    assert not list(tmp_path.glob("*.glb"))


def test_a_full_disk_stops_the_batch(pictures, tmp_path, worker, monkeypatch):
    def full(*given, **named):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(worker, "_make", full)
    with pytest.raises(BatchStoppedError, match="No space left on device"):
        worker.make(read_rows(pictures, RowOptions())[1], tmp_path)


def test_what_goes_wrong_inside_is_the_rows_error(pictures, tmp_path, worker, monkeypatch):
    monkeypatch.setattr(worker, "_make", lambda *given: 1 / 0)
    result = worker.make(read_rows(pictures, RowOptions())[1], tmp_path)
    assert (result.status, result.error) == ("failed", "ZeroDivisionError: division by zero")
    assert result.input_sha256 and result.finished


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--workers", "2"), "--workers: expected --ray too"),
        (("--device", "abacus"), "--device abacus: expected one that"),
        (("--resolution", "4096"), "invalid choice"),
        (("--sampler", "heun", "--step-cache"), "step_cache: expected sampler euler"),
        (("--project-picture",), "project_picture: expected a preset too"),
    ],
)
def test_faults_are_said_before_anything_is_made(pictures, tmp_path, model, capsys, more, words):
    try:
        status = main(arguments(pictures, tmp_path / "out", model, *more))
    except SystemExit as stop:
        status = stop.code
    assert status == 1 and words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_ray_is_asked_for_only_when_it_is_wanted(pictures, tmp_path, model, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(arguments(pictures, tmp_path / "out", model, "--device", "cpu", "--ray")) == 1
    assert "pip install ray" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("projects", "crop", "views", "near"), [(0, None, 1, None), (1, None, 1, 0), (0, 1, 1, 0), (0, 1, 2, None)]
)
def test_an_object_that_faces_its_picture_is_looked_for_from_there(projects, crop, views, near):
    config = SimpleNamespace(projects=bool(projects), crop=crop)
    assert camera_search(config, views).near_yaw_deg == near
