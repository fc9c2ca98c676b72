"""TRELLIS.2: image to latents to O-Voxel."""
