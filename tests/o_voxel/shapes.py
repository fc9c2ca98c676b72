"""Small meshes for the repairs, made with trimesh where it has them, and back into it for its opinion."""

import numpy as np
import torch
import trimesh
from comfyui_trellis2.o_voxel.core.grid import Grid
from comfyui_trellis2.o_voxel.mesh.repair.orient import turn
from comfyui_trellis2.o_voxel.values import DualGrid, Mesh
from comfyui_trellis2.o_voxel.voxels.to_mesh import dual_grid_to_mesh


def mesh(vertices, faces):
    return Mesh(torch.as_tensor(np.array(vertices, dtype=np.float32)), torch.as_tensor(np.array(faces, dtype=np.int32)))


def box(offset=(0, 0, 0), size=(1, 1, 1)):
    made = trimesh.creation.box(size)
    return mesh(made.vertices + np.array(offset), made.faces)


def sphere(level=2, radius=1.0):
    made = trimesh.creation.icosphere(level, radius)
    return mesh(made.vertices, made.faces)


def sheet(n, bump=0.0):
    """n x n quads over [0, 1]^2, split, facing +z."""
    axis = np.linspace(0, 1, n + 1)
    x, y = np.meshgrid(axis, axis, indexing="ij")
    points = np.stack([x, y, bump * np.sin(np.pi * x) * np.sin(np.pi * y)], -1).reshape(-1, 3)
    i, j = np.meshgrid(np.arange(n), np.arange(n), indexing="ij")
    a = (i * (n + 1) + j).ravel()
    b, c, d = a + n + 1, a + n + 2, a + 1
    return mesh(points, np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)]))


def moebius(n=24):
    turn_by = 2 * np.pi * np.arange(n) / n
    rims = []
    for s in (-0.3, 0.3):
        r = 1 + s * np.cos(turn_by / 2)
        rims.append(np.stack([r * np.cos(turn_by), r * np.sin(turn_by), s * np.sin(turn_by / 2)], 1))
    faces = []
    for i in range(n):
        a, b, c, d = 2 * i, 2 * i + 1, 2 * i + 2, 2 * i + 3
        c, d = (c, d) if i < n - 1 else (1, 0)
        faces += [[a, c, b], [b, c, d]]
    return mesh(np.stack(rims, 1).reshape(-1, 3), faces)


def fan(angles_deg):
    """Pages around the z axis, each face running up it."""
    t = np.radians(np.asarray(angles_deg, dtype=float))
    pages = np.stack([np.cos(t), np.sin(t), np.full_like(t, 0.5)], 1)
    return mesh(np.concatenate([[[0, 0, 0], [0, 0, 1]], pages]), [[0, 1, i + 2] for i in range(len(t))])


def join(*parts):
    """Meshes as one, vertices at the same place made one."""
    whole = trimesh.util.concatenate([to_trimesh(part) for part in parts])
    whole.merge_vertices()
    return mesh(whole.vertices, whole.faces)


def stack(*parts):
    """Meshes side by side in one, nothing joined."""
    offsets = np.cumsum([0, *(len(part.vertices) for part in parts)])
    faces = [part.faces + int(offset) for part, offset in zip(parts, offsets[:-1], strict=True)]
    return Mesh(torch.cat([part.vertices for part in parts]), torch.cat(faces))


def scramble(whole, seed=0, share=0.5):
    """The mesh with a share of its faces turned."""
    generator = torch.Generator().manual_seed(seed)
    return Mesh(whole.vertices, turn(whole.faces, torch.rand(len(whole.faces), generator=generator) < share))


def without(whole, faces):
    kept = torch.ones(len(whole.faces), dtype=torch.bool)
    kept[faces] = False
    return Mesh(whole.vertices, whole.faces[kept])


def raw(resolution=40, crossing=True):
    """A ball, and a sheet right through it, as a decoder gives them: a dual grid's winding, fans where they meet."""
    axis = torch.arange(resolution + 1) / resolution - 0.5
    points = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1)
    fields = [points.norm(dim=-1) - 0.3]
    if crossing:
        fields.append(points[..., 2] - 0.04 - 0.1 * points[..., 0])
    n = resolution
    crossed = torch.zeros(n, n, n, 3, dtype=torch.bool)
    for field in fields:
        inside = field < 0
        far = inside[1:, 1:, 1:]
        crossed[..., 0] |= inside[:-1, 1:, 1:] != far
        crossed[..., 1] |= inside[1:, :-1, 1:] != far
        crossed[..., 2] |= inside[1:, 1:, :-1] != far
    coords = torch.cartesian_prod(*[torch.arange(n)] * 3).int()
    center = (coords + 0.5) / n - 0.5
    dual = torch.full((n**3, 3), 0.5)
    near = (center.norm(dim=1) - 0.3).abs() < 0.9 / n
    direction = center / center.norm(dim=1, keepdim=True)
    dual[near] += ((0.3 - center.norm(dim=1))[:, None] * direction * n)[near].clamp(-0.45, 0.45)
    return dual_grid_to_mesh(DualGrid(coords, dual, crossed.reshape(-1, 3), Grid.cube(n)))


def voxels(filled):
    """The skin of filled cells [X, Y, Z] bool, facing outward, with one vertex a lattice point."""
    filled = np.pad(np.asarray(filled, dtype=bool), 1)
    quads = []
    for axis in range(3):
        across = [np.eye(3, dtype=int)[(axis + k) % 3] for k in (1, 2)]
        inside, outside = filled, np.roll(filled, -1, axis)
        for low, high, ring in ((inside, outside, (0, 1, 2, 3)), (outside, inside, (0, 3, 2, 1))):
            cells = np.argwhere(low & ~high)
            corner = cells + np.eye(3, dtype=int)[axis]
            corners = [corner, corner + across[0], corner + across[0] + across[1], corner + across[1]]
            quads.append(np.stack([corners[k] for k in ring], 1))
    quads = np.concatenate(quads)
    points, row = np.unique(quads.reshape(-1, 3), axis=0, return_inverse=True)
    row = row.reshape(-1, 4)
    return mesh(points, np.concatenate([row[:, [0, 1, 2]], row[:, [0, 2, 3]]]))


def to_trimesh(whole):
    return trimesh.Trimesh(whole.vertices.numpy(), whole.faces.numpy(), process=False)


def edge_sizes(whole):
    """How many faces each edge has, ascending."""
    ends = np.sort(np.concatenate([whole.faces.numpy()[:, [k, (k + 1) % 3]] for k in range(3)]), 1)
    return np.sort(np.unique(ends, axis=0, return_counts=True)[1])


def same(a, b):
    """Whether two meshes are equal to the byte."""
    return torch.equal(a.vertices, b.vertices) and torch.equal(a.faces, b.faces) and a.faces.dtype == b.faces.dtype
