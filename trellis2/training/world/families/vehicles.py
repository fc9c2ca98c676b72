"""Cars, trucks, planes, boats, trains, rockets: they drive, sail and fly towards -y."""

from __future__ import annotations

import numpy as np

from ..dice import Dice
from ..materials import any_color, any_metal, any_wood, bands, contrast, glass, grey, metal, plain, soft, stripes, vivid
from ..parts import Parts
from ..shapes import (
    Shape,
    arc,
    beam,
    box,
    curve,
    cylinder,
    dome,
    extrude,
    join,
    lathe,
    patch,
    plate,
    rod,
    sphere,
    torus,
)

TYRE = (0.10, 0.10, 0.11)
WINDOW = (0.20, 0.28, 0.34)


def wheels(dice: Dice, radius: float, width: float, track: float, axles: list[float]) -> Parts:
    """Pairs of wheels on the ground at y = axles, `track` apart: tyres, and rims with a hub."""
    outline = [
        (radius * 0.55, -width / 2),
        (radius * 0.92, -width / 2),
        (radius, -width * 0.3),
        (radius, width * 0.3),
        (radius * 0.92, width / 2),
        (radius * 0.55, width / 2),
    ]
    tyre = lathe(outline, 36).turned("y", 90).at(z=radius)
    disc = lathe(
        [(0, width * 0.42), (radius * 0.2, width * 0.42), (radius * 0.3, width * 0.25), (radius * 0.58, width * 0.45)],
        36,
    )
    disc = disc.turned("y", 90).at(z=radius)
    place = [(x, y) for y in axles for x in (-track / 2, track / 2)]
    rims = [(disc if x > 0 else disc.scaled(-1, 1, 1)).at(x, y) for x, y in place]
    backs = [
        cylinder(radius * 0.56, width * 0.2, segments=24).turned("y", 90).at(x - width * 0.1, y, radius)
        for x, y in place
    ]
    rim = any_metal(dice) if dice.chance(0.6) else plain(any_color(dice), 0.4)
    return [(join([tyre.at(x, y) for x, y in place]), plain(TYRE, 0.85)), (join(rims + backs), rim)]


def lamps(y: float, z: float, x: float, size: float, color: tuple[float, float, float]) -> tuple[Shape, object]:
    """Two round lights on a front or a rear."""
    lamp = cylinder(size, 0.04, bevel=0.01, segments=20).turned("x", 90).at(x, y + 0.02, z)
    return lamp.mirrored(), plain(color, 0.2)


def car(dice: Dice) -> Parts:
    """A hatchback, saloon, estate or roadster: a bevelled body, a glazed cabin, wheels, lights; an open one has seats."""
    length, w = dice.between(1.9, 2.5), dice.between(0.85, 1.05)
    r, clear = dice.between(0.17, 0.24), dice.between(0.1, 0.17)
    waist, roof = clear + dice.between(0.3, 0.38), dice.between(0.26, 0.38)
    nose, tail = -length / 2, length / 2
    color = any_color(dice) if dice.chance(0.4) else vivid(dice)
    paint = plain(color, dice.between(0.15, 0.35))
    hood = waist - dice.between(0.02, 0.1)
    style = dice.count(0, 3)
    front = nose + length * dice.between(0.26, 0.34)
    rear = {0: tail - 0.06, 1: tail - length * 0.2, 2: tail - 0.03, 3: tail - length * 0.25}[style]
    side = curve(
        [
            (nose, clear + 0.04),
            (nose - 0.02, clear + 0.16),
            (nose + 0.08, hood - 0.02),
            (front, waist),
            (0, waist + 0.01),
            (rear, waist),
            (tail - 0.04, waist - 0.03),
            (tail, clear + 0.15),
            (tail - 0.02, clear + 0.02),
        ],
        36,
    )
    body = beam(side, w, 0.04)
    y1, y2 = front + roof * dice.between(0.5, 1.1), rear - roof * {0: 0.5, 1: 0.8, 2: 0.15, 3: 0.8}[style]
    parts: Parts = [(body, paint)]
    if style == 3 and dice.chance(0.7):
        screen = beam(
            [
                (front, waist - 0.01),
                (y1 - 0.1, waist + roof * 0.75),
                (y1 - 0.07, waist + roof * 0.75),
                (front + 0.05, waist - 0.01),
            ],
            w * 0.82,
        )
        seat = box(0.26, 0.26, 0.08, 0.03).at(z=waist) + box(0.26, 0.08, 0.26, 0.03).at(y=0.13, z=waist)
        parts += [
            (screen, glass((0.6, 0.75, 0.8), 0.5)),
            (seat.at(w * 0.22, 0.1).mirrored(), plain(contrast(color, dice), 0.8)),
        ]
    else:
        cabin = np.array(
            [(front, waist - 0.02), (y1, waist + roof * 0.95), (y2, waist + roof * 0.95), (rear, waist - 0.02)]
        )
        narrow = dice.between(0.16, 0.3)

        def tapered(p: np.ndarray) -> np.ndarray:
            return p * np.stack(
                [1 - narrow * np.clip((p[:, 2] - waist) / roof, 0, 1), np.ones(len(p)), np.ones(len(p))], 1
            )

        parts.append((beam(cabin, w * 0.94, 0.015).bent(tapered), plain(WINDOW, 0.1)))
        top = beam(
            np.array(
                [
                    (y1 - 0.02, waist + roof * 0.93),
                    (y1 + 0.02, waist + roof),
                    (y2 - 0.02, waist + roof),
                    (y2 + 0.02, waist + roof * 0.93),
                ]
            ),
            w * 0.95,
            0.01,
        )
        parts.append((top.bent(tapered), paint if dice.chance(0.75) else plain(contrast(color, dice), 0.3)))
        pillars = [
            beam(
                [
                    (y - 0.025, waist - 0.02),
                    (t - 0.025, waist + roof),
                    (t + 0.025, waist + roof),
                    (y + 0.025, waist - 0.02),
                ],
                w * 0.955,
            )
            for y, t in ((front, y1), (rear, y2), ((front + rear) / 2, (y1 + y2) / 2))
        ]
        parts.append((join(pillars).bent(tapered), paint))
        if dice.chance(0.15):
            sign = box(0.24, 0.12, 0.09, 0.02).at(y=(y1 + y2) / 2, z=waist + roof)
            parts.append((sign, plain((0.95, 0.8, 0.1), 0.4)))
    parts += wheels(dice, r, 0.17, w - 0.12, [nose + length * 0.19, tail - length * 0.2])
    parts.append(lamps(nose - 0.01, clear + 0.2, w * 0.34, 0.055, (0.98, 0.96, 0.85)))
    parts.append(lamps(tail, clear + 0.2, w * 0.36, 0.045, (0.8, 0.08, 0.06)))
    bumper = box(w * 0.98, 0.07, 0.08, 0.025).at(z=clear)
    parts.append((bumper.at(y=nose) + bumper.at(y=tail - 0.02), plain(grey(dice, 0.12, 0.6), 0.4)))
    if dice.chance(0.25):
        parts.append(
            (
                box(w * 0.14, length * 0.25, 0.012).at(w * 0.16, nose + length * 0.17, hood + 0.005).mirrored(),
                plain(contrast(color, dice), 0.3),
            )
        )
    return parts


def truck(dice: Dice) -> Parts:
    """A cab with a box, a flat bed with cargo, a tank or a tipper behind it."""
    w, r = dice.between(0.9, 1.05), dice.between(0.2, 0.26)
    cab_l, cab_h, bed = dice.between(0.6, 0.8), dice.between(0.8, 1.0), dice.between(1.3, 2.1)
    base = r * 1.5
    color, load = vivid(dice), any_color(dice)
    paint = plain(color, 0.3)
    nose = -(cab_l + bed) / 2
    snout = dice.between(0.0, 0.35)
    cab = beam(
        [
            (nose, base),
            (nose, base + cab_h * 0.45),
            (nose + 0.04 + snout * 0.8, base + cab_h * 0.52),
            (nose + 0.1 + snout, base + cab_h),
            (nose + cab_l + snout, base + cab_h),
            (nose + cab_l + snout, base),
        ],
        w,
        0.03,
    )
    slope = np.array(
        [
            (nose + 0.025 + snout * 0.8, base + cab_h * 0.54),
            (nose + 0.08 + snout, base + cab_h * 0.93),
            (nose + 0.1 + snout, base + cab_h * 0.93),
            (nose + 0.06 + snout * 0.8, base + cab_h * 0.54),
        ]
    )
    window = beam(slope, w * 0.86)
    door = box(w + 0.012, 0.26, cab_h * 0.34).at(y=nose + snout + cab_l * 0.55, z=base + cab_h * 0.56)
    start = nose + cab_l + snout + 0.06
    frame = box(w * 0.6, cab_l + bed + snout, 0.12).at(y=snout / 2, z=base - 0.1)
    parts: Parts = [
        (cab, paint),
        (window, plain(WINDOW, 0.1)),
        (door, plain(WINDOW, 0.1)),
        (frame, plain((0.16, 0.16, 0.17), 0.6)),
    ]
    middle = start + bed / 2
    kind = dice.count(0, 3)
    if kind == 0:
        cargo = box(w * 1.04, bed, dice.between(0.9, 1.2), 0.02).at(y=middle, z=base + 0.02)
        parts.append(
            (cargo, dice.pick([plain(load, 0.5), bands([load, contrast(load, dice), load], [0.35, 0.25, 0.4])]))
        )
    elif kind == 1:
        size = w * 0.5
        tank = cylinder(size, bed, bevel=0.12, segments=40).turned("x", 90).at(y=start + bed, z=base + size)
        hoop = torus(size, 0.02, 36, 8).turned("x", 90).at(z=base + size)
        parts += [
            (tank, any_metal(dice) if dice.chance(0.6) else plain(load, 0.3)),
            (hoop.at(y=middle - bed * 0.25) + hoop.at(y=middle + bed * 0.25), plain((0.2, 0.2, 0.2), 0.5)),
        ]
    else:
        wall = dice.between(0.22, 0.42)
        sides = [
            box(0.04, bed, wall).at(w / 2).mirrored(),
            box(w, 0.04, wall).at(y=bed / 2).mirrored("y"),
            box(w, bed, 0.05),
        ]
        parts.append((join(sides).at(y=middle, z=base + 0.02), plain(load, 0.5)))
        if kind == 2:
            heap = lathe([(0.5, 0), *curve([(0.42, 0.1), (0.25, 0.3), (0.001, 0.38)], 8)], 28).scaled(
                w * 0.92, bed * 0.92, dice.between(0.7, 1.3)
            )
            parts.append(
                (
                    heap.at(y=middle, z=base + wall * 0.6),
                    plain(dice.pick([(0.5, 0.36, 0.2), (0.85, 0.75, 0.5), (0.45, 0.45, 0.46)]), 0.95),
                )
            )
        else:
            crates = [
                box(0.36, 0.36, 0.36).at(dice.between(-0.2, 0.2), start + 0.3 + 0.45 * k, base + 0.06)
                for k in range(int((bed - 0.3) / 0.45))
            ]
            parts.append((join(crates), any_wood(dice)))
    parts += wheels(
        dice,
        r,
        0.2,
        w - 0.14,
        [nose + r * 1.2 + snout * 0.3, start + bed - r * 1.3] + ([start + bed - r * 3.5] if bed > 1.5 else []),
    )
    parts.append(lamps(nose, base + 0.12, w * 0.34, 0.07, (0.98, 0.96, 0.85)))
    parts.append((box(w, 0.1, 0.1, 0.02).at(y=nose - 0.02, z=base - 0.08), plain(grey(dice, 0.1, 0.7), 0.4)))
    if dice.chance(0.4):
        pipe_shape = cylinder(0.035, cab_h * 1.25, segments=16).at(w * 0.42, start - 0.06, base)
        parts.append((pipe_shape.mirrored(), metal((0.8, 0.8, 0.82), 0.2)))
    return parts


def wing(span: float, root: float, tip: float, sweep_back: float, thick: float, rise: float = 0.0) -> Shape:
    """One wing towards +x: chord `root` at the body and `tip` at the end, leading edge at y = 0, swept towards +y."""
    outline = np.concatenate([arc(1, 90, 270, 9) * (0.3, 0.5) + (0.3, 0), [(1.0, 0)]])
    x = np.linspace(0, 1, 6)
    chord = root + (tip - root) * x
    rings = np.stack(
        [
            np.column_stack(
                [
                    np.full(len(outline), span * t),
                    sweep_back * t + c * outline[:, 0],
                    rise * t + thick * c / root * outline[:, 1],
                ]
            )
            for t, c in zip(x, chord, strict=True)
        ]
    )
    lid = np.array([(0, k, k + 1) for k in range(1, len(outline) - 1)])
    flat = np.zeros((len(outline), 2))
    return patch(np.concatenate([rings, rings[:, :1]], 1)) + Shape(rings[-1], lid, flat)


def plane(dice: Dice) -> Parts:
    """An airliner with engines under its wings, or a small plane with a propeller, some with two wings or floats."""
    r, length = dice.between(0.12, 0.17), dice.between(1.5, 1.9)
    color, second = any_color(dice), vivid(dice)
    jet = dice.chance(0.5)
    nose = dice.between(0.5, 0.9) if jet else dice.between(0.7, 0.95)
    outline = curve(
        [
            (0.01, -length / 2),
            (r * nose, -length * 0.44),
            (r, -length * 0.28),
            (r, length * 0.1),
            (r * 0.55, length * 0.36),
            (r * 0.15, length / 2),
        ],
        36,
    )
    body = lathe([*outline, (0, length / 2)], 32).turned("x", 90).scaled(1, -1, 1)
    body = body.bent(
        lambda p: p + np.stack([0 * p[:, 0], 0 * p[:, 0], 0.3 * r * np.clip(p[:, 1] / length * 2, 0, 1) ** 2 * 3], 1)
    )
    livery = (
        bands([color, color, second, color], [0.1, dice.between(0.1, 0.7), 0.12, 0.3], 0.25)
        if dice.chance(0.5)
        else plain(color, 0.25)
    )
    parts: Parts = [(body, livery)]
    paint = plain(second if dice.chance(0.6) else color, 0.3)
    span, chord = dice.between(0.75, 1.05), dice.between(0.3, 0.42)
    back = dice.between(0.25, 0.5) if jet else dice.between(0.0, 0.08)
    high = not jet and dice.chance(0.5)
    z = r * 0.9 if high else -r * 0.45
    half = wing(
        span,
        chord,
        chord * (dice.between(0.25, 0.5) if jet else dice.between(0.65, 1.0)),
        back,
        0.05,
        dice.between(0.0, 0.1),
    )
    y = -length * (0.12 if jet else 0.24)
    parts.append((half.at(y=y, z=z).mirrored(), paint))
    tail = wing(span * 0.38, chord * 0.6, chord * 0.35, back * 0.4, 0.03)
    parts.append((tail.at(y=length * 0.36, z=r * 0.4).mirrored(), paint))
    fin = wing(dice.between(0.26, 0.36), chord * 0.7, chord * 0.4, 0.16, 0.03).turned("y", -90)
    parts.append((fin.at(y=length * 0.33, z=r * 0.5), plain(second, 0.3)))
    if jet:
        pod = (
            lathe([(0.05, -0.12), (0.065, -0.1), (0.062, 0.05), (0.035, 0.14), (0.03, 0.14)], 24)
            .turned("x", 90)
            .scaled(1, -1, 1)
        )
        spots = [0.33, 0.62] if dice.chance(0.35) else [0.36]
        pods = [pod.at(x * span, y + back * x + 0.02, z - 0.075 + 0.05 * x) for x in spots]
        parts.append((join(pods).mirrored(), any_metal(dice)))
        dots = [sphere(0.018, 6).at(r * 0.97, t * length, r * 0.25) for t in np.linspace(-0.3, 0.22, 12)]
        parts.append((join(dots).mirrored(), plain(WINDOW, 0.1)))
        glassy = box(r * 1.1, 0.05, 0.05, 0.01).at(y=-length * 0.425, z=r * 0.45)
        parts.append((glassy, plain(WINDOW, 0.1)))
    else:
        blade = (
            box(0.5, 0.015, 0.05, 0.006)
            if dice.chance(0.6)
            else box(0.5, 0.015, 0.05, 0.006) + box(0.05, 0.015, 0.5, 0.006).at(z=-0.225)
        )
        parts.append((blade.at(y=-length / 2 - 0.02, z=-0.025), plain(grey(dice, 0.1, 0.4), 0.4)))
        parts.append((sphere(0.05, 10).scaled(1, 1.4, 1).at(y=-length / 2), plain(second, 0.3)))
        canopy = sphere(1, 12).scaled(r * 0.75, 0.22, r * 0.75).at(y=-length * 0.06, z=r * 0.75)
        parts.append((canopy, plain(WINDOW, 0.08)))
        if high or dice.chance(0.4):
            upper = half.at(y=y, z=r * 2.6)
            struts = [
                rod((x, y + chord * 0.4, z + 0.02), (x, y + chord * 0.4, r * 2.6), 0.014, 8)
                for x in (span * 0.7, r * 0.5)
            ]
            if not high:
                parts += [(upper.mirrored(), paint), (join(struts).mirrored(), plain((0.3, 0.25, 0.2), 0.6))]
        leg = rod((0.0, 0, -r * 0.6), (0.2, 0, -r * 1.75), 0.015, 8).at(y=y + 0.05)
        wheel = cylinder(0.07, 0.05, bevel=0.015, segments=24).turned("y", 90).at(0.18, y + 0.05, -r * 1.8)
        parts += [(leg.mirrored(), plain((0.3, 0.3, 0.3), 0.5)), (wheel.mirrored(), plain(TYRE, 0.8))]
    return parts


def hull(length: float, width: float, depth: float, full: float) -> Shape:
    """An open boat's skin, its bow at -y and its rim at z = depth, rising to the bow."""
    v, u = np.meshgrid(np.linspace(0, 1, 28), np.linspace(-1, 1, 25), indexing="ij")
    breadth = width / 2 * np.minimum(1, np.sin(np.pi * np.clip(v * 0.62 + 0.001, 0, 1)) ** full * 1.1)
    rise = depth * (1 + 0.35 * (1 - v) ** 3)
    keel = depth * 0.5 * (1 - v) ** 4
    angle = u * np.pi / 2
    x = breadth * np.sign(np.sin(angle)) * np.abs(np.sin(angle)) ** 0.8
    z = keel + (rise - keel) * (1 - np.cos(angle) ** 0.9)
    return patch(np.stack([x, (v - 0.5) * length, z], -1))


def boat(dice: Dice) -> Parts:
    """A sailing boat with thin sails, a rowing boat with benches and oars, or a little steamer."""
    length, w, depth = dice.between(1.5, 2.0), dice.between(0.5, 0.7), dice.between(0.26, 0.36)
    color = vivid(dice)
    skin = any_wood(dice) if dice.chance(0.3) else plain(color, 0.4)
    shell = hull(length, w, depth, dice.between(0.45, 0.65))
    stern = plate(
        [
            (-w * 0.5, depth),
            (w * 0.5, depth),
            (w * 0.42, depth * 0.4),
            (w * 0.2, 0.03),
            (0, 0),
            (-w * 0.2, 0.03),
            (-w * 0.42, depth * 0.4),
        ],
        0.02,
    )
    wood = any_wood(dice)
    parts: Parts = [(shell, skin), (stern.at(y=length / 2 - 0.01), skin)]
    kind = dice.count(0, 3)
    if kind <= 1:
        deck = patch(
            np.stack(
                [
                    np.outer(
                        np.minimum(1, np.sin(np.pi * np.clip(np.linspace(0, 1, 28) * 0.62, 0, 1)) ** 0.6 * 1.0),
                        [-w / 2.15, w / 2.15],
                    ),
                    np.repeat((np.linspace(0, 1, 28)[:, None] - 0.5) * length, 2, 1),
                    np.full((28, 2), depth * 0.82),
                ],
                -1,
            )
        )
        tall, y = dice.between(1.4, 2.0), -length * dice.between(0.02, 0.14)
        mast = cylinder(0.028, tall, 0.015, segments=16).at(y=y, z=depth * 0.5)
        foot, aft = depth + 0.2, length * dice.between(0.4, 0.52)
        cloth = plain(soft(dice), 0.9) if dice.chance(0.6) else stripes(soft(dice), vivid(dice), dice.count(3, 6))
        bulge = dice.between(0.08, 0.22)

        def sail(corners: list[tuple[float, float]]) -> Shape:
            a, b, c = (np.array(p) for p in corners)
            v, u = np.meshgrid(np.linspace(0, 0.999, 20), np.linspace(0, 1, 14), indexing="ij")
            flat = ((1 - u) * (1 - v))[..., None] * a + (u * (1 - v))[..., None] * b + v[..., None] * c
            return patch(
                np.stack(
                    [bulge * np.sin(np.pi * u) * (1 - v) * np.sin(np.pi * (v * 0.8 + 0.2)), flat[..., 0], flat[..., 1]],
                    -1,
                )
            )

        main = sail([(y + 0.04, foot), (y + aft, foot), (y + 0.03, depth * 0.5 + tall * 0.96)])
        parts += [
            (deck, wood),
            (mast, wood),
            (main, cloth),
            (rod((0, y, foot - 0.03), (0, y + aft, foot - 0.03), 0.015, 10), wood),
        ]
        if dice.chance(0.7):
            jib = sail([(-length * 0.5, depth * 1.35), (y - 0.05, foot - 0.02), (y - 0.03, depth * 0.5 + tall * 0.85)])
            parts.append((jib, plain(vivid(dice), 0.9) if dice.chance(0.4) else cloth))
    elif kind == 2:
        seats = [
            box(w * s, 0.15, 0.03).at(y=t * length, z=depth * 0.62)
            for t, s in ((-0.18, 0.82), (0.08, 0.92), (0.32, 0.94))
        ]
        parts.append((join(seats), wood))
        oar = rod((0.1, 0.12, depth + 0.16), (w * 1.15, -0.1, depth * 0.35), 0.018, 10)
        flat = box(0.3, 0.02, 0.11, 0.008).turned("y", 20).at(w * 1.3, -0.13, depth * 0.15)
        parts.append(((oar + flat).mirrored(), any_wood(dice)))
    else:
        deck = box(w * 0.8, length * 0.72, 0.03).at(y=length * 0.1, z=depth * 0.8)
        house = box(w * 0.62, length * 0.36, 0.26, 0.03).at(y=length * 0.08, z=depth * 0.8)
        windows = box(w * 0.63, 0.09, 0.1).at(z=depth * 0.8 + 0.1)
        panes = join([windows.at(y=length * 0.08 + t * length * 0.36) for t in (-0.28, 0.0, 0.28)])
        funnel = cylinder(0.085, 0.34, 0.075, segments=28).at(y=length * 0.16, z=depth * 0.8 + 0.25)
        ring = bands([vivid(dice), (0.95, 0.95, 0.95), (0.1, 0.1, 0.1)], [0.5, 0.2, 0.3])
        parts += [(deck, wood), (house, plain(soft(dice), 0.5)), (panes, plain(WINDOW, 0.1)), (funnel, ring)]
        if dice.chance(0.5):
            parts.append((cylinder(0.014, 0.7, segments=10).at(y=-length * 0.2, z=depth * 0.8), wood))
    return parts


def train(dice: Dice) -> Parts:
    """A steam engine with a boiler, chimney and cab, or a streamlined railcar; some draw a wagon."""
    w, r = 0.6, dice.between(0.13, 0.17)
    color, second = vivid(dice), vivid(dice)
    dark = plain((0.12, 0.12, 0.13), 0.5)
    parts: Parts = []
    if dice.chance(0.7):
        length, size = dice.between(0.9, 1.3), dice.between(0.2, 0.27)
        base = r * 1.55
        boiler = cylinder(size, length, bevel=0.03, segments=40).turned("x", 90).at(y=length * 0.5, z=base + size)
        front = (
            cylinder(size * 1.04, 0.12, bevel=0.02, segments=40).turned("x", 90).at(y=-length / 2 + 0.08, z=base + size)
        )
        hoops = join(
            [torus(size, 0.014, 36, 8).turned("x", 90).at(y=length * t, z=base + size) for t in (-0.2, 0.05, 0.3)]
        )
        stack = lathe([(0.065, 0), (0.06, 0.14), (dice.between(0.07, 0.13), dice.between(0.24, 0.36)), (0.05, 0.3)], 28)
        bell = dome(0.085, 8).at(y=length * 0.12, z=base + 2 * size - 0.02) + cylinder(0.085, 0.05).at(
            y=length * 0.12, z=base + 2 * size - 0.05
        )
        cab_l, cab_h = dice.between(0.4, 0.55), size * 2 + dice.between(0.2, 0.3)
        y = length / 2 + cab_l / 2
        walls = [
            box(0.035, cab_l * 0.3, cab_h).at(w / 2 - 0.02, y - cab_l * 0.35).mirrored(),
            box(0.035, cab_l, cab_h * 0.5).at(w / 2 - 0.02, y).mirrored(),
            box(0.035, cab_l * 0.15, cab_h).at(w / 2 - 0.02, y + cab_l * 0.42).mirrored(),
            box(w, 0.035, cab_h).at(y=y - cab_l / 2),
        ]
        roof = beam(
            curve([(-w * 0.62, 0), (0, 0.09), (w * 0.62, 0)], 14).tolist() + [(w * 0.62, -0.03), (-w * 0.62, -0.03)],
            cab_l * 1.2,
        ).turned("z", 90)
        parts = [
            (boiler, plain(color, 0.35)),
            (front, dark),
            (stack.at(y=-length / 2 + 0.12, z=base + 2 * size - 0.03), dark),
            (hoops + bell, any_metal(dice)),
            (join(walls).at(z=base), plain(second, 0.4)),
            (roof.at(y=y, z=base + cab_h + 0.02), dark),
        ]
        frame = box(w * 0.7, length + cab_l, 0.1).at(y=cab_l / 2, z=base - 0.08)
        guard = extrude([(-w / 2, 0), (w / 2, 0), (0.06, -0.28), (-0.06, -0.28)], 0.14).at(y=-length / 2, z=0.03)
        parts += [
            (frame, dark),
            (guard, plain(second, 0.5)),
            lamps(-length / 2 - 0.06, base + size, 0.0, 0.06, (0.98, 0.95, 0.8)),
        ]
        parts += wheels(dice, r, 0.07, w * 0.86, [-length * 0.36, -length * 0.36 + r * 2.2])
        parts += wheels(dice, r * 1.4, 0.07, w * 0.86, [length * 0.3 + cab_l * 0.5])
        end = y + cab_l / 2
    else:
        length, h = dice.between(1.6, 2.2), dice.between(0.55, 0.7)
        side = curve(
            [
                (-length / 2, 0.1),
                (-length / 2 + 0.05, 0.3),
                (-length / 2 + dice.between(0.2, 0.5), h + 0.1),
                (0, h + 0.14),
                (length / 2, h + 0.14),
                (length / 2, 0.1),
            ],
            30,
        )
        skin = bands([color, second, color], [0.35, 0.15, 0.5], 0.3)
        panes = [box(w + 0.012, 0.16, h * 0.28).at(y=t * length, z=0.12 + h * 0.5) for t in np.linspace(-0.18, 0.42, 6)]
        screen = box(w * 0.8, 0.18, h * 0.26).turned("x", -35).at(y=-length / 2 + 0.2, z=0.1 + h * 0.58)
        parts = [(beam(side, w, 0.06), skin), (join([*panes, screen]), plain(WINDOW, 0.1))]
        parts += wheels(dice, 0.11, 0.07, w * 0.8, [-length * 0.36, -length * 0.24, length * 0.26, length * 0.38])
        parts.append(lamps(-length / 2, 0.25, w * 0.32, 0.04, (0.98, 0.95, 0.8)))
        end = length / 2
    if dice.chance(0.35):
        y, bed = end + 0.12 + 0.4, 0.8
        tub = [
            box(w, bed, 0.05),
            box(0.04, bed, 0.3).at(w / 2).mirrored(),
            box(w, 0.04, 0.3).at(y=bed / 2).mirrored("y"),
        ]
        parts += [
            (join(tub).at(y=y, z=0.2), plain(any_color(dice), 0.5)),
            (box(0.06, 0.3, 0.05).at(y=end + 0.05, z=0.2), dark),
        ]
        parts.append(
            (
                box(w * 0.9, bed * 0.9, 0.2, 0.05).at(y=y, z=0.25),
                plain(dice.pick([(0.1, 0.1, 0.1), (0.8, 0.7, 0.45), (0.5, 0.35, 0.2)]), 0.95),
            )
        )
        parts += wheels(dice, 0.12, 0.07, w * 0.86, [y - 0.24, y + 0.24])
    return parts


def rocket(dice: Dice) -> Parts:
    """A toy rocket upright: a spindle with a coloured nose, fins, portholes, a nozzle."""
    r, h = dice.between(0.2, 0.3), dice.between(1.1, 1.6)
    color, second = soft(dice) if dice.chance(0.5) else vivid(dice), vivid(dice)
    wide = dice.between(1.0, 1.3)
    outline = curve([(r * 0.7, 0.15), (r * wide, h * 0.4), (r * 0.85, h * 0.7), (r * 0.4, h * 0.9), (0.005, h)], 40)
    cut = dice.between(0.68, 0.8)
    shell = bands([color, second, color, second], [0.18, 0.05, cut - 0.2, 1 - cut], 0.3)
    parts: Parts = [(lathe([(0, 0.15), *outline], 40), shell)]
    n, reach = dice.count(3, 4), dice.between(0.22, 0.36)
    fin = plate(
        np.array([(0, 0.5), (0, 0.16), (reach * 0.7, -0.06), (reach, -0.06), (reach, 0.12), (reach * 0.5, 0.38)]),
        0.04,
        0.012,
    )
    parts.append((fin.at(r * 0.72).around(n, -90 if n == 4 else 90), plain(second, 0.35)))
    parts.append((lathe([(r * 0.4, 0.15), (r * 0.55, 0.0), (r * 0.48, 0.0), (r * 0.3, 0.14)], 32), any_metal(dice)))
    for k in range(dice.count(1, 3)):
        z = h * (0.62 - 0.17 * k)
        size, out = r * (0.36 - 0.05 * k), float(np.interp(z, outline[:, 1], outline[:, 0]))
        rim = torus(size, 0.025, 28, 10).turned("x", 90).at(y=-out, z=z)
        pane = sphere(size, 10).scaled(1, 0.35, 1).at(y=-out + 0.01, z=z)
        parts += [(rim, any_metal(dice)), (pane, plain((0.3, 0.55, 0.75), 0.1))]
    return parts


def balloon(dice: Dice) -> Parts:
    """A hot-air balloon: a striped open envelope, ropes, a basket with people's room in it."""
    r = 0.6
    color = vivid(dice)
    n = dice.count(4, 8)
    envelope = lathe(
        curve([(r * 0.16, 0.42), (r * 0.5, 0.68), (r, 1.2), (r * 0.75, 1.62), (r * 0.3, 1.78), (0.001, 1.8)], 32), 64
    )
    skin = dice.pick(
        [
            stripes(color, contrast(color, dice), n, along="u"),
            stripes(color, contrast(color, dice), n // 2 + 1),
            bands([color, contrast(color, dice), color], [0.4, 0.2, 0.4]),
        ]
    )
    size = dice.between(0.13, 0.17)
    basket = lathe(
        [(0, 0), (size, 0), (size * 1.1, 0.22), (size * 1.1 - 0.02, 0.22), (size - 0.02, 0.02), (0, 0.02)],
        4 if dice.chance(0.5) else 32,
    )
    basket = basket.turned("z", 45)
    ropes = rod((size * 0.95, 0, 0.22), (r * 0.18, 0, 0.44), 0.009, 8).around(4, 45)
    return [
        (envelope, skin),
        (basket, plain((0.6, 0.42, 0.24), 0.9)),
        (ropes, plain((0.3, 0.25, 0.2), 0.8)),
        (cylinder(0.04, 0.06, segments=16).at(z=0.36), metal((0.6, 0.6, 0.62), 0.4)),
    ]
