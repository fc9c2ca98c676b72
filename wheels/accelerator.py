"""`install.py --accelerator NAME`: picks a build, checks it, installs it, tries it, and undoes it if it does not
work."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .check import machine as host
from .check.tags import mismatch, parse_name
from .check.verdict import check_wheel
from .environment import InstallError, Machine, installer, pip, say
from .recipes import recipe
from .requirements import TORCH_FAMILY, canonical, constraints
from .resolve import INDEX, Host, Index, Package, Wheel, pick_wheel, read_index, this_host
from .transaction import begin, commit, distribution, locked, recover, site_packages, undo

MANIFEST = "wheelhouse.json"
LARGEST_MANIFEST = 16 << 20  # bytes
CHUNK = 1 << 20


@dataclass(frozen=True)
class Request:
    """What the user asked for."""

    name: str
    dry_run: bool = False
    consent: bool = False  # to a licence that is not free for every use


@dataclass(frozen=True)
class Build:
    """The wheel to install. `file` is None until it is downloaded; `sha256` None for one that the user built."""

    name: str
    version: str
    file: Path | None
    sha256: str | None


def add_accelerator(
    machine: Machine, request: Request, here: host.Machine | None = None, index: Index | None = None
) -> int:
    """Installs an accelerator, or says why not. Returns 0 if it is there and works, or with `dry_run` would be tried.

    `here` and `index` are for tests: by default this machine, and index.json. Never changes torch, nor a package that
    is installed; whatever fails leaves all as it was.
    """
    index = index or read_index(Path(__file__).with_name("index.json"))
    package = index.packages.get(canonical(request.name))
    if package is None:
        say(f"{request.name}: no build is listed; there are {', '.join(sorted(index.packages))}")
        return 1
    if package.consent and not request.consent:
        say(f"{package.name}: its licence is {package.licence}. If you agree to it, add --accept-licence")
        return 1
    with tempfile.TemporaryDirectory() as folder:
        if request.dry_run:
            return _plan(machine, package, index, here or host.this_machine())
        with locked(site_packages()) as journal:
            recover(machine, journal, site_packages())
            build = _choose(machine, package, index)
            if build is None:
                return 1
            if _works(machine, package, build):
                say(f"{package.name} {build.version} is installed and works: nothing to do")
                return 0
            file = build.file or _download(machine, build, Path(folder))
            if not _fits(file, here or host.this_machine(), package):
                return 1
            return _install(machine, package, file, journal)


def _plan(machine: Machine, package: Package, index: Index, here: host.Machine) -> int:
    """Says what would be done, and changes nothing."""
    build = _choose(machine, package, index)
    if build is None:
        return 1
    if build.file:
        code = 0 if _fits(build.file, here, package) else 1
        say(f"dry run: would install {build.file.name}" if code == 0 else "dry run: would refuse it")
        return code
    say(f"dry run: would download {package.name}=={build.version} with SHA-256 {build.sha256}, check it against this")
    say(f"machine, install it (torch stays as it is), and try `{package.probe}` in a process of its own")
    return 0


def _choose(machine: Machine, package: Package, index: Index) -> Build | None:
    """The build for this machine, or None, after the reason and the recipe were said."""
    if machine.offline:
        build = _in_folder(machine.offline, package, index)
        if build is None:
            say(f"{package.name}: {machine.offline} has no build for this Python (make_wheelhouse.py makes one)")
        return build
    choice = pick_wheel(package.name, _host(), index.wheels)
    say(choice.reason)
    if choice.wheel is None:
        _say_recipe(package)
        return None
    if choice.wheel.source != INDEX:
        _say_where(choice.wheel)
        return None
    return Build(package.name, choice.wheel.version, None, choice.wheel.sha256)


def _host() -> Host:
    return this_host()


def _say_where(wheel: Wheel) -> None:
    project, _, tag = wheel.source.removeprefix("github:").partition("@")
    say(f"{wheel.file} is published by the GitHub project {project}, {tag}. Download it into a folder, then:")
    say(f"  python install.py --accelerator {wheel.package} --offline FOLDER")


def _in_folder(folder: Path, package: Package, index: Index) -> Build | None:
    """The newest wheel of `package` in `folder` whose name fits. Its checksum must be the listed one, if one is."""
    known = {wheel.file: wheel.sha256 for wheel in index.wheels} | read_manifest(folder)
    python, found = host.this_python(), []
    for file in sorted(folder.glob("*.whl")):
        try:
            name = parse_name(file.name)
        except ValueError:
            continue
        if name.name == canonical(package.name) and mismatch(name, python) is None:
            found.append((_numbers(name.version), name.version, file))
    if not found:
        return None
    _, version, file = max(found)
    expected = known.get(file.name)
    if expected is None:
        say(f"{file.name} is not listed: its SHA-256 is not compared")
    elif sha256_of(file) != expected:
        raise InstallError(
            f"{file}: expected SHA-256 {expected}, got another: it is damaged; make the wheelhouse again"
        )
    return Build(package.name, version, file, expected)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.partition("+")[0].split(".") if part.isdigit())


def read_manifest(folder: Path) -> Mapping[str, str]:
    """Returns file name to SHA-256 of a wheelhouse, {} without a manifest. Raises InstallError if it is malformed."""
    file = folder / MANIFEST
    try:
        if file.stat().st_size > LARGEST_MANIFEST:
            raise InstallError(f"{file}: expected up to {LARGEST_MANIFEST} bytes")
        data = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise InstallError(f"{file}: {error}; make the wheelhouse again") from error
    files = data.get("files") if isinstance(data, dict) else None
    if not isinstance(files, dict) or not all(isinstance(digest, str) for digest in files.values()):
        raise InstallError(f'{file}: expected {{"files": {{NAME: SHA-256}}}}; make the wheelhouse again')
    return files


def sha256_of(file: Path) -> str:
    """Returns the SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with file.open("rb") as source:
        while chunk := source.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _download(machine: Machine, build: Build, folder: Path) -> Path:
    """Fetches the one file with the listed checksum through the user's pip. Raises InstallError if it is not to be
    had."""
    if not machine.has_module("pip"):
        raise InstallError("an accelerator is downloaded by pip, which this Python lacks; run `python -m ensurepip`")
    wanted = folder / "wanted.txt"
    wanted.write_text(f"{build.name}=={build.version} --hash=sha256:{build.sha256}\n", encoding="utf-8")
    command = [*pip(machine), "download", "-q", "--disable-pip-version-check", "--no-deps", "--only-binary", ":all:"]
    code = machine.run([*command, "--require-hashes", "-r", str(wanted), "-d", str(folder)])
    files = list(folder.glob("*.whl"))
    if code or len(files) != 1:
        raise InstallError(
            f"{build.name} {build.version} could not be downloaded from the package index of pip's settings"
        )
    if sha256_of(files[0]) != build.sha256:
        raise InstallError(f"{files[0].name}: expected SHA-256 {build.sha256}, got another; nothing was installed")
    return files[0]


def _fits(file: Path, here: host.Machine, package: Package) -> bool:
    try:
        verdict = check_wheel(file, here)
    except OSError as error:
        raise InstallError(f"{file.name} cannot be checked: {error}") from error
    for line in verdict.lines():
        say(line)
    if verdict.refused:
        _say_recipe(package, here)
    return not verdict.refused


def _say_recipe(package: Package, here: host.Machine | None = None) -> None:
    for line in recipe(package, here or host.this_machine()):
        say(line)


def _works(machine: Machine, package: Package, build: Build) -> bool:
    """True if this version is installed, from this build as far as its version tells, and its probe passes."""
    found = distribution(site_packages(), package.name)
    return found is not None and found.version == build.version and _probe(machine, package) == 0


def _probe(machine: Machine, package: Package) -> int:
    """Tries the accelerator in a process of its own, beside torch, whose libraries it may use."""
    torch = "import torch\n" if "torch" in machine.versions() else ""
    return machine.run([machine.python, "-c", f"{torch}{package.probe}"])


def _install(machine: Machine, package: Package, file: Path, journal: Path) -> int:
    """Installs `file`, then its missing requirements; undoes both if the probe fails or anything else changed."""
    site, before = site_packages(), dict(machine.versions())
    try:
        begin(journal, site, package.name, file)
    except OSError as error:
        raise InstallError(f"the installed version could not be kept: {error}; nothing was changed") from error
    try:
        command = [*installer(machine), "-q", "--no-deps"]
        again = ["--force-reinstall"] if machine.has_module("pip") else ["--reinstall"]
        say(f"installing {file.name}")
        failed = machine.run([*command, *again, str(file)]) and "it could not be installed"
        failed = failed or _complete(machine, package, file, before)
        failed = failed or (_probe(machine, package) and f"`{package.probe}` failed")
    except BaseException:
        _take_back(machine, journal, site, before)
        raise
    if failed:
        left = _take_back(machine, journal, site, before)
        as_before = f"install again: {', '.join(left)}" if left else "all is as it was before"
        say(f"{package.name}: {failed}; {as_before}")
        return 1
    commit(journal)
    say(f"{package.name} is installed and works. Licence: {package.licence}. Use: {package.use}")
    return 0


def _complete(machine: Machine, package: Package, file: Path, before: Mapping[str, str]) -> str | None:
    """Adds the wheel's requirements under pins of all that was installed. Returns what is wrong then, or None."""
    name = parse_name(file.name)
    with tempfile.TemporaryDirectory() as folder:
        pins = Path(folder, "constraints.txt")
        pins.write_text(constraints(before, [package.name]), encoding="utf-8")
        find = [] if machine.offline else ["--find-links", str(file.parent)]
        code = machine.run([*installer(machine), "-q", *find, "-c", str(pins), f"{name.name}=={name.version}"])
    if code:
        say("not all of its requirements can be had without changing what is installed; trying it without them")
    after = machine.versions()
    changed = [n for n in before if canonical(package.name) != n and after.get(n) != before[n]]
    changed += [n for n in TORCH_FAMILY if n != canonical(package.name) and n in after and n not in before]
    return f"it changed {', '.join(changed)}" if changed else None


def _take_back(machine: Machine, journal: Path, site: Path, before: Mapping[str, str]) -> list[str]:
    """Undoes the wheel and what came with it. Returns what still is not as before: nothing, unless pip ignored pins."""
    undo(machine, journal, site)
    added = sorted(set(machine.versions()) - set(before))
    if added:
        machine.run([*pip(machine), "uninstall", "-q", "-y", *added])
    after = machine.versions()
    return [f"{name}=={version}" for name, version in before.items() if after.get(name) != version]


def check_wheels(files: Sequence[str]) -> int:
    """Prints the verdict on each file. Returns 1 if one is refused."""
    here, refused = host.this_machine(), False
    for name in files:
        try:
            verdict = check_wheel(Path(name), here)
        except OSError as error:
            raise InstallError(f"{name} cannot be checked: {error}") from error
        refused |= verdict.refused
        print("\n".join(verdict.lines()))
    return int(refused)
