"""The reference's whole pipeline, four types, on the small networks of c1 to c4 and two more.

Each stage runs on what our stage before it made, with the reference's noise injected. The 1536 cascade has a token cap
that makes it come down in resolution.
"""

import json
import re
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from comfyui_trellis2.o_voxel.values import Mesh, VoxelField
from comfyui_trellis2.o_voxel.voxels.to_mesh import dual_grid_to_mesh
from comfyui_trellis2.trellis2.checkpoint.config import Normalization, SamplerConfig, parse
from comfyui_trellis2.trellis2.models.sparse_vae import Decoded
from comfyui_trellis2.trellis2.models.structure_vae import occupied_voxels
from comfyui_trellis2.trellis2.pipeline import MAX_TOKENS, PIPELINE_TYPES, Pipeline
from comfyui_trellis2.trellis2.runtime.residency import KeepLoaded
from comfyui_trellis2.trellis2.sampling.flow_sampling import sample_sparse_latent, sample_structure_latent
from comfyui_trellis2.trellis2.sampling.noise import draw_noise
from comfyui_trellis2.trellis2.sampling.stages import cascade_voxels, denormalize, noise_on, normalize
from comfyui_trellis2.trellis2.sparse import CoordSet, SparseTensor
from comfyui_trellis2.trellis2.values import ImageCondition, SparseStructure
from torch import Tensor
from torch.nn import functional as F

ATOL = 1e-4
VERTEX_ATOL = 1e-5  # world units: 1 % of a voxel at 1024
FLOAT16 = 2**-11  # relative, of values that were rounded to it
TYPES = ("512", "1024", "1024_cascade", "1536_cascade")

types = pytest.mark.parametrize("kind", TYPES)
CPU = torch.device("cpu")


@dataclass
class Run:
    """What one run made, stage by stage."""

    voxels: Tensor
    coarse: SparseTensor | None
    fine: CoordSet | None
    shape: SparseTensor
    texture: SparseTensor
    decoded: Decoded
    mesh: Mesh
    field: VoxelField
    resolution: int


@pytest.fixture(scope="module")
def described(golden):
    return json.loads(golden("c7_pipeline.json").read_text())


@pytest.fixture(scope="module")
def shared(arrays):
    """The run that holds what all runs share: the structure's noise and the image tokens."""
    return arrays("c7_pipeline_512.npz")


@pytest.fixture(scope="module")
def config(described):
    settings = described["pipeline_json_like"]
    kinds = {key: SamplerConfig if key.endswith("sampler") else Normalization for key in settings}
    parsed = {key: parse(kinds[key], value, key) for key, value in settings.items()}
    return SimpleNamespace(**parsed, default_pipeline_type="1024_cascade", models=described["models"], crop=None)


@pytest.fixture(scope="module")
def condition(shared):
    return ImageCondition(shared["cond_512"][:, None], shared["cond_1024"][:, None])


@pytest.fixture(scope="module")
def models(network, described, shared):
    """The eight networks, by role; two of them changed as the file says."""
    names = {role: re.match(r"\w+", text).group() for role, text in described["models"].items()}
    bias = float(re.search(r"out_layer.2.bias set to (\S+)", described["models"]["sparse_structure_decoder"]).group(1))
    edits = {
        "sparse_structure_flow_model": (lambda tensors: tensors.pop("rope_phases", None), shared["noise_ss"].shape[-1]),
        "sparse_structure_decoder": (lambda tensors: tensors["out_layer.2.bias"].fill_(bias), None),
    }
    loaded = {}
    for role, name in names.items():
        edit, resolution = edits.get(role, (None, None))
        loaded[role] = network(name, edit=edit, **({"resolution": resolution} if resolution else {}))
    return loaded


@pytest.fixture(scope="module")
def structure(shared, config, condition, models):
    """(latent, occupancy logits) of the sparse structure, which all runs share."""
    flow = models["sparse_structure_flow_model"]
    latent = sample_structure_latent(flow, shared["noise_ss"], condition, config.sparse_structure_sampler)
    return latent, models["sparse_structure_decoder"](latent)


@pytest.fixture(scope="module")
def runs(arrays, described, structure, config, condition, models):
    """runs(type) is (what we made, what the reference made); each type runs once."""
    made = {}

    def run(kind):
        golden_arrays = arrays(f"c7_pipeline_{kind}.npz")
        if kind not in made:
            cap = described["runs"][kind].get("max_num_tokens", MAX_TOKENS)
            made[kind] = generate(kind, golden_arrays, structure[1], config, condition, models, cap)
        return made[kind], golden_arrays

    return run


def generate(kind, data, logits, config, condition, models, max_tokens):
    target = PIPELINE_TYPES[kind]
    size = target.shape
    (voxels,) = occupied_voxels(logits, target.structure)

    def sample_shape(size, at, noise):
        flow = models[f"shape_slat_flow_model_{size}"]
        start = noise_on([at], [noise], CPU)
        sampled = sample_sparse_latent(flow, start, condition, config.shape_slat_sampler, image_size=size)
        return denormalize(sampled, config.shape_slat_normalization)

    coarse = fine = None
    resolution = size
    if target.cascade is None:
        shape = sample_shape(size, voxels, data["noise_shape"])
    else:
        coarse = sample_shape(size, voxels, data["noise_shape_lr"])
        fine = models["shape_slat_decoder"].upsample(coarse, 4)
        at, resolution = cascade_voxels(fine.voxels, size, target.cascade, max_tokens)
        shape = sample_shape(size := 1024, at, data["noise_shape_hr"])

    known = normalize(shape, config.shape_slat_normalization)
    sampled = sample_sparse_latent(
        models[f"tex_slat_flow_model_{size}"],
        known.replace(data["noise_tex"]),
        condition,
        config.tex_slat_sampler,
        image_size=size,
        concat=known,
    )
    texture = denormalize(sampled, config.tex_slat_normalization)
    decoded = models["shape_slat_decoder"](shape)
    (grid,) = models["shape_slat_decoder"].dual_grids(decoded.output, [resolution])
    colored = models["tex_slat_decoder"](texture, decoded.subdivisions)
    (field,) = models["tex_slat_decoder"].fields(colored.output, [resolution])
    mesh = dual_grid_to_mesh(grid)
    return Run(voxels, coarse, fine, shape, texture, decoded, mesh, field, resolution)


def stored(data, key, rows):
    """An array of which the file may hold only the first rows: (name, how many)."""
    return next(((name, int(name.partition("_first")[2] or rows)) for name in data if name.startswith(key)), (None, 0))


@pytest.mark.slow
def test_structure_latent(structure, shared, close):
    latent, logits = structure
    close(latent, shared["ss_latent"], ATOL)
    expected = shared["ss_logits_maxpool2_f16"].float()
    torch.testing.assert_close(F.max_pool3d(logits, 2), expected, atol=ATOL, rtol=FLOAT16)


@pytest.mark.slow
@types
def test_structure(runs, kind):
    ours, reference = runs(kind)
    assert torch.equal(CoordSet.from_items([ours.voxels]).rows, reference["coords"])


@pytest.mark.slow
@types
def test_shape_latent(runs, close, kind):
    ours, reference = runs(kind)
    if ours.coarse is not None:
        close(ours.coarse.feats, reference["lr_slat"], ATOL)
        assert torch.equal(ours.fine.rows, reference["hr_coords"].int())
    assert torch.equal(ours.shape.coords.rows, reference["shape_slat_coords"])
    close(ours.shape.feats, reference["shape_slat"], ATOL)


@types
def test_texture_latent(runs, close, kind):
    ours, reference = runs(kind)
    close(ours.texture.feats, reference["tex_slat"], ATOL)


@types
@pytest.mark.parametrize("level", range(4))
def test_subdivision(runs, kind, level):
    ours, reference = runs(kind)
    packed = (ours.decoded.logits[level] > 0) << torch.arange(8)
    assert torch.equal(packed.sum(1, keepdim=True).to(torch.uint8), reference[f"sub{level}_packed"])


@types
def test_mesh(runs, described, close, kind):
    ours, reference = runs(kind)
    assert len(ours.mesh.vertices) == described["runs"][kind]["n_vertices"]
    assert torch.equal(ours.mesh.faces, reference["mesh_faces"])
    name, rows = stored(reference, "mesh_vertices", len(ours.mesh.vertices))
    close(ours.mesh.vertices[:rows], reference[name], VERTEX_ATOL)


@types
def test_field(runs, close, kind):
    ours, reference = runs(kind)
    assert torch.equal(ours.field.coords, reference["voxel_coords"].int())
    name, rows = stored(reference, "voxel_attrs", len(ours.field.attrs))
    expected = reference[name]
    # Long arrays were rounded to float16, whatever they are stored as.
    rounding = FLOAT16 if torch.equal(expected.float(), expected.half().float()) else 0
    torch.testing.assert_close(ours.field.attrs[:rows], expected.float(), atol=ATOL, rtol=rounding)
    grid = ours.field.grid
    assert grid.shape == (int(reference["resolution"]),) * 3
    assert grid.voxel_size == (float(reference["voxel_size"]),) * 3
    assert grid.origin == (-0.5,) * 3
    extent = [1, ours.field.attrs.shape[1], *(ours.field.coords.max(0).values + 1).tolist()]
    assert extent == reference["voxel_shape"].tolist()


def test_cascade_reduces_its_resolution(runs, described):
    ours, reference = runs("1536_cascade")
    report = described["runs"]["1536_cascade"]
    assert ours.resolution == int(reference["resolution"]) < 1536
    assert len(ours.shape.feats) < report["max_num_tokens"]
    for resolution, tokens in report["tokens_by_resolution"].items():
        voxels, reached = cascade_voxels(ours.fine.voxels, 512, int(resolution), MAX_TOKENS)
        assert (len(voxels), reached) == (tokens, int(resolution))
    # Strictly fewer tokens than the cap.
    tokens = report["tokens_by_resolution"][str(ours.resolution)]
    assert cascade_voxels(ours.fine.voxels, 512, ours.resolution, tokens)[1] < ours.resolution
    assert cascade_voxels(ours.fine.voxels, 512, ours.resolution, tokens + 1)[1] == ours.resolution


@types
def test_noise_is_one_stream(described, shared, arrays, kind):
    """The reference's noise is what our stages draw from its seed."""
    data, report = arrays(f"c7_pipeline_{kind}.npz"), described["runs"][kind]
    history = []
    for name, shape in zip(report["noise_order"], report["noise_shapes"], strict=True):
        (noise,) = draw_noise([described["seed"]], [tuple(shape)], [history])
        assert torch.equal(noise, shared["noise_ss"] if name == "ss" else data[f"noise_{name}"])
        history.append(tuple(shape))


@pytest.fixture(scope="module")
def pipeline(config, models):
    checkpoint = SimpleNamespace(
        config=config, name="tiny", quantization="none", load_model=lambda role, **_: models[role]
    )
    return Pipeline(checkpoint, KeepLoaded("cpu"))


@pytest.mark.slow
def test_pipeline_object_structure(pipeline, runs, described, shared, condition):
    """The stages that the nodes call draw the noise themselves."""
    ours, _ = runs("512")
    structure = pipeline.sample_structure(condition, seed=described["seed"], resolution=32)
    assert [item.tolist() for item in structure.items] == [ours.voxels.tolist()]
    assert structure.noise_history == ((tuple(shared["noise_ss"].shape[1:]),),)


@pytest.mark.slow
@types
def test_pipeline_object(pipeline, runs, described, shared, condition, kind):
    ours, _ = runs(kind)
    target, seed = PIPELINE_TYPES[kind], described["seed"]
    structure = SparseStructure((ours.voxels,), target.structure, ((tuple(shared["noise_ss"].shape[1:]),),))
    shape = pipeline.sample_shape(condition, structure, seed=seed)
    if target.cascade is not None:
        cap = described["runs"][kind].get("max_num_tokens", MAX_TOKENS)
        shape = pipeline.cascade_shape(condition, shape, seed=seed, resolution=target.cascade, max_tokens=cap)
    texture = pipeline.sample_texture(condition, shape, seed=seed)
    assert shape.resolutions == texture.resolutions == (ours.resolution,)
    assert torch.equal(shape.slat.coords.rows, ours.shape.coords.rows)
    torch.testing.assert_close(shape.slat.feats, ours.shape.feats, atol=ATOL, rtol=0)
    torch.testing.assert_close(texture.slat.feats, ours.texture.feats, atol=ATOL, rtol=0)
    (asset,) = pipeline.decode(shape, texture)
    assert torch.equal(asset.mesh.faces, ours.mesh.faces)
    torch.testing.assert_close(asset.field.attrs, ours.field.attrs, atol=ATOL, rtol=0)


@pytest.mark.parametrize("stage", ["shape", "texture"])
def test_tolerance_sees_one_percent(runs, config, condition, models, stage):
    ours, reference = runs("512")
    if stage == "shape":
        flow, sampler, expected = models["shape_slat_flow_model_512"], config.shape_slat_sampler, "shape_slat"
        stats, concat, noise = config.shape_slat_normalization, None, reference["noise_shape"]
    else:
        flow, sampler, expected = models["tex_slat_flow_model_512"], config.tex_slat_sampler, "tex_slat"
        stats, noise = config.tex_slat_normalization, reference["noise_tex"]
        concat = normalize(ours.shape, config.shape_slat_normalization)
    louder = ImageCondition(condition.tokens_512 * 1.01, None)
    start = noise_on([ours.voxels], [noise], CPU)
    sampled = sample_sparse_latent(flow, start, louder, sampler, image_size=512, concat=concat)
    assert (denormalize(sampled, stats).feats - reference[expected]).abs().max() > ATOL
