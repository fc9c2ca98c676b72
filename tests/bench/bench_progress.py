"""Progress and cancel of every node on the CPU, with inputs of a usual size: the longest silence, and how long a cancel
takes to come out.

A stand-in for ComfyUI notes each check for a cancel and each move of the bar. Target: no silence above a second, and a
cancel within one. `--cancel`: the user cancels after half a second of work; the time until the node has raised.
Networks are not run here: their stages report a step at a time.
"""

import argparse
import itertools
import os
import tempfile
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace

import surfaces
import torch
from bench import load_pack  # noqa: F401 importing it loads the pack
from comfyui_trellis2 import nodes
from comfyui_trellis2.nodes import host
from comfyui_trellis2.nodes.bake import SHARE_UV
from comfyui_trellis2.nodes.host.folders import BUILT_IN
from comfyui_trellis2.nodes.image import OBJECT
from comfyui_trellis2.nodes.widgets import TYPE_FROM_MODEL
from comfyui_trellis2.o_voxel.core.grid import Grid
from comfyui_trellis2.o_voxel.files.meshes.trimesh import to_trimesh
from comfyui_trellis2.o_voxel.material import TexturedMesh
from comfyui_trellis2.o_voxel.mesh.repair.clean import clean
from comfyui_trellis2.o_voxel.mesh.simplify import simplify
from comfyui_trellis2.o_voxel.values import Mesh, OVoxel, VoxelField
from comfyui_trellis2.o_voxel.voxels.from_mesh import mesh_to_dual_grid
from comfyui_trellis2.o_voxel.voxels.to_mesh import dual_grid_to_mesh

CANCEL_AFTER = 0.5
TEXTURE = "2048"


class CancelledError(Exception):
    """What ComfyUI's InterruptProcessingException is."""


class Comfy:
    """ComfyUI's modules, as much of them as the mesh nodes call: notes reports, and cancels when it is told to."""

    def __init__(self, folder: Path) -> None:
        self.begun, self.checks, self.bars, self.cancel_at = 0.0, [], [], float("inf")
        comfy = self

        class ProgressBar:
            hook = None  # no browser to show pictures in

            def __init__(self, total: int) -> None:
                self.total = total

            def update_absolute(self, value: int, *_: object, **__: object) -> None:
                comfy.bars.append((time.perf_counter(), value / self.total))

        def check() -> None:
            now = time.perf_counter()
            self.checks.append(now)
            if now - self.begun > self.cancel_at:
                raise CancelledError

        self.modules = {
            "comfy.utils": SimpleNamespace(ProgressBar=ProgressBar),
            "comfy.model_management": SimpleNamespace(
                throw_exception_if_processing_interrupted=check, get_torch_device=lambda: torch.device("cpu")
            ),
        }
        # The folders of the pack outside ComfyUI.
        host.folders.ROOT = folder

    def run(self, work: Callable[[], object], cancel_at: float = float("inf")) -> tuple[object, float]:
        """(result, or None if it was cancelled; seconds)."""
        self.checks, self.bars, self.cancel_at = [], [], cancel_at
        self.begun = time.perf_counter()
        try:
            found = work()
        except CancelledError:
            found = None
        return found, time.perf_counter() - self.begun


class Inputs:
    """What the nodes are given, made when it is first asked for."""

    def __init__(self, resolution: int, faces: int) -> None:
        self.resolution, self.faces, self.files = resolution, faces, {}

    @cached_property
    def grid(self):
        # To sample the distance field on so fine a grid would take minutes; a coarser surface is voxelised instead.
        coarse = dual_grid_to_mesh(surfaces.dual_grid_of(surfaces.elephant, 144, torch.device("cpu"), 0.08))
        return mesh_to_dual_grid(clean(coarse)[0], Grid.cube(self.resolution))

    @cached_property
    def o_voxel(self) -> OVoxel:
        return OVoxel(self.grid, self.field)

    @cached_property
    def field(self) -> VoxelField:
        grid = self.grid.grid
        points = grid.to_world(self.grid.coords + 0.5)
        rest = torch.tensor([0.1, 0.7, 1.0]).expand(len(points), 3)
        return VoxelField(self.grid.coords, torch.cat([surfaces.elephant_colors(points), rest], 1), grid)

    @cached_property
    def raw(self) -> Mesh:
        return dual_grid_to_mesh(self.grid)

    @cached_property
    def dense(self) -> Mesh:
        return clean(self.raw)[0]

    @cached_property
    def light(self) -> Mesh:
        return simplify(self.dense, self.faces)

    @cached_property
    def torn(self) -> Mesh:
        """`dense` with some thousand small holes and a few with long rims."""
        middle = self.dense.vertices[self.dense.faces.long()].mean(1)
        random = torch.rand(len(middle), generator=torch.Generator().manual_seed(0))
        large = torch.zeros_like(random, dtype=torch.bool)
        for center in ((0.2, 0.1, 0.0), (-0.2, 0.1, 0.0), (0.0, 0.1, 0.19)):
            large |= (middle - torch.tensor(center)).norm(dim=1) < 0.03
        return Mesh(self.dense.vertices, self.dense.faces[~large & (random > 0.01)])

    @cached_property
    def unwrapped(self) -> TexturedMesh:
        return nodes.NODE_CLASS_MAPPINGS["T2Unwrap"]().unwrap(self.light, TEXTURE, 2, 60.0)[0]

    @cached_property
    def baked(self) -> TexturedMesh:
        call = nodes.NODE_CLASS_MAPPINGS["T2BakeTextures"]().bake
        return call(self.unwrapped, self.dense, self.field, TEXTURE, "1", True, True, "auto")[0]

    @cached_property
    def picture(self) -> torch.Tensor:
        """[1, 1024, 1024, 3] of the baked mesh."""
        return nodes.NODE_CLASS_MAPPINGS["T2RenderPreview"]().render(self.baked, 1, 1024, 30.0, 20.0)[0]

    @cached_property
    def mini(self) -> object:
        return nodes.NODE_CLASS_MAPPINGS["T2LoadModel"]().load(BUILT_IN, "auto", "auto")[0]

    @cached_property
    def latent(self) -> object:
        return nodes.NODE_CLASS_MAPPINGS["T2EncodeMesh"]().encode(self.mini, self.baked, TYPE_FROM_MODEL, False)[0]

    def file(self, name: str, save: Callable[[], dict]) -> str:
        """The absolute path of a file that a node saved."""
        if name not in self.files:
            self.files[name] = str(host.folders.comfy_folder("output") / save()["result"][0])
        return self.files[name]


def cases(inputs: Inputs) -> dict[str, Callable[[], Callable[[], object]]]:
    """By name: what prepares a case and returns the work to time."""
    made = {name: node() for name, node in nodes.NODE_CLASS_MAPPINGS.items()}

    def save_mesh(**options):
        return lambda: made["T2SaveMesh"].save(inputs.baked, "3d/bench", **options)

    def save_voxels(kind: str):
        return lambda: made["T2SaveVoxels"].save(inputs.o_voxel, "3d/bench", kind)

    def load(kind: str, fit: bool = True):
        path = inputs.file(f"saved.{kind}", save_mesh(format=kind))
        return lambda: made["T2LoadMesh"].load(path, fit)

    def load_voxels(kind: str):
        path = inputs.file(f"voxels.{kind}", save_voxels(kind))
        return lambda: made["T2LoadVoxels"].load(path, inputs.resolution)

    def with_inputs(call: Callable[[], object], *needed: str):
        for name in needed:
            getattr(inputs, name)
        return call

    size = inputs.resolution
    table = {
        "Clean Mesh": lambda: with_inputs(
            lambda: made["T2CleanMesh"].clean(inputs.raw, 1e-6, 1e-5, 0, 0.03, "volume"), "raw"
        ),
        "Clean Mesh, views": lambda: with_inputs(
            lambda: made["T2CleanMesh"].clean(inputs.raw, 1e-6, 1e-5, 0, 0.03, "views"), "raw"
        ),
        "Fill Holes": lambda: with_inputs(lambda: made["T2FillHoles"].fill(inputs.torn, 10.0, True), "torn"),
        "Simplify Mesh": lambda: with_inputs(
            lambda: made["T2SimplifyMesh"].simplify(inputs.dense, 50_000, 0.0), "dense"
        ),
        "Remesh, shell": lambda: with_inputs(
            lambda: made["T2Remesh"].remesh(inputs.dense, "outer shell", size), "dense"
        ),
        "Remesh, both": lambda: with_inputs(lambda: made["T2Remesh"].remesh(inputs.dense, "both sides", size), "dense"),
        "Remove Hidden Faces": lambda: with_inputs(
            lambda: made["T2RemoveHiddenFaces"].remove(inputs.dense, 1, 128), "dense"
        ),
        "Smooth Mesh": lambda: with_inputs(lambda: made["T2SmoothMesh"].smooth(inputs.dense, 10, 0.5, 60.0), "dense"),
        "Collision Mesh": lambda: with_inputs(lambda: made["T2CollisionMesh"].make(inputs.light, 1, 0.05), "light"),
        "Unwrap": lambda: with_inputs(lambda: made["T2Unwrap"].unwrap(inputs.light, TEXTURE, 2, 60.0), "light"),
        "Bake Textures": lambda: with_inputs(
            lambda: made["T2BakeTextures"].bake(
                inputs.unwrapped, inputs.dense, inputs.field, TEXTURE, "1", True, True, "auto"
            ),
            "unwrapped",
            "dense",
            "field",
        ),
        "Transfer Textures": lambda: with_inputs(
            lambda: made["T2TransferTextures"].transfer(
                inputs.unwrapped, inputs.baked, "textures", TEXTURE, True, False, "1", 2, 60.0, "auto", 0.0
            ),
            "unwrapped",
            "baked",
        ),
        "Save for Engine": lambda: with_inputs(
            lambda: made["T2SaveForEngine"].save(
                inputs.baked, "3d/engine", 3, 0.5, "a file per level", "base", "opengl", 1.0
            ),
            "baked",
        ),
        "Game-Ready Asset": lambda: with_inputs(
            lambda: made["T2GameReadyAsset"].make(
                inputs.raw, "game high", 0, "from preset", "from preset", inputs.field
            ),
            "raw",
            "field",
        ),
        "Render Preview": lambda: with_inputs(
            lambda: made["T2RenderPreview"].render(inputs.raw, 2, 2048, 30.0, 20.0, inputs.field), "raw", "field"
        ),
        "Save GLB, voxels": lambda: with_inputs(
            lambda: made["T2SaveGLB"].save(inputs.raw, "3d/bench", inputs.field), "raw", "field"
        ),
        "Save Mesh, glb": lambda: with_inputs(save_mesh(format="glb"), "baked"),
        "Save Mesh, webp": lambda: with_inputs(save_mesh(format="glb", images="webp"), "baked"),
        "Save Mesh, draco": lambda: with_inputs(save_mesh(format="glb", geometry="draco"), "baked"),
        "Save Mesh, 4 MiB": lambda: with_inputs(save_mesh(format="glb", geometry="quantized", max_mib=14.0), "baked"),
        "Save Mesh, obj": lambda: with_inputs(save_mesh(format="obj"), "baked"),
        "Save Mesh, ply": lambda: with_inputs(save_mesh(format="ply"), "baked"),
        "Save Mesh, stl": lambda: with_inputs(save_mesh(format="stl"), "baked"),
        **{f"Load Mesh, {kind}": lambda kind=kind: load(kind) for kind in ("glb", "obj", "ply", "stl")},
        "Mesh to O-Voxel": lambda: with_inputs(
            lambda: made["T2MeshToVoxels"].voxelize(inputs.baked, size, True), "baked"
        ),
        "O-Voxel to Mesh": lambda: with_inputs(lambda: made["T2VoxelsToMesh"].extract(inputs.o_voxel, 0), "o_voxel"),
        **{
            f"Save O-Voxel, {kind}": lambda kind=kind: with_inputs(save_voxels(kind), "o_voxel")
            for kind in ("vxz", "npz", "ply")
        },
        **{f"Load O-Voxel, {kind}": lambda kind=kind: load_voxels(kind) for kind in ("vxz", "npz", "ply")},
        "Prepare Image": lambda: with_inputs(lambda: made["T2PrepareImage"].prepare(inputs.picture, OBJECT), "picture"),
        "Project Picture": lambda: with_inputs(
            lambda: made["T2ProjectPicture"].project(
                inputs.baked, inputs.picture, OBJECT, 1.0, "light", "4096", "find", 0.0, 20.0, 0.0, 1.2, 0.8
            ),
            "baked",
            "picture",
        ),
        "Texture Mesh": lambda: with_inputs(
            lambda: made["T2TextureMesh"].texture(inputs.baked, inputs.field, TEXTURE, SHARE_UV, "1", "auto", 2, False),
            "baked",
            "field",
        ),
        "Encode Mesh, mini": lambda: with_inputs(
            lambda: made["T2EncodeMesh"].encode(inputs.mini, inputs.baked, TYPE_FROM_MODEL, False), "baked", "mini"
        ),
        "Save Latent": lambda: with_inputs(
            lambda: made["T2SaveLatent"].save("latents/bench", shape=inputs.latent), "latent"
        ),
        "Load Latent": lambda: load_latent_case(inputs, made),
        "to ComfyUI Mesh": lambda: with_inputs(lambda: made["T2ToComfyMesh"].convert(inputs.baked), "baked"),
        "to Trimesh": lambda: with_inputs(lambda: made["T2ToTrimesh"].convert(inputs.baked), "baked"),
        "from Trimesh": lambda: from_trimesh_case(inputs, made),
    }
    return table


def load_latent_case(inputs: Inputs, made: dict[str, object]) -> Callable[[], object]:
    path = inputs.file("latent", lambda: made["T2SaveLatent"].save("latents/bench", shape=inputs.latent))
    return lambda: made["T2LoadLatent"].load(path)


def from_trimesh_case(inputs: Inputs, made: dict[str, object]) -> Callable[[], object]:
    theirs = to_trimesh(inputs.baked)
    return lambda: made["T2FromTrimesh"].convert(theirs, "y")


def gaps(times: list[float], begun: float, seconds: float) -> tuple[float, float]:
    """(longest silence, when it began after the start), of reports at `times`."""
    ends = [begun, *times, begun + seconds]
    longest = max(range(len(ends) - 1), key=lambda n: ends[n + 1] - ends[n])
    return ends[longest + 1] - ends[longest], ends[longest] - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", default=[], help="cases whose name contains one of these")
    parser.add_argument("--resolution", type=int, default=512)
    parser.add_argument("--faces", type=int, default=300_000)
    parser.add_argument("--cancel", action="store_true")
    parser.add_argument("--cold", action="store_true", help="do not run each case once before")
    parser.add_argument("--trace", action="store_true", help="print silences above 0.4 s, and the bar's above 0.9 s")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(options, Inputs(options.resolution, options.faces), Comfy(Path(folder)))


def measure(options: argparse.Namespace, inputs: Inputs, comfy: Comfy) -> None:
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores, {torch.get_num_threads()} threads", flush=True)
    columns = f"{'seconds':>8}{'checks':>8}{'bars':>6}{'silence':>9}{'at s':>7}{'bar gap':>9}{'last':>6}"
    head = "raises after s" if options.cancel else columns
    print(f"{'node':<22}{head}", flush=True)
    outside = host.comfyui.module
    for name, prepare in cases(inputs).items():
        if options.only and not any(part.lower() in name.lower() for part in options.only):
            continue
        try:
            work = prepare()
            if not options.cold:
                work()
            host.comfyui.module = comfy.modules.get
            if options.cancel:
                found, seconds = comfy.run(work, CANCEL_AFTER)
                late = "ended before" if found is not None else f"{seconds - CANCEL_AFTER:.2f}"
                print(f"{name:<22}{late:>14}", flush=True)
                continue
            _, seconds = comfy.run(work)
        except ImportError as error:
            print(f"{name:<22}not run: {error}", flush=True)
            continue
        finally:
            host.comfyui.module = outside
        silence, at = gaps(comfy.checks, comfy.begun, seconds)
        bar, _ = gaps([when for when, _ in comfy.bars], comfy.begun, seconds)
        last = comfy.bars[-1][1] if comfy.bars else 0.0
        row = f"{seconds:8.2f}{len(comfy.checks):8d}{len(comfy.bars):6d}{silence:9.2f}{at:7.2f}{bar:9.2f}{last:6.2f}"
        print(f"{name:<22}{row}", flush=True)
        if options.trace:
            ends = [comfy.begun, *comfy.checks, comfy.begun + seconds]
            for a, b in itertools.pairwise(ends):
                if b - a > 0.4:
                    print(f"    {a - comfy.begun:7.2f} .. {b - comfy.begun:7.2f}: {b - a:.2f}")
            stood = [(comfy.begun, 0.0), *comfy.bars, (comfy.begun + seconds, 1.0)]
            for (a, fraction), (b, _) in itertools.pairwise(stood):
                if b - a > 0.9:
                    span = f"{a - comfy.begun:7.2f} .. {b - comfy.begun:7.2f}"
                    print(f"    {span}: {b - a:.2f}, the bar at {fraction:.3f}")


if __name__ == "__main__":
    main()
