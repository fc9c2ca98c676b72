"""Unified vertex and UV indices."""

import pytest
import torch
from comfyui_trellis2.o_voxel.mesh.connectivity.row_map import unify_indices
from comfyui_trellis2.o_voxel.values import Mesh

SQUARE = Mesh(
    torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [9, 9, 9]]), torch.tensor([[0, 1, 2], [0, 2, 3]])
)


def test_corners_keep_their_place_and_texture():
    uv = torch.rand(7, 2)
    uv_faces = torch.tensor([[6, 1, 2], [0, 2, 5]])  # vertex 0 has two rows, vertex 2 has one
    mesh, found, rows = unify_indices(SQUARE, uv, uv_faces)
    assert len(rows) == 5
    assert torch.equal(mesh.vertices[mesh.faces], SQUARE.vertices[SQUARE.faces])
    assert torch.equal(found[mesh.faces], uv[uv_faces])
    assert torch.equal(SQUARE.vertices[rows], mesh.vertices)


def test_no_faces():
    empty = Mesh(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.int64))
    mesh, uv, rows = unify_indices(empty, torch.zeros(0, 2), torch.zeros(0, 3, dtype=torch.int64))
    assert (len(mesh.vertices), len(uv), len(rows)) == (0, 0, 0)


@pytest.mark.parametrize("row", [-1, 3])
def test_rows_that_are_not_there(row):
    uv_faces = torch.tensor([[0, 1, 2], [0, 2, row]])
    with pytest.raises(ValueError, match="rows of uv, 0 to 2"):
        unify_indices(SQUARE, torch.rand(3, 2), uv_faces)
