"""Nodes that load and save files: meshes, levels for engines, latents."""
