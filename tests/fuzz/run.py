"""Fuzzes parsers: python tests/fuzz/run.py [TARGET …] [--inputs N] [--seconds S] [--work FOLDER].

With the package atheris it is guided by the coverage of the pack's and trimesh's lines; without, it keeps the inputs
whose error is new. An input that leaves the limits (`limits.py`) is written to FOLDER/found/TARGET, one for each place
in the code; put it, made small, into corpus/TARGET, and mend the parser. Where native code dies or hangs, the process
ends, its input is kept there too, and another goes on.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import random
import re
import subprocess
import sys
import time
import traceback
import types
from contextlib import nullcontext, suppress
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PACK = "comfyui_trellis2"
MAX_INPUT = 1 << 15
# Native code that runs so long hangs.
NATIVE_SECONDS = 30


def load_pack() -> None:
    """Makes the pack importable, as the tests do, and this folder as `fuzz`: the root is never on sys.path."""
    spec = importlib.util.spec_from_file_location(PACK, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    module = importlib.util.module_from_spec(spec)
    sys.modules[PACK] = module
    spec.loader.exec_module(module)
    here = types.ModuleType("fuzz")
    here.__path__ = [str(HERE)]
    sys.modules["fuzz"] = here


def kernels() -> list[str]:
    """The modules that numba and Triton compile from their bytecode, which must stay as it is."""
    files = (path.relative_to(ROOT).with_suffix("") for path in ROOT.rglob("kernel*.py"))
    return [".".join((PACK, *file.parts)) for file in files]


class Fuzzer:
    """Runs one target, counts inputs, keeps what left the limits."""

    def __init__(self, target: object, work: Path, limits: object) -> None:
        self.target, self.limits = target, limits
        self.found, self.scratch = work / "found" / target.name, work / "scratch" / target.name
        self.corpus, self.log = work / "corpus" / target.name, work / f"{target.name}.json"
        for folder in (self.found, self.scratch, self.corpus):
            folder.mkdir(parents=True, exist_ok=True)
        for number, seed in enumerate(target.seeds()):
            (self.corpus / f"seed{number}").write_bytes(seed)
        self.count, self.places, self.begun, self.outcomes = 0, {}, time.monotonic(), {}

    def one(self, content: bytes) -> str:
        """Reads one input; returns what came of it."""
        self.count += 1
        if self.count % 1000 == 0:
            self.save()
        try:
            with self.limits.limited(len(content)):
                self.target.run(content, self.scratch)
            outcome = "read"
        except self.limits.REFUSALS as error:
            outcome = f"{type(error).__name__}: {re.sub('[0-9]+', '0', str(error))[:60]}"
            if isinstance(error.__cause__, MemoryError) or "Unable to allocate" in str(error):
                self.keep(content, error)
        except (Exception, self.limits.Hang) as error:  # noqa: BLE001 whatever it is, it is what is looked for
            outcome = f"found {type(error).__name__}"
            self.keep(content, error)
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1
        return outcome

    def keep(self, content: bytes, error: BaseException) -> None:
        """Writes an input, if it is the first or shortest of its place in the code."""
        frames = traceback.extract_tb(error.__traceback__)
        ours = [frame for frame in frames if str(ROOT) in frame.filename and "fuzz" not in frame.filename]
        last = (ours or frames)[-1]
        place = f"{type(error).__name__}-{Path(last.filename).stem}-{last.name}-{last.lineno}"
        if place not in self.places or len(content) < self.places[place]:
            self.places[place] = len(content)
            name = hashlib.sha1(place.encode()).hexdigest()[:10]
            (self.found / name).write_bytes(content)
            (self.found / f"{name}.txt").write_text("".join(traceback.format_exception(error)))
            self.save()

    def save(self) -> None:
        """Writes the figures so far."""
        seconds = time.monotonic() - self.begun
        kinds = sum(1 for outcome in self.outcomes if not outcome.startswith("found"))
        figures = {"inputs": self.count, "seconds": round(seconds, 1), "outcomes": kinds, "found": self.places}
        figures["read"] = self.outcomes.get("read", 0)
        self.log.write_text(json.dumps(figures))


def fuzz(name: str, work: Path, inputs: int, seconds: int, seed: int) -> None:
    """Fuzzes one target in this process."""
    atheris = importlib.import_module("atheris") if importlib.util.find_spec("atheris") else None
    load_pack()
    hooks = nullcontext() if atheris is None else atheris.instrument_imports([PACK, "trimesh"], kernels())
    with hooks:
        targets = importlib.import_module("fuzz.targets")
    mutate, limits = importlib.import_module("fuzz.mutate"), importlib.import_module("fuzz.limits")
    targets.quiet()
    target = targets.TARGETS[name]
    fuzzer, others = Fuzzer(target, work, limits), target.seeds()
    for content in others:  # what is imported and compiled at the first call is no allocation of a parser
        with suppress(*limits.REFUSALS):
            target.run(content, fuzzer.scratch)
    if atheris is None:
        rng, kept = random.Random(seed), list(others)
        while fuzzer.count < inputs and time.monotonic() - fuzzer.begun < seconds:
            content = mutate.mutated(rng.choice(kept), rng, others, target.envelope)[:MAX_INPUT]
            known = len(fuzzer.outcomes)
            fuzzer.one(content)
            if len(fuzzer.outcomes) > known:
                kept.append(content)
        fuzzer.save()
        return

    def mutator(data: bytes, most: int, number: int) -> bytes:
        rng = random.Random(number)
        if data and rng.random() < 0.6:
            return mutate.mutated(data, rng, others, target.envelope)[:most]
        return atheris.Mutate(data, most)

    def one(content: bytes) -> None:
        fuzzer.one(content)

    options = [f"-runs={inputs}", f"-max_total_time={seconds}", f"-seed={seed}", f"-max_len={MAX_INPUT}"]
    options += [f"-artifact_prefix={fuzzer.found}/native-", "-rss_limit_mb=0", f"-timeout={NATIVE_SECONDS}"]
    atheris.Setup([sys.argv[0], *options, str(fuzzer.corpus)], one, custom_mutator=mutator)
    atheris.Fuzz()


def main() -> None:
    """The command: one process for each target, begun again where it dies."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("targets", nargs="+")
    parser.add_argument("--inputs", type=int, default=1_000_000, help="of each target")
    parser.add_argument("--seconds", type=int, default=600, help="at most, of each target")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--work", type=Path, default=Path("fuzz-work"), help="folder of corpora, figures and findings")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        fuzz(options.targets[0], options.work, options.inputs, options.seconds, options.seed)
        return
    for name in options.targets:
        end, total, seed = time.monotonic() + options.seconds, 0, options.seed
        while total < options.inputs and time.monotonic() < end - 1:
            left = options.inputs - total, int(end - time.monotonic())
            command = [sys.executable, __file__, name, "--inside", "--work", str(options.work), "--seed", str(seed)]
            command += ["--inputs", str(left[0]), "--seconds", str(left[1])]
            # Freed memory goes back, and threads take none of their own: both would count as a parser's.
            quiet = {"MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
            done = subprocess.run(command, env=os.environ | quiet, capture_output=True, text=True, check=False)  # noqa: TID251 a process of its own
            figures = json.loads((options.work / f"{name}.json").read_text())
            total, seed = total + figures["inputs"], seed + 1
            print(f"{name}: {total:,} inputs, {figures}", flush=True)
            if done.returncode:
                print(f"{name}: ended with {done.returncode}: {done.stderr[-600:]}", flush=True)


if __name__ == "__main__":
    main()
