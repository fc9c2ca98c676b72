"""OBJ and PLY files as other programs write them: relative indices, several libraries, line ends, files cut short."""

import os

import numpy as np
import pytest
from comfyui_trellis2.o_voxel.files.meshes.read import load_textured_mesh
from comfyui_trellis2.o_voxel.files.meshes.reading.companions import companion
from comfyui_trellis2.o_voxel.files.meshes.reading.obj_indices import positive_indices

SQUARE = "v 0 0 0\nv 1 0 0\nv 0 1 0\nv 1 1 0\n"


def load(tmp_path, content: str | bytes, name: str = "a.obj", **options):
    """The mesh of a file with this content, its axes as they stand there."""
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return load_textured_mesh(path, up="z", **options)


def corners(mesh) -> list:
    return mesh.mesh.vertices[mesh.mesh.faces].tolist()


def test_negative_indices_count_back_from_their_line(tmp_path):
    later = "v 5 5 5\nvt 0.5 0.5\nvn 1 0 0\n"
    head = SQUARE + "vt 0 0\nvt 1 0\nvt 0 1\nvt 1 1\nvn 0 0 1\n"
    relative = f"{head}f -4/-4/-1 \\\n-3/-3/-1 3/3/-1 # not -9\n{later}f -2/-2/-2 -3/-3/-2 -4/-4/-2\n"
    absolute = f"{head}f 1/1/1 2/2/1 3/3/1\n{later}f 4/4/1 3/3/1 2/2/1\n"
    found, expected = load(tmp_path, relative), load(tmp_path, absolute)
    assert (
        corners(found)
        == corners(expected)
        == [
            [[0, 0, 0], [1, 0, 0], [0, 1, 0]],
            [[1, 1, 0], [0, 1, 0], [1, 0, 0]],
        ]
    )
    assert found.uv[found.mesh.faces].tolist() == expected.uv[expected.mesh.faces].tolist()
    assert found.normals.tolist() == expected.normals.tolist() == [[0, 0, 1]] * len(found.normals)


def test_lines_of_an_obj_that_have_no_negative_index_stay():
    text = b"\n# f -1 -2 -3\nv -1 -2 -3\r\nf 1 1 1 # -1\ng a-b\nl 1 1\n"
    assert positive_indices(text) == text
    assert positive_indices(text + b"l -1 1\nv 0 0 0\np -2\n") == text.replace(b" # -1", b"") + b"l 1 1\nv 0 0 0\np 1\n"


@pytest.mark.parametrize("face", ["f -1 -2 -5", "f -1/-1 -2/-1 -3/-1"])
def test_negative_indices_before_the_first_element_are_refused(tmp_path, face):
    with pytest.raises(ValueError, match=r"a\.obj: .*index -[15], .*expected at most the [40] above its line"):
        load(tmp_path, SQUARE + face + "\nv 2 2 2\nvt 0 0\n")


@pytest.mark.parametrize("library", ["newmtl red\nKd 1 0.6 1\n", "", None])
@pytest.mark.parametrize("uv", [True, False])
def test_vertex_colours_stay_beside_a_material(tmp_path, library, uv):
    """They multiply the material's colour, as in glTF, and are kept where the library lacks it or is absent."""
    if library is not None:
        (tmp_path / "a.mtl").write_text(library)
    text = "mtllib a.mtl\nv 0 0 0 1 0 0\nv 1 0 0 0 0.6 0\nv 0 1 0 0 0 0.2\nv 1 1 0 1 1 1\n" + "vt 0 0\n" * uv
    face = "f {0}/1 {1}/1 {2}/1\n" if uv else "f {0} {1} {2}\n"
    mesh = load(tmp_path, f"{text}o a\nusemtl red\n{face.format(1, 2, 3)}o b\nusemtl blue\n{face.format(2, 4, 3)}")
    found = mesh.vertex_colors[mesh.mesh.faces].numpy()
    red, green, blue, white = [1, 0, 0, 1], [0, 0.6, 0, 1], [0, 0, 0.2, 1], [1, 1, 1, 1]
    parts = {mesh.part_names[part]: colors for part, colors in zip(mesh.part_ids.tolist(), found, strict=True)}
    np.testing.assert_allclose(parts["a"], [red, green, blue], atol=1e-6)
    np.testing.assert_allclose(parts["b"], [green, white, blue], atol=1e-6)
    factors = {tuple(np.round(mesh.materials[row].base_color_factor, 6)) for row in mesh.material_ids.tolist()}
    assert factors == ({(1, 1, 1), (1, 0.6, 1)} if library else {(1, 1, 1)})


@pytest.mark.skipif(os.name == "nt", reason="Windows has no names that end in blanks")
def test_names_are_found_with_their_blanks(tmp_path):
    inside = tmp_path / "kit"
    inside.mkdir()
    (tmp_path / " outside.png").touch()
    for name in (" two   blanks.png", "plain.png", "plain.png ", "a b.png"):
        (inside / name).touch()
    wanted = {" two   blanks.png": " two   blanks.png", "%20two%20%20%20blanks.png": " two   blanks.png"}
    wanted |= {
        "plain.png ": "plain.png ",
        " plain.png": "plain.png",
        "\tplain.png\r": "plain.png",
        "a%20b.png ": "a b.png",
    }
    for name, file in wanted.items():
        assert companion(inside / "a.gltf", name) == inside / file, name
    for name in ("two   blanks.png", " ../ outside.png", "../ outside.png", " ", " .. ", f" {tmp_path}/ outside.png"):
        assert companion(inside / "a.gltf", name) is None, name
