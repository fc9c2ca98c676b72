"""Toy objects and a toy recipe: a ball and a box, and networks a few channels wide."""

import copy
import math
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from comfyui_trellis2.o_voxel.core.grid import Grid
from comfyui_trellis2.o_voxel.material import Material, TexturedMesh
from comfyui_trellis2.o_voxel.values import Mesh
from comfyui_trellis2.o_voxel.voxels.from_mesh import voxelize
from comfyui_trellis2.trellis2.projection.framing import OrbitView
from comfyui_trellis2.trellis2.training.data.dataset import Sample, Source
from comfyui_trellis2.trellis2.training.loop.distributed import DistributedContext
from comfyui_trellis2.trellis2.training.recipe import parse_recipe
from comfyui_trellis2.trellis2.training.tasks import TASKS
from PIL import Image, ImageDraw

ROOT = Path(__file__).parents[3]
TETRAHEDRON = "v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\nf 1 3 2\nf 1 2 4\nf 1 4 3\nf 2 3 4\n"
RADIUS = 0.17  # of the cube
FRONT = OrbitView(0.0, 0.0, 20.0)
COLORS = ((0.9, 0.2, 0.1), (0.1, 0.3, 0.8))
WIDTHS = [16, 16, 16, 16, 16]


def ball() -> Mesh:
    rings, sides = 8, 12
    points = [
        (math.sin(a) * math.cos(b), math.sin(a) * math.sin(b), math.cos(a))
        for a in [math.pi * i / rings for i in range(rings + 1)]
        for b in [2 * math.pi * j / sides for j in range(sides)]
    ]
    faces = []
    for i in range(rings):
        for j in range(sides):
            a, b = i * sides + j, i * sides + (j + 1) % sides
            faces += [(a, a + sides, b), (b, a + sides, b + sides)]
    return Mesh(torch.tensor(points), torch.tensor(faces))


def box() -> Mesh:
    corners = torch.cartesian_prod(*[torch.tensor([-0.8, 0.8])] * 3)
    sides = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    faces = [face for a, b, c, d in sides for face in ((a, b, c), (a, c, d))]
    return Mesh(corners, torch.tensor(faces))


@cache
def toy_object(index: int, *, resolution: int, image_size: int, views: int, materials: bool = True) -> Sample:
    """Even: a red ball.  Odd: a blue box. A third of the cube across: 22 voxels at 64."""
    odd = index % 2
    shape = box() if odd else ball()
    mesh = TexturedMesh(Mesh(shape.vertices * RADIUS, shape.faces), (Material(base_color_factor=COLORS[odd]),))
    image = Image.new("RGBA", (64, 64))
    draw = ImageDraw.Draw(image)
    (draw.rectangle if odd else draw.ellipse)((8, 8, 55, 55), fill=(*(int(255 * c) for c in COLORS[odd]), 255))
    voxels = voxelize(mesh, Grid.cube(resolution), materials=materials)
    return Sample.of(voxels, [image] * views, [FRONT] * views, image_size)


def convnext(levels: int, **args) -> dict:
    blocks = {"block_type": ["SparseConvNeXtBlock3d"] * levels, "num_blocks": [1] * (levels - 1) + [0]}
    return {"model_channels": WIDTHS[:levels], "latent_channels": 4, **blocks, **args}


def flow(resolution: int, inputs: int, channels: int) -> dict:
    return {
        "resolution": resolution,
        "in_channels": inputs,
        "out_channels": channels,
        "model_channels": 48,
        "cond_channels": 32,
        "num_blocks": 2,
        "num_heads": 2,
        "mlp_ratio": 2,
        "pe_mode": "rope",
        "share_mod": True,
        "qk_rms_norm": True,
        "qk_rms_norm_cross": True,
    }


def network(name: str, **args) -> dict:
    return {"name": name, "args": args}


DOWN, UP = ["SparseResBlockS2C3d"] * 4, ["SparseResBlockC2S3d"] * 4
DENSE = {"latent_channels": 4, "num_res_blocks": 1, "num_res_blocks_middle": 1}
NETWORKS = {
    "sparse_structure_encoder": network("SparseStructureEncoder", in_channels=1, channels=[8, 16, 16], **DENSE),
    "sparse_structure_decoder": network("SparseStructureDecoder", out_channels=1, channels=[16, 16, 8], **DENSE),
    "shape_slat_encoder": network("FlexiDualGridVaeEncoder", **convnext(5, down_block_type=DOWN)),
    "shape_slat_decoder": network("FlexiDualGridVaeDecoder", **convnext(5, up_block_type=UP, resolution=512)),
    "tex_slat_encoder": network("SparseUnetVaeEncoder", **convnext(5, down_block_type=DOWN, in_channels=6)),
    "tex_slat_decoder": network(
        "SparseUnetVaeDecoder", **convnext(5, up_block_type=UP, out_channels=6, pred_subdiv=False)
    ),
    "sparse_structure_flow_model": network("SparseStructureFlowModel", **flow(8, 4, 4)),
    "shape_slat_flow_model_512": network("SLatFlowModel", **flow(32, 4, 4)),
    "tex_slat_flow_model_512": network("SLatFlowModel", **flow(32, 8, 4)),
    "image_encoder": {
        "model_type": "dinov3_vit",
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "num_register_tokens": 1,
        "patch_size": 128,
    },
}
STAGE = {"batch": 2, "learning_rate": 3e-3, "resolution": 64, "warmup": 5, "ema": 0.9, "log_every": 1}


NAMES = ("structure_vae", "shape_vae", "texture_vae", "structure_flow", "shape_flow", "texture_flow")


def recipe_data(steps: int, names=NAMES, data=None, **stage) -> dict:
    """A toy recipe as JSON: these stages, `steps` each; `stage` goes into all, `data` into its "data"."""
    stages = {name: {**STAGE, "steps": steps, **stage} for name in names}
    if "structure_flow" in stages:
        stages["structure_flow"]["train_image_encoder"] = True
    data = {"objects": 2, "views": 1, "structure": 32, **(data or {})}
    return copy.deepcopy({"seed": 3, "data": data, "networks": NETWORKS, "stages": stages})


SOURCE = Source(toy_object, "toy")


@pytest.fixture
def toy_data():
    return recipe_data


@pytest.fixture
def toy():
    """toy(steps, names, data, **stage) -> the toy recipe."""
    return lambda *args, **kwargs: parse_recipe(recipe_data(*args, **kwargs), TASKS, "toy.json")


@pytest.fixture
def source():
    return SOURCE


@pytest.fixture
def alone():
    return DistributedContext(torch.device("cpu"))


@pytest.fixture(scope="module")
def module_toy():
    """The same for a fixture that lives as long as its module: (recipe data, source, context)."""
    return recipe_data, SOURCE, DistributedContext(torch.device("cpu"))


@pytest.fixture
def meshes(tmp_path):
    """A folder with a mesh file to learn from, beside the pack as an installed package, as far as a Python that starts
    there can tell: worker processes have to import it again."""
    (tmp_path / "meshes").mkdir()
    (tmp_path / "meshes/tetrahedron.obj").write_text(TETRAHEDRON, encoding="utf-8")
    (tmp_path / "comfyui_trellis2").symlink_to(ROOT, target_is_directory=True)
    return tmp_path / "meshes"


@pytest.fixture
def program():
    """`trellis2` as another process, its arguments to follow."""
    run = "import sys; from comfyui_trellis2.trellis2.cli.main import main; sys.exit(main(sys.argv[1:]))"
    return [sys.executable, "-c", run]
