"""What holds for every mesh and every set of voxels, tried on ones that Hypothesis thinks of; the same at each run."""

import itertools

import numpy as np
import pytest
import torch
from comfyui_trellis2.o_voxel.core.grid import Grid
from comfyui_trellis2.o_voxel.files import VoxelRecords, read_voxels, write_voxels
from comfyui_trellis2.o_voxel.files.meshes.gltf.glb import write_glb
from comfyui_trellis2.o_voxel.files.meshes.options import SaveOptions
from comfyui_trellis2.o_voxel.files.meshes.read import load_textured_mesh
from comfyui_trellis2.o_voxel.lods import LodOptions, make_lods
from comfyui_trellis2.o_voxel.material import Material, TexturedMesh
from comfyui_trellis2.o_voxel.mesh.connectivity.topology import edges
from comfyui_trellis2.o_voxel.mesh.simplify import simplify
from comfyui_trellis2.o_voxel.mesh.uv.check import covered_texels, signed_areas
from comfyui_trellis2.o_voxel.mesh.uv.unwrap import unwrap
from comfyui_trellis2.o_voxel.ops.dual_quads.reference import QUAD_OFFSETS
from comfyui_trellis2.o_voxel.values import DualGrid, Mesh
from comfyui_trellis2.o_voxel.voxels.from_mesh import mesh_to_dual_grid
from comfyui_trellis2.o_voxel.voxels.to_mesh import dual_grid_to_mesh
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .shapes import sheet, sphere

SIDE = 4
GRID = Grid.cube(SIDE)
CELLS = list(itertools.product(range(SIDE), repeat=3))


def examples(count):
    """Modest, the same at each run, without a time for one: the first call compiles."""
    quiet = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
    return settings(max_examples=count, derandomize=True, deadline=None, suppress_health_check=quiet)


@st.composite
def dual_grids(draw):
    cells = draw(st.lists(st.sampled_from(CELLS), unique=True, min_size=1, max_size=40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    flags = torch.from_numpy(rng.random((len(cells), 3)) < draw(st.floats(0, 1)))
    dual = torch.from_numpy(rng.random((len(cells), 3), np.float32))
    weight = torch.from_numpy(rng.random(len(cells), np.float32)) if draw(st.booleans()) else None
    return DualGrid(torch.tensor(cells, dtype=torch.int32), dual, flags, GRID, weight)


@st.composite
def bodies(draw, finest=3):
    """A closed surface: a sphere with bumps, stretched and turned."""
    made = sphere(draw(st.integers(1, finest)), 1.0)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    points = made.vertices.double().numpy()
    points = points * (1 + draw(st.floats(0, 0.3)) * rng.random((len(points), 1)))
    turned, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    points = points @ (turned * draw(st.tuples(*[st.floats(0.3, 1.0)] * 3)))
    points = points * 0.4 / np.abs(points).max()
    # A reflection turns the surface inside out; closedness does not depend on that.
    return Mesh(torch.from_numpy(points.astype(np.float32)), made.faces)


def is_closed(mesh):
    return bool((edges(mesh).sizes == 2).all())


@examples(50)
@given(dual_grids(), st.integers(1, SIDE))
def test_a_quad_for_each_crossed_edge_with_four_voxels(grid, tile):
    here = {tuple(cell): row for row, cell in enumerate(grid.coords.tolist())}
    expected = [
        [here.get(tuple(np.add(cell, offset))) for offset in QUAD_OFFSETS[axis]]
        for cell, flags in zip(grid.coords.tolist(), grid.intersected.tolist(), strict=True)
        for axis in range(3)
        if flags[axis]
    ]
    expected = [set(corners) for corners in expected if None not in corners]
    mesh = dual_grid_to_mesh(grid)
    assert [set(pair.flatten().tolist()) for pair in mesh.faces.view(-1, 2, 3)] == expected
    # Each vertex stays in its voxel.
    inside = (mesh.vertices + 0.5) * SIDE - grid.coords
    assert bool(((inside > -1e-5) & (inside < 1 + 1e-5)).all())
    assert torch.equal(dual_grid_to_mesh(grid, tile).faces, mesh.faces)


@examples(8)
@given(dual_grids())
def test_voxel_files_give_back_what_was_written(tmp_path, grid):
    flags = (grid.intersected.to(torch.uint8) * torch.tensor([1, 2, 4], dtype=torch.uint8)).sum(
        1, True, dtype=torch.uint8
    )
    records = VoxelRecords(grid.coords, {"intersected": flags, "vertices": (grid.dual * 255).to(torch.uint8)})
    for suffix in ("vxz", "npz", "ply"):
        path = tmp_path / f"a.{suffix}"
        write_voxels(path, records)
        first = path.read_bytes()
        write_voxels(path, records)
        assert path.read_bytes() == first
        read = read_voxels(path, GRID)
        order = [torch.from_numpy(np.lexsort(r.coords.numpy().T)) for r in (read, records)]
        assert torch.equal(read.coords[order[0]], records.coords[order[1]])
        for name, values in records.attrs.items():
            assert torch.equal(read.attrs[name][order[0]], values[order[1]])


@examples(8)
@given(bodies(), st.sampled_from([8, 13, 24]))
def test_a_surface_is_a_dual_grid_and_a_surface_again(mesh, side):
    grid = mesh_to_dual_grid(mesh, Grid.cube(side))
    assert len(torch.unique(grid.coords, dim=0)) == len(grid.coords) > 0
    assert bool(((grid.dual >= 0) & (grid.dual <= 1)).all())
    found = dual_grid_to_mesh(grid)
    # Every crossed edge has its four voxels: the surface lies inside the grid.
    assert len(found.faces) == 2 * int(grid.intersected.sum())
    # A vertex is as far from the surface as its voxel is wide, at most.
    again = mesh_to_dual_grid(found, Grid.cube(side))
    apart = (again.coords[:, None] - grid.coords[None]).abs().amax(2).amin(1)
    assert int(apart.max()) <= 1


@pytest.mark.slow
@examples(6)
@given(bodies(), st.floats(0.1, 0.9))
def test_simplify_keeps_a_closed_surface_closed(mesh, share):
    target = max(4, int(share * len(mesh.faces)))
    light = simplify(mesh, target)
    assert 4 <= len(light.faces) <= len(mesh.faces)
    assert is_closed(mesh)
    assert is_closed(light)
    again = simplify(mesh, target)
    assert torch.equal(light.faces, again.faces)
    assert torch.equal(light.vertices, again.vertices)


@pytest.mark.slow
@examples(3)
@given(st.one_of(bodies(2), st.builds(sheet, st.integers(1, 7), st.floats(0, 0.6))))
def test_an_unwrapped_surface_overlaps_nowhere(mesh):
    found = unwrap(mesh, resolution=256)
    corners = found.uv.double()[found.faces.long()]
    assert int(covered_texels(corners, 256)[0].max()) == 1
    assert float(signed_areas(corners).min()) >= 0
    assert bool(((found.uv >= 0) & (found.uv <= 1)).all())
    assert len(found.faces) == len(mesh.faces)


@examples(8)
@given(bodies(), st.booleans(), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_a_glb_gives_back_what_was_written(tmp_path, mesh, painted, metal, seed):
    rng = np.random.default_rng(seed)
    colors = (
        torch.from_numpy(rng.integers(0, 256, (len(mesh.vertices), 4)).astype(np.float32) / 255) if painted else None
    )
    material = Material(metallic_factor=metal, roughness_factor=1 - metal, double_sided=painted)
    whole = TexturedMesh(mesh, (material,), vertex_colors=colors)
    options = SaveOptions(crease_deg=None)
    first, second = (write_glb(tmp_path / f"{name}.glb", whole, options=options).read_bytes() for name in "ab")
    assert first == second
    read = load_textured_mesh(tmp_path / "a.glb")
    assert torch.equal(read.mesh.vertices[read.mesh.faces], mesh.vertices[mesh.faces.long()])
    (back,) = read.materials
    assert (back.metallic_factor, back.roughness_factor) == (pytest.approx(metal), pytest.approx(1 - metal))
    assert back.double_sided == painted
    if painted:
        wanted = colors[mesh.faces.long()]
        torch.testing.assert_close(read.vertex_colors[read.mesh.faces], wanted, atol=1.01 / 255, rtol=0)


@pytest.mark.slow
@examples(3)
@given(bodies(), st.integers(2, 4), st.floats(0.2, 0.8))
def test_levels_of_detail_only_get_lighter(mesh, levels, ratio):
    made = make_lods(TexturedMesh(mesh, (Material(),)), LodOptions(levels, ratio))
    counts = [len(level.mesh.faces) for level in made]
    assert len(counts) == levels
    assert counts == sorted(counts, reverse=True)
    assert counts[0] == len(mesh.faces)
