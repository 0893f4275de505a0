"""`provision plan`: show what a rollout would change."""

from datetime import UTC, datetime
from pathlib import Path

import click
from rich.text import Text

from provisioner.adapters.lab.directory import LabDirectory, read_lab
from provisioner.adapters.lab.lockfile import read_lock
from provisioner.adapters.state.files import write_text
from provisioner.cli.execute import note_expected
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
from provisioner.cli.plan_context import build_context, choices_fields, note_cautions, require_lock
from provisioner.cli.progress_display import show_progress
from provisioner.cli.wiring import choose_images, fleet, plan_inputs
from provisioner.console.plan import plan_view
from provisioner.console.problems import problems
from provisioner.console.selection import better_tags_view, selection_view
from provisioner.domain.lab.environments import DEFAULT_ENVIRONMENT
from provisioner.domain.people.environments import environment_nodes
from provisioner.domain.rollout.plan import PLAN_SCHEMA
from provisioner.domain.selection.selection import SELECTION_SCHEMA
from provisioner.workflow.probe import probe


@click.command(epilog=example("provision plan ai-lab -o monday.json"))
@lab_argument
@click.option("-o", "--out", type=click.Path(dir_okay=False, path_type=Path), help="Save the plan for rollout --plan.")
@click.option("--exit-code", is_flag=True, help="Exit 3 where changes are pending.")
@click.option("--diff", is_flag=True, help="Show every node by itself, with its whole difference.")
@with_overrides
@fresh_option
@with_ansible_options
@with_output
def plan(  # noqa: PLR0913  (each is a flag)
    *,
    lab: str,
    out: Path | None,
    exit_code: bool,
    diff: bool,
    overrides: Overrides,
    fresh: bool,
    ansible: AnsibleOptions,
    output: Output,
) -> int:
    """Show what a rollout would change on each seat: differences, GB to pull, GPUs in use. Nothing is changed.

    Nodes whose seats change alike are one group with one difference. Where the lab has no lock yet, the images that
    would be selected are shown. Exit 1 where a node cannot get a seat.
    """
    directory = read_lab(lab)
    lock = read_lock(directory.lock) if out is None else require_lock(directory)
    if lock is None:
        note_cautions(directory, output)
        served = _show_selection(directory, ansible, output, fresh=fresh)
        return FAILED if not served else PENDING if exit_code else DONE
    with show_progress(output) as on_event:
        nodes = fleet(directory, ansible, output.verbose, on_event)
        context = build_context(plan_inputs(directory, lock, ansible.limit), nodes, on_event, overrides.when_busy)
    made = context.prepared.plan
    if out is not None:
        write_text(out, made.model_dump_json(indent=2) + "\n")
    output.document(PLAN_SCHEMA, made)
    output.show(plan_view(made, whole=diff or bool(output.verbose)))
    note_expected(directory, lock, made, output)
    note_cautions(directory, output)
    closed = directory.lab.rollout.calendar.closed_problem(datetime.now(UTC))
    if made.changed_nodes and closed and overrides.ignore_freeze is None:
        output.note(problems([("", closed)], "yellow"))
    if made.changed_nodes:
        output.note(f"Next: provision rollout {lab}{f' --plan {out}' if out else ''}")
    if made.is_incomplete:
        return FAILED
    return PENDING if exit_code and made.changed_nodes else DONE


def _show_selection(directory: LabDirectory, ansible: AnsibleOptions, output: Output, *, fresh: bool) -> bool:
    """Show what a new lock would contain. Return whether it would serve every node."""
    with show_progress(output) as on_event:
        probed = probe(fleet(directory, ansible, output.verbose, on_event), on_event)
        choices = choose_images(directory, probed, on_event, fresh=fresh)
    shown = {name: choice.selection.to_json() for name, choice in choices.items()}
    first = shown.pop(DEFAULT_ENVIRONMENT)
    output.document(SELECTION_SCHEMA, first | ({"environments": shown} if shown else {}) | choices_fields(choices))
    for name, (selection, catalog) in choices.items():
        if name != DEFAULT_ENVIRONMENT:
            output.show(Text(f"\nEnvironment {name}", "bold"))
        output.show(selection_view(selection, output.out.width), better_tags_view(selection, catalog))
    output.note(
        f"No lock yet. `provision rollout {directory.path}` creates it, shows the plan and asks for confirmation."
    )
    nodes = environment_nodes(directory.lab, directory.people, list(probed))
    return all(name in choices and choices[name].serves(nodes[name]) for name in nodes)
