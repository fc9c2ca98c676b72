"""nvdiffrast 0.4's interface, drawn by our reference: rows from the bottom, faces from 1, ties to the last face."""

import torch
from comfyui_trellis2.o_voxel.ops.raster.reference import interpolate, visible_faces


class RasterizeCudaContext:
    def __init__(self, device=None):
        self.device = torch.device(device)


def rasterize(glctx, pos, tri, resolution, ranges=None, grad_db=True):
    assert isinstance(glctx, RasterizeCudaContext) and glctx.device == pos.device == tri.device
    assert ranges is None and isinstance(grad_db, bool)
    assert pos.ndim == 3 and len(pos) == 1 and pos.shape[1] > 0 and pos.shape[2] == 4
    assert tri.ndim == 2 and len(tri) > 0 and tri.shape[1] == 3
    assert (pos.dtype, tri.dtype) == (torch.float32, torch.int32) and pos.is_contiguous() and tri.is_contiguous()
    height, width = resolution
    assert isinstance(height, int) and isinstance(width, int)
    last_first = visible_faces(pos[0], tri.flip(0), (height, width))
    face = torch.where(last_first >= 0, len(tri) - 1 - last_first, -1)
    weights, depth = interpolate(pos[0], tri, face)
    shown = torch.stack((weights[..., 0], weights[..., 1], depth, (face + 1).float()), dim=-1)
    shown[face < 0] = 0
    return shown.flip(0)[None].contiguous(), torch.zeros(1, height, width, 4)
