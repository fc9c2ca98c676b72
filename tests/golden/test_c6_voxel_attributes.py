"""Voxel materials against the original's: the set of voxels and every byte, for each backend and slab size."""

import numpy as np
import pytest
import torch
from comfyui_trellis2.o_voxel.core.grid import Grid
from comfyui_trellis2.o_voxel.material import Material, Texture, TexturedMesh
from comfyui_trellis2.o_voxel.ops.voxel_materials import find_pairs, pack_scene, voxel_means
from comfyui_trellis2.o_voxel.values import PBR_CHANNELS, Mesh
from comfyui_trellis2.o_voxel.voxels.materials import to_bytes, voxel_materials

# The original accumulates in float32; ours keeps its order, and another order moves a mean by about 1e-6.
RAW_TOLERANCE = 1e-5
GRID = Grid.cube(32)


@pytest.fixture(scope="module")
def reference(golden):
    with np.load(golden("c6_volumetric_attr.npz")) as data:
        return dict(data)


@pytest.fixture(scope="module")
def mesh(reference) -> TexturedMesh:
    factor = (reference["base_color_factor"] / 255).astype(np.float32).tolist()
    material = Material(
        base_color_factor=tuple(factor[:3]),
        base_color_texture=Texture(torch.from_numpy(reference["texture_rgb"])),
        metallic_factor=float(reference["metallic_factor"]),
        roughness_factor=float(reference["roughness_factor"]),
        alpha_factor=factor[3],
    )
    return TexturedMesh(
        Mesh(torch.from_numpy(reference["vertices"]), torch.from_numpy(reference["faces"])),
        (material,),
        uv=torch.from_numpy(reference["uv"]).float(),
        normals=torch.from_numpy(reference["vertex_normals"]).float(),
    )


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["numba", "reference"])
def test_voxels_bytes_and_values(reference, mesh, backend):
    out = voxel_materials(mesh, GRID, extras=("emissive", "normal"), backend=backend)
    assert np.array_equal(out.field.coords.numpy(), reference["coord"])
    assert bool(out.reached.all())
    values = {name: out.field.attrs[:, channels] for name, channels in PBR_CHANNELS.items()}
    values |= {"emissive": out.emissive, "normal": out.normal}
    for name, value in values.items():
        np.testing.assert_allclose(value.numpy(), reference[f"raw_{name}"], rtol=0, atol=RAW_TOLERANCE, err_msg=name)
        stored = to_bytes(value * 0.5 + 0.5 if name == "normal" else value)
        assert np.array_equal(stored.numpy(), reference[f"attr_{name}"]), name


def test_the_comparison_sees_an_absolute_distance_and_a_fixed_mip_level(reference, mesh):
    blurred = voxel_materials(mesh, GRID, mip_offset=1.0)
    assert not np.array_equal(to_bytes(blurred.field.attrs[:, :3]).numpy(), reference["attr_base_color"])
    flipped = TexturedMesh(Mesh(mesh.mesh.vertices, mesh.mesh.faces[:, [0, 2, 1]]), mesh.materials, uv=mesh.uv)
    assert not np.array_equal(
        to_bytes(voxel_materials(flipped, GRID).field.attrs[:, :3]).numpy(), reference["attr_base_color"]
    )


@pytest.mark.slow
@pytest.mark.parametrize("slab", [1, 100, 1 << 20])
def test_slabs_change_no_byte(mesh, slab):
    scene = pack_scene(mesh, GRID, emissive=False, normal=True, mip_offset=0.0)
    steps = []
    keys = find_pairs(scene, backend="reference", report=steps.append, slab=max(slab, 64))
    assert torch.equal(keys, find_pairs(scene, backend="numba", report=steps.append))
    # A single voxel a slab is slow in torch, so that case takes a part of the pairs.
    voxels = torch.unique_consecutive(keys >> scene.tri_bits)[: 100 if slab == 1 else None]
    keys = keys[torch.isin(keys >> scene.tri_bits, voxels)]
    sliced = voxel_means(scene, keys, voxels, backend="reference", report=steps.append, slab=slab)
    assert torch.equal(sliced, voxel_means(scene, keys, voxels, backend="numba", report=steps.append))


def test_the_texture_file_is_the_texture(reference, golden):
    from PIL import Image

    with Image.open(golden("c6_texture.png")) as image:
        assert np.array_equal(np.asarray(image.convert("RGB")), reference["texture_rgb"])
