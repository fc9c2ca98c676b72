"""Voxel file formats: .vxz, .npz and .ply."""
