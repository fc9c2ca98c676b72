"""Voxel files: .vxz, .npz and .ply."""
