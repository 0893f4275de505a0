"""`provision upgrade`: make a new lock, show what changes, and roll it out."""

import re
from typing import NamedTuple

import click

from provisioner.adapters.engine.course import save_requirements
from provisioner.adapters.lab.directory import LabDirectory, read_lab
from provisioner.adapters.lab.lockfile import write_lock
from provisioner.cli.commands.lock import note_old_signature, show_choices
from provisioner.cli.commands.notify import notice_argument, notify_seats
from provisioner.cli.commands.rollout import PlannedRun, build_run_spec_from_plan, recheck_planned, set_disk_limits
from provisioner.cli.execute import execute_run, show_plan
from provisioner.cli.exit_codes import DONE, FAILED
from provisioner.cli.maintenance import check_maintenance
from provisioner.cli.options import ChangeOptions, changes_nodes, example, lab_argument, torch_option
from provisioner.cli.output import Output
from provisioner.cli.plan_context import PlanContext, note_cautions, require_lock
from provisioner.cli.run_context import OpenRun, open_run_context
from provisioner.cli.wiring import NewLock, new_lock, open_fleet, plan_inputs
from provisioner.cli.wiring import fleet as lab_fleet
from provisioner.console.problems import problems
from provisioner.console.text import count
from provisioner.console.upgrade import lock_change_view
from provisioner.domain.lab.environments import ENVIRONMENT_PATTERN
from provisioner.domain.lab.kept import keep_problem
from provisioner.domain.lab.lock import Lockfile
from provisioner.domain.people.environments import environment_nodes
from provisioner.domain.rollout.plan import Plan
from provisioner.domain.rollout.upgrade import UPGRADE_SCHEMA, LockChange, Upgrade, compare_locks
from provisioner.domain.values.problem import ProblemError
from provisioner.workflow.probe import probe
from provisioner.workflow.protocols import Fleet
from provisioner.workflow.rollout.claims import refuse_claimed
from provisioner.workflow.rollout.plan import build_plan
from provisioner.workflow.rollout.upgrade import unserved_reasons


class PlannedUpgrade(NamedTuple):
    """What an upgrade would do: the new lock, how it differs from the old one, and the plan."""

    made: NewLock
    change: LockChange
    context: PlanContext

    @property
    def plan(self) -> Plan:
        """The difference between what runs and what the new lock requires."""
        return self.context.prepared.plan

    @property
    def changes(self) -> bool:
        """Whether the lock or a node would change."""
        return bool(self.plan.changed_nodes) or not self.change.is_empty

    @property
    def lock(self) -> Lockfile:
        """The new lock, with the places of people."""
        return self.made.result.lock.model_copy(update={"people": self.plan.places})


def _environment_name(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    if value is not None and not re.fullmatch(ENVIRONMENT_PATTERN, value):
        allowed = "at most 31 lower-case letters, digits, _ and -, the first a letter or a digit"
        raise click.BadParameter(f"{value!r} is not the name of an environment: {allowed}", ctx, param)
    return value


class NewLockOptions(NamedTuple):
    """What the new lock is to be. `torch` stands for image.torch; `keep_as`: the name that `default` is kept under.

    `builds`: whether lab images are built.
    """

    torch: str | None
    keep_as: str | None
    builds: bool


@click.command(
    epilog=example(
        "provision upgrade ai-lab --check\n"
        '  provision upgrade ai-lab --torch ">=2.10,<2.11" --when-busy wait:2h --notice "torch 2.10 comes tonight"\n'
        "  provision upgrade ai-lab --keep-as 2026s"
    )
)
@lab_argument
@torch_option
@click.option(
    "--keep-as",
    metavar="NAME",
    callback=_environment_name,
    help="Keep the environment `default` of before under this name, for those who may have `default`, until `provision"
    " environments remove`.",
)
@click.option("--check", is_flag=True, help="Show what would change, and change nothing: no build, no push, no node.")
@click.option(
    "--leave-behind", is_flag=True, help="Accept that nodes which the new lock does not serve stay as they are."
)
@click.option(
    "--notice", metavar="TEXT", callback=notice_argument, help="Show this notice first in every seat that changes."
)
@changes_nodes
def upgrade(  # noqa: PLR0913  (each is a flag, or a group of them)
    *,
    lab: str,
    torch: str | None,
    keep_as: str | None,
    check: bool,
    leave_behind: bool,
    notice: str | None,
    options: ChangeOptions,
) -> int:
    """Upgrade the lab: select images anew, show what changes on which node, and roll it out.

    The selection is always for the whole lab; --limit restricts where it is rolled out now. lab.lock is written after
    the confirmation and before the first node changes: if the run stops, `provision rollout` completes it. The old
    lock is kept in the run's record. Homes, ports, tokens, host keys and uids stay.
    """
    directory = read_lab(lab)
    old = require_lock(directory)
    if keep_as is not None and (taken := keep_problem(keep_as, directory.lab.all_environments, old)):
        raise ProblemError(taken, "usage")
    output, breaks = options.output, options.run.break_lock
    with (
        open_run_context(directory.lab.name, "upgrade", breaks, output) as run,
        open_fleet(directory, options.ansible._replace(limit=None), output.verbose, run.on_event) as fleet,
    ):
        upgraded = _plan_upgrade(directory, old, run, fleet, options, NewLockOptions(torch, keep_as, not check))
        _show(output, upgraded)
        note_cautions(directory, output)
        left_behind = list(upgraded.change.all_left_behind)
        if check:
            document = Upgrade(change=upgraded.change, lock=upgraded.made.result.lock, plan=upgraded.plan)
            output.document(UPGRADE_SCHEMA, document)
            output.note(problems(left_behind))
            if unbuilt := [image.reference for image in upgraded.made.result.lock.all_images if not image.is_built]:
                output.note(f"Not built yet, so their digests are not known: {', '.join(unbuilt)}")
            return FAILED if left_behind else DONE
        if left_behind and not leave_behind:
            raise ProblemError(problem for _, problem in left_behind)
        run.journal.keep("plan", upgraded.plan)
        planned = PlannedRun(directory, upgraded.lock, upgraded.context)
        refuse_claimed(planned.context.probed, planned.claims(run.journal.run, "upgrade"), breaks)
        gate = check_maintenance(directory.lab.rollout.calendar, planned.plan, options.overrides, run.on_event)
        question = f"Hold the lab to this lock, and roll it out to {count(len(upgraded.plan.changed_nodes), 'node')}?"
        is_change = upgraded.changes or planned.forced_leases
        if is_change and not (options.yes or output.confirm(planned.question(question))):
            output.note("Nothing was changed.")
            return FAILED
        recheck_planned(planned, run)
        save_requirements(upgraded.made.requirements)
        if not upgraded.change.is_empty or old.people != planned.lock.people:
            _replace_lock(directory, old, planned.lock, run, torch)
        if notice is not None:
            with run.progress():
                failed = notify_seats(fleet, planned.plan, run.journal.run, notice)
            output.note(problems(failed, "yellow"))
        run_spec = build_run_spec_from_plan(planned, run.journal.run, options, "upgrade")
        code = execute_run(run, run_spec, fleet, breaks=breaks, gate=gate)
        set_disk_limits(planned, run, fleet)
        return code


def _plan_upgrade(  # noqa: PLR0913, PLR0917  (the lab as it is, the run, and what is requested)
    directory: LabDirectory, old: Lockfile, run: OpenRun, fleet: Fleet, options: ChangeOptions, wanted: NewLockOptions
) -> PlannedUpgrade:
    """Make a new lock and plan it. `fleet` is the whole lab, since a lock always serves all nodes."""
    with run.progress():
        hosts = lab_fleet(directory, options.ansible, options.output.verbose, run.on_event).hosts()
        probed = probe(fleet, run.on_event)
        made = new_lock(
            directory, probed, run.on_event, torch=wanted.torch, keep_as=wanted.keep_as, builds=wanted.builds
        )
        locked = made.result
        inputs = plan_inputs(directory, locked.lock, options.ansible.limit)
        when_busy = options.overrides.when_busy
        prepared = build_plan(inputs, hosts, probed, when_busy=when_busy)
    selections = {name: choice.selection for name, choice in locked.choices.items()}
    nodes = environment_nodes(directory.lab, directory.people, list(probed))
    change = compare_locks(old, locked.lock, unserved_reasons(selections, nodes, probed))
    return PlannedUpgrade(made, change, PlanContext(probed, prepared))


def _show(output: Output, upgraded: PlannedUpgrade) -> None:
    show_choices(upgraded.made.result, output, lock_change_view(upgraded.change))
    output.show("")
    if not output.as_json:
        show_plan(output, upgraded.plan)


def _replace_lock(directory: LabDirectory, old: Lockfile, new: Lockfile, run: OpenRun, torch: str | None) -> None:
    """Write the new lock before any node changes, so that `provision rollout` can complete an interrupted upgrade."""
    before = run.journal.keep("lock-before", old)
    write_lock(directory.lock, new)
    run.output.note(f"{directory.lock} holds the new lock; commit it. The old one: {before}")
    note_old_signature(directory, run.output)
    if torch is not None and torch != directory.lab.image.torch:
        run.output.note(
            f'lab.yml still requests torch "{directory.lab.image.torch}", and the next lock would follow that. To '
            f'keep this selection, write below image in lab.yml:\n  torch: "{torch}"'
        )
