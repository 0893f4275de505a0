"""The lab's registry on this host: the package of the distribution, with TLS and configurations of provisioner."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any, Callable, NamedTuple

from ansible.module_utils.provisioner.base.command import run
from ansible.module_utils.provisioner.base.files import read, write_atomic
from ansible.module_utils.provisioner.base.problem import ProblemError
from ansible.module_utils.provisioner.base.progress import Report
from ansible.module_utils.provisioner.jobs.jobfile import Job
from ansible.module_utils.provisioner.prepare import apt
from ansible.module_utils.provisioner.prepare import ca as tls
from ansible.module_utils.provisioner.prepare.registry_process import (
    ACCOUNT,
    LOGINS,
    MARK,
    PUSHER,
    READER,
    RegistryProcess,
    add_login,
    has_login,
    has_service,
    host_and_port,
    install_service,
    is_serving,
    pusher_configuration,
    reader_configuration,
    start,
)

PACKAGES = ("docker-registry", "openssl")
LOWEST_PORT = 1024
QUERY_SECONDS = 60


class Step(NamedTuple):
    """A step that is needed, and the function that does it."""

    description: str
    run: Callable[[], None]


def survey(order: dict[str, Any]) -> dict[str, Any]:
    """Return the record of what would be done; changes nothing. Raises ProblemError."""
    _require(order)
    needed = _needed_steps(order, lambda *_, **__: None)
    return _record("lacking" if needed else "ready", [step.description for step in needed])


def set_up_registry(order: dict[str, Any], job: Job) -> dict[str, Any]:
    """Do the first step that is needed, and repeat until none is left; return the record. Raises ProblemError."""
    _require(order)
    done: list[str] = []
    while needed := _needed_steps(order, job.report):
        step = needed[0]
        if step.description in done:
            raise _no_effect(step.description)
        job.report(step.description)
        step.run()
        done.append(step.description)
    return _record("prepared" if done else "ready", done)


def _record(state: str, changes: list[str]) -> dict[str, Any]:
    return {"state": state, "changes": changes, "problems": [], "ca": tls.read_ca() or None}


def _needed_steps(order: dict[str, Any], report: Report) -> list[Step]:
    """Return the steps in their order: nodes are served again before pushes are, and no longer by an open registry."""
    address, push = order["address"], order["push_address"]
    hosts = list(dict.fromkeys(host_and_port(each)[0] for each in (address, push)))
    missing = apt.missing_packages(PACKAGES)
    steps = []
    if missing:
        words = f"install {', '.join(missing)}"
        steps.append(Step(words, lambda: apt.install(missing, frozenset(), order["deadline"], report)))
    if not tls.read_ca():
        steps.append(Step("make a CA for the registry", lambda: tls.make_ca(order["lab"])))
    if missing or not tls.has_valid_certificate(hosts):
        words = f"issue a certificate for {', '.join(hosts)}"
        steps.append(Step(words, lambda: tls.issue_certificate(hosts, ACCOUNT)))
    restart = bool(steps)  # both processes
    steps += _configuration_steps(READER, reader_configuration(address), "serve nodes, and refuse every change")
    steps += _start_steps(READER, address, restart=bool(steps))
    return [*steps, *_push_steps(order["push_login"], push, restart=restart)]


def _push_steps(login: str, address: str, *, restart: bool) -> list[Step]:
    steps = _configuration_steps(PUSHER, pusher_configuration(address), "take pushes, with a login")
    if not has_service():
        steps.append(Step(f"install the service {PUSHER.service}", install_service))
    steps += _start_steps(PUSHER, address, restart=bool(steps) or restart)
    if not has_login(login):  # before the start: a registry without the file makes one with a login of its own
        steps.insert(0, Step(f"let this control machine push: add its login to {LOGINS}", lambda: add_login(login)))
    return steps


def _configuration_steps(process: RegistryProcess, text: str, purpose: str) -> list[Step]:
    if read(process.configuration) == text:
        return []
    _check_is_ours(process.configuration)
    words = f"write {process.configuration}: {purpose}"
    return [Step(words, lambda: write_atomic(process.configuration, text, 0o644))]


def _start_steps(process: RegistryProcess, address: str, *, restart: bool) -> list[Step]:
    if not restart and is_serving(process, address):
        return []
    words = f"start the registry that {process.purpose} at {address}, now and at every boot"
    return [Step(words, lambda: start(process, address))]


def _require(order: dict[str, Any]) -> None:
    if os.geteuid() != 0:
        raise _not_root()
    if host_and_port(order["address"])[1] < LOWEST_PORT:
        raise _low_port(order["address"])
    apt.require_apt()


def _check_is_ours(path: Path) -> None:
    """Raise ProblemError `registry_in_use` when a configuration is neither ours nor that of the package."""
    text = read(path)
    ran = run(["dpkg-query", "-W", "-f", "${Conffiles}", "docker-registry"], QUERY_SECONDS)
    packaged = {line.split()[1] for line in ran.out.splitlines() if line.split()[:1] == [str(path)]}
    digest = hashlib.md5(text.encode()).hexdigest()  # noqa: S324  (dpkg uses MD5)
    if text and not text.startswith(MARK) and digest not in packaged:
        raise _not_ours(path)


def _not_root() -> ProblemError:
    return ProblemError(
        "not_root",
        "Ansible is not root on the host of the registry",
        "only root can change packages and services",
        "set ansible_become for the host in the inventory's group `registry`, or run the command as root",
    )


def _low_port(address: str) -> ProblemError:
    return ProblemError(
        "low_port",
        f"registry.address is {address}: a port below {LOWEST_PORT}",
        "the registry runs without root rights, which such a port needs",
        "set a port in lab.yml, such as registry.address: HOST:5000",
    )


def _not_ours(path: Path) -> ProblemError:
    return ProblemError(
        "registry_in_use",
        f"{path} was not written by `provision prepare`",
        "provisioner does not change other registries",
        "to use this registry as it is, remove registry.managed from lab.yml; or move the file away",
    )


def _no_effect(step: str) -> ProblemError:
    return ProblemError(
        "no_effect",
        f"the step reported success but had no effect: {step}",
        "repeating it would have the same result",
        "find out on the registry's host what reverts it",
    )
