"""What the networks are trained to make small. Every object of a batch counts the same, however many voxels it has:
so a batch split over several cards, or taken in parts, has the same gradient.

Letters: N voxels or tokens of all objects together, B objects.
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
    """The mean over objects of each one's mean: values [N, ...] packed, `lengths` rows of each object, 0 allowed."""
    flat = values.flatten(1).mean(1) if values.ndim > 1 else values
    filled = [n for n in lengths if n]
    shares = torch.tensor([1 / (n * len(filled)) for n in filled], dtype=flat.dtype, device=flat.device)
    counts = torch.tensor(filled, device=flat.device)
    return (flat * shares.repeat_interleave(counts, output_size=len(flat))).sum()


def kl_divergence(mean: Tensor, logvar: Tensor) -> Tensor:
    """KL of N(mean, exp(logvar)) from N(0, 1), element by element."""
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar)


def reparameterize(mean: Tensor, logvar: Tensor, noise: Tensor) -> Tensor:
    """A sample of N(mean, exp(logvar))."""
    return mean + noise * (0.5 * logvar).exp()


def dice_loss(logits: Tensor, occupied: Tensor) -> Tensor:
    """1 - the soft Dice overlap of each object, [B]; logits and occupied (0 or 1) are [B, ...]."""
    p, y = logits.sigmoid().flatten(1), occupied.flatten(1)
    return 1 - (2 * (p * y).sum(1) + 1) / (p.sum(1) + y.sum(1) + 1)


def subdivision_loss(logits: Sequence[Tensor], subdivisions: Sequence[Subdivision]) -> Tensor:
    """Binary cross-entropy of which children exist, the mean over levels; teacher-forced: every level is given the
    true voxels. logits: [N_l, 8] at each level."""
    levels = [
        item_mean(
            F.binary_cross_entropy_with_logits(predicted.float(), level.mask().float(), reduction="none"),
            level.coarse.lengths,
        )
        for predicted, level in zip(logits, subdivisions, strict=True)
    ]
    return torch.stack(levels).mean()


def split_loss(quads: Tensor, vertices: Tensor, weight_logits: Tensor) -> Tensor:
    """How badly split weights choose the diagonals of the quads, [Q].

    quads: [Q, 4] rows of vertices [V, 3], the true dual vertices.  weight_logits: [V] raw; the weight is their
    softplus, as decoded. The right diagonal is the one whose two triangles fold less, and a quad counts by how much
    less: on a plane both will do. (The conversion from meshes has no split weights to learn from.)
    """
    corner = vertices[quads.long()]
    fold = _fold_cosine(corner, SPLIT_02) - _fold_cosine(corner, SPLIT_13)
    log_weight = F.softplus(weight_logits).clamp_min(1e-6).log()[quads.long()]
    chosen = log_weight[:, 0] + log_weight[:, 2] - log_weight[:, 1] - log_weight[:, 3]
    return fold.abs() * F.binary_cross_entropy_with_logits(chosen, (fold > 0).float(), reduction="none")


def _fold_cosine(corner: Tensor, split: Sequence[int]) -> Tensor:
    """Cosine between the normals of the two triangles of `split`, [Q]; 1 is flat."""
    first, second = corner[:, split[:3]], corner[:, split[3:]]
    normals = [torch.linalg.cross(t[:, 1] - t[:, 0], t[:, 2] - t[:, 0]) for t in (first, second)]
    return F.cosine_similarity(*normals, dim=1, eps=1e-12)


def logit_normal_time(normal: Tensor, mean: float, std: float) -> Tensor:
    """Standard normal numbers to times in (0, 1), 1 being noise: sigmoid(mean + std n) (Esser et al. 2024)."""
    return torch.sigmoid(mean + std * normal).clamp(TIME_EDGE, 1 - TIME_EDGE)


def noisy(sample: Tensor, noise: Tensor, t: Tensor, sigma_min: float) -> Tensor:
    """x_t on the straight path from the clean `sample` (t = 0) to `noise` (t = 1); t broadcasts. See `sampling`."""
    return (1 - t) * sample + (sigma_min + (1 - sigma_min) * t) * noise


def velocity_target(sample: Tensor, noise: Tensor, sigma_min: float) -> Tensor:
    """What a flow predicts at every time of that path."""
    return (1 - sigma_min) * noise - sample
