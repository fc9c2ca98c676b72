"""Texture images of an atlas: written band by band, padded with nearest texels, returned as a material."""

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

# Bytes. Decoded alpha is slightly below 1 nearly everywhere; transparent materials are well below.
OPAQUE_FROM = 230
CLEAR_TO = 25
# Minimum share of non-opaque texels for the modes that cost renderers more.
SEEN_THROUGH = 0.01
# Maximum share of partly transparent texels among those, for MASK: antialiased rims of a cut-out.
IN_BETWEEN = 0.25


@dataclass(frozen=True, eq=False)
class Layer:
    """An image under construction. texels: [R * R, K] uint8, row 0 at v = 1.  valid: [R * R] bool, written texels."""

    texels: Tensor
    valid: Tensor

    @classmethod
    def empty(cls, resolution: int, channels: int, device: torch.device) -> Layer:
        shape = (resolution**2, channels)
        return cls(
            torch.zeros(shape, dtype=torch.uint8, device=device), torch.zeros(shape[0], dtype=torch.bool, device=device)
        )

    def write(self, where: slice | Tensor, values: Tensor, valid: Tensor) -> None:
        """Writes `values` [T, K] uint8 to the texels `where` (slice or [T] int64) in the mask `valid` [T] bool."""
        self.texels[where] = torch.where(valid[:, None], values, self.texels[where])
        self.valid[where] |= valid

    def filled(self, resolution: int, backend: str) -> Tensor:
        """Image [R, R, K] uint8 with invalid texels copied from the nearest valid one; at least one must be valid."""
        nearest = nearest_texel(self.valid.view(resolution, resolution), backend=backend)
        return self.texels.index_select(0, nearest.flatten()).view(resolution, resolution, -1)


@dataclass(frozen=True, eq=False)
class Atlas:
    """Layers field (PBR_CHANNELS), normal and occlusion; the last two may be None. covered: [R * R] bool, by a face."""

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
        """Writes the per-texel means of the sampled channels, values [P, K] float32."""
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
        """Builds the material from images [R, R, K] uint8 without empty texels; alpha mode 'auto' as `alpha_mode`.

        Raises ValueError if no texel is covered by a face, or none has a voxel value.
        """
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
        # Without any sample on the dense surface the occlusion is unknown.
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
    """Chooses the glTF alpha mode from the texels' `alpha` [T] uint8.

    "OPAQUE" if at most 1 % of the texels are below 0.9; otherwise "MASK" if at most a quarter of those are above 0.1;
    otherwise "BLEND".
    """
    below = int((alpha < OPAQUE_FROM).sum())
    if below <= SEEN_THROUGH * len(alpha):
        return "OPAQUE"
    between = int(((alpha < OPAQUE_FROM) & (alpha > CLEAR_TO)).sum())
    return "MASK" if between <= IN_BETWEEN * below else "BLEND"
