"""The commands that build an accelerator from source for the GPUs of this machine."""

from __future__ import annotations

from .check.machine import Card, Machine
from .resolve import Package

WHEELHOUSE = "wheelhouse"
FALLBACK = "8.0;8.6;8.9;9.0;12.0"  # without a card at hand: Ampere, Ada, Hopper, consumer Blackwell


def arch_list(cards: tuple[Card, ...]) -> str:
    """Returns TORCH_CUDA_ARCH_LIST for `cards`: "8.9;12.0". Without any, those that are in common use."""
    found = sorted({card.capability for card in cards})
    return ";".join(f"{major}.{minor}" for major, minor in found) or FALLBACK


def major_list(cards: tuple[Card, ...]) -> str:
    """The same as flash-attn's own variable wants it, by generation: "80;120"."""
    majors = {int(float(arch)) for arch in arch_list(cards).split(";")}
    return ";".join(f"{major}0" for major in sorted(majors))


def recipe(package: Package, machine: Machine) -> list[str]:
    """Returns lines for a person: what is needed, the commands with this machine's cards, the install."""
    if not package.recipe:
        return []
    cuda = machine.torch.cuda if machine.torch else None
    need = f"the CUDA toolkit {cuda}, torch's own version" if cuda else "a torch with CUDA or ROCm, and its toolkit"
    names = {
        "arch": arch_list(machine.cards),
        "majors": major_list(machine.cards),
        "gfx": ";".join(machine.gfx) or "gfx1100",
    }
    return [
        f"to build {package.name} here ({need}, and a C++ compiler; a build may take an hour):",
        *("  " + line.format(**names, folder=WHEELHOUSE) for line in package.recipe),
        f"  python install.py --accelerator {package.name} --offline {WHEELHOUSE}",
    ]
