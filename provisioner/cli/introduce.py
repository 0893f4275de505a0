"""Where the journeys meet the hands: the only module that knows both the flags and the adapters they end in."""

from pathlib import Path

from provisioner.adapters import compatdata, resources
from provisioner.adapters.ansible.fleet import AnsibleFleet
from provisioner.adapters.ansible.settings import Settings
from provisioner.adapters.engine.builder import EngineBuilder
from provisioner.adapters.engine.docker_engine import DockerEngine
from provisioner.adapters.lab.directory import LabDirectory
from provisioner.adapters.registry.client import Registry
from provisioner.adapters.templates import read_templates
from provisioner.cli.options import Reach
from provisioner.domain.catalog import Catalog
from provisioner.domain.event import OnEvent
from provisioner.domain.lock import Lockfile
from provisioner.domain.selection import Selection
from provisioner.domain.tags import read_facts
from provisioner.workflow.hands import Probed
from provisioner.workflow.lock import Locked, choose, make_lock
from provisioner.workflow.plan import Materials


def fleet(directory: LabDirectory, reach: Reach, verbosity: int, on_event: OnEvent) -> AnsibleFleet:
    """`verbosity` as -v counts it; Ansible speaks from the second on."""
    settings = Settings(
        inventory=directory.inventory,
        forks=reach.forks or directory.lab.rollout.forks,
        vault_password_file=reach.vault_password_file,
        extra_vars=reach.extra_vars,
        verbosity=max(verbosity - 1, 0),
    )
    return AnsibleFleet(settings, on_event, limit=reach.limit)


def mirror(directory: LabDirectory, on_event: OnEvent) -> Registry:
    wish = directory.lab.mirror
    ca = directory.below(wish.ca)
    return Registry(wish.address, ca=ca, plain_http=wish.plain_http, kind=wish.kind, on_event=on_event)


def registry(directory: LabDirectory, on_event: OnEvent) -> Registry:
    """The lab's own."""
    wish = directory.lab.registry
    return Registry(wish.address, ca=directory.below(wish.ca), plain_http=wish.plain_http, on_event=on_event)


def builder(directory: LabDirectory, lookup: Registry, on_event: OnEvent) -> EngineBuilder:
    data, lab = compatdata.load_for(directory.path), directory.lab
    authorities = {wish.address: directory.path / wish.ca for wish in (lab.mirror, lab.registry) if wish.ca is not None}
    return EngineBuilder(
        lab.registry,
        lab.image,
        lookup=lookup,
        engine=lambda: DockerEngine.connect(authorities, on_event),
        templates=templates(directory.path),
        facts=lambda image: read_facts(image, data),
        on_event=on_event,
    )


def templates(lab: Path | None) -> dict[str, str]:
    return read_templates(resources.templates(), lab)


def choice(directory: LabDirectory, probed: Probed, on_event: OnEvent) -> tuple[Selection, Catalog]:
    """What a lock made now would be made of; nothing is built and nothing is written."""
    with mirror(directory, on_event) as offered:
        return choose(directory.lab, probed, offered, compatdata.load_for(directory.path), on_event)


def new_lock(directory: LabDirectory, probed: Probed, on_event: OnEvent, *, torch: str | None = None) -> Locked:
    """Choose among what the mirror has, and pin it; nothing is written here but the lab image to its registry."""
    data = compatdata.load_for(directory.path)
    with mirror(directory, on_event) as offered, registry(directory, on_event) as own:
        chosen = choose(directory.lab, probed, offered, data, on_event, torch=torch)
        hand = builder(directory, own, on_event)
        return make_lock(directory.lab, probed, chosen, hand, data, registry_ca=directory.registry_ca)


def materials(directory: LabDirectory, lock: Lockfile) -> Materials:
    data = compatdata.load_for(directory.path)
    return Materials(directory.lab, lock, data, templates(directory.path), directory.keys)
