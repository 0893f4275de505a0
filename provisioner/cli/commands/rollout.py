from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import click

from provisioner.adapters.ansible.fleet import AnsibleFleet
from provisioner.adapters.lab.directory import LabDirectory, read_lab
from provisioner.adapters.lab.documents import read_document
from provisioner.adapters.lab.lockfile import read_lock
from provisioner.adapters.state.files import read_text
from provisioner.adapters.state.journal import RunJournal
from provisioner.cli.commands.lock import keep
from provisioner.cli.execute import execute_run, show_plan
from provisioner.cli.exit_codes import FAILED
from provisioner.cli.maintenance import check_maintenance
from provisioner.cli.options import (
    AnsibleOptions,
    Overrides,
    RunOptions,
    example,
    fresh_option,
    lab_argument,
    with_ansible_options,
    with_output,
    with_overrides,
    with_run_options,
    yes_option,
)
from provisioner.cli.output import Output
from provisioner.cli.plan_context import Context
from provisioner.cli.progress_display import show_progress
from provisioner.cli.run_context import claim_for, open_run_context
from provisioner.cli.wiring import fleet_factory, materials, new_lock, recheck
from provisioner.console.text import count
from provisioner.domain.lab.lock import Lockfile
from provisioner.domain.rollout.busy import DEFER, WhenBusy
from provisioner.domain.rollout.order import order_for
from provisioner.domain.rollout.plan import Plan
from provisioner.domain.rollout.run_spec import Rules, RunSpec, Verb, build_run_spec
from provisioner.domain.rollout.stale import moved_since
from provisioner.domain.values.event import OnEvent
from provisioner.domain.values.problem import ProblemError
from provisioner.workflow.probe import probe
from provisioner.workflow.rollout.claims import refuse_held
from provisioner.workflow.rollout.plan import prepare
from provisioner.workflow.rollout.preflight import to_pull

plan_option = click.option(
    "--plan",
    "saved",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Do what this saved plan says; exit 6 where a node has moved since.",
)
skip_stale_option = click.option(
    "--skip-stale", is_flag=True, help="With --plan: leave nodes alone that have moved, and go on with the others."
)


class Seen(NamedTuple):
    """What a run knows before it asks whether it may begin. `stale`: nodes that moved since a plan was reviewed."""

    directory: LabDirectory
    lock: Lockfile
    looked: Context
    stale: frozenset[str] = frozenset()

    @property
    def plan(self) -> Plan:
        return self.looked.prepared.plan

    @property
    def nodes(self) -> list[str]:
        """That are to be changed."""
        return [step.node for step in self.plan.pending if step.node not in self.stale]


@click.command(epilog=example("provision rollout ai-lab --limit gpu01\n  provision rollout ai-lab --when-busy wait:2h"))
@lab_argument
@plan_option
@skip_stale_option
@yes_option
@with_run_options
@with_overrides
@fresh_option
@with_ansible_options
@with_output
def rollout(  # noqa: PLR0913  (each is a flag, or a group of them)
    *,
    lab: str,
    saved: Path | None,
    skip_stale: bool,
    yes: bool,
    run_options: RunOptions,
    overrides: Overrides,
    fresh: bool,
    ansible: AnsibleOptions,
    output: Output,
) -> int:
    """The main job: probe, lock where there is none, plan, agree, roll out in waves, verify, report.

    Exit 0 only if every node is done; 4 where all that is left is deferred because someone works there, or because
    this is no hour at which the lab may be changed. A saved plan brings its own --when-busy.
    """
    directory = read_lab(lab)
    reviewed = None if saved is None else read_document(str(saved), read_text(saved, "provision plan -o FILE"), Plan)
    when_busy = _agreed_before(reviewed, overrides)

    with (
        open_run_context(directory.lab.name, "rollout", run_options.break_lock) as journal,
        fleet_factory(directory, ansible, output.verbose) as nodes,
    ):
        seen = see(directory, journal, nodes, output, when_busy, fresh=fresh)
        if reviewed is not None:
            seen = seen._replace(stale=_moved(reviewed, seen.plan, skip_stale))
        gate = check_maintenance(directory.lab.rollout.calendar, seen.plan, overrides, journal)
        if not agreed(seen, journal, run_options, output, yes=yes):
            return FAILED
        look_again(seen, journal, output)
        what = undertaking(seen, journal.run, run_options, overrides)
        return execute_run(output, journal, what, nodes, breaks=run_options.break_lock, gate=gate)


def _agreed_before(reviewed: Plan | None, overrides: Overrides) -> WhenBusy:
    """What was reviewed is what runs: whose work is stopped, too."""
    if reviewed is None:
        return overrides.when_busy
    if overrides.when_busy not in {DEFER, reviewed.when_busy}:
        raise click.UsageError("the saved plan has its own --when-busy: make and review it again, with this one")
    return reviewed.when_busy


def see(  # noqa: PLR0913  (where, through whom, under which conditions)
    directory: LabDirectory,
    journal: RunJournal,
    nodes: Callable[[OnEvent], AnsibleFleet],
    output: Output,
    when_busy: WhenBusy,
    *,
    fresh: bool,
) -> Seen:
    """Look, lock where there is no lock, hold the one against the other, and show it."""
    lock, locked = read_lock(directory.lock), None
    with show_progress(output) as show:
        on_event = journal.telling(show)
        at_hand = nodes(on_event)
        probed = probe(at_hand, on_event)
        if lock is None:
            locked = new_lock(directory, probed, on_event, fresh=fresh)
            lock = locked.lock
        prepared = prepare(materials(directory, lock), at_hand.hosts(), probed, when_busy=when_busy)
    if locked is not None:
        keep(directory, locked, output)
    journal.keep("plan", prepared.plan)
    show_plan(output, prepared.plan)
    return Seen(directory, lock, Context(probed, prepared))


def agreed(seen: Seen, journal: RunJournal, run_options: RunOptions, output: Output, *, yes: bool) -> bool:
    """Raises ProblemError (locked) where another run holds one of the nodes."""
    refuse_held(seen.looked.probed, seen.nodes, journal.run, run_options.break_lock)
    if not seen.nodes or yes or output.agreed(f"Roll this out to {count(len(seen.nodes), 'node')}?"):
        return True
    output.note("Nothing was changed.")
    return False


def look_again(seen: Seen, journal: RunJournal, output: Output) -> None:
    """Raises ProblemError where what a node would pull is not all there, right before the first one is touched."""
    if seen.nodes:
        with show_progress(output) as show:
            recheck(seen.directory, to_pull(seen.looked.prepared), journal.telling(show))


def undertaking(seen: Seen, run: str, run_options: RunOptions, overrides: Overrides, verb: Verb = "rollout") -> RunSpec:
    """What was agreed, whole."""
    lab = seen.directory.lab
    bundles = seen.looked.prepared.bundles
    orders = {
        node: order_for(bundle, lab, run, ca=seen.lock.registry_ca, when_busy=seen.plan.when_busy)
        for node, bundle in bundles.items()
    }
    rules = Rules.of(lab.rollout, run_options.allow_unreachable)
    place, claim = str(seen.directory.path), claim_for(run, lab.name, verb, seen.looked.probed)
    made = build_run_spec(run, seen.plan, orders, rules, datetime.now(UTC), stale=seen.stale, verb=verb, place=place)
    return made.model_copy(update={"ignore_freeze": overrides.ignore_freeze or ""}).with_claim(claim)


def _moved(reviewed: Plan, now: Plan, skip: bool) -> frozenset[str]:
    """Nodes that are no longer as they were reviewed. Raises ProblemError (stale) unless they may be left out."""
    problems = moved_since(reviewed, now)
    if problems and not (skip and reviewed.lab == now.lab):
        raise ProblemError(problems, "stale")
    return frozenset(problem.what.split()[0] for problem in problems)
