"""Cakes, ice cream, hats, chess pieces."""

from __future__ import annotations

import numpy as np

from ..dice import Dice
from ..materials import (
    any_color,
    any_metal,
    any_wood,
    bands,
    checks,
    contrast,
    gradient,
    near,
    plain,
    soft,
    stripes,
    vivid,
)
from ..shapes import Parts, arc, box, curve, cylinder, dome, join, lathe, plate, sheet, sphere, torus


def cake(dice: Dice) -> Parts:
    """A round cake on a stand: tiers, icing that runs down, cherries, candles; some have a slice cut out."""
    color, icing = soft(dice), near(soft(dice), dice)
    tiers, r, h = dice.count(1, 3), 0.5, dice.between(0.2, 0.3)
    turn = 360.0 if tiers > 1 or dice.chance(0.5) else dice.between(290, 325)
    crumb = near((0.78, 0.55, 0.32), dice, 0.1)
    parts: Parts = []
    drips, depth, phase = dice.count(9, 16), dice.between(0.15, 0.3), dice.between(0, 6)
    z = 0.0
    for k in range(tiers):
        size = r * (1 - 0.28 * k)
        side = bands([color, icing, color], [0.45, 0.1, 0.45]) if dice.chance(0.4) else plain(color, 0.7)
        cut = lathe([(0, 0), (size, 0), (size, h), (0, h)], 64, turn)
        parts.append((cut.at(z=z), side))

        def run(p: np.ndarray, z: float = z, h: float = h) -> np.ndarray:
            low = p[:, 2] < z + h - 0.001
            wave = depth * h * (1 + np.sin(drips * np.arctan2(p[:, 1], p[:, 0]) + phase))
            return p - np.stack([0 * wave, 0 * wave, wave * low], 1)

        top = lathe([(size * 1.03, h * 0.78), (size * 1.035, h), (size * 0.98, h + 0.03), (0, h + 0.03)], 96, turn).at(
            z=z
        )
        parts.append((top.bent(run), plain(icing, 0.35)))
        z += h + 0.02
    if turn < 360:
        for angle in (-90, -90 + turn):
            wall = box(r * 0.98, 0.004, h).at(r * 0.49)
            parts.append((wall.turned("z", angle), bands([crumb, icing, crumb, icing], [0.4, 0.12, 0.4, 0.08], 0.9)))
    top_r = r * (1 - 0.28 * (tiers - 1))
    n = dice.count(5, 9)
    share = n if turn >= 360 else n - 1
    if dice.chance(0.7):
        fruit = join(
            [
                sphere(0.055, 10).at(top_r * 0.78, 0, z + 0.05).turned("z", -75 + (turn - 30) * k / n)
                for k in range(share)
            ]
        )
        parts.append((fruit, plain(vivid(dice), 0.25)))
    if dice.chance(0.6):
        sticks = [
            cylinder(0.02, 0.2, segments=12).at(top_r * 0.4).turned("z", -60 + (turn - 60) * k / 4) for k in range(4)
        ]
        flames = [
            sphere(0.028, 8).scaled(1, 1, 1.7).at(top_r * 0.4, 0, 0.24).turned("z", -60 + (turn - 60) * k / 4)
            for k in range(4)
        ]
        parts += [
            (join(sticks).at(z=z), stripes(vivid(dice), (0.97, 0.97, 0.95), 4)),
            (join(flames).at(z=z), plain((1.0, 0.75, 0.2), 0.4)),
        ]
    stand = lathe([(0, -0.03), (r * 1.25, -0.03), (r * 1.28, 0.01), (r * 1.2, 0.0), (0, 0.0)], 56)
    plate_color = plain(soft(dice), 0.2)
    parts.append((stand, plate_color))
    if dice.chance(0.4):
        parts.append(
            (lathe([(r * 0.5, -0.3), *curve([(r * 0.45, -0.27), (0.06, -0.2), (0.08, -0.03)], 12)], 40), plate_color)
        )
    return parts


def ice_cream(dice: Dice) -> Parts:
    """A waffle cone with one to three scoops, sprinkles, a cherry or a wafer; or a bar on a stick."""
    if dice.chance(0.3):
        w, h = dice.between(0.36, 0.46), dice.between(0.75, 0.95)
        top = arc(w / 2, 0, 180, 16) + (0, h - w / 2)
        color = vivid(dice) if dice.chance(0.6) else soft(dice)
        bar = plate([(-w / 2, 0.0), (w / 2, 0.0), *top], 0.2, 0.06)
        skin = dice.pick(
            [
                plain(color, 0.4),
                bands([color, contrast(color, dice)], [dice.between(0.4, 0.6), 0.5], 0.4),
                gradient(color, contrast(color, dice), 0.4),
            ]
        )
        return [(bar, skin), (box(0.11, 0.05, 0.42, 0.024, 3).at(z=-0.34), plain((0.85, 0.7, 0.5), 0.8))]
    r, h = dice.between(0.2, 0.26), dice.between(0.55, 0.75)
    waffle = near((0.82, 0.58, 0.3), dice, 0.05)
    cone = lathe([(0.012, 0), (r, h), (r * 1.03, h), (r * 0.9, h - 0.03)], 40)
    parts: Parts = [(cone, checks(waffle, tuple(0.82 * c for c in waffle), 16, 8, 0.9))]
    z, size = h + r * 0.35, r * dice.between(1.05, 1.2)
    count = dice.count(1, 3)
    for _ in range(count):
        color = soft(dice) if dice.chance(0.5) else near(vivid(dice), dice)
        skirt = torus(size * 0.88, size * 0.16, 40, 10).at(z=-size * 0.3)
        skirt = skirt.bent(
            lambda p: p * np.stack([np.ones(len(p))] * 2 + [1 + 0.25 * np.sin(9 * np.arctan2(p[:, 1], p[:, 0]))], 1)
        )
        parts.append(((sphere(size, 16) + skirt).at(z=z), plain(color, 0.6)))
        z, size = z + size * 1.15, size * 0.88
    top, size = z - size * 0.3, size / 0.88
    if dice.chance(0.5):
        parts.append((sphere(0.07, 10).at(z=top + size * 0.32), plain((0.8, 0.08, 0.12), 0.2)))
    if dice.chance(0.4):
        parts.append(
            (
                cylinder(0.035, 0.42, segments=16).turned("y", 28).at(0.06, 0.05, top - 0.1),
                stripes(waffle, (0.5, 0.3, 0.15), 5),
            )
        )
    return parts


def hat(dice: Dice) -> Parts:
    """A top hat, a straw hat, a cowboy's, a witch's, or a cap: thin open sheets with a band."""
    color = any_color(dice)
    felt, ribbon = plain(color, 0.9), plain(contrast(color, dice), 0.7)
    kind = dice.count(0, 4)
    if kind == 4:
        crown = dome(0.4, 14).scaled(1, 1.08, dice.between(0.75, 0.95))
        panels = stripes(color, contrast(color, dice), 3, along="u", roughness=0.9) if dice.chance(0.5) else felt
        peak = sheet(
            lambda u, v: (
                (0.4 + 0.32 * v * np.sin(np.pi * u) ** 0.5) * np.sin((u - 0.5) * 2.4),
                -(0.4 + 0.34 * v * np.sin(np.pi * u) ** 0.6) * np.cos((u - 0.5) * 2.4) * 1.05,
                0.02 - 0.1 * v * (1 + (2 * u - 1) ** 2 * -0.6),
            ),
            8,
            24,
        )
        return [
            (crown, panels),
            (peak, ribbon if dice.chance(0.5) else felt),
            (sphere(0.035, 8).at(z=0.4 * 0.86), ribbon),
        ]
    tall, r, brim = dice.between(0.35, 0.6), dice.between(0.26, 0.32), dice.between(0.2, 0.34)
    curl = dice.between(0.0, 0.3)
    outline = {
        0: [(r, 0), (r * 0.95, tall * 0.5), (r * 1.08, tall)],
        1: [(r, 0), (r * 0.92, 0.2), (r * 0.6, 0.28), (0.001, 0.3)],
        2: [(r, 0), (r * 0.9, 0.22), (r * 0.7, 0.32), (0.001, 0.27)],
        3: [(r, 0), (r * 0.6, tall * 0.7), (r * 0.25, tall * 1.3), (0.01, tall * 1.8)],
    }[kind]
    crown = lathe([*curve(outline, 24), *([(0, tall)] if kind == 0 else [])], 48)
    edge = lathe(curve([(r, 0), (r + brim * 0.6, 0.01), (r + brim, 0.06 if kind == 0 else 0.02)], 10), 56)
    if kind in (0, 2):
        edge = edge.bent(
            lambda p: (
                p
                + np.stack(
                    [
                        0 * p[:, 0],
                        0 * p[:, 0],
                        (curl + 0.25 * (kind == 2)) * 2.2 * p[:, 0] ** 2 * (np.hypot(p[:, 0], p[:, 1]) > r * 1.05),
                    ],
                    1,
                )
            )
        )
    if kind == 3:
        bend = dice.between(-0.3, 0.3)
        crown = crown.bent(
            lambda p: p + np.stack([bend * np.maximum(p[:, 2] - tall * 0.6, 0) ** 1.5, 0 * p[:, 0], 0 * p[:, 0]], 1)
        )
    band = lathe([(np.interp(z, *np.array(curve(outline, 24)).T[::-1]) + 0.008, z) for z in (0.015, 0.1)], 48)
    if kind == 1:
        straw = near((0.88, 0.74, 0.45), dice, 0.05)
        felt = stripes(straw, tuple(0.88 * c for c in straw), 12, roughness=0.95)
    return [(crown, felt), (edge, felt), (band, ribbon)]


def chess_piece(dice: Dice) -> Parts:
    """A pawn, a rook, a bishop, a queen or a king, turned from wood, stone or metal."""
    skin = dice.pick([any_wood, any_metal, lambda d: plain(any_color(d), 0.25)])(dice)
    kind, r, h = dice.count(0, 4), dice.between(0.26, 0.32), dice.between(0.5, 0.85)
    thin = r * dice.between(0.35, 0.5)
    base = [(0, 0), (r, 0), *(arc(0.05, -60, 90, 6) + (r - 0.02, 0.06)), (r * 0.8, 0.14), (r * 0.75, 0.17)]
    stem = [
        *base,
        *curve([(r * 0.62, 0.2), (thin, h * 0.55), (thin * 0.85, h)], 16),
        (r * 0.65, h + 0.01),
        (r * 0.65, h + 0.05),
        (thin * 0.9, h + 0.07),
    ]
    if kind == 0:
        parts: Parts = [
            (lathe([*stem, (0, h + 0.07)], 44), skin),
            (sphere(r * 0.62, 14).at(z=h + 0.05 + r * 0.55), skin),
        ]
        return parts
    if kind == 1:
        wide = r * 0.78
        top = [
            (wide * 0.85, h + 0.1),
            (wide, h + 0.13),
            (wide, h + 0.32),
            (wide * 0.7, h + 0.32),
            (wide * 0.7, h + 0.24),
            (0, h + 0.24),
        ]
        merlon = box(wide * 0.45, wide * 0.3, 0.09).at(y=-wide * 0.85, z=h + 0.31).around(6)
        return [(lathe([*stem, *top], 44), skin), (merlon, skin)]
    if kind == 2:
        crown = [*curve([(thin, h + 0.1), (r * 0.55, h + 0.22), (r * 0.3, h + 0.4), (0.02, h + 0.5)], 16)]
        return [(lathe([*stem, *crown, (0, h + 0.5)], 44), skin), (sphere(0.05, 8).at(z=h + 0.53), skin)]
    wide = r * 0.72
    crown = [
        *curve([(thin, h + 0.1), (thin * 1.05, h + 0.2), (wide, h + 0.42)], 12),
        (wide * 0.8, h + 0.42),
        (0, h + 0.46),
    ]
    parts = [(lathe([*stem, *crown], 44), skin)]
    if kind == 3:
        points = sphere(0.05, 8).at(wide * 0.92, 0, h + 0.44).around(8)
        return [*parts, (points + sphere(0.07, 10).at(z=h + 0.5), skin)]
    cross = box(0.06, 0.05, 0.24).at(z=h + 0.45) + box(0.18, 0.05, 0.06).at(z=h + 0.55)
    return [*parts, (cross, skin)]
