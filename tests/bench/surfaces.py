"""Surfaces as TRELLIS makes them, for tests and benches: a noisy dual grid, cleaned and simplified to a face count."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor

DistanceField = Callable[[Tensor], Tensor]


def bumpy_sphere(points: Tensor) -> Tensor:
    """Signed distance [N], about, of the standard shape of the team's baseline figures; points [N, 3] in +-0.5."""
    x, y, z = points.unbind(-1)
    coarse = 0.02 * torch.sin(25 * x) * torch.sin(25 * y) * torch.sin(25 * z)
    fine = 0.006 * torch.sin(90 * x) * torch.sin(80 * y) * torch.sin(85 * z)
    return points.norm(dim=-1) - 0.34 - coarse - fine


def thin_parts(points: Tensor) -> Tensor:
    """A curved sheet, 12 wavy hairs and 49 beads, none touching another: about 5.1 M faces of a 1024 grid."""
    x, y, z = points.unbind(-1)
    bent = (z + 0.2 - 0.03 * torch.sin(9 * x) * torch.cos(7 * y)).abs() - 0.006
    parts = [torch.maximum(bent, torch.maximum(x.abs(), y.abs()) - 0.34)]
    for i, j in itertools.product(range(4), range(3)):
        dx = x - (-0.33 + 0.22 * i) - 0.03 * torch.sin(20 * y + i)
        dz = z - (0.04 + 0.1 * j) - 0.015 * torch.cos(25 * y + j)
        parts.append(torch.maximum((dx * dx + dz * dz).sqrt() - 0.008, y.abs() - 0.38))
    beads = torch.stack([((x + 0.4375) * 8 % 1 - 0.5) / 8, ((y + 0.4375) * 8 % 1 - 0.5) / 8, z - 0.42], -1)
    parts.append(torch.maximum(beads.norm(dim=-1) - 0.025, torch.maximum(x.abs(), y.abs()) - 0.4375))
    return torch.stack(parts).amin(0)


def boxes(points: Tensor) -> Tensor:
    """27 boxes with sharp edges, each turned its own way about the z axis, each with a slot."""
    found = torch.full_like(points[:, 0], 1.0)
    for n, (i, j, k) in enumerate(itertools.product(range(3), repeat=3)):
        local = points - points.new_tensor([(i - 1) * 0.31, (j - 1) * 0.31, (k - 1) * 0.31])
        cosine, sine = math.cos(0.7 * n), math.sin(0.7 * n)
        x, y = cosine * local[:, 0] + sine * local[:, 1], cosine * local[:, 1] - sine * local[:, 0]
        side = points.new_tensor([0.05 + 0.004 * (n % 7), 0.1 - 0.003 * (n % 5), 0.06 + 0.007 * (n % 9)])
        block = (torch.stack([x, y, local[:, 2]], -1).abs() - side).amax(-1)
        slot = torch.maximum(x.abs() - 0.02, 0.02 - y)
        found = torch.minimum(found, torch.maximum(block, -slot))
    return found


HIDE, SKIN, BONE, DARK, CLOTH = (
    (0.5, 0.5, 0.53),
    (0.8, 0.6, 0.56),
    (0.92, 0.9, 0.8),
    (0.09, 0.08, 0.1),
    (0.72, 0.1, 0.12),
)
# An elephant that looks along -y, a kind of thing that training never shows: centre, half axes, colour of each
# ellipsoid. Those off the middle come in pairs.
ELEPHANT = (
    ((0, 0.11, 0), (0.2, 0.28, 0.19), HIDE),
    ((0, 0.12, 0.04), (0.207, 0.12, 0.165), CLOTH),
    ((0, -0.21, 0.13), (0.13, 0.12, 0.13), HIDE),
    ((0, -0.32, 0.06), (0.055, 0.06, 0.075), HIDE),
    ((0, -0.36, -0.02), (0.045, 0.045, 0.07), HIDE),
    ((0, -0.375, -0.11), (0.038, 0.04, 0.065), HIDE),
    ((0, -0.41, -0.18), (0.033, 0.06, 0.033), HIDE),
    ((0, 0.39, 0), (0.016, 0.03, 0.1), HIDE),
    ((0, 0.41, -0.11), (0.022, 0.022, 0.04), DARK),
    ((0.07, -0.35, 0.01), (0.016, 0.075, 0.02), BONE),
    ((0.09, -0.29, 0.17), (0.02, 0.02, 0.022), DARK),
    ((0.18, -0.16, 0.13), (0.11, 0.028, 0.13), HIDE),
    ((0.19, -0.18, 0.12), (0.075, 0.017, 0.09), SKIN),
    ((0.11, -0.06, -0.21), (0.068, 0.075, 0.16), HIDE),
    ((0.11, 0.27, -0.21), (0.072, 0.08, 0.16), HIDE),
    ((0.11, -0.12, -0.34), (0.05, 0.025, 0.022), BONE),
    ((0.11, 0.21, -0.34), (0.05, 0.025, 0.022), BONE),
)
BLEND = 70.0  # how sharply parts meet, per world unit


def _elephant_parts(points: Tensor) -> tuple[Tensor, Tensor]:
    """Distances [N, P] to the elephant's parts, about, negative inside; and the parts' colours [P, 3]."""
    distances, colors = [], []
    for center, axes, color in ELEPHANT:
        for side in (1, -1) if center[0] else (1,):
            place = points.new_tensor([side * center[0], *center[1:]])
            distances.append((((points - place) / points.new_tensor(axes)).norm(dim=1) - 1) * min(axes))
            colors.append(color)
    return torch.stack(distances, 1), points.new_tensor(colors)


def elephant(points: Tensor) -> Tensor:
    """Signed distance [N], about, of an elephant: its parts melted together, twisted a little, with a rough hide;
    points [N, 3] in +-0.5."""
    x, y, z = points.unbind(-1)
    twisted = torch.stack([x + 0.02 * torch.sin(6 * y + 4 * z), y + 0.015 * torch.sin(5 * x), z], -1)
    distances, _ = _elephant_parts(twisted)
    wrinkles = torch.sin(61 * x + 9 * y) * torch.sin(57 * y + 13 * z) * torch.sin(67 * z + 11 * x)
    return -torch.logsumexp(-BLEND * distances, 1) / BLEND + 0.003 * wrinkles


def elephant_colors(points: Tensor) -> Tensor:
    """[N, 3] sRGB of the elephant's surface at points [N, 3]: each part's colour, blotched."""
    x, y, z = points.unbind(-1)
    distances, colors = _elephant_parts(points)
    blotches = 1 + 0.12 * torch.sin(23 * x + 5 * z) * torch.sin(29 * y) * torch.sin(31 * z + 7 * y)
    return ((-2 * BLEND * distances).softmax(1) @ colors * blotches[:, None]).clamp(0, 1)


def scan(resolution: int = 200, noise_voxels: float = 0.12):
    """The elephant as a hand-held scanner gives it: a TexturedMesh of uneven, noisy triangles with colours at the
    vertices, on the CPU. resolution: of the scanner, along the cube's side. Deterministic."""
    from comfyui_trellis2.o_voxel.material import Material, TexturedMesh
    from comfyui_trellis2.o_voxel.voxels.to_mesh import dual_grid_to_mesh

    mesh = dual_grid_to_mesh(dual_grid_of(elephant, resolution, torch.device("cpu"), noise_voxels))
    colors = torch.nn.functional.pad(elephant_colors(mesh.vertices), (0, 1), value=1.0)
    surface = Material(metallic_factor=0.0, roughness_factor=0.8, double_sided=True)
    return TexturedMesh(mesh, (surface,), vertex_colors=colors)


SHAPES: dict[str, DistanceField] = {"bumpy": bumpy_sphere, "thin": thin_parts, "boxes": boxes}


def noisy_surface(shape: str, faces: int, device: torch.device | str = "cpu", noise_voxels: float = 0.08):
    """The Mesh of SHAPES[shape] with about `faces` faces: dual grid, noise, clean, simplify. Deterministic a device."""
    from comfyui_trellis2.o_voxel.mesh.repair.clean import clean
    from comfyui_trellis2.o_voxel.mesh.simplify import simplify
    from comfyui_trellis2.o_voxel.voxels.to_mesh import dual_grid_to_mesh

    # The shapes' areas are about 1.5 to 3: this gives 2 to 6 times the faces that are wanted.
    resolution = max(64, round(math.sqrt(faces) / 32 * 1.45) * 32)
    grid = dual_grid_of(SHAPES[shape], resolution, torch.device(device), noise_voxels)
    return simplify(clean(dual_grid_to_mesh(grid))[0], faces)


def surface_voxels(field: DistanceField, resolution: int, device: torch.device, slab: int = 32) -> Tensor:
    """[N, 3] int32 voxels whose corners straddle a field's zero set, sorted."""
    axis = torch.arange(resolution + 1, device=device) / resolution - 0.5
    found = []
    for start in range(0, resolution, slab):
        corners = torch.stack(torch.meshgrid(axis, axis, axis[start : start + slab + 1], indexing="ij"), -1)
        inside = (field(corners.view(-1, 3)).view(corners.shape[:3]) < 0).float()[None, None]
        share = torch.nn.functional.avg_pool3d(inside, 2, 1)[0, 0]
        voxels = ((share > 0) & (share < 1)).nonzero().int()
        voxels[:, 2] += start
        found.append(voxels)
    voxels = torch.cat(found)
    return voxels[((voxels[:, 0].long() << 32) + (voxels[:, 1].long() << 16) + voxels[:, 2]).argsort()]


def dual_grid_of(field: DistanceField, resolution: int, device: torch.device, noise_voxels: float = 0.0):
    """The DualGrid of a field's zero set, vertices towards it along the gradient, then off by a little."""
    from comfyui_trellis2.o_voxel.core.grid import Grid
    from comfyui_trellis2.o_voxel.values import DualGrid

    voxels = surface_voxels(field, resolution, device, 16)
    bits = torch.cartesian_prod(*[torch.arange(2, device=device)] * 3)
    parts = [((part[:, None] + bits) / resolution - 0.5).view(-1, 3) for part in voxels.split(400_000)]
    value = torch.cat([field(part) for part in parts]).view(-1, 2, 2, 2)
    inside = value < 0
    ends = (inside[:, 0, 1, 1], inside[:, 1, 0, 1], inside[:, 1, 1, 0])
    crossed = torch.stack([end != inside[:, 1, 1, 1] for end in ends], 1)
    slopes = [value.select(a + 1, 1).mean((1, 2)) - value.select(a + 1, 0).mean((1, 2)) for a in range(3)]
    gradient = torch.stack(slopes, 1)
    step = value.mean((1, 2, 3))[:, None] / gradient.square().sum(1, keepdim=True).clamp_min(1e-12)
    noise = torch.randn(len(voxels), 3, generator=torch.Generator().manual_seed(0)).to(device)
    dual = (0.5 - step * gradient + noise_voxels * noise).clamp(0, 1)
    return DualGrid(voxels, dual, crossed, Grid.cube(resolution))
