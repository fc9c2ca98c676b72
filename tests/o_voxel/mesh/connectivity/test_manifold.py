"""Non-manifold splitting, checked with trimesh: closed meshes stay closed and positions are unchanged."""

import numpy as np
import pytest
import torch
from comfyui_trellis2.o_voxel.mesh.connectivity.manifold import split_non_manifold
from comfyui_trellis2.o_voxel.mesh.repair.orient import orient
from comfyui_trellis2.o_voxel.values import Mesh


def cut(shapes, mesh, backend):
    """Splits the mesh and checks the invariants of every split."""
    split, rows = split_non_manifold(mesh, backend=backend)
    assert torch.equal(split.vertices, mesh.vertices[rows.vertices])
    assert torch.equal(rows.vertices[split.faces], mesh.faces)
    assert torch.equal(rows.vertices[: len(mesh.vertices)], torch.arange(len(mesh.vertices)))
    assert torch.equal(rows.faces, torch.arange(len(mesh.faces)))
    if len(mesh.faces):
        assert shapes.edge_sizes(split).max() <= 2
    again, _ = split_non_manifold(split, backend=backend)
    assert shapes.same(split, again)
    return split


def bodies(shapes, mesh):
    return shapes.to_trimesh(mesh).split(only_watertight=False)


@pytest.mark.parametrize("seed", [None, 0, 1, 2])
@pytest.mark.parametrize("offset", [(1, 1, 0), (1, 1, 1)], ids=["edge", "corner"])
def test_boxes_that_touch_come_apart(shapes, backend, offset, seed):
    mesh = shapes.join(shapes.box(), shapes.box(offset))
    assert len(mesh.vertices) == 12 + sum(offset)
    mesh = mesh if seed is None else shapes.scramble(mesh, seed)
    split = orient(cut(shapes, mesh, backend), backend=backend)
    assert len(split.vertices) == 16
    parts = bodies(shapes, split)
    assert [part.is_volume for part in parts] == [True, True]
    assert [part.volume for part in parts] == pytest.approx([1, 1])


def test_a_closed_surface_stays_as_it_is(shapes, backend):
    for mesh in (shapes.sphere(), shapes.box(), shapes.scramble(shapes.sphere(1))):
        assert shapes.same(cut(shapes, mesh, backend), mesh)


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3, 6])
@pytest.mark.parametrize("scrambled", [False, True])
def test_any_skin_of_cells_becomes_a_manifold(shapes, backend, size, scrambled):
    for seed in range(6):
        filled = np.random.default_rng(seed).random((size,) * 3) < 0.5
        mesh = shapes.voxels(filled)
        split = cut(shapes, shapes.scramble(mesh, seed) if scrambled else mesh, backend)
        whole = shapes.to_trimesh(orient(split, backend=backend))
        assert whole.is_winding_consistent
        if not scrambled:
            assert whole.volume > 0


def test_a_skin_of_cells_stays_closed(shapes, backend):
    """Except where solids touch themselves along an edge between two otherwise manifold corners."""
    closed = 0
    for seed in range(10):
        mesh = shapes.voxels(np.random.default_rng(seed).random((4, 4, 4)) < 0.3)
        split = cut(shapes, mesh, backend)
        sizes = shapes.edge_sizes(split)
        assert (sizes == 1).sum() <= 0.05 * len(sizes)
        closed += (sizes == 2).all()
    assert closed >= 8


def test_an_edge_between_two_round_corners(shapes, backend):
    """Two cells that touch along an edge, with plates above and below: no split of its ends can separate them."""
    filled = np.ones((2, 2, 3), dtype=bool)
    filled[0, 1, 1] = filled[1, 0, 1] = False
    split = cut(shapes, shapes.voxels(filled), backend)
    assert shapes.to_trimesh(orient(split, backend=backend)).is_winding_consistent


def test_a_strip_that_no_winding_fits_is_cut_across(shapes, backend):
    strip = shapes.moebius()
    split = cut(shapes, strip, backend)
    assert len(split.vertices) == len(strip.vertices) + 2
    whole = shapes.to_trimesh(orient(split, backend=backend))
    assert whole.is_winding_consistent
    assert whole.body_count == 1
    assert not shapes.to_trimesh(orient(strip, backend=backend)).is_winding_consistent


def test_a_wall_in_a_box_leaves_the_box_closed(shapes, backend):
    """Three faces meet at each edge of the wall's rim; the two of the box are paired."""
    filled = np.ones((1, 2, 1), dtype=bool)
    box = shapes.voxels(filled)
    rim = (box.vertices[:, 1] == 2).nonzero().squeeze(1)
    assert len(rim) == 4
    wall = rim[torch.tensor([[0, 1, 3], [0, 3, 2]])]
    for seed in range(3):
        mesh = shapes.scramble(Mesh(box.vertices, torch.cat([box.faces, wall.int()])), seed)
        parts = bodies(shapes, orient(cut(shapes, mesh, backend), backend=backend))
        assert sorted(len(part.faces) for part in parts) == [2, 20]
        assert max(parts, key=lambda part: len(part.faces)).volume == pytest.approx(2)


def test_sheets_that_cross_go_straight_on(shapes, backend):
    sheet = shapes.sheet(4)
    upright = Mesh(sheet.vertices[:, [0, 2, 1]] + torch.tensor([0, 0.5, -0.5]), sheet.faces)
    mesh = shapes.scramble(shapes.join(sheet, upright))
    assert (shapes.edge_sizes(mesh) == 4).sum() == 4
    parts = bodies(shapes, cut(shapes, mesh, backend))
    assert [len(part.faces) for part in parts] == [32, 32]
    assert sorted(float(np.ptp(part.vertices[:, 2])) for part in parts) == [0, 1]


@pytest.mark.parametrize(
    ("angles", "pairs"),
    [
        ([0, 90, 180], [(0, 2)]),
        ([0, 100, 190], [(0, 2)]),
        ([0, 180, 90, 260], [(0, 1), (2, 3)]),
        ([10, 350, 170, 190], [(0, 3), (1, 2)]),
        ([0, 10, 90, 180, 190], [(0, 4), (2, 3)]),
        ([0, 170, 175, 350, 355, 180, 185], None),
    ],
)
def test_pages_go_on_most_smoothly(shapes, backend, angles, pairs):
    mesh = shapes.fan(angles)
    split = cut(shapes, mesh, backend).faces.tolist()
    together = {}
    for page, (low, high, _) in enumerate(split):
        together.setdefault((low, high), []).append(page)
    groups = sorted(tuple(group) for group in together.values())
    assert sum(len(group) == 1 for group in groups) == len(angles) % 2
    if pairs is not None:
        assert [group for group in groups if len(group) == 2] == pairs


def test_pages_in_one_place(shapes, backend):
    mesh = shapes.fan([0] * 1001)
    split = cut(shapes, mesh, backend)
    assert len(split.faces[:, :2].unique(dim=0)) == 501


def test_faces_that_name_a_vertex_twice_stand_alone(backend, shapes):
    faces = torch.tensor([[0, 1, 2], [2, 1, 3], [1, 1, 2], [3, 3, 3]])
    mesh = Mesh(torch.rand(4, 3, generator=torch.Generator().manual_seed(0)), faces)
    split, rows = split_non_manifold(mesh, backend=backend)
    assert torch.equal(rows.vertices[split.faces], faces)
    assert torch.equal(split.faces[:2], faces[:2])
    assert not set(split.faces[2:].flatten().tolist()) & {0, 1, 2}


def test_nothing(backend, shapes):
    empty = Mesh(torch.zeros(2, 3), torch.zeros(0, 3, dtype=torch.int32))
    assert shapes.same(split_non_manifold(empty, backend=backend)[0], empty)
