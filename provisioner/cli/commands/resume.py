from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import click

from provisioner.adapters.lab.directory import read_lab
from provisioner.adapters.state.journal import events, read_report, read_undertaking, reopen_run, undertakings
from provisioner.cli.execute import follow
from provisioner.cli.exit_codes import DONE
from provisioner.cli.maintenance import within_hours
from provisioner.cli.options import Care, Reach, careful, example, lab_argument, reaching, voiced
from provisioner.cli.output import Voice
from provisioner.cli.progress_display import watching
from provisioner.cli.run_context import claim_for, locked
from provisioner.cli.wiring import crew, recheck
from provisioner.domain.rollout.order import OrderedImage
from provisioner.domain.rollout.report import REPORT_SCHEMA, RolloutReport
from provisioner.domain.values.event import OnEvent
from provisioner.domain.values.problem import CannotGoOn, Problem
from provisioner.workflow.protocols import Crew, Probed
from provisioner.workflow.rollout.resume import heard, is_open, left_to_pull, stand
from provisioner.workflow.rollout.resume import resume as go_on
from provisioner.workflow.rollout.waves import Hindrance, nothing

Look = Callable[[Sequence[OrderedImage], OnEvent], None]


@click.command(epilog=example("provision resume ai-lab"))
@lab_argument
@click.argument("run", metavar="[RUN]", required=False)
@careful
@reaching
@voiced
def resume(lab: str, run: str | None, care: Care, reach: Reach, voice: Voice) -> int:
    """Finish a run that was cut off: killed, stopped by ^C, or one that lost contact with a node.

    Every node is asked how it stands; what had begun is followed to its end, and the waves that are left go on as they
    were agreed. A node that has moved since is left alone. Without RUN it is the last one that has not come to its end.
    """
    if reach.limit is not None:
        raise click.UsageError("a run is resumed whole: its nodes are those that it had set out to change")
    directory = read_lab(lab)

    with crew(directory, reach, voice.verbose) as nodes:
        hindrance = within_hours(directory.lab.rollout.calendar)
        look = partial(recheck, directory)
        return finish(directory.lab.name, run, nodes, care, voice, hindrance=hindrance, look=look)


def finish(  # noqa: PLR0913  (which run, on whom, how carefully, and how it is told)
    lab: str,
    run: str | None,
    nodes: Callable[[OnEvent], Crew],
    care: Care,
    voice: Voice,
    *,
    hindrance: Hindrance = nothing,
    look: Look = lambda _images, _on_event: None,
) -> int:
    """`nodes` makes a crew that tells its news to what it is given. A run may bring consent to ignore `hindrance`.

    `look` raises CannotGoOn where what is still to be pulled is not all there.
    """
    folder = _folder(lab, run)
    if folder is None:
        return _nothing(lab, voice)
    with locked(lab, folder.name, "resume", care.break_lock):
        journal, what = reopen_run(folder), read_undertaking(folder)
        ended = heard(events(folder))
        with watching(voice) as show:
            on_event = journal.telling(show)
            probed = _ask(nodes(on_event), what.nodes)
            standing = stand(what, ended, probed)
            look(left_to_pull(what, standing, probed), on_event)
        what = what.sparing(standing.known.values(), care.allow_unreachable)
        what = what.held_by(claim_for(what.run, what.lab, what.verb, probed))
        return follow(
            voice,
            journal,
            what,
            lambda on_event, halted: go_on(
                what,
                standing,
                nodes(on_event),
                on_event,
                halted=halted,
                breaks=care.break_lock,
                hindrance=nothing if what.ignore_freeze else hindrance,
            ),
        )


def _folder(lab: str, run: str | None) -> Path | None:
    """Of the run that is meant; None where nothing is left to do."""
    known = undertakings(lab)
    if run is not None:
        known = [folder for folder in known if folder.name == run]
        if not known:
            raise CannotGoOn(_no_such_run(lab, run), "usage")
    return next((folder for folder in reversed(known) if is_open(read_undertaking(folder), read_report(folder))), None)


def _ask(at_hand: Crew, nodes: Sequence[str]) -> Probed:
    """A node that has left the inventory since has a problem in its place."""
    present = {host.name for host in at_hand.hosts()}
    probed = at_hand.probe([node for node in nodes if node in present])
    return {node: probed[node] if node in present else _not_in_inventory(node) for node in nodes}


def _nothing(lab: str, voice: Voice) -> int:
    now = datetime.now(UTC)
    voice.document(REPORT_SCHEMA, RolloutReport(lab=lab, run="", started_at=now, ended_at=now))
    voice.say("Nothing to do: no run of this lab was cut off.")
    return DONE


def _not_in_inventory(node: str) -> Problem:
    return Problem(
        code="not_in_inventory",
        what=f"{node} is not in the inventory any more",
        why="the run had set out to change it",
        fix="put it back to finish the run; or leave it, and it stays as it is",
    )


def _no_such_run(lab: str, run: str) -> Problem:
    return Problem(
        code="no_such_run",
        what=f"no run {run} of the lab {lab} is recorded on this machine",
        why="what a run had set out to do is kept where it was started",
        fix="run it there; without a run's name the last one is taken",
    )
