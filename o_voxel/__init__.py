"""O-Voxel: a sparse voxel surface with materials, its files and its meshes. Stands alone: torch and numpy."""
