"""Mesh to dual grid: against brute force, backends and slabs against each other, and what it promises of any mesh."""

import importlib
import itertools
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from comfyui_trellis2.o_voxel.core.grid import Grid
from comfyui_trellis2.o_voxel.ops.mesh_to_dual_grid import (
    BACKENDS,
    cut_slabs,
    formulas,
    reference,
    run_slabs,
    triangle_soup,
)
from comfyui_trellis2.o_voxel.ops.mesh_to_dual_grid.dual_vertex import solve_in_box
from comfyui_trellis2.o_voxel.values import Mesh
from comfyui_trellis2.o_voxel.voxels.from_mesh import QefWeights, mesh_to_dual_grid
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import lsq_linear

ATOL_VOXELS = 1e-6
ON_CUDA = [pytest.param(f"{name}-cuda", marks=pytest.mark.gpu) for name in ("reference", "triton")]
BOX = Grid((7, 33, 20), (-0.45, -0.5, -0.4), (0.13, 0.03, 0.041))


def torus(steps=24):
    """A closed surface of 2 steps^2 triangles, turned so that none of it lies along the grid."""
    around = torch.arange(steps, dtype=torch.float64) * 2 * math.pi / steps
    u, v = torch.meshgrid(around, around, indexing="ij")
    reach = 0.3 + (0.11 + 0.01 * torch.sin(5 * u)) * v.cos()
    points = torch.stack((reach * u.cos(), reach * u.sin(), 0.11 * v.sin() + 0.1 * u.sin()), -1)
    turn, _ = torch.linalg.qr(torch.tensor([[1.0, 2.0, 3.0], [0.5, -1.0, 2.0], [3.0, 1.0, 0.2]], dtype=torch.float64))
    points = points @ turn
    corner = torch.arange(steps * steps).reshape(steps, steps)
    a, b, c, d = corner, corner.roll(-1, 0), corner.roll((-1, -1), (0, 1)), corner.roll(-1, 1)
    faces = torch.stack((torch.stack((a, b, c), -1), torch.stack((a, c, d), -1)), -2).reshape(-1, 3)
    return Mesh(points.reshape(-1, 3).float(), faces)


def sheet():
    """The torus cut open: half of its faces, so that there are open edges."""
    whole = torus()
    return replace(whole, faces=whole.faces[: len(whole.faces) // 2])


def soup(faces=12, seed=0, spread=1.3):
    """Random triangles through each other, many of them partly off the grid."""
    noise = torch.Generator().manual_seed(seed)
    return Mesh((torch.rand(3 * faces, 3, generator=noise) - 0.5) * spread, torch.arange(3 * faces).reshape(-1, 3))


CASES = {
    "torus": (torus(), Grid.cube(63)),
    "torus in a box": (torus(), BOX),
    "sheet": (sheet(), Grid.cube(40)),
    "soup": (soup(), Grid.cube(31)),
    "soup in a box": (soup(30, 1), BOX),
    "fine soup": (soup(1000, 2, 0.9), Grid.cube(9)),
    "flat grid": (soup(), Grid((25, 1, 25), (-0.5, -0.1, -0.5), (0.04, 0.3, 0.04))),
    "one voxel": (soup(), Grid.cube(1)),
}
cases = pytest.mark.parametrize("case", CASES)


def assert_same(made, expected, atol=0.0):
    assert torch.equal(made.coords.cpu(), expected.coords.cpu())
    assert torch.equal(made.intersected.cpu(), expected.intersected.cpu())
    torch.testing.assert_close(made.dual.cpu(), expected.dual.cpu(), atol=atol, rtol=0)


# -- brute force ----------------------------------------------------------------------------------------------------


def corners_in_voxels(mesh, grid):
    return ((mesh.vertices - torch.tensor(grid.origin)).double() / torch.tensor(grid.voxel_size)).numpy()[mesh.faces]


def find_crossings(mesh, grid):
    """(triangle, axis, cell, height) of every grid edge inside the grid that a triangle crosses, one by one."""
    for t, corners in enumerate(corners_in_voxels(mesh, grid)):
        for axis in range(3):
            a, b = (axis + 1) % 3, (axis + 2) % 3
            sides = (corners[1:] - corners[0]).T
            for i, j in itertools.product(range(grid.shape[a] - 1), range(grid.shape[b] - 1)):
                s, r = np.linalg.solve(sides[[a, b]], [i + 1 - corners[0, a], j + 1 - corners[0, b]])
                height = corners[0, axis] + sides[axis] @ (s, r)
                if min(s, r, 1 - s - r) >= 0 and 0 <= height < grid.shape[axis]:
                    cell = np.zeros(3, int)
                    cell[[a, b, axis]] = i, j, math.floor(height)
                    yield t, axis, cell, height - math.floor(height)


def meets_box(corners, cell):
    """Whether a polygon or segment [K, 3] has a point in the unit box at `cell`: by clipping it with the six sides."""
    polygon = list(corners)
    for axis, (sign, bound) in itertools.product(range(3), ((1, 0), (-1, -1))):
        inside = [sign * (p[axis] - cell[axis]) - bound for p in polygon]
        cut = []
        for i in range(len(polygon) if polygon else 0):
            j = (i + 1) % len(polygon)
            if inside[i] >= 0:
                cut.append(polygon[i])
            if inside[i] * inside[j] < 0:
                cut.append(polygon[i] + (polygon[j] - polygon[i]) * inside[i] / (inside[i] - inside[j]))
        polygon = cut
    return bool(polygon)


def brute_force(mesh, grid, weights):
    """Voxels with flags and the least squares of each, solved by SciPy: {cell: (flags [3], vertex [3])}."""
    size = np.array(grid.voxel_size)
    corners = corners_in_voxels(mesh, grid)
    normals = np.cross(corners[:, 1] * size - corners[:, 0] * size, corners[:, 2] * size - corners[:, 0] * size)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    voxels = {}
    for t, axis, lowest, height in find_crossings(mesh, grid):
        for da, db in itertools.product((0, 1), repeat=2):
            cell, point = lowest.copy(), np.full(3, height)
            a, b = (axis + 1) % 3, (axis + 2) % 3
            cell[[a, b]] += da, db
            point[[a, b]] = 1 - da, 1 - db
            flags, terms = voxels.setdefault(tuple(cell), (np.zeros(3, bool), []))
            flags[axis] |= da == db == 0
            terms.append((1.0, normals[t][None] * size, corners[t, 0] - cell))
            terms.append((weights.regularization, np.diag(size), point))
    for (cell, (_, terms)), t in itertools.product(voxels.items(), range(len(corners))):
        if meets_box(corners[t], np.array(cell)):
            terms.append((weights.face, normals[t][None] * size, corners[t, 0] - cell))
        for i in range(3):  # a soup: every edge is open
            ends = corners[t, [i, (i + 1) % 3]]
            if meets_box(ends, np.array(cell)):
                across = np.linalg.svd((ends[1:] - ends[:1]) * size)[2][1:]
                terms.append((weights.boundary, across * size, ends[0] - cell))
    return {cell: (flags, least_squares(terms, size.max())) for cell, (flags, terms) in voxels.items()}


def least_squares(terms, scale):
    rows = np.concatenate([math.sqrt(weight) * matrix for weight, matrix, _ in terms]) / scale
    right = np.concatenate([math.sqrt(weight) * matrix @ point for weight, matrix, point in terms]) / scale
    return lsq_linear(rows, right, bounds=(0, 1), method="bvls", tol=1e-14).x


@pytest.mark.slow
@pytest.mark.parametrize("weights", [QefWeights(), QefWeights(0.5, 2.0, 0.1), QefWeights(0.0, 0.0, 0.001)], ids=str)
@pytest.mark.parametrize("grid", [Grid.cube(6), Grid((5, 9, 4), (-0.5, -0.45, -0.3), (0.2, 0.1, 0.17))], ids=str)
def test_voxels_flags_and_vertices_are_those_of_brute_force(grid, weights):
    mesh = soup(5, 3)
    expected = brute_force(mesh, grid, weights)
    made = mesh_to_dual_grid(mesh, grid, weights)
    assert list(map(tuple, made.coords.tolist())) == sorted(expected)
    flags, vertices = (np.array([expected[cell][k] for cell in sorted(expected)]) for k in (0, 1))
    np.testing.assert_array_equal(made.intersected, flags)
    np.testing.assert_allclose(made.dual, vertices, atol=2e-5)


def test_the_solver_finds_the_best_point_of_the_box():
    noise = np.random.default_rng(0)
    rows = noise.normal(size=(300, 5, 3)) * np.array([1, 0.3, 0.05])
    right = (rows @ noise.uniform(-2, 3, (300, 3, 1)))[..., 0]
    a, b = np.einsum("nki,nkj->nij", rows, rows), np.einsum("nki,nk->ni", rows, right)
    system = np.concatenate((a[:, [0, 0, 0, 1, 1, 2], [0, 1, 2, 1, 2, 2]], b), axis=1) * formulas.FIXED_POINT
    made = solve_in_box(torch.from_numpy(system).long())
    best = [lsq_linear(m, r, bounds=(0, 1), method="bvls", tol=1e-14).x for m, r in zip(rows, right, strict=True)]
    np.testing.assert_allclose(made, best, atol=1e-5)
    assert ((made > 0) & (made < 1)).all(dim=1).any()
    assert ((made == 0) | (made == 1)).any()


# -- backends and slabs ---------------------------------------------------------------------------------------------


@cases
@pytest.mark.parametrize("backend", ["numba-cpu", *ON_CUDA])
def test_backends_agree(case, backend):
    name, device = backend.split("-")
    mesh, grid = CASES[case]
    expected = mesh_to_dual_grid(mesh, grid, backend="reference")
    made = mesh_to_dual_grid(Mesh(mesh.vertices.to(device), mesh.faces.to(device)), grid, backend=name)
    assert made.coords.device.type == device
    assert_same(made, expected, ATOL_VOXELS)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")  # lanes without work divide 0 by 0
@pytest.mark.parametrize("mesh, shape", [(soup(3, 5), (6, 8, 4)), (soup(2, 9, 2.0), (4, 14, 3))])
def test_triton_in_its_interpreter_agrees(mesh, shape, monkeypatch):
    kernel = pytest.importorskip("comfyui_trellis2.o_voxel.ops.mesh_to_dual_grid.kernel", exc_type=ImportError)
    if torch.cuda.is_available():
        pytest.skip("the kernels run for real here")
    monkeypatch.setattr(kernel, "SLAB_VOXELS", shape[1] * 64 * (shape[0] - 2))
    grid, weights = Grid.fit((-0.45, -0.5, -0.4), (0.55, 0.47, 0.42), shape), QefWeights(0.7, 1.5, 0.02)
    made = run_slabs(triangle_soup(mesh, grid), weights, "triton")
    assert len(made.coords) > 50
    assert_same(made, mesh_to_dual_grid(mesh, grid, weights, backend="reference"), ATOL_VOXELS)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["reference", "numba"])
@pytest.mark.parametrize("case", ["torus in a box", "sheet", "soup in a box", "flat grid", "one voxel"])
def test_the_cut_into_slabs_changes_nothing(case, backend):
    module = reference
    if backend == "numba":
        from comfyui_trellis2.o_voxel.ops.mesh_to_dual_grid import kernel_cpu as module
    mesh, grid = CASES[case]
    source = triangle_soup(mesh, grid)
    whole = module.voxelize_slab(source, cut_slabs(source, grid.shape[0])[0], QefWeights())
    for layers in (1, 4) if backend == "numba" else (6,):
        parts = [module.voxelize_slab(source, slab, QefWeights()) for slab in cut_slabs(source, layers)]
        for name in ("coords", "dual", "intersected"):
            assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name))


LOAD_AS_OTHER = """
import importlib, importlib.util, sys
import numpy
root = sys.argv[1]
spec = importlib.util.spec_from_file_location("other", root + "/__init__.py", submodule_search_locations=[root])
sys.modules["other"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["other"])
print(importlib.import_module("other.o_voxel.ops.mesh_to_dual_grid.kernel_cpu_shared").popcount(numpy.uint64(0xF00F)))
"""


@pytest.mark.slow
def test_numbas_cache_outlives_a_change_of_the_package_name():
    from comfyui_trellis2.o_voxel.ops.mesh_to_dual_grid.kernel_cpu_shared import popcount

    assert popcount(np.uint64(0xF00F)) == 8
    command = [sys.executable, "-c", LOAD_AS_OTHER, str(Path(__file__).parents[3])]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "8\n"


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 20), st.floats(0.05, 3.0), st.tuples(*[st.integers(1, 12)] * 3))
def test_numba_and_torch_agree_on_any_soup(seed, faces, spread, shape):
    mesh, grid = soup(faces, seed, spread), Grid.fit((-0.5, -0.4, -0.3), (0.5, 0.6, 0.2), shape)
    made = mesh_to_dual_grid(mesh, grid, backend="numba")
    assert_same(made, mesh_to_dual_grid(mesh, grid, backend="reference"), ATOL_VOXELS)


# -- what it promises -----------------------------------------------------------------------------------------------


@cases
def test_the_result_is_well_formed(case):
    mesh, grid = CASES[case]
    made = mesh_to_dual_grid(mesh, grid)
    keys = (made.coords.long() * torch.tensor([grid.shape[1] * grid.shape[2], grid.shape[2], 1])).sum(dim=1)
    assert bool((keys[1:] > keys[:-1]).all())
    assert bool((made.coords >= 0).all())
    assert bool((made.coords < torch.tensor(grid.shape)).all())
    assert bool(((made.dual >= 0) & (made.dual <= 1)).all())
    assert made.grid == grid


def test_the_same_bytes_twice_and_an_untouched_mesh():
    mesh = sheet()
    before = mesh.vertices.clone(), mesh.faces.clone()
    assert_same(mesh_to_dual_grid(mesh, Grid.cube(50)), mesh_to_dual_grid(mesh, Grid.cube(50)))
    assert torch.equal(mesh.vertices, before[0])
    assert torch.equal(mesh.faces, before[1])


def test_the_order_and_winding_of_faces_do_not_matter():
    mesh, grid = sheet(), Grid.cube(48)
    expected = mesh_to_dual_grid(mesh, grid)
    shuffle = torch.randperm(len(mesh.faces), generator=torch.Generator().manual_seed(0))
    assert_same(mesh_to_dual_grid(replace(mesh, faces=mesh.faces[shuffle]), grid), expected)
    flipped = replace(mesh, faces=mesh.faces.flip(1).int())
    assert_same(mesh_to_dual_grid(flipped, grid), expected, ATOL_VOXELS)


def test_a_shift_by_whole_voxels_shifts_the_voxels():
    mesh, grid = torus(), Grid.cube(64)
    mesh = replace(mesh, vertices=(mesh.vertices * 2**16).round() / 2**16)
    moved = replace(mesh, vertices=mesh.vertices + torch.tensor([2.0, -1.0, 3.0]) / 64)
    expected, made = mesh_to_dual_grid(mesh, grid), mesh_to_dual_grid(moved, grid)
    assert torch.equal(made.coords, expected.coords + torch.tensor([2, -1, 3], dtype=torch.int32))
    assert torch.equal(made.intersected, expected.intersected)
    torch.testing.assert_close(made.dual, expected.dual, atol=ATOL_VOXELS, rtol=0)


def test_turning_the_axes_turns_the_voxels():
    mesh, order = sheet(), [2, 0, 1]
    expected = mesh_to_dual_grid(mesh, Grid.cube(40))
    made = mesh_to_dual_grid(replace(mesh, vertices=mesh.vertices[:, order]), Grid.cube(40))
    turned = {tuple(c): (f, d) for c, f, d in zip(*(t[:, order].tolist() for t in fields(expected)), strict=True)}
    assert sorted(turned) == list(map(tuple, made.coords.tolist()))
    flags, dual = (torch.tensor([turned[cell][k] for cell in sorted(turned)]) for k in (0, 1))
    assert torch.equal(made.intersected, flags)
    torch.testing.assert_close(made.dual, dual, atol=ATOL_VOXELS, rtol=0)


def fields(made):
    return made.coords, made.intersected, made.dual


def test_a_part_of_the_grid_gives_that_part():
    mesh, whole = soup(20, 8, 1.0), mesh_to_dual_grid(soup(20, 8, 1.0), Grid.cube(32))
    low, shape = torch.tensor([5, 9, 3]), (11, 14, 20)
    part = mesh_to_dual_grid(mesh, Grid(shape, tuple((low / 32 - 0.5).tolist()), (1 / 32,) * 3))

    def inner(coords):
        """Those voxels of which all edges are inside the smaller grid."""
        return ((coords > 0) & (coords < torch.tensor(shape) - 1)).all(dim=1)

    keep, shifted = inner(part.coords), whole.coords - low.int()
    assert keep.sum() > 100
    for name in ("dual", "intersected"):
        torch.testing.assert_close(getattr(part, name)[keep], getattr(whole, name)[inner(shifted)], atol=1e-6, rtol=0)
    assert torch.equal(part.coords[keep], shifted[inner(shifted)])


@pytest.mark.slow
def test_crossings_below_and_above_the_grid_do_not_count():
    low = torch.tensor([[-1.0, -1, -0.01], [3, -1, -0.01], [-1, 3, -0.01]])
    for z, layer in ((-0.01, None), (0.0, 0), (0.99, 3), (1.0, None)):
        vertices = low.clone()
        vertices[:, 2] = z
        made = mesh_to_dual_grid(Mesh(vertices, torch.tensor([[0, 1, 2]])), Grid.fit((0, 0, 0), (1, 1, 1), (4, 4, 4)))
        assert made.coords[:, 2].unique().tolist() == ([] if layer is None else [layer])


@pytest.mark.slow
def test_an_open_square_is_flat_and_reaches_its_edges():
    corners = torch.tensor([[-0.27, -0.27, 0.13], [0.27, -0.27, 0.13], [0.27, 0.27, 0.13], [-0.27, 0.27, 0.13]])
    mesh, grid = Mesh(corners, torch.tensor([[0, 1, 2], [0, 2, 3]])), Grid.cube(10)

    def vertices(boundary):
        made = mesh_to_dual_grid(mesh, grid, QefWeights(1.0, boundary, 1e-3))
        assert made.coords[:, 2].unique().tolist() == [6]
        assert made.intersected.any(dim=0).tolist() == [False, False, True]
        return grid.to_world(made.coords + made.dual)

    world = vertices(1.0)
    torch.testing.assert_close(world[:, 2], torch.full((len(world),), 0.13), atol=1e-6, rtol=0)
    torch.testing.assert_close(world.amax(dim=0)[:2], torch.tensor([0.27, 0.27]), atol=1e-3, rtol=0)
    assert vertices(0.0)[:, :2].max() < 0.22


@pytest.mark.parametrize("backend", ["reference", "numba"])
@pytest.mark.parametrize(
    "vertices, faces",
    [
        (torch.zeros(0, 3), torch.zeros(0, 3)),
        (torch.rand(4, 3), torch.zeros(0, 3)),
        (torch.full((3, 3), 0.26) + torch.eye(3) / 100, torch.tensor([[0, 1, 2]])),
        (torch.tensor([[9.0, 9, 9], [9, 8, 9], [8, 9, 9]]), torch.tensor([[0, 1, 2]])),
        (torch.zeros(1, 3), torch.tensor([[0, 0, 0]])),
    ],
    ids=["nothing", "no faces", "inside one voxel", "outside", "a point"],
)
def test_no_voxels(vertices, faces, backend):
    made = mesh_to_dual_grid(Mesh(vertices, faces.long()), Grid.cube(8), backend=backend)
    assert made.coords.shape == made.dual.shape == made.intersected.shape == (0, 3)


@pytest.mark.parametrize("backend", ["reference", "numba"])
def test_degenerate_and_far_triangles(backend):
    mesh = torus()
    far = torch.tensor([[1e30, 2e30, -1e30], [0.1, 0.2, 1e9], [0.05, 0.0, 0.0]])
    vertices, n = torch.cat((mesh.vertices, far)), len(mesh.vertices)
    faces = torch.cat((mesh.faces, torch.tensor([[0, 0, 1], [5, 5, 5], [0, 24, 24]])))
    made = mesh_to_dual_grid(Mesh(vertices, faces), Grid.cube(32), backend=backend)
    assert torch.equal(made.coords, mesh_to_dual_grid(mesh, Grid.cube(32)).coords)
    made = mesh_to_dual_grid(Mesh(vertices, torch.tensor([[n, n + 1, n + 2]])), Grid.cube(32), backend=backend)
    assert bool(((made.dual >= 0) & (made.dual <= 1)).all())


@pytest.mark.parametrize("n", [1000, 2048])
def test_grids_to_2048(n):
    made = mesh_to_dual_grid(soup(3, 1, 0.05), Grid.cube(n))
    assert len(made.coords) > n
    assert made.coords.max() < n


@pytest.mark.parametrize("backend", ["reference", "numba"])
def test_progress_rises_to_one_and_can_cancel(backend, monkeypatch):
    module = reference if backend == "reference" else importlib.import_module(f"{reference.__package__}.kernel_cpu")
    monkeypatch.setattr(module, "SLAB_VOXELS", 64 * 64 * 12)
    seen = []
    mesh_to_dual_grid(torus(), Grid.cube(64), backend=backend, progress=seen.append)
    assert len(seen) > 3
    assert seen == sorted(seen)
    assert seen[-1] == 1.0

    def stop(done):
        raise InterruptedError("enough")

    with pytest.raises(InterruptedError, match="enough"):
        mesh_to_dual_grid(torus(), Grid.cube(64), backend=backend, progress=stop)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"faces": torch.tensor([[0, 1, 9]])}, r"mesh.faces: expected indices in \[0, 3\), got 0 to 9"),
        ({"faces": torch.tensor([[0, 1, -1]])}, "got -1 to 1"),
        ({"vertices": torch.tensor([[0, 0, 0], [0, 1, 0], [0, 0, math.nan]])}, "mesh.vertices: expected finite"),
        ({"vertices": torch.tensor([[0, 0, 0], [0, 1, 0], [0, 0, math.inf]])}, "mesh.vertices: expected finite"),
        ({"faces": torch.zeros((1, 3), dtype=torch.int64, device="meta")}, "mesh: expected one device"),
    ],
)
def test_a_malformed_mesh_is_refused(change, message):
    mesh = Mesh(torch.eye(3), torch.tensor([[0, 1, 2]]))
    with pytest.raises(ValueError, match=message):
        mesh_to_dual_grid(replace(mesh, **change), Grid.cube(8))


def test_other_malformed_arguments_are_refused():
    mesh = Mesh(torch.eye(3), torch.tensor([[0, 1, 2]]))
    with pytest.raises(ValueError, match="at most 16384 voxels a side"):
        mesh_to_dual_grid(mesh, Grid.cube(20_000))
    with pytest.raises(ValueError, match="backend: expected 'auto' or one of"):
        mesh_to_dual_grid(mesh, Grid.cube(8), backend="cuda")
    with pytest.raises(ValueError, match="'triton' does not work on cpu"):
        mesh_to_dual_grid(mesh, Grid.cube(8), backend="triton")
    for bad in (-1.0, 1e4, math.nan):
        with pytest.raises(ValueError, match=r"QefWeights.boundary: expected 0 to 1000"):
            QefWeights(boundary=bad)
    assert [choice.name for choice in BACKENDS] == ["triton", "numba", "reference"]
