"""The measures of an evaluation, on answers that are known."""

import math

import pytest
import torch
from comfyui_trellis2.o_voxel.core.color import to_lab
from comfyui_trellis2.o_voxel.render.camera import Camera
from comfyui_trellis2.o_voxel.values import Mesh
from comfyui_trellis2.trellis2.training.evaluation.metrics import (
    TrueSurface,
    component_count,
    delta_e,
    edge_faults,
    f_score,
    structure_iou,
    surface_points,
    visible_points,
)


def square(z=0.0, side=1.0):
    corners = torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]]) * side - torch.tensor([0.5, 0.5, -z])
    return Mesh(corners, torch.tensor([[0, 1, 2], [0, 2, 3]]))


NOTHING = Mesh(torch.zeros(3, 3), torch.tensor([[0, 1, 2]]))


def test_iou():
    a = torch.tensor([[0, 0, 0], [0, 0, 1], [2, 3, 4]])
    assert structure_iou(a, a.flip(0)) == 1
    assert structure_iou(a, a[:1]) == pytest.approx(1 / 3)
    assert structure_iou(a, a + 9) == 0 and structure_iou(a[:0], a) == 0 and structure_iou(a[:0], a[:0]) == 1


def test_points_lie_evenly_on_the_surface():
    triangle = Mesh(torch.tensor([[0.0, 0, 0], [3, 0, 0], [0, 1, 0]]), torch.tensor([[0, 1, 2]]))
    points = surface_points(triangle, 50_000, torch.Generator().manual_seed(0))
    assert points.mean(0).tolist() == pytest.approx([1, 1 / 3, 0], abs=0.01)
    assert bool((points[:, 0] / 3 + points[:, 1] <= 1 + 1e-5).all())
    with pytest.raises(ValueError, match="expected faces with an area"):
        surface_points(NOTHING, 10, torch.Generator())


@pytest.mark.parametrize("z, expected", [(0.0, 1.0), (0.019, 1.0), (0.021, 0.0)])
def test_f_score_of_a_moved_sheet(z, expected):
    assert f_score(square(z), square(), 0.02, count=2000) == pytest.approx(expected)


def test_f_score_is_the_harmonic_mean_of_both_shares():
    # A quarter of the square: all of it is right, and a quarter of the truth is found.
    assert f_score(square(side=0.5), square(), 1e-4, count=20_000) == pytest.approx(2 * 0.25 / 1.25, abs=0.01)
    assert f_score(NOTHING, square(), 0.02) == 0


def test_a_true_mesh_without_area_is_an_error_of_the_data_and_no_score():
    with pytest.raises(ValueError, match="expected faces with an area"):
        f_score(square(), NOTHING, 0.02)


def test_only_the_front_is_seen():
    both = Mesh(
        torch.cat([square(0.0).vertices, square(0.3).vertices]), torch.cat([square().faces, square().faces + 4])
    )
    seen = visible_points(both, Camera(0, 90), size=64)
    assert len(seen) > 500 and bool((seen[:, 2] > 0.29).all())
    assert bool((visible_points(both, Camera(0, -90), size=64)[:, 2] < 0.01).all())


def test_faults_of_a_surface():
    two = Mesh(torch.cat([square().vertices, square(0.3).vertices]), torch.cat([square().faces, square().faces + 4]))
    assert edge_faults(two) == pytest.approx((0.8, 0.0)) and component_count(two) == 2
    book = Mesh(torch.rand(5, 3), torch.tensor([[0, 1, 2], [0, 1, 3], [0, 1, 4]]))
    assert edge_faults(book) == pytest.approx((6 / 7, 1 / 7)) and component_count(book) == 1
    assert edge_faults(Mesh(torch.zeros(3, 3), torch.zeros(0, 3, dtype=torch.int64))) == (0, 0)


def test_a_true_surface_scores_many_as_each():
    true = TrueSurface(square(), 2000)
    for other in (square(0.019), square(0.021), square(side=0.5), NOTHING):
        assert true.f_score(other, 0.02) == f_score(other, square(), 0.02, count=2000)


def test_colour_differences():
    black, white, red = torch.zeros(3), torch.ones(3), torch.tensor([1.0, 0, 0])
    assert float(delta_e(black, white)) == pytest.approx(100, abs=0.01)
    # Published: sRGB red is L* 53.24, a* 80.09, b* 67.20 under D65.
    assert to_lab(red).tolist() == pytest.approx([53.24, 80.09, 67.20], abs=0.02)
    assert float(delta_e(red, red)) == 0 and not math.isnan(float(delta_e(black, red)))
