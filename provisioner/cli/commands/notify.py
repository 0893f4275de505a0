"""`provision notify`: show a notice to the users of seats."""

import click

from provisioner.adapters.ansible.fleet import AnsibleFleet
from provisioner.adapters.lab.directory import read_lab
from provisioner.adapters.state.journal import open_run
from provisioner.cli.exit_codes import DONE, FAILED
from provisioner.cli.options import AnsibleOptions, example, lab_argument, with_ansible_options, with_output
from provisioner.cli.output import Output
from provisioner.cli.run_context import OpenRun
from provisioner.cli.wiring import fleet
from provisioner.console.notice import notice_view
from provisioner.domain.rollout.notice import NOTICE_SCHEMA, NoticeReport, notice_text
from provisioner.domain.rollout.plan import Plan
from provisioner.domain.seat.seat import seat_name
from provisioner.domain.values.problem import Problem


def notice_argument(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """Return the notice as one line. Raises BadParameter where it cannot be shown."""
    try:
        return None if value is None else notice_text(value)
    except ValueError as error:
        raise click.BadParameter(str(error), ctx, param) from None


@click.command(
    epilog=example('provision notify ai-lab "torch 2.10 comes on Friday at 22:00"\n  provision notify ai-lab --clear')
)
@lab_argument
@click.argument("text", required=False, callback=notice_argument)
@click.option("--clear", is_flag=True, help="Remove the notice.")
@with_ansible_options
@with_output
def notify(*, lab: str, text: str | None, clear: bool, ansible: AnsibleOptions, output: Output) -> int:
    """Show TEXT to the users of the seats: in JupyterLab, in every new shell, and with `wall` on the nodes.

    One line of at most 300 characters. It stays, also through an upgrade, until it is replaced or removed.
    """
    if clear == (text is not None):
        raise click.UsageError("give either a TEXT to show, or --clear to remove the notice")
    directory = read_lab(lab)
    name = seat_name(directory.lab.name, directory.lab.seat.user)
    run = OpenRun.of(open_run(directory.lab.name), output)
    nodes = fleet(directory, ansible, output.verbose, run.on_event)
    with run.progress():
        records = nodes.notify({host.name: name for host in nodes.hosts()}, run.journal.run, text)
    report = NoticeReport(lab=directory.lab.name, text=text, nodes=tuple(records.values()))
    output.document(NOTICE_SCHEMA, report)
    output.show(notice_view(report))
    return DONE if report.done else FAILED


def notify_seats(fleet: AnsibleFleet, plan: Plan, run: str, text: str) -> list[tuple[str, Problem]]:
    """Show `text` in every seat that the plan changes. Return the nodes where it failed."""
    seats = {step.node: step.seat for step in plan.pending if step.seat and step.generation}
    records = fleet.notify(seats, run, text)
    return [(record.node, problem) for record in records.values() for problem in record.problems]
