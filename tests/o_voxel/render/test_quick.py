"""Shading in numba is the renderer's own, up to rounding; what it does not know is drawn as usual."""

from dataclasses import replace

import pytest
import torch
from comfyui_trellis2.o_voxel.material import Material, Texture, TexturedMesh
from comfyui_trellis2.o_voxel.render import Camera, StudioLight, Style, quick, textured_scene
from comfyui_trellis2.o_voxel.render.draw import draw
from comfyui_trellis2.o_voxel.values import Mesh

pytest.importorskip("numba")
BARE = Style(background=None, ground=False)


def globe(rings: int = 12) -> TexturedMesh:
    """A ball with a texture inside a glass box, above a metal plate with a hard edge."""
    angle = torch.linspace(0, torch.pi, rings + 1)[:, None], torch.linspace(0, 2 * torch.pi, 2 * rings + 1)[None]
    points = torch.stack(
        torch.broadcast_tensors(
            angle[0].sin() * angle[1].cos(), angle[0].sin() * angle[1].sin(), angle[0].cos() + 0 * angle[1]
        ),
        -1,
    )
    uv = torch.stack(torch.broadcast_tensors(angle[1] / 6.2832, 1 - angle[0] / 3.1416), -1)
    row = torch.arange(rings)[:, None] * (2 * rings + 1) + torch.arange(2 * rings)
    quads = torch.stack([row, row + 1, row + 2 * rings + 2, row + 2 * rings + 1], -1).view(-1, 4)
    ball = quads[:, [0, 1, 2, 0, 2, 3]].reshape(-1, 3)
    corners = torch.cartesian_prod(*[torch.tensor([-0.4, 0.4])] * 3)
    sides = torch.tensor([(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (1, 5, 7, 3), (0, 2, 6, 4)])
    box = sides[:, [0, 1, 2, 0, 2, 3]].reshape(-1, 3) + len(points.view(-1, 3))
    image = torch.randint(0, 256, (7, 9, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    materials = (
        Material(base_color_texture=Texture(image), metallic_factor=0.2, roughness_factor=0.3),
        Material((0.9, 0.8, 0.9), metallic_factor=0.0, roughness_factor=0.1, alpha_mode="BLEND", alpha_factor=0.3),
        Material((0.9, 0.7, 0.3), metallic_factor=1.0, roughness_factor=0.15),
    )
    return TexturedMesh(
        Mesh(torch.cat([points.view(-1, 3) * 0.3, corners]), torch.cat([ball, box]).int()),
        materials,
        material_ids=torch.tensor([0] * len(ball) + [1] * 10 + [2] * 2),
        uv=torch.cat([uv.view(-1, 2), torch.zeros(8, 2)]),
    )


@pytest.mark.parametrize("light", [StudioLight(), replace(StudioLight(), exposure=1.15)], ids=["plain", "bright"])
@pytest.mark.parametrize(
    "camera", [Camera(30, 25), Camera(10, -20, fov_deg=60, orthographic=True)], ids=["eye", "flat"]
)
def test_it_is_the_same_picture(camera: Camera, light: StudioLight):
    scene = textured_scene(globe(), ground=False)
    assert quick.applies(scene)
    usual, fast = (draw(scene, camera, (48, 40), light, replace(BARE, quick=on)) for on in (False, True))
    assert 0.2 < float(usual.alpha.mean()) < 0.9
    torch.testing.assert_close(fast.alpha, usual.alpha, atol=1e-5, rtol=0)
    torch.testing.assert_close(fast.depth, usual.depth, atol=1e-5, rtol=0)
    torch.testing.assert_close(fast.normal, usual.normal, atol=1e-3, rtol=0)
    assert float((fast.color - usual.color).abs().max()) < 0.5 / 255
    brighter = draw(scene, camera, (48, 40), replace(light, exposure=1.01 * light.exposure), replace(BARE, quick=True))
    assert float((brighter.color - usual.color).abs().max()) > 0.5 / 255


def test_threads_change_nothing(monkeypatch):
    scene, drawn = textured_scene(globe(), ground=False), []
    for threads in (1, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        drawn.append(draw(scene, Camera(30, 25), (30, 30), StudioLight(), replace(BARE, quick=True)).color)
    assert torch.equal(*drawn)


def test_what_it_does_not_know_is_drawn_as_usual():
    mesh = globe()
    lit = replace(mesh, materials=(replace(mesh.materials[0], emissive_factor=(1.0, 0.2, 0.1)), *mesh.materials[1:]))
    tinted = replace(mesh, vertex_colors=torch.ones(len(mesh.mesh.vertices), 4))
    for other in (lit, tinted):
        scene = textured_scene(other, ground=False)
        assert not quick.applies(scene)
        usual, fast = (draw(scene, Camera(), (16, 16), StudioLight(), replace(BARE, quick=on)) for on in (False, True))
        assert torch.equal(usual.color, fast.color)
