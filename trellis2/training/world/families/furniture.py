"""Chairs, tables, shelves, beds, sofas, cabinets. Seats and doors face -y."""

from __future__ import annotations

import numpy as np

from .....o_voxel.material import Material
from ..dice import Dice
from ..materials import any_color, any_metal, any_wood, contrast, muted, patterned, plain, soft, vivid
from ..shapes import Parts, Shape, beam, box, curve, cylinder, join, plate, rod, sphere, sweep


def legs(dice: Dice, x: float, y: float, height: float, thickness: float) -> Shape:
    """Four legs under the corners of an x by y board: square, round, tapered or splayed."""
    style, splay = dice.count(0, 3), dice.between(0.05, 0.2) * height
    dx, dy = x / 2 - thickness, y / 2 - thickness
    made = []
    for sx in (-1, 1):
        for sy in (-1, 1):
            if style == 0:
                leg = box(thickness, thickness, height, thickness * 0.12).at(sx * dx, sy * dy)
            elif style == 1:
                leg = cylinder(thickness * 0.55, height, segments=20).at(sx * dx, sy * dy)
            elif style == 2:
                leg = cylinder(thickness * 0.3, height, thickness * 0.65, segments=20).at(sx * dx, sy * dy)
            else:
                leg = rod((sx * (dx + splay), sy * (dy + splay), 0), (sx * dx, sy * dy, height), thickness * 0.45)
            made.append(leg)
    return join(made)


def frame_material(dice: Dice) -> Material:
    """Wood, metal or paint."""
    return dice.pick([any_wood, any_wood, any_metal, lambda d: plain(any_color(d), 0.4)])(dice)


def chair(dice: Dice) -> Parts:
    """Four legs or a pedestal, a seat, and a back of slats, bars, a board or a curved shell; some have arms."""
    w, d, h = dice.between(0.40, 0.52), dice.between(0.40, 0.50), dice.between(0.40, 0.48)
    back, t = dice.between(0.38, 0.62), dice.between(0.035, 0.06)
    lean = dice.between(0.0, 0.12)
    frame = frame_material(dice)
    color = any_color(dice)
    cushion = patterned(color, dice, 0.85)
    parts: Parts = []
    if dice.chance(0.15):
        star = box(0.05, w * 0.5, 0.04, 0.01).at(y=-w * 0.25).around(5)
        parts.append((star + cylinder(0.03, h, segments=20), any_metal(dice)))
    else:
        parts.append((legs(dice, w, d, h, t), frame))
        if dice.chance(0.4):
            bar = box(w - 2 * t, t * 0.5, t * 0.5).at(y=d / 2 - t, z=h * 0.4)
            parts.append((bar + bar.at(y=2 * t - d), frame))
    thick = dice.between(0.03, 0.1)
    parts.append((box(w, d, thick, min(thick / 2.2, 0.035), 3).at(z=h), cushion))

    def leaning(points: np.ndarray) -> np.ndarray:
        return points + (points[:, 2:] - h) * np.array([0, lean, 0]) * (points[:, 2:] > h)

    y, top = d / 2 - t / 2, h + thick
    post = box(t, t, back + thick, t * 0.15).at(z=h)
    posts = post.at(w / 2 - t / 2, y).mirrored()
    style = dice.count(0, 4)
    if style == 0:
        n = dice.count(2, 5)
        slat = box(w - 2 * t, t * 0.45, back / n * 0.55, 0.006)
        slats = join([slat.at(y=y, z=top + back * (k + 0.7) / (n + 0.3) - 0.5 * back / n) for k in range(n)])
        parts += [(posts.bent(leaning), frame), (slats.bent(leaning), frame)]
    elif style == 1:
        n = dice.count(3, 7)
        bars = join([rod((x, y, h), (x, y, top + back * 0.95), 0.009, 10) for x in np.linspace(-0.38, 0.38, n) * w])
        rail = box(w, t, dice.between(0.05, 0.12), t * 0.3).at(y=y, z=top + back * 0.86)
        parts += [(posts.bent(leaning), frame), (bars.bent(leaning), frame), (rail.bent(leaning), frame)]
    elif style == 2:
        board = box(w - 2 * t, t * 0.7, back * dice.between(0.55, 0.85), t * 0.3, 3).at(y=y, z=top + back * 0.15)
        parts += [(posts.bent(leaning), frame), (board.bent(leaning), cushion)]
    elif style == 3:
        corner = np.array([(-0.5, 0), (0.5, 0), (0.52, 0.7), (0.3, 1), (0, 1.06), (-0.3, 1), (-0.52, 0.7)])
        shell = plate(corner * (w, back + thick), t * 0.8, t * 0.25).at(y=y, z=h)
        hollow = dice.between(0.0, 1.2)
        shell = shell.bent(leaning).bent(lambda p: p - np.stack([0 * p[:, 0], hollow * p[:, 0] ** 2, 0 * p[:, 0]], 1))
        parts.append((shell, cushion))
    else:
        bend = curve(
            [
                (-w / 2, y, h),
                (-w / 2.1, y, top + back * 0.8),
                (0, y, top + back),
                (w / 2.1, y, top + back * 0.8),
                (w / 2, y, h),
            ],
            36,
        )
        angle = np.linspace(0, 2 * np.pi, 12, endpoint=False)
        hoop = sweep(bend, t * 0.45 * np.stack([np.cos(angle), np.sin(angle)], 1))
        bars = join([rod((x, y, h), (x, y, top + back * 0.9), 0.008, 10) for x in np.linspace(-0.3, 0.3, 4) * w])
        parts += [(hoop.bent(leaning), frame), (bars.bent(leaning), frame)]
    if dice.chance(0.3):
        reach, rise = d * 0.9, dice.between(0.16, 0.24)
        arm = box(t, reach, t * 0.6, t * 0.2).at(w / 2, 0.02, h + rise) + box(t * 0.7, t * 0.7, rise).at(
            w / 2, -reach / 2.4, h
        )
        parts.append((arm.mirrored(), frame))
    return parts


def table(dice: Dice) -> Parts:
    """Rectangular on legs or panels, or round on a pedestal; with shelf, drawer or things on top."""
    h, t = dice.between(0.38, 0.8), dice.between(0.03, 0.07)
    frame, top = frame_material(dice), any_wood(dice) if dice.chance(0.5) else patterned(any_color(dice), dice, 0.4)
    parts: Parts = []
    if dice.chance(0.35):
        r = dice.between(0.32, 0.6)
        parts.append((cylinder(r, t, bevel=t * 0.4, segments=56).at(z=h), top))
        if dice.chance(0.5):
            stem = dice.between(0.03, 0.07)
            foot = cylinder(r * 0.55, 0.04, bevel=0.015) + cylinder(stem * 1.6, h * 0.5, stem).at(z=0.03)
            parts.append((foot + cylinder(stem, h), frame))
        else:
            n, spread = dice.count(3, 4), dice.between(0.55, 0.85)
            leg = rod((0, -r * spread, 0), (0, -r * 0.5, h), 0.022)
            parts.append((leg.around(n, 45), frame))
    else:
        x, y = dice.between(0.7, 1.5), dice.between(0.5, 0.8)
        parts.append((box(x, y, t, t * 0.3).at(z=h), top))
        if dice.chance(0.25):
            parts.append((box(t, y * 0.9, h, t * 0.1).at(x / 2 - t * 1.2).mirrored(), frame))
        else:
            parts.append((legs(dice, x * 0.97, y * 0.97, h, dice.between(0.05, 0.085)), frame))
            if dice.chance(0.5):
                parts.append((box(x * 0.86, y * 0.86, 0.08).at(z=h - 0.08), frame))
        if dice.chance(0.3):
            parts.append((box(x * 0.86, y * 0.8, 0.03, 0.008).at(z=h * 0.3), frame))
    if dice.chance(0.3):
        x = dice.between(-0.15, 0.15)
        parts.append(
            (cylinder(0.05, 0.16, 0.075, bevel=0.012, segments=24).at(x, -0.05, h + t), plain(vivid(dice), 0.3))
        )
    return parts


def shelf(dice: Dice) -> Parts:
    """A bookcase: open compartments, books, boxes and balls in them; with or without a back."""
    w, d, h, t = dice.between(0.5, 1.1), dice.between(0.22, 0.32), dice.between(0.8, 1.7), dice.between(0.025, 0.045)
    rows, columns = dice.count(2, 5), dice.count(1, 3)
    wood = any_wood(dice) if dice.chance(0.6) else plain(any_color(dice), 0.5)
    boards = [box(t, d, h).at((w - t) * (k / columns - 0.5)) for k in range(columns + 1)]
    boards += [box(w, d, t).at(z=(h - t) * k / rows) for k in range(rows + 1)]
    parts: Parts = [(join(boards), wood)]
    if dice.chance(0.65):
        parts.append((box(w, 0.01, h).at(y=d / 2), wood if dice.chance(0.5) else plain(soft(dice), 0.6)))
    cell_w, cell_h = w / columns - t, (h - t) / rows - t
    covers = [plain(any_color(dice), 0.6) for _ in range(4)]
    books: list[list[Shape]] = [[] for _ in covers]
    for row in range(rows):
        for column in range(columns):
            left, floor = (w - t) * (column / columns - 0.5) + t / 2, (h - t) * row / rows + t
            fill = dice.between(-0.3, 1.0) * cell_w
            x = left
            while x < left + fill - 0.06:
                thick, tall = dice.between(0.025, 0.06), cell_h * dice.between(0.6, 0.92)
                books[dice.count(0, 3)].append(box(thick * 0.92, d * 0.75, tall).at(x + thick / 2, 0, floor))
                x += thick
            if fill < 0 and dice.chance(0.5):
                radius = min(cell_h, cell_w, d) * 0.36
                books[dice.count(0, 3)].append(sphere(radius, 12).at(left + cell_w / 2, 0, floor + radius))
    return parts + [(join(group), cover) for group, cover in zip(books, covers, strict=True) if group]


def bed(dice: Dice) -> Parts:
    """A frame with headboard, a mattress, pillows and a blanket. The foot is in front."""
    w, d, h = dice.between(0.8, 1.7), dice.between(1.8, 2.1), dice.between(0.22, 0.4)
    frame, blanket = frame_material(dice), patterned(any_color(dice), dice, 0.9)
    t = dice.between(0.05, 0.09)
    thick, head = dice.between(0.18, 0.28), dice.between(0.45, 0.85)
    parts: Parts = [(legs(dice, w, d, h * 0.6, 0.09), frame), (box(w, d, h * 0.5, 0.02).at(z=h * 0.5), frame)]
    parts.append((box(w * 0.96, d * 0.96, thick, 0.06, 3).at(z=h), plain(soft(dice), 0.9)))
    if dice.chance(0.5):
        z = np.array([(-0.5, 0), (0.5, 0), (0.5, 0.75), (0.3, 0.92), (0, 1), (-0.3, 0.92), (-0.5, 0.75)])
        parts.append((plate(z * (w, h + head), t, 0.015).at(y=d / 2), frame))
    else:
        bars = [box(t, t, h + head).at(x, d / 2) for x in np.linspace(-0.5, 0.5, dice.count(3, 7)) * (w - t)]
        parts.append((join([*bars, box(w, t, t * 1.4).at(y=d / 2, z=h + head - t)]), frame))
    if dice.chance(0.5):
        parts.append((box(w, t, h + dice.between(0.2, 0.35), 0.02).at(y=-d / 2), frame))
    length = d * dice.between(0.45, 0.68)
    parts.append((box(w * 1.0, length, thick + 0.035, 0.05, 3).at(y=-d * 0.48 + length / 2, z=h + 0.02), blanket))
    pillow = box(dice.between(0.45, 0.6), 0.36, 0.15, 0.07, 4).turned("x", 12).at(z=h + thick, y=d * 0.32)
    single = w < 1.15
    parts.append((pillow if single else pillow.at(w * 0.24).mirrored(), plain(soft(dice), 0.95)))
    return parts


def sofa(dice: Dice) -> Parts:
    """An upholstered seat for one to three, arms, cushions."""
    seats = dice.count(1, 3)
    seat, d, h = dice.between(0.5, 0.62), dice.between(0.7, 0.85), dice.between(0.28, 0.38)
    arm, back, t = dice.between(0.1, 0.22), dice.between(0.35, 0.5), dice.between(0.12, 0.2)
    w = seats * seat + 2 * arm
    color = any_color(dice)
    cloth, cushion = plain(color, 0.9), plain(color if dice.chance(0.6) else contrast(color, dice), 0.9)
    feet = dice.between(0.05, 0.14)
    parts: Parts = [(legs(dice, w * 0.95, d * 0.9, feet, 0.06), frame_material(dice))]
    parts.append((box(w, d, h - 0.08, 0.03).at(z=feet), cloth))
    parts.append((box(w, t, h + back, 0.06, 3).at(y=d / 2 - t / 2, z=feet), cloth))
    if dice.chance(0.35):
        roll = (
            cylinder(arm * 0.62, d, bevel=0.02, segments=24).turned("x", 90).at(w / 2 - arm / 2, d / 2, feet + h + 0.16)
        )
        side = box(arm * 0.8, d, h + 0.16, 0.02).at(w / 2 - arm / 2, 0, feet)
        parts.append(((roll + side).mirrored(), cloth))
    else:
        parts.append(
            (box(arm, d, h + dice.between(0.14, 0.26), 0.05, 3).at(w / 2 - arm / 2, 0, feet).mirrored(), cloth)
        )
    for k in range(seats):
        x = (k - (seats - 1) / 2) * seat
        parts.append((box(seat * 0.98, d - t, 0.15, 0.05, 3).at(x, -t / 2, feet + h - 0.08), cushion))
        parts.append(
            (
                box(seat * 0.94, 0.14, back * 0.8, 0.06, 3).turned("x", -10).at(x, d / 2 - t - 0.1, feet + h + 0.06),
                cushion,
            )
        )
    if dice.chance(0.5):
        throw = box(0.34, 0.12, 0.34, 0.055, 3).turned("x", -25).turned("z", 12)
        parts.append((throw.at(-w / 2 + arm + 0.2, 0.05, feet + h + 0.1), patterned(vivid(dice), dice, 0.9)))
    return parts


def cabinet(dice: Dice) -> Parts:
    """Drawers and doors with knobs, on feet; one drawer or door may stand open."""
    w, d, h = dice.between(0.5, 1.2), dice.between(0.38, 0.5), dice.between(0.6, 1.3)
    feet, t = dice.between(0.04, 0.2), 0.025
    wood = any_wood(dice) if dice.chance(0.6) else plain(any_color(dice), 0.5)
    front = wood if dice.chance(0.4) else plain(any_color(dice), 0.45)
    knob_metal = any_metal(dice) if dice.chance(0.7) else plain(muted(dice), 0.4)
    case = [
        box(t, d, h).at((w - t) / 2).mirrored(),
        box(w, d, t),
        box(w, d, t).at(z=h - t),
        box(w, t, h).at(y=(d - t) / 2),
    ]
    parts: Parts = [(legs(dice, w, d, feet, 0.055), wood), (join(case).at(z=feet), wood)]
    parts.append((box(w + 0.04, d + 0.04, 0.03, 0.008).at(z=feet + h), wood))
    rows, columns = dice.count(2, 5), dice.count(1, 2) if w > 0.7 else 1
    cell_w, cell_h = (w - 2 * t) / columns, (h - 2 * t) / rows
    opened = dice.count(0, 2 * rows * columns)
    fronts, knobs = [], []
    for k in range(rows * columns):
        out = d * 0.45 if k == opened else 0.0
        x, z = (k % columns + 0.5) * cell_w - w / 2 + t, feet + t + (k // columns) * cell_h
        fronts.append(box(cell_w * 0.95, t, cell_h * 0.92, 0.006).at(x, -d / 2 - out, z + cell_h * 0.04))
        if out:
            sides = box(t / 2, d * 0.9, cell_h * 0.7).at(cell_w * 0.44).mirrored() + box(cell_w * 0.88, d * 0.9, t / 2)
            fronts.append(sides.at(x, -out * 0.2 - 0.02, z + cell_h * 0.08))
        for side in (-1, 1) if cell_w > 0.5 else (0,):
            knobs.append(sphere(0.022, 10).at(x + side * cell_w * 0.25, -d / 2 - out - 0.03, z + cell_h * 0.5))
    return [*parts, (join(fronts), front), (join(knobs), knob_metal)]


def bench(dice: Dice) -> Parts:
    """A park bench: slats on two iron or wooden sides."""
    w, slats = dice.between(1.1, 1.8), dice.count(3, 5)
    wood, iron = any_wood(dice) if dice.chance(0.7) else plain(vivid(dice), 0.5), plain(muted(dice), 0.4)
    seat = [box(w, 0.085, 0.03, 0.008).at(y=-0.22 + k * 0.11, z=0.42) for k in range(4)]
    back = [box(w, 0.03, 0.085, 0.008).at(y=0.24 + 0.05 * k / slats, z=0.55 + 0.42 * k / slats) for k in range(slats)]
    side = beam(
        [
            (-0.28, 0),
            (-0.22, 0),
            (-0.2, 0.38),
            (0.2, 0.38),
            (0.24, 0),
            (0.3, 0),
            (0.27, 0.42),
            (0.34, 0.98),
            (0.29, 0.98),
            (0.21, 0.43),
            (-0.27, 0.43),
        ],
        0.05,
        0.008,
    )
    parts: Parts = [(join(seat + back), wood), (side.at(w * 0.42).mirrored(), iron)]
    if dice.chance(0.6):
        rest = beam([(-0.29, 0.4), (-0.24, 0.4), (-0.23, 0.62), (0.26, 0.64), (0.26, 0.68), (-0.3, 0.66)], 0.05, 0.008)
        parts.append((rest.at(w * 0.42).mirrored(), iron))
    return parts
