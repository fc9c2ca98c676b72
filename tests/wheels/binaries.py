"""Small libraries and wheels, laid out byte by byte."""

import base64
import hashlib
import struct
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

BASE = 0x1000  # the address of the file's first byte
PTX, CUBIN = 1, 2
FLAGS = {"": 0x11, "a": 0x100011, "f": 0x200011}


def gnu_hash(name: str) -> int:
    value = 5381
    for byte in name.encode():
        value = (value * 33 + byte) % 2**32
    return value


class Strings:
    """A string table."""

    def __init__(self) -> None:
        self.data = b"\0"

    def __call__(self, name: str) -> int:
        self.data += name.encode() + b"\0"
        return len(self.data) - len(name.encode()) - 1


def linked(entries: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Verneed or verdef: (head without its last word, its auxiliaries); the last word is the distance of the next."""
    parts = [head + struct.pack("<I", (len(head) + 4 + len(more)) if i + 1 < len(entries) else 0) + more
             for i, (head, more) in enumerate(entries)]  # fmt: skip
    return b"".join(parts)


def elf(
    *,
    needed: Sequence[str] = (),
    soname: str | None = None,
    needs: Mapping[str, Sequence[str]] | None = None,
    defines: Sequence[str] = (),
    undefined: Sequence[str] = (),
    exports: Sequence[str] = (),
    sections: Mapping[str, bytes] | None = None,
    machine: int = 62,
    stripped: bool = False,
) -> bytes:
    """A shared library for 64-bit Linux without code: what a loader reads before it maps any."""
    strings, needs, sections = Strings(), needs or {}, dict(sections or {})
    symbols = bytes(24)
    for name, section in [*((name, 0) for name in undefined), *((name, 1) for name in exports)]:
        symbols += struct.pack("<IBBHQQ", strings(name), 0x12, 0, section, BASE, 0)
    hashes = [gnu_hash(name) & ~1 for name in exports]
    first = 1 + len(undefined)
    chain = [value | (i + 1 == len(hashes)) for i, value in enumerate(hashes)]
    table = struct.pack("<IIIIQI", 1, first, 1, 0, 2**64 - 1, first if hashes else 0) + struct.pack(
        f"<{len(chain)}I", *chain
    )
    verneed = linked([
        (
            struct.pack("<HHII", 1, len(names), strings(library), 16),
            b"".join(
                struct.pack("<IHHII", 0, 0, 2, strings(name), 16 if i + 1 < len(names) else 0)
                for i, name in enumerate(names)
            ),
        )
        for library, names in needs.items()
    ])  # fmt: skip
    verdef = linked([
        (struct.pack("<HHHHII", 1, 0, i + 1, 1, 0, 20), struct.pack("<II", strings(name), 0))
        for i, name in enumerate(defines)
    ])  # fmt: skip
    dynamic = [(1, strings(name)) for name in needed] + ([(14, strings(soname))] if soname else [])

    parts, place, at = [], 64 + 2 * 56, {}
    for name, data in {
        "strings": strings.data,
        "symbols": symbols,
        "hash": table,
        "need": verneed,
        "def": verdef,
    }.items():
        at[name] = BASE + place
        data += bytes(-len(data) % 8)
        parts.append(data)
        place += len(data)
    dynamic += [(5, at["strings"]), (10, len(strings.data)), (6, at["symbols"]), (0x6FFFFEF5, at["hash"])]
    dynamic += [(0x6FFFFFFE, at["need"]), (0x6FFFFFFF, len(needs))] if needs else []
    dynamic += [(0x6FFFFFFC, at["def"]), (0x6FFFFFFD, len(defines))] if defines else []
    block = b"".join(struct.pack("<QQ", *pair) for pair in [*dynamic, (0, 0)])
    dynamic_at, place = place, place + len(block)
    parts.append(block)

    names, headers = Strings(), [bytes(64)]
    for name, data in sections.items():
        place += (gap := -place % 8)
        parts.append(bytes(gap) + data)
        headers.append(struct.pack("<IIQQQQIIQQ", names(name), 1, 2, BASE + place, place, len(data), 0, 0, 8, 0))
        place += len(data)
    own = names(".shstrtab")
    headers.append(struct.pack("<IIQQQQIIQQ", own, 3, 0, 0, place, len(names.data), 0, 0, 1, 0))
    parts.append(names.data)
    loaded, place = place, place + len(names.data)
    count = 0 if stripped else len(headers)
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    table = (0 if stripped else place, 0, 64, 56, 2, 64, count, max(count - 1, 0))
    start = struct.pack("<HHIQQQIHHHHHH", 3, machine, 1, 0, 64, *table)
    program = struct.pack("<IIQQQQQQ", 1, 5, 0, BASE, BASE, loaded, loaded, 0x1000)
    program += struct.pack("<IIQQQQQQ", 2, 6, dynamic_at, BASE + dynamic_at, 0, len(block), len(block), 8)
    return ident + start + program + b"".join(parts) + (b"" if stripped else b"".join(headers))


def elf32() -> bytes:
    return b"\x7fELF\x01\x01\x01" + bytes(9) + struct.pack("<HHI", 3, 3, 1) + bytes(28)


def fatbin(*targets: str) -> bytes:
    """A container with an entry for each of `targets`: "sm_80", "sm_90a", "compute_90"."""
    entries = b""
    for target in targets:
        kind, _, number = target.partition("_")
        suffix = number[-1] if number[-1].isalpha() else ""
        code = b"code" * 4
        architecture = int(number.removesuffix(suffix))
        entries += struct.pack("<HHIQIIHHIIIQQQ", CUBIN if kind == "sm" else PTX, 0x101, 64, len(code), 0, 0, 0, 9,
                               architecture, 0, 0, FLAGS[suffix], 0, 0) + code  # fmt: skip
    return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(entries)) + entries


def bundle(*triples: str) -> bytes:
    """AMD's: a clang offload bundle."""
    table = b"".join(struct.pack("<QQQ", 0, 0, len(triple)) + triple.encode() for triple in triples)
    return b"__CLANG_OFFLOAD_BUNDLE__" + struct.pack("<Q", len(triples)) + table


def pe(*dlls: str, machine: int = 0x8664, code: bytes = b"") -> bytes:
    """A 64-bit Windows library that imports from `dlls`; `code` is its device code."""
    head, address, raw = 0x40, 0x1000, 0x400
    table, names = b"", b""
    for dll in dlls:
        table += struct.pack("<IIIII", 0, 0, 0, address + 20 * (len(dlls) + 1) + len(names), 0)
        names += dll.encode() + b"\0"
    body = table + bytes(20) + names
    optional = struct.pack("<H106xI", 0x20B, 16) + struct.pack("<IIII", 0, 0, address, len(body)) + bytes(14 * 8)
    coff = struct.pack("<4sHHIIIHH", b"PE\0\0", machine, 2, 0, 0, 0, len(optional), 0x2022)
    sections = struct.pack("<8sIIIIIIHHI", b".rdata", len(body), address, len(body), raw, 0, 0, 0, 0, 0)
    sections += struct.pack("<8sIIIIIIHHI", b".nv_fatb", len(code), 0x90000, len(code), raw + len(body), 0, 0, 0, 0, 0)
    start = b"MZ" + bytes(58) + struct.pack("<I", head) + coff + optional + sections
    return start + bytes(raw - len(start)) + body + code


def wheel(folder: Path, name: str, files: Mapping[str, bytes | str], requires: Sequence[str] = ()) -> Path:
    """A wheel that pip installs. `name` is its whole file name."""
    project, version, *_ = name.split("-")
    info = f"{project}-{version}.dist-info"
    tag = "-".join(name.removesuffix(".whl").split("-")[-3:])
    metadata = f"Metadata-Version: 2.1\nName: {project}\nVersion: {version}\n"
    metadata += "".join(f"Requires-Dist: {line}\n" for line in requires)
    entries = {name: data.encode() if isinstance(data, str) else data for name, data in files.items()}
    entries[f"{info}/METADATA"] = metadata.encode()
    entries[f"{info}/WHEEL"] = f"Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: {tag}\n".encode()
    record = ""
    for file, data in entries.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        record += f"{file},sha256={digest},{len(data)}\n"
    entries[f"{info}/RECORD"] = (record + f"{info}/RECORD,,\n").encode()
    with zipfile.ZipFile(folder / name, "w", zipfile.ZIP_DEFLATED) as archive:
        for file, data in entries.items():
            archive.writestr(file, data)
    return folder / name
