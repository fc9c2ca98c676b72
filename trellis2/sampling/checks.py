"""Checks of a stage's inputs against each other and its checkpoint, made before anything is sampled or decoded."""

from __future__ import annotations

import torch

from ..capabilities import LATENT_STRIDE, Capabilities, PipelineType
from ..checkpoint.config import FlowConfig, Normalization, PipelineConfig
from ..values import ImageCondition, Latent, Latents, ShapeLatent, SparseStructure, TextureLatent


def check_condition(condition: ImageCondition, objects: int, image_size: int) -> None:
    """Raises ValueError unless the condition has `objects` objects, and tokens at `image_size` pixels (512 or 1024)."""
    if condition.batch_size != objects:
        raise ValueError(
            f"condition: expected {objects} objects, as many as there are shapes, got {condition.batch_size}; connect "
            "the condition of the same images"
        )
    condition.num_tokens(image_size)


def check_channels(condition: ImageCondition, flow: FlowConfig) -> None:
    """Raises ValueError unless the flow network takes image tokens of the condition's width."""
    channels = condition.tokens_512.shape[-1]
    if channels != flow.cond_channels:
        raise ValueError(
            f"condition: expected image tokens of {flow.cond_channels} channels, got {channels}, of another "
            "checkpoint's image encoder; connect Image Condition and this stage to the same Load Model"
        )


def check_space(latent: Latent, stats: Normalization) -> None:
    """Raises ValueError unless the latent is of the checkpoint with these statistics, as far as its numbers tell."""
    name, channels = ("texture" if isinstance(latent, TextureLatent) else "shape"), latent.slat.feats.shape[1]
    # VAEs in training encode and decode before their statistics are measured: the placeholders have other lengths.
    if latent.space != stats.fingerprint and (latent.space or channels != len(stats.mean)):
        raise ValueError(
            f"{name}: expected a {name} of this checkpoint, with {len(stats.mean)} channels, got one of another, with "
            f"{channels}; connect all stages to the same Load Model"
        )


def check_frame(value: SparseStructure | Latent, config: PipelineConfig) -> None:
    """Raises ValueError unless the voxels are in the frame of the checkpoint's networks: Pixal3D's is y up."""
    ours = Capabilities.of(config).projects
    if value.y_up != ours:
        name = type(value).__name__
        wanted, got = ("y up, as Pixal3D samples them", "z up")[:: 1 if ours else -1]
        raise ValueError(
            f"{name}: expected voxels that are {wanted}, got {got}, of another checkpoint or of a mesh; connect all "
            "stages to the same Load Model"
        )


def check_same_voxels(shape: ShapeLatent, texture: TextureLatent) -> None:
    """Raises ValueError unless the texture was sampled on the voxels of this shape."""
    ours, theirs = shape.slat.coords, texture.slat.coords
    same = shape.resolutions == texture.resolutions and ours.lengths == theirs.lengths
    if not same or not torch.equal(ours.rows, theirs.rows.to(ours.rows.device)):
        raise ValueError(
            f"texture: its voxels are not those of the shape: expected {len(ours)} at {list(shape.resolutions)}, got "
            f"{len(theirs)} at {list(texture.resolutions)}; connect the shape that the texture was sampled for"
        )


def what_is_left(start: Latents, kind: PipelineType, named: str | None) -> PipelineType:
    """Returns what a run of `kind` has left to do from `start`. named: the type that the user asked for, if any.

    Without a name a shape keeps its resolution. Raises ValueError if the type does not follow from what there is.
    """
    if start.shape is None:
        if start.structure is None:
            raise ValueError("latents: expected a structure or a shape to start from, got a texture alone")
        if start.structure.resolution != kind.structure:
            raise ValueError(
                f"pipeline_type: expected one with a structure of {start.structure.resolution} voxels a side, as the "
                f"latents have, got {named or 'the default'}, with {kind.structure}"
            )
        return kind
    known = max(start.shape.resolutions)
    if named is None:
        return PipelineType(structure=known // LATENT_STRIDE, shape=known)
    if kind.resolution != known and (kind.cascade is None or kind.resolution < known):
        raise ValueError(
            f"pipeline_type: expected a cascade to more than {known}, the resolution of the shape, got {named}; leave "
            "it out to keep the shape"
        )
    return kind
