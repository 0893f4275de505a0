from collections.abc import Callable
from typing import NamedTuple

import click

from provisioner.adapters.ansible.fleet import AnsibleFleet
from provisioner.adapters.lab.directory import LabDirectory, read_lab
from provisioner.adapters.lab.lockfile import write_lock
from provisioner.adapters.state.journal import RunJournal
from provisioner.cli.commands.notify import notice_argument, tell_seats
from provisioner.cli.commands.rollout import Seen, look_again, undertaking
from provisioner.cli.execute import execute_run, show_plan
from provisioner.cli.exit_codes import DONE, FAILED
from provisioner.cli.maintenance import check_maintenance
from provisioner.cli.options import (
    AnsibleOptions,
    Overrides,
    RunOptions,
    example,
    lab_argument,
    torch_option,
    with_ansible_options,
    with_output,
    with_overrides,
    with_run_options,
    yes_option,
)
from provisioner.cli.output import Output
from provisioner.cli.plan_context import Context, require_lock
from provisioner.cli.progress_display import show_progress
from provisioner.cli.run_context import open_run_context
from provisioner.cli.wiring import fleet, fleet_factory, materials, new_lock
from provisioner.console.lock import lock_view
from provisioner.console.problems import problems
from provisioner.console.text import count
from provisioner.console.upgrade import change_view
from provisioner.domain.lab.lock import Lockfile
from provisioner.domain.rollout.busy import WhenBusy
from provisioner.domain.rollout.plan import Plan
from provisioner.domain.rollout.upgrade import UPGRADE_SCHEMA, LockChange, Upgrade, lock_change
from provisioner.domain.values.event import OnEvent
from provisioner.domain.values.problem import ProblemError
from provisioner.workflow.lock.lock import Locked
from provisioner.workflow.probe import probe
from provisioner.workflow.rollout.claims import refuse_held
from provisioner.workflow.rollout.plan import prepare
from provisioner.workflow.rollout.upgrade import reasons


class Offered(NamedTuple):
    """What an upgrade would do, as it is shown."""

    locked: Locked
    change: LockChange
    looked: Context

    @property
    def plan(self) -> Plan:
        return self.looked.prepared.plan

    @property
    def changes(self) -> bool:
        return bool(self.plan.pending) or not self.change.is_empty


@click.command(
    epilog=example(
        "provision upgrade ai-lab --check\n"
        '  provision upgrade ai-lab --torch ">=2.10,<2.11" --when-busy wait:2h --notice "torch 2.10 comes tonight"'
    )
)
@lab_argument
@torch_option
@click.option("--check", is_flag=True, help="Show what would change, and change neither lab.lock nor a node.")
@click.option(
    "--leave-behind", is_flag=True, help="Agree that nodes which the new lock does not serve stay as they are."
)
@click.option(
    "--notice", metavar="TEXT", callback=notice_argument, help="Tell it beforehand in every seat that changes."
)
@yes_option
@with_run_options
@with_overrides
@with_ansible_options
@with_output
def upgrade(  # noqa: PLR0913  (each is a flag, or a group of them)
    *,
    lab: str,
    torch: str | None,
    check: bool,
    leave_behind: bool,
    notice: str | None,
    yes: bool,
    run_options: RunOptions,
    overrides: Overrides,
    ansible: AnsibleOptions,
    output: Output,
) -> int:
    """The next semester: choose anew, show what changes for whom, and roll that out over what runs.

    The choice is always the whole lab's; --limit says where it is rolled out now. lab.lock is written once it is
    agreed, before the first node changes: whatever stops the run then, `provision rollout` goes on to the same end. The
    lock before is kept in the run's record. Homes, ports, tokens, host keys and uids stay.
    """
    directory = read_lab(lab)
    old = require_lock(directory)
    with (
        open_run_context(directory.lab.name, "upgrade", run_options.break_lock) as journal,
        fleet_factory(directory, ansible._replace(limit=None), output.verbose) as nodes,
    ):
        offered = _offer(directory, old, nodes, ansible, output, journal, torch, overrides.when_busy)
        _show(output, offered)
        left_behind = list(offered.change.left_behind.items())
        if check:
            output.document(UPGRADE_SCHEMA, _upgrade(offered))
            output.note(problems(left_behind))
            return FAILED if left_behind else DONE
        if left_behind and not leave_behind:
            raise ProblemError(problem for _, problem in left_behind)
        journal.keep("plan", offered.plan)
        seen = Seen(directory, offered.locked.lock, offered.looked)
        refuse_held(seen.looked.probed, seen.nodes, journal.run, run_options.break_lock)
        gate = check_maintenance(directory.lab.rollout.calendar, seen.plan, overrides, journal)
        if offered.changes and not (yes or output.agreed(_question(offered))):
            output.note("Nothing was changed.")
            return FAILED
        look_again(seen, journal, output)
        if not offered.change.is_empty:
            _hold_to(directory, old, seen.lock, journal, output, torch)
        if notice is not None:
            tell_seats(output, journal, nodes, seen.plan, notice)
        what = undertaking(seen, journal.run, run_options, overrides, "upgrade")
        return execute_run(output, journal, what, nodes, breaks=run_options.break_lock, gate=gate)


def _offer(  # noqa: PLR0913, PLR0917  (what there is, what is wanted, and how it is told)
    directory: LabDirectory,
    old: Lockfile,
    nodes: Callable[[OnEvent], AnsibleFleet],
    ansible: AnsibleOptions,
    output: Output,
    journal: RunJournal,
    torch: str | None,
    when_busy: WhenBusy,
) -> Offered:
    """`nodes` makes the whole lab: a limit never makes a lock that serves a part of it."""
    with show_progress(output) as show:
        on_event = journal.telling(show)
        hosts = fleet(directory, ansible, output.verbose, on_event).hosts()
        probed = probe(nodes(on_event), on_event)
        locked = new_lock(directory, probed, on_event, torch=torch)
        prepared = prepare(materials(directory, locked.lock), hosts, probed, when_busy=when_busy)
    change = lock_change(old, locked.lock, reasons(locked.selection, probed))
    return Offered(locked, change, Context(probed, prepared))


def _show(output: Output, offered: Offered) -> None:
    locked = offered.locked
    output.say(lock_view(locked.lock, locked.selection, locked.catalog, output.out.width), change_view(offered.change))
    output.say("")
    if not output.as_json:
        show_plan(output, offered.plan)


def _upgrade(offered: Offered) -> Upgrade:
    return Upgrade(change=offered.change, lock=offered.locked.lock, plan=offered.plan)


def _question(offered: Offered) -> str:
    pending = count(len(offered.plan.pending), "node")
    return f"Hold the lab to this lock, and roll it out to {pending}?"


def _hold_to(  # noqa: PLR0913, PLR0917
    directory: LabDirectory, old: Lockfile, new: Lockfile, journal: RunJournal, output: Output, torch: str | None
) -> None:
    """The new lock first: from then on every node that differs from it is what a rollout mends."""
    before = journal.keep("lock-before", old)
    write_lock(directory.lock, new)
    output.note(f"{directory.lock} holds the new lock, for version control; the one before: {before}")
    if torch is not None and torch != directory.lab.image.torch:
        output.note(
            f'lab.yml still wishes for torch "{directory.lab.image.torch}", and the next lock would follow that. To '
            f'stay with this choice, write below image in lab.yml:\n  torch: "{torch}"'
        )
