"""UV metrics on layouts with known faults."""

import math

import pytest
import torch
from comfyui_trellis2.o_voxel.mesh.uv.check import check_uv
from comfyui_trellis2.o_voxel.values import Mesh

SIZE = 128


def square(low, side, turn=0.0):
    """Two triangles over a square, as ([4, 2] corners, [2, 3] faces)."""
    corners = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]) * side
    cosine, sine = math.cos(turn), math.sin(turn)
    turned = torch.stack(
        (corners[:, 0] * cosine - corners[:, 1] * sine, corners[:, 0] * sine + corners[:, 1] * cosine), 1
    )
    return turned + torch.tensor(low), torch.tensor([[0, 1, 2], [0, 2, 3]])


def squares(*layout):
    """(mesh of unit squares side by side, uv, uv_faces), one square a pair of (low corner, side)."""
    points, uv, faces = [], [], []
    for n, (low, side) in enumerate(layout):
        flat, face = square((0.0, 0.0), 1.0)
        points.append(torch.cat((flat + torch.tensor([2.0 * n, 0.0]), torch.zeros(4, 1)), 1))
        uv.append(square(low, side)[0])
        faces.append(face + 4 * n)
    return Mesh(torch.cat(points), torch.cat(faces)), torch.cat(uv), torch.cat(faces)


def check(layout):
    return check_uv(*layout, SIZE)


def test_a_good_layout():
    report = check(squares(((0.125, 0.125), 0.25), ((0.5, 0.5), 0.25)))
    assert (report.charts, report.overlapping_texels, report.flipped, report.zero_area, report.outside) == (
        2,
        0,
        0,
        0,
        0,
    )
    assert report.packed_area == pytest.approx(0.125) and report.covered == pytest.approx(0.125)
    assert report.stretch_median == pytest.approx(1.0) and report.stretch_p99 == pytest.approx(1.0)
    assert report.border_texels == 16 and report.gutter_texels == 16


def test_overlapping_charts():
    report = check(squares(((0.25, 0.25), 0.25), ((0.375, 0.375), 0.25)))
    assert report.overlapping_texels == 16 * 16 and report.gutter_texels == 0


@pytest.mark.parametrize("gap", [0, 1, 2, 5])
def test_gutters_are_counted_in_free_texels(gap):
    report = check(squares(((0.25, 0.25), 0.25), ((0.5 + gap / SIZE, 0.25), 0.25)))
    assert report.gutter_texels == gap and report.overlapping_texels == 0


def test_diagonal_gutters():
    assert check(squares(((0.25, 0.25), 0.25), ((0.5 + 3 / SIZE, 0.5 + 2 / SIZE), 0.25))).gutter_texels == 3


def test_a_flipped_face():
    mesh, uv, faces = squares(((0.25, 0.25), 0.25))
    report = check((mesh, uv, faces[:, [1, 0, 2]]))
    assert report.flipped == 2 and report.zero_area == 0


def test_a_face_without_area_in_the_texture():
    mesh, uv, faces = squares(((0.25, 0.25), 0.25))
    faces[1, 2] = faces[1, 1]
    report = check((mesh, uv, faces))
    assert report.zero_area == 1 and math.isinf(report.stretch_p99)


def test_a_face_without_area_on_the_surface_may_have_none_in_the_texture():
    mesh, uv, faces = squares(((0.25, 0.25), 0.25))
    flat = Mesh(mesh.vertices, torch.cat((mesh.faces, torch.tensor([[0, 1, 1]]))))
    assert check((flat, uv, torch.cat((faces, torch.tensor([[0, 0, 0]]))))).zero_area == 0


def test_stretch_of_a_squeezed_layout():
    mesh, uv, faces = squares(((0.25, 0.25), 0.25))
    squeezed = uv * torch.tensor([1.0, 0.25])
    # Half the mean scale of sqrt(1 * 0.25) along one axis and twice along the other.
    assert check((mesh, squeezed, faces)).stretch_median == pytest.approx(math.sqrt((0.25 + 4) / 2), rel=1e-5)


def test_points_outside_and_charts_that_share_no_edge():
    report = check(squares(((0.9, 0.9), 0.25), ((0.1, 0.1), 0.25)))
    assert report.outside == 3 and report.charts == 2


def test_an_empty_layout():
    none = torch.zeros(0, 3)
    report = check_uv(Mesh(none, none.long()), torch.zeros(0, 2), none.long(), 16)
    assert report.faces == report.charts == report.overlapping_texels == 0 and math.isnan(report.stretch_median)


def test_wrong_arguments():
    mesh, uv, faces = squares(((0.25, 0.25), 0.25))
    for arguments in ((uv, faces + 4, SIZE), (uv, faces[:1], SIZE), (uv.double(), faces, SIZE), (uv, faces, 0)):
        with pytest.raises(ValueError):
            check_uv(mesh, *arguments)
