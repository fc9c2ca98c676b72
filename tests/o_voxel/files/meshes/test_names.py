"""Names of parts and materials: there and back again through GLB and OBJ, odd ones, instances, engines' files."""

import json
import struct
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
import trimesh
from comfyui_trellis2.o_voxel.files.meshes.engine import save_for_engine
from comfyui_trellis2.o_voxel.files.meshes.options import SaveOptions
from comfyui_trellis2.o_voxel.files.meshes.read import load_textured_mesh
from comfyui_trellis2.o_voxel.files.meshes.trimesh import from_trimesh, to_trimesh
from comfyui_trellis2.o_voxel.files.meshes.write import save_mesh
from comfyui_trellis2.o_voxel.lods import LodOptions, make_lods
from comfyui_trellis2.o_voxel.material import Material, Texture, TexturedMesh
from comfyui_trellis2.o_voxel.mesh.parts import with_parts_of
from comfyui_trellis2.o_voxel.names import MAX_NAME, listed, printable, stored_name, tokens
from comfyui_trellis2.o_voxel.values import Mesh
from comfyui_trellis2.trellis2.cli.main import main

NAMES = ("Body", "Räder ⚙", "Body", "", "a/b c#d\\")


def document(path) -> dict:
    content = path.read_bytes()
    return json.loads(content[20 : 20 + struct.unpack_from("<I", content, 12)[0]])


def put(path, found: dict) -> None:
    """Exchanges the JSON of a GLB."""
    content = path.read_bytes()
    rest = content[20 + struct.unpack_from("<I", content, 12)[0] :]
    text = json.dumps(found).encode()
    text += b" " * (-len(text) % 4)
    path.write_bytes(struct.pack("<4s4I", b"glTF", 2, 20 + len(text) + len(rest), len(text), 0x4E4F534A) + text + rest)


def by_name(mesh: TexturedMesh) -> Counter:
    """How often each triangle, by its corners' places and the names of its part and material, is there."""
    corners = mesh.mesh.vertices[mesh.mesh.faces.long()].numpy()
    rows = zip(corners, mesh.part_rows.tolist(), mesh.material_rows.tolist(), strict=True)
    return Counter((c.tobytes(), mesh.part_names[part], mesh.materials[row].name) for c, part, row in rows)


@pytest.fixture
def mesh(ball, materials) -> TexturedMesh:
    """A ball whose triangles belong to five parts and three materials at random; vertices are shared by parts."""
    whole = ball((replace(materials["all"], name="Lack"), replace(materials["plain"], name="Gummi"), Material()))
    draw = np.random.default_rng(2)
    owner, paint = (torch.from_numpy(draw.integers(0, n, len(whole.mesh.faces))) for n in (len(NAMES), 3))
    return replace(whole, material_ids=paint, part_ids=owner, part_names=NAMES)


@pytest.mark.parametrize("options", [SaveOptions(), SaveOptions(pivot="base"), SaveOptions(normal_maps="directx")])
def test_a_glb_keeps_parts_and_names(tmp_path, mesh, options):
    path = save_mesh(tmp_path / "a.glb", mesh, options).path
    found = document(path)
    assert tuple(node.get("name", "") for node in found["nodes"]) == NAMES
    assert [node.keys() - {"name"} for node in found["nodes"]] == [{"mesh"}] * 5
    assert found["scenes"] == [{"nodes": [0, 1, 2, 3, 4]}]
    assert [material.get("name", "") for material in found["materials"]] == ["Lack", "Gummi", ""]
    back = load_textured_mesh(path)
    assert back.part_names == NAMES and back.part_ids.dtype == torch.int32
    if options.pivot == "as is":
        assert by_name(back) == by_name(mesh)
    again = save_mesh(tmp_path / "b.glb", back, options).path
    assert tuple(node.get("name", "") for node in document(again)["nodes"]) == NAMES


def test_a_part_has_only_its_own_vertices(tmp_path, mesh):
    path = save_mesh(tmp_path / "a.glb", mesh).path
    found = document(path)
    rows = [primitive for entry in found["meshes"] for primitive in entry["primitives"]]
    assert len(rows) == 15
    # No buffer serves two primitives, and no vertex is stored that its faces do not use.
    views = [found["accessors"][row["attributes"]["POSITION"]]["bufferView"] for row in rows]
    assert len(set(views)) == len(rows)
    counts = {row["attributes"]["POSITION"]: row["indices"] for row in rows}
    binary = path.read_bytes()[28 + struct.unpack_from("<I", path.read_bytes(), 12)[0] :]
    for position, indices in counts.items():
        accessor = found["accessors"][indices]
        view = found["bufferViews"][accessor["bufferView"]]
        used = np.frombuffer(binary, np.uint16, accessor["count"], view["byteOffset"])
        assert set(used.tolist()) == set(range(found["accessors"][position]["count"]))
    assert {
        name
        for row, entry in zip(rows, range(15), strict=True)
        if "TANGENT" in row["attributes"]
        for name in [entry % 3]
    } == {0}


@pytest.mark.parametrize("options", [SaveOptions(quantize=True), SaveOptions(draco=True)], ids=["quantised", "draco"])
def test_smaller_files_keep_parts_too(tmp_path, mesh, options):
    if options.draco:
        pytest.importorskip("DracoPy")
    saved = save_mesh(tmp_path / "a.glb", mesh, options)
    back = load_textured_mesh(saved.path)
    assert back.part_names == NAMES and torch.equal(back.part_rows.bincount(), mesh.part_rows.bincount())
    # Places to the precision of 14 bits, corners in another order.
    for part in range(5):
        ours, theirs = (m.mesh.vertices[m.mesh.faces[m.part_rows == part].long()].mean((0, 1)) for m in (mesh, back))
        torch.testing.assert_close(theirs, ours, atol=1e-4, rtol=0)


def test_draco_leaves_a_part_without_a_triangle_as_it_is(tmp_path):
    pytest.importorskip("DracoPy")
    places = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [2, 2, 2]])
    flat = Mesh(places, torch.tensor([[0, 1, 2], [3, 3, 3]]))
    path = save_mesh(
        tmp_path / "a.glb", TexturedMesh(flat, part_ids=torch.arange(2), part_names=("a", "b")), SaveOptions(draco=True)
    ).path
    packed = ["extensions" in entry["primitives"][0] for entry in document(path)["meshes"]]
    assert packed == [True, False] and load_textured_mesh(path).part_names == ("a", "b")


def test_a_small_file_keeps_parts(tmp_path, mesh):
    full = save_mesh(tmp_path / "a.glb", mesh).size
    saved = save_mesh(tmp_path / "b.glb", mesh, SaveOptions(max_bytes=full * 9 // 10))
    assert saved.changes and load_textured_mesh(saved.path).part_names == NAMES


def test_an_obj_keeps_parts_and_makes_names_unique(tmp_path, mesh):
    path = save_mesh(tmp_path / "a.obj", mesh).path
    objects = [line for line in path.read_text("utf-8").splitlines() if line.startswith("o ")]
    assert objects == ["o Body", "o Räder_⚙", "o Body_1", "o part_3", "o a/b_c_d_"]
    library = path.with_suffix(".mtl").read_text("utf-8")
    assert [line for line in library.splitlines() if line.startswith("newmtl")] == [
        "newmtl Lack",
        "newmtl Gummi",
        "newmtl material_2",
    ]
    back = load_textured_mesh(path)
    assert back.part_names == tuple(line[2:] for line in objects)
    materials = tuple(replace(m, name=m.name or "material_2") for m in mesh.materials)
    assert by_name(back) == by_name(replace(mesh, part_names=back.part_names, materials=materials))
    through = load_textured_mesh(save_mesh(tmp_path / "c.glb", back).path)
    assert by_name(through) == by_name(back)


@pytest.mark.parametrize(("keyword", "names"), [("o", ("", "Body", "Rad 1", "Body")), ("g", ("", "Body", "Rad 1"))])
def test_objects_and_groups_of_an_obj(tmp_path, keyword, names):
    """Triangles, quads and polygons; materials that come back; an object of its own for each `o`, a group by name."""
    (tmp_path / "a.mtl").write_text("newmtl red\nKd 1 0 0\nnewmtl dark blue\nKd 0 0 1\n")
    rows = [f"v {i} {i * i % 7} {i % 3}" for i in range(16)] + ["vt 0 0", "vt 1 1", "vn 0 0 1"]
    faces = [
        "f 1/1/1 2/2/1 3/1/1",
        f"{keyword} Body",
        "usemtl red",
        "f 3/1/1 4/1/1 5/2/1 6/1/1",
        f"{keyword}\tRad 1",
        "f 5/1/1 6/1/1 7/1/1 8/1/1 9/1/1",
        "usemtl dark blue",
        "f 8/1/1 9/1/1 10/1/1 11/1/1\nf 9/1/1 10/1/1 11/1/1 12/1/1",
        f"{keyword} nothing",
        f"{keyword} Body",
        "f -1/1/1 -2/1/1 -3/1/1 -4/2/1\nusemtl red\nf 12/1/1 13/1/1 \\\n14/1/1",
    ]
    (tmp_path / "a.obj").write_text("\r\n".join(["mtllib a.mtl", *rows, *faces]))
    mesh = load_textured_mesh(tmp_path / "a.obj")
    assert mesh.part_names == names
    # x is the number of the vertex.
    x = mesh.mesh.vertices[mesh.mesh.faces, 0].int().tolist()
    rows = zip(x, mesh.part_rows.tolist(), mesh.material_rows.tolist(), strict=True)
    found = Counter((frozenset(face), part, mesh.materials[row].name) for face, part, row in rows)
    last = 3 if keyword == "o" else 1
    assert found == Counter(
        [
            *fan(0, "", 0, 1, 2),
            *fan(1, "red", 2, 3, 4, 5),
            *fan(2, "red", 4, 5, 6, 7, 8),
            *fan(2, "dark blue", 7, 8, 9, 10),
            *fan(2, "dark blue", 8, 9, 10, 11),
            *fan(last, "dark blue", 15, 14, 13, 12),
            *fan(last, "red", 11, 12, 13),
        ]
    )


def fan(part: int, material: str, first: int, *others: int) -> list[tuple[frozenset[int], int, str]]:
    return [(frozenset((first, a, b)), part, material) for a, b in pairwise(others)]


def test_nodes_instances_and_names_of_meshes(tmp_path):
    """Each node with triangles is a part, in the scene's order; a nameless one is called like its mesh."""
    box, scene = trimesh.creation.box(), trimesh.Scene()
    for k, name in enumerate(("left", "right", "third")):
        scene.add_geometry(
            box, geom_name="wheel", node_name=name, transform=trimesh.transformations.translation_matrix([3 * k, 0, 0])
        )
    path = tmp_path / "a.glb"
    scene.export(path)
    plain = load_textured_mesh(path)
    assert plain.part_names == ("left", "right", "third")
    centers = [plain.mesh.vertices[plain.mesh.faces[plain.part_rows == k]].mean((0, 1))[0] for k in range(3)]
    assert [round(float(x)) for x in centers] == [0, 3, 6]
    found = document(path)
    for node in found["nodes"]:
        if node.get("name") == "third":
            del node["name"]
        elif node.get("name") == "right":
            node["extensions"] = {"EXT_mesh_gpu_instancing": {"attributes": {}}}
    for entry in found["meshes"]:
        entry["name"] = "Rad"
    put(path, found)
    named = load_textured_mesh(path)
    assert named.part_names == ("left", "right", "Rad")
    assert torch.equal(named.mesh.vertices, plain.mesh.vertices) and torch.equal(named.part_ids, plain.part_ids)
    save_mesh(tmp_path / "b.glb", named)
    assert by_name(load_textured_mesh(tmp_path / "b.glb")) == by_name(named)


ODD = [
    "\x1b[2J\r\n",
    "usemtl x",
    "𝒳\u202e\u200b",
    "\ud800half",
    "x" * 100_000,
    "../../etc/passwd",
    7,
    None,
    ["a"],
    "\\",
    "#",
    "\x00",
]


@pytest.mark.parametrize("suffix", [".glb", ".obj"])
def test_odd_names(tmp_path, mesh, suffix):
    names = tuple(f"{k}" for k in range(len(ODD)))
    ids = torch.arange(len(mesh.mesh.faces)) % len(ODD)
    source = save_mesh(tmp_path / "a.glb", replace(mesh, part_ids=ids, part_names=names)).path
    found = document(source)
    for node, name in zip(found["nodes"], ODD, strict=True):
        node["name"] = found["meshes"][node["mesh"]]["name"] = name
    for material, name in zip(found["materials"], ODD, strict=False):
        material["name"] = name
    put(source, found)
    read = load_textured_mesh(source)
    assert read.part_names[:2] == (ODD[0], ODD[1]) and read.part_names[3] == "\ufffdhalf"
    assert read.part_names[6:9] == ("", "", "") and len(read.part_names[4]) == MAX_NAME
    path = save_mesh(tmp_path / f"b{suffix}", read).path
    back = load_textured_mesh(path)
    assert torch.equal(back.part_rows.bincount(), read.part_rows.bincount())
    if suffix == ".glb":
        assert back.part_names == read.part_names
    else:
        assert len(set(back.part_names)) == len(ODD)
        for name in (*back.part_names, *(material.name for material in back.materials)):
            assert name.isprintable() and len(name.split()) == 1 and not set(name) & set("\\#")
        assert {file.name for file in tmp_path.glob("b*")} == {
            "b.obj",
            "b.mtl",
            *(f.name for f in tmp_path.glob("b_0_*.png")),
        }


def test_helpers_of_names():
    assert stored_name("a\ud83d\ude00") == "a😀" and stored_name(3) == ""
    assert printable("a\n\x07é\u202eb") == "a \ufffdé\ufffdb"
    assert tokens(("a", "a_1", "a", "", "a", " b\tc "), "part_") == ["a", "a_1", "a_2", "part_3", "a_3", "b_c"]
    assert len(set(tokens(["same"] * 5000, "part_"))) == 5000
    assert (
        listed([f"n{k}" for k in range(9)], 3) == "n0, n1, n2 and 6 more" and listed(["", "x" * 99]) == "x" * 59 + "…"
    )


def test_one_nameless_part_writes_what_it_wrote(tmp_path, ball, materials):
    bare = ball((materials["all"],))
    zero = replace(bare, part_ids=torch.zeros(len(bare.mesh.faces), dtype=torch.int32), part_names=("",))
    for suffix in (".glb", ".ply", ".stl"):
        first, second = (save_mesh(tmp_path / f"{k}{suffix}", m).path for k, m in enumerate((bare, zero)))
        assert first.read_bytes() == second.read_bytes()
    assert "name" not in json.dumps(document(tmp_path / "0.glb"))
    named = save_mesh(tmp_path / "b.glb", replace(bare, part_names=("Stuhl",))).path
    assert document(named)["nodes"][0]["name"] == document(named)["meshes"][0]["name"] == "Stuhl"
    assert load_textured_mesh(named).part_names == ("Stuhl",) and load_textured_mesh(named).part_ids is None


def test_formats_without_names(tmp_path, mesh):
    for suffix in (".ply", ".stl"):
        back = load_textured_mesh(save_mesh(tmp_path / f"a{suffix}", mesh).path)
        assert back.part_names == () and len(back.mesh.faces) == len(mesh.mesh.faces)
    solid = trimesh.exchange.stl.export_stl_ascii(trimesh.creation.box()).replace("solid", "solid {0}")
    (tmp_path / "b.stl").write_text("\n".join(solid.format(name) for name in ("one", "two")))
    assert load_textured_mesh(tmp_path / "b.stl").part_names == ("one", "two")


def test_trimesh_objects(mesh):
    scene = trimesh.Scene()
    scene.add_geometry(trimesh.creation.box(), node_name="Kiste")
    scene.add_geometry(trimesh.creation.icosphere(), node_name="Kugel")
    found = from_trimesh(scene, y_up=True)
    assert found.part_names == ("Kiste", "Kugel") and found.part_rows.bincount().tolist() == [12, 1280]
    assert from_trimesh(trimesh.creation.box(), y_up=True).part_names == ()
    nameless = trimesh.visual.material.SimpleMaterial()
    painted = trimesh.Trimesh(*trimesh.creation.box().triangles.reshape(1, -1, 3), np.arange(36).reshape(-1, 3))
    painted.visual = trimesh.visual.TextureVisuals(uv=np.zeros((len(painted.vertices), 2)), material=nameless)
    assert nameless.name and [m.name for m in from_trimesh(painted, y_up=True).materials] == [""]
    one = replace(mesh, materials=mesh.materials[:1], material_ids=None, part_ids=None, part_names=("Kiste",))
    back = from_trimesh(to_trimesh(one), y_up=True)
    assert (back.part_names, back.materials[0].name) == (("Kiste",), "Lack")
    assert to_trimesh(replace(one, part_ids=mesh.part_ids, part_names=NAMES)).metadata.get("name") is None


@pytest.mark.parametrize(
    ("wrong", "error", "match"),
    [
        ({"part_ids": torch.zeros(12, dtype=torch.int32)}, ValueError, "expected a name for each part"),
        ({"part_names": ("a", "b")}, ValueError, "expected a row"),
        ({"part_names": ["a"]}, TypeError, "tuple of text"),
        ({"part_names": ("a", 1)}, TypeError, "tuple of text"),
        ({"part_names": ("a",), "part_ids": torch.zeros(3, dtype=torch.int32)}, ValueError, "part_ids"),
        ({"part_names": ("a",), "part_ids": torch.zeros(12)}, ValueError, "part_ids"),
        ({"part_names": ("a",), "part_ids": torch.zeros(12, dtype=torch.int64, device="meta")}, ValueError, "part_ids"),
    ],
)
def test_parts_that_do_not_fit(shapes, wrong, error, match):
    with pytest.raises(error, match=match):
        TexturedMesh(shapes.box(), **wrong)


def test_part_rows_outside_are_refused(tmp_path, shapes):
    ids = torch.full((12,), 2, dtype=torch.int32)
    with pytest.raises(ValueError, match="part_ids: expected 0 to 1, got 2 to 2"):
        save_mesh(tmp_path / "a.glb", TexturedMesh(shapes.box(), part_ids=ids, part_names=("a", "b")))
    with pytest.raises(TypeError, match=r"Material.name"):
        Material(name=None)


@pytest.fixture
def two(shapes) -> TexturedMesh:
    """A small ball beside a large one."""
    large, small = shapes.sphere(3, 0.4), shapes.sphere(2, 0.2)
    vertices = torch.cat([large.vertices, small.vertices + torch.tensor([1.0, 0, 0])])
    faces = torch.cat([large.faces, small.faces + len(large.vertices)])
    ids = (torch.arange(len(faces)) >= len(large.faces)).int()
    return TexturedMesh(Mesh(vertices, faces), (Material(name="Farbe"),), part_ids=ids, part_names=("groß", "klein"))


@pytest.mark.parametrize("kind", ["plain", "textured", "coloured"])
def test_levels_of_detail_keep_parts(two, kind):
    if kind == "textured":
        paint = replace(two.materials[0], base_color_texture=Texture(torch.zeros(64, 64, 3, dtype=torch.uint8)))
        two = replace(two, materials=(paint,), uv=two.mesh.vertices[:, :2].contiguous())
    if kind == "coloured":
        two = replace(two, vertex_colors=torch.ones(len(two.mesh.vertices), 4))
    _, light = make_lods(two, LodOptions(2))
    assert (light.part_names, light.materials[0].name) == (two.part_names, "Farbe")
    beside = light.mesh.vertices[light.mesh.faces.long()].mean(1)[:, 0] > 0.6
    assert torch.equal(light.part_rows, beside.long()) and 0 < int(beside.sum()) < len(beside)


def test_a_lone_part_is_not_searched_for(two, monkeypatch):
    lone = replace(two, part_ids=None, part_names=("alles",))
    monkeypatch.setattr("comfyui_trellis2.o_voxel.mesh.parts.build_index", None)
    assert with_parts_of(TexturedMesh(two.mesh), lone).part_names == ("alles",)


def test_an_engines_file_has_the_parts_below_each_level(tmp_path, two, shapes):
    levels = make_lods(two, LodOptions(2))
    (path,) = save_for_engine(tmp_path / "ding.glb", levels, [shapes.box()], one_file=True)
    found = document(path)
    nodes = found["nodes"]
    assert [nodes[row]["name"] for row in found["scenes"][0]["nodes"]] == ["ding_LOD0", "UCX_ding_00"]
    for i in range(2):
        level = nodes[i]
        assert level["name"] == f"ding_LOD{i}" and "mesh" not in level
        assert [nodes[row]["name"] for row in level["children"]] == ["groß", "klein"]
    assert nodes[0]["extensions"]["MSFT_lod"]["ids"] == [1]
    assert load_textured_mesh(path).part_names == ("groß", "klein", "UCX_ding_00")
    fine, coarse = save_for_engine(tmp_path / "ding.obj", levels)
    assert load_textured_mesh(fine).part_names == load_textured_mesh(coarse).part_names == ("groß", "klein")


def test_convert_keeps_names(tmp_path, mesh):
    source = save_mesh(tmp_path / "a.glb", mesh).path
    assert main(["convert", str(source), "-o", str(tmp_path / "b.glb")]) == 0
    assert load_textured_mesh(tmp_path / "b.glb").part_names == NAMES
    assert main(["convert", str(source), "-o", str(tmp_path / "c.obj")]) == 0
    assert len(load_textured_mesh(tmp_path / "c.obj").part_names) == 5
