"""Connect workflows with adapters: the only module that knows both the flags and the adapters they configure."""

import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import NamedTuple
from zoneinfo import ZoneInfo

from provisioner.adapters import resources
from provisioner.adapters.ansible.fleet import AnsibleFleet
from provisioner.adapters.ansible.play import connections
from provisioner.adapters.ansible.settings import Settings
from provisioner.adapters.engine.builder import REQUIREMENTS, LabImageBuilder
from provisioner.adapters.engine.course import CourseRequirements
from provisioner.adapters.lab import compatibility_data
from provisioner.adapters.lab.directory import LabDirectory
from provisioner.adapters.lab.lockfile import read_lock
from provisioner.adapters.mirror import profiles
from provisioner.adapters.mirror.feed import read_job
from provisioner.adapters.mirror.history import MirrorHistory
from provisioner.adapters.registry.client import Registry
from provisioner.adapters.state.published import PublishedRuns
from provisioner.adapters.state.pushed_images import PushedImages
from provisioner.adapters.templates import read_templates
from provisioner.cli.options import AnsibleOptions
from provisioner.cli.registry_access import connect_engine
from provisioner.console.text import safe_block
from provisioner.domain.compatibility.tags import read_facts
from provisioner.domain.forecast.feed import FeedReading
from provisioner.domain.lab.lab import ON_DEMAND, Lab, MirrorKind
from provisioner.domain.lab.lab import Mirror as MirrorSettings
from provisioner.domain.lab.lab import Registry as RegistrySettings
from provisioner.domain.lab.lab import Upstream as UpstreamSettings
from provisioner.domain.lab.lock import Lockfile
from provisioner.domain.lab.ordered import OrderedImage
from provisioner.domain.registry.copy_commands import RegistryEndpoint
from provisioner.domain.seat.slotted import Documents
from provisioner.domain.values.event import OnEvent
from provisioner.workflow.lock.better_tag import BetterTagSources
from provisioner.workflow.lock.lock import Choices, LockResult, choose_all, make_lock
from provisioner.workflow.mirror.mirror_listing import MirrorQuery, MirrorSources
from provisioner.workflow.protocols import Probed
from provisioner.workflow.rollout.plan import PlanInputs, PreparedPlan
from provisioner.workflow.rollout.preflight import check_images, images_to_pull
from provisioner.workflow.rollout.publications import Program

_FEW = 8  # connections: campus and public mirrors ban clients that open many (tuna/issues#1922, #2354)
_ASK = "ask the lab's admin to run `provision lock` and to publish lab.lock again"


@contextmanager
def open_fleet(
    directory: LabDirectory, ansible: AnsibleOptions, verbosity: int, on_event: OnEvent
) -> Iterator[AnsibleFleet]:
    """Open the nodes of a lab. Their SSH connections stay open while the block runs."""
    with connections() as shared:
        yield fleet(directory, ansible, verbosity, on_event, shared)


def fleet(
    directory: LabDirectory, ansible: AnsibleOptions, verbosity: int, on_event: OnEvent, shared: Path | None = None
) -> AnsibleFleet:
    """Return the nodes of a lab. `shared`: a directory for SSH connections that outlast a play."""
    accounts = [person.id for person in directory.people]
    return AnsibleFleet(
        settings(directory, ansible, verbosity), on_event, limit=ansible.limit, shared=shared, accounts=accounts
    )


def settings(directory: LabDirectory, ansible: AnsibleOptions, verbosity: int) -> Settings:
    """Return the Ansible settings of a lab. `verbosity` is the count of -v; Ansible gets what exceeds one."""
    return Settings(
        inventory=directory.inventory,
        forks=ansible.forks or directory.lab.rollout.forks,
        vault_password_file=ansible.vault_password_file,
        extra_vars=ansible.extra_vars,
        verbosity=max(verbosity - 1, 0),
        passwords=ansible.passwords,
        on_output=_show_output if verbosity > 1 else None,
        on_warning=_show_once,
    )


def _show_output(text: str) -> None:
    sys.stderr.write(f"{safe_block(text)}\n")  # looked up at each call: a live view stands in its place


@cache
def _show_once(text: str) -> None:
    """Show the text at the first call in a process: a run reads its inventory several times."""
    _show_output(text)


def mirror(directory: LabDirectory, on_event: OnEvent, *, fresh: bool = False) -> Registry:
    """Return the mirror that lab.yml names. `fresh`: ignore cached results of earlier checks."""
    lab_mirror = directory.lab.mirror
    return Registry(
        lab_mirror.address,
        ca=directory.below(lab_mirror.ca),
        plain_http=lab_mirror.plain_http,
        kind=kind_of(directory),
        connections=_FEW if is_public(directory) else None,
        on_event=on_event,
        cache_seconds=0 if fresh else 60 * lab_mirror.cache_minutes,
    )


def kind_of(directory: LabDirectory) -> MirrorKind:
    """Return the kind of mirror: as lab.yml says, else as the profile of a known mirror says, else the default."""
    lab_mirror = directory.lab.mirror
    profile = profiles.load().of(lab_mirror.address)
    known = None if profile is None or "kind" in lab_mirror.model_fields_set else profile.kind
    return known or lab_mirror.kind


def is_public(directory: LabDirectory) -> bool:
    """Whether the mirror is shared with other institutions, so that requests to it are kept few."""
    profile = profiles.load().of(directory.lab.mirror.address)
    return kind_of(directory) in {"lazy", "redirector"} or (profile is not None and profile.public)


def is_metered(directory: LabDirectory) -> bool:
    """Whether tags are judged by name, without reading the manifest of each.

    True for a pull-through cache, which would fetch hundreds of images, and for a mirror that limits requests. Other
    mirrors are read, because the tag names of NGC do not contain enough information.
    """
    profile = profiles.load().of(directory.lab.mirror.address)
    return kind_of(directory) in ON_DEMAND or (profile is not None and profile.images != "yes")


def wanted(directory: LabDirectory, torch: str | None, platform: str) -> MirrorQuery:
    """Return which images a lab needs of its mirror. `torch` replaces the version that lab.yml requests."""
    lab_mirror, image = directory.lab.mirror, directory.lab.image
    spec = torch or image.torch
    return MirrorQuery(
        lab_mirror, kind_of(directory), spec, image.flavour, platform, is_public(directory), is_metered(directory)
    )


@contextmanager
def world(
    directory: LabDirectory, query: MirrorQuery, now: datetime, on_event: OnEvent, *, fresh: bool = False
) -> Iterator[MirrorSources]:
    """Open everything that one check of the mirror reads. A client is used for one check: it remembers refusals."""
    with mirror(directory, on_event, fresh=fresh) as offered, upstream(directory, on_event) as above:
        yield MirrorSources(
            mirror=offered,
            upstream=above,
            feed=_feed(directory, now),
            memory=MirrorHistory(),
            data=compatibility_data.load_for_lab(directory.path),
            profile=profiles.load().of(query.mirror.address),
        )


@contextmanager
def upstream(directory: LabDirectory, on_event: OnEvent) -> Iterator[Registry | None]:
    """Open the registry that the mirror copies, or None where lab.yml names none. Uses two connections only."""
    lab_upstream = directory.lab.mirror.upstream
    if lab_upstream is None:
        yield None
        return
    ca = directory.below(lab_upstream.ca)
    with Registry(
        lab_upstream.address, ca=ca, plain_http=lab_upstream.plain_http, connections=2, on_event=on_event
    ) as above:
        yield above


def _feed(directory: LabDirectory, now: datetime) -> FeedReading | None:
    lab_mirror = directory.lab.mirror
    feed = lab_mirror.feed
    if feed is None:
        return None
    source = feed.url if feed.url.startswith(("http://", "https://")) else str(directory.path / feed.url)
    return read_job(source, feed.job, feed.format, now, ca=directory.below(lab_mirror.ca))


def registry(directory: LabDirectory, on_event: OnEvent) -> Registry:
    """Return the lab's own registry."""
    lab_registry = directory.lab.registry
    return Registry(
        lab_registry.address, ca=directory.below(lab_registry.ca), plain_http=lab_registry.plain_http, on_event=on_event
    )


def recheck_registry(directory: LabDirectory, images: Sequence[OrderedImage], on_event: OnEvent) -> None:
    """Check the images to be pulled. Raises ProblemError where one is incomplete on the lab's own registry."""
    with registry(directory, on_event) as own:
        check_images(images, own, on_event, fix=f"provision lock {directory.path}")


def recheck_with_lock(lock: Lockfile, prepared: PreparedPlan, on_event: OnEvent) -> None:
    """Check the images to be pulled, with what the lock holds alone. A registry that does not answer is no error."""
    with tempfile.NamedTemporaryFile("w", prefix="provisioner-ca-", suffix=".pem") as file:
        file.write(lock.registry_ca or "")
        file.flush()
        address, ca = lock.all_images[0].lab.partition("/")[0], Path(file.name) if lock.registry_ca else None
        with Registry(address, ca=ca, on_event=on_event) as own:
            check_images(images_to_pull(prepared), own, on_event, fix=_ASK, only_certain=True)


class NewLock(NamedTuple):
    """A lock that is not written yet, and the texts of requirements.lock, by path: all are written together."""

    result: LockResult
    requirements: Mapping[Path, str]


def course_requirements(directory: LabDirectory, on_event: OnEvent) -> CourseRequirements:
    """Return the pip packages of the environments of a lab; their files are read when they are asked for."""
    files = {name: each.pip for name, each in directory.lab.all_environments.items() if each.pip is not None}
    return CourseRequirements(directory.path, files, templates(directory.path)[REQUIREMENTS], on_event)


def builder(
    directory: LabDirectory, lookup: Registry, courses: CourseRequirements, on_event: OnEvent, *, builds: bool = True
) -> LabImageBuilder:
    """Return the builder of lab images. It connects to the local engine only when it has to build one.

    `builds`: False only finds images that were built before.

    It trusts the digests that lab.lock in the lab's own directory pins. Raises ProblemError where that cannot be read.
    """
    locked = read_lock(directory.lock)
    data, lab = compatibility_data.load_for_lab(directory.path), directory.lab
    authorities = {address: Path(place.ca) for address, place in endpoints(directory).items() if place.ca is not None}
    return LabImageBuilder(
        lab.registry,
        lab.all_environments,
        lookup=lookup,
        engine=lambda: connect_engine(directory, authorities, on_event),
        records=PushedImages(),
        locked=() if locked is None else locked.all_images,
        courses=courses,
        templates=templates(directory.path),
        facts=lambda image: read_facts(image, data),
        on_event=on_event,
        builds=builds,
    )


def templates(lab: Path | None) -> dict[str, str]:
    """Return the templates by name; those in the directory `lab` replace the built-in ones."""
    return read_templates(resources.templates(), lab)


def around(directory: LabDirectory, above: Registry | None, own: Registry) -> BetterTagSources:
    """Return the other registries that may have a better tag. `own` is left out where it is the mirror itself."""
    lab = directory.lab
    is_mirror = lab.registry.address == lab.mirror.address
    there = lab.mirror.upstream
    return BetterTagSources(
        above,
        None if is_mirror else own,
        None if there is None else _place(directory, there),
        _place(directory, lab.registry),
        str(directory.path),
    )


def endpoints(directory: LabDirectory) -> dict[str, RegistryEndpoint]:
    """Return how the registries that lab.yml names are reached, by address."""
    lab = directory.lab
    named = (part for part in (lab.mirror.upstream, lab.mirror, lab.registry) if part is not None)
    return {part.address: _place(directory, part) for part in named}


def _place(directory: LabDirectory, endpoint: UpstreamSettings | MirrorSettings | RegistrySettings) -> RegistryEndpoint:
    ca = directory.below(endpoint.ca)
    return RegistryEndpoint(address=endpoint.address, ca=ca and str(ca.absolute()), plain_http=endpoint.plain_http)


def choose_images(directory: LabDirectory, probed: Probed, on_event: OnEvent, *, fresh: bool = False) -> Choices:
    """Select images of each environment as a lock made now would. Nothing is built and nothing is written."""
    with registry(directory, on_event) as own:
        return _choose(directory, probed, own, on_event, fresh=fresh)


def new_lock(  # noqa: PLR0913  (the lab, its nodes, and what is requested)
    directory: LabDirectory,
    probed: Probed,
    on_event: OnEvent,
    *,
    torch: str | None = None,
    fresh: bool = False,
    keep_as: str | None = None,
    builds: bool = True,
) -> NewLock:
    """Select images of the mirror and pin them. Lab images are built and pushed; no file of the lab is written.

    `builds`: False builds and pushes nothing; images that were not built before have the digest UNBUILT.

    `torch` stands for image.torch of lab.yml: environments without a torch of their own follow it, too.
    """
    data = compatibility_data.load_for_lab(directory.path)
    directory = directory._replace(lab=_with_torch(directory.lab, torch))
    with registry(directory, on_event) as own:
        choices = _choose(directory, probed, own, on_event, fresh=fresh)
        courses = course_requirements(directory, on_event)
        result = make_lock(
            directory.lab,
            probed,
            choices,
            builder(directory, own, courses, on_event, builds=builds),
            data,
            registry_ca=directory.registry_ca,
            before=read_lock(directory.lock),
            keep_as=keep_as,
        )
        return NewLock(result, courses.files())


def _with_torch(lab: Lab, torch: str | None) -> Lab:
    image = lab.image if torch is None else lab.image.model_copy(update={"torch": torch})
    return lab.model_copy(update={"image": image})


def _choose(directory: LabDirectory, probed: Probed, own: Registry, on_event: OnEvent, *, fresh: bool) -> Choices:
    with mirror(directory, on_event, fresh=fresh) as offered, upstream(directory, on_event) as above:
        return choose_all(
            directory.lab,
            directory.people,
            probed,
            offered,
            compatibility_data.load_for_lab(directory.path),
            on_event,
            upstream=above,
            registries=around(directory, above, own),
            metered=is_metered(directory),
        )


def plan_inputs(directory: LabDirectory, lock: Lockfile, limit: str | None) -> PlanInputs:
    """Return what a plan of the lab is made from. `limit`: the pattern that restricts its nodes."""
    lab, data = directory.lab, compatibility_data.load_for_lab(directory.path)
    zone = ZoneInfo(lab.rollout.timezone) if lab.rollout.timezone else None
    return PlanInputs(
        lab,
        lock,
        data,
        Documents(templates(directory.path)),
        directory.keys,
        people=directory.people,
        today=datetime.now(zone).date(),
        limited=limit is not None,
        program=Program(own_version(), PublishedRuns(lab.name).config),
    )


def own_version() -> str:
    """Return the version of this release."""
    from importlib.metadata import version  # noqa: PLC0415  (slow to import; not for `--help`)

    return version("lab-provisioner")
