"""`trellis2 train` as users run it: another process, worker processes, a kill, and the same losses in the end."""

import csv
import json
import subprocess
import time

import pytest
from comfyui_trellis2.trellis2.cli.main import main


@pytest.fixture
def recipe(toy_data, meshes, tmp_path):
    data = {"source": str(meshes), "cache": str(tmp_path / "objects"), "objects": 3}
    recipe = toy_data(8, ["texture_vae"], data, resolution=32, save_every=2)
    (tmp_path / "toy.json").write_text(json.dumps(recipe), encoding="utf-8")
    return tmp_path / "toy.json"


def losses(run):
    with (run / "texture_vae/metrics.csv").open(newline="") as file:
        return [(row["step"], row["loss"], row["gradient_norm"]) for row in csv.DictReader(file)]


@pytest.mark.slow
def test_a_killed_process_goes_on_to_the_same_losses(recipe, program, tmp_path, capsys):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    assert main(["train", str(recipe), "-o", str(killed), "--objects"]) == 0
    assert len(list((tmp_path / "objects").rglob("*.safetensors"))) == 3
    assert main(["train", str(recipe), "-o", str(whole), "--device", "cpu"]) == 0
    assert len(list((tmp_path / "objects").rglob("*.safetensors"))) == 3
    command = [*program, "train", str(recipe), "-o", str(killed), "--resume", "--set", "data.workers=1"]
    command += ["--device", "cpu"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 120
    while not (killed / "texture_vae/state.safetensors").exists() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    output = process.communicate()[0]
    assert (killed / "texture_vae/state.safetensors").exists(), output
    assert main(["train", str(recipe), "-o", str(killed), "--device", "cpu"]) == 1
    assert "a run is there already; continue it with --resume" in capsys.readouterr().err
    assert main(["train", str(recipe), "-o", str(killed), "--resume", "--device", "cpu"]) == 0
    assert losses(killed) == losses(whole) and len(losses(whole)) == 8
    assert main(["pack", str(whole), "-o", str(tmp_path / "packed")]) == 0
    assert (tmp_path / "packed/ckpts/tex_slat_decoder.safetensors").exists()


def test_what_is_wrong_with_a_recipe_is_one_line(recipe, tmp_path, capsys):
    assert main(["train", str(recipe), "-o", str(tmp_path / "run"), "--set", "stages.texture_vae.rate=1"]) == 1
    assert "stages.texture_vae: unknown keys ['rate']" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
