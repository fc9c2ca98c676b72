"""The model card: every figure in it is one of the rows, the recipe or the files."""

import math
import shutil

import pytest
from comfyui_trellis2.trellis2.cli.main import main
from comfyui_trellis2.trellis2.training.evaluation.evaluate import by_camera, means, read_rows, table, write_rows
from comfyui_trellis2.trellis2.training.world import HELD_OUT_FAMILIES

WHOLE = {"open_edges": 0.02, "non_manifold": 0.01, "components": 3}
NOTHING = dict.fromkeys(("delta_e", *WHOLE), math.nan)
ROWS = [
    {"name": "mug/1", "structure_iou": 0.8125, "f_score": 0.9, "delta_e": 11.5, "vae_f_score": 0.97, "problem": ""}
    | WHOLE,
    {"name": "bed/1", "structure_iou": 0, "f_score": 0, "vae_f_score": 0.95, "problem": "empty"} | NOTHING,
]


@pytest.fixture
def rows(tmp_path):
    write_rows(tmp_path / "rows.csv", [{**row, "seconds": 1.5} for row in ROWS])
    return tmp_path / "rows.csv"


def test_rows_are_read_as_they_were_written(rows, tmp_path):
    found = read_rows(rows)
    assert [row["name"] for row in found] == ["mug/1", "bed/1"] and math.isnan(found[1]["delta_e"])
    assert means(found) == means(ROWS)
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="expected the rows of"):
        read_rows(tmp_path / "other.csv")


def test_rows_are_added_in_place_and_one_that_was_cut_off_is_passed_over(rows):
    before, inode = rows.read_bytes(), rows.stat().st_ino
    write_rows(rows, [{**ROWS[0], "name": "mug/2", "problem": "two\nlines", "seconds": 1.0}], add=True)
    after = rows.read_bytes()
    assert after.startswith(before) and rows.stat().st_ino == inode
    assert [row["name"] for row in read_rows(rows)] == ["mug/1", "bed/1", "mug/2"]
    for end in range(len(before), len(after)):  # where a kill may leave it; the last column is a text
        rows.write_bytes(after[:end])
        found = read_rows(rows)
        assert [row["name"] for row in found[:2]] == ["mug/1", "bed/1"]
        assert [(row["name"], row["delta_e"]) for row in found[2:]] in ([], [("mug/2", 11.5)])


def test_a_row_for_each_camera(rows, tmp_path):
    given = [{**row, "camera": "given", "structure_iou": 0.5, "seconds": 1.0} for row in ROWS]
    write_rows(rows, given, add=True)
    found = by_camera(read_rows(rows))
    assert [len(own) for own in found.values()] == [2, 2] and list(found) == ["guessed", "given"]
    assert [means(own)["structure_iou"] for own in found.values()] == [0.40625, 0.5]
    odd = [{**ROWS[0], "components": count} for count in (1, 2, 90)]
    assert means(odd)["components"] == 2
    text = table(read_rows(rows))
    assert "camera guessed" in text and "2 objects, 4 rows, of which 2 could not be made" in text


def test_the_card_tells_what_the_files_and_the_rows_say(tiny, rows, tmp_path, capsys):
    checkpoint = tmp_path / "small"
    shutil.copytree(tiny, checkpoint)
    assert main(["card", str(checkpoint), "--instances", str(rows), "--families", str(rows)]) == 0
    text = (checkpoint / "README.md").read_text(encoding="utf-8")
    assert text.startswith("# small: a small TRELLIS.2\n") and "$" not in text
    assert "| structure IoU at 32^3 | ≥ 0.75 | 0.406 | 0.406 |" in text
    assert "| base colour, Delta E 76 | ≤ 15 | 11.5 | 11.5 |" in text
    assert "| of which could not be made |  | 1 | 1 |" in text
    assert "| open edges, of closed objects | ≤ 0.01 | 0.02 | 0.02 |" in text
    assert "trellis2 train mini -o runs/small" in text and "| structure_vae | 64 | 1,500 | 64 |" in text
    assert all(family.replace("_", " ") in text for family in HELD_OUT_FAMILIES)
    size = sum(file.stat().st_size for file in checkpoint.rglob("*.safetensors") if "shape_enc" not in file.name)
    assert f"{size / 1e6:.1f} MB" in text and "| image_encoder |" in text
