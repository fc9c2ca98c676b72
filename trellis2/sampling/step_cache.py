"""Step caching: every second velocity is extrapolated from computed ones, which nearly halves the cost of sampling.

Computed velocities, evenly spaced in steps, are modelled as a sum of damped exponentials, v(s) = sum over modes m of
c_m lambda_m^s (Prony's method; for vectors, dynamic mode decomposition: Schmid 2010, doi 10.1017/S0022112010001217).
With the snapshots v_0 … v_n as columns, X = [v_0 … v_(n-1)] and Y = [v_1 … v_n], the companion matrix K = X^+ Y has
the modes' lambda as eigenvalues, v_j+1 = X K e_j, and so v(n + tau) = Y K^tau e_last: a weighted sum of the past, whose
weights need only the snapshots' inner products.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .flow_matching import Velocity

# Steps from one computed velocity to the next.
INTERVAL = 2
# Snapshots in the fit, enough for two exponentials. In a run of a dozen steps more of them overfit.
HISTORY = 3
# Singular values of X below this share of the largest are taken as zero.
TOLERANCE = 1e-3
# Bound on |lambda|: a mode that grows from one snapshot to the next is an artefact of the fit.
MAX_GROWTH = 1.0


def extrapolation_weights(gram: np.ndarray, ahead: float) -> np.ndarray:
    """[n + 1] float64 weights of the snapshots in the extrapolation `ahead` snapshots after the last one.

    gram: [n + 1, n + 1] float64, the snapshots' inner products, oldest first. The last snapshot gets all the weight
    where there are fewer than HISTORY (two cannot separate a constant mode from a decaying one) or gram is not finite.
    """
    repeated = np.eye(len(gram))[-1]
    if len(gram) < HISTORY or not np.isfinite(gram).all():
        return repeated
    values, vectors = np.linalg.eigh(gram[:-1, :-1])
    kept = values > TOLERANCE**2 * values.max(initial=0)
    if not kept.any():
        return repeated
    inverse = (vectors[:, kept] / values[kept]) @ vectors[:, kept].T
    modes, basis = np.linalg.eig((inverse @ gram[:-1, 1:]).astype(complex))
    modes /= np.maximum(np.abs(modes) / MAX_GROWTH, 1)
    amplitudes = np.linalg.lstsq(basis, repeated[1:].astype(complex), rcond=1e-10)[0]
    return np.concatenate([[0], (basis @ (modes**ahead * amplitudes)).real])


def with_step_cache(velocity: Velocity, times: Sequence[float]) -> Velocity:
    """`velocity` with every second of the steps at `times` extrapolated instead of computed.

    The first and the last step are always computed, and so is a step whose predecessor was not, as where guidance
    begins. The wrapper holds the history of one run of one condition: wrap each velocity separately, for each run anew.
    """
    step_of = {t: k for k, t in enumerate(times)}
    last = len(times) - 2
    history: dict[int, Tensor] = {}

    def at(x: Tensor, t: float) -> Tensor:
        step = step_of[t]
        if step % INTERVAL and step != last and step - 1 in history:
            return _extrapolated(history, step)
        history[step] = velocity(x, t)
        return history[step]

    return at


def _extrapolated(history: dict[int, Tensor], step: int) -> Tensor:
    """The velocity at `step`, one after the newest step of the history."""
    steps = [step - 1]
    while len(steps) < HISTORY and steps[-1] - INTERVAL in history:
        steps.append(steps[-1] - INTERVAL)
    snapshots = torch.stack([history[earlier] for earlier in reversed(steps)])  # [n + 1, ...]
    flat = snapshots.flatten(1)
    # Synchronises with the device once per extrapolated step, which computes nothing else.
    gram = (flat @ flat.T).double().cpu().numpy()
    weights = extrapolation_weights(gram, 1 / INTERVAL)
    return torch.tensordot(snapshots.new_tensor(weights), snapshots, dims=1)
