"""What rollback and remove have in common: they take from seats what these run, and need no lock for it."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from provisioner.adapters.lab.directory import LabDirectory
from provisioner.cli.execute import carry_out, show_plan
from provisioner.cli.exit_codes import FAILED
from provisioner.cli.maintenance import hold_to_hours
from provisioner.cli.options import Care, Consent, Reach
from provisioner.cli.output import Voice
from provisioner.cli.progress_display import watching
from provisioner.cli.run_context import claim_for, entered
from provisioner.cli.wiring import crew
from provisioner.domain.rollout.order import BackOrder
from provisioner.domain.rollout.plan import Plan
from provisioner.domain.rollout.run_spec import Rules, Verb, set_out
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
    directory: LabDirectory, what: Withdrawal, *, yes: bool, care: Care, consent: Consent, reach: Reach, voice: Voice
) -> int:
    """Look, plan, ask, and do it; the exit code."""
    lab = directory.lab
    with entered(lab.name, what.verb, care.break_lock) as journal, crew(directory, reach, voice.verbose) as nodes:
        with watching(voice) as show:
            on_event = journal.telling(show)
            at_hand = nodes(on_event)
            probed = probe(at_hand, on_event)
        plan = what.plan(at_hand.hosts(), probed)
        journal.keep("plan", plan)
        show_plan(voice, plan)
        pending = [step.node for step in plan.pending]
        refuse_held(probed, pending, journal.run, care.break_lock)
        hindrance = hold_to_hours(lab.rollout.calendar, plan, consent, journal)
        if pending and not (yes or voice.agreed(what.question(pending))):
            voice.note("Nothing was changed.")
            return FAILED
        agreed = set_out(
            journal.run,
            plan,
            {},
            what.rules,
            datetime.now(UTC),
            verb=what.verb,
            place=str(directory.path),
            back=what.back(plan, journal.run),
            ignore_freeze=consent.ignore_freeze or "",
        ).held_by(claim_for(journal.run, lab.name, what.verb, probed))
        return carry_out(voice, journal, agreed, nodes, breaks=care.break_lock, hindrance=hindrance)
