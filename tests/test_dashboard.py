"""The dashboard of benches: what it reads from their output, what it marks, and that the page shows the CSV."""

import importlib.util
import os
import sys
from dataclasses import replace
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
        ("load 16 GB of weights, in the page cache", "",
         "load 9 networks, 16.358 GB     4.100 s (4.000 to 4.200)    3.99 GB/s  floor 2.105 s  main memory + 0.15 GB",
         4.1),
        ("load: main memory beside the page cache", "",
         "load 9 networks, 16.358 GB     4.100 s (4.000 to 4.200)    3.99 GB/s  floor 2.105 s  main memory + 0.15 GB",
         0.15),
        ("load: rate of the bus", "", "load bus, page-locked             52.104 GB/s", 52.104),
        ("batch of four over singles, throughput", "",
         "batch 1024_cascade high bf16, 4 objects: one by one 14.720 s, peak 16.60 GiB; as a batch 11.200 s, "
         "peak 24.10 GiB; 1.314 times the throughput", 1.314),
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
        ("load: rate of the bus", "", "load page cache, one thread        7.801 GB/s"),
        ("batch of four over singles, throughput", "",
         "batch 1024_cascade high bf16+fresh, 4 objects: one by one 16 s; as a batch 12 s; 1.333 times the throughput"),
    ],
)  # fmt: skip
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


@pytest.mark.parametrize(
    ("better", "value", "previous", "marked"),
    [("more", 1.3, "", ""), ("more", 1.2, "", "missed"), ("more", 1.3, "1.42", ""), ("more", 1.3, "1.44", "SLOWER"),
     ("more", 2.0, "1.3", ""), ("neither", 9.0, "1.3", "missed"), ("neither", 1.0, "3", "")],
)  # fmt: skip
def test_more_may_be_better_and_what_is_only_told_is_not_slower(better, value, previous, marked, tmp_path):
    line = goals.Line("unwrap 200k, thin", 1.25, "", better=better)
    before = {(line.name, "card"): {"value": previous}} if previous else {}
    run_all.write(tmp_path / "x.csv", [run_all.row_of(line, value, MACHINE, before)])
    (row,) = run_all.read(tmp_path / "x.csv")
    assert run_all.mark(row) == marked


def test_rows_of_a_file_without_the_newest_column_are_kept(tmp_path):
    row = run_all.row_of(LINES["unwrap 200k, thin"], 1.0, MACHINE, {})
    del row["better"]
    run_all.write(tmp_path / "x.csv", [row])
    (again,) = run_all.read(tmp_path / "x.csv")
    assert again == row | {"better": ""}
    assert run_all.mark(row) == "missed"


def test_a_floor_that_is_printed_is_the_row_s():
    line = goals.Line("a", None, r"^a ([\d.]+) ms, floor ([\d.]+)", floor=7, factor=1e-3)
    ((found, value),) = run_all.found_in([line], "", "a 4100 ms, floor 2000")
    assert (found.name, found.floor, value) == ("a", pytest.approx(2), pytest.approx(4.1))


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


SAYS = "print('x 5 s'); print('kept   b'); print('MISSED a: 2 s <= 1'); raise {}"


@pytest.mark.parametrize(
    ("end", "said", "failed", "missed"),
    [("SystemExit(goals.PROMISES_MISSED)", "promises missed: x: a: 2 s <= 1", [], ["x"]),
     ("ValueError", "FAILED: x, exit status 1", ["x"], []), ("SystemExit(0)", "", [], [])],
)  # fmt: skip
def test_promises_that_are_missed_are_told_from_a_crash(end, said, failed, missed, tmp_path, capsys, monkeypatch):
    script = tmp_path / "bench.py"
    script.write_text("import goals\n" + SAYS.format(end), encoding="utf-8")
    monkeypatch.setattr(run_all, "this_machine", lambda: (MACHINE, None))
    board = run_all.Dashboard(tmp_path / "x.csv", [], {}, tmp_path / "x.log")
    lines = (goals.Line("unwrap 200k, thin", None, r"^x (\d+) s"),)
    board.job(goals.Job("x", (str(script),), 0.1, lines, gpu=0), 60)
    assert (board.failed, board.missed) == (failed, missed)
    assert [row["value"] for row in board.rows] == ["5"]
    told = capsys.readouterr().out
    assert said in told
    assert ("FAILED" in told) is bool(failed)


def test_a_bench_that_tells_no_figure_is_said(tmp_path, capsys, monkeypatch):
    script = tmp_path / "bench.py"
    script.write_text("print('left out: no room')", encoding="utf-8")
    monkeypatch.setattr(run_all, "this_machine", lambda: (MACHINE, None))
    board = run_all.Dashboard(tmp_path / "x.csv", [], {}, tmp_path / "x.log")
    board.job(goals.Job("x", (str(script),), 0.1, (LINES["unwrap 200k, thin"],), gpu=0), 60)
    assert "no figure: x: its last line is 'left out: no room'" in capsys.readouterr().out


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system pins no process to cores")
def test_the_device_of_the_cpu_has_the_cores_that_the_process_may_use():
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert run_all.cores() == 1
    finally:
        os.sched_setaffinity(0, before)
    assert run_all.cores() == len(before)


@pytest.mark.slow
def test_the_job_that_loads_weights_finds_its_figures(tmp_path):
    job = next(job for job in goals.JOBS if job.name == "load")
    board = run_all.Dashboard(tmp_path / "x.csv", [], {}, tmp_path / "x.log")
    board.job(replace(job, command=(*job.command, "--tiny", "--runs", "2"), gpu=0), 300)
    rows = {row["line"]: row for row in board.rows}
    assert (board.failed, board.missed) == ([], [])
    loaded = rows["load 16 GB of weights, in the page cache"]
    assert float(loaded["value"]) > float(loaded["floor"]) > 0
    assert float(rows["load: rate of the page cache"]["value"]) > 0
    assert "load: rate of the bus" not in rows  # without a card


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
