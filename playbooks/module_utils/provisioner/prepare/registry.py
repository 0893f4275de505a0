"""The lab's registry on this host: the package of the distribution, with TLS and a configuration of provisioner."""

from __future__ import annotations

import hashlib
import os
import re
import time
from pathlib import Path
from typing import Any, Callable, NamedTuple

from ansible.module_utils.provisioner.base.command import run
from ansible.module_utils.provisioner.base.files import read, write_atomic
from ansible.module_utils.provisioner.base.problem import ProblemError
from ansible.module_utils.provisioner.base.progress import Report
from ansible.module_utils.provisioner.docker import daemon
from ansible.module_utils.provisioner.jobs.jobfile import Job
from ansible.module_utils.provisioner.prepare import apt
from ansible.module_utils.provisioner.prepare import ca as tls
from ansible.module_utils.provisioner.prepare.registry_check import check_registry

PACKAGES = ("docker-registry", "openssl")
ACCOUNT = SERVICE = "docker-registry"
CONFIGURATION = Path("/etc/docker/registry/config.yml")
STARTED_WITH = tls.FOLDER / "started"
PID_FILE = Path("/var/run/docker-registry.pid")  # written by its init script
STORAGE = Path("/var/lib/docker-registry")
MARK = "# Written by provision prepare; what is changed here by hand is written over.\n"  # also marks the file as ours
LOWEST_PORT = 1024
PORT = re.compile(r":(\d+)$")
START_SECONDS = STOP_SECONDS = 30
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
    host, port = host_and_port(order["address"])
    wanted, missing = configuration(port), apt.missing_packages(PACKAGES)
    steps = []
    if missing:
        words = f"install {', '.join(missing)}"
        steps.append(Step(words, lambda: apt.install(missing, frozenset(), order["deadline"], report)))
    if not tls.read_ca():
        steps.append(Step("make a CA for the registry", lambda: tls.make_ca(order["lab"])))
    if missing or not tls.has_valid_certificate(host):
        steps.append(Step(f"issue a certificate for {host}", lambda: tls.issue_certificate(host, ACCOUNT)))
    if read(CONFIGURATION) != wanted:
        _check_is_ours()
        steps.append(Step(f"write {CONFIGURATION}", lambda: write_atomic(CONFIGURATION, wanted, 0o644)))
    if steps or not _is_serving(order["address"]):
        steps.append(Step(f"start the registry on port {port}, now and at every boot", lambda: start(order["address"])))
    return steps


def configuration(port: int) -> str:
    """Return the configuration, without a descriptor cache: with one, a registry reports a damaged layer as present."""
    return f"""{MARK}version: 0.1
log:
  accesslog: {{disabled: false}}
  fields: {{service: registry}}
storage:
  filesystem: {{rootdirectory: {STORAGE}}}
  delete: {{enabled: true}}
http:
  addr: :{port}
  headers: {{X-Content-Type-Options: [nosniff]}}
  tls:
    certificate: {tls.FOLDER}/server.crt
    key: {tls.FOLDER}/server.key
health:
  storagedriver: {{enabled: true, interval: 10s, threshold: 3}}
"""


def host_and_port(address: str) -> tuple[str, int]:
    """Split a registry address; the default port is 443."""
    found = PORT.search(address)
    return (address[: found.start()], int(found.group(1))) if found else (address, 443)


def _require(order: dict[str, Any]) -> None:
    if os.geteuid() != 0:
        raise _not_root()
    if host_and_port(order["address"])[1] < LOWEST_PORT:
        raise _low_port(order["address"])
    apt.require_apt()


def _check_is_ours() -> None:
    """Raise ProblemError `registry_in_use` when the configuration is neither ours nor that of the package."""
    text = read(CONFIGURATION)
    ran = run(["dpkg-query", "-W", "-f", "${Conffiles}", "docker-registry"], QUERY_SECONDS)
    packaged = {line.split()[1] for line in ran.out.splitlines() if line.split()[:1] == [str(CONFIGURATION)]}
    digest = hashlib.md5(text.encode()).hexdigest()  # noqa: S324  (dpkg uses MD5)
    if text and not text.startswith(MARK) and digest not in packaged:
        raise _not_ours()


def _is_serving(address: str) -> bool:
    """Return whether the registry runs with this configuration and certificate, and answers."""
    return read(STARTED_WITH) == _fingerprint() and not check_registry(_registry(address))


def _registry(address: str) -> dict[str, Any]:
    return {"address": address, "ca": tls.read_ca(), "plain_http": False}


def _fingerprint() -> str:
    return hashlib.sha256((read(CONFIGURATION) + read(tls.FOLDER / "server.crt")).encode()).hexdigest()


def start(address: str) -> None:
    """Start the registry with its current configuration. Raises ProblemError `registry_silent`."""
    stop()
    daemon.control_service(SERVICE, "start")
    deadline = time.monotonic() + START_SECONDS
    while problems := check_registry(_registry(address)):
        if time.monotonic() > deadline:
            raise _silent(problems[0]["what"])
        time.sleep(0.5)
    write_atomic(STARTED_WITH, _fingerprint(), 0o644)


def stop() -> None:
    """Stop the registry and wait for its process: an init script returns as soon as it has sent the signal."""
    if daemon.SYSTEMD.is_dir():
        daemon.control_service(SERVICE, "stop")
        return
    process = Path("/proc") / (read(PID_FILE).strip() or "none")
    run(["service", SERVICE, "stop"], daemon.SERVICE_SECONDS)  # fails when it is not running
    deadline = time.monotonic() + STOP_SECONDS
    while process.exists() and time.monotonic() < deadline:
        time.sleep(0.1)


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


def _not_ours() -> ProblemError:
    return ProblemError(
        "registry_in_use",
        f"{CONFIGURATION} was not written by `provision prepare`",
        "provisioner does not change other registries",
        "to use this registry as it is, remove registry.managed from lab.yml; or move the file away",
    )


def _silent(message: str) -> ProblemError:
    return ProblemError(
        "registry_silent",
        f"the registry was started but does not answer: {message}",
        "nodes pull from it",
        f"check on its host: journalctl -u {SERVICE}, or /var/log/{SERVICE}.log, and that its address is this host's",
    )


def _no_effect(step: str) -> ProblemError:
    return ProblemError(
        "no_effect",
        f"the step reported success but had no effect: {step}",
        "repeating it would have the same result",
        "find out on the registry's host what reverts it",
    )
