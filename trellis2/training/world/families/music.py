"""Guitars, drums, pianos; the player is at -y."""

from __future__ import annotations

import numpy as np

from ..dice import Dice
from ..materials import any_color, any_metal, any_wood, contrast, near, patterned, plain, soft, stripes, vivid
from ..shapes import Parts, arc, beam, box, curve, cylinder, extrude, join, lathe, pipe, plate, rod, sphere, torus, tube

IVORY = (0.95, 0.94, 0.9)
BLACK = (0.07, 0.07, 0.08)


def guitar(dice: Dice) -> Parts:
    """Acoustic with a sound hole, or electric with horns and pickups; upright, strings to the front."""
    electric = dice.chance(0.45)
    waist, wide, upper = dice.between(0.2, 0.25), dice.between(0.34, 0.4), dice.between(0.24, 0.3)
    right = [(0, 0), (wide * 0.6, 0.02), (wide, 0.25), (waist, 0.55), (upper, 0.78)]
    if electric:
        left_top, right_top = (
            [(upper * 0.8, dice.between(0.95, 1.08)), (0.1, 0.82)],
            [(upper * 0.9, dice.between(0.85, 0.98)), (0.1, 0.76)],
        )
        half = [curve([*right, *top], 30) for top in (right_top, left_top)]
        outline = [*half[0], *(half[1][::-1] * (-1, 1))[:-1]]
        depth = 0.09
    else:
        half = curve([*right, (upper * 0.6, 0.9), (0, 0.93)], 30)
        outline = [*half, *(half[::-1] * (-1, 1))[1:-1]]
        depth = dice.between(0.17, 0.24)
    color = vivid(dice)
    skin = plain(color, 0.2) if electric or dice.chance(0.2) else any_wood(dice)
    body = plate(outline, depth, 0.025)
    wood, front = any_wood(dice), -depth / 2
    top, long = 0.75 if electric else 0.88, dice.between(0.75, 0.95)
    neck = box(0.09, 0.05, long + 0.1, 0.012).at(y=front, z=top - 0.1)
    board = box(0.085, 0.02, long + 0.22).at(y=front - 0.03, z=top - 0.22)
    frets = [box(0.088, 0.026, 0.009).at(y=front - 0.03, z=top + long * (1 - 0.88**k)) for k in range(1, 12)]
    head = plate([(-0.05, 0), (0.05, 0), (0.09, 0.1), (0.075, 0.27), (-0.075, 0.27), (-0.09, 0.1)], 0.045, 0.01).turned(
        "x", 6
    )
    pegs = [
        sphere(0.024, 6).at(side * 0.115, front, top + long + 0.08 + 0.07 * k) for side in (-1, 1) for k in range(3)
    ]
    parts: Parts = [
        (body, skin),
        (neck, wood),
        (board, plain((0.2, 0.13, 0.09), 0.5)),
        (join(frets), any_metal(dice)),
        (head.at(y=front + 0.01, z=top + long - 0.01), wood if dice.chance(0.6) else skin),
        (join(pegs), any_metal(dice)),
    ]
    if electric:
        guard = plate([(x * 0.72, 0.12 + z * 0.68) for x, z in outline], 0.012).at(y=front - 0.006)
        parts.append((guard, plain(contrast(color, dice), 0.4)))
        pickups = [box(0.2, 0.03, 0.055, 0.01).at(y=front - 0.015, z=z) for z in (0.3, 0.46, 0.6)[: dice.count(2, 3)]]
        parts.append((join(pickups), plain(BLACK, 0.4)))
        parts.append(
            (
                join(
                    [
                        cylinder(0.028, 0.03, segments=16)
                        .turned("x", 90)
                        .at(wide * 0.55 + 0.03 * k, front - 0.005, 0.14 + 0.08 * k)
                        for k in range(2)
                    ]
                ),
                any_metal(dice),
            )
        )
    else:
        hole = lathe([(0, 0), (0.105, 0)], 32).turned("x", 90).at(y=front - 0.004, z=0.6)
        rose = torus(0.115, 0.012, 40, 8).turned("x", 90).at(y=front - 0.002, z=0.6)
        parts += [(hole, plain((0.1, 0.06, 0.04), 0.9)), (rose, plain(near((0.3, 0.18, 0.1), dice), 0.5))]
    parts.append((box(0.24, 0.035, 0.04, 0.01).at(y=front - 0.018, z=0.2), plain((0.2, 0.13, 0.09), 0.5)))
    strings = [
        rod((x, front - 0.045, 0.22), (x * 0.75, front - 0.045, top + long + 0.02), 0.004, 5)
        for x in np.linspace(-0.034, 0.034, 6)
    ]
    parts.append((join(strings), any_metal(dice)))
    return parts


def drum(dice: Dice) -> Parts:
    """A snare or marching drum with rims, lugs or zigzag ropes and sticks, a conga, or a pair of bongos."""
    color = vivid(dice)
    kind = dice.count(0, 2)
    skin = plain(near(IVORY, dice, 0.04), 0.8)
    if kind:
        r, h = 0.45, dice.between(0.3, 0.85)
        shell = pipe(r, h, 0.03, 56)
        rim = any_metal(dice) if dice.chance(0.6) else plain(contrast(color, dice), 0.4)
        hoops = torus(r * 1.01, 0.028, 56, 10).at(z=0.02) + torus(r * 1.01, 0.028, 56, 10).at(z=h - 0.02)
        heads = lathe([(0, h - 0.005), (r, h - 0.005)], 48) + lathe([(0, 0.005), (r, 0.005)], 48)
        parts: Parts = [(shell, patterned(color, dice, 0.35, 12, 4)), (hoops, rim), (heads, skin)]
        n = dice.count(6, 10)
        if dice.chance(0.5):
            lug = rod((r * 1.04, 0, 0.03), (r * 1.04, 0, h - 0.03), 0.012, 8) + sphere(0.035, 8).at(r * 1.04, 0, h / 2)
            parts.append((lug.around(n), any_metal(dice)))
        else:
            turn = np.pi / n
            a, b = (r * 1.03 * np.cos(turn), r * 1.03 * np.sin(turn)), (r * 1.03, 0)
            rope = rod((*b, 0.04), (*a, h - 0.04), 0.013, 6) + rod(
                (*a, h - 0.04), (b[0] * np.cos(2 * turn), b[0] * np.sin(2 * turn), 0.04), 0.013, 6
            )
            parts.append((rope.around(n), plain(soft(dice), 0.8)))
        if dice.chance(0.7):
            stick = rod((-0.42, -0.12, h + 0.05), (0.35, 0.14, h + 0.045), 0.022, 10) + sphere(0.04, 8).at(
                -0.43, -0.125, h + 0.055
            )
            parts.append((stick + stick.scaled(1, -1, 1).turned("z", 12).at(z=0.05), any_wood(dice)))
        if h < 0.5 and dice.chance(0.4):
            leg = rod((0.1, 0, -0.35), (0.42, 0, -0.75), 0.02, 10)
            stand = (
                rod((0, 0, -0.75), (0, 0, 0), 0.028, 12)
                + leg.around(3, 30)
                + rod((0, 0, -0.1), (r * 0.9, 0, 0.02), 0.02, 8).around(3, 90)
            )
            parts.append((stand, any_metal(dice)))
        return parts
    r, h = 0.3, dice.between(0.5, 1.1)
    outline = curve([(r * dice.between(0.6, 0.8), 0), (r * dice.between(1.1, 1.3), h * 0.6), (r, h)], 24)
    image = [near(color, dice, 0.05) for _ in range(2)]
    body = lathe(outline, 48)
    one: Parts = [
        (body, stripes(image[0], image[1], 8, along="u", roughness=0.5) if dice.chance(0.5) else any_wood(dice)),
        (lathe([(0, h), (r, h), (r * 1.02, h - 0.02)], 40), skin),
        (torus(r * 1.02, 0.025, 48, 10).at(z=h - 0.06), any_metal(dice)),
    ]
    if dice.chance(0.5):
        return one
    size = dice.between(0.75, 0.9)
    second = [(shape.scaled(size, size, 1).at(r * 2.15), material) for shape, material in one]
    return [*one, *second, (box(0.2, 0.16, h * 0.3).at(r * 1.1, 0, h * 0.45), any_wood(dice))]


def piano(dice: Dice) -> Parts:
    """An upright piano with its keys, or a grand with a raised lid; some have a stool."""
    color = dice.pick([BLACK, (0.96, 0.95, 0.93), (0.38, 0.2, 0.12)])
    skin = plain(color, 0.15) if dice.chance(0.65) else any_wood(dice)
    w = dice.between(1.2, 1.4)
    n = 21

    def keys(y: float, z: float) -> Parts:
        white = [box(w * 0.86 / n * 0.9, 0.17, 0.03).at((k - (n - 1) / 2) * w * 0.86 / n, y, z) for k in range(n)]
        black = [
            box(w * 0.86 / n * 0.55, 0.1, 0.05).at((k - n / 2 + 1) * w * 0.86 / n, y + 0.035, z)
            for k in range(n - 1)
            if k % 7 not in (2, 6)
        ]
        return [(join(white), plain(IVORY, 0.3)), (join(black), plain(BLACK, 0.3))]

    parts: Parts = []
    if dice.chance(0.5):
        h = dice.between(1.0, 1.2)
        case = box(w, 0.34, h, 0.02).at(y=0.2) + box(w * 1.03, 0.4, 0.04, 0.01).at(y=0.19, z=h)
        bed = box(w, 0.3, 0.1, 0.015).at(y=-0.1, z=0.56)
        cheek = (
            beam([(-0.25, 0.56), (-0.25, 0.72), (-0.12, 0.78), (0.06, 0.84), (0.06, 0.56)], 0.06)
            .at(w / 2 - 0.03)
            .mirrored()
        )
        legs = (
            box(0.07, 0.07, 0.58, 0.01).at(w / 2 - 0.05, -0.2) + box(0.09, 0.42, 0.06).at(w / 2 - 0.05, -0.02)
        ).mirrored()
        parts = [(case, skin), (bed + cheek, skin), (legs, skin), *keys(-0.14, 0.66)]
        parts.append((box(w * 0.6, 0.02, 0.18).turned("x", -12).at(y=0.01, z=0.85), skin))
    else:
        d = dice.between(1.2, 1.7)
        right = curve([(w / 2, 0.28), (w / 2, 0.55), (w * 0.12, d * 0.7), (w * 0.05, d * 0.95), (-w * 0.3, d)], 20)
        outline = [(-w / 2, 0.0), (w / 2, 0.0), *right, (-w / 2, d * 0.85)]
        case = extrude([(-w / 2, 0.26), *outline[2:]], 0.26).at(z=0.6)
        lid = (
            extrude([(-w / 2, 0.26), *outline[2:]], 0.03)
            .at(w / 2)
            .turned("y", -dice.between(25, 40))
            .at(-w / 2, 0, 0.88)
        )
        bed = box(w, 0.3, 0.1).at(y=0.14, z=0.6) + box(0.06, 0.3, 0.2, 0.01).at(w / 2 - 0.03, 0.14, 0.6).mirrored()
        leg = cylinder(0.035, 0.62, 0.06, segments=20)
        legs = leg.at(-w * 0.4, 0.2) + leg.at(w * 0.4, 0.2) + leg.at(-w * 0.25, d * 0.8)
        prop = rod((w * 0.4, 0.5, 0.86), (w * 0.28, 0.5, 1.2), 0.012, 8)
        parts = [(case, skin), (bed, skin), (lid, skin), (legs + prop, skin), *keys(0.1, 0.7)]
    if dice.chance(0.4):
        stool = box(0.5, 0.3, 0.08, 0.03).at(y=-0.6, z=0.42)
        feet = (box(0.04, 0.04, 0.43).at(0.2, -0.5) + box(0.04, 0.04, 0.43).at(0.2, -0.7)).mirrored()
        parts += [(stool, plain(any_color(dice), 0.8)), (feet, skin)]
    return parts


def trumpet(dice: Dice) -> Parts:
    """A bell, a wound tube, three valves, a mouthpiece; along x."""
    brass = any_metal(dice)
    wide, r = dice.between(0.16, 0.22), dice.between(0.022, 0.03)
    bell = lathe(curve([(wide, 0), (wide * 0.55, 0.08), (wide * 0.3, 0.25), (r, 0.6)], 24), 40).turned("y", 90)
    low = 0.2
    turn = arc(low / 2, -90, 90, 16)
    path = [(-0.55, 0, 0), (0.5, 0, 0), *[(0.5 + x, 0, -low / 2 + z) for x, z in turn[-2::-1]], (-0.3, 0, -low)]
    back = [(-0.3, 0, -low), *[(-0.3 - x, 0, -low / 2 + z) for x, z in turn[1:]], (-0.2, 0, 0)]
    parts: Parts = [(bell.at(-1.0), brass), (tube(path, r, 14), brass), (tube(back, r, 14), brass)]
    valve = (
        cylinder(0.045, 0.34, bevel=0.01, segments=24).at(z=-0.27)
        + rod((0, 0, 0.05), (0, 0, 0.13), 0.014, 8)
        + cylinder(0.035, 0.02, segments=20).at(z=0.13)
    )
    parts.append((join([valve.at(x) for x in (-0.05, 0.07, 0.19)]), any_metal(dice)))
    tip = (
        lathe([(0.02, 0), (0.022, 0.1), (0.06, 0.15), (0.06, 0.17), (0.03, 0.15)], 24).turned("y", 90).at(0.62, 0, -low)
    )
    parts += [
        (tip, any_metal(dice)),
        (tube([(0.3, 0, -low), (0.63, 0, -low)], r * 0.9, 14), brass),
        (tube([(-0.3, 0, -low), (0.3, 0, -low)], r * 0.9, 14), brass),
    ]
    return parts
