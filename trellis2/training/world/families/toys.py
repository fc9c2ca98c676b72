"""Blocks, robots, snowmen, dice, stacking rings, teddy bears, ducks, looking towards -y."""

from __future__ import annotations

import numpy as np

from ..dice import Dice
from ..materials import (
    any_color,
    any_metal,
    any_wood,
    contrast,
    dots,
    grey,
    near,
    patterned,
    plain,
    soft,
    stripes,
    vivid,
)
from ..shapes import Parts, Shape, arc, beam, box, cylinder, dome, join, lathe, plate, rod, sphere, torus, tube

COAL = (0.08, 0.08, 0.09)


def eyes(x: float, y: float, z: float, size: float) -> Shape:
    """A pair of balls at ±x."""
    return sphere(size, 8).at(x, y, z).mirrored()


def blocks(dice: Dice) -> Parts:
    """A few building blocks, side by side and on top of each other: cubes, bricks, an arch, a roof, a roller."""
    side = 0.4

    def block(kind: int) -> Shape:
        turned = dice.between(-14, 14)
        if kind == 0:
            made = box(side, side, side, 0.03)
        elif kind == 1:
            made = cylinder(side / 2, side, bevel=0.025)
        elif kind == 2:
            rim = arc(side * 0.3, 0, 180, 14)
            made = plate(
                [(side * 0.5, 0), (side * 0.5, side), (-side * 0.5, side), (-side * 0.5, 0), *rim[::-1]],
                side * 0.9,
                0.02,
            )
        else:
            made = box(side * 1.0, side * 0.8, side * 0.55, 0.03)
        return made.turned("z", turned)

    def roof() -> Shape:
        height = side * dice.between(0.55, 0.9)
        if dice.chance(0.35):
            return cylinder(side * 0.5, height * 1.2, 0.01)
        return plate([(-side / 2, 0), (side / 2, 0), (0, height)], side * 0.9, 0.02)

    parts: Parts = []
    columns = dice.count(1, 3)
    style = any_wood if dice.chance(0.2) else lambda d: patterned(vivid(d), d, 0.5, 4, 4)
    for k in range(columns):
        x, y, z = (k - (columns - 1) / 2) * side * 1.12, dice.between(-0.08, 0.08), 0.0
        for level in range(dice.count(1 if columns > 1 else 3, 4)):
            shape = block(dice.count(0, 3) if level else dice.pick((0, 0, 3)))
            parts.append((shape.at(x, y, z), style(dice)))
            z += float(np.ptp(shape.points[:, 2]))
        if dice.chance(0.6):
            parts.append((roof().at(x, y, z), plain(vivid(dice), 0.5)))
    return parts


def robot(dice: Dice) -> Parts:
    """A box or barrel body, a head with eyes and antenna, jointed arms and legs or wheels, a panel on the chest."""
    color, second = any_color(dice), vivid(dice)
    skin = any_metal(dice) if dice.chance(0.4) else plain(color, 0.35)
    trim, dark = plain(second, 0.35), plain((0.15, 0.15, 0.17), 0.5)
    w, d, h = dice.between(0.45, 0.65), dice.between(0.32, 0.42), dice.between(0.45, 0.65)
    leg = dice.between(0.2, 0.42)
    round_body = dice.chance(0.3)
    torso = cylinder(w / 2, h, w / 2 * dice.between(0.8, 1.1), bevel=0.05) if round_body else box(w, d, h, 0.06, 3)
    parts: Parts = [(torso.at(z=leg), skin)]
    front = -(w / 2 if round_body else d / 2)
    if not round_body:
        parts.append((box(w * 0.6, 0.03, h * 0.4, 0.01).at(y=front - 0.005, z=leg + h * 0.35), trim))
        knobs = [sphere(0.032, 8).at(x * w * 0.17, front - 0.025, leg + h * 0.62) for x in (-1, 0, 1)]
        parts.append((join(knobs), plain(vivid(dice), 0.2)))
    neck = dice.between(0.03, 0.1)
    hw, hh = dice.between(0.3, 0.46), dice.between(0.26, 0.36)
    top = leg + h + neck
    parts.append((cylinder(0.07, neck + 0.04, segments=20).at(z=leg + h - 0.02), dark))
    if dice.chance(0.3):
        parts.append((dome(hw * 0.5, 12).at(z=top) + cylinder(hw * 0.5, 0.02).at(z=top), skin))
        face, hh = -hw * 0.46, hw * 0.45
    else:
        parts.append((box(hw, d * 0.85, hh, 0.05, 3).at(z=top), skin))
        face = -d * 0.425
    size = dice.between(0.045, 0.065)
    parts.append((eyes(hw * 0.24, face, top + hh * 0.62, size), plain(near((0.95, 0.92, 0.6), dice), 0.2)))
    parts.append((eyes(hw * 0.24, face - size * 0.72, top + hh * 0.62, size * 0.5), plain(COAL, 0.2)))
    parts.append((box(hw * 0.5, 0.03, 0.04, 0.01).at(y=face + 0.0, z=top + hh * 0.2), dark))
    if dice.chance(0.7):
        antenna = rod((0, 0, top + hh), (0, 0, top + hh + 0.16), 0.014, 10)
        if dice.chance(0.4):
            antenna = antenna.at(hw * 0.3).mirrored()
            parts.append((sphere(0.04, 8).at(hw * 0.3, 0, top + hh + 0.16).mirrored(), trim))
        else:
            parts.append((sphere(0.045, 8).at(z=top + hh + 0.16), trim))
        parts.append((antenna, dark))
    shoulder, reach = leg + h * 0.85, dice.between(0.3, 0.45)
    lift = dice.between(-10, 75) if dice.chance(0.6) else -5
    for side in (-1, 1):
        angle = lift if side > 0 or dice.chance(0.4) else -8
        arm = cylinder(0.05, reach, segments=20).at(z=-reach) + torus(0.055, 0.02, 20, 8).at(z=-reach * 0.5)
        claw = torus(0.065, 0.026, 24, 10).turned("x", 90).at(z=-reach - 0.05)
        joint = sphere(0.085, 10)
        for shape, material in ((arm, skin), (claw, trim), (joint, dark)):
            tilted = shape.turned("y", -angle - 8)
            parts.append(
                ((tilted if side > 0 else tilted.scaled(-1, 1, 1)).at(side * (w / 2 + 0.05), 0, shoulder), material)
            )
    if dice.chance(0.25):
        track = beam(
            [*(arc(leg * 0.5, 90, 270, 12) + (-0.16, leg * 0.5)), *(arc(leg * 0.5, -90, 90, 12) + (0.16, leg * 0.5))],
            0.15,
            0.02,
        )
        parts.append((track.at(w * 0.34).mirrored(), dark))
    else:
        limb = cylinder(0.065, leg, segments=20) + box(0.17, 0.26, 0.09, 0.03).at(y=-0.05)
        parts.append((limb.at(w * 0.26).mirrored(), trim))
    return parts


def snowman(dice: Dice) -> Parts:
    """Two or three balls of snow, a carrot, coals, stick arms, a scarf, and a hat, bucket or cap."""
    sizes = [dice.between(0.4, 0.5), dice.between(0.3, 0.36), dice.between(0.21, 0.27)]
    if dice.chance(0.3):
        sizes.pop(1)
    snow = plain(near((0.94, 0.95, 0.97), dice, 0.02), 0.85)
    z, centers = 0.0, []
    for size in sizes:
        z += size * 0.86
        centers.append(z)
        z += size * 0.72
    parts: Parts = [(join([sphere(size, 18).at(z=c) for size, c in zip(sizes, centers, strict=True)]), snow)]
    head, top = sizes[-1], centers[-1]
    parts.append((eyes(head * 0.36, -head * 0.88, top + head * 0.25, head * 0.11), plain(COAL, 0.6)))
    nose = (
        cylinder(head * 0.17, head * dice.between(0.7, 1.3), 0.005, segments=16)
        .turned("x", 90)
        .at(y=-head * 0.9, z=top)
    )
    parts.append((nose, plain((0.93, 0.48, 0.12), 0.6)))
    smile = [
        sphere(head * 0.07, 6).at(head * 0.5 * np.sin(a), -head * 0.86, top - head * (0.2 + 0.25 * np.cos(a)))
        for a in np.linspace(-1, 1, 5)
    ]
    body, middle = sizes[-2], centers[-2]
    buttons = [sphere(body * 0.1, 8).at(y=-body * np.cos(a), z=middle + body * np.sin(a)) for a in (-0.25, 0.15, 0.55)]
    parts += [(join(smile), plain(COAL, 0.6)), (join(buttons), plain(COAL if dice.chance(0.5) else vivid(dice), 0.5))]
    lift = dice.between(-0.1, 0.4)
    stick = rod((body * 0.8, 0, middle + body * 0.3), (body * 2.0, -0.05, middle + body * (0.3 + lift)), 0.022, 8)
    twig = rod(
        (body * 1.65, -0.03, middle + body * (0.3 + lift * 0.7)),
        (body * 1.9, 0, middle + body * (0.55 + lift)),
        0.014,
        8,
    )
    parts.append(((stick + twig).mirrored(), plain((0.36, 0.24, 0.14), 0.9)))
    scarf, neck = vivid(dice), (centers[-1] + centers[-2] + body - head) / 2
    if dice.chance(0.75):
        wrap = torus(head * 0.82, head * 0.2, 40, 12).at(z=neck + 0.01)
        end = box(head * 0.36, 0.05, body * 1.0, 0.02).turned("x", 8).at(head * 0.5, -body * 0.97, neck - body * 0.95)
        parts.append((wrap + end, plain(scarf, 0.9)))
    cover, kind = contrast((0.9, 0.9, 0.9), dice), dice.count(0, 2)
    high = top + head * 0.75
    if kind == 0:
        tall = dice.between(0.7, 1.3)
        hat = lathe(
            [(head * 1.25, 0), (head * 1.25, 0.03), (head * 0.8, 0.03), (head * 0.76, head * tall), (0, head * tall)],
            40,
        )
        parts += [
            (hat.at(z=high), plain(grey(dice, 0.06, 0.2), 0.6)),
            (lathe([(head * 0.81, 0.035), (head * 0.8, 0.12)], 40).at(z=high), plain(scarf, 0.7)),
        ]
    elif kind == 1:
        parts.append(
            (
                lathe([(head * 0.95, -0.05), (head * 0.65, head * 0.95), (0, head * 0.95)], 36).at(z=high),
                plain(cover, 0.4),
            )
        )
    else:
        cap = dome(head * 1.02, 10).at(z=top + head * 0.28)
        parts += [
            (cap, stripes(cover, soft(dice), 4, roughness=0.9)),
            (torus(head * 0.98, head * 0.13, 36, 10).at(z=top + head * 0.33), plain(soft(dice), 0.9)),
            (sphere(head * 0.22, 10).at(z=top + head * 1.38), plain(soft(dice), 0.95)),
        ]
    return parts


def die(dice: Dice) -> Parts:
    """One to three gaming dice with pips; a second one leans or lies on the first."""
    pips = {1: [(0, 0)], 2: [(-1, -1), (1, 1)], 3: [(-1, -1), (0, 0), (1, 1)], 4: [(-1, -1), (-1, 1), (1, -1), (1, 1)]}
    pips[5] = [*pips[4], (0, 0)]
    pips[6] = [*pips[4], (-1, 0), (1, 0)]

    def cube(bevel: float, size: float) -> tuple[Shape, Shape]:
        body = box(1, 1, 1, bevel, 4).at(z=-0.5)
        spots = []
        for number, axis, turn in (
            (1, "x", 0),
            (6, "x", 180),
            (2, "x", 90),
            (5, "x", -90),
            (3, "y", 90),
            (4, "y", -90),
        ):
            spot = [sphere(size, 8).scaled(1, 1, 0.3).at(0.26 * x, 0.26 * y, 0.49) for x, y in pips[number]]
            spots.append(join(spot).turned(axis, turn))
        return body, join(spots)

    parts: Parts = []
    spots = ((0.0, 0.0, 0.5), (1.15, 0.1, 0.5), (0.5, 0.05, 1.5))
    for x, y, z in spots[: dice.pick((1, 1, 2, 3))]:
        color = any_color(dice)
        turn, roll = dice.between(-40, 40), 90 * dice.count(0, 3)
        skin = (plain(color, 0.25), plain((0.97, 0.97, 0.95) if sum(color) < 1.7 else COAL, 0.4))
        for shape, material in zip(cube(dice.between(0.08, 0.2), dice.between(0.09, 0.12)), skin, strict=True):
            parts.append((shape.turned("x", roll).turned("z", turn).at(x, y, z), material))
    return parts


def ring_stack(dice: Dice) -> Parts:
    """Rings on a pole, large below and small above, a knob on top."""
    n, wide = dice.count(3, 7), dice.between(0.42, 0.55)
    thick = dice.between(0.07, 0.1)
    parts: Parts = []
    base = plain(vivid(dice), 0.4) if dice.chance(0.5) else any_wood(dice)
    z = 0.07
    parts.append((cylinder(wide * dice.between(0.85, 1.1), z, bevel=0.025, segments=48), base))
    hue = dice.chance(0.5)
    colors = [vivid(dice), vivid(dice)]
    for k in range(n):
        radius = wide * (1 - 0.6 * k / n)
        ring = torus(radius - thick, thick, 48, 16) if dice.chance(0.85) else torus(radius - thick, thick, 6, 16)
        parts.append((ring.at(z=z + thick * 0.96), plain(colors[k % 2] if hue else vivid(dice), 0.35)))
        z += thick * 1.9
    parts.append((cylinder(0.06, z + 0.02, 0.045, segments=20), base))
    parts.append((sphere(dice.between(0.09, 0.13), 12).at(z=z + 0.06), plain(vivid(dice), 0.35)))
    return parts


def teddy(dice: Dice) -> Parts:
    """A sitting bear, rabbit or mouse: round body, head with ears and snout, paws, a bow or a pocket."""
    fur = near(
        dice.pick([(0.62, 0.42, 0.25), (0.8, 0.65, 0.45), (0.55, 0.55, 0.58), (0.9, 0.85, 0.8), (0.85, 0.6, 0.65)]),
        dice,
        0.05,
    )
    pale = tuple(min(1.0, c * 0.6 + 0.4) for c in fur)
    skin, light = plain(fur, 0.95), plain(pale, 0.95)
    head = dice.between(0.27, 0.34)
    body = sphere(1, 16).scaled(dice.between(0.3, 0.38), 0.29, dice.between(0.36, 0.44)).at(z=0.4)
    z = 0.78 + head * 0.55
    parts: Parts = [(body, skin), (sphere(head, 18).scaled(1.08, 0.95, 0.95).at(z=z), skin)]
    parts.append((sphere(1, 12).scaled(0.21, 0.08, 0.25).at(y=-0.24, z=0.4), light))
    kind = dice.count(0, 2)
    if kind == 1:
        ear = sphere(1, 12).scaled(0.085, 0.06, dice.between(0.25, 0.36))
        tilt = dice.between(5, 25)
        parts.append((ear.at(z=0.22).turned("y", tilt).at(head * 0.42, 0, z + head * 0.7).mirrored(), skin))
        parts.append(
            (
                ear.scaled(0.6, 0.7, 0.8)
                .at(y=-0.035, z=0.22)
                .turned("y", tilt)
                .at(head * 0.42, 0, z + head * 0.7)
                .mirrored(),
                light,
            )
        )
    else:
        size = head * (0.36 if kind == 0 else 0.58)
        parts.append(
            (sphere(1, 12).scaled(size, size * 0.5, size).at(head * 0.75, 0, z + head * 0.75).mirrored(), skin)
        )
        parts.append(
            (
                sphere(1, 12)
                .scaled(size * 0.65, size * 0.4, size * 0.65)
                .at(head * 0.75, -size * 0.22, z + head * 0.75)
                .mirrored(),
                light,
            )
        )
    parts.append(
        (sphere(1, 12).scaled(head * 0.42, head * 0.36, head * 0.32).at(y=-head * 0.85, z=z - head * 0.25), light)
    )
    parts.append((sphere(head * 0.13, 8).at(y=-head * 1.2, z=z - head * 0.13), plain(COAL, 0.3)))
    parts.append((eyes(head * 0.38, -head * 0.85, z + head * 0.18, head * 0.1), plain(COAL, 0.15)))
    lift = dice.between(-10, 50)
    arm = sphere(1, 12).scaled(0.22, 0.11, 0.11).at(0.2).turned("y", 40 - lift).turned("z", -25).at(0.2, -0.05, 0.62)
    leg = sphere(1, 12).scaled(0.14, 0.26, 0.14).turned("z", 25).at(0.24, -0.24, 0.14)
    sole = sphere(1, 12).scaled(0.1, 0.04, 0.1).turned("z", 25).at(0.34, -0.47, 0.14)
    parts += [((arm + leg).mirrored(), skin), (sole.mirrored(), light)]
    if dice.chance(0.6):
        wing = sphere(1, 10).scaled(0.13, 0.04, 0.09).turned("y", 15).at(0.13, -0.3, 0.7)
        parts.append((wing.mirrored() + sphere(0.05, 8).at(y=-0.32, z=0.7), patterned(vivid(dice), dice, 0.7)))
    return parts


def duck(dice: Dice) -> Parts:
    """A bathtub duck: body with an upturned tail, round head, bill; some have a hat or wheels."""
    color = near((0.97, 0.8, 0.12), dice, 0.04) if dice.chance(0.6) else vivid(dice)
    skin = plain(color, 0.3)
    long = dice.between(0.5, 0.62)

    def tail_up(p: np.ndarray) -> np.ndarray:
        back = np.clip(p[:, 1] / long, 0, 1)
        return np.stack([p[:, 0] * (1 - 0.55 * back**2), p[:, 1], p[:, 2] + 0.34 * back**3 + 0.06 * back], 1)

    body = sphere(1, 20).scaled(0.36, long, 0.3).bent(tail_up).at(z=0.3)
    head, y = dice.between(0.24, 0.29), -long * 0.55
    z = 0.48 + head
    bill = sphere(1, 12).scaled(0.12, 0.15, 0.035)
    beak = dice.pick([(0.95, 0.5, 0.08), (0.9, 0.25, 0.12)])
    parts: Parts = [(body, skin), (sphere(head, 18).at(y=y, z=z), skin)]
    bill_pair = bill.at(y=y - head * 1.05, z=z - 0.02) + bill.scaled(0.85, 0.85, 1).at(
        y=(y - head * 1.05) * 0.15, z=z * 1.0 - 0.07
    ).at(y=(y - head * 1.0) * 0.85)
    parts.append((bill_pair, plain(beak, 0.35)))
    parts.append((eyes(head * 0.48, y - head * 0.78, z + head * 0.3, 0.05), plain(COAL, 0.1)))
    wing = sphere(1, 14).scaled(0.06, 0.27, 0.15).turned("x", 14).at(0.34, 0.06, 0.36)
    parts.append((wing.mirrored(), plain(color if dice.chance(0.5) else contrast(color, dice), 0.3)))
    if dice.chance(0.3):
        hat = (
            lathe([(0.26, 0), (0.26, 0.02), (0.16, 0.02), (0.15, 0.2), (0, 0.2)], 32)
            .turned("x", 8)
            .at(y=y, z=z + head * 0.85)
        )
        parts.append((hat, plain(vivid(dice), 0.6)))
    if dice.chance(0.3):
        wheel = cylinder(0.13, 0.06, bevel=0.015, segments=28).turned("y", 90).at(0.26, 0, 0.06)
        board = box(0.46, long * 1.5, 0.06, 0.02).at(z=0.02)
        parts += [
            ((wheel.at(y=-long * 0.5) + wheel.at(y=long * 0.5)).mirrored(), plain(vivid(dice), 0.5)),
            (board, any_wood(dice)),
        ]
    return parts


def ball(dice: Dice) -> Parts:
    """A beach ball, a basketball or a globe on its stand."""
    color = vivid(dice)
    other = contrast(color, dice)
    kind = dice.count(0, 2)
    if kind == 0:
        return [
            (sphere(0.5, 24), stripes(color, other, dice.count(3, 5), along="u", roughness=0.3)),
            (sphere(0.08, 10).at(z=0.46), plain((0.95, 0.95, 0.95), 0.3)),
        ]
    if kind == 1:
        seam = join(
            [
                torus(0.5, 0.012, 64, 8),
                torus(0.5, 0.012, 64, 8).turned("x", 90),
                *[torus(0.4, 0.012, 64, 8).turned("y", 90).at(x) for x in (-0.3, 0.3)],
            ]
        )
        return [(sphere(0.5, 24), plain(near((0.85, 0.42, 0.15), dice, 0.1), 0.8)), (seam, plain(COAL, 0.7))]
    tilt = dice.between(10, 28)
    bow = tube(np.column_stack([arc(0.6, -90, 90, 32)[:, 0], np.zeros(32), arc(0.6, -90, 90, 32)[:, 1]]), 0.025)
    stand = lathe([(0, -0.92), (0.34, -0.92), (0.32, -0.86), (0.05, -0.8), (0.04, -0.58)], 40)
    metal = any_metal(dice)
    return [
        (
            sphere(0.5, 24).turned("y", tilt),
            dots(near((0.2, 0.42, 0.72), dice, 0.08), near((0.4, 0.58, 0.25), dice, 0.08), 5, 4, 0.42, 0.4),
        ),
        (bow.turned("y", tilt), metal),
        (stand, metal),
    ]
