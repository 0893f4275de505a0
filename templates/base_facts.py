# ruff: noqa: INP001  (runs in a container of the base image)
"""Print what a base image already contains, as one line of JSON."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import locale
import platform
import re
import shutil
import sys
from pathlib import Path

# What people expect on a machine (image.tools): Debian's and Ubuntu's package -> its program.
TOOLS = {
    "git": "git",
    "tmux": "tmux",
    "vim": "vim",
    "nano": "nano",
    "less": "less",
    "htop": "htop",
    "curl": "curl",
    "wget": "wget",
    "rsync": "rsync",
    "unzip": "unzip",
    "procps": "ps",
    "openssh-client": "ssh",
}
# In every login shell, whatever else the base has on PATH.
PROGRAMS = "/usr/local/bin:/usr/bin:/bin"
FILES = {
    "tzdata": "/usr/share/zoneinfo/Asia/Shanghai",
    "fonts-wqy-microhei": "/usr/share/fonts/truetype/wqy/wqy-microhei.ttc",
}
CHINESE = "zh_CN.UTF-8"
SINCE = 2  # the first major version of jupyter_server that reads its token from our configuration


def has_locale(name: str) -> bool:
    """Return whether the C library has the locale."""
    try:
        locale.setlocale(locale.LC_CTYPE, name)
    except locale.Error:
        return False
    return True


def missing_tools() -> list[str]:
    """Return the packages of the tools that the base does not have."""
    missing = [package for package, program in TOOLS.items() if shutil.which(program, path=PROGRAMS) is None]
    missing += [] if has_locale(CHINESE) else ["locales"]
    return missing + [package for package, path in FILES.items() if not Path(path).exists()]


def installed_packages() -> dict[str, str]:
    """Return the version of each package that this Python imports; of two with one name, the one that it imports."""
    packages: dict[str, str] = {}
    for found in importlib.metadata.distributions():
        if found.metadata["Name"]:
            packages.setdefault(re.sub(r"[-_.]+", "-", found.metadata["Name"]).lower(), found.version)
    if "torch" not in packages and (version := torch_version()):
        packages["torch"] = version
    return packages


def torch_version() -> str:
    """Return the version of a torch without metadata, from its own file; it is not imported, as that takes seconds."""
    found = importlib.util.find_spec("torch")
    for folder in (found and found.submodule_search_locations) or ():
        file = Path(folder) / "version.py"
        text = file.read_text(encoding="utf-8") if file.is_file() else ""
        if version := re.search(r"""^__version__\s*(?::[^=]*)?=\s*['"]([^'"]+)['"]""", text, re.MULTILINE):
            return version[1]
    return ""


def has_jupyter() -> bool:
    """Return whether JupyterLab, a new enough server and a kernel are installed and `jupyter` is on PATH."""
    try:
        server = importlib.metadata.version("jupyter_server")
        importlib.metadata.version("jupyterlab")
        importlib.metadata.version("ipykernel")
    except importlib.metadata.PackageNotFoundError:
        return False
    return shutil.which("jupyter") is not None and int(server.split(".")[0]) >= SINCE


def main() -> None:
    """Print the facts. Their names are the fields of BaseFacts."""
    facts = {
        "python": sys.executable,
        "version": platform.python_version(),
        "machine": platform.machine(),
        "glibc": platform.libc_ver()[1],
        "missing_tools": missing_tools(),
        "jupyter": has_jupyter(),
        "sshd": shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/usr/bin") is not None,
        "apt": shutil.which("apt-get") is not None,
        "packages": installed_packages(),
    }
    print(json.dumps(facts))  # noqa: T201


if __name__ == "__main__":
    main()
