"""Lamps, clocks, umbrellas, candles, books, facing -y."""

from __future__ import annotations

import numpy as np

from ..dice import Dice
from ..materials import (
    any_color,
    any_metal,
    any_wood,
    contrast,
    glass,
    gradient,
    near,
    patterned,
    plain,
    soft,
    stripes,
    vivid,
)
from ..shapes import (
    Parts,
    Shape,
    arc,
    box,
    curve,
    cylinder,
    dome,
    join,
    lathe,
    pipe,
    plate,
    rod,
    sheet,
    sphere,
    torus,
    tube,
)

WARM = (0.99, 0.92, 0.7)


def lamp(dice: Dice) -> Parts:
    """A table or floor lamp under an open shade with a bulb in it, a desk lamp on a jointed arm, or a glowing globe."""
    kind = dice.count(0, 4)
    color = any_color(dice)
    frame = any_metal(dice) if dice.chance(0.6) else plain(color, 0.35)
    if kind == 3:
        base, low, high = cylinder(0.2, 0.04, bevel=0.012), dice.between(0.3, 0.45), dice.between(0.3, 0.45)
        bend, drop = np.radians(dice.between(10, 40)), np.radians(dice.between(30, 70))
        elbow = np.array([low * np.sin(bend), 0, 0.03 + low * np.cos(bend)])
        end = elbow + high * np.array([-np.sin(drop), 0, np.cos(drop)])
        hood = lathe([(0.03, 0.12), (0.045, 0.06), *curve([(0.06, 0.05), (0.12, -0.02), (0.16, -0.14)], 12)], 40)
        tilt = dice.between(10, 50)
        arms = (
            rod((0, 0, 0.03), elbow, 0.016)
            + rod(elbow, end, 0.016)
            + sphere(0.032, 8).at(*elbow)
            + sphere(0.032, 8).at(*end)
        )
        bulb = sphere(0.06, 10).at(z=-0.06).turned("y", tilt).at(*end)
        return [
            (base, frame),
            (arms, frame),
            (hood.turned("y", tilt).at(*end), plain(color, 0.35)),
            (bulb, plain(WARM, 0.4)),
        ]
    if kind == 4:
        r = dice.between(0.22, 0.32)
        foot = lathe(
            [(0, 0), (r * 0.7, 0), (r * 0.6, 0.05), *curve([(0.1, 0.08), (0.06, 0.2), (0.09, 0.3)], 12), (0, 0.3)], 40
        )
        globe = sphere(r, 18).at(z=0.27 + r)
        return [
            (foot, frame),
            (globe, glass(near((0.95, 0.93, 0.85), dice, 0.05), 0.55)),
            (sphere(r * 0.35, 10).at(z=0.27 + r), plain(WARM, 0.4)),
        ]
    tall = dice.between(1.1, 1.5) if kind == 2 else dice.between(0.5, 0.75)
    r, h = dice.between(0.24, 0.36), dice.between(0.26, 0.4)
    top = r * dice.pick((dice.between(0.4, 0.7), dice.between(0.9, 1.0)))
    shade = (
        lathe([(r, 0), (top, h)], 48)
        if dice.chance(0.75)
        else lathe(curve([(r, 0), (r * 0.75, h * 0.35), (top * 0.8, h)], 16), 48)
    )
    cloth = (
        plain(near((0.95, 0.9, 0.78), dice, 0.05), 0.9)
        if dice.chance(0.45)
        else patterned(soft(dice) if dice.chance(0.5) else color, dice, 0.9, 12, 5)
    )
    foot = dice.between(0.14, 0.22)
    base = cylinder(foot, 0.04, bevel=0.012)
    stem: Shape = cylinder(dice.between(0.014, 0.028), tall + h * 0.4, segments=20)
    if kind == 1:
        widths = [dice.between(0.04, 0.16) for _ in range(4)]
        body = curve(
            [
                (foot * 0.8, 0.03),
                *[(w, tall * t) for w, t in zip(widths, (0.2, 0.4, 0.6, 0.8), strict=True)],
                (0.025, tall),
            ],
            32,
        )
        stem = stem + lathe(body, 36)
        frame = patterned(color, dice, 0.3, 8, 6)
    parts: Parts = [(base, frame), (stem, frame), (shade.at(z=tall), cloth)]
    bulb = lathe([(0.025, 0), (0.025, 0.06), *curve([(0.03, 0.07), (0.065, 0.14), (0.001, 0.21)], 12)], 24)
    parts.append((bulb.at(z=tall + h * 0.15), plain(WARM, 0.4)))
    spider = rod((0, 0, tall + h * 0.4), (0.78 * min(top, r), 0, tall + h * 0.92), 0.007, 6).around(3)
    parts.append((spider, any_metal(dice)))
    return parts


def clock(dice: Dice) -> Parts:
    """An alarm clock with bells and feet, a wall clock, or a mantel clock in a wooden case."""
    r, d = 0.4, dice.between(0.14, 0.26)
    color, kind = any_color(dice), dice.count(0, 2)
    paint = any_metal(dice) if dice.chance(0.3) else plain(color, 0.3)
    white = soft(dice) if dice.chance(0.7) else (0.12, 0.12, 0.14)
    ink = plain((0.95, 0.95, 0.9) if sum(white) < 1 else (0.1, 0.1, 0.12), 0.5)
    front = -d / 2
    marks = [
        box(0.03, 0.02, 0.09 if k % 3 == 0 else 0.045).at(z=r * (0.66 if k % 3 == 0 else 0.74)).turned("y", 30 * k)
        for k in range(12)
    ]
    hour, minute = dice.between(0, 360), dice.between(0, 360)
    hands = box(0.04, 0.015, r * 0.45, 0.006).turned("y", hour) + box(0.025, 0.015, r * 0.68, 0.006).turned(
        "y", minute
    ).at(y=-0.012)
    face = lathe([(0, 0), (r * 0.93, 0)], 48).turned("x", 90)
    parts: Parts = [(face.at(y=front), plain(white, 0.6)), (join(marks).at(y=front - 0.005), ink)]
    parts += [
        (hands.at(y=front - 0.02), plain(vivid(dice), 0.4) if dice.chance(0.4) else ink),
        (sphere(0.035, 8).at(y=front - 0.03), ink),
    ]
    ring = pipe(r, d + 0.05, 0.04, 56).turned("x", 90).at(y=d / 2)
    back = cylinder(r * 0.98, d * 0.9, bevel=0.03, segments=48).turned("x", 90).at(y=d / 2)
    if kind == 2:
        wood = any_wood(dice)
        w, low = dice.between(1.0, 1.3), dice.between(0.5, 0.65)
        top = arc(w / 2, 0, 180, 20) * (1, dice.between(0.7, 1.0))
        case = plate([(-w / 2, -low), (w / 2, -low), *top], d, 0.02)
        foot = box(w * 1.12, d * 1.4, 0.09, 0.02).at(z=-low - 0.08)
        shifted = [(shape.at(y=-0.015), material) for shape, material in parts]
        return [
            (case, wood),
            (foot, wood),
            *shifted,
            (torus(r * 0.95, 0.03, 48, 10).turned("x", 90).at(y=front), any_metal(dice)),
        ]
    parts += [(ring, paint), (back, paint)]
    if kind == 0:
        bell = dome(0.16, 10).turned("y", 32).at(0.22, 0, r * 0.92)
        legs = rod((0.2, 0, -r * 0.85), (0.3, 0, -r * 1.25), 0.03, 12) + sphere(0.04, 8).at(0.3, 0, -r * 1.25)
        hammer = rod((0, 0, r), (0, 0, r * 1.35), 0.016, 8) + sphere(0.04, 8).at(z=r * 1.35)
        grip = tube(
            curve([(-0.2, 0, r * 1.25), (-0.16, 0, r * 1.6), (0.16, 0, r * 1.6), (0.2, 0, r * 1.25)], 20), 0.018
        )
        parts += [(bell.mirrored(), any_metal(dice)), (legs.mirrored(), paint), (hammer + grip, any_metal(dice))]
    return parts


def umbrella(dice: Dice) -> Parts:
    """An open umbrella: panels of thin cloth on ribs, a shaft, a hooked or straight grip; or a parasol on a stand."""
    n, r = dice.pick((6, 8, 8, 10)), dice.between(0.55, 0.7)
    h = r * dice.between(0.35, 0.6)
    color = vivid(dice)
    length = dice.between(0.85, 1.1)

    def canopy(u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, ...]:
        turn = u * 2 * np.pi
        edge = np.abs((u * n) % 1 - 0.5) * 2
        out = r * v * (1 - 0.09 * (1 - edge**2) * v)
        drop = h * (1 - np.cos(v * np.pi / 2)) * (1 - 0.0 * edge) - 0.03 * (1 - edge**2) * v
        return out * np.cos(turn), out * np.sin(turn), length - drop

    style = dice.count(0, 3)
    cloth = [
        plain(color, 0.8),
        stripes(color, contrast(color, dice), n // 2, along="u", roughness=0.8),
        stripes(color, contrast(color, dice), 3, roughness=0.8),
        patterned(color, dice, 0.8, 16, 6),
    ][style]
    top = sheet(canopy, 14, 8 * n + 1)
    bend = np.linspace(0.02, 1, 10)
    ribs = tube(
        np.column_stack([r * bend * 0.99, 0 * bend, length - 0.012 - h * (1 - np.cos(bend * np.pi / 2))]), 0.009, 6
    ).around(n)
    metal, grip = any_metal(dice), plain(any_color(dice), 0.5) if dice.chance(0.5) else any_wood(dice)
    parts: Parts = [(top, cloth), (ribs, metal), (rod((0, 0, 0), (0, 0, length + 0.09), 0.016, 12), metal)]
    strut = rod((0.016, 0, length - 0.35), (r * 0.55, 0, length - 0.02 - h * 0.35), 0.007, 6).around(n)
    parts.append((strut, metal))
    if dice.chance(0.65):
        hook = arc(0.08, 180, 380, 18) + (0.08, 0)
        parts.append((tube([(0, 0, 0.14), *[(x, 0, z - 0.02) for x, z in hook]], 0.026), grip))
    elif dice.chance(0.5):
        parts.append((cylinder(0.032, 0.2, bevel=0.01, segments=20).at(z=-0.06), grip))
    else:
        parts.append((cylinder(0.26, 0.07, 0.2, bevel=0.02).at(z=-0.06), plain(any_color(dice), 0.6)))
    return parts


def candle(dice: Dice) -> Parts:
    """Candles with flames: on a saucer with a ring, in a tall holder, or with three to five arms."""
    wax = soft(dice) if dice.chance(0.6) else vivid(dice)
    brass = any_metal(dice) if dice.chance(0.75) else plain(any_color(dice), 0.4)
    tall, r = dice.between(0.25, 0.6), dice.between(0.04, 0.065)
    flame = lathe(curve([(0.001, 0), (0.032, 0.045), (0.018, 0.1), (0.001, 0.16)], 16), 20)
    one = [
        (
            cylinder(r, tall, bevel=0.01, segments=28),
            stripes(wax, vivid(dice), 5) if dice.chance(0.2) else plain(wax, 0.6),
        ),
        (cylinder(0.007, 0.05, segments=8).at(z=tall), plain((0.1, 0.1, 0.1), 0.9)),
        (flame.at(z=tall + 0.03), gradient((0.98, 0.55, 0.1), (1.0, 0.92, 0.5), 0.5)),
    ]
    cup = lathe([(0, 0), (r * 1.3, 0), (r * 1.5, 0.07), (r * 1.35, 0.07), (r * 1.1, 0.02)], 28)
    kind = dice.count(0, 2)
    if kind == 0:
        dish = lathe([(0, -0.02), (0.2, -0.02), (0.27, 0.05), (0.25, 0.05), (0.19, 0.0), (0, 0.0)], 44)
        ring = torus(0.075, 0.018, 28, 10).turned("x", 90).at(0.32, 0, 0.04)
        return [*one, (dish, brass), (cup, brass), (ring, brass)]
    stem = dice.between(0.3, 0.6)
    knot = [dice.between(0.02, 0.07) for _ in range(3)]
    foot = lathe(
        [
            (0, 0),
            (0.2, 0),
            (0.19, 0.03),
            *curve(
                [
                    (0.06, 0.06),
                    *[(0.02 + k, stem * t) for k, t in zip(knot, (0.3, 0.55, 0.8), strict=True)],
                    (0.03, stem),
                ],
                28,
            ),
        ],
        36,
    )
    parts: Parts = [
        (foot, brass),
        (cup.at(z=stem), brass),
        *[(shape.at(z=stem + 0.02), material) for shape, material in one],
    ]
    if kind == 2:
        for reach in (0.24, 0.44)[: dice.count(1, 2)]:
            for side in (-1, 1):
                low = stem - reach * 0.7
                arm = curve(
                    [
                        (0, 0, low),
                        (side * reach * 0.7, 0, low - 0.02),
                        (side * reach, 0, low + reach * 0.35),
                        (side * reach, 0, stem - 0.02),
                    ],
                    20,
                )
                parts += [(tube(arm, 0.018, 10), brass), (cup.at(side * reach, 0, stem - 0.03), brass)]
                parts += [(shape.at(side * reach, 0, stem - 0.01), material) for shape, material in one]
    return parts


def books(dice: Dice) -> Parts:
    """A stack of books, one perhaps open on top, or a few that stand between two ends."""
    parts: Parts = []
    paper = plain((0.95, 0.93, 0.86), 0.9)

    def book(w: float, d: float, t: float) -> Parts:
        color = any_color(dice)
        cover = plain(color, 0.6)
        c = 0.014
        boards = box(w, d, c).at() + box(w, d, c).at(z=t - c)
        spine = box(c, d, t).at(-w / 2)
        stripe = box(c * 1.3, d * 0.7, t * 0.4).at(-w / 2 - 0.002, 0, t * 0.3)
        return [
            (boards + spine, cover),
            (box(w * 0.94, d * 0.94, t - 2 * c).at(0.0, 0, c), paper),
            (stripe, plain(contrast(color, dice), 0.6)),
        ]

    z = 0.0
    if dice.chance(0.7):
        for _ in range(dice.count(2, 6)):
            t, turn = dice.between(0.06, 0.15), dice.between(-18, 18)
            x, y = dice.between(-0.03, 0.03), dice.between(-0.03, 0.03)
            parts += [
                (shape.turned("z", 90 + turn).at(x, y, z), material)
                for shape, material in book(dice.between(0.5, 0.62), dice.between(0.7, 0.85), t)
            ]
            z += t + 0.002
        if dice.chance(0.4):
            page = sheet(
                lambda u, v: (
                    0.36 * u,
                    (v - 0.5) * 0.56,
                    0.02 + 0.08 * np.sin(np.pi * np.minimum(u * 1.15, 1)) * (1 - 0.5 * u),
                ),
                4,
                16,
            )
            lines = stripes((0.96, 0.95, 0.9), (0.55, 0.55, 0.55), 9, roughness=0.9)
            parts += [
                (page.mirrored().at(z=z + 0.01), lines),
                (box(0.76, 0.6, 0.015).at(z=z), plain(any_color(dice), 0.6)),
            ]
        return parts
    x, n = 0.0, dice.count(3, 7)
    for _ in range(n):
        t, tall = dice.between(0.07, 0.16), dice.between(0.6, 0.85)
        parts += [
            (shape.turned("y", 90).turned("z", 90).turned("z", -90).at(x, 0, tall / 2), material)
            for shape, material in book(tall, 0.55, t)
        ]
        x += t + 0.004
    ends = (
        box(0.04, 0.5, 0.55).at(-0.03) + box(0.04, 0.5, 0.55).at(x + 0.03) + box(x + 0.1, 0.5, 0.02).at(x / 2, 0, -0.02)
    )
    return [*parts, (ends, any_wood(dice))]
