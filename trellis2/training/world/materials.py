"""Materials of the world: colours, finishes and small procedural textures.

Colours are sRGB in [0, 1]. A pattern fills the uv square of a shape once, u horizontally or around, v up.
"""

from __future__ import annotations

from colorsys import hsv_to_rgb
from dataclasses import replace

import numpy as np
import torch

from ....o_voxel.core.grid import Vector3
from ....o_voxel.material import Material, Texture
from .dice import Dice

TEXELS = 64  # a side of a texture
METALS = ((0.93, 0.93, 0.92), (0.80, 0.81, 0.83), (0.98, 0.80, 0.42), (0.95, 0.69, 0.56), (0.55, 0.56, 0.58))
WOODS = ((0.80, 0.62, 0.41), (0.66, 0.45, 0.27), (0.48, 0.30, 0.18), (0.87, 0.74, 0.55), (0.58, 0.33, 0.20))
GREENS = ((0.24, 0.49, 0.20), (0.36, 0.58, 0.22), (0.16, 0.40, 0.23), (0.50, 0.62, 0.26), (0.30, 0.50, 0.38))


def near(color: Vector3, dice: Dice, spread: float = 0.06) -> Vector3:
    """A colour within `spread` of this one in each channel."""
    return tuple(min(max(c + d, 0.0), 1.0) for c, d in zip(color, dice.numbers(-spread, spread, 3), strict=True))


def vivid(dice: Dice) -> Vector3:
    """A saturated colour of any hue."""
    return hsv_to_rgb(dice.between(0, 1), dice.between(0.65, 0.95), dice.between(0.6, 0.95))


def soft(dice: Dice) -> Vector3:
    """A pale colour of any hue."""
    return hsv_to_rgb(dice.between(0, 1), dice.between(0.08, 0.35), dice.between(0.82, 0.97))


def muted(dice: Dice) -> Vector3:
    """A dark colour of low saturation and any hue."""
    return hsv_to_rgb(dice.between(0, 1), dice.between(0.15, 0.5), dice.between(0.3, 0.65))


def grey(dice: Dice, low: float = 0.1, high: float = 0.9) -> Vector3:
    """A grey between two levels."""
    return (dice.between(low, high),) * 3


def any_color(dice: Dice) -> Vector3:
    """A random colour of any of the kinds above."""
    return dice.pick((vivid, vivid, soft, muted, grey))(dice)


def contrast(color: Vector3, dice: Dice) -> Vector3:
    """A random colour that differs by more than 0.7, summed over channels; after eight attempts black or white."""
    for _ in range(8):
        other = any_color(dice)
        if sum(abs(a - b) for a, b in zip(color, other, strict=True)) > 0.7:
            return other
    return (0.95, 0.95, 0.93) if sum(color) < 1.5 else (0.13, 0.13, 0.15)


def plain(color: Vector3, roughness: float = 0.5) -> Material:
    """One colour: paint, plastic, ceramic, cloth."""
    return Material(color, metallic_factor=0.0, roughness_factor=roughness, double_sided=True)


def metal(color: Vector3, roughness: float = 0.3) -> Material:
    """Bare metal."""
    return replace(plain(color, roughness), metallic_factor=1.0)


def glass(color: Vector3, alpha: float = 0.35) -> Material:
    """Transparent, clear or tinted; alpha: opacity."""
    return replace(plain(color, 0.08), alpha_mode="BLEND", alpha_factor=alpha)


def any_metal(dice: Dice) -> Material:
    """Steel, brass, copper and the like, from polished to brushed."""
    return metal(near(dice.pick(METALS), dice, 0.02), dice.between(0.15, 0.5))


def any_wood(dice: Dice) -> Material:
    """Wood with a grain, oiled or bare."""
    return grain(near(dice.pick(WOODS), dice, 0.04), dice)


def textured(image: np.ndarray, roughness: float = 0.5, *, sharp: bool = False) -> Material:
    """A texture from an sRGB image [H, W, 3] in [0, 1], row 0 at v = 1. sharp: nearest filtering, for hard edges."""
    pixels = torch.from_numpy(np.round(np.clip(image, 0, 1) * 255).astype(np.uint8))
    material = plain((1.0, 1.0, 1.0), roughness)
    return replace(material, base_color_texture=Texture(pixels, filter="nearest" if sharp else "linear"))


def stripes(first: Vector3, second: Vector3, count: int, *, along: str = "v", roughness: float = 0.5) -> Material:
    """`count` pairs of bands along u or v."""
    line = np.tile(np.array([second, first]), (count, 1))
    return textured(line[:, None] if along == "v" else line[None], roughness, sharp=True)


def bands(colors: list[Vector3], shares: list[float], roughness: float = 0.5) -> Material:
    """Horizontal bands from v = 0 up. shares: relative heights."""
    ends = np.cumsum(shares) / sum(shares)
    v = 1 - (np.arange(2 * TEXELS) + 0.5) / (2 * TEXELS)
    return textured(np.array(colors)[np.searchsorted(ends, v)][:, None], roughness, sharp=True)


def checks(first: Vector3, second: Vector3, columns: int, rows: int, roughness: float = 0.5) -> Material:
    """A checkerboard of columns x rows fields; an even number of columns is periodic in u."""
    odd = np.add.outer(np.arange(rows), np.arange(columns)) % 2
    return textured(np.array([first, second])[odd], roughness, sharp=True)


def gradient(bottom: Vector3, top: Vector3, roughness: float = 0.5) -> Material:
    """A linear gradient from v = 0 to v = 1."""
    share = np.linspace(1, 0, TEXELS)[:, None, None]
    image = np.array(bottom) * (1 - share) + np.array(top) * share
    texture = Texture(torch.from_numpy(np.round(image * 255).astype(np.uint8)), wrap=("repeat", "clamp"))
    return replace(plain((1.0, 1.0, 1.0), roughness), base_color_texture=texture)


def dots(
    ground: Vector3, spot: Vector3, columns: int, rows: int, size: float = 0.3, roughness: float = 0.5
) -> Material:
    """Rows of round spots, every second row shifted by half; size: radius as a fraction of the spacing."""
    v, u = np.meshgrid(*[(np.arange(2 * TEXELS) + 0.5) / (2 * TEXELS)] * 2, indexing="ij")
    row = np.floor(v * rows)
    x, y = (u * columns + 0.5 * (row % 2)) % 1 - 0.5, v * rows - row - 0.5
    inside = (x * x + y * y < size * size)[..., None]
    return textured(np.where(inside, spot, ground), roughness)


def grain(color: Vector3, dice: Dice, roughness: float | None = None) -> Material:
    """Wood grain: slightly wavy lines along u. roughness: None for random."""
    v, u = np.meshgrid(*[np.linspace(0, 1, TEXELS)] * 2, indexing="ij")
    phase, waves = dice.between(0, 6), dice.between(2, 5)
    lines = np.sin(2 * np.pi * (v * waves + 0.15 * np.sin(2 * np.pi * u + phase)) + phase)
    lines = 0.06 * lines + 0.04 * np.sin(2 * np.pi * v * (3 * waves + 1) + 1.7 * phase)
    return textured(
        np.array(color) * (1 + lines[..., None]), dice.between(0.45, 0.8) if roughness is None else roughness
    )


def mottled(color: Vector3, dice: Dice, strength: float = 0.12, roughness: float = 0.8) -> Material:
    """Random brightness of a coarse grid of texels: stone, earth, bark, leaves. strength: relative amplitude."""
    tone = 1 + strength * dice.numbers(-1, 1, TEXELS // 4, TEXELS // 4, 1)
    return textured(np.array(color) * tone, roughness)


def bricks(brick: Vector3, mortar: Vector3, columns: int, rows: int) -> Material:
    """A brick wall in running bond."""
    v, u = np.meshgrid(*[(np.arange(2 * TEXELS) + 0.5) / (2 * TEXELS)] * 2, indexing="ij")
    row = np.floor(v * rows)
    x, y = (u * columns + 0.5 * (row % 2)) % 1, v * rows - row
    joint = ((x < 0.08) | (y < 0.14))[..., None]
    return textured(np.where(joint, mortar, brick), 0.85)


def patterned(color: Vector3, dice: Dice, roughness: float = 0.5, columns: int = 8, rows: int = 6) -> Material:
    """This colour alone, or a random pattern of it and a contrasting colour."""
    other = contrast(color, dice)
    style = dice.count(0, 7)
    if style == 0:
        return stripes(color, other, dice.count(2, rows), roughness=roughness)
    if style == 1:
        return stripes(color, other, dice.count(3, columns), along="u", roughness=roughness)
    if style == 2:
        return checks(color, other, columns, rows, roughness)
    if style == 3:
        return dots(color, other, columns, rows, dice.between(0.2, 0.36), roughness)
    if style == 4:
        return gradient(color, other, roughness)
    return plain(color, roughness)
