"""Parametric shapes: boxes, lathes, sweeps, extrusions and sheets, with texture coordinates in [0, 1].

Shapes with a height have their base at z = 0 and are centred in x and y; spheres and tori are centred on the origin.
The winding is arbitrary: surfaces are two-sided. Points along seams are duplicated; `objects.assemble` merges them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ....o_voxel.material import Material

Points = np.ndarray | Sequence[Sequence[float]]


def turned(points: np.ndarray, axis: str, degrees: float) -> np.ndarray:
    """Points [P, 3] rotated about the axis "x", "y" or "z" through the origin, counter-clockwise seen from its tip."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    a, b = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    out = points.copy()
    out[:, a] = c * points[:, a] - s * points[:, b]
    out[:, b] = s * points[:, a] + c * points[:, b]
    return out


@dataclass(frozen=True, eq=False)
class Shape:
    """A triangle mesh. points: [P, 3] fp64.  faces: [F, 3] int64.  uv: [P, 2] fp64, v up."""

    points: np.ndarray
    faces: np.ndarray
    uv: np.ndarray

    def __add__(self, other: Shape) -> Shape:
        return join([self, other])

    def at(self, x: float = 0.0, y: float = 0.0, z: float = 0.0) -> Shape:
        """Translated."""
        return replace(self, points=self.points + (x, y, z))

    def scaled(self, x: float, y: float | None = None, z: float | None = None) -> Shape:
        """Scaled about the origin, uniformly by x or by one factor an axis."""
        return replace(self, points=self.points * (x, x if y is None else y, x if z is None else z))

    def turned(self, axis: str, degrees: float) -> Shape:
        """Rotated about the axis "x", "y" or "z" through the origin, counter-clockwise seen from its tip."""
        return replace(self, points=turned(self.points, axis, degrees))

    def bent(self, bend: Callable[[np.ndarray], np.ndarray]) -> Shape:
        """Deformed: bend maps points [P, 3] to points [P, 3]."""
        return replace(self, points=bend(self.points))

    def mirrored(self, axis: str = "x") -> Shape:
        """The union with the mirror image across the plane normal to `axis` through the origin."""
        sign = {"x": (-1, 1, 1), "y": (1, -1, 1), "z": (1, 1, -1)}[axis]
        return self + self.scaled(*sign)

    def around(self, count: int, start: float = 0.0) -> Shape:
        """`count` copies, evenly spaced about the z axis from `start` degrees."""
        return join([self.turned("z", start + 360 * k / count) for k in range(count)])


# What a family returns: shapes, each with its material.
Parts = list[tuple[Shape, Material]]


def join(shapes: Sequence[Shape]) -> Shape:
    """The concatenation of several shapes."""
    starts = np.cumsum([0, *(len(shape.points) for shape in shapes)])
    faces = [shape.faces + start for shape, start in zip(shapes, starts, strict=False)]
    return Shape(
        np.concatenate([s.points for s in shapes]), np.concatenate(faces), np.concatenate([s.uv for s in shapes])
    )


def patch(points: np.ndarray, u: np.ndarray | None = None, v: np.ndarray | None = None) -> Shape:
    """The surface through a grid of points [R, C, 3]. u: [C] and v: [R] in [0, 1]; None: even steps."""
    rows, columns = points.shape[:2]
    u = np.linspace(0, 1, columns) if u is None else u
    v = np.linspace(0, 1, rows) if v is None else v
    corner = (np.arange(rows - 1)[:, None] * columns + np.arange(columns - 1)).reshape(-1, 1)
    faces = np.concatenate([corner + (0, 1, columns + 1), corner + (0, columns + 1, columns)])
    uv = np.stack(np.broadcast_arrays(u[None, :], v[:, None]), -1)
    return Shape(np.asarray(points, float).reshape(-1, 3), faces, uv.reshape(-1, 2))


def sheet(
    surface: Callable[[np.ndarray, np.ndarray], Sequence[np.ndarray]], rows: int = 24, columns: int = 24
) -> Shape:
    """A thin open surface: surface(u, v) gives x, y and z for u and v [R, C] in [0, 1]."""
    v, u = np.meshgrid(np.linspace(0, 1, rows), np.linspace(0, 1, columns), indexing="ij")
    return patch(np.stack(np.broadcast_arrays(*surface(u, v)), -1))


def curve(points: Points, count: int = 24) -> np.ndarray:
    """[count, D] points on the smooth (Catmull-Rom) curve through `points` [N, D]."""
    points = np.asarray(points, float)
    ends = np.concatenate([[2 * points[0] - points[1]], points, [2 * points[-1] - points[-2]]])
    place = np.linspace(0, len(points) - 1, count)
    k = np.minimum(place.astype(int), len(points) - 2)
    t = (place - k)[:, None]
    a, b, c, d = (ends[k + i] for i in range(4))
    return b + t / 2 * ((c - a) + t * ((2 * a - 5 * b + 4 * c - d) + t * (3 * (b - c) + d - a)))


def circle(radius: float = 1.0, count: int = 16, depth: float | None = None) -> np.ndarray:
    """[count, 2] points on a circle, or on an ellipse with half-axes `radius` and `depth`."""
    angle = np.arange(count) * (2 * np.pi / count)
    return np.stack([radius * np.cos(angle), (radius if depth is None else depth) * np.sin(angle)], 1)


def arc(radius: float, start: float, stop: float, count: int = 16) -> np.ndarray:
    """[count, 2] points on a circle about the origin, between two angles in degrees."""
    angle = np.radians(np.linspace(start, stop, count))
    return radius * np.stack([np.cos(angle), np.sin(angle)], 1)


def _lengths(points: np.ndarray) -> np.ndarray:
    """Normalised arc length [N] in [0, 1] along a polyline [N, D]."""
    along = np.concatenate([[0], np.linalg.norm(np.diff(points, axis=0), axis=1).cumsum()])
    return along / max(along[-1], 1e-12)


def lathe(profile: Points, segments: int = 48, turn: float = 360.0) -> Shape:
    """A profile [N, 2] of (radius, z) revolved about the z axis by `turn` degrees; u around from -y, v along it."""
    profile = np.asarray(profile, float)
    angle = np.radians(np.linspace(-90, -90 + turn, segments + 1))
    r, z = profile[:, :1], profile[:, 1:]
    points = np.stack(np.broadcast_arrays(r * np.cos(angle), r * np.sin(angle), z), -1)
    return patch(points, v=_lengths(profile))


def cylinder(radius: float, height: float, top: float | None = None, bevel: float = 0.0, segments: int = 40) -> Shape:
    """A closed cylinder, or a truncated cone with radius `top` above; edges rounded by `bevel`."""
    top = radius if top is None else top
    low = [(radius, 0.0)] if bevel == 0 else arc(bevel, -90, 0, 4) + (radius - bevel, bevel)
    high = [(top, height)] if bevel == 0 else arc(bevel, 0, 90, 4) + (top - bevel, height - bevel)
    return lathe([(0, 0), *low, *high, (0, height)], segments)


def pipe(radius: float, height: float, wall: float, segments: int = 40) -> Shape:
    """A cylinder with a hole through it."""
    inner = radius - wall
    return lathe([(radius, 0), (radius, height), (inner, height), (inner, 0), (radius, 0)], segments)


def sphere(radius: float = 1.0, rings: int = 20) -> Shape:
    """A sphere about the origin."""
    return lathe(arc(radius, -90, 90, rings + 1), 2 * rings)


def dome(radius: float, rings: int = 10) -> Shape:
    """The open upper half of a sphere."""
    return lathe(arc(radius, 0, 90, rings + 1), 4 * rings)


def torus(radius: float, thickness: float, segments: int = 40, sides: int = 16) -> Shape:
    """A torus about the z axis; thickness: radius of its tube."""
    return lathe(arc(thickness, 0, 360, sides + 1) + (radius, 0), segments)


def box(x: float, y: float, z: float, bevel: float = 0.0, steps: int = 2) -> Shape:
    """A box with sides x, y, z, edges rounded by `bevel`; the uv of each side cover [0, 1]²."""
    bevel = min(bevel, x / 2, y / 2, z / 2)
    half = np.array([x, y, z]) / 2
    steps = steps if bevel > 0 else 0
    tangent = np.tan(np.radians(np.linspace(0, 45, steps + 1)))
    lean = np.concatenate([-tangent[::-1], tangent])
    side = np.repeat([-1.0, 1.0], steps + 1)
    patches = []
    # (axis across, axis up, axis out) of a side, so that v is up on the walls.
    for across, up, out in ((0, 2, 1), (1, 2, 0), (0, 1, 2)):
        for sign in (-1.0, 1.0):
            n = len(side)
            direction, core = np.empty((n, n, 3)), np.empty((n, n, 3))
            direction[..., across], direction[..., up], direction[..., out] = lean[None, :], lean[:, None], sign
            core[..., across], core[..., up], core[..., out] = side[None, :], side[:, None], sign
            unit = direction / np.linalg.norm(direction, axis=-1, keepdims=True)
            points = core * (half - bevel) + bevel * unit
            u, v = ((points[i][..., axis] / half[axis] + 1) / 2 for i, axis in ((0, across), (slice(None), up)))
            patches.append(patch(points, u=u, v=v[:, 0]))
    return join(patches).at(z=z / 2)


def sweep(
    path: Points,
    section: Points,
    scale: float | Points = 1.0,
    *,
    twist: float = 0.0,
    up: Sequence[float] | None = None,
    caps: bool = True,
) -> Shape:
    """A closed outline [M, 2] swept along a path [N, 3].

    scale: of the outline, one number, or [N].  twist: degrees from end to end.
    up: keeps the outline's second axis in the plane of this direction and the path; None: parallel transport.
    caps: close both ends.
    """
    path, section = np.asarray(path, float), np.asarray(section, float)
    tangent = np.gradient(path, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    first = np.eye(3)[np.argmin(np.abs(tangent[0]))] if up is None else np.asarray(up, float)
    rises = []
    for t in tangent:
        reference = rises[-1] if rises and up is None else first
        rise = reference - t * (reference @ t)
        rises.append(rise / np.linalg.norm(rise))
    rise = np.array(rises)
    across = np.cross(tangent, rise)
    angle = np.radians(np.linspace(0, twist, len(path)))[:, None]
    x, y = across * np.cos(angle) + rise * np.sin(angle), rise * np.cos(angle) - across * np.sin(angle)
    outline = np.concatenate([section, section[:1]])
    size = np.broadcast_to(np.asarray(scale, float), len(path))[:, None, None]
    rings = path[:, None] + size * (x[:, None] * outline[:, :1] + y[:, None] * outline[:, 1:])
    wall = patch(rings, u=_lengths(outline), v=_lengths(path))
    if not caps:
        return wall
    lid = triangulate(section)
    flat = (section - section.min(0)) / np.maximum(np.ptp(section, axis=0), 1e-9)
    return join([wall, Shape(rings[0, :-1], lid, flat), Shape(rings[-1, :-1], lid, flat)])


def tube(path: Points, radius: float | Points, sides: int = 12, caps: bool = True) -> Shape:
    """A round tube along a path [N, 3]; radius: one number, or [N]."""
    return sweep(path, circle(1.0, sides), radius, caps=caps)


def rod(start: Sequence[float], end: Sequence[float], radius: float, sides: int = 16) -> Shape:
    """A straight round rod between two points."""
    return tube([start, end], radius, sides)


def extrude(outline: Points, height: float, bevel: float = 0.0) -> Shape:
    """A simple polygon [N, 2] extruded from z = 0 to `height`; the edges of both ends are chamfered by `bevel`."""
    outline = np.asarray(outline, float)
    low, span = outline.min(0), np.maximum(np.ptp(outline, axis=0), 1e-9)
    inner = _inset(outline, bevel) if bevel else outline
    levels = [(inner, 0.0), (outline, bevel), (outline, height - bevel), (inner, height)] if bevel else []
    levels = levels or [(outline, 0.0), (outline, height)]
    rings = np.array([np.column_stack([ring, np.full(len(ring), z)]) for ring, z in levels])
    wall = patch(np.concatenate([rings, rings[:, :1]], 1), u=_lengths(np.concatenate([outline, outline[:1]])))
    lid = triangulate(inner)
    return join([wall, *(Shape(ring, lid, (inner - low) / span) for ring in (rings[0], rings[-1]))])


def plate(outline: Points, thickness: float, bevel: float = 0.0) -> Shape:
    """A simple polygon [N, 2] of (x, z) extruded along y, centred in y."""
    return extrude(outline, thickness, bevel).turned("x", 90).at(y=thickness / 2)


def beam(outline: Points, width: float, bevel: float = 0.0) -> Shape:
    """A simple polygon [N, 2] of (y, z) extruded along x, centred in x."""
    return plate(outline, width, bevel).turned("z", 90)


def _inset(outline: np.ndarray, distance: float) -> np.ndarray:
    """The polygon [N, 2] offset inwards with mitred corners, clipped to its box; narrow notches may self-intersect."""
    step = np.roll(outline, -1, 0) - outline
    normal = np.stack([-step[:, 1], step[:, 0]], 1) * np.sign(_area(outline))
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)
    inwards = normal + np.roll(normal, 1, 0)
    moved = outline + distance * inwards / np.maximum((inwards * inwards).sum(1, keepdims=True) / 2, 0.5)
    return np.clip(moved, outline.min(0), outline.max(0))


def _area(outline: np.ndarray) -> float:
    """Twice the signed area of a polygon [N, 2]."""
    x, y = outline.T
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1))


def triangulate(outline: np.ndarray) -> np.ndarray:
    """Faces [N - 2, 3] int64 of a simple polygon [N, 2], by ear clipping (Meisters 1975)."""
    x, y = (outline * np.array([1.0, np.sign(_area(outline)) or 1.0])).T
    left, faces = list(range(len(outline))), []

    def side(a: int, b: int, p: np.ndarray | int) -> np.ndarray:
        return (x[b] - x[a]) * (y[p] - y[a]) - (y[b] - y[a]) * (x[p] - x[a])

    while len(left) > 3:
        for i in range(len(left)):
            a, b, c = left[i - 1], left[i], left[(i + 1) % len(left)]
            others = np.array([p for p in left if p not in (a, b, c)])
            inside = (side(a, b, others) >= 0) & (side(b, c, others) >= 0) & (side(c, a, others) >= 0)
            if side(a, b, c) > 0 and not inside.any():
                break
        else:
            i = 0  # only slivers are left
        faces.append((left[i - 1], left[i], left[(i + 1) % len(left)]))
        del left[i]
    return np.array([*faces, left])
