"""The batch command: a folder of pictures, or a table of them, to a folder of files."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..batch.rows import BACKGROUNDS, FORMATS, RESOLUTIONS, RowOptions, read_rows
from .checks import check_device, check_folder, positive, scale
from .generate import add_sampling
from .meshes import add_asset_options
from .pictures import add_background
from .shared import chosen_backends

if TYPE_CHECKING:
    from ..batch.remote import Setup
    from ..batch.results import Result
    from ..batch.run import Engine, Report
    from ..checkpoint.layouts import Checkpoint


def add_commands(commands: argparse._SubParsersAction) -> None:
    """batch"""
    batch = commands.add_parser("batch", help="a folder of pictures, or a table, to a folder of files; resumable")
    batch.set_defaults(command=_batch)
    batch.add_argument(
        "source",
        type=Path,
        metavar="FOLDER|LIST.csv",
        help="pictures, an object each; or a table with a column image, and if wanted name, seed, resolution, preset "
        "and others in place of the options below",
    )
    batch.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="for the files and results.csv. The same command again makes what is missing, failed or changed",
    )
    batch.add_argument("--format", choices=FORMATS, default="glb", help="of the files (default glb)")
    add_background(batch)
    add_sampling(batch)
    batch.add_argument("--fov", type=scale, metavar="DEGREES", help="of Pixal3D models, see generate")
    add_asset_options(batch, None, "make finished assets (default: the decoded surface with vertex colours)")
    batch.add_argument(
        "--project-picture", action="store_true", help="with --preset: the picture's own detail on the texture"
    )
    batch.add_argument(
        "--device",
        help="cpu, cuda, cuda:1 …; all, or several with commas: a process on each (default: the best available)",
    )
    batch.add_argument(
        "--ray",
        nargs="?",
        const="local",
        metavar="ADDRESS",
        help="spread over a Ray cluster: auto, ray://HOST:10001, or without an address over this host",
    )
    batch.add_argument("--workers", type=positive, help="of Ray (default: one a GPU of the cluster, else one)")


def _batch(arguments: argparse.Namespace) -> int:
    from ..batch.run import common_settings, run_batch
    from ..checkpoint.layouts import Checkpoint

    if arguments.workers and arguments.ray is None:
        raise ValueError("--workers: expected --ray too; for processes on this host, name the devices in --device")
    check_folder(arguments.output)
    rows = read_rows(arguments.source, _options(arguments))
    checkpoint = Checkpoint.open(arguments.model, quantization=arguments.quantization)
    _check_types(checkpoint, {row.options.pipeline_type for row in rows})
    common = common_settings(checkpoint, attention=arguments.attention)
    engine = _engine(arguments, common)
    report, close = _bar(len(rows))
    done: list[Result] = []
    try:
        summary = run_batch(rows, arguments.output, engine, common, report=report, on_result=done.append)
    except KeyboardInterrupt:
        close()
        print(f"{arguments.output}: interrupted; {len(done)} made now; the same command again goes on")
        return 130
    finally:
        close()
    for line in summary.lines():
        print(f"{arguments.output}: {line}")
    return 1 if summary.failed else 0


def _options(arguments: argparse.Namespace) -> RowOptions:
    return RowOptions(
        seed=arguments.seed,
        background=BACKGROUNDS[arguments.background],
        pipeline_type=RESOLUTIONS.get(arguments.resolution),
        steps=arguments.steps,
        step_cache=arguments.step_cache,
        sampler=arguments.sampler,
        fov=arguments.fov,
        preset=arguments.preset,
        faces=arguments.faces,
        texture_size=arguments.texture_size,
        surface=arguments.surface,
        project_picture=arguments.project_picture,
        format=arguments.format,
    )


def _check_types(checkpoint: Checkpoint, types: set[str | None]) -> None:
    from ..capabilities import Capabilities

    for name in sorted(types - {None}):
        Capabilities.of(checkpoint.config).check_type(name)


def _engine(arguments: argparse.Namespace, common: dict[str, str]) -> Engine:
    """One worker in this process, a process for each of several devices, or Ray's workers."""
    from ..batch.remote import ProcessWorker, Setup, build, devices_of
    from ..batch.run import InProcess, Spread

    setup = Setup(
        arguments.model, common, arguments.quantization, arguments.attention, arguments.vram, arguments.device
    )
    if arguments.ray is not None:
        return _over_ray(arguments, setup)
    devices = [None] if arguments.device is None else devices_of(arguments.device)
    for device in devices:
        check_device(device)
        chosen_backends(argparse.Namespace(device=device, attention=arguments.attention))
    setups = [_on(setup, device) for device in devices]
    if len(setups) == 1:
        return InProcess(build(vars(setups[0])))
    return Spread([partial(ProcessWorker, each) for each in setups])


def _over_ray(arguments: argparse.Namespace, setup: Setup) -> Engine:
    from ..batch.ray_workers import RayWorker, cards, connect, source_everywhere
    from ..batch.run import Spread

    ray = connect(arguments.ray)
    count = arguments.workers or cards(ray) or 1
    setup = type(setup)(**vars(setup) | {"source": source_everywhere(setup.source)})
    return Spread([partial(RayWorker, ray, setup, number) for number in range(count)])


def _on(setup: Setup, device: str | None) -> Setup:
    return type(setup)(**vars(setup) | {"device": device})


def _bar(rows: int) -> tuple[Report, Callable[[], None]]:
    """(report, close) of one progress bar over all rows, on standard error."""
    from tqdm import tqdm

    bar = tqdm(total=rows, bar_format="{desc} {n:.1f}/{total_fmt} |{bar}| {elapsed}<{remaining}", disable=None)

    def report(line: str, fraction: float) -> None:
        bar.set_description_str(f"{line:<24.24}", refresh=False)
        bar.update(fraction * rows - bar.n)

    return report, bar.close
