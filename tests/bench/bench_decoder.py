"""The texture decoder at the published size, random weights in float16, on the standard shape with its subdivisions
given. Baseline: the reference on an H200."""

import argparse
import json

import torch
from bench import DEVICE, ROOT, Table, peak_mib, show_profile, surface_voxels
from comfyui_trellis2.trellis2.models import Backends, build_model
from comfyui_trellis2.trellis2.sparse import CoordSet, SparseTensor

REFERENCE = {512: 41.6, 1024: 116.9}
LEVELS = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--resolutions", type=int, nargs="+", default=list(REFERENCE))
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    table = Table("decoder", options.save)
    role = "tex_slat_decoder"
    published = json.loads((ROOT / "trellis2" / "checkpoint" / "published.json").read_text())["models"]
    decoder = build_model(published[role], role, backends=Backends(), device=DEVICE)
    for resolution in options.resolutions:
        voxels = surface_voxels(resolution)

        def decode() -> torch.Tensor:
            guide = subdivisions(masks)
            z = SparseTensor(latent, guide[0].coarse)
            return decoder(z, guide).output.feats

        with torch.no_grad():
            coarsest, masks = pyramid(voxels)
            latent = torch.randn(len(coarsest), decoder.config.latent_channels, device=DEVICE)
            masks = (coarsest, masks)
            note = f"reference {REFERENCE.get(resolution)}, peak {peak_mib(decode):.0f} MiB"
            table.add(f"{resolution} maps built", decode, repeat=10, note=note)
            guide = subdivisions(masks)
            z = SparseTensor(latent, guide[0].coarse)
            table.add(f"{resolution} maps kept", lambda: decoder(z, guide).output.feats, repeat=10, note=note)
            if options.profile:
                show_profile(decode)
    table.write()


def pyramid(voxels):
    """The coarsest voxels [N, 3] of the shape, and from them down the masks [N_l, 8] of the children that exist."""
    coords, masks = CoordSet.from_items([voxels]), []
    for _ in range(LEVELS):
        split = coords.coarsen()
        masks.append(split)
        coords = split.coarse
    children, current = [], coords
    for split in reversed(masks):
        order = split.coarse.index().find(current.rows)
        children.append(split.mask()[order])
        current = current.subdivide(children[-1]).fine
    return coords.voxels, children


def subdivisions(pyramid):
    """The subdivisions, fresh: nothing that a forward derives from them is kept from the last one."""
    coarsest, masks = pyramid
    coords, out = CoordSet.from_items([coarsest]), []
    for mask in masks:
        out.append(coords.subdivide(mask))
        coords = out[-1].fine
    return out


if __name__ == "__main__":
    main()
