"""The project command: a picture that fits changes the file's texture, one that does not writes nothing."""

import numpy as np
import pytest
import torch
from comfyui_trellis2.o_voxel.files.meshes.read import load_textured_mesh
from comfyui_trellis2.o_voxel.files.meshes.write import save_mesh
from comfyui_trellis2.o_voxel.material import Material, Texture, TexturedMesh
from comfyui_trellis2.o_voxel.values import Mesh
from comfyui_trellis2.trellis2.cli.main import main
from PIL import Image

GIVEN = ("--azimuth", "0", "--elevation", "0", "--fov", "20", "--color-match", "none", "--device", "cpu")


@pytest.fixture
def square(tmp_path):
    """A grey square that faces the front, -y, in a file."""
    corners = torch.tensor([[-0.5, 0, -0.5], [0.5, 0, -0.5], [0.5, 0, 0.5], [-0.5, 0, 0.5]])
    grey = Material(base_color_texture=Texture(torch.full((64, 64, 3), 128, dtype=torch.uint8)), metallic_factor=0.0)
    mesh = Mesh(corners, torch.tensor([[0, 1, 2], [0, 2, 3]], dtype=torch.int32))
    save_mesh(tmp_path / "in.glb", TexturedMesh(mesh, (grey,), uv=(corners[:, [0, 2]] + 0.5).contiguous()))
    return tmp_path / "in.glb"


def picture(path, inside):
    """A red picture on a transparent ground, opaque where `inside` [128, 128] says."""
    pixels = np.zeros((128, 128, 4), np.uint8)
    pixels[..., 0], pixels[..., 3] = 220, 255 * inside
    Image.fromarray(pixels).save(path)
    return str(path)


def project(square, shown, *options):
    out = square.with_name("out.glb")
    return main(["project", str(square), shown, "-o", str(out), *GIVEN, *options]), out


def test_a_picture_that_fits_is_on_the_texture(square, tmp_path, capsys):
    y, x = np.mgrid[:128, :128]
    status, out = project(square, picture(tmp_path / "a.png", (abs(y - 63.5) < 40) & (abs(x - 63.5) < 40)))
    assert status == 0, capsys.readouterr().err
    made, given = load_textured_mesh(out), load_textured_mesh(square)
    assert torch.equal(made.mesh.vertices, given.mesh.vertices) and torch.equal(made.uv, given.uv)
    image = made.materials[0].base_color_texture.image
    middle = image[image.shape[0] // 2, image.shape[1] // 2].int()
    assert (middle - torch.tensor([220, 0, 0])).abs().max() <= 2


def test_one_that_does_not_fit_writes_nothing(square, tmp_path, capsys):
    y, x = np.mgrid[:128, :128]
    status, out = project(square, picture(tmp_path / "b.png", (abs(y - 63.5) < 6) & (abs(x - 63.5) < 60)))
    assert status == 1 and not out.exists()
    assert "not written, because no picture fits" in capsys.readouterr().out


def test_what_is_no_picture_is_named(square, tmp_path, capsys):
    (tmp_path / "c.png").write_bytes(b"no picture")
    status, out = project(square, str(tmp_path / "c.png"))
    assert status == 1 and not out.exists()
    assert "c.png: expected a picture" in capsys.readouterr().err
