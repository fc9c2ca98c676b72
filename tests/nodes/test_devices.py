"""The device policy, node by node, on a device that is only a label: every value that moves is copied and noted."""

import copy
from dataclasses import fields, is_dataclass
from types import SimpleNamespace

import pytest
import torch
import trimesh
from comfyui_trellis2.nodes import NODE_CLASS_MAPPINGS, host
from comfyui_trellis2.nodes.host import devices
from comfyui_trellis2.nodes.host.devices import DEVICE, HOST, NETWORKS, POLICY
from comfyui_trellis2.nodes.host.sources import EXAMPLES
from comfyui_trellis2.nodes.sockets import VALUES, PreparedImages
from comfyui_trellis2.nodes.widgets import TYPE_FROM_MODEL
from comfyui_trellis2.o_voxel.core.grid import Grid
from comfyui_trellis2.o_voxel.files.voxels.read_write import write_voxels
from comfyui_trellis2.o_voxel.files.voxels.records import to_records
from comfyui_trellis2.o_voxel.material import Material, Texture, TexturedMesh
from comfyui_trellis2.o_voxel.values import Mesh, to_device
from comfyui_trellis2.o_voxel.voxels.from_mesh import voxelize
from comfyui_trellis2.o_voxel.voxels.to_mesh import dual_grid_to_mesh
from comfyui_trellis2.trellis2.image.views import ViewDirection
from comfyui_trellis2.trellis2.pipeline import Asset, Pipeline
from comfyui_trellis2.trellis2.sampling.latent_files import write_latents
from comfyui_trellis2.trellis2.sparse import CoordSet, SparseTensor
from comfyui_trellis2.trellis2.values import ImageCondition, Latents, ShapeLatent, SparseStructure, TextureLatent
from PIL import Image

CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
NAMES = sorted(NODE_CLASS_MAPPINGS)


def tensors(value):
    """Every tensor inside a node's value."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, CoordSet):
        return [value.rows]
    if isinstance(value, (list, tuple)):
        return [tensor for part in value for tensor in tensors(part)]
    if is_dataclass(value):
        return [tensor for item in fields(value) for tensor in tensors(getattr(value, item.name))]
    return []


def latent(kind):
    coords = CoordSet.from_items([torch.tensor([[1, 2, 3], [1, 2, 4]])])
    return kind(SparseTensor(torch.rand(2, 8), coords), (512,), (((2, 8),),))


@pytest.fixture(scope="module")
def values():
    """One value for each of our sockets but the pipeline's, and a picture."""
    ball = trimesh.creation.icosphere(1)
    mesh = Mesh(torch.tensor(ball.vertices, dtype=torch.float32) * 0.4, torch.tensor(ball.faces))
    paint = Material(base_color_texture=Texture(torch.full((4, 4, 3), 200, dtype=torch.uint8)))
    uv = torch.rand(len(mesh.faces) * 3, 2, generator=torch.Generator().manual_seed(0))
    rows = torch.arange(len(uv)).reshape(-1, 3)
    textured = TexturedMesh(mesh, (paint,), uv=uv, uv_faces=rows)
    voxels = voxelize(textured, Grid.cube(16))
    tokens = torch.rand(1, 1, 3, 8)
    return {
        "image": torch.rand(1, 8, 8, 3),
        "images": PreparedImages((Image.new("RGB", (8, 8)),)),
        "condition": ImageCondition(tokens, tokens),
        "structure": SparseStructure((torch.tensor([[1, 2, 3]], dtype=torch.int32),), 32, ((),)),
        "shape": latent(ShapeLatent),
        "texture": latent(TextureLatent),
        "mesh": dual_grid_to_mesh(voxels.dual_grid),
        "textured_mesh": textured,
        "voxels": voxels.field,
        "o_voxel": voxels,
    }


@pytest.fixture
def arguments(values, models, tmp_path, monkeypatch):
    """arguments(id): what to call the node with: the values, and its widgets' defaults but for what makes it fast."""
    textured = values["textured_mesh"]
    ball = trimesh.Trimesh(textured.mesh.vertices.numpy(), textured.mesh.faces.numpy(), process=False)
    ball.export(tmp_path / "mesh.glb")
    write_voxels(tmp_path / "object.vxz", to_records(values["o_voxel"]))
    write_latents(tmp_path / "object.safetensors", Latents(shape=values["shape"], texture=values["texture"]))
    monkeypatch.setattr(host, "input_path", lambda name: tmp_path / name)
    # A pipeline that computes nothing: what it returns was prepared.
    pipeline = Pipeline.load(str(models / "trellis2" / "tiny"))
    for method, value in {
        "condition": values["condition"],
        "sample_structure": values["structure"],
        "sample_shape": values["shape"],
        "cascade_shape": values["shape"],
        "sample_texture": values["texture"],
        "refine_shape": values["shape"],
        "encode": (values["shape"], None),
        "decode": [Asset(values["mesh"], values["voxels"])],
        "run": [Asset(values["mesh"], values["voxels"])],
    }.items():
        monkeypatch.setattr(pipeline, method, lambda *_, value=value, **__: value)
    fast = {
        "model": "tiny",
        "resolution": 16,
        "texture_size": "512",
        "size": 64,
        "faces": 40,
        "preset": "preview",
        "surface": "cleaned",
        "normal_map": False,
        "occlusion": False,
        "mask": torch.nn.functional.pad(torch.zeros(1, 6, 6), (1, 1, 1, 1), value=1.0),
    }
    special = {
        ("T2ShapeCascade", "resolution"): TYPE_FROM_MODEL,
        ("T2Remesh", "resolution"): 32,
        ("T2Views", "front"): values["images"],
        ("T2CheckViews", "images"): PreparedImages(
            (Image.new("RGB", (8, 8), "white"),) * 2, (ViewDirection(0), ViewDirection(90))
        ),
        ("T2EncodeMesh", "resolution"): "512",
        ("T2SaveMesh", "mesh"): textured,
        ("T2LoadMesh", "file"): "mesh.glb",
        ("T2LoadVoxels", "file"): "object.vxz",
        ("T2LoadLatent", "file"): "object.safetensors",
        ("T2BakeTextures", "detailed_mesh"): textured.mesh,
        ("T2TransferTextures", "source"): textured,
        ("T2SaveForEngine", "levels"): 2,
        ("T2FromComfyMesh", "mesh"): SimpleNamespace(vertices=torch.rand(1, 3, 3), faces=torch.tensor([[[0, 1, 2]]])),
        ("T2FromTrimesh", "trimesh"): ball,
        ("T2BatchImages", "source"): EXAMPLES,
    }

    def of(name):
        declared = NODE_CLASS_MAPPINGS[name].INPUT_TYPES()
        found = {}
        for key, (kind, options) in {**declared["required"], **declared.get("optional", {})}.items():
            if (name, key) in special:
                found[key] = special[name, key]
            elif key == "pipeline":
                found[key] = pipeline
            elif isinstance(kind, str) and VALUES.keys() & kind.split(",") and key in values:
                found[key] = values[key]
            elif key in fast and (not isinstance(kind, list) or fast[key] in kind):
                found[key] = fast[key]
            elif key == "image":
                found[key] = values["image"]
            elif "default" in options or isinstance(kind, list):
                found[key] = options.get("default", kind[0] if isinstance(kind, list) else None)
        return found

    return of


@pytest.fixture
def moves(monkeypatch):
    """[(what was moved, its copy, device)] of every call of the policy, whose working device is called cuda."""
    noted = []

    def move(value, device):
        to_device(value, "cpu")  # refuses what it does not know
        moved = copy.deepcopy(value)
        noted.append((value, moved, torch.device(device).type))
        return moved

    monkeypatch.setattr(devices, "to_device", move)
    monkeypatch.setattr(devices, "working_device", lambda: torch.device("cuda"))
    return noted


def test_the_policy_names_every_node():
    assert set(POLICY) == set(NODE_CLASS_MAPPINGS)
    assert set(POLICY.values()) == {DEVICE, NETWORKS, HOST}


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_where_it_works_and_where_results_rest(name, comfy, arguments, moves):
    node, given = NODE_CLASS_MAPPINGS[name], arguments(name)
    found = getattr(node(), node.FUNCTION)(**given)
    outputs = tensors(found["result"] if isinstance(found, dict) else found)
    to_work = [tensor.data_ptr() for value, _, place in moves if place == "cuda" for tensor in tensors(value)]
    to_rest = [tensor.data_ptr() for value, _, place in moves if place == "cpu" for tensor in tensors(value)]
    resting = {tensor.data_ptr() for _, moved, place in moves if place == "cpu" for tensor in tensors(moved)}
    ours = {
        tensor.data_ptr() for value in given.values() if type(value) in VALUES.values() for tensor in tensors(value)
    }
    if POLICY[name] == DEVICE:
        assert to_work
        assert ours <= {*to_work, *to_rest}, "an input was computed on where it was"
    else:
        assert not to_work
    if POLICY[name] != HOST:
        assert {tensor.data_ptr() for tensor in outputs} <= resting, "a result did not come to rest"
    elif name.startswith(("T2Save", "T2To")):
        assert ours <= set(to_rest), "an input was taken from where it was"


def test_apples_device_has_no_float64(monkeypatch):
    management = SimpleNamespace(get_torch_device=lambda: torch.device("mps"))
    monkeypatch.setattr(host.comfyui, "module", {"comfy.model_management": management}.get)
    assert host.working_device() == torch.device("cpu")


@CUDA
@pytest.mark.parametrize("name", [name for name in NAMES if POLICY[name] != NETWORKS])
def test_on_a_card_results_rest_in_main_memory(name, comfy, arguments):
    node = NODE_CLASS_MAPPINGS[name]
    found = getattr(node(), node.FUNCTION)(**arguments(name))
    found = found["result"] if isinstance(found, dict) else found
    assert {tensor.device.type for tensor in tensors(found)} <= {"cpu"}


@CUDA
def test_latents_leave_the_card(comfy, values, arguments):
    shape = to_device(values["shape"], "cuda")
    shape.slat.coords.neighbors()
    resting = host.at_rest(shape)
    assert {tensor.device.type for tensor in tensors(resting)} == {"cpu"}
    assert host.working_device().type == "cuda"
    assert tensors(host.at_work(resting))[1].device.type == "cuda"


def test_every_value_of_a_socket_can_move(values):
    """All but pictures, which have no place on a device."""
    values = {name: value for name, value in values.items() if name != "o_voxel"}  # torch compares nothing on meta
    for name, value in values.items():
        if name == "images":
            with pytest.raises(TypeError, match=r"to_device: expected a tensor.*got PIL\.Image\.Image"):
                to_device(value, "meta")
        else:
            assert {tensor.device.type for tensor in tensors(to_device(value, "meta"))} == {"meta"}, name
