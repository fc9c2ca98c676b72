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


FUR, LIGHT, DARK, RED = (0.55, 0.36, 0.2), (0.87, 0.75, 0.58), (0.08, 0.06, 0.06), (0.72, 0.1, 0.12)
# A sitting bear that looks along -y: centre, half axes, colour of each ellipsoid. Those off the middle come in pairs.
BEAR = (
    ((0, 0, -0.12), (0.19, 0.16, 0.22), FUR),
    ((0, -0.07, -0.13), (0.13, 0.11, 0.16), LIGHT),
    ((0, -0.02, 0.22), (0.17, 0.15, 0.15), FUR),
    ((0, -0.15, 0.18), (0.08, 0.07, 0.06), LIGHT),
    ((0, -0.22, 0.2), (0.03, 0.02, 0.022), DARK),
    ((0, -0.01, 0.09), (0.14, 0.13, 0.035), RED),
    ((0.05, -0.13, 0.01), (0.028, 0.03, 0.1), RED),
    ((0.07, -0.155, 0.26), (0.02, 0.02, 0.024), DARK),
    ((0.14, 0, 0.35), (0.06, 0.035, 0.065), FUR),
    ((0.14, -0.025, 0.35), (0.035, 0.025, 0.04), LIGHT),
    ((0.21, -0.07, -0.03), (0.06, 0.12, 0.07), FUR),
    ((0.15, -0.18, -0.27), (0.075, 0.19, 0.075), FUR),
    ((0.17, -0.33, -0.25), (0.075, 0.045, 0.1), FUR),
    ((0.17, -0.365, -0.25), (0.05, 0.02, 0.065), LIGHT),
)
BLEND = 70.0  # how sharply parts meet, per world unit


def _bear_parts(points: Tensor) -> tuple[Tensor, Tensor]:
    """Distances [N, P] to the bear's parts, about, negative inside; and the parts' colours [P, 3]."""
    distances, colors = [], []
    for center, axes, color in BEAR:
        paired = center[0] > 0 and color != RED
        for side in (1, -1) if paired else (1,):
            place = points.new_tensor([side * center[0], *center[1:]])
            distances.append((((points - place) / points.new_tensor(axes)).norm(dim=1) - 1) * min(axes))
            colors.append(color)
    return torch.stack(distances, 1), points.new_tensor(colors)


def bear(points: Tensor) -> Tensor:
    """Signed distance [N], about, of a bear: its parts melted together, leaning, with fur; points [N, 3] in +-0.5."""
    x, y, z = points.unbind(-1)
    leaning = torch.stack([x - 0.08 * z * z + 0.01 * torch.sin(7 * z + 3 * y), y + 0.03 * torch.sin(5 * x), z], -1)
    distances, _ = _bear_parts(leaning)
    tufts = torch.sin(61 * x + 9 * y) * torch.sin(57 * y + 13 * z) * torch.sin(67 * z + 11 * x)
    return -torch.logsumexp(-BLEND * distances, 1) / BLEND + 0.004 * tufts


def bear_colors(points: Tensor) -> Tensor:
    """[N, 3] sRGB of the bear's surface at points [N, 3]: each part's colour, blotched."""
    distances, colors = _bear_parts(points)
    x, y, z = points.unbind(-1)
    blotches = 1 + 0.12 * torch.sin(23 * x + 5 * z) * torch.sin(29 * y) * torch.sin(31 * z + 7 * y)
    return ((-2 * BLEND * distances).softmax(1) @ colors * blotches[:, None]).clamp(0, 1)


def scan(resolution: int = 200, noise_voxels: float = 0.12):
    """The bear as a hand-held scanner gives it: a TexturedMesh of uneven, noisy triangles with colours at the vertices,
    on the CPU. resolution: of the scanner, along the cube's side. Deterministic."""
    from pack.o_voxel.dual_grid import dual_grid_to_mesh
    from pack.o_voxel.material import Material, TexturedMesh

    mesh = dual_grid_to_mesh(dual_grid_of(bear, resolution, torch.device("cpu"), noise_voxels))
    colors = torch.nn.functional.pad(bear_colors(mesh.vertices), (0, 1), value=1.0)
    surface = Material(metallic_factor=0.0, roughness_factor=0.8, double_sided=True)
    return TexturedMesh(mesh, (surface,), vertex_colors=colors)


SHAPES: dict[str, DistanceField] = {"bumpy": bumpy_sphere, "thin": thin_parts, "boxes": boxes}


def noisy_surface(shape: str, faces: int, device: torch.device | str = "cpu", noise_voxels: float = 0.08):
    """The Mesh of SHAPES[shape] with about `faces` faces: dual grid, noise, clean, simplify. Deterministic a device."""
    from pack.o_voxel.dual_grid import dual_grid_to_mesh
    from pack.o_voxel.mesh.clean import clean
    from pack.o_voxel.mesh.simplify import simplify

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
    from pack.o_voxel.grid import Grid
    from pack.o_voxel.values import DualGrid

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
