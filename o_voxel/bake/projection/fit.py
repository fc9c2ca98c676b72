"""Finds the camera that took a picture of a mesh, from its outline and its colours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import cos, exp, log, radians

import numpy as np
import torch
from torch import Tensor

from ...core.progress import Progress, in_background, silent
from ...material import TexturedMesh
from ...render.camera import Camera
from .picture import SOLID, Picture, outlines_apart
from .proxy import Pose, Proxy

DEFAULT_FOV = 30.0
FOVS = (8.0, 70.0)
PITCHES = (-50.0, -30.0, -12.0, 4.0, 20.0, 36.0, 52.0, 70.0, 88.0)
YAW_STEP = 15.0
NEAR_DEG = 30.0  # how far from `near_yaw_deg` the search begins
# A vase looks the same from all sides: then the front is right.
FRONT_BONUS = 0.01
COARSE_SIDE, COARSE_CELLS = 64, 48
FINE_SIDE, FINE_CELLS = 128, 128
CANDIDATES, FINALISTS = 5, 2
COARSE_TRIALS, FINE_TRIALS = 50, 160
# First steps of a search: degrees, degrees, degrees, pictures' halves, shares.
STEPS = {"yaw_deg": 5.0, "pitch_deg": 5.0, "roll_deg": 2.0, "x": 0.02, "y": 0.02, "size": 0.03, "fov_deg": 0.25}
AS_RATIOS = ("size", "fov_deg")
FIT_SECONDS = 6.0
# Compact objects overlap well whatever they are; their outlines do not run along each other.
MOST_APART = 0.02


@dataclass(frozen=True)
class FitOptions:
    """yaw_deg, pitch_deg, fov_deg: of the camera, where they are known; None: found.  near_yaw_deg: where the camera
    stands by and large, as for an object that was made facing the picture; None: anywhere.

    min_overlap, max_apart: least intersection over union of outline and matte, and greatest mean distance between their
    borders as a share of the picture's side, of a fit to be trusted.
    """

    yaw_deg: float | None = None
    pitch_deg: float | None = None
    fov_deg: float | None = None
    min_overlap: float = 0.8
    max_apart: float = MOST_APART
    near_yaw_deg: float | None = None

    def __post_init__(self) -> None:
        if self.fov_deg is not None and not 1 <= self.fov_deg <= 120:
            raise ValueError(f"FitOptions.fov_deg: expected 1 to 120 or None, got {self.fov_deg}")
        if self.pitch_deg is not None and not -90 <= self.pitch_deg <= 90:
            raise ValueError(f"FitOptions.pitch_deg: expected -90 to 90 or None, got {self.pitch_deg}")


@dataclass(frozen=True)
class CameraFit:
    """A camera, its overlap with the matte, how much of the colours it explains, whether to trust it, and how far the
    outlines are apart, see `outlines_apart`."""

    camera: Camera
    overlap: float
    explained: float
    good: bool
    apart: float = 0.0

    def line(self) -> str:
        """The fit in words, angles in degrees."""
        c = self.camera
        text = (
            f"camera: azimuth {c.yaw_deg:.1f}, elevation {c.pitch_deg:.1f}, roll {c.roll_deg:.1f}, field of view "
            f"{c.fov_deg:.1f} degrees; outline overlap {self.overlap:.3f}, outlines {self.apart:.1%} apart, "
            f"colours explained {self.explained:.2f}"
        )
        doubt = (
            "; not trusted, nothing is put: look at the preview. Is it a picture of this object, with the right mask? "
            "If it is, give azimuth and elevation, or allow outlines further apart"
        )
        return text if self.good else text + doubt


@torch.no_grad()
def fit_camera(
    mesh: TexturedMesh, picture: Picture, options: FitOptions = FitOptions(), *, progress: Progress | None = None
) -> CameraFit:
    """Returns the camera from which `mesh`, vertices [V, 3], z up, looks most like the picture, on the mesh's device.

    A grid over azimuth and elevation, each direction framed like the matte; then Nelder and Mead's simplex (1965) on
    the best ones, at two resolutions: see `Proxy.agreement`. The field of view follows from perspective and is only
    roughly known afterwards; state it where you know it. Roll stays small. Of equal azimuths the front is taken.
    progress: called with the fraction done; may raise, to cancel. Deterministic.
    Raises ValueError for a mesh without faces.
    """
    if len(mesh.mesh.faces) == 0:
        raise ValueError("mesh: expected faces, got none")
    picture = picture.to(mesh.mesh.vertices.device)
    return in_background(lambda report: _fit(mesh, picture, options, report), progress, FIT_SECONDS)


def _fit(mesh: TexturedMesh, picture: Picture, options: FitOptions, report: Progress = silent) -> CameraFit:
    coarse, small = Proxy.of(mesh, COARSE_CELLS), picture.resized(COARSE_SIDE)
    box = _matte_box(small.matte)
    fov = DEFAULT_FOV if options.fov_deg is None else options.fov_deg
    yaws = _yaws(options)
    pitches = PITCHES if options.pitch_deg is None else [options.pitch_deg]
    found = []
    for yaw in yaws:
        for pitch in pitches:
            pose = _framed(coarse, Pose(float(yaw), float(pitch), 0.0, 0.0, 0.0, 1.0, fov), box)
            found.append((_score(coarse, pose, small), pose))
        report(0.3 * len(found) / (len(yaws) * len(pitches)))
    free = [name for name in ("yaw_deg", "pitch_deg") if getattr(options, name) is None]
    found = _best(found, CANDIDATES)
    for number, (_, pose) in enumerate(found):
        found[number] = _climb(coarse, small, pose, [*free, "x", "y", "size"], COARSE_TRIALS)
        report(0.3 + 0.2 * (number + 1) / len(found))
    fine, whole, picture = Proxy.of(mesh, FINE_CELLS), picture, picture.resized(min(FINE_SIDE, picture.side))
    free += ["roll_deg", "x", "y", "size"] + ([] if options.fov_deg is not None else ["fov_deg"])
    last = _best(found, FINALISTS)
    for number, (_, pose) in enumerate(last):
        last[number] = _climb(fine, picture, pose, free, FINE_TRIALS)
        report(0.5 + 0.5 * (number + 1) / len(last))
    camera = max(last, key=lambda one: one[0])[1].camera(fine.bounds)
    camera = replace(camera, yaw_deg=(camera.yaw_deg + 180) % 360 - 180)
    overlap, explained = fine.agreement(camera, picture)
    apart = outlines_apart(mesh.mesh, whole, camera)
    good = overlap >= options.min_overlap and apart <= options.max_apart
    return CameraFit(camera, overlap, explained, good, apart)


def _yaws(options: FitOptions) -> Sequence[float]:
    """The azimuths to begin at, in degrees."""
    if options.yaw_deg is not None:
        return [options.yaw_deg]
    if options.near_yaw_deg is None:
        return np.arange(0.0, 360.0, YAW_STEP).tolist()
    return np.arange(options.near_yaw_deg - NEAR_DEG, options.near_yaw_deg + NEAR_DEG + 1, YAW_STEP).tolist()


def _score(proxy: Proxy, pose: Pose, picture: Picture) -> float:
    return proxy.score(pose.camera(proxy.bounds), picture) + FRONT_BONUS * cos(radians(pose.yaw_deg))


def _best(found: list[tuple[float, Pose]], count: int) -> list[tuple[float, Pose]]:
    """The `count` best poses in directions that differ."""
    chosen: list[tuple[float, Pose]] = []
    for score, pose in sorted(found, key=lambda one: -one[0]):
        if all(_apart(pose, other) > 10 for _, other in chosen):
            chosen.append((score, pose))
        if len(chosen) == count:
            break
    return chosen


def _apart(a: Pose, b: Pose) -> float:
    """About the angle between two directions of view, degrees."""
    turn = (a.yaw_deg - b.yaw_deg + 180) % 360 - 180
    return float(np.hypot(turn * cos(radians((a.pitch_deg + b.pitch_deg) / 2)), a.pitch_deg - b.pitch_deg))


def _climb(proxy: Proxy, picture: Picture, start: Pose, free: list[str], trials: int) -> tuple[float, Pose]:
    """Raises the score from `start` over the numbers named `free`; returns the best score and its pose."""
    from scipy.optimize import minimize

    def pose(steps: np.ndarray) -> Pose:
        values = {}
        for name, step in zip(free, steps.tolist(), strict=True):
            old = getattr(start, name)
            values[name] = old * exp(STEPS[name] * step) if name in AS_RATIOS else old + STEPS[name] * step
        values["pitch_deg"] = min(90.0, max(-90.0, values.get("pitch_deg", start.pitch_deg)))
        if "fov_deg" in values:
            values["fov_deg"] = min(FOVS[1], max(FOVS[0], values["fov_deg"]))
        return replace(start, **values)

    def loss(steps: np.ndarray) -> float:
        made = pose(steps)
        # Pictures are level and of a usual lens, unless they show otherwise.
        unusual = 2e-5 * made.roll_deg**2 + 0.002 * log(made.fov_deg / DEFAULT_FOV) ** 2
        return unusual - _score(proxy, made, picture)

    simplex = np.concatenate([np.zeros((1, len(free))), np.eye(len(free))])
    options = {"initial_simplex": simplex, "maxfev": trials, "xatol": 0.02, "fatol": 1e-5}
    found = minimize(loss, simplex[0], method="Nelder-Mead", options=options)
    return -float(found.fun), pose(found.x)


def _matte_box(matte: Tensor) -> tuple[float, float, float]:
    """(x, y, longer half side) of the object's box in `matte` [N, N], from -1 to 1, y up."""
    side = matte.shape[0]
    rows, columns = ((matte >= SOLID).any(dim).nonzero().flatten() for dim in (1, 0))
    (top, bottom), (left, right) = ((int(n[0]), int(n[-1]) + 1) for n in (rows, columns))
    return (left + right) / side - 1, 1 - (top + bottom) / side, max(bottom - top, right - left) / side


def _framed(proxy: Proxy, pose: Pose, box: tuple[float, float, float]) -> Pose:
    """`pose` at the place and size where the proxy's box in the picture is `box`."""
    for _ in range(3):
        clip = pose.camera(proxy.bounds).view(proxy.bounds, (1, 1)).to_clip(proxy.mesh.vertices)
        flat = clip[:, :2] / clip[:, 3:].clamp_min(1e-6)
        (left, low), (right, high) = flat.amin(0).tolist(), flat.amax(0).tolist()
        scale = box[2] / max((right - left) / 2, (high - low) / 2, 1e-6)
        x, y = (left + right) / 2, (low + high) / 2
        pose = replace(pose, size=pose.size * scale, x=box[0] + (pose.x - x) * scale, y=box[1] + (pose.y - y) * scale)
    return pose
