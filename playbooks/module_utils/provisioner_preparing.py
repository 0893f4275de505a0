"""Making a bare node ready for seats: look, bring the first thing that it lacks, look again, until nothing is left."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any, Callable

from ansible.module_utils import provisioner_apt as apt
from ansible.module_utils import provisioner_daemon as daemon
from ansible.module_utils.provisioner_cdi import HOOK, cdi_devices
from ansible.module_utils.provisioner_distribution import docker_source, nvidia_source, this_distribution
from ansible.module_utils.provisioner_host import Fault, read, run, write_whole
from ansible.module_utils.provisioner_jobfile import Job
from ansible.module_utils.provisioner_machine import compose_version, engine_facts, machine_facts
from ansible.module_utils.provisioner_needs import Need, Seen, needs
from ansible.module_utils.provisioner_nvidia import nvidia_facts
from ansible.module_utils.provisioner_reach import reach

SPECIFICATION = Path("/etc/cdi/nvidia.yaml")
SPEC_FOLDERS = ("/etc/cdi", "/var/run/cdi")  # where an engine with CDI looks that is told nothing else
CERTIFICATES = Path("/etc/docker/certs.d")
# A new package of one of these restarts the engine.
ENGINE_PACKAGES = frozenset({"docker.io", "docker-ce", "containerd", "containerd.io", "runc"})
PID_FILE = Path("/var/run/docker.pid")
AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")
SPEC_SECONDS = 120


class Desk:
    """Where the job of a preparation is kept: as a seat has one, but for the whole node."""

    def __init__(self, state_root: str) -> None:
        self.name = "the node's packages"
        self.folder = Path(state_root) / "prepare"
        self.jobs = self.folder / "jobs"

    def make_folders(self) -> None:
        self.jobs.mkdir(mode=0o700, parents=True, exist_ok=True)


def survey(order: dict[str, Any]) -> dict[str, Any]:
    """The record of what would be done; changes nothing. Raises Fault."""
    _require_root()
    lacking = _lacking(order)
    problems = [] if lacking else _left_over(order)
    state = "lacking" if lacking else "failed" if problems else "ready"
    return _record(state, [need for need in lacking if not need.deferred], lacking, problems)


def prepare(order: dict[str, Any], job: Job) -> dict[str, Any]:
    """The record of what was done. Raises Fault with what is in the way."""
    _require_root()
    done: list[Need] = []
    try:
        while need := next((need for need in _lacking(order) if not need.deferred), None):
            if need in done:
                raise _no_effect(need)
            job.tell(need.words)
            _ACTS[need.act](need, order, job)
            done.append(need)
    except Fault as fault:
        return _record("failed", done, [], [fault.problem])
    return _ended(order, done)


def _ended(order: dict[str, Any], done: list[Need]) -> dict[str, Any]:
    left, problems = _lacking(order), _left_over(order)
    state = "failed" if problems else "deferred" if left else "prepared" if done else "ready"
    return _record(state, done, left, problems)


def _record(state: str, changes: list[Need], lacking: list[Need], problems: list[dict[str, str]]) -> dict[str, Any]:
    pending = [need.words for need in lacking if need.deferred]
    return {"state": state, "changes": [need.words for need in changes], "pending": pending, "problems": problems}


def _lacking(order: dict[str, Any]) -> list[Need]:
    return needs(_look(order), may_restart=order["restart_engine"])


def _left_over(order: dict[str, Any]) -> list[dict[str, str]]:
    """What no package can mend: a driver that does not answer, a registry that the node does not reach."""
    problems: list[dict[str, str]] = nvidia_facts()[2]
    return [*problems, *(reach(order["registry"]) if order["reach"] else [])]


def _look(order: dict[str, Any]) -> Seen:
    at, platform = this_distribution(), machine_facts()["platform"]
    apt.require_apt()
    sources = docker_source(order["docker"], at), nvidia_source(order["nvidia"], platform)
    engine, info, _ = engine_facts()
    nvidia = nvidia_facts()[0]
    uuids = tuple(gpu["uuid"] for gpu in nvidia["gpus"] if gpu.get("uuid"))
    return Seen(
        at=at,
        docker=sources[0],
        nvidia=sources[1],
        written=frozenset(source.name for source in sources if source and apt.is_written(source)),
        engine=engine["version"] if engine else None,
        compose=compose_version(),
        engine_installed=daemon.is_installed(),
        docker_ce=apt.is_installed("docker-ce"),
        containers=daemon.running_containers() if engine else 0,
        cards=max(nvidia["pci_gpus"] or 0, len(nvidia["gpus"])),
        uuids=uuids,
        toolkit=bool(shutil.which(HOOK)),
        cdi_on=bool(info.get("CDISpecDirs")),
        cdi_wish=(daemon.configuration().get("features") or {}).get("cdi"),
        cdi_complete=_names_all(uuids, info),
        hook_is_newer=_hook_is_newer(),
        authorities=AUTHORITIES.exists(),
        untrusted=_is_untrusted(order["registry"]),
    )


def _names_all(uuids: tuple[str, ...], info: dict[str, Any]) -> bool:
    devices = cdi_devices(Path(folder) for folder in info.get("CDISpecDirs") or SPEC_FOLDERS)
    return all(f"nvidia.com/gpu={uuid}" in devices for uuid in uuids)


def _hook_is_newer() -> bool:
    """The change time of the hook, against that of the engine's pid file, which is made when it starts."""
    hook = shutil.which(HOOK)
    try:
        return bool(hook) and Path(str(hook)).lstat().st_ctime > PID_FILE.stat().st_ctime
    except OSError:
        return False


def _is_untrusted(registry: dict[str, Any]) -> bool:
    return bool(registry["ca"]) and read(_certificate(registry)) != registry["ca"]


def _certificate(registry: dict[str, Any]) -> Path:
    return CERTIFICATES / registry["address"] / "ca.crt"


# ---- what is done for each kind of need ----


def _add_source(need: Need, order: dict[str, Any], job: Job) -> None:
    apt.write_source(need.detail["source"], order["deadline"], job.tell)


def _install(need: Need, order: dict[str, Any], job: Job) -> None:
    engine, _, _ = engine_facts()
    busy = bool(engine and daemon.running_containers() and not order["restart_engine"])
    apt.install(need.detail["packages"], ENGINE_PACKAGES if busy else frozenset(), order["deadline"], job.tell)


def _start(need: Need, order: dict[str, Any], job: Job) -> None:  # noqa: ARG001  (one shape for all acts, here and below)
    daemon.start_engine()


def _switch_cdi_on(need: Need, order: dict[str, Any], job: Job) -> None:  # noqa: ARG001
    daemon.switch_cdi_on()


def _restart(need: Need, order: dict[str, Any], job: Job) -> None:  # noqa: ARG001
    if daemon.running_containers() and not order["restart_engine"]:
        raise _somebody_came()
    daemon.restart_engine()


def _write_specification(need: Need, order: dict[str, Any], job: Job) -> None:  # noqa: ARG001
    """By UUID, too: seats ask for GPUs by it, and releases before 1.15 name them by index alone."""
    SPECIFICATION.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    names = ["--device-name-strategy=index", "--device-name-strategy=uuid"]
    ran = run(["nvidia-ctk", "cdi", "generate", f"--output={SPECIFICATION}", *names], SPEC_SECONDS)
    if ran.code != 0:
        raise _no_specification(ran.said)


def _trust(need: Need, order: dict[str, Any], job: Job) -> None:  # noqa: ARG001
    """The engine reads this folder at every pull: no restart."""
    path = _certificate(order["registry"])
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    write_whole(path, order["registry"]["ca"], 0o644)


_ACTS: dict[str, Callable[[Need, dict[str, Any], Job], None]] = {
    "source": _add_source,
    "packages": _install,
    "start": _start,
    "cdi": _switch_cdi_on,
    "restart": _restart,
    "specification": _write_specification,
    "trust": _trust,
}


def _require_root() -> None:
    if os.geteuid() != 0:
        raise Fault(
            "not_root",
            "Ansible is not root on the node",
            "packages, services and the engine's configuration are root's",
            "let Ansible become root: ansible_become: true in the inventory, and an account that may sudo",
        )


def _no_effect(need: Need) -> Fault:
    return Fault(
        "no_effect",
        f"it was done, and is lacking still: {need.words}",
        "doing it again would end the same",
        "look on the node what undoes it",
    )


def _somebody_came() -> Fault:
    return Fault(
        "busy",
        "a container was started meanwhile",
        "a restart of the engine would end it",
        "run the command again; with --restart-engine when nobody works there",
    )


def _no_specification(said: str) -> Fault:
    return Fault(
        "no_specification",
        f"nvidia-ctk could not describe the GPUs: {said}",
        "seats ask for GPUs by CDI",
        "try it on the node: nvidia-ctk cdi generate; it needs a driver that answers (nvidia-smi)",
    )
