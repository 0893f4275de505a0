"""`provision notify`: show a notice to the users of seats."""

import click

from provisioner.adapters.ansible.fleet import AnsibleFleet
from provisioner.adapters.lab.directory import read_lab
from provisioner.adapters.state.journal import open_run
from provisioner.cli.exit_codes import DONE, FAILED
from provisioner.cli.options import AnsibleOptions, example, lab_argument, with_ansible_options, with_output
from provisioner.cli.output import Output
from provisioner.cli.run_context import OpenRun
from provisioner.cli.wiring import open_fleet
from provisioner.console.notice import notice_view
from provisioner.domain.lab.lab import Lab
from provisioner.domain.rollout.notice import NOTICE_SCHEMA, NoticeReport, notice_text
from provisioner.domain.rollout.plan import Plan
from provisioner.domain.rollout.report import NodeRecord, without_record
from provisioner.domain.seat.seat import running_seat_names_on
from provisioner.domain.values.event import OnEvent
from provisioner.domain.values.node import NodeFacts
from provisioner.domain.values.problem import Problem
from provisioner.workflow.probe import probe


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
    run = OpenRun.of(open_run(directory.lab.name), output)
    with open_fleet(directory, ansible, output.verbose, run.on_event) as nodes, run.progress():
        records = notify_lab(nodes, directory.lab, run.journal.run, text, run.on_event)
    report = NoticeReport(lab=directory.lab.name, text=text, nodes=records)
    output.document(NOTICE_SCHEMA, report)
    output.show(notice_view(report))
    return DONE if report.done else FAILED


def notify_lab(nodes: AnsibleFleet, lab: Lab, run: str, text: str | None, on_event: OnEvent) -> tuple[NodeRecord, ...]:
    """Show `text` in the lab's seats of every node, or remove the notice (None). Return one record per node.

    Only the node knows the names of its seats: another lab may have taken the usual one.
    """
    probed = probe(nodes, on_event)
    seats = {node: _seats_to_notify(facts, lab) for node, facts in probed.items() if isinstance(facts, NodeFacts)}
    records = nodes.notify(seats, run, text)
    return tuple(
        without_record(node, facts)
        if isinstance(facts, Problem)
        else records.get(node) or NodeRecord(node=node, state="unchanged")
        for node, facts in probed.items()
    )


def _seats_to_notify(facts: NodeFacts, lab: Lab) -> tuple[str, ...]:
    """Return the seats that run, those included that people have started; none where only these could be there."""
    own = [seat.name for seat in facts.seats if seat.is_self_service and seat.lab == lab.name and not seat.is_down]
    others = [name for name in running_seat_names_on(facts, lab.name, lab.seat.user) if name not in own]
    has_self_service = facts.self_service is not None and facts.self_service.lab == lab.name
    return (*(name for name in others if facts.seat(name) or not (own or has_self_service)), *own)


def notify_seats(fleet: AnsibleFleet, plan: Plan, run: str, text: str) -> list[tuple[str, Problem]]:
    """Show `text` in every seat that the plan changes. Return the nodes where it failed."""
    seats: dict[str, list[str]] = {}
    for step in plan.pending:
        if step.seat and step.generation:
            seats.setdefault(step.node, []).append(step.seat)
    records = fleet.notify(seats, run, text)
    return [(record.node, problem) for record in records.values() for problem in record.problems]
