"""The containers of a seat: started, stopped and inspected through the node's docker compose."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any, Iterator, Sequence

from ansible.module_utils.provisioner.base.command import CommandResult, run
from ansible.module_utils.provisioner.base.files import read_existing, write_atomic
from ansible.module_utils.provisioner.base.problem import ProblemError, printable
from ansible.module_utils.provisioner.base.progress import Report
from ansible.module_utils.provisioner.docker.engine import SEAT_LABEL, ask, client_environment, events, get
from ansible.module_utils.provisioner.docker.plugins import compose_program
from ansible.module_utils.provisioner.seat.identity import TOKEN
from ansible.module_utils.provisioner.seat.seat import Seat

SERVICES = ("jupyter", "ssh")
COMPOSE_SECONDS = 300  # more than a stop's grace period and a start together
GIVE_UP_AFTER_RESTARTS = 3
CHECK_AGAIN_SECONDS = 30  # after so long a watch, the health checks are run again
HEALTH_SECONDS = 15  # for one health check
LOG_LINES = 400  # kept in failure.log
SHOWN_LINES = 15  # in a problem that the control machine shows
# Compose recreates a container under such a name and renames it at the end; a killed compose leaves it behind.
LEFTOVER = re.compile(r"/[0-9a-f]{12}_")


class Compose:
    """The compose project of a seat."""

    def __init__(self, seat: Seat, keep: Sequence[int] = ()) -> None:
        """`keep` are file descriptors that compose inherits, so that a lock is held for as long as compose runs."""
        self.seat = seat
        self._keep = keep
        self._filter = f"com.docker.compose.project={seat.name}"
        self._label = {"label": [self._filter]}

    def check(self, number: int) -> None:
        """Validate a generation's compose.yaml. Raises ProblemError `compose_refused`."""
        ran = self._run(number, "config", "-q")
        if ran.code != 0:
            raise _compose_fault("compose_refused", f"docker compose on the node rejects compose.yaml: {ran.message}")

    def up(self, number: int) -> None:
        """Start a generation without pull and build. Questions of compose stay unanswered, so volumes are kept.

        Raises ProblemError `start_failed`, and `foreign_project` as `check_ours` does.
        """
        self._up(number)

    @contextlib.contextmanager
    def empty_home(self, number: int, wanted: dict[str, Any]) -> Iterator[None]:
        """Run a generation with an empty home instead of the user's, on the same ports; start it with its home again.

        `wanted` is the seat of its order. After an error in between, the containers stay as they are.

        Raises ProblemError `start_failed`.
        """
        folder = Path(tempfile.mkdtemp(prefix="verify-", dir=str(self.seat.folder)))
        try:
            home = folder / "home"
            home.mkdir(mode=0o700)
            if os.geteuid() == 0:
                os.chown(str(home), wanted["uid"], wanted["gid"])
            # Mounts are merged by their target, so this one takes the place of the home.
            mount = {"type": "bind", "source": str(home), "target": f"/home/{wanted['user']}"}
            services = {service: {"volumes": [mount]} for service in SERVICES}
            write_atomic(folder / "empty-home.json", json.dumps({"services": services}))
            self._up(number, "-f", str(folder / "empty-home.json"))
            yield
            self._up(number)
        finally:
            shutil.rmtree(str(folder), ignore_errors=True)

    def _up(self, number: int, *files: str) -> None:
        self.check_ours()
        self._remove_leftovers()
        self._remove_duplicate_networks()
        ran = self._run(number, *files, "up", "-d", "--remove-orphans", "--no-build", "--pull", "never")
        if ran.code != 0:
            raise _compose_fault("start_failed", f"the containers could not be started: {ran.message}")

    def down(self) -> None:
        """Remove all containers of the seat, whichever file they were started from. Volumes stay.

        Raises ProblemError `stop_failed`, and `foreign_project` as `ours` does.
        """
        if not self.ours() and self.containers():
            return
        ran = self._compose("-p", self.seat.name, "down", "--remove-orphans")
        if ran.code != 0:
            raise _compose_fault("stop_failed", f"the containers could not be removed: {ran.message}")

    def stop(self) -> None:
        """Stop all containers of the seat; they keep what was changed in them. Raises ProblemError as `down` does."""
        if not self.ours():
            return
        ran = self._compose("-p", self.seat.name, "stop")
        if ran.code != 0:
            raise _compose_fault("stop_failed", f"the containers could not be stopped: {ran.message}")

    def restart(self, service: str) -> None:
        """Stop and start the container of a service. Raises ProblemError `start_failed`, and as `ours` does."""
        if not self.ours():
            return
        ran = self._compose("-p", self.seat.name, "restart", service)
        if ran.code != 0:
            raise _compose_fault("start_failed", f"{service} could not be restarted: {ran.message}")

    def _run(self, number: int, *words: str) -> CommandResult:
        folder = str(self.seat.generation(number))
        where = ["--project-directory", folder, "-f", f"{folder}/compose.yaml", "-p", self.seat.name]
        return self._compose(*where, *words)

    def _compose(self, *words: str) -> CommandResult:
        start, environment = compose_program()
        argv = [*start, "compose", "--ansi", "never", "--env-file", "/dev/null", *words]
        return run(argv, COMPOSE_SECONDS, env={**client_environment(), **environment}, keep=self._keep)

    def _remove_leftovers(self) -> None:
        for container in self.containers():
            if LEFTOVER.match(container["Names"][0]) and container["State"] != "running":
                ask("DELETE", f"/containers/{container['Id']}")

    def _remove_duplicate_networks(self) -> None:
        """Remove unused networks of a name that exists twice, as two concurrent starts leave them.

        Compose would fail on the name.
        """
        kept: set[str] = set()
        for network in sorted(self._networks(), key=lambda network: not network.get("Containers")):
            name = network.get("Name", "")
            if name in kept and not network.get("Containers"):
                ask("DELETE", f"/networks/{network['Id']}")
            kept.add(name)

    def remove_unused_networks(self) -> None:
        """Remove networks of the project that none of its containers uses, such as that of an older generation.

        For a network, the engine lists running containers only. So the networks that each container names count, too.
        Raises ProblemError where the engine does not answer.
        """
        of_containers = (container.get("NetworkSettings", {}).get("Networks") or {} for container in self.containers())
        used = {name for networks in of_containers for name in networks}
        for network in self._networks():
            if not network.get("Containers") and network.get("Name") not in used:
                ask("DELETE", f"/networks/{network['Id']}")

    def _networks(self) -> list[dict[str, Any]]:
        """Return the engine's full descriptions of the networks of the project."""
        listed = get("/networks", filters=self._label) or []
        found = (get(f"/networks/{network['Id']}") for network in listed)  # None: it was removed after it was listed
        return [network for network in found if network]

    def containers(self) -> list[dict[str, Any]]:
        """Return the containers of the project as the engine lists them, stopped ones too."""
        return list(get("/containers/json", all="1", filters=self._label) or [])

    def ours(self) -> list[dict[str, Any]]:
        """Return the containers of the seat, none where the whole project belongs to others.

        Raises ProblemError `foreign_project` when the project has containers of others beside those of the seat.
        """
        ours, others = self._split()
        if ours and others:
            raise _foreign_project(self.seat.name, others[0])
        return ours

    def _split(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Return the containers of the project: those of the seat, and those of others, who may use its name."""
        found = [(container, self._is_ours(container["Labels"])) for container in self.containers()]
        return [container for container, own in found if own], [container for container, own in found if not own]

    def _is_ours(self, labels: dict[str, str]) -> bool:
        """Whether these are labels of the seat, and not of one of the same name below another state root."""
        folder = labels.get("com.docker.compose.project.working_dir", "")
        other_root = f"/seats/{self.seat.name}/gens/" in folder and not _is_below(self.seat.generations, folder)
        return labels.get(SEAT_LABEL) == self.seat.name and not other_root

    def check_ours(self) -> None:
        """Raise ProblemError `foreign_project` when a container of the project is not the seat's.

        Compose knows a project by its name alone: to start or remove the seat would replace or end these containers.
        """
        if others := self._split()[1]:
            raise _foreign_project(self.seat.name, others[0])

    def container(self, service: str) -> dict[str, Any] | None:
        """Return the engine's full description of a service's container, None when there is none."""
        return describe_service(self.containers(), service)

    def services(self) -> dict[str, str]:
        """Return the state of each service: running, restarting, healthy, unhealthy, exited or missing."""
        return {service: service_state(container) for service, container in self._described().items()}

    def _described(self) -> dict[str, dict[str, Any] | None]:
        """Return the engine's full description of each service's container; the containers are listed once."""
        listed = self.containers()
        return {service: describe_service(listed, service) for service in SERVICES}

    def wait_healthy(self, deadline: float, report: Report) -> None:
        """Wait until all services are healthy.

        Raises ProblemError `not_healthy` at the deadline (monotonic clock), or when a container keeps restarting.
        """
        with events(self._filter) as wait:
            while True:
                found = self._described()
                states = {service: service_state(container) for service, container in found.items()}
                if set(states.values()) == {"healthy"}:
                    return
                report(", ".join(f"{service} is {state}" for service, state in states.items()))
                if time.monotonic() > deadline or any(map(_keeps_restarting, found.values())):
                    raise self.unhealthy_error(states)
                wait(max(deadline - time.monotonic(), 0.1))

    def stay_healthy(self, seconds: float) -> None:
        """Check for `seconds` that all services stay healthy and none restarts. Raises ProblemError `not_healthy`.

        If `seconds` is CHECK_AGAIN_SECONDS or more, run their health checks once more at the end: the engine runs them
        every five minutes only.
        """
        end = time.monotonic() + seconds
        with events(self._filter) as wait:
            first = {service: _start_of(container) for service, container in self._described().items()}
            while time.monotonic() < end:
                wait(max(end - time.monotonic(), 0))
                found = self._described()
                states = {service: service_state(container) for service, container in found.items()}
                if states != dict.fromkeys(SERVICES, "healthy"):
                    raise self.unhealthy_error(states)
                if first != {service: _start_of(container) for service, container in found.items()}:
                    raise self.unhealthy_error(dict.fromkeys(SERVICES, "restarting"))
        if seconds >= CHECK_AGAIN_SECONDS:
            failed = [service for service in SERVICES if not self._passes(service)]
            if failed:
                raise self.unhealthy_error(dict.fromkeys(failed, "unhealthy"))

    def _passes(self, service: str) -> bool:
        """Run the health check of a service in its container, as the engine does."""
        container = self.container(service)
        if container is None:
            return False
        check = container["Config"]["Healthcheck"]["Test"][1:]  # without CMD
        argv = ["docker", "exec", container["Id"], *check]
        return run(argv, HEALTH_SECONDS, env=client_environment()).code == 0

    def unhealthy_error(self, states: dict[str, str]) -> ProblemError:
        """Return the problem `not_healthy` with the end of the logs."""
        bad = ", ".join(f"{service} is {state}" for service, state in states.items() if state != "healthy")
        return ProblemError(
            "not_healthy",
            f"the seat is not healthy: {bad}",
            f"the end of the containers' logs:\n{self.logs(SHOWN_LINES)}",
            "see failure.log in the folder of the generation for more of the logs",
        )

    def logs(self, lines: int = LOG_LINES, service: str = "") -> str:
        """Return the end of each container's log, or of that of one service.

        The token of the seat is masked: a server may print it.
        """
        try:
            token = read_existing(self.seat.identity / TOKEN) or "\0"
        except OSError as error:
            return f"the logs are withheld, as the token to mask in them cannot be read: {error}"
        texts = []
        for container in self.containers():
            if service and container["Labels"].get("com.docker.compose.service") != service:
                continue
            ran = run(["docker", "logs", "--tail", str(lines), container["Id"]], 20, env=client_environment())
            texts.append(f"{container['Names'][0]}\n{ran.out}{ran.err}")
        return printable("\n".join(texts).replace(token, "…"))


def describe_service(containers: list[dict[str, Any]], service: str) -> dict[str, Any] | None:
    """Return the engine's full description of a service's container among those of its project, None without one."""
    for container in containers:
        ours = container["Labels"].get("com.docker.compose.service") == service
        if ours and not LEFTOVER.match(container["Names"][0]):
            found: dict[str, Any] | None = get(f"/containers/{container['Id']}/json")
            return found
    return None


def exec_python(container: str, user: str) -> list[str]:
    """Return the command that runs a program from stdin with the container's Python, as `user` (UID:GID).

    Nothing of the home takes part: -I leaves out the user's packages, usercustomize.py, PYTHON* and the current folder.
    """
    isolated = ["--workdir", "/", "--env", "HOME=/nonexistent"]
    return ["docker", "exec", "-i", "--user", user, *isolated, container, "python3", "-I", "-"]


def service_state(container: dict[str, Any] | None) -> str:
    """Return the state of a service from the engine's description of its container."""
    if container is None:
        return "missing"
    state = container["State"]
    if state["Status"] != "running":
        return "exited" if state["Status"] in ("exited", "dead") else str(state["Status"])
    health = str((state.get("Health") or {}).get("Status", "none"))
    if health in ("none", "starting"):
        return "restarting" if container.get("RestartCount") else "running"
    return health


def _is_below(folder: Path, path: str) -> bool:
    return os.path.realpath(path).startswith(f"{os.path.realpath(str(folder))}/")


def _start_of(container: dict[str, Any] | None) -> tuple[Any, ...]:
    return (container["Id"], container["State"]["StartedAt"]) if container else ()


def _keeps_restarting(container: dict[str, Any] | None) -> bool:
    return container is not None and container.get("RestartCount", 0) >= GIVE_UP_AFTER_RESTARTS


def _foreign_project(name: str, container: dict[str, Any]) -> ProblemError:
    folder = container["Labels"].get("com.docker.compose.project.working_dir", "an unknown folder")
    return ProblemError(
        "foreign_project",
        f"the compose project {name} on the node has a container that is not the seat's: {container['Names'][0][1:]},"
        f" started from {folder}",
        "a seat is a compose project of this name: to start it would replace these containers, to stop it end them",
        f"find out who started it (docker compose -p {name} ps -a), and have it stopped, or started by another name",
    )


def _compose_fault(code: str, what: str) -> ProblemError:
    return ProblemError(
        code,
        what,
        "docker compose on the node starts the containers of a seat",
        "run it on the node, in the folder of the generation: docker compose -f compose.yaml config",
    )
