"""Mesh files in: frames, UVs, materials, colours, placement, and files that are no meshes."""

import io
import json
import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch
import trimesh
from comfyui_trellis2.o_voxel.core.color import linear_to_srgb, to_linear
from comfyui_trellis2.o_voxel.core.grid import Grid
from comfyui_trellis2.o_voxel.files.meshes import read as mesh_files
from comfyui_trellis2.o_voxel.files.meshes.gltf.glb import write_glb
from comfyui_trellis2.o_voxel.files.meshes.obj import write_obj
from comfyui_trellis2.o_voxel.files.meshes.options import SaveOptions
from comfyui_trellis2.o_voxel.files.meshes.read import load_textured_mesh
from comfyui_trellis2.o_voxel.files.meshes.reading import images
from comfyui_trellis2.o_voxel.files.meshes.trimesh import from_trimesh
from comfyui_trellis2.o_voxel.material import TEXTURE_CHANNELS, Material, Texture, TexturedMesh
from comfyui_trellis2.o_voxel.values import Mesh
from comfyui_trellis2.o_voxel.voxels.materials import voxel_materials
from PIL import Image
from trimesh.visual.material import PBRMaterial, SimpleMaterial

VERTICES = np.array([[0.0, 0, 0], [1, 0, 0], [0, 2, 0], [0, 0, 3]])
FACES = np.array([[0, 1, 2], [0, 2, 3]])
UV = np.array([[0.0, 0], [1, 0], [0, 1], [0.25, 0.75]])
Z_UP = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 0, 2], [0, -3, 0]])

PLY = (
    "ply\nformat ascii 1.0\n{}element vertex 4\nproperty float x\nproperty float y\nproperty float z\n{}"
    "end_header\n0 0 0\n1 0 0\n0 1 0\n1 1 0\n"
)


def picture(seed=0, mode="RGBA", size=(4, 2)):
    generator = np.random.default_rng(seed)
    return Image.fromarray(generator.integers(0, 256, (size[1], size[0], len(mode)), dtype=np.uint8), mode=None)


def part(material=None, uv=UV, **extra):
    visual = None if material is None else trimesh.visual.TextureVisuals(uv=uv, material=material)
    return trimesh.Trimesh(VERTICES, FACES, visual=visual, process=False, **extra)


def write(tmp_path, scene, suffix=".glb", edit=None):
    """The path of `scene` exported; edit(json) changes a GLB's JSON first."""
    path = tmp_path / f"mesh{suffix}"
    scene.export(path)
    if edit is not None:
        content = path.read_bytes()
        length = struct.unpack_from("<I", content, 12)[0]
        header = json.loads(content[20 : 20 + length])
        edit(header)
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 4)
        rest = content[20 + length :]
        start = struct.pack("<4sIIII", b"glTF", 2, 20 + len(text) + len(rest), len(text), 0x4E4F534A)
        path.write_bytes(start + text + rest)
    return path


@pytest.mark.parametrize(("suffix", "turned"), [(".glb", True), (".obj", True), (".ply", False), (".stl", False)])
def test_frames(tmp_path, suffix, turned):
    path = write(tmp_path, part(), suffix)
    mesh = load_textured_mesh(path).mesh
    expected = Z_UP if turned else torch.from_numpy(VERTICES).float()
    assert torch.equal(mesh.vertices[mesh.faces], expected[FACES])
    assert mesh.vertices.dtype == torch.float32
    other = load_textured_mesh(path, up="z" if turned else "y").mesh
    assert torch.equal(other.vertices[other.faces], (torch.from_numpy(VERTICES).float() if turned else Z_UP)[FACES])


def test_a_glb_of_ours_comes_back(tmp_path):
    mesh = Mesh(torch.from_numpy(VERTICES).float(), torch.from_numpy(FACES))
    materials = torch.rand(4, 6, generator=torch.Generator().manual_seed(1))
    path = write_glb(tmp_path / "a.glb", mesh, materials, SaveOptions(crease_deg=None))
    back = load_textured_mesh(path)
    assert torch.equal(back.mesh.vertices, mesh.vertices)
    assert torch.equal(back.mesh.faces, mesh.faces)
    torch.testing.assert_close(back.vertex_colors[:, :3], materials[:, :3], rtol=0, atol=2e-3)
    torch.testing.assert_close(back.uv, (materials[:, 3:5] * 255 + 0.5) / 256, rtol=0, atol=1e-6)


def test_gltf_materials(tmp_path):
    base, packed, glow, bumps = picture(0), picture(1, "RGB"), picture(2, "RGB"), picture(3, "RGB", (8, 8))
    material = PBRMaterial(
        baseColorFactor=[255, 128, 0, 64],
        baseColorTexture=base,
        metallicFactor=0.25,
        roughnessFactor=0.75,
        metallicRoughnessTexture=packed,
        emissiveFactor=[0.0, 0.5, 1.0],
        emissiveTexture=glow,
        normalTexture=bumps,
        occlusionTexture=packed,
        doubleSided=True,
        alphaMode="MASK",
        alphaCutoff=0.4,
    )

    def edit(header):
        stored = header["materials"][0]
        stored["pbrMetallicRoughness"]["baseColorFactor"] = [1.0, 0.5, 0.0, 0.25]
        stored["normalTexture"]["scale"] = 0.5
        stored["extensions"] = {"KHR_materials_emissive_strength": {"emissiveStrength": 2.0}}
        header["samplers"] = [{"wrapS": 33071, "wrapT": 33648, "magFilter": 9728}]
        base_texture = stored["pbrMetallicRoughness"]["baseColorTexture"]["index"]
        header["textures"][base_texture]["sampler"] = 0

    path = write(tmp_path, part(material), edit=edit)
    mesh = load_textured_mesh(path)
    (found,) = mesh.materials
    assert found.base_color_factor == pytest.approx((1.0, float(linear_to_srgb(0.5)), 0.0))
    assert (found.metallic_factor, found.roughness_factor) == (0.25, 0.75)
    assert (found.alpha_mode, found.alpha_cutoff, found.alpha_factor) == ("MASK", 0.4, 0.25)
    assert found.emissive_factor == pytest.approx((0.0, 1.0, float(linear_to_srgb(2.0))))
    assert found.normal_scale == 0.5
    assert np.array_equal(found.base_color_texture.image.numpy(), np.asarray(base)[..., :3])
    assert np.array_equal(found.alpha_texture.image.numpy(), np.asarray(base)[..., 3:])
    assert np.array_equal(found.metallic_texture.image.numpy(), np.asarray(packed)[..., 2:])
    assert np.array_equal(found.roughness_texture.image.numpy(), np.asarray(packed)[..., 1:2])
    assert np.array_equal(found.emissive_texture.image.numpy(), np.asarray(glow))
    assert np.array_equal(found.normal_texture.image.numpy(), np.asarray(bumps))
    assert np.array_equal(found.occlusion_texture.image.numpy(), np.asarray(packed)[..., :1])
    assert found.double_sided
    assert (found.base_color_texture.wrap, found.base_color_texture.filter) == (("clamp", "mirror"), "nearest")
    assert (found.metallic_texture.wrap, found.metallic_texture.filter) == (("repeat", "repeat"), "linear")
    np.testing.assert_allclose(mesh.uv.numpy(), UV, atol=1e-7)
    (stored,) = load_textured_mesh(path, factors="stored").materials
    assert stored.base_color_factor == pytest.approx((1.0, 0.5, 0.0))
    assert stored.emissive_factor == pytest.approx((0.0, 1.0, 2.0))


def test_an_image_stands_upright(tmp_path):
    image = np.zeros((4, 4, 3), np.uint8)
    image[:2] = (255, 0, 0)
    square = trimesh.Trimesh([[-0.45, -0.45, 0.01], [0.45, -0.45, 0.01], [0.45, 0.45, 0.01], [-0.45, 0.45, 0.01]],
                             [[0, 1, 2], [0, 2, 3]], process=False)  # fmt: skip
    uv = np.array([[0.0, 0], [1, 0], [1, 1], [0, 1]])
    square.visual = trimesh.visual.TextureVisuals(uv=uv, material=PBRMaterial(baseColorTexture=Image.fromarray(image)))
    mesh = load_textured_mesh(write(tmp_path, square))
    field = voxel_materials(mesh, Grid.cube(20)).field
    # The file's y is our z.
    height = field.grid.centers(field.coords)[:, 2]
    clear = (height.abs() > 0.06) & (height.abs() < 0.4)
    assert torch.equal(field.attrs[clear, 0] > 0.5, height[clear] > 0)


def test_objects_are_placed_and_share_materials(tmp_path):
    material = PBRMaterial(baseColorTexture=picture())
    scene = trimesh.Scene()
    scene.add_geometry(part(material), geom_name="a", node_name="a1")
    scene.graph.update(frame_to="a2", geometry="a", matrix=trimesh.transformations.translation_matrix([5, 0, 0]))
    mirror = np.diag([-1.0, 1, 1, 1])
    scene.add_geometry(part(PBRMaterial(roughnessFactor=0.5)), geom_name="b", node_name="b", transform=mirror)
    for placed in scene.geometry.values():
        assert len(placed.vertex_normals) == 4  # which are then written, too
    mesh = load_textured_mesh(write(tmp_path, scene))
    assert len(mesh.mesh.faces) == 6
    assert len(mesh.materials) == 2
    assert mesh.material_ids.bincount().tolist() in ([4, 2], [2, 4])
    corners = mesh.mesh.vertices[mesh.mesh.faces]
    found = {tuple(sorted(map(tuple, triangle))) for triangle in corners.round(decimals=4).tolist()}
    flipped, moved = Z_UP * torch.tensor([-1.0, 1, 1]), Z_UP + torch.tensor([5.0, 0, 0])
    expected = {tuple(sorted(map(tuple, c[face].tolist()))) for c in (Z_UP, flipped, moved) for face in FACES}
    assert found == expected
    outward = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    smooth = mesh.normals[mesh.mesh.faces].sum(1)
    assert bool(((outward * smooth).sum(1) > 0).all())


@pytest.mark.parametrize("suffix", [".glb", ".ply", ".obj"])
def test_vertex_colors(tmp_path, suffix):
    colors = np.array([[255, 0, 0, 255], [0, 128, 0, 255], [0, 0, 64, 255], [10, 20, 30, 255]], np.uint8)
    mesh = load_textured_mesh(write(tmp_path, part(vertex_colors=colors), suffix))
    values = colors / 255
    if suffix == ".glb":
        values[:, :3] = linear_to_srgb(values[:, :3])
    assert len(mesh.mesh.vertices) == 4
    np.testing.assert_allclose(mesh.vertex_colors.numpy(), values, atol=1e-3)
    assert mesh.materials[0].metallic_factor == 0.0


def test_face_colors():
    mesh = from_trimesh(part(face_colors=np.array([[255, 0, 0, 255], [0, 255, 0, 255]], np.uint8)), y_up=False)
    assert mesh.mesh.vertices.shape == (6, 3)
    assert torch.equal(mesh.mesh.vertices[mesh.mesh.faces], torch.from_numpy(VERTICES).float()[FACES])
    assert mesh.vertex_colors[mesh.mesh.faces[1]].tolist() == [[0.0, 1.0, 0.0, 1.0]] * 3


def test_obj_materials(tmp_path):
    image = picture(mode="RGB")
    path = write(tmp_path, part(SimpleMaterial(image=image, diffuse=[10, 20, 30, 255])), ".obj")
    mesh = load_textured_mesh(path)
    (found,) = mesh.materials
    assert found.base_color_factor == (1.0, 1.0, 1.0)
    assert found.base_color_texture.image.shape == (2, 4, 3)
    assert found.metallic_factor == 0.0
    corner_uv = mesh.uv[mesh.mesh.faces].numpy()
    np.testing.assert_allclose(corner_uv, UV[FACES], atol=1e-6)
    plain = from_trimesh(part(SimpleMaterial(diffuse=[51, 102, 255, 128])), y_up=True).materials[0]
    assert plain.base_color_factor == pytest.approx((0.2, 0.4, 1.0))
    assert (plain.alpha_mode, plain.alpha_factor) == ("BLEND", pytest.approx(128 / 255))


def test_names_that_are_not_utf8_still_agree(tmp_path):
    name = "stoff_é".encode("latin-1")
    (tmp_path / "a.mtl").write_bytes(b"newmtl " + name + b"\nKd 0.2 0.4 1.0\n")
    lines = b"mtllib a.mtl\nusemtl " + name + b"\nv 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0 0\nf 1/1 2/1 3/1\n"
    (tmp_path / "a.obj").write_bytes(lines)
    (found,) = load_textured_mesh(tmp_path / "a.obj").materials
    assert found.base_color_factor == pytest.approx((0.2, 0.4, 1.0))


def test_a_trimesh_material_without_its_file():
    scene = trimesh.Scene([part(PBRMaterial(baseColorFactor=[255, 51, 0, 255], baseColorTexture=picture()), uv=None)])
    mesh = from_trimesh(scene, y_up=True, factors="stored")
    assert mesh.materials[0].base_color_factor == pytest.approx((1.0, 0.2, 0.0))
    assert mesh.uv.tolist() == [[0.0, 0.0]] * 4
    assert torch.equal(mesh.mesh.vertices, Z_UP)


def test_srgb_there_and_back():
    values = torch.linspace(0, 1, 100, dtype=torch.float64)
    np.testing.assert_allclose(linear_to_srgb(to_linear(values).numpy()), values.numpy(), atol=1e-7)


def test_malformed_files_are_refused(tmp_path):
    whole = write(tmp_path, part(PBRMaterial(baseColorTexture=picture()))).read_bytes()
    path = tmp_path / "broken.glb"
    for length in (0, 3, 19, 40, 200, len(whole) - 8):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"broken\.glb"):
            load_textured_mesh(path)
    for content in (b"PK" + whole[2:], whole[:4] + b"\x01" + whole[5:], whole.replace(b'"meshes"', b'"m\x00shes"', 1)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"broken\.glb"):
            load_textured_mesh(path)


@pytest.mark.parametrize("suffix", [".glb", ".obj", ".ply", ".stl"])
def test_bytes_changed_at_random_are_read_or_refused(tmp_path, suffix):
    path = write(tmp_path, part(PBRMaterial(baseColorTexture=picture())), suffix)
    whole = path.read_bytes()
    generator = np.random.default_rng(0)
    for _ in range(60):
        changed = np.frombuffer(whole, np.uint8).copy()
        changed[generator.integers(0, len(whole), 3)] = generator.integers(0, 256, 3)
        path.write_bytes(changed.tobytes())
        try:
            load_textured_mesh(path)
        except ValueError as error:
            assert f"mesh{suffix}" in str(error)


@pytest.mark.parametrize("suffix", [".obj", ".ply", ".stl", ".gltf"])
def test_files_that_are_no_meshes_are_refused(tmp_path, suffix):
    path = tmp_path / f"no{suffix}"
    path.write_bytes(b"this is no mesh\n")
    with pytest.raises(ValueError, match=rf"no\{suffix}"):
        load_textured_mesh(path)


def test_wrong_paths_and_options(tmp_path):
    with pytest.raises(FileNotFoundError, match="none"):
        load_textured_mesh(tmp_path / "none.glb")
    with pytest.raises(ValueError, match="expected one of"):
        load_textured_mesh(tmp_path / "scene.fbx")
    path = write(tmp_path, part())
    with pytest.raises(ValueError, match="up"):
        load_textured_mesh(path, up="x")
    with pytest.raises(ValueError, match="factors"):
        load_textured_mesh(path, factors="linear")
    points = tmp_path / "points.ply"
    trimesh.PointCloud(VERTICES).export(points)
    with pytest.raises(ValueError, match="at least one triangle"):
        load_textured_mesh(points)


def test_a_missing_library_is_named(tmp_path, monkeypatch):
    path = write(tmp_path, part(), ".obj")
    monkeypatch.setattr(mesh_files, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"needs the package trimesh, which install\.py adds"):
        load_textured_mesh(path)


def test_texts_in_other_encodings(tmp_path):
    lines = "# Größe\nv 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n"
    corner = "vertex 0 0 0\nvertex 1 0 0\nvertex 0 1 0\n"
    solid = f"solid Größe\nfacet normal 0 0 1\nouter loop\n{corner}endloop\nendfacet\nendsolid Größe\n"
    face = "element face 1\nproperty list uchar int vertex_indices\n"
    files = {
        "a.obj": lines.encode("utf-16"),
        "b.obj": lines.encode("utf-8-sig"),
        "c.obj": lines.encode("latin-1"),
        "d.stl": solid.encode("latin-1"),
        "e.ply": (PLY.format("comment Größe\n", face) + "3 0 1 2\n").encode("latin-1"),
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        corners = load_textured_mesh(tmp_path / name, up="z").mesh
        assert corners.vertices[corners.faces[0]].tolist() == [[0, 0, 0], [1, 0, 0], [0, 1, 0]], name


@pytest.mark.parametrize("order", ["ascii", "<", ">"])
def test_strips_of_a_ply_are_triangles(tmp_path, order):
    """Two strips: 0 1 2 3, whose second triangle is turned, and 3 2 1."""
    strip = [0, 1, 2, 3, -1, 3, 2, 1, -1]
    header = PLY.format("", "element tristrips 1\nproperty list int int vertex_indices\n")
    if order == "ascii":
        content = header.encode() + f"{len(strip)} {' '.join(map(str, strip))}\n".encode()
    else:
        name = {"<": "binary_little_endian", ">": "binary_big_endian"}[order]
        head = header.partition("end_header\n")[0].replace("ascii", name) + "end_header\n"
        points = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0]], f"{order}f4")
        content = head.encode() + points.tobytes() + np.array([len(strip), *strip], f"{order}i4").tobytes()
    (tmp_path / "a.ply").write_bytes(content)
    assert load_textured_mesh(tmp_path / "a.ply").mesh.faces.tolist() == [[0, 1, 2], [2, 1, 3], [3, 2, 1]]


def test_an_obj_without_a_material_is_white_and_what_is_missing_is_said(tmp_path):
    body = "v 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0 0\nf 1/1 2/1 3/1\n"
    path, said = tmp_path / "a.obj", []
    path.write_text(body)
    (found,) = load_textured_mesh(path, on_warning=said.append).materials
    assert (found.base_color_factor, found.base_color_texture, said) == ((1.0, 1.0, 1.0), None, [])
    path.write_text("mtllib absent.mtl\nusemtl a\n" + body)
    load_textured_mesh(path, on_warning=said.append)
    assert "material library 'absent.mtl'" in said.pop()
    (tmp_path / "a.mtl").write_text("newmtl a\nmap_Kd no.png\nnewmtl b\nmap_Kd broken.png\nnewmtl c\nmap_Kd half.png\n")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    whole = io.BytesIO()
    picture(size=(64, 64)).save(whole, "PNG")
    (tmp_path / "half.png").write_bytes(whole.getvalue()[:2000])
    uses = "".join(f"usemtl {name}\nf 1/1 2/1 3/1\n" for name in "abcd")
    path.write_text("mtllib a.mtl\n" + body + uses)
    mesh = load_textured_mesh(path, on_warning=said.append)
    assert not any(material.base_color_texture for material in mesh.materials)
    for word in ("no.png", "broken.png", "half.png", "material 'd'"):
        assert any(word in line for line in said), (word, said)


def test_an_obj_of_ours_keeps_its_maps_and_factors(tmp_path):
    """There and back again: roughness, metal, emission, opacity and normals stand in the library."""
    generator = np.random.default_rng(3)
    images = {
        name: Texture(torch.from_numpy(generator.integers(0, 255, (4, 4, 1 if width == 1 else 3), np.uint8)))
        for name, width in TEXTURE_CHANNELS.items()
        if name != "occlusion_texture"
    }
    factors = {"metallic_factor": 0.75, "roughness_factor": 0.25, "emissive_factor": (0.5, 1.0, 0.25)}
    material = Material(alpha_mode="BLEND", alpha_factor=0.5, normal_scale=0.5, **factors, **images)
    plain = Material(metallic_factor=1.0, roughness_factor=0.5, base_color_factor=(0.2, 0.4, 0.6))
    mesh = Mesh(torch.from_numpy(VERTICES).float(), torch.from_numpy(FACES))
    whole = TexturedMesh(mesh, (material, plain), torch.tensor([0, 1]), torch.from_numpy(UV).float())
    said = []
    found = load_textured_mesh(write_obj(tmp_path / "a.obj", whole), on_warning=said.append)
    assert said == []
    read = sorted(found.materials, key=lambda row: row.base_color_texture is None)
    for number, (ours, back) in enumerate(zip((material, plain), read, strict=True)):
        for name, value in vars(replace(ours, name=f"material_{number}")).items():
            other = getattr(back, name)
            if isinstance(value, Texture):
                assert torch.equal(other.image, value.image), name
            else:
                assert other == (pytest.approx(value, abs=2e-3) if isinstance(value, float | tuple) else value), name


def bomb(side: int, claimed: int | None = None) -> bytes:
    """A PNG of side^2 pixels in a few bytes a row. claimed: the side that its header gives, in place of its own."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">2I5B", claimed or side, claimed or side, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes(side * (1 + side // 8)), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_a_picture_that_unfolds_to_too_much_is_refused_before_it_is_decoded():
    assert images.decoded(bomb(64)).shape == (64, 64, 4)
    with pytest.raises(ValueError, match="at most 1,000 pixels, got 64 × 64; make it smaller"):
        images.decoded(bomb(64), 1000)
    for claimed in (11_586, 1 << 30):  # above our limit, and above Pillow's own
        with pytest.raises(ValueError, match="at most 134,217,728 pixels, got"):
            images.decoded(bomb(64, claimed))


def test_pillows_errors_are_ours_and_no_program_is_run(monkeypatch):
    # Pillow hands a PostScript picture to a program, where one is installed.
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_: pytest.fail("a program was run"))
    page = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"
    for content, words in ((page, "no image format"), (b"", "no image format"), (bomb(64)[:50], "damaged image")):
        with pytest.raises(ValueError, match=words):
            images.decoded(content)
