"""What surface an asset is made from: what is good stays, what is hidden goes, what is ragged is wrapped."""

import numpy as np
import pytest
from comfyui_trellis2.o_voxel.mesh.repair.choose import choose_surface, measure, shell_resolution
from comfyui_trellis2.o_voxel.mesh.repair.clean import clean

from ...shapes import box, join, mesh, sheet, sphere, stack


def crossing_sheets():
    """A lattice of 6 x 6 x 6 open sheets that meet in edges of four faces."""
    axis, faces = range(7), []
    place = {at: row for row, at in enumerate((x, y, z) for x in axis for y in axis for z in axis)}
    for x, y, z in place:
        for u, v in (((1, 0, 0), (0, 1, 0)), ((0, 1, 0), (0, 0, 1))):
            corners = [(x, y, z), (x + u[0], y + u[1], z + u[2])]
            corners += [(p[0] + v[0], p[1] + v[1], p[2] + v[2]) for p in reversed(corners)]
            if all(corner in place for corner in corners):
                a, b, c, d = (place[corner] for corner in corners)
                faces += [[a, b, c], [a, c, d]]
    return mesh(list(place), faces)


def chosen(raw):
    return choose_surface(raw, clean(raw)[0])


@pytest.mark.parametrize(
    "raw, surface",
    [
        (box(), "cleaned"),
        (sheet(6, 0.2), "cleaned"),
        (stack(sphere(3), box((4, 0, 0))), "cleaned"),
        (stack(sphere(3), sphere(2, 0.5)), "hidden removed"),
        (crossing_sheets(), "outer shell"),
    ],
    ids=["solid", "cloth", "two parts", "nested", "ragged"],
)
def test_choice(raw, surface):
    choice = chosen(raw)
    assert choice.surface == surface
    assert (choice.hidden is None) == (surface != "hidden removed")
    assert "part" in choice.why and "open" in choice.why


def test_figures():
    """Two boxes with an edge in common: one of their 35 edges has four faces; cleaning gives each its own."""
    both = join(box(), box((1, 1, 0)))
    figures = measure(both, clean(both)[0])
    assert figures.joints == pytest.approx(1 / 35)
    assert (figures.rims, figures.ragged) == (0, False)


def test_more_triangles_take_a_finer_grid():
    sizes = [shell_resolution(faces, 512) for faces in (100, 8_000, 20_000, 50_000, 1_000_000)]
    assert sizes == sorted(sizes) == [160, 160, 160, 256, 512]
    assert shell_resolution(1_000_000, 64) == 64


def test_an_empty_surface_stays():
    empty = mesh(np.zeros((0, 3)), np.zeros((0, 3)))
    assert choose_surface(empty, empty).surface == "cleaned"
