"""Materials that go from one mesh to another keep their values, against the painter's own formula."""

from dataclasses import replace

import pytest
import torch
from comfyui_trellis2.o_voxel.bake.bake import bake
from comfyui_trellis2.o_voxel.bake.options import BakeOptions
from comfyui_trellis2.o_voxel.bake.transfer import transfer_colors, transfer_textures
from comfyui_trellis2.o_voxel.material import Material, Texture, TexturedMesh, UVMap
from comfyui_trellis2.o_voxel.mesh.normals import vertex_normals
from comfyui_trellis2.o_voxel.mesh.simplify import simplify
from comfyui_trellis2.o_voxel.render.surface_materials import SurfaceMaterials
from comfyui_trellis2.o_voxel.values import Mesh

OPTIONS = BakeOptions(resolution=128, normal_map=False)


def image(color, side=128):
    """A texture [side, side, C] uint8 of `color`, a function of u and v at its texels' centres, values 0 to 255."""
    u, v = torch.meshgrid((torch.arange(side) + 0.5) / side, 1 - (torch.arange(side) + 0.5) / side, indexing="xy")
    return Texture(torch.stack(color(u, v), -1).round().clamp(0, 255).to(torch.uint8), wrap=("repeat", "clamp"))


def seen_from_above(mesh):
    """UVs [V, 2] by position: u along x, v along y."""
    return (mesh.vertices[:, :2] + 0.5).contiguous()


def sampled(mesh, count=4000):
    """(values [P, 6], points [P, 3], face normals' z [P]) over the faces of a textured mesh."""
    generator = torch.Generator().manual_seed(1)
    face = torch.randint(0, len(mesh.mesh.faces), (count,), generator=generator)
    weights = torch.rand(count, 3, generator=generator) + 0.05
    weights /= weights.sum(1, keepdim=True)
    corners = mesh.mesh.vertices[mesh.mesh.faces[face].long()]
    values = SurfaceMaterials.of(mesh).read(face, weights.T.contiguous()).T
    normal = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    return values, (corners * weights[..., None]).sum(1), torch.nn.functional.normalize(normal, dim=1)


@pytest.fixture(scope="module")
def ball(shapes):
    """A sphere of radius 0.4 with a checkered top of four by four fields of 0.2 and a metallic ramp along x."""
    mesh = shapes.sphere(4, 0.4)
    checker = image(lambda u, v: [(((u * 5).floor() + (v * 5).floor()) % 2 * 155 + 50)] * 3)
    ramp = image(lambda u, v: [u * 255])
    paint = Material(base_color_texture=checker, metallic_texture=ramp, roughness_factor=0.2)
    return TexturedMesh(mesh, (paint,), uv=seen_from_above(mesh))


@pytest.mark.slow
def test_a_checkered_sphere_simplified_to_a_tenth_keeps_its_colours(ball):
    light = simplify(ball.mesh, len(ball.mesh.faces) // 10)
    made = transfer_textures(light, ball, replace(OPTIONS, resolution=256))
    values, points, normal = sampled(made)
    place = points[:, :2] + 0.5
    # Fields' borders are as soft as a texel, and at the rim the texture is stretched.
    inside = ((place * 5 - (place * 5).round()).abs() > 0.15).all(1) & (normal[:, 2].abs() > 0.5)
    expected = ((place * 5).floor().sum(1) % 2 * 155 + 50) / 255
    assert inside.sum() > 500
    assert (values[inside, 0] - expected[inside]).abs().mean() < 3 / 255
    assert (values[inside, 3] - place[inside, 0]).abs().mean() < 3 / 255
    material = made.materials[0]
    assert (material.roughness_texture, round(material.roughness_factor * 255)) == (None, 51)
    assert (material.alpha_mode, material.alpha_texture, material.emissive_texture) == ("OPAQUE", None, None)


def test_two_materials_with_alpha_emission_and_occlusion(shapes):
    """A sheet whose left half is glowing glass, and whose right half is a cut-out."""
    sheet = shapes.sheet(8)
    flat = Mesh(sheet.vertices - torch.tensor([0.5, 0.5, 0.0]), sheet.faces)
    left = Material(
        base_color_factor=(0.2, 0.4, 0.6), alpha_mode="BLEND", alpha_factor=0.5, emissive_factor=(0.8, 0.0, 0.4)
    )
    right = Material(
        base_color_factor=(0.9, 0.1, 0.3),
        metallic_factor=0.7,
        alpha_mode="MASK",
        alpha_texture=image(lambda u, v: [torch.where(v > 0.5, 255.0, 0.0)]),
        occlusion_texture=image(lambda u, v: [v * 255]),
    )
    right_of = flat.vertices[flat.faces.long()].mean(1)[:, 0] > 0
    source = TexturedMesh(flat, (left, right), material_ids=right_of.long(), uv=seen_from_above(flat))
    coarse = shapes.sheet(2)
    coarse = Mesh(coarse.vertices - torch.tensor([0.5, 0.5, 0.0]), coarse.faces)
    uv_map = UVMap(seen_from_above(coarse), coarse.faces, torch.zeros_like(coarse.faces[:, 0]))
    made = bake(coarse, uv_map, flat, source, OPTIONS)
    material = made.materials[0]
    assert (material.alpha_mode, material.double_sided) == ("BLEND", True)
    values, points, _ = sampled(made)
    clear = (points[:, :2].abs() > 0.02).all(1)
    glass, rest = clear & (points[:, 0] < 0), clear & (points[:, 0] > 0)
    upper = (points[:, 1] > 0).float()
    expected = torch.tensor([0.2, 0.4, 0.6, 1.0, 1.0, 0.5])
    assert (values[glass] - expected).abs().max() < 1.01 / 255
    assert (values[rest, :4] - torch.tensor([0.9, 0.1, 0.3, 0.7])).abs().max() < 1.01 / 255
    assert (values[rest, 5] - upper[rest]).abs().max() < 1.01 / 255
    light = material.emissive_texture.image.float() * torch.tensor(material.emissive_factor) / 255
    assert (light[64, 30] - torch.tensor([0.8, 0.0, 0.4])).abs().max() < 1.01 / 255
    assert light[64, 100].max() == 0
    rows = material.occlusion_texture.image[..., 0].float()
    assert (rows[:, :60] == 255).all()
    assert (rows[:, 100] - (255 - (torch.arange(128) + 0.5) / 128 * 255)).abs().max() <= 2


def test_vertex_colours_stay_on_textures_and_on_vertices(shapes):
    mesh = shapes.sphere(4, 0.4)
    colors = torch.cat([mesh.vertices + 0.5, torch.ones(len(mesh.vertices), 1)], 1)
    source = TexturedMesh(mesh, (Material(metallic_factor=0.25, roughness_factor=0.75),), vertex_colors=colors)
    light = simplify(mesh, len(mesh.faces) // 10)
    for made in (transfer_textures(light, source, OPTIONS), transfer_colors(light, source)):
        values, points, _ = sampled(made)
        assert (values[:, :3] - (points + 0.5)).abs().mean() < 3 / 255
        assert (values[:, 3:] - torch.tensor([0.25, 0.75, 1.0])).abs().max() < 1.01 / 255
    assert (made.vertex_colors is not None) and not made.textured


def test_metallic_and_roughness_vary_over_vertices(ball):
    made = transfer_colors(simplify(ball.mesh, 1000), ball)
    values, points, normal = sampled(made)
    up = normal[:, 2].abs() > 0.5
    assert (values[up, 3] - (points[up, 0] + 0.5)).abs().mean() < 3 / 255
    assert (values[:, 4] - 0.2).abs().max() < 1.01 / 255


def test_the_normal_map_holds_the_sources_normals(shapes):
    """A flat sheet takes the shading normals of a bump, and a normal map bent along u."""
    bump, flat = shapes.sheet(16, bump=0.05), shapes.sheet(2)
    uv_map = UVMap(flat.vertices[:, :2].contiguous(), flat.faces, torch.zeros_like(flat.faces[:, 0]))
    normals = vertex_normals(bump)
    made = bake(flat, uv_map, bump, TexturedMesh(bump, normals=normals), replace(OPTIONS, normal_map=True))
    encoded = made.materials[0].normal_texture.image.float() / 127.5 - 128 / 127.5
    x, y = (torch.arange(128) + 0.5) / 128, 1 - (torch.arange(128) + 0.5) / 128
    at = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], -1)
    slope = 0.05 * torch.pi * torch.cos(torch.pi * at) * torch.sin(torch.pi * at.flip(-1))
    exact = torch.nn.functional.normalize(torch.cat([-slope, torch.ones(128, 128, 1)], -1), dim=-1)
    assert (encoded - exact)[4:-4, 4:-4].abs().mean() < 0.01
    bent = image(lambda u, v: [torch.full_like(u, 204.0), torch.full_like(u, 128.0), torch.full_like(u, 230.0)])
    paint = Material(normal_texture=bent)
    source = TexturedMesh(flat, (paint,), uv=flat.vertices[:, :2].contiguous())
    made = bake(flat, uv_map, flat, source, replace(OPTIONS, normal_map=True))
    assert (made.materials[0].normal_texture.image.float() - torch.tensor([204.0, 128.0, 230.0])).abs().max() <= 2


def test_thin_and_layered_parts_keep_their_sides(shapes):
    """A red sheet close above a blue one, and a target between them that faces one or the other."""
    sheet, gap = shapes.sheet(4), torch.tensor([0.0, 0.0, 0.004])
    under = Mesh(sheet.vertices - gap, sheet.faces.flip(1))
    both = Mesh(
        torch.cat([sheet.vertices, under.vertices]), torch.cat([sheet.faces, under.faces + len(sheet.vertices)])
    )
    ids = torch.arange(len(both.faces)) // len(sheet.faces)
    paints = (Material(base_color_factor=(1.0, 0.0, 0.0)), Material(base_color_factor=(0.0, 0.0, 1.0)))
    source = TexturedMesh(both, paints, material_ids=ids)
    inside = Mesh(sheet.vertices - gap * 0.75, sheet.faces)
    for target, color in ((inside, (255, 0, 0)), (Mesh(inside.vertices, sheet.faces.flip(1)), (0, 0, 255))):
        uv_map = UVMap(target.vertices[:, :2].contiguous(), target.faces, torch.zeros_like(target.faces[:, 0]))
        made = bake(target, uv_map, both, source, replace(OPTIONS, resolution=32))
        assert (made.materials[0].base_color_texture.image == torch.tensor(color)).all()
    far = Mesh(sheet.vertices + 5.0, sheet.faces)  # nothing within reach: the nearest surface, whatever its side
    made = bake(far, uv_map, both, source, replace(OPTIONS, resolution=16))
    assert (made.materials[0].base_color_texture.image.float().sum(2) == 255).all()


def test_without_materials_normals_and_occlusion_are_baked(shapes):
    mesh, dense = shapes.sheet(2), shapes.sheet(16, bump=0.05)
    uv_map = UVMap(mesh.vertices[:, :2].contiguous(), mesh.faces, torch.zeros_like(mesh.faces[:, 0]))
    material = bake(mesh, uv_map, dense, None, BakeOptions(resolution=64, occlusion=True, occlusion_rays=16)).materials[
        0
    ]
    assert material.base_color_texture is None
    assert material.normal_texture is not None
    assert material.occlusion_texture is not None
    with pytest.raises(ValueError, match="expected voxels or a textured mesh"):
        bake(mesh, uv_map, dense, None, OPTIONS)


def test_a_bad_source_is_refused(ball):
    bad = replace(ball, material_ids=torch.full((len(ball.mesh.faces),), 3))
    with pytest.raises(ValueError, match=r"field\.material_ids"):
        transfer_textures(ball.mesh, bad, OPTIONS)
    with pytest.raises(ValueError, match=r"source\.uv: expected finite"):
        transfer_colors(ball.mesh, replace(ball, uv=ball.uv * torch.nan))


@pytest.mark.slow
def test_the_same_bytes_twice_and_cancelled_at_once(ball):
    light = simplify(ball.mesh, 300)
    first, second = (transfer_textures(light, ball, OPTIONS).materials[0] for _ in range(2))
    assert torch.equal(first.base_color_texture.image, second.base_color_texture.image)

    def cancel(fraction):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        transfer_textures(light, ball, OPTIONS, progress=cancel)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_gpu_bakes_the_same(ball):
    from comfyui_trellis2.o_voxel.values import to_device

    light = simplify(ball.mesh, 300)
    uv_map = UVMap(seen_from_above(light), light.faces, torch.zeros_like(light.faces[:, 0]))
    here = bake(light, uv_map, ball.mesh, ball, OPTIONS).materials[0]
    there = bake(*to_device((light, uv_map, ball.mesh, ball), "cuda"), OPTIONS).materials[0]
    difference = (there.base_color_texture.image.cpu().int() - here.base_color_texture.image.int()).abs()
    assert (difference > 1).float().mean() < 0.01


def test_a_ply_has_the_textures_colours_at_its_vertices(ball, tmp_path):
    from comfyui_trellis2.o_voxel.files.meshes.read import load_textured_mesh
    from comfyui_trellis2.o_voxel.files.meshes.write import save_mesh

    smooth = image(lambda u, v: [u * 255, v * 255, 0 * u])
    source = replace(ball, materials=(Material(base_color_texture=smooth),))
    loaded = load_textured_mesh(save_mesh(tmp_path / "ball.ply", source).path)
    assert (loaded.vertex_colors[:, :2] - (loaded.mesh.vertices[:, :2] + 0.5)).abs().max() < 3 / 255
