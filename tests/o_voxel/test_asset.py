"""Raw surface to finished asset: what comes out, in which order, and what is refused."""

import logging
from dataclasses import replace

import pytest
import torch
import trimesh
from comfyui_trellis2.o_voxel import asset as asset_module
from comfyui_trellis2.o_voxel.asset import PRESETS, STAGES, AssetOptions, make_asset
from comfyui_trellis2.o_voxel.core.grid import Grid
from comfyui_trellis2.o_voxel.files.meshes.read import load_textured_mesh
from comfyui_trellis2.o_voxel.files.meshes.write import save_mesh
from comfyui_trellis2.o_voxel.mesh.connectivity import topology
from comfyui_trellis2.o_voxel.mesh.uv.check import check_uv
from comfyui_trellis2.o_voxel.ops.grid_sample import grid_sample
from comfyui_trellis2.o_voxel.ops.hash_grid import hash_grid
from comfyui_trellis2.o_voxel.ops.raster import rasterize
from comfyui_trellis2.o_voxel.render.camera import Bounds, Camera
from comfyui_trellis2.o_voxel.values import Mesh, VoxelField
from comfyui_trellis2.o_voxel.voxels.from_mesh import mesh_to_dual_grid
from comfyui_trellis2.o_voxel.voxels.to_mesh import dual_grid_to_mesh

SMALL = replace(PRESETS["game high"], faces=600, texture_size=128)


@pytest.fixture(scope="module")
def raw():
    """A ball's raw surface with a smaller ball inside, and a field whose colour is the place."""
    outer, inner = trimesh.creation.icosphere(4, 0.4), trimesh.creation.icosphere(3, 0.2)
    both = trimesh.util.concatenate([outer, inner])
    mesh = Mesh(torch.tensor(both.vertices, dtype=torch.float32), torch.tensor(both.faces))
    grid = mesh_to_dual_grid(mesh, Grid.cube(48))
    place = grid.grid.to_world(grid.coords.float() + 0.5)
    attrs = torch.cat([place + 0.5, torch.full((len(place), 2), 0.25), torch.ones(len(place), 1)], 1)
    return dual_grid_to_mesh(grid), VoxelField(grid.coords, attrs, grid.grid)


def looked_up(asset, texture):
    """The texels [F, C] at the middle of every face."""
    middle = asset.uv[asset.uv_faces.long()].mean(1)
    height, width = texture.image.shape[:2]
    x, y = (middle[:, 0] * width).long(), ((1 - middle[:, 1]) * height).long()
    return texture.image[y.clamp(0, height - 1), x.clamp(0, width - 1)].float() / 255


@pytest.mark.slow
def test_the_mesh_is_checked_once_at_the_door(raw, monkeypatch):
    """Each check waits for the device; every step after the first gets a ValidMesh."""
    checked, check = [], topology._validate
    monkeypatch.setattr(topology, "_validate", lambda mesh: (checked.append(mesh), check(mesh)))
    make_asset(*raw, SMALL)
    assert [mesh is raw[0] for mesh in checked] == [True]


@pytest.mark.slow
def test_an_asset_has_what_was_asked_for(raw):
    mesh, field = raw
    kept = [tensor.clone() for tensor in (mesh.vertices, mesh.faces, field.coords, field.attrs)]
    seen = []
    asset = make_asset(mesh, field, SMALL, progress=lambda stage, part: seen.append((stage, part)))
    assert 400 < len(asset.mesh.faces) <= 600
    (material,) = asset.materials
    for name in ("base_color", "metallic", "roughness", "occlusion", "normal"):
        assert getattr(material, f"{name}_texture").image.shape[:2] == (128, 128), name
    assert material.alpha_mode == "OPAQUE"
    assert not material.double_sided
    middle = asset.mesh.vertices[asset.mesh.faces.long()].mean(1)
    assert (looked_up(asset, material.base_color_texture) - (middle + 0.5)).abs().quantile(0.99) < 0.03
    assert (looked_up(asset, material.metallic_texture) - 0.25).abs().max() < 0.01
    assert (asset.normals.norm(dim=1) - 1).abs().max() < 1e-4
    report = check_uv(asset.mesh, asset.uv, asset.uv_faces, 128)
    assert (report.overlapping_texels, report.flipped) == (0, 0)
    stages = [stage for stage, _ in seen]
    assert sorted(set(stages), key=stages.index) == list(STAGES)
    assert all(0 <= part <= 1 for _, part in seen)
    for tensor, before in zip((mesh.vertices, mesh.faces, field.coords, field.attrs), kept, strict=True):
        assert torch.equal(tensor, before)


def seen(mesh, view, size):
    """Of the pixels [P] that see a mesh: the place, the face's corners, the weights, the pixels; and all depths."""
    raster = rasterize(view.to_clip(mesh.vertices), mesh.faces, (size, size))
    pixel = (raster.face.flatten() >= 0).nonzero().flatten()
    corners = mesh.faces.long()[raster.face.flatten()[pixel].long()]
    bary = raster.bary.view(-1, 3)[pixel]
    return (mesh.vertices[corners] * bary[..., None]).sum(1), corners, bary, pixel, raster.depth


@pytest.mark.slow
@pytest.mark.parametrize("yaw_deg", [20.0, 200.0])
def test_the_file_looks_like_the_voxels(raw, tmp_path, yaw_deg):
    """The same camera on the GLB's texture, unlit, and on the field under the raw surface."""
    mesh, field = raw
    path = tmp_path / "ball.glb"
    save_mesh(path, make_asset(mesh, field, replace(SMALL, faces=4000, texture_size=512)))
    loaded, size = load_textured_mesh(path), 200
    view = Camera(yaw_deg=yaw_deg, pitch_deg=25.0).view(Bounds.around(mesh.vertices), (size, size))
    _, corners, bary, pixel, depth = seen(loaded.mesh, view, size)
    at = (loaded.uv[corners] * bary[..., None]).sum(1)
    image = loaded.materials[0].base_color_texture.image.permute(2, 0, 1)[None].float()
    place = torch.stack([2 * at[:, 0] - 1, 1 - 2 * at[:, 1]], 1)[None, None]
    texels = torch.nn.functional.grid_sample(image, place, align_corners=False)[0, :, 0].T
    point, _, _, dense_pixel, dense_depth = seen(mesh, view, size)
    values = grid_sample(field.attrs, hash_grid(field.coords), field.grid.to_grid(point))[:, :3] * 255
    from_file, from_field = (torch.full((size * size, 3), torch.nan) for _ in range(2))
    from_file[pixel], from_field[dense_pixel] = texels, values
    both = (depth.isfinite() & dense_depth.isfinite()).flatten()
    assert both.sum() > 0.95 * len(dense_pixel)
    difference = (from_file - from_field)[both].abs().amax(1)
    assert difference.quantile(0.99) <= 2
    assert difference.mean() < 0.7


@pytest.mark.slow
@pytest.mark.parametrize("texture_size", [0, 64])
def test_only_an_open_asset_is_double_sided(raw, texture_size):
    mesh, field = raw
    upper = (mesh.vertices[mesh.faces.long()][..., 2] > 0).all(1)
    bowl = Mesh(mesh.vertices, mesh.faces[upper])
    options = replace(SMALL, faces=400, texture_size=texture_size, occlusion=False)
    for surface, opened in ((mesh, False), (bowl, True)):
        (material,) = make_asset(surface, field, options).materials
        assert material.double_sided is opened


@pytest.mark.slow
def test_the_surface_is_chosen_and_said(raw):
    """The inner ball, a fifth of the area, is not seen: the asset is the outer ball alone."""
    lines = []
    made = make_asset(*raw, replace(SMALL, texture_size=0), on_choice=lines.append)
    assert len(lines) == 1 and lines[0].startswith("hidden faces removed: 2 parts, 0.0% open")
    assert made.mesh.vertices.norm(dim=1).min() > 0.35
    kept = make_asset(*raw, replace(SMALL, texture_size=0, surface="cleaned"), on_choice=lines.append)
    assert kept.mesh.vertices.norm(dim=1).min() < 0.25
    assert len(lines) == 1


@pytest.mark.slow
def test_the_same_bytes_twice(raw):
    first, second = (make_asset(*raw, SMALL) for _ in range(2))
    assert torch.equal(first.mesh.vertices, second.mesh.vertices)
    assert torch.equal(first.uv, second.uv)
    for name in ("base_color_texture", "normal_texture", "occlusion_texture"):
        pixels = (getattr(asset.materials[0], name).image for asset in (first, second))
        assert torch.equal(*pixels)


def test_a_print_is_one_watertight_solid_with_colours(raw):
    asset = make_asset(*raw, replace(PRESETS["3D print"], faces=4000, surface_resolution=48))
    solid = trimesh.Trimesh(asset.mesh.vertices.numpy(), asset.mesh.faces.numpy(), process=True)
    assert solid.is_watertight
    assert solid.body_count == 1
    assert solid.volume == pytest.approx(4 / 3 * torch.pi * 0.4**3, rel=0.05)
    assert asset.uv is None
    assert (asset.vertex_colors[:, :3] - (asset.mesh.vertices + 0.5)).abs().quantile(0.99) < 0.05


@pytest.mark.slow
def test_remeshing_keeps_what_is_inside(raw):
    asset = make_asset(*raw, replace(SMALL, texture_size=0, surface="remeshed", surface_resolution=64, faces=4000))
    solid = trimesh.Trimesh(asset.mesh.vertices.numpy(), asset.mesh.faces.numpy(), process=True)
    assert solid.body_count > 1
    assert solid.is_watertight


def test_without_voxels_there_are_no_textures(raw):
    asset = make_asset(raw[0], None, SMALL)
    assert asset.uv is None
    assert asset.vertex_colors is None
    assert len(asset.mesh.faces) <= 600


def test_more_faces_asked_than_there_are(raw):
    asset = make_asset(raw[0], None, replace(SMALL, faces=10**7, surface="cleaned"))
    assert len(asset.mesh.faces) >= 0.9 * len(raw[0].faces)


def tori():
    """Three rings of 576 faces, one smaller."""
    rings = [trimesh.creation.torus(r, r / 3, major_sections=24, minor_sections=12) for r in (0.1, 0.1, 0.05)]
    for ring, x in zip(rings, (-0.3, 0.0, 0.3), strict=True):
        ring.apply_translation((x, 0, 0))
    both = trimesh.util.concatenate(rings)
    return Mesh(torch.tensor(both.vertices, dtype=torch.float32), torch.tensor(both.faces))


def test_parts_left_out_are_warned_of(caplog, monkeypatch):
    """Simplification that gets nowhere stands for parts that no collapse makes fewer."""
    monkeypatch.setattr(asset_module, "simplify", lambda mesh, faces, progress: mesh)
    lines = []
    options = replace(SMALL, faces=1200)
    with caplog.at_level(logging.WARNING):
        asset = make_asset(tori(), None, options, on_warning=lines.append)
    assert len(asset.mesh.faces) == 1152
    assert len(lines) == 1
    assert lines[0].startswith("1 of 3 parts")
    assert "left out to stay within 1,200 triangles" in lines[0]
    assert lines == [record.getMessage() for record in caplog.records if record.name.endswith("asset")]
    lines.clear()
    make_asset(tori(), None, replace(SMALL, faces=5), on_warning=lines.append)
    assert len(lines) == 2
    assert "where 5 were wanted" in lines[1]
    lines.clear()
    make_asset(tori(), None, replace(SMALL, faces=2000), on_warning=lines.append)
    assert lines == []


def test_cancelling_reaches_the_caller(raw):
    class Cancelled(Exception):
        pass

    def stop(stage, part):
        if stage == "unwrap":
            raise Cancelled

    with pytest.raises(Cancelled):
        make_asset(*raw, SMALL, progress=stop)


@pytest.mark.slow
def test_bad_input(raw):
    empty = Mesh(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match="expected a surface, got none"):
        make_asset(empty, raw[1], SMALL)
    lost = Mesh(torch.full((3, 3), torch.nan), torch.tensor([[0, 1, 2]]))
    with pytest.raises(ValueError, match="finite"):
        make_asset(lost, raw[1], SMALL)
    line = Mesh(torch.zeros(3, 3), torch.tensor([[0, 1, 1]]))
    with pytest.raises(ValueError, match="expected a surface, got none"):
        make_asset(line, raw[1], SMALL)
    far = Mesh(raw[0].vertices + 10, raw[0].faces)
    with pytest.raises(ValueError, match="voxel"):
        make_asset(far, raw[1], SMALL)


@pytest.mark.slow
def test_one_triangle(raw):
    triangle = Mesh(torch.tensor([[0.4, 0, 0], [0, 0.4, 0], [0, 0, 0.4]]), torch.tensor([[0, 1, 2]]))
    asset = make_asset(triangle, raw[1], SMALL)
    assert len(asset.mesh.faces) == 1
    assert (asset.uv.amax(0) - asset.uv.amin(0)).min() > 0.1


@pytest.mark.slow
def test_ten_thousand_coincident_faces(raw):
    corners = torch.tensor([[0.4, 0, 0], [0, 0.4, 0], [0, 0, 0.4]]).repeat(10_000, 1)
    pile = Mesh(corners, torch.arange(30_000).reshape(-1, 3))
    assert len(make_asset(pile, raw[1], SMALL).mesh.faces) == 1


def test_options_are_checked():
    with pytest.raises(ValueError, match="faces: expected at least 1"):
        AssetOptions(faces=0, texture_size=1024)
    with pytest.raises(ValueError, match="texture_size"):
        AssetOptions(faces=1, texture_size=-1)
    with pytest.raises(ValueError, match="surface: expected one of"):
        AssetOptions(faces=1, texture_size=1, surface="smooth")
    for wrong in ({"occlusion_rays": 0}, {"occlusion_reach": -1.0}, {"supersample": 3}, {"alpha_mode": "CLEAR"}):
        with pytest.raises(ValueError, match=f"BakeOptions.{next(iter(wrong))}: expected"):
            AssetOptions(faces=1, texture_size=0, **wrong)


@pytest.mark.slow
def test_options_of_the_bake_reach_it(raw):
    """The outer ball's inside is never seen; a reach shorter than a texel leaves nothing to shade."""
    small = replace(SMALL, faces=200, texture_size=64, normal_map=False, occlusion_rays=16, alpha_mode="BLEND")
    dark, light = (make_asset(*raw, replace(small, occlusion_reach=reach)).materials[0] for reach in (None, 1e-6))
    assert dark.alpha_mode == light.alpha_mode == "BLEND"
    assert light.occlusion_texture.image.float().mean() > dark.occlusion_texture.image.float().mean()
    assert light.occlusion_texture.image.min() > 250
