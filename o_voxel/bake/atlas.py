"""The images of a texture atlas: written band by band, filled where nothing was, made into a material."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.color import to_bytes
from ..core.vectors import unit
from ..material import AlphaMode, Material, Texture
from ..ops.nearest_texel import nearest_texel
from ..values import PBR_CHANNELS
from .options import BakeOptions
from .sources import Channels
from .tangent_space import normal_bytes
from .texels import Samples

# Decoded alpha is a little below 1 nearly everywhere; what is meant to be seen through is well below.
OPAQUE_FROM = 230
CLEAR_TO = 25
# The least share of the texels that have to be seen through, for a mode that costs renderers more.
SEEN_THROUGH = 0.01
# The most of those that may be neither opaque nor clear, for a surface that is cut out: its rims.
IN_BETWEEN = 0.25


@dataclass(frozen=True, eq=False)
class Layer:
    """An image being made, and where it is. texels: [R * R, K] uint8, row 0 at v = 1.  valid: [R * R] bool."""

    texels: Tensor
    valid: Tensor

    @classmethod
    def empty(cls, resolution: int, channels: int, device: torch.device) -> Layer:
        shape = (resolution**2, channels)
        return cls(
            torch.zeros(shape, dtype=torch.uint8, device=device), torch.zeros(shape[0], dtype=torch.bool, device=device)
        )

    def write(self, where: slice | Tensor, values: Tensor, valid: Tensor) -> None:
        """Put `values` [T, K] uint8 at the texels `where` if `valid` [T] bool."""
        self.texels[where] = torch.where(valid[:, None], values, self.texels[where])
        self.valid[where] |= valid

    def filled(self, resolution: int, backend: str) -> Tensor:
        """[R, R, K] uint8; each texel that is not valid as the nearest that is. One has to be."""
        nearest = nearest_texel(self.valid.view(resolution, resolution), backend=backend)
        return self.texels.index_select(0, nearest.flatten()).view(resolution, resolution, -1)


@dataclass(frozen=True, eq=False)
class Atlas:
    """Layers field (PBR_CHANNELS), normal and occlusion; the last two may be None."""

    resolution: int
    field: Layer
    normal: Layer | None
    occlusion: Layer | None
    covered: Tensor

    @classmethod
    def empty(cls, options: BakeOptions, device: torch.device) -> Atlas:
        side = options.resolution
        return cls(
            side,
            Layer.empty(side, 6, device),
            Layer.empty(side, 3, device) if options.normal_map else None,
            Layer.empty(side, 1, device) if options.occlusion else None,
            torch.zeros(side**2, dtype=torch.bool, device=device),
        )

    def write(self, samples: Samples, channels: Channels) -> None:
        """Put the means of what `samples` found into their texels."""
        means, valid = samples.means(*channels.field)
        self.field.write(samples.texels, to_bytes(means), valid)
        if self.normal is not None:
            means, valid = samples.means(*channels.normal)
            self.normal.write(samples.texels, normal_bytes(unit(means)), valid)
        if self.occlusion is not None:
            means, valid = samples.means(*channels.occlusion)
            self.occlusion.write(samples.texels, to_bytes(means), valid)
        self.covered[samples.texels] |= samples.covered()

    def material(self, options: BakeOptions, backend: str) -> Material:
        """Every texel filled. Raises ValueError where no texel was covered, or none had a value."""
        if not bool(self.covered.any()):
            raise ValueError("uv_map: expected faces with an area in the atlas, got none")
        if not bool(self.field.valid.any()):
            raise ValueError("field: expected voxels near the mesh, got none; are both in the same world units?")
        mode = options.alpha_mode
        if mode == "auto":
            mode = alpha_mode(self.field.texels[:, PBR_CHANNELS["alpha"]][self.field.valid].flatten())
        image = self.field.filled(self.resolution, backend)
        channels = {name: _texture(image[..., part]) for name, part in PBR_CHANNELS.items()}
        normal = occlusion = None
        if self.normal is not None:
            normal = _texture(self.normal.filled(self.resolution, backend))
        # Without a place on the dense surface nothing is known to be in the way.
        if self.occlusion is not None and bool(self.occlusion.valid.any()):
            occlusion = _texture(self.occlusion.filled(self.resolution, backend))
        return Material(
            base_color_texture=channels["base_color"],
            metallic_texture=channels["metallic"],
            roughness_texture=channels["roughness"],
            alpha_mode=mode,
            alpha_texture=None if mode == "OPAQUE" else channels["alpha"],
            normal_texture=normal,
            occlusion_texture=occlusion,
        )


def _texture(image: Tensor) -> Texture:
    return Texture(image.contiguous(), wrap=("clamp", "clamp"))


def alpha_mode(alpha: Tensor) -> AlphaMode:
    """The mode for the `alpha` [T] uint8 of the texels of a surface.

    "OPAQUE" where at most 1 % of them are below 0.9; otherwise "MASK" where at most a quarter of these are above 0.1,
    and else "BLEND".
    """
    below = int((alpha < OPAQUE_FROM).sum())
    if below <= SEEN_THROUGH * len(alpha):
        return "OPAQUE"
    between = int(((alpha < OPAQUE_FROM) & (alpha > CLEAR_TO)).sum())
    return "MASK" if between <= IN_BETWEEN * below else "BLEND"
