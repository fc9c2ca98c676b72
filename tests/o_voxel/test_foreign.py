"""Trying a library in a process of its own: what is installed, how the process ends, which answers are kept.

Aborts are in tests/trellis2/ops/test_attention_libraries.py.
"""

import json
import subprocess
import sys

import pytest
import torch
from comfyui_trellis2.o_voxel.core import foreign
from comfyui_trellis2.o_voxel.core.foreign import explained, is_installed, machine, version, why_not

QUESTION = ("o_voxel.core.grid:check", ("a",), ("1.0", "card"))


@pytest.fixture(autouse=True)
def answers(tmp_path, monkeypatch):
    file = tmp_path / "kept" / "libraries.json"
    monkeypatch.setattr(foreign, "answers_file", lambda: file)
    why_not.cache_clear()
    yield file
    why_not.cache_clear()


def ended(monkeypatch, code=0, out="", errors="", raised=None):
    """What `subprocess.run` gives from now on; returns the list of what it is asked."""
    asked = []

    def run(command, **options):
        asked.append(json.loads(options["input"]))
        if raised is not None:
            raise raised
        return subprocess.CompletedProcess(command, code, out.encode(), errors.encode())

    monkeypatch.setattr(foreign.subprocess, "run", run)
    return asked


def test_what_is_installed_is_found_without_an_import(tmp_path, monkeypatch):
    folder = tmp_path / "dies"
    (folder / "inner").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise SystemExit")
    (folder / "inner" / "__init__.py").write_text("")
    (folder / "single.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert [is_installed(f"dies{name}") for name in ("", ".inner", ".single", ".other", ".inner.other")] == [
        True, True, True, False, False,
    ]  # fmt: skip
    assert not is_installed("no_such_library_at_all")
    assert "dies" not in sys.modules
    assert version("no_such_library_at_all") == ""
    assert version("torch").startswith(torch.__version__.split("+")[0])


@pytest.mark.parametrize("reason", [None, "it is too old"])
def test_an_answer_is_asked_once_and_kept_for_the_next_process(answers, monkeypatch, reason):
    asked = ended(monkeypatch, out=f"noise\n\n{foreign.ANSWER}{json.dumps([reason, True])}\n")
    assert [why_not(*QUESTION), why_not(*QUESTION)] == [reason, reason]
    assert [(one["check"], one["arguments"]) for one in asked] == [("o_voxel.core.grid:check", ["a"])]
    assert asked[0]["path"] == sys.path
    why_not.cache_clear()
    assert why_not(*QUESTION) == reason
    assert len(asked) == 1
    why_not(*QUESTION[:2], ("1.1", "card"))
    assert len(asked) == 2
    foreign.forget()
    assert why_not(*QUESTION) == reason
    assert len(asked) == 3


def test_an_answer_that_may_change_is_not_kept(answers, monkeypatch):
    ended(monkeypatch, out=f"{foreign.ANSWER}{json.dumps(['no memory', False])}")
    assert why_not(*QUESTION) == "no memory"
    assert not answers.exists()


@pytest.mark.parametrize(
    ("end", "reason", "kept"),
    [
        ({"code": -6, "errors": "first\nterminate called\n\n"}, "by SIGABRT: terminate called", True),
        ({"code": -11}, "it ended a test process by SIGSEGV", True),
        ({"code": 3221225477, "errors": "x"}, "by exit status 3221225477: x", True),
        ({"raised": subprocess.TimeoutExpired("python", 180)}, "did not end within 180 s", False),
        ({"raised": OSError("no fork")}, "no test process could be started: no fork", False),
    ],
    ids=["abort", "fault", "Windows", "late", "none"],
)
def test_how_a_process_ends_is_told(answers, monkeypatch, end, reason, kept):
    ended(monkeypatch, **end)
    assert reason in why_not(*QUESTION)
    assert answers.exists() == kept


def test_a_file_that_cannot_be_read_or_written_costs_only_time(answers, monkeypatch):
    answers.parent.mkdir()
    ended(monkeypatch, out=f"{foreign.ANSWER}[null, true]")
    for text in ("", "[1]", "{"):
        answers.write_text(text)
        why_not.cache_clear()
        assert why_not(*QUESTION) is None
    monkeypatch.setattr(foreign, "answers_file", lambda: answers / "below a file" / "x.json")
    why_not.cache_clear()
    assert why_not(*QUESTION) is None
    foreign.forget()


def test_what_an_answer_depends_on(monkeypatch):
    assert machine(torch.device("cpu"))[1:] == (torch.__version__, "cpu")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (12, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "RTX 5060 Ti")
    assert machine(torch.device("cuda", 0))[2:] == ("RTX 5060 Ti", "12.0")


def test_an_error_is_told_in_one_line():
    assert explained(ValueError("first\n  second\n\n third \n")) == "ValueError: first … third"
    assert explained(ValueError("alone")) == "ValueError: alone"
    assert explained(KeyError()) == "KeyError"
