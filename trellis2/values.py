"""Frozen values passed between the stages: a stage returns new ones and never writes to its inputs.

Letters: B objects, V views of each, L image tokens of a view, N voxels, T latent voxels of all objects, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import isqrt

import torch
from torch import Tensor

from ..o_voxel.core.checks import check_tensor
from ..o_voxel.values import Mesh, VoxelField
from .checkpoint.config import SamplerParams
from .image.views import VIEW_TEMPERATURE
from .projection.framing import CropViews
from .projection.pictures import ViewProjection
from .sampling.noise import NoiseHistory
from .sparse import CoordSet, PackedSequences, SparseTensor

VIEW_MODES = ("average", "cycle", "blend")


class EmptyOutputError(ValueError):
    """A network's output has no voxels or no faces, so later stages have no input."""


@dataclass(frozen=True, eq=False)
class ImageCondition:
    """Image tokens of B objects with V views each.

    tokens_512, tokens_1024: [B, V, L, C] fp32, of the images resized to 512 and to 1024 pixels a side. tokens_1024 is
    None if only the 512 models run.  view_mode: how several views guide the sampling, one of VIEW_MODES.
    directions: [V, 3] fp32 unit vectors in model space from the object to each view's camera, which "blend" needs, see
    `image.views`.  temperature: of "blend"; lower gives every voxel to the view that sees it best.
    projection: pictures and cameras, of a checkpoint that projects them (Pixal3D); all views then guide every step.
    crop: what flows read where their tokens are in the picture, of a checkpoint with `PipelineConfig.crop`.

    Raises ValueError for other shapes, no image, an unknown view_mode, "blend" without directions, or a temperature
    that is not positive.
    """

    tokens_512: Tensor
    tokens_1024: Tensor | None
    view_mode: str = "average"
    directions: Tensor | None = None
    temperature: float = VIEW_TEMPERATURE
    projection: ViewProjection | None = None
    crop: CropViews | None = None

    def __post_init__(self) -> None:
        items, views, _, channels = check_tensor(self.tokens_512, "tokens_512", (None,) * 4).shape
        if self.tokens_1024 is not None:
            check_tensor(self.tokens_1024, "tokens_1024", (items, views, None, channels))
        if self.view_mode not in VIEW_MODES:
            raise ValueError(f"view_mode: expected one of {VIEW_MODES}, got {self.view_mode!r}")
        if items == 0 or views == 0:
            raise ValueError(f"condition: expected at least one image, got {items} objects of {views} views")
        if self.projection is not None and tuple(self.projection.fov.shape) != (items, views):
            got = list(self.projection.fov.shape)
            raise ValueError(f"projection: expected {items} objects of {views} views, got {got}")
        if not 0 < self.temperature < float("inf"):
            raise ValueError(f"temperature: expected a positive number, got {self.temperature}")
        if self.directions is not None:
            lengths = check_tensor(self.directions, "directions", (views, 3), torch.float32).norm(dim=1)
            if not bool(((lengths - 1).abs() < 1e-4).all()):
                raise ValueError(f"directions: expected unit vectors, got lengths {lengths.tolist()}")
        elif self.view_mode == "blend" and views > 1:
            raise ValueError(
                "view_mode blend: expected the direction of each view, got pictures without; connect the Views node "
                "to images (generate: --view NAME=FILE), or choose average"
            )

    @property
    def batch_size(self) -> int:
        """B, the number of objects."""
        return len(self.tokens_512)

    def views(self, image_size: int) -> list[PackedSequences]:
        """Returns the condition of each of V views, B sequences [B L, C] fp32, from images of image_size pixels a side.

        image_size: 512; any other value means 1024. Raises ValueError for 1024 if `tokens_1024` is None.
        """
        return [PackedSequences.from_items(view) for view in self.tokens(image_size).unbind(1)]

    def num_tokens(self, image_size: int) -> int:
        """Returns B V L, the number of image tokens at image_size pixels a side that a flow attends to; with a
        projection those of the whole pictures, averaged over the views. Raises the errors of `views`."""
        tokens = self.tokens(image_size)
        return tokens.shape[:3].numel() if self.projection is None else len(tokens) * whole_picture(tokens)

    def tokens(self, image_size: int) -> Tensor:
        """Returns [B, V, L, C] fp32, see `views`."""
        tokens = self.tokens_512 if image_size == 512 else self.tokens_1024
        if tokens is None:
            raise ValueError(
                "condition: expected image tokens at 1024, which every stage above 512 needs, got them at 512 only; "
                "set tokens to 1024 in Image Condition"
            )
        return tokens


def whole_picture(tokens: Tensor) -> int:
    """Returns how many of the tokens [..., L, C] stand before the patches, for the whole picture: class and registers,
    fewer than twice the patches a side."""
    return tokens.shape[-2] - isqrt(tokens.shape[-2]) ** 2


@dataclass(frozen=True)
class Made:
    """How a stage made a value. stage: "structure", "shape", "cascade", "refine" or "texture".  model: its
    `Checkpoint.name`."""

    stage: str
    seed: int
    sampler: SamplerParams
    model: str


@dataclass(frozen=True, eq=False)
class SparseStructure:
    """Occupied voxels of each object, on a grid of `resolution` voxels a side (32 or 64).

    items: B tensors [N_i, 3] int32 (x, y, z).  noise_history: of each object, see `noise`.  made, y_up: see `Latent`.
    """

    items: tuple[Tensor, ...]
    resolution: int
    noise_history: tuple[NoiseHistory, ...]
    made: tuple[Made, ...] = field(default=(), kw_only=True)
    y_up: bool = field(default=False, kw_only=True)


@dataclass(frozen=True, eq=False)
class Latent:
    """A structured latent in the decoders' space, not normalised.

    slat: [T, C] fp32 on the latent voxels of B objects.  resolutions: of each object's decoded surface in voxels a
    side, 16 times its latent grid; they may differ after a cascade.  noise_history: of each object.  space: the
    `Normalization.fingerprint` of the checkpoint that it belongs to; empty: unknown.
    made: by which stages, first to last, as far as it is known.
    y_up: its voxels are in Pixal3D's frame, see `projection.frame`; what is decoded is turned to z up.
    """

    slat: SparseTensor
    resolutions: tuple[int, ...]
    noise_history: tuple[NoiseHistory, ...]
    space: str = ""
    made: tuple[Made, ...] = field(default=(), kw_only=True)
    y_up: bool = field(default=False, kw_only=True)

    @property
    def batch_size(self) -> int:
        """B, the number of objects."""
        return self.slat.coords.batch_size


@dataclass(frozen=True, eq=False)
class ShapeLatent(Latent):
    """Latent of the shape. A separate type, so that node sockets reject a texture latent.

    surface: voxels of the surface that was encoded, which the decoders then follow; None for a sampled shape, whose
    decoder predicts them.
    """

    surface: CoordSet | None = None


class TextureLatent(Latent):
    """Latent of the materials, on the voxels of the shape latent that it was sampled for."""


@dataclass(frozen=True, eq=False)
class Asset:
    """A decoded object. mesh: raw surface.  field: PBR materials on the surface's voxels, None without a texture."""

    mesh: Mesh
    field: VoxelField | None


@dataclass(frozen=True, eq=False)
class Latents:
    """What the stages before decoding sampled, of B objects; None: not yet, or not kept.

    shape: the last one, after a cascade.  Raises ValueError for unequal numbers of objects, or none of the three.
    """

    structure: SparseStructure | None = None
    shape: ShapeLatent | None = None
    texture: TextureLatent | None = None

    def __post_init__(self) -> None:
        if not self.kinds:
            raise ValueError("latents: expected a structure, a shape or a texture, got none")
        counts = {kind: len(getattr(self, kind).noise_history) for kind in self.kinds}
        if len(set(counts.values())) > 1:
            raise ValueError(f"latents: expected the same number of objects in each, got {counts}")

    @property
    def kinds(self) -> tuple[str, ...]:
        """Names of those that there are."""
        return tuple(kind for kind in ("structure", "shape", "texture") if getattr(self, kind) is not None)
