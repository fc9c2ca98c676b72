"""Checked meshes, edges, components, exact sums and row maps, against trimesh, SciPy and plain sums."""

import math

import numpy as np
import pytest
import torch
from comfyui_trellis2.o_voxel.core.exact_sums import BITS, Groups, fixed_point, scatter_sums
from comfyui_trellis2.o_voxel.mesh.connectivity.components import face_components
from comfyui_trellis2.o_voxel.mesh.connectivity.row_map import RowMap
from comfyui_trellis2.o_voxel.mesh.connectivity.topology import check_mesh, edges
from comfyui_trellis2.o_voxel.values import Mesh
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_vertex_that_is_not_finite_is_named(shapes, bad):
    box = shapes.box()
    vertices = box.vertices.clone()
    vertices[3, 1] = vertices[5, 2] = bad
    with pytest.raises(ValueError, match="expected finite vertices, got 2 with NaN or infinity, first 3"):
        check_mesh(Mesh(vertices, box.faces))


@pytest.mark.parametrize("row", [-1, 8])
def test_a_face_without_a_vertex_is_named(shapes, row):
    box = shapes.box()
    faces = box.faces.clone()
    faces[2, 0] = row
    with pytest.raises(ValueError, match="expected faces of vertices 0 to 7, got"):
        check_mesh(Mesh(box.vertices, faces))


def test_edges_are_those_of_trimesh(shapes, backend):
    whole = shapes.raw(20)
    found = edges(whole, backend=backend)
    expected, counts = np.unique(shapes.to_trimesh(whole).edges_sorted, axis=0, return_counts=True)
    assert np.array_equal(found.ends(whole.faces.long()).numpy(), expected)
    assert np.array_equal(found.sizes.numpy(), counts)


def test_components_are_those_of_scipy(shapes, backend):
    torn = shapes.without(shapes.sphere(2), torch.randperm(320, generator=torch.Generator().manual_seed(0))[:200])
    parts = shapes.stack(torn, shapes.raw(16), shapes.fan(range(0, 350, 50)), shapes.box((3, 0, 0)))
    label = face_components(parts, backend=backend).numpy()
    faces, edge = len(label), shapes.to_trimesh(parts).faces_unique_edges
    links = (np.ones(3 * faces), (np.repeat(np.arange(faces), 3), faces + edge.ravel()))
    _, expected = connected_components(coo_matrix(links, (faces + edge.max() + 1,) * 2), directed=False)
    assert np.array_equal(label, [np.flatnonzero(expected[:faces] == e)[0] for e in expected[:faces]])
    assert len(np.unique(label)) > 20


@pytest.mark.parametrize("n", [0, 1, 63, 1000])
def test_sums_do_not_depend_on_order(n):
    generator = torch.Generator().manual_seed(n)
    values = torch.randn(n, 2, generator=generator, dtype=torch.float64) * torch.tensor([1e-20, 1e9])
    label = torch.randint(0, max(n // 7, 1), (n,), generator=generator)
    label = torch.stack([(label == k).nonzero()[0, 0] for k in label]) if n else label
    added, sorted_ = (Groups.of_labels(label, sort).sums(values) for sort in (False, True))
    assert torch.equal(added, sorted_)
    kinds = label.unique()
    expected = [values[label == k].sum(0) for k in kinds]
    torch.testing.assert_close(added, torch.stack(expected) if n else added[:0], rtol=1e-9, atol=0)
    shuffled = torch.randperm(n, generator=generator)
    number = Groups.of_labels(label).number
    assert torch.equal(
        scatter_sums(values, number, len(kinds)), scatter_sums(values[shuffled], number[shuffled], len(kinds))
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("n", [0, 1, 63, 64, 1000])
def test_fixed_point_has_room_for_every_sum(n, dtype):
    """The scale is the largest power of two at which n times the maximum fits an int64."""
    largest = [1.0, 0.75, 3.0, 2.0**-40, 1.5 * 2.0**40, 0.0]
    values = (torch.linspace(-1, 1, n, dtype=torch.float64)[:, None] * torch.tensor(largest)).to(dtype)
    whole, scale = fixed_point(values)
    for k, value in enumerate(largest[:5] if n else []):
        assert float(scale[k]) == 2.0 ** (BITS - n.bit_length() - math.frexp(value)[1])
        assert int(whole[:, k].abs().sum()) <= n * int(whole[:, k].abs().max()) < 2**62
    assert torch.equal(whole[:, 5], torch.zeros(n, dtype=torch.int64))


def test_rows_follow_two_steps():
    def rows(vertices, faces):
        return RowMap(torch.tensor(vertices), torch.tensor(faces))

    second = rows([1, 1, -1, 0], [2, -1]).after(rows([4, 7], [0, -1, 5]))
    assert second.vertices.tolist() == [7, 7, -1, 4]
    assert second.faces.tolist() == [5, -1]


def test_rows_of_nothing():
    none = torch.zeros(0, dtype=torch.int64)
    assert RowMap(torch.tensor([-1]), none).after(RowMap(none, none)).vertices.tolist() == [-1]
