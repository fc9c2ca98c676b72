"""The picture of a UV layout: planted faults are where they were planted."""

import pytest
import torch
from comfyui_trellis2.o_voxel.material import Material, TexturedMesh
from comfyui_trellis2.o_voxel.render.uv_atlas import OUTSIDE, PAPER, atlas_lines, draw_uv_atlas
from comfyui_trellis2.o_voxel.values import Mesh

SIZE = 128


def layout(*squares, flipped=False, ids=None) -> TexturedMesh:
    """Unit squares in a row, each with a (low corner, side) in UV space."""
    unit = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    faces = torch.tensor([[0, 1, 2], [0, 2, 3]])
    points = [torch.cat((unit + torch.tensor([2.0 * n, 0]), torch.zeros(4, 1)), 1) for n in range(len(squares))]
    uv = torch.cat([unit * side + torch.tensor(low) for low, side in squares])
    uv = 1 - uv[:, [1, 0]] if flipped else uv
    rows = torch.cat([faces + 4 * n for n in range(len(squares))])
    materials = (Material(),) if ids is None else tuple(Material() for _ in set(ids))
    owner = None if ids is None else torch.tensor(ids).repeat_interleave(2)
    return TexturedMesh(Mesh(torch.cat(points), rows), materials, owner, uv.contiguous())


def at(image, u, v):
    return image[int((1 - v) * SIZE), int(u * SIZE)]


def red(color) -> bool:
    return float(color[0]) > 0.7 and float(color[1:].amax()) < 0.35


def test_a_planted_overlap_is_red_where_it_is():
    image, report = draw_uv_atlas(layout(((0.25, 0.25), 0.25), ((0.375, 0.375), 0.25)), SIZE)
    assert image.shape == (SIZE, SIZE, 3) and image.dtype == torch.float32
    assert report.overlapping_texels == 16 * 16 and report.charts == 2
    assert red(at(image, 0.46, 0.41))
    assert not red(at(image, 0.3, 0.32)) and not red(at(image, 0.57, 0.55))
    marked = sum(red(color) for color in image.view(-1, 3))
    assert 10 * 16 < marked <= 16 * 16  # edges are drawn over it
    assert "256 overlapping texels" in "\n".join(atlas_lines(report))


def test_charts_have_distinct_soft_colours_on_paper():
    image, report = draw_uv_atlas(layout(((0.1, 0.1), 0.25), ((0.6, 0.6), 0.25)), SIZE)
    first, second, paper = at(image, 0.25, 0.2), at(image, 0.75, 0.7), at(image, 0.55, 0.3)
    assert float((first - second).abs().amax()) > 0.1
    assert float(first.amin()) > 0.65 and float(second.amin()) > 0.65
    torch.testing.assert_close(paper, torch.tensor(PAPER))
    assert report.overlapping_texels == report.flipped == report.outside == 0
    edge = at(image, 0.225, 0.105)
    assert float(edge.amax()) < 0.6


def test_stretch_is_a_tint():
    """Equal squares of the surface: the one with fewer texels turns orange, the other blue."""
    image, _ = draw_uv_atlas(layout(((0.1, 0.1), 0.1), ((0.4, 0.4), 0.5)), SIZE)
    sparse, dense = at(image, 0.16, 0.13), at(image, 0.7, 0.5)
    assert float(sparse[0] - sparse[2]) > 0.3
    assert float(dense[2] - dense[0]) > 0.1


def test_outside_is_darker_and_shown():
    image, report = draw_uv_atlas(layout(((0.8, 0.4), 0.3)), SIZE)
    assert report.outside == 2
    torch.testing.assert_close(image[2, 2], torch.tensor(OUTSIDE))
    beyond = image[SIZE // 2, int((1.06 + 1 / 8) / 1.25 * SIZE)]
    assert not torch.equal(beyond, torch.tensor(OUTSIDE))


def test_flipped_faces_are_hatched():
    straight, _ = draw_uv_atlas(layout(((0.2, 0.2), 0.5)), SIZE)
    mirrored, report = draw_uv_atlas(layout(((0.2, 0.2), 0.5), flipped=True), SIZE)
    assert report.flipped == 2
    dark = [(image.amax(-1) < 0.5).float().mean() for image in (straight, mirrored)]
    assert float(dark[1]) > float(dark[0]) + 0.03


def test_a_material_has_its_own_layout():
    """Two materials may use the same place of their textures."""
    mesh = layout(((0.2, 0.2), 0.5), ((0.2, 0.2), 0.25), ids=[0, 1])
    reports = [draw_uv_atlas(mesh, SIZE, material)[1] for material in (0, 1)]
    assert [report.faces for report in reports] == [2, 2]
    assert [report.overlapping_texels for report in reports] == [0, 0]
    assert reports[0].covered == pytest.approx(0.25, abs=0.01)


def test_what_cannot_be_drawn_is_refused():
    mesh = layout(((0.2, 0.2), 0.5))
    with pytest.raises(ValueError, match="UV coordinates"):
        draw_uv_atlas(TexturedMesh(mesh.mesh), SIZE)
    with pytest.raises(ValueError, match="material: expected 0 to 0, got 1"):
        draw_uv_atlas(mesh, SIZE, 1)
    with pytest.raises(ValueError, match="no face uses"):
        draw_uv_atlas(TexturedMesh(mesh.mesh, (Material(), Material()), uv=mesh.uv), SIZE, 1)
    with pytest.raises(ValueError, match="size"):
        draw_uv_atlas(mesh, 8)
