"""What rollback and remove have in common: they take from seats what these run, and need no lock for it."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from provisioner.adapters.lab.directory import LabDirectory
from provisioner.cli.execute import execute_run, show_plan
from provisioner.cli.exit_codes import FAILED
from provisioner.cli.maintenance import check_maintenance
from provisioner.cli.options import AnsibleOptions, Overrides, RunOptions
from provisioner.cli.output import Output
from provisioner.cli.progress_display import show_progress
from provisioner.cli.run_context import claim_for, open_run_context
from provisioner.cli.wiring import fleet_factory
from provisioner.domain.rollout.order import BackOrder
from provisioner.domain.rollout.plan import Plan
from provisioner.domain.rollout.run_spec import Rules, Verb, build_run_spec
from provisioner.workflow.probe import probe
from provisioner.workflow.protocols import Host, Probed
from provisioner.workflow.rollout.claims import refuse_held


class Withdrawal(NamedTuple):
    """`question` is put about the nodes that would change; `back` makes the orders of a plan in a run, if any."""

    verb: Verb
    plan: Callable[[Sequence[Host], Probed], Plan]
    question: Callable[[Sequence[str]], str]
    rules: Rules
    back: Callable[[Plan, str], Mapping[str, BackOrder]] = lambda plan, run: {}  # noqa: ARG005


def withdraw(  # noqa: PLR0913  (what, and the groups of flags that both verbs have)
    directory: LabDirectory,
    what: Withdrawal,
    *,
    yes: bool,
    run_options: RunOptions,
    overrides: Overrides,
    ansible: AnsibleOptions,
    output: Output,
) -> int:
    """Look, plan, ask, and do it; the exit code."""
    lab = directory.lab
    with (
        open_run_context(lab.name, what.verb, run_options.break_lock) as journal,
        fleet_factory(directory, ansible, output.verbose) as nodes,
    ):
        with show_progress(output) as show:
            on_event = journal.telling(show)
            at_hand = nodes(on_event)
            probed = probe(at_hand, on_event)
        plan = what.plan(at_hand.hosts(), probed)
        journal.keep("plan", plan)
        show_plan(output, plan)
        pending = [step.node for step in plan.pending]
        refuse_held(probed, pending, journal.run, run_options.break_lock)
        gate = check_maintenance(lab.rollout.calendar, plan, overrides, journal)
        if pending and not (yes or output.agreed(what.question(pending))):
            output.note("Nothing was changed.")
            return FAILED
        agreed = build_run_spec(
            journal.run,
            plan,
            {},
            what.rules,
            datetime.now(UTC),
            verb=what.verb,
            place=str(directory.path),
            back=what.back(plan, journal.run),
            ignore_freeze=overrides.ignore_freeze or "",
        ).with_claim(claim_for(journal.run, lab.name, what.verb, probed))
        return execute_run(output, journal, agreed, nodes, breaks=run_options.break_lock, gate=gate)
