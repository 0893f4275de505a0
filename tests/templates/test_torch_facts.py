"""torch_facts.py reads what torch was compiled for: from torch itself, from its library's list, or from its code."""

import json
import struct
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from provisioner.adapters.engine.base_image import parse_measurement
from provisioner.adapters.resources import templates

SCRIPT = templates() / "torch_facts.py"
VERSION = "from typing import Optional\n__version__ = '2.8.0+cu128'\ncuda: Optional[str] = '12.8'\nhip = None\n"
IMPORTABLE = """
from types import SimpleNamespace
from torch.version import __version__, cuda
from torch import version
_C = SimpleNamespace(_cuda_getArchFlags=lambda: "sm_80 sm_90a compute_90")
print("a library that prints")
"""


def code(*pieces: tuple[int, int]) -> bytes:
    """Return a fat binary with pieces of code: 1 for PTX or 2 for machine code, and the architecture."""
    entries = [
        struct.pack("<HHIQ", kind, 0x101, 64, 8) + bytes(12) + struct.pack("<I", arch) + bytes(32 + 8)
        for kind, arch in pieces
    ]
    body = b"".join(entries)
    return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(body)) + body


def measure(folder: Path, files: Mapping[str, str | bytes], root: Path | None = None) -> dict[str, Any]:
    """Run the script with a torch of these files. `root`: a folder that stands for / ."""
    for name, content in files.items():
        path = folder / "torch" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    script = SCRIPT.read_text(encoding="utf-8").replace('Path("/")', f"Path({str(root or folder)!r})")
    environment = {} if root else {"PYTHONPATH": str(folder)}
    done = subprocess.run(
        [sys.executable, "-S", "-c", script],
        capture_output=True,
        text=True,
        check=True,
        cwd=folder.parent,
        env=environment,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


LIST = b"\0sm_80\0.sm_75 \0sm_75 sm_80 sm_86 compute_86\0-gencode arch=compute_75,code=sm_75\0"


@pytest.mark.parametrize(
    ("files", "how", "targets"),
    [
        ({"__init__.py": IMPORTABLE}, "torch", "sm_80 sm_90a compute_90"),
        ({"lib/libtorch_python.so": LIST}, "library", "sm_75 sm_80 sm_86 compute_86"),
        ({"lib/libtorch_cuda.so": b"\0sm_89\0"}, "library", "sm_89"),
        # Two lists of the same length: neither is believed.
        ({"lib/libtorch_python.so": b"\0sm_75 sm_80\0\0sm_80 sm_90\0"}, "code", ""),
        (
            {
                "lib/libtorch_python.so": b"",
                "lib/libtorch_cuda.so": b"x" * 7
                + code((2, 80), (2, 90), (1, 90))
                + b"x"
                + code((2, 80), (2, 90), (1, 90)),
                "lib/libtorch_cuda_linalg.so": code((2, 80), (2, 90), (1, 90), (2, 103)) * 2,
            },
            "code",
            "sm_80 sm_90a compute_90a",
        ),
        ({"lib/libtorch_cuda.so": code((2, 80))[:40]}, "code", ""),
        ({"lib/libtorch_cuda.so": struct.pack("<IHHQ", 0xBA55ED50, 1, 16, 1 << 63)}, "code", ""),
        # It would be imported, and stops there.
        (
            {"__init__.py": "raise ImportError('libcuda.so.1')", "lib/libtorch_python.so": LIST},
            "library",
            "sm_75 sm_80 sm_86 compute_86",
        ),
    ],
)
def test_where_targets_are_read(files: dict[str, str | bytes], how: str, targets: str, tmp_path: Path) -> None:
    found = measure(tmp_path / "site", {"version.py": VERSION, "__init__.py": "raise ImportError", **files})
    assert found == {"torch": "2.8.0+cu128", "cuda": "12.8", "targets": targets.split(), "how": how}


def test_a_build_without_cuda_has_no_targets(tmp_path: Path) -> None:
    found = measure(tmp_path / "site", {"version.py": "__version__ = '2.8.0+rocm6.4'\ncuda = None\nhip = '6.4'\n"})
    assert found == {"torch": "2.8.0+rocm6.4", "cuda": None, "targets": [], "how": "library"}


def test_an_image_without_torch_says_so(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    assert measure(tmp_path / "site", {}) == {"unmeasured": "it has no torch"}
    # The folder in which programs start is no place of packages.
    assert measure(tmp_path, {"version.py": VERSION}, root=tmp_path / "site") == {"unmeasured": "it has no torch"}
    assert "names no version" in measure(tmp_path / "site", {"version.py": ""})["unmeasured"]


def test_torch_of_another_python_is_found_where_images_have_it(tmp_path: Path) -> None:
    site = tmp_path / "root/opt/conda/lib/python3.8/site-packages"
    files: dict[str, str | bytes] = {"version.py": VERSION, "lib/libtorch_python.so": LIST}
    assert measure(site, files, root=tmp_path / "root")["how"] == "library"
    again = tmp_path / "root/opt/venv/lib/python3.10/site-packages"
    assert measure(again, files, root=tmp_path / "root")["unmeasured"].startswith("several environments have torch")


GOOD = {"torch": "2.8.0", "cuda": "12.8", "targets": ["sm_80"], "how": "library"}


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("", "printed ''"),
        ("[]", "printed"),
        ("null", "printed"),
        ("[" * 100_000, "printed"),
        ("9" * 5000, "printed"),
        (json.dumps(GOOD | {"targets": []}), "no target was found"),
        (json.dumps(GOOD | {"targets": ["sm_80"] * 65}), "printed"),
        (json.dumps(GOOD | {"targets": ["sm_80; id"]}), "printed"),
        (json.dumps(GOOD | {"targets": "sm_80"}), "printed"),
        (json.dumps(GOOD | {"torch": "2.8.0\n"}), "printed"),
        (json.dumps(GOOD | {"torch": "2" * 101}), "printed"),
        (json.dumps(GOOD | {"cuda": "12.8 "}), "printed"),
        (json.dumps(GOOD | {"how": "guess"}), "printed"),
        (json.dumps({"unmeasured": "x" * 9999}), "xxx"),
    ],
)
def test_what_is_no_measurement_is_unmeasured(output: str, reason: str) -> None:
    found = parse_measurement(output)
    assert found.measured is None
    assert reason in found.reason
    assert len(found.reason) <= 500


def test_a_measurement_is_read() -> None:
    found = parse_measurement(json.dumps(GOOD))
    assert (str(found.measured), found.how) == ("torch 2.8.0 built with CUDA 12.8 for sm_80", "library")
