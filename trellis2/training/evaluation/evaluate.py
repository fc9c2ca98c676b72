"""Evaluation of a checkpoint on held-out objects, generated from one picture each."""

from __future__ import annotations

import csv
import io
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image

from ....o_voxel.core.atomic_io import write_files
from ....o_voxel.core.progress import Progress
from ....o_voxel.ops.grid_sample import grid_sample
from ....o_voxel.ops.hash_grid import hash_grid
from ....o_voxel.render.camera import Camera
from ....o_voxel.values import OVoxel, VoxelField, to_device
from ....o_voxel.voxels.to_mesh import dual_grid_to_mesh
from ...checkpoint.config import SamplerConfig
from ...image import prepare_image
from ...networks import SHAPE_ENCODER
from ...pipeline import Asset, Pipeline
from ...values import EmptyOutputError
from .metrics import delta_e, f_score, structure_iou, visible_points

RESOLUTION, STRUCTURE = 512, 32  # voxels a side of the surface and of the structure
SURFACE_DISTANCE, VAE_DISTANCE = 0.02, 0.005  # world units; the object fills the unit cube
Row = Mapping[str, float | str]
# column -> (title, True if higher is better, goal)
COLUMNS = {
    "structure_iou": ("structure IoU at 32^3", True, 0.75),
    "f_score": ("surface F-score at 2 %", True, 0.80),
    "delta_e": ("base colour, Delta E 76", False, 15.0),
    "vae_f_score": ("shape VAE F-score at 0.5 %", True, 0.95),
}


@dataclass(frozen=True, eq=False)
class Case:
    """A test case: the prepared picture of an object, the camera that took it, and the true voxels."""

    name: str
    picture: Image.Image
    voxels: OVoxel
    camera: Camera


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
        from ..world import make_rendered_object

        sample = make_rendered_object(self.family, self.seed, resolution=RESOLUTION, image_size=512, views=1)
        picture = prepare_image(sample.images[0])
        return Case(self.name, picture, sample.voxels, sample.views[0].camera)


def evaluate(
    pipeline: Pipeline,
    cases: Sequence[Callable[[], Case]],
    *,
    steps: int | None = None,
    seed: int = 0,
    on_progress: Progress | None = None,
) -> list[Row]:
    """Generate each case and measure it; a row of COLUMNS each.

    steps: of every sampler, None: the checkpoint's.  seed: of the noise.  A case whose generated structure is empty
    scores 0, with a NaN colour difference and the reason as `problem`; any other error propagates.
    """
    rows = []
    for done, make in enumerate(cases):
        case = make()
        started = time.perf_counter()
        try:
            scores = measure(generate(pipeline, case.picture, steps, seed), case.voxels, case.camera)
        except EmptyOutputError as error:
            scores = {"structure_iou": 0.0, "f_score": 0.0, "delta_e": math.nan, "problem": str(error)[:80]}
        row = {"name": case.name, **scores, "vae_f_score": shape_vae_score(pipeline, case.voxels)}
        rows.append({"problem": "", **row, "seconds": round(time.perf_counter() - started, 2)})
        if on_progress is not None:
            on_progress((done + 1) / len(cases))
    return rows


@dataclass(frozen=True, eq=False)
class Generated:
    """A generated object. structure: [N, 3] int32 occupied voxels on the 32³ grid."""

    structure: torch.Tensor
    asset: Asset


def measure(generated: Generated, true: OVoxel, camera: Camera) -> dict[str, float]:
    """Structure IoU, surface F-score and mean colour difference against the true object, on the asset's device."""
    true = to_device(true, generated.asset.mesh.vertices.device)
    surface = dual_grid_to_mesh(true.dual_grid)
    coarse = torch.unique(true.dual_grid.coords * STRUCTURE // true.dual_grid.grid.shape[0], dim=0)
    seen = visible_points(surface, camera)
    colors = [base_color(field, seen) for field in (generated.asset.field, true.field)]
    return {
        "structure_iou": structure_iou(generated.structure, coarse),
        "f_score": f_score(generated.asset.mesh, surface, SURFACE_DISTANCE),
        "delta_e": float(delta_e(*colors).mean()),
    }


def shape_vae_score(pipeline: Pipeline, voxels: OVoxel) -> float:
    """F-score of an object reconstructed by the shape VAE with predicted subdivisions; NaN if the checkpoint has no
    shape encoder."""
    if SHAPE_ENCODER not in pipeline.config.models:
        return math.nan
    shape = OVoxel(to_device(voxels.dual_grid, pipeline.residency.device))
    return f_score(pipeline.reconstruct(shape).mesh, dual_grid_to_mesh(shape.dual_grid), VAE_DISTANCE)


def means(rows: Sequence[Row]) -> dict[str, float]:
    """The mean of each of COLUMNS over the rows where it is not NaN; NaN without any."""
    found = {key: [row[key] for row in rows if not math.isnan(row[key])] for key in COLUMNS}
    return {key: sum(values) / len(values) if values else math.nan for key, values in found.items()}


def table(rows: Sequence[Row]) -> str:
    """The means as text: over all rows, with the goals, and over each family."""
    lines = [f"{'':<28}{'mean':>8}{'goal':>9}"]
    for key, value in means(rows).items():
        title, more, goal = COLUMNS[key]
        lines.append(f"{title:<28}{value:>8.3f}{'>=' if more else '<=':>5}{goal:>5g}")
    lines += ["", f"{'family':<28}{'n':>4}" + "".join(f"{key:>15}" for key in COLUMNS)]
    for family, own in _by_family(rows):
        lines.append(f"{family:<28}{len(own):>4}" + "".join(f"{value:>15.3f}" for value in means(own).values()))
    failed = sum(bool(row["problem"]) for row in rows)
    return "\n".join([*lines, "", f"{len(rows)} objects, of which {failed} could not be made"])


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write the rows as CSV, with the folders of `path`."""
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, ["name", *COLUMNS, "seconds", "problem"])
    writer.writeheader()
    writer.writerows(rows)
    write_files({path: file.getvalue().encode()})


def read_rows(path: Path) -> list[Row]:
    """The rows of a CSV by `write_rows`. Raises ValueError if columns are missing."""
    text = ("name", "problem")
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if not set(COLUMNS) | set(text) <= set(reader.fieldnames or ()):
            raise ValueError(f"{path}: expected the rows of `trellis2 evaluate -o`, got columns {reader.fieldnames}")
        return [{key: value if key in text else float(value) for key, value in row.items()} for row in reader]


def generate(pipeline: Pipeline, picture: Image.Image, steps: int | None, seed: int) -> Generated:
    """Generate an object at 512 from a prepared picture. steps: of every sampler, None: the checkpoint's.

    Raises EmptyOutputError if its structure is empty.
    """

    def with_steps(sampler: SamplerConfig) -> SamplerConfig:
        return sampler if steps is None else replace(sampler, params=replace(sampler.params, steps=steps))

    config = pipeline.config
    condition = pipeline.condition([[picture]], resolution=RESOLUTION)
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
