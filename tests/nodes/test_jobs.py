"""The nodes that are a whole job: a folder of pictures to files, and the report."""

import csv
import shutil

import pytest
from comfyui_trellis2.nodes import host
from comfyui_trellis2.nodes.host.sources import EXAMPLE_TABLE, EXAMPLES
from comfyui_trellis2.nodes.jobs import doctor as doctor_module
from comfyui_trellis2.nodes.jobs.batch import BatchImages
from comfyui_trellis2.nodes.jobs.doctor import Doctor
from comfyui_trellis2.o_voxel.files.meshes.read import load_textured_mesh
from comfyui_trellis2.trellis2.batch.results import DONE, FAILED, Result, opened
from PIL import Image

PICTURE = EXAMPLE_TABLE.with_name("hammer.png")


@pytest.fixture
def pictures(comfy):
    folder = comfy.parent / "input" / "toys"
    folder.mkdir(parents=True)
    shutil.copy(PICTURE, folder / "hammer.png")
    (folder / "broken.png").write_bytes(b"no picture")
    return folder


def prompt(**inputs):
    batch = {"pipeline": ["1", 0], "source": "toys/", "output_folder": "3d/toys", "preset": "none (vertex colours)"}
    batch |= {"seed": 1, "pipeline_type": "512", "steps": 1, **inputs}
    loading = {"model": "tiny", "precision": "auto", "attention": "auto"}
    return {
        "1": {"class_type": "T2LoadModel", "inputs": loading},
        "2": {"class_type": "T2BatchImages", "inputs": batch},
    }


@pytest.mark.slow
def test_a_folder_becomes_files_and_a_table(comfy, pictures, runner, monkeypatch):
    shown = []
    monkeypatch.setattr(host, "show_text", lambda lines: shown.append(list(lines)))
    before = BatchImages.IS_CHANGED("toys/", "3d/toys")
    found = runner.run(prompt())["2"]
    assert found == [["3d/toys/results.csv"], [1], [1], ["3d/toys/hammer.glb"]]
    assert len(load_textured_mesh(comfy / "3d" / "toys" / "hammer.glb").mesh.faces)
    with (comfy / "3d" / "toys" / "results.csv").open(newline="") as file:
        lines = {line["file"]: line for line in csv.DictReader(file)}
    assert lines["broken.glb"]["error"].startswith("expected a picture") and lines["hammer.glb"]["seed"] == "1"
    assert shown[-1][1].startswith("broken.png: expected a picture")
    when = (comfy / "3d" / "toys" / "hammer.glb").stat().st_mtime_ns
    # The failure is tried again; what is finished is kept.
    assert BatchImages.IS_CHANGED("toys/", "3d/toys") != before
    runner.cache.clear()
    Image.open(PICTURE).save(pictures / "broken.png")
    again = runner.run(prompt())["2"]
    assert again[1:] == [[2], [0], ["3d/toys/broken.glb", "3d/toys/hammer.glb"]]
    assert (comfy / "3d" / "toys" / "hammer.glb").stat().st_mtime_ns == when


def test_folders_and_tables_are_offered(pictures):
    (pictures.parent / "list.csv").write_text("image\ntoys/hammer.png\n")
    (pictures.parent / "empty").mkdir()
    assert BatchImages.INPUT_TYPES()["required"]["source"][0] == [EXAMPLES, "list.csv", "toys/"]


@pytest.mark.parametrize(
    ("source", "folder"),
    [
        ("../secret/", "3d/x"),
        ("/etc/", "3d/x"),
        ("absent/", "3d/x"),
        ("", "3d/x"),
        (7, "3d/x"),
        ("a\x00b", "3d/x"),
        ("toys/", "../x"),
        ("toys/", "/tmp/x"),
        ("toys/", "C:\\x"),
        ("toys/", ""),
        ("toys/", "a\x00"),
    ],
)
def test_no_name_leads_out_of_comfyuis_folders(pictures, source, folder):
    assert BatchImages.VALIDATE_INPUTS("toys/", "3d/x") is True
    assert BatchImages.VALIDATE_INPUTS(source, folder) is not True


def test_a_link_out_of_the_folders_is_closed(pictures, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    shutil.copy(PICTURE, other / "a.png")
    (pictures.parent / "link").symlink_to(other)
    assert "link/" not in BatchImages.INPUT_TYPES()["required"]["source"][0]
    assert "expected a subfolder" in BatchImages.VALIDATE_INPUTS("link/", "3d/x")


def test_a_table_reads_no_picture_outside(comfy, pictures, runner):
    (pictures / "list.csv").write_text("image\n../../../secret.png\n/etc/passwd.png\n")
    found = runner.run(prompt(source="toys/list.csv"))["2"]
    assert found[1:3] == [[0], [2]]
    assert (comfy / "3d" / "toys" / "results.csv").read_text().count("other places are closed to graphs") == 2


def test_no_file_at_all_is_told_to_the_next_node(comfy, pictures, runner, monkeypatch):
    (pictures / "hammer.png").unlink()
    assert runner.run(prompt())["2"][1:] == [[0], [1], []]
    monkeypatch.setattr(host, "absent", lambda message: [message])
    runner.cache.clear()
    assert "made no file" in runner.run(prompt())["2"][3][0]


def test_what_changes_is_seen(comfy, pictures):
    before = BatchImages.IS_CHANGED("toys/", "3d/toys")
    assert before and before == BatchImages.IS_CHANGED("toys/", "3d/toys")
    Image.new("RGB", (8, 8)).save(pictures / "new.png")
    assert BatchImages.IS_CHANGED("toys/", "3d/toys") != before
    assert BatchImages.IS_CHANGED("absent/", "3d/toys") == ""


def test_a_table_sees_the_pictures_that_it_names(comfy, pictures):
    (pictures.parent / "list.csv").write_text("image\ntoys/hammer.png\ntoys/later.png\n/etc/passwd.png\n")
    states = [BatchImages.IS_CHANGED("list.csv", "3d/toys")]
    for change in (lambda: Image.new("RGB", (8, 8)).save(pictures / "later.png"), (pictures / "hammer.png").unlink):
        change()
        states.append(BatchImages.IS_CHANGED("list.csv", "3d/toys"))
    assert len(set(states)) == 3 and all(states)


def test_failures_are_tried_again_and_nothing_else(comfy, pictures):
    states = [BatchImages.IS_CHANGED("toys/", "3d/toys")]
    folder, about = comfy / "3d" / "toys", {"image": "a.png", "seed": 1}
    with opened(folder, ["broken.glb", "hammer.glb"]) as table:
        (folder / "hammer.glb").write_bytes(b"made")
        table.add(Result(**about, file="hammer.glb", status=DONE, bytes=4))
        states.append(BatchImages.IS_CHANGED("toys/", "3d/toys"))
        for day in (1, 2):
            table.add(Result(**about, file="broken.glb", status=FAILED, finished=f"2026-01-0{day}T00:00:00+00:00"))
            states.append(BatchImages.IS_CHANGED("toys/", "3d/toys"))
        table.add(Result(**about, file="broken.glb", status=DONE, bytes=5))
        (folder / "broken.glb").write_bytes(b"made!")
        states.append(BatchImages.IS_CHANGED("toys/", "3d/toys"))
    (folder / "hammer.glb").write_bytes(b"cut")
    states.append(BatchImages.IS_CHANGED("toys/", "3d/toys"))
    assert states[0] == states[1] == states[4]
    assert len(set(states)) == 4


def test_the_doctor_shows_what_it_returns(comfy, monkeypatch):
    shown, asked = [], {}

    def report(device, places, sources, inside, *, test, progress):
        asked.update(places=places, sources=sources, test=test)
        return "| a |\n| b |\n", []

    monkeypatch.setattr(doctor_module, "report", report)
    monkeypatch.setattr(host, "show_text", lambda lines: shown.append(list(lines)))
    found = Doctor().examine(True)
    assert found["result"] == ("| a |\n| b |\n",) and shown == [["| a |", "| b |"]]
    assert asked["test"] and set(asked["places"]) == {"models", "outputs", "temp"}
    labels = [source.label for source in asked["sources"]]
    assert "tiny" in labels and "microsoft/TRELLIS.2-4B" in labels
