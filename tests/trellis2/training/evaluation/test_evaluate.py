"""The command: rows as they are done, shards, and what is there is kept."""

import math
from dataclasses import dataclass

import pytest
from comfyui_trellis2.o_voxel.render.camera import Camera
from comfyui_trellis2.trellis2.cli.main import main
from comfyui_trellis2.trellis2.projection.camera import ViewRig
from comfyui_trellis2.trellis2.training.evaluation import evaluate
from comfyui_trellis2.trellis2.training.evaluation.evaluate import Case, Truth, read_rows


@dataclass(frozen=True)
class Named:
    """A case that only has a name."""

    name: str

    def __call__(self) -> Case:
        return Case(self.name, None, None, Camera(0, 35), 22.0)


def test_rows_are_written_as_they_are_done_and_kept(tiny, tmp_path, capsys, monkeypatch):
    path, made = tmp_path / "rows.csv", []
    monkeypatch.setattr(evaluate, "held_out", lambda split, count: [Named(f"mug/{k}") for k in range(count)])
    monkeypatch.setattr(Truth, "of", lambda case, device: None)
    monkeypatch.setattr(evaluate, "shape_vae_score", lambda pipeline, truth: 0.5)
    monkeypatch.setattr(evaluate, "measure", lambda made, truth: dict.fromkeys(evaluate.COLUMNS, 1.0))

    def generate(pipeline, picture, steps, seed, view):
        if len(made) == 4:
            raise KeyboardInterrupt
        made.append(view)

    monkeypatch.setattr(evaluate, "generate", generate)
    common = ["evaluate", str(tiny), "--device", "cpu", "--workers", "0", "-o", str(path)]
    assert main([*common, "--objects", "5", "--shard", "2/2"]) == 0
    assert [row["name"] for row in read_rows(path)] == ["mug/1", "mug/3"] and made == [None, None]
    assert "2 objects, 2 rows" in capsys.readouterr().out
    # The rest, with a camera more, until somebody stops it in the middle of an object.
    assert main([*common, "--objects", "4", "--resume", "--camera", "both"]) == 130
    kept = [("mug/1", "guessed"), ("mug/3", "guessed"), ("mug/0", "guessed"), ("mug/0", "given")]
    assert [(row["name"], row["camera"]) for row in read_rows(path)] == kept
    assert isinstance(made[3], ViewRig) and made[3].fov_deg == 22
    made.clear()
    assert main([*common, "--objects", "2", "--resume", "--camera", "both"]) == 0
    assert len(made) == 1 and len(read_rows(path)) == 5 and math.isclose(read_rows(path)[0]["vae_f_score"], 0.5)


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "a/b"])
def test_a_shard_that_is_none(shard, capsys):
    with pytest.raises(SystemExit):
        main(["evaluate", "mini", "--shard", shard])
    assert "expected I/N with I from 1 to N" in capsys.readouterr().err
