"""The dashboard of benches: what it reads from their output, what it marks, and that the page shows the CSV."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


def load(name: str) -> ModuleType:
    """A module of tests/bench, under the name by which the benches import it."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "tests" / "bench" / f"{name}.py")
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


goals, run_all = load("goals"), load("run_all")

MACHINE = {"device": "card", "torch": "2", "triton": "3", "commit": "abc"}
LINES = {line.name: line for job in goals.JOBS for line in goals.lines_of(job)}


def only(name: str, context: str, text: str) -> float | None:
    """The value of one line of the dashboard in a line of output."""
    values = {line.name: value for line, value in run_all.found_in([LINES[name]], context, text)}
    return values.get(name)


@pytest.mark.parametrize(
    ("name", "context", "text", "value"),
    [
        ("asset 200k 2048², bumpy: write", "", "bumpy    4,898,652 faces, 2048: 25.0 MiB  write 0.431  all 1.3", 0.431),
        ("asset 1M 4096², thin: all", "", "thin       5,100,000 faces, 4096: 90.0 MiB  write 2.0  all 4.8", 4.8),
        ("sampling and decoding, fp8+cache", "1024_cascade high fp8+cache, 0 GiB: Resident, sizes",
         "  sampling + decode    1.890 s (1.880 to 1.900)  peak 16 GiB", 1.89),
        ("unwrap 1M, thin", "", "thin 999,998                 2.40 s  charts  12 fill 0.7", 2.4),
        ("unwrap 200k, bumpy", "", "bumpy 199,998                 0.62 s  charts  12 fill 0.7", 0.62),
        ("three PNG of 2048²", "", "export              png 3 x 2048, 16 threads         430.000 ms (1 to 2)", 0.43),
        ("fill holes of 4.9 M faces", "", "clean               1024 fill, connected             17.000 ms (1", 17),
        ("one forward, latent 2,380", "", "flow                latent 2,380 none auto           14.000 ms (1", 14),
    ],
)  # fmt: skip
def test_values_are_read_from_what_the_benches_print(name, context, text, value):
    assert only(name, context, text) == pytest.approx(value)


@pytest.mark.parametrize(
    ("name", "context", "text"),
    [
        ("asset 200k 2048², bumpy: write", "", "bumpy      4,898,652 faces, 4096: 90.0 MiB  write 2.0  all 3.5"),
        ("asset 200k 2048², bumpy: all", "", "thin       4,898,652 faces, 2048: 25.0 MiB  all 1.5"),
        ("sampling and decoding, bf16", "1024_cascade high fp8+cache, 0 GiB: x", "  sampling + decode    1.89 s"),
        ("unwrap 1M, thin", "", "thin 199,998                 0.73 s  charts  12"),
        ("clean 4.9 M faces", "", "clean               1024 fill             17.000 ms"),
    ],
)
def test_a_line_takes_no_other_lines_value(name, context, text):
    assert only(name, context, text) is None


def test_names_are_unique_and_what_is_derived_exists():
    names = [line.name for job in goals.JOBS for line in goals.lines_of(job)] + [line.name for line in goals.DERIVED]
    assert len(names) == len(set(names))
    assert {name for line in goals.DERIVED for name in line.of} <= set(names)


@pytest.mark.parametrize(
    ("value", "previous", "marked"), [(1.0, "", ""), (1.09, "1", ""), (1.11, "1", "SLOWER"), (2.7, "2.6", "missed")]
)
def test_what_is_a_tenth_slower_or_above_its_goal_is_marked(value, previous, marked):
    line = goals.Line("a", 2.6, "")
    before = {("a", "card"): {"value": previous}} if previous else {}
    row = run_all.row_of(line, value, MACHINE, before)
    assert run_all.mark(row) == marked
    assert run_all.is_slower(run_all.row_of(line, value, MACHINE | {"device": "other"}, before)) is False


def test_a_run_keeps_rows_of_other_devices_and_replaces_its_own(tmp_path):
    line = LINES["unwrap 200k, thin"]
    old = [run_all.row_of(line, 1.0, MACHINE | {"device": name}, {}) for name in ("card", "8 CPU cores")]
    rows = run_all.merged(old, [run_all.row_of(line, 0.5, MACHINE, {})])
    assert [(row["device"], row["value"]) for row in rows] == [("card", "0.5"), ("8 CPU cores", "1")]
    run_all.write(tmp_path / "x.csv", rows)
    assert run_all.read(tmp_path / "x.csv") == rows


def test_what_the_machine_lacks_is_said():
    job = next(job for job in goals.JOBS if job.name == "2048")
    assert "CUDA" in run_all.missing(job, None, {})
    assert "80 GiB" in run_all.missing(job, 24.0, {})
    assert run_all.missing(job, 140.0, {}) is None


def test_a_job_runs_and_is_stopped_when_its_time_is_over():
    script = "tests/bench/no_such_bench.py"
    status, _, _ = run_all.run_job(goals.Job("x", (script,), 1, gpu=0), 60, {}, [].append)
    assert status != 0
    said: list[str] = []
    job = goals.Job("x", ("-m", "trellis2", "--help"), 1, gpu=0)
    assert run_all.run_job(job, 0.01, {}, said.append)[0] != 0


def test_the_page_shows_the_csv(tmp_path):
    rows = run_all.merged([], run_all.read(run_all.RESULTS))
    assert rows
    copy = tmp_path / "performance.md"
    copy.write_text(run_all.PAGE.read_text(encoding="utf-8"), encoding="utf-8")
    run_all.write_page(rows, copy)
    assert copy.read_text(encoding="utf-8") == run_all.PAGE.read_text(encoding="utf-8")


def test_a_job_that_is_there_has_its_bench():
    scripts = [job.command[0] for job in goals.JOBS if job.command[0] != "-m"]
    assert [script for script in scripts if not (ROOT / script).exists()] == []
