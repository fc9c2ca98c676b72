"""Object and background of a picture on a plain backdrop, as a probability for each pixel.

Each pixel has a prior from its distance to the backdrop's colour; pixels joined by like colours share it: the random
walker with priors (L. Grady, Multilabel Random Walker Image Segmentation Using Prior Models, 2005), one sparse system.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .backdrop import FLOOR, Backdrop, refit

NEAR, FAR = 3.0, 7.0  # standard deviations: background below, object above
DARKEST = 0.45  # of the backdrop's lightness; a darker pixel is no shadow
TINT = 4.0  # colour difference of a shadow from the shaded backdrop, L*a*b*
SOFT = 2.5  # steepest shadow, L*a*b* a pixel
SHARP = 16.0  # standard deviations; the rim of a hole is farther from the backdrop
HOLE = 6  # pixels; smaller holes are noise
LOCAL = 16.0  # pixels; standard deviation of the weights of background beside a hole
SPECK = 0.004  # of the largest part; smaller ones are dropped


@dataclass(frozen=True)
class Distance:
    """How far each pixel is from the backdrop. away: [H, W] float32 standard deviations.  offset: the same in L*a*b*.
    shade: [H, W] bool, where the backdrop could lie in shadow: darker, of one hue.  slope: [H, W] float32, change of
    colour a pixel."""

    away: np.ndarray
    offset: np.ndarray
    shade: np.ndarray
    slope: np.ndarray


def deviation(lab: np.ndarray, backdrop: Backdrop) -> np.ndarray:
    """Distance [H, W] float32 of lab [H, W, 3] float32 from the backdrop, in its standard deviations."""
    difference = (lab - backdrop.colours(*lab.shape[:2])) / backdrop.spread
    return np.sqrt(np.einsum("hwc,hwc->hw", difference, difference))


def measure(lab: np.ndarray, backdrop: Backdrop) -> Distance:
    """Compares lab [H, W, 3] float32 with the backdrop."""
    from scipy import ndimage

    expected = backdrop.colours(*lab.shape[:2])
    difference = lab - expected
    # Light scaled by s scales L* + 16, a* and b* by its cube root.
    ratio = (lab[..., 0] + 16) / (expected[..., 0] + 16)
    tint = np.linalg.norm(lab[..., 1:] - expected[..., 1:] * ratio[..., None], axis=-1)
    limit = TINT + 2 * np.linalg.norm(backdrop.spread[1:] - FLOOR[1:])
    shade = (tint < limit) & (ratio < 1) & (lab[..., 0] > DARKEST * expected[..., 0])
    smooth = ndimage.gaussian_filter(lab, (0.7, 0.7, 0))
    slope = np.sqrt(sum((np.gradient(smooth, axis=axis) ** 2).sum(-1) for axis in (0, 1)))
    return Distance(deviation(lab, backdrop), np.linalg.norm(difference, axis=-1), shade, slope)


def grow(lab: np.ndarray, backdrop: Backdrop) -> Backdrop:
    """Fits the backdrop to more and more of the picture, from the border inwards."""
    for degree in (2, 3, 4):
        known = from_border(deviation(lab, backdrop) < NEAR + 1)
        if known.mean() < 0.1:
            return backdrop
        backdrop = refit(lab, known, degree, backdrop)
    return backdrop


def from_border(allowed: np.ndarray, touching: np.ndarray | None = None) -> np.ndarray:
    """The pixels of allowed [H, W] bool that are joined to the picture's edge.

    touching: [3, 3], which neighbours join; None: those to the sides.
    """
    edge = np.zeros_like(allowed)
    edge[[0, -1]] = edge[:, [0, -1]] = True
    return _joined(edge, allowed, touching)


def segment(lab: np.ndarray, backdrop: Backdrop, distance: Distance, strict: float = 1.0) -> np.ndarray:
    """The probability [H, W] float32 that a pixel of lab [H, W, 3] float32 is the object.

    distance: of `measure`.  strict: factor of the colour distances; above 1, more is background. What changes with
    it is not sure.
    """
    from scipy import ndimage

    away = distance.away / strict
    plain = from_border(away < NEAR)
    soft = distance.shade & (distance.slope < SOFT * strict)
    passable = ndimage.binary_opening(plain | soft, iterations=1) | plain
    shadow = _joined(plain, passable) & ~plain
    shadow = ndimage.binary_dilation(shadow, mask=soft | plain, iterations=2) & ~plain
    prior = np.clip((away - NEAR) / (FAR - NEAR), 0, 1)
    trust = np.where((away < 2) | (away > 10), 1.0, 0.2)
    prior[shadow], trust[shadow] = 0, 0.5
    inner = (away < FAR) & ~plain & ~shadow
    hole, kept = _enclosed(inner, plain | shadow, distance, lab, backdrop)
    filled = kept & ~_rim(plain | shadow | hole)
    prior[filled], trust[filled] = 1, 0.2
    prior[hole], trust[hole] = 0, 1
    return _walk(lab, prior.astype(np.float32), trust.astype(np.float32), backdrop)


def parts(mask: np.ndarray) -> np.ndarray:
    """mask [H, W] bool without its specks, and without holes under HOLE pixels."""
    from scipy import ndimage

    labels, count = ndimage.label(mask)
    if count > 1:
        sizes = np.bincount(labels.ravel())
        sizes[0] = 0
        mask = (sizes >= max(4, SPECK * sizes.max()))[labels]
    labels, _ = ndimage.label(~mask)
    small = np.bincount(labels.ravel()) < HOLE
    small[0] = False
    return mask | small[labels]


def _enclosed(
    inner: np.ndarray, outer: np.ndarray, distance: Distance, lab: np.ndarray, backdrop: Backdrop
) -> tuple[np.ndarray, np.ndarray]:
    """Which regions of inner [H, W] bool, enclosed and like the backdrop, show it, and which are the object.

    A hole is flat, has a sharp rim, and the colour that the background `outer` [H, W] bool, or its shadow, has nearby.
    A highlight or a white part is shaded, or ends softly. Regions too small to tell are in neither.
    """
    from scipy import ndimage

    beside = _local_colour(lab, outer)
    offset = np.where(np.isfinite(beside[..., 0]), np.linalg.norm(lab - beside, axis=-1), distance.offset)
    limit = 2.5 + 2 * float(np.linalg.norm(backdrop.noise))
    like = (inner & (distance.away < NEAR)) | (~outer & (offset < 2 * limit))
    labels, count = ndimage.label(like)
    if not count:
        return like, inner
    index = np.arange(1, count + 1)
    size = np.bincount(labels.ravel())[1:]
    flat = np.array(ndimage.median(np.minimum(offset, distance.offset), labels, index)) < limit
    grown = ndimage.grey_dilation(labels, size=(5, 5))
    rims = np.where((labels == 0) & ~ndimage.binary_dilation(like), grown, 0).ravel()
    total = np.bincount(rims, minlength=count + 1)[1:]
    sharp = np.bincount(rims, (distance.away > SHARP).ravel(), minlength=count + 1)[1:] / np.maximum(total, 1)
    big = size >= 12
    hole = np.concatenate([[False], big & flat & (sharp > 0.7)])[labels]
    small = np.concatenate([[False], ~big])[labels]
    return hole, inner & ~hole & ~ndimage.binary_dilation(small, iterations=2)


def _local_colour(lab: np.ndarray, known: np.ndarray) -> np.ndarray:
    """The mean colour [H, W, 3] of the known pixels [H, W] bool around each, at a quarter of the size; NaN where there
    are none."""
    from scipy import ndimage

    thin, weight = lab[::4, ::4], known[::4, ::4].astype(np.float32)
    total = ndimage.gaussian_filter(weight, LOCAL / 4)
    total[total < 1e-3] = np.nan
    mean = np.stack([ndimage.gaussian_filter(thin[..., c] * weight, LOCAL / 4) / total for c in range(3)], -1)
    return mean.repeat(4, 0).repeat(4, 1)[: lab.shape[0], : lab.shape[1]]


def _joined(start: np.ndarray, allowed: np.ndarray, touching: np.ndarray | None = None) -> np.ndarray:
    """The regions of allowed [H, W] bool that hold a pixel of `start`."""
    from scipy import ndimage

    labels, count = ndimage.label(allowed, touching)
    held = np.zeros(count + 1, bool)
    held[labels[start & allowed]] = True
    held[0] = False
    return held[labels]


def _rim(background: np.ndarray) -> np.ndarray:
    from scipy import ndimage

    return ndimage.binary_dilation(background, iterations=2)


def _walk(lab: np.ndarray, prior: np.ndarray, trust: np.ndarray, backdrop: Backdrop) -> np.ndarray:
    """Solves the random walker with priors for the pixels with trust below 1; the others keep their prior."""
    import scipy.sparse.linalg
    from scipy import sparse

    answer = prior.copy()
    open_ = trust < 1
    number = np.cumsum(open_.ravel()).reshape(open_.shape) - 1
    count = int(open_.sum())
    if not count:
        return answer
    scaled = lab / (3 * backdrop.spread)
    diagonal, right = trust[open_].astype(np.float64), (trust * prior)[open_].astype(np.float64)
    rows, columns, values = [], [], []
    for one, other in (
        (np.s_[:, 1:], np.s_[:, :-1]),
        (np.s_[1:], np.s_[:-1]),
    ):
        step = scaled[one] - scaled[other]
        weight = np.exp(-np.einsum("hwc,hwc->hw", step, step)) + 1e-3
        for a, b in ((one, other), (other, one)):
            here = open_[a]
            diagonal += np.bincount(number[a][here], weight[here], minlength=count)
            fixed = here & ~open_[b]
            right += np.bincount(number[a][fixed], (weight * prior[b])[fixed], minlength=count)
            both = here & open_[b]
            rows.append(number[a][both])
            columns.append(number[b][both])
            values.append(-weight[both])
    place = np.concatenate(rows), np.concatenate(columns)
    links = sparse.coo_array((np.concatenate(values), place), shape=(count, count)).tocsr()
    scale = sparse.diags_array(1 / diagonal)
    solved, _ = scipy.sparse.linalg.cg(
        links + sparse.diags_array(diagonal), right, x0=prior[open_].astype(np.float64), rtol=1e-3, maxiter=200, M=scale
    )
    answer[open_] = solved
    return answer
