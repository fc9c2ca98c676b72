"""Connected components of a random graph and of loops, as charts and their borders have them."""

import argparse

import torch
from bench import DEVICE, Table
from comfyui_trellis2.o_voxel.ops.connected_components import connected


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--counts", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    table = Table("connected", options.save)
    for count in options.counts:
        node = torch.arange(count, device=DEVICE)
        mixed = torch.randperm(count, generator=torch.Generator().manual_seed(0)).to(DEVICE)
        loops = mixed, mixed.view(-1, 100).roll(1, 1).flatten()
        for name, (first, second) in {"random": (node, mixed), "loops of 100": loops}.items():

            def work(count=count, first=first, second=second):
                return connected(count, first, second)

            table.add(f"{name} {count:,}", work, traffic=24 * count, repeat=5)
    table.write()


if __name__ == "__main__":
    main()
