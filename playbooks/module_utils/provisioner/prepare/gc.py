"""Garbage collection of the lab's registry: removes blobs without a manifest while no push is active."""

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
    """Remove unreferenced blobs and return the record with the freed bytes. The registry is started again in any case.

    `quiet` of the order: seconds without an upload that are required, because the layers of a push come before its
    manifest. Raises ProblemError `registry_not_managed`, `push_under_way` or `sweep_failed`.
    """
    if not read(CONFIGURATION).startswith(MARK):
        raise _not_ours()
    _require_no_upload(order["quiet"])
    job.report("searching for unreferenced blobs")
    if not ELIGIBLE.search(_collect("--dry-run")):
        return _record([], 0)
    job.report("stopping the registry")
    stop()
    try:
        eligible = ELIGIBLE.findall(_collect("--dry-run"))
        _require_old(eligible, order["quiet"])
        freed = sum(_size(digest) for digest in eligible)
        job.report(f"removing {len(eligible)} blobs")
        if eligible:
            _collect()
    finally:
        start(order["address"])
    return _record(eligible, freed)


def _record(eligible: list[str], freed: int) -> dict[str, Any]:
    words = [f"removed {len(eligible)} blobs"] if eligible else []
    return {"state": "prepared" if eligible else "ready", "changes": words, "problems": [], "freed": freed}


def _collect(*words: str) -> str:
    """Run the collector as the owner of the files. It lists every blob, so its output goes to a file."""
    command = ["runuser", "-u", ACCOUNT, "--", "docker-registry", "garbage-collect", *words, str(CONFIGURATION)]
    with tempfile.NamedTemporaryFile("r") as output:
        ran = run(["sh", "-c", 'out=$1; shift; exec "$@" >"$out"', "sh", output.name, *command], SECONDS)
        out = output.read()
    if ran.code != 0:
        raise ProblemError(
            "sweep_failed",
            f"the registry's garbage collection failed: {ran.message}",
            "no blob that an image uses was removed",
            f"try it on its host, with the service stopped: {' '.join(command)}",
        )
    return out


def _size(digest: str) -> int:
    path = _blob(digest)
    return path.stat().st_size if path.exists() else 0


def _blob(digest: str) -> Path:
    algorithm, _, digits = digest.partition(":")
    return BLOBS / algorithm / digits[:2] / digits / "data"


def _require_no_upload(seconds: float) -> None:
    for path in REPOSITORIES.glob("**/_uploads/*/*"):
        if time.time() - path.stat().st_mtime < seconds:
            raise _push_under_way("an upload is in progress", seconds)


def _require_old(eligible: list[str], seconds: float) -> None:
    for digest in eligible:
        path = _blob(digest)
        if path.exists() and time.time() - path.stat().st_mtime < seconds:
            raise _push_under_way(f"{digest} was just uploaded, and no image uses it yet", seconds)


def _push_under_way(what: str, seconds: float) -> ProblemError:
    return ProblemError(
        "push_under_way",
        what,
        "garbage collection during a push removes layers that its manifest needs",
        f"try again when nothing was pushed for {seconds:.0f} s",
    )


def _not_ours() -> ProblemError:
    return ProblemError(
        "registry_not_managed",
        f"{CONFIGURATION} was not written by `provision prepare`",
        "provisioner does not change the storage of other registries",
        "run the garbage collection of that registry on its host",
    )
