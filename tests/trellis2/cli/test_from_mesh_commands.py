"""The texture and refine commands on the tiny checkpoint, at 32 voxels a side."""

import numpy as np
import pytest
import torch
from comfyui_trellis2.o_voxel.files.meshes.read import load_textured_mesh
from comfyui_trellis2.o_voxel.files.meshes.write import save_mesh
from comfyui_trellis2.o_voxel.material import TexturedMesh
from comfyui_trellis2.o_voxel.values import Mesh
from comfyui_trellis2.trellis2.cli.main import main
from PIL import Image


@pytest.fixture
def files(tmp_path):
    """A sheet of four triangles with texture coordinates, and a disc with alpha."""
    vertices = torch.tensor([[0, 0, 0], [1, 0, 0.5], [1, 1, 0], [0, 1, 0.5], [0.5, 0.5, 0.2]])
    faces = torch.tensor([[0, 1, 4], [1, 2, 4], [2, 3, 4], [3, 0, 4]])
    save_mesh(tmp_path / "sheet.glb", TexturedMesh(Mesh(vertices, faces), uv=vertices[:, :2].clone()))
    y, x = np.mgrid[0:96, 0:96]
    picture = np.full((96, 96, 4), 200, np.uint8)
    picture[..., 3] = 255 * (np.hypot(y - 48, x - 48) < 30)
    Image.fromarray(picture).save(tmp_path / "disc.png")
    return tmp_path


@pytest.fixture
def run(files, tiny):
    def run(command, output, *options, mesh="sheet.glb"):
        inputs = [str(files / mesh), str(files / "disc.png"), "-o", str(files / output)]
        small = ["--model", str(tiny), "--device", "cpu", "--steps", "1"]
        return main([command, *inputs, *small, *(options or ("--resolution", "32"))])

    return run


@pytest.mark.slow
def test_texture_paints_the_mesh_as_it_is(run, files, capsys):
    assert run("texture", "painted.glb", "--resolution", "32", "--texture-size", "32") == 0
    assert "painted.glb: 4 faces" in capsys.readouterr().out
    before, after = (load_textured_mesh(files / name) for name in ("sheet.glb", "painted.glb"))
    corners = [(m.mesh.vertices[m.mesh.faces.long()], m.uv[m.uv_rows.long()]) for m in (before, after)]
    torch.testing.assert_close(corners[1][0], corners[0][0])
    torch.testing.assert_close(corners[1][1], corners[0][1])
    assert after.materials[0].base_color_texture.image.shape[:2] == (32, 32)


@pytest.mark.slow
@pytest.mark.parametrize("bare", [False, True], ids=["materials", "shape alone"])
def test_refine_makes_a_new_surface(run, files, bare, capsys):
    extra = ("--no-texture",) if bare else ()
    assert run("refine", "new.ply", "--resolution", "32", "--strength", "0.4", *extra) == 0
    printed = capsys.readouterr().out
    made = load_textured_mesh(files / "new.ply")
    assert f" vertices, {len(made.mesh.faces):,} faces" in printed
    assert len(made.mesh.faces) != 4
    assert (made.vertex_colors is None) == bare


@pytest.mark.parametrize(
    ("command", "output", "options", "mesh", "message"),
    [
        ("texture", "out.stl", (), "sheet.glb", "expected a name that ends in .glb, .obj, got '.stl'"),
        ("texture", "out.glb", (), "absent.glb", "absent.glb: no such file"),
        ("refine", "out.glb", ("--resolution", "33"), "sheet.glb", "expected a multiple of 16, got 33"),
        ("refine", "out.glb", ("--strength", "1.5"), "sheet.glb", "expected a number from 0 to 1, got '1.5'"),
        ("refine", "out.glb", ("--strength", "much"), "sheet.glb", "expected a number from 0 to 1, got 'much'"),
    ],
)
def test_what_is_wrong_is_said_before_the_work(run, files, capsys, command, output, options, mesh, message):
    try:
        code = run(command, output, *options, mesh=mesh)
    except SystemExit as end:  # by the parser
        code = end.code
    assert code == 1
    assert message in capsys.readouterr().err
    assert not (files / output).exists()
