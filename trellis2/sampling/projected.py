"""Pixal3D's condition: pictures encoded with their cameras, and for a stage the features of the pixels that its voxels
project to, averaged over the views.

The sparse structure reads the patches alone; shape and texture read, beside these, the map that NAF upsamples. Tokens
of the whole picture are averaged too, so that several views cost a stage no more than one. Letters as in `values`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from PIL import Image
from torch import Tensor

from ...o_voxel.core.grid import Grid
from ...o_voxel.core.progress import Progress, scaled
from ..capabilities import LATENT_STRIDE, Capabilities, image_size_of
from ..image.prepare import normalize_unit
from ..image.views import ViewBlend
from ..models.naf import NafUpsampler
from ..models.structure_vae import occupied_voxels
from ..networks import Networks
from ..projection.camera import ViewRig
from ..projection.frame import grid_points
from ..projection.pictures import ViewProjection, view_pictures
from ..projection.project import corners, project, sampled
from ..sparse import CoordSet, ProjectedSequences
from ..values import ImageCondition, whole_picture
from .cropped import CropGuide, block_guide, crop_guide

# Share of a stage's progress before it samples.
GUIDE_SHARE = 0.05


@dataclass(frozen=True, eq=False)
class StageGuide:
    """The condition of one stage in place of an `ImageCondition`, one sequence an object for all views together."""

    sequences: ProjectedSequences
    view_mode: str = "average"
    directions: None = None

    @property
    def batch_size(self) -> int:
        """B, the number of objects."""
        return len(self.sequences.lengths)

    def views(self, image_size: int) -> list[ProjectedSequences]:
        """Returns the only sequences, whatever the size."""
        return [self.sequences]


def encode_projected(
    networks: Networks,
    objects: Sequence[Sequence[Image.Image]],
    *,
    image_sizes: Sequence[int],
    view_mode: str | ViewBlend | ViewRig,
    progress: Progress | None = None,
) -> ImageCondition:
    """Image tokens, pictures and cameras of RGBA cut-outs, or of RGB pictures framed already; see `view_pictures`.

    view_mode: the cameras; "average" for those of one picture. Raises ValueError for another mode, as views are
    projected and not blended, and for views without cameras.
    """
    if isinstance(view_mode, ViewBlend) or view_mode in ("cycle", "blend"):
        name = "blend" if isinstance(view_mode, ViewBlend) else view_mode
        raise ValueError(
            f"view_mode {name}: this checkpoint projects every view onto the voxels at every step; choose average, "
            "with the side of each view from the Views node (generate: --view NAME=FILE)"
        )
    rig = view_mode if isinstance(view_mode, ViewRig) else ViewRig()
    framed = [view_pictures(views, rig, image_sizes) for views in objects]
    tokens: dict[int, list[Tensor]] = {size: [] for size in image_sizes}
    total, done = len(framed) * len(objects[0]), 0
    with networks.image_encoder() as encoder:
        for pictures, _, _ in framed:
            for view in range(len(objects[0])):
                for size in image_sizes:
                    pixels = normalize_unit(pictures[size][view].permute(1, 2, 0)).permute(2, 0, 1)
                    tokens[size].append(encoder(pixels.to(networks.device)[None])[0])
                done += 1
                if progress is not None:
                    progress(done / total)
    stacked = {size: torch.stack(rows).unflatten(0, (len(objects), -1)) for size, rows in tokens.items()}
    pictures = {size: torch.stack([found[size] for found, _, _ in framed]) for size in image_sizes}
    cameras, fov = (torch.stack([item[k] for item in framed]) for k in (1, 2))
    projection = ViewProjection(pictures[512], pictures.get(1024), cameras, fov)
    return ImageCondition(stacked[512], stacked.get(1024), projection=projection)


def structure_guide(
    networks: Networks, condition: ImageCondition, resolution: int
) -> ImageCondition | StageGuide | CropGuide:
    """The condition of the sparse structure, whose tokens are all voxels of a grid of `resolution` a side. A condition
    without projection stays as it is; raises ValueError where the checkpoint does not take its kind."""
    check_projection(networks, condition)
    if condition.crop is not None:
        return block_guide(condition, resolution, partial(_occupied, networks), networks.device)
    if condition.projection is None:
        return condition
    axis = torch.arange(resolution, dtype=torch.int32)
    cells = torch.cartesian_prod(axis, axis, axis)
    coords = CoordSet.from_items([cells.to(networks.device)] * condition.batch_size)
    return _guide(condition, 512, coords, (resolution,) * condition.batch_size, None, None, None)


def latent_guide(
    networks: Networks,
    condition: ImageCondition,
    kind: str,
    coords: CoordSet,
    resolutions: Sequence[int],
    progress: Progress | None = None,
) -> tuple[ImageCondition | StageGuide | CropGuide, Progress | None]:
    """Returns the condition of a structured latent on its voxels, and the progress that is left to sample it.

    kind: "shape" or "texture".  resolutions: of each object's surface, voxels a side.  As `structure_guide` otherwise.
    """
    check_projection(networks, condition)
    image_size, grids = image_size_of(resolutions), [resolution // LATENT_STRIDE for resolution in resolutions]
    if condition.crop is not None:
        return crop_guide(condition, image_size, coords.to(networks.device), grids), progress
    if condition.projection is None:
        return condition, progress
    target = getattr(condition.projection.upsampling, f"{kind}_{image_size}")
    with networks.image_upsampler() as upsampler:
        report = scaled(progress, 0, GUIDE_SHARE)
        guide = _guide(condition, image_size, coords.to(networks.device), grids, upsampler, target, report)
    return guide, scaled(progress, GUIDE_SHARE, 1 - GUIDE_SHARE)


def check_projection(networks: Networks, condition: ImageCondition) -> None:
    """Raises ValueError unless the condition has pictures and cameras just where the checkpoint projects them."""
    config = networks.config
    projects = Capabilities.of(config).projects
    if (config.crop is None) != (condition.crop is None):
        wanted, got = ("pictures read where voxels are in them", "image tokens alone")[:: 1 if config.crop else -1]
        raise ValueError(
            f"condition: expected {wanted}, got {got}, of another checkpoint; connect Image Condition and this stage "
            "to the same Load Model"
        )
    if projects != (condition.projection is not None):
        kinds = "image tokens alone", "pictures with cameras, as Pixal3D projects them"
        wanted, got = kinds[::-1] if projects else kinds
        raise ValueError(
            f"condition: expected {wanted}, got {got}, of another checkpoint; connect Image Condition and this stage "
            "to the same Load Model"
        )


def _occupied(networks: Networks, latent: Tensor) -> list[Tensor]:
    """World points [N, 3] of each object of a structure latent [B, C, R, R, R], the centres of occupied voxels."""
    with networks.structure_decoder() as decoder:
        logits = decoder(latent)
    grid = Grid.cube(logits.shape[-1])
    return [grid.centers(voxels) for voxels in occupied_voxels(logits, logits.shape[-1])]


def _guide(
    condition: ImageCondition,
    image_size: int,
    coords: CoordSet,
    grids: Sequence[int],
    upsampler: NafUpsampler | None,
    target: int | None,
    progress: Progress | None,
) -> StageGuide:
    tokens, device = condition.tokens(image_size), coords.device
    whole, views = whole_picture(tokens), tokens.shape[1]
    found, runs = [], condition.batch_size * views
    for item, (voxels, grid) in enumerate(zip(coords.voxels.split(coords.lengths), grids, strict=True)):
        points, total = grid_points(voxels, grid), None
        for view in range(views):
            report = scaled(progress, (item * views + view) / runs, 1 / runs)
            features = _features(condition, (item, view), image_size, points, (upsampler, target), report)
            total = features if total is None else total.add_(features)
        found.append(total if views == 1 else total / views)
    means = tokens[:, :, :whole].mean(dim=1).to(device)
    feats = means.flatten(0, 1).float()
    return StageGuide(ProjectedSequences(feats, (whole,) * condition.batch_size, torch.cat(found)))


def _features(
    condition: ImageCondition,
    which: tuple[int, int],  # object and view
    image_size: int,
    points: Tensor,
    upsampling: tuple[NafUpsampler | None, int | None],
    progress: Progress,
) -> Tensor:
    """The features [T, C] or [T, 2 C] fp32 of one view at the points [T, 3] of one object."""
    projection, tokens = condition.projection, condition.tokens(image_size)
    picture = projection.pictures(image_size)[which].to(points.device)
    patches = tokens[which][whole_picture(tokens) :].to(points.device).float()
    size, side = picture.shape[-1], round(len(patches) ** 0.5)
    camera, fov = (part[which].to(points.device) for part in (projection.cameras, projection.fov))
    pixels = project(points, camera, fov, size)
    coarse = sampled(patches, corners(pixels, size, side))
    upsampler, target = upsampling
    if upsampler is None:
        return coarse
    at = corners(pixels, size, target)
    fine = upsampler(picture, patches.unflatten(0, (side, side)), target, at.pixels, at.weights, progress)
    return torch.cat([coarse, fine], dim=1)
