"""How many kernels Triton compiles: no more for another picture, and one for layers that differ little.

Asked of Triton without a GPU or a compiler: in a process of its own, where nothing is interpreted, a hook is told what
would be compiled for a Hopper card, and says that it need not be.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton.knobs")

ROOT = Path(__file__).parents[3]

ASK = """
import importlib.util, json, sys

import torch
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

root = sys.argv[1]
name = "comfyui_trellis2"
spec = importlib.util.spec_from_file_location(name, root + "/__init__.py", submodule_search_locations=[root])
sys.modules[name] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules[name])

from comfyui_trellis2.o_voxel.ops.dual_quads import kernel as quads
from comfyui_trellis2.o_voxel.ops.hash_grid import kernel as index
from comfyui_trellis2.trellis2.ops.norm_modulate import ResidualBranch, kernel as norm
from comfyui_trellis2.trellis2.ops.rope import kernel as rope
from comfyui_trellis2.trellis2.ops.submanifold_conv import kernel as conv
from comfyui_trellis2.trellis2.ops.submanifold_conv import kernel_maps as maps
from comfyui_trellis2.trellis2.ops.submanifold_conv import kernel_blocks as blocks


class Hopper:
    get_current_target = staticmethod(lambda: GPUTarget("cuda", 90, 32))
    get_current_device = staticmethod(lambda: 0)
    get_current_stream = staticmethod(lambda device: 0)


def told(fn, compile, **_):
    wanted.add(f"{fn.module}.{fn.name} {compile['key']}")
    return True


def halves(*shape):
    return torch.zeros(shape, dtype=torch.float16)


def integers(*shape, dtype=torch.int32):
    return torch.zeros(shape, dtype=dtype)


def convolutions(n, groups, *channels):
    for c, d, children in channels:
        slots = maps.TAPS // groups
        tiles = maps.TiledMap(
            integers(1, 128), integers(1), integers(1, slots), integers(1), integers(1, slots, 128), n, groups, children
        )
        conv.convolve(halves(n, c), tiles, halves(children * d, 3, 3, 3, c), halves(children * d))


def norms(n, channels):
    x, weight = halves(n, channels), torch.zeros(channels)
    for silu in (False, True):
        norm.affine(x, None, weight, weight, None, 1e-6, None, silu)
    norm.affine(x, None, None, None, None, 1e-6, None, True)


def picture(n):
    parent = integers(n, dtype=torch.int64)
    near = blocks.neighbors_by_blocks(integers(n, 4))
    voxels = integers(n, 3)
    table = index.build_table(voxels)
    index.find(*table, voxels)
    quads.find_corners(voxels, *table, parent)
    maps.child_neighbors(near, parent, parent, integers(n, 8))
    for total in (n, 10**6):
        maps.tile_neighbors(near, total=total)
        maps.tile_neighbors(near, parent, parent, total=total)
    convolutions(n, 1, (128, 128, 1))
    norms(n, 64)
    modulation = halves(1, 6 * 64).chunk(6, dim=1)
    norm.modulate(halves(n, 64), ResidualBranch(halves(n, 64), modulation[0]), *modulation[:2], None, 1e-6, None)
    rope.norm_rotate(halves(n, 4, 32), torch.zeros(4, 32), (torch.zeros(n, 16),) * 2, 1.0)


def asked(work, *args):
    global wanted
    wanted = set()
    work(*args)
    return sorted(wanted)


driver.set_active(Hopper())
knobs.runtime.jit_cache_hook = told
decoder = ((128, 128, 1), (256, 256, 1), (256, 128, 8), (384, 256, 8))
print(json.dumps({
    "pictures": [asked(picture, n) for n in (65, 64, 1)],
    "convolutions": [asked(convolutions, 65, groups, *decoder) for groups in (1, 3)],
    "norms": [asked(norms, 65, 256)],
}))
"""


@pytest.fixture(scope="module")
def compiled():
    """For each case, lists of what would be compiled."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}  # noqa: TID251
    asked = subprocess.run(
        [sys.executable, "-c", ASK, str(ROOT)], env=environment, capture_output=True, text=True, check=False
    )
    assert asked.returncode == 0, asked.stderr
    return json.loads(asked.stdout)


@pytest.mark.slow
def test_no_more_for_another_number_of_voxels(compiled):
    """A count that divides by 16, or is 1, is to Triton another kind of argument."""
    first, *others = compiled["pictures"]
    assert len(first) > 10
    assert others == [first, first]


@pytest.mark.slow
def test_one_convolution_for_every_width_and_for_children(compiled):
    assert [len(keys) for keys in compiled["convolutions"]] == [1, 2]  # with the sum of the groups


def test_one_norm_a_width(compiled):
    assert [len(keys) for keys in compiled["norms"]] == [1]
