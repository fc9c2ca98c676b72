"""glTF files in: what the specification allows and exporters write, built here, one feature a file."""

import base64
import io
import json
import math
import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from comfyui_trellis2.o_voxel.core.color import linear_to_srgb
from comfyui_trellis2.o_voxel.files.meshes.gltf import draco
from comfyui_trellis2.o_voxel.files.meshes.gltf.glb import write_glb
from comfyui_trellis2.o_voxel.files.meshes.options import SaveOptions
from comfyui_trellis2.o_voxel.files.meshes.read import load_textured_mesh
from comfyui_trellis2.o_voxel.files.meshes.reading.gltf import primitives
from comfyui_trellis2.o_voxel.files.meshes.reading.gltf.meshopt import decode_view
from comfyui_trellis2.o_voxel.values import Mesh
from PIL import Image

CODES = {"i1": 5120, "u1": 5121, "i2": 5122, "u2": 5123, "u4": 5125, "f4": 5126}
SHAPES = {1: "SCALAR", 2: "VEC2", 3: "VEC3", 4: "VEC4", 16: "MAT4"}
POINTS = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]], np.float32)
UV = np.array([[0.25, 0.5], [0.75, 0.5], [0.25, 1.0]], np.float32)


class Builder:
    """A .gltf whose one buffer is a data URI."""

    def __init__(self):
        self.data = bytearray()
        self.json = {"asset": {"version": "2.0"}, "bufferViews": [], "accessors": []}

    def view(self, content, **more):
        self.data.extend(bytes(-len(self.data) % 4))
        row = {"buffer": 0, "byteOffset": len(self.data), "byteLength": len(content), **more}
        self.data.extend(content)
        self.json["bufferViews"].append(row)
        return len(self.json["bufferViews"]) - 1

    def accessor(self, values, **more):
        values = np.asarray(values)
        values = values[:, None] if values.ndim == 1 else values
        row = {"bufferView": self.view(values.tobytes()), "componentType": CODES[values.dtype.str[1:]]}
        row |= {"count": len(values), "type": SHAPES[values.shape[1]], **more}
        self.json["accessors"].append({key: value for key, value in row.items() if value is not None})
        return len(self.json["accessors"]) - 1

    def mesh(self, points=POINTS, primitive=None, mesh=None, **attributes):
        rows = {"POSITION": points} | attributes
        rows = {name: row if isinstance(row, int) else self.accessor(row) for name, row in rows.items()}
        self.json.setdefault("meshes", []).append(
            {"primitives": [{"attributes": rows, **(primitive or {})}], **(mesh or {})}
        )
        return len(self.json["meshes"]) - 1

    def write(self, path, **top):
        self.json |= top
        if "buffers" not in top:
            uri = "data:application/octet-stream;base64," + base64.b64encode(bytes(self.data)).decode()
            self.json["buffers"] = [{"uri": uri, "byteLength": len(self.data)}]
        path.write_text(json.dumps(self.json))
        return path


@pytest.fixture
def built():
    return Builder()


@pytest.fixture
def load(tmp_path):
    """load(builder, …) is (mesh, warnings) of the file."""

    def read(built, **top):
        said = []
        return load_textured_mesh(built.write(tmp_path / "a.gltf", **top), up="z", on_warning=said.append), said

    return read


def png(color=(255, 0, 0), size=(2, 2)):
    file = io.BytesIO()
    Image.new("RGB", size, color).save(file, "PNG")
    return file.getvalue()


def corners(mesh):
    return mesh.mesh.vertices[mesh.mesh.faces].numpy()


def test_a_required_extension_that_is_not_read_is_refused_by_name(built, load):
    built.mesh()
    with pytest.raises(ValueError, match=r"a\.gltf: .*requires ACME_shape, which is not read"):
        load(built, extensionsRequired=["KHR_mesh_quantization", "ACME_shape"])
    mesh, said = load(built, extensionsRequired=["KHR_materials_transmission"])
    assert len(mesh.mesh.faces) == 1
    assert said == ["KHR_materials_transmission is left out"]
    mesh, said = load(built, extensionsRequired=[], extensionsUsed=["ACME_shape"])
    assert (len(mesh.mesh.faces), said) == (1, [])


@pytest.mark.parametrize("version", ["1.0", "3.0", None])
def test_other_versions_are_refused(built, load, version):
    built.mesh()
    with pytest.raises(ValueError, match=r"expected glTF version 2\.0"):
        load(built, asset={} if version is None else {"version": version})


def test_normals_are_those_of_the_file_or_none(built, load):
    built.mesh()
    assert load(built)[0].normals is None
    built.mesh(POINTS + 1, NORMAL=np.tile(np.float32([0, 2, 0]), (3, 1)))
    mesh, _ = load(built)
    np.testing.assert_allclose(mesh.normals.numpy(), [[0, 0, 1]] * 3 + [[0, 1, 0]] * 3, atol=1e-6)


def test_sparse_values_replace_some_or_stand_alone(built, load):
    rows = built.view(np.uint16([1, 2]).tobytes())
    values = built.view(np.float32([[5, 0, 0], [0, 7, 0]]).tobytes())
    sparse = {"count": 2, "indices": {"bufferView": rows, "componentType": 5123}, "values": {"bufferView": values}}
    built.mesh(built.accessor(POINTS, sparse=sparse))
    built.mesh(built.accessor(POINTS, sparse=sparse, bufferView=None))
    expected = [[0, 0, 0], [5, 0, 0], [0, 7, 0]]
    np.testing.assert_array_equal(corners(load(built)[0]), [expected, expected])
    sparse["count"] = 4
    with pytest.raises(ValueError, match="sparse"):
        load(built)


def test_integers_are_normalised_and_interleaved_values_are_found(built, load):
    table = np.zeros(3, [("point", "<i2", 3), ("pad", "<u2"), ("uv", "u1", 2), ("colour", "u1", 4), ("pad2", "u2")])
    table["point"], table["uv"] = POINTS * 32767, UV * 255
    table["colour"] = (255, 51, 0, 128)
    view = built.view(table.tobytes(), byteStride=table.itemsize)
    rows = {}
    for name, (field, code, shape) in {
        "POSITION": ("point", "i2", "VEC3"), "TEXCOORD_0": ("uv", "u1", "VEC2"), "COLOR_0": ("colour", "u1", "VEC4")
    }.items():  # fmt: skip
        offset = table.dtype.fields[field][1]
        built.json["accessors"].append({"bufferView": view, "byteOffset": offset, "componentType": CODES[code],
                                        "count": 3, "type": shape, "normalized": True})  # fmt: skip
        rows[name] = len(built.json["accessors"]) - 1
    built.mesh(rows.pop("POSITION"), **rows)
    mesh, _ = load(built, nodes=[{"mesh": 0, "scale": [2, 2, 2]}], extensionsRequired=["KHR_mesh_quantization"])
    np.testing.assert_allclose(corners(mesh)[0], POINTS * 2, atol=1e-6)
    np.testing.assert_allclose(mesh.uv.numpy(), UV * [1, -1] + [0, 1], atol=1 / 255)
    expected = [1.0, float(linear_to_srgb(0.2)), 0.0, 128 / 255]
    np.testing.assert_allclose(mesh.vertex_colors[0].numpy(), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("mode", "faces"), [(4, [[0, 1, 2]]), (5, [[0, 1, 2], [1, 3, 2]]), (6, [[0, 1, 2], [0, 2, 3]])]
)
def test_strips_and_fans(built, load, mode, faces):
    points = np.float32([[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0], [9, 9, 9]])
    built.mesh(points, {"mode": mode, "indices": built.accessor(np.uint8([0, 1, 2, 3]))})
    mesh, _ = load(built)
    np.testing.assert_array_equal(corners(mesh), points[faces])
    assert len(mesh.mesh.vertices) == (3 if mode == 4 else 4)  # without those that no face uses
    built.mesh(primitive={"mode": 1})
    assert load(built)[1] == ["points and lines are left out"]


def test_nodes_are_placed_from_their_parents(built, load):
    built.mesh()
    turn = [0, 0, math.sin(math.pi / 4), math.cos(math.pi / 4)]
    nodes = [
        {"children": [1], "translation": [10, 0, 0]},
        {"children": [2], "rotation": turn},
        {"mesh": 0, "scale": [2, 1, 1]},
    ]
    mesh, _ = load(built, nodes=nodes, scenes=[{"nodes": []}, {"nodes": [0]}], scene=1)
    np.testing.assert_allclose(corners(mesh)[0], [[10, 0, 0], [10, 2, 0], [9, 0, 0]], atol=1e-6)
    hidden = {"extensions": {"KHR_node_visibility": {"visible": False}}}
    nodes = [{"mesh": 0}, {"mesh": 0, **hidden}]
    mesh, said = load(built, nodes=nodes, scenes=[{"nodes": [0, 1]}], scene=0)
    assert (len(mesh.mesh.faces), said) == (1, ["hidden nodes are left out"])


def test_cycles_are_refused_and_depth_is_not(built, load):
    built.mesh()
    for nodes in ([{"mesh": 0, "children": [0]}], [{"mesh": 0, "children": [1]}, {"children": [2]}, {"children": [1]}]):
        with pytest.raises(ValueError, match="expected trees"):
            load(built, nodes=nodes, scenes=[{"nodes": [0]}])
    deep = [{"children": [i + 1], "translation": [0, 0, 1]} for i in range(5000)] + [{"mesh": 0}]
    assert corners(load(built, nodes=deep)[0])[0, 0].tolist() == [0, 0, 5000]


def test_json_that_is_nested_too_deeply_is_refused(tmp_path):
    path = tmp_path / "a.gltf"
    path.write_text("[" * 200_000)
    with pytest.raises(ValueError, match=r"a\.gltf"):
        load_textured_mesh(path)


def test_instances(built, load):
    built.mesh()
    rows = {"TRANSLATION": np.float32([[0, 0, 1], [0, 0, 2]]), "SCALE": np.float32([[1, 1, 1], [3, 3, 3]])}
    attributes = {name: built.accessor(row) for name, row in rows.items()}
    extension = {"EXT_mesh_gpu_instancing": {"attributes": attributes}}
    nodes = [{"mesh": 0, "translation": [10, 0, 0], "extensions": extension}]
    mesh, _ = load(built, nodes=nodes, extensionsRequired=["EXT_mesh_gpu_instancing"])
    offset = np.float32([10, 0, 0])
    np.testing.assert_allclose(corners(mesh), [POINTS + offset + [0, 0, 1], POINTS * 3 + offset + [0, 0, 2]], atol=1e-6)


def test_morph_targets_have_their_default_weights(built, load):
    targets = [{"POSITION": built.accessor(np.float32([[0, 0, 4]] * 3))}, {"POSITION": built.accessor(POINTS)}]
    built.mesh(primitive={"targets": targets}, mesh={"weights": [0.5, 0.0]})
    np.testing.assert_allclose(corners(load(built)[0])[0], POINTS + np.float32([0, 0, 2]), atol=1e-6)
    mesh, _ = load(built, nodes=[{"mesh": 0, "weights": [0.0, 1.0]}])
    np.testing.assert_allclose(corners(mesh)[0], POINTS * 2, atol=1e-6)


def test_skinned_meshes_have_the_default_pose_of_their_joints(built, load):
    """The second vertex hangs on a joint that is 3 higher than where it was bound; the node itself does not count."""
    inverse = np.stack([np.eye(4), np.eye(4)]).astype(np.float32)
    inverse[1, 3, 1] = -2  # by columns: the joint was bound at y = 2
    skin = {"joints": [1, 2], "inverseBindMatrices": built.accessor(inverse.reshape(2, 16))}
    joints = np.uint8([[0, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0]])
    weights = np.float32([[1, 0, 0, 0], [2, 0, 0, 0], [0.5, 0.5, 0, 0]])
    built.mesh(JOINTS_0=joints, WEIGHTS_0=weights)
    nodes = [{"mesh": 0, "skin": 0, "translation": [99, 0, 0]}, {"children": [2]}, {"translation": [0, 5, 0]}]
    mesh, said = load(built, nodes=nodes, skins=[skin])
    np.testing.assert_allclose(corners(mesh)[0], POINTS + np.float32([[0, 0, 0], [0, 3, 0], [0, 1.5, 0]]), atol=1e-6)
    assert "default pose" in said[0]


def textured(built, reference, **top):
    view = built.view(png())
    top = {"images": [{"bufferView": view, "mimeType": "image/png"}], "textures": [{"source": 0}], **top}
    return {**top, "materials": [{"pbrMetallicRoughness": {"baseColorTexture": {"index": 0, **reference}}}]}


def test_texture_coordinates_are_those_that_the_texture_names(built, load):
    built.mesh(primitive={"material": 0}, TEXCOORD_0=UV * 0, TEXCOORD_1=UV)
    mesh, _ = load(built, **textured(built, {"texCoord": 1}))
    np.testing.assert_allclose(mesh.uv.numpy(), UV * [1, -1] + [0, 1], atol=1e-6)


def test_texture_transforms_turn_as_in_the_specifications_example(built, load):
    """«the lower left quadrant of the source image, rotated clockwise 90°»: the first corner of the whole image is then
    the quadrant's lower left one."""
    square = np.float32([[0, 0], [1, 0], [0, 1]])
    transform = {"offset": [0, 1], "rotation": math.pi / 2, "scale": [0.5, 0.5]}
    built.mesh(primitive={"material": 0}, TEXCOORD_0=square)
    mesh, _ = load(built, **textured(built, {"extensions": {"KHR_texture_transform": transform}}))
    down = mesh.uv.numpy() * [1, -1] + [0, 1]
    np.testing.assert_allclose(down, [[0, 1], [0, 0.5], [0.5, 1]], atol=1e-6)


def test_a_texture_that_lies_otherwise_than_the_first_is_named(built, load):
    built.mesh(primitive={"material": 0}, TEXCOORD_0=UV, TEXCOORD_1=UV * 2)
    top = textured(built, {})
    top["materials"][0] |= {
        "name": "wall",
        "occlusionTexture": {"index": 0, "texCoord": 1},
        "emissiveTexture": {"index": 0},
    }
    mesh, said = load(built, **top)
    (found,) = mesh.materials
    assert found.base_color_texture is not None
    assert found.occlusion_texture is None
    assert said == ["material 'wall': its occlusion texture has texture coordinates of its own, and is left out"]


def test_textures_that_cannot_be_read_are_named_and_left_out(built, load, tmp_path):
    (tmp_path / "broken.png").write_bytes(png(size=(64, 64))[:60])
    built.mesh(primitive={"material": 0}, TEXCOORD_0=UV)
    images = {
        "lost.png": {"uri": "lost.png"},
        "broken.png": {"uri": "broken.png"},
        "image 0": {"uri": "data:image/png;base64,AAAA"},
    }
    for name, image in images.items():
        mesh, said = load(built, **textured(built, {}, images=[image]))
        assert mesh.materials[0].base_color_texture is None
        assert len(said) == 1
        assert name in said[0]
        assert "left out" in said[0]
    other = {"extensions": {"KHR_texture_basisu": {"source": 0}}}
    assert "KHR_texture_basisu" in load(built, **textured(built, {}, textures=[other]))[1][0]
    mesh, said = load(built, **textured(built, {}, textures=[{"source": 0, **other}]))
    assert (mesh.materials[0].base_color_texture is not None, said) == (True, [])


def test_names_of_files_may_be_percent_encoded(built, load, tmp_path):
    (tmp_path / "a ä.png").write_bytes(png((0, 255, 0)))
    built.mesh(primitive={"material": 0}, TEXCOORD_0=UV)
    top = textured(built, {}, images=[{"uri": "a%20%C3%A4.png"}])
    (tmp_path / "my buffer.bin").write_bytes(bytes(built.data))
    mesh, said = load(built, **top, buffers=[{"uri": "my%20buffer.bin", "byteLength": len(built.data)}])
    assert mesh.materials[0].base_color_texture.image[0, 0].tolist() == [0, 255, 0]
    assert said == []


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes of POSIX")
def test_buffers_that_are_no_files_are_refused(built, load, tmp_path):
    os.mkfifo(tmp_path / "pipe.bin")
    built.mesh()
    for uri in ("pipe.bin", "none.bin", ".", "../a.bin"):
        with pytest.raises(ValueError, match="expected a file in the folder"):
            load(built, buffers=[{"uri": uri, "byteLength": 36}])


def test_specular_glossiness_is_converted(built, load):
    """A red metal, whose diffuse colour is black, and a blue dielectric."""
    name = "KHR_materials_pbrSpecularGlossiness"
    metal = {"diffuseFactor": [0, 0, 0, 1], "specularFactor": [0.9, 0.1, 0.1], "glossinessFactor": 0.75}
    cloth = {"diffuseFactor": [0, 0, 0.48, 1], "specularFactor": [0.04] * 3, "glossinessFactor": 0}
    for i in range(2):
        built.mesh(primitive={"material": i})
    mesh, said = load(
        built, materials=[{"extensions": {name: row}} for row in (metal, cloth)], extensionsRequired=[name]
    )
    red, blue = mesh.materials
    assert (red.metallic_factor, red.roughness_factor) == (pytest.approx(1, abs=1e-3), 0.25)
    np.testing.assert_allclose(red.base_color_factor, linear_to_srgb(np.array([0.9, 0.1, 0.1])), atol=1e-3)
    assert (blue.metallic_factor, blue.roughness_factor) == (pytest.approx(0, abs=1e-6), 1)
    np.testing.assert_allclose(blue.base_color_factor, linear_to_srgb(np.array([0, 0, 0.48])), atol=1e-3)
    assert len(said) == 2
    textured_cloth = {**cloth, "diffuseFactor": [1, 1, 1, 1], "diffuseTexture": {"index": 0}}
    built = Builder()
    built.mesh(primitive={"material": 0}, TEXCOORD_0=UV)
    top = textured(built, {})
    mesh, _ = load(built, **{**top, "materials": [{"extensions": {name: textured_cloth}}]})
    assert mesh.materials[0].base_color_texture.image[0, 0].tolist() == [255, 0, 0]
    assert int(mesh.materials[0].metallic_texture.image.max()) == 0


def test_draco_is_refused_without_its_package_unless_the_file_has_both(tmp_path, monkeypatch, built, load):
    pytest.importorskip("DracoPy", reason="another Python than its wheels are for")
    mesh = Mesh(torch.from_numpy(POINTS), torch.tensor([[0, 1, 2]]))
    path = write_glb(tmp_path / "a.glb", mesh, options=SaveOptions(draco=True))
    np.testing.assert_allclose(corners(load_textured_mesh(path)), POINTS[None], atol=1e-3)
    monkeypatch.setattr(primitives, "has_draco", lambda: False)
    monkeypatch.setitem(__import__("sys").modules, "DracoPy", None)
    with pytest.raises(ValueError, match="needs the package DracoPy: pip install DracoPy"):
        load_textured_mesh(path)
    view = built.view(b"DRACO")
    built.mesh(primitive={"extensions": {draco.EXTENSION: {"bufferView": view, "attributes": {"POSITION": 0}}}})
    np.testing.assert_array_equal(corners(load(built)[0])[0], POINTS)


FIXTURES = json.loads(Path(__file__).with_name("meshopt.json").read_text())


@pytest.mark.parametrize("name", FIXTURES)
def test_meshopt_streams_of_the_reference_encoder(name):
    """Streams of meshoptimizer 1.0's encoder, and what its decoder makes of them; attributes0 is version 0."""
    row = FIXTURES[name]
    stream, expected = (np.frombuffer(base64.b64decode(row[key]), np.uint8) for key in ("stream", "decoded"))
    packed = {"mode": row["mode"], "filter": row["filter"], "count": row["count"], "byteStride": row["stride"]}
    assert np.array_equal(decode_view(stream, packed), expected)
    generator = np.random.default_rng(0)
    for length in range(0, len(stream), 7):
        with pytest.raises(ValueError, match="meshopt"):
            decode_view(stream[:length], packed)
    for _ in range(100):
        changed = stream.copy()
        changed[generator.integers(0, len(stream), 3)] = generator.integers(0, 256, 3)
        try:
            assert decode_view(changed, packed).shape == expected.shape
        except ValueError as error:
            assert "meshopt" in str(error)


@pytest.mark.parametrize("name", ["KHR_meshopt_compression", "EXT_meshopt_compression"])
def test_a_mesh_in_meshopt_streams(built, load, name):
    row = FIXTURES["triangles"]
    stream, decoded = (base64.b64decode(row[key]) for key in ("stream", "decoded"))
    faces = np.frombuffer(decoded, "<u4")
    packed = {
        "buffer": 0,
        "byteOffset": 0,
        "byteLength": len(stream),
        "byteStride": 4,
        "count": 126,
        "mode": "TRIANGLES",
    }
    view = {"buffer": 1, "byteLength": len(decoded), "extensions": {name: packed}}
    points = np.random.default_rng(1).random((int(faces.max()) + 1, 3), np.float32)
    built.view(stream)
    built.json["bufferViews"].append(view)
    built.json["accessors"].append({"bufferView": 1, "componentType": 5125, "count": 126, "type": "SCALAR"})
    built.mesh(points, {"indices": 0})
    uri = "data:;base64," + base64.b64encode(bytes(built.data)).decode()
    buffers = [{"uri": uri, "byteLength": len(built.data)}, {"byteLength": len(decoded)}]
    mesh, _ = load(built, buffers=buffers, extensionsRequired=[name])
    np.testing.assert_array_equal(corners(mesh), points[faces.reshape(-1, 3)])


@pytest.mark.slow
def test_malformed_files_are_refused_in_one_line(built, load):
    built.mesh(primitive={"material": 0, "indices": built.accessor(np.uint8([0, 1, 2]))}, TEXCOORD_0=UV)
    top = textured(built, {})
    load(built, **top)
    whole = json.dumps(built.json)

    def places(value, path=()):
        rows = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for key, inner in rows:
            yield (*path, key)
            yield from places(inner, (*path, key))

    paths = [path for path in places(json.loads(whole)) if path[0] != "asset"]
    for path in paths:
        for other in (None, -1, "x", [], {}, 10**12, True):
            built.json = json.loads(whole)
            *way, last = path
            row = built.json
            for key in way:
                row = row[key]
            row[last] = other
            try:
                load(built, buffers=built.json.get("buffers"))
            except ValueError as error:
                assert str(error).startswith("a.gltf: ")
                assert "\n" not in str(error)


def test_what_a_file_unfolds_to_is_bounded_before_it_is_allocated(tmp_path):
    built = Builder()
    built.json["accessors"].append({"componentType": 5126, "type": "VEC3", "count": 1 << 29})
    built.mesh(points=0)
    with pytest.raises(ValueError, match="accessor 0: the file unfolds to more than max_bytes"):
        load_textured_mesh(built.write(tmp_path / "zeros.gltf"), max_bytes=1 << 30)
    # Many nodes that show one mesh.
    built = Builder()
    built.mesh()
    path = built.write(tmp_path / "many.gltf", nodes=[{"mesh": 0}] * 50)
    assert len(load_textured_mesh(path, max_bytes=10_000).mesh.faces) == 50
    with pytest.raises(ValueError, match="instances of a mesh: the file unfolds to more than max_bytes, 1,000"):
        load_textured_mesh(path, max_bytes=1000)


@pytest.mark.parametrize("version", [0, 1])
def test_a_stream_too_short_for_its_count_is_refused_at_once(version):
    stream = np.frombuffer(bytes([0xA0 | version]) + bytes(60), np.uint8)
    packed = {"count": 1 << 24, "byteStride": 16, "mode": "ATTRIBUTES"}
    with pytest.raises(ValueError, match="61 bytes are too few for 16777216 elements of 16"):
        decode_view(stream, packed)
    indices = np.frombuffer(bytes([0xD1]) + bytes(60), np.uint8)
    with pytest.raises(ValueError, match="61 bytes are too few for 16777215 indices"):
        decode_view(indices, {"count": (1 << 24) - 1, "byteStride": 4, "mode": "INDICES"})


def test_a_scene_that_lists_all_nodes_of_a_chain_shows_each_once(tmp_path):
    count, built = 3000, Builder()
    built.mesh()
    nodes = [{"children": [i + 1]} for i in range(count - 1)] + [{"mesh": 0}]
    path = built.write(tmp_path / "chain.gltf", nodes=nodes, scenes=[{"nodes": list(range(count))}])
    begun = time.process_time()
    assert len(load_textured_mesh(path).mesh.faces) == 1
    assert time.process_time() - begun < 2  # 40 s when each node was followed from each of its ancestors
