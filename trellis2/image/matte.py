"""Cuts an object out of a picture whose background is plain: one colour, a gradient, with a soft shadow or not."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from ...o_voxel.core.color import to_lab
from .backdrop import Backdrop, border, fit_border
from .prepare import EIGHT_BIT_MODES, downscale
from .segment import FAR, NEAR, SOFT, Distance, deviation, grow, measure, parts, segment
from .soft_edge import reopen, soften

WORK_SIDE = 512  # pixels; the object is found in a picture of this size
STEEP, FINE = 10.0, 0.25  # L*a*b* a pixel, and the share of the object that changes faster
SMALLEST = 16  # pixels a side
PLAIN_SHARE = 0.6  # of the border, that the backdrop explains
PLAIN_SPREAD = 9.0  # L*a*b*; a rougher border is no plain background
LEAST, MOST = 0.003, 0.92  # share of the picture that an object takes
UNSURE, REFUSED = 0.93, 0.87  # confidence: below, a warning, an error
ELSE = "connect a mask, or remove the background with another tool first"


class BackgroundError(ValueError):
    """The background cannot be removed with confidence."""


@dataclass(frozen=True)
class Matte:
    """An object without its background.

    image: RGBA, W x H pixels; along the outline the colour is the object's own.  confidence: 0 to 1, the least of
    the agreement of a strict and a lenient cut, the share unlike the backdrop, the share of the outline that is sharp.
    reason: why it is low, empty if it is not.
    """

    image: Image.Image
    confidence: float
    reason: str = ""

    @property
    def alpha(self) -> np.ndarray:
        """[H, W] uint8, 255 on the object."""
        return np.asarray(self.image.getchannel("A"))


def remove_background(image: Image.Image) -> Matte:
    """Cuts the object of a picture with a plain background out.

    image: any 8-bit mode; its own alpha is ignored. The background may be a gradient, a vignette, a little rough, and
    may hold a soft shadow. The result has the picture's size, at most MAX_SIDE pixels a side. On the CPU.

    Raises BackgroundError, a ValueError: the border is not plain, the object touches three sides, nothing or nearly
    everything is cut, the object is too like the background.
    """
    if image.mode not in EIGHT_BIT_MODES:
        raise ValueError(f"image: expected one of the modes {', '.join(EIGHT_BIT_MODES)}, got {image.mode}")
    picture = downscale(image.convert("RGB"))
    if min(picture.size) < SMALLEST:
        raise BackgroundError(f"the picture of {image.width}x{image.height} pixels is too small or narrow; {ELSE}")
    scale = min(1, WORK_SIDE / max(picture.size))
    size = max(2, round(picture.width * scale)), max(2, round(picture.height * scale))
    small = picture if scale == 1 else picture.resize(size, Image.Resampling.BOX)
    lab = _lab(small)
    backdrop = fit_border(lab)
    _check_border(lab, backdrop)
    backdrop = grow(lab[::2, ::2], backdrop)
    distance = measure(lab, backdrop)
    chance = segment(lab, backdrop, distance)
    mask = parts(chance > 0.5)
    _check_mask(mask)
    confidence, reason = _confidence(lab, backdrop, distance, mask)
    if confidence >= REFUSED and float((distance.slope[mask] > STEEP).mean()) > FINE:
        confidence = min(confidence, 0.9)
        reason = "the object has parts or gaps about as thin as a pixel, which may be cut wrongly"
    if confidence < REFUSED:
        raise BackgroundError(f"{reason}: {ELSE}")
    return Matte(_full_size(picture, chance, mask, backdrop), confidence, reason if confidence < UNSURE else "")


def _check_border(lab: np.ndarray, backdrop: Backdrop) -> None:
    away = deviation(lab, backdrop)[border(*lab.shape[:2])]
    share, spread = float((away < FAR).mean()), float(np.linalg.norm(backdrop.spread))
    if share < PLAIN_SHARE or spread > PLAIN_SPREAD:
        raise BackgroundError(
            f"the picture's border is not plain ({100 * share:.0f} % of it has one colour or gradient, which varies by "
            f"{spread:.1f} in L*a*b*; expected {100 * PLAIN_SHARE:.0f} % and at most {PLAIN_SPREAD:.0f}): {ELSE}"
        )


def _check_mask(mask: np.ndarray) -> None:
    share = float(mask.mean())
    if share < LEAST:
        raise BackgroundError(f"no object was found: everything is like the picture's border; {ELSE}")
    if share > MOST:
        raise BackgroundError(f"{100 * share:.0f} % of the picture is unlike its border; {ELSE}")
    sides = [float(side.mean()) for side in (mask[0], mask[-1], mask[:, 0], mask[:, -1])]
    if min(sides[:2]) > 0.5 or min(sides[2:]) > 0.5:
        raise BackgroundError(f"the cut goes from side to side of the picture, as a frame's inside does; {ELSE}")
    if sum(side > 0.02 for side in sides) >= 3:
        raise BackgroundError(
            f"the object, a floor or a horizon reaches three sides of the picture: leave a margin around "
            f"the object, on one backdrop, or {ELSE}"
        )


def _confidence(lab: np.ndarray, backdrop: Backdrop, distance: Distance, mask: np.ndarray) -> tuple[float, str]:
    """The least of what speaks for `mask`, and what is wrong if it is little.

    A strict and a lenient cut agree with it, its pixels differ from the backdrop, its outline is sharper than that of
    a shadow, a floor or a horizon.
    """
    from scipy import ndimage

    cuts = [parts(segment(lab, backdrop, distance, strict) > 0.5) for strict in (0.6, 1.7)]
    alike = min(float((mask & cut).sum() / max(1, (mask | cut).sum())) for cut in cuts)
    alike = min(alike, 1 - float((distance.away[mask] < NEAR).mean()))
    rim = mask & ~ndimage.binary_erosion(mask, border_value=1)
    sharp = 1 - float((ndimage.maximum_filter(distance.slope, 5)[rim] < SOFT).mean()) if rim.any() else 1.0
    if sharp < alike:
        return sharp, (
            f"the cut may hold a shadow or the floor ({100 * sharp:.0f} % of its outline is sharp, expected "
            f"{100 * UNSURE:.0f} %)"
        )
    return alike, (
        f"parts of the object are too like the background ({100 * alike:.0f} % of the cut is sure, expected "
        f"{100 * UNSURE:.0f} %)"
    )


def _full_size(picture: Image.Image, chance: np.ndarray, mask: np.ndarray, backdrop: Backdrop) -> Image.Image:
    chance = np.where(mask, np.maximum(chance, 0.51), np.minimum(chance, 0.49)).astype(np.float32)
    full = np.asarray(Image.fromarray(chance).resize(picture.size, Image.Resampling.BICUBIC))
    lab = _lab(picture)
    away = deviation(lab, backdrop)
    band = max(2, round(2 * picture.width / mask.shape[1]))
    full = reopen(lab, full, backdrop.colours(picture.height, picture.width), away, band)
    colours, alpha = soften(np.asarray(picture, np.float32), full, away, band)
    return Image.fromarray((np.dstack([colours, 255 * alpha]) + 0.5).astype(np.uint8))


def _lab(picture: Image.Image) -> np.ndarray:
    """L*a*b* [H, W, 3] float32 of an RGB picture."""
    return to_lab(torch.from_numpy(np.array(picture)).float() / 255).numpy()
