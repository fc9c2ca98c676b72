"""Step caching: between computed steps the velocity is forecast from its own past.

The past velocities at equal distances are taken as a sum of damped exponentials, v(s) = sum over modes m of
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
# Snapshots in the fit: two exponentials. In a run of a dozen steps more of them only follow its bends too far.
HISTORY = 3
# Singular values of X below this share of the largest carry no mode.
TOLERANCE = 1e-3
# Damped means at most this: a mode that grows from one snapshot to the next is an artefact.
LARGEST = 1.0


def forecast_weights(gram: np.ndarray, ahead: float) -> np.ndarray:
    """[n + 1] float64: how much of each snapshot goes into the forecast `ahead` snapshots after the last.

    gram: [n + 1, n + 1], the snapshots' inner products, oldest first. The last one is repeated where there are fewer
    than HISTORY (of two, the part that stays and the part that changes cannot be told apart) or they are not finite.
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
    modes /= np.maximum(np.abs(modes) / LARGEST, 1)
    amplitudes = np.linalg.lstsq(basis, repeated[1:].astype(complex), rcond=1e-10)[0]
    return np.concatenate([[0], (basis @ (modes**ahead * amplitudes)).real])


def forecast(velocity: Velocity, times: Sequence[float]) -> Velocity:
    """`velocity`, with every second of the steps at `times` forecast: near half the cost.

    The first and the last step are always computed; so is one whose predecessor was not, as when guidance begins there.
    Wrap every network's velocity of its own, anew for each run: a history is of one condition and one run.
    """
    step_of = {t: k for k, t in enumerate(times)}
    last = len(times) - 2
    history: dict[int, Tensor] = {}

    def at(x: Tensor, t: float) -> Tensor:
        step = step_of[t]
        if step % INTERVAL and step != last and step - 1 in history:
            return _forecast(history, step)
        history[step] = velocity(x, t)
        return history[step]

    return at


def _forecast(history: dict[int, Tensor], step: int) -> Tensor:
    """The velocity at `step`, one after the newest of the history."""
    places = [step - 1]
    while len(places) < HISTORY and places[-1] - INTERVAL in history:
        places.append(places[-1] - INTERVAL)
    snapshots = torch.stack([history[place] for place in reversed(places)])
    flat = snapshots.flatten(1)
    # One small copy to the host a forecast step, which has no other work to wait for.
    gram = (flat @ flat.T).double().cpu().numpy()
    weights = forecast_weights(gram, 1 / INTERVAL)
    return torch.tensordot(snapshots.new_tensor(weights), snapshots, dims=1)
