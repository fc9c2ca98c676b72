"""Unwrapping, checked by `check_uv`, on surfaces as TRELLIS generates them and on degenerate input."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from comfyui_trellis2.o_voxel.mesh.uv.check import check_uv
from comfyui_trellis2.o_voxel.mesh.uv.unwrap import unwrap
from comfyui_trellis2.o_voxel.values import Mesh

from ...shapes import box, fan, mesh, moebius, sheet, sphere

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture(scope="session")
def surfaces():
    """The benchmark module that generates test surfaces."""
    path = Path(__file__).resolve().parents[3] / "bench" / "surfaces.py"
    spec = importlib.util.spec_from_file_location("surfaces", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def check(made, found, size, gutter=2):
    """Checks the invariants of every layout and returns the report."""
    assert found.uv.dtype == torch.float32 and found.faces.dtype == made.faces.dtype
    report = check_uv(made, found.uv, found.faces, size)
    wrong = report.overlapping_texels, report.flipped, report.zero_area, report.outside
    assert wrong == (0, 0, 0, 0), report
    assert report.charts == 1 or report.gutter_texels >= gutter
    assert report.border_texels >= gutter // 2
    return report


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("shape", "charts"), [("bumpy", 40), ("thin", 600), ("boxes", 180)])
def test_noisy_surfaces(surfaces, shape, charts, device):
    made = surfaces.noisy_surface(shape, 4_000, device)
    found = unwrap(made, resolution=1024)
    report = check(made, found, 1024)
    assert report.charts <= charts and int(found.chart.max()) + 1 <= charts
    assert report.stretch_median <= 1.15 and report.stretch_p99 <= 2 and report.packed_area >= 0.6
    again = unwrap(made, resolution=1024)
    assert torch.equal(found.uv, again.uv) and torch.equal(found.faces, again.faces)


@pytest.mark.slow
@pytest.mark.parametrize("resolution", [64, 300, 700])
@pytest.mark.parametrize("gutter", [1, 4])
def test_gutters_hold_at_every_resolution(resolution, gutter):
    made = sphere(3)
    check(made, unwrap(made, resolution=resolution, gutter=gutter), resolution, gutter)


def test_a_flat_sheet_has_no_stretch():
    made = sheet(12)
    report = check(made, unwrap(made, resolution=512), 512)
    assert report.charts <= 12 and report.stretch_p99 < 1.01 and report.packed_area > 0.75


def test_a_box_has_no_stretch():
    made = box(size=(1, 2, 3))
    report = check(made, unwrap(made, resolution=512), 512)
    assert report.charts <= 10 and report.stretch_p99 < 1.02


def test_a_moebius_strip():
    made = moebius()
    assert check(made, unwrap(made, resolution=256), 256).stretch_p99 < 2


@pytest.mark.slow
def test_less_stretch_takes_more_charts():
    made = sphere(3)
    loose, tight = (check(made, unwrap(made, resolution=512, max_stretch=limit), 512) for limit in (2.0, 1.03))
    assert tight.stretch_p99 < loose.stretch_p99 and tight.charts > loose.charts


@pytest.mark.slow
def test_charts_are_those_of_the_texture():
    made = sphere(3)
    found = unwrap(made, resolution=256)
    for chart in range(int(found.chart.max()) + 1):
        own = found.faces[found.chart == chart]
        others = found.faces[found.chart != chart]
        assert len(own) and not set(own.flatten().tolist()) & set(others.flatten().tolist())
        assert check_uv(Mesh(made.vertices, made.faces[found.chart == chart]), found.uv, own, 256).charts == 1


@pytest.mark.slow
def test_faces_that_lie_on_each_other_come_apart():
    made = sphere(1)
    check(made, unwrap(Mesh(made.vertices, made.faces), resolution=256), 256)
    double = Mesh(made.vertices, torch.cat((made.faces, made.faces, made.faces[:, [0, 2, 1]])))
    check(double, unwrap(double, resolution=256), 256)


def test_many_coincident_faces():
    made = mesh([[0, 0, 0], [1, 0, 0], [0, 1, 0]], [[0, 1, 2]] * 1_000)
    report = check(made, unwrap(made, resolution=512), 512)
    assert report.charts == 1_000


def test_pages_at_one_edge():
    made = fan([0, 50, 120, 200, 300])
    check(made, unwrap(made, resolution=128), 128)


def test_one_triangle_and_slivers():
    for points in (
        [[0, 0, 0], [1, 0, 0], [0, 1, 0]],
        [[0, 0, 0], [1, 0, 0], [0.5, 1e-5, 0]],
        [[0, 0, 0], [1e-6, 0, 0], [0, 1e-6, 0]],
    ):
        made = mesh(points, [[0, 1, 2]])
        report = check(made, unwrap(made, resolution=64), 64)
        assert report.charts == 1


def test_slivers_within_a_surface():
    made = sheet(8)
    thin = made.vertices.clone()
    thin[:, 0] = torch.where(thin[:, 0] > 0.5, 0.5 + (thin[:, 0] - 0.5) * 1e-5, thin[:, 0])
    made = replace(made, vertices=thin)
    check(made, unwrap(made, resolution=512), 512)


def test_faces_without_area_lie_on_a_point_of_their_neighbours():
    made = sheet(2)
    point = len(made.vertices)
    vertices = torch.cat((made.vertices, torch.tensor([[5.0, 5.0, 5.0]])))
    flat = torch.tensor([[0, 0, 1], [0, 4, 8], [point, point, point]], dtype=made.faces.dtype)
    whole = Mesh(vertices, torch.cat((made.faces[:3], flat, made.faces[3:])))
    found = unwrap(whole, resolution=128)
    report = check(whole, found, 128)
    assert report.packed_area == pytest.approx(float(check(made, unwrap(made, resolution=128), 128).packed_area))
    for row in (3, 4, 5):
        assert len(found.faces[row].unique()) == 1
    inside = found.uv[found.faces[3, 0].long()]
    neighbors = found.uv[found.faces[:3].long()].mean(dim=1)
    assert bool((neighbors == inside).all(dim=1).any())


def test_nothing_but_faces_without_area():
    made = mesh([[0, 0, 0], [1, 0, 0]], [[0, 1, 1], [0, 0, 0]])
    found = unwrap(made)
    assert found.uv.shape == (1, 2) and found.faces.tolist() == [[0, 0, 0], [0, 0, 0]]


def test_an_empty_mesh():
    found = unwrap(Mesh(torch.zeros(4, 3), torch.zeros(0, 3, dtype=torch.int32)))
    assert found.uv.shape == (0, 2) and found.faces.shape == (0, 3) and found.chart.shape == (0,)


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_any_size_and_place(scale):
    made = sphere(2)
    moved = Mesh((made.vertices + torch.tensor([0.0, 0.0, 30.0])) * scale, made.faces)
    check(moved, unwrap(moved, resolution=256), 256)


@pytest.mark.slow
def test_random_triangles():
    random = np.random.default_rng(0)
    made = mesh(random.random((60, 3)), random.integers(0, 60, (300, 3)))
    check(made, unwrap(made, resolution=512), 512)


@pytest.mark.slow
def test_backends_agree_in_quality():
    made = sphere(2)
    for backend in ("numba", "reference"):
        report = check(made, unwrap(made, resolution=256, backend=backend), 256)
        assert report.stretch_p99 < 1.5


def test_wrong_arguments():
    made = sheet(1)
    for name, value in {"resolution": 8, "gutter": -1, "max_stretch": 0.5, "backend": "best"}.items():
        with pytest.raises(ValueError, match=name):
            unwrap(made, **{name: value})
    broken = made.vertices.clone()
    broken[0, 0] = torch.nan
    with pytest.raises(ValueError, match="finite"):
        unwrap(Mesh(broken, made.faces))
    with pytest.raises(ValueError, match="vertices 0 to 3"):
        unwrap(Mesh(made.vertices, made.faces + 9))


def test_no_room():
    made = mesh([[0, 0, 0], [1, 0, 0], [0, 1, 0]], [[0, 1, 2]] * 200)
    with pytest.raises(ValueError, match="room for 200 charts"):
        unwrap(made, resolution=32)


def test_progress_rises_to_one_and_may_cancel():
    done = []
    unwrap(sphere(3), resolution=256, progress=done.append)
    assert done == sorted(done) and done[-1] == 1.0 and len(done) > 5

    def stop(share):
        if share > 0.3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        unwrap(sphere(3), resolution=256, progress=stop)


def test_inputs_stay_as_they_are():
    made = sphere(2)
    before = made.vertices.clone(), made.faces.clone()
    unwrap(made, resolution=128)
    assert torch.equal(before[0], made.vertices) and torch.equal(before[1], made.faces)
