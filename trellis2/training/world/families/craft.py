"""Planes, boats, rockets, balloons, moving towards -y."""

from __future__ import annotations

import numpy as np

from ..dice import Dice
from ..materials import any_color, any_metal, any_wood, bands, contrast, grey, metal, plain, soft, stripes, vivid
from ..shapes import Parts, Shape, arc, box, curve, cylinder, join, lathe, patch, plate, rod, sphere, torus
from .road import TYRE, WINDOW


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


def _rig(dice: Dice, length: float, w: float, depth: float) -> Parts:
    """Deck, mast and sails."""
    wood = any_wood(dice)
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
    parts: Parts = [
        (deck, wood),
        (mast, wood),
        (main, cloth),
        (rod((0, y, foot - 0.03), (0, y + aft, foot - 0.03), 0.015, 10), wood),
    ]
    if dice.chance(0.7):
        jib = sail([(-length * 0.5, depth * 1.35), (y - 0.05, foot - 0.02), (y - 0.03, depth * 0.5 + tall * 0.85)])
        parts.append((jib, plain(vivid(dice), 0.9) if dice.chance(0.4) else cloth))
    return parts


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
        parts += _rig(dice, length, w, depth)
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
        deck = box(w * 0.66, length * 0.62, 0.03).at(y=length * 0.1, z=depth * 0.8)
        house = box(w * 0.62, length * 0.36, 0.26, 0.03).at(y=length * 0.08, z=depth * 0.8)
        windows = box(w * 0.63, 0.09, 0.1).at(z=depth * 0.8 + 0.1)
        panes = join([windows.at(y=length * 0.08 + t * length * 0.36) for t in (-0.28, 0.0, 0.28)])
        funnel = cylinder(0.085, 0.34, 0.075, segments=28).at(y=length * 0.16, z=depth * 0.8 + 0.25)
        ring = bands([vivid(dice), (0.95, 0.95, 0.95), (0.1, 0.1, 0.1)], [0.5, 0.2, 0.3])
        parts += [(deck, wood), (house, plain(soft(dice), 0.5)), (panes, plain(WINDOW, 0.1)), (funnel, ring)]
        if dice.chance(0.5):
            parts.append((cylinder(0.014, 0.7, segments=10).at(y=-length * 0.2, z=depth * 0.8), wood))
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
