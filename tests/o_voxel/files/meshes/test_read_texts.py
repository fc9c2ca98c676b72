"""OBJ and PLY files as other programs write them: relative indices, several libraries, line ends, files cut short."""

import os
import re

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


FACES = [[0, 1, 2], [2, 1, 3], [0, 1, 2]]


def ply(form: str, faces: list[list[int]] = FACES, newline: str = "\n") -> bytes:
    """A PLY of the four vertices of SQUARE, faces with a colour, and an element that no reader knows.
    form: "ascii", "<" or ">"."""
    name = {"ascii": "ascii", "<": "binary_little_endian", ">": "binary_big_endian"}[form]
    lines = ["ply", f"format {name} 1.0", "element vertex 4", *(f"property float {axis}" for axis in "xyz")]
    lines += [f"element face {len(faces)}", "property uchar red", "property uchar green", "property uchar blue"]
    lines += ["property list uchar int vertex_indices", "element other 1", "property short value", "end_header", ""]
    points = [list(map(float, line.split()[1:])) for line in SQUARE.splitlines()]
    head = newline.join(lines).encode()
    if form == "ascii":
        rows = [*points, *([row, 0, 255, len(face), *face] for row, face in enumerate(faces)), [10]]
        return head + "".join(" ".join(map(str, row)) + newline for row in rows).encode()
    body = np.array(points, f"{form}f4").tobytes()
    for row, face in enumerate(faces):
        body += bytes([row, 0, 255, len(face)]) + np.array(face, f"{form}i4").tobytes()
    return head + body + np.array([10], f"{form}i2").tobytes()


@pytest.mark.parametrize("form", ["ascii", "<", ">"])
@pytest.mark.parametrize("newline", ["\r", "\n", "\r\n"])
def test_a_header_of_a_ply_may_end_its_lines_in_any_way(tmp_path, form, newline):
    content = ply(form, newline=newline)
    points = np.array([line.split()[1:] for line in SQUARE.splitlines()], np.float32)
    assert corners(load(tmp_path, content, "a.ply")) == points[FACES].tolist()
    if form == "<":  # a body that begins with the byte of an LF
        start = content.index(b"end_header") + len(b"end_header" + newline.encode())
        number = np.frombuffer(b"\n\0\0\x40", "<f4")[0]
        first = corners(load(tmp_path, content[:start] + number.tobytes() + content[start + 4 :], "a.ply"))[0][0]
        assert first == [number, 0, 0]


@pytest.mark.parametrize("form", ["ascii", "<", ">"])
def test_a_ply_that_is_cut_short_is_refused(tmp_path, form):
    content = ply(form)
    start = content.index(b"end_header\n") + 11
    whole = set()
    for stop in range(start, len(content)):
        try:
            load(tmp_path, content[:stop], "a.ply")
        except ValueError as error:
            found = re.search(r"expected (\d) rows of the element '(\w+)', as its header says, got (\d)", str(error))
            assert found, error
            assert int(found[3]) < int(found[1])
            whole.add(found[2])
        else:
            assert form == "ascii"  # which no number ends that is cut
            assert content[:stop].split()[:-1] == content.split()[:-1]
    assert whole == {"vertex", "face", "other"}
    assert len(load(tmp_path, content, "a.ply").mesh.faces) == 3


def test_blank_lines_of_a_ply_are_no_rows(tmp_path):
    head, body = ply("ascii").split(b"end_header\n")
    content = head + b"end_header\n\n" + body.replace(b"\n", b"\n \n")
    assert corners(load(tmp_path, content, "a.ply")) == corners(load(tmp_path, ply("ascii"), "b.ply"))


@pytest.mark.parametrize("form", ["ascii", "<", ">"])
def test_a_ply_may_have_polygons_of_several_sizes(tmp_path, form):
    mesh = load(tmp_path, ply(form, [[0, 1, 2], [0, 1, 3, 2], [3, 2], [3, 1, 0]]), "a.ply")
    triangles = {tuple(map(tuple, triangle)) for triangle in corners(mesh)}
    points = [tuple(map(float, line.split()[1:])) for line in SQUARE.splitlines()]
    assert triangles >= {tuple(points[row] for row in face) for face in ([0, 1, 2], [3, 1, 0])}
    assert len(corners(mesh)) == 4
    if form != "ascii":
        reds = (mesh.vertex_colors[mesh.mesh.faces][:, 0, 0] * 255).round().tolist()
        assert reds == [0, 1, 1, 3]
