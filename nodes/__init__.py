"""The node layer: the only code that knows ComfyUI. Ids, once released, never change."""

from __future__ import annotations

from .condition import ConditionOnImage, PrepareImage
from .decode import DecodeMesh
from .example import ExampleImage
from .export import SaveGLB
from .generate import ImageTo3D
from .load import LoadModel, Sampler
from .preview import RenderPreview
from .shape import CascadeShape, SampleShape
from .structure import SampleStructure
from .texture import SampleTexture
from .voxel import LoadMesh, LoadVoxels, MeshToVoxels, SaveVoxels, VoxelsToMesh

# id -> (class, name on the canvas)
_NODES: dict[str, tuple[type, str]] = {
    "T2ExampleImage": (ExampleImage, "TRELLIS.2 Example Image"),
    "T2LoadModel": (LoadModel, "TRELLIS.2 Load Model"),
    "T2PrepareImage": (PrepareImage, "TRELLIS.2 Prepare Image"),
    "T2ImageCondition": (ConditionOnImage, "TRELLIS.2 Image Condition"),
    "T2Sampler": (Sampler, "TRELLIS.2 Sampler Settings"),
    "T2SampleStructure": (SampleStructure, "TRELLIS.2 Sample Structure"),
    "T2SampleShape": (SampleShape, "TRELLIS.2 Sample Shape"),
    "T2ShapeCascade": (CascadeShape, "TRELLIS.2 Shape Cascade"),
    "T2SampleTexture": (SampleTexture, "TRELLIS.2 Sample Texture"),
    "T2DecodeMesh": (DecodeMesh, "TRELLIS.2 Decode Mesh"),
    "T2SaveGLB": (SaveGLB, "TRELLIS.2 Save GLB"),
    "T2ImageTo3D": (ImageTo3D, "TRELLIS.2 Image to 3D"),
    "T2RenderPreview": (RenderPreview, "TRELLIS.2 Render Preview"),
    "T2LoadMesh": (LoadMesh, "TRELLIS.2 Load Mesh"),
    "T2MeshToVoxels": (MeshToVoxels, "TRELLIS.2 Mesh to O-Voxel"),
    "T2VoxelsToMesh": (VoxelsToMesh, "TRELLIS.2 O-Voxel to Mesh"),
    "T2LoadVoxels": (LoadVoxels, "TRELLIS.2 Load O-Voxel"),
    "T2SaveVoxels": (SaveVoxels, "TRELLIS.2 Save O-Voxel"),
}

NODE_CLASS_MAPPINGS = {name: node for name, (node, _) in _NODES.items()}
NODE_DISPLAY_NAME_MAPPINGS = {name: title for name, (_, title) in _NODES.items()}
