"""Flexible dual grid to mesh: quads by hand and by brute force; the goldens have the reference's own."""

import dataclasses

import pytest
import torch
from comfyui_trellis2.o_voxel.core.grid import Grid
from comfyui_trellis2.o_voxel.values import DualGrid
from comfyui_trellis2.o_voxel.voxels.to_mesh import (
    dual_grid_to_mesh,
    dual_vertices,
    triangulate,
)

SIZES = (0, 1, 63, 1000)
BOX = Grid.fit((-1.0, 0.0, 2.0), (1.0, 3.0, 2.5), (8, 12, 10))
# Offsets in (x, y, z) of the quad around an edge along x, y, z, as the reference has them.
CORNERS = (("000", "001", "011", "010"), ("000", "100", "101", "001"), ("000", "010", "110", "100"))

axes = pytest.mark.parametrize("axis", [0, 1, 2])


def around_one_edge(axis, weights=None, missing=None):
    """The four voxels around one crossed edge, the vertices at their centres; row 0 owns the edge."""
    coords = torch.tensor([[int(digit) for digit in corner] for corner in CORNERS[axis]], dtype=torch.int32) + 3
    intersected = torch.zeros(4, 3, dtype=torch.bool)
    intersected[0, axis] = True
    keep = [i for i in range(4) if i != missing]
    weights = None if weights is None else torch.tensor(weights)[keep]
    return DualGrid(coords[keep], torch.full((len(keep), 3), 0.5), intersected[keep], Grid.cube(8), weights)


def scattered(n, weighted=True):
    generator = torch.Generator().manual_seed(n)
    cells = torch.cartesian_prod(*(torch.arange(size, dtype=torch.int32) for size in BOX.shape))
    return DualGrid(
        coords=cells[torch.randperm(len(cells), generator=generator)[:n]],
        dual=torch.rand(n, 3, generator=generator),
        intersected=torch.rand(n, 3, generator=generator) < 0.5,
        grid=BOX,
        split_weight=torch.rand(n, generator=generator) if weighted else None,
    )


def brute_force_faces(source):
    row = {tuple(voxel): i for i, voxel in enumerate(source.coords.tolist())}
    weight = None if source.split_weight is None else source.split_weight.tolist()
    faces = []
    for voxel, crossed in zip(source.coords.tolist(), source.intersected.tolist(), strict=True):
        for axis in range(3):
            corners = [tuple(v + int(d) for v, d in zip(voxel, corner, strict=True)) for corner in CORNERS[axis]]
            if crossed[axis] and all(corner in row for corner in corners):
                a, b, c, d = (row[corner] for corner in corners)
                along_02 = weight is None or weight[a] * weight[c] > weight[b] * weight[d]
                faces += [[a, b, c], [a, c, d]] if along_02 else [[a, b, d], [d, b, c]]
    return torch.tensor(faces, dtype=torch.int32).reshape(-1, 3)


@axes
def test_one_quad(axis):
    mesh = dual_grid_to_mesh(around_one_edge(axis))
    assert mesh.faces.tolist() == [[0, 1, 2], [0, 2, 3]]
    a, b, c = mesh.vertices[mesh.faces[0].long()]
    normal = torch.linalg.cross(b - a, c - a)
    assert normal[axis] < 0
    assert normal.abs().sum() == -normal[axis]


@axes
@pytest.mark.parametrize(
    "weights, faces",
    [
        ([2.0, 1, 1, 1], [[0, 1, 2], [0, 2, 3]]),
        ([1.0, 2, 1, 1], [[0, 1, 3], [3, 1, 2]]),
        ([1.0, 1, 1, 1], [[0, 1, 3], [3, 1, 2]]),
        ([3.0, 2, 1, 2], [[0, 1, 3], [3, 1, 2]]),
    ],
    ids=["first larger", "second larger", "tie", "product, not sum"],
)
def test_the_diagonal(axis, weights, faces):
    assert dual_grid_to_mesh(around_one_edge(axis, weights)).faces.tolist() == faces


@axes
@pytest.mark.parametrize("missing", [1, 2, 3])
def test_a_quad_needs_its_four_voxels(axis, missing):
    mesh = dual_grid_to_mesh(around_one_edge(axis, missing=missing))
    assert mesh.faces.shape == (0, 3)
    assert mesh.vertices.shape == (3, 3)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("weighted", [True, False])
def test_against_brute_force(n, weighted):
    n = min(n, 960)
    source = scattered(n, weighted)
    mesh = dual_grid_to_mesh(source)
    assert mesh.faces.dtype == torch.int32
    assert torch.equal(mesh.faces, brute_force_faces(source))
    assert mesh.vertices.shape == (n, 3)


def test_brute_force_finds_faces():
    """Else the test above could not fail."""
    assert len(brute_force_faces(scattered(900))) > 500


def test_vertices_are_in_the_world():
    source = scattered(63)
    low, size = torch.tensor([-1.0, 0.0, 2.0]), torch.tensor([2 / 8, 3 / 12, 0.5 / 10])
    wanted = low + (source.coords + source.dual) * size
    torch.testing.assert_close(dual_vertices(source), wanted, atol=1e-6, rtol=0)
    assert (dual_vertices(source) >= low).all()
    assert (dual_vertices(source) <= torch.tensor([1.0, 3.0, 2.5])).all()


def test_faces_of_quads():
    quad = torch.tensor([[5, 6, 7, 8]])
    assert triangulate(quad, None).tolist() == [[5, 6, 7], [5, 7, 8]]
    assert triangulate(quad, torch.ones(9)).tolist() == [[5, 6, 8], [8, 6, 7]]
    assert triangulate(quad[:0], torch.ones(9)).shape == (0, 3)


def test_the_input_is_left_alone_and_the_output_repeats():
    source = scattered(900)
    fields = [getattr(source, name) for name in ("coords", "dual", "intersected", "split_weight")]
    before = [tensor.clone() for tensor in fields]
    first, second = dual_grid_to_mesh(source), dual_grid_to_mesh(source)
    assert torch.equal(first.vertices, second.vertices)
    assert torch.equal(first.faces, second.faces)
    assert all(torch.equal(a, b) for a, b in zip(fields, before, strict=True))
    with pytest.raises(dataclasses.FrozenInstanceError):
        source.coords = None


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"coords": torch.zeros(63, 4, dtype=torch.int32)}, r"DualGrid.coords: expected shape \[\*, 3\]"),
        ({"coords": torch.zeros(63, 3, dtype=torch.int64)}, r"DualGrid.coords: expected int32, got int64"),
        ({"dual": torch.zeros(62, 3)}, r"DualGrid.dual: expected shape \[63, 3\], got \[62, 3\]"),
        ({"dual": torch.zeros(63, 3).double()}, r"DualGrid.dual: expected float32, got float64"),
        ({"intersected": torch.zeros(63, 3)}, r"DualGrid.intersected: expected bool, got float32"),
        ({"split_weight": torch.zeros(63, 1)}, r"DualGrid.split_weight: expected shape \[63\], got \[63, 1\]"),
    ],
)
def test_malformed(changed, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(scattered(63), **changed)


@pytest.mark.parametrize("tile_size", [1, 2, 3, 16, 4096])
@pytest.mark.parametrize("n", [0, 1, 63, 900])
def test_tiled_equals_whole(n, tile_size):
    source = scattered(n)
    whole, tiled = dual_grid_to_mesh(source), dual_grid_to_mesh(source, tile_size)
    assert torch.equal(whole.faces, tiled.faces)
    assert torch.equal(whole.vertices, tiled.vertices)


def test_tile_size_is_checked():
    with pytest.raises(ValueError, match="tile_size: expected at least 1 voxel, got 0"):
        dual_grid_to_mesh(scattered(63), 0)


DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.mark.slow
@pytest.mark.parametrize("tile_size", [16, 64, 100, 128, 4096])
@pytest.mark.parametrize("order", ["lexicographic", "shuffled"])
def test_tiled_equals_whole_on_a_surface(tile_size, order):
    """A ball of 160 voxels across with a hole in its voxels, so that some quads are incomplete."""
    axis = torch.arange(160) - 79.5
    radius = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij")).norm(dim=0)
    coords = ((radius > 77) & (radius < 79)).nonzero().to(torch.int32)
    generator = torch.Generator().manual_seed(1)
    coords = coords[torch.rand(len(coords), generator=generator) < 0.98]
    if order == "shuffled":
        coords = coords[torch.randperm(len(coords), generator=generator)]
    crossed, weight = (
        torch.rand(len(coords), 3, generator=generator) < 0.5,
        torch.rand(len(coords), generator=generator),
    )
    source = DualGrid(
        coords.to(DEVICE), torch.rand(len(coords), 3).to(DEVICE), crossed.to(DEVICE), Grid.cube(160), weight.to(DEVICE)
    )
    whole = dual_grid_to_mesh(source)
    assert 1000 < len(whole.faces) < 2 * crossed.sum()
    assert torch.equal(whole.faces, dual_grid_to_mesh(source, tile_size).faces)
