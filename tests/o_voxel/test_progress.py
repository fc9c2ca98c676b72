"""Every function with progress: fractions that rise to 1, a cancel that leaves nothing behind, the same bytes."""

import dataclasses
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from comfyui_trellis2.o_voxel.bake.bake import bake
from comfyui_trellis2.o_voxel.bake.options import BakeOptions
from comfyui_trellis2.o_voxel.core.grid import Grid
from comfyui_trellis2.o_voxel.core.progress import POLL, in_background, scaled, silent, staged
from comfyui_trellis2.o_voxel.files.meshes.read import load_textured_mesh
from comfyui_trellis2.o_voxel.files.meshes.write import save_mesh
from comfyui_trellis2.o_voxel.files.voxels.read_write import read_voxels, write_voxels
from comfyui_trellis2.o_voxel.files.voxels.records import to_records
from comfyui_trellis2.o_voxel.material import Material, Texture, TexturedMesh
from comfyui_trellis2.o_voxel.mesh.normals import smooth_by_angle
from comfyui_trellis2.o_voxel.mesh.remesh.outer_shell import outer_shell
from comfyui_trellis2.o_voxel.mesh.remesh.remesh import remesh
from comfyui_trellis2.o_voxel.mesh.repair.clean import clean
from comfyui_trellis2.o_voxel.mesh.repair.fill_holes import fill_holes
from comfyui_trellis2.o_voxel.mesh.simplify import simplify
from comfyui_trellis2.o_voxel.mesh.uv.unwrap import unwrap
from comfyui_trellis2.o_voxel.ops.simplify import library
from comfyui_trellis2.o_voxel.render import Camera, mesh_scene, render_turntable
from comfyui_trellis2.o_voxel.values import Mesh, VoxelField
from comfyui_trellis2.o_voxel.voxels.from_mesh import mesh_to_dual_grid, voxelize
from comfyui_trellis2.o_voxel.voxels.sample import vertex_materials
from comfyui_trellis2.o_voxel.voxels.to_mesh import dual_grid_to_mesh


class Stop(Exception):
    """What a host raises in a report, to cancel."""


def knot(count: int = 24, open_: bool = False) -> Mesh:
    """A bumpy torus of 2 count^2 faces, or one without some of its faces."""
    turn = torch.arange(count) * (2 * torch.pi / count)
    u, v = torch.meshgrid(turn, turn, indexing="ij")
    ring = 0.3 + (0.1 + 0.02 * torch.sin(3 * u)) * torch.cos(v)
    points = torch.stack([ring * torch.cos(u), ring * torch.sin(u), 0.1 * torch.sin(v)], -1).reshape(-1, 3)
    row = torch.arange(count * count).reshape(count, count)
    a, b, c, d = row, row.roll(-1, 0), row.roll((-1, -1), (0, 1)), row.roll(-1, 1)
    faces = torch.cat([torch.stack([a, b, c], -1).reshape(-1, 3), torch.stack([a, c, d], -1).reshape(-1, 3)])
    return Mesh(points.float(), faces[40:] if open_ else faces)


GRID = Grid.cube(32)


def field_of(coords: torch.Tensor) -> VoxelField:
    shades = (coords.float() / 32).clamp(0, 1)
    return VoxelField(coords, torch.cat([shades, shades], 1), GRID)


@pytest.fixture(scope="module")
def made():
    """A mesh, its UV map, voxels, and a textured mesh."""
    mesh = knot()
    uv_map = unwrap(mesh, resolution=128)
    voxels = voxelize(TexturedMesh(mesh, (Material(),)), GRID)
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    surface = Material(base_color_texture=Texture(image), metallic_factor=0.0)
    textured = TexturedMesh(mesh, (surface,), uv=uv_map.uv, uv_faces=uv_map.faces)
    return mesh, uv_map, voxels, textured


def write(folder: Path, suffix: str, textured: TexturedMesh, progress) -> bytes:
    save_mesh(folder / f"a{suffix}", textured, progress=progress)
    return b"".join(path.read_bytes() for path in sorted(folder.iterdir()))


def write_records(folder: Path, suffix: str, voxels, progress) -> bytes:
    write_voxels(folder / f"a{suffix}", to_records(voxels), progress=progress)
    return (folder / f"a{suffix}").read_bytes()


# name -> work(made, empty folder, progress)
WORK = {
    "clean": lambda m, f, p: clean(m[0], progress=p),
    "fill_holes": lambda m, f, p: fill_holes(knot(open_=True), 10.0, progress=p),
    "simplify": lambda m, f, p: simplify(m[0], 300, progress=p),
    "simplify, reference": lambda m, f, p: simplify(m[0], 300, backend="reference", progress=p),
    "remesh": lambda m, f, p: remesh(m[0], 24, progress=p),
    "outer_shell": lambda m, f, p: outer_shell(m[0], 24, progress=p),
    "smooth_by_angle": lambda m, f, p: smooth_by_angle(m[0], 30.0, progress=p),
    "unwrap": lambda m, f, p: unwrap(m[0], resolution=128, progress=p),
    "bake": lambda m, f, p: bake(
        m[0], m[1], m[0], m[2].field, BakeOptions(resolution=64, occlusion_rays=4), progress=p
    ),
    "mesh_to_dual_grid": lambda m, f, p: mesh_to_dual_grid(m[0], GRID, progress=p),
    "voxelize": lambda m, f, p: voxelize(m[3], GRID, progress=p),
    "dual_grid_to_mesh": lambda m, f, p: dual_grid_to_mesh(m[2].dual_grid, progress=p),
    "dual_grid_to_mesh, tiles": lambda m, f, p: dual_grid_to_mesh(m[2].dual_grid, 8, progress=p),
    "vertex_materials": lambda m, f, p: vertex_materials(m[0], m[2].field, progress=p),
    "render_turntable": lambda m, f, p: render_turntable(
        mesh_scene(m[0]), 2, Camera(), (32, 32), progress=None if p is None else lambda done, all_: p(done / all_)
    ),
    **{f"save {s}": lambda m, f, p, s=s: write(f, s, m[3], p) for s in (".glb", ".obj", ".ply", ".stl")},
    **{f"save {s} voxels": lambda m, f, p, s=s: write_records(f, s, m[2], p) for s in (".vxz", ".npz", ".ply")},
}
LOADED = {
    **{f"load {s}": lambda m, f, p, s=s: load_textured_mesh(saved(m, f, s), progress=p) for s in (".glb", ".obj")},
    **{f"load {s} voxels": lambda m, f, p, s=s: read_voxels(saved(m, f, s), progress=p) for s in (".vxz", ".npz")},
}
every = pytest.mark.parametrize("name", [*WORK, *LOADED])


def saved(made, folder: Path, suffix: str) -> Path:
    """A file in the folder beside `folder`, so that `folder` stays empty."""
    path = folder.parent / f"given{suffix}"
    if suffix in (".vxz", ".npz"):
        write_voxels(path, to_records(made[2]))
    else:
        save_mesh(path, made[3])
    return path


def leaves(value) -> list:
    """The arrays in a result, for comparison."""
    if isinstance(value, torch.Tensor):
        return [value]
    if dataclasses.is_dataclass(value):
        return [leaf for f in dataclasses.fields(value) for leaf in leaves(getattr(value, f.name))]
    if isinstance(value, dict):
        return [leaf for part in value.values() for leaf in leaves(part)]
    if isinstance(value, tuple | list):
        return [leaf for part in value for leaf in leaves(part)]
    return [value] if isinstance(value, bytes | float | int | str) else []


def same(a: list, b: list) -> bool:
    return len(a) == len(b) and all(
        torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y for x, y in zip(a, b, strict=True)
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


@every
def test_fractions_rise_to_one_and_change_nothing(name, made, folder, tmp_path):
    work, seen = (WORK | LOADED)[name], []
    with_progress = leaves(work(made, folder, seen.append))
    assert seen == sorted(seen)
    assert seen[-1] == 1
    assert min(seen) >= 0
    (tmp_path / "again").mkdir()
    assert with_progress
    assert same(with_progress, leaves(work(made, tmp_path / "again", None)))


@pytest.mark.slow
@every
@pytest.mark.parametrize("last", [1, 2, 3])
def test_a_cancel_comes_out_and_leaves_no_file(name, made, folder, last):
    calls = []

    def report(fraction: float) -> None:
        calls.append(fraction)
        if len(calls) >= last or fraction == 1:
            raise Stop

    with pytest.raises(Stop):
        (WORK | LOADED)[name](made, folder, report)
    assert list(folder.iterdir()) == []


class TestInBackground:
    def test_without_progress_it_runs_here(self):
        for progress in (None, silent, scaled(None, 0, 1), scaled(silent, 0, 1), staged(None, "a")):
            assert in_background(lambda report: threading.current_thread(), progress, 1) is threading.current_thread()

    def test_it_moves_on_where_the_work_has_reported_all(self):
        seen = []

        def work(report) -> None:
            report(1.0)
            time.sleep(4.5 * POLL)

        in_background(work, seen.append, 10.0)
        moving = seen[:-1]
        assert len(moving) >= 4
        assert all(before < after < 1 for before, after in zip(moving, moving[1:], strict=False))
        assert round(10_000 * moving[-1]) > round(10_000 * moving[0])
        assert seen[-1] == 1

    def test_it_reports_while_a_call_is_silent(self):
        seen = []
        assert in_background(lambda report: time.sleep(4.5 * POLL), seen.append, 1.0) is None
        assert len(seen) == 5
        assert all(low < high for low, high in zip(seen, seen[1:], strict=False))
        assert max(seen[:-1]) < 1

    def test_a_cancel_does_not_wait_for_the_call(self):
        ended = threading.Event()

        def work(report):
            ended.wait(20)

        def cancel(fraction):
            raise Stop

        begun = time.monotonic()
        with pytest.raises(Stop):
            in_background(work, cancel, 1.0)
        assert time.monotonic() - begun < 10
        assert not ended.is_set()
        ended.set()

    def test_a_call_that_was_left_ends_at_its_next_report(self):
        resumed, ends = threading.Event(), threading.Event()
        reached = []

        def work(report):
            try:
                resumed.wait(20)
                report(0.5)
                reached.append(1)
            finally:
                ends.set()

        def cancel(fraction):
            raise Stop

        with pytest.raises(Stop):
            in_background(work, cancel, 1.0)
        resumed.set()
        assert ends.wait(20)
        assert reached == []

    def test_the_process_does_not_end_in_the_middle_of_it(self, tmp_path):
        root, note = Path(__file__).resolve().parents[2], tmp_path / "ended"
        script = f"""
import importlib.util, sys, time
sys.path[:] = filter(None, sys.path)
spec = importlib.util.spec_from_file_location("progress", {str(root / "o_voxel/core/progress.py")!r})
module = importlib.util.module_from_spec(spec)
sys.modules["progress"] = module
spec.loader.exec_module(module)
def work(report):
    try:
        while True:
            report(0.5)
            time.sleep(0.05)
    finally:
        time.sleep(0.3)
        open({str(note)!r}, "w").close()
def cancel(fraction):
    raise SystemExit(0)
module.in_background(work, cancel, 1.0)
"""
        assert subprocess.run([sys.executable, "-c", script], timeout=100, check=False).returncode == 0
        assert note.exists()

    def test_errors_of_the_work_propagate(self):
        with pytest.raises(ValueError, match="wrong"):
            in_background(lambda report: (_ for _ in ()).throw(ValueError("wrong")), lambda fraction: None, 1.0)

    @pytest.mark.parametrize("inference", [False, True])
    def test_modes_of_torch_are_the_callers(self, inference):
        for gradients in (False, True):
            with torch.inference_mode(inference), torch.set_grad_enabled(gradients and not inference):
                wanted = torch.is_inference_mode_enabled(), torch.is_grad_enabled()
                found = in_background(
                    lambda report: (torch.is_inference_mode_enabled(), torch.is_grad_enabled()), lambda f: None, 1.0
                )
            assert found == wanted

    @pytest.mark.gpu
    def test_the_device_and_stream_are_the_callers(self):
        with torch.cuda.stream(torch.cuda.Stream()) as _:
            wanted = torch.cuda.current_stream()
            assert in_background(lambda report: torch.cuda.current_stream(), lambda f: None, 1.0) == wanted


class TestLibraryProcess:
    """fast-simplification in a process of its own."""

    @pytest.fixture(autouse=True)
    def small(self, monkeypatch):
        pytest.importorskip("fast_simplification")
        monkeypatch.setattr(library, "ALONE_FROM", 1)

    @pytest.mark.slow
    def test_it_gives_the_same_bytes(self):
        mesh, seen = knot(40), []
        by_process = simplify(mesh, 500, backend="library", progress=seen.append)
        assert seen[-1] == 1
        assert same(leaves(by_process), leaves(simplify(mesh, 500, backend="library")))

    @pytest.mark.slow
    def test_where_it_fails_the_library_runs_here(self, monkeypatch, caplog):
        monkeypatch.setattr(library, "SCRIPT", "raise SystemExit('no such thing')")
        mesh = knot(40)
        found = simplify(mesh, 500, backend="library", progress=lambda fraction: None)
        assert "no such thing" in caplog.text
        assert same(leaves(found), leaves(simplify(mesh, 500, backend="library")))

    def test_a_cancel_ends_the_process(self, monkeypatch):
        monkeypatch.setattr(library, "SCRIPT", "import time; time.sleep(60)")
        processes = []
        start = library.subprocess.Popen
        monkeypatch.setattr(
            library.subprocess, "Popen", lambda *a, **k: processes.append(start(*a, **k)) or processes[0]
        )

        def cancel(fraction):
            if processes:
                raise Stop

        with pytest.raises(Stop):
            simplify(knot(40), 500, backend="library", progress=cancel)
        assert processes[0].wait(20) != 0
