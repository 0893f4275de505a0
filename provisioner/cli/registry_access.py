"""Reach the two processes of a managed registry: nodes read from one, and this control machine pushes to the other."""

import os
import shlex
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from provisioner.adapters.engine.docker_engine import DockerEngine, PushAccess
from provisioner.adapters.lab.directory import LabDirectory
from provisioner.adapters.registry.client import Registry
from provisioner.adapters.registry.transport import RetryPolicy
from provisioner.adapters.state.push_logins import PushLogin, PushLogins
from provisioner.domain.values.event import OnEvent
from provisioner.domain.values.problem import Problem, ProblemError
from provisioner.domain.values.proxy import is_loopback
from provisioner.domain.values.reference import ImageReference

_POLICY = RetryPolicy(attempts=2)  # a host that is down delays a status by seconds, not by half a minute


def connect_engine(directory: LabDirectory, authorities: Mapping[str, Path], on_event: OnEvent) -> DockerEngine:
    """Connect to the engine that builds and pushes lab images. `authorities`: file of the CA by registry.

    Raises ProblemError where no engine answers, or where a managed registry takes no pushes from this machine.
    """
    settings = directory.lab.registry
    if not settings.managed:
        return DockerEngine.connect(authorities, on_event)
    login = PushLogins().find(settings.address)
    if login is None:
        raise ProblemError(_no_push_login(directory))
    verify = partial(_verify_pushes, directory, login)
    verify()  # before a build, which takes minutes
    ca = directory.below(settings.ca)
    if ca is not None and not is_loopback(login.address.rpartition(":")[0]):
        authorities = {**authorities, login.address: ca}
    return DockerEngine.connect(authorities, on_event, {settings.address: PushAccess(login, verify)})


def _verify_pushes(directory: LabDirectory, login: PushLogin) -> None:
    if fault := _find_fault(directory, login.address, login):
        raise ProblemError(_push_unavailable(directory, login, fault))


def find_registry_problems(directory: LabDirectory) -> tuple[Problem, ...]:
    """Return which process of a managed registry does not serve this machine, and why; empty for other registries."""
    settings = directory.lab.registry
    if not settings.managed:
        return ()
    found = []
    if fault := _find_fault(directory, settings.address):
        found.append(_read_unavailable(directory, fault))
    login = PushLogins().find(settings.address)
    if login is not None and (fault := _find_fault(directory, login.address, login)):
        found.append(_push_unavailable(directory, login, fault))
    return tuple(found)


def _find_fault(directory: LabDirectory, address: str, login: PushLogin | None = None) -> str:
    """Return why a process does not serve this machine, which verifies its certificate; an empty string if it does."""
    settings = directory.lab.registry
    environment = os.environ | ({} if login is None else {"DOCKER_AUTH_CONFIG": login.docker_config()})
    image = ImageReference(registry=address, repository=settings.repository, tag="latest")
    ca = directory.below(settings.ca)
    with Registry(address, ca=ca, environment=environment, policy=_POLICY) as process:
        try:
            process.exists(image)
        except ProblemError as error:
            return error.problems[0].what
    return ""


def _prepare(directory: LabDirectory) -> str:
    return f"provision prepare {shlex.quote(str(directory.path))}"


def _no_push_login(directory: LabDirectory) -> Problem:
    return Problem(
        "no_push_login",
        f"this control machine has no login to push to {directory.lab.registry.address}",
        "a registry that `provision prepare` sets up takes pushes only from control machines on which that was run",
        _prepare(directory),
    )


def _read_unavailable(directory: LabDirectory, fault: str) -> Problem:
    return Problem(
        "registry_unavailable",
        f"the registry that serves nodes, at {directory.lab.registry.address}, cannot be used: {fault}",
        "nodes pull from it; running seats are not affected",
        _prepare(directory),
    )


def _push_unavailable(directory: LabDirectory, login: PushLogin, fault: str) -> Problem:
    return Problem(
        "push_unavailable",
        f"the registry that takes pushes, at {login.address}, cannot be used: {fault}",
        f"lab images are pushed to it; nodes pull from another process, at {directory.lab.registry.address}",
        f"{_prepare(directory)}; a firewall has to let this machine reach {login.address}",
    )
