"""OBJ and PLY files as other programs write them: relative indices, several libraries, line ends, files cut short."""

import os

import numpy as np
import pytest
from comfyui_trellis2.o_voxel.files.meshes.read import load_textured_mesh
from comfyui_trellis2.o_voxel.files.meshes.reading.companions import companion, companions
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


LIBRARIES = {"red.mtl": (1, 0, 0), "my green.mtl": (0, 1, 0), "blue": (0, 0, 1), "sub/my white.mtl": (1, 1, 1)}


@pytest.mark.parametrize(
    ("lines", "files", "missing"),
    [
        ("mtllib my green.mtl\nmtllib red.mtl", ["my green.mtl", "red.mtl"], []),
        ("mtllib red.mtl my green.mtl  blue ", ["red.mtl", "my green.mtl", "blue"], []),
        ("mtllib ./red.mtl ./sub/my white.mtl\r\nmtllib red.mtl", ["red.mtl", "my white.mtl"], []),
        ("mtllib blue red.mtl", ["blue", "red.mtl"], []),
        ("mtllib C:\\My Files\\my green.mtl", ["my green.mtl"], []),
        ("# mtllib blue\nmtllib no.mtl red.mtl\nmtllib not here.mtl", ["red.mtl"], ["no.mtl", "not here.mtl"]),
    ],
)
def test_all_libraries_of_an_obj_are_read(tmp_path, lines, files, missing):
    (tmp_path / "sub").mkdir()
    for name, (red, green, blue) in LIBRARIES.items():
        title = name.split("/")[-1].removesuffix(".mtl")
        # A line before the first material belongs to none; of two materials of one name the first counts.
        same = 0.2 if title == files[0].removesuffix(".mtl") else 1
        text = f"Kd 0 0 0.4\nnewmtl same\nKd 0 {same} 0\nnewmtl {title}\nKd {red} {green} {blue}\n"
        (tmp_path / name).write_text(text)
    titles = [name.removesuffix(".mtl") for name in files]
    faces = "".join(f"usemtl {title}\nf 1 2 3\n" for title in [*titles, "same"])
    said = []
    mesh = load(tmp_path, f"{lines}\n{SQUARE}{faces}", on_warning=said.append)
    colours = {name.split("/")[-1].removesuffix(".mtl"): colour for name, colour in LIBRARIES.items()}
    found = {material.name: material.base_color_factor for material in mesh.materials}
    assert found == {title: colours[title] for title in titles} | {"same": (0, pytest.approx(0.2), 0)}
    assert len(said) == len(missing)
    assert all(f"material library {name!r}" in line for name, line in zip(missing, said, strict=True))
    assert [file.name for file in companions(tmp_path / "a.obj")] == files
