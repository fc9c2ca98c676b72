"""The .vxz container: header, octrees, filters and compression."""
