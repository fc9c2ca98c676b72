"""The report: what it says of versions, weights and disks, whom it does not name, and whether its test finds faults."""

import shutil
from pathlib import Path

import pytest
import torch
from comfyui_trellis2.o_voxel.core.backend import Backend, always
from comfyui_trellis2.o_voxel.ops import connected_components
from comfyui_trellis2.trellis2.doctor import backends, facts, licences, self_test, weights
from comfyui_trellis2.trellis2.doctor.report import redacted
from comfyui_trellis2.trellis2.doctor.weights import Source, found

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "text",
    [
        f"{Path.home()}/models/x",
        "/home/ann/.cache/x",
        "/Users/Ann Lee/Library",
        "C:\\\\Users\\\\ann\\\\x".replace("\\\\", "\\"),
        "in /home/ann: 3 files",
    ],
)
def test_nobody_is_named(text):
    shown = redacted(text)
    assert "~" in shown and "ann" not in shown.lower().replace("anned", "") and str(Path.home()) not in shown


def test_other_paths_stay():
    assert redacted("/opt/models/x and D:\\models") == "/opt/models/x and D:\\models"


def test_weights_are_complete_or_named(tiny, tmp_path):
    shutil.copytree(tiny, tmp_path / "tiny")
    sources = [Source("mine", str(tmp_path / "tiny")), Source("none", str(tmp_path / "none")), Source("hub", "a/b")]
    assert found(sources) == [("mine", "complete"), ("none", "not here"), ("hub", "not here")]
    lost = next((tmp_path / "tiny" / "ckpts").glob("*flow*.safetensors"))
    lost.unlink()
    assert found(sources)[0] == ("mine", f"1 files missing: ckpts/{lost.name}")
    (tmp_path / "tiny" / "pipeline.json").write_text("{")
    assert found(sources)[0][1].startswith("cannot be read: ")


def test_published_checkpoints_are_looked_for_without_a_download(monkeypatch):
    monkeypatch.setattr(weights, "local_file", lambda *given: None)
    states = dict(found(weights.known_sources()))
    assert states["microsoft/TRELLIS.2-4B"] == states["Comfy-Org/TRELLIS.2"] == "not here"
    assert all(licences.of_weights(name) for name in states)


def test_the_commit_is_read_without_git(tmp_path):
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "a-pack"\nversion = "1.2.3"\n')
    assert facts.pack(tmp_path) == "a-pack 1.2.3"
    git = tmp_path / ".git"
    (git / "refs" / "heads").mkdir(parents=True)
    (git / "HEAD").write_text("ref: refs/heads/main\n")
    (git / "packed-refs").write_text(f"# pack-refs\n{'c' * 40} refs/heads/main\n")
    assert facts.pack(tmp_path) == "a-pack 1.2.3, commit ccccccccc"
    (git / "refs" / "heads" / "main").write_text("d" * 40 + "\n")
    assert facts.pack(tmp_path).endswith("commit ddddddddd")
    (git / "HEAD").write_text("e" * 40 + "\n")
    assert facts.pack(tmp_path).endswith("commit eeeeeeeee")
    tree = tmp_path / "tree"
    tree.mkdir()
    inside = git / "worktrees" / "tree"
    inside.mkdir(parents=True)
    (inside / "HEAD").write_text("ref: refs/heads/main\n")
    (inside / "commondir").write_text("../..\n")
    (tree / ".git").write_text(f"gitdir: {inside}\n")
    assert facts.pack(tree).endswith("commit ddddddddd")


def test_a_driver_tool_that_fails_or_hangs_is_no_error(monkeypatch):
    monkeypatch.setattr(facts.shutil, "which", lambda name: "tool")

    def hangs(*given, **named):
        raise facts.subprocess.TimeoutExpired("tool", 5)

    monkeypatch.setattr(facts.subprocess, "run", hangs)
    assert facts.driver() is None


def test_disks_of_folders_that_do_not_exist_yet(tmp_path):
    ((name, text),) = facts.disks({"outputs": tmp_path / "a" / "b"})
    assert name == "outputs" and "GiB free" in text


def test_every_op_is_in_the_report(monkeypatch):
    monkeypatch.setattr(backends, "forget", lambda: None)
    states = backends.op_states(CPU)
    assert {"o_voxel.raster", "trellis2.attention"} <= {state.op for state in states}
    assert all(state.chosen != "none" for state in states)


def test_ops_agree_with_their_references_here():
    for name, check in self_test.OPS.items():
        assert check(CPU), name


def test_a_kernel_with_other_numbers_is_found(monkeypatch):
    """As a broken compiler makes them; the test goes on to the other ops."""
    monkeypatch.setattr(connected_components, "BACKENDS", (Backend("wrong", always), Backend("reference", always)))
    honest = connected_components.connected_torch

    def broken(count, first, second, chosen):
        labels = honest(count, first, second, "reference")
        return labels if chosen == "reference" else labels + 1

    monkeypatch.setattr(connected_components, "connected_torch", broken)
    monkeypatch.setattr(self_test, "_object", lambda device: "left out")
    checks = self_test.self_test(CPU)
    assert [check.name for check in checks if check.problem] == ["connected components"]
    assert "expected the reference's result" in next(check.problem for check in checks if check.problem)
    assert len(checks) == len(self_test.OPS) + 1


@pytest.mark.slow
def test_an_object_is_made_from_picture_to_file():
    assert "triangles" in self_test._object(CPU)


@pytest.mark.gpu
def test_the_self_test_is_good_on_a_card():
    checks = self_test.self_test(torch.device("cuda"))
    assert [(check.name, check.problem) for check in checks if check.problem] == []
