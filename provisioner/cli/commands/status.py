"""`provision status`: show what runs on each node and how it differs from the lock."""

import click

from provisioner.adapters.ansible.fleet import AnsibleFleet
from provisioner.adapters.lab.directory import read_lab
from provisioner.cli.exit_codes import DONE, FAILED, PENDING
from provisioner.cli.options import AnsibleOptions, example, lab_argument, with_ansible_options, with_output
from provisioner.cli.output import Output
from provisioner.cli.plan_context import build_context, require_lock
from provisioner.cli.progress_display import show_progress
from provisioner.cli.registry_access import find_registry_problems
from provisioner.cli.wiring import fleet, plan_inputs
from provisioner.console.status import status_view, urls_view, with_token
from provisioner.domain.rollout.status import STATUS_SCHEMA, LabStatus
from provisioner.domain.values.problem import Problem
from provisioner.workflow.status import build_status

urls_option = click.option("--urls", is_flag=True, help="Show Jupyter's URLs with their tokens, which are secrets.")


@click.command(epilog=example("provision status ai-lab --urls --limit gpu01"))
@lab_argument
@urls_option
@with_ansible_options
@with_output
def status(lab: str, urls: bool, ansible: AnsibleOptions, output: Output) -> int:
    """Show what runs on each node, compared with the lock.

    Of self-service it shows for each node how many GPUs have no lease, who has the others for how long, and who waits.

    Exit 3 where a seat differs from the lock, or self-service from what a rollout would publish; 1 where a node could
    not be compared, a person of the roster has no node, a broker does not run, or a process of a registry that
    `provision prepare` set up does not serve.
    """
    directory = read_lab(lab)
    lock = require_lock(directory)
    with show_progress(output) as on_event:
        nodes = fleet(directory, ansible, output.verbose, on_event)
        context = build_context(plan_inputs(directory, lock, ansible.limit), nodes, on_event)
        found = build_status(context.prepared, context.probed)
        found = found.model_copy(update={"problems": find_registry_problems(directory)})
        tokens = read_tokens(nodes, found) if urls else None
    return show_status(output, found, tokens)


def read_tokens(nodes: AnsibleFleet, found: LabStatus) -> dict[str, str | Problem]:
    """Return the Jupyter token of each running seat, or why it could not be read.

    The key is the person, or in a lab without a roster the node.
    """
    seats = [(seat, seat.seat) for seat in found.seats if seat.seat and seat.access]
    wanted: dict[str, list[str]] = {}
    for seat, name in seats:
        wanted.setdefault(seat.node, []).append(name)
    tokens = nodes.access(wanted)
    return {seat.person or seat.node: tokens[seat.node][name] for seat, name in seats}


def show_status(output: Output, found: LabStatus, tokens: dict[str, str | Problem] | None) -> int:
    """Print the status and return the exit code. `tokens` None: they were not requested."""
    known = {whose: token for whose, token in (tokens or {}).items() if isinstance(token, str)}
    seats = [(seat.person or seat.node, seat.access) for seat in found.seats if seat.access]
    access = {whose: with_token(way, known[whose]) for whose, way in seats if whose in known}
    output.document(STATUS_SCHEMA, found.model_dump(mode="json") | ({} if tokens is None else {"urls": access}))
    output.show(status_view(found), urls_view(access, tokens or {}))
    is_down = any(one.problems for one in found.self_service)
    if found.problems or found.unplaced or is_down or any(seat.seat is None for seat in found.seats):
        return FAILED
    return PENDING if found.drifted else DONE
