"""The lab's registry before its nodes: set up where lab.yml says that it is managed, and else proved to answer."""

from pathlib import Path

from provisioner.adapters.ansible.inventory import registry_host
from provisioner.adapters.ansible.prepare import local, registry_preparer
from provisioner.adapters.ansible.settings import Settings
from provisioner.adapters.lab.directory import MANAGED_CA, LabDirectory
from provisioner.adapters.state.files import write_text
from provisioner.cli.prepare_context import Work
from provisioner.cli.wiring import registry
from provisioner.domain.rollout.preparation import READY, RegistryPreparation, registry_order
from provisioner.domain.values.event import OnEvent
from provisioner.domain.values.problem import Problem, ProblemError
from provisioner.domain.values.reference import ImageReference


def lab_registry(work: Work) -> RegistryPreparation | None:
    """None where a person was asked and did not agree. Without a journal nothing is changed."""
    if not work.directory.lab.registry.managed:
        with work.telling() as on_event:
            return _prove(work.directory, on_event)
    host, settings = where(work)
    order = registry_order(work.directory.lab, work.run)
    with work.telling() as on_event:
        found = registry_preparer(settings, on_event).survey({host: order})[host]
    if found.state == "lacking" and work.journal is not None:
        steps = "".join(f"\n  - {words}" for words in found.changes)
        if not work.agreed(f"Set the registry up on {host}?{steps}\n"):
            return None
        with work.telling() as on_event:
            found = registry_preparer(settings, on_event).do({host: order})[host]
    found = found.model_copy(update={"address": work.directory.lab.registry.address})
    return found if work.journal is None else _with_ca(work, found)


def where(work: Work) -> tuple[str, Settings]:
    """The host of a registry that is managed, and how Ansible gets there."""
    host = registry_host(work.settings)
    return local(work.settings) if host is None else (host.name, work.settings)


def _with_ca(work: Work, found: RegistryPreparation) -> RegistryPreparation:
    """Its authority, where this lab looks for it; a file that a person named is theirs, and only held against it."""
    if found.ca is None or found.state not in READY or found.ca == work.directory.registry_ca:
        return found
    path, named = work.directory.path / MANAGED_CA, work.directory.lab.registry.ca
    if named not in {None, MANAGED_CA}:
        problem = _another_ca(work.directory.path / str(named), path)
        found = found.model_copy(update={"state": "failed", "problems": (problem,)})
    write_text(path, found.ca or "")
    return found


def _prove(directory: LabDirectory, on_event: OnEvent) -> RegistryPreparation:
    """A registry that was there: it answers to this machine, and lets it in."""
    wish = directory.lab.registry
    with registry(directory, on_event) as own:
        try:
            own.exists(ImageReference(registry=wish.address, repository=wish.repository, tag="latest"))
        except ProblemError as refused:
            return RegistryPreparation(node="", address=wish.address, state="failed", problems=refused.problems)
    return RegistryPreparation(node="", address=wish.address, state="ready")


def _another_ca(named: Path, path: Path) -> Problem:
    return Problem(
        "another_ca",
        f"registry.ca is {named}, which is not the authority of the registry that was set up",
        "nothing that trusts only that file could use the registry",
        f"take registry.ca out of lab.yml: without it {path} is taken, which now holds the right one",
    )
