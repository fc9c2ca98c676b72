"""The sparse decoders at the published sizes on the standard shape, random weights: time and peak memory, with the
finest level whole and in parts, and whether the output is the same to the bit. The children are given."""

import argparse
import json

import torch
from bench import DEVICE, ROOT, Table, peak_mib, surface_voxels
from comfyui_trellis2.trellis2.models import build_model
from comfyui_trellis2.trellis2.sparse import CoordSet, SparseTensor

# The reference's milliseconds, whole forward with given subdivisions (baseline.md).
REFERENCE = {("tex", 512): 41.6, ("tex", 1024): 116.9}
BUDGETS = {"whole": 2**45, "1 GiB": 2**30, "256 MiB": 2**28}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--resolutions", type=int, nargs="+", default=[512, 1024] if DEVICE.type == "cuda" else [64])
    parser.add_argument("--roles", nargs="+", default=["tex", "shape"])
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    table = Table("decoder_parts", options.save)
    published = json.loads((ROOT / "trellis2" / "checkpoint" / "published.json").read_text())["models"]
    with torch.no_grad():
        for role in options.roles:
            name = f"{role}_slat_decoder"
            decoder = build_model(published[name], name, device=DEVICE)
            for resolution in options.resolutions:
                run(table, decoder, role, resolution, options.profile)
            del decoder
    table.write()


def run(table, decoder, role, resolution, profile) -> None:
    feats = expected = None
    for name, budget in BUDGETS.items():
        guide = given(resolution)
        feats = torch.randn(len(guide[0].coarse), 32, device=DEVICE) if feats is None else feats
        latent = SparseTensor(feats, guide[0].coarse)

        def decode(latent=latent, guide=guide, budget=budget):
            return decoder(latent, guide, memory_budget=budget).output.feats

        first = peak_mib(decode)
        out = decode()
        expected = out if expected is None else expected
        same = "the same bits" if torch.equal(out, expected) else f"differs by {(out - expected).abs().max():.1e}"
        reference = f"reference {REFERENCE[role, resolution]}, " if (role, resolution) in REFERENCE else ""
        note = f"{reference}peak {first:.0f} MiB besides weights, maps included; {same}"
        table.add(f"{role} {resolution} {name}", decode, repeat=5, note=note)
        if profile and name == "whole":
            from bench_flow import show_profile

            show_profile(decode)


def given(resolution):
    """The subdivisions of the standard shape, in the order of a decode, nothing derived yet."""
    coords, masks = CoordSet.from_items([surface_voxels(resolution)]), []
    for _ in range(4):
        split = coords.coarsen()
        # Rows of the finer level in the order of its parents, as the masks to come expect them.
        masks.append((split.coarse.rows, split.mask()))
        coords = split.coarse
    found = []
    for rows, mask in reversed(masks):
        index = CoordSet(rows, [len(rows)]).index()
        found.append(coords.subdivide(mask[index.find(coords.rows)]))
        coords = found[-1].fine
    return found


if __name__ == "__main__":
    main()
