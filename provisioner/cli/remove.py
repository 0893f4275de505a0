from datetime import UTC, datetime

import click

from provisioner.adapters.lab.directory import read_lab
from provisioner.cli.doing import carry_out
from provisioner.cli.entering import claim_for, entered
from provisioner.cli.exits import FAILED
from provisioner.cli.introduce import crew
from provisioner.cli.options import Care, Reach, careful, example, lab_argument, reaching, voiced, yes_option
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
@reaching
@voiced
def remove(lab: str, yes: bool, care: Care, reach: Reach, voice: Voice) -> int:
    """Take seats down, and forget their generations. Homes, tokens and host keys stay on the nodes."""
    directory = read_lab(lab)
    name = seat_name(directory.lab.name, directory.lab.seat.user)

    with crew(directory, reach, voice.verbose) as nodes:
        with watching(voice) as show:
            hosts = [host.name for host in nodes(show).hosts()]
        what = f"Take {name} down on {count(len(hosts), 'node')} ({fold(hosts)})? Whatever runs in it ends."
        if not (yes or voice.agreed(what)):
            voice.note("Nothing was changed.")
            return FAILED
        with entered(directory.lab.name, "remove", care.break_lock) as journal:
            with watching(voice) as show:
                on_event = journal.telling(show)
                probed = probe(nodes(on_event), on_event)
            plan = removal(directory.lab.name, name, probed)
            refuse_held(probed, [step.node for step in plan.pending], journal.run, care.break_lock)
            # Every node is asked: what could not be taken down here is no reason to leave it running there.
            rules = Rules(max_failures="100%")
            made = set_out(journal.run, plan, {}, rules, datetime.now(UTC), verb="remove", place=str(directory.path))
            claim = claim_for(journal.run, directory.lab.name, "remove", probed)
            return carry_out(voice, journal, made.held_by(claim), nodes, breaks=care.break_lock)
