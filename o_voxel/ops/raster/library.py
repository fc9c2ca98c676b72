"""Rasterisation by nvdiffrast, where the user has it: NVIDIA's library, whose licence allows no commercial use.

It is never needed, and never taken by "auto". Its interface is turned into ours: its row 0 is the bottom one, its
weights are those of the first two corners, and it counts faces from 1. Pixel centres are the same, and nothing is
culled by its side.
What differs, by its design (CudaRaster; Laine and Karras, High-Performance Software Rasterization on GPUs, 2011):

- corners are rounded to SNAP_PIXELS first, so a pixel whose centre is that close to an edge may be on its other side;
- edges that pass exactly through a centre follow its own rule, still one face a pixel where faces meet;
- depths are compared as integers of a plane through the rounded corners: where two surfaces nearly meet either may win.
  Of equal depths its last face wins. It is given the faces in reverse, so that the lowest does, as in ours;
- weights and depth are float32, the weights clamped to 0 to 1. Their error grows with the picture's pixels a face.
"""

from __future__ import annotations

from importlib import import_module

import torch
from torch import Tensor

from ...core.device import cached_per_device, device_guard, indexed
from ...core.foreign import Answer, explained, is_installed, machine, version, why_not
from .reference import interpolate, visible_faces

MODULE = "nvdiffrast.torch"
LICENCE = "NVIDIA Source Code License, non-commercial use only"
SNAP_PIXELS = 1 / 16
# It keeps a face's number in this many at most, clipped parts included.
MOST_FACES = 1 << 24
# Of the picture that is tried: odd sides, so that a row that is turned over, or a half pixel, shows.
TRIED_SIZE = (37, 50)
WEIGHT_ERROR = 1e-3


def probe(device: torch.device, dtype: torch.dtype) -> str | None:
    """Returns None if nvdiffrast draws on this card what the reference draws, else the reason."""
    if not is_installed(MODULE):
        return f"not installed (no module {MODULE})"
    if device.type != "cuda":
        return f"runs on a GPU, not on {device}"
    return _tried(device)


@device_guard
def rasterize_nvdiffrast(clip: Tensor, faces: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Returns face [H, W] int32, barycentrics [H, W, 3] and depth [H, W] float32; arguments as `rasterize`.

    Raises ValueError for more faces than it can count.
    """
    if len(faces) >= MOST_FACES:
        raise ValueError(f"backend 'nvdiffrast': expected fewer than {MOST_FACES:,} faces, got {len(faces):,}")
    if not len(faces):
        face = torch.full(size, -1, dtype=torch.int32, device=clip.device)
        return face, *interpolate(clip, faces, face)
    nvdiffrast = import_module(MODULE)
    corners = clip.detach().contiguous()[None]
    reversed_faces = faces.flip(0).to(torch.int32).contiguous()
    with torch.no_grad():
        context = nvdiffrast.RasterizeCudaContext(device=clip.device)
        drawn, _ = nvdiffrast.rasterize(context, corners, reversed_faces, size, grad_db=False)
    u, v, depth, number = drawn[0].flip(0).unbind(-1)
    empty = number == 0
    face = torch.where(empty, -1, len(faces) - number.to(torch.int32))
    weights = torch.stack((u, v, (1 - u - v).clamp_(min=0)), dim=-1)
    return face, weights.masked_fill_(empty[..., None], 0), torch.where(empty, torch.inf, depth)


@cached_per_device
def _tried(device: torch.device) -> str | None:
    about = ("nvdiffrast", version("nvdiffrast"), *machine(device))
    reason = why_not("o_voxel.ops.raster.library:check", (str(indexed(device)),), about)
    if reason is not None:
        return reason
    try:
        import_module(MODULE)
    except Exception as error:  # noqa: BLE001 what a library's import raises is not ours to list
        return f"it does not load here, though it does in a process of its own: {explained(error)}"
    return None


def check(device: str) -> Answer:
    """Whether nvdiffrast loads, draws and gives what the reference gives. Run in a child process, see `foreign`."""
    try:
        import_module(MODULE)
    except Exception as error:  # noqa: BLE001 what a library's import raises is not ours to list
        return f"it does not load: {explained(error)}", True
    try:
        wrong = _difference(torch.device(device))
    except torch.OutOfMemoryError as problem:
        return f"no memory was left for a test picture: {explained(problem)}", False
    except Exception as problem:  # noqa: BLE001 a compiler, driver or launch problem of any kind
        return f"a test picture failed: {explained(problem)}", True
    return wrong, True


def _difference(device: torch.device) -> str | None:
    """Draws two crossing faces in perspective, a face behind them, and one twice; corners lie between its steps."""
    corners = [
        [[-0.9, -0.7, 0.1, 1], [1.6, -0.5, 0.9, 2], [-0.2, 1.1, 0.2, 1.3]],
        [[-1.1, 0.8, 0.9, 1.5], [0.9, 0.9, 0.1, 1], [0.1, -0.9, 0.3, 1]],
        [[-0.8, -0.8, 0.95, 1], [0.8, -0.8, 0.95, 1], [0.8, 0.9, 0.95, 1]],
    ]
    clip = torch.tensor([*corners, corners[0]], device=device).reshape(-1, 4)
    faces = torch.arange(len(clip), device=device).view(-1, 3)
    face, weights, depth = rasterize_nvdiffrast(clip, faces, TRIED_SIZE)
    expected = visible_faces(clip, faces, TRIED_SIZE)
    exact = interpolate(clip, faces, expected)
    same = face == expected
    # Where corners are rounded, pixels along the edges may change: a twentieth of these, at most.
    if same.float().mean() < 0.95 or not (expected[same].unique() >= 0).any():
        return f"its picture is wrong in {int((~same).sum())} of {same.numel()} pixels"
    seen = same & (expected >= 0)
    error = max(float((found - true)[seen].abs().max()) for found, true in zip((weights, depth), exact, strict=True))
    return None if error <= WEIGHT_ERROR else f"its weights or depths are wrong, by {error:.3g}"
