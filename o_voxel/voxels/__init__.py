"""Voxelisation, dual-grid meshing, voxel materials, and space-filling curves."""
