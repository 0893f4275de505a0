"""Prepare the lab's registry before its nodes: set it up where lab.yml says `managed`, else check that it answers."""

from pathlib import Path
from typing import NamedTuple

from provisioner.adapters.ansible.inventory import registry_host
from provisioner.adapters.ansible.prepare import local, registry_preparer
from provisioner.adapters.ansible.settings import Settings
from provisioner.adapters.lab.directory import MANAGED_CA, LabDirectory
from provisioner.adapters.registry.htpasswd import make_push_login
from provisioner.adapters.state.files import write_text
from provisioner.adapters.state.push_logins import PushLogin, PushLogins
from provisioner.adapters.user import holder
from provisioner.cli.prepare_context import PrepareContext
from provisioner.cli.wiring import registry
from provisioner.domain.rollout.preparation import READY, RegistryOrder, RegistryPreparation, registry_order
from provisioner.domain.values.event import OnEvent
from provisioner.domain.values.problem import Problem, ProblemError
from provisioner.domain.values.reference import ImageReference


class RegistryPlace(NamedTuple):
    """The host of a managed registry, and the Ansible settings to reach it."""

    host: str
    settings: Settings
    is_local: bool


def prepare_registry(work: PrepareContext) -> RegistryPreparation | None:
    """Prepare the registry; None where the user did not agree. Without a journal nothing is changed."""
    if not work.directory.lab.registry.managed:
        with work.progress() as on_event:
            return _check_access(work.directory, on_event)
    place = locate_registry(work)
    host, login = place.host, PushLogins().find(work.directory.lab.registry.address)
    order = registry_order(work.directory.lab, work.run, is_local=place.is_local)
    order = order.model_copy(update={"push_login": "" if login is None else login.entry})
    with work.progress() as on_event:
        found = registry_preparer(place.settings, on_event).survey({host: order})[host]
    if found.state == "lacking" and work.journal is not None:
        steps = "".join(f"\n  - {words}" for words in found.changes)
        if not work.confirm(f"Set the registry up on {host}?{steps}\n"):
            return None
        order = order.model_copy(update={"push_login": _save_login(order, login).entry})
        with work.progress() as on_event:
            found = registry_preparer(place.settings, on_event).prepare({host: order})[host]
    found = found.model_copy(update={"address": work.directory.lab.registry.address})
    return found if work.journal is None else _write_ca(work, found)


def locate_registry(work: PrepareContext) -> RegistryPlace:
    """Return where a managed registry runs: on the host that the inventory names, else on the control machine."""
    host = registry_host(work.settings)
    if host is None:
        return RegistryPlace(*local(work.settings), is_local=True)
    return RegistryPlace(host.name, work.settings, is_local=False)


def _save_login(order: RegistryOrder, login: PushLogin | None) -> PushLogin:
    """Return the login for pushes, made where there is none, as saved with the address of the order.

    It is saved before the registry accepts it: a run that is interrupted between the two leaves one that is unused.
    """
    if login is None:
        login = make_push_login(order.address, order.push_address, holder())
    login = login.model_copy(update={"address": order.push_address})
    PushLogins().save(login)
    return login


def _write_ca(work: PrepareContext, found: RegistryPreparation) -> RegistryPreparation:
    """Write the registry's CA certificate into the lab. A file that lab.yml names is compared and not overwritten."""
    if found.ca is None or found.state not in READY or found.ca == work.directory.registry_ca:
        return found
    path, named = work.directory.path / MANAGED_CA, work.directory.lab.registry.ca
    if named not in {None, MANAGED_CA}:
        problem = _another_ca(work.directory.path / str(named), path)
        found = found.model_copy(update={"state": "failed", "problems": (problem,)})
    write_text(path, found.ca or "")
    return found


def _check_access(directory: LabDirectory, on_event: OnEvent) -> RegistryPreparation:
    """Check that a registry that is not managed answers this machine and accepts its credentials."""
    settings = directory.lab.registry
    with registry(directory, on_event) as own:
        try:
            own.exists(ImageReference(registry=settings.address, repository=settings.repository, tag="latest"))
        except ProblemError as error:
            return RegistryPreparation(node="", address=settings.address, state="failed", problems=error.problems)
    return RegistryPreparation(node="", address=settings.address, state="ready")


def _another_ca(named: Path, path: Path) -> Problem:
    return Problem(
        "another_ca",
        f"registry.ca is {named}, which is not the CA of the registry that was set up",
        "a client that trusts only that file cannot use the registry",
        f"remove registry.ca from lab.yml: without it {path} is used, which now holds the right certificate",
    )
