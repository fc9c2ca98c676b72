"""The reference's SparseStructureEncoder and SparseStructureDecoder."""

import pytest
import torch
from comfyui_trellis2.trellis2.models.structure_vae import UpsampleBlock3d, occupied_voxels, pixel_shuffle_3d
from comfyui_trellis2.trellis2.sparse import CoordSet

ATOL = 1e-4
TORSO = 0.015  # relative, of an fp16 torso


@pytest.fixture(scope="module")
def decoded(arrays):
    return arrays("c3_ss_decoder.data.npz")


@pytest.fixture(scope="module")
def encoded(arrays):
    return arrays("c3_ss_encoder.data.npz")


def test_pixel_shuffle(arrays):
    probe = arrays("c3_pixel_shuffle_probe.npz")
    assert torch.equal(pixel_shuffle_3d(probe["x"]), probe["y"])
    # A cube alone cannot tell the grid's axes apart.
    x = torch.arange(2 * 16 * 2 * 3 * 4).reshape(2, 16, 2, 3, 4)
    y = pixel_shuffle_3d(x)
    assert y.shape == (2, 2, 4, 6, 8)
    for dx, dy, dz in torch.cartesian_prod(*[torch.arange(2)] * 3).tolist():
        assert torch.equal(y[:, :, dx::2, dy::2, dz::2], x[:, dx * 4 + dy * 2 + dz :: 8])


def test_decoder(network, decoded, close):
    z = decoded["z"].clone()
    logits = network("c3_ss_decoder")(z)
    close(logits, decoded["logits"], ATOL)
    assert torch.equal(z, decoded["z"])


def test_decoder_occupancy(network, decoded):
    logits = network("c3_ss_decoder")(decoded["z"])
    voxels = occupied_voxels(logits, logits.shape[-1])
    assert torch.equal(CoordSet.from_items(voxels).rows, decoded["coords_argwhere"])


def test_occupancy_of_a_coarser_grid(decoded):
    logits = decoded["logits"]
    size = logits.shape[-1]
    coarse = {tuple(row) for row in (decoded["coords_argwhere"] // torch.tensor([1, 2, 2, 2])).tolist()}
    rows = CoordSet.from_items(occupied_voxels(logits, size // 2)).rows.tolist()
    assert rows == sorted(map(list, coarse))
    with pytest.raises(ValueError, match=f"{size - 1}"):
        occupied_voxels(logits, size - 1)


def test_occupancy_is_strict():
    logits = torch.zeros(1, 1, 4, 4, 4)
    assert [len(item) for item in occupied_voxels(logits, 4)] == [0]
    logits[0, 0, 1, 2, 3] = 1e-6
    assert occupied_voxels(logits, 4)[0].tolist() == [[1, 2, 3]]
    assert occupied_voxels(logits, 2)[0].tolist() == [[0, 1, 1]]


def test_decoder_hidden_states(network, decoded, close, watch):
    model = network("c3_ss_decoder")
    first_up = next(block for block in model.blocks if isinstance(block, UpsampleBlock3d))
    seen = watch(h_input=model.input_layer, h_middle=model.middle_block, h_up0=first_up)
    model(decoded["z"])
    for key, hidden in seen.items():
        expected = decoded[key]
        close(hidden[tuple(slice(n) for n in expected.shape)], expected, ATOL)


@pytest.mark.slow
def test_decoder_with_a_fp16_torso(network, decoded, relative_error):
    logits = network("c3_ss_decoder", use_fp16=True)(decoded["z"][:1])
    assert logits.dtype == torch.float32
    assert relative_error(logits, decoded["logits_fp16_torso"]) < TORSO
    assert 1e-5 < relative_error(logits, decoded["logits"][:1]) < TORSO


def test_encoder(network, encoded, close):
    mean, logvar = network("c3_ss_encoder")(encoded["x"].float())
    close(mean, encoded["mean"], ATOL)
    close(logvar, encoded["logvar"], ATOL)
    assert torch.equal(encoded["z"], encoded["mean"])


@pytest.mark.parametrize("key", ["middle_block.0.conv2.weight", "blocks.2.conv.weight"])
def test_tolerance_sees_one_percent_in_the_decoder(network, decoded, scaled, key):
    logits = network("c3_ss_decoder", edit=scaled(key))(decoded["z"])
    assert (logits - decoded["logits"]).abs().max() > ATOL


@pytest.mark.parametrize("key", ["blocks.0.norm1.weight", "out_layer.2.bias"])
def test_tolerance_sees_one_percent_in_the_encoder(network, encoded, scaled, key):
    mean, logvar = network("c3_ss_encoder", edit=scaled(key))(encoded["x"].float())
    assert max((mean - encoded["mean"]).abs().max(), (logvar - encoded["logvar"]).abs().max()) > ATOL
