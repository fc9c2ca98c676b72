"""Sparse voxel surfaces: from meshes, to meshes, their materials and orders."""
