"""temporary"""

import torch
from bench_bake import subject
from pack.o_voxel.mesh.bake import bake
from pack.o_voxel.mesh.bake_options import BakeOptions

g = subject(256, 20000)


def imgs(t):
    m = t.materials[0]
    return [getattr(m, n + "_texture").image for n in ("base_color", "metallic", "roughness", "normal", "occlusion")]


o = BakeOptions(resolution=1024, supersample=2, occlusion=True, occlusion_rays=16)
a = imgs(bake(*g, o))
b = imgs(bake(*g, o))
c = imgs(bake(*g, o, backend="reference"))
for x, y, z in zip(a, b, c, strict=True):
    d = (x.int() - z.int()).abs()
    print(torch.equal(x, y), d.max().item(), (d > 1).float().mean().item())
