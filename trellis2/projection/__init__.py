"""Pixal3D's conditioning: cameras, and the features of the pixels that voxels project to."""
