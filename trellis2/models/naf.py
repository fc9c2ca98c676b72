"""NAF, an upsampler of image features that is guided by the image: evaluated at single pixels of its output.

A pixel of the output attends to the 9 x 9 patches around its own: queries are its encoding of the image, keys the means
of the encodings over each patch, values the patch features (Chambon et al., "NAF: Zero-Shot Feature Upsampling via
Neighborhood Attention Filtering", 2025; windows at the border are shifted inwards, as natten's). The whole map at 1024
pixels is 4 GiB; a voxel reads four pixels of it, and attention is independent for each.

Letters: S pixels a side of the image, T of the output, h patches a side, D channels of the encodings, H heads, P pixels
read, C channels of the features. Module names are the keys of the published weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...o_voxel.core.checks import check_tensor

WINDOW = 9  # patches a side that a pixel attends to
GROUPS, EPS = 8, 1e-5  # of the group norms
# An image of more than this many times the output's side is reduced first.
MOST_REDUCED = 4
# Rows of an image that a convolution takes at a time, and bytes of the scores of one chunk of pixels.
BAND_ROWS, CHUNK_BYTES = 128, 2**27
LARGEST_SIDE = 1024  # pixels of the pictures that it is made for


@dataclass(frozen=True, kw_only=True)
class NafConfig:
    """dim: channels D of the encodings.  heads: of the attention and of the rotary embedding, an even number, which
    divides D. Raises ValueError for others."""

    dim: int = 256
    heads: int = 4

    def __post_init__(self) -> None:
        if self.heads < 2 or self.heads % 2 or self.dim % (4 * self.heads) or self.dim % (2 * GROUPS):
            raise ValueError(f"NAF: expected a multiple of 4 channels for each of 2, 4 … heads, got {self}")

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> NafConfig:
        """Reads the sizes from weights. Raises ValueError where the keys that tell them are missing."""
        try:
            dim = 2 * len(tensors["image_encoder.encoder.0.weight"])
            return cls(dim=dim, heads=dim // (4 * len(tensors["image_encoder.rope.periods"])))
        except (KeyError, ZeroDivisionError) as error:
            raise ValueError(f"NAF: expected image_encoder.encoder.0.weight and rope.periods, no {error}") from error


class NafUpsampler(nn.Module):
    """Upsamples patch features to the pixels that are asked for."""

    def __init__(self, config: NafConfig) -> None:
        super().__init__()
        self.config = config
        self.image_encoder = _ImageEncoder(config)

    @property
    def workspace_bytes(self) -> int:
        """Bytes of a forward at LARGEST_SIDE besides the weights: an encoder's map before and after a layer, and
        parts."""
        return 4 * (self.config.dim // 2) * LARGEST_SIDE**2 * 2 + 4 * CHUNK_BYTES

    def forward(
        self,
        image: Tensor,  # [3, S, S] fp32, 0 to 1, without ImageNet's normalisation
        features: Tensor,  # [h, h, C] fp32
        target: int,
        pixels: Tensor,  # [N, K] int64, row T + column
        weights: Tensor,  # [N, K] fp32
        progress: Callable[[float], None] | None = None,
    ) -> Tensor:  # [N, C]
        """Returns the sum over K of weights times the upsampled features at `pixels`, [N, C] fp32.

        target: T, a multiple of h.  progress: called with the fraction done; may raise to cancel.
        Raises ValueError for other shapes, or fewer than 9 patches a side.
        """
        side, channels = features.shape[0], features.shape[-1]
        check_tensor(image, "image", (3, None, image.shape[1]), torch.float32)
        check_tensor(features, "features", (side, side, None), torch.float32)
        heads = self.config.heads
        if side < WINDOW or target % side or channels % heads:
            raise ValueError(
                f"NAF: expected at least {WINDOW} patches a side, an output of a multiple of these, and a multiple of "
                f"{heads} channels, got {side}, {target} and {channels}"
            )
        reduced = min(image.shape[-1], MOST_REDUCED * target)
        if reduced < image.shape[-1]:
            image = F.interpolate(image[None], size=(reduced, reduced), mode="bilinear", align_corners=False)[0]
        queries, keys = self.image_encoder(image, target, side, pixels.flatten())
        queries, keys = queries.unflatten(0, pixels.shape), keys.permute(1, 2, 0)
        values = features.reshape(side * side, heads, -1).transpose(0, 1)
        out = features.new_empty(len(pixels), channels)
        rows = max(1, CHUNK_BYTES // (4 * heads * side**2 * max(1, pixels.shape[1])))
        for start in range(0, len(pixels), rows):
            part = slice(start, start + rows)
            window = _window(pixels[part], target, side)
            out[part] = _attend(queries[part], keys, values, window, weights[part])
            if progress is not None:
                progress(min(1.0, (start + rows) / len(pixels)))
        return out


def _window(pixels: Tensor, target: int, side: int) -> Tensor:
    """Returns the patches [N, K, 81] int64 that pixels [N, K] attend to; a window at the border is shifted inwards."""
    steps = torch.arange(WINDOW, device=pixels.device)
    dilation = target // side
    first = [(place // dilation - WINDOW // 2).clamp(0, side - WINDOW) for place in (pixels // target, pixels % target)]
    rows, columns = (start[..., None] + steps for start in first)
    return (rows[..., :, None] * side + columns[..., None, :]).flatten(-2)


def _attend(queries: Tensor, keys: Tensor, values: Tensor, window: Tensor, weights: Tensor) -> Tensor:
    """Returns [N, C]. queries: [N, K, H, d].  keys: [H, d, h h].  values: [H, h h, c].  window: [N, K, 81].  weights:
    [N, K].

    Scores of all patches, of which those outside of the window are dropped: two large products are faster than
    gathering 81 keys and values for every pixel, and the values are multiplied once for all K.
    """
    n, k = window.shape[:2]
    outside = queries.new_full((n * k, keys.shape[-1]), -torch.inf).scatter_(1, window.flatten(0, 1), 0.0)
    scores = queries.permute(2, 0, 1, 3).flatten(1, 2) @ keys
    scores = scores.mul_(queries.shape[-1] ** -0.5).add_(outside)
    shares = torch.softmax(scores, dim=-1).unflatten(1, (n, k)).mul_(weights[..., None]).sum(dim=2)
    return (shares @ values).transpose(0, 1).flatten(1)


class _ImageEncoder(nn.Module):
    """Two encoders of half the channels each, of a pixel alone and of its surroundings, with a rotary embedding."""

    def __init__(self, config: NafConfig) -> None:
        super().__init__()
        self.heads = config.heads // 2  # of each encoder
        self.encoder = _encoder(config.dim // 2, first=1, kernel=1)
        self.sem_encoder = _encoder(config.dim // 2, first=3, kernel=3)
        self.rope = _Rope(config.dim // config.heads)

    def forward(self, image: Tensor, target: int, side: int, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Returns queries [P, H, d] at `pixels` [P] of a T x T map, and keys [h h, H, d], the means over patches."""
        parts = [self._encoded(part, image, target, side, pixels) for part in (self.encoder, self.sem_encoder)]
        queries, keys = (torch.cat(both, dim=1) for both in zip(*parts, strict=True))
        return queries, keys

    def _encoded(
        self, encoder: nn.Sequential, image: Tensor, target: int, side: int, pixels: Tensor
    ) -> tuple[Tensor, Tensor]:
        """As `forward`, of one encoder's half of the heads: one map of half the channels exists at a time."""
        x = _convolved(image[None], encoder[0])
        for block in list(encoder)[1:]:
            x = block(x)
        if x.shape[-1] != target:
            x = F.adaptive_avg_pool2d(x, target)
        x = x[0].unflatten(0, (self.heads, -1))  # [H / 2, d, T, T]
        found = x.flatten(2)[:, :, pixels].permute(2, 0, 1)
        queries = self.rope(found, pixels // target, pixels % target, target)
        return queries, self.rope.patch_means(x, side)


class _Rope(nn.Module):
    """Rotary embedding of a pixel's row and column: half of the angles each, the same for both halves of a head."""

    BASE = 100.0

    def __init__(self, head_channels: int) -> None:
        super().__init__()
        count = head_channels // 4
        self.register_buffer("periods", self.BASE ** (torch.arange(count, dtype=torch.float32) / count))

    def forward(self, x: Tensor, rows: Tensor, columns: Tensor, side: int) -> Tensor:
        """Rotates x [P, H, d]; rows, columns: [P] integers, of a grid of `side` a side."""
        angles = torch.cat([self._angles(rows, side), self._angles(columns, side)], dim=-1)[:, None]
        first, second = x.chunk(2, dim=-1)
        return torch.cat(_rotated(first, second, angles), dim=-1)

    def patch_means(self, x: Tensor, side: int) -> Tensor:
        """Returns the means [h h, H, d] over patches of the rotated map. x: [H, d, T, T].  side: h patches a side.

        A channel turns with its row or with its column, and a mean along the other axis commutes with that. So the map
        is averaged along it first, and what is rotated is smaller by the side of a patch.
        """
        heads, channels, target, _ = x.shape
        halves = x.view(heads, 2, 2, channels // 4, target, target)  # both halves of a head, rows and columns
        angles = self._angles(torch.arange(target, device=x.device), side=target).T  # [d / 4, T]
        patches = (side, target // side)
        of_rows = halves[:, :, 0].unflatten(-1, patches).mean(-1)  # [H, 2, d / 4, T, h]
        of_columns = halves[:, :, 1].unflatten(-2, patches).mean(-2)  # [H, 2, d / 4, h, T]
        by_rows = torch.stack(_rotated(*of_rows.unbind(1), angles[..., None]), 1).unflatten(-2, patches).mean(-2)
        by_columns = torch.stack(_rotated(*of_columns.unbind(1), angles[:, None]), 1).unflatten(-1, patches).mean(-1)
        means = torch.stack([by_rows, by_columns], dim=2).flatten(1, 3)  # [H, d, h, h]
        return means.flatten(2).permute(2, 0, 1)

    def _angles(self, places: Tensor, side: int) -> Tensor:
        """[N, d / 4] fp32 radians of rows or columns [N] of `side`."""
        centers = (places.float() + 0.5) / side * 2 - 1
        return 2 * math.pi * centers[:, None] / self.periods


def _rotated(first: Tensor, second: Tensor, angles: Tensor) -> tuple[Tensor, Tensor]:
    """Rotates the plane of the two by `angles`, which broadcast to them."""
    cos, sin = angles.cos(), angles.sin()
    return first * cos - second * sin, second * cos + first * sin


class _Block(nn.Module):
    """Group norm, SiLU, convolution, twice; nothing is added to the input, which it may overwrite."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.GroupNorm(GROUPS, channels, eps=EPS) for _ in range(2))
        self.conv1, self.conv2 = (nn.Conv2d(channels, channels, kernel) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """x: [1, C, S, S]. Returns the same shape."""
        for norm, conv in ((self.norm1, self.conv1), (self.norm2, self.conv2)):
            x = _convolved(F.silu(_normalized(x, norm), inplace=True), conv)
        return x


def _normalized(x: Tensor, norm: nn.GroupNorm) -> Tensor:
    """The group norm of x [1, C, S, S]. torch's own takes one block of a GPU for each of the eight groups of 2^24
    values; a reduction of the whole takes all of them."""
    groups = norm.num_groups
    variance, mean = torch.var_mean(x.view(groups, -1), dim=1, correction=0)
    scale = norm.weight.view(groups, -1) * torch.rsqrt(variance + norm.eps)[:, None]
    shift = norm.bias.view(groups, -1) - mean[:, None] * scale
    return torch.addcmul(shift.view(1, -1, 1, 1), x, scale.view(1, -1, 1, 1))


def _encoder(channels: int, *, first: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, channels, first), *(_Block(channels, kernel) for _ in range(2)))


def _convolved(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """Returns the convolution of x [1, C, S, S] with its borders reflected, [1, D, S, S], some rows at a time: a padded
    copy of the whole would be as large as the result."""
    out = x.new_empty(1, conv.out_channels, *x.shape[2:])
    for start, stop, band in _bands(x, conv.kernel_size[0] // 2):
        out[:, :, start:stop] = F.conv2d(band, conv.weight, conv.bias)
    return out


def _bands(x: Tensor, border: int) -> Iterator[tuple[int, int, Tensor]]:
    """Yields (start, stop, rows start - border to stop + border of x, reflected beyond its edges)."""
    height = x.shape[2]
    for start in range(0, height, BAND_ROWS):
        stop = min(height, start + BAND_ROWS)
        low, high = max(0, start - border), min(height, stop + border)
        above, below = border - (start - low), border - (high - stop)
        yield start, stop, _reflected(x[:, :, low:high], border, above, below)


def _reflected(band: Tensor, sides: int, above: int, below: int) -> Tensor:
    if sides == 0:
        return band
    # A band in the middle is continued by its neighbours, which it holds already.
    return F.pad(band, (sides, sides, above, below), mode="reflect")
