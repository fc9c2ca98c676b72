"""Evaluation of a checkpoint on held-out objects, generated from one picture each."""

from __future__ import annotations

import csv
import io
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import mean, median

import torch
from PIL import Image

from ....o_voxel.core.atomic_io import append_file, write_files
from ....o_voxel.core.progress import Progress
from ....o_voxel.ops.grid_sample import grid_sample
from ....o_voxel.ops.hash_grid import hash_grid
from ....o_voxel.render.camera import Camera
from ....o_voxel.values import OVoxel, VoxelField, to_device
from ....o_voxel.voxels.to_mesh import dual_grid_to_mesh
from ...checkpoint.config import SamplerConfig
from ...image import prepare_image
from ...image.views import ViewDirection
from ...networks import SHAPE_ENCODER
from ...pipeline import Asset, Pipeline
from ...projection.camera import ViewRig
from ...values import EmptyOutputError
from ..data.stream import map_in_order
from .metrics import TrueSurface, component_count, delta_e, edge_faults, structure_iou, visible_points

RESOLUTION, STRUCTURE = 512, 32  # voxels a side of the surface and of the structure
SURFACE_DISTANCE, VAE_DISTANCE = 0.02, 0.005  # world units; the object fills the unit cube
Row = Mapping[str, float | str]
SURFACE = ("open_edges", "non_manifold", "components")
# column -> (title, True if higher is better, goal)
COLUMNS = {
    "structure_iou": ("structure IoU at 32^3", True, 0.75),
    "f_score": ("surface F-score at 2 %", True, 0.80),
    "delta_e": ("base colour, Delta E 76", False, 15.0),
    "vae_f_score": ("shape VAE F-score at 0.5 %", True, 0.95),
    "open_edges": ("open edges, of closed objects", False, 0.01),
    "non_manifold": ("non-manifold edges, likewise", False, 0.01),
    "components": ("components, median", False, 5.0),
}
MEDIANS = ("components",)
# An object is closed if no greater share of its true surface's edges is open.
CLOSED = 1e-3
# How the camera of the picture is given to a checkpoint whose flows project: not at all, or as it was.
CAMERAS = ("guessed", "given")
TEXT = ("name", "camera", "problem")
TIMES = ("networks", "seconds")  # of generation alone, and of the row


@dataclass(frozen=True, eq=False)
class Case:
    """A test case: the prepared picture of an object, the camera that took it, and the true voxels. fov_deg: field of
    view of the prepared picture, if known."""

    name: str
    picture: Image.Image
    voxels: OVoxel
    camera: Camera
    fov_deg: float | None = None


def held_out(split: str, objects: int) -> Sequence[WorldCase]:
    """The first `objects` cases of a split, made when called; always the same.

    split: "instances", unseen objects of training families, or "families", objects of families that are never trained
    on.  Raises ValueError for another split.
    """
    from ..world import HELD_OUT_FAMILIES, HELD_OUT_SEEDS, TRAIN_FAMILIES

    if split not in ("instances", "families"):
        raise ValueError(f"split: expected 'instances' or 'families', got {split!r}")
    families = TRAIN_FAMILIES if split == "instances" else HELD_OUT_FAMILIES
    numbers = (divmod(index, len(families)) for index in range(objects))
    return [WorldCase(families[family], HELD_OUT_SEEDS[number]) for number, family in numbers]


@dataclass(frozen=True)
class WorldCase:
    """An object of the procedural world; a call makes its Case."""

    family: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.family}/{self.seed}"

    def __call__(self) -> Case:
        from ..world import framed_fov, make_rendered_object

        sample = make_rendered_object(self.family, self.seed, resolution=RESOLUTION, image_size=512, views=1)
        picture = prepare_image(sample.images[0])
        camera = sample.views[0].camera
        return Case(self.name, picture, sample.voxels, camera, framed_fov(camera.fov_deg))


def evaluate(
    pipeline: Pipeline,
    cases: Sequence[Callable[[], Case]],
    *,
    steps: int | None = None,
    seed: int = 0,
    cameras: Sequence[str] = CAMERAS[:1],
    workers: int = 0,
    on_rows: Callable[[Sequence[Row]], None] | None = None,
    on_progress: Progress | None = None,
) -> list[Row]:
    """Generate each case and measure it; a row of COLUMNS for each of `cameras`.

    steps: of every sampler, None: the checkpoint's.  seed: of the noise.  workers: processes that make cases ahead,
    which must then be picklable.  on_rows: gets each case's rows as they are done.  A case whose generated structure is
    empty scores 0, with NaN for what cannot be measured and the reason as `problem`; any other error propagates.
    """
    rows: list[Row] = []
    for done, case in enumerate(map_in_order(partial(_make, tuple(cases)), range(len(cases)), workers)):
        started = time.perf_counter()
        truth = Truth.of(case, pipeline.residency.device)
        score = shape_vae_score(pipeline, truth)
        shared = (time.perf_counter() - started) / len(cameras)
        own = [_row(pipeline, case, truth, camera, (steps, seed)) for camera in cameras]
        own = [{**row, "vae_f_score": score, "seconds": round(row["seconds"] + shared, 2)} for row in own]
        rows += own
        if on_rows is not None:
            on_rows(own)
        if on_progress is not None:
            on_progress((done + 1) / len(cases))
    return rows


def _make(cases: Sequence[Callable[[], Case]], index: int) -> Case:
    return cases[index]()


def _row(
    pipeline: Pipeline, case: Case, truth: Truth, camera: str, options: tuple[int | None, int]
) -> dict[str, object]:
    """The row of a case but for its VAE. options: steps and seed, see `evaluate`."""
    started = time.perf_counter()
    view = (
        ViewRig(case.fov_deg, (ViewDirection(case.camera.yaw_deg, case.camera.pitch_deg),))
        if camera == "given"
        else None
    )
    try:
        generated = generate(pipeline, case.picture, *options, view)
        networks = time.perf_counter() - started
        scores: dict[str, object] = {"problem": "", **measure(generated, truth)}
    except EmptyOutputError as error:
        networks = time.perf_counter() - started
        scores = {"structure_iou": 0.0, "f_score": 0.0, **dict.fromkeys(("delta_e", *SURFACE), math.nan)}
        scores["problem"] = str(error)[:80]
    seconds = time.perf_counter() - started
    return {"name": case.name, "camera": camera, **scores, "networks": round(networks, 2), "seconds": seconds}


@dataclass(frozen=True, eq=False)
class Truth:
    """A true object on a device, with what all figures need of it.

    coarse: [N, 3] occupied voxels of the structure's grid.  seen: [P, 3] world points that the picture sees, colors:
    their sRGB.  closed: whether its surface has next to no open edges.
    """

    voxels: OVoxel
    surface: TrueSurface
    coarse: torch.Tensor
    seen: torch.Tensor
    colors: torch.Tensor
    closed: bool

    @classmethod
    def of(cls, case: Case, device: torch.device) -> Truth:
        """The truth of a case."""
        voxels = to_device(case.voxels, device)
        mesh = dual_grid_to_mesh(voxels.dual_grid)
        coarse = torch.unique(voxels.dual_grid.coords * STRUCTURE // voxels.dual_grid.grid.shape[0], dim=0)
        seen = visible_points(mesh, case.camera)
        closed = edge_faults(mesh)[0] <= CLOSED
        return cls(voxels, TrueSurface(mesh), coarse, seen, base_color(voxels.field, seen), closed)


@dataclass(frozen=True, eq=False)
class Generated:
    """A generated object. structure: [N, 3] int32 occupied voxels on the 32³ grid."""

    structure: torch.Tensor
    asset: Asset


def measure(generated: Generated, truth: Truth) -> dict[str, float]:
    """The figures of a generated object, on the truth's device; edges are NaN where the truth is not closed."""
    mesh = generated.asset.mesh
    faults = edge_faults(mesh) if truth.closed else (math.nan, math.nan)
    return {
        "structure_iou": structure_iou(generated.structure, truth.coarse),
        "f_score": truth.surface.f_score(mesh, SURFACE_DISTANCE),
        "delta_e": float(delta_e(base_color(generated.asset.field, truth.seen), truth.colors).mean()),
        **dict(zip(SURFACE, (*faults, float(component_count(mesh))), strict=True)),
    }


def shape_vae_score(pipeline: Pipeline, truth: Truth) -> float:
    """F-score of an object reconstructed by the shape VAE with predicted subdivisions; NaN if the checkpoint has no
    shape encoder."""
    if SHAPE_ENCODER not in pipeline.config.models:
        return math.nan
    return truth.surface.f_score(pipeline.reconstruct(OVoxel(truth.voxels.dual_grid)).mesh, VAE_DISTANCE)


def means(rows: Sequence[Row]) -> dict[str, float]:
    """The mean of each of COLUMNS, the median of MEDIANS, over the rows where it is not NaN; NaN without any."""
    found = {key: [row[key] for row in rows if not math.isnan(row.get(key, math.nan))] for key in COLUMNS}
    middle = {key: median if key in MEDIANS else mean for key in COLUMNS}
    return {key: float(middle[key](values)) if values else math.nan for key, values in found.items()}


def by_camera(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows of each of CAMERAS that there are."""
    found = {camera: [row for row in rows if row.get("camera", CAMERAS[0]) == camera] for camera in CAMERAS}
    return {camera: own for camera, own in found.items() if own}


def table(rows: Sequence[Row]) -> str:
    """The means as text: over all rows of each camera, with the goals, and over each family."""
    parts = by_camera(rows)
    lines = [f"{'':<32}{'goal':>8}" + "".join(f"{'camera ' + camera:>16}" for camera in parts)]
    found = [means(own) for own in parts.values()]
    for key, (title, more, goal) in COLUMNS.items():
        lines.append(f"{title:<32}{'>=' if more else '<='}{goal:>6g}" + "".join(f"{one[key]:>16.3f}" for one in found))
    lines += ["", f"{'family':<20}{'camera':<10}{'n':>4}" + "".join(f"{key:>15}" for key in COLUMNS)]
    for family, of_family in _by_family(rows):
        for camera, own in by_camera(of_family).items():
            figures = "".join(f"{value:>15.3f}" for value in means(own).values())
            lines.append(f"{family:<20}{camera:<10}{len(own):>4}{figures}")
    failed = sum(bool(row["problem"]) for row in rows)
    objects = len({row["name"] for row in rows})
    return "\n".join([*lines, "", f"{objects} objects, {len(rows)} rows, of which {failed} could not be made"])


def write_rows(path: Path, rows: Sequence[Row], *, add: bool = False) -> None:
    """Write the rows as CSV, with the folders of `path`, whole or not at all. add: behind those that are there, in
    place; a process that is killed at it may leave a part of a line, over which `read_rows` passes."""
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, ["name", "camera", *COLUMNS, *TIMES, "problem"], restval="nan")
    add = add and path.exists()
    if not add:
        writer.writeheader()
    writer.writerows({"camera": CAMERAS[0], **row} for row in rows)
    content = file.getvalue().encode()
    if add:
        append_file(path, content)
    else:
        write_files({path: content})


def read_rows(path: Path) -> list[Row]:
    """The rows of a CSV by `write_rows`, without a last one that was cut off. Raises ValueError if columns are
    missing."""
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    if not {*COLUMNS, *TEXT} <= set(reader.fieldnames or ()):
        raise ValueError(f"{path}: expected the rows of `trellis2 evaluate -o`, got columns {reader.fieldnames}")
    if rows and None in rows[-1].values():
        rows.pop()
    return [{key: value if key in TEXT else float(value) for key, value in row.items()} for row in rows]


def generate(
    pipeline: Pipeline, picture: Image.Image, steps: int | None, seed: int, view: ViewRig | None = None
) -> Generated:
    """Generate an object at 512 from a prepared picture. steps: of every sampler, None: the checkpoint's.  view: the
    picture's camera, None: guessed.

    Raises EmptyOutputError if its structure is empty.
    """

    def with_steps(sampler: SamplerConfig) -> SamplerConfig:
        return sampler if steps is None else replace(sampler, params=replace(sampler.params, steps=steps))

    config = pipeline.config
    condition = pipeline.condition([[picture]], resolution=RESOLUTION, view_mode=view or "average")
    structure = pipeline.sample_structure(
        condition, seed=seed, resolution=STRUCTURE, sampler=with_steps(config.sparse_structure_sampler)
    )
    shape = pipeline.sample_shape(condition, structure, seed=seed, sampler=with_steps(config.shape_slat_sampler))
    texture = pipeline.sample_texture(condition, shape, seed=seed, sampler=with_steps(config.tex_slat_sampler))
    return Generated(structure.items[0], pipeline.decode(shape, texture)[0])


def base_color(field: VoxelField, points: torch.Tensor) -> torch.Tensor:
    """sRGB [P, 3] fp32 of a field at world points [P, 3]; at the nearest voxel for points outside its voxels."""
    index = hash_grid(field.coords)
    places = field.grid.to_grid(points)
    return grid_sample(field.attrs.float(), index, places, fill_from=field.coords)[:, :3].clamp(0, 1)


def _by_family(rows: Sequence[Row]) -> Iterator[tuple[str, list[Row]]]:
    """(family, its rows), by name."""
    names = sorted({str(row["name"]).split("/")[0] for row in rows})
    for name in names:
        yield name, [row for row in rows if str(row["name"]).split("/")[0] == name]
