"""`provision usage`: how long people have held and used GPUs."""

import csv
import sys
from datetime import datetime

import click

from provisioner.adapters.lab.directory import read_lab
from provisioner.cli.exit_codes import DONE, FAILED
from provisioner.cli.options import AnsibleOptions, example, lab_argument, with_ansible_options, with_output
from provisioner.cli.output import Output
from provisioner.cli.progress_display import show_progress
from provisioner.cli.wiring import fleet
from provisioner.console.gpu_usage import gpu_usage_view
from provisioner.console.problems import problems
from provisioner.domain.rollout.gpu_usage import GPU_USAGE_SCHEMA, csv_rows
from provisioner.workflow.rollout.leases import read_gpu_usage

since_option = click.option(
    "--since", type=click.DateTime(["%Y-%m-%d"]), metavar="DATE", help="The first day (UTC), such as 2027-03-01."
)


@click.command(epilog=example("provision usage ai-lab --since 2027-03-01\n  provision usage ai-lab --csv > usage.csv"))
@lab_argument
@since_option
@click.option("--csv", "as_csv", is_flag=True, help="Print a table for a spreadsheet on stdout.")
@with_ansible_options
@with_output
def usage(lab: str, since: datetime | None, as_csv: bool, ansible: AnsibleOptions, output: Output) -> int:
    """Show how many hours people have held GPUs by leases, and for how many of them the GPUs were in use.

    A GPU is in use in a minute in which it computed, or a process was on it. Only leases are counted, not the seats of
    the roster. Exit 1 where a node did not answer.
    """
    if as_csv and output.as_json:
        raise click.UsageError("--csv and --json exclude each other")
    directory = read_lab(lab)
    first = since.date() if since else None
    with show_progress(output) as on_event:
        found = read_gpu_usage(fleet(directory, ansible, output.verbose, on_event), directory.lab.name, first)
    output.document(GPU_USAGE_SCHEMA, found)
    if as_csv:
        csv.writer(sys.stdout, lineterminator="\n").writerows(csv_rows(found))
        output.note(problems(found.unread.items()))
    else:
        output.show(gpu_usage_view(found))
    return FAILED if found.unread else DONE
