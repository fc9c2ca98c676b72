"""Meshes to OBJ, PLY and STL, read back by trimesh, Pillow and our reader; and what no format takes."""

import numpy as np
import pytest
import torch
import trimesh
from comfyui_trellis2.o_voxel.files.meshes.read import load_textured_mesh
from comfyui_trellis2.o_voxel.files.meshes.write import SaveOptions, save_mesh
from comfyui_trellis2.o_voxel.material import Material, TexturedMesh
from comfyui_trellis2.o_voxel.values import Mesh
from comfyui_trellis2.trellis2.cli.main import main
from PIL import Image

SUFFIXES = (".glb", ".obj", ".ply", ".stl")
TRIANGLE = Mesh(torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 2, 3]]), torch.tensor([[0, 1, 2]]))


def corners(mesh: Mesh) -> torch.Tensor:
    return mesh.vertices[mesh.faces.long()]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("kind", ["plain", "all", "blend"])
def test_the_surface_comes_back(tmp_path, ball, materials, suffix, kind):
    mesh = ball((materials[kind],))
    saved = save_mesh(tmp_path / f"a{suffix}", mesh)
    assert saved.path == tmp_path / f"a{suffix}" and saved.size == saved.path.stat().st_size and saved.changes == ()
    back = load_textured_mesh(saved.path)
    assert torch.equal(corners(back.mesh), corners(mesh.mesh))
    if suffix != ".stl":
        outward = torch.nn.functional.normalize(back.mesh.vertices - torch.tensor([0.1, 0, 0]), dim=1)
        torch.testing.assert_close(back.normals, outward, atol=0.04, rtol=0)
    if suffix in (".glb", ".obj"):
        torch.testing.assert_close(back.uv[back.mesh.faces], mesh.uv[mesh.uv_faces], atol=1e-7, rtol=0)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_frames_and_units(tmp_path, suffix):
    default = {".glb": "y", ".obj": "y", ".ply": "z", ".stl": "z"}[suffix]
    x, y, z = TRIANGLE.vertices.unbind(1)
    for up in ("auto", "y", "z"):
        if (suffix, up) == (".glb", "z"):
            with pytest.raises(ValueError, match="up"):
                save_mesh(tmp_path / f"a{suffix}", TRIANGLE, SaveOptions(up=up))
            continue
        path = save_mesh(tmp_path / f"a{suffix}", TRIANGLE, SaveOptions(up=up, scale=10.0)).path
        stored = trimesh.load_mesh(path, process=False).triangles[0]
        turned = (default if up == "auto" else up) == "y"
        expected = torch.stack([x, z, -y], 1) if turned else TRIANGLE.vertices
        np.testing.assert_allclose(stored, 10 * expected.numpy())


def test_an_obj_with_its_textures(tmp_path, ball, materials):
    material = materials["all"]
    mesh = ball((material,))
    save_mesh(tmp_path / "my chair.obj", mesh)
    names = {"base_color": "base_color", "roughness": "roughness", "metallic": "metallic", "normal": "normal"}
    names["emissive"] = "emissive"
    files = {file.name for file in tmp_path.iterdir()}
    assert files == {"my chair.obj", "my_chair.mtl", *(f"my_chair_{name}.png" for name in names)}
    for name in names:
        image = np.asarray(Image.open(tmp_path / f"my_chair_{name}.png"))
        texture = getattr(material, f"{name}_texture").image.numpy()
        np.testing.assert_array_equal(image.reshape(texture.shape), texture)
    lines = [line.split() for line in (tmp_path / "my_chair.mtl").read_text(encoding="utf-8").splitlines() if line]
    assert {line[0]: line[1:] for line in lines if line[0].startswith(("map", "norm"))} == {
        "map_Kd": ["my_chair_base_color.png"],
        "map_Pr": ["my_chair_roughness.png"],
        "map_Pm": ["my_chair_metallic.png"],
        "map_Ke": ["my_chair_emissive.png"],
        "norm": ["-bm", "0.5", "my_chair_normal.png"],
    }
    back = load_textured_mesh(tmp_path / "my chair.obj")
    assert torch.equal(back.materials[0].base_color_texture.image, material.base_color_texture.image)


def test_an_obj_shares_its_places(tmp_path, ball, materials):
    """Places, texture coordinates and normals have an index each: nothing is split along the seam."""
    mesh = ball((materials["all"],))
    path = save_mesh(tmp_path / "a.obj", mesh).path
    words = [line.split()[0] for line in path.read_text(encoding="utf-8").splitlines()]
    assert words.count("v") == len(mesh.mesh.vertices) and words.count("vt") == len(mesh.uv)
    assert words.count("f") == len(mesh.mesh.faces)


def test_an_obj_of_several_materials(tmp_path, ball, materials):
    kinds = (materials["color"], materials["plain"], materials["blend"])
    faces = len(ball(kinds).mesh.faces)
    mesh = ball(kinds, material_ids=torch.arange(faces) % 3)
    back = load_textured_mesh(save_mesh(tmp_path / "a.obj", mesh).path)
    assert sorted(back.material_ids.bincount().tolist()) == sorted(mesh.material_ids.bincount().tolist())
    found = {m.base_color_factor for m in back.materials if m.base_color_texture is None}
    assert [pytest.approx(color, abs=1 / 255) for color in found] == [kinds[1].base_color_factor]
    # Both have one base colour: it is stored once.
    assert {file.name for file in tmp_path.glob("*.png")} == {"a_0_base_color.png", "a_2_alpha.png"}


def test_an_obj_knows_masks_as_sharp_alpha(tmp_path, ball, materials):
    mask = materials["mask"]
    save_mesh(tmp_path / "a.obj", ball((mask,)))
    image = np.asarray(Image.open(tmp_path / "a_alpha.png"))
    np.testing.assert_array_equal(image == 255, mask.alpha_texture.image[..., 0].numpy() / 255 >= mask.alpha_cutoff)
    assert set(np.unique(image)) == {0, 255}
    for factor, opacity in ((0.2, "0"), (0.4, "1")):
        hidden = Material(alpha_mode="MASK", alpha_cutoff=0.3, alpha_factor=factor)
        save_mesh(tmp_path / "b.obj", ball((hidden,)))
        assert f"\nd {opacity}\n" in (tmp_path / "b.mtl").read_text(encoding="utf-8")


@pytest.mark.parametrize("suffix", [".glb", ".obj", ".ply"])
def test_vertex_colours_come_back(tmp_path, ball, suffix):
    plain = ball((Material(),)).mesh
    colors = torch.rand(len(plain.vertices), 4, generator=torch.Generator().manual_seed(0))
    back = load_textured_mesh(save_mesh(tmp_path / f"a{suffix}", TexturedMesh(plain, vertex_colors=colors)).path)
    given, found = colors[plain.faces][..., :3], back.vertex_colors[back.mesh.faces][..., :3]
    torch.testing.assert_close(found, given, atol=0.003, rtol=0)


def test_a_ply_with_texture_coordinates(tmp_path, ball, materials):
    mesh = ball((materials["all"],))
    without = trimesh.load_mesh(save_mesh(tmp_path / "a.ply", mesh).path, process=False)
    assert len(without.vertices) == len(mesh.mesh.vertices)
    data = trimesh.load_mesh(save_mesh(tmp_path / "b.ply", mesh, SaveOptions(ply_uv=True)).path, process=False)
    table = data.metadata["_ply_raw"]["vertex"]["data"]
    uv = np.stack([table["s"], table["t"]], 1)
    np.testing.assert_array_equal(uv.reshape(-1, 2)[data.faces], mesh.uv[mesh.uv_faces])


def test_an_stl_faces_outward(tmp_path, ball, materials):
    path = save_mesh(tmp_path / "a.stl", ball((materials["plain"],)), SaveOptions(scale=100.0)).path
    content = path.read_bytes()
    assert not content.startswith(b"solid") and (len(content) - 84) % 50 == 0
    loaded = trimesh.load_mesh(path)
    assert loaded.is_watertight and loaded.volume == pytest.approx(4 / 3 * np.pi * 40**3, rel=0.15)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_same_mesh_gives_the_same_bytes(tmp_path, ball, materials, suffix):
    mesh = ball((materials["all"], materials["mask"]))
    files = []
    for folder in ("a", "b"):
        save_mesh(tmp_path / folder / f"x{suffix}", mesh)
        files.append({file.name: file.read_bytes() for file in (tmp_path / folder).iterdir()})
    assert files[0] == files[1]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    ("vertices", "faces", "match"),
    [
        (torch.zeros(3, 3), torch.zeros(0, 3, dtype=torch.int64), "at least one face"),
        (torch.tensor([[0.0, 0, 0], [1, 0, float("nan")], [0, 1, 0]]), torch.tensor([[0, 1, 2]]), "finite"),
        (torch.zeros(3, 3), torch.tensor([[0, 1, 3]]), "vertices 0 to 2"),
    ],
    ids=["empty", "nan", "no such vertex"],
)
def test_meshes_that_no_format_takes(tmp_path, suffix, vertices, faces, match):
    with pytest.raises(ValueError, match=match):
        save_mesh(tmp_path / f"a{suffix}", Mesh(vertices, faces))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_flat_faces_are_saved(tmp_path, suffix):
    """Faces without area have no normal of their own; every file must still be readable."""
    mesh = Mesh(torch.tensor([[0.0, 0, 0], [1, 0, 0], [2, 0, 0]]), torch.tensor([[0, 1, 2], [0, 0, 1]]))
    back = load_textured_mesh(save_mesh(tmp_path / f"a{suffix}", mesh).path)
    assert torch.equal(corners(back.mesh), corners(mesh))


@pytest.mark.parametrize("suffix", [".obj", ".ply"])
def test_texture_coordinates_that_are_no_numbers(tmp_path, ball, materials, suffix):
    mesh = ball((materials["color"],))
    wrong = TexturedMesh(mesh.mesh, mesh.materials, uv=mesh.uv * float("nan"), uv_faces=mesh.uv_faces)
    with pytest.raises(ValueError, match="uv: expected finite"):
        save_mesh(tmp_path / f"a{suffix}", wrong, SaveOptions(ply_uv=True))
    assert list(tmp_path.iterdir()) == []


def test_names_and_sizes_that_no_format_knows(tmp_path):
    with pytest.raises(ValueError, match=r"a\.fbx: expected a name that ends in \.glb"):
        save_mesh(tmp_path / "a.fbx", TRIANGLE)
    with pytest.raises(ValueError, match="max_bytes"):
        save_mesh(tmp_path / "a.stl", TRIANGLE, SaveOptions(max_bytes=1000))
    with pytest.raises(ValueError, match="uv_faces"):
        rows = torch.tensor([[0, 1, 9]])
        save_mesh(tmp_path / "a.obj", TexturedMesh(TRIANGLE, uv=torch.zeros(3, 2), uv_faces=rows))


@pytest.mark.parametrize("name", ["a.glb", "a.obj", "a.ply", "a.stl"])
def test_folders_are_made(tmp_path, name):
    assert save_mesh(tmp_path / "new" / "folder" / name, TRIANGLE).path.is_file()


@pytest.mark.parametrize("fails_at", range(8))
def test_files_of_an_obj_that_cannot_all_be_written(tmp_path, ball, materials, monkeypatch, fails_at):
    """Whatever fails before the first file appears leaves all as it was; the .obj is never newer than its textures."""
    mesh = ball((materials["all"],))
    save_mesh(tmp_path / "a.obj", mesh)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    replaced = []
    real = __import__("os").replace

    def replace(source, target):
        if len(replaced) == fails_at:
            raise OSError("no space left on device")
        replaced.append(target.name)
        real(source, target)

    monkeypatch.setattr("os.replace", replace)
    other = TexturedMesh(
        Mesh(mesh.mesh.vertices * 2, mesh.mesh.faces), mesh.materials, uv=mesh.uv, uv_faces=mesh.uv_faces
    )
    if fails_at < len(before):
        with pytest.raises(OSError, match="no space"):
            save_mesh(tmp_path / "a.obj", other)
        assert (tmp_path / "a.obj").read_bytes() == before["a.obj"]
    else:
        save_mesh(tmp_path / "a.obj", other)
        assert replaced[-2:] == ["a.mtl", "a.obj"]
    assert {file.name for file in tmp_path.iterdir()} == set(before)


def test_a_target_that_cannot_be_replaced(tmp_path):
    (tmp_path / "a.obj").mkdir()
    (tmp_path / "a.obj" / "kept").touch()
    with pytest.raises(OSError, match=r"a\.obj"):
        save_mesh(tmp_path / "a.obj", TRIANGLE)
    assert not list(tmp_path.glob(".*")) and (tmp_path / "a.obj" / "kept").exists()
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        save_mesh(tmp_path / "file" / "a.glb", TRIANGLE)


def test_convert(tmp_path, capsys, ball, materials):
    source = save_mesh(tmp_path / "a.glb", ball((materials["all"],))).path
    limit = source.stat().st_size - 1
    assert main(["convert", str(source), "-o", str(tmp_path / "b.glb"), "--max-bytes", str(limit)]) == 0
    assert "jpeg at quality 90" in capsys.readouterr().out
    assert main(["convert", str(source), "-o", str(tmp_path / "b.stl"), "--scale", "100"]) == 0
    assert trimesh.load_mesh(tmp_path / "b.stl").extents.max() == pytest.approx(80)
    assert main(["convert", str(source), "-o", str(tmp_path / "b.fbx")]) == 1
    assert "expected a name" in capsys.readouterr().err
