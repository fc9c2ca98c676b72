"""Mugs, bottles, vases, bowls, teapots, buckets, goblets: lathed walls, open at the top, with contents."""

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
    glass,
    metal,
    near,
    patterned,
    plain,
    soft,
    textured,
    vivid,
)
from ..shapes import Parts, Shape, arc, circle, curve, cylinder, join, lathe, sphere, sweep, torus, tube

DRINKS = ((0.28, 0.16, 0.09), (0.62, 0.33, 0.12), (0.93, 0.88, 0.78), (0.75, 0.15, 0.12), (0.35, 0.55, 0.25))


def walled(outer: np.ndarray, wall: float) -> Shape:
    """A vessel from its outer profile [N, 2], bottom to rim: the wall's outside, a round lip, the inside."""
    inner = outer[::-1] - (wall, 0)
    inner = inner[inner[:, 1] > outer[0, 1] + wall]
    inner = np.maximum(inner, (0.001, -10))
    floor = (0, outer[0, 1] + wall)
    lip = arc(wall / 2, 0, 180, 6) + outer[-1] - (wall / 2, 0)
    return lathe([(0, outer[0, 1]), *outer, *lip[1:-1], *inner, (inner[-1, 0], floor[1]), floor], 56)


def ear(dice: Dice, x: float, low: float, high: float, reach: float, thick: float) -> Shape:
    """A handle at +x, from height `low` to `high`."""
    middle = (low + high) / 2
    kind = dice.count(0, 2)
    if kind == 0:
        path = [
            (x, 0, low),
            (x + reach * 0.8, 0, low + 0.02),
            (x + reach, 0, middle),
            (x + reach * 0.8, 0, high),
            (x, 0, high),
        ]
    elif kind == 1:
        path = [
            (x, 0, low),
            (x + reach * 0.55, 0, (low + middle) / 2),
            (x + reach, 0, high * 0.75 + middle * 0.25),
            (x + reach * 0.6, 0, high),
            (x, 0, high * 0.96 + low * 0.04),
        ]
    else:
        path = [(x, 0, low), (x + reach, 0, low), (x + reach, 0, middle), (x + reach, 0, high), (x, 0, high)]
    return sweep(curve(path, 28), circle(thick, 12, thick * dice.between(0.7, 1.8)), up=(0, 1, 0))


def mug(dice: Dice) -> Parts:
    """A cup with an ear, straight, conical or round, plain or with bands; some are full, some stand on a saucer."""
    r, h, wall = dice.between(0.32, 0.45), dice.between(0.65, 1.05), dice.between(0.03, 0.055)
    flare, belly = dice.between(-0.06, 0.1), dice.between(-0.03, 0.09)
    color = any_color(dice)
    z = np.linspace(0, 1, 16)
    radius = r + flare * z + belly * np.sin(np.pi * z)
    outer = np.column_stack([radius, z * h])
    outer = np.concatenate([[(radius[0] * 0.9, 0)], [(radius[0], 0.04)], outer[2:]])
    glaze = patterned(color, dice, dice.between(0.15, 0.5), 10, 5)
    if dice.chance(0.35):
        other = contrast(color, dice)
        low, thick = dice.between(0.28, 0.5), dice.between(0.06, 0.15)
        glaze = bands([color, other, color], [0.16 + low * 0.3, thick * 0.5, 1.0], 0.3)
    parts: Parts = [(walled(outer, wall), glaze)]
    handle = ear(dice, r + flare * 0.5, h * 0.22, h * 0.8, dice.between(0.22, 0.32), dice.between(0.035, 0.055))
    parts.append((handle, plain(color if dice.chance(0.7) else contrast(color, dice), 0.3)))
    if dice.chance(0.5):
        level = dice.between(0.7, 0.88)
        inside = float(np.interp(level, z, radius)) - wall * 0.8
        parts.append((lathe([(0, level * h), (inside, level * h)]), plain(near(dice.pick(DRINKS), dice), 0.15)))
    if dice.chance(0.2):
        saucer = lathe([(0, -0.05), (r * 1.0, -0.05), (r * 1.75, 0.05), (r * 1.75, 0.08), (r, -0.01), (0, -0.01)], 56)
        parts.append((saucer, plain(color, 0.3)))
    return parts


def bottle(dice: Dice) -> Parts:
    """Wine, soda, flask or jar-like; of glass or plastic, with cap, label, and something inside the clear ones."""
    r, h = dice.between(0.22, 0.36), dice.between(1.1, 1.7)
    neck, shoulder = r * dice.between(0.3, 0.5), dice.between(0.5, 0.72)
    waist = dice.between(0.0, 0.14) if dice.chance(0.4) else 0.0
    start = shoulder + dice.between(0.12, 0.2)
    body = curve(
        [
            (r, 0.05 * h),
            (r * (1 - waist), shoulder * h * 0.5),
            (r, shoulder * h * 0.92),
            (r * 0.95, shoulder * h),
            (neck * 1.25, start * h),
            (neck, (start + 0.06) * h),
            (neck, 0.95 * h),
        ],
        32,
    )
    outer = np.concatenate([[(r * 0.8, 0), (r * 0.96, 0.02)], body])
    color = vivid(dice)
    clear = dice.chance(0.45)
    skin = (
        glass(near((0.25, 0.5, 0.3), dice, 0.25), dice.between(0.38, 0.55))
        if clear
        else patterned(color, dice, 0.25, 8, 6)
    )
    parts: Parts = [(walled(outer, 0.03), skin)]
    if clear:
        level = shoulder * dice.between(0.4, 0.95)
        inside = outer[outer[:, 1] < level * h] - (0.04, 0)
        liquid = lathe([(0, 0.05), *np.maximum(inside, (0, 0.05)), (inside[-1, 0], level * h), (0, level * h)])
        parts.append((liquid, plain(near(dice.pick(DRINKS), dice, 0.1), 0.2)))
    if dice.chance(0.7):
        cap = cylinder(neck * 1.2, h * dice.between(0.06, 0.12), bevel=0.015, segments=32).at(z=h * 0.92)
        parts.append((cap, plain(contrast(color, dice), 0.4) if dice.chance(0.7) else any_metal(dice)))
    if dice.chance(0.6) and not waist:
        low, high = 0.16 * h, shoulder * h * dice.between(0.6, 0.88)
        label = lathe([(r * 1.012, low), (r * 1.012, high)], 48)
        paper = soft(dice)
        parts.append((label, bands([paper, contrast(paper, dice), paper], [dice.between(0.2, 0.6), 0.3, 0.3], 0.7)))
    return parts


def vase(dice: Dice) -> Parts:
    """A turned vase of any outline, with fluted or twisted walls, empty or with stems and blooms."""
    h, r = dice.between(0.9, 1.5), dice.between(0.22, 0.36)
    widths = [
        dice.between(0.5, 0.8),
        dice.between(0.9, 1.5),
        dice.between(0.7, 1.25),
        dice.between(0.35, 0.7),
        dice.between(0.55, 1.1),
    ]
    outer = curve([(r * w, h * z) for w, z in zip(widths, (0, 0.3, 0.55, 0.84, 1), strict=True)], 32)
    body = walled(outer, 0.035)
    if dice.chance(0.35):
        n, depth, twist = dice.count(6, 14), dice.between(0.03, 0.08), dice.between(-2, 2)

        def flute(p: np.ndarray) -> np.ndarray:
            wave = 1 + depth * np.cos(n * np.arctan2(p[:, 1], p[:, 0]) + twist * p[:, 2] * 3)
            return p * np.stack([wave, wave, np.ones(len(p))], 1)

        body = body.bent(flute)
    parts: Parts = [(body, patterned(any_color(dice), dice, dice.between(0.15, 0.7), 12, 6))]
    if dice.chance(0.4):
        petals, hearts, stems = [], [], []
        for _ in range(dice.count(3, 6)):
            turn, lean, tall = dice.between(0, 6.28), dice.between(0.1, 0.35), dice.between(1.3, 1.65) * h
            tip = np.array([lean * np.cos(turn), lean * np.sin(turn), tall])
            stems.append(tube(curve([(0, 0, h * 0.3), tip * (0.35, 0.35, 0.7), tip], 10), 0.014, 8))
            bloom = sphere(0.085, 8).scaled(1, 0.45, 0.3).at(0.1).around(dice.count(5, 7))
            petals.append(bloom.turned("x", 15).at(*tip))
            hearts.append(sphere(0.06, 8).at(*tip).at(z=0.02))
        parts += [
            (join(stems), plain((0.25, 0.5, 0.2), 0.7)),
            (join(petals), plain(vivid(dice), 0.6)),
            (join(hearts), plain((0.95, 0.78, 0.2), 0.7)),
        ]
    return parts


def bowl(dice: Dice) -> Parts:
    """A wide open bowl on a foot ring, empty or with fruit, eggs or soup."""
    r, h, wall = 0.5, dice.between(0.22, 0.42), dice.between(0.02, 0.04)
    foot = dice.between(0.18, 0.3)
    outer = curve([(foot, 0.05), (foot + (r - foot) * dice.between(0.55, 0.8), h * 0.4), (r, h)], 20)
    outer = np.concatenate([[(foot, 0)], outer])
    body = walled(outer, wall)
    parts: Parts = [(body, any_wood(dice) if dice.chance(0.25) else patterned(any_color(dice), dice, 0.3, 16, 4))]
    filling = dice.count(0, 3)
    if filling == 0:
        level = 0.7 * h
        parts.append(
            (
                lathe([(0, level), (float(np.interp(level, outer[:, 1], outer[:, 0])) - wall, level)]),
                plain(near(dice.pick(DRINKS), dice), 0.3),
            )
        )
    elif filling == 1:
        size, color = dice.between(0.11, 0.16), vivid(dice)
        ball = sphere(size, 12).scaled(1, 1, dice.between(0.85, 1.2))
        stem = tube([(0, 0, size * 0.8), (0.01, 0, size * 1.35)], 0.012, 6)
        ring = dice.count(3, 6)
        z, out = h * 0.6 + size * 0.5, min(0.25, size * 1.2 / np.sin(np.pi / ring))
        parts += [
            (ball.at(y=-out, z=z).around(ring) + ball.at(z=z + size), plain(color, 0.35)),
            (stem.at(y=-out, z=z).around(ring) + stem.at(z=z + size), plain((0.3, 0.22, 0.1), 0.8)),
        ]
    return parts


def teapot(dice: Dice) -> Parts:
    """A belly, a spout at -x, an ear at +x (or a bail over the top), a lid with a knob."""
    r, h = 0.45, dice.between(0.55, 0.85)
    top = dice.between(0.2, 0.3)
    body = lathe(
        [
            (0, 0),
            *curve(
                [(r * dice.between(0.55, 0.85), 0.0), (r, h * dice.between(0.35, 0.55)), (r * 0.8, h * 0.85), (top, h)],
                24,
            ),
        ],
        56,
    )
    color = any_color(dice)
    glaze = patterned(color, dice, 0.25, 12, 6)
    trim = plain(color if dice.chance(0.5) else contrast(color, dice), 0.3)
    if dice.chance(0.15):
        glaze = trim = metal(near((0.85, 0.85, 0.87), dice), 0.2)
    rise, z = dice.between(0.85, 1.1) * h, dice.between(0.2, 0.4) * h
    path = curve([(-r * 0.8, 0, z), (-r * 1.25, 0, z + 0.1), (-r * 1.45, 0, rise * 0.8), (-r * 1.75, 0, rise)], 24)
    spout = tube(path, np.linspace(0.13, 0.055, 24), 16, caps=False)
    lid = lathe(
        [
            (top * 1.06, h - 0.01),
            *curve([(top * 1.06, h + 0.02), (top * 0.7, h + 0.09), (0.05, h + 0.13)], 10),
            (0, h + 0.13),
        ],
        48,
    )
    knob = sphere(dice.between(0.05, 0.075), 10).at(z=h + 0.17)
    parts: Parts = [(body, glaze), (spout, glaze), (lid, trim), (knob, trim)]
    if dice.chance(0.25):
        bail = curve(
            [
                (-r * 0.75, 0, h * 0.8),
                (-r * 0.75, 0, h * 1.5),
                (0, 0, h * 1.8),
                (r * 0.75, 0, h * 1.5),
                (r * 0.75, 0, h * 0.8),
            ],
            32,
        )
        parts.append((tube(bail, 0.028), trim))
    else:
        parts.append(
            (ear(dice, r * 0.85, h * 0.2, h * 0.85, dice.between(0.28, 0.38), dice.between(0.04, 0.055)), trim)
        )
    return parts


def bucket(dice: Dice) -> Parts:
    """A pail: a cone of thin wall, open above, a wire handle up or down, perhaps sand or water in it."""
    r, h, low = 0.42, dice.between(0.6, 0.95), dice.between(0.65, 0.85)
    color = vivid(dice)
    skin = any_metal(dice) if dice.chance(0.3) else patterned(color, dice, 0.4, 8, 4)
    outer = np.array([(r * low, 0), (r, h), (r * 1.06, h)])
    parts: Parts = [(walled(outer, 0.025), skin)]
    tilt = dice.between(-65, 65)
    bail = np.column_stack(
        [arc(r * 1.08, 0, 180, 32)[:, 0], np.zeros(32), arc(r * dice.between(1.0, 1.3), 0, 180, 32)[:, 1]]
    )
    handle = tube(bail, 0.018, 10) + cylinder(0.05, 0.22, segments=16).turned("y", 90).at(-0.11, 0, bail[:, 2].max())
    parts.append((handle.turned("x", tilt).at(z=h * 0.92), plain(contrast(color, dice), 0.4)))
    if dice.chance(0.45):
        fill = lathe([(r * 0.92, h * 0.8), (0, h * dice.between(0.8, 1.05))])
        parts.append((fill, plain(dice.pick([(0.9, 0.78, 0.52), (0.35, 0.6, 0.85), (0.35, 0.24, 0.15)]), 0.8)))
    return parts


def goblet(dice: Dice) -> Parts:
    """A cup on a stem with a foot, of glass or metal, with or without wine."""
    r, bowl_h, stem = dice.between(0.26, 0.36), dice.between(0.4, 0.7), dice.between(0.35, 0.6)
    clear = dice.chance(0.6)
    skin = glass(near((0.8, 0.88, 0.92), dice, 0.08), dice.between(0.36, 0.5)) if clear else any_metal(dice)
    rim = r * dice.between(0.75, 1.05)
    outer = curve([(0.03, 0), (r * 0.7, bowl_h * 0.14), (r, bowl_h * 0.45), (rim, bowl_h)], 24) + (0, stem)
    foot = lathe(
        [
            (0, 0),
            (r * 0.9, 0),
            (r * 0.88, 0.03),
            *curve([(r * 0.5, 0.05), (0.05, 0.12), (0.03, stem * 0.5), (0.035, stem + 0.02)], 16),
        ],
        48,
    )
    parts: Parts = [(walled(outer, 0.022), skin), (foot, skin)]
    if dice.chance(0.6) or clear:
        level = dice.between(0.45, 0.75)
        inside = outer[outer[:, 1] < stem + level * bowl_h] - (0.03, 0)
        inside = np.maximum(inside[2:], (0.0, 0))
        parts.append(
            (lathe([(0, inside[0, 1]), *inside, (0, inside[-1, 1])]), plain(near((0.5, 0.06, 0.12), dice, 0.12), 0.2))
        )
    if not clear and dice.chance(0.6):
        parts.append((torus(0.05, 0.03, 24, 10).at(z=stem * 0.55), plain(vivid(dice), 0.2)))
    return parts


def barrel(dice: Dice) -> Parts:
    """Staves held by iron hoops, standing, closed or open."""
    r, h, belly = 0.36, dice.between(0.85, 1.15), dice.between(1.12, 1.35)
    z = np.linspace(0, 1, 18)
    radius = r * (1 + (belly - 1) * np.sin(np.pi * z))
    outer = np.column_stack([radius, z * h])
    color = (dice.between(0.45, 0.75), dice.between(0.3, 0.45), dice.between(0.15, 0.25))
    image = np.array([near(color, dice, 0.06) for _ in range(20)])[None]
    staves = textured(image, 0.8, sharp=True)
    body = walled(outer, 0.05)
    parts: Parts = [(body, staves)]
    hoops = [
        lathe([(np.interp(at + s, z, radius) + 0.012, (at + s) * h) for s in (-0.03, 0.03)])
        for at in (0.06, 0.3, 0.7, 0.94)
    ]
    parts.append((join(hoops), metal(near((0.35, 0.35, 0.37), dice, 0.04), 0.5)))
    if dice.chance(0.7):
        parts.append((lathe([(0, h * 0.94), (r * 0.98, h * 0.94)]), any_wood(dice)))
    return parts


def basket(dice: Dice) -> Parts:
    """A woven basket with an arch handle, with eggs, fruit or cloth in it."""
    r, h = 0.45, dice.between(0.3, 0.5)
    straw = near((0.78, 0.58, 0.32), dice, 0.08)
    dark = tuple(c * 0.72 for c in straw)
    outer = np.array([(r * dice.between(0.7, 0.9), 0), (r * 0.95, h * 0.5), (r, h)])
    squeeze = dice.between(0.65, 1.0)
    weave = checks(straw, dark, 40, 24, 0.85)
    body = walled(outer, 0.03).scaled(1, squeeze, 1)
    rim = torus(r, 0.035, 56, 10).at(z=h).scaled(1, squeeze, 1)
    arch = arc(r * 0.98, 0, 180, 32)
    top = dice.between(0.8, 1.3)
    handle = sweep(
        np.column_stack([arch[:, 0], 0 * arch[:, 0], h + arch[:, 1] * top]), circle(0.03, 10, 0.05), up=(0, 1, 0)
    )
    parts: Parts = [(body, weave), (rim, plain(dark, 0.8)), (handle, plain(straw, 0.8))]
    if dice.chance(0.7):
        size = dice.between(0.11, 0.14)
        ball = sphere(size, 12).scaled(1, 1, dice.between(0.9, 1.25))
        pile = ball.at(y=-size * 1.9).around(5).scaled(1, squeeze, 1) + ball.at(z=size * 0.7)
        parts.append((pile.at(z=h * 0.85), plain(dice.pick([vivid, soft])(dice), 0.5)))
        parts.append((lathe([(0, h * 0.7), (r * 0.93, h * 0.7)]).scaled(1, squeeze, 1), plain(dark, 0.9)))
    return parts
