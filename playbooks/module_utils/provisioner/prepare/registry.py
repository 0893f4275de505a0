"""The lab's own registry on this host: the distribution's package behind TLS, and a configuration that is ours."""

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
PID_FILE = Path("/var/run/docker-registry.pid")  # of its init script
STORAGE = Path("/var/lib/docker-registry")
MARK = "# Written by provision prepare; what is changed here by hand is written over.\n"
LOWEST_PORT = 1024
PORT = re.compile(r":(\d+)$")
START_SECONDS = STOP_SECONDS = 30
QUERY_SECONDS = 60


class Step(NamedTuple):
    """Something that is lacking, in words; and what brings it."""

    words: str
    do: Callable[[], None]


def survey(order: dict[str, Any]) -> dict[str, Any]:
    """What would be done; changes nothing. Raises ProblemError."""
    _require(order)
    lacking = _lacking(order, lambda *_, **__: None)
    return _record("lacking" if lacking else "ready", [step.words for step in lacking])


def set_up_registry(order: dict[str, Any], job: Job) -> dict[str, Any]:
    """Brings the first thing that is lacking, and looks again. Raises ProblemError."""
    _require(order)
    done: list[str] = []
    while lacking := _lacking(order, job.report):
        step = lacking[0]
        if step.words in done:
            raise _no_effect(step.words)
        job.report(step.words)
        step.do()
        done.append(step.words)
    return _record("prepared" if done else "ready", done)


def _record(state: str, changes: list[str]) -> dict[str, Any]:
    return {"state": state, "changes": changes, "problems": [], "ca": tls.read_ca() or None}


def _lacking(order: dict[str, Any], report: Report) -> list[Step]:
    host, port = host_and_port(order["address"])
    wanted, missing = configuration(port), apt.missing_packages(PACKAGES)
    steps = []
    if missing:
        words = f"install {', '.join(missing)}"
        steps.append(Step(words, lambda: apt.install(missing, frozenset(), order["deadline"], report)))
    if not tls.read_ca():
        steps.append(Step("make an authority for it", lambda: tls.make_ca(order["lab"])))
    if missing or not tls.has_valid_certificate(host):
        steps.append(Step(f"give it a certificate for {host}", lambda: tls.issue_certificate(host, ACCOUNT)))
    if read(CONFIGURATION) != wanted:
        _check_is_ours()
        steps.append(Step(f"write {CONFIGURATION}", lambda: write_atomic(CONFIGURATION, wanted, 0o644)))
    if steps or not _is_serving(order["address"]):
        steps.append(Step(f"start it on port {port}, now and at every boot", lambda: start(order["address"])))
    return steps


def configuration(port: int) -> str:
    """Without a cache of descriptors: with one, a registry says of a damaged layer that it is there."""
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
    found = PORT.search(address)
    return (address[: found.start()], int(found.group(1))) if found else (address, 443)


def _require(order: dict[str, Any]) -> None:
    if os.geteuid() != 0:
        raise _not_root()
    if host_and_port(order["address"])[1] < LOWEST_PORT:
        raise _low_port(order["address"])
    apt.require_apt()


def _check_is_ours() -> None:
    """What the package brought is nobody's; what a person wrote is theirs."""
    text = read(CONFIGURATION)
    ran = run(["dpkg-query", "-W", "-f", "${Conffiles}", "docker-registry"], QUERY_SECONDS)
    packaged = {line.split()[1] for line in ran.out.splitlines() if line.split()[:1] == [str(CONFIGURATION)]}
    digest = hashlib.md5(text.encode()).hexdigest()  # noqa: S324  (dpkg's own)
    if text and not text.startswith(MARK) and digest not in packaged:
        raise _not_ours()


def _is_serving(address: str) -> bool:
    """With this configuration and this certificate, and seen from here."""
    return read(STARTED_WITH) == _fingerprint() and not check_registry(_registry(address))


def _registry(address: str) -> dict[str, Any]:
    return {"address": address, "ca": tls.read_ca(), "plain_http": False}


def _fingerprint() -> str:
    return hashlib.sha256((read(CONFIGURATION) + read(tls.FOLDER / "server.crt")).encode()).hexdigest()


def start(address: str) -> None:
    """With what is configured now. Raises ProblemError where it does not serve."""
    stop()
    daemon.control_service(SERVICE, "start")
    deadline = time.monotonic() + START_SECONDS
    while problems := check_registry(_registry(address)):
        if time.monotonic() > deadline:
            raise _silent(problems[0]["what"])
        time.sleep(0.5)
    write_atomic(STARTED_WITH, _fingerprint(), 0o644)


def stop() -> None:
    """Until it is gone: an init script says that it has stopped as soon as it has sent the signal."""
    if daemon.SYSTEMD.is_dir():
        daemon.control_service(SERVICE, "stop")
        return
    process = Path("/proc") / (read(PID_FILE).strip() or "none")
    run(["service", SERVICE, "stop"], daemon.SERVICE_SECONDS)  # fails where it does not run
    deadline = time.monotonic() + STOP_SECONDS
    while process.exists() and time.monotonic() < deadline:
        time.sleep(0.1)


def _not_root() -> ProblemError:
    return ProblemError(
        "not_root",
        "the registry's host is prepared by root alone",
        "packages and services are root's",
        "name a host in the inventory's group `registry` with ansible_become, or run the command as root",
    )


def _low_port(address: str) -> ProblemError:
    return ProblemError(
        "low_port",
        f"registry.address is {address}: a port below {LOWEST_PORT}",
        "the distribution's registry runs as an account of its own, which may not open it",
        "write the port in lab.yml, such as registry.address: HOST:5000",
    )


def _not_ours() -> ProblemError:
    return ProblemError(
        "registry_in_use",
        f"{CONFIGURATION} was written by somebody else",
        "a registry that a person set up is theirs",
        "use it as it is: take registry.managed out of lab.yml; or move the file away",
    )


def _silent(said: str) -> ProblemError:
    return ProblemError(
        "registry_silent",
        f"it was started and does not serve: {said}",
        "nodes pull from it",
        f"see on its host: journalctl -u {SERVICE}, or /var/log/{SERVICE}.log; does its address lead to this host?",
    )


def _no_effect(words: str) -> ProblemError:
    return ProblemError(
        "no_effect",
        f"it was done, and is lacking still: {words}",
        "doing it again would end the same",
        "look on the registry's host what undoes it",
    )
