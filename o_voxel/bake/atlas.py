"""Texture images of an atlas: written band by band, padded with nearest texels, returned as a material."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..core.color import linear_to_srgb, to_bytes
from ..core.vectors import unit
from ..material import PLAIN, Material, Texture, alpha_mode
from ..ops.nearest_texel import nearest_texel
from ..values import PBR_CHANNELS
from .mesh_materials import MeshMaterials, alpha_mode_of, as_factors
from .options import BakeOptions
from .sources import LAYER_CHANNELS, Channels
from .tangent_space import normal_bytes
from .texels import Samples


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
    """Layers field (PBR_CHANNELS), emission, normal and occlusion, or None. covered: [R * R] bool, by a face."""

    resolution: int
    field: Layer | None
    emission: Layer | None
    normal: Layer | None
    occlusion: Layer | None
    covered: Tensor

    @classmethod
    def empty(cls, resolution: int, layers: Collection[str], device: torch.device) -> Atlas:
        """Makes the `layers` of LAYER_CHANNELS, of `resolution` texels a side."""
        made = {
            name: Layer.empty(resolution, channels, device) if name in layers else None
            for name, channels in LAYER_CHANNELS.items()
        }
        return cls(resolution, covered=torch.zeros(resolution**2, dtype=torch.bool, device=device), **made)

    def write(self, samples: Samples, channels: Channels) -> None:
        """Writes the per-texel means of the sampled channels, values [P, K] float32."""
        for name in LAYER_CHANNELS:
            layer = getattr(self, name)
            if layer is not None:
                means, valid = samples.means(*getattr(channels, name))
                layer.write(samples.texels, normal_bytes(unit(means)) if name == "normal" else to_bytes(means), valid)
        self.covered[samples.texels] |= samples.covered()

    def material(self, options: BakeOptions, source: MeshMaterials | None, backend: str) -> Material:
        """Builds the material from images [R, R, K] uint8 without empty texels; alpha mode 'auto' as `alpha_mode`.

        source: the mesh that the field comes from, None for voxels. Its alpha modes count, and metallic or roughness
        of one value becomes a factor. Without a field the material is PLAIN with the other layers.
        Raises ValueError if no texel is covered by a face, or none has a voxel value.
        """
        if not bool(self.covered.any()):
            raise ValueError("uv_map: expected faces with an area in the atlas, got none")
        maps = {f"{name}_texture": self._image(name, backend) for name in ("normal", "occlusion")}
        maps = {name: texture for name, texture in maps.items() if texture is not None}
        if self.field is None:
            return replace(PLAIN, **maps)
        if not bool(self.field.valid.any()):
            raise ValueError("field: expected voxels near the mesh, got none; are both in the same world units?")
        mode, alpha = options.alpha_mode, self.field.texels[:, PBR_CHANNELS["alpha"]][self.field.valid].flatten()
        if mode == "auto":
            mode = alpha_mode(alpha) if source is None else alpha_mode_of(source.source, int(alpha.min()))
        image = self.field.filled(self.resolution, backend)
        channels = {name: _texture(image[..., part]) for name, part in PBR_CHANNELS.items()}
        material = Material(
            base_color_texture=channels["base_color"],
            metallic_texture=channels["metallic"],
            roughness_texture=channels["roughness"],
            alpha_mode=mode,
            alpha_texture=None if mode == "OPAQUE" else channels["alpha"],
            **maps,
        )
        return material if source is None else self._lit(as_factors(material), source, backend)

    def _lit(self, material: Material, source: MeshMaterials, backend: str) -> Material:
        """Adds the emission of `source`, encoded as its textures are."""
        texture = self._image("emission", backend)
        if texture is None or not bool(texture.image.any()):
            return material
        strength = float(linear_to_srgb(source.strength))
        return replace(material, emissive_factor=(strength,) * 3, emissive_texture=texture)

    def _image(self, name: str, backend: str) -> Texture | None:
        """The texture of a layer; None without it, or without any value, as occlusion off the dense surface."""
        layer = getattr(self, name)
        if layer is None or not bool(layer.valid.any()):
            return None
        return _texture(layer.filled(self.resolution, backend))


def _texture(image: Tensor) -> Texture:
    return Texture(image.contiguous(), wrap=("clamp", "clamp"))
