from collections.abc import Callable

import click

from provisioner.adapters.ansible.fleet import AnsibleFleet
from provisioner.adapters.lab.directory import read_lab
from provisioner.adapters.state.journal import RunJournal, open_run
from provisioner.cli.exit_codes import DONE, FAILED
from provisioner.cli.options import AnsibleOptions, example, lab_argument, with_ansible_options, with_output
from provisioner.cli.output import Output
from provisioner.cli.progress_display import show_progress
from provisioner.cli.wiring import fleet
from provisioner.console.notice import notice_view
from provisioner.console.problems import problems
from provisioner.domain.rollout.notice import NOTICE_SCHEMA, NoticeReport, notice_text
from provisioner.domain.rollout.plan import Plan
from provisioner.domain.seat.seat import seat_name
from provisioner.domain.values.event import OnEvent

Nodes = Callable[[OnEvent], AnsibleFleet]


def notice_argument(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    try:
        return None if value is None else notice_text(value)
    except ValueError as error:
        raise click.BadParameter(str(error), ctx, param) from None


@click.command(
    epilog=example('provision notify ai-lab "torch 2.10 comes on Friday at 22:00"\n  provision notify ai-lab --clear')
)
@lab_argument
@click.argument("text", required=False, callback=notice_argument)
@click.option("--clear", is_flag=True, help="Take the notice back.")
@with_ansible_options
@with_output
def notify(*, lab: str, text: str | None, clear: bool, ansible: AnsibleOptions, output: Output) -> int:
    """Tell TEXT to whoever works in the seats: in JupyterLab, in every new shell, and with `wall` on the nodes.

    A line of at most 300 characters. It stays, also through an upgrade, until it is replaced or taken back.
    """
    if clear == (text is not None):
        raise click.UsageError("give a TEXT to tell, or --clear to take it back")
    directory = read_lab(lab)
    name = seat_name(directory.lab.name, directory.lab.seat.user)

    def nodes(on_event: OnEvent) -> AnsibleFleet:
        return fleet(directory, ansible, output.verbose, on_event)

    journal = open_run(directory.lab.name)
    with show_progress(output) as show:
        told = nodes(journal.telling(show))
        records = told.notify({host.name: name for host in told.hosts()}, journal.run, text)
    report = NoticeReport(lab=directory.lab.name, text=text, nodes=tuple(records.values()))
    output.document(NOTICE_SCHEMA, report)
    output.say(notice_view(report))
    return DONE if report.done else FAILED


def tell_seats(output: Output, journal: RunJournal, nodes: Nodes, plan: Plan, text: str) -> None:
    """Before a switch: whoever sits in a seat that is about to change. Who could not be told is named, and no more."""
    seats = {step.node: step.seat for step in plan.pending if step.seat and step.generation}
    with show_progress(output) as show:
        records = nodes(journal.telling(show)).notify(seats, journal.run, text)
    untold = [(record.node, problem) for record in records.values() for problem in record.problems]
    output.note(problems(untold, "yellow"))
