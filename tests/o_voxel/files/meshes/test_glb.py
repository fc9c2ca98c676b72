"""GLB files, read back by hand (glTF 2.0 specification) and by trimesh."""

import functools
import json
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from comfyui_trellis2.o_voxel.core.color import to_linear
from comfyui_trellis2.o_voxel.core.grid import Grid
from comfyui_trellis2.o_voxel.files.meshes.gltf.glb import write_glb
from comfyui_trellis2.o_voxel.files.meshes.images import _interleaved, pack_channels
from comfyui_trellis2.o_voxel.files.meshes.options import SaveOptions
from comfyui_trellis2.o_voxel.files.meshes.read import load_textured_mesh
from comfyui_trellis2.o_voxel.files.meshes.vertex_buffer import to_y_up, vertex_buffer
from comfyui_trellis2.o_voxel.material import Material, Texture, TexturedMesh
from comfyui_trellis2.o_voxel.render.surface_materials import SurfaceMaterials
from comfyui_trellis2.o_voxel.values import Mesh, VoxelField, to_device
from comfyui_trellis2.o_voxel.voxels.sample import vertex_materials

COMPONENTS = {5126: np.dtype("<f4"), 5123: np.dtype("<u2"), 5125: np.dtype("<u4")}
WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4}

# As it comes: no normals are made, so that no vertex is split.
write_flat = functools.partial(write_glb, options=SaveOptions(crease_deg=None))


def random_mesh(vertices: int, faces: int, dtype=torch.int32, seed: int = 0) -> Mesh:
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(vertices, 3, generator=generator)
    return Mesh(points, torch.randint(0, vertices, (faces, 3), generator=generator).to(dtype))


def random_materials(vertices: int, seed: int = 1) -> torch.Tensor:
    return torch.rand(vertices, 6, generator=torch.Generator().manual_seed(seed))


def chunks(path: Path) -> tuple[dict, bytes]:
    """The JSON and the binary chunk of a file whose container is right."""
    content = path.read_bytes()
    magic, version, length = struct.unpack_from("<4sII", content)
    assert (magic, version, length) == (b"glTF", 2, len(content))
    json_length, json_kind = struct.unpack_from("<I4s", content, 12)
    assert json_kind == b"JSON" and json_length % 4 == 0
    binary_at = 20 + json_length
    binary_length, binary_kind = struct.unpack_from("<I4s", content, binary_at)
    assert binary_kind == b"BIN\0" and binary_length % 4 == 0 and binary_at + 8 + binary_length == len(content)
    text = content[20:binary_at].decode()

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse), content[binary_at + 8 :]


def read(path: Path) -> dict[str, np.ndarray]:
    """The arrays of the only primitive by name, `faces` among them, each checked against its accessor and view."""
    document, binary = chunks(path)
    assert document["buffers"] == [{"byteLength": len(binary)}]
    (primitive,) = document["meshes"][0]["primitives"]
    arrays, spans = {}, []
    for image in document.get("images", []):
        view = document["bufferViews"][image["bufferView"]]
        spans.append((view["byteOffset"], view["byteOffset"] + view["byteLength"]))
    for name, index in {**primitive["attributes"], "faces": primitive["indices"]}.items():
        accessor = document["accessors"][index]
        view = document["bufferViews"][accessor["bufferView"]]
        dtype, width = COMPONENTS[accessor["componentType"]], WIDTHS[accessor["type"]]
        size = accessor["count"] * width * dtype.itemsize
        offset = view.get("byteOffset", 0)
        assert view["buffer"] == 0 and view["byteLength"] == size and offset % 4 == 0
        assert view["target"] == (34963 if name == "faces" else 34962)
        array = np.frombuffer(binary, dtype, accessor["count"] * width, offset).reshape(-1, width)
        for bound, reduce in (("min", array.min), ("max", array.max)):
            if name == "POSITION" or bound in accessor:
                assert accessor[bound] == reduce(axis=0).tolist()
        arrays[name] = array.reshape(-1, 3) if name == "faces" else array
        spans.append((offset, offset + size))
    spans.sort()
    assert all(end <= start for (_, end), (start, _) in zip(spans, spans[1:], strict=False))
    assert spans[0][0] == 0 and len(binary) - spans[-1][1] < 4
    return arrays


@pytest.mark.parametrize("vertices, faces", [(3, 1), (4, 63), (1000, 1000)])
@pytest.mark.parametrize("colored", [False, True])
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64], ids=str)
def test_a_file_holds_the_surface(tmp_path, vertices, faces, colored, dtype):
    mesh = random_mesh(vertices, faces, dtype)
    path = write_flat(tmp_path / "a.glb", mesh, random_materials(vertices) if colored else None)
    assert path == tmp_path / "a.glb"
    arrays = read(path)
    varied = colored and len(mesh.faces.unique()) > 1  # one vertex has one metallic
    expected = {"POSITION", "faces"} | ({"COLOR_0"} if colored else set()) | ({"TEXCOORD_0"} if varied else set())
    assert set(arrays) == expected
    x, y, z = mesh.vertices[mesh.faces.long()].unbind(-1)
    expected = torch.stack([x, z, -y], dim=-1)
    np.testing.assert_array_equal(arrays["POSITION"][arrays["faces"]], expected.numpy())


def test_y_is_up_and_nothing_is_mirrored():
    assert to_y_up(torch.tensor([[1.0, 2.0, 3.0]])).tolist() == [[1, 3, -2]]
    turned = to_y_up(torch.eye(3))
    assert turned[2].tolist() == [0, 1, 0]
    assert torch.linalg.det(turned) == pytest.approx(1)


def test_unused_vertices_are_left_out(tmp_path):
    mesh = Mesh(torch.arange(15.0).reshape(5, 3), torch.tensor([[4, 1, 2], [1, 4, 2]]))
    materials = random_materials(5)
    arrays = read(write_flat(tmp_path / "a.glb", mesh, materials))
    np.testing.assert_array_equal(arrays["POSITION"], to_y_up(mesh.vertices[[1, 2, 4]]).numpy())
    assert arrays["faces"].tolist() == [[2, 0, 1], [0, 2, 1]]
    assert len(arrays["COLOR_0"]) == 3
    used_only = Mesh(mesh.vertices[[1, 2, 4]], torch.tensor([[2, 0, 1], [0, 2, 1]]))
    other = write_flat(tmp_path / "b.glb", used_only, materials[[1, 2, 4]])
    assert other.read_bytes() == (tmp_path / "a.glb").read_bytes()


def test_bounds_are_those_of_the_used_vertices(tmp_path):
    mesh = Mesh(torch.tensor([[0.0, 0, 0], [1, 2, 3], [0, 1, 0], [99, 99, 99]]), torch.tensor([[0, 1, 2]]))
    document, _ = chunks(write_flat(tmp_path / "a.glb", mesh))
    (positions,) = [a for a in document["accessors"] if "min" in a]
    assert positions["min"] == [0, 0, -2] and positions["max"] == [1, 3, 0]


@pytest.mark.parametrize(
    "encoded, linear",
    [(0.0, 0.0), (0.04045, 0.0031308), (0.5, 0.2140411), (0.735357, 0.5), (1.0, 1.0), (0.02, 0.02 / 12.92)],
)
def test_colours_are_linear(tmp_path, encoded, linear):
    assert to_linear(torch.tensor([encoded])).item() == pytest.approx(linear, abs=1e-6)
    materials = torch.zeros(3, 6)
    materials[:, 1], materials[:, 5] = encoded, 1.0
    mesh = random_mesh(3, 0)
    colors = read(write_flat(tmp_path / "a.glb", Mesh(mesh.vertices, torch.tensor([[0, 1, 2]])), materials))["COLOR_0"]
    assert colors.dtype == np.uint16 and colors.shape == (3, 4)
    np.testing.assert_allclose(colors / 65535, [[0, linear, 0, 1]] * 3, atol=1e-5)


def test_colours_go_with_their_vertices_and_are_clamped(tmp_path):
    mesh = Mesh(torch.eye(3), torch.tensor([[2, 0, 1]]))
    materials = torch.tensor([[2.0, 0, 0, 0, 0, 1], [0, 1, -1, 0, 0, 1], [0, 0, 1, 0, 0, 1]])
    before = materials.clone()
    document, _ = chunks(write_flat(tmp_path / "a.glb", mesh, materials))
    colors = read(tmp_path / "a.glb")["COLOR_0"]
    assert colors.tolist() == [[65535, 0, 0, 65535], [0, 65535, 0, 65535], [0, 0, 65535, 65535]]
    (accessor,) = [a for a in document["accessors"] if a["type"] == "VEC4"]
    assert accessor["normalized"] is True
    assert torch.equal(materials, before)


def test_metallic_and_roughness_that_hardly_vary_are_means_over_the_used_vertices(tmp_path):
    mesh = Mesh(torch.eye(4)[:, :3].contiguous(), torch.tensor([[0, 1, 2]]))
    materials = torch.ones(4, 6)
    materials[:, 3] = torch.tensor([0.300, 0.301, 0.302, 100.0])
    materials[:, 4] = torch.tensor([0.700, 0.700, 0.703, 100.0])
    document, _ = chunks(write_flat(tmp_path / "a.glb", mesh, materials))
    (material,) = document["materials"]
    surface = material["pbrMetallicRoughness"]
    assert surface["metallicFactor"] == pytest.approx(0.301) and surface["roughnessFactor"] == pytest.approx(0.701)
    assert material["doubleSided"] is True and document["meshes"][0]["primitives"][0]["material"] == 0
    assert "alphaMode" not in material


def test_metallic_roughness_and_alpha_come_back_at_every_vertex(tmp_path):
    materials = random_materials(40)
    mesh = Mesh(random_mesh(40, 0).vertices, torch.arange(39).view(13, 3))
    back = load_textured_mesh(write_flat(tmp_path / "a.glb", mesh, materials))
    assert back.materials[0].alpha_mode == "BLEND"
    corners = torch.arange(13).repeat(3), torch.eye(3).repeat_interleave(13, 0).T.contiguous()
    found = SurfaceMaterials.of(back).read(*corners).T
    expected = materials[mesh.faces.T.flatten()]
    np.testing.assert_allclose(found, expected, atol=0.6 / 255)


def test_a_surface_without_materials_is_white_and_rough(tmp_path):
    document, _ = chunks(write_flat(tmp_path / "a.glb", random_mesh(4, 5)))
    surface = document["materials"][0]["pbrMetallicRoughness"]
    assert surface == {"baseColorFactor": [1, 1, 1, 1], "metallicFactor": 0, "roughnessFactor": 1}
    assert document["asset"]["version"] == "2.0"
    assert document["scenes"][document["scene"]]["nodes"] == [0] and document["nodes"][0]["mesh"] == 0


def test_the_same_surface_gives_the_same_bytes(tmp_path):
    files = []
    for name in ("a", "b"):
        mesh, materials = random_mesh(50, 63), random_materials(50)
        before = (mesh.vertices.clone(), mesh.faces.clone(), materials.clone())
        files.append(write_flat(tmp_path / f"{name}.glb", mesh, materials).read_bytes())
        assert all(map(torch.equal, before, (mesh.vertices, mesh.faces, materials)))
    assert files[0] == files[1]
    assert files[0] != write_flat(tmp_path / "c.glb", random_mesh(50, 63), random_materials(50, seed=2)).read_bytes()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_materials_of_any_float_are_written(tmp_path, dtype):
    mesh, materials = random_mesh(5, 7), random_materials(5).to(dtype)
    wide = write_flat(tmp_path / "a.glb", mesh, materials.float()).read_bytes()
    assert write_flat(tmp_path / "b.glb", mesh, materials).read_bytes() == wide


def test_trimesh_reads_the_same_surface(tmp_path):
    mesh = random_mesh(100, 63, torch.int64)
    path = write_flat(tmp_path / "a.glb", mesh, random_materials(100))
    loaded = trimesh.load_mesh(path, process=False)
    arrays = read(path)
    np.testing.assert_array_equal(loaded.faces, arrays["faces"])
    np.testing.assert_array_equal(loaded.vertices, arrays["POSITION"])
    x, y, z = mesh.vertices.double().numpy()[mesh.faces.numpy()].transpose(2, 0, 1)
    np.testing.assert_array_equal(loaded.triangles, np.stack([x, z, -y], axis=-1))


def test_folders_are_made_and_strings_are_paths(tmp_path):
    path = tmp_path / "new" / "folder" / "ä b.glb"
    assert write_flat(str(path), random_mesh(4, 5)) == path
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("old", [None, b"what was there"])
def test_a_failed_write_leaves_what_was_there(tmp_path, monkeypatch, old):
    path = tmp_path / "a.glb"
    if old is not None:
        path.write_bytes(old)

    def full(source, target):
        raise OSError("no space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="no space left"):
        write_flat(path, random_mesh(4, 5))
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == ({} if old is None else {path.name: old})


class Broken:
    """A file that takes half of what it is given and then fails."""

    def __init__(self, handle) -> None:
        self.handle = handle

    def write(self, content: bytes) -> None:
        self.handle.write(content[: len(content) // 2])
        self.handle.flush()
        raise OSError("stopped halfway")

    def fileno(self) -> int:
        return self.handle.fileno()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.handle.close()


def test_a_write_that_stops_halfway_leaves_nothing(tmp_path, monkeypatch):
    real = open

    def opened(file, mode="r", *rest, **options):
        handle = real(file, mode, *rest, **options)
        return Broken(handle) if "b" in mode and "r" not in mode else handle

    monkeypatch.setattr("builtins.open", opened)
    with pytest.raises(OSError, match="halfway"):
        write_flat(tmp_path / "a.glb", random_mesh(4, 5))
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("vertices", [0, 4])
def test_a_surface_without_faces_is_refused(tmp_path, vertices):
    with pytest.raises(ValueError, match="mesh: expected at least one face"):
        write_flat(tmp_path / "a.glb", Mesh(torch.zeros(vertices, 3), torch.zeros(0, 3, dtype=torch.int32)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_vertex_that_is_not_finite_is_refused(tmp_path, value):
    vertices = torch.eye(3)
    vertices[1, 2] = value
    with pytest.raises(ValueError, match="mesh: expected finite vertices"):
        write_flat(tmp_path / "a.glb", Mesh(vertices, torch.tensor([[0, 1, 2]])))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("channel", [0, 3, 4])
def test_a_material_that_is_not_a_number_is_refused(tmp_path, channel):
    materials = torch.full((3, 6), 0.5)
    materials[1, channel] = float("nan")
    with pytest.raises(ValueError, match="materials"):
        write_flat(tmp_path / "a.glb", Mesh(torch.eye(3), torch.tensor([[0, 1, 2]])), materials)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "materials",
    [torch.zeros(2, 6), torch.zeros(3, 3), torch.zeros(6), torch.full((3, 6), 255, dtype=torch.uint8)],
    ids=["rows", "channels", "flat", "bytes"],
)
def test_materials_of_another_form_are_refused(tmp_path, materials):
    with pytest.raises(ValueError, match="materials"):
        write_flat(tmp_path / "a.glb", Mesh(torch.eye(3), torch.tensor([[0, 1, 2]])), materials)


@pytest.mark.parametrize("row", [3, -1])
def test_a_face_of_no_vertex_is_refused(tmp_path, row):
    with pytest.raises((ValueError, IndexError)):
        write_flat(tmp_path / "a.glb", Mesh(torch.eye(3), torch.tensor([[0, 1, row]])))
    assert list(tmp_path.iterdir()) == []


def test_vertex_materials_are_the_voxels_own_at_their_centres():
    generator = torch.Generator().manual_seed(0)
    coords = torch.tensor([[0, 0, 0], [1, 0, 0], [7, 7, 7], [3, 4, 5]], dtype=torch.int32)
    attrs = torch.rand(4, 6, generator=generator)
    attrs[3] = torch.tensor([-0.5, 1.5, 0.5, 2.0, -1.0, 1.0])
    field = VoxelField(coords, attrs, Grid.cube(8))
    mesh = Mesh(field.grid.centers(coords), torch.tensor([[0, 1, 2]]))
    got = vertex_materials(mesh, field)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, attrs.clamp(0, 1), atol=1e-5, rtol=0)
    halfway = Mesh((mesh.vertices[:1] + mesh.vertices[1:2]) / 2, torch.zeros(0, 3, dtype=torch.int32))
    torch.testing.assert_close(vertex_materials(halfway, field), attrs[:2].mean(0, keepdim=True), atol=1e-5, rtol=0)


def painted_sheet(side: int, seed: int = 0) -> TexturedMesh:
    """A bumpy sheet with an atlas of two mirrored halves, and maps of every kind that share or fill an image."""
    row, column = torch.meshgrid(torch.arange(side + 1), torch.arange(side + 1), indexing="ij")
    place = torch.stack([column, row], 2).flatten(0, 1) / side
    height = 0.1 * torch.sin(9 * place[:, :1]) * torch.cos(7 * place[:, 1:])
    first = (torch.arange(side)[:, None] * (side + 1) + torch.arange(side)).flatten()
    faces = torch.stack([first, first + 1, first + side + 2, first, first + side + 2, first + side + 1], 1)
    halves = torch.cat([place, torch.stack([1 - place[:, 0], place[:, 1]], 1)])
    faces, half = faces.reshape(-1, 3), (torch.arange(2 * side * side) % side < side // 2).long()
    generator = torch.Generator().manual_seed(seed)
    maps = [torch.randint(0, 256, (8, 8, k), generator=generator, dtype=torch.uint8) for k in (3, 1, 1, 3)]
    base, rough, metal, normal = map(Texture, maps)
    material = Material(base_color_texture=base, roughness_texture=rough, metallic_texture=metal, normal_texture=normal)
    uv_faces = faces + half[:, None] * len(place)
    return TexturedMesh(Mesh(torch.cat([place, height], 1), faces), (material,), uv=halves, uv_faces=uv_faces)


@pytest.mark.gpu
@pytest.mark.parametrize("pivot", ["as is", "base"])
def test_a_mesh_on_a_gpu_gives_the_same_file(tmp_path, pivot):
    mesh, options = painted_sheet(9), SaveOptions(pivot=pivot)
    write_glb(tmp_path / "cpu.glb", mesh, options=options)
    write_glb(tmp_path / "gpu.glb", to_device(mesh, "cuda"), options=options)
    (document, _), (other, _) = chunks(tmp_path / "cpu.glb"), chunks(tmp_path / "gpu.glb")
    for accessor in (*document["accessors"], *other["accessors"]):
        accessor.pop("min", None), accessor.pop("max", None)
    assert document == other
    expected, found = read(tmp_path / "cpu.glb"), read(tmp_path / "gpu.glb")
    assert np.array_equal(expected.pop("faces"), found.pop("faces"))
    for name, values in expected.items():
        # Sums and arc tangents differ by rounding in float64; the file has float32.
        assert np.allclose(found[name], values, rtol=0, atol=2e-7), name


@pytest.mark.parametrize("lacking", [None, 0, 2])
def test_channels_interleaved_on_a_gpu_are_those_of_the_cpu(lacking):
    layers = [Texture(torch.randint(0, 256, (5, 7, k), dtype=torch.uint8)) for k in (1, 3, 1)]
    if lacking is not None:
        layers[lacking] = None
    images = [layer and layer.image for layer in layers]
    assert np.array_equal(_interleaved(images, (1, 3, 1)), pack_channels(layers, (1, 3, 1), None))


def test_a_single_material_keeps_its_vertex_buffer():
    flat = vertex_buffer(painted_sheet(4))
    assert flat.part(0) is flat
    two = replace(flat, material_ids=torch.arange(len(flat.mesh.faces)) % 2)
    parts = [two.part(row) for row in (0, 1)]
    for row, part in enumerate(parts):
        assert torch.equal(part.uv[part.mesh.faces], flat.uv[flat.mesh.faces[row::2]])
