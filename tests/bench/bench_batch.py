"""Several pictures as one batch beside the same number one after the other, image to mesh: seconds, peak memory, ratio.

Random weights and a forced shape, as bench_pipeline does it; a case is one of bench_pipeline's. Singles of a case have
the same voxels, so that all but the first replay its recordings: that is the harder comparison. With +fresh every
single, and every batch, records anew, as other pictures do.
"""

import argparse
import sys
from dataclasses import replace

import torch
from bench import DEVICE, ROOT
from bench_pipeline import Case, random_layout, run_case, save

CASES = ("1024_cascade:high:0", "1024_cascade:high:0:bf16+fresh")


def compared(rows):
    """One line of the singles and the batch that `rows` of one case are of, by their column "objects"."""
    whole = {row["objects"]: row for row in rows if row["stage"] == "whole"}
    single, objects = whole[1], max(whole)
    batch, seconds = whole[objects], objects * single["median_s"]
    case = f"{batch['type']} {batch['vram']} {batch['variant']}, {objects} objects"
    return (
        f"batch {case}: one by one {seconds:.3f} s, peak {single['peak_gib']:.2f} GiB; as a batch "
        f"{batch['median_s']:.3f} s, peak {batch['peak_gib']:.2f} GiB; {seconds / batch['median_s']:.3f} times the "
        "throughput"
    )


def measured(layout, case, objects, runs):
    """The rows of one case, singles first; those of the batch are absent where the device's memory does not do."""
    rows = [{"objects": 1} | row for row in run_case(layout, case, runs)]
    try:
        rows += [{"objects": objects} | row for row in run_case(layout, replace(case, objects=objects), runs)]
    except torch.OutOfMemoryError as error:
        print(f"left out: a batch of {objects} of {case.kind} {case.vram} {case.variant}: {str(error).splitlines()[0]}")
        return rows
    print(compared(rows), flush=True)
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=CASES)
    parser.add_argument("--batch", type=int, default=4, help="pictures")
    parser.add_argument("--runs", type=int, default=2, help="after the first; 0: that one alone")
    parser.add_argument("--save", metavar="CSV", nargs="?", const=ROOT / "tests" / "bench" / "results" / "batch.csv")
    options = parser.parse_args()
    if options.batch < 2:
        parser.error(f"--batch: expected 2 or more, got {options.batch}")
    if DEVICE.type != "cuda":
        print("left out: bench_batch needs a CUDA device: it measures the card's memory")
        return 0
    cases, rows = [Case.parse(text) for text in options.cases], []
    with torch.no_grad():
        layout = random_layout(cases)
        for case in cases:
            rows += measured(layout, case, options.batch, options.runs)
            layout.offload()
            if options.save:
                save(options.save, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
