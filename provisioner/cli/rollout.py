from collections.abc import Callable
from pathlib import Path

import click

from provisioner.adapters.ansible.fleet import AnsibleFleet
from provisioner.adapters.files import read_text
from provisioner.adapters.journal import RunJournal, open_run
from provisioner.adapters.lab.directory import LabDirectory, read_lab
from provisioner.adapters.lab.documents import read_document
from provisioner.adapters.lab.lockfile import read_lock
from provisioner.cli.doing import carry_out, show_plan
from provisioner.cli.exits import FAILED
from provisioner.cli.introduce import fleet, materials, new_lock, recheck
from provisioner.cli.lock import keep
from provisioner.cli.options import Reach, example, fresh_option, lab_argument, reaching, voiced, yes_option
from provisioner.cli.voice import Voice
from provisioner.cli.watch import watching
from provisioner.console.text import count
from provisioner.domain.event import OnEvent
from provisioner.domain.lock import Lockfile
from provisioner.domain.order import order_for
from provisioner.domain.plan import Plan
from provisioner.domain.problem import CannotGoOn
from provisioner.domain.stale import moved_since
from provisioner.workflow.plan import Prepared, prepare
from provisioner.workflow.probe import probe

plan_option = click.option(
    "--plan",
    "saved",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Do what this saved plan says; exit 6 where a node has moved since.",
)


@click.command(epilog=example("provision rollout ai-lab --limit gpu01"))
@lab_argument
@plan_option
@yes_option
@fresh_option
@reaching
@voiced
def rollout(  # noqa: PLR0913  (each is a flag)
    *, lab: str, saved: Path | None, yes: bool, fresh: bool, reach: Reach, voice: Voice
) -> int:
    """The main job: probe, lock where there is none, plan, agree, roll out in waves, verify, report.

    Exit 0 only if every node is done; 4 where all that is left is deferred because someone works there.
    """
    directory = read_lab(lab)
    reviewed = None if saved is None else read_document(str(saved), read_text(saved, "provision plan -o FILE"), Plan)

    def nodes(on_event: OnEvent) -> AnsibleFleet:
        return fleet(directory, reach, voice.verbose, on_event)

    journal = open_run(directory.lab.name)
    lock, prepared = _prepare(directory, journal, nodes, voice, fresh=fresh)
    journal.keep("plan", prepared.plan)
    show_plan(voice, prepared.plan)
    if reviewed is not None and (moved := moved_since(reviewed, prepared.plan)):
        raise CannotGoOn(moved, "stale")
    pending = prepared.plan.pending
    if pending and not (yes or voice.agreed(f"Roll this out to {count(len(pending), 'node')}?")):
        voice.note("Nothing was changed.")
        return FAILED
    if pending:
        with watching(voice) as show:
            recheck(directory, prepared, journal.telling(show))
    orders = {
        node: order_for(bundle, directory.lab, journal.run, ca=lock.registry_ca)
        for node, bundle in prepared.bundles.items()
    }
    return carry_out(voice, journal, prepared, orders, nodes)


def _prepare(
    directory: LabDirectory,
    journal: RunJournal,
    nodes: Callable[[OnEvent], AnsibleFleet],
    voice: Voice,
    *,
    fresh: bool,
) -> tuple[Lockfile, Prepared]:
    """Look, lock where there is no lock, and hold the one against the other."""
    lock, locked = read_lock(directory.lock), None
    with watching(voice) as show:
        on_event = journal.telling(show)
        at_hand = nodes(on_event)
        probed = probe(at_hand, on_event)
        if lock is None:
            locked = new_lock(directory, probed, on_event, fresh=fresh)
            lock = locked.lock
        prepared = prepare(materials(directory, lock), at_hand.hosts(), probed)
    if locked is not None:
        keep(directory, locked, voice)
    return lock, prepared
