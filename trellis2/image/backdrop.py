"""A smooth model of a picture's background, fitted to its border and grown inwards.

Colours are CIE L*a*b*. The model is a polynomial in the pixel's place, so that gradients and vignettes are part of it.
The first fit has degree 2 and takes the border alone, where an object may stand in up to a third of the pixels: least
median of squares (P. Rousseeuw, Least Median of Squares Regression, 1984) finds it, Tukey's biweight improves it. Later
fits take every pixel known as background.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

RING = 0.03  # width of the border, of the longer side
DRAWS, POINTS, SAMPLES = 200, 8, 800  # least median of squares: fits tried, points of one, pixels that judge them
INLIERS = 0.6  # share of the border that the first fit has to explain
FLOOR = np.array([1.0, 0.8, 0.8], np.float32)  # least spread, L*a*b*: JPEG's and the eye's
ROUNDS = 5
KNOWN = 6000  # pixels that a later fit takes


@dataclass(frozen=True)
class Backdrop:
    """Background colours. coefficients: [N, 3] float64 of `_basis` at `degree`.  spread: [3] standard deviation of the
    background around it, L*a*b*, at least FLOOR.  noise: the same without that floor."""

    degree: int
    coefficients: np.ndarray
    spread: np.ndarray
    noise: np.ndarray

    def colours(self, height: int, width: int) -> np.ndarray:
        """L*a*b* [height, width, 3] float32 of the background, the object left out."""
        powers = np.arange(self.degree + 1)
        x, y = (_axis(size)[:, None] ** powers for size in (width, height))
        table = np.zeros((self.degree + 1, self.degree + 1, 3))
        table[_exponents(self.degree)] = self.coefficients
        return np.stack([y @ table[..., c].T @ x.T for c in range(3)], axis=-1).astype(np.float32)


def border(height: int, width: int) -> np.ndarray:
    """The pixels [height, width] bool within RING of the picture's edge."""
    inside = np.zeros((height, width), bool)
    wide = max(2, round(RING * max(height, width)))
    inside[wide:-wide, wide:-wide] = True
    return ~inside


def fit_border(lab: np.ndarray) -> Backdrop:
    """Fits the border of lab [H, W, 3] float32, an object at it left out."""
    height, width = lab.shape[:2]
    rows, columns = np.nonzero(border(height, width))
    x, y, colours = _axis(width)[columns], _axis(height)[rows], lab[rows, columns].astype(np.float64)
    basis = _basis(x, y, 2)
    random = np.random.default_rng(0)
    judges = random.permutation(len(rows))[:SAMPLES]
    draws = random.integers(0, len(rows), (DRAWS, POINTS))
    fits = np.linalg.pinv(basis[draws], rcond=1e-4) @ colours[draws]
    plain = np.zeros((1, basis.shape[1], 3))
    plain[0, 0] = np.median(colours, axis=0)
    fits = np.concatenate([plain, fits])
    errors = np.linalg.norm(basis[judges] @ fits - colours[judges], axis=-1)
    first = fits[np.quantile(errors, INLIERS, axis=1).argmin()]
    return _improved(2, basis, colours, first)


def refit(lab: np.ndarray, known: np.ndarray, degree: int, before: Backdrop) -> Backdrop:
    """Fits every pixel of lab [H, W, 3] that is `known` [H, W] bool as background; `before` starts it."""
    height, width = lab.shape[:2]
    rows, columns = np.nonzero(known)
    step = max(1, len(rows) // KNOWN)
    rows, columns = rows[::step], columns[::step]
    basis = _basis(_axis(width)[columns], _axis(height)[rows], degree)
    start = np.zeros((basis.shape[1], 3))
    shared = min(len(before.coefficients), len(start))
    start[:shared] = before.coefficients[:shared]
    return _improved(degree, basis, lab[rows, columns].astype(np.float64), start)


def _improved(degree: int, basis: np.ndarray, colours: np.ndarray, coefficients: np.ndarray) -> Backdrop:
    """Reweighted least squares with Tukey's biweight, from `coefficients`."""
    ridge = 1e-6 * len(basis) * np.eye(basis.shape[1])
    for _ in range(ROUNDS):
        error = colours - basis @ coefficients
        spread = _spread(error)
        distance = np.linalg.norm(error / np.maximum(spread, FLOOR), axis=1) / 6
        weight = np.where(distance < 1, (1 - distance**2) ** 2, 0)[:, None]
        coefficients = np.linalg.solve(basis.T @ (weight * basis) + ridge, basis.T @ (weight * colours))
    noise = _spread(colours - basis @ coefficients)
    return Backdrop(degree, coefficients, np.maximum(noise, FLOOR).astype(np.float32), noise.astype(np.float32))


def _spread(error: np.ndarray) -> np.ndarray:
    """Standard deviation of each column of error [N, 3] from its median absolute value, outliers left out."""
    return 1.4826 * np.median(np.abs(error), axis=0)


def _exponents(degree: int) -> tuple[np.ndarray, np.ndarray]:
    """Exponents of x and of y of the monomials up to `degree`, low degrees first."""
    pairs = [(total - i, i) for total in range(degree + 1) for i in range(total + 1)]
    return np.array([x for x, _ in pairs]), np.array([y for _, y in pairs])


def _basis(x: np.ndarray, y: np.ndarray, degree: int) -> np.ndarray:
    """Monomials [N, M] of the places x, y [N], in the order of `_exponents`."""
    powers = np.arange(degree + 1)
    of_x, of_y = _exponents(degree)
    return (x[:, None] ** powers)[:, of_x] * (y[:, None] ** powers)[:, of_y]


def _axis(size: int) -> np.ndarray:
    return np.linspace(-1, 1, size) if size > 1 else np.zeros(1)
