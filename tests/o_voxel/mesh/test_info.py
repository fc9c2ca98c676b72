"""Figures of meshes with known shape, and what they are worth as text."""

import pytest
import torch
from comfyui_trellis2.o_voxel.material import Material, Texture, TexturedMesh
from comfyui_trellis2.o_voxel.mesh.info import mesh_info
from comfyui_trellis2.o_voxel.values import Mesh

from ..shapes import box, fan, sheet, stack, without


def soup(whole: Mesh) -> Mesh:
    """The same triangles without a shared vertex."""
    faces = whole.faces.long()
    return Mesh(whole.vertices[faces].view(-1, 3), torch.arange(faces.numel()).view(-1, 3))


def test_a_cube():
    info = mesh_info(box(size=(1, 2, 3)))
    assert (info.vertices, info.triangles, info.parts) == (8, 12, 1)
    assert (info.open_edges, info.nonmanifold_edges, info.watertight, info.oriented) == (0, 0, True, True)
    assert info.size == pytest.approx((1, 2, 3)) and info.area == pytest.approx(22) and info.volume == pytest.approx(6)
    assert (info.materials, info.textures, info.charts) == (0, (), None)
    text = "\n".join(info.lines())
    assert "12 triangles, 8 vertices, 1 part" in text and "1 × 2 × 3 m" in text and "volume 6 m³" in text
    assert "\nwatertight, oriented alike" in text


def test_seams_open_nothing():
    whole, loose = mesh_info(box()), mesh_info(soup(box()))
    assert loose.vertices == 36
    assert (loose.parts, loose.open_edges, loose.watertight, loose.volume) == (1, 0, True, whole.volume)


def test_an_open_box():
    info = mesh_info(without(box(), [0, 1]))
    assert info.triangles == 10 and info.open_edges in (4, 6)  # one side, or two triangles of different sides
    assert not info.watertight and info.volume is None
    assert "not watertight" in "\n".join(info.lines())


def test_turned_triangles_and_an_inside_out_cube():
    cube = box()
    inward = mesh_info(Mesh(cube.vertices, cube.faces[:, [0, 2, 1]]))
    assert inward.volume == pytest.approx(-1) and "inside out" in "\n".join(inward.lines())
    faces = cube.faces.clone()
    faces[3] = faces[3][[0, 2, 1]]
    mixed = mesh_info(Mesh(cube.vertices, faces))
    assert mixed.watertight and not mixed.oriented and mixed.volume is None


def test_a_fin_is_not_manifold():
    info = mesh_info(fan([0, 90, 200]))
    assert (info.triangles, info.nonmanifold_edges, info.open_edges) == (3, 1, 6)
    assert not info.watertight


def test_two_cubes_are_two_parts():
    info = mesh_info(stack(box(), box(offset=(3, 0, 0))))
    assert (info.parts, info.watertight) == (2, True) and info.volume == pytest.approx(2)
    assert info.size == pytest.approx((4, 1, 1))


def test_degenerate_triangles_are_counted_and_join_nothing():
    cube = box()
    info = mesh_info(Mesh(cube.vertices, torch.cat((cube.faces, cube.faces.new_tensor([[0, 0, 1]])))))
    assert (info.degenerate, info.triangles, info.watertight) == (1, 13, True)


def test_nothing_is_not_watertight():
    info = mesh_info(Mesh(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.int32)))
    assert (info.triangles, info.parts, info.watertight, info.size) == (0, 0, False, (0.0, 0.0, 0.0))


def test_textures_and_charts():
    flat = sheet(1)
    uv = flat.vertices[:, :2].contiguous()
    paint = Material(base_color_texture=Texture(torch.zeros(4, 8, 3, dtype=torch.uint8)))
    info = mesh_info(TexturedMesh(flat, (paint, Material()), uv=uv))
    assert (info.materials, info.charts, info.textures) == (2, 1, ((0, "base color", 8, 4),))
    assert "material 0, base color: 8 × 4" in info.lines()


def test_names_of_objects_and_materials():
    flat = sheet(1)
    paints = (Material(name="Lack\n"), Material(name=""))
    ids = torch.tensor([0, 1])
    info = mesh_info(TexturedMesh(flat, paints, ids, part_ids=ids, part_names=("Tür", "\x1b[31mWand")))
    assert (info.part_names, info.material_names) == (("Tür", "\x1b[31mWand"), ("Lack\n", ""))
    assert "2 objects: Tür, \ufffd[31mWand" in info.lines() and "materials: Lack " in info.lines()
    many = mesh_info(TexturedMesh(flat, part_ids=ids, part_names=tuple(f"n{k}" for k in range(90))))
    assert any(line.endswith("n19 and 70 more") for line in many.lines())
    assert not any("object" in line for line in mesh_info(TexturedMesh(flat)).lines())


def test_charts_do_not_end_where_a_file_splits_its_vertices():
    flat = sheet(2)
    alone = flat.vertices[flat.faces.long()].view(-1, 3)
    split = Mesh(alone, torch.arange(len(alone), dtype=torch.int32).view(-1, 3))
    assert mesh_info(TexturedMesh(split, (Material(),), uv=alone[:, :2].contiguous())).charts == 1
    half = alone.view(-1, 3, 3).mean(1)[:, 0] > 0.5
    moved = alone[:, :2] + half.repeat_interleave(3)[:, None]
    assert mesh_info(TexturedMesh(split, (Material(),), uv=moved.contiguous())).charts == 2


def test_a_broken_mesh_is_refused():
    with pytest.raises(ValueError, match="finite"):
        mesh_info(Mesh(torch.full((3, 3), torch.nan), torch.tensor([[0, 1, 2]])))
