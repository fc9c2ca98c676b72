"""Meshes with and without materials on one wire, numbers for sizes, and the options of Game-Ready Asset."""

import json
import struct
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import trimesh
from comfyui_trellis2.nodes import NODE_CLASS_MAPPINGS, host, sockets
from comfyui_trellis2.nodes import asset as asset_module
from comfyui_trellis2.nodes.asset import FROM_PRESET, AssetSettings, GameReadyAsset, Unwrap, configured
from comfyui_trellis2.nodes.bake import BakeTextures
from comfyui_trellis2.nodes.files.meshes import SaveGLB, SaveMesh
from comfyui_trellis2.nodes.interop import ToComfyMesh, ToTrimesh
from comfyui_trellis2.nodes.mesh import CleanMesh, FillHoles, Remesh, RemoveHiddenFaces, SimplifyMesh, SmoothMesh
from comfyui_trellis2.nodes.preview import RenderPreview
from comfyui_trellis2.nodes.voxels import MeshToVoxels, VoxelsToMesh
from comfyui_trellis2.o_voxel import asset as library
from comfyui_trellis2.o_voxel.asset import PRESETS
from comfyui_trellis2.o_voxel.core.grid import Grid
from comfyui_trellis2.o_voxel.files.meshes.read import load_textured_mesh
from comfyui_trellis2.o_voxel.material import Material, Texture, TexturedMesh
from comfyui_trellis2.o_voxel.values import Mesh, VoxelField

RED = (230, 20, 20)
# What every widget of the options node is when it is not touched.
UNTOUCHED = {name: options["default"] for name, (_, options) in AssetSettings.INPUT_TYPES()["required"].items()}


@pytest.fixture(scope="module")
def plain():
    """A ball of 320 faces."""
    ball = trimesh.creation.icosphere(2, 0.4)
    return Mesh(torch.tensor(ball.vertices, dtype=torch.float32), torch.tensor(ball.faces))


@pytest.fixture(scope="module")
def red(plain):
    """The same ball with a texture, red everywhere."""
    image = torch.tensor(RED, dtype=torch.uint8).expand(4, 4, 3).contiguous()
    rows = torch.arange(3 * len(plain.faces)).reshape(-1, 3)
    uv = torch.rand(3 * len(plain.faces), 2, generator=torch.Generator().manual_seed(0))
    material = Material(base_color_texture=Texture(image), metallic_factor=0.0)
    return TexturedMesh(plain, (material,), uv=uv, uv_faces=rows)


@pytest.fixture(scope="module")
def blue():
    """Voxels around the ball, blue everywhere."""
    cells = torch.cartesian_prod(*[torch.arange(16, dtype=torch.int32)] * 3)
    attrs = torch.tensor([0.0, 0.0, 1.0, 0.0, 0.5, 1.0]).expand(len(cells), 6).contiguous()
    return VoxelField(cells, attrs, Grid.cube(16))


def stored(path):
    """The JSON of a GLB."""
    content = path.read_bytes()
    (length,) = struct.unpack_from("<I", content, 12)
    return json.loads(content[20 : 20 + length])


def hue(images):
    """The mean colour [3] of what is not grey, of pictures [T, H, W, 3]."""
    pixels = images.reshape(-1, 3)
    return pixels[(pixels.amax(1) - pixels.amin(1)) > 0.2].mean(0)


# One mesh on the wires


def test_every_input_for_a_mesh_takes_both_kinds():
    found = 0
    for name, node in NODE_CLASS_MAPPINGS.items():
        declared = node.INPUT_TYPES()
        for key, (kind, *_) in {**declared.get("required", {}), **declared.get("optional", {})}.items():
            kinds = set(kind.split(",")) if isinstance(kind, str) else set()
            if kinds & {sockets.MESH, sockets.TEXTURED_MESH}:
                assert kinds == {sockets.MESH, sockets.TEXTURED_MESH}, f"{name}.{key}"
                found += 1
        assert not any("," in kind for kind in node.RETURN_TYPES), f"{name}: an output has one type"
    assert found >= 14


@pytest.mark.parametrize("output", [0, 1], ids=["textured", "plain"])
def test_load_simplify_save_as_stl(output, comfy, red, runner, tmp_path, monkeypatch):
    ball = trimesh.Trimesh(red.mesh.vertices.numpy(), red.mesh.faces.numpy())
    ball.export(tmp_path / "ball.stl")
    monkeypatch.setattr(host, "input_path", lambda name: tmp_path / name)
    names = {"format": "stl", "images": "png", "geometry": "full", "max_mib": 0.0, "scale": 100.0}
    runner.run(
        {
            "1": {"class_type": "T2LoadMesh", "inputs": {"file": "ball.stl", "fit_unit_cube": False}},
            "2": {"class_type": "T2CleanMesh", "inputs": {"mesh": ["1", output], **CLEAN}},
            "3": {"class_type": "T2SimplifyMesh", "inputs": {"mesh": ["2", 0], "faces": 100, "max_error": 0.0}},
            "4": {"class_type": "T2SaveMesh", "inputs": {"mesh": ["3", 0], "filename_prefix": "light", **names}},
        }
    )
    saved = trimesh.load(comfy / "light_00001_.stl")
    assert saved.is_watertight
    assert len(saved.faces) <= 100
    assert saved.volume == pytest.approx(ball.volume * 100**3, rel=0.1)


CLEAN = {
    "weld_distance": 1e-6,
    "min_part_share": 1e-5,
    "keep_parts": 0,
    "max_hole_perimeter": 0.03,
    "outward": "volume",
}


@pytest.mark.parametrize(
    "work",
    [
        lambda mesh: CleanMesh().clean(mesh, **CLEAN),
        lambda mesh: FillHoles().fill(mesh, 0.1, True),
        lambda mesh: SimplifyMesh().simplify(mesh, 100, 0.0),
        lambda mesh: Remesh().remesh(mesh, "both sides", 32),
        lambda mesh: RemoveHiddenFaces().remove(mesh, 1, 8)["result"],
        lambda mesh: SmoothMesh().smooth(mesh, 2, 0.5, 60.0),
        lambda mesh: (GameReadyAsset().make(mesh, "preview", 200, FROM_PRESET, FROM_PRESET)[1],),
        pytest.param(lambda mesh: (Unwrap().unwrap(mesh, "512", 2, 60.0)[0].mesh,), marks=pytest.mark.slow),
    ],
    ids=["clean", "fill", "simplify", "remesh", "hidden", "smooth", "game ready", "unwrap"],
)
def test_a_textured_mesh_gives_its_shape(work, plain, red):
    (expected,), (found,) = work(plain), work(red)
    assert torch.equal(found.vertices, expected.vertices)
    assert torch.equal(found.faces, expected.faces)


def test_what_is_no_mesh_is_refused_with_both_names():
    for call in (sockets.surface, sockets.textured):
        with pytest.raises(TypeError, match=r"T2_MESH,T2_TEXTURED_MESH: expected .*got builtins\.dict"):
            call({})


@pytest.mark.slow
def test_a_turntable_of_a_textured_mesh_shows_its_textures(plain, red, blue):
    (own,) = RenderPreview().render(red, 2, 64, 30.0, 20.0)
    assert own.shape == (2, 64, 64, 3)
    assert hue(own)[0] > 3 * hue(own)[2]
    (kept,) = RenderPreview().render(red, 2, 64, 30.0, 20.0, blue)
    assert torch.equal(kept, own)
    (voxels,) = RenderPreview().render(plain, 1, 64, 30.0, 20.0, blue)
    assert hue(voxels)[2] > 3 * hue(voxels)[0]
    # Texture coordinates alone are no paint: the voxels' colours are what there is to show.
    (unbaked,) = Unwrap().unwrap(plain, "512", 2, 180.0)
    (shown,) = RenderPreview().render(unbaked, 1, 64, 30.0, 20.0, blue)
    torch.testing.assert_close(shown, voxels, atol=0.02, rtol=0)


def test_save_glb_keeps_textures(comfy, plain, red, blue):
    for given in ((), (blue,)):
        name, _ = SaveGLB().save(red, "red", *given)["result"]
        loaded = load_textured_mesh(comfy / name)
        assert torch.equal(loaded.materials[0].base_color_texture.image, red.materials[0].base_color_texture.image)
        assert loaded.vertex_colors is None
    bare = TexturedMesh(plain, (Material(),))
    name, _ = SaveGLB().save(bare, "blue", blue)["result"]
    colors = load_textured_mesh(comfy / name).vertex_colors
    torch.testing.assert_close(colors, torch.tensor([0.0, 0.0, 1.0, 1.0]).expand_as(colors), atol=0.01, rtol=0)


@pytest.mark.parametrize("kind", ["glb", "obj", "ply", "stl"])
def test_a_plain_mesh_saves(comfy, plain, kind):
    name, _ = SaveMesh().save(plain, "ball", kind)["result"]
    loaded = load_textured_mesh(comfy / name)
    assert len(loaded.mesh.faces) == len(plain.faces)
    assert loaded.materials[0].metallic_factor == 0


def test_a_plain_mesh_goes_to_other_packs(plain):
    (mesh,) = ToComfyMesh().convert(plain)
    torch.testing.assert_close(mesh.vertices[0, :, 1], plain.vertices[:, 2])
    assert (mesh.material["metallic_factor"], mesh.material["base_color_factor"]) == (0.0, [1.0, 1.0, 1.0, 1.0])
    (other,) = ToTrimesh().convert(plain)
    assert other.is_watertight
    assert other.faces.shape == (320, 3)


def test_a_plain_mesh_becomes_white_voxels(plain, red):
    (voxels,) = MeshToVoxels().voxelize(plain, 16, True)
    assert torch.equal(voxels.field.attrs, torch.tensor([1.0, 1.0, 1.0, 0.0, 1.0, 1.0]).expand_as(voxels.field.attrs))
    (painted,) = MeshToVoxels().voxelize(red, 16, False)
    assert torch.equal(voxels.dual_grid.coords, painted.dual_grid.coords)


def test_an_unbaked_mesh_is_no_metal(comfy):
    """glTF's default factor, 1, is metal: black where a viewer has no reflections."""
    box = trimesh.creation.box()
    box = Mesh(torch.tensor(box.vertices, dtype=torch.float32), torch.tensor(box.faces))
    for mesh in (box, TexturedMesh(box, (Material(),))):
        (unwrapped,) = Unwrap().unwrap(mesh, "512", 2, 60.0)
        for node, widgets in ((SaveMesh(), ("raw", "glb")), (SaveGLB(), ("raw",))):
            name, _ = node.save(unwrapped, *widgets)["result"]
            (material,) = stored(comfy / name)["materials"]
            surface = material["pbrMetallicRoughness"]
            assert surface["metallicFactor"] == 0
            assert surface["roughnessFactor"] >= 0.5
            assert surface["baseColorFactor"] == [1, 1, 1, 1]
    assert TexturedMesh(box).materials[0].metallic_factor == 0


# Voxels without materials


def test_voxels_without_materials_are_refused_before_any_work(plain, red, blue, monkeypatch):
    (shape,) = MeshToVoxels().voxelize(plain, 16, False)
    _, none = VoxelsToMesh().extract(shape, 0)
    three = replace(blue, attrs=blue.attrs[:, :3])

    def work(value):
        raise AssertionError("work has begun")

    monkeypatch.setattr(host, "at_work", work)
    for voxels, says in ((none, "got none"), (three, "got 3 channels")):
        with pytest.raises(ValueError, match=f"voxels: expected voxels with materials.*{says}"):
            BakeTextures().bake(red, plain, voxels, "512", "1", False, False, "auto")
    with pytest.raises(ValueError, match="voxels: expected voxels with materials"):
        GameReadyAsset().make(plain, "preview", 100, "512", FROM_PRESET, three)
    with pytest.raises(TypeError, match="T2_VOXELS"):
        BakeTextures().bake(red, plain, {}, "512", "1", False, False, "auto")
    with pytest.raises(ValueError, match="put Unwrap before"):
        BakeTextures().bake(plain, plain, blue, "512", "1", False, False, "auto")


# Sizes from a number


class Int:
    """Stands in for core's node of a number."""

    FUNCTION, RETURN_TYPES = "give", ("INT",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"value": ("INT", {"min": 0, "max": 2**20})}}

    def give(self, value):
        return (value,)


class Source:
    """Gives a mesh and voxels."""

    FUNCTION, RETURN_TYPES = "give", (sockets.MESH, sockets.VOXELS)
    values = ()

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}

    def give(self):
        return self.values


@pytest.mark.slow
def test_an_int_drives_the_texture_size(comfy, plain, blue, runner, monkeypatch):
    monkeypatch.setattr(Source, "values", (plain, blue))
    runner.classes.update({"Int": Int, "Source": Source})
    bake = {"supersample": "1", "normal_map": False, "occlusion": False, "alpha_mode": "auto"}
    preset = {"preset": "preview", "faces": 100, "texture_size": FROM_PRESET, "surface": FROM_PRESET}
    size = {"texture_size": "8192", "texture_size_override": ["2", 0]}
    found = runner.run(
        {
            "1": {"class_type": "Source", "inputs": {}},
            "2": {"class_type": "Int", "inputs": {"value": 96}},
            "3": {"class_type": "T2Unwrap", "inputs": {"mesh": ["1", 0], "gutter": 1, "crease_deg": 60.0, **size}},
            "4": {
                "class_type": "T2BakeTextures",
                "inputs": {"textured_mesh": ["3", 0], "detailed_mesh": ["1", 0], "voxels": ["1", 1], **bake, **size},
            },
            "5": {
                "class_type": "T2GameReadyAsset",
                "inputs": {"mesh": ["4", 0], "voxels": ["1", 1], "texture_size_override": ["2", 0], **preset},
            },
        }
    )
    for node in ("4", "5"):
        assert found[node][0][0].materials[0].base_color_texture.image.shape == (96, 96, 3)


@pytest.mark.parametrize(("number", "says"), [(63, "expected 64 to 16384"), (16_385, "16385"), (0, "got 0")])
def test_sizes_out_of_range_are_refused_before_any_work(plain, red, blue, number, says, monkeypatch):
    monkeypatch.setattr(host, "at_work", lambda value: pytest.fail("work has begun"))
    for call in (
        lambda: Unwrap().unwrap(plain, "512", 2, 60.0, number),
        lambda: BakeTextures().bake(red, plain, blue, "512", "1", False, False, "auto", number),
        lambda: GameReadyAsset().make(plain, "preview", 100, "512", FROM_PRESET, blue, number),
    ):
        with pytest.raises(ValueError, match=f"texture_size_override: .*{says}"):
            call()


def test_the_size_socket_takes_no_widgets_place():
    for node in (Unwrap, BakeTextures, GameReadyAsset):
        kind, options = node.INPUT_TYPES()["optional"]["texture_size_override"]
        assert (kind, options["forceInput"]) == ("INT", True)
    with pytest.raises(TypeError, match="texture_size_override: expected an INT, got float"):
        asset_module.texture_side("512", 512.0)


# Options of Game-Ready Asset


def test_options_left_alone_are_the_presets_own():
    (chosen,) = AssetSettings().choose(**UNTOUCHED)
    for preset in PRESETS.values():
        assert configured(preset, chosen) == preset


CHOICES = [
    ("normal_map", "off", "normal_map", False),
    ("occlusion", "off", "occlusion", False),
    ("occlusion_rays", 32, "occlusion_rays", 32),
    ("occlusion_distance", 0.25, "occlusion_reach", 0.25),
    ("occlusion_distance", 0.0, "occlusion_reach", None),
    ("supersample", "2", "supersample", 2),
    ("alpha_mode", "BLEND", "alpha_mode", "BLEND"),
    ("gutter", 5, "gutter", 5),
    ("crease_deg", 0.0, "crease_deg", 0.0),
    ("surface_resolution", 64, "surface_resolution", 64),
]


@pytest.mark.parametrize(("widget", "value", "option", "expected"), CHOICES)
def test_each_choice_reaches_the_asset_and_nothing_else_changes(widget, value, option, expected, plain, monkeypatch):
    asked = []

    def make(mesh, voxels, options, **more):
        asked.append(options)
        return TexturedMesh(mesh)

    monkeypatch.setattr(asset_module, "make_asset", make)
    (chosen,) = AssetSettings().choose(**{**UNTOUCHED, widget: value})
    GameReadyAsset().make(plain, "game high", 0, FROM_PRESET, FROM_PRESET, options=chosen)
    assert asked == [replace(PRESETS["game high"], **{option: expected})]


def test_the_hole_choice_reaches_cleaning(plain):
    """A ball without one face keeps its hole if none may be closed."""
    opened = replace(plain, faces=plain.faces[1:])
    closed = []
    for perimeter in (0.0, 5.0):
        (chosen,) = AssetSettings().choose(**{**UNTOUCHED, "max_hole_perimeter": perimeter})
        _, mesh = GameReadyAsset().make(opened, "preview", 1000, FROM_PRESET, FROM_PRESET, options=chosen)
        closed.append(trimesh.Trimesh(mesh.vertices.numpy(), mesh.faces.numpy()).is_watertight)
    assert closed == [False, True]


@pytest.mark.slow
def test_maps_come_and_go(plain, blue):
    on = {"normal_map": "on", "alpha_mode": "MASK"}
    (chosen,) = AssetSettings().choose(**{**UNTOUCHED, **on})
    textured, _ = GameReadyAsset().make(plain, "preview", 100, FROM_PRESET, FROM_PRESET, blue, 64, chosen)
    (material,) = textured.materials
    assert material.normal_texture is not None
    assert material.alpha_mode == "MASK"
    textured, _ = GameReadyAsset().make(plain, "preview", 100, FROM_PRESET, FROM_PRESET, blue, 64)
    assert textured.materials[0].normal_texture is None


@pytest.mark.parametrize(("preset", "says"), [("preview", "voxels are not"), ("3D print", "3D print has no texture")])
def test_maps_that_cannot_be_made_are_told(preset, says, plain, blue, monkeypatch):
    monkeypatch.setattr(asset_module, "make_asset", lambda mesh, *_, **__: TexturedMesh(mesh))
    (chosen,) = AssetSettings().choose(**{**UNTOUCHED, "occlusion": "on"})
    voxels = None if preset == "preview" else blue
    found = GameReadyAsset().make(plain, preset, 0, FROM_PRESET, FROM_PRESET, voxels, options=chosen)
    (line,) = found["ui"]["text"]
    assert says in line
    (chosen,) = AssetSettings().choose(**{**UNTOUCHED, "occlusion": "off"})
    assert len(GameReadyAsset().make(plain, preset, 0, FROM_PRESET, FROM_PRESET, voxels, options=chosen)) == 2


def test_warnings_stay_on_the_node_with_options(monkeypatch):
    balls = trimesh.util.concatenate(
        [trimesh.creation.icosphere(1, r).apply_translation((r, 0, 0)) for r in (0.1, 0.3)]
    )
    mesh = Mesh(torch.tensor(balls.vertices, dtype=torch.float32), torch.tensor(balls.faces))
    monkeypatch.setattr(library, "simplify", lambda mesh, faces, **options: mesh)
    (chosen,) = AssetSettings().choose(**UNTOUCHED)
    found = GameReadyAsset().make(mesh, "preview", 100, FROM_PRESET, FROM_PRESET, options=chosen)
    _choice, line = found["ui"]["text"]
    assert "left out" in line
    assert len(found["result"][1].faces) == 80


def test_what_was_made_is_written_on_the_running_node(plain, monkeypatch):
    """A text stays on the canvas until the next one, so that a run without warnings writes its own."""
    sent = []
    server = SimpleNamespace(send_progress_text=lambda text, node_id: sent.append((node_id, text)))
    modules = {
        "server": SimpleNamespace(PromptServer=SimpleNamespace(instance=server)),
        "comfy_execution.utils": SimpleNamespace(get_executing_context=lambda: SimpleNamespace(node_id="7:2")),
    }
    monkeypatch.setattr(host.comfyui, "module", modules.get)
    GameReadyAsset().make(plain, "preview", 100, FROM_PRESET, FROM_PRESET)
    SimplifyMesh().simplify(plain, 200, 0.0)
    monkeypatch.setattr(library, "simplify", lambda mesh, faces, **options: mesh)
    GameReadyAsset().make(plain, "preview", 100, FROM_PRESET, FROM_PRESET)
    assert [node for node, _ in sent] == ["7:2"] * 3
    assert [text.splitlines()[0] for _, text in sent] == ["100 triangles", "200 triangles", "320 triangles"]
    assert "320 triangles where 100 were wanted" in sent[2][1]
    modules["comfy_execution.utils"] = SimpleNamespace(get_executing_context=lambda: None)
    host.show_text(["outside a run"])
    assert len(sent) == 3


def test_options_of_another_pack_are_refused(plain):
    with pytest.raises(TypeError, match="T2_ASSET_OPTIONS"):
        GameReadyAsset().make(plain, "preview", 100, "512", FROM_PRESET, options={"gutter": 2})
    optional = list(GameReadyAsset.INPUT_TYPES()["optional"])
    assert optional[0] == "voxels"
    assert optional[-1] == "options"


def test_the_graph_still_refuses_other_sockets(comfy, runner):
    prompt = {
        "1": {"class_type": "T2ExampleImage", "inputs": {"picture": "chair"}},
        "2": {"class_type": "T2SimplifyMesh", "inputs": {"mesh": ["1", 0], "faces": 100, "max_error": 0.0}},
    }
    with pytest.raises(Exception, match="expected T2_MESH,T2_TEXTURED_MESH, got IMAGE"):
        runner.validate("2", prompt)
