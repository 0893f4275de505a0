"""Which architectures the wheels of torch really hold, held against the compatibility data. Run by hand:

    python -m bench.wheel_arches 2.8.0 2.11.0 2.15.0

Each wheel is downloaded with pip and its own configuration (0.5 to 1 GB), never installed, and deleted afterwards.
What was found is in bench/wheel_arches.md.
"""

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from mmap import ACCESS_READ, mmap
from pathlib import Path
from struct import unpack_from
from tempfile import TemporaryDirectory
from zipfile import ZipFile

from provisioner.adapters.lab.compatibility_data import load
from provisioner.domain.values.version import CudaVersion, DottedVersion

_PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64", "manylinux1_x86_64")
_PYTHON = "3.11"
_BLOCK = 1 << 24
_FATBIN = (0xBA55ED50).to_bytes(4, "little")
_KINDS = {1: "compute", 2: "sm"}
# One string of torch's build flags: "sm_75 sm_80 … compute_120".
_FLAGS = re.compile(rb"(?:(?:sm|compute)_\d+[af]?[ ;]){2,}(?:sm|compute)_\d+[af]?")


def main(versions: list[str]) -> None:
    print("| wheel | CUDA | torch's own list | PTX | code in libtorch_cuda.so | data agrees |")
    print("|:--|:--|:--|:--|:--|:--|")
    for version in versions:
        with TemporaryDirectory() as folder:
            print(_row(version, _downloaded(version, Path(folder))), flush=True)


def _downloaded(version: str, folder: Path) -> Path:
    choice = ["--only-binary", ":all:", "--python-version", _PYTHON, *(f"--platform={name}" for name in _PLATFORMS)]
    words = [
        "download",
        "--quiet",
        "--no-deps",
        *choice,
        "--dest",
        str(folder),
        f"torch==={version}",
    ]  # no local version such as +cpu
    subprocess.run([sys.executable, "-m", "pip", *words], check=True)
    return next(folder.glob("*.whl"))


def _row(version: str, wheel: Path) -> str:
    with ZipFile(wheel) as archive:
        cuda = re.search(r"cuda[^\n]*= '([\d.]+)'", archive.read("torch/version.py").decode())
        flags = next(_found(archive, "torch/lib/libtorch_python.so", _FLAGS), b"").decode()
        # Up to 1.13 the library was split in two.
        names = [name for name in archive.namelist() if re.fullmatch(r"torch/lib/libtorch_cuda(_cu|_cpp)?\.so", name)]
        entries = sum((_entries(archive, name, wheel.parent) for name in names), Counter())
    built = None if cuda is None else load().build(DottedVersion(version), CudaVersion(cuda[1]))
    listed = _numbers(flags, "sm"), _numbers(flags, "compute")
    agree = built is not None and (built.sm, built.ptx) == listed == (_whole(entries, "sm"), _whole(entries, "compute"))
    code = ", ".join(f"{kind}_{arch}: {count}" for (kind, arch), count in sorted(entries.items()))
    words = (" ".join(map(str, numbers)) or "none" for numbers in listed)
    return f"| {version} | {cuda and cuda[1]} | {' | '.join(words)} | {code} | {'yes' if agree else 'NO'} |"


def _whole(entries: Counter[tuple[str, int]], kind: str) -> tuple[int, ...]:
    """The architectures that the whole library is compiled for: single kernels are for others besides."""
    most = max(entries.values(), default=0)
    return tuple(sorted(arch for (own, arch), count in entries.items() if own == kind and 2 * count > most))


def _numbers(flags: str, kind: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(rf"{kind}_(\d+)", flags))


def _entries(archive: ZipFile, name: str, folder: Path) -> Counter[tuple[str, int]]:
    """Every piece of code in a library, by kind and architecture, from the headers of its fat binaries.

    A fat binary begins with a magic number, its version and header size, and the size of what follows; each entry
    with its kind (1 is PTX, 2 machine code), its header's size, its own size, and at byte 28 its architecture.
    """
    found: Counter[tuple[str, int]] = Counter()
    with Path(archive.extract(name, folder)).open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as library:
        at = library.find(_FATBIN)
        while at >= 0:
            header, size = unpack_from("<HQ", library, at + 6)
            entry, end = at + header, at + header + size
            while entry + 64 <= min(end, len(library)):
                kind, _, own_header, own_size = unpack_from("<HHIQ", library, entry)
                if kind not in _KINDS or not own_header:
                    break
                found[_KINDS[kind], unpack_from("<I", library, entry + 28)[0]] += 1
                entry += own_header + own_size
            at = library.find(_FATBIN, at + 4)
    return found


def _found(archive: ZipFile, name: str, pattern: re.Pattern[bytes]) -> Iterator[bytes]:
    """Every match in a member, read in blocks that overlap."""
    kept = b""
    with archive.open(name) as file:
        while block := file.read(_BLOCK):
            text = kept + block
            end = 0
            for match in pattern.finditer(text):
                yield match[0]
                end = match.end()
            kept = text[max(end, len(text) - 4096) :]


if __name__ == "__main__":
    main(sys.argv[1:])
