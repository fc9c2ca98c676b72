"""Mesh repair: welding, degenerate and duplicate faces, orientation, hole filling, and `clean` for all of them."""
