"""The .vxz voxel format: header, octrees, filters and compression."""
