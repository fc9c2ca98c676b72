"""Whether a wheel's device code runs on this machine's GPUs."""

from __future__ import annotations

from collections.abc import Sequence

from .contents import Library
from .device_code import Target, cuda_modules, rocm_targets
from .elf import ElfError
from .findings import Finding
from .machine import Card, Machine

CUDA_SECTIONS = (".nv_fatbin", "__nv_relfatbin")
ROCM_SECTIONS = (".hip_fatbin",)
SHOWN = 24  # architectures in a message


def judge_device_code(libraries: Sequence[Library], machine: Machine) -> list[Finding]:
    """Compares the fat binaries of all libraries with the GPUs. Fatal if nothing of it runs on any GPU here."""
    modules, amd, found = [], set(), []
    for library in libraries:
        try:
            modules += _cuda(library)
            amd |= _rocm(library)
        except (ElfError, ValueError) as error:
            found.append(Finding(f"{library.name}: {error}", "delete the wheel and download it again"))
    if any(modules):
        found += _judge_cuda([module for module in modules if module], machine)
    if amd:
        found += _judge_rocm(amd, machine)
    return found


def _cuda(library: Library) -> list[frozenset[Target]]:
    if library.elf:
        return cuda_modules(library.data, library.elf.sections(*CUDA_SECTIONS))
    if library.pe:
        parts = [part for name, part in library.pe.sections.items() if name.startswith(".nv_fatb")]
        return cuda_modules(library.data, parts)
    return []


def _rocm(library: Library) -> set[str]:
    parts = library.elf.sections(*ROCM_SECTIONS) if library.elf else None
    return set(rocm_targets(library.data, parts) or ()) if parts else set()


def _judge_cuda(modules: list[frozenset[Target]], machine: Machine) -> list[Finding]:
    targets = sorted({target for module in modules for target in module})
    listed = ", ".join(map(str, targets[:SHOWN])) + (" …" if targets[SHOWN:] else "")
    if not machine.cards:
        return [Finding(f"has device code for {listed}; no NVIDIA GPU was found to compare it with", fatal=False)]
    found = [_judge_card(card, modules, listed) for card in machine.cards]
    some_run = any(finding is None or not finding.fatal for finding in found)
    return [Finding(f.reason, f.remedy, f.fatal and not some_run) for f in dict.fromkeys(found) if f is not None]


def _judge_card(card: Card, modules: list[frozenset[Target]], listed: str) -> Finding | None:
    running = [[target for target in module if target.runs_on(card.capability)] for module in modules]
    without = sum(not module for module in running)
    compiled = any(not target.ptx for module in running for target in module)
    if without == len(modules):
        arch = f"{card.capability[0]}.{card.capability[1]}"
        remedy = f"take a build for this card, or build it here with TORCH_CUDA_ARCH_LIST={arch} (wheels/README.md)"
        return Finding(f"has device code for {listed} only; nothing of it runs on {card}", remedy)
    if not compiled:
        return Finding(f"has only PTX for {card}: its first use waits while the driver compiles", fatal=False)
    if without:
        return Finding(f"{without} of {len(modules)} parts of its device code have nothing for {card}", fatal=False)
    return None


def _judge_rocm(found: set[str], machine: Machine) -> list[Finding]:
    listed = ", ".join(sorted(found))
    if not machine.gfx:
        return [Finding(f"has device code for {listed}; no AMD GPU was found to compare it with", fatal=False)]
    if found & set(machine.gfx):
        return []
    reason = f"has device code for {listed} only; nothing of it runs on {', '.join(machine.gfx)}"
    return [Finding(reason, "take a build for this card, or build it here with PYTORCH_ROCM_ARCH set to it")]
