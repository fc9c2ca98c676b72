"""Large meshes are simplified in blocks: as well as by one heap, the same on any number of cores."""

import numpy as np
import pytest
import torch
import trimesh
from comfyui_trellis2.o_voxel.mesh.simplify import edge_faces, simplify
from comfyui_trellis2.o_voxel.ops.closest_point import build_index, closest_point
from comfyui_trellis2.o_voxel.ops.simplify import kernel_cpu_blocks
from comfyui_trellis2.o_voxel.values import Mesh

pytestmark = pytest.mark.slow
TARGET = 600


def bumpy(opened: bool) -> Mesh:
    """20,480 faces, closed, or open at a wavy border and a hole."""
    ball = trimesh.creation.icosphere(5)
    x, y, z = ball.vertices.T
    ball.vertices *= (40 + 2 * np.sin(9 * x) * np.sin(8 * y) * np.sin(7 * z) + 0.5 * np.sin(30 * x))[:, None]
    mesh = Mesh(torch.tensor(ball.vertices, dtype=torch.float32), torch.tensor(ball.faces, dtype=torch.int32))
    if not opened:
        return mesh
    middle = mesh.vertices[mesh.faces.long()].mean(1)
    gone = (middle[:, 2] > 20 + 3 * torch.sin(middle[:, 0] / 5)) | (middle[:, :2].norm(dim=1) < 9)
    return Mesh(mesh.vertices, mesh.faces[~gone])


def distance(a: Mesh, b: Mesh) -> float:
    """Mean distance of points over `a` to `b`."""
    corners = a.vertices[a.faces.long()]
    weights = torch.rand(4, len(corners), 3, generator=torch.Generator().manual_seed(0))
    area = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]).norm(dim=1)
    points = ((weights / weights.sum(2, keepdim=True))[..., None] * corners).sum(2)
    found = closest_point(build_index(b), points.reshape(-1, 3)).distance
    return float((found.view(4, -1) * area).sum() / (4 * area.sum()))


def in_blocks(mesh: Mesh, monkeypatch: pytest.MonkeyPatch, faces: int = 2000) -> Mesh:
    monkeypatch.setattr(kernel_cpu_blocks, "BLOCK_FACES", faces)
    return simplify(mesh, TARGET, backend="numba")


@pytest.mark.parametrize("opened", [False, True], ids=["closed", "open"])
def test_blocks_are_as_good_as_one_heap(opened, monkeypatch):
    mesh = bumpy(opened)
    whole = simplify(mesh, TARGET, backend="numba")
    made = in_blocks(mesh, monkeypatch)
    assert not torch.equal(whole.vertices, made.vertices)
    assert TARGET - 2 <= len(made.faces) <= TARGET
    errors = [distance(mesh, found) + distance(found, mesh) for found in (whole, made)]
    assert errors[1] <= 1.03 * errors[0]
    counts = edge_faces(made.faces)
    assert int(counts.max()) == 2
    assert bool((counts == 1).any()) is opened


def test_the_number_of_cores_does_not_matter(monkeypatch):
    found = []
    for count in (1, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda count=count: count)
        found.append(in_blocks(bumpy(True), monkeypatch))
    assert torch.equal(found[0].vertices, found[1].vertices)
    assert torch.equal(found[0].faces, found[1].faces)


def test_vertices_that_are_locked_stay(monkeypatch):
    mesh = bumpy(False)
    locked = mesh.vertices[:, 0].abs() < 3
    monkeypatch.setattr(kernel_cpu_blocks, "BLOCK_FACES", 2000)
    made = simplify(mesh, 2000, locked=locked, backend="numba")
    kept = set(map(tuple, made.vertices.tolist()))
    assert set(map(tuple, mesh.vertices[locked].tolist())) <= kept
    assert len(made.faces) <= 2000


def test_coplanar_faces_do_not_take_the_place_of_others(monkeypatch):
    """All of a box's collapses cost nothing but at its edges: the blocks must leave enough for the corners."""
    box = trimesh.creation.box((40, 30, 20)).subdivide_to_size(1.0, max_iter=20)
    box.merge_vertices()
    mesh = Mesh(torch.tensor(box.vertices, dtype=torch.float32), torch.tensor(box.faces, dtype=torch.int32))
    made = in_blocks(mesh, monkeypatch)
    assert distance(made, mesh) < 1e-3
    assert abs(trimesh.Trimesh(made.vertices, made.faces, process=False).volume - 24000) < 1
