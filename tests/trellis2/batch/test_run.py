"""Batches with workers that compute nothing: what is skipped, what failures and kills leave, who makes which row."""

import csv
import json
import os
import threading
import time
from dataclasses import replace

import pytest
from comfyui_trellis2.trellis2.batch import results as results_module
from comfyui_trellis2.trellis2.batch.results import DONE, FAILED, Result, key_of, one_line, settings_of, sha256_of
from comfyui_trellis2.trellis2.batch.rows import RowOptions, read_rows
from comfyui_trellis2.trellis2.batch.run import Spread, WorkerEndedError, run_batch
from comfyui_trellis2.trellis2.batch.worker import BatchStoppedError

COMMON = {"model": "none"}


def made(row, folder, common=COMMON, error=""):
    """What a worker that copies the picture answers."""
    settings = settings_of(row, common)
    about = {"file": row.file, "image": row.image.name, "seed": row.options.seed, "settings": settings}
    if error or row.problem:
        return Result(**about, status=FAILED, error=error or row.problem)
    content = row.image.read_bytes()
    (folder / row.file).write_bytes(content)
    digest = sha256_of(row.image)
    key = key_of(digest, settings)
    return Result(**about, status=DONE, bytes=len(content), input_sha256=digest, key=key)


class Copies:
    """An engine that notes what it makes. ends: raises it before the row of that number."""

    def __init__(self, broken=(), ends=None):
        self.broken, self.ends, self.rows = broken, ends or {}, []

    def results(self, rows, folder, report):
        for number, row in enumerate(rows):
            report(row.name, number / len(rows))
            if number in self.ends:
                raise self.ends[number]
            self.rows.append(row.name)
            yield made(row, folder, error="broken" if row.name in self.broken else "")


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in "abcd":
        (folder / f"{name}.png").write_text(name)
    return folder


def rows_of(pictures, **options):
    return read_rows(pictures, RowOptions(**options))


def lines(folder):
    with (folder / "results.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_one_failure_stops_nothing_and_is_tried_again(pictures, tmp_path):
    out, seen = tmp_path / "out", []
    summary = run_batch(rows_of(pictures), out, Copies({"b"}), COMMON, on_result=seen.append)
    assert [result.file for result in seen] == ["a.glb", "b.glb", "c.glb", "d.glb"]
    assert [line["status"] for line in lines(out)] == [DONE, FAILED, DONE, DONE]
    assert [line["error"] for line in lines(out)] == ["", "broken", "", ""]
    assert summary.lines()[0].startswith("3 of 4 made") and summary.lines()[1:] == ["b.png: broken"]
    again = Copies()
    summary = run_batch(rows_of(pictures), out, again, COMMON)
    assert again.rows == ["b"] and summary.skipped == 3 and not summary.failed
    assert [line["status"] for line in lines(out)] == [DONE] * 4


@pytest.mark.parametrize("change", ["picture", "setting", "common", "file gone", "file cut short"])
def test_what_changed_is_made_again(pictures, tmp_path, change):
    out, options, common = tmp_path / "out", {}, COMMON
    run_batch(rows_of(pictures), out, Copies(), COMMON)
    if change == "picture":
        (pictures / "b.png").write_text("B")
    if change == "setting":
        options = {"seed": 7}
    if change == "common":
        common = {"model": "another"}
    if change == "file gone":
        (out / "b.glb").unlink()
    if change == "file cut short":
        (out / "b.glb").write_text("")
    engine = Copies()
    run_batch(rows_of(pictures, **options), out, engine, common)
    assert engine.rows == (["b"] if options == {} and common is COMMON else ["a", "b", "c", "d"])


def test_a_row_added_before_the_others_makes_itself_alone(pictures, tmp_path):
    run_batch(rows_of(pictures), tmp_path / "out", Copies(), COMMON)
    (pictures / "aa.png").write_text("aa")
    engine = Copies()
    run_batch(rows_of(pictures), tmp_path / "out", engine, COMMON)
    assert engine.rows == ["aa"]
    assert [line["file"] for line in lines(tmp_path / "out")] == [f"{name}.glb" for name in ("a", "aa", "b", "c", "d")]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), BatchStoppedError(28, "No space left on device")])
def test_what_is_done_stays_after_a_stop(pictures, tmp_path, error):
    with pytest.raises(type(error)):
        run_batch(rows_of(pictures), tmp_path / "out", Copies(ends={2: error}), COMMON)
    assert [line["file"] for line in lines(tmp_path / "out")] == ["a.glb", "b.glb"]
    engine = Copies()
    run_batch(rows_of(pictures), tmp_path / "out", engine, COMMON)
    assert engine.rows == ["c", "d"]


def test_a_kill_loses_the_line_that_it_cut_short(pictures, tmp_path):
    out = tmp_path / "out"
    run_batch(rows_of(pictures), out, Copies(), COMMON)
    table = out / "results.csv"
    table.write_bytes(table.read_bytes()[:-20])
    (out / ".c.glb.0123abcd.o_voxel.tmp").write_text("half a file")
    os.utime(out / ".c.glb.0123abcd.o_voxel.tmp", (time.time() - 600,) * 2)
    (out / ".other.0123abcd.tmp").write_text("another's")
    engine = Copies()
    run_batch(rows_of(pictures), out, engine, COMMON)
    assert engine.rows == ["d"]
    assert sorted(path.name for path in out.glob(".*")) == [".other.0123abcd.tmp"]


def test_a_line_is_on_the_disk_before_the_next_row(pictures, tmp_path):
    counts = []

    class Watching(Copies):
        def results(self, rows, folder, report):
            for result in super().results(rows, folder, report):
                counts.append(len(lines(folder)))
                yield result

    run_batch(rows_of(pictures), tmp_path / "out", Watching(), COMMON)
    assert counts == [0, 1, 2, 3]


def test_two_batches_do_not_share_a_folder(pictures, tmp_path):
    class Nested(Copies):
        def results(self, rows, folder, report):
            with pytest.raises(ValueError, match="another batch writes to this folder"):
                run_batch(rows_of(pictures), folder, Copies(), COMMON)
            return super().results(rows, folder, report)

    run_batch(rows_of(pictures), tmp_path / "out", Nested(), COMMON)
    assert not list((tmp_path / "out").glob(".*"))


def test_another_table_of_that_name_is_left_alone(pictures, tmp_path):
    (tmp_path / "results.csv").write_text("my,own\n1,2\n")
    with pytest.raises(ValueError, match="expected the results of a batch"):
        run_batch(rows_of(pictures), tmp_path, Copies(), COMMON)
    assert (tmp_path / "results.csv").read_text() == "my,own\n1,2\n"


def test_a_line_that_somebody_edited_is_made_again(pictures, tmp_path):
    run_batch(rows_of(pictures), tmp_path / "out", Copies(), COMMON)
    table = tmp_path / "out" / "results.csv"
    table.write_text(table.read_text().replace("b.glb,b.png,42", "b.glb,b.png,many"))
    engine = Copies()
    run_batch(rows_of(pictures), tmp_path / "out", engine, COMMON)
    assert engine.rows == ["b"]


def test_settings_are_what_decides_the_result(pictures):
    row = rows_of(pictures, steps=3)[0]
    assert json.loads(settings_of(row, COMMON)) == {"model": "none", "seed": 42, "steps": 3}


def test_errors_are_one_line():
    assert one_line(ValueError("a\n  b")) == "a b"
    assert one_line(OSError(28, "No space left", "x.glb")) == "x.glb: No space left"
    assert one_line(KeyError("a")) == "KeyError: 'a'" and one_line(RuntimeError()) == "RuntimeError"


# Several workers


class Hand:
    """A worker that notes its rows. dies: ends at rows of these names, each time; once: the first time alone."""

    def __init__(self, log, name, dies=(), once=None, seconds=0.0):
        self.log, self.name, self.dies, self.once, self.seconds = log, name, dies, once, seconds
        self.stopped = threading.Event()

    def make(self, row, folder, upcoming):
        self.stopped.wait(self.seconds)
        if self.stopped.is_set() or row.name in self.dies:
            raise WorkerEndedError(f"{self.name} ended by SIGKILL")
        if self.once is not None and self.once:
            self.once.clear()
            raise WorkerEndedError(f"{self.name} ended by SIGKILL")
        self.log.append((self.name, row.name, upcoming and upcoming.name))
        return made(row, folder)

    def stop(self):
        self.stopped.set()


def test_several_workers_make_every_row_once(pictures, tmp_path):
    log = []
    engine = Spread([lambda name=name: Hand(log, name, seconds=0.02) for name in ("x", "y")])
    summary = run_batch(rows_of(pictures), tmp_path / "out", engine, COMMON)
    assert sorted(row for _, row, _ in log) == list("abcd") and {name for name, _, _ in log} == {"x", "y"}
    assert [result.file for result in summary.results] == ["a.glb", "b.glb", "c.glb", "d.glb"]
    for name in ("x", "y"):  # what one was told to prepare comes next, unless the other took it
        mine = [(row, upcoming) for worker, row, upcoming in log if worker == name]
        for (_, told), (row, _) in zip(mine, mine[1:], strict=False):
            assert told == row or (told in [row for worker, row, _ in log if worker != name])


def test_a_worker_that_ends_is_replaced(pictures, tmp_path):
    log, once = [], [True]
    summary = run_batch(rows_of(pictures), tmp_path / "out", Spread([lambda: Hand(log, "x", once=once)]), COMMON)
    assert not summary.failed and [row for _, row, _ in log] == list("abcd")


def test_a_row_that_ends_every_worker_is_a_failure(pictures, tmp_path):
    summary = run_batch(rows_of(pictures), tmp_path / "out", Spread([lambda: Hand([], "x", dies=("b",))]), COMMON)
    assert [(result.image, result.error) for result in summary.failed] == [("b.png", "x ended by SIGKILL")]


def test_workers_that_always_end_stop_the_batch(pictures, tmp_path):
    with pytest.raises(BatchStoppedError, match="2 rows in turn: x ended by SIGKILL"):
        run_batch(rows_of(pictures), tmp_path / "out", Spread([lambda: Hand([], "x", dies="abcd")]), COMMON)


def test_what_a_worker_cannot_start_with_stops_the_batch(pictures, tmp_path):
    def start():
        raise ValueError("no such model")

    with pytest.raises(ValueError, match="no such model"):
        run_batch(rows_of(pictures), tmp_path / "out", Spread([start]), COMMON)


def test_a_cancel_ends_workers_at_once(pictures, tmp_path):
    hands = []

    def start():
        hands.append(Hand([], "x", seconds=60.0))
        return hands[-1]

    def report(line, fraction):
        if hands:
            raise KeyboardInterrupt

    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_batch(rows_of(pictures), tmp_path / "out", Spread([start]), COMMON, report=report)
    assert time.monotonic() - begun < 5.0 and all(hand.stopped.is_set() for hand in hands)


def test_a_result_keeps_its_types_in_the_table(pictures, tmp_path):
    out = tmp_path / "out"
    row = rows_of(pictures)[0]
    out.mkdir()
    result = replace(made(row, out), seconds=1.5, notes='a "b", c', error="")
    with results_module.opened(out, [row.file]) as table:
        table.add(result)
    with results_module.opened(out, [row.file]) as table:
        assert table.known == {row.file: result}
