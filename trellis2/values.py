"""What flows between the stages. Frozen; a stage returns new values and never writes to its input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ..o_voxel.core.checks import check_tensor
from .sparse import Ragged, SparseTensor

VIEW_MODES = ("average", "cycle")
# Shapes of the noise that an item's earlier stages drew; see `draw_noise`.
Drawn = tuple[tuple[int, ...], ...]


class EmptyOutputError(ValueError):
    """A network's output has no voxels or no faces, so that later stages have no input."""


@dataclass(frozen=True, eq=False)
class ImageCondition:
    """Image tokens of B objects seen in V views each.

    tokens_512, tokens_1024: [B, V, L, C] fp32, from the image at 512 and at 1024 pixels; the second is None where only
    the 512 models will run.  view_mode: how several views guide the sampling, "average" or "cycle".
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
        return len(self.tokens_512)

    def views(self, resolution: int) -> list[Ragged]:
        """The condition of each view, B items each, for the models of `resolution` (512, or 1024 and more)."""
        return [Ragged.from_items(view) for view in self._tokens(resolution).unbind(1)]

    def tokens(self, resolution: int) -> int:
        """How many there are for the models of `resolution`, of all objects and views."""
        return self._tokens(resolution).shape[:3].numel()

    def _tokens(self, resolution: int) -> Tensor:
        tokens = self.tokens_512 if resolution == 512 else self.tokens_1024
        if tokens is None:
            raise ValueError("condition: the 1024 models need image tokens at 1024; condition with resolution 1024")
        return tokens


@dataclass(frozen=True, eq=False)
class SparseStructure:
    """Occupied voxels. items: [N_i, 3] int32 for each object, on a grid of `resolution` a side (32 or 64)."""

    items: tuple[Tensor, ...]
    resolution: int
    drawn: tuple[Drawn, ...]


@dataclass(frozen=True, eq=False)
class Latent:
    """A structured latent, de-normalised.

    slat: [T, C] fp32 on B objects' latent voxels.  resolutions: of the surface that each object decodes to, 16 times
    its latent grid; a cascade may reach different ones.
    """

    slat: SparseTensor
    resolutions: tuple[int, ...]
    drawn: tuple[Drawn, ...]

    @property
    def batch_size(self) -> int:
        return self.slat.coords.batch_size


class ShapeLatent(Latent):
    """A latent of the shape."""


class TextureLatent(Latent):
    """A latent of the material, on the voxels of the shape latent it was sampled for."""


def extend(drawn: Sequence[Drawn], shapes: Sequence[tuple[int, ...]]) -> tuple[Drawn, ...]:
    """Each item's draws with one more after them."""
    return tuple((*earlier, shape) for earlier, shape in zip(drawn, shapes, strict=True))
