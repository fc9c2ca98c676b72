"""Gaps thinner than the search sees, fractional alpha along an object's outline, and the object's own colour there.

Near the outline a pixel is a mix of a foreground and a background colour, both known from the pixels beside it: alpha
is its place on the line between them (as in A. Smith and J. Blinn, Blue Screen Matting, 1996), and the mix is undone:
no fringe of the old background stays.
"""

from __future__ import annotations

import numpy as np

from .segment import from_border

CLEAR = 12.0  # least difference of the two colours, of 255, for alpha to be read from them
REACH = 3.0  # standard deviation in pixels of the weights of the pixels beside
GAP = 0.4  # share of the object's colour in a pixel of a gap, at most
TELLING = 30.0  # least difference of object and backdrop, L*a*b*, for gaps to be read from it
OWN = 7.0  # standard deviations; a pixel as near as that to the backdrop may be the backdrop
TOUCHING = np.ones((3, 3))  # slanted gaps are joined by corners


def reopen(lab: np.ndarray, chance: np.ndarray, backdrop: np.ndarray, away: np.ndarray, band: int) -> np.ndarray:
    """chance [H, W] float32 with 0 in the gaps between thin parts, which a cut at a smaller size closes.

    lab, backdrop: [H, W, 3] float32, L*a*b* of the picture, and of the background without the object.  chance: above
    0.5 on the object.  away, band: as in `soften`, to which the pixels within
    `band` of the outline are left.
    A gap is joined to the picture's edge by pixels that are more of the backdrop's colour than of the object's beside
    them, it shows the backdrop itself somewhere, and where it is wide it shows nothing else.
    """
    from scipy import ndimage

    mask, near = chance > 0.5, away < OWN
    line = _beside(lab, mask * _strong(away)) - backdrop
    length = np.einsum("hwc,hwc->hw", line, line)
    share = np.einsum("hwc,hwc->hw", lab - backdrop, line) / np.maximum(length, 1)
    found = from_border(~mask | ((share < GAP) & (length > TELLING**2)), TOUCHING) & mask
    wide = ndimage.binary_dilation(ndimage.binary_opening(found, iterations=band))
    inside = ndimage.distance_transform_edt(mask) > band
    labels, count = ndimage.label(found & inside & (~wide | near), TOUCHING)
    gap = np.bincount(labels.ravel(), near.ravel(), minlength=count + 1) > 0
    gap[0] = False
    return np.where(gap[labels], 0, chance).astype(np.float32)


def soften(rgb: np.ndarray, chance: np.ndarray, away: np.ndarray, band: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns colours [H, W, 3] float32 in 0 to 255 and alpha [H, W] float32 in 0 to 1.

    rgb: [H, W, 3] float32 in 0 to 255.  chance: [H, W] float32, above 0.5 on the object.  away: [H, W] float32,
    distance of each pixel from the backdrop.  band: pixels to either side of the outline that may be mixed.
    """
    from scipy import ndimage

    mask = chance > 0.5
    core = ndimage.binary_erosion(mask, iterations=band, border_value=1)
    outside = ~ndimage.binary_dilation(mask, iterations=band)
    between = ~core & ~outside
    # A part thinner than the band has no core: its pixels farthest from the backdrop stand for it.
    front = _beside(rgb, core + 1e-3 * (mask & between) * _strong(away))
    back = _beside(rgb, outside + 1e-3 * (~mask & between))
    line = front - back
    length = (line**2).sum(-1)
    place = ((rgb - back) * line).sum(-1) / np.maximum(length, 1)
    step = np.clip((ndimage.gaussian_filter(mask.astype(np.float32), 1.0) - 0.5) * 1.5 + 0.5, 0, 1)
    trust = np.clip((np.sqrt(length) - CLEAR) / CLEAR, 0, 1)
    alpha = np.where(between, trust * place + (1 - trust) * step, core)
    alpha = np.clip((alpha - 0.04) / 0.92, 0, 1).astype(np.float32)
    mixed = between & (alpha > 0) & (alpha < 1)
    a = alpha[..., None]
    own = np.clip((rgb - (1 - a) * back) / np.maximum(a, 0.05), 0, 255)
    colours = np.where(mixed[..., None], a * own + (1 - a) * front, np.where(between[..., None] & (a == 0), front, rgb))
    return colours.astype(np.float32), alpha


def _beside(rgb: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The mean colour near each pixel, by weight [H, W]."""
    from scipy import ndimage

    weight = weight.astype(np.float32) + 1e-12
    total = np.maximum(ndimage.gaussian_filter(weight, REACH), 1e-12)
    return np.stack([ndimage.gaussian_filter(rgb[..., c] * weight, REACH) for c in range(3)], -1) / total[..., None]


def _strong(away: np.ndarray) -> np.ndarray:
    """Weights [H, W] of pixels by their distance from the backdrop: what is mixed with it counts little."""
    return np.clip(away / 20, 0, 1) ** 4
