"""Losses and the rectified-flow path. Objects have equal weight, whatever their number of voxels, so that splitting a
batch over cards or micro-batches leaves the gradient unchanged.

N: voxels or tokens of all B objects, concatenated.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ....o_voxel.voxels.to_mesh import SPLIT_02, SPLIT_13
from ...sparse import Subdivision

TIME_EDGE = 1e-4  # times stay this far from 0 and 1


def item_mean(values: Tensor, lengths: Sequence[int]) -> Tensor:
    """Scalar mean over the objects of each one's mean of values [N, ...] float. lengths: B row counts; an object of 0
    rows is left out."""
    flat = values.flatten(1).mean(1) if values.ndim > 1 else values
    filled = [n for n in lengths if n]
    shares = torch.tensor([1 / (n * len(filled)) for n in filled], dtype=flat.dtype, device=flat.device)
    counts = torch.tensor(filled, device=flat.device)
    return (flat * shares.repeat_interleave(counts, output_size=len(flat))).sum()


def kl_divergence(mean: Tensor, logvar: Tensor) -> Tensor:
    """Elementwise KL(N(mean, exp(logvar)) || N(0, 1)), of the arguments' shape."""
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar)


def reparameterize(mean: Tensor, logvar: Tensor, noise: Tensor) -> Tensor:
    """mean + exp(logvar / 2) noise, all of one shape: a sample of N(mean, exp(logvar)) (Kingma and Welling 2014)."""
    return mean + noise * (0.5 * logvar).exp()


def dice_loss(logits: Tensor, occupied: Tensor) -> Tensor:
    """1 - the soft Dice coefficient of each object, [B] fp32; logits and occupied (0 or 1) are [B, ...] fp32."""
    p, y = logits.sigmoid().flatten(1), occupied.flatten(1)
    return 1 - (2 * (p * y).sum(1) + 1) / (p.sum(1) + y.sum(1) + 1)


def binary_loss(logits: Tensor, wanted: Tensor, missing: float = 1.0) -> Tensor:
    """Elementwise binary cross-entropy, fp32, of logits and wanted (bool) of one shape. missing: weight of those that
    are wanted."""
    weight = None if missing == 1 else logits.new_tensor(missing, dtype=torch.float32)
    return F.binary_cross_entropy_with_logits(logits.float(), wanted.float(), reduction="none", pos_weight=weight)


def subdivision_loss(logits: Sequence[Tensor], subdivisions: Sequence[Subdivision], missing: float = 1.0) -> Tensor:
    """Binary cross-entropy of child occupancy, a scalar mean over the levels, teacher-forced: each level decodes
    true voxels. logits: [N_l, 8] of each level; subdivisions: the true ones.  missing: see `binary_loss`."""
    levels = [
        item_mean(binary_loss(predicted, level.mask(), missing), level.coarse.lengths)
        for predicted, level in zip(logits, subdivisions, strict=True)
    ]
    return torch.stack(levels).mean()


def split_loss(quads: Tensor, vertices: Tensor, weight_logits: Tensor) -> Tensor:
    """Binary cross-entropy [Q] of the diagonals chosen by split weights, weighted by the difference in fold.

    quads: [Q, 4] int, rows of vertices [V, 3] fp32, the true dual vertices.  weight_logits: [V] fp32; the decoder's
    weight is their softplus. The target is the diagonal whose triangles fold less; on a plane, where both are right,
    the weight is zero. Voxelised meshes have no split weights that could be the target.
    """
    corner = vertices[quads.long()]
    fold = _fold_cosine(corner, SPLIT_02) - _fold_cosine(corner, SPLIT_13)
    log_weight = F.softplus(weight_logits).clamp_min(1e-6).log()[quads.long()]
    chosen = log_weight[:, 0] + log_weight[:, 2] - log_weight[:, 1] - log_weight[:, 3]
    return fold.abs() * F.binary_cross_entropy_with_logits(chosen, (fold > 0).float(), reduction="none")


def _fold_cosine(corner: Tensor, split: Sequence[int]) -> Tensor:
    """Cosine [Q] between the normals of the two triangles of corner [Q, 4, 3]; 1: coplanar. split: their corners."""
    first, second = corner[:, split[:3]], corner[:, split[3:]]
    normals = [torch.linalg.cross(t[:, 1] - t[:, 0], t[:, 2] - t[:, 0]) for t in (first, second)]
    return F.cosine_similarity(*normals, dim=1, eps=1e-12)


def logit_normal_time(normal: Tensor, mean: float, std: float) -> Tensor:
    """Times sigmoid(mean + std n) in (0, 1), 1 = noise, from standard normal n [B] (Esser et al. 2024)."""
    return torch.sigmoid(mean + std * normal).clamp(TIME_EDGE, 1 - TIME_EDGE)


def noisy(sample: Tensor, noise: Tensor, t: Tensor, sigma_min: float) -> Tensor:
    """x_t on the straight path from the clean `sample` (t = 0) to `noise` (t = 1), of their shape; t broadcasts."""
    return (1 - t) * sample + (sigma_min + (1 - sigma_min) * t) * noise


def velocity_target(sample: Tensor, noise: Tensor, sigma_min: float) -> Tensor:
    """The velocity of that path, constant in t: the regression target of the flow."""
    return (1 - sigma_min) * noise - sample
