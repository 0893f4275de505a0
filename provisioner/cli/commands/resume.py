from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import click

from provisioner.adapters.lab.directory import read_lab
from provisioner.adapters.state.journal import events, read_report, read_run_spec, reopen_run, run_spec_names
from provisioner.cli.execute import follow
from provisioner.cli.exit_codes import DONE
from provisioner.cli.maintenance import is_maintenance_time
from provisioner.cli.options import (
    AnsibleOptions,
    RunOptions,
    example,
    lab_argument,
    with_ansible_options,
    with_output,
    with_run_options,
)
from provisioner.cli.output import Output
from provisioner.cli.progress_display import show_progress
from provisioner.cli.run_context import claim_for, locked
from provisioner.cli.wiring import fleet_factory, recheck
from provisioner.domain.rollout.order import OrderedImage
from provisioner.domain.rollout.report import REPORT_SCHEMA, RolloutReport
from provisioner.domain.values.event import OnEvent
from provisioner.domain.values.problem import Problem, ProblemError
from provisioner.workflow.protocols import NodeFleet, Probed
from provisioner.workflow.rollout.resume import heard, is_open, left_to_pull, stand
from provisioner.workflow.rollout.resume import resume as go_on
from provisioner.workflow.rollout.waves import Gate, nothing

Look = Callable[[Sequence[OrderedImage], OnEvent], None]


@click.command(epilog=example("provision resume ai-lab"))
@lab_argument
@click.argument("run", metavar="[RUN]", required=False)
@with_run_options
@with_ansible_options
@with_output
def resume(lab: str, run: str | None, run_options: RunOptions, ansible: AnsibleOptions, output: Output) -> int:
    """Finish a run that was cut off: killed, stopped by ^C, or one that lost contact with a node.

    Every node is asked how it stands; what had begun is followed to its end, and the waves that are left go on as they
    were agreed. A node that has moved since is left alone. Without RUN it is the last one that has not come to its end.
    """
    if ansible.limit is not None:
        raise click.UsageError("a run is resumed whole: its nodes are those that it had set out to change")
    directory = read_lab(lab)

    with fleet_factory(directory, ansible, output.verbose) as nodes:
        gate = is_maintenance_time(directory.lab.rollout.calendar)
        look = partial(recheck, directory)
        return finish(directory.lab.name, run, nodes, run_options, output, gate=gate, look=look)


def finish(  # noqa: PLR0913  (which run, on whom, how carefully, and how it is told)
    lab: str,
    run: str | None,
    nodes: Callable[[OnEvent], NodeFleet],
    run_options: RunOptions,
    output: Output,
    *,
    gate: Gate = nothing,
    look: Look = lambda _images, _on_event: None,
) -> int:
    """`nodes` returns a fleet that sends its events to the function given. A run may bring consent to ignore `gate`.

    `look` raises ProblemError where what is still to be pulled is not all there.
    """
    folder = _folder(lab, run)
    if folder is None:
        return _nothing(lab, output)
    with locked(lab, folder.name, "resume", run_options.break_lock):
        journal, what = reopen_run(folder), read_run_spec(folder)
        ended = heard(events(folder))
        with show_progress(output) as show:
            on_event = journal.telling(show)
            probed = _ask(nodes(on_event), what.nodes)
            standing = stand(what, ended, probed)
            look(left_to_pull(what, standing, probed), on_event)
        what = what.sparing(standing.known.values(), run_options.allow_unreachable)
        what = what.with_claim(claim_for(what.run, what.lab, what.verb, probed))
        return follow(
            output,
            journal,
            what,
            lambda on_event, stop_requested: go_on(
                what,
                standing,
                nodes(on_event),
                on_event,
                stop_requested=stop_requested,
                breaks=run_options.break_lock,
                gate=nothing if what.ignore_freeze else gate,
            ),
        )


def _folder(lab: str, run: str | None) -> Path | None:
    """Of the run that is meant; None where nothing is left to do."""
    known = run_spec_names(lab)
    if run is not None:
        known = [folder for folder in known if folder.name == run]
        if not known:
            raise ProblemError(_no_such_run(lab, run), "usage")
    return next((folder for folder in reversed(known) if is_open(read_run_spec(folder), read_report(folder))), None)


def _ask(at_hand: NodeFleet, nodes: Sequence[str]) -> Probed:
    """A node that has left the inventory since has a problem in its place."""
    present = {host.name for host in at_hand.hosts()}
    probed = at_hand.probe([node for node in nodes if node in present])
    return {node: probed[node] if node in present else _not_in_inventory(node) for node in nodes}


def _nothing(lab: str, output: Output) -> int:
    now = datetime.now(UTC)
    output.document(REPORT_SCHEMA, RolloutReport(lab=lab, run="", started_at=now, ended_at=now))
    output.say("Nothing to do: no run of this lab was cut off.")
    return DONE


def _not_in_inventory(node: str) -> Problem:
    return Problem(
        "not_in_inventory",
        f"{node} is not in the inventory any more",
        "the run had set out to change it",
        "put it back to finish the run; or leave it, and it stays as it is",
    )


def _no_such_run(lab: str, run: str) -> Problem:
    return Problem(
        "no_such_run",
        f"no run {run} of the lab {lab} is recorded on this machine",
        "what a run had set out to do is kept where it was started",
        "run it there; without a run's name the last one is taken",
    )
