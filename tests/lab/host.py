"""This machine: cache directory, locks, and how the bed runs programs."""

import fcntl
import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent

# A program that the bed runs → its Debian package.
PACKAGES = {
    "dockerd": "docker.io",
    "docker-init": "tini",
    "debootstrap": "debootstrap",
    "iptables": "iptables",
    "ip": "iproute2",
    "ssh": "openssh-client",
    "openssl": "openssl",
    "gcc": "gcc",
    "systemd-analyze": "systemd",
    "gpg": "gnupg",
}


class BedError(RuntimeError):
    """The bed itself failed, not the code that is tested on it."""


def cache_dir() -> Path:
    return Path(os.environ.get("LAB_CACHE", "/var/cache/provisioner-testbed"))


def run(
    *command: str | Path,
    env: Mapping[str, str] | None = None,
    stdin: str | None = None,
    check: bool = True,
    cwd: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end; raise BedError with its stderr if it failed and `check` is set."""
    argv = [str(word) for word in command]
    done = subprocess.run(argv, env=env, input=stdin, capture_output=True, text=True, check=False, cwd=cwd)
    if check and done.returncode:
        raise BedError(
            f"{' '.join(argv)}\nended with {done.returncode}: {(done.stderr or done.stdout).strip()[-2000:]}"
        )
    return done


def require_root() -> None:
    if os.geteuid() != 0:
        raise BedError("the test bed starts a Docker Engine and builds root file systems: run it as root")


def install_missing_programs() -> None:
    """Install the packages of missing programs with apt."""
    packages = [package for program, package in PACKAGES.items() if not shutil.which(program)]
    if not Path("/usr/include/stdio.h").exists():
        packages.append("libc6-dev")  # gcc alone brings no C library to compile against
    if packages:
        _apt_install(packages)
    # Part of docker.io up to bookworm, a separate package since.
    if not shutil.which("docker"):
        _apt_install(["docker-cli"])


def program(name: str, package: str) -> str:
    """Return the path of a program; install its Debian package if it is missing."""
    _allow_apt()
    if not shutil.which(name):
        _apt_install([package])
    return shutil.which(name) or name


def registry_program() -> Path:
    """Return the path of the distribution registry, unpacked in the cache: installed, it would run as a service."""
    folder = cache_dir() / "docker-registry"
    program = folder / "usr/bin/docker-registry"
    _allow_apt()
    with locked("apt"):
        if not program.exists():
            folder.mkdir(parents=True, exist_ok=True)
            run("apt-get", "-q", "update")
            run("apt-get", "-q", "download", "docker-registry", cwd=folder)
            for package in folder.glob("*.deb"):
                run("dpkg", "-x", package, folder)
                package.unlink()
    return program


def _apt_install(packages: Sequence[str]) -> None:
    _allow_apt()
    # RUNLEVEL=1: a freshly installed engine must not start as a service of this machine.
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    with locked("apt"):  # apt-get fails while another one runs, and test workers run in parallel
        run("apt-get", "-q", "update", env=quiet)
        run("apt-get", "-q", "install", "-y", "--no-install-recommends", *packages, env=quiet)


def _allow_apt() -> None:
    if os.environ.get("LAB") == "0":
        raise BedError("LAB=0 leaves out what needs root: mark the test with `lab`")


def content_hash(paths: Iterable[Path], *extra: str) -> str:
    """Return 16 hex digits that change with the files below `paths` and with `extra`."""
    digest = hashlib.sha256("\0".join(extra).encode())
    for path in paths:
        for file in sorted(_files(path)):
            digest.update(f"\0{file.relative_to(path.parent)}\0{file.stat().st_mode:o}\0".encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
    else:
        yield from (file for file in path.rglob("*") if file.is_file() and "__pycache__" not in file.parts)


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Hold a lock of the cache, which all test runs on a machine share."""
    folder = cache_dir() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / name).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
