"""Where the journeys meet the hands: the only module that knows both the flags and the adapters they end in."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from provisioner.adapters import resources
from provisioner.adapters.ansible.fleet import AnsibleFleet
from provisioner.adapters.ansible.play import connections
from provisioner.adapters.ansible.settings import Settings
from provisioner.adapters.engine.builder import EngineBuilder
from provisioner.adapters.engine.docker_engine import DockerEngine
from provisioner.adapters.lab import compatibility_data
from provisioner.adapters.lab.directory import LabDirectory
from provisioner.adapters.mirror import profiles
from provisioner.adapters.mirror.feed import read_job
from provisioner.adapters.mirror.history import MirrorHistory
from provisioner.adapters.registry.client import Registry
from provisioner.adapters.templates import read_templates
from provisioner.cli.options import AnsibleOptions
from provisioner.domain.compatibility.tags import read_facts
from provisioner.domain.forecast.feed import FeedReading
from provisioner.domain.lab.lab import ON_DEMAND, MirrorKind
from provisioner.domain.lab.lab import Registry as RegistrySettings
from provisioner.domain.lab.lab import Upstream as UpstreamSettings
from provisioner.domain.lab.lock import Lockfile
from provisioner.domain.registry.catalog import Catalog
from provisioner.domain.registry.copy_commands import Place
from provisioner.domain.rollout.order import OrderedImage
from provisioner.domain.selection.selection import Selection
from provisioner.domain.values.event import OnEvent
from provisioner.workflow.lock.better_tag import Around
from provisioner.workflow.lock.lock import Locked, choose, make_lock
from provisioner.workflow.mirror.mirror_listing import Wanted, World
from provisioner.workflow.protocols import Probed
from provisioner.workflow.rollout.plan import PlanInputs, PreparedPlan
from provisioner.workflow.rollout.preflight import confirm, to_pull

_FEW = 8  # connections: campus and public mirrors ban clients that open many (tuna/issues#1922, #2354)
_ASK = "ask the lab's admin to run `provision lock` and to publish lab.lock again"


@contextmanager
def fleet_factory(
    directory: LabDirectory, ansible: AnsibleOptions, verbosity: int
) -> Iterator[Callable[[OnEvent], AnsibleFleet]]:
    """Makes fleets that tell their news to what they are given, and share their connections while the block lasts."""
    with connections() as shared:
        yield lambda on_event: fleet(directory, ansible, verbosity, on_event, shared)


def fleet(
    directory: LabDirectory, ansible: AnsibleOptions, verbosity: int, on_event: OnEvent, shared: Path | None = None
) -> AnsibleFleet:
    return AnsibleFleet(settings(directory, ansible, verbosity), on_event, limit=ansible.limit, shared=shared)


def settings(directory: LabDirectory, ansible: AnsibleOptions, verbosity: int) -> Settings:
    """`verbosity` as -v counts it; Ansible speaks from the second on."""
    return Settings(
        inventory=directory.inventory,
        forks=ansible.forks or directory.lab.rollout.forks,
        vault_password_file=ansible.vault_password_file,
        extra_vars=ansible.extra_vars,
        verbosity=max(verbosity - 1, 0),
    )


def mirror(directory: LabDirectory, on_event: OnEvent, *, fresh: bool = False) -> Registry:
    """`fresh`: nothing that was seen of it before counts."""
    wish = directory.lab.mirror
    return Registry(
        wish.address,
        ca=directory.below(wish.ca),
        plain_http=wish.plain_http,
        kind=kind_of(directory),
        connections=_FEW if is_public(directory) else None,
        on_event=on_event,
        remembered=0 if fresh else 60 * wish.cache_minutes,
    )


def kind_of(directory: LabDirectory) -> MirrorKind:
    """Where lab.yml does not say what kind of mirror it is, hearsay about it does."""
    wish = directory.lab.mirror
    profile = profiles.load().of(wish.address)
    hearsay = None if profile is None or "kind" in wish.model_fields_set else profile.kind
    return hearsay or wish.kind


def is_public(directory: LabDirectory) -> bool:
    profile = profiles.load().of(directory.lab.mirror.address)
    return kind_of(directory) in {"lazy", "redirector"} or (profile is not None and profile.public)


def is_sparing(directory: LabDirectory) -> bool:
    """Whoever asks a cache, or a mirror that counts, for hundreds of manifests makes it fetch them, or is shut out.

    Elsewhere the manifests are read: the names of NGC's tags say too little to go by.
    """
    profile = profiles.load().of(directory.lab.mirror.address)
    return kind_of(directory) in ON_DEMAND or (profile is not None and profile.images != "yes")


def wanted(directory: LabDirectory, torch: str | None, platform: str) -> Wanted:
    wish, image = directory.lab.mirror, directory.lab.image
    spec = torch or image.torch
    return Wanted(wish, kind_of(directory), spec, image.flavour, platform, is_public(directory), is_sparing(directory))


@contextmanager
def world(
    directory: LabDirectory, wish: Wanted, now: datetime, on_event: OnEvent, *, fresh: bool = False
) -> Iterator[World]:
    """Everything that a look at the mirror asks, open for one look: a registry remembers what it was once refused."""
    with mirror(directory, on_event, fresh=fresh) as offered, upstream(directory, on_event) as above:
        yield World(
            mirror=offered,
            upstream=above,
            feed=_feed(directory, now),
            memory=MirrorHistory(),
            data=compatibility_data.load(),
            profile=profiles.load().of(wish.mirror.address),
        )


@contextmanager
def upstream(directory: LabDirectory, on_event: OnEvent) -> Iterator[Registry | None]:
    """What the mirror copies, where lab.yml names it: few connections, since it is somebody else's."""
    wish = directory.lab.mirror.upstream
    if wish is None:
        yield None
        return
    ca = directory.below(wish.ca)
    with Registry(wish.address, ca=ca, plain_http=wish.plain_http, connections=2, on_event=on_event) as above:
        yield above


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


def recheck(directory: LabDirectory, images: Sequence[OrderedImage], on_event: OnEvent) -> None:
    """Raises ProblemError where what a node would pull is not on the lab's own registry now."""
    with registry(directory, on_event) as shelf:
        confirm(images, shelf, on_event, again=f"provision lock {directory.path}")


def recheck_own(lock: Lockfile, prepared: PreparedPlan, on_event: OnEvent) -> None:
    """The same for whoever has only the lock. What cannot be asked from here is left to the pull itself."""
    with tempfile.NamedTemporaryFile("w", prefix="provisioner-ca-", suffix=".pem") as file:
        file.write(lock.registry_ca or "")
        file.flush()
        address, ca = lock.images[0].lab.partition("/")[0], Path(file.name) if lock.registry_ca else None
        with Registry(address, ca=ca, on_event=on_event) as shelf:
            confirm(to_pull(prepared), shelf, on_event, again=_ASK, certain=True)


def builder(directory: LabDirectory, lookup: Registry, on_event: OnEvent) -> EngineBuilder:
    data, lab = compatibility_data.load_for(directory.path), directory.lab
    named = {wish.address: wish.ca for wish in (lab.mirror.upstream, lab.mirror, lab.registry) if wish is not None}
    authorities = {address: directory.path / ca for address, ca in named.items() if ca is not None}
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


def around(directory: LabDirectory, above: Registry | None, own: Registry) -> Around:
    """`own` is the lab's registry; where that is the mirror, it has been looked at already."""
    lab = directory.lab
    is_mirror = lab.registry.address == lab.mirror.address
    there = lab.mirror.upstream
    return Around(
        above,
        None if is_mirror else own,
        None if there is None else _place(directory, there),
        _place(directory, lab.registry),
        str(directory.path),
    )


def _place(directory: LabDirectory, wish: UpstreamSettings | RegistrySettings) -> Place:
    ca = directory.below(wish.ca)
    return Place(address=wish.address, ca=ca and str(ca.absolute()), plain_http=wish.plain_http)


def choice(
    directory: LabDirectory, probed: Probed, on_event: OnEvent, *, fresh: bool = False
) -> tuple[Selection, Catalog]:
    """What a lock made now would be made of; nothing is built and nothing is written."""
    with registry(directory, on_event) as own:
        return _chosen(directory, probed, own, on_event, fresh=fresh)


def new_lock(
    directory: LabDirectory, probed: Probed, on_event: OnEvent, *, torch: str | None = None, fresh: bool = False
) -> Locked:
    """Choose among what the mirror has, and pin it; nothing is written here but the lab image to its registry."""
    data = compatibility_data.load_for(directory.path)
    with registry(directory, on_event) as own:
        chosen = _chosen(directory, probed, own, on_event, torch=torch, fresh=fresh)
        hand = builder(directory, own, on_event)
        return make_lock(directory.lab, probed, chosen, hand, data, registry_ca=directory.registry_ca)


def _chosen(  # noqa: PLR0913
    directory: LabDirectory,
    probed: Probed,
    own: Registry,
    on_event: OnEvent,
    *,
    torch: str | None = None,
    fresh: bool,
) -> tuple[Selection, Catalog]:
    with mirror(directory, on_event, fresh=fresh) as offered, upstream(directory, on_event) as above:
        return choose(
            directory.lab,
            probed,
            offered,
            compatibility_data.load_for(directory.path),
            on_event,
            torch=torch,
            upstream=above,
            around=around(directory, above, own),
            sparing=is_sparing(directory),
        )


def materials(directory: LabDirectory, lock: Lockfile) -> PlanInputs:
    data = compatibility_data.load_for(directory.path)
    return PlanInputs(directory.lab, lock, data, templates(directory.path), directory.keys)
