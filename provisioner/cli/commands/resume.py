"""`provision resume`: finish an interrupted run."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import click

from provisioner.adapters.lab.directory import read_lab
from provisioner.adapters.state.journal import events, list_started_runs, read_report, read_run_spec
from provisioner.cli.execute import interruptible, report_outcome, settle_seats
from provisioner.cli.exit_codes import DONE
from provisioner.cli.maintenance import maintenance_gate
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
from provisioner.cli.run_context import OpenRun, build_claim, reopen_run_context
from provisioner.cli.wiring import open_fleet, recheck_registry
from provisioner.domain.lab.ordered import OrderedImage
from provisioner.domain.rollout.report import REPORT_SCHEMA, RolloutReport
from provisioner.domain.values.event import OnEvent
from provisioner.domain.values.problem import Problem, ProblemError
from provisioner.workflow.protocols import NodeFleet, Probed
from provisioner.workflow.rollout.resume import assess_nodes, final_records, is_open, remaining_images
from provisioner.workflow.rollout.resume import resume as resume_run
from provisioner.workflow.rollout.waves import Gate, no_gate

Recheck = Callable[[Sequence[OrderedImage], OnEvent], None]


@click.command(epilog=example("provision resume ai-lab"))
@lab_argument
@click.argument("run", metavar="[RUN]", required=False)
@with_run_options
@with_ansible_options
@with_output
def resume(lab: str, run: str | None, run_options: RunOptions, ansible: AnsibleOptions, output: Output) -> int:
    """Finish an interrupted run: killed, stopped by ^C, or without contact to a node.

    Every node is probed; changes that had begun are completed, and the remaining waves run as they were confirmed. A
    node that another run has changed since is skipped. Without RUN the last unfinished run is resumed.
    """
    if ansible.limit is not None:
        raise click.UsageError("a run is resumed for all nodes that it was started for: --limit is not accepted")
    directory = read_lab(lab)
    name, breaks = directory.lab.name, run_options.break_lock
    folder = find_open_run(name, run)
    if folder is None:
        return report_nothing_to_resume(name, output)
    with (
        reopen_run_context(name, folder, breaks, output) as context,
        open_fleet(directory, ansible, output.verbose, context.on_event) as fleet,
    ):
        gate = maintenance_gate(directory.lab.rollout.calendar)
        return finish_run(context, fleet, run_options, gate=gate, recheck=partial(recheck_registry, directory))


def finish_run(
    run: OpenRun,
    fleet: NodeFleet,
    run_options: RunOptions,
    *,
    gate: Gate = no_gate,
    recheck: Recheck = lambda _images, _on_event: None,
) -> int:
    """Finish a run that was reopened, and return the exit code. A run with a reason to ignore a freeze ignores `gate`.

    `recheck` raises ProblemError where an image that is still to be pulled is incomplete.
    """
    run_spec = read_run_spec(run.journal.folder)
    ended = final_records(events(run.journal.folder))
    with run.progress():
        probed = _probe_run_nodes(fleet, run_spec.nodes)
        state = assess_nodes(run_spec, ended, probed)
        recheck(remaining_images(run_spec, state, probed), run.on_event)
    run_spec = run_spec.with_allowance(state.settled.values(), run_options.allow_unreachable)
    run_spec = run_spec.with_claim(build_claim(run_spec.run, run_spec.lab, run_spec.verb, probed))
    gate = no_gate if run_spec.ignore_freeze else gate
    with interruptible(run, run_spec):
        outcome = resume_run(run_spec, state, fleet, run, breaks=run_options.break_lock, gate=gate)
        outcome = settle_seats(run, run_spec, fleet, outcome)
    return report_outcome(run, run_spec, outcome)


def find_open_run(lab: str, run: str | None) -> Path | None:
    """Return the folder of the run to resume, or None where that run, or every run of the lab, has ended.

    Raises ProblemError (usage) where no run of this name is recorded.
    """
    folders = list_started_runs(lab)
    if run is not None:
        folders = [folder for folder in folders if folder.name == run]
        if not folders:
            raise ProblemError(_no_such_run(lab, run), "usage")
    return next((folder for folder in reversed(folders) if is_open(read_run_spec(folder), read_report(folder))), None)


def report_nothing_to_resume(lab: str, output: Output) -> int:
    """Report an empty run and return the exit code."""
    now = datetime.now(UTC)
    output.document(REPORT_SCHEMA, RolloutReport(lab=lab, run="", started_at=now, ended_at=now))
    output.show("Nothing to do: no run of this lab was interrupted.")
    return DONE


def _probe_run_nodes(fleet: NodeFleet, nodes: Sequence[str]) -> Probed:
    """Probe the nodes of a run. A node that has left the inventory since has a Problem in its place."""
    present = {host.name for host in fleet.hosts()}
    probed = fleet.probe([node for node in nodes if node in present])
    return {node: probed[node] if node in present else _not_in_inventory(node) for node in nodes}


def _not_in_inventory(node: str) -> Problem:
    return Problem(
        "not_in_inventory",
        f"{node} is no longer in the inventory",
        "the run was started for this node, too",
        "add it to the inventory again to finish the run; otherwise it stays as it is",
        node,
    )


def _no_such_run(lab: str, run: str) -> Problem:
    return Problem(
        "no_such_run",
        f"no run {run} of the lab {lab} is recorded on this machine",
        "the record of a run is on the machine where it was started",
        "resume it there; without the name of a run the last one is resumed",
    )
