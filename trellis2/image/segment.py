"""Object and background of a picture on a plain backdrop, as a probability for each pixel.

Each pixel has a prior from its distance to the backdrop's colour; pixels joined by like colours share it: the random walker
with priors (L. Grady, Multilabel Random Walker Image Segmentation Using Prior Models, 2005), one sparse symmetric system.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage, sparse

from .backdrop import Backdrop, border, refit

NEAR, FAR = 3.0, 7.0  # standard deviations: background below, object above
DARKEST = 0.45  # of the backdrop's lightness; a darker pixel is no shadow
TINT = 4.0  # colour difference of a shadow from the shaded backdrop, L*a*b*
SOFT = 2.5  # steepest shadow, L*a*b* a pixel
SPECK = 0.004  # of the largest part; smaller ones are dropped


@dataclass(frozen=True)
class Distance:
    """How far each pixel is from the backdrop. away: [H, W] float32 standard deviations.  shade: [H, W] bool, where the
    backdrop could lie in shadow: darker, of one hue.  slope: [H, W] float32, change of colour a pixel."""

    away: np.ndarray
    shade: np.ndarray
    slope: np.ndarray


def measure(lab: np.ndarray, backdrop: Backdrop) -> Distance:
    """Compares lab [H, W, 3] float32 with the backdrop."""
    expected = backdrop.colours(*lab.shape[:2])
    difference = lab - expected
    away = np.sqrt(((difference / backdrop.spread) ** 2).sum(-1))
    # Light scaled by s scales L* + 16, a* and b* by its cube root.
    ratio = (lab[..., 0] + 16) / (expected[..., 0] + 16)
    tint = np.linalg.norm(lab[..., 1:] - expected[..., 1:] * ratio[..., None], axis=-1)
    limit = TINT + 2 * np.linalg.norm(backdrop.spread[1:] - 0.8)
    shade = (tint < limit) & (ratio < 1) & (lab[..., 0] > DARKEST * expected[..., 0])
    smooth = ndimage.gaussian_filter(lab, (0.7, 0.7, 0))
    slope = np.sqrt(sum((np.gradient(smooth, axis=axis) ** 2).sum(-1) for axis in (0, 1)))
    return Distance(away, shade, slope)


def grow(lab: np.ndarray, backdrop: Backdrop) -> Backdrop:
    """Fits the backdrop to more and more of the picture, from the border inwards."""
    for degree in (2, 3, 4):
        known = from_border(measure(lab, backdrop).away < NEAR + 1)
        if known.mean() < 0.1:
            return backdrop
        backdrop = refit(lab, known, degree, backdrop)
    return backdrop


def from_border(allowed: np.ndarray) -> np.ndarray:
    """The pixels of allowed [H, W] bool that are joined to the picture's edge."""
    edge = np.zeros_like(allowed)
    edge[[0, -1]] = edge[:, [0, -1]] = True
    return ndimage.binary_propagation(edge & allowed, mask=allowed)


def segment(lab: np.ndarray, backdrop: Backdrop, strict: float = 1.0) -> np.ndarray:
    """The probability [H, W] float32 that a pixel of lab [H, W, 3] float32 is the object.

    strict: factor of the colour distances. Above 1, more is background: what changes with it is not sure.
    """
    distance = measure(lab, backdrop)
    away = distance.away / strict
    plain = from_border(away < NEAR)
    soft = distance.shade & (distance.slope < SOFT * strict)
    passable = ndimage.binary_opening(plain | soft, iterations=1) | plain
    shadow = ndimage.binary_propagation(plain, mask=passable) & ~plain
    shadow = ndimage.binary_dilation(shadow, mask=soft | plain, iterations=2) & ~plain
    prior = np.clip((away - NEAR) / (FAR - NEAR), 0, 1)
    trust = np.where((away < 2) | (away > 10), 1.0, 0.2)
    prior[shadow], trust[shadow] = 0, 0.5
    inner = (away < FAR) & ~plain & ~shadow
    hole = _holes(inner & (away < NEAR), distance, lab, backdrop)
    filled = inner & ~hole & ~_rim(plain | shadow | hole)
    prior[filled], trust[filled] = 1, 0.2
    prior[hole], trust[hole] = 0, 1
    return _walk(lab, prior.astype(np.float32), trust.astype(np.float32), backdrop)


def parts(mask: np.ndarray) -> np.ndarray:
    """mask [H, W] bool without specks, its own and those of its holes."""
    for _ in range(2):
        labels, count = ndimage.label(mask)
        if count > 1:
            sizes = np.bincount(labels.ravel())
            sizes[0] = 0
            mask = (sizes >= max(4, SPECK * sizes.max()))[labels]
        mask = ~mask
    return mask


def _holes(inner: np.ndarray, distance: Distance, lab: np.ndarray, backdrop: Backdrop) -> np.ndarray:
    """Which regions of inner [H, W] bool, enclosed and of the backdrop's colour, show it: flat as it is, with a sharp rim.
    A highlight or a white part is shaded, or ends softly."""
    labels, count = ndimage.label(inner)
    if not count:
        return np.zeros_like(inner)
    index = np.arange(1, count + 1)
    size = ndimage.sum_labels(inner, labels, index)
    offset = np.abs(lab - backdrop.colours(*lab.shape[:2])).sum(-1)
    flat = np.array(ndimage.median(offset, labels, index)) < 1.5 + 2.5 * backdrop.noise.sum()
    grown = ndimage.grey_dilation(labels, size=(5, 5))
    ring = (grown > 0) & (labels == 0)
    ring &= ~ndimage.binary_dilation(inner, iterations=1)
    sharp = np.array(ndimage.mean(distance.away > FAR, np.where(ring, grown, 0), index))
    good = np.concatenate([[False], (size >= 12) & flat & (np.nan_to_num(sharp) > 0.7)])
    return good[labels]


def _rim(background: np.ndarray) -> np.ndarray:
    return ndimage.binary_dilation(background, iterations=2)


def _walk(lab: np.ndarray, prior: np.ndarray, trust: np.ndarray, backdrop: Backdrop) -> np.ndarray:
    """Solves the random walker with priors by conjugate gradients."""
    height, width = prior.shape
    scaled = lab / (3 * backdrop.spread)
    right = np.exp(-((scaled[:, 1:] - scaled[:, :-1]) ** 2).sum(-1)) + 1e-3
    down = np.exp(-((scaled[1:] - scaled[:-1]) ** 2).sum(-1)) + 1e-3
    number = np.arange(height * width).reshape(height, width)
    first = np.concatenate([number[:, :-1].ravel(), number[:-1].ravel()])
    second = np.concatenate([number[:, 1:].ravel(), number[1:].ravel()])
    weight = np.concatenate([right.ravel(), down.ravel()]).astype(np.float64)
    links = sparse.coo_array((weight, (first, second)), shape=(number.size, number.size)).tocsr()
    links = links + links.T
    diagonal = links.sum(axis=1) + trust.ravel()
    system = sparse.diags_array(diagonal) - links
    answer, _ = sparse.linalg.cg(
        system,
        (trust * prior).ravel().astype(np.float64),
        x0=prior.ravel().astype(np.float64),
        rtol=1e-3,
        maxiter=200,
        M=sparse.diags_array(1 / diagonal),
    )
    return answer.reshape(height, width).astype(np.float32)
