"""O-Voxel: sparse voxel surfaces with PBR materials, meshing, baking and file formats. Needs only torch and numpy."""
