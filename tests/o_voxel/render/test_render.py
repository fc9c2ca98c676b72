"""The renderer against spheres, boxes and furnaces in closed form, and its promises: two-sided, steady, refusing."""

from dataclasses import replace
from math import asin, pi, sqrt, tan

import numpy as np
import pytest
import torch
from comfyui_trellis2.o_voxel.core.color import to_linear, to_srgb
from comfyui_trellis2.o_voxel.core.grid import Grid
from comfyui_trellis2.o_voxel.material import Material, Texture, TexturedMesh
from comfyui_trellis2.o_voxel.render import (
    Camera,
    SoftBox,
    StudioLight,
    Style,
    contact_sheet,
    mesh_scene,
    render_mesh,
    render_turntable,
    save_png,
    textured_scene,
    voxel_scene,
)
from comfyui_trellis2.o_voxel.render.camera import Bounds
from comfyui_trellis2.o_voxel.render.draw import draw
from comfyui_trellis2.o_voxel.render.ground import ground_shadow
from comfyui_trellis2.o_voxel.render.light import irradiance, radiance
from comfyui_trellis2.o_voxel.render.shade import shade_pbr, tone_map
from comfyui_trellis2.o_voxel.values import Mesh, VoxelField

PLAIN = Style(background=(0.0, 0.0, 0.0), occlusion=False, ground=False)
SIDES = [(yaw, 0.0) for yaw in (0.0, 90.0, 180.0, 270.0)] + [(0.0, 90.0), (0.0, -90.0)]
EVEN = StudioLight(*[SoftBox(0, 0, 0.1, 0.1, (1, 1, 1), 0.0)] * 3, (1.0,) * 3, (1.0,) * 3, (1.0,) * 3)


def sphere(radius=0.4, center=(0.0, 0.0, 0.0), rings=64) -> Mesh:
    """Vertices on the sphere, so that it lies at most 1 - cos(pi / rings) inside it."""
    turn, rise = torch.meshgrid(
        torch.arange(2 * rings) * pi / rings, torch.arange(rings + 1) * pi / rings, indexing="ij"
    )
    points = torch.stack((turn.cos() * rise.sin(), turn.sin() * rise.sin(), -rise.cos()), dim=-1)
    cell = torch.arange(2 * rings * rings)
    a = cell // rings * (rings + 1) + cell % rings
    b = (cell // rings + 1) % (2 * rings) * (rings + 1) + cell % rings
    faces = torch.cat((torch.stack((a, b, b + 1), 1), torch.stack((a, b + 1, a + 1), 1)))
    return Mesh((points.reshape(-1, 3) * radius + torch.tensor(center)).float(), faces.to(torch.int32))


def box(low=(-0.5, -0.5, -0.5), high=(0.5, 0.5, 0.5)) -> Mesh:
    corner = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 3)
    quads = torch.tensor([[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]])
    low, high = torch.tensor(low), torch.tensor(high)
    return Mesh(low + corner * (high - low), quads[:, [0, 1, 2, 0, 2, 3]].reshape(-1, 3))


def field(coords, attrs=None, resolution=8) -> VoxelField:
    coords = torch.as_tensor(coords, dtype=torch.int32).view(-1, 3)
    return VoxelField(coords, torch.zeros(len(coords), 0) if attrs is None else attrs, Grid.cube(resolution))


def draw_voxels(voxels, camera=Camera(), size=(16, 16), style=Style()):
    return draw(voxel_scene(voxels), camera, size, StudioLight(), style)


def directions(count):
    """[3, count] unit vectors spread evenly over the sphere."""
    index = torch.arange(count, dtype=torch.float64) + 0.5
    z, turn = 1 - 2 * index / count, index * pi * (1 + sqrt(5))
    return torch.stack((turn.cos() * (1 - z * z).sqrt(), turn.sin() * (1 - z * z).sqrt(), z))


def every(rendering):
    return rendering.color, rendering.alpha, rendering.normal, rendering.depth


@pytest.mark.slow
@pytest.mark.parametrize("orthographic", [False, True], ids=["perspective", "orthographic"])
@pytest.mark.parametrize("size", [(160, 160), (100, 175)], ids=str)
def test_a_sphere_in_closed_form(orthographic, size):
    radius, distance = 0.4, 2.0
    camera = Camera(yaw_deg=40, pitch_deg=25, distance=distance, fov_deg=30, orthographic=orthographic)
    picture = render_mesh(sphere(radius), camera, size, style=PLAIN)
    half = tan(pi / 12)
    outline = radius / distance / half if orthographic else tan(asin(radius / distance)) / half
    wanted = pi * outline**2 * min(size) ** 2 / 4
    assert abs(float(picture.alpha.sum()) / wanted - 1) < 0.004

    inner = picture.alpha == 1
    y, x = ((torch.arange(n) * 2 + 1 - n) / min(size) for n in size)
    tangent = torch.stack((x.expand(size), -y[:, None].expand(size)), -1).double() * half
    if orthographic:
        distance_wanted = distance - (radius**2 - (tangent * distance).square().sum(-1)).clamp(min=0).sqrt()
    else:
        length2 = 1 + tangent.square().sum(-1)
        distance_wanted = (distance - (distance**2 - length2 * (distance**2 - radius**2)).clamp(min=0).sqrt()) / length2
    middle = inner & ((picture.normal * torch.tensor(camera.view(BOUNDS, size).back)).sum(-1) > 0.3)
    assert middle.sum() > 0.7 * inner.sum()
    # The nearest of four samples is up to a pixel nearer than the pixel's centre.
    assert float((picture.depth - distance_wanted)[middle].abs().max()) < 0.02
    assert float((picture.depth - distance_wanted)[middle].abs().median()) < 0.003
    assert picture.depth[picture.alpha == 0].isposinf().all()

    view = camera.view(BOUNDS, size)
    axes = torch.tensor([view.right, view.up, view.back], dtype=torch.float64)
    scale = distance if orthographic else distance_wanted[..., None]
    eye = torch.cat((tangent * scale, (distance - distance_wanted)[..., None]), dim=-1)
    agree = (picture.normal * (eye @ axes / radius)).sum(-1)[middle]
    assert float(agree.min()) > np.cos(np.radians(2.5))
    torch.testing.assert_close(picture.normal[inner].norm(dim=-1), torch.ones(int(inner.sum())))


BOUNDS = Bounds((0.0, 0.0, 0.0), 0.4, 0.4)


@pytest.mark.slow
def test_winding_does_not_matter():
    mesh, camera = sphere(rings=24), Camera()
    flip = torch.rand(len(mesh.faces), generator=torch.Generator().manual_seed(0)) < 0.5
    mixed = Mesh(mesh.vertices, torch.where(flip[:, None], mesh.faces.flip(1), mesh.faces))
    for style in (Style(), Style(smooth=False)):
        for one, other in zip(
            every(render_mesh(mesh, camera, (64, 64), style=style)),
            every(render_mesh(mixed, camera, (64, 64), style=style)),
            strict=True,
        ):
            torch.testing.assert_close(one, other, atol=2e-4, rtol=0)


def test_normals_face_the_eye_on_both_sides_of_a_sheet():
    sheet = Mesh(torch.tensor([[-1.0, 0, -1], [1, 0, -1], [1, 0, 1], [-1, 0, 1]]), torch.tensor([[0, 1, 2], [0, 2, 3]]))
    for yaw, y in ((0, -1.0), (180, 1.0)):
        picture = render_mesh(sheet, Camera(yaw, 0, 10, target=(0, 0, 0)), (9, 9), style=PLAIN)
        torch.testing.assert_close(picture.normal[4, 4], torch.tensor([0, y, 0]))
    front, back = (render_mesh(sheet, Camera(yaw, 0), (9, 9)).color for yaw in (0, 180))
    torch.testing.assert_close(front, back, atol=1e-4, rtol=0)


@pytest.mark.slow
def test_smooth_shading_keeps_the_creases_of_a_box_and_rounds_a_sphere():
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0)))[0]
    for mesh, axes in (
        (box(), torch.eye(3)),
        (box((-0.5, -0.2, -0.3)), torch.eye(3)),
        (Mesh(box().vertices @ turn.T, box().faces), turn),
    ):
        normal = render_mesh(mesh, Camera(30, 20), (80, 80), style=replace(PLAIN, supersample=1)).normal
        seen = normal[normal.norm(dim=-1) > 0]
        assert len(seen) > 500
        torch.testing.assert_close((seen @ axes).abs().amax(dim=-1), torch.ones(len(seen)))
    coarse = sphere(rings=12)
    smooth, flat = (
        render_mesh(coarse, Camera(), (80, 80), style=replace(PLAIN, smooth=s, supersample=1)).normal
        for s in (True, False)
    )
    assert len(flat.view(-1, 3).unique(dim=0)) < len(coarse.faces) < len(smooth.view(-1, 3).unique(dim=0))


@pytest.mark.slow
def test_the_axes_of_the_views():
    """Front looks along +y with +x to the right and +z up; yaw goes round to +x; the top view has +y up."""

    def spot(point, yaw, pitch):
        mesh = box(*((tuple(p + s for p in point)) for s in (-0.05, 0.05)))
        alpha = render_mesh(mesh, Camera(yaw, pitch, 5, target=(0, 0, 0)), (40, 40), style=PLAIN).alpha
        row, column = (alpha.nonzero().double().mean(0) - 19.5).tolist()
        return (column > 3) - (column < -3), (row < -3) - (row > 3)

    x, y, z = (1.0, 0, 0), (0, 1.0, 0), (0, 0, 1.0)
    assert [spot(p, 0, 0) for p in (x, y, z)] == [(1, 0), (0, 0), (0, 1)]
    assert [spot(p, 90, 0) for p in (x, y, z)] == [(0, 0), (1, 0), (0, 1)]
    assert [spot(p, 180, 0) for p in (x, y, z)] == [(-1, 0), (0, 0), (0, 1)]
    assert [spot(p, 0, 90) for p in (x, y, z)] == [(1, 0), (0, 1), (0, 0)]
    assert [spot(p, 0, -90) for p in (x, y, z)] == [(1, 0), (0, -1), (0, 0)]


@pytest.mark.slow
@pytest.mark.parametrize("orthographic", [False, True])
@pytest.mark.parametrize("size", [(50, 50), (40, 90), (90, 40)], ids=str)
def test_the_fitted_camera_holds_the_subject_closely(orthographic, size):
    points = torch.randn(200, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 0.3, 2.0]) + 5
    bounds, largest = Bounds.around(points), 0.0
    for yaw in range(0, 360, 15):
        for pitch in (-90, -30, 0, 20, 90):
            clip = Camera(yaw, pitch, orthographic=orthographic).view(bounds, size).to_clip(points)
            ndc = clip[:, :3] / clip[:, 3:]
            assert float(ndc.abs().max()) <= 1
            largest = max(largest, float(ndc[:, :2].abs().max()))
    assert largest > 0.8


@pytest.mark.parametrize("orthographic", [False, True])
def test_the_matrices_are_the_view(orthographic):
    points = torch.randn(20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 0.3
    view = Camera(37, 55, orthographic=orthographic).view(Bounds((0.1, 0.2, 0.3), 0.5, 0.6), (20, 30))
    to_eye, to_clip = view.matrices()
    homogeneous = torch.cat((points, torch.ones(20, 1, dtype=torch.float64)), dim=1)
    torch.testing.assert_close(view.to_clip(points), homogeneous @ (to_clip @ to_eye).T)
    torch.testing.assert_close(torch.linalg.det(to_eye), torch.ones((), dtype=torch.float64))
    assert torch.allclose(view.to_eye(points.T)[2], -(homogeneous @ to_eye.T)[:, 2])


def test_a_white_furnace_loses_and_makes_no_light():
    """In an even white room, a white metal or white paper has the room's colour, whatever its roughness."""
    away = directions(200).float()
    towards_eye = torch.nn.functional.normalize(away + 0.6 * directions(200).float().roll(50, 1), dim=0)
    towards_eye = torch.where((away * towards_eye).sum(0) < 0, -towards_eye, towards_eye)
    ones = torch.ones_like(away)
    torch.testing.assert_close(irradiance(EVEN, 0, away), ones)
    for roughness in (0.0, 0.3, 1.0):
        rough = torch.full((200,), roughness)
        torch.testing.assert_close(radiance(EVEN, 0, away, rough), ones)
        for metallic in (0.0, 0.5, 1.0):
            shaded = shade_pbr(EVEN, 0, away, towards_eye, ones, torch.stack((rough * 0 + metallic, rough)))
            torch.testing.assert_close(shaded, ones, atol=0.02, rtol=0)
    black = shade_pbr(EVEN, 0, away, away, 0 * ones, torch.stack((rough * 0, rough * 0)))
    torch.testing.assert_close(black, torch.full_like(black, 0.04), atol=0.01, rtol=0)


@pytest.mark.parametrize("roughness", [0.0, 0.3])
def test_a_soft_box_keeps_its_energy_and_place(roughness):
    lamp = SoftBox(30, 20, 0.3, 0.2, (1.0, 0.5, 0.25), 4.0)
    light = StudioLight(lamp, *[replace(lamp, intensity=0.0)] * 2, (0.0,) * 3, (0.0,) * 3, (0.0,) * 3)
    around = directions(200_000)
    seen = radiance(light, 10, around, torch.full((around.shape[1],), roughness, dtype=torch.float64))
    flux = seen.mean(dim=1) * 4 * pi
    wanted = lamp.intensity * lamp.solid_angle * torch.tensor(lamp.color, dtype=torch.float64)
    torch.testing.assert_close(flux, wanted, rtol=0.06, atol=0)
    brightest = around[:, seen[0] > 0.9 * seen[0].max()].mean(dim=1)
    assert (
        float(torch.nn.functional.normalize(brightest, dim=0) @ torch.tensor(lamp.axes(10)[0], dtype=torch.float64))
        > 0.999
    )


def test_colour_curves():
    shades = torch.linspace(0, 1, 101)
    torch.testing.assert_close(to_srgb(to_linear(shades)), shades)
    assert abs(float(to_srgb(torch.tensor(0.5))) - 0.735357) < 1e-5
    light = torch.linspace(0, 50, 5001)
    mapped = tone_map(light.expand(3, -1))
    assert (mapped.diff(dim=1) >= 0).all()
    assert float(mapped.max()) <= 1
    # Between its toe and its shoulder the curve takes off the 4 percent that a dielectric mirrors, nothing else.
    torch.testing.assert_close(mapped[0, 10:80], light[10:80] - 0.04)


def test_backgrounds():
    mesh, size = sphere(0.2), (40, 60)
    camera = Camera(0, 0, distance=3)
    empty = render_mesh(mesh, camera, size, style=Style(background=None))
    assert set(empty.alpha.unique().tolist()) <= {0, 0.25, 0.5, 0.75, 1}
    assert (empty.color[empty.alpha == 0] == 0).all()
    plain = render_mesh(mesh, camera, size, style=Style(background=(0.2, 0.4, 0.6), ground=False))
    outside = plain.color[plain.alpha == 0]
    torch.testing.assert_close(outside, torch.tensor([0.2, 0.4, 0.6]).expand_as(outside))
    # Straight alpha: put over the colour, the transparent picture is the other one.
    over = to_linear(empty.color) * empty.alpha[..., None] + to_linear(torch.tensor([0.2, 0.4, 0.6])) * (
        1 - empty.alpha[..., None]
    )
    torch.testing.assert_close(to_srgb(over), plain.color, atol=1e-4, rtol=0)
    studio = render_mesh(mesh, camera, size, style=Style(ground=False)).color
    assert (studio[0, 5] > studio[-1, 5]).all()


def test_materials_reach_the_picture():
    mesh, size, camera = sphere(rings=24), (48, 48), Camera(0, 0)
    count = len(mesh.vertices)

    def middle(**given):
        picture = render_mesh(mesh, camera, size, style=PLAIN, **given)
        return picture.color[20:28, 20:28].mean((0, 1)), picture.alpha[24, 24]

    red, _ = middle(colors=torch.tensor([0.8, 0.1, 0.1]).expand(count, 3))
    assert red[0] > 3 * red[1]
    plastic = torch.tensor([0.8, 0.1, 0.1, 0.0, 0.5, 1.0]).expand(count, 6)
    torch.testing.assert_close(middle(material=plastic)[0], red)
    torch.testing.assert_close(middle(material=plastic.half())[0], red, atol=2e-3, rtol=0)
    metal, opacity = middle(material=torch.tensor([0.8, 0.1, 0.1, 1.0, 0.5, 0.5]).expand(count, 6))
    assert float(opacity) == 0.5
    assert not torch.allclose(metal, red, atol=0.02)
    halves = torch.where(mesh.vertices[:, :1] < 0, torch.tensor([0.0, 1, 0]), torch.tensor([0.0, 0, 1]))
    color = render_mesh(mesh, camera, size, colors=halves, style=PLAIN).color
    assert color[24, 16, 1] > 2 * color[24, 16, 2]
    assert color[24, 32, 2] > 2 * color[24, 32, 1]


@pytest.mark.slow
@pytest.mark.parametrize(("yaw", "pitch"), SIDES)
def test_one_voxel_is_a_cube(yaw, pitch):
    picture = draw_voxels(field([[1, 2, 3]]), Camera(yaw, pitch, 1.0, 60, orthographic=True), (64, 64), style=PLAIN)
    width = 2 * tan(pi / 6)
    assert abs(float(picture.alpha.mean()) - (1 / 8 / width) ** 2) < 1e-3
    assert abs(float(picture.depth.min()) - (1 - 1 / 16)) < 1e-5
    seen = picture.normal[picture.alpha == 1]
    torch.testing.assert_close(seen.abs().amax(dim=-1), torch.ones(len(seen)))


def test_voxels_show_only_their_outside():
    block = torch.cartesian_prod(*[torch.arange(3)] * 3)
    scene = voxel_scene(field(block))
    assert len(scene.faces) == 2 * 6 * 9
    assert 13 not in scene.owner  # the middle one
    torch.testing.assert_close(scene.vertices.amin(0), torch.full((3,), -0.5))
    torch.testing.assert_close(scene.vertices.amax(0), torch.full((3,), -0.125))
    a, b, c = scene.vertices[scene.faces.long()].unbind(1)
    normal = torch.linalg.cross(b - a, c - a)
    middle = torch.full((3,), -0.3125)
    assert ((normal * ((a + b + c) / 3 - middle)).sum(1) > 0).all()
    apart = voxel_scene(field(block), cube=0.5)
    assert len(apart.faces) == 27 * 12
    torch.testing.assert_close(apart.vertices.amin(0), torch.full((3,), -0.5 + 0.25 / 8))


def test_voxels_have_their_own_colours():
    attrs = torch.tensor([[0.9, 0.1, 0.1], [0.1, 0.9, 0.1]])
    camera = Camera(0, 0, 0.7, 30, target=(0, 0, 0), orthographic=True)
    color = draw_voxels(field([[3, 4, 4], [4, 4, 4]], attrs), camera, (32, 32), style=PLAIN).color
    assert color[8, 8, 0] > 2 * color[8, 8, 1]
    assert color[8, 24, 1] > 2 * color[8, 24, 0]
    pbr = torch.cat((attrs, torch.tensor([[0.0, 0.5, 1.0]]).expand(2, 3)), dim=1)
    same = draw_voxels(field([[3, 4, 4], [4, 4, 4]], pbr), camera, (32, 32), style=PLAIN).color
    assert torch.equal(same, color)


@pytest.mark.slow
def test_corners_are_darker_than_open_ground():
    floor = box((-1, -1, -0.1), (1, 1, 0))
    wall = box((-1, 0, -0.1), (1, 0.1, 1))
    camera = Camera(0, 40, 4, 30, target=(0, 0, 0))
    both = Mesh(torch.cat((floor.vertices, wall.vertices)), torch.cat((floor.faces, wall.faces + 8)))
    on, off = (render_mesh(both, camera, (96, 96), style=replace(PLAIN, occlusion=o)).color for o in (True, False))
    share = (on / off.clamp(min=1e-3))[..., 1]
    assert float(share[46:52, 48].min()) < 0.92  # at the wall's foot
    assert float(share[70, 48]) > 0.98
    assert float(share.max()) <= 1.0001


@pytest.mark.slow
def test_the_shadow_on_the_ground():
    resting = sphere(0.3, (0, 0, 0.3))
    shadow = ground_shadow(resting.vertices, resting.faces, Bounds.around(resting.vertices))
    assert 0 <= float(shadow.min()) <= float(shadow.max()) < 1
    assert float(shadow[128, 128]) > 0.5
    assert float(shadow[0].max()) < 0.01
    assert float((shadow - shadow.flip(0)).abs().max()) < 0.02
    style = Style(occlusion=False)
    above, below = (
        [render_mesh(resting, Camera(0, pitch), (64, 64), style=replace(style, ground=g)) for g in (True, False)]
        for pitch in (30, -30)
    )
    darker = (above[1].color - above[0].color).amax(-1)
    assert float(darker.max()) > 0.1
    assert (darker[above[0].alpha == 1] == 0).all()
    assert torch.equal(below[0].color, below[1].color)


def test_the_shadow_lies_under_what_throws_it():
    """A box on the ground at +y and one high above it at -y: seen from above, the first darkens the ground more."""
    low, high = box((-0.2, 0.6, 0), (0.2, 1, 0.4)), box((-0.2, -1, 3), (0.2, -0.6, 3.4))
    both = Mesh(torch.cat((low.vertices, high.vertices)), torch.cat((low.faces, high.faces + 8)))
    style, camera = replace(PLAIN, background=(0.8, 0.8, 0.8)), Camera(0, 90, orthographic=True)
    dark, plain = (render_mesh(both, camera, (64, 64), style=replace(style, ground=g)).color for g in (True, False))
    lost = (plain - dark).sum(-1)
    assert float(lost[:32].sum()) > 2 * float(lost[32:].sum())


def test_nothing_to_draw_gives_the_paper():
    nothing = Mesh(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.int32))
    for picture in (
        render_mesh(nothing, size=(16, 24)),
        render_mesh(Mesh(torch.rand(3, 3, generator=torch.Generator().manual_seed(0)), nothing.faces), size=(16, 24)),
        draw_voxels(field(torch.zeros(0, 3)), size=(16, 24)),
    ):
        assert (picture.alpha == 0).all()
        assert picture.depth.isposinf().all()
        assert (picture.normal == 0).all()
        assert picture.color.shape == (16, 24, 3)
        assert float(picture.color.min()) > 0.5


def test_a_lone_triangle_and_a_degenerate_one():
    vertices = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 0, 1]])
    picture = render_mesh(Mesh(vertices, torch.tensor([[0, 1, 2], [0, 0, 1]])), Camera(0, 0), (33, 33))
    assert 0.1 < float(picture.alpha.mean()) < 0.5
    for part in (picture.color, picture.alpha, picture.normal):
        assert part.isfinite().all()
    point = Mesh(torch.zeros(3, 3), torch.tensor([[0, 1, 2]]))
    assert (render_mesh(point, size=(9, 9)).alpha == 0).all()


@pytest.mark.slow
def test_the_same_input_gives_the_same_bytes_and_stays():
    mesh = sphere(rings=16)
    colors = torch.rand(len(mesh.vertices), 3, generator=torch.Generator().manual_seed(0))
    kept = [part.clone() for part in (mesh.vertices, mesh.faces, colors)]
    one, other = (render_mesh(mesh, Camera(), (40, 40), colors=colors) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(every(one), every(other), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(kept, (mesh.vertices, mesh.faces, colors), strict=True))
    reference = render_mesh(mesh, Camera(), (40, 40), colors=colors, style=Style(backend="reference"))
    assert all(torch.equal(a, b) for a, b in zip(every(one), every(reference), strict=True))


@pytest.mark.slow
def test_inference_mode_and_gradients_change_nothing():
    mesh = sphere(rings=12)
    wanted = every(render_mesh(mesh, size=(32, 32)))
    with torch.inference_mode():
        inferred = every(render_mesh(Mesh(mesh.vertices.clone(), mesh.faces.clone()), size=(32, 32)))
    learning = every(render_mesh(Mesh(mesh.vertices.clone().requires_grad_(), mesh.faces), size=(32, 32)))
    for parts in (inferred, learning):
        assert all(torch.equal(a, b) for a, b in zip(wanted, parts, strict=True))
        assert not any(part.requires_grad for part in parts)


def test_a_turntable_turns():
    mesh, calls = box((-0.5, -0.2, 0), (0.5, 0.2, 0.3)), []
    frames = render_turntable(
        mesh, 4, Camera(10, 20), (24, 32), progress=lambda done, total: calls.append((done, total))
    )
    assert frames.shape == (4, 24, 32, 3)
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert torch.equal(frames[1], render_mesh(mesh, Camera(100, 20), (24, 32)).color)
    torch.testing.assert_close(frames[0], frames[2], atol=0.02, rtol=0)  # the box and its light are alike from behind
    assert float((frames[0] - frames[1]).abs().max()) > 0.1


@pytest.mark.slow
def test_a_contact_sheet():
    scene = mesh_scene(sphere(rings=16))
    sheet = contact_sheet(scene, 32)
    assert sheet.shape == (96, 128, 3)
    assert (sheet.min() >= 0) & (sheet.max() <= 1)
    front = sheet[48, 16]  # the normal -y
    torch.testing.assert_close(front, torch.tensor([0.5, 0.0, 0.5]), atol=0.06, rtol=0)
    torch.testing.assert_close(sheet[48, 112], torch.tensor([0.5, 0.5, 1.0]), atol=0.06, rtol=0)
    assert contact_sheet(field([[0, 0, 0]]), 16, layers=["depth"]).shape == (16, 64, 3)
    with pytest.raises(ValueError, match="layers: expected some of"):
        contact_sheet(scene, 16, layers=["colour"])


def test_png_files(tmp_path):
    from PIL import Image

    generator = torch.Generator().manual_seed(0)
    for shape in ((5, 7), (5, 7, 1), (5, 7, 3), (5, 7, 4)):
        exact = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
        for image in (exact, exact.float() / 255, exact.double() / 255 + 0.001):
            path = save_png(tmp_path / "a.png", image)
            assert (np.asarray(Image.open(path)).reshape(shape) == exact.numpy()).all()
    save_png(tmp_path / "a.png", torch.tensor([[-1.0, 2.0, torch.nan]]))
    assert np.asarray(Image.open(tmp_path / "a.png")).tolist() == [[0, 255, 0]]
    with pytest.raises(ValueError, match="image: expected shape"):
        save_png(tmp_path / "b.png", torch.zeros(5, 7, 2))
    with pytest.raises(ValueError, match="image: expected a float or uint8"):
        save_png(tmp_path / "b.png", torch.zeros(5, 7, dtype=torch.int64))
    assert not (tmp_path / "b.png").exists()


def test_wrong_input_raises():
    mesh = box()
    with pytest.raises(ValueError, match=r"mesh\.vertices: expected finite"):
        render_mesh(Mesh(torch.full((3, 3), torch.nan), torch.tensor([[0, 1, 2]])))
    with pytest.raises(ValueError, match="colors or material"):
        render_mesh(mesh, colors=torch.zeros(8, 3), material=torch.zeros(8, 6))
    with pytest.raises(ValueError, match=r"colors: expected shape \[8, 3\]"):
        render_mesh(mesh, colors=torch.zeros(7, 3))
    with pytest.raises(ValueError, match=r"material: expected shape \[8, 6\]"):
        render_mesh(mesh, material=torch.zeros(8, 5))
    with pytest.raises(ValueError, match="faces: expected vertices 0 to 7"):
        render_mesh(Mesh(mesh.vertices, mesh.faces + 1))
    with pytest.raises(ValueError, match="0, 3 or 6 channels"):
        voxel_scene(field([[0, 0, 0]], torch.zeros(1, 4)))
    with pytest.raises(ValueError, match="cube: expected"):
        voxel_scene(field([[0, 0, 0]]), cube=0.0)
    with pytest.raises(ValueError, match="frames: expected 1"):
        render_turntable(mesh, 0)
    with pytest.raises(TypeError, match="subject: expected"):
        contact_sheet(mesh.vertices)
    for wrong in ({"pitch_deg": 91.0}, {"fov_deg": 0.0}, {"distance": 0.0}):
        with pytest.raises(ValueError, match="Camera"):
            Camera(**wrong)
    for wrong in ({"background": "forest"}, {"supersample": 0}):
        with pytest.raises(ValueError, match="Style"):
            Style(**wrong)


@pytest.mark.gpu
def test_the_gpu_draws_the_same_picture():
    mesh = sphere(rings=32)
    colors = torch.rand(len(mesh.vertices), 3, generator=torch.Generator().manual_seed(0))
    here = render_mesh(mesh, Camera(), (64, 64), colors=colors)
    there = render_mesh(Mesh(mesh.vertices.cuda(), mesh.faces.cuda()), Camera(), (64, 64), colors=colors.cuda())
    again = render_mesh(Mesh(mesh.vertices.cuda(), mesh.faces.cuda()), Camera(), (64, 64), colors=colors.cuda())
    assert all(torch.equal(a, b) for a, b in zip(every(there), every(again), strict=True))
    different = ((here.color - there.color.cpu()).abs().amax(-1) > 0.01).float().mean()
    assert float(different) < 0.01


def quad(texture=None, **factors) -> TexturedMesh:
    """A unit square in the plane y = 0, uv as its x and z + 1/2, seen from -y."""
    corner = torch.tensor([[-0.5, 0, -0.5], [0.5, 0, -0.5], [0.5, 0, 0.5], [-0.5, 0, 0.5]])
    mesh = Mesh(corner, torch.tensor([[0, 1, 2], [0, 2, 3]]))
    material = Material(base_color_texture=texture, metallic_factor=0.0, roughness_factor=1.0, **factors)
    return TexturedMesh(mesh, (material,), uv=corner[:, [0, 2]] + 0.5)


def test_a_texture_lies_as_its_uv_say():
    rows = [[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 255]]]  # red above blue at u = 0
    scene = textured_scene(quad(Texture(torch.tensor(rows, dtype=torch.uint8), filter="nearest")))
    picture = draw(scene, Camera(yaw_deg=0, pitch_deg=0, orthographic=True), (64, 64), EVEN, PLAIN)
    seen = [picture.color[row, column].argmax() for row, column in ((20, 20), (20, 44), (44, 20))]
    assert [int(channel) for channel in seen] == [0, 1, 2]
    assert float(picture.color[44, 44].amin()) > 0.5


def test_alpha_follows_the_mode():
    for mode, alpha, expected in (("OPAQUE", 0.3, 1.0), ("BLEND", 0.3, 0.3), ("MASK", 0.3, 0.0), ("MASK", 0.7, 1.0)):
        scene = textured_scene(quad(alpha_mode=mode, alpha_factor=alpha), ground=False)
        style = replace(PLAIN, background=None)
        picture = draw(scene, Camera(yaw_deg=0, pitch_deg=0, orthographic=True), (32, 32), EVEN, style)
        assert float(picture.alpha[16, 16]) == pytest.approx(expected)


def test_a_textured_mesh_with_faces_out_of_range_is_refused():
    mesh = quad()
    wrong = replace(mesh, mesh=Mesh(mesh.mesh.vertices, mesh.mesh.faces + 2))
    for ground in (True, False):
        with pytest.raises(ValueError, match="faces"):
            textured_scene(wrong, ground=ground)
