"""Frozen values passed between the stages: a stage returns new ones and never writes to its inputs.

Letters: B objects, V views of each, L image tokens of a view, N voxels, T latent voxels of all objects, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..o_voxel.core.checks import check_tensor
from ..o_voxel.values import Mesh, VoxelField
from .sampling.noise import NoiseHistory
from .sparse import CoordSet, PackedSequences, SparseTensor

VIEW_MODES = ("average", "cycle")


class EmptyOutputError(ValueError):
    """A network's output has no voxels or no faces, so later stages have no input."""


@dataclass(frozen=True, eq=False)
class ImageCondition:
    """Image tokens of B objects with V views each.

    tokens_512, tokens_1024: [B, V, L, C] fp32, of the images resized to 512 and to 1024 pixels a side. tokens_1024 is
    None if only the 512 models run.  view_mode: how several views guide the sampling, "average" or "cycle".

    Raises ValueError for other shapes, no image, or an unknown view_mode.
    """

    tokens_512: Tensor
    tokens_1024: Tensor | None
    view_mode: str = "average"

    def __post_init__(self) -> None:
        items, views, _, channels = check_tensor(self.tokens_512, "tokens_512", (None,) * 4).shape
        if self.tokens_1024 is not None:
            check_tensor(self.tokens_1024, "tokens_1024", (items, views, None, channels))
        if self.view_mode not in VIEW_MODES:
            raise ValueError(f"view_mode: expected one of {VIEW_MODES}, got {self.view_mode!r}")
        if items == 0 or views == 0:
            raise ValueError(f"condition: expected at least one image, got {items} objects of {views} views")

    @property
    def batch_size(self) -> int:
        """B, the number of objects."""
        return len(self.tokens_512)

    def views(self, image_size: int) -> list[PackedSequences]:
        """Returns the condition of each of V views, B sequences [B L, C] fp32, from images of image_size pixels a side.

        image_size: 512; any other value means 1024. Raises ValueError for 1024 if `tokens_1024` is None.
        """
        return [PackedSequences.from_items(view) for view in self._tokens(image_size).unbind(1)]

    def num_tokens(self, image_size: int) -> int:
        """Returns B V L, the number of image tokens at image_size pixels a side. Raises the errors of `views`."""
        return self._tokens(image_size).shape[:3].numel()

    def _tokens(self, image_size: int) -> Tensor:
        """Returns [B, V, L, C] fp32."""
        tokens = self.tokens_512 if image_size == 512 else self.tokens_1024
        if tokens is None:
            raise ValueError(
                "condition: expected image tokens at 1024, which every stage above 512 needs, got them at 512 only; "
                "set tokens to 1024 in Image Condition"
            )
        return tokens


@dataclass(frozen=True, eq=False)
class SparseStructure:
    """Occupied voxels of each object, on a grid of `resolution` voxels a side (32 or 64).

    items: B tensors [N_i, 3] int32 (x, y, z).  noise_history: of each object, see `noise`.
    """

    items: tuple[Tensor, ...]
    resolution: int
    noise_history: tuple[NoiseHistory, ...]


@dataclass(frozen=True, eq=False)
class Latent:
    """A structured latent in the decoders' space, not normalised.

    slat: [T, C] fp32 on the latent voxels of B objects.  resolutions: of each object's decoded surface in voxels a
    side, 16 times its latent grid; they may differ after a cascade.  noise_history: of each object.  space: the
    `Normalization.fingerprint` of the checkpoint that it belongs to; empty: unknown.
    """

    slat: SparseTensor
    resolutions: tuple[int, ...]
    noise_history: tuple[NoiseHistory, ...]
    space: str = ""

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
