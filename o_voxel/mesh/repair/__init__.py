"""Raw meshes made valid: welding, orientation, hole filling, and all repairs in one call."""
