"""Shading on the CPU without torch's temporaries, for many small pictures: several times faster, equal up to rounding.

`Style.quick` chooses it. It draws scenes of a mesh with at most one table of textures, which is what the training world
has; others, and those on a GPU, are drawn as usual.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from math import pi

import numpy as np
import torch
from torch import Tensor

from ...core.backend import numba_probe
from ...ops.raster import Raster
from ..camera import View
from ..light import StudioLight
from ..scene import Scene

# Samples before the resolve: premultiplied colour [3, S], alpha [1, S], normal [3, S], depth [1, S].
Layers = tuple[Tensor, Tensor, Tensor, Tensor]
BANDS = 4  # a thread, for load balancing


def applies(scene: Scene) -> bool:
    """Whether this module draws the scene: on the CPU, with numba, materials without emission, normal maps and vertex
    colours."""
    materials = scene.surface_materials
    return (
        numba_probe(scene.vertices.device, torch.float32) is None
        and materials is not None
        and materials.emission is None
        and materials.normals is None
        and materials.colors is None
        and len(materials.tables) <= 1
    )


def shade_samples(scene: Scene, raster: Raster, view: View, light: StudioLight, yaw_deg: float) -> Layers:
    """Shades S samples, as `draw` does."""
    from .kernel_cpu import read_samples
    from .kernel_cpu import shade_samples as shade

    face, bary = raster.face.flatten().numpy(), raster.bary.view(-1, 3).numpy()
    axes = scene.vertices.new_zeros(0, 3) if scene.normals is None else scene.normals
    mesh = tuple(part.contiguous().numpy() for part in (scene.faces, scene.vertices, axes))
    materials, table = _texture_arrays(scene)
    place = tuple(view.position), tuple(view.back), view.orthographic
    lights, values, out = (
        _light_arrays(light, yaw_deg),
        np.empty((len(face), 6), np.float32),
        np.empty((len(face), 8), np.float32),
    )

    def run(rows: slice) -> None:
        read_samples(face[rows], bary[rows], materials, table, values[rows])
        shade(face[rows], bary[rows], mesh, values[rows], place, lights, out[rows])

    _in_threads(run, len(face))
    found = torch.from_numpy(out).T
    return found[:3], found[3:4], found[4:7], found[7:]


def resolve(layers: Layers, size: tuple[int, int], side: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Resolves side x side samples: mean colour [3, H, W], alpha [H, W], normal [3, H, W], least depth [H, W]."""
    from .kernel_cpu import resolve_pixels

    height, width = size
    wide = height * side, width * side
    color, normal = (layer.T.reshape(*wide, 3).numpy() for layer in (layers[0], layers[2]))
    alpha, depth = (layer.reshape(wide).numpy() for layer in (layers[1], layers[3]))
    found = [np.empty((height, width, *rest), np.float32) for rest in ((3,), (), (3,), ())]
    _in_threads(
        lambda rows: resolve_pixels((color, alpha, normal, depth), side, (rows.start, rows.stop), *found), height
    )
    colors, alphas, normals, depths = (torch.from_numpy(part) for part in found)
    return colors.permute(2, 0, 1), alphas, normals.permute(2, 0, 1), depths


def attenuate(color: Tensor, depth: Tensor, normal: Tensor, view: View, reach: float) -> None:
    """Multiplies color [3, H, W], as `resolve` returns it, by its ambient occlusion within `reach`, in place."""
    from .kernel_cpu import attenuate as multiply
    from .kernel_cpu import occlude

    pixels, turned = color.permute(1, 2, 0).numpy(), normal.permute(1, 2, 0).numpy()
    far, left = depth.numpy(), np.empty(depth.shape, np.float32)
    frame = np.array([view.right, view.up, view.back]), np.array(view.scale), view.orthographic
    _in_threads(lambda rows: occlude(far, turned, frame, reach, (rows.start, rows.stop), left), len(far))
    _in_threads(lambda rows: multiply(left, far, reach, (rows.start, rows.stop), pixels), len(far))


def encode(color: Tensor, alpha: Tensor) -> None:
    """Makes premultiplied linear color [3, H, W], as `resolve` returns it, straight and sRGB, in place."""
    from .kernel_cpu import encode as straighten

    pixels, covered = color.permute(1, 2, 0).numpy(), alpha.numpy()
    _in_threads(lambda rows: straighten(covered, (rows.start, rows.stop), pixels), len(covered))


def _in_threads(work: Callable[[slice], None], count: int) -> None:
    """Calls `work` on slices of `count` rows, from as many threads as torch uses; in this one if that is one."""
    threads = torch.get_num_threads()
    if threads == 1:
        work(slice(0, count))
        return
    edges = [count * k // (BANDS * threads) for k in range(BANDS * threads + 1)]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, [slice(i, j) for i, j in zip(edges[:-1], edges[1:], strict=True)]))


def _texture_arrays(scene: Scene) -> tuple[tuple, tuple]:
    """The arrays of `read_samples`. materials: of each face [F], factors [M, 6], cutoff [M], uv [F, 3, 2], textured
    [M].
    table: as TextureTable, for full images."""
    found = scene.surface_materials
    count = len(found.factors)
    uv = scene.vertices.new_zeros(len(found.material), 3, 2) if found.uv is None else found.uv
    if found.tables:
        (table,) = found.tables
        parts = (table.texels, table.offset, table.height, table.width, table.wrap, table.nearest)
        channels, textured = table.channels, table.last_level >= 0
    else:
        ones = torch.ones(count, 1, dtype=torch.int64)
        parts = (torch.zeros(1, 1, dtype=torch.uint8), ones - 1, ones, ones, ones.repeat(1, 2), ones[:, 0] > 1)
        channels, textured = (0,), ones[:, 0] > 1
    materials = (found.material, found.factors, found.cutoff, uv, textured)
    arrays = [tuple(part.contiguous().numpy() for part in group) for group in (materials, parts)]
    return arrays[0], (*arrays[1], np.array(channels, np.int64))


def _light_arrays(light: StudioLight, yaw_deg: float) -> tuple[np.ndarray, np.ndarray, float]:
    """(boxes [3, 16]: directions towards, across and along, half width, half height, intensity, colour, power over pi;
    radiance [3, 3] above, level and below; exposure)."""
    boxes = []
    for box in light.boxes:
        shape = (box.half_width, box.half_height, box.intensity)
        power = box.intensity * box.solid_angle / pi
        boxes.append([x for axis in box.axes(yaw_deg) for x in axis] + [*shape, *box.color, power])
    return np.array(boxes), np.array([light.sky, light.horizon, light.ground]), float(light.exposure)
