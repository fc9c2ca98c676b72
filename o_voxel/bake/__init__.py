"""Texture baking: from a dense surface and its voxels to the texels of an atlas."""
