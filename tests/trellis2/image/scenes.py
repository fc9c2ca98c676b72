"""Thirty pictures of objects on backgrounds, with the true matte; drawn from the pack's example images."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

ASSETS = Path(__file__).parents[3] / "assets" / "images"
SIZE = 640
CLEAN, OTHER = ("plain", "gradient"), ("shadowed", "rough", "white on white", "thin")
Y, X = np.mgrid[0:SIZE, 0:SIZE] / (SIZE - 1) * 2 - 1


@dataclass(frozen=True)
class Scene:
    """picture: RGB.  alpha: [H, W] float in 0 to 1, the truth.  kind: one of CLEAN or OTHER."""

    name: str
    kind: str
    picture: Image.Image
    alpha: np.ndarray


def flat(*colour: float) -> np.ndarray:
    return np.broadcast_to(np.array(colour, float), (SIZE, SIZE, 3))


def mixed(first: tuple, second: tuple, t: np.ndarray) -> np.ndarray:
    t = np.clip(t, 0, 1)[..., None]
    return np.array(first, float) * (1 - t) + np.array(second, float) * t


def shadow(alpha: np.ndarray, shift: tuple[int, int], blur: float, depth: float) -> np.ndarray:
    """A factor [H, W, 1] of the background: a soft copy of the object beside it."""
    moved = ndimage.shift(alpha, shift, order=1)
    return 1 - depth * ndimage.gaussian_filter(moved, blur)[..., None]


def contact(alpha: np.ndarray, depth: float = 0.5) -> np.ndarray:
    """A factor [H, W, 1]: an ellipse below the object's foot, and a darker, narrower one at it."""
    rows, columns = np.nonzero(alpha > 0.5)
    foot, left, right = rows.max(), columns.min(), columns.max()
    y, x = np.mgrid[0:SIZE, 0:SIZE]
    wide = max(20.0, (right - left) / 2)
    d = ((x - (left + right) / 2) / wide) ** 2 + ((y - foot + 6) / (0.22 * wide)) ** 2
    return 1 - depth * np.exp(-d * 1.2)[..., None]


def example(name: str, fit: float = 0.8, at: tuple[float, float] = (0.5, 0.5)) -> np.ndarray:
    """RGBA [SIZE, SIZE, 4] float in 0 to 1, premultiplied: an example image whose longer side takes `fit`."""
    image = Image.open(ASSETS / f"{name}.png").convert("RGBA")
    image = image.crop(image.getchannel("A").getbbox())
    scale = fit * SIZE / max(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)
    whole = Image.new("RGBA", (SIZE, SIZE))
    whole.paste(image, (round(at[0] * SIZE - image.width / 2), round(at[1] * SIZE - image.height / 2)))
    values = np.asarray(whole).astype(float) / 255
    values[..., :3] *= values[..., 3:]
    return values


def recoloured(rgba: np.ndarray, change: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    alpha = rgba[..., 3:]
    colour = np.divide(rgba[..., :3], alpha, out=np.zeros_like(rgba[..., :3]), where=alpha > 0)
    return np.concatenate([np.clip(change(colour), 0, 1) * alpha, alpha], -1)


def whitened(least: float) -> Callable[[np.ndarray], np.ndarray]:
    """Grey values from `least` to 1, by the shading."""

    def change(colour: np.ndarray) -> np.ndarray:
        light = colour.mean(-1, keepdims=True)
        return np.repeat(least + (1 - least) * np.clip(light / 0.75, 0, 1), 3, axis=-1)

    return change


def drawn(draw: Callable[[ImageDraw.ImageDraw, int], None], colour: tuple[float, float, float]) -> np.ndarray:
    """A shape of one colour, drawn at four times the size."""
    over = 4
    mask = Image.new("L", (SIZE * over, SIZE * over))
    draw(ImageDraw.Draw(mask), over)
    alpha = np.asarray(mask.resize((SIZE, SIZE), Image.Resampling.BOX)).astype(float)[..., None] / 255
    return np.concatenate([np.array(colour) * alpha, alpha], -1)


def wheel(draw: ImageDraw.ImageDraw, over: int) -> None:
    """A rim, a hub, and 24 spokes of 1.5 pixels."""
    c, r = SIZE / 2, 0.38 * SIZE
    for radius, width in ((r, 16), (0.05 * SIZE, 20)):
        draw.ellipse(
            [over * (c - radius), over * (c - radius), over * (c + radius), over * (c + radius)],
            None,
            255,
            width * over,
        )
    for angle in np.arange(24) * np.pi / 12:
        end = (over * (c + (r - 4) * np.cos(angle)), over * (c + (r - 4) * np.sin(angle)))
        draw.line([(over * c, over * c), end], 255, round(1.5 * over))


def brush(draw: ImageDraw.ImageDraw, over: int) -> None:
    """A handle with 60 bristles of one to two pixels."""
    c = SIZE / 2
    draw.rounded_rectangle([over * (c - 40), over * 300, over * (c + 40), over * 570], over * 18, 255)
    for i, t in enumerate(np.linspace(-1, 1, 60)):
        points = [
            (over * (c + 38 * t + 150 * t * s * s), over * (302 - 210 * s * (1 - 0.2 * t * t)))
            for s in np.linspace(0, 1, 12)
        ]
        draw.line(points, 255, round((1 + (i % 3) / 2) * over))


def fern(draw: ImageDraw.ImageDraw, over: int) -> None:
    """A pot with 14 stalks of 2 pixels, a leaf at the end of each."""
    c = SIZE / 2
    draw.polygon(
        [
            (over * (c - 90), over * 420),
            (over * (c + 90), over * 420),
            (over * (c + 65), over * 570),
            (over * (c - 65), over * 570),
        ],
        255,
    )
    for t in np.linspace(-1, 1, 14):
        x, y = c + 230 * t, 120 + 150 * t * t
        draw.line(
            [(over * (c + 60 * t), over * 422), (over * (c + 160 * t), over * 300), (over * x, over * y)], 255, 2 * over
        )
        draw.ellipse([over * (x - 12), over * (y - 18), over * (x + 12), over * (y + 18)], 255)


def finished(
    over: np.ndarray, under: np.ndarray, seed: int, noise: float = 1.2, quality: int | None = 90
) -> Image.Image:
    """The object on the background, with a camera's noise, through JPEG at `quality`."""
    values = over[..., :3] + (1 - over[..., 3:]) * under
    values = 255 * values + noise * np.random.default_rng(seed).standard_normal(values.shape)
    picture = Image.fromarray(np.clip(values + 0.5, 0, 255).astype(np.uint8))
    if quality is None:
        return picture
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return Image.open(io.BytesIO(file.getvalue())).convert("RGB")


def weave(seed: int) -> np.ndarray:
    """Cloth: threads both ways, and stains."""
    stains = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal((SIZE, SIZE)), 12)
    value = 0.62 + 0.03 * np.sin(X * 260) + 0.03 * np.sin(Y * 260) + 0.5 * stains
    return value[..., None] * np.array([0.95, 0.9, 0.8])


def boards() -> np.ndarray:
    """Wood: seven boards of different browns with grain."""
    rows = np.floor((Y + 1) * 3.49).astype(int)
    tone = np.array([0.5, 0.36, 0.56, 0.42, 0.6, 0.33, 0.48])[rows]
    grain = 0.06 * np.sin(40 * Y + 3 * np.sin(3 * X + rows)) + 0.04 * np.sin(150 * Y + 2 * X)
    return (tone + grain)[..., None] * np.array([1.0, 0.72, 0.45])


def scenes() -> list[Scene]:
    """Nine plain, seven gradient, six shadowed, three rough, three white on white, two thin: thirty."""
    made: list[Scene] = []

    def add(kind: str, name: str, over: np.ndarray, under: np.ndarray, **how) -> None:
        made.append(Scene(name, kind, finished(over, under, len(made), **how), over[..., 3]))

    radius = np.hypot(X, Y)
    add("plain", "teapot on white", example("teapot"), flat(1, 1, 1))
    add("plain", "bowl on light grey", example("bowl"), flat(0.85, 0.85, 0.84))
    add("plain", "chair on blue", example("chair"), flat(0.45, 0.6, 0.8))
    add("plain", "hammer on beige", example("hammer", 0.7), flat(0.85, 0.78, 0.65), quality=75)
    add("plain", "lamp on dark grey", example("lamp"), flat(0.2, 0.2, 0.22))
    add("plain", "mug on white, no noise", example("mug", 0.6), flat(1, 1, 1), noise=0, quality=None)
    add("plain", "saw on grey", example("saw", 0.9), flat(0.7, 0.7, 0.7))
    add("plain", "truck on green", example("truck", 0.9), flat(0.1, 0.65, 0.2), quality=80)
    add("plain", "vase on black", example("vase"), flat(0, 0, 0))
    add("gradient", "teapot, white to grey", example("teapot"), mixed((1, 1, 1), (0.6, 0.6, 0.62), (Y + 1) / 2))
    add("gradient", "bowl, diagonal", example("bowl", 0.7), mixed((0.9, 0.8, 0.7), (0.5, 0.6, 0.8), (X + Y + 2) / 4))
    add("gradient", "chair, vignette", example("chair"), mixed((0.9, 0.9, 0.92), (0.45, 0.45, 0.5), radius**2 / 2))
    add(
        "gradient",
        "mug, spotlight",
        example("mug", 0.5),
        mixed((0.95, 0.9, 0.8), (0.4, 0.35, 0.3), 1 - np.exp(-(radius**2) * 1.2)),
    )
    add(
        "gradient",
        "truck, sky",
        example("truck", 0.75),
        mixed((0.45, 0.65, 0.95), (0.9, 0.93, 0.97), (Y + 1) / 2),
        quality=80,
    )
    add(
        "gradient",
        "vase, studio sweep",
        example("vase", 0.7),
        mixed((0.93, 0.93, 0.93), (0.72, 0.72, 0.74), 1 / (1 + np.exp(-(Y - 0.3) * 6))),
    )
    add("gradient", "lamp, dark", example("lamp"), mixed((0.1, 0.12, 0.2), (0.4, 0.3, 0.35), (X + 1) / 2))
    for name, under, fit in (
        ("bowl", (0.95, 0.95, 0.95), 0.7),
        ("chair", (0.8, 0.82, 0.85), 0.75),
        ("truck", (1, 1, 1), 0.8),
    ):
        over = example(name, fit)
        add("shadowed", f"{name}, contact shadow", over, flat(*under) * contact(over[..., 3]))
    for name, under, fit in (("mug", (0.9, 0.88, 0.84), 0.6), ("teapot", (0.97, 0.97, 0.97), 0.75)):
        over = example(name, fit)
        add("shadowed", f"{name}, cast shadow", over, flat(*under) * shadow(over[..., 3], (14, 40), 18, 0.4))
    over = example("vase", 0.7)
    under = mixed((0.9, 0.9, 0.9), (0.7, 0.7, 0.7), (Y + 1) / 2) * contact(over[..., 3], 0.6)
    add("shadowed", "vase, gradient and shadow", over, under)
    grain = np.random.default_rng(9).standard_normal((SIZE, SIZE, 1))
    add("rough", "mug on grainy paper", example("mug", 0.6), flat(0.8, 0.78, 0.75) + 0.03 * grain)
    add("rough", "chair on cloth", example("chair"), weave(3))
    add("rough", "teapot on boards", example("teapot", 0.7), boards())
    white = recoloured(example("vase"), whitened(0.55))
    add("white on white", "shaded vase", white, flat(0.98, 0.98, 0.98))
    add("white on white", "flat vase", recoloured(example("vase"), whitened(0.97)), flat(0.99, 0.99, 0.99))
    over = recoloured(example("mug", 0.6), whitened(0.8))
    add("white on white", "mug with shadow", over, flat(0.96, 0.96, 0.95) * contact(over[..., 3], 0.35))
    add("thin", "wheel with spokes", drawn(wheel, (0.15, 0.15, 0.18)), flat(0.9, 0.9, 0.88))
    add(
        "thin",
        "brush with bristles",
        drawn(brush, (0.5, 0.25, 0.1)),
        mixed((0.95, 0.95, 0.97), (0.75, 0.8, 0.9), (Y + 1) / 2),
    )
    return made
