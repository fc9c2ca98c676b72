"""Filling the gutters of an atlas: discs of texels that are covered, the rest not."""

import torch
from bench import DEVICE, Table, peak_mib
from comfyui_trellis2.o_voxel.ops.nearest_texel import nearest_texel


def discs(side: int, pitch: int) -> torch.Tensor:
    """[side, side] bool: a disc in each square of `pitch` texels, three quarters as wide."""
    row = torch.arange(side, device=DEVICE)
    off = (row % pitch - pitch / 2) ** 2
    return off[:, None] + off < (0.375 * pitch) ** 2


def main() -> None:
    table = Table("nearest_texel")
    for side in (2048, 4096) if DEVICE.type == "cuda" else (1024,):
        lonely = torch.zeros(side, side, dtype=torch.bool, device=DEVICE)
        lonely[0, 0] = True
        for name, covered in (("discs of 64", discs(side, 64)), ("discs of 512", discs(side, 512)), ("one", lonely)):

            def work(covered=covered):
                return nearest_texel(covered)

            table.add(f"{side} {name}", work, traffic=side * side * 5, repeat=5, note=f"{peak_mib(work):.0f} MiB")


if __name__ == "__main__":
    main()
