"""Where the journeys meet the hands: the only module that knows both the flags and the adapters they end in."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path

from provisioner.adapters import compatdata, resources
from provisioner.adapters.ansible.fleet import AnsibleFleet
from provisioner.adapters.ansible.settings import Settings
from provisioner.adapters.engine.builder import EngineBuilder
from provisioner.adapters.engine.docker_engine import DockerEngine
from provisioner.adapters.lab.directory import LabDirectory
from provisioner.adapters.mirror import profiles
from provisioner.adapters.mirror.feed import read_job
from provisioner.adapters.mirror.history import MirrorHistory
from provisioner.adapters.registry.client import Registry
from provisioner.adapters.templates import read_templates
from provisioner.cli.options import Reach
from provisioner.domain.catalog import Catalog
from provisioner.domain.event import OnEvent
from provisioner.domain.feed import FeedReading
from provisioner.domain.lab import MirrorKind
from provisioner.domain.lock import Lockfile
from provisioner.domain.selection import Selection
from provisioner.domain.tags import read_facts
from provisioner.workflow.hands import Probed
from provisioner.workflow.lock import Locked, choose, make_lock
from provisioner.workflow.offered import Wanted, World
from provisioner.workflow.plan import Materials


def fleet(directory: LabDirectory, reach: Reach, verbosity: int, on_event: OnEvent) -> AnsibleFleet:
    return AnsibleFleet(settings(directory, reach, verbosity), on_event, limit=reach.limit)


def settings(directory: LabDirectory, reach: Reach, verbosity: int) -> Settings:
    """`verbosity` as -v counts it; Ansible speaks from the second on."""
    return Settings(
        inventory=directory.inventory,
        forks=reach.forks or directory.lab.rollout.forks,
        vault_password_file=reach.vault_password_file,
        extra_vars=reach.extra_vars,
        verbosity=max(verbosity - 1, 0),
    )


def mirror(directory: LabDirectory, on_event: OnEvent, kind: MirrorKind | None = None) -> Registry:
    wish = directory.lab.mirror
    ca = directory.below(wish.ca)
    return Registry(wish.address, ca=ca, plain_http=wish.plain_http, kind=kind or wish.kind, on_event=on_event)


def wanted(directory: LabDirectory, torch: str | None, platform: str) -> Wanted:
    """Where lab.yml does not say what kind of mirror it is, hearsay about it does."""
    wish, image = directory.lab.mirror, directory.lab.image
    profile = profiles.load().of(wish.address)
    hearsay = None if profile is None or "kind" in wish.model_fields_set else profile.kind
    kind = hearsay or wish.kind
    is_public = kind in {"lazy", "redirector"} or (profile is not None and profile.public)
    return Wanted(wish, kind, torch or image.torch, image.flavour, platform, is_public)


@contextmanager
def world(directory: LabDirectory, wish: Wanted, now: datetime, on_event: OnEvent) -> Iterator[World]:
    """Everything that a look at the mirror asks, open for one look: a registry remembers what it was once refused."""
    with ExitStack() as stack:
        above = _upstream(directory, on_event)
        yield World(
            mirror=stack.enter_context(mirror(directory, on_event, wish.kind)),
            upstream=None if above is None else stack.enter_context(above),
            feed=_feed(directory, now),
            memory=MirrorHistory(),
            data=compatdata.load(),
            profile=profiles.load().of(wish.mirror.address),
        )


def _upstream(directory: LabDirectory, on_event: OnEvent) -> Registry | None:
    wish = directory.lab.mirror.upstream
    if wish is None:
        return None
    ca = directory.below(wish.ca)
    return Registry(wish.address, ca=ca, plain_http=wish.plain_http, connections=2, on_event=on_event)


def _feed(directory: LabDirectory, now: datetime) -> FeedReading | None:
    wish = directory.lab.mirror
    if wish.feed is None:
        return None
    url = wish.feed.url
    place = url if url.startswith(("http://", "https://")) else str(directory.path / url)
    return read_job(place, wish.feed.job, wish.feed.format, now, ca=directory.below(wish.ca))


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
