"""All benches that the dashboard is made of, one after the other, as one table and one CSV.

Each runs in a process of its own, and its rows are printed and written as they come. What the machine lacks is left
out and said. A figure that is more than a tenth worse than the one before on the same device is marked SLOWER. The
exit status is 1 where there is one, where a bench says that its promises are missed, and where one fails. `--docs`
writes the table into docs/performance.md, from the CSV alone.

    python tests/bench/run_all.py --minutes 9                       # on a card, what fits in nine minutes
    python tests/bench/run_all.py --only CPU --model Duck.glb       # lines of the CPU
    python tests/bench/run_all.py --docs                            # the page, from tests/bench/results/dashboard.csv
"""

from __future__ import annotations

import argparse
import csv
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from goals import DERIVED, JOBS, PROMISES_MISSED, Derived, Job, Line, lines_of

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "tests" / "bench" / "results" / "dashboard.csv"
PAGE = ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- begin: python tests/bench/run_all.py --docs -->", "<!-- end -->"
COLUMNS = ("line", "value", "unit", "goal", "floor", "reference", "previous", "device", "torch", "triton", "commit")
# Of `Line`; empty for "less", and where a file has no such column yet.
COLUMNS += ("better",)
SLOWER = 1.1
# How the device of a line of the CPU ends.
CORES = "CPU cores"
RUN = """
import os, runpy, sys
os.environ.update({env!r})
if {without_triton}:
    sys.modules["triton"] = None
sys.path.insert(0, {bench!r})
{body}
"""
SCRIPT = "sys.argv = sys.argv[1:]\nrunpy.run_path(sys.argv[0], run_name='__main__')"
COMMAND_LINE = (
    "import bench\nfrom comfyui_trellis2.trellis2.cli.main import main\nsys.argv[1:3] = []\n"
    "sys.exit(main(sys.argv[1:]))"
)
Row = dict[str, str]


def run_job(job: Job, seconds: float, fill: dict[str, str], told: Callable[[str], None]) -> tuple[int, float, float]:
    """Runs a job for at most `seconds`: (exit status, wall seconds, peak of main memory in GB).

    told: called with each line that it prints.
    """
    first, *rest = (part.format(**fill) for part in job.command)
    body = COMMAND_LINE if first == "-m" else SCRIPT
    env = {} if job.gpu else {"CUDA_VISIBLE_DEVICES": ""}
    env |= {name: value.format(**fill) for name, value in (job.env or {}).items()}
    code = RUN.format(env=env, without_triton=not job.triton, bench=str(ROOT / "tests" / "bench"), body=body)
    begun = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", code, first, *rest], cwd=ROOT, text=True, encoding="utf-8", errors="replace",
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    watch = threading.Timer(seconds, process.kill)
    watch.start()
    try:
        for line in process.stdout:
            told(line.rstrip())
        if not hasattr(os, "wait4"):
            return process.wait(), time.perf_counter() - begun, 0.0
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        # macOS counts bytes, Linux KiB.
        unit = 1 if sys.platform == "darwin" else 1024
        return process.returncode, time.perf_counter() - begun, used.ru_maxrss * unit / 1e9
    finally:
        watch.cancel()
        process.kill()
        process.stdout.close()
        process.wait()


def found_in(lines: Iterable[Line], context: str, text: str) -> list[tuple[Line, float]]:
    """The values of `lines` in a line `text` of output, after the last unindented one, `context`. A line has the floor
    that is printed beside its value."""
    whole = text if not text.startswith(" ") else f"{context} | {text}"
    matches = ((line, re.search(line.pattern, whole)) for line in lines if line.pattern)
    found = []
    for line, match in matches:
        if match:
            value, *floor = (float(number.replace(",", "")) * line.factor for number in match.groups())
            found.append((replace(line, floor=floor[0]) if floor else line, value))
    return found


def missing(job: Job, gib: float | None, fill: dict[str, str]) -> str | None:
    """What this machine lacks for a job, or None. gib: memory of the CUDA device, None without one."""
    if job.gpu and gib is None:
        return "needs a CUDA device"
    if job.gpu and gib < job.gpu:
        return f"needs {job.gpu:g} GiB on the device, which has {gib:.0f}"
    if any("{model}" in part for part in job.command) and "model" not in fill:
        return "needs a mesh file: --model FILE"
    return None


def row_of(line: Line | Derived, value: float, machine: Row, before: dict[tuple[str, str], Row]) -> Row:
    """A row of the CSV. before: rows by line and device."""
    old = before.get((line.name, machine["device"]))
    numbers = {"goal": line.goal, "floor": line.floor, "reference": line.reference}
    row = {"line": line.name, "value": f"{value:.4g}", "unit": line.unit, "previous": old["value"] if old else ""}
    row["better"] = "" if line.better == "less" else line.better
    return row | {name: "" if n is None else f"{n:g}" for name, n in numbers.items()} | machine


def is_slower(row: Row) -> bool:
    """Whether a row's value is more than a tenth worse than the one before."""
    if not row["previous"] or row.get("better") == "neither":
        return False
    value, previous = float(row["value"]), float(row["previous"])
    return SLOWER * value < previous if row.get("better") == "more" else value > SLOWER * previous


def mark(row: Row) -> str:
    """What there is to say of a row: SLOWER, missed, or nothing."""
    if is_slower(row):
        return "SLOWER"
    if not row["goal"]:
        return ""
    value, goal = float(row["value"]), float(row["goal"])
    return "missed" if (value < goal if row.get("better") == "more" else value > goal) else ""


def read(path: Path) -> list[Row]:
    """The rows of a CSV, none where it does not exist."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write(path: Path, rows: Sequence[Row]) -> None:
    """Writes the rows so far; a run that is stopped keeps them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


def merged(old: Sequence[Row], new: Sequence[Row]) -> list[Row]:
    """`new` over `old`, by line and device, in the order of the dashboard; lines that it has no more are left out."""
    order = [line.name for line in DERIVED] + [line.name for job in JOBS for line in lines_of(job)]
    rows = {(row["line"], row["device"]): row for row in (*old, *new)}
    known = [row for row in rows.values() if row["line"] in order]
    return sorted(known, key=lambda row: (row["device"].endswith(CORES), row["device"], order.index(row["line"])))


def table(rows: Sequence[Row]) -> str:
    """The rows as a table in Markdown, one for each device and its versions."""
    parts, head = [], None
    for row in rows:
        on = f"{row['device']}, torch {row['torch']}, Triton {row['triton'] or 'none'}"
        if on != head:
            parts += ["", f"{on}:", "", "| line | ours | goal | floor | reference | previous | |"]
            parts += ["|---|--:|--:|--:|--:|--:|---|"]
            head = on
        numbers = " | ".join(row[name] for name in ("goal", "floor", "reference", "previous"))
        parts.append(f"| {row['line']} | {row['value']} {row['unit']} | {numbers} | {mark(row)} |")
    return "\n".join(parts[1:])


def write_page(rows: Sequence[Row], page: Path = PAGE) -> None:
    """Puts the table between the marks of the page. Raises ValueError where it has none."""
    text = page.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text.partition(BEGIN)[2]:
        raise ValueError(f"{page}: expected {BEGIN} and {END} in it")
    before, _, rest = text.partition(BEGIN)
    page.write_text(f"{before}{BEGIN}\n{table(rows)}\n{END}{rest.partition(END)[2]}", encoding="utf-8")


def cores() -> int:
    """Cores that this process, and what it starts, may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def this_machine() -> tuple[Row, float | None]:
    """(device and versions, GiB of the CUDA device or None)."""
    import torch

    gpu = torch.cuda.is_available()
    device = torch.cuda.get_device_name() if gpu else f"{cores()} {CORES}"
    gib = torch.cuda.get_device_properties(0).total_memory / 2**30 if gpu else None
    try:
        triton = version("triton")
    except PackageNotFoundError:
        triton = ""
    command = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return {"device": device, "torch": torch.__version__, "triton": triton, "commit": commit}, gib


class Dashboard:
    """A run: rows are printed and written as they come. before: the rows of the run before."""

    def __init__(self, out: Path, before: Sequence[Row], fill: dict[str, str], log: Path) -> None:
        self.out, self.before, self.fill, self.log = out, before, fill, log
        self.machine, self.gib = this_machine()
        self.rows: list[Row] = []
        self.failed: list[str] = []
        self.missed: list[str] = []

    def job(self, job: Job, seconds: float) -> None:
        """Runs one job, with what it prints in the log."""
        lacking = missing(job, self.gib, self.fill)
        if lacking or seconds < 60 * job.minutes / 2:
            print(f"left out: {job.name}: {lacking or 'no time is left'}", flush=True)
            return
        context, figures, missed = "", 0, []

        def told(text: str) -> None:
            nonlocal context, figures
            with self.log.open("a", encoding="utf-8") as file:
                file.write(text + "\n")
            for line, value in found_in(job.lines, context, text):
                self.add(line, value, job)
                figures += 1
            missed.extend([text.removeprefix("MISSED").strip()] if text.startswith("MISSED") else [])
            context = text if text and not text.startswith(" ") else context

        status, wall, memory = run_job(job, seconds, self.fill, told)
        if status == PROMISES_MISSED:
            self.missed.append(job.name)
            print(f"promises missed: {job.name}: {'; '.join(missed)}", flush=True)
        elif status:
            self.failed.append(job.name)
            print(f"FAILED: {job.name}, exit status {status} after {wall:.0f} s; see {self.log}", flush=True)
            return
        if job.lines and not figures:
            print(f"no figure: {job.name}: its last line is {context!r}; see {self.log}", flush=True)
        for line, value in ((job.whole, wall), (job.memory, memory)):
            if line is not None and value:
                self.add(line, value, job)

    def add(self, line: Line | Derived, value: float, job: Job | None = None) -> None:
        """Adds or replaces a row, and those that are made of it."""
        machine = self.machine if job is None or job.gpu else self.machine | {"device": f"{cores()} {CORES}"}
        by_line = {(row["line"], row["device"]): row for row in self.before}
        row = row_of(line, value, machine, by_line)
        self.rows = merged(self.rows, [row])
        numbers = "".join(f"{row[name]:>10}" for name in ("goal", "floor", "reference", "previous"))
        print(f"{line.name:<52}{row['value']:>10} {line.unit:<3}{numbers}  {mark(row)}", flush=True)
        write(self.out, merged(self.before, self.rows))
        known = {row["line"]: float(row["value"]) for row in self.rows}
        for other in DERIVED:
            if line.name in other.of and set(other.of) <= set(known):
                self.add(other, other.value(*(known[name] for name in other.of)))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[], metavar="WORD", help="jobs whose name has one of these words")
    parser.add_argument("--minutes", type=float, default=120.0, help="no job is begun, or goes on, after so long")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the CSV (default tests/bench/results/dashboard.csv)")
    parser.add_argument("--previous", type=Path, help="the CSV to compare with (default: what --out was before)")
    parser.add_argument("--model", type=Path, help="a mesh file for the line of the CPU that needs one")
    parser.add_argument("--docs", action="store_true", help="run nothing; write the table into docs/performance.md")
    options = parser.parse_args()
    if options.docs:
        write_page(merged([], read(options.out)))
        return 0
    deadline = time.monotonic() + 60 * options.minutes
    head = "".join(f"{name:>10}" for name in ("goal", "floor", "reference", "previous"))
    print(f"{'line':<52}{'ours':>10}    {head}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        fill = {"tmp": folder, "cores": str(cores())}
        fill |= {"model": str(options.model.resolve())} if options.model else {}
        before = read(options.previous or options.out)
        board = Dashboard(options.out, before, fill, options.out.with_suffix(".log"))
        board.log.unlink(missing_ok=True)
        for job in JOBS:
            if not options.only or any(word.lower() in job.name.lower() for word in options.only):
                board.job(job, deadline - time.monotonic())
    slower = [row["line"] for row in board.rows if is_slower(row)]
    print(f"{len(board.rows)} lines in {board.out}" + (f"; SLOWER: {', '.join(slower)}" if slower else ""))
    return 1 if slower or board.failed or board.missed else 0


if __name__ == "__main__":
    sys.exit(main())
