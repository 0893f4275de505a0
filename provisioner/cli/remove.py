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
from provisioner.console.text import count, fold
from provisioner.domain.seat import seat_name
from provisioner.domain.undertaking import Rules, set_out
from provisioner.workflow.claims import refuse_held
from provisioner.workflow.probe import probe
from provisioner.workflow.removal import removal


@click.command(epilog=example("provision remove ai-lab --limit gpu01"))
@lab_argument
@yes_option
@careful
@consenting
@reaching
@voiced
def remove(  # noqa: PLR0913  (each is a flag, or a group of them)
    *, lab: str, yes: bool, care: Care, consent: Consent, reach: Reach, voice: Voice
) -> int:
    """Take seats down, and forget their generations. Homes, tokens and host keys stay on the nodes."""
    directory = read_lab(lab)
    name = seat_name(directory.lab.name, directory.lab.seat.user)

    with (
        entered(directory.lab.name, "remove", care.break_lock) as journal,
        crew(directory, reach, voice.verbose) as nodes,
    ):
        with watching(voice) as show:
            on_event = journal.telling(show)
            probed = probe(nodes(on_event), on_event)
        plan = removal(directory.lab.name, name, probed, when_busy=consent.when_busy)
        journal.keep("plan", plan)
        show_plan(voice, plan)
        pending = [step.node for step in plan.pending]
        refuse_held(probed, pending, journal.run, care.break_lock)
        hindrance = hold_to_hours(directory.lab.rollout.calendar, plan, consent, journal)
        what = f"Take {name} down on {count(len(pending), 'node')} ({fold(pending)})? Whatever runs in it ends."
        if pending and not (yes or voice.agreed(what)):
            voice.note("Nothing was changed.")
            return FAILED
        # Every node is asked: what could not be taken down here is no reason to leave it running there.
        rules = Rules(max_failures="100%")
        made = set_out(
            journal.run,
            plan,
            {},
            rules,
            datetime.now(UTC),
            verb="remove",
            place=str(directory.path),
            ignore_freeze=consent.ignore_freeze or "",
        ).held_by(claim_for(journal.run, directory.lab.name, "remove", probed))
        return carry_out(voice, journal, made, nodes, breaks=care.break_lock, hindrance=hindrance)
