"""Cars, trucks, trains, driving towards -y."""

from __future__ import annotations

import numpy as np

from ..dice import Dice
from ..materials import any_color, any_metal, any_wood, bands, contrast, glass, grey, metal, plain, vivid
from ..shapes import Parts, Shape, beam, box, curve, cylinder, dome, extrude, join, lathe, torus

TYRE = (0.10, 0.10, 0.11)
WINDOW = (0.20, 0.28, 0.34)
DARK = (0.12, 0.12, 0.13)


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


def _seats(dice: Dice, w: float, waist: float, roof: float, line: list[float]) -> Parts:
    """A wind screen and two seats, for a car without a roof. line: as `_cabin`."""
    front, y1, _, _ = line
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
    return [
        (screen, glass((0.6, 0.75, 0.8), 0.5)),
        (seat.at(w * 0.22, 0.1).mirrored(), plain(any_color(dice), 0.8)),
    ]


def _cabin(dice: Dice, w: float, waist: float, roof: float, line: list[float]) -> tuple[Parts, Shape]:
    """(windows and sign, roof with pillars) above the waist.

    line: y of the foot and the top of the wind screen, then of the top and the foot of the rear one.
    """
    front, y1, y2, rear = line
    cabin = np.array(
        [(front, waist - 0.02), (y1, waist + roof * 0.95), (y2, waist + roof * 0.95), (rear, waist - 0.02)]
    )
    narrow = dice.between(0.16, 0.3)

    def tapered(p: np.ndarray) -> np.ndarray:
        return p * np.stack([1 - narrow * np.clip((p[:, 2] - waist) / roof, 0, 1), np.ones(len(p)), np.ones(len(p))], 1)

    parts: Parts = [(beam(cabin, w * 0.94, 0.015).bent(tapered), plain(WINDOW, 0.1))]
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
    posts = ((front, y1), (rear, y2), ((front + rear) / 2, (y1 + y2) / 2))
    low, high, t = waist - 0.02, waist + roof, 0.025
    pillars = [
        beam([(y - t, low), (top_y - t, high), (top_y + t, high), (y + t, low)], 0.05).at(w * 0.4525).mirrored()
        for y, top_y in posts
    ]
    if dice.chance(0.15):
        sign = box(0.24, 0.12, 0.09, 0.02).at(y=(y1 + y2) / 2, z=waist + roof)
        parts.append((sign, plain((0.95, 0.8, 0.1), 0.4)))
    return parts, join([top, *pillars]).bent(tapered)


def car(dice: Dice) -> Parts:
    """A hatchback, saloon, estate or roadster: bevelled body, glazed cabin, wheels, lights; an open one has seats."""
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
            (min(rear, tail - 0.12), waist),
            (tail - 0.04, waist - 0.03),
            (tail, clear + 0.15),
            (tail - 0.02, clear + 0.02),
        ],
        36,
    )
    body = beam(side, w, 0.04)
    y1, y2 = front + roof * dice.between(0.5, 1.1), rear - roof * {0: 0.5, 1: 0.8, 2: 0.15, 3: 0.8}[style]
    parts: Parts = [(body, paint)]
    line = [front, y1, y2, rear]
    if style == 3 and dice.chance(0.7):
        parts += _seats(dice, w, waist, roof, line)
    else:
        windows, top = _cabin(dice, w, waist, roof, line)
        parts += [*windows, (top, paint if dice.chance(0.75) else plain(contrast(color, dice), 0.3))]
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


def _load(dice: Dice, w: float, bed: float, start: float, base: float) -> Parts:
    """What stands on a truck's frame, from y = start over `bed`, above z = base."""
    load, parts = any_color(dice), []
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
    return parts


def truck(dice: Dice) -> Parts:
    """A cab with a box, a flat bed with cargo, a tank or a tipper behind it."""
    w, r = dice.between(0.9, 1.05), dice.between(0.2, 0.26)
    cab_l, cab_h, bed = dice.between(0.6, 0.8), dice.between(0.8, 1.0), dice.between(1.3, 2.1)
    base = r * 2.05
    paint = plain(vivid(dice), 0.3)
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
    parts += _load(dice, w, bed, start, base)
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


def _steam_engine(dice: Dice, w: float, r: float) -> tuple[Parts, float]:
    """(parts, y of its rear end); w: width, r: radius of the small wheels."""
    color, second, dark = vivid(dice), vivid(dice), plain(DARK, 0.5)
    length, size = dice.between(0.9, 1.3), dice.between(0.2, 0.27)
    base = r * 1.55
    boiler = cylinder(size, length, bevel=0.03, segments=40).turned("x", 90).at(y=length * 0.5, z=base + size)
    front = cylinder(size * 1.04, 0.12, bevel=0.02, segments=40).turned("x", 90).at(y=-length / 2 + 0.08, z=base + size)
    hoops = join([torus(size, 0.014, 36, 8).turned("x", 90).at(y=length * t, z=base + size) for t in (-0.2, 0.05, 0.3)])
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
    parts: Parts = [
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
    return parts, y + cab_l / 2


def _railcar(dice: Dice, w: float) -> tuple[Parts, float]:
    """(parts, y of its rear end)."""
    color, second = vivid(dice), vivid(dice)
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
    parts: Parts = [(beam(side, w, 0.06), skin), (join([*panes, screen]), plain(WINDOW, 0.1))]
    parts += wheels(dice, 0.11, 0.07, w * 0.8, [-length * 0.36, -length * 0.24, length * 0.26, length * 0.38])
    parts.append(lamps(-length / 2, 0.25, w * 0.32, 0.04, (0.98, 0.95, 0.8)))
    return parts, length / 2


def train(dice: Dice) -> Parts:
    """A steam engine with a boiler, chimney and cab, or a streamlined railcar; some draw a wagon."""
    w, r = 0.6, dice.between(0.13, 0.17)
    dark = plain(DARK, 0.5)
    parts, end = _steam_engine(dice, w, r) if dice.chance(0.7) else _railcar(dice, w)
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
