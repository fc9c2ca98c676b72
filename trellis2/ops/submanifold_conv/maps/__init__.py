"""Neighbour maps on the GPU, and their arrangement into tiles."""
