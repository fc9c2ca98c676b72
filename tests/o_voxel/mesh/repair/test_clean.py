"""Welding, degenerate faces and the whole clean-up of a raw surface, checked with SciPy and trimesh."""

import numpy as np
import pytest
import torch
from comfyui_trellis2.o_voxel.mesh.connectivity.surface import edge_halves, proper_edges
from comfyui_trellis2.o_voxel.mesh.connectivity.topology import edges
from comfyui_trellis2.o_voxel.mesh.repair.clean import (
    CleanOptions,
    _edges_without,
    clean,
    remove_degenerate_faces,
    remove_duplicate_faces,
    remove_unused_vertices,
    weld,
)
from comfyui_trellis2.o_voxel.values import Mesh
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

EMPTY = Mesh(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.int32))
TRIANGLE = Mesh(torch.eye(3), torch.tensor([[0, 1, 2]]))


def cloud(n, spread=1.0, seed=0):
    return torch.rand(n, 3, generator=torch.Generator().manual_seed(seed)) * spread


def soup(vertices):
    """A mesh whose faces each have three vertices of their own."""
    return Mesh(vertices, torch.arange(len(vertices) // 3 * 3).reshape(-1, 3))


def lowest_within(vertices, distance):
    """Lowest vertex connected to each by steps of at most `distance`."""
    pairs = cKDTree(vertices.double().numpy()).query_pairs(distance, output_type="ndarray")
    shape = (len(vertices),) * 2
    _, label = connected_components(coo_matrix((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape))
    return np.array([np.flatnonzero(label == k)[0] for k in label])


@pytest.mark.parametrize("distance", [0.0, 1e-4, 0.01, 0.03, 0.4])
@pytest.mark.parametrize("n", [1, 63, 999])
def test_weld_joins_what_is_near(backend, n, distance):
    vertices = torch.cat([cloud(n), cloud(n // 2)])
    welded, rows = weld(soup(vertices), distance, backend=backend)
    lowest = lowest_within(vertices, distance)
    assert np.array_equal(rows.vertices.numpy(), np.unique(lowest))
    assert torch.equal(welded.vertices, vertices[rows.vertices])
    joined = rows.vertices[welded.faces].flatten().numpy()
    assert np.array_equal(joined, lowest[: len(vertices) // 3 * 3])


def test_weld_sees_across_its_cells(backend):
    """Pairs at many positions along an axis, slightly closer and slightly farther apart than the distance."""
    x = torch.linspace(0, 1, 500, dtype=torch.float64)
    for gap, alone in ((0.99e-4, False), (1.01e-4, True)):
        for axis in range(3):
            near = torch.zeros(500, 3, dtype=torch.float64)
            near[:, axis] = x
            far = near.clone()
            far[:, axis] += gap
            far[:, (axis + 1) % 3] += 1e-6
            vertices = torch.stack([near, far], 1).reshape(-1, 3).float()
            count = len(weld(soup(vertices), 1e-4, backend=backend)[0].vertices)
            assert count == (1000 if alone else 500)


def test_weld_knows_that_minus_zero_is_zero(backend):
    vertices = torch.tensor([[0.0, 0, 0], [-0.0, 0, -0.0], [1, 0, 0]])
    assert len(weld(soup(vertices), 0.0, backend=backend)[0].vertices) == 2


@pytest.mark.parametrize("distance", [0.0, 1e-6])
def test_weld_of_one_crowded_place(backend, distance):
    vertices = torch.cat([torch.full((30000, 3), 0.25), cloud(300)])
    assert len(weld(soup(vertices), distance, backend=backend)[0].vertices) == 301


def test_weld_far_from_the_origin(backend):
    """Distances are compared in float64, also below the float32 resolution."""
    vertices = cloud(300) + 1e6
    welded, _ = weld(soup(vertices), 1e-6, backend=backend)
    assert len(welded.vertices) == len(vertices.unique(dim=0))


@pytest.mark.parametrize("distance", [-1.0, float("nan"), float("inf")])
def test_weld_names_a_wrong_distance(distance):
    with pytest.raises(ValueError, match="weld distance: expected 0 or more"):
        weld(TRIANGLE, distance)
    with pytest.raises(ValueError, match="weld distance: expected 0 or more"):
        CleanOptions(weld_distance=distance)


def test_faces_that_name_a_vertex_twice_go():
    faces = torch.tensor([[0, 0, 1], [0, 1, 2], [2, 1, 2], [3, 3, 3], [1, 2, 3], [0, 4, 0]])
    _, rows = remove_degenerate_faces(Mesh(cloud(6), faces))
    assert rows.faces.tolist() == [1, 4]
    assert rows.vertices.tolist() == [0, 1, 2, 3]


def test_repeated_faces_go(backend):
    faces = torch.tensor([[5, 1, 2], [1, 2, 5], [2, 1, 5], [1, 2, 3], [3, 2, 1], [2, 3, 5], [0, 0, 1], [0, 0, 1]])
    kept, rows = remove_duplicate_faces(Mesh(cloud(6), faces), backend=backend)
    assert rows.faces.tolist() == [0, 3, 5, 6, 7]
    assert torch.equal(rows.vertices[kept.faces], faces[rows.faces])


@pytest.mark.parametrize("n", [0, 1, 63, 1000])
def test_repeated_faces_are_those_numpy_finds(backend, n):
    faces = torch.randint(0, 9, (n, 3), generator=torch.Generator().manual_seed(n))
    whole, _ = remove_degenerate_faces(Mesh(cloud(9), faces))
    _, rows = remove_duplicate_faces(whole, backend=backend)
    _, first = np.unique(np.sort(whole.faces.numpy(), 1), axis=0, return_index=True)
    assert rows.faces.tolist() == sorted(first.tolist())


def test_unused_vertices_go():
    kept, rows = remove_unused_vertices(Mesh(cloud(9), torch.tensor([[7, 2, 4]], dtype=torch.int32)))
    assert rows.vertices.tolist() == [2, 4, 7]
    assert kept.faces.tolist() == [[2, 0, 1]]
    assert kept.faces.dtype == torch.int32


def dirty(shapes):
    """A raw surface with fans, wrong windings, holes, repeated faces, a doubled vertex and floating crumbs."""
    raw = shapes.scramble(shapes.raw(), share=0.01)
    generator = torch.Generator().manual_seed(0)
    middle = raw.vertices[raw.faces.long()].mean(1)
    holes = middle[torch.randint(0, len(middle), (12,), generator=generator)]
    near = torch.cdist(middle, holes).amin(1) < 0.03
    torn = shapes.without(raw, near)
    torn = Mesh(torn.vertices, torch.cat([torn.faces, torn.faces[::50], torch.tensor([[0, 0, 1]]).int()]))
    crumbs = [shapes.box(spot, (0.004,) * 3) for spot in (cloud(5) - 0.5).tolist()]
    doubled = Mesh(torn.vertices.clone(), torn.faces.clone())
    doubled.faces[1, 0] = len(doubled.vertices)
    doubled = Mesh(torch.cat([doubled.vertices, torn.vertices[torn.faces[1, :1].long()] + 1e-7]), doubled.faces)
    return shapes.stack(doubled, *crumbs)


def open_inside(whole):
    """Edges with one face, but for the rim of the sheet."""
    found = edges(whole)
    ends = whole.vertices[found.ends(whole.faces.long())[found.sizes == 1]]
    return int((ends.abs().amax((1, 2)) < 0.45).sum())


def test_a_dirty_surface_comes_out_sound(shapes, backend):
    source = dirty(shapes)
    before = source.vertices.clone(), source.faces.clone()
    options = CleanOptions(max_hole_perimeter=0.35, min_area_share=1e-3)
    whole, rows = clean(source, options, backend=backend)
    assert torch.equal(source.vertices, before[0])
    assert torch.equal(source.faces, before[1])
    result = shapes.to_trimesh(whole)
    sizes = shapes.edge_sizes(source)
    assert sizes.max() > 2
    assert open_inside(source) > 50
    assert shapes.edge_sizes(whole).max() == 2
    assert result.is_winding_consistent
    assert len(np.unique(np.sort(whole.faces.numpy(), 1), axis=0)) == len(whole.faces)
    assert result.area_faces.min() > 0
    assert not shapes.to_trimesh(source).is_winding_consistent
    assert open_inside(whole) < 0.5 * open_inside(source)
    old_vertices, old_faces = rows.vertices >= 0, rows.faces >= 0
    assert torch.equal(whole.vertices[old_vertices], source.vertices[rows.vertices[old_vertices]])
    assert 0 < (~old_faces).sum() < 0.1 * len(whole.faces)
    centers = [mesh.vertices[mesh.faces.long()].mean(1) for mesh in (whole, source)]
    torch.testing.assert_close(centers[0][old_faces], centers[1][rows.faces[old_faces]], atol=1e-6, rtol=0)


def test_the_ball_in_a_dirty_surface_faces_outward(shapes, backend):
    whole, _ = clean(shapes.scramble(shapes.raw()), backend=backend)
    corners = whole.vertices[whole.faces.long()]
    normal = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    middle = corners.mean(1)
    height = (middle[:, 2] - 0.04 - 0.1 * middle[:, 0]).abs()
    ball = ((middle.norm(dim=1) - 0.3).abs() < 0.02) & (height > 0.05)
    assert ball.sum() > 1000
    assert ((normal * middle).sum(1)[ball] > 0).all()


def test_backends_clean_alike(shapes):
    pytest.importorskip("numba")
    source = dirty(shapes)
    options = CleanOptions(max_hole_perimeter=0.35)
    (a, rows_a), (b, rows_b) = (clean(source, options, backend=name) for name in ("numba", "reference"))
    assert shapes.same(a, b)
    assert torch.equal(rows_a.vertices, rows_b.vertices)
    assert torch.equal(rows_a.faces, rows_b.faces)


def test_what_is_clean_stays(shapes, backend):
    once, _ = clean(dirty(shapes), backend=backend)
    twice, rows = clean(once, backend=backend)
    assert shapes.same(once, twice)
    assert torch.equal(rows.faces, torch.arange(len(once.faces)))
    assert torch.equal(once.vertices[rows.vertices], once.vertices)


def test_the_same_input_gives_the_same_bytes(shapes):
    assert shapes.same(clean(dirty(shapes))[0], clean(dirty(shapes))[0])


def test_nothing_and_little(shapes, backend):
    for source in (EMPTY, Mesh(cloud(4), EMPTY.faces)):
        whole, rows = clean(source, backend=backend)
        assert whole.vertices.shape == whole.faces.shape == (0, 3)
        assert len(rows.vertices) == len(rows.faces) == 0
    whole, rows = clean(TRIANGLE, backend=backend)
    assert shapes.same(whole, TRIANGLE)
    point = Mesh(torch.zeros(3, 3), torch.tensor([[0, 1, 2]]))
    assert len(clean(point, backend=backend)[0].faces) == 0


@pytest.mark.parametrize("apart", [False, True], ids=["shared", "soup"])
def test_ten_thousand_faces_in_one_place(shapes, backend, apart):
    source = Mesh(TRIANGLE.vertices, TRIANGLE.faces.repeat(10_000, 1))
    if apart:
        source = soup(TRIANGLE.vertices.repeat(10_000, 1))
    assert shapes.same(clean(source, backend=backend)[0], TRIANGLE)


@pytest.mark.parametrize("pages", [3, 4, 5, 8, 1001])
def test_a_fan_is_cut(shapes, backend, pages):
    whole, rows = clean(shapes.fan(np.arange(pages) * 360 / pages), backend=backend)
    assert shapes.edge_sizes(whole).max() == 2
    assert sorted(rows.faces.tolist()) == list(range(pages))
    assert shapes.to_trimesh(whole).is_winding_consistent


def test_a_vertex_that_is_not_finite_is_named():
    vertices = torch.eye(3)
    vertices[1, 1] = torch.nan
    with pytest.raises(ValueError, match="expected finite vertices"):
        clean(Mesh(vertices, TRIANGLE.faces))


def test_progress_grows_to_one_and_can_cancel(shapes):
    seen = []
    clean(dirty(shapes), progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    assert len(seen) > 4

    class Cancelled(Exception):
        pass

    def cancel(done):
        raise Cancelled

    with pytest.raises(Cancelled):
        clean(TRIANGLE, progress=cancel)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_area_share": 2.0}, "min_area_share: expected 0 to 1, got 2.0"),
        ({"min_faces": -1}, "min_faces"),
        ({"keep_largest": 0}, "keep_largest"),
        ({"outward": "up"}, "outward: expected one of"),
        ({"max_hole_perimeter": -1.0}, "max_perimeter"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        CleanOptions(**options)


@pytest.mark.parametrize("count", [0, 1, 2, 300])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_edges_of_the_faces_that_stay_need_no_second_sort(count, share):
    generator = torch.Generator().manual_seed(count)
    # Corners of three residues: no face repeats one, and many share an edge.
    faces = 3 * torch.randint(0, 12, (count, 3), generator=generator) + torch.arange(3)
    gone = torch.rand(count, generator=generator) < share
    found = _edges_without(gone, *proper_edges(faces, 36, "auto"))
    assert all(map(torch.equal, found, proper_edges(faces[~gone], 36, "auto")))


def test_the_half_edges_of_chosen_edges_come_edge_by_edge():
    order, start = torch.tensor([7, 2, 5, 0, 9, 4, 1]), torch.tensor([0, 3, 4, 4, 7])
    assert edge_halves(order, start, torch.tensor([3, 0, 2])).tolist() == [9, 4, 1, 7, 2, 5]
    assert edge_halves(order, start, torch.zeros(0, dtype=torch.int64)).tolist() == []
