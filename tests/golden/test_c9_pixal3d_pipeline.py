"""Pixal3D's whole pipeline, two cascades of one picture and one of three views, on tiny networks.

Each stage runs on what our stage before it made, with the reference's noise. Its frame is y up; the pipeline's meshes
are turned to z up. The files beside this test hold the finer shape of each run, from the reference's coarse one, and
what the cascade starts from; the other networks come with the whole set (`--goldens`).
"""

import json
from types import SimpleNamespace

import pytest
import torch
from comfyui_trellis2.o_voxel.core.grid import to_z_up
from comfyui_trellis2.trellis2.checkpoint.config import Normalization, SamplerConfig, parse
from comfyui_trellis2.trellis2.checkpoint.weights import load_weights, read_tensors
from comfyui_trellis2.trellis2.models.naf import NafConfig, NafUpsampler
from comfyui_trellis2.trellis2.pipeline import MAX_TOKENS, PIPELINE_TYPES, Pipeline
from comfyui_trellis2.trellis2.projection.camera import Pose, ViewRig, canonical, distance_of
from comfyui_trellis2.trellis2.projection.frame import voxels_to_z_up
from comfyui_trellis2.trellis2.projection.pictures import Upsampling, ViewProjection, view_pictures
from comfyui_trellis2.trellis2.runtime.residency import KeepLoaded
from comfyui_trellis2.trellis2.sampling import projected
from comfyui_trellis2.trellis2.sampling.flow_sampling import sample_sparse_latent
from comfyui_trellis2.trellis2.sampling.projected import StageGuide
from comfyui_trellis2.trellis2.sampling.stages import cascade_voxels, denormalize, noise_on
from comfyui_trellis2.trellis2.sparse import CoordSet, PackedSequences, ProjectedSequences, SparseTensor
from comfyui_trellis2.trellis2.values import ImageCondition, ShapeLatent, SparseStructure
from PIL import Image
from torch.nn import functional as F

ATOL, VERTEX_ATOL = 2e-4, 1e-5
TYPES = ("1024_cascade", "1536_cascade", "mv_1024_cascade")
SAMPLERS = {"ss": "sparse_structure_sampler", "shape": "shape_slat_sampler", "tex": "tex_slat_sampler"}
CPU = torch.device("cpu")

types = pytest.mark.parametrize("kind", TYPES)


@pytest.fixture(scope="module")
def described(golden):
    return json.loads(golden("c9_pixal3d_pipeline.json").read_text())


@pytest.fixture(scope="module")
def config(described):
    base = {"name": described["sampler"]["name"], "args": {"sigma_min": described["sampler"]["sigma_min"]}}
    samplers = {
        name: parse(SamplerConfig, base | {"params": described["params"][key]}, key) for key, name in SAMPLERS.items()
    }
    stats = {name: parse(Normalization, described[name], name) for name in described if "normalization" in name}
    models = described["models"]
    return SimpleNamespace(
        **samplers,
        **stats,
        models=models,
        default_pipeline_type="1024_cascade",
        projects=True,
        low_vram=False,
        crop=None,
    )


class Stored(dict):
    """Arrays by name; a test that asks for one that this set lacks is skipped."""

    def __missing__(self, name):
        pytest.skip(f"no {name} in this set")


@pytest.fixture(scope="module")
def data(arrays):
    """data(kind) is a run's arrays; those of the cascade at 1536 begin with those of 1024."""

    def of(kind):
        first = arrays("c9_pixal3d_pipeline_1024_cascade.npz")
        shared = {key: first[key] for key in first if key == "noise_ss" or not kind.startswith("mv")}
        return Stored(shared | arrays(f"c9_pixal3d_pipeline_{kind}.npz"))

    return of


def need(found, *names):
    return [found[name] for name in names]


@pytest.fixture(scope="module")
def models(golden, network, described):
    """models(kind) are the networks of a run by role, loaded when asked for."""
    kept = {}

    def of(role, kind):
        bias = described["runs"][kind]["ss_decoder_bias"]
        key = role, bias if role == "sparse_structure_decoder" else None
        if key in kept:
            return kept[key]
        if role == "image_upsampler":
            path = golden("c9_pixal3d_naf.safetensors")
            tensors = read_tensors(path)
            with torch.device("meta"):
                kept[key] = NafUpsampler(NafConfig.of(tensors))
            load_weights(kept[key], tensors, str(path))
        elif role == "sparse_structure_decoder":
            edit = lambda tensors: tensors["out_layer.2.bias"].fill_(bias)  # noqa: E731 a function of one line
            kept[key] = network("c3_ss_decoder", edit=edit)
        elif role == "sparse_structure_flow_model":
            edit = lambda tensors: tensors.pop("rope_phases", None)  # noqa: E731 a function of one line
            kept[key] = network("c9_pixal3d_ss_flow", edit=edit, resolution=16)
        else:
            kept[key] = network(described["models"][role])
        return kept[key]

    return of


@pytest.fixture(scope="module")
def pipelines(config, models):
    def of(kind):
        checkpoint = SimpleNamespace(
            config=config, name="tiny", quantization="none", load_model=lambda role, **_: models(role, kind)
        )
        return Pipeline(checkpoint, KeepLoaded("cpu"))

    return of


@pytest.fixture(scope="module")
def conditions(described, data):
    """conditions(kind): the image tokens of the file, normalised, with its pictures and cameras."""
    stages = described["stages"]
    sizes = [stages[name]["image_size"] for name in ("shape_512", "shape_1024")]
    upsampling = Upsampling(
        shape_512=stages["shape_512"]["naf_target"],
        shape_1024=stages["shape_1024"]["naf_target"],
        texture_1024=stages["tex_1024"]["naf_target"],
    )

    def of(kind):
        found = data(kind)
        tokens = need(found, "tokens_512", "tokens_1024")
        tokens = [F.layer_norm(part, part.shape[-1:], eps=1e-5)[None] for part in tokens]
        if "pictures" in found:
            images = [Image.fromarray(picture.numpy()) for picture in found["pictures"]]
            poses = zip(found["c2w"].tolist(), found["fov"].rad2deg().tolist(), strict=True)
            rig = ViewRig(poses=tuple(Pose(tuple(map(tuple, matrix)), fov) for matrix, fov in poses))
        else:
            images = [Image.fromarray(found["picture"].numpy())]
            rig = ViewRig(fov_deg=torch.tensor(described["camera"]["camera_angle_x"]).rad2deg().item())
        pictures, cameras, fov = view_pictures(images, rig, sizes)
        views = ViewProjection(*(pictures[size][None] for size in sizes), cameras[None], fov[None], upsampling)
        return ImageCondition(*tokens, projection=views)

    return of


def matches(guide, found, stage, every=1):
    """Whether the guide of a stage is what the reference's networks took."""
    (sequences,) = guide.views(512)
    torch.testing.assert_close(sequences.feats, found[f"global_{stage}"].flatten(0, 1), atol=5e-6, rtol=0)
    name = f"proj_{stage}" if every == 1 else f"proj_{stage}_every{every}"
    torch.testing.assert_close(sequences.projected[::every], found[name], atol=ATOL, rtol=0)


@types
def test_pictures_and_cameras(described, data, conditions, kind):
    views = conditions(kind).projection
    if kind.startswith("mv"):
        torch.testing.assert_close(views.cameras[0], data(kind)["M"], atol=2e-6, rtol=0)
        return
    prepared = data(kind)["prepared"]
    camera = described["camera"]
    assert distance_of(camera["camera_angle_x"]) == pytest.approx(camera["distance"], rel=2e-6)
    torch.testing.assert_close(views.cameras[0, 0], canonical(camera["distance"]), atol=2e-6, rtol=0)
    image = Image.fromarray(prepared.numpy())
    for size in (views.pictures_512.shape[-1], views.pictures_1024.shape[-1]):
        resized = torch.tensor(list(image.resize((size, size), Image.Resampling.LANCZOS).tobytes())).view(size, size, 3)
        ours = next(p for p in (views.pictures_512, views.pictures_1024) if p.shape[-1] == size)
        assert torch.equal((ours[0, 0] * 255).round(), resized.permute(2, 0, 1).float())


@types
def test_guides(pipelines, conditions, data, described, kind):
    found, networks, condition = data(kind), pipelines(kind).networks, conditions(kind)
    resolution = described["runs"][kind]["resolution"]
    if "proj_ss_every61" in found:
        matches(projected.structure_guide(networks, condition, 16), found, "ss", every=61)
        coords = CoordSet(found["coords"].int(), [len(found["coords"])])
        matches(projected.latent_guide(networks, condition, "shape", coords, [512])[0], found, "shape_lr")
    coords = CoordSet(found["shape_slat_coords"].int(), [len(found["shape_slat_coords"])])
    for name, stage in (("shape", "shape_hr"), ("texture", "tex")):
        matches(projected.latent_guide(networks, condition, name, coords, [resolution])[0], found, stage)


@types
def test_whole(pipelines, conditions, data, described, close, monkeypatch, kind):
    """From the reference's noise to the mesh, every stage of the pipeline after another."""
    found, report, pipeline, condition = data(kind), described["runs"][kind], pipelines(kind), conditions(kind)
    noises = [need(found, f"noise_{name}")[0] for name in report["noise_order"]]
    drawn = iter(noise[0] if noise.ndim == 5 else noise for noise in noises)

    def stored(seed, shapes, histories):
        return [next(drawn)], tuple((*history, tuple(shapes[0])) for history in histories)

    monkeypatch.setattr("comfyui_trellis2.trellis2.sampling.stages.next_noise", stored)
    structure = pipeline.sample_structure(condition, seed=0, resolution=32)
    assert torch.equal(CoordSet.from_items(structure.items).rows, found["coords"].int())
    coarse = pipeline.sample_shape(condition, structure, seed=0)
    close(coarse.slat.feats, found["lr_slat"], ATOL)
    target = PIPELINE_TYPES[report["pipeline_type"]].cascade
    cap = report["max_num_tokens"]
    shape = pipeline.cascade_shape(condition, coarse, seed=0, resolution=target, max_tokens=cap)
    assert shape.resolutions == (report["resolution"],)
    assert torch.equal(shape.slat.coords.rows, found["shape_slat_coords"].int())
    close(shape.slat.feats, found["shape_slat"], ATOL)
    texture = pipeline.sample_texture(condition, shape, seed=0)
    close(texture.slat.feats, found["tex_slat"], ATOL)
    assert structure.y_up and coarse.y_up and shape.y_up and texture.y_up
    (asset,) = pipeline.decode(shape, texture)
    assert torch.equal(asset.mesh.faces, found["mesh_faces"])
    expected = to_z_up(found["mesh_vertices_first512"])
    close(asset.mesh.vertices[: len(expected)], expected, VERTEX_ATOL)
    assert torch.equal(asset.field.coords, voxels_to_z_up(found["voxel_coords"].int(), report["resolution"]))
    attrs = found["voxel_attrs_first1024"]
    close(asset.field.attrs[: len(attrs)], attrs, ATOL)


@types
def test_the_finer_shape(config, network, data, described, close, kind):
    """The flow of the cascade alone, on what the reference projected."""
    names = ("shape_slat_coords", "noise_shape_hr", "global_shape_hr", "proj_shape_hr", "shape_slat")
    coords, noise, whole, features, expected = need(data(kind), *names)
    tokens = PackedSequences.from_items(whole)
    guide = StageGuide(ProjectedSequences(tokens.feats, tokens.lengths, features))
    start = noise_on([coords[:, 1:].int()], [noise], CPU)
    flow = network(described["models"]["shape_slat_flow_model_1024"])

    def sampled(guide):
        latent = sample_sparse_latent(flow, start, guide, config.shape_slat_sampler, image_size=1024)
        return denormalize(latent, config.shape_slat_normalization).feats

    close(sampled(guide), expected, ATOL)
    louder = StageGuide(ProjectedSequences(tokens.feats, tokens.lengths, features * 1.01))
    assert (sampled(louder) - expected).abs().max() > ATOL


@types
def test_cascade(data, described, kind):
    found, report = data(kind), described["runs"][kind]
    fine, coords = need(found, "hr_coords", "shape_slat_coords")
    target = PIPELINE_TYPES[report["pipeline_type"]].cascade
    voxels, reached = cascade_voxels(fine[:, 1:].int(), 512, target, report["max_num_tokens"], on_faces=True)
    assert reached == report["resolution"]
    assert torch.equal(voxels, coords[:, 1:].int())
    for resolution, tokens in report["tokens_by_resolution"].items():
        voxels, _ = cascade_voxels(fine[:, 1:].int(), 512, int(resolution), MAX_TOKENS, on_faces=True)
        assert len(voxels) == tokens
        assert len(cascade_voxels(fine[:, 1:].int(), 512, int(resolution), MAX_TOKENS)[0]) != tokens


def test_other_frames_and_conditions_are_refused(pipelines, conditions):
    kind = "1024_cascade"
    pipeline, condition = pipelines(kind), conditions(kind)
    voxels = torch.zeros(1, 3, dtype=torch.int32)
    with pytest.raises(ValueError, match=r"SparseStructure: expected voxels that are y up.*got z up"):
        pipeline.sample_shape(condition, SparseStructure((voxels,), 32, ((),)), seed=0)
    stats = pipeline.config.shape_slat_normalization
    slat = SparseTensor.from_items([(voxels, torch.zeros(1, len(stats.mean)))])
    encoded = ShapeLatent(slat, (1024,), ((),), stats.fingerprint)
    with pytest.raises(ValueError, match=r"ShapeLatent: expected voxels that are y up.*got z up"):
        pipeline.sample_texture(condition, encoded, seed=0)
    plain = ImageCondition(condition.tokens_512, condition.tokens_1024)
    with pytest.raises(ValueError, match=r"expected pictures with cameras.*got image tokens alone"):
        pipeline.sample_shape(plain, SparseStructure((voxels,), 32, ((),), y_up=True), seed=0)
