"""Textured GLB files: what Khronos' validator says, what trimesh reads, what comes back, and what fits in a size."""

import io
import json
import shutil
import struct
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from comfyui_trellis2.o_voxel.core.color import to_linear
from comfyui_trellis2.o_voxel.files.meshes.gltf import document as gltf
from comfyui_trellis2.o_voxel.files.meshes.gltf.glb import encode_glb, write_glb
from comfyui_trellis2.o_voxel.files.meshes.options import SaveOptions
from comfyui_trellis2.o_voxel.files.meshes.read import load_textured_mesh
from comfyui_trellis2.o_voxel.material import Material, Texture, TexturedMesh
from comfyui_trellis2.o_voxel.values import Mesh
from PIL import Image

VALIDATOR = Path(__file__).parents[3] / "gltf_validator"
WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4}
DTYPES = {5120: np.int8, 5121: np.uint8, 5122: np.int16, 5123: np.uint16, 5125: np.uint32, 5126: np.float32}


def document(content: bytes) -> tuple[dict, bytes]:
    length = struct.unpack_from("<I", content, 12)[0]
    return json.loads(content[20 : 20 + length]), content[28 + length :]


def array(content: bytes, row: int) -> np.ndarray:
    """An accessor's values [N, C] as they are stored."""
    found, binary = document(content)
    accessor = found["accessors"][row]
    view, dtype = found["bufferViews"][accessor["bufferView"]], np.dtype(DTYPES[accessor["componentType"]])
    width = WIDTHS[accessor["type"]]
    stride = view.get("byteStride", width * dtype.itemsize)
    assert stride % 4 == 0 or accessor["type"] == "SCALAR"
    assert view["byteOffset"] % 4 == 0
    return np.ndarray((accessor["count"], width), dtype, binary, view["byteOffset"], (stride, dtype.itemsize))


def attributes(content: bytes, primitive: int = 0) -> dict[str, np.ndarray]:
    stored = document(content)[0]["meshes"][0]["primitives"][primitive]
    return {name: array(content, row) for name, row in {**stored["attributes"], "indices": stored["indices"]}.items()}


def images(content: bytes) -> list[Image.Image]:
    found, binary = document(content)
    views = [found["bufferViews"][image["bufferView"]] for image in found.get("images", [])]
    return [Image.open(io.BytesIO(binary[v["byteOffset"] : v["byteOffset"] + v["byteLength"]])) for v in views]


def variants(ball, materials):
    """{name: (mesh, options)} of every kind of file."""
    colors = torch.rand(len(ball((Material(),)).mesh.vertices), 4, generator=torch.Generator().manual_seed(3))
    found = {f"{name}": (ball((material,)), SaveOptions()) for name, material in materials.items()}
    for name, options in {
        "jpeg": SaveOptions(image_format="jpeg"),
        "webp": SaveOptions(image_format="webp"),
        "quantized": SaveOptions(quantize=True),
        "flat": SaveOptions(crease_deg=None),
        "creased": SaveOptions(crease_deg=10, scale=100.0),
        "small": SaveOptions(max_texture=8),
    }.items():
        found |= {f"{name} {kind}": (ball((materials[kind],)), options) for kind in ("all", "blend", "plain")}
    painted = TexturedMesh(ball((Material(),)).mesh, vertex_colors=colors)
    several = (materials["all"], materials["plain"], materials["blend"])
    ids = torch.arange(len(painted.mesh.faces)) % 2 * 2
    for kind, options in {"": SaveOptions(), " quantized": SaveOptions(quantize=True)}.items():
        found |= {f"colors{kind}": (painted, options), f"several{kind}": (ball(several, material_ids=ids), options)}
        found[f"large{kind}"] = (ball((materials["packed"],), rows=190), options)
        found[f"far{kind}"] = (moved_uv(ball((materials["color"],))), options)
        found[f"parts{kind}"] = (parted(ball(several, material_ids=ids)), options)
    return found | {"bare": (painted.mesh, SaveOptions())}


def parted(mesh: TexturedMesh) -> TexturedMesh:
    """In four parts, two of one name and one without."""
    return replace(mesh, part_ids=torch.arange(len(mesh.mesh.faces)) // 3 % 4, part_names=("Räder", "b", "", "b"))


def moved_uv(mesh: TexturedMesh) -> TexturedMesh:
    return TexturedMesh(mesh.mesh, mesh.materials, uv=mesh.uv * 3 - 1, uv_faces=mesh.uv_faces)


def reports(paths: list[Path]) -> dict[str, dict]:
    if not (VALIDATOR / "node_modules" / "gltf-validator").is_dir() or shutil.which("node") is None:
        pytest.skip(f"no gltf-validator: npm ci in {VALIDATOR}")
    command = ["node", str(VALIDATOR / "validate.js"), *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return {Path(name).stem: report["issues"] for name, report in json.loads(done.stdout).items()}


@pytest.mark.slow
def test_khronos_finds_no_error_and_no_warning(tmp_path, ball, materials):
    found = variants(ball, materials)
    paths = [write_glb(tmp_path / f"{name}.glb", mesh, options=options) for name, (mesh, options) in found.items()]
    issues = reports(paths)
    assert len(issues) == len(found)
    wrong = {name: i["messages"][:3] for name, i in issues.items() if i["numErrors"] or i["numWarnings"]}
    assert wrong == {}
    indices = {a.dtype.name for path in paths for a in [attributes(path.read_bytes())["indices"]]}
    assert indices == {"uint16", "uint32"}


def test_khronos_sees_what_is_wrong(tmp_path, ball, materials):
    path = write_glb(tmp_path / "a.glb", ball((materials["plain"],)))
    path.write_bytes(path.read_bytes().replace(b'"TEXCOORD_0"', b'"TEXCOORD_1"'))
    assert reports([path])["a"]["numErrors"] > 0


def test_draco(tmp_path, ball, materials):
    pytest.importorskip("DracoPy", reason="the optional package DracoPy")
    colors = torch.ones(len(ball((Material(),)).mesh.vertices), 4)
    meshes = {"all": ball((materials["all"],)), "colors": ball((Material(),), vertex_colors=colors)}
    ids = torch.arange(len(meshes["all"].mesh.faces)) % 2
    meshes["two"] = ball((materials["all"], materials["plain"]), material_ids=ids)
    paths = {
        name: write_glb(tmp_path / f"{name}.glb", m, options=SaveOptions(draco=True)) for name, m in meshes.items()
    }
    for name, path in paths.items():
        back, mesh = load_textured_mesh(path), meshes[name]
        assert len(back.mesh.faces) == len(mesh.mesh.faces)
        bounds = [torch.stack([m.mesh.vertices.amin(0), m.mesh.vertices.amax(0)]) for m in (back, mesh)]
        torch.testing.assert_close(*bounds, atol=1e-4, rtol=0)
        outward = back.mesh.vertices - torch.tensor([0.1, 0, 0])
        a, b, c = outward[back.mesh.faces].unbind(1)
        assert bool(((torch.linalg.cross(b - a, c - a) * a).sum(1) > 0).all())
        torch.testing.assert_close(back.normals, outward / outward.norm(dim=1, keepdim=True), atol=0.05, rtol=0)
        height = 0.5 + (outward[:, 2] / 0.4).clamp(-1, 1).asin() / torch.pi
        torch.testing.assert_close(back.uv[:, 1], height, atol=0.02, rtol=0)
        assert path.read_bytes() == encode_glb(mesh, options=SaveOptions(draco=True)).content
    assert all(i["numErrors"] + i["numWarnings"] == 0 for i in reports(list(paths.values())).values())


def test_draco_that_is_not_there(monkeypatch, ball, materials):
    monkeypatch.setitem(__import__("sys").modules, "DracoPy", None)
    with pytest.raises(ImportError, match="pip install DracoPy"):
        encode_glb(ball((materials["plain"],)), options=SaveOptions(draco=True))


def test_attributes_and_their_frames(ball, materials):
    mesh = ball((materials["all"],))
    found = attributes(encode_glb(mesh).content)
    assert list(found) == ["POSITION", "NORMAL", "TANGENT", "TEXCOORD_0", "indices"]
    place, normal, tangent = (found[name].astype(np.float64) for name in ("POSITION", "NORMAL", "TANGENT"))
    outward = place - [0.1, 0, 0]
    np.testing.assert_allclose(normal, outward / np.linalg.norm(outward, axis=1, keepdims=True), atol=0.03)
    np.testing.assert_allclose(np.linalg.norm(normal, axis=1), 1, atol=1e-6)
    # u runs east, v runs north, which is glTF's +y.
    uv = found["TEXCOORD_0"]
    middle = np.abs(place[:, 1]) < 0.3
    east = np.cross([0, 1, 0], outward)
    assert bool(((east * tangent[:, :3]).sum(1)[middle] > 0).all())
    north = np.cross(normal, tangent[:, :3]) * tangent[:, 3:]
    assert bool((north[middle, 1] > 0).all())
    np.testing.assert_allclose(uv[:, 1], 0.5 - np.arcsin((place[:, 1] / 0.4).clip(-1, 1)) / np.pi, atol=1e-4)


def test_a_face_winds_and_shades_outward(ball, materials):
    found = attributes(encode_glb(ball((materials["packed"],))).content)
    corners = found["POSITION"][found["indices"].reshape(-1, 3)].astype(np.float64)
    facing = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    assert bool(((facing * (corners.mean(1) - [0.1, 0, 0])).sum(1) > 0).all())


def test_images_are_packed_and_their_bytes_are_kept(ball, materials):
    material = materials["all"]
    content = encode_glb(ball((material,))).content
    base, packed, normal, glow = (np.asarray(image) for image in images(content))
    np.testing.assert_array_equal(base, material.base_color_texture.image)
    parts = (material.occlusion_texture, material.roughness_texture, material.metallic_texture)
    np.testing.assert_array_equal(packed, np.concatenate([part.image.numpy() for part in parts], 2))
    np.testing.assert_array_equal(normal, material.normal_texture.image)
    np.testing.assert_array_equal(glow, material.emissive_texture.image)
    (stored,) = document(content)[0]["materials"]
    surface = stored["pbrMetallicRoughness"]
    assert surface["metallicRoughnessTexture"] == stored["occlusionTexture"] == {"index": 1}
    assert stored["normalTexture"] == {"index": 2, "scale": 0.5} and stored["doubleSided"] is True
    light = to_linear(torch.tensor([0.5, 1.2], dtype=torch.float64)).tolist()
    assert stored["extensions"]["KHR_materials_emissive_strength"]["emissiveStrength"] == pytest.approx(light[1])
    assert stored["emissiveFactor"] == pytest.approx([light[0] / light[1], 1.0, 0.0])
    assert "alphaMode" not in stored


def test_what_is_missing_in_a_packed_image_is_white(ball, materials):
    rough = Material(roughness_texture=materials["packed"].roughness_texture)
    (packed,) = images(encode_glb(ball((rough,))).content)
    assert np.asarray(packed)[..., [0, 2]].min() == 255


def test_alpha_makes_the_base_colour_rgba_where_it_counts(ball, materials):
    blend = materials["blend"]
    assert [image.mode for image in images(encode_glb(ball((blend,))).content)] == ["RGBA"]
    fields = {"base_color_texture": blend.base_color_texture, "alpha_texture": blend.alpha_texture}
    assert [image.mode for image in images(encode_glb(ball((Material(**fields),))).content)] == ["RGB"]
    full = Texture(torch.full((4, 4, 1), 255, dtype=torch.uint8))
    whole = Material(base_color_texture=blend.base_color_texture, alpha_texture=full, alpha_mode="BLEND")
    assert [image.mode for image in images(encode_glb(ball((whole,))).content)] == ["RGB"]
    jpeg = encode_glb(ball((blend, materials["color"])), options=SaveOptions(image_format="jpeg")).content
    assert [image.format for image in images(jpeg)] == ["PNG"]


def test_sizes_that_differ_take_the_larger(ball):
    large, small = torch.zeros(16, 8, 1, dtype=torch.uint8), torch.full((4, 4, 1), 77, dtype=torch.uint8)
    material = Material(roughness_texture=Texture(large), metallic_texture=Texture(small))
    (packed,) = images(encode_glb(ball((material,))).content)
    assert packed.size == (8, 16) and np.unique(np.asarray(packed)[..., 2]).tolist() == [77]


def test_textures_of_one_image_are_read_alike(ball, materials):
    rough = materials["packed"].roughness_texture
    clamped = Texture(rough.image, ("clamp", "clamp"))
    with pytest.raises(ValueError, match="one wrap and filter"):
        encode_glb(ball((Material(roughness_texture=rough, metallic_texture=clamped),)))
    content = encode_glb(ball((Material(roughness_texture=rough, occlusion_texture=clamped),))).content
    (stored,) = document(content)[0]["materials"]
    assert stored["occlusionTexture"] == {"index": 1} and len(images(content)) == 2


def test_samplers(ball, materials):
    found = document(encode_glb(ball((materials["read"], materials["color"]))).content)[0]
    assert found["samplers"] == [{"magFilter": 9728, "minFilter": 9728, "wrapS": 33071, "wrapT": 33648}]
    found = document(encode_glb(ball((materials["color"],))).content)[0]
    assert found["samplers"] == [{"magFilter": 9729, "minFilter": 9987, "wrapS": 10497, "wrapT": 10497}]


def test_an_image_of_two_materials_is_stored_once(ball, materials):
    color = materials["color"]
    other = Material(base_color_texture=color.base_color_texture, roughness_factor=0.1)
    ids = torch.arange(len(ball((color,)).mesh.faces)) % 2
    found = document(encode_glb(ball((color, other), material_ids=ids)).content)[0]
    assert len(found["images"]) == 1 and len(found["materials"]) == len(found["meshes"][0]["primitives"]) == 2


@pytest.mark.parametrize("kind", ["plain", "all", "mask", "blend", "glow", "read"])
@pytest.mark.parametrize("quantize", [False, True])
def test_a_mesh_comes_back(tmp_path, ball, materials, kind, quantize):
    mesh = ball((materials[kind],))
    options = SaveOptions(quantize=quantize)
    back = load_textured_mesh(write_glb(tmp_path / "a.glb", mesh, options=options))
    place, uv = (1e-5, 1e-5) if quantize else (0, 1e-7)
    corners = mesh.mesh.vertices[mesh.mesh.faces], mesh.uv[mesh.uv_faces]
    torch.testing.assert_close(back.mesh.vertices[back.mesh.faces], corners[0], atol=place, rtol=0)
    torch.testing.assert_close(back.uv[back.mesh.faces], corners[1], atol=uv, rtol=0)
    outward = torch.nn.functional.normalize(back.mesh.vertices - torch.tensor([0.1, 0, 0]), dim=1)
    torch.testing.assert_close(back.normals, outward, atol=0.04, rtol=0)
    (found,), (given,) = back.materials, mesh.materials
    for name, value in vars(given).items():
        other = getattr(found, name)
        if isinstance(value, Texture):
            assert torch.equal(other.image, value.image), name
            assert (other.wrap, other.filter) == (value.wrap, value.filter)
        elif isinstance(value, tuple | float):
            assert other == pytest.approx(value, abs=1e-6), name
        elif value is not None:
            assert other == value, name


def test_trimesh_reads_the_same(tmp_path, ball, materials):
    mesh = ball((materials["packed"],))
    path = write_glb(tmp_path / "a.glb", mesh)
    (loaded,) = trimesh.load_scene(path, process=False).geometry.values()
    found = attributes(path.read_bytes())
    np.testing.assert_array_equal(loaded.vertices, found["POSITION"])
    np.testing.assert_array_equal(loaded.faces, found["indices"].reshape(-1, 3))
    np.testing.assert_array_equal(loaded.vertex_normals, found["NORMAL"])
    np.testing.assert_allclose(
        loaded.visual.uv, np.stack([found["TEXCOORD_0"][:, 0], 1 - found["TEXCOORD_0"][:, 1]], 1)
    )
    read = np.asarray(loaded.visual.material.baseColorTexture.convert("RGB"))
    np.testing.assert_array_equal(read, mesh.materials[0].base_color_texture.image)


def test_indices_grow_when_they_must(ball, materials):
    """65535 vertices fit in 16 bits; index 65535 itself is reserved."""
    for count, dtype in ((65535, np.uint16), (65536, np.uint32)):
        faces = torch.arange(count).roll(1)[:, None] + torch.zeros(3, dtype=torch.int64)
        content = encode_glb(Mesh(torch.rand(count, 3), faces), options=SaveOptions(crease_deg=None)).content
        assert attributes(content)["indices"].dtype == dtype


@pytest.mark.parametrize("kind", ["jpeg", "webp"])
def test_lossy_images_are_near(ball, materials, kind):
    smooth = torch.linspace(0, 255, 64).round().to(torch.uint8)
    image = torch.stack([smooth.repeat(64, 1), smooth.repeat(64, 1).T, smooth.flip(0).repeat(64, 1)], 2)
    material = Material(base_color_texture=Texture(image), normal_texture=Texture(image))
    content = encode_glb(ball((material,)), options=SaveOptions(image_format=kind)).content
    found = document(content)[0]
    assert {entry["mimeType"] for entry in found["images"]} == {f"image/{kind}"}
    assert found.get("extensionsRequired", []) == (["EXT_texture_webp"] if kind == "webp" else [])
    for read in images(content):
        assert np.abs(np.asarray(read).astype(int) - image.numpy()).max() <= 12


def test_quantized_numbers(ball, materials):
    mesh = ball((materials["all"],))
    content = encode_glb(mesh, options=SaveOptions(quantize=True)).content
    found = attributes(content)
    kinds = {name: values.dtype.name for name, values in found.items()}
    assert kinds["POSITION"] == "int16" and kinds["NORMAL"] == kinds["TANGENT"] == "int8"
    assert kinds["TEXCOORD_0"] == "uint16"
    (node,) = document(content)[0]["nodes"]
    place = found["POSITION"] * np.array(node["scale"]) + node["translation"]
    exact = attributes(encode_glb(mesh).content)
    np.testing.assert_allclose(place, exact["POSITION"], atol=0.4 / 32767)
    np.testing.assert_allclose(found["NORMAL"] / 127, exact["NORMAL"], atol=0.005)
    np.testing.assert_allclose(found["TEXCOORD_0"] / 65535, exact["TEXCOORD_0"], atol=1e-5)
    assert len(content) < len(encode_glb(mesh).content)


def test_bytes_of_a_quantised_file_changed_at_random_are_read_or_refused(tmp_path, ball, materials):
    whole = encode_glb(ball((materials["color"],)), options=SaveOptions(quantize=True)).content
    text_end = 20 + struct.unpack_from("<I", whole, 12)[0]
    generator = np.random.default_rng(0)
    path = tmp_path / "a.glb"
    for _ in range(60):
        changed = np.frombuffer(whole, np.uint8).copy()
        changed[generator.integers(20, text_end, 2)] = generator.integers(32, 127, 2)
        path.write_bytes(changed.tobytes())
        try:
            load_textured_mesh(path)
        except ValueError as error:
            assert "a.glb" in str(error)


@pytest.mark.parametrize(
    "wrong", [{"count": 10**9}, {"count": -1}, {"byteOffset": -8}, {"componentType": 5126}], ids=str
)
def test_quantised_values_outside_the_file_are_refused(tmp_path, ball, materials, wrong):
    found, binary = document(encode_glb(ball((materials["color"],)), options=SaveOptions(quantize=True)).content)
    row = found["meshes"][0]["primitives"][0]["attributes"]["TEXCOORD_0"]
    found["accessors"][row] |= wrong
    (tmp_path / "a.glb").write_bytes(gltf.pack_glb(found, binary))
    with pytest.raises(ValueError, match=r"a\.glb.*accessor"):
        load_textured_mesh(tmp_path / "a.glb")


def test_one_point_of_a_mesh_can_be_quantised(tmp_path):
    mesh = Mesh(torch.full((3, 3), 2.0), torch.tensor([[0, 1, 2]]))
    back = load_textured_mesh(write_glb(tmp_path / "a.glb", mesh, options=SaveOptions(quantize=True)))
    assert torch.equal(back.mesh.vertices, mesh.vertices)


def test_given_normals_are_kept_and_mended(ball, materials):
    plain = ball((materials["plain"],)).mesh
    down = torch.tensor([0.0, 0.0, -2.0]).repeat(len(plain.vertices), 1)
    down[0], down[1, 1] = 0, float("nan")
    content = encode_glb(TexturedMesh(plain, normals=down)).content
    normal, place = attributes(content)["NORMAL"], attributes(content)["POSITION"]
    np.testing.assert_array_equal(normal[2:], np.broadcast_to([0, -1, 0], normal[2:].shape))
    outward = place[:2] - np.array([0.1, 0, 0])
    np.testing.assert_allclose(normal[:2], outward / np.linalg.norm(outward, axis=1, keepdims=True), atol=0.04)
    assert "NORMAL" not in attributes(encode_glb(plain, options=SaveOptions(crease_deg=None)).content)


def test_the_same_mesh_gives_the_same_bytes(ball, materials):
    for options in (SaveOptions(), SaveOptions(image_format="jpeg"), SaveOptions(image_format="webp", quantize=True)):
        mesh = ball((materials["all"],))
        assert encode_glb(mesh, options=options).content == encode_glb(mesh, options=options).content


def test_a_file_fits_in_its_size(ball, materials):
    mesh = ball((materials["all"], materials["blend"]), rows=16)
    free = encode_glb(mesh)
    assert free.changes == () and encode_glb(mesh, options=SaveOptions(max_bytes=len(free.content))) == free.__class__(
        free.content, SaveOptions(max_bytes=len(free.content)), ()
    )
    jpeg = encode_glb(mesh, options=SaveOptions(max_bytes=len(free.content) - 1))
    assert jpeg.changes == ("jpeg at quality 90",) and len(jpeg.content) < len(free.content)
    least = encode_glb(mesh, options=SaveOptions(image_format="jpeg", quality=70, quantize=True))
    assert encode_glb(mesh, options=SaveOptions(max_bytes=len(least.content))).content == least.content
    with pytest.raises(ValueError, match=f"expected at least {len(least.content):,}.*simplify"):
        encode_glb(mesh, options=SaveOptions(max_bytes=len(least.content) - 1))


def test_textures_shrink_last(ball):
    color = Texture(torch.randint(0, 256, (512, 256, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)))
    mesh = ball((Material(base_color_texture=color),))
    fitted = encode_glb(mesh, options=SaveOptions(max_bytes=20_000))
    assert len(fitted.content) <= 20_000
    assert fitted.changes == ("jpeg at quality 70", "quantised geometry", "textures of at most 128 texels")
    assert images(fitted.content)[0].size == (64, 128)
    assert encode_glb(mesh, options=fitted.options).content == fitted.content


def test_a_file_beyond_the_formats_size_is_refused(monkeypatch, ball, materials):
    size = len(encode_glb(ball((materials["plain"],))).content)
    monkeypatch.setattr(gltf, "MAX_SIZE", size)
    assert len(encode_glb(ball((materials["plain"],))).content) == size
    monkeypatch.setattr(gltf, "MAX_SIZE", size - 1)
    with pytest.raises(ValueError, match="simplify"):
        encode_glb(ball((materials["plain"],)))


def test_bad_numbers_are_refused(ball, materials):
    mesh = ball((materials["color"],))
    uv = mesh.uv.clone()
    uv[0, 0] = float("nan")
    with pytest.raises(ValueError, match="uv: expected finite"):
        encode_glb(TexturedMesh(mesh.mesh, mesh.materials, uv=uv, uv_faces=mesh.uv_faces))
    with pytest.raises(ValueError, match="vertex_colors: expected finite"):
        encode_glb(ball((Material(),), vertex_colors=torch.full((len(mesh.mesh.vertices), 4), float("inf"))))
    with pytest.raises(ValueError, match="material_ids: expected 0 to 0, got 0 to 5"):
        encode_glb(ball((Material(),), material_ids=torch.arange(len(mesh.mesh.faces)) % 6))
    with pytest.raises(ValueError, match="uv_faces"):
        encode_glb(TexturedMesh(mesh.mesh, mesh.materials, uv=mesh.uv, uv_faces=mesh.uv_faces + 1))
    with pytest.raises(ValueError, match="materials: expected None"):
        encode_glb(mesh, torch.zeros(len(mesh.mesh.vertices), 6))


@pytest.mark.parametrize(
    "wrong",
    [{"up": "x"}, {"image_format": "ktx"}, {"scale": 0.0}, {"scale": float("nan")}, {"crease_deg": 181.0},
     {"quality": 0}, {"png_level": 10}, {"max_bytes": 0}, {"max_texture": 0}, {"quantize": True, "draco": True}],
    ids=str,
)  # fmt: skip
def test_options_that_mean_nothing(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SaveOptions(**wrong)
