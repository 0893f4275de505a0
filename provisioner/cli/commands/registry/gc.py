"""`provision registry gc`: remove images that no lock names and no node runs or could roll back to."""

from collections.abc import Sequence
from pathlib import Path

import click

from provisioner.adapters.ansible.fleet import AnsibleFleet
from provisioner.adapters.ansible.prepare import registry_preparer
from provisioner.adapters.lab.lockfile import fetch_lock
from provisioner.cli import wiring
from provisioner.cli.exit_codes import DONE, FAILED
from provisioner.cli.options import AnsibleOptions, example, lab_argument, with_ansible_options, with_output, yes_option
from provisioner.cli.output import Output
from provisioner.cli.plan_context import require_lock
from provisioner.cli.prepare_context import PrepareContext, open_prepare_context
from provisioner.cli.registry_host import locate_registry
from provisioner.console.gc import gc_view
from provisioner.console.problems import problems
from provisioner.console.text import count
from provisioner.domain.lab.lock import Lockfile
from provisioner.domain.registry.gc import GC_SCHEMA, GarbageReport, find_users, has_complete_facts, sweep
from provisioner.domain.rollout.preparation import READY, GcOrder
from provisioner.domain.values.node import NodeFacts
from provisioner.domain.values.problem import Problem
from provisioner.workflow.probe import probe
from provisioner.workflow.protocols import Probed
from provisioner.workflow.rollout.claims import refuse_any_claim

keep_option = click.option(
    "--keep-lock",
    "locks",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Keep the images of this lock, too: of another lab in the same repository, or of last semester. Repeatable.",
)
quiet_option = click.option(
    "--quiet-seconds",
    type=click.IntRange(0),
    default=600,
    show_default=True,
    help="Refuse if anything was pushed to a managed registry within this time.",
)


@click.command(epilog=example("provision registry gc ai-lab --keep-lock ../other-lab/lab.lock --dry-run"))
@lab_argument
@click.option("--dry-run", is_flag=True, help="Show what would be removed, and its size; remove nothing.")
@keep_option
@click.option("--despite-silent", is_flag=True, help="Continue although a node did not report its generations.")
@quiet_option
@yes_option
@with_ansible_options
@with_output
def gc(  # noqa: PLR0913, PLR0917  (flags)
    lab: str,
    dry_run: bool,
    locks: tuple[Path, ...],
    despite_silent: bool,
    quiet_seconds: int,
    yes: bool,
    ansible: AnsibleOptions,
    output: Output,
) -> int:
    """Remove images from the lab's repository that no lock names and no node runs or could roll back to.

    Every node is asked for its generations; nothing is removed while one does not answer. In a managed registry, layers
    that no image names are deleted from disk, too.
    """
    if ansible.limit is not None:
        raise click.UsageError(
            "gc needs every node: images that a node outside --limit could roll back to would be removed"
        )
    with open_prepare_context(lab, "registry gc", ansible, output, yes=yes, check=dry_run) as work:
        return _collect(work, locks, quiet_seconds, despite_silent=despite_silent)


def _collect(work: PrepareContext, locks: Sequence[Path], quiet_seconds: int, *, despite_silent: bool) -> int:
    output, dry_run = work.output, work.journal is None
    named = {"lab.lock": require_lock(work.directory)} | {str(path): fetch_lock(str(path)).lock for path in locks}
    found = _find_garbage(work, named)
    if found.silent and not (despite_silent or dry_run):
        problem = _silent_nodes(found.silent)
        output.note(problems([("", problem)]))
        output.document(GC_SCHEMA, found.model_copy(update={"problems": (problem,)}))
        return FAILED
    output.show(gc_view(found))
    # An interrupted collection may have removed images and left their layers.
    if not dry_run and (found.removed or work.directory.lab.registry.managed):
        if not work.confirm(_question(found)):
            output.note("Nothing was removed.")
            return FAILED
        found = _remove(work, found, quiet_seconds)
        output.show(gc_view(found))
    output.document(GC_SCHEMA, found)
    return FAILED if found.problems else DONE


def _silent_nodes(names: Sequence[str]) -> Problem:
    return Problem(
        "silent_nodes",
        f"no complete list of generations from {', '.join(names)}",
        "images that these nodes run, or could roll back to, might be removed",
        "make them reachable, or give --despite-silent: their next rollback may then fail to pull an image",
    )


def _question(found: GarbageReport) -> str:
    place = f"{found.registry}/{found.repository}"
    if not found.removed:
        return f"Remove layers that no image of {found.registry} names?"
    return (
        f"Remove {count(len(found.removed), 'image')} from {place}?"
        " --keep-lock keeps the images of another lab in the same repository."
    )


def _find_garbage(work: PrepareContext, locks: dict[str, Lockfile]) -> GarbageReport:
    directory = work.directory
    settings = directory.lab.registry
    with work.progress() as on_event:
        probed: Probed = probe(AnsibleFleet(work.settings, on_event), on_event)
        if work.journal is not None:  # a run of another account may be pulling what would be removed
            refuse_any_claim(probed)
        with wiring.registry(directory, on_event) as own:
            held = own.held(settings.repository)
    facts = [node for node in probed.values() if isinstance(node, NodeFacts)]
    kept, removed, size = sweep(held, find_users(locks, facts))
    return GarbageReport(
        lab=directory.lab.name,
        registry=settings.address,
        repository=settings.repository,
        dry_run=work.journal is None,
        kept=kept,
        removed=removed,
        bytes=size,
        silent=tuple(
            name for name, node in probed.items() if isinstance(node, Problem) or not has_complete_facts(node)
        ),
    )


def _remove(work: PrepareContext, found: GarbageReport, quiet: int) -> GarbageReport:
    if work.directory.lab.registry.managed:
        return _remove_on_host(work, found, quiet)
    with work.progress() as on_event, wiring.registry(work.directory, on_event) as own:
        for image in found.removed:
            own.delete(found.repository, image.digest)
    return found


def _remove_on_host(work: PrepareContext, found: GarbageReport, quiet: int) -> GarbageReport:
    """Remove images and layers of a managed registry, which no client may remove."""
    place, settings = locate_registry(work), work.directory.lab.registry
    order = GcOrder(
        run=work.run,
        address=found.registry,
        push_address=settings.push_address(is_local=place.is_local),
        repository=found.repository,
        remove=tuple(image.digest for image in found.removed),
        quiet=quiet,
    )
    with work.progress() as on_event:
        swept = registry_preparer(place.settings, on_event).prepare({place.host: order})[place.host]
    return found.model_copy(update={"freed": swept.freed if swept.state in READY else None, "problems": swept.problems})
