"""voxel_materials: every kind of material, both sets of voxels, progress, and bad input."""

import math
from dataclasses import replace

import pytest
import torch
from comfyui_trellis2.o_voxel.core.grid import Grid
from comfyui_trellis2.o_voxel.material import Material, Texture, TexturedMesh
from comfyui_trellis2.o_voxel.values import PBR_CHANNELS, Mesh
from comfyui_trellis2.o_voxel.voxels.from_mesh import mesh_to_dual_grid
from comfyui_trellis2.o_voxel.voxels.materials import to_bytes, voxel_materials

BACKENDS = ("numba", "reference")
backends = pytest.mark.parametrize("backend", BACKENDS)
GRID = Grid.cube(32)
BOX = Grid((33, 50, 41), (-0.5, -0.6, -0.45), (0.031, 0.024, 0.022))
# The sheet's rim lies outside the centres of the voxels on it, so that no texture is read beyond its edge.
SIZE = 0.92


def sheet(height=0.01, cells=1, size=SIZE):
    """A square at z = height facing up, `cells` x `cells` quads, with uv (0, 0) at its low corner; (mesh, uv)."""
    v, u = torch.meshgrid(torch.linspace(0, 1, cells + 1), torch.linspace(0, 1, cells + 1), indexing="ij")
    vertices = torch.stack(((u - 0.5) * size, (v - 0.5) * size, torch.full_like(u, height)), -1).reshape(-1, 3)
    at = torch.arange((cells + 1) ** 2).reshape(cells + 1, -1)
    a, b, c, d = at[:-1, :-1], at[:-1, 1:], at[1:, 1:], at[1:, :-1]
    faces = torch.stack((torch.stack((a, b, c), -1), torch.stack((a, c, d), -1)), -2).reshape(-1, 3)
    return Mesh(vertices, faces), torch.stack((u, v), -1).reshape(-1, 2)


def sheet_uv(coords):
    """(u, v), each [N], of the voxels' centres on a sheet."""
    return ((GRID.centers(coords)[:, :2] + SIZE / 2) / SIZE).unbind(1)


def textured(material, **extra):
    mesh, uv = sheet()
    return TexturedMesh(mesh, (material,), **({"uv": uv} | extra))


def plain(values, channels=3, size=4):
    """A texture of one colour, bytes."""
    return Texture(torch.tensor(values, dtype=torch.uint8).reshape(1, 1, channels).expand(size, size, channels))


def named(out):
    return {name: out.field.attrs[:, channels] for name, channels in PBR_CHANNELS.items()}


def same(values, expected, atol=1e-6):
    torch.testing.assert_close(values, torch.tensor(expected).expand_as(values), rtol=0, atol=atol)


@backends
def test_factors_alone(backend):
    material = Material((0.25, 0.5, 0.75), None, 0.125, None, 0.375, None, (4.0, 0.5, 0.0))
    out = voxel_materials(textured(material, uv=None), GRID, extras=("normal", "emissive"), backend=backend)
    assert len(out.reached) == 30 * 30
    same(out.field.attrs, [0.25, 0.5, 0.75, 0.125, 0.375, 1.0])
    same(out.emissive, [4.0, 0.5, 0.0])
    same(out.normal, [0.0, 0.0, 1.0])


@backends
def test_each_texture_multiplies_its_factor(backend):
    material = Material(
        base_color_factor=(1.0, 0.5, 1.0),
        base_color_texture=plain((255, 255, 51)),
        metallic_factor=0.5,
        metallic_texture=plain((102,), 1),
        roughness_texture=plain((51,), 1, size=8),
        emissive_factor=(1.0, 2.0, 0.0),
        emissive_texture=plain((51, 51, 51)),
        alpha_mode="BLEND",
        alpha_factor=0.5,
        alpha_texture=plain((204,), 1),
    )
    out = voxel_materials(textured(material), GRID, extras=("emissive",), backend=backend)
    same(out.field.attrs, [1.0, 0.5, 0.2, 0.2, 0.2, 0.4])
    same(out.emissive, [0.2, 0.4, 0.0])
    assert out.normal is None


@pytest.mark.parametrize(("mode", "alpha"), [("OPAQUE", 1.0), ("MASK", 0.0), ("BLEND", 0.3)])
@backends
def test_alpha_modes(mode, alpha, backend):
    out = voxel_materials(textured(Material(alpha_mode=mode, alpha_factor=0.3), uv=None), GRID, backend=backend)
    same(named(out)["alpha"], [alpha])
    high = Material(alpha_mode=mode, alpha_factor=0.3, alpha_cutoff=0.2)
    masked = voxel_materials(textured(high, uv=None), GRID, backend=backend)
    same(named(masked)["alpha"], [1.0 if mode == "MASK" else alpha])


@backends
def test_a_ramp_is_read_at_each_voxels_centre(backend):
    ramp = torch.arange(256, dtype=torch.uint8)[None, :, None].expand(256, 256, 3)
    out = voxel_materials(textured(Material(base_color_texture=Texture(ramp))), GRID, backend=backend)
    u, _ = sheet_uv(out.field.coords)
    # Near the image's sides a texel of a coarse level mixes in the opposite side; each level rounds down a little.
    inner = (u > 0.08) & (u < 0.92)
    expected = ((u * 256 - 0.5) / 255)[inner]
    torch.testing.assert_close(out.field.attrs[inner, 0], expected, rtol=0, atol=2.5 / 255)


@backends
def test_v_points_up(backend):
    image = torch.zeros(4, 4, 3, dtype=torch.uint8)
    image[:2] = 255
    material = Material(base_color_texture=Texture(image, filter="nearest"))
    out = voxel_materials(textured(material), GRID, backend=backend)
    assert torch.equal(out.field.attrs[:, 0] > 0.5, sheet_uv(out.field.coords)[1] > 0.5)


@pytest.mark.parametrize("wrap", ["repeat", "clamp", "mirror"])
@backends
def test_uvs_outside_the_image(wrap, backend):
    image = torch.zeros(8, 8, 3, dtype=torch.uint8)
    image[:, 4:] = 255
    mesh, uv = sheet()
    texture = Texture(image, (wrap, wrap), "nearest")
    wide = TexturedMesh(mesh, (Material(base_color_texture=texture),), uv=uv * 3 - 1)
    out = voxel_materials(wide, GRID, backend=backend)
    u = sheet_uv(out.field.coords)[0] * 3 - 1
    place = {"repeat": u % 1, "clamp": u.clamp(0, 1), "mirror": 1 - ((u % 2) - 1).abs()}[wrap]
    off_the_seams = (u * 2 - (u * 2).round()).abs() > 1e-3
    assert torch.equal((out.field.attrs[:, 0] > 0.5)[off_the_seams], (place >= 0.5)[off_the_seams])


@pytest.mark.parametrize("cells", [1, 150])
@backends
def test_a_fine_pattern_is_filtered_also_on_small_triangles(cells, backend):
    y, x = torch.meshgrid(torch.arange(512), torch.arange(512), indexing="ij")
    board = ((x + y) % 2 * 255).to(torch.uint8)[..., None].expand(-1, -1, 3)
    mesh, uv = sheet(cells=cells)
    fine = Material(base_color_texture=Texture(board), emissive_factor=(1.0, 1.0, 1.0), emissive_texture=Texture(board))
    out = voxel_materials(TexturedMesh(mesh, (fine,), uv=uv), Grid.cube(16), extras=("emissive",), backend=backend)
    same(out.field.attrs[:, :3], [127 / 255] * 3, atol=0.01)
    same(out.emissive, [127 / 255] * 3, atol=0.01)


@backends
def test_several_materials_and_one_without_its_texture(backend):
    mesh, uv = sheet(cells=2)
    ids = torch.tensor([0, 0, 1, 1, 2, 2, 1, 1])
    materials = (
        Material(base_color_texture=plain((255, 0, 0)), metallic_factor=0.0),
        Material(base_color_factor=(0.0, 1.0, 0.0), metallic_factor=0.5),
        Material(base_color_texture=plain((0, 0, 255), size=16)),
    )
    out = voxel_materials(TexturedMesh(mesh, materials, ids, uv), GRID, backend=backend)
    x, y = GRID.centers(out.field.coords)[:, :2].unbind(1)
    values = out.field.attrs[:, :4]
    inner = (x.abs() > 0.04) & (y.abs() > 0.04)
    same(values[inner & (x < 0) & (y < 0)], [1.0, 0.0, 0.0, 0.0])
    same(values[inner & (x > 0)], [0.0, 1.0, 0.0, 0.5])
    same(values[inner & (x < 0) & (y > 0)], [0.0, 0.0, 1.0, 1.0])


@backends
def test_vertex_colors_multiply_and_are_interpolated(backend):
    mesh, _ = sheet()
    colors = torch.ones(4, 4)
    colors[[0, 3], :3] = 0.0
    colors[:, 3] = 0.5
    material = Material((1.0, 1.0, 0.5), alpha_mode="BLEND", alpha_factor=0.5)
    out = voxel_materials(TexturedMesh(mesh, (material,), vertex_colors=colors), GRID, backend=backend)
    # Vertices 0 and 3 are the ends of the diagonal that both triangles share: the colour is |u - v|.
    u, v = sheet_uv(out.field.coords)
    off_the_diagonal = (u - v).abs() > 0.05
    expected = (u - v).abs()[off_the_diagonal]
    torch.testing.assert_close(out.field.attrs[off_the_diagonal, 0], expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(out.field.attrs[:, 2], 0.5 * out.field.attrs[:, 0], rtol=0, atol=1e-6)
    same(named(out)["alpha"], [0.25])


@pytest.mark.parametrize("mirrored", [False, True])
@backends
def test_normal_textures_bend_along_the_uv_axes(mirrored, backend):
    mesh, uv = sheet()
    if mirrored:
        uv = uv * torch.tensor([-1.0, 1.0])
    material = Material(normal_texture=plain((255, 128, 255)))
    out = voxel_materials(TexturedMesh(mesh, (material,), uv=uv), GRID, extras=("normal",), backend=backend)
    slope = -math.sqrt(0.5) if mirrored else math.sqrt(0.5)
    same(out.normal, [slope, 0.0, math.sqrt(0.5)], atol=0.005)
    flat = voxel_materials(
        TexturedMesh(mesh, (replace(material, normal_scale=0.0),), uv=uv), GRID, extras=("normal",), backend=backend
    )
    same(flat.normal, [0.0, 0.0, 1.0])


@backends
def test_corner_normals_are_interpolated(backend):
    mesh, _ = sheet()
    normals = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, -1]])
    out = voxel_materials(TexturedMesh(mesh, normals=normals), GRID, extras=("normal",), backend=backend)
    assert not bool((out.normal[:, 2] == 1).any())
    near_first = torch.stack(sheet_uv(out.field.coords)).norm(dim=0).argmin()
    same(out.normal[near_first], [1.0, 0.0, 0.0], atol=0.1)


def ball(seed=0):
    """A closed, bumpy, randomly coloured ball."""
    generator = torch.Generator().manual_seed(seed)
    v, u = torch.meshgrid(torch.linspace(0.05, 3.09, 14), torch.linspace(0, 6.2831853, 25), indexing="ij")
    radius = 0.35 + 0.08 * torch.rand(14, 25, generator=generator)
    vertices = torch.stack((v.sin() * u.cos(), v.sin() * u.sin(), v.cos()), -1) * radius[..., None]
    at = torch.arange(14 * 25).reshape(14, 25)
    a, b, c, d = at[:-1, :-1], at[1:, :-1], at[1:, 1:], at[:-1, 1:]
    faces = torch.stack((torch.stack((a, b, c), -1), torch.stack((a, c, d), -1)), -2).reshape(-1, 3)
    image = torch.randint(0, 256, (64, 64, 3), generator=generator, dtype=torch.uint8)
    uv = torch.stack((u, v), -1).reshape(-1, 2)
    return TexturedMesh(Mesh(vertices.reshape(-1, 3), faces), (Material(base_color_texture=Texture(image)),), uv=uv)


@pytest.mark.parametrize("grid", [GRID, BOX], ids=["cube", "box"])
@backends
def test_the_voxels_are_the_dual_grids(grid, backend):
    mesh = ball()
    out = voxel_materials(mesh, grid, backend=backend)
    assert torch.equal(out.field.coords, mesh_to_dual_grid(mesh.mesh, grid).coords)
    assert len(out.field.coords) > 1000


@backends
def test_given_voxels_in_any_order_get_the_same_values(backend):
    full = voxel_materials(ball(), GRID, backend=backend)
    order = torch.randperm(len(full.reached), generator=torch.Generator().manual_seed(1))[:700]
    order = torch.cat((order, order[:5]))
    out = voxel_materials(ball(), GRID, coords=full.field.coords[order], backend=backend)
    assert torch.equal(out.field.attrs, full.field.attrs[order])
    assert torch.equal(out.field.coords, full.field.coords[order])
    assert bool(out.reached.all())


@backends
def test_voxels_off_the_surface_take_the_nearest_values(backend):
    mesh, uv = sheet()
    left_right = torch.zeros(1, 2, 3, dtype=torch.uint8)
    left_right[:, 1] = 255
    material = Material(base_color_texture=Texture(left_right, filter="nearest"))
    on = voxel_materials(TexturedMesh(mesh, (material,), uv=uv), GRID, backend=backend).field.coords
    far = torch.tensor([[31, 16, 13], [0, 3, 19]], dtype=torch.int32)
    off = torch.cat((on + torch.tensor([0, 0, 2], dtype=torch.int32), far))
    coords = torch.cat((off, on[:3]))
    out = voxel_materials(TexturedMesh(mesh, (material,), uv=uv), GRID, coords=coords, backend=backend)
    assert out.reached.tolist() == [False] * len(off) + [True] * 3
    wrong = (out.field.attrs[:, 0] > 0.5) != (coords[:, 0] >= 16)
    assert coords[wrong].tolist() == []


@backends
def test_nothing_to_voxelise(backend):
    empty = TexturedMesh(Mesh(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.int32)))
    out = voxel_materials(empty, GRID, extras=("normal", "emissive"), backend=backend)
    assert out.field.attrs.shape == (0, 6)
    assert out.normal.shape == out.emissive.shape == (0, 3)
    coords = torch.tensor([[1, 2, 3]], dtype=torch.int32)
    given = voxel_materials(empty, GRID, coords=coords, backend=backend)
    assert given.reached.tolist() == [False]
    assert given.field.attrs.tolist() == [[0.0] * 6]
    assert voxel_materials(ball(), GRID, coords=coords[:0], backend=backend).field.attrs.shape == (0, 6)


@backends
def test_the_scale_of_the_world_does_not_matter(backend):
    small = ball()
    large = replace(small, mesh=Mesh(small.mesh.vertices * 128, small.mesh.faces))
    expected = voxel_materials(small, GRID, backend=backend)
    found = voxel_materials(large, Grid.fit((-64.0,) * 3, (64.0,) * 3, (32,) * 3), backend=backend)
    assert torch.equal(found.field.coords, expected.field.coords)
    torch.testing.assert_close(found.field.attrs, expected.field.attrs, rtol=0, atol=1e-5)


@backends
def test_same_input_same_bytes_and_input_unchanged(backend):
    mesh = ball()
    copies = {name: value.clone() for name, value in vars(mesh.mesh).items()} | {"uv": mesh.uv.clone()}
    first, second = (voxel_materials(mesh, GRID, extras=("normal",), backend=backend) for _ in range(2))
    assert torch.equal(first.field.attrs, second.field.attrs)
    assert torch.equal(first.normal, second.normal)
    assert torch.equal(mesh.mesh.vertices, copies["vertices"])
    assert torch.equal(mesh.mesh.faces, copies["faces"])
    assert torch.equal(mesh.uv, copies["uv"])


def test_backends_agree():
    results = [voxel_materials(ball(), Grid.cube(63), backend=backend).field for backend in BACKENDS]
    assert torch.equal(results[0].coords, results[1].coords)
    torch.testing.assert_close(results[0].attrs, results[1].attrs, rtol=0, atol=1e-6)


@backends
def test_progress_rises_to_one_and_can_cancel(backend):
    steps = []
    voxel_materials(ball(), GRID, backend=backend, progress=steps.append)
    assert steps == sorted(steps)
    assert steps[-1] == 1.0
    assert len(steps) >= 3

    class CancelledError(Exception):
        pass

    def cancel(done):
        raise CancelledError

    with pytest.raises(CancelledError):
        voxel_materials(ball(), GRID, backend=backend, progress=cancel)


def test_bytes_truncate():
    values = torch.tensor([-0.1, 0.0, 0.5, 0.999, 1.0, 1.5])
    assert to_bytes(values).tolist() == [0, 0, 127, 254, 255, 255]


def broken(**changes):
    return replace(textured(Material(base_color_texture=plain((1, 2, 3)))), **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"uv": torch.tensor([[math.nan, 0.0]]).expand(4, 2)}, "uv: expected finite"),
        ({"uv": torch.full((4, 2), math.inf)}, "uv: expected finite"),
        ({"uv": torch.zeros(3, 2)}, r"uv: expected indices in \[0, 3\)"),
        ({"uv_faces": torch.tensor([[0, 1, 4], [0, 1, 2]])}, r"uv: expected indices in \[0, 4\)"),
        ({"uv_faces": torch.tensor([[0, 1, -1], [0, 1, 2]])}, r"uv: expected indices in \[0, 4\)"),
        ({"material_ids": torch.tensor([0, 1])}, r"material_ids: expected ids in \[0, 1\)"),
        ({"normals": torch.full((4, 3), math.nan)}, "normals: expected finite"),
        ({"vertex_colors": torch.full((4, 4), math.nan)}, "vertex_colors: expected finite"),
        ({"mesh": Mesh(torch.full((4, 3), math.nan), sheet()[0].faces)}, "vertices: expected finite"),
        ({"mesh": Mesh(sheet()[0].vertices, sheet()[0].faces + 2)}, r"faces: expected indices in \[0, 4\)"),
    ],
)
@backends
def test_bad_values_are_refused(changes, message, backend):
    with pytest.raises(ValueError, match=message):
        voxel_materials(broken(**changes), GRID, backend=backend)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Texture(torch.zeros(0, 4, 3, dtype=torch.uint8)), "H >= 1"),
        (lambda: Texture(torch.zeros(4, 4, 2, dtype=torch.uint8)), "1 or 3"),
        (lambda: Texture(torch.zeros(4, 4, 3)), "expected uint8, got float32"),
        (lambda: Texture(torch.zeros(4, 4, dtype=torch.uint8)), "expected shape"),
        (lambda: Texture(torch.zeros(4, 4, 3, dtype=torch.uint8), ("repeat", "border")), "wrap"),
        (lambda: Texture(torch.zeros(4, 4, 3, dtype=torch.uint8), filter="cubic"), "filter"),
        (lambda: Material(metallic_texture=plain((1, 2, 3))), "expected 1 channels, got 3"),
        (lambda: Material(base_color_factor=(1.0, 2.0, 0.0)), "base_color_factor"),
        (lambda: Material(base_color_factor=(1.0, 0.0)), "three values"),
        (lambda: Material(emissive_factor=(math.inf, 0.0, 0.0)), "emissive_factor"),
        (lambda: Material(roughness_factor=-0.1), "roughness_factor"),
        (lambda: Material(normal_scale=math.nan), "normal_scale"),
        (lambda: Material(alpha_mode="CUTOUT"), "alpha_mode"),
        (lambda: TexturedMesh(sheet()[0], ()), "at least one"),
        (lambda: broken(uv=None), "has a texture"),
        (lambda: broken(uv=torch.zeros(4, 2, dtype=torch.float64)), "expected float32, got float64"),
        (lambda: broken(uv=torch.zeros(4, 3)), "expected shape"),
        (lambda: broken(material_ids=torch.zeros(3, dtype=torch.int32)), "expected shape"),
        (lambda: broken(vertex_colors=torch.ones(4, 3)), "expected shape"),
    ],
)
def test_bad_materials_and_shapes_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_texture_must_be_a_texture():
    with pytest.raises(TypeError, match="expected a Texture"):
        Material(base_color_texture=torch.zeros(4, 4, 3, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"extras": ("occlusion",)}, "extras"),
        ({"backend": "cuda"}, "backend"),
        ({"coords": torch.zeros(2, 3, dtype=torch.int64)}, "expected int32"),
        ({"coords": torch.tensor([[0, 0, 32]], dtype=torch.int32)}, "inside"),
        ({"coords": torch.tensor([[0, -1, 0]], dtype=torch.int32)}, "inside"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        voxel_materials(ball(), GRID, **options)
