from datetime import UTC, datetime

import click

from provisioner.adapters.lab.directory import read_lab
from provisioner.cli.doing import carry_out, show_plan
from provisioner.cli.entering import claim_for, entered
from provisioner.cli.exits import FAILED
from provisioner.cli.hours import hold_to_hours
from provisioner.cli.introduce import crew
from provisioner.cli.options import (
    Care,
    Consent,
    Reach,
    careful,
    consenting,
    example,
    lab_argument,
    reaching,
    voiced,
    yes_option,
)
from provisioner.cli.voice import Voice
from provisioner.cli.watch import watching
from provisioner.console.text import count
from provisioner.domain.seat import seat_name
from provisioner.domain.undertaking import Rules, set_out
from provisioner.workflow.claims import refuse_held
from provisioner.workflow.probe import probe
from provisioner.workflow.rollback import back_orders
from provisioner.workflow.rollback import rollback as plan_back


@click.command(epilog=example("provision rollback ai-lab --limit gpu01"))
@lab_argument
@click.option("--to", metavar="N", type=click.IntRange(min=1), help="A generation that the nodes keep.")
@yes_option
@careful
@consenting
@reaching
@voiced
def rollback(  # noqa: PLR0913  (each is a flag, or a group of them)
    *, lab: str, to: int | None, yes: bool, care: Care, consent: Consent, reach: Reach, voice: Voice
) -> int:
    """Bring seats back to what they ran before: in waves, proved as every switch is, without the network.

    The lock stays as it is, so `provision status` shows them as drift, and `provision rollout` goes forward again.
    """
    directory = read_lab(lab)

    with (
        entered(directory.lab.name, "rollback", care.break_lock) as journal,
        crew(directory, reach, voice.verbose) as nodes,
    ):
        with watching(voice) as show:
            on_event = journal.telling(show)
            at_hand = nodes(on_event)
            probed = probe(at_hand, on_event)
        name = seat_name(directory.lab.name, directory.lab.seat.user)
        plan = plan_back(directory.lab.name, name, at_hand.hosts(), probed, to, when_busy=consent.when_busy)
        journal.keep("plan", plan)
        show_plan(voice, plan)
        pending = [step.node for step in plan.pending]
        refuse_held(probed, pending, journal.run, care.break_lock)
        hindrance = hold_to_hours(directory.lab.rollout.calendar, plan, consent, journal)
        question = f"Bring {count(len(pending), 'node')} back? Whatever runs in their seats ends."
        if pending and not (yes or voice.agreed(question)):
            voice.note("Nothing was changed.")
            return FAILED
        what = set_out(
            journal.run,
            plan,
            {},
            Rules.of(directory.lab.rollout, care.allow_unreachable),
            datetime.now(UTC),
            verb="rollback",
            place=str(directory.path),
            back=back_orders(plan, journal.run, to),
            ignore_freeze=consent.ignore_freeze or "",
        ).held_by(claim_for(journal.run, directory.lab.name, "rollback", probed))
        return carry_out(voice, journal, what, nodes, breaks=care.break_lock, hindrance=hindrance)
