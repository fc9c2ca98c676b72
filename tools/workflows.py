"""The example workflows; tools/write.py writes them to workflows/ and workflows/api/.

ComfyUI's template browser shows workflows/*.json with the picture of the same name; workflows/api/ has the same graphs
in the form that /prompt takes, without what is muted.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from .batch_workflow import batch_folder
from .canvas import BLUE, GREEN, GREY, ORANGE, PURPLE, Canvas, Node
from .example import MINI, Types, new_canvas, note

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "workflows"
PAGE = ROOT / "docs" / "workflows.md"
CANVASES = ROOT / "assets" / "docs"
PREFACE = """\
All but Pixal3D's run on a fresh install, with the pack's own pictures, mesh and model: open *Templates* in ComfyUI, or
drag a file of `workflows/` onto the canvas. Each has this note on its canvas. What is shown is what the built-in model
makes, and for Pixal3D, which downloads its weights, what goes in.

{large}"""
PIXAL3D, PIXAL3D_VIEWS = "Comfy-Org/Pixal3D", "Comfy-Org/Pixal3D:multiview"
TRUCK_FOV = 30.0  # degrees, of the example's views


def own_photo_to_asset(types: Types) -> Canvas:
    """A photo with its background removed, to a textured asset."""
    canvas = new_canvas("own_photo_to_asset", types)
    with canvas.group("1. Picture", BLUE):
        example = canvas.add("T2ExampleImage", picture="mug photo")
        own = canvas.add("LoadImage")
        images = canvas.add("T2PrepareImage", image=example["image"], mask=example["mask"])
        canvas.add("PreviewImage", images=images["preview"])
    with canvas.group("Busy background: un-mute, connect mask to Prepare Image", GREY):
        model = canvas.add("LoadBackgroundRemovalModel", muted=True)
        canvas.add("RemoveBackground", muted=True, bg_removal_model=model["bg_model"], image=own["IMAGE"])
    with canvas.group("2. Object", GREEN):
        surface = _one_node(canvas, images)
    _finish(canvas, surface, "preview", "3. Asset")
    return canvas


def image_to_3d_one_node(types: Types) -> Canvas:
    """A picture to a mesh with vertex colours, sampled by one node."""
    canvas = new_canvas("image_to_3d_one_node", types)
    with canvas.group("1. Model and picture", BLUE):
        images = _picture(canvas)
    with canvas.group("2. Object", GREEN):
        surface = _one_node(canvas, images)
    with canvas.group("3. File", ORANGE):
        _save_raw(canvas, surface)
    return canvas


def image_to_3d(types: Types) -> Canvas:
    """The same with a node for every stage."""
    canvas = new_canvas("image_to_3d", types)
    with canvas.group("1. Model and picture", BLUE):
        model = canvas.add("T2LoadModel", model=MINI)
        images = _picture(canvas)
        condition = canvas.add("T2ImageCondition", pipeline=model["pipeline"], images=images["images"])
    decoded = _stages(canvas, model, condition)
    with canvas.group("4. File", ORANGE):
        _save_raw(canvas, decoded)
    return canvas


def several_views(types: Types) -> Canvas:
    """Several views of one object to one mesh."""
    canvas = new_canvas("several_views", types)
    with canvas.group("1. Model and views", BLUE):
        model = canvas.add("T2LoadModel", model=MINI)
        views = canvas.add("T2ExampleImage", picture="truck views")
        images = canvas.add("T2PrepareImage", image=views["image"], mask=views["mask"])
        canvas.add("PreviewImage", images=images["preview"])
    with canvas.group("2. Object", GREEN):
        surface = canvas.add(
            "T2ImageTo3D", pipeline=model["pipeline"], images=images["images"], batch_is="views of one object"
        )
    with canvas.group("3. File", ORANGE):
        _save_raw(canvas, surface)
    return canvas


def named_views(types: Types) -> Canvas:
    """Pictures from named sides, each voxel guided by those that see it."""
    canvas = new_canvas("named_views", types)
    model, views = _truck(canvas, model=MINI)
    with canvas.group("3. Object", GREEN):
        surface = canvas.add(
            "T2ImageTo3D",
            pipeline=model["pipeline"],
            images=views["images"],
            batch_is="views of one object",
            view_mode="blend",
        )
    with canvas.group("4. File", ORANGE):
        _save_raw(canvas, surface)
    return canvas


def mesh_to_asset(types: Types) -> Canvas:
    """A mesh to a simplified, baked one, through an O-Voxel."""
    canvas = new_canvas("mesh_to_asset", types)
    with canvas.group("1. Mesh", BLUE):
        source = canvas.add("T2ExampleMesh")
    with canvas.group("2. Voxels and back", GREEN):
        voxels = canvas.add("T2MeshToVoxels", textured_mesh=source["textured_mesh"], resolution=256)
        surface = canvas.add("T2VoxelsToMesh", o_voxel=voxels["o_voxel"])
        cleaned = canvas.add("T2CleanMesh", mesh=surface["mesh"])
    with canvas.group("3. Light mesh", PURPLE):
        light = canvas.add("T2SimplifyMesh", mesh=cleaned["mesh"], faces=8000)
        charts = canvas.add("T2Unwrap", mesh=light["mesh"], texture_size="1024")
        baked = canvas.add(
            "T2BakeTextures",
            textured_mesh=charts["textured_mesh"],
            detailed_mesh=cleaned["mesh"],
            voxels=surface["voxels"],
            texture_size="1024",
        )
    with canvas.group("4. Look and save", ORANGE):
        atlas = canvas.add("T2UVAtlas", textured_mesh=charts["textured_mesh"])
        canvas.add("PreviewImage", images=atlas["image"])
        _save_asset(canvas, baked)
    return canvas


def texture_a_mesh(types: Types) -> Canvas:
    """A mesh and a picture to the same mesh with new textures."""
    canvas = new_canvas("texture_a_mesh", types)
    with canvas.group("1. Model and picture", BLUE):
        model = canvas.add("T2LoadModel", model=MINI)
        images = _picture(canvas)
        condition = canvas.add("T2ImageCondition", pipeline=model["pipeline"], images=images["images"])
    with canvas.group("2. Mesh", GREEN):
        source = canvas.add("T2ExampleMesh")
        shape = canvas.add("T2EncodeMesh", pipeline=model["pipeline"], mesh=source["textured_mesh"])
    with canvas.group("3. Materials", PURPLE):
        texture = canvas.add(
            "T2SampleTexture", pipeline=model["pipeline"], condition=condition["condition"], shape=shape["shape"]
        )
        decoded = canvas.add(
            "T2DecodeMesh", pipeline=model["pipeline"], shape=shape["shape"], texture=texture["texture"]
        )
        painted = canvas.add(
            "T2TextureMesh",
            mesh=source["textured_mesh"],
            voxels=decoded["voxels"],
            texture_size="1024",
            uvs="unwrap what overlaps",
        )
    with canvas.group("4. File", ORANGE):
        _save_asset(canvas, painted)
    return canvas


def game_ready_asset(types: Types) -> Canvas:
    """A picture to an asset by a preset, with its options and figures."""
    canvas = new_canvas("game_ready_asset", types)
    with canvas.group("1. Model and picture", BLUE):
        images = _picture(canvas)
    with canvas.group("2. Object", GREEN):
        surface = _one_node(canvas, images)
    _finish(canvas, surface, "preview", "3. Asset", options=True)
    return canvas


def print_3d(types: Types) -> Canvas:
    """A picture to a watertight STL."""
    canvas = new_canvas("print_3d", types)
    with canvas.group("1. Model and picture", BLUE):
        images = _picture(canvas)
    with canvas.group("2. Object", GREEN):
        surface = _one_node(canvas, images)
    with canvas.group("3. Solid", PURPLE):
        solid = canvas.add(
            "T2Remesh", mesh=surface["mesh"], keep="outer shell", resolution=256, min_wall_mm=0.8, bodies=1
        )
        light = canvas.add("T2SimplifyMesh", mesh=solid["mesh"], faces=100_000)
    with canvas.group("4. Print", ORANGE):
        canvas.add("T2MeshInfo", mesh=light["mesh"])
        saved = canvas.add("T2SaveMesh", mesh=light["mesh"], filename_prefix="3d/print", format="stl", scale=100.0)
        canvas.add("Preview3D", model_file=saved["model_file"])
    return canvas


def low_vram(types: Types) -> Canvas:
    """A picture to an asset on a small card."""
    canvas = new_canvas("low_vram", types)
    with canvas.group("1. Model and picture", BLUE):
        images = _picture(canvas)
    with canvas.group("2. Object", GREEN):
        surface = _one_node(canvas, images, vram="low", max_tokens=32768, step_cache=True)
    _finish(canvas, surface, "preview", "3. Asset")
    return canvas


def latents(types: Types) -> Canvas:
    """A shape is saved; un-muted, it is loaded and textured by another picture."""
    canvas = new_canvas("latents", types)
    with canvas.group("1. Model and picture", BLUE):
        model = canvas.add("T2LoadModel", model=MINI)
        images = _picture(canvas)
        condition = canvas.add("T2ImageCondition", pipeline=model["pipeline"], images=images["images"])
    wires = {"pipeline": model["pipeline"], "condition": condition["condition"]}
    with canvas.group("2. Shape", GREEN):
        structure = canvas.add("T2SampleStructure", **wires)
        shape = canvas.add("T2SampleShape", **wires, structure=structure["structure"])
    with canvas.group("3. Materials", PURPLE):
        texture = canvas.add("T2SampleTexture", **wires, shape=shape["shape"])
        decoded = canvas.add(
            "T2DecodeMesh", pipeline=model["pipeline"], shape=shape["shape"], texture=texture["texture"]
        )
    with canvas.group("4. Files", ORANGE):
        canvas.add("T2SaveLatent", structure=structure["structure"], shape=shape["shape"], texture=texture["texture"])
        _save_raw(canvas, decoded)
    with canvas.group("Later: mute 2 to 4, un-mute this, choose the file and another picture or seed", GREY):
        loaded = canvas.add("T2LoadLatent", muted=True)
        again = canvas.add("T2SampleTexture", muted=True, **wires, shape=loaded["shape"], seed=7)
        other = canvas.add(
            "T2DecodeMesh",
            muted=True,
            pipeline=model["pipeline"],
            shape=loaded["shape"],
            texture=again["texture"],
        )
        saved = canvas.add("T2SaveGLB", muted=True, mesh=other["mesh"], voxels=other["voxels"])
        canvas.add("Preview3D", muted=True, model_file=saved["model_file"])
    return canvas


def picture_detail(types: Types) -> Canvas:
    """A picture to an asset, with the picture itself on the side that it shows."""
    canvas = new_canvas("picture_detail", types)
    with canvas.group("1. Model and picture", BLUE):
        example = canvas.add("T2ExampleImage", picture="mug photo")
        images = canvas.add("T2PrepareImage", image=example["image"], mask=example["mask"])
        canvas.add("PreviewImage", images=images["preview"])
    with canvas.group("2. Object", GREEN):
        surface = _one_node(canvas, images)
    with canvas.group("3. Asset", PURPLE):
        asset = canvas.add("T2GameReadyAsset", mesh=surface["mesh"], voxels=surface["voxels"], preset="preview")
    with canvas.group("4. The picture on it", PURPLE):
        detailed = canvas.add(
            "T2ProjectPicture", textured_mesh=asset["textured_mesh"], image=example["image"], mask=example["mask"]
        )
        canvas.add("PreviewImage", images=detailed["preview"])
    with canvas.group("File", ORANGE):
        _save_asset(canvas, detailed)
    return canvas


def pixal3d(types: Types) -> Canvas:
    """A picture to an asset that follows it closely, with a node for every stage."""
    canvas = new_canvas("pixal3d", types)
    with canvas.group("1. Model and picture", BLUE):
        model = canvas.add("T2LoadModel", model=PIXAL3D, quantization="int8")
        images = _picture(canvas)
        condition = canvas.add("T2ImageCondition", pipeline=model["pipeline"], images=images["images"])
    decoded = _stages(canvas, model, condition)
    _finish(canvas, decoded, "preview", "4. Asset")
    return canvas


def pixal3d_views(types: Types) -> Canvas:
    """Four sides of an object to an asset, every voxel with what each of the pictures shows where it is."""
    canvas = new_canvas("pixal3d_views", types)
    model, views = _truck(canvas, model=PIXAL3D_VIEWS, quantization="int8")
    with canvas.group("3. Object", GREEN):
        surface = canvas.add(
            "T2ImageTo3D",
            pipeline=model["pipeline"],
            images=views["images"],
            batch_is="views of one object",
            fov=TRUCK_FOV,
        )
    _finish(canvas, surface, "preview", "4. Asset")
    return canvas


WORKFLOWS: tuple[Callable[[Types], Canvas], ...] = (
    own_photo_to_asset,
    image_to_3d_one_node,
    image_to_3d,
    several_views,
    named_views,
    mesh_to_asset,
    texture_a_mesh,
    game_ready_asset,
    print_3d,
    low_vram,
    latents,
    batch_folder,
    picture_detail,
    pixal3d,
    pixal3d_views,
)


def _picture(canvas: Canvas) -> Node:
    example = canvas.add("T2ExampleImage")
    images = canvas.add("T2PrepareImage", image=example["image"], mask=example["mask"])
    canvas.add("PreviewImage", images=images["preview"])
    return images


def _truck(canvas: Canvas, **settings: object) -> tuple[Node, Node]:
    """(model, Views of the example's four sides), in groups 1 and 2. settings: of Load Model."""
    with canvas.group("1. Model and pictures", BLUE):
        model = canvas.add("T2LoadModel", **settings)
        strip = canvas.add("T2ExampleImage", picture="truck views")
        cut = canvas.add("JoinImageWithAlpha", image=strip["image"], alpha=strip["mask"])
        sides = {
            side: canvas.add("ImageFromBatch", image=cut["IMAGE"], batch_index=place)["IMAGE"]
            for place, side in enumerate(("front", "left", "back", "right"))
        }
    with canvas.group("2. Sides", PURPLE):
        views = canvas.add("T2Views", **sides, elevation=15.0)
        canvas.add("PreviewImage", images=views["preview"])
    return model, views


def _stages(canvas: Canvas, model: Node, condition: Node) -> Node:
    """The stages to a decoded surface, in groups 2 and 3."""
    wires = {"pipeline": model["pipeline"], "condition": condition["condition"]}
    with canvas.group("2. Shape", GREEN):
        structure = canvas.add("T2SampleStructure", **wires)
        coarse = canvas.add("T2SampleShape", **wires, structure=structure["structure"])
        shape = canvas.add("T2ShapeCascade", **wires, shape=coarse["shape"])
    with canvas.group("3. Materials", PURPLE):
        texture = canvas.add("T2SampleTexture", **wires, shape=shape["shape"])
        decoded = canvas.add(
            "T2DecodeMesh", pipeline=model["pipeline"], shape=shape["shape"], texture=texture["texture"]
        )
    return decoded


def _one_node(canvas: Canvas, images: Node, vram: str = "auto", **settings: object) -> Node:
    model = canvas.add("T2LoadModel", model=MINI, vram=vram)
    return canvas.add("T2ImageTo3D", pipeline=model["pipeline"], images=images["images"], **settings)


def _save_raw(canvas: Canvas, surface: Node) -> None:
    saved = canvas.add("T2SaveGLB", mesh=surface["mesh"], voxels=surface["voxels"])
    canvas.add("Preview3D", model_file=saved["model_file"])


def _save_asset(canvas: Canvas, asset: Node) -> None:
    saved = canvas.add("T2SaveMesh", mesh=asset["textured_mesh"])
    canvas.add("Preview3D", model_file=saved["model_file"])


def _finish(canvas: Canvas, surface: Node, preset: str, title: str, *, options: bool = False) -> None:
    with canvas.group(title, PURPLE):
        extra = {"options": canvas.add("T2AssetOptions")["options"]} if options else {}
        asset = canvas.add("T2GameReadyAsset", mesh=surface["mesh"], voxels=surface["voxels"], preset=preset, **extra)
        if options:
            canvas.add("T2MeshInfo", mesh=asset["textured_mesh"])
    with canvas.group("File", ORANGE):
        _save_asset(canvas, asset)


def texts(types: Types) -> dict[Path, str]:
    """Every file to write, below workflows/, with its text."""
    files = {}
    for make in WORKFLOWS:
        canvas = make(types)
        files[Path(f"{canvas.name}.json")] = json.dumps(canvas.canvas(), indent=1, ensure_ascii=False) + "\n"
        files[Path("api", f"{canvas.name}.json")] = json.dumps(canvas.api(), indent=1, ensure_ascii=False) + "\n"
    return files


def page() -> str:
    """Returns docs/workflows.md: every workflow's note with a picture of its canvas and one of what it makes."""
    lines = ["# Workflows", "", PREFACE.format(large=note("large_model"))]
    for make in WORKFLOWS:
        name = make.__name__
        text = note(name).replace("{large}", "").strip()
        lines += ["", f"#{text}", ""]
        if (CANVASES / f"{name}.webp").is_file():
            lines += [f"![The canvas of {name}](../assets/docs/{name}.webp)", ""]
        shown = "What goes in" if name.startswith("pixal3d") else "What it makes"
        lines += [f"![{shown}](../workflows/{name}.jpg) [{name}.json](../workflows/{name}.json)"]
    return "\n".join(lines) + "\n"
