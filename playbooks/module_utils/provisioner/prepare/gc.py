"""Garbage collection of the lab's registry: removes images and unreferenced blobs. Nodes can pull meanwhile."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, Iterator, Sequence

from ansible.module_utils.provisioner.base.command import run
from ansible.module_utils.provisioner.base.files import read
from ansible.module_utils.provisioner.base.problem import ProblemError
from ansible.module_utils.provisioner.docker.engine import UnixConnection
from ansible.module_utils.provisioner.jobs.jobfile import Job
from ansible.module_utils.provisioner.prepare.registry_process import (
    ACCOUNT,
    MARK,
    PROGRAM,
    PUSHER,
    READER,
    STORAGE,
    has_service,
    reader_configuration,
    removal_configuration,
    start,
    stop,
)

SECONDS = 3600
START_SECONDS = 30
ANSWER_SECONDS = 60
AS_ACCOUNT = ("runuser", "-u", ACCOUNT, "--")
ELIGIBLE = re.compile(r"^blob eligible for deletion: (sha256:[0-9a-f]{64})", re.MULTILINE)
BLOBS = STORAGE / "docker/registry/v2/blobs"
REPOSITORIES = STORAGE / "docker/registry/v2/repositories"
REMOVED = (http.client.ACCEPTED, http.client.NOT_FOUND)


def collect_garbage(order: dict[str, Any], job: Job) -> dict[str, Any]:
    """Remove the images `remove` and all unreferenced blobs, and return the record with the freed bytes.

    The process that takes pushes is stopped meanwhile, and started again in any case. `quiet` of the order: seconds
    without a push that are required, because the layers of a push come before its manifest. Raises ProblemError
    `registry_not_managed`, `registry_outdated`, `push_under_way` or `sweep_failed`.
    """
    _require_processes(order["address"])
    _require_quiet(order["quiet"])
    job.report("searching for unreferenced blobs")
    if not order["remove"] and not ELIGIBLE.search(_collect("--dry-run")):
        return _record([], 0)
    job.report("stopping the process that takes pushes")
    stop(PUSHER)
    try:
        _require_quiet(order["quiet"])
        job.report(f"removing {len(order['remove'])} images")
        _remove_images(order["repository"], order["remove"])
        eligible = ELIGIBLE.findall(_collect("--dry-run"))
        freed = sum(_size(digest) for digest in eligible)
        job.report(f"removing {len(eligible)} blobs")
        if eligible:
            _collect()
    finally:
        start(PUSHER, order["push_address"])
    return _record(eligible, freed)


def _record(eligible: list[str], freed: int) -> dict[str, Any]:
    words = [f"removed {len(eligible)} blobs"] if eligible else []
    return {"state": "prepared" if eligible else "ready", "changes": words, "problems": [], "freed": freed}


def _collect(*words: str) -> str:
    """Run the collector as the owner of the files. It lists every blob, so its output goes to a file."""
    command = [*AS_ACCOUNT, PROGRAM, "garbage-collect", *words, str(PUSHER.configuration)]
    with tempfile.NamedTemporaryFile("r") as output:
        ran = run(["sh", "-c", 'out=$1; shift; exec "$@" >"$out"', "sh", output.name, *command], SECONDS)
        out = output.read()
    if ran.code != 0:
        raise ProblemError(
            "sweep_failed",
            f"the registry's garbage collection failed: {ran.message}",
            "no blob that an image uses was removed",
            f"try it on its host, with the service {PUSHER.service} stopped: {' '.join(command)}",
        )
    return out


def _remove_images(repository: str, digests: Sequence[str]) -> None:
    """Remove images with all their tags. An image that does not exist is skipped."""
    if not digests:
        return
    with _removing() as remove:
        for digest in digests:
            status = remove(f"/v2/{repository}/manifests/{digest}")
            if status not in REMOVED:
                raise _not_removed(digest, f"HTTP {status}")


@contextlib.contextmanager
def _removing() -> Iterator[Callable[[str], int]]:
    """Run a registry that allows removal, behind a socket that other users of this host cannot reach."""
    with tempfile.TemporaryDirectory(prefix="provisioner-registry-") as place:
        shutil.chown(place, ACCOUNT)
        where, configuration = Path(place) / "socket", Path(place) / "config.yml"
        configuration.write_text(removal_configuration(where))
        command = ["timeout", str(SECONDS), *AS_ACCOUNT, PROGRAM, "serve", str(configuration)]
        null = subprocess.DEVNULL
        process = subprocess.Popen(command, stdin=null, stdout=null, stderr=null, start_new_session=True)
        try:
            _wait_for(where)
            yield lambda path: _delete(where, path)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait_for(path: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not path.exists():
        if time.monotonic() > deadline:
            raise _not_removed("images", "the registry's program did not start")
        time.sleep(0.05)


def _delete(where: Path, path: str) -> int:
    with contextlib.closing(UnixConnection(str(where), ANSWER_SECONDS)) as connection:
        try:
            connection.request("DELETE", path)
            return connection.getresponse().status
        except (OSError, http.client.HTTPException) as error:
            raise _not_removed(path, str(error)) from None


def _size(digest: str) -> int:
    algorithm, _, digits = digest.partition(":")
    path = BLOBS / algorithm / digits[:2] / digits / "data"
    return path.stat().st_size if path.exists() else 0


def _require_processes(address: str) -> None:
    """Raise ProblemError unless the other process refuses pushes, as `prepare` sets it up."""
    text = read(READER.configuration)
    if not text.startswith(MARK):
        raise _not_ours()
    if text != reader_configuration(address) or not has_service():
        raise _outdated()


def _require_quiet(seconds: float) -> None:
    """Raise ProblemError `push_under_way` when anything was pushed within `seconds`."""
    for path in (*REPOSITORIES.glob("**/_uploads/*/*"), *BLOBS.glob("*/*/*/data")):
        with contextlib.suppress(FileNotFoundError):  # an upload that ends is moved
            if time.time() - path.stat().st_mtime < seconds:
                raise _push_under_way(seconds)


def _push_under_way(seconds: float) -> ProblemError:
    return ProblemError(
        "push_under_way",
        f"something was pushed within the last {seconds:.0f} s",
        "garbage collection during a push removes layers that its manifest needs",
        f"try again when nothing was pushed for {seconds:.0f} s, or give a shorter time with --quiet-seconds",
    )


def _not_removed(what: str, reason: str) -> ProblemError:
    return ProblemError(
        "sweep_failed",
        f"the registry did not remove {what}: {reason}",
        "images that are in use were not touched",
        f"run the command again; check on the registry's host that its disk can be written: df -h {STORAGE}",
    )


def _not_ours() -> ProblemError:
    return ProblemError(
        "registry_not_managed",
        f"{READER.configuration} was not written by `provision prepare`",
        "provisioner does not change the storage of other registries",
        "run the garbage collection of that registry on its host",
    )


def _outdated() -> ProblemError:
    return ProblemError(
        "registry_outdated",
        "the registry does not run as two processes yet, one for nodes and one for pushes",
        "a push to a registry during its garbage collection would lose layers",
        "run `provision prepare LAB` first",
    )
