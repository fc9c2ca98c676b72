"""Normal maps, emission, occlusion, vertex normals and holes in pictures of textured meshes."""

from dataclasses import replace
from math import cos, pi, radians, sin

import pytest
import torch
from comfyui_trellis2.o_voxel.bake.tangent_space import TangentFrames, normal_bytes
from comfyui_trellis2.o_voxel.core.color import to_linear, to_srgb
from comfyui_trellis2.o_voxel.material import Material, Texture, TexturedMesh
from comfyui_trellis2.o_voxel.mesh.normals import vertex_normals
from comfyui_trellis2.o_voxel.render import Camera, SoftBox, StudioLight, Style, textured_scene
from comfyui_trellis2.o_voxel.render.draw import draw
from comfyui_trellis2.o_voxel.render.shade import tone_map
from comfyui_trellis2.o_voxel.render.surface_normals import SurfaceNormals
from comfyui_trellis2.o_voxel.values import Mesh

PLAIN = Style(background=(0.0, 0.0, 0.0), occlusion=False, ground=False)
NO_BOXES = [SoftBox(0, 0, 0.1, 0.1, (1, 1, 1), 0.0)] * 3
EVEN = StudioLight(*NO_BOXES, (1.0,) * 3, (1.0,) * 3, (1.0,) * 3)
DARK = StudioLight(*NO_BOXES, (0.0,) * 3, (0.0,) * 3, (0.0,) * 3)
FRONT = Camera(yaw_deg=0, pitch_deg=0, orthographic=True)
MATT = {"metallic_factor": 0.0, "roughness_factor": 1.0}


def texture(*rows) -> Texture:
    return Texture(torch.tensor(rows, dtype=torch.uint8), filter="nearest")


def quad(*materials: Material, normals=None, gap=0.1) -> TexturedMesh:
    """Unit squares with these materials, front to back, facing -y; u along x, v along z."""
    corner = torch.tensor([[-0.5, 0, -0.5], [0.5, 0, -0.5], [0.5, 0, 0.5], [-0.5, 0, 0.5]])
    count = len(materials)
    vertices = torch.cat([corner + torch.tensor([0, gap * k, 0]) for k in range(count)])
    faces = torch.cat([torch.tensor([[0, 1, 2], [0, 2, 3]]) + 4 * k for k in range(count)])
    uv = (corner[:, [0, 2]] + 0.5).repeat(count, 1)
    ids = torch.arange(count).repeat_interleave(2)
    return TexturedMesh(Mesh(vertices, faces), materials, ids, uv, normals=normals)


def middle(mesh, light=EVEN, camera=FRONT, style=PLAIN):
    rendering = draw(textured_scene(mesh, smooth=style.smooth), camera, (32, 32), light, style)
    return rendering.color[16, 16], rendering.normal[16, 16], float(rendering.depth[16, 16])


def tilted(x: float, y: float) -> Texture:
    direction = torch.tensor([x, y, (1 - x * x - y * y) ** 0.5])
    return texture([normal_bytes(direction).tolist()])


@pytest.mark.slow
@pytest.mark.parametrize(("x", "y"), [(0.6, 0.0), (0.0, 0.6), (-0.5, 0.3)])
def test_a_normal_map_bends_along_u_and_v(x, y):
    _, normal, _ = middle(quad(Material(normal_texture=tilted(x, y), **MATT)))
    deep = (1 - x * x - y * y) ** 0.5
    torch.testing.assert_close(normal, torch.tensor([x, -deep, y]), atol=0.01, rtol=0)
    _, behind, _ = middle(quad(Material(normal_texture=tilted(x, y), **MATT)), camera=replace(FRONT, yaw_deg=180))
    torch.testing.assert_close(behind, torch.tensor([-x, deep, -y]), atol=0.01, rtol=0)


def test_the_normal_scale_counts_and_a_neighbour_without_a_map_is_flat():
    bent = Material(normal_texture=tilted(0.6, 0.0), normal_scale=0.0, **MATT)
    _, normal, _ = middle(quad(bent))
    torch.testing.assert_close(normal, torch.tensor([0.0, -1.0, 0.0]), atol=1e-5, rtol=0)
    _, plain, _ = middle(quad(Material(**MATT), replace(bent, normal_scale=1.0)))
    torch.testing.assert_close(plain, torch.tensor([0.0, -1.0, 0.0]), atol=1e-5, rtol=0)


@pytest.mark.slow
def test_the_normals_of_the_mesh_shade_it():
    lean = torch.tensor([sin(radians(30)), -cos(radians(30)), 0.0])
    mesh = quad(Material(**MATT), normals=lean.expand(4, 3).contiguous())
    _, normal, _ = middle(mesh)
    torch.testing.assert_close(normal, lean, atol=1e-5, rtol=0)
    _, flat, _ = middle(mesh, style=replace(PLAIN, smooth=False))
    torch.testing.assert_close(flat, torch.tensor([0.0, -1.0, 0.0]), atol=1e-5, rtol=0)
    _, kept, _ = middle(replace(mesh, normals=torch.zeros(4, 3)))
    torch.testing.assert_close(kept, torch.tensor([0.0, -1.0, 0.0]), atol=1e-5, rtol=0)


def test_a_baked_direction_comes_back():
    """What the bake encodes, the renderer decodes: a half ball with uv that are no isometry."""
    turn, rise = torch.meshgrid(torch.linspace(0, pi, 9), torch.linspace(-1.2, 1.2, 9), indexing="ij")
    points = torch.stack([turn.cos() * rise.cos(), turn.sin() * rise.cos(), rise.sin()], -1).view(-1, 3)
    row = torch.arange(8)[:, None] * 9 + torch.arange(8)
    a, b, c, d = (row + step for step in (0, 9, 10, 1))
    faces = torch.cat([torch.stack([a, b, c], -1).view(-1, 3), torch.stack([a, c, d], -1).view(-1, 3)])
    mesh = Mesh(points, faces)
    uv = torch.stack([turn / 4 + rise / 9, rise / 3 + 0.5], -1).view(-1, 2)
    material = Material(normal_texture=tilted(0, 0))
    normals = SurfaceNormals.of(
        TexturedMesh(mesh, (material,), uv=uv, normals=vertex_normals(mesh)), mapped=True, smooth=True
    )
    generator = torch.Generator().manual_seed(0)
    face = torch.randint(len(faces), (500,), generator=generator)
    bary = torch.rand(500, 3, generator=generator)
    bary = bary / bary.sum(1, keepdim=True)
    up = normals.facing(face, bary.T, normals.normal[face].mean(1).T).T
    wanted = torch.nn.functional.normalize(up + 0.5 * torch.randn(500, 3, generator=generator), dim=1)
    wanted = torch.where(((wanted * up).sum(1) < 0.1)[:, None], up, wanted)
    stored = normal_bytes(TangentFrames(normals.normal, normals.tangent).encode(face, bary, wanted))
    found = normals.facing(face, bary.T, up.T, (stored.float() / 255 * 2 - 1).T).T
    assert float((found - wanted).norm(dim=1).amax()) < 0.02


def test_emission_glows_in_the_dark():
    glow = Material(emissive_factor=(0.0, 0.5, 1.0), emissive_texture=texture([[255] * 3, [0] * 3]), **MATT)
    scene = textured_scene(quad(glow))
    color = draw(scene, FRONT, (32, 32), DARK, PLAIN).color
    shown = to_srgb(tone_map(to_linear(torch.tensor([[0.0], [0.5], [1.0]]))))[:, 0]
    torch.testing.assert_close(color[16, 10], shown, atol=1e-5, rtol=0)
    assert float(color[16, 22].amax()) == 0
    assert float(middle(quad(Material(**MATT)), light=DARK)[0].amax()) == 0


@pytest.mark.slow
def test_occlusion_dims_the_light_in_proportion():
    base = {"base_color_factor": (0.6, 0.5, 0.4), **MATT}
    occluded, _, _ = middle(quad(Material(occlusion_texture=texture([[102]]), **base)))
    dimmer, _, _ = middle(quad(Material(**base)), light=replace(EVEN, exposure=0.4))
    torch.testing.assert_close(occluded, dimmer, atol=1e-5, rtol=0)


@pytest.mark.slow
def test_holes_show_what_is_behind_them():
    hole = Material(alpha_mode="MASK", alpha_texture=texture([[0]]), base_color_factor=(0.0, 1.0, 0.0), **MATT)
    red = Material(base_color_factor=(1.0, 0.0, 0.0), **MATT)
    near = middle(quad(red))[2]
    for cut in (1, 3):
        color, _, depth = middle(quad(*[hole] * cut, red, gap=0.125 / cut))
        assert float(color[0]) > 0.5 > float(color[1])
        assert depth > middle(quad(replace(red), *[red] * cut, gap=0.125 / cut))[2] + 0.12
    assert near < float("inf")
    open_, normal, depth = middle(quad(hole))
    assert float(open_.amax()) == 0 and float(normal.abs().amax()) == 0 and depth == float("inf")


@pytest.mark.slow
def test_glass_before_a_hole_before_a_wall():
    glass = Material(alpha_mode="BLEND", alpha_factor=0.5, base_color_factor=(0.0, 0.0, 1.0), **MATT)
    hole = Material(alpha_mode="MASK", alpha_texture=texture([[0]]), **MATT)
    red = Material(base_color_factor=(1.0, 0.0, 0.0), **MATT)
    through, _, _ = middle(quad(glass, hole, red))
    direct, _, _ = middle(quad(glass, red))
    torch.testing.assert_close(through, direct, atol=1e-5, rtol=0)


@pytest.mark.slow
def test_the_same_scene_twice_is_the_same_bytes_and_the_mesh_stays():
    mesh = quad(Material(normal_texture=tilted(0.4, 0.2), **MATT), normals=torch.tensor([[0.0, -1, 0]] * 4))
    kept = mesh.normals.clone()
    first, again = (middle(mesh)[0] for _ in range(2))
    assert torch.equal(first, again) and torch.equal(mesh.normals, kept)


@pytest.mark.gpu
def test_the_gpu_draws_the_same_maps():
    from comfyui_trellis2.o_voxel.values import to_device

    maps = Material(normal_texture=tilted(0.4, 0.2), occlusion_texture=texture([[102]]), **MATT)
    mesh = quad(replace(maps, alpha_mode="MASK", alpha_texture=texture([[0], [255]])), maps)
    here = draw(textured_scene(mesh), FRONT, (64, 64), StudioLight(), PLAIN)
    there = draw(textured_scene(to_device(mesh, "cuda")), FRONT, (64, 64), StudioLight(), PLAIN)
    torch.testing.assert_close(here.color, there.color.cpu(), atol=0.01, rtol=0)
