"""This machine: where the bed keeps its things, and how it runs other programs."""

import fcntl
import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent

# A program that the bed runs → the Debian package that brings it.
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
    """The bed itself could not do its work: never a fault of what is tested on it."""


def cache_dir() -> Path:
    return Path(os.environ.get("LAB_CACHE", "/var/cache/provisioner-testbed"))


def run(
    *command: str | Path,
    env: Mapping[str, str] | None = None,
    stdin: str | None = None,
    check: bool = True,
    cwd: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    """Runs a program to its end; raises BedError with what it wrote to stderr where it failed and `check` is set."""
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
    """Installs, through apt, the packages of the programs that are not there. Nothing where all are."""
    packages = [package for program, package in PACKAGES.items() if not shutil.which(program)]
    if not Path("/usr/include/stdio.h").exists():
        packages.append("libc6-dev")  # gcc alone brings no C library to compile against
    if packages:
        _apt_install(packages)
    # Part of docker.io up to bookworm, a package of its own since.
    if not shutil.which("docker"):
        _apt_install(["docker-cli"])


def program(name: str, package: str) -> str:
    """Where a program is, installed from its Debian package where it is not there yet."""
    if not shutil.which(name):
        _apt_install([package])
    return shutil.which(name) or name


def registry_program() -> Path:
    """The distribution project's registry, unpacked beside the machine: installed, it would run as a service."""
    folder = cache_dir() / "docker-registry"
    program = folder / "usr/bin/docker-registry"
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
    # RUNLEVEL=1: a freshly installed engine must not start as a service of this machine.
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    with locked("apt"):  # by itself it does not wait for another of its kind, and tests run on every processor
        run("apt-get", "-q", "update", env=quiet)
        run("apt-get", "-q", "install", "-y", "--no-install-recommends", *packages, env=quiet)


def content_hash(paths: Iterable[Path], *extra: str) -> str:
    """16 hex digits that change whenever a file below `paths` or one of `extra` does."""
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
    """Keeps other processes out: two test runs on one machine share the cache."""
    folder = cache_dir() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / name).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
