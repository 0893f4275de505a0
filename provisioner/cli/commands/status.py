import click

from provisioner.adapters.ansible.fleet import AnsibleFleet
from provisioner.adapters.lab.directory import read_lab
from provisioner.cli.exit_codes import DONE, FAILED, PENDING
from provisioner.cli.options import AnsibleOptions, example, lab_argument, with_ansible_options, with_output
from provisioner.cli.output import Output
from provisioner.cli.plan_context import look, require_lock
from provisioner.cli.progress_display import show_progress
from provisioner.cli.wiring import fleet
from provisioner.console.status import status_view, urls_view, with_token
from provisioner.domain.rollout.status import STATUS_SCHEMA, LabStatus
from provisioner.domain.values.problem import Problem
from provisioner.workflow.status import status as find

urls_option = click.option("--urls", is_flag=True, help="Jupyter's URLs with their tokens, which are secrets.")


@click.command(epilog=example("provision status ai-lab --urls --limit gpu01"))
@lab_argument
@urls_option
@with_ansible_options
@with_output
def status(lab: str, urls: bool, ansible: AnsibleOptions, output: Output) -> int:
    """Show what runs where, held against the lock.

    Exit 3 where a seat differs from it; 1 where a node could not be judged at all.
    """
    directory = read_lab(lab)
    lock = require_lock(directory)
    with show_progress(output) as on_event:
        nodes = fleet(directory, ansible, output.verbose, on_event)
        looked = look(directory, lock, nodes, on_event)
        found = find(looked.prepared, looked.probed)
        tokens = tokens_of(nodes, found) if urls else None
    return tell(output, found, tokens)


def tokens_of(nodes: AnsibleFleet, found: LabStatus) -> dict[str, str | Problem]:
    """Node -> the token of its seat, for seats that are there."""
    return dict(nodes.access({seat.node: seat.seat for seat in found.seats if seat.seat and seat.access}))


def tell(output: Output, found: LabStatus, tokens: dict[str, str | Problem] | None) -> int:
    """What was found, and the exit code. `tokens` None: nobody asked for them."""
    known = {node: token for node, token in (tokens or {}).items() if isinstance(token, str)}
    ways = {s.node: with_token(s.access, known[s.node]) for s in found.seats if s.access and s.node in known}
    output.document(STATUS_SCHEMA, found.model_dump(mode="json") | ({} if tokens is None else {"urls": ways}))
    output.say(status_view(found), urls_view(ways, tokens or {}))
    if any(seat.seat is None for seat in found.seats):
        return FAILED
    return PENDING if found.drifted else DONE
