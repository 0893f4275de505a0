"""A seat's containers, through the node's own compose: started, stopped, looked at."""

from __future__ import annotations

import re
import time
from typing import Any, Sequence

from ansible.module_utils.provisioner.base.command import CommandResult, run
from ansible.module_utils.provisioner.base.files import read
from ansible.module_utils.provisioner.base.problem import ProblemError, printable
from ansible.module_utils.provisioner.base.progress import Report
from ansible.module_utils.provisioner.docker.engine import ask, client_environment, get
from ansible.module_utils.provisioner.seat.identity import TOKEN
from ansible.module_utils.provisioner.seat.seat import Seat

SERVICES = ("jupyter", "ssh")
COMPOSE_SECONDS = 300  # more than a stop's grace period and a start together
GIVE_UP_AFTER_RESTARTS = 3
LOG_LINES = 400  # kept in failure.log
SHOWN_LINES = 15  # in what a person is told
# Compose recreates a container under such a name and renames it at the end; killed between, it meets its own leftover.
LEFTOVER = re.compile(r"/[0-9a-f]{12}_")


class Compose:
    """`keep` are descriptors that compose inherits: a lock held that way outlives us as long as compose works on."""

    def __init__(self, seat: Seat, keep: Sequence[int] = ()) -> None:
        self.seat = seat
        self._keep = keep
        self._label = {"label": [f"com.docker.compose.project={seat.name}"]}

    def check(self, number: int) -> None:
        """Raises ProblemError where the node's compose does not take the file."""
        ran = self._run(number, "config", "-q")
        if ran.code != 0:
            raise _compose_fault("compose_refused", f"the node's compose refuses the seat's file: {ran.message}")

    def up(self, number: int) -> None:
        """No pull, no build, no answer to a question: without an answer compose keeps every volume as it is."""
        self._remove_leftovers()
        self._remove_duplicate_networks()
        ran = self._run(number, "up", "-d", "--remove-orphans", "--no-build", "--pull", "never")
        if ran.code != 0:
            raise _compose_fault("start_failed", f"the containers could not be started: {ran.message}")

    def down(self) -> None:
        """All that carries the seat's label, whatever file it came from. Volumes stay."""
        ran = self._compose("-p", self.seat.name, "down", "--remove-orphans")
        if ran.code != 0:
            raise _compose_fault("stop_failed", f"the containers could not be removed: {ran.message}")

    def _run(self, number: int, *words: str) -> CommandResult:
        folder = str(self.seat.generation(number))
        where = ["--project-directory", folder, "-f", f"{folder}/compose.yaml", "-p", self.seat.name]
        return self._compose(*where, *words)

    def _compose(self, *words: str) -> CommandResult:
        argv = ["docker", "compose", "--ansi", "never", "--env-file", "/dev/null", *words]
        return run(argv, COMPOSE_SECONDS, env=client_environment(), keep=self._keep)

    def _remove_leftovers(self) -> None:
        for container in self.containers():
            if LEFTOVER.match(container["Names"][0]) and container["State"] != "running":
                ask("DELETE", f"/containers/{container['Id']}")

    def _remove_duplicate_networks(self) -> None:
        """Networks of one name, as two starts at the same time leave them: compose would use neither."""
        found = [get(f"/networks/{network['Id']}") or {} for network in get("/networks", filters=self._label) or []]
        kept: set[str] = set()
        for network in sorted(found, key=lambda network: not network.get("Containers")):
            name = network.get("Name", "")
            if name in kept and not network.get("Containers"):
                ask("DELETE", f"/networks/{network['Id']}")
            kept.add(name)

    def containers(self) -> list[dict[str, Any]]:
        return list(get("/containers/json", all="1", filters=self._label) or [])

    def container(self, service: str) -> dict[str, Any] | None:
        """The engine's whole account of a service's container."""
        for container in self.containers():
            ours = container["Labels"].get("com.docker.compose.service") == service
            if ours and not LEFTOVER.match(container["Names"][0]):
                found: dict[str, Any] | None = get(f"/containers/{container['Id']}/json")
                return found
        return None

    def services(self) -> dict[str, str]:
        """Each as running, restarting, healthy, unhealthy, exited or missing."""
        return {service: service_state(self.container(service)) for service in SERVICES}

    def wait_healthy(self, deadline: float, report: Report) -> None:
        """Until all services are healthy. Raises ProblemError at the deadline (monotonic), or when a start is hopeless."""
        while True:
            found = {service: self.container(service) for service in SERVICES}
            states = {service: service_state(container) for service, container in found.items()}
            if set(states.values()) == {"healthy"}:
                return
            report(", ".join(f"{service} is {state}" for service, state in states.items()))
            if time.monotonic() > deadline or any(map(_keeps_restarting, found.values())):
                raise self.unhealthy_error(states)
            time.sleep(0.5)

    def stay_healthy(self, seconds: float) -> None:
        """Raises ProblemError where a service does not stay healthy, or starts anew."""
        first = {service: _start_of(self.container(service)) for service in SERVICES}
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(min(1.0, max(end - time.monotonic(), 0)))
            if self.services() != dict.fromkeys(SERVICES, "healthy"):
                raise self.unhealthy_error(self.services())
            if first != {service: _start_of(self.container(service)) for service in SERVICES}:
                raise self.unhealthy_error(dict.fromkeys(SERVICES, "restarting"))

    def unhealthy_error(self, states: dict[str, str]) -> ProblemError:
        bad = ", ".join(f"{service} is {state}" for service, state in states.items() if state != "healthy")
        return ProblemError(
            "not_healthy",
            f"the seat is not healthy: {bad}",
            f"the end of the containers' logs:\n{self.logs(SHOWN_LINES)}",
            "failure.log beside the generation's compose.yaml has more of the logs",
        )

    def logs(self, lines: int = LOG_LINES) -> str:
        """The end of each container's. The token is the seat's secret, and a server may print it."""
        token = read(self.seat.identity / TOKEN) or "\0"
        said = []
        for container in self.containers():
            ran = run(["docker", "logs", "--tail", str(lines), container["Id"]], 20, env=client_environment())
            said.append(f"{container['Names'][0]}\n{ran.out}{ran.err}")
        return printable("\n".join(said).replace(token, "…"))


def service_state(container: dict[str, Any] | None) -> str:
    if container is None:
        return "missing"
    state = container["State"]
    if state["Status"] != "running":
        return "exited" if state["Status"] in ("exited", "dead") else str(state["Status"])
    health = str((state.get("Health") or {}).get("Status", "none"))
    if health in ("none", "starting"):
        return "restarting" if container.get("RestartCount") else "running"
    return health


def _start_of(container: dict[str, Any] | None) -> tuple[Any, ...]:
    return (container["Id"], container["State"]["StartedAt"]) if container else ()


def _keeps_restarting(container: dict[str, Any] | None) -> bool:
    return container is not None and container.get("RestartCount", 0) >= GIVE_UP_AFTER_RESTARTS


def _compose_fault(code: str, what: str) -> ProblemError:
    return ProblemError(
        code,
        what,
        "a seat is two containers that the node's own docker compose starts",
        "run the same on the node: docker compose -f compose.yaml config, in the generation's folder",
    )
