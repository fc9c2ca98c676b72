"""The lines of the dashboard: what each measures, by which bench, what is wanted, and what the reference takes.

Floors: operations over 790 TFLOP/s or bytes over 4.3 TB/s, of the whole line, where one was worked out. Reference: the
reference's code with its own CUDA packages on an H200, or its nearest equivalent; seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

# Exit status of a bench that has printed all its figures, one of which breaks a promise; beside it a line "MISSED ...".
PROMISES_MISSED = 3


@dataclass(frozen=True)
class Line:
    """A line of the table. name: unique.  goal, floor, reference: in its unit, None where there is none.

    pattern: of the output of the job's bench, with one group; the last match counts. It is matched against each line,
    preceded by the last one that does not begin with a space. A second group is the floor, where it was measured on the
    same machine.  factor: from what is printed to the unit.
    better: "less"; "more"; or "neither": it is told, and not compared with the run before, as what a machine can do.
    """

    name: str
    goal: float | None
    pattern: str
    floor: float | None = None
    reference: float | None = None
    unit: str = "s"
    factor: float = 1.0
    better: str = "less"


@dataclass(frozen=True)
class Derived:
    """A line made of others that were measured in the same run."""

    name: str
    goal: float | None
    of: tuple[str, ...]
    value: Callable[..., float]
    floor: float | None = None
    reference: float | None = None
    unit: str = "s"
    better: str = "less"


@dataclass(frozen=True)
class Job:
    """One process. command: the arguments after Python; {tmp} is a folder that jobs of one run share.

    minutes: how long it is expected to take; it is not begun where less time is left.  gpu: the number of bytes of
    memory in GiB that a CUDA device must have, 0 for a line of the CPU.  triton: False to run without Triton.
    env: variables; the kernels' caches are named so.  whole: the name of a line for the wall time of the process, its
    goal in seconds; memory: the same for its peak of main memory in GB.
    """

    name: str
    command: tuple[str, ...]
    minutes: float
    lines: tuple[Line, ...] = ()
    gpu: float = 24.0
    triton: bool = True
    env: Mapping[str, str] | None = None
    whole: Line | None = None
    memory: Line | None = None


def _staged(prefix: str, stage: str) -> str:
    return rf"^{prefix}.*\| +{stage} +([\d.]+) s"


def _pipeline(variant: str, goal: float, floor: float | None = None, reference: float | None = None) -> Line:
    pattern = _staged(f"1024_cascade high {variant.replace('+', '.')}, ", "sampling . decode")
    return Line(f"sampling and decoding, {variant}", goal, pattern, floor, reference)


def _asset(
    shape: str, faces: str, texture: int, stage: str, goal: float | None, reference: float | None = None
) -> Line:
    name = f"asset {faces} {texture}², {shape}: {stage}"
    return Line(name, goal, rf"^{shape} .* {texture}: .* {stage} ([\d.]+)", None, reference)


def _asset_lines(shape: str) -> tuple[Line, ...]:
    return (
        _asset(shape, "200k", 2048, "clean", None),
        _asset(shape, "200k", 2048, "simplify", None, 0.082),
        _asset(shape, "200k", 2048, "unwrap", 0.25, 10.8),
        _asset(shape, "200k", 2048, "bake", None),
        _asset(shape, "200k", 2048, "write", 0.15, 2.0),
        _asset(shape, "200k", 2048, "all", 0.9, 15.6),
        _asset(shape, "1M", 4096, "unwrap", 0.8),
        _asset(shape, "1M", 4096, "write", 0.6, 9.1),
        _asset(shape, "1M", 4096, "all", 2.5, 69.9),
    )


BENCH = "tests/bench/bench_{}.py".format
CACHES = {"NUMBA_CACHE_DIR": "{tmp}/numba", "TRITON_CACHE_DIR": "{tmp}/triton"}
FIRST_ASSET = (BENCH("asset"), "--shapes", "bumpy", "--faces", "200000", "--repeat", "2", "--every")
MINI = ("-m", "trellis2", "generate", "assets/images/chair.png", "--model", "mini", "--device", "cpu")

GAME_LOW = ("-m", "trellis2", "asset", "{model}", "--preset", "game low")
SIMPLIFY = (BENCH("simplify"), "--surfaces", "standard")
# Case, floor and reference in milliseconds.
FORWARDS = (("structure", 17, 44.3), ("latent 2,380", 9, 69.4), ("latent 9,556", 59, 169.4))

BATCH = r"^batch 1024_cascade high {}, 4 objects: .* ([\d.]+) times the throughput".format

# In the order in which they are run: what a run of nine minutes on a card must have comes first.
JOBS = (
    Job("asset", (BENCH("asset"),), 1.5, (*_asset_lines("bumpy"), *_asset_lines("thin"))),
    Job(
        "pipeline",
        (BENCH("pipeline"), "--cases", "1024_cascade:high:0", "1024_cascade:high:0:fp8+cache"),
        2.0,
        (
            _pipeline("bf16", 3.0, 2.4, 8.3),
            _pipeline("fp8+cache", 1.6),
            Line("picture to mesh, bf16", None, _staged("1024_cascade high bf16, ", "whole"), 2.4, 8.3),
            Line("picture to mesh, fp8+cache", None, _staged("1024_cascade high fp8.cache, ", "whole")),
        ),
    ),
    Job(
        "unwrap",
        (BENCH("unwrap"), "--shapes", "bumpy", "thin", "--faces", "200000", "1000000"),
        0.8,
        tuple(
            Line(f"unwrap {size}, {shape}", goal, rf"^{shape} {digits}\S* +([\d.]+) s", None, reference)
            for shape in ("bumpy", "thin")
            for size, digits, goal, reference in (
                ("200k", r"(?:199|200),", 0.25, 10.8),
                ("1M", r"(?:999,|1,000,)", 0.8, None),
            )
        ),
    ),
    Job(
        "export",
        (BENCH("export"), "--threads", "{cores}", "--only", "png"),
        0.3,
        (
            Line("three PNG of 2048²", 0.1, r"png 3 x 2048, \d+ threads +([\d.]+) ms", factor=1e-3),
            Line("three PNG of 4096²", 0.45, r"png 3 x 4096, \d+ threads +([\d.]+) ms", factor=1e-3),
        ),
        gpu=1,
    ),
    Job(
        "clean",
        (BENCH("clean"), "--resolutions", "1024", "--only", "clean", "fill", "fill, connected"),
        0.4,
        (
            Line("clean 4.9 M faces", 50, r"1024 clean +([\d.]+) ms", None, None, "ms"),
            Line("fill holes of 4.9 M faces", 5, r"1024 fill, connected +([\d.]+) ms", None, 1, "ms"),
        ),
    ),
    Job(
        "bake",
        (BENCH("bake"), "--cases", "1024,200000,2048,1", "--whole"),
        0.5,
        (
            Line("bake 200k 2048²", 0.35, r"2048,1 whole +([\d.]+) ms", factor=1e-3),
            Line(
                "bake 200k 2048², with occlusion", None, r"2048,1 whole, occlusion +([\d.]+) ms", None, None, "s", 1e-3
            ),
        ),
    ),
    Job(
        "8-bit",
        (BENCH("pipeline"), "--cases", "1024_cascade:high:0:int8", "1024_cascade:high:0:fp8", "--runs", "2"),
        1.5,
        (_pipeline("int8", 2.6), _pipeline("fp8", 2.6)),
    ),
    Job(
        "first asset",
        FIRST_ASSET,
        1.5,
        (Line("first asset on a machine", None, r"^bumpy .* run 1: .* all ([\d.]+)"),),
        env=CACHES,
    ),
    Job(
        "new process",
        FIRST_ASSET,
        0.7,
        (
            Line("first asset of a process", None, r"^bumpy .* run 1: .* all ([\d.]+)"),
            Line("second asset of a process", None, r"^bumpy .* run 2: .* all ([\d.]+)"),
        ),
        env=CACHES,
    ),
    Job(
        "held",
        (BENCH("pipeline"), "--cases", "1024_cascade:auto:8", "1024_cascade:low:5", "--runs", "2"),
        1.5,
        (
            Line("1024 held to 8 GiB, auto", 4.3, _staged("1024_cascade auto bf16, ", "whole"), 2.4),
            Line("1024 held to 5 GiB, low", None, _staged("1024_cascade low bf16, ", "whole"), 2.4),
        ),
    ),
    Job(
        "1536",
        (BENCH("pipeline"), "--cases", "1536_cascade:high:0", "--runs", "2"),
        1.5,
        (Line("1536 picture to mesh", 8.5, _staged("1536_cascade high bf16, ", "whole")),),
    ),
    Job(
        "2048",
        (BENCH("pipeline"), "--cases", "2048_cascade:high:0", "--runs", "1"),
        3.0,
        (Line("2048 picture to mesh", 35, _staged("2048_cascade high bf16, ", "whole")),),
        gpu=80,
    ),
    Job(
        "no Triton, pipeline",
        (BENCH("pipeline"), "--cases", "1024_cascade:high:0", "--runs", "2"),
        1.5,
        (Line("no Triton: picture to mesh", 5.5, _staged("1024_cascade high bf16, ", "whole")),),
        triton=False,
    ),
    Job(
        "no Triton, asset",
        (BENCH("asset"), "--shapes", "bumpy", "--faces", "1000000", "--repeat", "3"),
        1.5,
        (Line("no Triton: asset 1M 4096²", 6, r"^bumpy .* 4096: .* all ([\d.]+)"),),
        triton=False,
    ),
    Job(
        "load",
        (BENCH("load"),),
        2.5,
        (
            Line(
                "load 16 GB of weights, in the page cache",
                3.0,
                r"^load \d+ networks, [\d.]+ GB +([\d.]+) s .* floor ([\d.]+) s",
            ),
            Line(
                "load: main memory beside the page cache",
                None,
                r"^load \d+ networks, .* main memory \+ ([\d.]+) GB",
                unit="GB",
                better="neither",
            ),
            *(
                Line(
                    f"load: rate of the {name}", None, rf"^load {name}, .* ([\d.]+) GB/s", unit="GB/s", better="neither"
                )
                for name in ("page cache", "bus", "disk")
            ),
        ),
    ),
    Job(
        "batch",
        (BENCH("batch"),),
        4.0,
        (
            Line("batch of four over singles, throughput", 1.25, BATCH("bf16"), unit="x", better="more"),
            Line("batch of four over singles, new pictures", None, BATCH("bf16.fresh"), unit="x", better="more"),
        ),
    ),
    Job(
        "flow",
        (BENCH("flow"), "--quantization", "none", "--cases", "structure", "latent 2,380", "latent 9,556"),
        1.0,
        tuple(
            Line(f"one forward, {case}", None, rf"{case} none auto +([\d.]+) ms", floor, reference, "ms")
            for case, floor, reference in FORWARDS
        ),
    ),
    Job(
        "simplify",
        (BENCH("simplify"), "--resolutions", "1024", "--targets", "200000", "--surfaces", "standard", "thin"),
        0.6,
        tuple(
            Line(f"simplify 4.9 M to 200k, {name}", None, rf"{name} 1024 200,000 auto +([\d.]+) ms", None, None, "ms")
            for name in ("standard", "thin")
        ),
    ),
    Job(
        "CPU: picture to asset",
        (*MINI, "--preset", "game high", "-o", "{tmp}/mini.glb"),
        3.0,
        gpu=0,
        whole=Line("CPU: mini, picture to asset", 40, ""),
        memory=Line("CPU: mini, picture to asset, peak", 3, "", unit="GB"),
    ),
    Job(
        "CPU: game low",
        (*GAME_LOW, "--resolution", "512", "--device", "cpu", "-o", "{tmp}/low.glb"),
        4.0,
        gpu=0,
        whole=Line("CPU: mesh to game low at 512", 25, ""),
        memory=Line("CPU: mesh to game low at 512, peak", 2, "", unit="GB"),
    ),
    Job(
        "CPU: simplify",
        (*SIMPLIFY, "--resolutions", "330", "--targets", "8000", "--backends", "numba"),
        3.0,
        (Line("CPU: simplify 0.5 M to 8k", 15, r"standard 330 8,000 numba +([\d.]+) ms", factor=1e-3),),
        gpu=0,
    ),
)

DERIVED = (
    Derived(
        "picture to GLB, bf16",
        4.0,
        ("picture to mesh, bf16", "asset 200k 2048², bumpy: all"),
        lambda a, b: a + b,
        2.4,
        31.8,
    ),
    Derived(
        "picture to GLB, fp8+cache",
        2.5,
        ("picture to mesh, fp8+cache", "asset 200k 2048², bumpy: all"),
        lambda a, b: a + b,
    ),
    Derived(
        "occlusion 2048²",
        0.2,
        ("bake 200k 2048², with occlusion", "bake 200k 2048²"),
        lambda a, b: a - b,
    ),
    Derived(
        "first use of a machine, more than the second asset",
        15,
        ("first asset on a machine", "second asset of a process"),
        lambda a, b: a - b,
    ),
    Derived(
        "first use of a process, more than the second asset",
        1.5,
        ("first asset of a process", "second asset of a process"),
        lambda a, b: a - b,
    ),
)


def lines_of(job: Job) -> tuple[Line, ...]:
    """All lines of a job."""
    return (*job.lines, *(line for line in (job.whole, job.memory) if line is not None))
