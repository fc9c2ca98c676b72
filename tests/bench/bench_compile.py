"""What the first picture waits for: the kernels that Triton compiles in a 1024 cascade at the published sizes, with an
empty cache, and how long each takes; the wall time of that run, and of a second.

Kernels that only make the forced shape (see bench_pipeline) are compiled before and told apart. Starters: programs in
C by which Triton before 3.7 launches kernels, one for each sequence of argument types, made by the system's compiler.
"""

import tempfile
import time
from collections import defaultdict

import torch
from bench import DEVICE
from bench_pipeline import CASES, PIPELINE_TYPES, ROLES, STAGES, Case, ForcedShape, RandomWeights, one_run
from triton import knobs
from triton.runtime import driver


class Watch:
    """Seconds of every compilation since `clear`, by kernel. They follow one another."""

    def __init__(self) -> None:
        knobs.cache.dir = tempfile.mkdtemp()
        knobs.runtime.jit_cache_hook, knobs.runtime.jit_post_compile_hook = self._begin, self._end
        launcher = driver.active.launcher_cls

        def timed(*args):
            begun = time.perf_counter()
            made = launcher(*args)
            self.starters.append(time.perf_counter() - begun)
            return made

        driver.active.launcher_cls = timed
        self.clear()

    def clear(self) -> None:
        self.kernels, self.starters = defaultdict(list), []

    def _begin(self, **_):
        self.begun = time.perf_counter()

    def _end(self, fn, **_):
        self.kernels[f"{fn.module.removeprefix('pack.')}.{fn.name}"].append(time.perf_counter() - self.begun)

    def show(self) -> None:
        for name, times in sorted(self.kernels.items(), key=lambda item: -sum(item[1])):
            print(f"  {name:<70}{len(times):4d} variants {sum(times):7.2f} s")
        every = [t for times in self.kernels.values() for t in times]
        print(f"  {len(every)} variants: {sum(every):.2f} s, {len(self.starters)} starters: {sum(self.starters):.2f} s")


@torch.no_grad()
def main() -> None:
    if DEVICE.type != "cuda":
        print("bench_compile needs a CUDA device")
        return
    watch, case = Watch(), Case.parse(CASES[-1])
    kind = PIPELINE_TYPES[case.kind]
    layout = RandomWeights(ForcedShape([kind.cascade]))
    for role in ROLES:
        layout.make(role)
    pipeline = case.pipeline(layout)
    print("before:")
    watch.show()
    watch.clear()
    first, sizes = one_run(pipeline, kind)
    print(f"first run, {case.kind} {case.vram}, {sizes}:")
    watch.show()
    watch.clear()
    second, _ = one_run(pipeline, kind)
    print(f"second run: {sum(map(len, watch.kernels.values()))} variants")
    for name in (*STAGES, "whole"):
        print(f"  {name:<12} first {first[name][0]:7.3f} s, second {second[name][0]:7.3f} s")


if __name__ == "__main__":
    main()
