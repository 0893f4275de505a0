"""The job that publishes the configuration and the environments of self-service on a node, and runs the broker there.

Whatever ends it, the next job finds what counts: the broker reads whole files only, and what was there before is kept
until the broker is verified.
"""

from __future__ import annotations

import contextlib
import grp
import hashlib
import json
import re
import shlex
from typing import Any, Iterable, NamedTuple

from ansible.module_utils.provisioner.base.command import run_in_child
from ansible.module_utils.provisioner.base.files import read, write_atomic
from ansible.module_utils.provisioner.base.problem import ProblemError, as_fault, io_problem
from ansible.module_utils.provisioner.base.program import is_written
from ansible.module_utils.provisioner.broker.config import Config, parse_config
from ansible.module_utils.provisioner.broker.program import program_files, write_program
from ansible.module_utils.provisioner.jobs.claims import check_claim
from ansible.module_utils.provisioner.jobs.jobfile import Job
from ansible.module_utils.provisioner.mount.check import LOOK_SECONDS, find_faults, mounts_of
from ansible.module_utils.provisioner.self_service import before, client, daemon
from ansible.module_utils.provisioner.self_service.environments import (
    keep_image,
    publish_version,
    remove_unused,
    write_version,
)
from ansible.module_utils.provisioner.self_service.image_check import CHECK, Checked, Pool, check_image
from ansible.module_utils.provisioner.self_service.installed import (
    installed_lab,
    is_in_use,
    is_started_from,
    leased_gpus,
    started_by,
)
from ansible.module_utils.provisioner.self_service.layout import PLAIN, Layout
from ansible.module_utils.provisioner.self_service.removal import withdraw
from ansible.module_utils.provisioner.self_service.verify import verify
from ansible.module_utils.provisioner.transaction import boot

LOOKUP_SECONDS = 10
RELEASE = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9})*")
BEFORE_A_RELEASE = re.compile(r"\.?(a|b|rc|dev)")


class Wanted(NamedTuple):
    """What the order says. `gid`: of its unix group. `code`: of the program."""

    order: dict[str, Any]
    layout: Layout
    config: Config
    gid: int
    code: dict[str, str]

    @property
    def versions(self) -> dict[str, str]:
        """The versions of the environments by their names."""
        return {name: one.version for name, one in self.config.environments.items()}


def publish(order: dict[str, Any], job: Job, code: dict[str, str]) -> dict[str, Any]:
    """Publish what the order says and return the record. `code`: of the program, see `own_code` of transaction/boot.py.

    Raises ProblemError when nothing was changed for the broker.
    """
    wanted = _check_order(order, code)
    _check_lab(wanted)
    check_claim(order["state_root"], order.get("claim"))
    found = _check_images(wanted, job)
    check_claim(order["state_root"], order.get("claim"))  # a pull may take hours
    changed = _write_beside(wanted)
    try:
        changed = _write(wanted) or changed
        job.report("starting the broker", phase="verify")
        checks, restarted = _run_and_verify(wanted)
    except (ProblemError, OSError) as error:
        return _undo(wanted, as_fault(error), job)
    before.forget(wanted.layout)
    remove_unused(wanted.layout, wanted.config.environments)
    return {
        "state": "committed" if changed or restarted else "unchanged",
        "problems": [*found.problems, *_cautions(wanted), *_install_beside(wanted)],
        "checks": {**found.checks, **checks},
    }


# --- before any change


def _check_order(order: dict[str, Any], code: dict[str, str]) -> Wanted:
    """Check that the broker can read what the order brings, and that its unix group exists. Raises ProblemError."""
    layout = Layout(order["state_root"])
    try:
        config = parse_config(order["config"])
        for name, environment in config.environments.items():
            _check_document(order["documents"][name], environment.version)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _bad_order(repr(error)) from None
    for path in (order["state_root"], order["socket"]):
        if not PLAIN.fullmatch(path):
            raise _bad_order(f"{path!r} has characters that mean something else to systemd or cron")
    return Wanted(order, layout, config, _group_id(config.unix_group), code)


def _check_document(document: dict[str, Any], version: str) -> None:
    digest = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
    if not digest.startswith(version):
        raise ValueError(f"a document has the digest {digest}, and not the version {version}")
    if len(document["files"][CHECK]) != 1:
        raise ValueError(f"{CHECK} has slots")


def _group_id(name: str) -> int:
    """Return the number of a unix group. Raises ProblemError `no_unix_group`."""
    try:
        return int(run_in_child(lambda: grp.getgrnam(name).gr_gid, LOOKUP_SECONDS))
    except (TimeoutError, ChildProcessError):
        raise ProblemError(
            "no_unix_group",
            f"the node has no unix group {name}, or its directory service does not answer",
            "its members may use self-service; nothing was changed",
            f"on the node: groupadd {shlex.quote(name)}; then add people: usermod -aG {shlex.quote(name)} ACCOUNT",
        ) from None


def _check_lab(wanted: Wanted) -> None:
    """Raise ProblemError `self_service_elsewhere` where another lab has self-service on this node."""
    lab = installed_lab(wanted.layout)
    if lab in ("", wanted.config.lab) or not is_in_use(wanted.layout):
        return
    raise ProblemError(
        "self_service_elsewhere",
        f"the lab {lab} has self-service on this node already",
        "one broker leases the GPUs of a node; a second one would give them to other people",
        f"take the node out of self_service.nodes of the lab {lab} and roll that out first",
    )


def _check_images(wanted: Wanted, job: Job) -> Checked:
    """Check the image of each environment; what environments have in common is checked once. Raises ProblemError."""
    order, pool = wanted.order, Pool(wanted.config.pool, leased_gpus(wanted.layout))
    job.report("checking the images", phase="stage")
    checks: dict[str, str] = {}
    problems: list[dict[str, str]] = []
    first: dict[tuple[str, str], str] = {}
    for name, environment in wanted.config.environments.items():
        program = "".join(order["documents"][name]["files"][CHECK])
        same = first.setdefault((environment.image["reference"], program), name)
        if same != name:
            checks[f"image {name}"] = f"is that of {same}"
            continue
        head = {"run": order["run"], "state_root": order["state_root"]}
        of_image = {"image": environment.image, "registry": environment.registry, "deadlines": environment.deadlines}
        found = check_image({**head, **of_image}, name, order["documents"][name], pool, job.report)
        checks.update(found.checks)
        problems += found.problems
    return Checked(checks, problems)


# --- the change


def _write_beside(wanted: Wanted) -> bool:
    """Write what nothing uses yet, and keep what is there. Return whether anything is new. Raises ProblemError."""
    try:
        wanted.layout.make_folder()
        changed = _write_versions(wanted)
        before.save(wanted.layout)
    except OSError as error:
        raise io_problem(error) from None
    return changed


def _write_versions(wanted: Wanted) -> bool:
    """Write the versions that are missing. Return whether there were any.

    The image gets its tag after that: a version that a killed job has left goes with its tag.
    """
    order, changes = wanted.order, []
    for name, entry in order["config"]["environments"].items():
        changes.append(write_version(wanted.layout, name, entry, order["documents"][name]))
        keep_image(name, entry)
    return any(changes)


def _write(wanted: Wanted) -> bool:
    """Write the links, then the configuration, then the program. Return whether anything has changed."""
    order, layout = wanted.order, wanted.layout
    changes = [publish_version(layout, name, version) for name, version in wanted.versions.items()]
    text = json.dumps(order["config"], sort_keys=True)
    if read(layout.config) != text:
        write_atomic(layout.config, text)
        changes.append(True)
    if not _keeps_program(wanted):
        daemon.forget_start(layout)
        write_program(layout.program, wanted.code, order["version"], layout.program_before)
        changes.append(True)
    return any(changes)


def _keeps_program(wanted: Wanted) -> bool:
    """Return whether the program of the node is the one of this release already, or one of a later release."""
    files = program_files(wanted.layout.program, wanted.code, wanted.order["version"])
    return _is_newer(wanted) or is_written(wanted.layout.program, files)


def _is_newer(wanted: Wanted) -> bool:
    """Return whether the program of the node is of a later release than the order."""
    return wanted.layout.main.exists() and _release(wanted.layout.program_version()) > _release(wanted.order["version"])


def _release(version: str) -> tuple[list[int], bool]:
    """Return what orders versions: the numbers of the release, then whether it is not one before the release."""
    found = RELEASE.match(version)
    if found is None:
        return [], False
    numbers = [int(number) for number in found[0].split(".")]
    while numbers and not numbers[-1]:
        numbers.pop()
    return numbers, not BEFORE_A_RELEASE.match(version[found.end() :])


def _run_and_verify(wanted: Wanted) -> tuple[dict[str, str], bool]:
    """Let the broker run with what was written, and verify it. Return the checks, and whether it was started for that.

    A broker that runs already reads a new configuration by itself; where it cannot be verified, it is started again.
    """
    layout, socket = wanted.layout, wanted.order["socket"]
    program = program_digest(layout)
    restarted = not is_started_from(layout, socket, program)
    if not restarted:
        try:
            return _verified(wanted), False
        except ProblemError:
            restarted = True
    daemon.start(layout, socket, program)
    return _verified(wanted), restarted


def _verified(wanted: Wanted) -> dict[str, str]:
    found = verify(wanted.order["socket"], wanted.gid, wanted.versions)
    return {"broker": found, "started_by": started_by(wanted.layout)}


def program_digest(layout: Layout) -> str:
    """Return a digest of the files of the program."""
    digest = hashlib.sha256()
    for path in sorted(layout.program.rglob("*")):
        if path.is_file() and path.suffix != ".pyc":
            digest.update(f"{path.relative_to(layout.program)}\0{read(path)}\0".encode())
    return digest.hexdigest()


def _cautions(wanted: Wanted) -> list[dict[str, str]]:
    found = [_program_newer(wanted)] if _is_newer(wanted) else []
    found += [_not_at_boot()] if started_by(wanted.layout) == "none" else []
    return found + _mount_faults(wanted.order["documents"].values())


def _mount_faults(documents: Iterable[dict[str, Any]]) -> list[dict[str, str]]:
    """Return what is wrong with the mounts of the environments now: seats cannot start before they are there."""
    files = [{name: "".join(parts) for name, parts in document["files"].items()} for document in documents]
    mounts = {str(mount): mount for found in files for mount in mounts_of({"files": found})}
    return [fault.problem for fault in find_faults(mounts.values(), None, LOOK_SECONDS) if fault]


def _install_beside(wanted: Wanted) -> list[dict[str, str]]:
    """Install the command for people, and let the node measure their seats each night. Return cautions."""
    if _is_newer(wanted):
        return []
    with contextlib.suppress(OSError):  # as beside a rollout: the next one tries again
        boot.install(wanted.order["state_root"], wanted.code, measures=True)
    return client.install(wanted.code, wanted.order["socket"])


# --- back


def _undo(wanted: Wanted, fault: ProblemError, job: Job) -> dict[str, Any]:
    """Go back to what was there before, because of `fault`, and return the record."""
    layout, socket = wanted.layout, wanted.order["socket"]
    job.report("going back to the configuration and the program of before")
    try:
        if not before.restore(layout):
            withdraw(layout, socket)
            before.forget(layout)
            return {"state": "failed", "problems": [fault.problem]}
        config = parse_config(json.loads(read(layout.config)))
        daemon.start(layout, socket, program_digest(layout))
        versions = {name: one.version for name, one in config.environments.items()}
        verify(socket, _group_id(config.unix_group), versions)
        before.forget(layout)
    except (ProblemError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        again = as_fault(error) if isinstance(error, (ProblemError, OSError)) else _bad_order(repr(error))
        return {"state": "needs_attention", "problems": [fault.problem, again.problem]}
    return {"state": "rolled_back", "problems": [fault.problem]}


def _bad_order(what: str) -> ProblemError:
    return ProblemError(
        "bad_order",
        f"the order to publish self-service cannot be used: {what}",
        "the broker of the node reads what it brings",
        "this is a bug in the program that sent the order: report it",
    )


def _program_newer(wanted: Wanted) -> dict[str, str]:
    return ProblemError(
        "program_newer",
        f"the broker of the node is of version {wanted.layout.program_version()}, this is {wanted.order['version']}",
        "an older release does not replace the program of a newer one; configuration and environments were published",
        "update provisioner on this control machine",
    ).problem


def _not_at_boot() -> dict[str, str]:
    return ProblemError(
        "broker_not_at_boot",
        "the broker runs, but nothing starts it at the next boot: the node has neither systemd nor cron",
        "people could not start a seat then until the next rollout, and leases would not end",
        "install cron on the node, or run `provision rollout` after each boot",
    ).problem
