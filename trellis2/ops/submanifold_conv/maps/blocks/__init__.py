"""Neighbour maps of voxels from nothing, through blocks of 2 x 2 x 2."""
