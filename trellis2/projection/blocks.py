"""What the tokens of a coarse grid read in a crop: a token stands for a block of space that covers many pixels.

A block of the structure's latent, an eighth of the cube, spans a tenth of the picture: one place in it says little of
its shape. So it reads, at the places of its FINE^3 parts, whether there is anything in the picture (together the parts
carve what its outline allows), of SHADED^3 parts the colour, and the patch at its centre. How the crop was taken is not
known before there is a structure: a channel says whether a ball stands for the object. Letters: B objects, T tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ...o_voxel.core.grid import Grid
from ..image.prepare import normalize_unit
from .framing import Frames, features

FINE, SHADED = 4, 2  # parts a side of a block
PLACES = 1 + SHADED**3 + FINE**3
COVER_SIDE, SHADE_SIDE = 128, 32  # cells a side of the maps of what is covered and of colours
FAINT = 0.06  # a colour as bright as this is not the black background


def block_channels(token_channels: int) -> int:
    """The features of a block, for tokens of so many channels."""
    return token_channels + 3 * SHADED**3 + FINE**3 + 1


def block_places(frames: Frames, side: int) -> Tensor:
    """Places [B, side^3, PLACES, 2] fp32 in the crops of the blocks of a grid of `side` a side: of their centres, then
    of their parts, coarse and fine."""
    device, count = frames.eye.device, len(frames.eye)
    axis = torch.arange(side, device=device)
    cells = torch.cartesian_prod(axis, axis, axis)[:, None]
    points = []
    for parts in (1, SHADED, FINE):
        axis = torch.arange(parts, device=device)
        points.append(Grid.cube(side * parts).centers(cells * parts + torch.cartesian_prod(*[axis] * 3).view(-1, 3)))
    found = torch.cat(points, 1).flatten(0, 1)
    item = torch.arange(count, device=device).repeat_interleave(len(found))
    return frames.places(found.repeat(count, 1), item).view(count, side**3, PLACES, 2)


def block_features(places: Tensor, patches: Tensor, colors: Tensor, known: Tensor) -> Tensor:
    """The features [B * T, block_channels] fp32 of all blocks.

    places: [B, T, PLACES, 2], see `block_places`.  patches: [B, S^2, C] fp32, tokens of the picture's parts.  colors:
    [B, cells^2, 3 side^2], see `framing.colors`.  known: [B] fp32, 1 where the crop is that of the object, 0 where a
    ball stands for it.
    """
    count, tokens = places.shape[:2]
    cover, shade = _maps(colors)

    def read(part: Tensor, values: Tensor) -> Tensor:
        item = torch.arange(count, device=places.device).repeat_interleave(tokens * part.shape[2])
        return features(part.flatten(0, 2), item, [values]).view(count * tokens, -1)

    centre, coarse, fine = places.split([1, SHADED**3, FINE**3], dim=2)
    # A ring of nothing around the map: beyond the picture's edge `features` reads the edge.
    fine = (fine * COVER_SIDE + 1) / (COVER_SIDE + 2)
    flag = known.repeat_interleave(tokens)[:, None]
    return torch.cat([read(centre, patches), read(coarse, shade), read(fine, cover), flag], dim=1)


def _maps(colors: Tensor) -> tuple[Tensor, Tensor]:
    """Coverage [B, (COVER_SIDE + 2)^2, 1], 0 to 1, with a ring of zeros, and colours [B, SHADE_SIDE^2, 3] of crops."""
    cells, parts = round(colors.shape[1] ** 0.5), round((colors.shape[2] // 3) ** 0.5)
    picture = F.pixel_shuffle(colors.transpose(1, 2).unflatten(2, (cells, cells)), parts)
    black = normalize_unit(torch.zeros(3, device=colors.device))
    scale = FAINT * (normalize_unit(torch.ones(3, device=colors.device)) - black)
    seen = ((picture - black[:, None, None]) / scale[:, None, None]).amax(1, keepdim=True).clamp(0, 1)
    cover = F.pad(F.adaptive_avg_pool2d(seen, COVER_SIDE), (1, 1, 1, 1))
    shade = F.adaptive_avg_pool2d(picture, SHADE_SIDE)
    return cover.flatten(2).transpose(1, 2), shade.flatten(2).transpose(1, 2)
