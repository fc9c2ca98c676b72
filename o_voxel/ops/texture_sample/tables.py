"""Textures of many materials packed into flat tables, read by a single gather.

Slots (base colour, metallic, ...) whose textures agree in size, wrap and filter for every material share a table and
are read together: a typical asset needs two reads per sample instead of six.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...material import Material, Texture
from ...values import PBR_CHANNELS

# Channels of each PBR texture in PBR_CHANNELS.
PBR_SLOTS = {f"{name}_texture": tuple(range(s.start, s.stop)) for name, s in PBR_CHANNELS.items()}
WRAP_CODES = {"repeat": 0, "clamp": 1, "mirror": 2}


@dataclass(frozen=True, eq=False)
class TextureTable:
    """All images and mip levels of one group of slots.   M = materials, L = levels of the deepest chain.

    channels: target of each of the C texel channels among a sample's values.  texels: [T, C] uint8.
    offset, height, width: [M, L] int64, a level's first texel and its size.
    last_level: [M] int64, 0 for a single level and -1 where the material has no texture here.
    wrap: [M, 2] int64, along u and v, by WRAP_CODES.  nearest: [M] bool.  everywhere: all materials are textured.
    """

    channels: tuple[int, ...]
    texels: Tensor
    offset: Tensor
    height: Tensor
    width: Tensor
    last_level: Tensor
    wrap: Tensor
    nearest: Tensor
    everywhere: bool

    def texture_size(self) -> Tensor:
        """Returns [M] float32, the side of the square with as many texels as the full image."""
        area = self.height[:, 0].to(torch.float64) * self.width[:, 0]
        return area.sqrt().to(torch.float32)


def pack_textures(
    materials: Sequence[Material], slots: Mapping[str, tuple[int, ...]], device: torch.device
) -> tuple[TextureTable, ...]:
    """Packs the textures ([H, W, C] uint8) of the used slots. slots: texture name -> its channels of a sample."""
    groups: dict[tuple, list[str]] = {}
    for name in slots:
        textures = [getattr(material, name) for material in materials]
        layout = tuple(t and (tuple(t.image.shape[:2]), t.wrap, t.filter) for t in textures)
        if any(layout):
            groups.setdefault(layout, []).append(name)
    return tuple(_pack_group(materials, names, slots, device) for names in groups.values())


def _pack_group(
    materials: Sequence[Material], names: Sequence[str], slots: Mapping[str, tuple[int, ...]], device: torch.device
) -> TextureTable:
    columns = [tuple(getattr(material, name) for name in names) for material in materials]
    places: dict[tuple[int, ...], list[tuple[int, int, int]]] = {}
    blocks: list[Tensor] = []
    used = 0
    for textures in columns:
        key = tuple(map(id, textures))
        if textures[0] is None or key in places:
            continue
        places[key] = []
        for level in _chain(textures, device):
            places[key].append((used, *level.shape[:2]))
            blocks.append(level.flatten(0, 1))
            used += len(blocks[-1])
    levels = [places.get(tuple(map(id, textures)), []) for textures in columns]
    depth = max(map(len, levels))
    padded = torch.tensor([rows + [(rows or [(0, 1, 1)])[-1]] * (depth - len(rows)) for rows in levels], device=device)
    firsts = [textures[0] or Texture(torch.zeros(1, 1, 1, dtype=torch.uint8)) for textures in columns]
    return TextureTable(
        channels=tuple(channel for name in names for channel in slots[name]),
        texels=torch.cat(blocks),
        offset=padded[..., 0].contiguous(),
        height=padded[..., 1].contiguous(),
        width=padded[..., 2].contiguous(),
        last_level=torch.tensor([len(rows) - 1 for rows in levels], device=device),
        wrap=torch.tensor([[WRAP_CODES[mode] for mode in t.wrap] for t in firsts], device=device),
        nearest=torch.tensor([t.filter == "nearest" for t in firsts], device=device),
        everywhere=all(levels),
    )


def _chain(textures: Sequence[Texture], device: torch.device) -> list[Tensor]:
    """Returns mip levels [H, W, C] uint8 of the textures stacked along channels, the full image first."""
    image = torch.cat([texture.image.to(device) for texture in textures], 2)
    return [image] if textures[0].filter == "nearest" else mip_chain(image)


def mip_chain(image: Tensor) -> list[Tensor]:
    """Returns the mip levels of `image` [H, W, C] uint8, starting with itself, down to one texel.

    Each level halves both sides, rounding down, by an area-weighted mean rounded down: for even sides the mean of
    2 x 2 texels, for odd ones three taps per side. Integer arithmetic: the same bytes on every device.
    """
    levels = [image]
    while max(levels[-1].shape[:2]) > 1:
        levels.append(_halve(levels[-1]))
    return levels


def _halve(image: Tensor) -> Tensor:
    scale = math.prod(1 if n == 1 else 2 if n % 2 == 0 else n for n in image.shape[:2])
    fits = (dtype for dtype in (torch.int16, torch.int32, torch.int64) if 255 * scale <= torch.iinfo(dtype).max)
    total = image.to(next(fits))
    for dim in (0, 1):
        total = _pair_sums(total, dim)
    halves = scale.bit_length() - 1
    return (total >> halves if scale == 1 << halves else total // scale).to(torch.uint8)


def _pair_sums(values: Tensor, dim: int) -> Tensor:
    """Halves `dim`: sums of two neighbours, or of three weighted ones for an odd size n."""
    n = values.shape[dim]
    half = n // 2
    if n == 1:
        return values
    even, odd = (values.narrow(dim, 0, 2 * half).unflatten(dim, (half, 2)).select(dim + 1, i) for i in (0, 1))
    if n % 2 == 0:
        return even + odd
    # Output i covers [i n / half, (i + 1) n / half): these are its overlaps with texels 2i, 2i + 1 and 2i + 2.
    shape = [half if d == dim else 1 for d in range(values.ndim)]
    i = torch.arange(half, dtype=values.dtype, device=values.device).reshape(shape)
    last = values.narrow(dim, 1, n - 1).unflatten(dim, (half, 2)).select(dim + 1, 1)
    return even * (half - i) + odd * half + last * (i + 1)
