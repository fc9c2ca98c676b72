"""ComfyUI nodes. Only this package imports ComfyUI. Node ids never change once released."""

from __future__ import annotations

from .asset import AssetSettings, GameReadyAsset, Unwrap
from .bake import BakeTextures, TextureMesh, TransferTextures
from .files.engine import CollisionMesh, SaveForEngine
from .files.latents import LoadLatent, SaveLatent
from .files.meshes import ExampleMesh, LoadMesh, PreviewMesh, SaveGLB, SaveMesh
from .host.out_of_memory import guard_memory
from .image import ConditionOnImage, ExampleImage, PrepareImage
from .interop import FromComfyMesh, FromTrimesh, ToComfyMesh, ToTrimesh
from .jobs.batch import BatchImages
from .jobs.doctor import Doctor
from .mesh import CleanMesh, FillHoles, Remesh, RemoveHiddenFaces, SimplifyMesh, SmoothMesh
from .model import LoadModel, SamplerSettings
from .preview import MeshInfo, RenderPreview, UVAtlas
from .project import ProjectPicture
from .stages import CascadeShape, DecodeMesh, ImageTo3D, SampleShape, SampleStructure, SampleTexture
from .textures import ImagesToTextures, TexturesToImages
from .views import CheckViews, Views
from .voxels import EncodeMesh, LoadVoxels, MeshToVoxels, RefineShape, SaveVoxels, VoxelsToMesh

# id -> (class, name on the canvas). Search ranks what a name begins with: the model's own stages begin with the brand,
# tools for any mesh or picture with what they do.
_NODES: dict[str, tuple[type, str]] = {
    "T2ExampleImage": (ExampleImage, "TRELLIS.2 Example Image"),
    "T2LoadModel": (LoadModel, "TRELLIS.2 Load Model"),
    "T2PrepareImage": (PrepareImage, "Prepare Image (TRELLIS.2)"),
    "T2Views": (Views, "Views (TRELLIS.2)"),
    "T2CheckViews": (CheckViews, "Check Views (TRELLIS.2)"),
    "T2ImageCondition": (ConditionOnImage, "TRELLIS.2 Image Condition"),
    "T2Sampler": (SamplerSettings, "TRELLIS.2 Sampler Settings"),
    "T2SampleStructure": (SampleStructure, "TRELLIS.2 Sample Structure"),
    "T2SampleShape": (SampleShape, "TRELLIS.2 Sample Shape"),
    "T2ShapeCascade": (CascadeShape, "TRELLIS.2 Shape Cascade"),
    "T2SampleTexture": (SampleTexture, "TRELLIS.2 Sample Texture"),
    "T2DecodeMesh": (DecodeMesh, "TRELLIS.2 Decode Mesh"),
    "T2SaveGLB": (SaveGLB, "Save GLB (TRELLIS.2)"),
    "T2SaveMesh": (SaveMesh, "Save Mesh: OBJ, PLY, STL (TRELLIS.2)"),
    "T2GameReadyAsset": (GameReadyAsset, "Game-Ready Asset (TRELLIS.2)"),
    "T2AssetOptions": (AssetSettings, "Asset Options (TRELLIS.2)"),
    "T2CleanMesh": (CleanMesh, "Clean Mesh (TRELLIS.2)"),
    "T2FillHoles": (FillHoles, "Fill Holes (TRELLIS.2)"),
    "T2Remesh": (Remesh, "Remesh (TRELLIS.2)"),
    "T2SimplifyMesh": (SimplifyMesh, "Simplify Mesh (TRELLIS.2)"),
    "T2Unwrap": (Unwrap, "Unwrap (TRELLIS.2)"),
    "T2BakeTextures": (BakeTextures, "Bake Textures (TRELLIS.2)"),
    "T2TransferTextures": (TransferTextures, "Transfer Textures (TRELLIS.2)"),
    "T2ProjectPicture": (ProjectPicture, "Project Picture (TRELLIS.2)"),
    "T2EncodeMesh": (EncodeMesh, "TRELLIS.2 Encode Mesh"),
    "T2RefineShape": (RefineShape, "TRELLIS.2 Refine Shape"),
    "T2TextureMesh": (TextureMesh, "Texture Mesh (TRELLIS.2)"),
    "T2CollisionMesh": (CollisionMesh, "Collision Mesh (TRELLIS.2)"),
    "T2SaveForEngine": (SaveForEngine, "Save for Engine (TRELLIS.2)"),
    "T2RemoveHiddenFaces": (RemoveHiddenFaces, "Remove Hidden Faces (TRELLIS.2)"),
    "T2SmoothMesh": (SmoothMesh, "Smooth (Taubin) (TRELLIS.2)"),
    "T2ImageTo3D": (ImageTo3D, "TRELLIS.2 Image to 3D"),
    "T2BatchImages": (BatchImages, "Batch Images to GLB (TRELLIS.2)"),
    "T2Doctor": (Doctor, "Doctor (TRELLIS.2)"),
    "T2RenderPreview": (RenderPreview, "Render Preview (TRELLIS.2)"),
    "T2PreviewMesh": (PreviewMesh, "Preview Mesh (TRELLIS.2)"),
    "T2LoadMesh": (LoadMesh, "Load Mesh (TRELLIS.2)"),
    "T2ExampleMesh": (ExampleMesh, "Example Mesh (TRELLIS.2)"),
    "T2MeshToVoxels": (MeshToVoxels, "Mesh to O-Voxel (TRELLIS.2)"),
    "T2VoxelsToMesh": (VoxelsToMesh, "O-Voxel to Mesh (TRELLIS.2)"),
    "T2LoadVoxels": (LoadVoxels, "Load O-Voxel (TRELLIS.2)"),
    "T2SaveVoxels": (SaveVoxels, "Save O-Voxel (TRELLIS.2)"),
    "T2LoadLatent": (LoadLatent, "Load Latent (TRELLIS.2)"),
    "T2SaveLatent": (SaveLatent, "Save Latent (TRELLIS.2)"),
    "T2ToComfyMesh": (ToComfyMesh, "To ComfyUI Mesh (TRELLIS.2)"),
    "T2FromComfyMesh": (FromComfyMesh, "From ComfyUI Mesh (TRELLIS.2)"),
    "T2ToTrimesh": (ToTrimesh, "To Trimesh (TRELLIS.2)"),
    "T2FromTrimesh": (FromTrimesh, "From Trimesh (TRELLIS.2)"),
    "T2TexturesToImages": (TexturesToImages, "Textures to Images (TRELLIS.2)"),
    "T2ImagesToTextures": (ImagesToTextures, "Images to Textures (TRELLIS.2)"),
    "T2UVAtlas": (UVAtlas, "UV Atlas (TRELLIS.2)"),
    "T2MeshInfo": (MeshInfo, "Mesh Info (TRELLIS.2)"),
}

NODE_CLASS_MAPPINGS = {name: guard_memory(node, name) for name, (node, _) in _NODES.items()}
NODE_DISPLAY_NAME_MAPPINGS = {name: title for name, (_, title) in _NODES.items()}
