"""Houses, castles, lighthouses, windmills, tents, wells; the door faces -y."""

from __future__ import annotations

import numpy as np

from ..dice import Dice
from ..materials import (
    any_color,
    any_wood,
    bands,
    bricks,
    contrast,
    glass,
    metal,
    mottled,
    muted,
    near,
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
    patch,
    pipe,
    plate,
    rod,
    sheet,
    sphere,
    torus,
)

PANE = (0.35, 0.52, 0.65)
STONE = (0.62, 0.60, 0.56)


def door(width: float, height: float) -> Shape:
    """A door leaf before the wall y = 0, square or with a round head."""
    top = arc(width / 2, 0, 180, 10) + (0, height - width / 2)
    return plate([(-width / 2, 0), (width / 2, 0), *top], 0.05)


def window(width: float, height: float) -> tuple[Shape, Shape]:
    """(frame, pane) before the wall y = 0."""
    t = width * 0.11
    frame = [
        box(t, 0.05, height).at((width - t) / 2).mirrored(),
        box(width, 0.05, t),
        box(width, 0.05, t).at(z=height - t),
        box(t * 0.7, 0.05, height),
        box(width, 0.05, t * 0.7).at(z=height / 2),
        box(width * 1.15, 0.09, t).at(z=-t),
    ]
    return join(frame), box(width, 0.02, height)


def gable_roof(width: float, depth: float, height: float, overhang: float, thick: float = 0.05) -> Shape:
    """Two slopes over a width x depth plan, the ridge along y."""
    slope = height / (width / 2)
    reach = width / 2 + overhang
    low = -overhang * slope
    outline = [
        (-reach, low),
        (0, height),
        (reach, low),
        (reach, low + thick * 1.3),
        (0, height + thick * 1.3),
        (-reach, low + thick * 1.3),
    ]
    return plate(outline, depth + 2 * overhang)


def _windows(w: float, d: float, floors: int, door_x: float) -> tuple[Shape, Shape]:
    """(frames, panes) round a w x d house, free of the door."""
    frames, panes = [], []
    for floor in range(floors):
        for place in (-0.3, 0.0, 0.3) if w > 1.0 or floor else (-0.3, 0.3):
            if floor == 0 and abs(place * w - door_x) < 0.2:
                continue
            frame, glass_pane = window(0.2, 0.24)
            for y, turn in ((-d / 2 - 0.01, 0), (d / 2 + 0.01, 180)):
                frames.append(frame.turned("z", turn).at(place * w, y, 0.2 + 0.5 * floor))
                panes.append(glass_pane.turned("z", turn).at(place * w, y, 0.2 + 0.5 * floor))
        for side in (-1, 1):
            frame, glass_pane = window(0.2, 0.24)
            frames.append(frame.turned("z", 90 * side).at(side * (w / 2 + 0.01), 0.0, 0.2 + 0.5 * floor))
            panes.append(glass_pane.turned("z", 90 * side).at(side * (w / 2 + 0.01), 0.0, 0.2 + 0.5 * floor))
    return join(frames), join(panes)


def _roof(kind: int, w: float, d: float, rise: float, over: float) -> tuple[Shape, Shape | None]:
    """(cover, gable walls or None) of a gable along y or x, a hip, or a flat roof."""
    if kind <= 1:
        width, depth = (w, d) if kind == 0 else (d, w)
        cover, gable = gable_roof(width, depth, rise, over), plate([(-width / 2, 0), (width / 2, 0), (0, rise)], depth)
        return cover.turned("z", 90 * kind), gable.turned("z", 90 * kind)
    if kind == 2:
        edge = 0.5**0.5 + over * 0.9
        hip = lathe([(edge, -0.02), (edge, 0.02), (0.12, rise), (0, rise)], 4)
        return hip.turned("z", 45).scaled(w, d, 1), None
    return box(w + 0.1, d + 0.1, 0.07), None


def house(dice: Dice) -> Parts:
    """One or two floors under a gable, hip or flat roof; door, windows, chimney, perhaps a porch or a garage."""
    w, d, floors = dice.between(0.8, 1.3), dice.between(0.7, 1.1), dice.count(1, 2)
    h = 0.52 * floors + dice.between(0.0, 0.1)
    style = dice.count(0, 3)
    color = soft(dice) if dice.chance(0.6) else any_color(dice)
    wall = (
        bricks(near((0.66, 0.33, 0.25), dice, 0.06), (0.8, 0.76, 0.7), 8, 8)
        if style == 0
        else any_wood(dice)
        if style == 1
        else plain(color, 0.8)
    )
    tile = near(dice.pick([(0.62, 0.24, 0.17), (0.32, 0.33, 0.37), (0.45, 0.3, 0.2), (0.3, 0.42, 0.35)]), dice, 0.05)
    cover = (
        stripes(tile, tuple(0.8 * c for c in tile), dice.count(6, 10), roughness=0.8)
        if dice.chance(0.5)
        else plain(tile, 0.8)
    )
    trim, pane = plain(soft(dice), 0.5), plain(near(PANE, dice, 0.08), 0.1)
    parts: Parts = [(box(w, d, h), wall)]
    rise, over = dice.between(0.3, 0.6), dice.between(0.05, 0.12)
    top, gable = _roof(dice.count(0, 3), w, d, rise, over)
    parts.append((top.at(z=h), cover))
    if gable is not None:
        parts.append((gable.at(z=h), wall))
    front = -d / 2
    x = dice.pick((-0.25, 0.0, 0.25)) * w
    paint = plain(vivid(dice), 0.5) if dice.chance(0.6) else any_wood(dice)
    parts += [
        (door(0.2, 0.4).at(x, front - 0.01), paint),
        (sphere(0.015, 6).at(x + 0.06, front - 0.04, 0.2), plain((0.9, 0.75, 0.3), 0.3)),
    ]
    parts.append((box(0.3, 0.14, 0.04).at(x, front - 0.06), plain(STONE, 0.8)))
    frames, panes = _windows(w, d, floors, x)
    parts += [(frames, trim), (panes, pane)]
    if dice.chance(0.6):
        stack = box(0.14, 0.14, rise + 0.28).at(dice.pick((-0.25, 0.25)) * w, d * 0.2, h)
        parts.append((stack, bricks((0.6, 0.3, 0.24), (0.75, 0.72, 0.68), 3, 8)))
    extra = dice.count(0, 3)
    if extra == 0:
        gw = dice.between(0.45, 0.6)
        side = dice.pick((-1, 1)) * (w + gw) / 2
        gate = box(gw * 0.75, 0.04, 0.32).at(side, front + 0.08)
        parts += [
            (box(gw, d * 0.8, 0.45).at(side, 0.02), wall),
            (box(gw + 0.06, d * 0.8 + 0.08, 0.05).at(side, 0.02, 0.45), cover),
            (gate, trim),
        ]
    elif extra == 1:
        posts = box(0.04, 0.04, 0.44).at(w * 0.4, front - 0.26).mirrored()
        awning = patch(
            np.array(
                [
                    [(-w * 0.46, front, 0.54), (w * 0.46, front, 0.54)],
                    [(-w * 0.46, front - 0.32, 0.43), (w * 0.46, front - 0.32, 0.43)],
                ]
            )
        )
        parts += [(posts, trim), (awning, cover), (box(w * 0.92, 0.3, 0.04).at(y=front - 0.15), any_wood(dice))]
    return parts


def battlement(radius: float, count: int, size: float) -> Shape:
    """Merlons round a tower's top."""
    return box(size, size * 0.7, size).at(y=-radius + size * 0.3).around(count)


def castle(dice: Dice) -> Parts:
    """Round or square towers at the corners of a wall, with a gate, battlements or pointed roofs, flags."""
    stone = near(STONE, dice, 0.08) if dice.chance(0.75) else soft(dice)
    wall = bricks(stone, tuple(0.75 * c for c in stone), 10, 10) if dice.chance(0.6) else mottled(stone, dice, 0.1)
    side, h = dice.between(0.9, 1.2), dice.between(0.4, 0.6)
    r, tall = dice.between(0.15, 0.21), h * dice.between(1.4, 1.9)
    roofs, square = dice.chance(0.6), dice.chance(0.3)
    roof_color, flag = plain(vivid(dice), 0.6), plain(vivid(dice), 0.8)
    half = side / 2
    walls = box(side, 0.1, h).at(y=half).mirrored("y") + box(0.1, side, h).at(half).mirrored()
    teeth = [box(0.09, 0.1, 0.1).at(t * side, half, h) for t in np.linspace(-0.34, 0.34, 5)]
    ring = join([join(teeth).turned("z", 90 * k) for k in range(4)])
    tower = box(2 * r, 2 * r, tall) if square else cylinder(r, tall, r * dice.between(0.85, 1.0))
    head = box(2.3 * r, 2.3 * r, 0.12).at(z=tall) if square else cylinder(r * 1.15, 0.12).at(z=tall)
    corner = tower + head
    tops, flags = [], []
    if roofs:
        tops.append(
            lathe([(r * 1.35, 0), (r * 0.7, r * 1.3), (0, r * dice.between(2.4, 3.4))], 4 if square else 36)
            .turned("z", 45)
            .at(z=tall + 0.12)
        )
        peak = tall + 0.12 + r * 2.2
    else:
        corner += battlement(r * 1.15, 8, r * 0.5).at(z=tall + 0.12)
        peak = tall + 0.1
    if dice.chance(0.6):
        pole = rod((0, 0, peak), (0, 0, peak + 0.4), 0.012, 8)
        cloth = sheet(
            lambda u, v: (0.02 + 0.22 * u, 0.03 * np.sin(5 * u), peak + 0.26 + 0.13 * v * (1 - 0.6 * u)), 4, 10
        )
        flags = [pole, cloth]
    at = [(x, y) for x in (-half, half) for y in (-half, half)]
    parts: Parts = [(walls + ring, wall), (join([corner.at(x, y) for x, y in at]), wall)]
    if dice.chance(0.55):
        keep = box(side * 0.42, side * 0.42, tall * 1.15)
        parts.append((keep.at(y=half * 0.2), wall))
        if roofs:
            parts.append(
                (
                    lathe([(side * 0.36, 0), (0, side * 0.42)], 4).turned("z", 45).at(0, half * 0.2, tall * 1.15),
                    roof_color,
                )
            )
        else:
            parts.append((battlement(side * 0.21, 4, 0.12).at(y=half * 0.2, z=tall * 1.15), wall))
    if tops:
        parts.append((join([tops[0].at(x, y) for x, y in at]), roof_color))
    if flags:
        parts.append((join([shape.at(x, y) for shape in flags for x, y in at[: dice.pick((2, 4))]]), flag))
    gate = box(0.36, 0.16, h * 1.15).at(y=-half)
    parts += [(gate, wall), (door(0.24, h * 0.85).at(y=-half - 0.07), any_wood(dice))]
    slits = [box(0.035, 0.03, 0.13).at(x, y - r * (1.0 if square else 0.95), tall * 0.62) for x, y in at[::2]]
    parts.append((join(slits), plain((0.12, 0.12, 0.14), 0.9)))
    return parts


def lighthouse(dice: Dice) -> Parts:
    """A banded tapering tower, a gallery with rail, a glass lantern with a lamp inside, a cap."""
    r, h = dice.between(0.24, 0.32), dice.between(1.1, 1.6)
    top = r * dice.between(0.5, 0.68)
    color = vivid(dice)
    skin = stripes(color, (0.95, 0.95, 0.93), dice.count(2, 4)) if dice.chance(0.75) else plain((0.95, 0.95, 0.93), 0.6)
    tower = lathe([(r, 0), (top, h)], 40)
    deck = lathe([(0, h), (top * 1.5, h), (top * 1.5, h + 0.04), (0, h + 0.04)], 40)
    posts = rod((top * 1.42, 0, h + 0.04), (top * 1.42, 0, h + 0.15), 0.01, 8).around(12) + torus(
        top * 1.42, 0.012, 40, 8
    ).at(z=h + 0.15)
    room = lathe([(top * 0.8, h + 0.04), (top * 0.8, h + 0.3)], 32)
    lamp = sphere(top * 0.4, 10).at(z=h + 0.17)
    cap = lathe(
        [
            (top * 1.0, h + 0.29),
            *curve([(top * 0.95, h + 0.31), (top * 0.5, h + 0.42), (0.02, h + 0.5)], 12),
            (0, h + 0.56),
        ],
        32,
    )
    roof = plain(color, 0.4)
    parts: Parts = [
        (tower, skin),
        (deck, roof),
        (posts, plain((0.2, 0.2, 0.22), 0.5)),
        (room, glass((0.8, 0.9, 0.95), 0.4)),
        (lamp, plain((0.98, 0.9, 0.5), 0.3)),
        (cap, roof),
    ]
    parts.append((door(0.16, 0.3).at(y=-r * 0.96), plain(contrast(color, dice), 0.5)))
    holes = [box(0.08, 0.05, 0.11).at(y=-(r + (top - r) * t), z=h * t) for t in (0.4, 0.65)]
    parts.append((join(holes), plain(PANE, 0.1)))
    rock = lathe([(r * 1.8, -0.2), *curve([(r * 1.7, -0.12), (r * 1.4, -0.03), (r * 1.1, 0), (0.001, 0)], 12)], 32)
    if dice.chance(0.6):
        phase = dice.numbers(0, 6, 2)
        rock = rock.bent(
            lambda p: (
                p
                * np.stack(
                    [
                        1
                        + 0.12 * np.sin(4 * np.arctan2(p[:, 1], p[:, 0]) + phase[0])
                        + 0.06 * np.sin(9 * np.arctan2(p[:, 1], p[:, 0]) + phase[1])
                    ]
                    * 2
                    + [np.ones(len(p))],
                    1,
                )
            )
        )
        parts.append((rock, mottled((0.42, 0.4, 0.38), dice, 0.2, 0.95)))
    return parts


def windmill(dice: Dice) -> Parts:
    """A tower with a cap and four lattice or cloth sails in front."""
    r, h = dice.between(0.3, 0.4), dice.between(0.85, 1.15)
    top = r * dice.between(0.55, 0.7)
    sides = dice.pick((8, 40))
    color = soft(dice)
    wall = (
        bricks(near((0.65, 0.38, 0.3), dice, 0.06), (0.8, 0.77, 0.72), 14, 10)
        if dice.chance(0.35)
        else plain(color, 0.8)
    )
    roof = plain(vivid(dice) if dice.chance(0.5) else near((0.4, 0.28, 0.2), dice), 0.7)
    parts: Parts = [
        (lathe([(r, 0), (top, h)], sides), wall),
        (dome(top * 1.12, 10).scaled(1, 1, 1.2).at(z=h - 0.01) + cylinder(top * 1.12, 0.03).at(z=h - 0.02), roof),
    ]
    reach, w = dice.between(0.6, 0.8), dice.between(0.13, 0.18)
    spar = box(0.035, 0.035, reach)
    if dice.chance(0.5):
        laths = [box(0.015, 0.015, reach * 0.8).at(w * t, 0, reach * 0.2) for t in (0.5, 1.0)] + [
            box(w, 0.015, 0.018).at(w / 2, 0, reach * z) for z in np.linspace(0.2, 0.98, 7)
        ]
        cloth = join(laths)
    else:
        cloth = sheet(lambda u, v: (w * u, -0.04 * u * u, reach * (0.2 + 0.8 * v)), 8, 5)
    wood = any_wood(dice)
    turn = dice.between(0, 90)
    hub_z, y = h + top * 0.25, -top * 1.25
    for shape, material in ((spar, wood), (cloth, plain(soft(dice), 0.9) if dice.chance(0.5) else wood)):
        parts.append((join([shape.turned("y", turn + 90 * k) for k in range(4)]).at(0, y, hub_z), material))
    parts.append((cylinder(0.06, top * 0.8, segments=20).turned("x", 90).at(0, y + top * 0.7, hub_z), wood))
    parts.append((door(0.2, 0.36).at(y=-r * 0.95), any_wood(dice)))
    holes = [box(0.1, 0.05, 0.12).at(y=-(r + (top - r) * t) + 0.01, z=h * t) for t in (0.5, 0.72)]
    parts.append((join(holes), plain(PANE, 0.1)))
    if dice.chance(0.5):
        z = h * 0.42
        out = r + (top - r) * 0.42
        deck = (
            pipe(out * 1.45, 0.03, out * 0.5).at(z=z)
            + rod((out * 1.4, 0, z), (out * 1.4, 0, z + 0.13), 0.01, 6).around(14)
            + torus(out * 1.4, 0.012, 40, 8).at(z=z + 0.13)
        )
        parts.append((deck, wood))
    return parts


def tent(dice: Dice) -> Parts:
    """A ridge tent or tipi: open cloth, poles inside, a flap."""
    color = vivid(dice)
    cloth = (
        stripes(color, soft(dice), dice.count(3, 6), along="u", roughness=0.9)
        if dice.chance(0.5)
        else plain(color, 0.9)
    )
    if dice.chance(0.5):
        r, h = dice.between(0.45, 0.6), dice.between(0.9, 1.3)
        wall = lathe([(r, 0), (0.05, h)], 56, 320).turned("z", 20)
        poles = rod((r * 0.97, 0, 0), (-0.12, 0, h * 1.18), 0.018, 8).around(6, 15)
        return [
            (wall, cloth),
            (poles, any_wood(dice)),
            (lathe([(0, 0.01), (r * 0.98, 0.01)], 40), plain(muted(dice), 0.9)),
        ]
    w, d, h = dice.between(0.8, 1.0), dice.between(1.0, 1.4), dice.between(0.6, 0.8)
    sag = dice.between(0.02, 0.08)
    slope = sheet(
        lambda u, v: (w / 2 * (1 - v) - sag * np.sin(np.pi * v), (u - 0.5) * d, h * v - sag * np.sin(np.pi * u) * v),
        12,
        20,
    )
    back = plate([(-w / 2, 0), (w / 2, 0), (0, h)], 0.01).at(y=d / 2)
    flap = sheet(
        lambda u, v: (w / 2 * (1 - v) - (w / 2) * (1 - v) * 0.55 * u, -d / 2 - 0.22 * u * (1 - v), h * v), 10, 6
    )
    poles = rod((0, -d / 2, 0), (0, -d / 2, h), 0.018, 10) + rod((0, d / 2, 0), (0, d / 2, h), 0.018, 10)
    ropes = rod((w / 2, 0, 0.1), (w * 0.72, 0, 0), 0.008, 6)
    lines = join([ropes.at(y=y) for y in (-d * 0.45, 0, d * 0.45)]).mirrored()
    return [
        (slope.mirrored(), cloth),
        (back, plain(color, 0.9)),
        (flap.mirrored(), plain(color, 0.9)),
        (poles, metal((0.7, 0.7, 0.72), 0.4)),
        (lines, plain((0.85, 0.82, 0.7), 0.9)),
        (box(w, d, 0.01), bands([muted(dice)], [1.0])),
    ]
