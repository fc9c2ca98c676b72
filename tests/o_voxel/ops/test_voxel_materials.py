"""The parts under voxel materials: scan lines, both backends, the nearest voxel."""

import itertools
import math

import numpy as np
import pytest
import torch
from comfyui_trellis2.o_voxel.core.grid import Grid
from comfyui_trellis2.o_voxel.material import Material, Texture, TexturedMesh
from comfyui_trellis2.o_voxel.ops.voxel_materials import cpu, find_pairs, nearest_rows, pack_scene, unravel, voxel_means
from comfyui_trellis2.o_voxel.ops.voxel_materials.reference import project
from comfyui_trellis2.o_voxel.ops.voxel_materials.scan_lines import cuts, sorted_unique
from comfyui_trellis2.o_voxel.ops.voxel_materials.scene import plane_table, uv_frame
from comfyui_trellis2.o_voxel.values import Mesh

BACKENDS = ("numba", "reference")
GRIDS = {
    "cube": Grid.cube(20),
    "box": Grid((7, 64, 33), (-0.4, -0.5, -0.3), (0.11, 0.015, 0.02)),
    "layer": Grid((25, 1, 25), (-0.5, -0.1, -0.5), (0.04, 0.3, 0.04)),
    "one voxel": Grid.cube(1),
}


def silent(done):
    pass


def soup(faces, seed=0, spread=1.2):
    """Random triangles, many of them partly or wholly off the grid."""
    generator = torch.Generator().manual_seed(seed)
    vertices = (torch.rand(3 * faces, 3, generator=generator) - 0.5) * spread
    return Mesh(vertices, torch.arange(3 * faces).reshape(-1, 3))


def scene_of(mesh, grid, **extras):
    return pack_scene(mesh, grid, **({"emissive": False, "normal": False, "mip_offset": 0.0} | extras))


def crossings(mesh, grid):
    """Pairs (voxel, triangle) by intersecting each grid line inside the grid with each triangle's plane, in float64."""
    corners = (mesh.vertices[mesh.faces] - torch.tensor(grid.origin, dtype=torch.float32)).double().numpy()
    size = np.array(grid.voxel_size, np.float32).astype(np.float64)
    found = set()
    for t, triangle in enumerate(corners):
        for axis in range(3):
            a0, a1 = (axis + 1) % 3, (axis + 2) % 3
            edges = np.array([triangle[1] - triangle[0], triangle[2] - triangle[0]])
            flat = edges[:, [a0, a1]].T
            if abs(np.linalg.det(flat)) < 1e-14:
                continue
            for i, j in itertools.product(range(grid.shape[a0] - 1), range(grid.shape[a1] - 1)):
                target = np.array([(i + 1) * size[a0], (j + 1) * size[a1]]) - triangle[0, [a0, a1]]
                s, r = np.linalg.solve(flat, target)
                if s < 0 or r < 0 or s + r > 1:
                    continue
                k = math.floor((triangle[0, axis] + s * edges[0, axis] + r * edges[1, axis]) / size[axis])
                if 0 <= k < grid.shape[axis]:
                    for di, dj in itertools.product((0, 1), repeat=2):
                        voxel = [0, 0, 0]
                        voxel[a0], voxel[a1], voxel[axis] = i + di, j + dj, k
                        found.add((*voxel, t))
    return found


def rich_mesh(faces=60):
    """Every kind of material at once: sizes, wraps, filters, modes, colours, normal maps, and one plain."""
    generator = torch.Generator().manual_seed(5)

    def texture(height, width, channels, wrap="repeat", mode="linear"):
        pixels = torch.randint(0, 256, (height, width, channels), generator=generator, dtype=torch.uint8)
        return Texture(pixels, (wrap, "repeat"), mode)

    materials = (
        Material(),
        Material(
            base_color_factor=(0.9, 0.5, 0.2),
            base_color_texture=texture(16, 16, 3),
            alpha_texture=texture(16, 16, 1),
            alpha_mode="MASK",
            alpha_factor=0.8,
            normal_texture=texture(8, 8, 3),
            normal_scale=0.5,
        ),
        Material(
            base_color_texture=texture(5, 9, 3, "mirror"),
            metallic_texture=texture(32, 32, 1, "clamp"),
            roughness_texture=texture(32, 32, 1, "clamp"),
            alpha_mode="BLEND",
            alpha_factor=0.3,
            emissive_factor=(2.0, 1.0, 0.5),
            emissive_texture=texture(64, 2, 3, mode="nearest"),
        ),
    )
    mesh = soup(faces, seed=3, spread=0.9)
    rows = len(mesh.vertices)
    normals = torch.nn.functional.normalize(torch.rand(rows, 3, generator=generator) - 0.5, dim=1)
    return TexturedMesh(
        mesh,
        materials,
        material_ids=torch.arange(faces) % 3,
        uv=torch.rand(40, 2, generator=generator) * 6 - 3,
        uv_faces=torch.randint(0, 40, (faces, 3), generator=generator),
        vertex_colors=torch.rand(rows, 4, generator=generator),
        normals=normals,
    )


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_pairs_are_the_crossings_of_grid_lines(grid, backend):
    mesh = soup(12)
    scene = scene_of(TexturedMesh(mesh), grid)
    keys = find_pairs(scene, backend=backend, report=silent)
    voxels, triangles = keys >> scene.tri_bits, keys & ((1 << scene.tri_bits) - 1)
    found = torch.stack((*unravel(voxels, grid.shape), triangles), 1).tolist()
    expected = crossings(mesh, grid)
    assert set(map(tuple, found)) == expected
    assert len(found) == len(expected)
    assert found == sorted(found)
    assert (len(expected) > 0) == (grid.shape != (1, 1, 1))


@pytest.mark.parametrize("faces", [0, 1, 63, 1000])
def test_backends_and_slabs_give_the_same_pairs(faces, monkeypatch):
    scene = scene_of(TexturedMesh(soup(faces, seed=faces, spread=0.4)), Grid.cube(25))
    expected = find_pairs(scene, backend="reference", report=silent)
    assert torch.equal(find_pairs(scene, backend="reference", report=silent, slab=4000), expected)
    monkeypatch.setattr(cpu, "BUFFER", 16)
    assert torch.equal(find_pairs(scene, backend="numba", report=silent), expected)


def test_waiting_keys_are_merged(monkeypatch):
    from comfyui_trellis2.o_voxel.ops.voxel_materials import scan_lines

    scene = scene_of(TexturedMesh(soup(63)), Grid.cube(24))
    expected = find_pairs(scene, backend="reference", report=silent)
    monkeypatch.setattr(scan_lines, "PENDING", 100)
    monkeypatch.setattr(scan_lines, "TRIANGLES", 10)
    assert torch.equal(find_pairs(scene, backend="reference", report=silent), expected)


def test_backends_give_the_same_bytes():
    scene = scene_of(rich_mesh(), Grid.cube(30), emissive=True, normal=True, mip_offset=0.3)
    keys = find_pairs(scene, backend="numba", report=silent)
    touched = torch.unique_consecutive(keys >> scene.tri_bits)
    voxels = torch.unique(torch.cat((touched, torch.tensor([0, 26_999]))))
    results = [voxel_means(scene, keys, voxels, backend=backend, report=silent) for backend in BACKENDS]
    assert results[0].shape == (len(voxels), 12)
    assert bool(results[0].isfinite().all())
    assert torch.equal(*results)


@pytest.mark.parametrize("budget", [1, 5, 100])
def test_cuts_cover_every_run_once(budget):
    counts = torch.tensor([0, 3, 0, 0, 7, 1, 1, 1, 20, 0])
    pieces = cuts(counts.cumsum(0), budget)
    assert [piece[0] for piece in pieces] == [0] + [piece[1] for piece in pieces[:-1]]
    assert pieces[-1][1] == len(counts)
    for first, last, before, items in pieces:
        assert before == int(counts[:first].sum())
        assert items == int(counts[first:last].sum())
        assert items <= budget + int(counts.max())
    assert cuts(counts[:0], budget) == []


def test_sorted_unique_drops_the_negative():
    assert sorted_unique(torch.tensor([5, -1, 3, 5, -1, 0])).tolist() == [0, 3, 5]
    assert sorted_unique(torch.tensor([-1, -1])).tolist() == []


def test_projection_gives_barycentrics_and_the_signed_distance():
    triangle = torch.tensor([[[0.0, 0, 0], [2, 0, 0], [0, 1, 0]]])
    bary, distance = project(plane_table(triangle), torch.tensor([[0.5, 0.5, 0.25]]))
    assert bary.tolist() == [[0.25, 0.25, 0.5]]
    assert distance.tolist() == [0.25]


def test_a_line_or_a_point_projects_onto_itself():
    corners = torch.tensor([[[0.0, 0, 0], [1, 0, 0], [2, 0, 0]], [[1.0, 1, 1], [1, 1, 1], [1, 1, 1]]])
    points = torch.tensor([[0.5, 3.0, 0.0], [5.0, 5.0, 5.0]])
    bary, _ = project(plane_table(corners), points)
    assert torch.allclose(bary, torch.tensor([[0.75, 0, 0.25], [1.0, 0, 0]]))


def test_the_uv_frame_follows_mirrored_and_small_triangles():
    triangle = torch.tensor([[[0.0, 0, 0], [1, 0, 0], [0, 1, 0]]] * 4)
    uv = torch.tensor([[0.0, 0, 1, 0, 0, 1], [0.0, 0, -1, 0, 0, 1], [0, 0, 1e-4, 0, 0, 1e-4], [0, 0, 1, 1, 2, 2]])
    tangents, length = uv_frame(plane_table(triangle), uv)
    assert torch.allclose(tangents[0], torch.tensor([1.0, 0, 0, 0, 1, 0]))
    assert torch.allclose(tangents[1], torch.tensor([-1.0, 0, 0, 0, 1, 0]))
    assert torch.allclose(tangents[2], tangents[0])
    assert torch.allclose(length, torch.tensor([1.0, 1.0, 1e4, 1e6]))


def test_the_nearest_row_is_the_nearest():
    generator = torch.Generator().manual_seed(4)
    coords = torch.unique(torch.randint(0, 12, (300, 3), generator=generator), dim=0)
    query = torch.randint(0, 12, (200, 3), generator=generator)
    distance = (coords[None] - query[:, None]).square().sum(2)
    best = distance.amin(1)
    near = best <= 4
    assert int(near.sum()) > 100
    rows = nearest_rows(coords, query)
    assert torch.equal(rows[near], distance.argmin(1)[near])


def test_a_far_row_is_a_near_one():
    coords = torch.tensor([[0, 0, 0], [1000, 1000, 1000], [5, 900, 20]])
    query = torch.tensor([[30, 10, 40], [980, 1020, 700], [0, 800, 0], [2047, 2047, 2047]])
    assert nearest_rows(coords, query).tolist() == [0, 1, 2, 1]
    assert nearest_rows(coords, query[:0]).tolist() == []


def test_keys_that_would_overflow_are_refused():
    mesh = TexturedMesh(soup(1000))
    with pytest.raises(ValueError, match=r"2\^63"):
        scene_of(mesh, Grid((1 << 20,) * 3, (0.0,) * 3, (1e-6,) * 3))


def test_an_unknown_backend_is_refused():
    with pytest.raises(ValueError, match="backend"):
        find_pairs(scene_of(TexturedMesh(soup(1)), Grid.cube(4)), backend="cuda", report=silent)
