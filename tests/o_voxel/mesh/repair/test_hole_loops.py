"""Boundary loops, against walks along them edge by edge."""

import pytest
import torch
from comfyui_trellis2.o_voxel.mesh.connectivity.surface import join_faces
from comfyui_trellis2.o_voxel.mesh.repair.hole_loops import _loop_positions, _to_cpu, find_loops


def walked(before):
    """(lowest row of its loop, distance from it) of each row."""
    places = []
    for row in range(len(before)):
        loop = [row]
        while before[loop[-1]] != row:
            loop.append(before[loop[-1]])
        places.append((min(loop), loop.index(min(loop))))
    return places


@pytest.mark.parametrize("n", [0, 1, 2, 63, 64, 65, 1000])
@pytest.mark.parametrize("kind", ["random", "one loop", "one loop, down", "alone"])
def test_places_are_those_of_a_walk(n, kind):
    rows = torch.arange(n)
    before = {
        "random": torch.randperm(n, generator=torch.Generator().manual_seed(n)),
        "one loop": rows.roll(1),
        "one loop, down": rows.roll(-1),
        "alone": rows,
    }[kind]
    place = _loop_positions(before)
    assert [divmod(value, 1 << 32) for value in place.tolist()] == walked(before.tolist())


def test_a_copy_in_one_transfer_changes_nothing():
    columns = [torch.arange(5), torch.zeros(0, 3), torch.rand(4, 3, dtype=torch.float64)[:, :2], torch.rand(3, 3)]
    for column, copied in zip(columns, _to_cpu(*columns), strict=True):
        assert copied.dtype == column.dtype
        assert torch.equal(copied, column)


def test_the_loops_of_a_punched_sheet(shapes):
    """Two holes and the outline: loop rows follow the winding of the faces that would fill them."""
    sheet = shapes.sheet(12)
    middle = sheet.vertices[sheet.faces.long()].mean(1)[:, :2]
    near = [
        (middle - torch.tensor(spot)).norm(dim=1) < radius for spot, radius in (((0.3, 0.3), 0.1), ((0.7, 0.6), 0.2))
    ]
    mesh = shapes.without(sheet, near[0] | near[1])
    faces = mesh.faces.long()
    surface = join_faces(mesh.vertices, faces)
    loops = find_loops(mesh.vertices, faces, surface, surface.seam, 100.0)
    ends = torch.stack([loops.vertex, loops.vertex[loops.following]], 1)
    half = torch.stack([faces.roll(-1, 1), faces], 2).reshape(-1, 2)[surface.twin < 0]
    assert sorted(ends.tolist()) == sorted(half.tolist())
    assert torch.equal(loops.points, mesh.vertices[loops.vertex].double())
    assert loops.rim.tolist() == [[0, 0, 1]] * len(loops.vertex)
    assert not loops.flipped.any()
    sides = {tuple(sorted(pair)) for face in faces.tolist() for pair in zip(face, face[1:] + face[:1], strict=True)}
    joined = {tuple(sorted(pair)) for pair in loops.vertex[loops.joined].tolist()}
    assert joined == {side for side in sides if set(side) <= set(loops.vertex.tolist())}
    size = (loops.points[loops.following] - loops.points).norm(dim=1)
    perimeters = torch.zeros(len(loops.sizes), dtype=torch.float64).index_add_(0, loops.loop, size)
    for limit in sorted(perimeters.tolist()):
        kept = find_loops(mesh.vertices, faces, surface, surface.seam, limit - 1e-9)
        assert len(kept.sizes) == int((perimeters < limit).sum())


def test_loops_without_the_shut(shapes):
    sheet = shapes.sheet(3)
    faces = sheet.faces.long()
    surface = join_faces(sheet.vertices, faces)
    assert len(find_loops(sheet.vertices, faces, surface, surface.seam, 100.0).sizes) == 1
    shut = (surface.twin < 0).nonzero().squeeze(1)[:1]
    assert len(find_loops(sheet.vertices, faces, surface, shut, 100.0).sizes) == 0
