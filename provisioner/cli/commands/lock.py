"""`provision lock`: select images for the lab and pin them in lab.lock."""

from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import click
from rich.console import RenderableType
from rich.text import Text

from provisioner.adapters.engine.course import save_requirements
from provisioner.adapters.lab import compatibility_data
from provisioner.adapters.lab.directory import LabDirectory, read_lab
from provisioner.adapters.lab.lockfile import lock_text, read_lock, sign_lock, signature_of, write_lock
from provisioner.adapters.state.journal import open_run
from provisioner.cli.exit_codes import DONE, FAILED
from provisioner.cli.options import (
    AnsibleOptions,
    example,
    fresh_option,
    lab_argument,
    torch_option,
    with_ansible_options,
    with_output,
)
from provisioner.cli.output import Output
from provisioner.cli.plan_context import choices_fields
from provisioner.cli.run_context import OpenRun, hold_lab
from provisioner.cli.wiring import NewLock, fleet, new_lock
from provisioner.console.facts import check_data_age
from provisioner.console.lock import (
    environments_change,
    lock_diff,
    lock_view,
    named_environments_view,
    people_change,
)
from provisioner.console.problems import problems
from provisioner.domain.lab.lock import LOCK_SCHEMA, Lockfile
from provisioner.domain.people.environments import environment_nodes
from provisioner.workflow.lock.lock import LockResult
from provisioner.workflow.probe import probe

sign_option = click.option(
    "--sign",
    "key",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Sign lab.lock with this SSH key, into lab.lock.sig; a public key stands for that of the agent. With --public,"
    " FILE is signed instead, into FILE.sig.",
)
public_option = click.option(
    "--public",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the lock to FILE, too, without people: to publish it for `provision me --lock`.",
)


@click.command(epilog=example("provision lock ai-lab --torch 2.8.0\n  provision lock ai-lab --sign ~/.ssh/id_ed25519"))
@lab_argument
@torch_option
@fresh_option
@sign_option
@public_option
@with_ansible_options
@with_output
def lock(  # noqa: PLR0913, PLR0917  (flags)
    lab: str,
    torch: str | None,
    fresh: bool,
    key: Path | None,
    public: Path | None,
    ansible: AnsibleOptions,
    output: Output,
) -> int:
    """Select an image that runs on every node, build its lab image where needed, and pin both in lab.lock.

    Every environment of lab.yml gets images for the nodes that may run it. Exit 1 where one of these nodes got no image
    of it. No node is changed.
    """
    directory = read_lab(lab)
    if public is not None and public.resolve() == directory.lock.resolve():
        raise click.UsageError("--public is a file beside lab.lock, which keeps who sits where")
    run = OpenRun.of(open_run(directory.lab.name), output)
    # A garbage collection at the same time would remove what is pushed here before lab.lock names it.
    with hold_lab(directory.lab.name, run.journal.run, "lock"):
        return _lock(directory, run, ansible, Publication(public, key), torch=torch, fresh=fresh)


class Publication(NamedTuple):
    """How a lock is given to others: in the file `public`, without people, signed with `key`; each may be None."""

    public: Path | None
    key: Path | None


def _lock(  # noqa: PLR0913  (flags)
    directory: LabDirectory,
    run: OpenRun,
    ansible: AnsibleOptions,
    publication: Publication,
    *,
    torch: str | None,
    fresh: bool,
) -> int:
    output = run.output
    with run.progress():
        probed = probe(fleet(directory, ansible, output.verbose, run.on_event), run.on_event)
        made = new_lock(directory, probed, run.on_event, torch=torch, fresh=fresh)
    locked = made.result
    save_lock(directory, made, output)
    _publish(directory, locked.lock, publication, output)
    note_old_signature(directory, output)
    output.document(LOCK_SCHEMA, locked.lock.model_dump(mode="json") | choices_fields(locked.choices))
    nodes = environment_nodes(directory.lab, directory.people, list(probed))
    served = locked.lock.all_environments
    return DONE if all(set(nodes[name]) <= served[name].nodes.keys() for name in nodes) else FAILED


def _publish(directory: LabDirectory, locked: Lockfile, publication: Publication, output: Output) -> None:
    """Write the lock to the public file, and sign that, else lab.lock, where there is a key."""
    public, key = publication
    if public is not None:
        write_lock(public, locked.without_people())
        output.note(f"{public} is the lock without people, to publish for `provision me --lock`.")
    if key is not None:
        signed = sign_lock(public or directory.lock, key, may_ask=output.can_ask)
        output.note(f"{signed} is its signature: publish both.")


def note_old_signature(directory: LabDirectory, output: Output) -> None:
    """Print a note where the signature is older than lab.lock: a user who requires a signature refuses such a lock."""
    signature = signature_of(directory.lock)
    if signature.exists() and signature.stat().st_mtime_ns < directory.lock.stat().st_mtime_ns:
        again = f"provision lock {directory.path} --sign KEY"
        output.note(f"{signature} is the signature of an older lock: {again}")


def save_lock(directory: LabDirectory, made: NewLock, output: Output) -> None:
    """Write the lock and the packages of its environments, and show what was selected and what changes."""
    before, locked = read_lock(directory.lock), made.result
    show_choices(locked, output)
    output.show(_difference(before, locked.lock))
    save_requirements(made.requirements)
    if before != locked.lock:
        write_lock(directory.lock, locked.lock)
    if old := check_data_age(compatibility_data.load_for_lab(directory.path), datetime.now(UTC).date()):
        output.note(problems([("", old)], "yellow"))
    output.note(f"{directory.lock} belongs under version control: rollouts follow it.")


def show_choices(locked: LockResult, output: Output, *further: RenderableType) -> None:
    """Show what was selected for each environment, and the pinned images; then `further`."""
    lock, width = locked.lock, output.out.width
    named = named_environments_view(lock, locked.choices, width)
    output.show(lock_view(lock, *locked.default, width), *([named] if lock.environments else []), *further)


def _difference(before: Lockfile | None, now: Lockfile) -> Text:
    if before is None:
        return lock_diff("", lock_text(now.without_people()), [people_change({}, now.people)])
    summary = [*environments_change(before.environments, now.environments), people_change(before.people, now.people)]
    return lock_diff(lock_text(before.without_people()), lock_text(now.without_people()), summary)
