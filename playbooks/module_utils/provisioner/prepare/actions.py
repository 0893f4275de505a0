"""The actions that meet a need, by the name of the action."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable

from ansible.module_utils.provisioner.base.command import run
from ansible.module_utils.provisioner.base.files import write_atomic
from ansible.module_utils.provisioner.base.problem import ProblemError
from ansible.module_utils.provisioner.docker import daemon
from ansible.module_utils.provisioner.docker.machine import engine_facts
from ansible.module_utils.provisioner.docker.trust import install_ca
from ansible.module_utils.provisioner.jobs.jobfile import Job
from ansible.module_utils.provisioner.prepare import apt
from ansible.module_utils.provisioner.prepare.needs import INOTIFY_INSTANCES, Need
from ansible.module_utils.provisioner.prepare.observe import INOTIFY
from ansible.module_utils.provisioner.seat.seat import ordered_cas

SPECIFICATION = Path("/etc/cdi/nvidia.yaml")
SPEC_SECONDS = 120
SYSCTL = Path("/etc/sysctl.d/60-provisioner.conf")
# Upgrading one of these packages restarts the engine.
ENGINE_PACKAGES = frozenset({"docker.io", "docker-ce", "containerd", "containerd.io", "runc"})


def _add_source(need: Need, order: dict[str, Any], job: Job) -> None:
    apt.use_first_source(need.detail["sources"], need.detail["packages"], order["deadline"], job.report)


def _install(need: Need, order: dict[str, Any], job: Job) -> None:
    engine, _, _ = engine_facts()
    busy = bool(engine and daemon.count_running_containers() and not order["restart_engine"])
    apt.install(need.detail["packages"], ENGINE_PACKAGES if busy else frozenset(), order["deadline"], job.report)


def _start(need: Need, order: dict[str, Any], job: Job) -> None:  # noqa: ARG001  (all actions have the same parameters)
    daemon.start_engine()


def _enable_cdi(need: Need, order: dict[str, Any], job: Job) -> None:  # noqa: ARG001
    daemon.enable_cdi()


def _restart(need: Need, order: dict[str, Any], job: Job) -> None:  # noqa: ARG001
    if daemon.count_running_containers() and not order["restart_engine"]:
        raise _container_started()
    daemon.restart_engine()


def _write_specification(need: Need, order: dict[str, Any], job: Job) -> None:  # noqa: ARG001
    """Write the CDI specification with UUIDs, which seats use; nvidia-ctk before 1.15 writes only indexes."""
    SPECIFICATION.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    names = ["--device-name-strategy=index", "--device-name-strategy=uuid"]
    ran = run(["nvidia-ctk", "cdi", "generate", f"--output={SPECIFICATION}", *names], SPEC_SECONDS)
    if ran.code != 0:
        raise _no_specification(ran.message)


def _trust(need: Need, order: dict[str, Any], job: Job) -> None:  # noqa: ARG001
    install_ca(order["registry"], ordered_cas(order["state_root"], order["registry"]["address"]))


def _raise_inotify(need: Need, order: dict[str, Any], job: Job) -> None:  # noqa: ARG001
    write_atomic(SYSCTL, f"fs.inotify.max_user_instances = {INOTIFY_INSTANCES}\n", 0o644)  # sysctl.d(5)
    INOTIFY.write_text(str(INOTIFY_INSTANCES))


ACTIONS: dict[str, Callable[[Need, dict[str, Any], Job], None]] = {
    "source": _add_source,
    "packages": _install,
    "start": _start,
    "cdi": _enable_cdi,
    "restart": _restart,
    "specification": _write_specification,
    "trust": _trust,
    "inotify": _raise_inotify,
}


def _container_started() -> ProblemError:
    return ProblemError(
        "busy",
        "a container was started in the meantime",
        "a restart of the engine would stop it",
        "run the command again, with --restart-engine when the node is idle",
    )


def _no_specification(message: str) -> ProblemError:
    return ProblemError(
        "no_specification",
        f"nvidia-ctk could not write the CDI specification: {message}",
        "seats get their GPUs by CDI",
        "try it on the node: nvidia-ctk cdi generate; it needs a working driver (nvidia-smi)",
    )
