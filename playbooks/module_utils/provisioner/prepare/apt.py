"""Package sources and packages, by apt, which also verifies all signatures."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import time
from pathlib import Path
from typing import Iterable, Sequence

from ansible.module_utils.provisioner.base.command import CommandResult, run
from ansible.module_utils.provisioner.base.files import read, write_atomic
from ansible.module_utils.provisioner.base.problem import ProblemError
from ansible.module_utils.provisioner.base.progress import Report
from ansible.module_utils.provisioner.prepare.distribution import Source

# Locks of the package lists, of dpkg, and of the download folder.
LOCKS = tuple(map(Path, ("/var/lib/apt/lists/lock", "/var/lib/dpkg/lock-frontend", "/var/cache/apt/archives/lock")))
ARCHIVES = Path("/var/cache/apt/archives")
LOCK_SECONDS = 600  # unattended-upgrades on a fresh machine takes minutes
QUERY_SECONDS = 60
UPGRADED = re.compile(r"^Inst (\S+) \[", re.MULTILINE)  # apt-get(8), --simulate: the old version is in brackets
KEEP_FILES = ("-o", "Dpkg::Options::=--force-confdef", "-o", "Dpkg::Options::=--force-confold")


def missing_packages(packages: Iterable[str]) -> list[str]:
    """Return the packages that are not installed."""
    return [name for name in packages if not is_installed(name)]


def is_installed(package: str) -> bool:
    """Return whether dpkg has a package completely installed."""
    ran = _run(["dpkg-query", "-W", "-f", "${db:Status-Status}", package], QUERY_SECONDS)
    return ran.code == 0 and ran.out == "installed"


def has_source(source: Source) -> bool:
    """Return whether a package source and its key are written as they should be."""
    return read(source.path) == source.text and read(source.keyring) == source.key


def use_first_source(sources: Sequence[Source], packages: Sequence[str], seconds: float, report: Report) -> None:
    """Write the first package source from which apt gets these packages, and download them.

    A mirror may be weeks old, or have a package in its lists only. Raises ProblemError `source_refused` with the reason
    for each source; none is left on the node then.
    """
    refused: list[ProblemError] = []
    for source in sources:
        report(f"asking {source.uri} for {', '.join(packages)}")
        try:
            _write_source(source, packages, seconds, report)
        except ProblemError as fault:
            if fault.problem["code"] != "source_refused":
                raise
            refused.append(fault)
            report(str(fault))
        else:
            return
    raise _all_refused(refused)


def _write_source(source: Source, packages: Sequence[str], seconds: float, report: Report) -> None:
    """Write a package source with its key, read its lists, and download the packages from it.

    Raises ProblemError `source_refused` when apt cannot do so; then the source is removed again.
    """
    for folder in (source.keyring.parent, ARCHIVES):
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    write_atomic(source.keyring, source.key, 0o644)
    write_atomic(source.path, source.text, 0o644)
    wait_for_locks(report)
    alone = ["-o", f"Dir::Etc::SourceList={source.path}", "-o", "Dir::Etc::SourceParts=/dev/null"]
    ran = _apt(["update", *alone, "-o", "APT::Get::List-Cleanup=0", "-o", "APT::Update::Error-Mode=any"], seconds)
    if ran.code == 0 and (missing := missing_packages(packages)):
        # The installation finds the files there, and verifies them again.
        ran = _apt(["download", *alone, *missing], seconds, within=ARCHIVES)
    if ran.code != 0:
        source.path.unlink()
        raise _source_refused(source, ran.message)


def install(packages: Sequence[str], untouched: frozenset[str], seconds: float, report: Report) -> None:
    """Install packages. `untouched` are packages that must not be upgraded by it.

    Raises ProblemError with the message of apt.
    """
    require_apt()
    wait_for_locks(report)
    report("reading the package lists")
    lists = _apt(["update"], seconds)
    trial = _apt(["install", "--simulate", *packages], seconds)
    if trial.code != 0:
        raise _no_packages(packages, trial, lists)
    if replaced := sorted(untouched & set(UPGRADED.findall(trial.out))):
        raise _would_replace(packages, replaced)
    wait_for_locks(report)
    report(f"downloading {', '.join(packages)}")
    fetched = _apt(["install", "--download-only", *packages], seconds)
    if fetched.code != 0:
        raise _not_fetched(packages, fetched)
    wait_for_locks(report)
    report(f"installing {', '.join(packages)}")
    ran = _apt(["install", "--no-download", *packages], seconds)
    if ran.code != 0:
        raise _not_installed(packages, ran)


def require_apt() -> None:
    """Raise ProblemError `no_apt` on a node without apt."""
    if not shutil.which("apt-get"):
        raise ProblemError(
            "no_apt",
            "the node has no apt-get",
            "`provision prepare` installs packages by apt, the package manager of Debian and Ubuntu",
            "install Docker Engine with compose v2 by hand; all other commands work",
        )


def wait_for_locks(report: Report, seconds: float = LOCK_SECONDS) -> None:
    """Wait until no other program changes packages. Raises ProblemError `apt_busy` after `seconds`."""
    deadline = time.monotonic() + seconds
    while held := [path for path in LOCKS if _is_locked(path)]:
        if time.monotonic() > deadline:
            raise _apt_busy(held[0], seconds)
        report("waiting for another package manager to finish")
        time.sleep(1)


def _is_locked(path: Path) -> bool:
    if not path.exists():
        return False
    with path.open("r+") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # apt uses this kind of lock
        except OSError:
            return True
        return False


def _apt(words: Sequence[str], seconds: float, within: Path = Path("/")) -> CommandResult:
    always = ["-q", "-y", "--no-install-recommends", "-o", f"DPkg::Lock::Timeout={LOCK_SECONDS}", *KEEP_FILES]
    return _run(["env", f"--chdir={within}", "apt-get", *always, *words], seconds)


def _run(argv: Sequence[str], seconds: float) -> CommandResult:
    # debconf must not ask questions, and needrestart must not restart the engine.
    quiet = {"DEBIAN_FRONTEND": "noninteractive", "NEEDRESTART_SUSPEND": "1", "LC_ALL": "C.UTF-8"}
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    kept = {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy") or name == "HOME"}
    return run(argv, seconds, env={**kept, **quiet, "PATH": path})


def _source_refused(source: Source, message: str) -> ProblemError:
    return ProblemError(
        "source_refused",
        f"apt cannot use {source.uri} ({source.suite}): {message}",
        "the node does not reach the source, it is not signed by the key in lab.yml, or it lacks the packages; it was"
        " removed again",
        f"try it on the node: curl -I {source.uri}; and check prepare.{source.name} in lab.yml",
    )


def _all_refused(refused: Sequence[ProblemError]) -> ProblemError:
    """Return the problem of the only source, or one that names what is wrong with each."""
    if len(refused) == 1:
        return refused[0]
    first = refused[0].problem
    return ProblemError(first["code"], "; ".join(map(str, refused)), first["why"], first["fix"])


def _no_packages(packages: Sequence[str], trial: CommandResult, lists: CommandResult) -> ProblemError:
    of_lists = "" if lists.code == 0 else f"; reading the package lists failed: {lists.message}"
    return ProblemError(
        "no_package",
        f"apt cannot install {', '.join(packages)}: {trial.message}{of_lists}",
        "the node's package sources do not have it or cannot be reached, or it conflicts with another package",
        "check on the node: apt-get update; if the node has no such source, add a mirror to lab.yml under prepare",
    )


def _would_replace(packages: Sequence[str], replaced: Sequence[str]) -> ProblemError:
    return ProblemError(
        "engine_would_restart",
        f"installing {', '.join(packages)} would replace {', '.join(replaced)}",
        "an upgrade of the engine restarts it, and containers run on this node",
        "when the node is idle: provision prepare LAB --restart-engine",
    )


def _not_fetched(packages: Sequence[str], ran: CommandResult) -> ProblemError:
    return ProblemError(
        "not_fetched",
        f"the node could not download {', '.join(packages)}: {ran.message}",
        "nothing was installed",
        "check on the node that it reaches its package sources: apt-get update",
    )


def _not_installed(packages: Sequence[str], ran: CommandResult) -> ProblemError:
    return ProblemError(
        "not_installed",
        f"{', '.join(packages)} could not be installed: {ran.message}",
        "dpkg may have been interrupted",
        "on the node: dpkg --configure -a, then apt-get install --fix-broken; then run the command again",
    )


def _apt_busy(path: Path, seconds: float) -> ProblemError:
    return ProblemError(
        "apt_busy",
        f"another program has held {path} for {seconds:.0f} s",
        "only one program may change packages at a time",
        f"check on the node which program: fuser -v {path}; unattended-upgrades ends by itself",
    )
