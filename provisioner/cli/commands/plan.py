import sys
from datetime import UTC, datetime
from pathlib import Path

import click

from provisioner.adapters.lab.directory import LabDirectory, read_lab
from provisioner.adapters.lab.lockfile import read_lock
from provisioner.adapters.state.files import write_text
from provisioner.cli.exit_codes import DONE, FAILED, PENDING
from provisioner.cli.options import (
    AnsibleOptions,
    Overrides,
    example,
    fresh_option,
    lab_argument,
    with_ansible_options,
    with_output,
    with_overrides,
)
from provisioner.cli.output import Output
from provisioner.cli.plan_context import look, require_lock, source
from provisioner.cli.progress_display import show_progress
from provisioner.cli.wiring import choice, fleet
from provisioner.console.plan import MAX_DIFF_LINES, plan_view
from provisioner.console.problems import problems
from provisioner.console.selection import passed_over, selection_view
from provisioner.domain.rollout.plan import PLAN_SCHEMA
from provisioner.domain.selection.selection import SELECTION_SCHEMA
from provisioner.workflow.probe import probe


@click.command(epilog=example("provision plan ai-lab -o monday.json"))
@lab_argument
@click.option("-o", "--out", type=click.Path(dir_okay=False, path_type=Path), help="Save the plan for rollout --plan.")
@click.option("--exit-code", is_flag=True, help="Exit 3 where changes are pending.")
@with_overrides
@fresh_option
@with_ansible_options
@with_output
def plan(  # noqa: PLR0913  (each is a flag)
    *,
    lab: str,
    out: Path | None,
    exit_code: bool,
    overrides: Overrides,
    fresh: bool,
    ansible: AnsibleOptions,
    output: Output,
) -> int:
    """Show what a rollout would do to each seat: real differences, GB to pull, who is busy. Nothing is changed.

    Where the lab has no lock yet there is nothing to differ from: what would be chosen is shown.
    Exit 1 where a node cannot be planned for.
    """
    directory = read_lab(lab)
    lock = read_lock(directory.lock) if out is None else require_lock(directory)
    if lock is None:
        served = _choose(directory, ansible, output, fresh=fresh)
        return FAILED if not served else PENDING if exit_code else DONE
    with show_progress(output) as on_event:
        nodes = fleet(directory, ansible, output.verbose, on_event)
        made = look(directory, lock, nodes, on_event, overrides.when_busy).prepared.plan
    if out is not None:
        write_text(out, made.model_dump_json(indent=2) + "\n")
    output.document(PLAN_SCHEMA, made)
    output.say(plan_view(made, diff_lines=sys.maxsize if output.verbose else MAX_DIFF_LINES))
    closed = directory.lab.rollout.calendar.closed_problem(datetime.now(UTC))
    if made.pending and closed and overrides.ignore_freeze is None:
        output.note(problems([("", closed)], "yellow"))
    if made.pending:
        output.note(f"Next: provision rollout {lab}{f' --plan {out}' if out else ''}")
    if made.skipped:
        return FAILED
    return PENDING if exit_code and made.pending else DONE


def _choose(directory: LabDirectory, ansible: AnsibleOptions, output: Output, *, fresh: bool) -> bool:
    """Show what a lock would hold, without one; whether every node would be served."""
    with show_progress(output) as on_event:
        probed = probe(fleet(directory, ansible, output.verbose, on_event), on_event)
        selection, catalog = choice(directory, probed, on_event, fresh=fresh)
    output.document(SELECTION_SCHEMA, selection.to_json() | source(catalog))
    output.say(selection_view(selection, output.out.width), passed_over(selection, catalog))
    output.note(f"No lock yet. `provision rollout {directory.path}` makes it, shows the plan with its files, and asks.")
    return all(name in selection.nodes and selection.nodes[name].tag for name in probed)
