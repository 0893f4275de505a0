"""What rollback and remove share: both change seats without a lock."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from provisioner.adapters.lab.directory import LabDirectory
from provisioner.cli.execute import execute_run, show_plan
from provisioner.cli.exit_codes import FAILED
from provisioner.cli.maintenance import check_maintenance
from provisioner.cli.options import ChangeOptions
from provisioner.cli.run_context import build_claim, open_run_context
from provisioner.cli.wiring import open_fleet, own_version
from provisioner.domain.rollout.order import Orders, RollbackOrder
from provisioner.domain.rollout.plan import Plan
from provisioner.domain.rollout.run_spec import Rules, Verb, build_run_spec
from provisioner.domain.self_service.config import Published
from provisioner.workflow.probe import probe
from provisioner.workflow.protocols import Host, Probed
from provisioner.workflow.rollout.claims import refuse_claimed
from provisioner.workflow.rollout.publications import publication_orders


class SeatChange(NamedTuple):
    """A rollback or a removal. `question` asks for confirmation and says what the plan changes.

    `orders` builds the rollback orders of a plan for the run of that name; a removal needs none. `publications` adds
    self-service to a plan, with what each node gets; a removal has it in its plan.
    """

    verb: Verb
    plan: Callable[[Sequence[Host], Probed], Plan]
    question: Callable[[Plan], str]
    rules: Rules
    orders: Callable[[Plan, str], Orders[RollbackOrder]] = lambda plan, run: {}  # noqa: ARG005
    publications: Callable[[Plan, Probed], tuple[Plan, Mapping[str, Published]]] = lambda plan, probed: (plan, {})  # noqa: ARG005


def change_seats(directory: LabDirectory, change: SeatChange, options: ChangeOptions) -> int:
    """Probe, plan, ask for confirmation and execute. Return the exit code."""
    lab, output, breaks = directory.lab, options.output, options.run.break_lock
    with (
        open_run_context(lab.name, change.verb, breaks, output) as run,
        open_fleet(directory, options.ansible, output.verbose, run.on_event) as fleet,
    ):
        with run.progress():
            probed = probe(fleet, run.on_event)
        plan, published = change.publications(change.plan(fleet.hosts(), probed), probed)
        name = run.journal.run
        run.journal.keep("plan", plan)
        show_plan(output, plan)
        claim = build_claim(name, lab.name, change.verb, probed)
        refuse_claimed(probed, plan.claims(claim), breaks)
        gate = check_maintenance(lab.rollout.calendar, plan, options.overrides, run.on_event)
        if plan.changed_nodes and not (options.yes or output.confirm(change.question(plan))):
            output.note("Nothing was changed.")
            return FAILED
        run_spec = build_run_spec(
            name,
            plan,
            {},
            change.rules,
            datetime.now(UTC),
            verb=change.verb,
            place=str(directory.path),
            back=change.orders(plan, name),
            ignore_freeze=options.overrides.ignore_freeze or "",
            publications=publication_orders(plan.publications, published, name, own_version(), plan.when_busy),
        ).with_claim(claim)
        return execute_run(run, run_spec, fleet, breaks=breaks, gate=gate)
