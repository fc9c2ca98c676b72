"""The reference's shape and texture VAEs, their sparse convolution and their trilinear sampling.

The arrays of one file belong together: the guide of the texture decoder is the shape decoder's prediction, and the
cached decodes follow the child structure of c4_shape_encoder's input.
"""

import pytest
import torch
from comfyui_trellis2.o_voxel.core.grid import Grid
from comfyui_trellis2.o_voxel.ops.grid_sample import grid_sample
from comfyui_trellis2.o_voxel.ops.hash_grid import hash_grid
from comfyui_trellis2.o_voxel.values import DualGrid, VoxelField
from comfyui_trellis2.o_voxel.voxels.to_mesh import dual_grid_to_mesh
from comfyui_trellis2.trellis2.models.shape_vae import dual_grid_features
from comfyui_trellis2.trellis2.models.texture_vae import field_features
from comfyui_trellis2.trellis2.ops.submanifold_conv import submanifold_conv
from comfyui_trellis2.trellis2.sparse import CoordSet, SparseTensor, spatial_to_channel

ATOL = 1e-4
VERTEX_ATOL = 1e-5  # world units: a vertex moves by half a voxel for a logit of 1
FLIPPED_QUADS = 4  # on the cached path, whose nearest tie of split weights is within rounding


def coord_set(rows):
    """The reference's coordinates [N, 4] (batch, x, y, z) as ours."""
    return CoordSet(rows.int(), torch.bincount(rows[:, 0].long()).tolist())


@pytest.fixture(scope="module")
def encoded(arrays):
    """c4_shape_encoder and its input as the voxels of the batch."""
    data = arrays("c4_shape_encoder.data.npz")
    return data | {"set": coord_set(data["coords"])}


@pytest.fixture(scope="module")
def decoded(arrays):
    return arrays("c4_shape_decoder.data.npz")


@pytest.fixture(scope="module")
def surface(network, decoded):
    """(decoder, what it makes of the golden latent)."""
    model = network("c4_shape_decoder")
    return model, model(latent(decoded))


@pytest.fixture(scope="module")
def children(encoded):
    """The subdivisions that the encoders find, coarse to fine, without running one."""
    found, coords = [], encoded["set"]
    for _ in range(4):
        found.append(coords.coarsen())
        coords = found[-1].coarse
    return tuple(reversed(found))


def latent(data):
    return SparseTensor(data["z"], coord_set(data["z_coords"]))


def guide_from(decoded):
    """The subdivisions that the golden logits select, each starting at the voxels of the one before."""
    coords, found = coord_set(decoded["z_coords"]), []
    for level in range(4):
        assert torch.equal(coords.rows, decoded[f"sub{level}_coords"].int())
        found.append(coords.subdivide(decoded[f"sub{level}_logits"] > 0))
        coords = found[-1].fine
    return found


def shape_features(encoded):
    return torch.cat([encoded["dual_vertices"] - 0.5, encoded["intersected"].float() - 0.5], dim=1)


def dual_grids(model, output):
    return model.dual_grids(output, [model.config.resolution] * output.coords.batch_size)


def block_outputs(model):
    """The blocks of a VAE half by name, for `watch`."""
    return {f"{level}.{i}": block for level, blocks in enumerate(model.blocks) for i, block in enumerate(blocks)}


def nearest(outputs, feats, rows):
    """Of the watched blocks' outputs on the voxels `rows`, the first features like `feats` that are nearest to them.

    The golden file does not name the block that it captured; which one it is depends on the configuration.
    """
    found = [out[0] if isinstance(out, tuple) else out for out in outputs.values()]
    on_voxels = [out.feats[: len(feats)] for out in found if torch.equal(out.coords.rows, rows.int())]
    alike = [out for out in on_voxels if out.shape == feats.shape]
    return min(alike, key=lambda out: float((out - feats).abs().max()))


def triangles(faces):
    return {tuple(row) for row in faces.tolist()}


def test_shape_encoder(network, encoded, close, watch):
    model = network("c4_shape_encoder")
    seen = watch(**block_outputs(model))
    features = shape_features(encoded)
    before = features.clone()
    out = model(SparseTensor(features, encoded["set"]))
    assert torch.equal(out.mean.coords.rows, encoded["z_coords"])
    close(out.mean.feats, encoded["z"], ATOL)
    close(out.logvar, encoded["logvar"], ATOL)
    close(
        nearest(seen, encoded["enc_lvl1_feats_first512"], encoded["enc_lvl1_coords"]),
        encoded["enc_lvl1_feats_first512"],
        ATOL,
    )
    assert torch.equal(features, before)


def test_shape_encoder_subdivisions(network, encoded, children):
    out = network("c4_shape_encoder")(SparseTensor(shape_features(encoded), encoded["set"]))
    assert len(out.subdivisions) == len(children)
    for ours, expected in zip(out.subdivisions, children, strict=True):
        assert torch.equal(ours.coarse.rows, expected.coarse.rows)
        assert torch.equal(ours.mask(), expected.mask())
    assert torch.equal(out.subdivisions[-1].fine.rows, encoded["coords"].int())


def test_shape_features(encoded):
    parts = (encoded["set"].voxels, encoded["dual_vertices"], encoded["intersected"])
    items = zip(*(part.split(encoded["set"].lengths) for part in parts), strict=True)
    features = dual_grid_features([DualGrid(*item, Grid.cube(64)) for item in items])
    assert torch.equal(features.coords.rows, encoded["coords"].int())
    assert torch.equal(features.feats, shape_features(encoded))


def test_shape_decoder(surface, decoded, close):
    _, out = surface
    assert torch.equal(out.output.coords.rows, decoded["h_coords"].int())
    close(out.output.feats, decoded["h"], ATOL)


@pytest.mark.parametrize("level", range(4))
def test_shape_decoder_subdivision(surface, decoded, close, level):
    _, out = surface
    assert torch.equal(out.subdivisions[level].coarse.rows, decoded[f"sub{level}_coords"].int())
    close(out.logits[level], decoded[f"sub{level}_logits"], ATOL)
    assert torch.equal(out.subdivisions[level].mask(), decoded[f"sub{level}_logits"] > 0)


def test_shape_decoder_hidden_states(network, decoded, close, watch):
    model = network("c4_shape_decoder")
    seen = watch(**block_outputs(model))
    z = latent(decoded)
    model(z)
    for key, rows in (("dec_block00", "sub0_coords"), ("dec_up0_feats", "sub1_coords")):
        close(nearest(seen, decoded[key], decoded[rows]), decoded[key], ATOL)
    assert torch.equal(z.feats, decoded["z"])


@pytest.mark.parametrize("levels", [1, 2, 4])
def test_shape_decoder_upsample(network, decoded, levels):
    fine = network("c4_shape_decoder").upsample(latent(decoded), levels)
    assert torch.equal(fine.rows, decoded[f"upsample{levels}_coords"].int())


def test_shape_decoder_guided_by_its_own_prediction(network, decoded, close):
    out = network("c4_shape_decoder")(latent(decoded), guide_from(decoded))
    assert torch.equal(out.output.coords.rows, decoded["h_coords"].int())
    close(out.output.feats, decoded["h"], ATOL)


def test_dual_grids(surface, decoded, close):
    model, out = surface
    grids = dual_grids(model, out.output)
    close(torch.cat([grid.dual for grid in grids]), decoded["dual_vertices"], ATOL)
    close(torch.cat([grid.split_weight for grid in grids]), decoded["quad_lerp"][:, 0], ATOL)
    assert torch.equal(torch.cat([grid.intersected for grid in grids]), decoded["intersected"])


@pytest.mark.parametrize("item", [0, 1])
def test_mesh(surface, decoded, close, item):
    model, out = surface
    mesh = dual_grid_to_mesh(dual_grids(model, out.output)[item])
    close(mesh.vertices, decoded[f"mesh{item}_vertices"], VERTEX_ATOL)
    assert torch.equal(mesh.faces, decoded[f"mesh{item}_faces"])


def test_shape_decoder_cached(network, arrays, encoded, children, close):
    """From the golden latent: the decoder amplifies the rounding of an encoder before it by ten."""
    data = arrays("c4_shape_decoder_cached.data.npz")
    model = network("c4_shape_decoder")
    out = model(latent(encoded), children)
    assert torch.equal(out.output.coords.rows, encoded["coords"].int())
    close(out.output.feats, data["h"], ATOL)
    for item, grid in enumerate(dual_grids(model, out.output)):
        mesh = dual_grid_to_mesh(grid)
        expected = data[f"mesh{item}_faces"]
        close(mesh.vertices[:64], data[f"mesh{item}_vertices_first64"], VERTEX_ATOL)
        assert mesh.faces.shape == expected.shape
        assert len(triangles(mesh.faces) - triangles(expected)) <= 2 * FLIPPED_QUADS
        assert torch.equal(mesh.faces.sort(1).values[:, 0].unique(), expected.sort(1).values[:, 0].unique())


def test_texture_encoder(network, arrays, encoded, children, close):
    data = arrays("c4_tex_encoder.data.npz")
    out = network("c4_tex_encoder")(SparseTensor(data["feats"], encoded["set"]))
    assert torch.equal(out.mean.coords.rows, data["z_coords"])
    close(out.mean.feats, data["z"], ATOL)
    close(out.logvar, data["logvar"], ATOL)
    assert all(torch.equal(a.mask(), b.mask()) for a, b in zip(out.subdivisions, children, strict=True))


def test_texture_features(arrays, encoded):
    feats = arrays("c4_tex_encoder.data.npz")["feats"]
    mine = encoded["coords"][:, 0] == 0
    field = VoxelField(encoded["set"].voxels[mine], feats[mine] * 0.5 + 0.5, Grid.cube(64))
    torch.testing.assert_close(field_features([field]).feats, feats[mine], atol=1e-6, rtol=0)


def test_texture_decoder_guided(network, arrays, decoded, close):
    data = arrays("c4_tex_decoder.data.npz")
    model = network("c4_tex_decoder")
    out = model(latent(data), guide_from(decoded))
    assert torch.equal(out.output.coords.rows, decoded["h_coords"].int())
    close(out.output.feats, data["out_guided"], ATOL)
    field, _ = model.fields(out.output, [64, 64])
    close(field.attrs[:256], data["out_guided_01"], ATOL)


def test_texture_decoder_guided_by_the_shape_decoder(network, arrays, surface, close):
    data = arrays("c4_tex_decoder.data.npz")
    _, shape = surface
    out = network("c4_tex_decoder")(latent(data), shape.subdivisions)
    assert out.output.coords is shape.output.coords
    close(out.output.feats, data["out_guided"], ATOL)


def test_texture_decoder_cached(network, arrays, encoded, children, close):
    data, latents = arrays("c4_tex_decoder.data.npz"), arrays("c4_tex_encoder.data.npz")
    out = network("c4_tex_decoder")(latent(latents), children)
    assert torch.equal(out.output.coords.rows, encoded["coords"].int())
    close(out.output.feats, data["out_cached"], ATOL)


def test_texture_decoder_needs_a_fitting_guide(network, arrays, decoded, children):
    data = arrays("c4_tex_decoder.data.npz")
    model = network("c4_tex_decoder")
    with pytest.raises(ValueError, match="pred_subdiv"):
        model(latent(data))
    with pytest.raises(ValueError, match="pred_subdiv"):
        model.upsample(latent(data), 4)
    with pytest.raises(ValueError, match="expected 4 subdivisions, got 3"):
        model(latent(data), guide_from(decoded)[:3])
    with pytest.raises(ValueError, match="not those of the latent"):
        model(SparseTensor(data["z"][1:], coord_set(data["z_coords"][1:])), guide_from(decoded))
    with pytest.raises(ValueError, match="levels"):
        network("c4_shape_decoder").upsample(latent(decoded), 5)


def test_spatial_to_channel(arrays):
    probe = arrays("c4_s2c_c2s_probe.npz")
    fine = coord_set(probe["s2c_in_coords"])
    out = spatial_to_channel(SparseTensor(probe["s2c_in"], fine), fine.coarsen())
    assert torch.equal(out.feats, probe["s2c_out"])


def test_channel_to_spatial(arrays):
    probe = arrays("c4_s2c_c2s_probe.npz")
    coarse = coord_set(probe["s2c_in_coords"]).coarsen().coarse
    every_child = coarse.subdivide(torch.ones(1, 8, dtype=torch.bool))
    assert torch.equal(every_child.fine.rows, probe["c2s_out_coords"])
    # Without a missing child, what the reference deals out to the children is stacked back to what it came from.
    back = spatial_to_channel(SparseTensor(probe["c2s_out"], every_child.fine), every_child)
    assert torch.equal(back.feats, probe["c2s_in"])


def test_submanifold_conv(arrays, close):
    probe = arrays("c4_sparse_conv_probe.npz")
    neighbors = coord_set(probe["coords"]).neighbors()
    expected = probe["out_dil1"]
    close(submanifold_conv(probe["x"], neighbors, probe["weight"], probe["bias"]), expected, ATOL)
    mirrored = submanifold_conv(probe["x"], neighbors, probe["weight"].transpose(1, 3).contiguous(), probe["bias"])
    assert (mirrored - expected).abs().max() > ATOL


@pytest.mark.slow
def test_grid_sample(arrays, close):
    probe = arrays("c4_sparse_conv_probe.npz")
    index = hash_grid(probe["gs_coords"][:, 1:])
    expected = probe["gs_out"][0]
    close(grid_sample(probe["gs_feats"], index, probe["gs_query"][0]), expected, ATOL)
    moved = grid_sample(probe["gs_feats"], index, probe["gs_query"][0] + 0.01)
    assert (moved - expected).abs().max() > ATOL


@pytest.mark.parametrize(
    "key", ["from_latent.weight", r"blocks\.\d+\.\d+\.conv\.weight", r"blocks\.[^0]\.\d+\.conv2\.bias"]
)
def test_tolerance_sees_one_percent_in_the_decoders(network, arrays, decoded, scaled, key):
    guide = guide_from(decoded)
    shape = network("c4_shape_decoder", edit=scaled(key))(latent(decoded), guide)
    assert (shape.output.feats - decoded["h"]).abs().max() > ATOL
    data = arrays("c4_tex_decoder.data.npz")
    texture = network("c4_tex_decoder", edit=scaled(key))(latent(data), guide)
    assert (texture.output.feats - data["out_guided"]).abs().max() > ATOL


@pytest.mark.parametrize(
    "key", ["input_layer.weight", r"blocks\.\d+\.\d+\.mlp\.0\.weight", r"blocks\.\d+\.\d+\.norm1\.bias"]
)
def test_tolerance_sees_one_percent_in_the_encoder(network, encoded, scaled, key):
    out = network("c4_shape_encoder", edit=scaled(key))(SparseTensor(shape_features(encoded), encoded["set"]))
    assert (out.mean.feats - encoded["z"]).abs().max() > ATOL
