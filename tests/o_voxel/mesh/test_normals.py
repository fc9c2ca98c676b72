"""Normals and tangents against trimesh, exact solids, and MikkTSpace's definition corner by corner."""

import math

import numpy as np
import pytest
import torch
from comfyui_trellis2.o_voxel.mesh.normals import smooth_by_angle, tangents, vertex_normals
from comfyui_trellis2.o_voxel.values import Mesh


def unit_error(directions):
    return float((directions.double().norm(dim=1) - 1).abs().max()) if len(directions) else 0.0


def test_corners_of_a_box_point_diagonally(shapes):
    """Independent of how sides are triangulated: weights are corner angles, not face counts."""
    box = shapes.box()
    torch.testing.assert_close(vertex_normals(box), box.vertices.sign() / math.sqrt(3))


def test_normals_are_those_of_trimesh(shapes):
    mesh = shapes.sphere(2)
    mesh = Mesh(mesh.vertices * torch.tensor([1.0, 0.3, 2.0]), mesh.faces)
    expected = torch.tensor(shapes.to_trimesh(mesh).vertex_normals.copy(), dtype=torch.float32)
    normals = vertex_normals(mesh)
    torch.testing.assert_close(normals, expected, atol=1e-6, rtol=0)
    assert normals.dtype == torch.float32
    assert unit_error(normals) < 1e-6


def test_no_normal_is_zero(shapes):
    triangle = [[0, 0, 0], [1, 0, 0], [0, 1, 0]]
    both = shapes.mesh([*triangle, [0, 0, 9]], [[0, 1, 2], [0, 2, 1]])
    assert vertex_normals(both).tolist() == [[0, 0, 1]] * 4
    big = shapes.mesh([*triangle, [-2, 0, 0], [0, -2, 0]], [[0, 2, 1], [0, 4, 3], [0, 3, 4]])
    assert vertex_normals(big)[3:].tolist() == [[0, 0, -1]] * 2
    line = shapes.mesh([[0, 0, 0], [1, 0, 0], [2, 0, 0]], [[0, 1, 2]])
    point = Mesh(torch.zeros(3, 3), torch.tensor([[0, 1, 2]]))
    rough = shapes.scramble(shapes.raw(24))
    for mesh in (both, big, line, point, rough, shapes.fan([0, 90, 180, 270]), Mesh(torch.zeros(2, 3), line.faces[:0])):
        assert unit_error(vertex_normals(mesh)) < 1e-6
        assert unit_error(smooth_by_angle(mesh, 40.0)[1]) < 1e-6


def test_a_face_without_area_changes_no_normal(shapes):
    box = shapes.box()
    needle = torch.tensor([[0, 0, 1], [0, 1, 1]], dtype=torch.int32)
    assert torch.equal(vertex_normals(Mesh(box.vertices, torch.cat([box.faces, needle]))), vertex_normals(box))


def test_size_does_not_matter(shapes):
    mesh = shapes.sphere(1)
    for scale in (1e-15, 1e15):
        scaled = Mesh(mesh.vertices * scale, mesh.faces)
        torch.testing.assert_close(vertex_normals(scaled), vertex_normals(mesh), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("crease", "vertices"), [(0, 24), (60, 24), (89.9, 24), (90, 8), (180, 8)])
def test_a_box_has_creases(shapes, backend, crease, vertices):
    box = shapes.box()
    mesh, normals, rows = smooth_by_angle(box, crease, backend=backend)
    assert len(mesh.vertices) == len(normals) == vertices
    assert torch.equal(mesh.vertices, box.vertices[rows.vertices])
    assert torch.equal(rows.vertices[mesh.faces], box.faces)
    if vertices == 24:
        flat = torch.tensor(shapes.to_trimesh(box).face_normals.copy(), dtype=torch.float32)
        torch.testing.assert_close(normals[mesh.faces], flat[:, None].expand(-1, 3, 3))


def test_smooth_ground_has_no_creases(shapes, backend):
    for mesh in (shapes.sheet(6), shapes.scramble(shapes.sheet(6), share=1.0)):
        assert shapes.same(smooth_by_angle(mesh, 0.0, backend=backend)[0], mesh)
    ball = shapes.sphere(3)
    smooth, normals, _ = smooth_by_angle(ball, 30.0, backend=backend)
    assert shapes.same(smooth, ball)
    assert float((normals * ball.vertices).sum(1).min()) > 0.999


def test_only_one_edge_of_a_roof_is_sharp(shapes, backend):
    """Four strips, bent by 30, 80 and 30 degrees: the two sides are smooth, the ridge between them is not."""
    headings = np.radians([-70.0, -40.0, 40.0, 70.0])
    x = np.concatenate([[0], np.cumsum(np.cos(headings))])
    z = np.concatenate([[0], np.cumsum(np.sin(headings))])
    points = np.concatenate([np.stack([x, np.full(5, y), z], 1) for y in (0.0, 1.0)])
    faces = [[k, k + 1, k + 6] for k in range(4)] + [[k, k + 6, k + 5] for k in range(4)]
    mesh = shapes.mesh(points, faces)
    smooth, normals, rows = smooth_by_angle(mesh, 45.0, backend=backend)
    assert rows.vertices[10:].tolist() == [2, 7]
    sides = {math.copysign(1, float(n[0])) for n in normals[torch.tensor([2, 10])]}
    assert sides == {1, -1}
    assert len(smooth.vertices) == 12


def test_neighbours_that_wind_against_each_other_are_apart(shapes, backend):
    sheet = shapes.sheet(1)
    half = Mesh(sheet.vertices, torch.stack([sheet.faces[0], sheet.faces[1, [0, 2, 1]]]))
    mesh, normals, _ = smooth_by_angle(half, 180.0, backend=backend)
    assert len(mesh.vertices) == 6
    assert sorted(set(normals[:, 2].tolist())) == [-1, 1]


@pytest.mark.parametrize("angle", [-1.0, 181.0, float("nan")])
def test_a_wrong_angle_is_named(shapes, angle):
    with pytest.raises(ValueError, match="crease_deg: expected 0 to 180"):
        smooth_by_angle(shapes.box(), angle)


def by_definition(mesh, normals, uv):
    """MikkTSpace's tangents of (vertex, side), corner by corner."""
    p, n, t = (part.double().numpy() for part in (mesh.vertices, normals, uv))
    n = n / np.linalg.norm(n, axis=1, keepdims=True)
    sums, level = {}, lambda v, up: (w := v - up * (v @ up)) / max(np.linalg.norm(w), 1e-300)
    for face in mesh.faces.tolist():
        e1, e2 = p[face[1]] - p[face[0]], p[face[2]] - p[face[0]]
        (u1, v1), (u2, v2) = t[face[1]] - t[face[0]], t[face[2]] - t[face[0]]
        side = 1 if u1 * v2 - v1 * u2 > 0 else -1
        direction = side * (v2 * e1 - v1 * e2)
        for k in range(3):
            a, b, c = face[k], face[(k + 1) % 3], face[(k + 2) % 3]
            angle = np.arccos(np.clip(level(p[b] - p[a], n[a]) @ level(p[c] - p[a], n[a]), -1, 1))
            sums[a, side] = sums.get((a, side), 0) + angle * level(direction, n[a])
    return {key: level(total, n[key[0]]) for key, total in sums.items()}


def check(mesh, normals, uv, backend="auto"):
    """Computes the tangents and checks the invariants of every texture."""
    split, found, rows = tangents(mesh, normals, uv, backend=backend)
    assert torch.equal(split.vertices, mesh.vertices[rows.vertices])
    assert torch.equal(rows.vertices[split.faces.long()], mesh.faces.long())
    assert unit_error(found[:, :3]) < 1e-6
    assert set(found[:, 3].tolist()) <= {1.0, -1.0}
    if len(found):
        assert float((found[:, :3] * normals[rows.vertices]).sum(1).abs().max()) < 1e-5
    return split, found, rows


@pytest.mark.parametrize("turn_deg", [0, 30, 90, 200])
@pytest.mark.parametrize("side", [1, -1])
def test_a_plane_has_the_directions_of_its_texture(shapes, backend, turn_deg, side):
    sheet = shapes.sheet(4)
    c, s = math.cos(math.radians(turn_deg)), math.sin(math.radians(turn_deg))
    u_axis = torch.tensor([c, s])
    v_axis = side * torch.tensor([-s, c])
    uv = torch.stack([sheet.vertices[:, :2] @ u_axis, sheet.vertices[:, :2] @ v_axis], 1)
    normals = vertex_normals(sheet)
    split, found, _ = check(sheet, normals, uv, backend)
    assert shapes.same(split, sheet)
    torch.testing.assert_close(found[:, :2], u_axis.expand(25, 2), atol=1e-6, rtol=0)
    bitangent = torch.linalg.cross(normals, found[:, :3]) * found[:, 3:]
    torch.testing.assert_close(bitangent[:, :2], v_axis.expand(25, 2), atol=1e-6, rtol=0)


@pytest.mark.parametrize("seed", range(4))
def test_tangents_are_mikktspaces(shapes, backend, seed):
    """A bumpy sheet with a texture that is sheared, bent, and mirrored in the middle."""
    generator = torch.Generator().manual_seed(seed)
    sheet = shapes.sheet(6, bump=0.4)
    x, y = sheet.vertices[:, 0], sheet.vertices[:, 1]
    u = (x - 0.5).abs() if seed % 2 else x + 0.2 * y * y
    uv = torch.stack([u, y + 0.1 * x], 1) + 0.01 * torch.rand(49, 2, generator=generator)
    normals = vertex_normals(sheet)
    split, found, rows = check(sheet, normals, uv, backend)
    expected = by_definition(sheet, normals, uv)
    assert len(split.vertices) == len(expected) == (49 + 7 if seed % 2 else 49)
    for vertex, tangent in zip(rows.vertices.tolist(), found.double().numpy(), strict=True):
        np.testing.assert_allclose(tangent[:3], expected[vertex, int(tangent[3])], atol=1e-6)


def test_a_texture_without_area_has_some_direction(shapes, backend):
    ball = shapes.sphere(1)
    normals = vertex_normals(ball)
    for uv in (torch.zeros(42, 2), ball.vertices[:, :1].repeat(1, 2).contiguous()):
        split, found, _ = check(ball, normals, uv, backend)
        assert shapes.same(split, ball)
        assert (found[:, 3] == 1).all()


def test_a_face_without_texture_takes_its_neighbours_side(shapes, backend):
    sheet = shapes.sheet(3)
    uv = sheet.vertices[:, :2] * torch.tensor([-1.0, 1.0])
    uv[sheet.faces[4].long()] = uv[sheet.faces[4, 0]].clone()
    split, found, _ = check(sheet, vertex_normals(sheet), uv.contiguous(), backend)
    assert (found[split.faces[4].long(), 3] == -1).all()


def test_nothing_and_little(shapes, backend):
    empty = Mesh(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.int32))
    check(empty, torch.zeros(0, 3), torch.zeros(0, 2), backend)
    point = Mesh(torch.zeros(3, 3), torch.tensor([[0, 1, 2]]))
    check(point, torch.eye(3)[[2, 2, 2]], torch.rand(3, 2, generator=torch.Generator().manual_seed(0)), backend)


def test_inputs_are_checked(shapes):
    box, normals = shapes.box(), vertex_normals(shapes.box())
    with pytest.raises(ValueError, match=r"uv: expected shape \[8, 2\], got \[8, 3\]"):
        tangents(box, normals, normals)
    with pytest.raises(ValueError, match=r"normals: expected shape \[8, 3\]"):
        tangents(box, normals[:4], normals[:, :2].contiguous())
    with pytest.raises(ValueError, match="uv: expected finite numbers"):
        tangents(box, normals, torch.full((8, 2), torch.nan))


def test_the_same_input_gives_the_same_bytes(shapes):
    mesh = shapes.sphere(3)
    uv = mesh.vertices[:, :2].contiguous()
    for make in (lambda: smooth_by_angle(mesh, 5.0)[:2], lambda: tangents(mesh, vertex_normals(mesh), uv)[:2]):
        (a, x), (b, y) = make(), make()
        assert shapes.same(a, b)
        assert torch.equal(x, y)
