"""Texture baking: transfers voxel materials, normals and occlusion of a dense mesh to a UV atlas."""
