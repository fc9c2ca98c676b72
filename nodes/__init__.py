"""ComfyUI nodes. Only this package imports ComfyUI. Node ids never change once released."""

from __future__ import annotations

from .asset import AssetSettings, BakeTextures, GameReadyAsset, Unwrap
from .files import ExampleMesh, LoadMesh, PreviewMesh, SaveGLB, SaveMesh
from .image import ConditionOnImage, ExampleImage, PrepareImage
from .inspect import MeshInfo, UVAtlas
from .interop import FromComfyMesh, FromTrimesh, ToComfyMesh, ToTrimesh
from .mesh import CleanMesh, FillHoles, Remesh, RemoveHiddenFaces, SimplifyMesh, SmoothMesh
from .model import LoadModel, SamplerSettings
from .preview import RenderPreview
from .stages import CascadeShape, DecodeMesh, ImageTo3D, SampleShape, SampleStructure, SampleTexture
from .textures import ImagesToTextures, TexturesToImages
from .voxels import LoadVoxels, MeshToVoxels, SaveVoxels, VoxelsToMesh

# id -> (class, name on the canvas)
_NODES: dict[str, tuple[type, str]] = {
    "T2ExampleImage": (ExampleImage, "TRELLIS.2 Example Image"),
    "T2LoadModel": (LoadModel, "TRELLIS.2 Load Model"),
    "T2PrepareImage": (PrepareImage, "TRELLIS.2 Prepare Image"),
    "T2ImageCondition": (ConditionOnImage, "TRELLIS.2 Image Condition"),
    "T2Sampler": (SamplerSettings, "TRELLIS.2 Sampler Settings"),
    "T2SampleStructure": (SampleStructure, "TRELLIS.2 Sample Structure"),
    "T2SampleShape": (SampleShape, "TRELLIS.2 Sample Shape"),
    "T2ShapeCascade": (CascadeShape, "TRELLIS.2 Shape Cascade"),
    "T2SampleTexture": (SampleTexture, "TRELLIS.2 Sample Texture"),
    "T2DecodeMesh": (DecodeMesh, "TRELLIS.2 Decode Mesh"),
    "T2SaveGLB": (SaveGLB, "TRELLIS.2 Save GLB"),
    "T2SaveMesh": (SaveMesh, "TRELLIS.2 Save Mesh"),
    "T2GameReadyAsset": (GameReadyAsset, "TRELLIS.2 Game-Ready Asset"),
    "T2AssetOptions": (AssetSettings, "TRELLIS.2 Asset Options"),
    "T2CleanMesh": (CleanMesh, "TRELLIS.2 Clean Mesh"),
    "T2FillHoles": (FillHoles, "TRELLIS.2 Fill Holes"),
    "T2RemoveHiddenFaces": (RemoveHiddenFaces, "TRELLIS.2 Remove Hidden Faces"),
    "T2SmoothMesh": (SmoothMesh, "TRELLIS.2 Smooth (Taubin)"),
    "T2Remesh": (Remesh, "TRELLIS.2 Remesh"),
    "T2SimplifyMesh": (SimplifyMesh, "TRELLIS.2 Simplify Mesh"),
    "T2Unwrap": (Unwrap, "TRELLIS.2 Unwrap"),
    "T2BakeTextures": (BakeTextures, "TRELLIS.2 Bake Textures"),
    "T2ImageTo3D": (ImageTo3D, "TRELLIS.2 Image to 3D"),
    "T2RenderPreview": (RenderPreview, "TRELLIS.2 Render Preview"),
    "T2PreviewMesh": (PreviewMesh, "TRELLIS.2 Preview Mesh"),
    "T2LoadMesh": (LoadMesh, "TRELLIS.2 Load Mesh"),
    "T2ExampleMesh": (ExampleMesh, "TRELLIS.2 Example Mesh"),
    "T2MeshToVoxels": (MeshToVoxels, "TRELLIS.2 Mesh to O-Voxel"),
    "T2VoxelsToMesh": (VoxelsToMesh, "TRELLIS.2 O-Voxel to Mesh"),
    "T2LoadVoxels": (LoadVoxels, "TRELLIS.2 Load O-Voxel"),
    "T2SaveVoxels": (SaveVoxels, "TRELLIS.2 Save O-Voxel"),
    "T2ToComfyMesh": (ToComfyMesh, "TRELLIS.2 to ComfyUI Mesh"),
    "T2FromComfyMesh": (FromComfyMesh, "TRELLIS.2 from ComfyUI Mesh"),
    "T2ToTrimesh": (ToTrimesh, "TRELLIS.2 to Trimesh"),
    "T2FromTrimesh": (FromTrimesh, "TRELLIS.2 from Trimesh"),
    "T2TexturesToImages": (TexturesToImages, "TRELLIS.2 Textures to Images"),
    "T2ImagesToTextures": (ImagesToTextures, "TRELLIS.2 Images to Textures"),
    "T2UVAtlas": (UVAtlas, "TRELLIS.2 UV Atlas"),
    "T2MeshInfo": (MeshInfo, "TRELLIS.2 Mesh Info"),
}

NODE_CLASS_MAPPINGS = {name: node for name, (node, _) in _NODES.items()}
NODE_DISPLAY_NAME_MAPPINGS = {name: title for name, (_, title) in _NODES.items()}
