"""Garbage collection of the lab's own registry: what no manifest names any more, while nobody writes to it."""

from __future__ import annotations

import re
import tempfile
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.provisioner.base.command import run
from ansible.module_utils.provisioner.base.files import read
from ansible.module_utils.provisioner.base.problem import ProblemError
from ansible.module_utils.provisioner.jobs.jobfile import Job
from ansible.module_utils.provisioner.prepare.registry import ACCOUNT, CONFIGURATION, MARK, STORAGE, start, stop

SECONDS = 3600
ELIGIBLE = re.compile(r"^blob eligible for deletion: (sha256:[0-9a-f]{64})", re.MULTILINE)
BLOBS = STORAGE / "docker/registry/v2/blobs"
REPOSITORIES = STORAGE / "docker/registry/v2/repositories"


def collect_garbage(order: dict[str, Any], job: Job) -> dict[str, Any]:
    """The record, with the bytes that were freed. Raises ProblemError; the registry serves again in any case.

    `quiet`: seconds for which nothing may have been uploaded: the layers of a push come before its manifest.
    """
    if not read(CONFIGURATION).startswith(MARK):
        raise _not_ours()
    _must_be_quiet(order["quiet"])
    job.report("looking for what no image names")
    if not ELIGIBLE.search(_collect("--dry-run")):
        return _record([], 0)
    job.report("stopping the registry")
    stop()
    try:
        doomed = ELIGIBLE.findall(_collect("--dry-run"))
        _must_be_old(doomed, order["quiet"])
        freed = sum(_size(digest) for digest in doomed)
        job.report(f"removing {len(doomed)} blobs")
        if doomed:
            _collect()
    finally:
        start(order["address"])
    return _record(doomed, freed)


def _record(doomed: list[str], freed: int) -> dict[str, Any]:
    words = [f"removed {len(doomed)} blobs"] if doomed else []
    return {"state": "prepared" if doomed else "ready", "changes": words, "problems": [], "freed": freed}


def _collect(*words: str) -> str:
    """As the account that the files belong to. It names every blob, which is more than a command may say here."""
    command = ["runuser", "-u", ACCOUNT, "--", "docker-registry", "garbage-collect", *words, str(CONFIGURATION)]
    with tempfile.NamedTemporaryFile("r") as said:
        ran = run(["sh", "-c", 'out=$1; shift; exec "$@" >"$out"', "sh", said.name, *command], SECONDS)
        out = said.read()
    if ran.code != 0:
        raise ProblemError(
            "sweep_failed",
            f"the registry's garbage collection failed: {ran.message}",
            "nothing that an image names was removed",
            f"try it on its host, with the service stopped: {' '.join(command)}",
        )
    return out


def _size(digest: str) -> int:
    path = _blob(digest)
    return path.stat().st_size if path.exists() else 0


def _blob(digest: str) -> Path:
    algorithm, _, digits = digest.partition(":")
    return BLOBS / algorithm / digits[:2] / digits / "data"


def _must_be_quiet(seconds: float) -> None:
    for path in REPOSITORIES.glob("**/_uploads/*/*"):
        if time.time() - path.stat().st_mtime < seconds:
            raise _push_under_way("an upload is under way", seconds)


def _must_be_old(doomed: list[str], seconds: float) -> None:
    for digest in doomed:
        path = _blob(digest)
        if path.exists() and time.time() - path.stat().st_mtime < seconds:
            raise _push_under_way(f"{digest} came just now, and no image names it yet", seconds)


def _push_under_way(what: str, seconds: float) -> ProblemError:
    return ProblemError(
        "push_under_way",
        what,
        "a garbage collection during a push removes layers that the next manifest needs",
        f"try again when nothing was pushed for {seconds:.0f} s",
    )


def _not_ours() -> ProblemError:
    return ProblemError(
        "registry_not_managed",
        f"{CONFIGURATION} is not of provision's making",
        "the storage of a registry that a person set up is theirs",
        "run its own garbage collection there",
    )
