"""What training starts from."""

import json
from dataclasses import asdict

import pytest
import torch
from comfyui_trellis2.o_voxel.core.grid import Grid
from comfyui_trellis2.o_voxel.values import VoxelField
from comfyui_trellis2.trellis2.checkpoint.config import ConfigError
from comfyui_trellis2.trellis2.models.texture_vae import field_features
from comfyui_trellis2.trellis2.projection.framing import CROP
from comfyui_trellis2.trellis2.sparse import CoordSet, PackedSequences, ProjectedSequences, SparseTensor
from comfyui_trellis2.trellis2.training.recipe import load_recipe
from comfyui_trellis2.trellis2.training.runs.export import pack
from comfyui_trellis2.trellis2.training.runs.initialize import init_identity_vae, initialize, start_from
from comfyui_trellis2.trellis2.training.runs.networks import network_files, new_network, write_network
from comfyui_trellis2.trellis2.training.tasks import TASKS

SIDE, OBJECTS = 32, 12


def untrained(role: str) -> torch.nn.Module:
    model = new_network(role, load_recipe("mini", TASKS).network(role), "cpu")
    initialize(model, torch.Generator().manual_seed(1))
    return model


@pytest.fixture(scope="module")
def spheres():
    """Shells of one colour each, and the colours [B, 6] in [-1, 1]."""
    places = torch.stack(torch.meshgrid(*[torch.arange(SIDE)] * 3, indexing="ij"), -1).reshape(-1, 3)
    coords = places[((places - SIDE / 2 + 0.5).norm(dim=1) - 12).abs() < 0.7].int()
    colors = torch.rand(OBJECTS, 6, generator=torch.Generator().manual_seed(2))
    fields = [VoxelField(coords, color.expand(len(coords), 6).contiguous(), Grid.cube(SIDE)) for color in colors]
    return field_features(fields), colors * 2 - 1


@torch.no_grad()
def agreement(encoder, decoder, spheres) -> torch.Tensor:
    """Correlation [6] of what comes out, meant over an object, with what went in."""
    x, colors = spheres
    encoded = encoder(x)
    out = decoder(encoded.mean, encoded.subdivisions).output.feats
    means = torch.stack([part.mean(0) for part in out.split(x.coords.lengths)])
    return torch.stack([torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(means.T, colors.T, strict=True)])


@pytest.mark.slow
def test_a_new_texture_vae_gives_mean_colours_back(spheres):
    encoder, decoder = (untrained(role) for role in ("tex_slat_encoder", "tex_slat_decoder"))
    before = agreement(encoder, decoder, spheres).nan_to_num()  # one colour whatever goes in: no correlation
    for model in (encoder, decoder):
        init_identity_vae(model, torch.Generator().manual_seed(3))
    after = agreement(encoder, decoder, spheres)
    assert float(after.min()) > 0.9
    assert float(before.abs().max()) < 0.7  # started at random it does not


@pytest.mark.slow
@pytest.mark.parametrize("width", [8, 16, 24, 64, 112])
def test_any_width_can_start_so(width, spheres):
    """8: one channel for each child, which holds nothing; 112: pairs for all values."""
    description = {**load_recipe("mini", TASKS).network("tex_slat_encoder")}
    description["args"] = {**description["args"], "model_channels": [width] * 5}
    model = new_network("tex_slat_encoder", description, "cpu")
    initialize(model, torch.Generator().manual_seed(1))
    init_identity_vae(model, torch.Generator().manual_seed(3))
    with torch.no_grad():
        assert model(spheres[0]).mean.feats.isfinite().all()


def test_it_starts_the_same_each_time():
    def started():
        model = untrained("tex_slat_encoder")
        init_identity_vae(model, torch.Generator().manual_seed(3))
        return model.state_dict()

    first, second = started(), started()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_flow_that_projects_starts_as_one_that_does_not(toy):
    recipe, role = toy(1), "shape_slat_flow_model_512"
    plain = new_network(role, recipe.networks[role], "cpu")
    initialize(plain, torch.Generator().manual_seed(0))
    for parameter in plain.parameters():
        parameter.data += 0.01
    given = {**recipe.networks[role], "args": recipe.networks[role]["args"] | {"image_attn_mode": "proj"}}
    model = new_network(role, given, "cpu")
    initialize(model, torch.Generator().manual_seed(1))
    kept = plain.state_dict()
    start_from(model, kept)
    coords = CoordSet.from_items([torch.cartesian_prod(*[torch.arange(2, dtype=torch.int32)] * 3)])
    x, t = SparseTensor(torch.randn(8, 4), coords), torch.tensor([500.0])
    tokens = torch.randn(6, 32)
    seen = ProjectedSequences(tokens, (6,), torch.randn(8, 32))
    with torch.no_grad():
        assert torch.equal(plain(x, t, PackedSequences(tokens, (6,))).feats, model(x, t, seen).feats)
    with pytest.raises(ConfigError, match="without projection"):
        start_from(model, {**kept, "other": torch.zeros(1)})


@pytest.mark.parametrize("projects", [False, True])
def test_a_packed_checkpoint_says_how_its_flows_read_pictures(toy, tmp_path, projects):
    recipe, role = toy(1), "shape_slat_flow_model_512"
    if projects:
        recipe.networks[role]["args"] |= {"image_attn_mode": "proj", "proj_in_channels": 80}
    for name, description in recipe.networks.items():
        write_network(
            new_network(name, description, "cpu"), description, network_files(tmp_path / "networks", name), "float32"
        )
    packed = json.loads((pack(recipe, tmp_path, tmp_path / "packed") / "pipeline.json").read_text())
    assert packed["args"].get("crop") == (asdict(CROP) if projects else None)
