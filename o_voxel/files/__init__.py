"""Voxel file formats .vxz, .npz and .ply, compatible with the original, microsoft/TRELLIS.2's o_voxel.

`read_voxels` and `write_voxels` choose the format by suffix; `read_vxz_header` reads a .vxz file's voxel count, layout
and attributes without decoding it. Malformed files raise ValueError with the file name and the fault, in bounded
memory; writes are atomic. Mesh files: see `files.meshes`.
"""

from ..core.atomic_io import MAX_BYTES
from .voxels.npz import read_npz, write_npz
from .voxels.ply import read_ply, write_ply
from .voxels.read_write import read_voxels, write_voxels
from .voxels.records import VoxelRecords, dual_grid_to_records, field_to_records, records_to_dual_grid, records_to_field
from .voxels.vxz.header import VxzHeader, VxzLayout
from .voxels.vxz.read_write import read_vxz, read_vxz_header, write_vxz

__all__ = [
    "MAX_BYTES",
    "VoxelRecords",
    "VxzHeader",
    "VxzLayout",
    "dual_grid_to_records",
    "field_to_records",
    "read_npz",
    "read_ply",
    "read_voxels",
    "read_vxz",
    "read_vxz_header",
    "records_to_dual_grid",
    "records_to_field",
    "write_npz",
    "write_ply",
    "write_voxels",
    "write_vxz",
]
