"""Hammers, screwdrivers, saws, shovels, wrenches, brushes, swords, keys: upright, the broad side facing -y."""

from __future__ import annotations

import numpy as np

from ..dice import Dice
from ..materials import any_metal, any_wood, contrast, grey, metal, muted, near, plain, stripes, vivid
from ..shapes import (
    Parts,
    Shape,
    arc,
    box,
    circle,
    curve,
    cylinder,
    join,
    lathe,
    plate,
    rod,
    sphere,
    sweep,
    torus,
    tube,
)


def grip(dice: Dice, radius: float, length: float) -> Shape:
    """A handle along z, swollen where the hand holds it."""
    widths = [0.85, dice.between(0.95, 1.2), dice.between(0.8, 1.0), dice.between(0.95, 1.25), 0.8]
    outline = curve([(radius * w, length * z) for w, z in zip(widths, (0, 0.2, 0.5, 0.8, 1), strict=True)], 24)
    return lathe([(0, 0), (outline[0, 0] * 0.8, 0), *outline, (outline[-1, 0] * 0.7, length), (0, length)], 24)


def steel(dice: Dice) -> tuple[float, float, float]:
    """The grey of a blade."""
    return near((0.74, 0.75, 0.77), dice, 0.06)


def hammer(dice: Dice) -> Parts:
    """A claw hammer, a mallet or a sledge."""
    length, r = dice.between(0.85, 1.15), dice.between(0.032, 0.048)
    wood = dice.chance(0.6)
    handle = any_wood(dice) if wood else plain(vivid(dice), 0.5)
    oval = grip(dice, r, length).scaled(1, 0.75, 1)
    kind, iron = dice.count(0, 3), metal(steel(dice), dice.between(0.25, 0.5))
    parts: Parts = [(oval, handle)]
    if not wood or dice.chance(0.3):
        sleeve = lathe([(r * 1.2, 0), (r * 1.3, length * 0.1), (r * 1.1, length * 0.38)], 24).scaled(1, 0.8, 1)
        parts.append((sleeve, plain(grey(dice, 0.08, 0.25), 0.8)))
    if kind == 0:
        size = dice.between(0.12, 0.2)
        block = cylinder(size, size * 3, bevel=0.03, segments=32).turned("y", 90).at(-size * 1.5, 0, length)
        parts.append((block, any_wood(dice) if dice.chance(0.5) else plain(grey(dice, 0.08, 0.3), 0.8)))
    elif kind == 1:
        size = dice.between(0.13, 0.19)
        parts.append((box(size * 2.6, size, size, 0.025, 3).at(z=length - size / 2), iron))
    else:
        face = cylinder(0.062, 0.1, bevel=0.015, segments=28).turned("y", -90).at(-0.12, 0, length)
        neck = cylinder(0.045, 0.17, 0.058, segments=28).turned("y", -90).at(0.04, 0, length)
        parts.append((face + neck + box(0.12, 0.1, 0.12, 0.02).at(0.02, 0, length - 0.06), iron))
        droop = dice.between(0.05, 0.16)
        path = curve([(0.04, 0, length + 0.015), (0.18, 0, length + 0.01), (0.3, 0, length - droop)], 16)
        prong = sweep(path, circle(1, 12, 0.55), np.linspace(0.038, 0.014, 16), up=(0, 1, 0))
        spread = prong.bent(
            lambda p: p + np.stack([0 * p[:, 0], 0.028 + 0.08 * np.maximum(p[:, 0] - 0.05, 0), 0 * p[:, 0]], 1)
        )
        parts.append((spread.mirrored("y"), iron))
    return parts


def screwdriver(dice: Dice) -> Parts:
    """A fluted handle below, a shaft with a flat or crossed tip above."""
    length, r = dice.between(0.38, 0.5), dice.between(0.075, 0.11)
    shaft, thin = dice.between(0.4, 0.8), dice.between(0.018, 0.03)
    color = vivid(dice)
    flutes = dice.count(4, 8)

    def fluted(p: np.ndarray) -> np.ndarray:
        wave = 1 + 0.07 * np.cos(flutes * np.arctan2(p[:, 1], p[:, 0])) * (p[:, 2] > 0.06) * (p[:, 2] < length * 0.72)
        return p * np.stack([wave, wave, np.ones(len(p))], 1)

    outline = curve([(r * 0.6, 0), (r, 0.06), (r, length * 0.7), (r * 0.55, length * 0.85), (r * 0.7, length)], 28)
    handle = lathe([(0, 0), *outline, (0, length)], 48).bent(fluted)
    two_tone = dice.chance(0.5)
    skin = stripes(color, contrast(color, dice), flutes, along="u", roughness=0.4) if two_tone else plain(color, 0.35)
    iron = metal(steel(dice), 0.25)
    parts: Parts = [(handle, skin), (cylinder(thin, shaft, segments=20).at(z=length), iron)]
    if dice.chance(0.6):
        flat = plate(
            [(-thin, 0), (-thin * 1.9, 0.06), (-thin * 1.7, 0.13), (thin * 1.7, 0.13), (thin * 1.9, 0.06), (thin, 0)],
            thin * 0.9,
        )
        parts.append((flat.at(z=length + shaft - 0.01), iron))
    else:
        parts.append((cylinder(thin, 0.08, 0.006, segments=16).at(z=length + shaft), iron))
    if dice.chance(0.5):
        parts.append(
            (cylinder(r * 0.72, 0.03, bevel=0.008, segments=24).at(z=length * 0.97), plain(contrast(color, dice), 0.4))
        )
    return parts


def saw(dice: Dice) -> Parts:
    """A hand saw: a toothed blade that narrows towards +x, a closed handle at -x; or a bow saw."""
    length, teeth = dice.between(0.9, 1.2), dice.count(16, 34)
    color = any_wood(dice) if dice.chance(0.5) else plain(vivid(dice), 0.5)
    iron = metal(steel(dice), dice.between(0.2, 0.4))
    edge = np.linspace(0, length, 2 * teeth + 1)
    if dice.chance(0.3):
        depth, height = 0.03, dice.between(0.28, 0.42)
        zigzag = np.column_stack([edge, np.where(np.arange(2 * teeth + 1) % 2, -0.022, 0)])
        blade = plate([*zigzag, (length, 0.05), (0, 0.05)], 0.012)
        bow = curve(
            [
                (0, 0, 0),
                (0.02, 0, height * 0.8),
                (length * 0.3, 0, height),
                (length * 0.8, 0, height * 0.9),
                (length, 0, 0),
            ],
            40,
        )
        return [
            (blade, iron),
            (sweep(bow, circle(depth, 12)), color),
            (sphere(0.04, 8).at(length), color),
            (sphere(0.04, 8), color),
        ]
    high, low = dice.between(0.26, 0.36), dice.between(0.07, 0.16)
    zigzag = np.column_stack([edge, np.where(np.arange(2 * teeth + 1) % 2, -0.028, 0)])
    blade = plate([*zigzag, (length, low), (0, high)], 0.014)
    rim = curve(
        [
            (0.06, high * 1.02),
            (-0.02, high * 1.12),
            (-0.16, high * 1.15),
            (-0.27, high * 0.95),
            (-0.25, high * 0.5),
            (-0.3, high * 0.1),
            (-0.26, -0.08),
            (-0.1, -0.06),
            (0.08, 0.0),
        ],
        40,
    )
    outline = np.column_stack([rim[:, 0], 0 * rim[:, 0], rim[:, 1]])
    thick = dice.between(0.035, 0.05)
    ring = sweep(outline, circle(thick, 12, thick * 0.8), up=(0, 1, 0))
    bridge = plate(
        [(0.14, high * 0.3), (0.12, high * 0.8), (0.05, high * 1.05), (-0.03, high * 1.0), (-0.03, 0.0), (0.08, 0.0)],
        0.06,
        0.012,
    )
    return [(blade, iron), (ring, color), (bridge, color)]


def shovel(dice: Dice) -> Parts:
    """A spade or shovel, blade down: a curved sheet, a socket, a long shaft, a knob, D or T grip."""
    w, h, length = dice.between(0.24, 0.36), dice.between(0.34, 0.46), dice.between(0.6, 1.0)
    point, hollow = dice.between(0.0, 0.5), dice.between(0.12, 0.5)
    t = np.linspace(-1, 1, 17)
    lower = np.column_stack([t * w / 2 * (1 - 0.0 * t), point * 0.32 * (t * t) ** 0.8 * h])
    outline = [*lower, (w / 2, h * 0.94), (w * 0.42, h), (-w * 0.42, h), (-w / 2, h * 0.94)]
    blade = plate(np.array(outline), 0.014)
    blade = blade.bent(lambda p: p + np.stack([0 * p[:, 0], -hollow * 4 * p[:, 0] ** 2 / w * 0.5, 0 * p[:, 0]], 1))
    skin = metal(steel(dice), 0.35) if dice.chance(0.5) else plain(vivid(dice), 0.4)
    wood = any_wood(dice) if dice.chance(0.7) else plain(muted(dice), 0.5)
    socket = cylinder(0.03, 0.24, 0.026, segments=20).at(z=h - 0.12)
    shaft = cylinder(0.022, length, segments=20).at(z=h)
    parts: Parts = [(blade, skin), (socket, skin), (shaft, wood)]
    top, grip_color = h + length, plain(vivid(dice), 0.5) if dice.chance(0.5) else wood
    kind = dice.count(0, 2)
    if kind == 0:
        parts.append((rod((-0.1, 0, top), (0.1, 0, top), 0.024), grip_color))
    elif kind == 1:
        bow = curve(
            [
                (0, 0, top - 0.03),
                (0.09, 0, top + 0.06),
                (0.085, 0, top + 0.14),
                (-0.085, 0, top + 0.14),
                (-0.09, 0, top + 0.06),
                (0, 0, top - 0.03),
            ],
            36,
        )
        parts.append((tube(bow, 0.02), grip_color))
    else:
        parts.append((sphere(0.04, 10).at(z=top), grip_color))
    return parts


def wrench(dice: Dice) -> Parts:
    """A spanner: an open jaw above, a ring or a second jaw below."""
    length, w = dice.between(0.7, 1.1), dice.between(0.07, 0.1)
    r = w * dice.between(1.35, 1.7)
    thick = dice.between(0.05, 0.08)
    gap = r * dice.between(0.4, 0.55)
    a = np.degrees(np.arcsin(gap / r))
    rim = arc(r, 90 + a, 450 - a, 36)
    jaw = np.array([*rim, (gap, r * 0.05), (0, -r * 0.25), (-gap, r * 0.05)])
    skin = any_metal(dice) if dice.chance(0.7) else plain(vivid(dice), 0.35)
    head = plate(jaw, thick, 0.012).turned("y", dice.between(-18, 18)).at(z=length)
    bar = box(w, thick * 0.7, length - r * 0.8, 0.015).at(z=r * 0.4)
    parts: Parts = [(head, skin), (bar, skin)]
    if dice.chance(0.6):
        ring = lathe(
            [
                (r * 0.5, -thick / 2),
                (r * 0.92, -thick / 2),
                (r * 0.92, thick / 2),
                (r * 0.5, thick / 2),
                (r * 0.5, -thick / 2),
            ],
            36,
        )
        parts.append((ring.turned("x", 90), skin))
    else:
        parts.append((plate(jaw, thick, 0.012).turned("y", 180), skin))
    return parts


def sword(dice: Dice) -> Parts:
    """A blade upwards, a guard, a grip, a pommel."""
    length, w = dice.between(0.9, 1.4), dice.between(0.045, 0.08)
    hold = dice.between(0.2, 0.32)
    shape = np.array([(1, 0), (0, 0.22), (-1, 0), (0, -0.22)])
    sway = dice.between(0.0, 0.16) if dice.chance(0.4) else 0.0
    z = np.linspace(0, 1, 24)
    path = np.column_stack([sway * z * z, 0 * z, hold + length * z])
    width = w * np.where(z < 0.85, 1 - 0.15 * z, np.maximum(1 - (z - 0.85) / 0.15, 0.02) * 0.87)
    gold = any_metal(dice)
    parts: Parts = [(sweep(path, shape, width, up=(0, 1, 0)), metal(steel(dice), 0.2))]
    reach, curl = dice.between(0.14, 0.24), dice.between(-0.08, 0.1)
    guard = curve(
        [(-reach, 0, hold + curl), (-reach / 2, 0, hold), (0, 0, hold), (reach / 2, 0, hold), (reach, 0, hold + curl)],
        20,
    )
    parts.append((tube(guard, 0.026), gold))
    color = muted(dice)
    parts.append(
        (cylinder(0.026, hold, segments=20), stripes(color, contrast(color, dice), dice.count(4, 9), roughness=0.7))
    )
    knob = sphere(0.05, 10) if dice.chance(0.6) else torus(0.035, 0.02, 24, 10).turned("x", 90)
    parts.append((knob.at(z=-0.02), gold))
    return parts


def paintbrush(dice: Dice) -> Parts:
    """A flat or round brush, bristles up, the tip dipped in paint."""
    w, length = dice.between(0.1, 0.22), dice.between(0.45, 0.8)
    flat = dice.between(0.3, 0.6)
    paint, bristle = vivid(dice), near((0.82, 0.7, 0.5), dice, 0.1)
    outline = curve([(0.02, 0), (0.035, 0.1), (0.028, length * 0.6), (w * 0.8, length * 0.96), (w, length)], 28)
    handle = lathe([(0, 0), *outline, (0, length)], 32).scaled(1, flat, 1)
    band = lathe([(w * 1.02, length - 0.01), (w * 1.02, length + 0.12)], 32).scaled(1, flat, 1)
    z = length + 0.12
    hair = dice.between(0.2, 0.34)
    tuft = lathe([(w * 0.98, z), (w * 1.05, z + hair * 0.5), (w * 0.9, z + hair * 0.85), (0, z + hair)], 32).scaled(
        1, flat, 1
    )
    tip = lathe([(w * 1.08, z + hair * 0.45), (w * 0.95, z + hair * 0.85), (0, z + hair * 1.03)], 32).scaled(1, flat, 1)
    return [
        (handle, any_wood(dice) if dice.chance(0.5) else plain(vivid(dice), 0.3)),
        (band, any_metal(dice)),
        (tuft, plain(bristle, 0.9)),
        (tip, plain(paint, 0.4)),
    ]


def key(dice: Dice) -> Parts:
    """An old key: a bow to hold, a shaft, a bit with notches."""
    r, length = dice.between(0.13, 0.2), dice.between(0.55, 0.85)
    thick = dice.between(0.025, 0.04)
    skin = any_metal(dice)
    rings = [torus(r, thick, 40, 12)]
    if dice.chance(0.5):
        rings = [torus(r * 0.62, thick, 32, 12).at(r * 0.75).around(3, 90)]
    bow = join(rings).turned("x", 90).at(z=length + r)
    shaft = cylinder(thick * 1.15, length + 0.02, segments=20)
    n = dice.count(2, 3)
    bit = [box(dice.between(0.1, 0.22), thick * 1.3, 0.055).at(0.07, 0, 0.05 + 0.075 * k) for k in range(n)]
    collar = torus(thick * 1.4, thick * 0.6, 24, 10).at(z=length * 0.9)
    return [(bow, skin), (shaft, skin), (join(bit), skin), (collar, skin)]
