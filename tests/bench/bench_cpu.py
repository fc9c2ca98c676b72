"""Where the time of the CPU lines goes: a picture to an asset with mini, and a mesh to "game low" at 512, by stage.

Each case is one run of the command line in this process. A row holds what a function took with all that it calls: wall
seconds, seconds of all cores, calls, and the most main memory held meanwhile; indented rows are part of the one above.
Run it twice: the first run also compiles kernels. On a machine with other work, with OMP_NUM_THREADS=1: torch's
threads wait for each other by spinning, and on a core that is taken each small operation then costs a time slice.

    python tests/bench/bench_cpu.py picture assets/images/teapot.png
    python tests/bench/bench_cpu.py mesh Duck.glb
    python tests/bench/bench_cpu.py picture mug.png --deeper          # with the parts of each stage
"""

from __future__ import annotations

import argparse
import functools
import importlib
import os
import resource
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import bench  # noqa: F401 makes the pack importable

PACK = "comfyui_trellis2."
STAGES = "trellis2.sampling.stages"
ASSET = "o_voxel.asset"
# (module, function): rows, in the order of the table; nesting is found when they run.
ROWS = {
    "picture": (
        ("trellis2.pipeline", "Pipeline.load"),
        (STAGES, "encode_images"),
        (STAGES, "sample_structure"),
        (STAGES, "sample_shape"),
        (STAGES, "sample_texture"),
        (STAGES, "decode"),
    ),
    "mesh": (
        ("o_voxel.files.meshes.read", "load_textured_mesh"),
        ("o_voxel.voxels.from_mesh", "voxelize"),
        ("o_voxel.voxels.to_mesh", "dual_grid_to_mesh"),
    ),
    "both": (
        (ASSET, "clean"),
        (ASSET, "choose_surface"),
        (ASSET, "outer_shell"),
        (ASSET, "remove_small_components"),
        (ASSET, "select_faces"),
        (ASSET, "simplify"),
        (ASSET, "unwrap"),
        (ASSET, "smooth_by_angle"),
        (ASSET, "bake"),
        ("o_voxel.files.meshes.write", "save_mesh"),
        ("o_voxel.files.meshes.engine", "save_for_engine"),
    ),
    "deeper": (
        ("trellis2.networks", "Networks.model"),
        (STAGES, "sample_structure_latent"),
        (STAGES, "sample_sparse_latent"),
        ("trellis2.models.structure_vae", "StructureDecoder.forward"),
        ("trellis2.models.sparse_vae", "SparseDecoder.forward"),
        ("trellis2.models.sparse_vae", "ConvNeXtBlock._mix"),
        ("trellis2.models.sparse_vae", "child_conv"),
        ("trellis2.models.sparse_vae", "UpBlock._skip"),
        ("trellis2.models.sparse_vae", "UpBlock.active"),
        ("trellis2.models.sparse_vae", "SparseDecoder._read_out"),
        ("trellis2.sparse.layers", "submanifold_conv"),
        ("trellis2.sparse.coords", "CoordSet.subdivide"),
        ("trellis2.sparse.coords", "CoordSet.neighbors"),
        (STAGES, "dual_grid_to_mesh"),
        ("o_voxel.mesh.repair.choose", "measure"),
        ("o_voxel.mesh.repair.choose", "hidden_faces"),
        ("o_voxel.mesh.repair.hidden", "rasterize"),
        ("o_voxel.mesh.remesh.outer_shell", "build_index"),
        ("o_voxel.mesh.remesh.outer_shell", "flooded_solid"),
        ("o_voxel.mesh.remesh.outer_shell", "sample_narrow_band"),
        ("o_voxel.mesh.remesh.outer_shell", "flood_outside"),
        ("o_voxel.mesh.remesh.outer_shell", "contour"),
        ("o_voxel.mesh.remesh.outer_shell", "_erode"),
        ("o_voxel.mesh.remesh.outer_shell", "shrinkwrap"),
        ("o_voxel.mesh.repair.clean", "close_vertices"),
        ("o_voxel.mesh.repair.clean", "_distinct_faces"),
        ("o_voxel.mesh.repair.clean", "join_faces"),
        ("o_voxel.mesh.repair.clean", "split_surface"),
        ("o_voxel.mesh.repair.clean", "large_enough"),
        ("o_voxel.mesh.repair.clean", "faces_to_turn"),
        ("o_voxel.mesh.repair.clean", "hole_faces"),
        ("o_voxel.bake.sources", "render_depth_maps"),
        ("o_voxel.bake.sources", "ambient_occlusion"),
        ("o_voxel.bake.snap", "closest_point"),
        ("o_voxel.bake.snap", "build_index"),
        ("o_voxel.bake.snap", "DenseSurface.snap"),
        ("o_voxel.bake.atlas", "Atlas.write"),
        ("o_voxel.bake.atlas", "Atlas.material"),
        ("o_voxel.bake.sources", "grid_samples"),
    ),
}


@dataclass
class Row:
    """What the calls of a function under the same caller took: wall and core seconds, calls, most memory in bytes."""

    wall: float = 0.0
    cores: float = 0.0
    calls: int = 0
    peak: int = 0


@dataclass
class Watch:
    """Rows by the path of watched callers, and the path of the call that runs."""

    rows: dict[tuple[str, ...], Row] = field(default_factory=dict)
    path: tuple[str, ...] = ()

    def around(self, name: str, work: Callable) -> Callable:
        """`work`, timed."""

        @functools.wraps(work)
        def timed(*arguments: object, **named: object) -> object:
            before, self.path = self.path, (*self.path, name)
            row = self.rows.setdefault(self.path, Row())
            begun, used = time.perf_counter(), time.process_time()
            try:
                return work(*arguments, **named)
            finally:
                row.wall += time.perf_counter() - begun
                row.cores += time.process_time() - used
                row.calls += 1
                self.path = before

        return timed

    def install(self, module: str, name: str) -> None:
        """Puts the timed function in the place of the one that callers look up; leaves out what is not there."""
        owner = importlib.import_module(PACK + module)
        *outer, name = name.split(".")
        for part in outer:
            owner = getattr(owner, part)
        found = owner.__dict__.get(name) if isinstance(owner, type) else getattr(owner, name, None)
        if found is None:
            return
        label = ".".join((*outer, name))
        if isinstance(found, classmethod):
            setattr(owner, name, classmethod(self.around(label, found.__func__)))
        else:
            setattr(owner, name, self.around(label, found))

    def sample_memory(self) -> None:
        """Notes every few milliseconds how much memory is held, for the calls that run."""
        page = os.sysconf("SC_PAGE_SIZE")
        while True:
            held, path = int(Path("/proc/self/statm").read_text().split()[1]) * page, self.path
            for end in range(1, len(path) + 1):
                if (row := self.rows.get(path[:end])) is not None:
                    row.peak = max(row.peak, held)
            time.sleep(0.02)


def show(watch: Watch) -> None:
    """Prints the rows in the order in which they began."""
    order = sorted(watch.rows, key=lambda path: [list(watch.rows).index(path[: i + 1]) for i in range(len(path))])
    print(f"{'stage':<52}{'wall s':>8}{'cores s':>9}{'calls':>7}{'peak GB':>9}")
    for path in order:
        row = watch.rows[path]
        name = "  " * (len(path) - 1) + path[-1]
        print(f"{name:<52}{row.wall:8.2f}{row.cores:9.2f}{row.calls:7d}{row.peak / 1e9:9.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", choices=("picture", "mesh"))
    parser.add_argument("file", type=Path)
    parser.add_argument("-o", "--output", type=Path, help="keep the asset")
    parser.add_argument("--preset", help="of the asset (default: preview of a picture, game low of a mesh)")
    parser.add_argument("--deeper", action="store_true", help="also the parts of the stages")
    options = parser.parse_args()
    from comfyui_trellis2.trellis2.cli.main import main as command_line

    watch = Watch()
    for module, name in (*ROWS[options.case], *ROWS["both"], *(ROWS["deeper"] if options.deeper else ())):
        watch.install(module, name)
    if Path("/proc/self/statm").exists():
        threading.Thread(target=watch.sample_memory, daemon=True).start()
    with tempfile.TemporaryDirectory() as folder:
        output = str(options.output or Path(folder) / "made.glb")
        command = ["generate", str(options.file), "--model", "mini"] if options.case == "picture" else []
        command = command or ["asset", str(options.file)]
        preset = options.preset or ("preview" if options.case == "picture" else "game low")
        begun = time.perf_counter()
        command_line([*command, "--resolution", "512", "--preset", preset, "--device", "cpu", "-o", output])
        wall = time.perf_counter() - begun
    show(watch)
    # Of the whole process: what importing took is in it, and its peak.
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(
        f"{'whole':<52}{wall:8.2f}{time.process_time():9.2f}{'':7}{used.ru_maxrss * 1024 / 1e9:9.2f}"
        f"   user {used.ru_utime:.1f} s, system {used.ru_stime:.1f} s"
    )


if __name__ == "__main__":
    main()
