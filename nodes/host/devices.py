"""Device policy: where each node computes, and where its results are stored.

Results are stored in main memory: in ComfyUI's cache they would take device memory from networks and other packs. Nodes
compute in three ways:

- DEVICE: the node moves its inputs to the working device with `at_work`, and its results back with `at_rest`.
- NETWORKS: the pipeline moves inputs to its networks' device to sample or decode; the node calls `at_rest`.
- HOST: files, images and other packs' objects, in main memory; values of this pack are moved there with `at_rest`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import torch

from ...o_voxel.material import PLAIN, TexturedMesh
from ...o_voxel.values import Mesh, tensor_bytes, to_device
from ...trellis2.runtime.residency import default_device
from . import comfyui

# Estimated memory of mesh work on a GPU, as a multiple of its input's.
WORK_FACTOR = 20

DEVICE, NETWORKS, HOST = "device", "networks", "host"
# id -> where the node computes.
POLICY = {
    "T2ExampleImage": HOST,
    "T2LoadModel": HOST,  # networks are read when a stage needs them, and moved by `residency`
    "T2Doctor": HOST,  # its tests compute where the working device is, and keep nothing
    "T2PrepareImage": HOST,
    "T2Views": HOST,
    "T2CheckViews": HOST,
    "T2ImageCondition": NETWORKS,
    "T2Sampler": HOST,
    "T2SampleStructure": NETWORKS,
    "T2SampleShape": NETWORKS,
    "T2ShapeCascade": NETWORKS,
    "T2SampleTexture": NETWORKS,
    "T2DecodeMesh": NETWORKS,
    "T2ImageTo3D": NETWORKS,
    "T2EncodeMesh": NETWORKS,
    "T2RefineShape": NETWORKS,
    "T2GameReadyAsset": DEVICE,
    "T2AssetOptions": HOST,
    "T2BatchImages": DEVICE,  # its pipeline samples on the networks' device
    "T2CleanMesh": DEVICE,
    "T2FillHoles": DEVICE,
    "T2RemoveHiddenFaces": DEVICE,
    "T2SmoothMesh": DEVICE,
    "T2Remesh": DEVICE,
    "T2SimplifyMesh": DEVICE,
    "T2Unwrap": DEVICE,
    "T2BakeTextures": DEVICE,
    "T2TransferTextures": DEVICE,
    "T2ProjectPicture": DEVICE,
    "T2TextureMesh": DEVICE,
    "T2SaveForEngine": DEVICE,  # makes the levels; the files are written from main memory
    "T2CollisionMesh": HOST,  # qhull and coacd know no other memory
    "T2MeshToVoxels": DEVICE,
    "T2VoxelsToMesh": DEVICE,
    "T2RenderPreview": DEVICE,
    "T2SaveGLB": DEVICE,  # samples the voxels at the vertices, makes the tangents; images are encoded in main memory
    "T2PreviewMesh": DEVICE,  # as T2SaveGLB
    "T2SaveMesh": DEVICE,  # as T2SaveGLB for a GLB; other formats are made in main memory
    "T2LoadMesh": HOST,
    "T2ExampleMesh": HOST,
    "T2LoadVoxels": HOST,
    "T2SaveVoxels": HOST,
    "T2LoadLatent": HOST,
    "T2SaveLatent": HOST,
    "T2ToComfyMesh": HOST,
    "T2FromComfyMesh": HOST,
    "T2ToTrimesh": HOST,
    "T2FromTrimesh": HOST,
    "T2TexturesToImages": HOST,
    "T2ImagesToTextures": HOST,
    "T2UVAtlas": DEVICE,
    "T2MeshInfo": DEVICE,
}

T = TypeVar("T")


def working_device() -> torch.device:
    """Returns the device for mesh work: ComfyUI's, outside it the accelerator that torch finds; never Apple's, which
    lacks the float64 that mesh work needs."""
    management = comfyui.module("comfy.model_management")
    device = management.get_torch_device() if management else default_device()
    return torch.device("cpu") if device.type == "mps" else device


def at_work(value: T) -> T:
    """Moves `value` to the working device, after freeing memory there for work on it. Raises TypeError, see
    `to_device`."""
    device = working_device()
    management = comfyui.module("comfy.model_management")
    if management and device.type != "cpu":
        management.free_memory(WORK_FACTOR * tensor_bytes(value), device)
    return to_device(value, device)


def geometry_at_work(mesh: Mesh | TexturedMesh) -> Mesh | TexturedMesh:
    """Moves `mesh` to the working device as `at_work` does, but its textures to main memory, where files are made."""
    if not isinstance(mesh, TexturedMesh):
        return at_work(mesh)
    paint = at_rest(mesh.materials)
    bare = at_work(replace(mesh, materials=tuple(PLAIN for _ in paint)) if mesh.textured else mesh)
    return replace(bare, materials=paint)


def at_rest(value: T) -> T:
    """Moves `value` to main memory, for ComfyUI's cache. Raises TypeError, see `to_device`."""
    return to_device(value, torch.device("cpu"))
