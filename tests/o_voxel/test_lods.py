"""Levels of detail, hulls and the files that an engine gets."""

import json
import struct
from itertools import pairwise

import numpy as np
import pytest
import torch
import trimesh
from comfyui_trellis2.o_voxel.files.meshes.engine import joined, save_for_engine
from comfyui_trellis2.o_voxel.files.meshes.options import SaveOptions
from comfyui_trellis2.o_voxel.files.meshes.prepare import prepared
from comfyui_trellis2.o_voxel.files.meshes.read import load_textured_mesh
from comfyui_trellis2.o_voxel.lods import LodOptions, make_lods
from comfyui_trellis2.o_voxel.material import Material, Texture, TexturedMesh
from comfyui_trellis2.o_voxel.mesh.collision import collision_hulls
from comfyui_trellis2.o_voxel.mesh.connectivity.components import split_parts
from comfyui_trellis2.o_voxel.values import Mesh


@pytest.fixture(scope="module")
def ball(shapes):
    """A sphere of radius 0.4, textured by position: red along x, green along y."""
    mesh = shapes.sphere(3, 0.4)
    step = ((torch.arange(128) + 0.5) / 128 * 255).to(torch.uint8)
    image = torch.stack([step.expand(128, 128), step.flip(0)[:, None].expand(128, 128), torch.zeros(128, 128)], -1)
    normal = torch.tensor([128, 160, 250], dtype=torch.uint8).expand(4, 4, 3).contiguous()
    paint = Material(
        base_color_texture=Texture(image.to(torch.uint8)), metallic_factor=0.0, normal_texture=Texture(normal)
    )
    return TexturedMesh(mesh, (paint,), uv=(mesh.vertices[:, :2] + 0.5).contiguous())


@pytest.fixture(scope="module")
def levels(ball):
    return make_lods(ball, LodOptions(3, 0.4))


def test_levels_have_fewer_triangles_smaller_textures_and_the_same_colours(ball, levels):
    assert levels[0] is ball
    assert [len(level.mesh.faces) for level in levels] == [1280, 512, 204]
    assert [level.materials[0].base_color_texture.image.shape[0] for level in levels] == [128, 64, 64]
    for level in levels[1:]:
        assert level.materials[0].normal_texture is not None
        middle = level.mesh.vertices[level.mesh.faces.long()].mean(1)
        at = level.uv[level.uv_faces.long()].mean(1)
        side = level.materials[0].base_color_texture.image.shape[0]
        row, column = ((1 - at[:, 1]) * side).long(), (at[:, 0] * side).long()
        found = level.materials[0].base_color_texture.image[row, column].float() / 255
        assert (found[:, :2] - (middle[:, :2] + 0.5)).abs().mean() < 0.04


def test_a_plain_and_a_coloured_mesh_have_levels_too(shapes):
    mesh = shapes.sphere(3, 0.4)
    plain = make_lods(TexturedMesh(mesh, (Material(roughness_factor=0.2),)), LodOptions(2))
    assert (plain[1].materials[0].roughness_factor, len(plain[1].mesh.faces)) == (0.2, 640)
    colors = torch.cat([mesh.vertices + 0.5, torch.ones(len(mesh.vertices), 1)], 1)
    _, second = make_lods(TexturedMesh(mesh, vertex_colors=colors), LodOptions(2))
    assert (second.vertex_colors[:, :3] - (second.mesh.vertices + 0.5)).abs().mean() < 0.01
    for wrong in ({"levels": 0}, {"ratio": 1.0}):
        with pytest.raises(ValueError, match="expected"):
            LodOptions(**wrong)


def document(path):
    content = path.read_bytes()
    return json.loads(content[20 : 20 + struct.unpack_from("<I", content, 12)[0]])


@pytest.mark.parametrize("quantize", [False, True])
def test_one_file_holds_levels_and_hulls(levels, tmp_path, quantize):
    hulls = collision_hulls(levels[0].mesh)
    options = SaveOptions(pivot="base", quantize=quantize)
    (path,) = save_for_engine(tmp_path / "ball.glb", levels, hulls, options, one_file=True)
    found = document(path)
    assert [node["name"] for node in found["nodes"]] == ["ball_LOD0", "ball_LOD1", "ball_LOD2", "UCX_ball_00"]
    assert found["nodes"][0]["extensions"] == {"MSFT_lod": {"ids": [1, 2]}}
    assert found["nodes"][0]["extras"] == {"MSFT_screencoverage": [0.5, 0.25, 0.0]}
    assert "MSFT_lod" in found["extensionsUsed"]
    assert found["scenes"] == [{"nodes": [0, 3]}]
    scene = trimesh.load_scene(path)  # an independent reader: what the scene shows, the finest level and the hull
    assert scene.bounds[0][1] == pytest.approx(0.0, abs=1e-3)
    assert scene.bounds[1][1] == pytest.approx(0.8, abs=0.01)
    assert "material" not in found["meshes"][3]["primitives"][0]


def test_a_file_for_each_level_with_a_common_pivot(levels, tmp_path):
    raised = [
        TexturedMesh(Mesh(m.mesh.vertices + 3.0, m.mesh.faces), m.materials, uv=m.uv, uv_faces=m.uv_faces)
        for m in levels
    ]
    hulls = collision_hulls(raised[0].mesh)
    written = save_for_engine(tmp_path / "ball.glb", raised, hulls, SaveOptions(pivot="base", scale=2.0))
    assert [path.name for path in written] == ["ball_lod0.glb", "ball_lod1.glb", "ball_lod2.glb", "ball_collision.glb"]
    low = [load_textured_mesh(path).mesh.vertices.amin(0) for path in written]
    assert low[0][2] == pytest.approx(0.0, abs=1e-5)
    for first, second in pairwise(low):
        assert (first - second).abs().max() < 0.05
    assert load_textured_mesh(written[0]).mesh.vertices.amax(0)[2] == pytest.approx(1.6, abs=1e-4)
    with pytest.raises(ValueError, match=r"expected \.glb"):
        save_for_engine(tmp_path / "ball.obj", levels, one_file=True)


def test_directx_normal_maps_have_green_turned_over(ball):
    turned = prepared(ball, SaveOptions(normal_maps="directx")).materials[0].normal_texture.image
    assert turned[0, 0].tolist() == [128, 96, 250]
    assert prepared(ball, SaveOptions()) is ball


def test_pivots(shapes):
    box = TexturedMesh(shapes.box((1.0, 2.0, 3.0), (2.0, 4.0, 6.0)))
    base, middle = (prepared(box, SaveOptions(pivot=pivot)).mesh.vertices for pivot in ("base", "centre"))
    assert base.amin(0).tolist() == [-1.0, -2.0, 0.0]
    assert middle.amin(0).tolist() == [-1.0, -2.0, -3.0]


def test_a_hull_is_convex_closed_and_around_the_mesh(shapes):
    mesh = shapes.join(shapes.box(), shapes.box((3, 0, 0)))
    (hull,) = collision_hulls(mesh)
    solid = trimesh.Trimesh(hull.vertices.numpy(), hull.faces.numpy(), process=False)
    assert solid.is_watertight
    assert solid.is_convex
    assert solid.volume == pytest.approx(4.0)
    (round_hull,) = collision_hulls(shapes.sphere(4, 0.5), corners=32)
    assert len(round_hull.vertices) <= 32
    assert trimesh.Trimesh(round_hull.vertices.numpy(), round_hull.faces.numpy()).is_watertight
    (flat,) = collision_hulls(shapes.sheet(3))
    assert trimesh.Trimesh(flat.vertices.numpy(), flat.faces.numpy()).volume == pytest.approx(1e-3, rel=1e-3)


def test_hulls_that_cannot_be_made_are_refused(shapes):
    line = Mesh(torch.tensor([[0.0, 0, 0], [1, 0, 0], [2, 0, 0]]), torch.tensor([[0, 1, 2]]))
    with pytest.raises(ValueError, match="points on one line"):
        collision_hulls(line)
    with pytest.raises(ValueError, match="expected faces"):
        collision_hulls(Mesh(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.int64)))
    for wrong in ({"hulls": 0}, {"concavity": 0.0}, {"corners": 3}):
        with pytest.raises(ValueError, match="expected"):
            collision_hulls(shapes.box(), **wrong)


def test_several_hulls_follow_the_shape(shapes):
    pytest.importorskip("coacd")
    cross = joined((shapes.box((0, 0, 0), (3, 1, 1)), shapes.box((0, 0, 0), (1, 1, 3))))
    hulls = collision_hulls(cross, 8, concavity=0.05)
    solids = [trimesh.Trimesh(hull.vertices.numpy(), hull.faces.numpy()) for hull in hulls]
    assert all(solid.is_convex for solid in solids)
    assert np.sum([solid.volume for solid in solids]) < 0.75 * trimesh.convex.convex_hull(cross.vertices.numpy()).volume
    assert len(split_parts(joined(hulls))) == len(hulls)
