"""Which way of background removal a picture gets."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from ...o_voxel.files.meshes.reading.images import opened
from .matte import BackgroundError, remove_background
from .prepare import downscale

AUTO, ALPHA, PLAIN, REMBG = "auto", "alpha or mask only", "plain background", "rembg"
BACKGROUNDS = (AUTO, ALPHA, PLAIN, REMBG)
REMBG_MODEL = "isnet-general-use"  # Apache-2.0; never bria-rmbg, which is non-commercial
OPAQUE = 250  # of 255
INVERTED_BORDER, INVERTED_INSIDE = 0.9, 0.02


@dataclass(frozen=True)
class CutOut:
    """A picture with its matte. image: for `prepare_image`.  used: what the matte is from.  warning: empty if sure."""

    image: Image.Image
    used: str
    warning: str = ""


def read_picture(path: Path) -> Image.Image:
    """Returns the picture of a file, upright. Raises OSError; ValueError for what is no picture."""
    try:
        with opened(path) as image:
            return ImageOps.exif_transpose(image)
    except ValueError as error:
        raise ValueError(f"expected a picture: {error}") from error


def cut_out(image: Image.Image, background: str = AUTO) -> CutOut:
    """Gives a picture its matte.

    image: any 8-bit mode; its alpha is used if a pixel is transparent, and comes out as it went in.
    background: AUTO takes alpha, else removes a plain background, else asks rembg if it is installed; ALPHA takes the
    image as it is; PLAIN and REMBG do not look at alpha.

    Raises BackgroundError: AUTO and PLAIN, not sure, see `remove_background`. ImportError: REMBG, not installed.
    ValueError: another background, or an alpha that seems inverted under AUTO.
    """
    if background not in BACKGROUNDS:
        raise ValueError(f"background: expected one of {', '.join(BACKGROUNDS)}, got {background!r}")
    if background == ALPHA:
        return CutOut(image, "alpha or mask, as it is")
    if background == REMBG:
        return _by_rembg(image)
    if background == AUTO:
        alpha = np.asarray(image.convert("RGBA").getchannel("A"))
        if alpha.min(initial=255) < 255:
            _check_not_inverted(alpha)
            return CutOut(image, "alpha or mask")
    try:
        matte = remove_background(image)
    except BackgroundError:
        if background == PLAIN or not has_rembg():
            raise
        return _by_rembg(image)
    return CutOut(matte.image, f"plain background removed ({100 * matte.confidence:.0f} % sure)", matte.reason)


def has_rembg() -> bool:
    """Whether the package rembg is installed."""
    return importlib.util.find_spec("rembg") is not None


def _by_rembg(image: Image.Image) -> CutOut:
    """Asks rembg, whose first use downloads REMBG_MODEL."""
    if not has_rembg():
        raise ImportError(
            "background rembg: the package is not installed; run pip install rembg onnxruntime in ComfyUI's Python, or "
            "choose another background"
        )
    import rembg

    picture = downscale(image.convert("RGB"))
    found = rembg.remove(picture, session=rembg.new_session(REMBG_MODEL))
    return CutOut(found.convert("RGBA"), f"rembg ({REMBG_MODEL})")


def _check_not_inverted(alpha: np.ndarray) -> None:
    """Raises ValueError for alpha [H, W] uint8 that is opaque along the border and has a transparent inside."""
    edge = np.concatenate([alpha[0], alpha[-1], alpha[:, 0], alpha[:, -1]])
    if (edge > OPAQUE).mean() > INVERTED_BORDER and (alpha < 255 - OPAQUE).mean() > INVERTED_INSIDE:
        raise ValueError(
            "the mask seems inverted: the border of the picture is opaque, its inside transparent; "
            f"set mask_marks to the other value. If it is right, set background to {ALPHA}"
        )
