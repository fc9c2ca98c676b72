"""Textures baked onto a mesh's own texture coordinates show the voxels' values, and nothing else changes."""

from dataclasses import replace

import pytest
import torch
from comfyui_trellis2.o_voxel.bake import own_uvs
from comfyui_trellis2.o_voxel.bake.options import BakeOptions
from comfyui_trellis2.o_voxel.bake.own_uvs import bake_own_uvs
from comfyui_trellis2.o_voxel.core.grid import Grid
from comfyui_trellis2.o_voxel.files.meshes.read import load_textured_mesh
from comfyui_trellis2.o_voxel.files.meshes.write import save_mesh
from comfyui_trellis2.o_voxel.material import PLAIN, Material, Texture, TexturedMesh
from comfyui_trellis2.o_voxel.render.surface_materials import SurfaceMaterials
from comfyui_trellis2.o_voxel.values import Mesh, VoxelField
from comfyui_trellis2.o_voxel.voxels.from_mesh import fitted, mesh_to_dual_grid

OPTIONS = BakeOptions(resolution=256)
GRID = Grid.cube(32)
BYTE = 1 / 255


def painted(points):
    """What the voxels hold at points [N, 3]: a linear ramp, which interpolation keeps."""
    color = points + 0.5
    return torch.cat([color, color[:, :1] * 0.5, 1 - color[:, 1:2] * 0.5, torch.ones_like(color[:, :1])], 1)


def field_of(mesh):
    coords = mesh_to_dual_grid(mesh, GRID).coords
    # Two voxels around the surface, so that no interpolation lacks a neighbour.
    steps = torch.cartesian_prod(*[torch.arange(-2, 3)] * 3)
    coords = (coords[:, None] + steps).reshape(-1, 3).unique(dim=0).clamp(0, 31).unique(dim=0).int()
    return VoxelField(coords, painted((coords + 0.5) / 32 - 0.5), GRID)


def errors(mesh, placed=None, among=None):
    """Largest deviation of each channel from `painted`, at points in the faces' middles."""
    faces = torch.arange(len(mesh.mesh.faces)) if among is None else among
    weights = torch.full((3, len(faces)), 1 / 3)
    values = SurfaceMaterials.of(replace(mesh, normals=None)).read(faces, weights).T
    surface = placed or mesh.mesh
    points = surface.vertices[surface.faces[faces].long()].mean(1)
    return (values - painted(points)).abs().amax(0)


def assert_same(made, given):
    assert made.mesh.vertices is given.mesh.vertices and made.mesh.faces is given.mesh.faces
    assert made.material_ids is given.material_ids and made.normals is given.normals


@pytest.fixture
def sheet(shapes):
    """A bumpy sheet of 8 by 8 squares about the origin, its UVs its places from above."""
    mesh = shapes.sheet(8, 0.1)
    mesh = Mesh(mesh.vertices - torch.tensor([0.5, 0.5, 0.0]), mesh.faces)
    return TexturedMesh(mesh, uv=(mesh.vertices[:, :2] + 0.5).contiguous())


def test_the_textures_show_the_voxels(sheet):
    said = []
    made = bake_own_uvs(sheet, field_of(sheet.mesh), OPTIONS, on_warning=said.append)
    assert_same(made, sheet)
    assert made.uv is sheet.uv and made.uv_faces is None and said == []
    assert float(errors(made).max()) < 2 * BYTE
    assert made.materials[0].base_color_texture.image.shape == (256, 256, 3)
    assert made.materials[0].base_color_texture.wrap == ("clamp", "clamp")


def test_only_looks_are_replaced(sheet):
    bumps = Texture(torch.full((4, 4, 3), 128, dtype=torch.uint8))
    shade = Texture(torch.full((4, 4, 1), 77, dtype=torch.uint8))
    old = Material(
        base_color_factor=(0.1, 0.2, 0.3),
        metallic_factor=0.5,
        normal_texture=bumps,
        normal_scale=0.3,
        occlusion_texture=shade,
        emissive_factor=(1.0, 0.0, 0.0),
        double_sided=True,
    )
    colors = torch.full((len(sheet.mesh.vertices), 4), 0.5)
    said = []
    old = replace(old, name="Lack\n")
    parts = torch.arange(len(sheet.mesh.faces)) % 2
    given = replace(sheet, materials=(old,), vertex_colors=colors, part_ids=parts, part_names=("a", ""))
    made = bake_own_uvs(given, field_of(sheet.mesh), OPTIONS, on_warning=said.append)
    (new,) = made.materials
    assert (new.normal_texture, new.normal_scale, new.occlusion_texture) == (bumps, 0.3, shade)
    assert (new.base_color_factor, new.emissive_factor, new.double_sided) == ((1.0,) * 3, (0.0,) * 3, True)
    assert made.vertex_colors is None and "material 0 (Lack ): its emission" in said[0]
    assert (new.name, made.part_names) == (old.name, ("a", "")) and made.part_ids is parts
    assert float(errors(made).max()) < 2 * BYTE


@pytest.mark.parametrize("move", [(3.0, -2.0), (0.37, 0.61)])
def test_coordinates_outside_the_unit_square_repeat(sheet, move):
    """Moved by whole tiles, and across the borders of four."""
    given = replace(sheet, uv=sheet.uv + torch.tensor(move))
    said = []
    made = bake_own_uvs(given, field_of(sheet.mesh), OPTIONS, on_warning=said.append)
    assert made.uv is given.uv and said == []
    assert made.materials[0].base_color_texture.wrap == ("repeat", "repeat")
    # A quarter of a face is not blurred across the borders.
    assert float(errors(made).max()) < 4 * BYTE


def test_mirrored_halves_share_a_picture_and_it_is_said(sheet):
    left = sheet.mesh.vertices[sheet.mesh.faces.long()].mean(1)[:, 0] < 0
    first = torch.cat([left.nonzero(), (~left).nonzero()])[:, 0]
    mesh, left = Mesh(sheet.mesh.vertices, sheet.mesh.faces[first]), left[first]
    given = replace(sheet, mesh=mesh, uv=torch.stack([(sheet.uv[:, 0] - 0.5).abs() * 2, sheet.uv[:, 1]], 1))
    field, said = field_of(sheet.mesh), []
    made = bake_own_uvs(given, field, OPTIONS, on_warning=said.append)
    assert len(said) == 1 and said[0].startswith("material 0: 50% of its texture coordinates lie on others")
    assert made.uv is given.uv
    # Faces are baked as a whole, the first of those that share a place.
    assert float(errors(made, among=left.nonzero().squeeze(1))[:3].max()) < 3 * BYTE
    assert float(errors(made, among=(~left).nonzero().squeeze(1))[0]) > 0.3
    said.clear()
    apart = bake_own_uvs(given, field, OPTIONS, unwrap_shared=True, on_warning=said.append)
    assert_same(apart, given)
    assert said == [] and float(errors(apart).max()) < 3 * BYTE


def test_what_is_hidden_is_measured_once(sheet, monkeypatch):
    measured, measure = [], own_uvs._hidden
    monkeypatch.setattr(own_uvs, "_hidden", lambda layout: measured.append(layout) or measure(layout))
    made = bake_own_uvs(sheet, field_of(sheet.mesh), OPTIONS, unwrap_shared=True)
    assert len(measured) == 1
    assert torch.equal(made.uv, sheet.uv)


def test_what_has_no_coordinates_is_unwrapped_and_the_rest_kept(sheet, shapes):
    """A sheet with UVs, and a ball of another material without."""
    ball = shapes.sphere(2, 0.2)
    count = len(sheet.mesh.vertices)
    mesh = Mesh(torch.cat([sheet.mesh.vertices, ball.vertices]), torch.cat([sheet.mesh.faces, ball.faces + count]))
    uv = torch.cat([sheet.uv, torch.zeros(len(ball.vertices), 2)])
    ids = torch.tensor([0, 2]).repeat_interleave(torch.tensor([len(sheet.mesh.faces), len(ball.faces)]))
    spare = Material(base_color_factor=(0.3, 0.3, 0.3))
    given = TexturedMesh(mesh, (PLAIN, spare, PLAIN), material_ids=ids, uv=uv)
    said = []
    made = bake_own_uvs(given, field_of(mesh), OPTIONS, on_warning=said.append)
    assert_same(made, given)
    assert len(said) == 1 and said[0].startswith("material 2: its texture coordinates have no area")
    assert torch.equal(made.uv[: len(uv)], uv) and torch.equal(1 - (1 - made.uv[len(uv) :, 1]), made.uv[len(uv) :, 1])
    assert torch.equal(made.uv_rows[ids == 0], mesh.faces[ids == 0])
    assert made.materials[1] is spare
    assert float(errors(made).max()) < 3 * BYTE
    none = bake_own_uvs(replace(given, uv=None), field_of(mesh), OPTIONS)
    assert float(errors(none).max()) < 3 * BYTE


def test_small_materials_get_small_textures(sheet):
    ids = (torch.arange(len(sheet.mesh.faces)) < 4).long()
    given = replace(sheet, materials=(PLAIN, PLAIN), material_ids=ids)
    made = bake_own_uvs(given, field_of(sheet.mesh), replace(OPTIONS, resolution=1024))
    assert [m.base_color_texture.image.shape[0] for m in made.materials] == [1024, 256]


def test_a_mesh_in_a_world_of_its_own_reads_back_the_same(sheet, tmp_path):
    """The voxels are those of the fitted mesh; the file's corners have the given positions and coordinates."""
    far = Mesh(sheet.mesh.vertices * 170 + torch.tensor([1000.0, -3.0, 7.0]), sheet.mesh.faces)
    given = replace(sheet, mesh=far)
    placed = fitted(given).mesh
    made = bake_own_uvs(given, field_of(placed), OPTIONS, placed=placed)
    assert float(errors(made, placed).max()) < 2 * BYTE
    back = load_textured_mesh(save_mesh(tmp_path / "made.glb", made).path)
    assert torch.equal(back.mesh.vertices[back.mesh.faces], far.vertices[far.faces.long()])
    # v is turned by 1 - v: what was stored in float32 once comes back exactly.
    turned = torch.stack([sheet.uv[:, 0], 1 - (1 - sheet.uv[:, 1])], 1)
    assert torch.equal(back.uv[back.uv_rows], turned[sheet.uv_rows.long()])


def test_errors(sheet):
    field = field_of(sheet.mesh)
    with pytest.raises(ValueError, match="placed: expected the mesh's 81 vertices, got 3"):
        bake_own_uvs(sheet, field, OPTIONS, placed=Mesh(torch.zeros(3, 3), sheet.mesh.faces[:0]))
    with pytest.raises(ValueError, match="expected at least one face"):
        bake_own_uvs(TexturedMesh(Mesh(torch.zeros(3, 3), sheet.mesh.faces[:0])), field, OPTIONS)
    said = []
    far = Mesh(sheet.mesh.vertices + 30, sheet.mesh.faces)
    made = bake_own_uvs(sheet, field, OPTIONS, placed=far, on_warning=said.append)
    assert made.materials == sheet.materials and "no voxel is near" in said[0]
