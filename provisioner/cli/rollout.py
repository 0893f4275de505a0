from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import click

from provisioner.adapters.ansible.fleet import AnsibleFleet
from provisioner.adapters.files import read_text
from provisioner.adapters.journal import RunJournal, open_run
from provisioner.adapters.lab.directory import LabDirectory, read_lab
from provisioner.adapters.lab.documents import read_document
from provisioner.adapters.lab.lockfile import read_lock
from provisioner.cli.doing import carry_out, show_plan
from provisioner.cli.exits import FAILED
from provisioner.cli.hours import hold_to_hours
from provisioner.cli.introduce import fleet, materials, new_lock
from provisioner.cli.lock import keep
from provisioner.cli.options import Consent, Reach, consenting, example, lab_argument, reaching, voiced, yes_option
from provisioner.cli.voice import Voice
from provisioner.cli.watch import watching
from provisioner.console.text import count
from provisioner.domain.busy import WhenBusy
from provisioner.domain.event import OnEvent
from provisioner.domain.lab import Lab
from provisioner.domain.lock import Lockfile
from provisioner.domain.order import order_for
from provisioner.domain.plan import Plan
from provisioner.domain.problem import CannotGoOn
from provisioner.domain.stale import moved_since
from provisioner.workflow.plan import Prepared, prepare
from provisioner.workflow.probe import probe
from provisioner.workflow.rollout import Hindrance

plan_option = click.option(
    "--plan",
    "saved",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Do what this saved plan says; exit 6 where a node has moved since.",
)


@click.command(epilog=example("provision rollout ai-lab --limit gpu01\n  provision rollout ai-lab --when-busy wait:2h"))
@lab_argument
@plan_option
@yes_option
@consenting
@reaching
@voiced
def rollout(  # noqa: PLR0913  (each is a flag)
    *, lab: str, saved: Path | None, yes: bool, consent: Consent, reach: Reach, voice: Voice
) -> int:
    """The main job: probe, lock where there is none, plan, agree, roll out in waves, verify, report.

    Exit 0 only if every node is done; 4 where all that is left is deferred because someone works there, or because
    this is no hour at which the lab may be changed. A saved plan brings its own --when-busy.
    """
    directory = read_lab(lab)
    reviewed = None if saved is None else read_document(str(saved), read_text(saved, "provision plan -o FILE"), Plan)
    when_busy = _agreed_before(reviewed, consent)

    def nodes(on_event: OnEvent) -> AnsibleFleet:
        return fleet(directory, reach, voice.verbose, on_event)

    journal = open_run(directory.lab.name)
    lock, prepared = _prepare(directory, journal, nodes, voice, when_busy)
    journal.keep("plan", prepared.plan)
    show_plan(voice, prepared.plan)
    if reviewed is not None and (moved := moved_since(reviewed, prepared.plan)):
        raise CannotGoOn(moved, "stale")
    hindrance = hold_to_hours(directory.lab.rollout.calendar, prepared.plan, consent, journal)
    if not agreed(voice, prepared.plan, yes=yes):
        return FAILED
    return go(voice, journal, Agreed(directory.lab, lock, prepared, hindrance), nodes)


def _agreed_before(reviewed: Plan | None, consent: Consent) -> WhenBusy:
    """What was reviewed is what runs: whose work is stopped, too."""
    if reviewed is None:
        return consent.when_busy
    if consent.when_busy not in {WhenBusy(), reviewed.when_busy}:
        raise click.UsageError("the saved plan has its own --when-busy: make and review it again, with this one")
    return reviewed.when_busy


def agreed(voice: Voice, plan: Plan, *, yes: bool) -> bool:
    """Consent to the plan that was shown; one without changes needs none."""
    pending = plan.pending
    if not pending or yes or voice.agreed(f"Roll this out to {count(len(pending), 'node')}?"):
        return True
    voice.note("Nothing was changed.")
    return False


class Agreed(NamedTuple):
    """What was shown and agreed to, and what to ask before each of its waves."""

    lab: Lab
    lock: Lockfile
    prepared: Prepared
    hindrance: Hindrance


def go(voice: Voice, journal: RunJournal, what: Agreed, nodes: Callable[[OnEvent], AnsibleFleet]) -> int:
    """From a plan that was agreed to its end; the exit code."""
    when_busy = what.prepared.plan.when_busy
    orders = {
        node: order_for(bundle, what.lab, journal.run, ca=what.lock.registry_ca, when_busy=when_busy)
        for node, bundle in what.prepared.bundles.items()
    }
    return carry_out(voice, journal, what.prepared, orders, nodes, hindrance=what.hindrance)


def _prepare(
    directory: LabDirectory,
    journal: RunJournal,
    nodes: Callable[[OnEvent], AnsibleFleet],
    voice: Voice,
    when_busy: WhenBusy,
) -> tuple[Lockfile, Prepared]:
    """Look, lock where there is no lock, and hold the one against the other."""
    lock, locked = read_lock(directory.lock), None
    with watching(voice) as show:
        on_event = journal.telling(show)
        at_hand = nodes(on_event)
        probed = probe(at_hand, on_event)
        if lock is None:
            locked = new_lock(directory, probed, on_event)
            lock = locked.lock
        prepared = prepare(materials(directory, lock), at_hand.hosts(), probed, when_busy=when_busy)
    if locked is not None:
        keep(directory, locked, voice)
    return lock, prepared
