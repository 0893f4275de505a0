"""Builders of wheels from text files."""

import base64
import hashlib
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path


def a_wheel(  # noqa: PLR0913
    folder: Path,
    name: str,
    version: str,
    files: Mapping[str, str] | None = None,
    *,
    needs: Iterable[str] = (),
    tag: str = "py3-none-any",
) -> Path:
    """Write a wheel; `files` maps paths in it to text, by default one module with the name of the wheel."""
    path, info = folder / f"{name}-{version}-{tag}.whl", f"{name}-{version}.dist-info"
    content = dict(files or {f"{name}.py": f"version = '{version}'\n"})
    content[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    content[f"{info}/METADATA"] += "".join(f"Requires-Dist: {need}\n" for need in needs)
    content[f"{info}/WHEEL"] = f"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: {tag}\n"
    with zipfile.ZipFile(path, "w") as wheel:
        for inner, text in content.items():
            wheel.writestr(inner, text)
        wheel.writestr(f"{info}/RECORD", "".join(_recorded(inner, text) for inner, text in content.items()))
    return path


def locked(wheel: Path) -> str:
    """Return the line of a requirements file that accepts only this wheel."""
    name, version = wheel.name.split("-")[:2]
    return f"{name}=={version} --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\n"


def _recorded(path: str, text: str) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=")
    return f"{path},sha256={digest},{len(text.encode())}\n"


def install_wheels(folder: Path, *names: str, python: str = "") -> Path:
    """Install packages from the index of this machine into `folder`, for another Python (3.13) where one is named."""
    uv = Path(sys.executable).with_name("uv")
    where = ("--target", str(folder), *(("--python-version", python) if python else ()))
    command = [uv, "pip", "install", "--quiet", "--only-binary", ":all:", "--python", sys.executable, *where, *names]
    subprocess.run(command, check=True)
    return folder
