"""`provision registry gc`: removes images that no lock names and no node runs or could return to."""

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
from provisioner.cli.prepare_context import Work, open_work
from provisioner.cli.registry_host import where
from provisioner.console.gc import sweep_view
from provisioner.console.text import count
from provisioner.domain.lab.lock import Lockfile
from provisioner.domain.registry.gc import GC_SCHEMA, GarbageReport, has_complete_facts, sweep, wanted
from provisioner.domain.rollout.preparation import READY, SweepOrder
from provisioner.domain.values.node import NodeFacts
from provisioner.domain.values.problem import Problem, ProblemError
from provisioner.workflow.probe import probe
from provisioner.workflow.protocols import Probed

keep_option = click.option(
    "--keep-lock",
    "locks",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Another lock whose images stay: of another lab in the same repository, or of last semester. Repeatable.",
)
quiet_option = click.option(
    "--quiet-seconds",
    type=click.IntRange(0),
    default=600,
    show_default=True,
    help="For so long nothing may have been pushed to a registry that provision manages.",
)


@click.command(epilog=example("provision registry gc ai-lab --keep-lock ../other-lab/lab.lock --dry-run"))
@lab_argument
@click.option("--dry-run", is_flag=True, help="Show what would go, and how much room it takes; remove nothing.")
@keep_option
@click.option("--despite-silent", is_flag=True, help="Go on though a node could not be asked what it may go back to.")
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
    """Take images out of the lab's repository that no lock names and no node runs or could go back to.

    Every node is asked for its generations; where one is silent nothing is removed. Of a registry that provision
    manages, the layers that no image names any more leave the disk, too.
    """
    if ansible.limit is not None:
        raise click.UsageError("gc asks every node: what a node beyond --limit could go back to would be removed")
    work = open_work(lab, ansible, output, yes=yes, check=dry_run)
    named = {"lab.lock": require_lock(work.directory)} | {str(path): fetch_lock(str(path)) for path in locks}
    found = _look(work, named)
    if found.silent and not (despite_silent or dry_run):
        output.document(GC_SCHEMA, found)
        raise ProblemError(_silent(found.silent))
    output.say(sweep_view(found))
    # A collection that was broken off has taken images out already: their layers are still there.
    if not dry_run and (found.removed or work.directory.lab.registry.managed):
        if not work.agreed(_question(found)):
            output.note("Nothing was removed.")
            return FAILED
        found = _remove(work, found, quiet_seconds)
        output.say(sweep_view(found))
    output.document(GC_SCHEMA, found)
    return FAILED if found.problems else DONE


def _question(found: GarbageReport) -> str:
    place = f"{found.registry}/{found.repository}"
    if not found.removed:
        return f"Remove layers that no image of {found.registry} names?"
    return (
        f"Remove {count(len(found.removed), 'image')} from {place}?"
        " Another lab that shares the repository keeps its own by --keep-lock."
    )


def _look(work: Work, locks: dict[str, Lockfile]) -> GarbageReport:
    directory = work.directory
    wish = directory.lab.registry
    with work.telling() as on_event:
        probed: Probed = probe(AnsibleFleet(work.settings, on_event), on_event)
        with wiring.registry(directory, on_event) as own:
            held = own.held(wish.repository)
    facts = [node for node in probed.values() if isinstance(node, NodeFacts)]
    kept, removed, size = sweep(held, wanted(locks, facts))
    return GarbageReport(
        lab=directory.lab.name,
        registry=wish.address,
        repository=wish.repository,
        dry_run=work.journal is None,
        kept=kept,
        removed=removed,
        bytes=size,
        silent=tuple(
            name for name, node in probed.items() if isinstance(node, Problem) or not has_complete_facts(node)
        ),
    )


def _remove(work: Work, found: GarbageReport, quiet: int) -> GarbageReport:
    with work.telling() as on_event, wiring.registry(work.directory, on_event) as own:
        for image in found.removed:
            own.delete(found.repository, image.digest)
    if not work.directory.lab.registry.managed:
        return found
    host, settings = where(work)
    order = SweepOrder(run=work.run, address=found.registry, quiet=quiet)
    with work.telling() as on_event:
        swept = registry_preparer(settings, on_event).do({host: order})[host]
    return found.model_copy(update={"freed": swept.freed if swept.state in READY else None, "problems": swept.problems})


def _silent(nodes: tuple[str, ...]) -> Problem:
    return Problem(
        "silent_nodes",
        f"silent, or with a generation that cannot be read: {', '.join(nodes)}",
        "what these nodes run, or could go back to, might be removed",
        "bring them back, or give --despite-silent: then their next rollback may have to pull what is gone",
    )
