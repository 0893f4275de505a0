# ruff: noqa: INP001  (runs in a container of an image that is measured)
"""Print what the torch of an image was compiled for, as one line of JSON. It runs on Python 3.7 and later."""

from __future__ import annotations

import importlib.util
import json
import mmap
import re
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

# Where torch lies in images whose python3 does not have it.
OTHERS = (
    "opt/conda/lib/python3*/site-packages/torch",
    "opt/conda/envs/*/lib/python3*/site-packages/torch",
    "opt/*/lib/python3*/site-packages/torch",
    "root/*conda3/lib/python3*/site-packages/torch",
    "usr/local/lib/python3*/*-packages/torch",
    "usr/lib/python3/dist-packages/torch",
    "*venv/lib/python3*/site-packages/torch",
)
ROOT = Path("/")
IMPORT_SECONDS = 120
# The folder that programs of the image start in may hold another `torch`, such as its sources.
ASK = """
import json, sys
sys.path[:] = [path for path in sys.path if path]
import torch
flags = torch._C._cuda_getArchFlags() if torch.version.cuda else ""
print(json.dumps(["measured", torch.__version__, torch.version.cuda, flags]))
"""
# The flags of torch's build, as its library has them: "sm_75 sm_80 compute_120".
TARGET = rb"(?:sm|compute)_\d{2,3}[af]?"
FLAGS = re.compile(rb"\0(" + TARGET + rb"(?:[ ;]" + TARGET + rb"){0,63})\0")
LIBRARIES = ("libtorch_python.so", "libtorch_cuda.so", "libtorch_cuda_cu.so")
FATBIN = struct.pack("<I", 0xBA55ED50)
KINDS = {1: "compute", 2: "sm"}
ARCH_SPECIFIC = 90  # from here on there is machine code that runs on exactly its own architecture, such as sm_90a


def main() -> None:
    """Print the measurement, or why there is none (`unmeasured`). The names are the fields of Measurement."""
    try:
        found = measure()
    except (OSError, ValueError, ImportError) as error:
        found = {"unmeasured": f"{type(error).__name__}: {error}"}
    print(json.dumps(found))  # noqa: T201


def measure() -> dict[str, Any]:
    """Return versions and targets as torch itself says them, else from its files."""
    sys.path[:] = [path for path in sys.path if path]
    own = find_own()
    folders = [own] if own else sorted({path.resolve() for each in OTHERS for path in ROOT.glob(each)})
    if len(folders) != 1:
        names = ", ".join(map(str, folders))
        return {"unmeasured": f"several environments have torch: {names}" if names else "it has no torch"}
    return (ask_torch() if own else None) or read_files(folders[0])


def find_own() -> Path | None:
    """Return the folder of the torch that this Python imports, without importing it."""
    found = importlib.util.find_spec("torch")
    folders = map(Path, (found and found.submodule_search_locations) or ())
    return next((folder for folder in folders if (folder / "version.py").is_file()), None)


def ask_torch() -> dict[str, Any] | None:
    """Return what torch says of itself; None where it cannot be imported."""
    try:
        done = subprocess.run([sys.executable, "-c", ASK], capture_output=True, timeout=IMPORT_SECONDS, check=True)
        mark, version, cuda, flags = json.loads(done.stdout.splitlines()[-1].decode())
    except (OSError, subprocess.SubprocessError, ValueError, TypeError, IndexError):
        return None
    is_whole = mark == "measured" and bool(flags) == bool(cuda)
    return {"torch": version, "cuda": cuda, "targets": split(flags or ""), "how": "torch"} if is_whole else None


def read_files(folder: Path) -> dict[str, Any]:
    """Return versions and targets from the files of torch."""
    text = (folder / "version.py").read_text(encoding="utf-8", errors="replace")
    version, cuda = find_value("__version__", text), find_value("cuda", text)
    if version is None:
        return {"unmeasured": f"{folder}/version.py names no version"}
    how, targets = read_targets(folder / "lib") if cuda else ("library", [])
    return {"torch": version, "cuda": cuda, "targets": targets, "how": how}


def find_value(name: str, text: str) -> str | None:
    """Return the text that a line of torch/version.py gives to a name; None if it gives none."""
    found = re.search(rf"""^{name}\s*(?::[^=\n]*)?=\s*['"]([^'"\n]+)['"]""", text, re.MULTILINE)
    return found and found.group(1)


def read_targets(folder: Path) -> tuple[str, list[str]]:
    """Return where in the libraries of torch the targets were found, and the targets."""
    for name in LIBRARIES:
        flags = longest({match.group(1).decode() for match in search(folder / name, FLAGS.finditer)})
        if flags:
            return "library", flags
    code = Counter(target for path in sorted(folder.glob("libtorch_cuda*.so")) for target in search(path, targets_in))
    return "code", of_whole_library(code)


def longest(found: Iterable[str]) -> list[str]:
    """Return the targets of the longest flags; none where two are as long."""
    flags = sorted(map(split, found), key=len)
    return flags[-1] if flags and len(flags[-1]) > max(map(len, flags[:-1]), default=0) else []


def search(path: Path, find: Callable[[Any], Iterable[Any]]) -> Iterator[Any]:
    """Yield what is found in a file, which is mapped and not read into memory; nothing where there is none."""
    if not path.is_file() or not path.stat().st_size:
        return
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as library:
        yield from find(library)


def targets_in(library: Any) -> Iterator[str]:
    """Yield the target of each piece of code in a library, from the headers of its fat binaries.

    A fat binary starts with a magic number, its version and header size, and the size of its content. An entry starts
    with its kind (1: PTX, 2: machine code), the size of its header and its own size; byte 28 is its architecture.
    """
    at = library.find(FATBIN)
    while 0 <= at <= len(library) - 16:
        header, size = struct.unpack_from("<HQ", library, at + 6)
        entry, end = at + header, min(at + header + size, len(library))
        while entry + 64 <= end:
            kind, _, own_header, own_size = struct.unpack_from("<HHIQ", library, entry)
            if kind not in KINDS or not own_header:
                break
            number = struct.unpack_from("<I", library, entry + 28)[0]
            # The header does not name the kind of its target, so that with the fewest cards is assumed.
            yield f"{KINDS[kind]}_{number}{'a' if number >= ARCH_SPECIFIC else ''}"
            entry += own_header + own_size
        at = library.find(FATBIN, at + 4)


def of_whole_library(code: Counter[str]) -> list[str]:
    """Return the targets of the whole library, without those of single kernels."""
    most = max(code.values(), default=0)
    found = (target for target, count in code.items() if 2 * count > most)
    return sorted(found, key=lambda target: (target[0] != "s", int(re.sub(r"\D", "", target))))


def split(flags: str) -> list[str]:
    """Return the targets of a line of flags."""
    return flags.replace(";", " ").split()


if __name__ == "__main__":
    main()
