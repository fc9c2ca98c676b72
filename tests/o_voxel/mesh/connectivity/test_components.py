"""Removal of components by area, number of faces and rank."""

import pytest
import torch
from comfyui_trellis2.o_voxel.mesh.connectivity.components import LeftOut, keep_within, remove_small_components
from comfyui_trellis2.o_voxel.values import Mesh


@pytest.fixture(scope="module")
def family(shapes):
    """Boxes of side 1, 2, 3, 1 and a sphere of 320 faces with an area of about 0.05."""
    boxes = [shapes.box((5 * k, 0, 0), (side,) * 3) for k, side in enumerate((1, 2, 3, 1))]
    return shapes.stack(*boxes, shapes.sphere(2, 0.063))


def parts(mesh):
    """Extents of the components, which are not interleaved, from their vertices."""
    return [int(n) for n in torch.unique_consecutive((mesh.vertices[:, 0] / 5).round(), return_counts=True)[1]]


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({}, [162 + 8, 8, 8, 8]),
        ({"min_area_share": 0.01}, [8, 8, 8, 8]),
        ({"min_area_share": 0.1}, [8, 8]),
        ({"min_area_share": 1.0}, [8]),
        ({"min_faces": 13}, [162, 8]),
        ({"min_faces": 12}, [162 + 8, 8, 8, 8]),
        ({"min_faces": 1000}, [8]),
        ({"keep_largest": 1}, [8]),
        ({"keep_largest": 3}, [8, 8, 8]),
        ({"keep_largest": 9, "min_area_share": 0.01}, [8, 8, 8, 8]),
    ],
)
def test_what_stays(family, backend, limits, expected):
    # The sphere overlaps the first box, so their vertices are counted together.
    order = torch.cat([torch.arange(32, len(family.vertices)), torch.arange(32)])
    new = torch.empty_like(order)
    new[order] = torch.arange(len(order))
    moved = Mesh(family.vertices[order], new[family.faces.long()])
    whole, rows = remove_small_components(moved, **limits, backend=backend)
    assert parts(whole) == expected
    assert torch.equal(whole.vertices, moved.vertices[rows.vertices])
    assert torch.equal(rows.vertices[whole.faces], moved.faces[rows.faces])


def test_of_equals_the_first_stays(family, backend):
    _, rows = remove_small_components(family, 0, keep_largest=3, backend=backend)
    assert rows.vertices.tolist() == list(range(24))


def test_the_largest_always_stays(backend):
    soup = Mesh(torch.rand(3000, 3, generator=torch.Generator().manual_seed(0)), torch.arange(3000).reshape(-1, 3))
    assert len(remove_small_components(soup, 0.5, backend=backend)[0].faces) == 1


def test_pages_of_a_fan_hang_together(shapes, backend):
    fan = shapes.fan(range(0, 360, 40))
    assert shapes.same(remove_small_components(fan, 0.5, backend=backend)[0], fan)


def test_nothing(backend):
    empty = Mesh(torch.zeros(4, 3), torch.zeros(0, 3, dtype=torch.int64))
    assert len(remove_small_components(empty, backend=backend)[0].vertices) == 0


@pytest.mark.parametrize("limits", [{"min_area_share": -0.1}, {"min_faces": -1}, {"keep_largest": 0}])
def test_limits_are_checked(shapes, limits):
    with pytest.raises(ValueError, match=f"{next(iter(limits))}: expected"):
        remove_small_components(shapes.box(), **limits)


@pytest.mark.parametrize(
    ("faces", "expected"), [(1, [12]), (12, [12]), (23, [12]), (24, [24]), (48, [48]), (367, [48]), (368, [368])]
)
def test_what_fits_a_budget(family, backend, faces, expected):
    kept, rows, left_out = keep_within(family, faces, backend=backend)
    assert [len(kept.faces)] == expected
    assert (left_out.parts == 0) == (len(kept.faces) == len(family.faces))
    assert torch.equal(rows.vertices[kept.faces], family.faces[rows.faces])


def test_what_does_not_fit_is_counted(family, backend):
    """Areas 6, 24, 54 and 6 of the boxes, and 0.05 of the sphere."""
    _, _, left_out = keep_within(family, 24, backend=backend)
    assert (left_out.parts, left_out.total) == (3, 5)
    assert left_out.area_share == pytest.approx(12.05 / 90.05, abs=1e-4)
    assert str(left_out) == "3 of 5 parts (13.38% of the area)"
    assert keep_within(family, 1000, backend=backend)[2] == LeftOut(0, 5, 0.0)


def test_a_budget_of_nothing(shapes):
    with pytest.raises(ValueError, match="faces: expected at least 1"):
        keep_within(shapes.box(), 0)
    empty = Mesh(torch.zeros(4, 3), torch.zeros(0, 3, dtype=torch.int64))
    assert len(keep_within(empty, 5)[0].faces) == 0
