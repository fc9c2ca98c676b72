"""Triangle rasterisation: visible face, barycentrics and depth per pixel, for rendering and texture baking."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.backend import Backend, always, numba_probe, resolve_backend, triton_probe
from ...core.checks import check_tensor
from . import library
from .reference import interpolate, visible_faces

MAX_SIDE = 1 << 15


@dataclass(frozen=True, eq=False)
class Raster:
    """Per-pixel results; row 0 is the top (clip y = +w).

    face: [H, W] int32, -1 if empty.  bary: [H, W, 3] float32, perspective-correct weights of the face's three corners,
    0 if empty.  depth: [H, W] float32, z / w in [-1, 1], inf if empty.
    """

    face: Tensor
    bary: Tensor
    depth: Tensor


BACKENDS = (
    Backend("triton", triton_probe),
    Backend("numba", numba_probe),
    Backend("reference", always),
    Backend("nvdiffrast", library.probe, automatic=False, licence=library.LICENCE),
)


def rasterize(clip_vertices: Tensor, faces: Tensor, size: tuple[int, int], *, backend: str = "auto") -> Raster:
    """Returns the nearest face of each pixel, on the vertices' device.

    clip_vertices: [V, 4] float32 (x, y, z, w), OpenGL clip space: the view volume is -w <= x, y, z <= w, the image's
    right is +x and its top row +y. A 2D drawing, such as a UV layout, has w = 1 and z = 0.
    faces: [F, 3] int32 or int64.  size: (H, W) pixels, each at most 32768.  backend: "auto", "triton", "numba" or
    "reference", which return the same bytes, or "nvdiffrast", which differs as `library` says. Apple's GPU has no
    float64: there the CPU does the work.

    A face covers the pixels whose centre is inside it; a centre on an edge belongs to the face of which it is a left or
    top edge, so faces that meet at an edge never share or miss a pixel. No backface culling. A face that crosses the
    near, far or camera plane is clipped per pixel; nothing behind the camera is drawn, nor degenerate faces. Depths
    within 2^-29 of each other count as equal, and the lowest face wins. Deterministic.
    Raises ValueError for vertices that are not finite or faces with out-of-range vertices.
    """
    check_tensor(clip_vertices, "clip_vertices", (None, 4), torch.float32)
    check_tensor(faces, "faces", (None, 3), (torch.int32, torch.int64))
    if clip_vertices.device != faces.device:
        raise ValueError(f"faces: expected them on {clip_vertices.device}, got {faces.device}")
    height, width = size
    if not (0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE):
        raise ValueError(f"size: expected (H, W) from 1 to {MAX_SIDE}, got {size}")
    if not bool(torch.isfinite(clip_vertices).all()):
        raise ValueError("clip_vertices: expected finite numbers, got NaN or infinity")
    if len(faces) and not 0 <= int(faces.min()) <= int(faces.max()) < len(clip_vertices):
        raise ValueError(f"faces: expected vertices 0 to {len(clip_vertices) - 1}, got {faces.min()} to {faces.max()}")
    if clip_vertices.device.type == "mps":
        raster = rasterize(clip_vertices.cpu(), faces.cpu(), size, backend=backend)
        return Raster(*(part.to(clip_vertices.device) for part in (raster.face, raster.bary, raster.depth)))
    chosen = resolve_backend(backend, BACKENDS, clip_vertices.device)
    if chosen == "nvdiffrast":
        return Raster(*library.rasterize_nvdiffrast(clip_vertices, faces, (height, width)))
    if chosen == "numba":
        from .kernel_cpu import rasterize_cpu

        return Raster(*rasterize_cpu(clip_vertices, faces, (height, width)))
    if chosen == "triton":
        from .kernel import rasterize_gpu

        return Raster(*rasterize_gpu(clip_vertices, faces, (height, width)))
    face = visible_faces(clip_vertices, faces, (height, width))
    return Raster(face, *interpolate(clip_vertices, faces, face))


__all__ = ["BACKENDS", "MAX_SIDE", "Raster", "rasterize"]
