"""The reference's flexible_dual_grid_to_mesh on the dual grids of five meshes."""

import json

import pytest
import torch
from comfyui_trellis2.o_voxel.core.grid import Grid
from comfyui_trellis2.o_voxel.values import DualGrid
from comfyui_trellis2.o_voxel.voxels.to_mesh import dual_grid_to_mesh, dual_vertices, quads, triangulate

ATOL = 1e-6  # world units
MESHES = ("sphere", "sheet", "twoboxes", "thinbox", "aabox")
GRIDS = [(mesh, resolution) for mesh in MESHES for resolution in (32, 64)]

grids = pytest.mark.parametrize("mesh, resolution", GRIDS)
# aabox has triangles without area, whose zero normals make the reference take the other diagonal at random.
unweighted = [("none", mesh, resolution) for mesh, resolution in GRIDS if mesh != "aabox"]
weighted = [("weight", mesh, resolution) for mesh, resolution in GRIDS]


@pytest.fixture(scope="module")
def data(arrays):
    return arrays("c6_dual_grid.npz")


def dual_grid(data, mesh, resolution, weighted):
    stem = f"{mesh}.{resolution}."
    coords = data[f"{stem}voxel_indices"].int()
    weight = data[f"{stem}split_weight"][:, 0] if weighted else None
    return DualGrid(
        coords,
        data[f"{stem}dual_vertices"] * resolution - coords,
        data[f"{stem}intersected"],
        Grid.cube(resolution),
        weight,
    )


def needed(data, key):
    if key not in data:
        pytest.skip(f"{key} is left out of the file")
    return data[key]


@grids
def test_vertices(data, close, mesh, resolution):
    expected = needed(data, f"{mesh}.{resolution}.mesh_vertices")
    vertices = dual_vertices(dual_grid(data, mesh, resolution, weighted=False))
    assert len(vertices) == len(data[f"{mesh}.{resolution}.voxel_indices"])
    close(vertices[: len(expected)], expected, ATOL)


@pytest.mark.parametrize("split, mesh, resolution", unweighted + weighted)
def test_faces(data, split, mesh, resolution):
    expected = needed(data, f"{mesh}.{resolution}.faces_split_{split}")
    source = dual_grid(data, mesh, resolution, weighted=split == "weight")
    before = source.coords.clone(), source.intersected.clone()
    faces = dual_grid_to_mesh(source).faces
    assert faces.dtype == torch.int32
    assert torch.equal(faces, expected)
    assert torch.equal(source.coords, before[0])
    assert torch.equal(source.intersected, before[1])


@grids
def test_number_of_quads(golden, data, mesh, resolution):
    report = json.loads(golden("c6_dual_grid.json").read_text())["report"][f"{mesh}.{resolution}"]
    source = dual_grid(data, mesh, resolution, weighted=False)
    assert len(quads(source)) == report["quads"]
    assert source.intersected.sum(0).tolist() == report["n_intersected"]


def test_both_diagonals_are_used(data):
    """Else the faces above could not tell a wrong comparison of the weights."""
    source = dual_grid(data, "sphere", 32, weighted=True)
    quad = quads(source)
    split, first = triangulate(quad, source.split_weight), triangulate(quad, None)
    same = (split == first).all(1).float().mean()
    assert 0.2 < same < 0.8
