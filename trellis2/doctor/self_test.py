"""Tests this machine in about 20 seconds: an op of each kind against its reference, and an object from picture to file.

What it finds are broken compilers, drivers and builds: kernels that give other numbers, or none.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...o_voxel.core.progress import Progress, silent
from ...o_voxel.values import Mesh

if TYPE_CHECKING:
    from PIL import Image

CUBE = 12  # voxels a side of what the ops work on
# Sampling steps of the object. Its quality is no matter: it passes through all stages.
STEPS = 2
FACES, TEXELS = 1000, 256


@dataclass(frozen=True)
class Check:
    """One part of the test. problem: empty if good.  seconds: of what was tested, with the compiling of kernels."""

    name: str
    seconds: float
    problem: str = ""
    note: str = ""


def self_test(device: torch.device, progress: Progress = silent) -> list[Check]:
    """Runs all checks on `device`; none raises, but what `progress` raises to cancel."""
    checks, names = [], [*OPS, "object"]
    for number, name in enumerate(names):
        progress(number / len(names))
        begun = time.monotonic()
        note, problem = "", ""
        try:
            note = OPS[name](device) if name in OPS else _object(device)
        except Exception as error:  # noqa: BLE001 what breaks is what the test is to find
            problem = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        checks.append(Check(name, time.monotonic() - begun, problem, note))
    progress(1.0)
    return checks


def _random(device: torch.device, *shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(device)


def _near(found: Tensor, true: Tensor, tolerance: float) -> str:
    """Says how far two results are apart, of the true one's largest value. Raises ValueError above `tolerance`."""
    if found.shape != true.shape:
        raise ValueError(f"expected the shape {list(true.shape)} of the reference, got {list(found.shape)}")
    apart = float((found.double() - true.double()).abs().max() / true.double().abs().max().clamp(min=1e-12))
    if not apart <= tolerance:
        raise ValueError(f"expected the reference's numbers within {tolerance:g}, got {apart:.3g} away")
    return f"within {apart:.1g}"


def _same(found: Tensor, true: Tensor) -> str:
    if not torch.equal(found.cpu(), true.cpu()):
        raise ValueError("expected the reference's result, got another")
    return "the same"


def _voxels(device: torch.device) -> Tensor:
    """The shell of a cube, [N, 4] int32 (batch, x, y, z)."""
    axis = torch.arange(CUBE, dtype=torch.int32)
    cells = torch.cartesian_prod(axis, axis, axis)
    shell = cells[((cells == 0) | (cells == CUBE - 1)).any(1)]
    return torch.nn.functional.pad(shell, (1, 0)).contiguous().to(device)


def _surface(device: torch.device) -> Mesh:
    """A bumpy sheet, [V, 3] and [F, 3]."""
    axis = torch.linspace(-0.4, 0.4, CUBE)
    x, y = torch.meshgrid(axis, axis, indexing="ij")
    points = torch.stack([x, y, 0.1 * torch.sin(9 * x) * torch.cos(7 * y)], -1).reshape(-1, 3)
    row = torch.arange(CUBE - 1)
    corner = (row[:, None] * CUBE + row).reshape(-1)
    right, up = corner + CUBE, corner + 1
    faces = torch.cat([torch.stack([corner, right, up], 1), torch.stack([up, right, right + 1], 1)])
    return Mesh(points.to(device), faces.to(device))


def _attention(device: torch.device) -> str:
    from ..capabilities import torso_dtype
    from ..ops.attention import attention

    dtype = torso_dtype(device)
    query, key, value = (_random(device, 96, 2, 64, seed=seed).to(dtype) for seed in range(3))
    found, true = (
        attention(query, key, value, (40, 56), (40, 56), backend=backend) for backend in ("auto", "reference")
    )
    return _near(found, true, 1e-4 if dtype == torch.float32 else 2e-2)


def _norm(device: torch.device) -> str:
    from ..ops.norm_modulate import norm_modulate

    x, scale, shift = _random(device, 70, 96), _random(device, 1, 96, seed=1), _random(device, 1, 96, seed=2)
    found, true = (norm_modulate(x, scale, shift, None, backend=backend) for backend in ("auto", "reference"))
    return _near(found, true, 1e-5)


def _rope(device: torch.device) -> str:
    from ..ops.rope import rms_norm_rope, rotary_angles

    positions = _voxels(device)[:64, 1:].contiguous()
    angles = rotary_angles(positions, 48)
    rotation = angles.cos(), angles.sin()
    x = _random(device, 64, 2, 48)
    found, true = (rms_norm_rope(x, None, rotation, backend=backend) for backend in ("auto", "reference"))
    return _near(found, true, 1e-5)


def _convolution(device: torch.device) -> str:
    from ..ops.submanifold_conv import neighbor_map, submanifold_conv

    coords = _voxels(device)
    neighbors = neighbor_map(coords)
    _same(neighbors, neighbor_map(coords, backend="reference"))
    feats, weight = _random(device, len(coords), 32), _random(device, 32, 3, 3, 3, 32, seed=1) / 30
    found, true = (
        submanifold_conv(feats, neighbors, weight, None, backend=backend) for backend in ("auto", "reference")
    )
    return _near(found, true, 1e-2 if device.type == "cuda" else 1e-4)  # tf32


def _eight_bit(device: torch.device) -> str:
    from ..ops.quantized_linear import FORMATS, quantize_rows, quantized_linear

    form = FORMATS["int8"]
    x, weight = (quantize_rows(_random(device, 64, 64, seed=seed), form) for seed in range(2))
    found, true = (
        quantized_linear(x, weight, None, torch.float32, backend=backend) for backend in ("auto", "reference")
    )
    return _near(found, true, 1e-5)


def _grid(device: torch.device) -> str:
    from ...o_voxel.ops.grid_sample import grid_sample
    from ...o_voxel.ops.hash_grid import hash_grid

    coords = _voxels(device)[:, 1:].contiguous()
    feats, points = _random(device, len(coords), 6), torch.rand(200, 3, generator=torch.Generator().manual_seed(1))
    found, true = (
        grid_sample(feats, hash_grid(coords, backend=backend), points.to(device) * CUBE, backend=backend)
        for backend in ("auto", "reference")
    )
    return _near(found, true, 1e-5)


def _flood(device: torch.device) -> str:
    from ...o_voxel.ops.connected_components import connected

    first = torch.arange(99, device=device)
    found, true = (connected(100, first, first + 1, backend=backend) for backend in ("auto", "reference"))
    return _same(found, true)


def _closest(device: torch.device) -> str:
    from ...o_voxel.ops.closest_point import build_index, closest_point

    index, points = build_index(_surface(device)), 0.3 * _random(device, 200, 3)
    found, true = (closest_point(index, points, backend=backend).distance for backend in ("auto", "reference"))
    return _near(found, true, 1e-5)


def _raster(device: torch.device) -> str:
    from ...o_voxel.ops.raster import rasterize

    mesh = _surface(device)
    clip = torch.nn.functional.pad(2 * mesh.vertices, (0, 1), value=1.0)
    found, true = (rasterize(clip, mesh.faces, (64, 64), backend=backend).face for backend in ("auto", "reference"))
    other = int((found != true).sum())
    if other > 8:
        raise ValueError(f"expected the reference's picture, got {other} of 4096 pixels of other faces")
    return f"{other} of 4096 pixels of another face"


OPS: dict[str, Callable[[torch.device], str]] = {
    "attention": _attention,
    "norm": _norm,
    "rotary embedding": _rope,
    "8-bit product": _eight_bit,
    "sparse convolution": _convolution,
    "hash grid, sampling": _grid,
    "connected components": _flood,
    "closest point": _closest,
    "rasteriser": _raster,
}


def _object(device: torch.device) -> str:
    """Makes a textured file of a picture: with the built-in model on a GPU, with a tiny random one elsewhere, where the
    built-in one takes a minute."""
    from ...o_voxel.asset import AssetOptions, make_asset
    from ...o_voxel.files.meshes.read import load_textured_mesh
    from ...o_voxel.files.meshes.write import save_mesh
    from ..checkpoint.builtin import NAME, find_built_in
    from ..checkpoint.tiny import FEW_FACES, make_tiny
    from ..pipeline import Pipeline
    from ..runtime.residency import KeepLoaded

    with tempfile.TemporaryDirectory() as folder:
        built_in = device.type != "cpu" and find_built_in() is not None
        source = NAME if built_in else str(make_tiny(Path(folder) / "tiny", size=FEW_FACES))
        pipeline = Pipeline.load(source, KeepLoaded(device))
        (asset,) = pipeline.run([[_picture()]], pipeline_type="512", steps=STEPS, seed=1)
        options = AssetOptions(faces=FACES, texture_size=TEXELS, surface="cleaned")
        path = Path(folder) / "object.glb"
        save_mesh(path, make_asset(asset.mesh, asset.field, options))
        loaded = load_textured_mesh(path)
        if not len(loaded.mesh.faces) or not loaded.materials:
            raise ValueError("expected a textured mesh in the file, got none")
        return f"{'mini' if built_in else 'a tiny random model'}, {len(loaded.mesh.faces):,} triangles"


def _picture() -> Image.Image:
    """A disc on black, as `prepare_image` makes pictures."""
    from PIL import Image, ImageDraw

    picture = Image.new("RGB", (256, 256))
    ImageDraw.Draw(picture).ellipse((32, 32, 224, 224), fill=(200, 90, 40))
    return picture
