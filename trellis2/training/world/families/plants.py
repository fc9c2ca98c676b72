"""Potted plants, trees, cacti, mushrooms, flowers: leaves and petals are thin open sheets."""

from __future__ import annotations

import numpy as np

from .....o_voxel.material import Material
from ..dice import Dice
from ..materials import GREENS, any_color, dots, gradient, mottled, near, patterned, plain, stripes, vivid
from ..shapes import Parts, Shape, curve, cylinder, join, lathe, sheet, sphere, sweep, tube
from .vessels import walled

BARK = (0.40, 0.28, 0.18)
EARTH = (0.24, 0.17, 0.12)


def leaf(length: float, width: float, droop: float, fold: float = 0.15, rows: int = 10) -> Shape:
    """A pointed leaf along +x from the origin, rising and then drooping."""

    def surface(u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, ...]:
        across = (u - 0.5) * width * np.sin(np.pi * np.clip(v, 0.02, 0.995)) ** 0.8
        return length * v, across, length * (0.5 * v - droop * v * v) + fold * np.abs(across)

    return sheet(surface, rows, 5)


def pot(dice: Dice, radius: float, height: float) -> Parts:
    """A flower pot with earth in it; its rim is at `height`."""
    base = radius * dice.between(0.6, 0.85)
    color = near((0.72, 0.38, 0.24), dice, 0.05) if dice.chance(0.45) else any_color(dice)
    if dice.chance(0.5):
        outer = np.array(
            [(base, 0), (radius * 0.93, height * 0.78), (radius * 1.04, height * 0.78), (radius * 1.08, height)]
        )
    else:
        outer = curve([(base, 0), (radius * dice.between(0.95, 1.2), height * 0.5), (radius, height)], 16)
    earth = lathe([(radius * 0.95, height * 0.86), (0, height * 0.9)], 32)
    return [(walled(outer, 0.03), patterned(color, dice, 0.7)), (earth, mottled(EARTH, dice, 0.2, 0.95))]


def foliage(dice: Dice, *, shaded: bool = False) -> Material:
    """A green, mottled; or for leaves with a tip, lighter towards it."""
    color = near(dice.pick(GREENS), dice, 0.05)
    if shaded:
        return gradient(tuple(0.7 * c for c in color), tuple(min(1.0, 1.25 * c) for c in color), 0.6)
    return mottled(color, dice, 0.15, 0.7)


def potted_plant(dice: Dice) -> Parts:
    """A pot with broad leaves on stems, a rosette of blades, a palm, or a round bush."""
    r, h = dice.between(0.24, 0.34), dice.between(0.32, 0.5)
    parts = pot(dice, r, h)
    green = foliage(dice, shaded=True)
    kind, leaves, stems = dice.count(0, 3), [], []
    if kind == 0:
        for k in range(dice.count(6, 12)):
            turn, tall, out = 137.5 * k, dice.between(0.2, 0.75), dice.between(0.08, 0.32)
            path = curve([(0, 0, h * 0.85), (out * 0.4, 0, h + tall * 0.7), (out, 0, h + tall)], 10)
            stems.append(tube(path, 0.012, 8).turned("z", turn))
            blade = leaf(dice.between(0.28, 0.42), dice.between(0.2, 0.32), dice.between(0.6, 1.0))
            leaves.append(blade.at(out, 0, h + tall).turned("z", turn))
    elif kind == 1:
        for k in range(dice.count(12, 22)):
            blade = leaf(dice.between(0.55, 0.95), dice.between(0.07, 0.13), dice.between(-0.2, 0.55), 0.6)
            leaves.append(blade.turned("y", -dice.between(10, 50)).at(0.03, 0, h * 0.86).turned("z", 137.5 * k))
    elif kind == 2:
        top = h + dice.between(0.4, 0.8)
        lean = dice.between(-0.12, 0.12)
        stems.append(
            tube(
                curve([(0, 0, h * 0.8), (lean, 0, (h + top) / 2), (lean * 1.5, 0, top)], 12),
                np.linspace(0.05, 0.035, 12),
            )
        )
        n = dice.count(8, 13)
        for k in range(n):
            frond = leaf(dice.between(0.45, 0.65), 0.14, dice.between(0.75, 1.15), 0.4)
            leaves.append(frond.turned("z", 360 * k / n + dice.between(-10, 10)).at(lean * 1.5, 0, top))
    else:
        size = dice.between(0.28, 0.42)
        lumps = dice.numbers(-1, 1, 14, 3)
        lumps = lumps / np.linalg.norm(lumps, axis=1, keepdims=True) * size * 0.55
        leaves = [sphere(size * 0.55, 10).at(*lump) for lump in lumps] + [sphere(size * 0.7, 10)]
        trunk = dice.between(0.05, 0.5)
        leaves = [join(leaves).at(z=h + trunk + size * 0.6)]
        stems.append(cylinder(0.035, trunk + size, segments=14).at(z=h * 0.85))
        green = foliage(dice)
        if dice.chance(0.4):
            berries = [sphere(0.04, 6).at(*(lump * 1.9)).at(z=h + trunk + size * 0.6) for lump in lumps]
            parts.append((join(berries), plain(vivid(dice), 0.4)))
    parts.append((join(leaves), green))
    if stems:
        parts.append((join(stems), plain(near(BARK if kind >= 2 else (0.3, 0.45, 0.2), dice), 0.8)))
    return parts


def _fir(dice: Dice, trunk: float, r: float, bark: Material, green: Material) -> Parts:
    """Layers of skirts on a trunk of height `trunk` and radius r; some are a Christmas tree."""
    layers, width, height = dice.count(3, 5), dice.between(0.4, 0.6), dice.between(1.0, 1.6)
    cones = []
    for k in range(layers):
        z, size = trunk * 0.5 + height * k / layers, width * (1 - 0.75 * k / layers)
        points = dice.count(9, 14)
        skirt = lathe(
            [
                (size * 0.25, z + 0.06),
                (size, z),
                (size * 0.45, z + height / layers * 0.8),
                (0, z + height / layers * 1.5),
            ],
            56,
        )
        cones.append(
            skirt.bent(
                lambda p, n=points: (
                    p * np.stack([1 + 0.07 * np.cos(n * np.arctan2(p[:, 1], p[:, 0]))] * 2 + [np.ones(len(p))], 1)
                )
            )
        )
    parts: Parts = [(cylinder(r, trunk, r * 0.8), bark), (join(cones), green)]
    if dice.chance(0.3):
        z = trunk * 0.5
        ends = [
            (width * 0.9 * (1 - 0.75 * k / layers), 47 * k + 23 * j, z + height * k / layers + 0.02)
            for k in range(layers)
            for j in range(0, 15, 2)
        ]
        balls = [sphere(0.04, 6).at(out, 0, up).turned("z", turn) for out, turn, up in ends]
        parts += [
            (join(balls), plain(vivid(dice), 0.2)),
            (sphere(0.07, 8).at(z=z + height * 1.12), plain((0.95, 0.8, 0.25), 0.3)),
        ]
    return parts


def tree(dice: Dice) -> Parts:
    """A broadleaf with a lumpy crown on branches, a layered fir, a poplar, a palm, or an apple tree."""
    kind = dice.count(0, 4)
    bark = mottled(near(BARK, dice, 0.06), dice, 0.2, 0.9)
    trunk = dice.between(0.5, 0.9)
    r = dice.between(0.05, 0.09)
    autumn = (dice.between(0.75, 0.9), dice.between(0.35, 0.6), 0.12)
    green = mottled(autumn, dice, 0.15) if dice.chance(0.15) else foliage(dice)
    if kind == 1:
        return _fir(dice, trunk, r, bark, green)
    if kind == 2:
        tall, wide = dice.between(1.1, 1.7), dice.between(0.22, 0.42)
        crown = sphere(1, 20).scaled(wide, wide, tall / 2)
        phase = dice.numbers(0, 6, 2)
        crown = crown.bent(
            lambda p: (
                p
                * (1 + 0.06 * np.sin(14 * p[:, 2:] + phase[0]) * np.sin(5 * np.arctan2(p[:, 1:2], p[:, :1]) + phase[1]))
            )
        )
        return [(cylinder(r, trunk, r * 0.8), bark), (crown.at(z=trunk * 0.6 + tall / 2), green)]
    if kind == 3:
        tall, lean = dice.between(1.1, 1.6), dice.between(-0.35, 0.35)
        path = curve([(0, 0, 0), (lean * 0.2, 0, tall * 0.4), (lean, 0, tall)], 24)
        rings = near((0.55, 0.42, 0.28), dice)
        stem = tube(path, np.linspace(0.09, 0.055, 24), 16)
        n = dice.count(8, 12)
        fronds = [
            leaf(dice.between(0.6, 0.8), 0.2, dice.between(0.8, 1.15), 0.5).turned("z", 360 * k / n) for k in range(n)
        ]
        nuts = sphere(0.065, 8).at(0.09, 0, -0.06).around(3)
        return [
            (stem, stripes(rings, tuple(0.8 * c for c in rings), 12, roughness=0.9)),
            (join(fronds).at(lean, 0, tall), foliage(dice, shaded=True)),
            (nuts.at(lean, 0, tall), plain((0.4, 0.27, 0.15), 0.7)),
        ]
    crown_r, n = dice.between(0.4, 0.6), dice.count(7, 14)
    around = dice.numbers(-1, 1, n, 3) * (1, 1, 0.7)
    around = around / np.linalg.norm(around, axis=1, keepdims=True) * crown_r * 0.6
    middle = np.array([0, 0, trunk + crown_r * 0.75])
    lumps = [sphere(crown_r * dice.between(0.4, 0.6), 11).at(*(middle + place)) for place in around]
    branches = [
        tube(
            curve([(0, 0, trunk * 0.7), middle + place * 0.4 - (0, 0, crown_r * 0.4), middle + place], 8),
            np.linspace(r * 0.6, r * 0.2, 8),
            8,
        )
        for place in around[:5]
    ]
    stem = tube(
        curve([(0, 0, 0), (dice.between(-0.06, 0.06), 0, trunk * 0.5), (0, 0, trunk + crown_r * 0.5)], 12),
        np.linspace(r * 1.3, r * 0.7, 12),
        16,
    )
    parts = [(stem, bark), (join(branches), bark), (join([*lumps, sphere(crown_r * 0.6, 12).at(*middle)]), green)]
    if kind == 4:
        fruit = [sphere(0.05, 8).at(*(middle + place * 1.75 + (0, 0, -0.05))) for place in around]
        parts.append((join(fruit), plain(vivid(dice), 0.35)))
    return parts


def ribbed(outline: np.ndarray, ribs: int, depth: float) -> Shape:
    """A turned body with vertical ribs."""
    body = lathe(outline, ribs * 8)
    return body.bent(
        lambda p: p * np.stack([1 + depth * np.cos(ribs * np.arctan2(p[:, 1], p[:, 0]))] * 2 + [np.ones(len(p))], 1)
    )


def cactus(dice: Dice) -> Parts:
    """A ribbed column with arms, a ball with a flower, or flat pads; in a pot or not."""
    r, h = dice.between(0.26, 0.34), dice.between(0.26, 0.4)
    in_pot = dice.chance(0.75)
    parts: Parts = pot(dice, r, h) if in_pot else []
    start = h * 0.88 if in_pot else 0.0
    color = near(dice.pick(GREENS), dice, 0.05)
    ribs = dice.count(7, 12)
    skin = (
        stripes(color, tuple(0.72 * c for c in color), ribs, along="u", roughness=0.8)
        if dice.chance(0.4)
        else plain(color, 0.8)
    )
    kind, blooms = dice.count(0, 2), []
    if kind == 0:
        size, tall = dice.between(0.11, 0.16), dice.between(0.7, 1.2)
        column = curve(
            [(size * 0.8, 0), (size, tall * 0.3), (size, tall * 0.85), (size * 0.6, tall * 0.97), (0.001, tall)], 28
        )
        parts.append((ribbed(column, ribs, 0.1).at(z=start), skin))
        for side in (-1, 1)[: dice.count(1, 2)]:
            low, out, rise = dice.between(0.3, 0.6) * tall, dice.between(0.24, 0.34), dice.between(0.2, 0.42)
            path = curve(
                [
                    (0, 0, low),
                    (side * out * 0.7, 0, low + 0.01),
                    (side * out, 0, low + 0.12),
                    (side * out, 0, low + rise),
                ],
                24,
            )
            radius = size * 0.62 * np.minimum(1, np.sqrt(np.linspace(1, 0, 24) * 6 + 0.01))
            angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
            star = ((1 + 0.1 * np.cos(8 * angle)) * np.array([np.cos(angle), np.sin(angle)])).T
            parts.append((sweep(path, star, radius).at(z=start), plain(color, 0.8)))
        blooms.append((0, 0, start + tall))
    elif kind == 1:
        size = dice.between(0.26, 0.38)
        ball = curve([(size * 0.5, 0), (size, size * 0.7), (size * 0.75, size * 1.35), (0.001, size * 1.55)], 28)
        parts.append((ribbed(ball, ribs + 3, 0.08).at(z=start), skin))
        blooms.append((0, 0, start + size * 1.5))
    else:
        pads = [(0.0, 0.0, 0.0, 0.3)]
        pads += [
            (
                dice.between(-0.2, 0.2),
                dice.between(0.4, 0.52),
                dice.pick((-1, 1)) * dice.between(15, 50),
                dice.between(0.19, 0.25),
            )
            for _ in range(dice.count(2, 4))
        ]
        pad = [
            sphere(1, 14).scaled(size * 0.72, 0.055, size).at(z=size * 0.95).turned("y", tilt).at(x, 0, z + start)
            for x, z, tilt, size in pads
        ]
        parts.append((join(pad), dots(color, near((0.9, 0.88, 0.7), dice), 12, 10, 0.16, 0.8)))
        blooms = [
            (x + 1.9 * size * np.sin(np.radians(tilt)), 0, z + start + 1.9 * size * np.cos(np.radians(tilt)))
            for x, z, tilt, size in pads[1:]
        ]
    if dice.chance(0.6):
        petals = leaf(0.13, 0.08, 0.1).around(7)
        parts.append((join([petals.at(*place) for place in blooms]), plain(vivid(dice), 0.6)))
    return parts


def mushroom(dice: Dice) -> Parts:
    """A stem and a cap, flat, round or pointed, with spots, a ring, gills; some stand in a group."""
    color, pale = (
        vivid(dice) if dice.chance(0.7) else near((0.6, 0.42, 0.28), dice),
        near((0.93, 0.89, 0.8), dice, 0.04),
    )
    spotted = dice.chance(0.6)
    skin = (
        dots(color, pale, dice.count(7, 12), dice.count(4, 6), dice.between(0.22, 0.34), 0.4)
        if spotted
        else gradient(tuple(0.75 * c for c in color), color, 0.4)
    )
    wide, tall, bulge = dice.between(0.35, 0.6), dice.between(0.5, 0.9), dice.between(1.0, 1.7)
    cap_h = dice.between(0.2, 0.55)
    stem_r = dice.between(0.08, 0.15)
    lean = dice.between(-0.12, 0.12)
    cap = lathe(curve([(wide, 0), (wide * 0.92, cap_h * 0.4), (wide * 0.5, cap_h * 0.88), (0.001, cap_h)], 24), 48)
    gills = lathe([(wide * 0.995, 0.0), (wide * 0.7, 0.035), (stem_r, 0.06)], 96)
    gills = gills.bent(
        lambda p: p + np.stack([0 * p[:, 0], 0 * p[:, 0], 0.012 * np.cos(24 * np.arctan2(p[:, 1], p[:, 0]))], 1)
    )
    path = curve([(0, 0, 0), (lean * 0.3, 0, tall * 0.5), (lean, 0, tall + 0.06)], 20)
    stem = tube(path, stem_r * np.interp(np.linspace(0, 1, 20), [0, 0.25, 1], [bulge, 1.1, 0.85]), 24)
    whole: Parts = [
        (cap.at(lean, 0, tall), skin),
        (gills.at(lean, 0, tall), plain(pale, 0.9)),
        (stem, plain(pale, 0.8)),
    ]
    if dice.chance(0.4):
        whole.append(
            (
                lathe([(stem_r, tall * 0.78), (stem_r * 1.7, tall * 0.66), (stem_r * 1.9, tall * 0.6)], 32).at(
                    lean * 0.6
                ),
                plain(pale, 0.8),
            )
        )
    parts = list(whole)
    if dice.chance(0.45):
        for _ in range(dice.count(1, 3)):
            size, turn, out = dice.between(0.3, 0.6), dice.between(0, 360), wide * dice.between(0.7, 1.0)
            parts += [(shape.scaled(size).at(out).turned("z", turn), material) for shape, material in whole]
    if dice.chance(0.35):
        mound = lathe([(wide * 1.3, 0), *curve([(wide * 1.25, 0.04), (wide * 0.6, 0.1), (0.001, 0.12)], 10)], 40)
        parts.append((mound.at(z=-0.06), mottled((0.3, 0.45, 0.18), dice, 0.2, 0.9)))
    return parts


def flower(dice: Dice) -> Parts:
    """One bloom on a stem with leaves: a daisy, a sunflower or a tulip."""
    tall, bend = dice.between(0.8, 1.2), dice.between(-0.12, 0.12)
    color = vivid(dice)
    path = curve([(0, 0, 0), (bend, 0, tall * 0.5), (0, 0, tall)], 16)
    green = near((0.3, 0.52, 0.2), dice, 0.06)
    parts: Parts = [(tube(path, dice.between(0.018, 0.03), 10), plain(green, 0.7))]
    blades = [
        leaf(dice.between(0.3, 0.5), dice.between(0.09, 0.15), dice.between(0.2, 0.7), 0.4)
        .turned("z", dice.between(-60, 60) + 180 * (k % 2))
        .at(bend * 0.6, 0, tall * dice.between(0.05, 0.45))
        for k in range(dice.count(2, 3))
    ]
    parts.append((join(blades), gradient(tuple(0.7 * c for c in green), green, 0.6)))
    if dice.chance(0.35):
        size = dice.between(0.17, 0.24)

        def petal(u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, ...]:
            turn = (u - 0.5) * 2.6 * np.sin(np.pi * np.clip(v * 0.85 + 0.12, 0, 1)) ** 0.6
            out = size * (0.25 + 0.85 * np.sin(np.pi * np.clip(v * 0.62 + 0.1, 0, 1)))
            return out * np.cos(turn), out * np.sin(turn), size * 2.1 * v

        cup = sheet(petal, 12, 9)
        inner = cup.scaled(0.88, 0.88, 0.97).turned("z", 60)
        parts.append(
            ((cup.around(3) + inner.around(3)).at(z=tall - 0.02), gradient(tuple(0.75 * c for c in color), color, 0.5))
        )
        return parts
    n, long = dice.count(8, 20), dice.between(0.2, 0.34)
    heart = dice.between(0.08, 0.16)
    petals = leaf(long, min(0.16, 2.6 * (heart + long * 0.5) / n), 0.45).at(heart * 0.8).around(n)
    if dice.chance(0.5):
        petals += leaf(long * 0.8, 0.1, 0.2).at(heart * 0.6, 0, 0.01).around(n, 180 / n)
    disc = sphere(heart, 14).scaled(1, 1, 0.4)
    middle = dice.pick([(0.95, 0.75, 0.15), (0.35, 0.2, 0.1)])
    head = [(petals, gradient(tuple(0.8 * c for c in color), color, 0.6)), (disc, mottled(middle, dice, 0.25, 0.9))]
    tilt = dice.between(20, 75)
    parts += [(shape.turned("x", tilt).at(z=tall), material) for shape, material in head]
    return parts
