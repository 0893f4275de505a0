from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, NamedTuple

import click
from pydantic import ValidationError

from provisioner.adapters.ansible.fleet import AnsibleFleet, local_fleet
from provisioner.adapters.ansible.play import this_machine
from provisioner.adapters.lab import compatibility_data
from provisioner.adapters.lab.lockfile import fetch_lock, read_lock, write_lock
from provisioner.adapters.state.journal import open_run
from provisioner.adapters.state.run_lock import in_turn
from provisioner.adapters.user import account, own_keys, seat_home, seat_root
from provisioner.cli.commands.status import tell, tokens_of, urls_option
from provisioner.cli.execute import execute_locally, remove_locally, show_plan
from provisioner.cli.exit_codes import DONE, FAILED
from provisioner.cli.options import ca_option, example, with_output, yes_option
from provisioner.cli.output import Output
from provisioner.cli.plan_context import Context
from provisioner.cli.progress_display import show_progress
from provisioner.cli.wiring import recheck_own, templates
from provisioner.console.status import urls_view, with_token
from provisioner.domain.lab.lab import Lab
from provisioner.domain.lab.lock import Lockfile
from provisioner.domain.rollout.order import DownOrder, NamedSeat, order_for
from provisioner.domain.rollout.report import access_of
from provisioner.domain.rollout.run_spec import Rules, build_run_spec
from provisioner.domain.seat.seat import seat_name
from provisioner.domain.values.event import OnEvent
from provisioner.domain.values.problem import Problem, ProblemError
from provisioner.workflow.me import Person, lab_of_one
from provisioner.workflow.probe import probe
from provisioner.workflow.rollout.plan import PlanInputs, PreparedPlan, prepare
from provisioner.workflow.status import status


class Own(NamedTuple):
    lock: Lockfile
    lab: Lab

    @property
    def seat(self) -> str:
        return seat_name(self.lab.name, self.lab.seat.user)


@click.command(epilog=example("provision me --lock https://lab.example/lab.lock"))
@click.argument("act", type=click.Choice(["up", "status", "down"]), default="up")
@click.option("--lock", "source", metavar="FILE|URL", help="The lab's published lock; remembered once it was used.")
@ca_option
@urls_option
@yes_option
@with_output
def me(  # noqa: PLR0913  (each is a flag)
    *, act: Literal["up", "status", "down"], source: str | None, ca: Path | None, urls: bool, yes: bool, output: Output
) -> int:
    """Your own seat on this machine, with the lab's image: up (the default), status or down.

    Token, host key and ports stay the same through down and up. Its ports are open to this machine alone.
    """
    lock = _lock(source, ca)
    own = Own(lock, _lab(lock))
    if act == "status":
        return _status(own, output, urls=urls)
    with in_turn(own.lab.name, lambda: output.note("Waiting for another `provision me` of yours to end.")):
        if act == "down":
            return _down(own, output)
        write_lock(_remembered(), lock)
        return _up(own, output, yes=yes)


def _up(own: Own, output: Output, *, yes: bool) -> int:
    journal, began = open_run(own.lab.name), datetime.now(UTC)
    with show_progress(output) as show:
        prepared = _look(own, journal.telling(show)).prepared
    journal.keep("plan", prepared.plan)
    show_plan(output, prepared.plan)
    changed = any(step.action == "update" for step in prepared.plan.steps)
    if changed and not (yes or output.agreed("Your seat is replaced: whatever runs in it ends. Go on?")):
        output.note("Nothing was changed.")
        return FAILED
    with show_progress(output) as show:
        recheck_own(own.lock, prepared, journal.telling(show))
    orders = {
        node: order_for(bundle, own.lab, journal.run, ca=own.lock.registry_ca, state_root=str(seat_root()))
        for node, bundle in prepared.bundles.items()
    }
    what = build_run_spec(journal.run, prepared.plan, orders, Rules(), began)
    code = execute_locally(output, journal, what, _nodes)
    if code == DONE and not output.as_json:
        _show_urls(own, prepared, output)
    return code


def _down(own: Own, output: Output) -> int:
    journal, seat = open_run(own.lab.name), NamedSeat(name=own.seat)
    order = DownOrder(run=journal.run, act="stop", state_root=str(seat_root()), seat=seat)
    return remove_locally(output, journal, own.lab.name, _nodes, {this_machine(): order})


def _show_urls(own: Own, prepared: PreparedPlan, output: Output) -> None:
    """Whoever sits at the machine may see the token of their own seat."""
    with show_progress(output) as on_event:
        tokens = _nodes(on_event).access({this_machine(): own.seat})
    known = {node: token for node, token in tokens.items() if isinstance(token, str)}
    ways = {node: access_of(prepared.bundles[node].seat, "", local=True) for node in known}
    output.say(urls_view({node: with_token(way, known[node]) for node, way in ways.items()}, tokens))


def _status(own: Own, output: Output, *, urls: bool) -> int:
    with show_progress(output) as on_event:
        looked = _look(own, on_event)
        found = status(looked.prepared, looked.probed, local=True)
        tokens = tokens_of(_nodes(on_event), found) if urls else None
    return tell(output, found, tokens)


def _look(own: Own, on_event: OnEvent) -> Context:
    nodes = _nodes(on_event)
    materials = PlanInputs(own.lab, own.lock, compatibility_data.load(), templates(None), own_keys(), str(seat_home()))
    probed = probe(nodes, on_event)
    return Context(probed, prepare(materials, nodes.hosts(), probed))


def _nodes(on_event: OnEvent) -> AnsibleFleet:
    return local_fleet(on_event, state_root=str(seat_root()))


def _remembered() -> Path:
    return seat_root() / "lab.lock"


def _lock(source: str | None, ca: Path | None) -> Lockfile:
    lock = read_lock(_remembered()) if source is None else fetch_lock(source, ca)
    if lock is None:
        raise ProblemError(_no_lock(), "usage")
    return lock


def _lab(lock: Lockfile) -> Lab:
    """Raises ProblemError where the account is one that no seat can have."""
    found = account()
    person = Person(user=found.pw_name, uid=found.pw_uid, gid=found.pw_gid) if found else None
    try:
        return lab_of_one(lock, person)
    except ValidationError as error:
        reasons = "; ".join(f"{found['loc'][-1]} {found['input']}: {found['msg']}" for found in error.errors())
        raise ProblemError(_no_such_seat(person.user if person else "root", reasons), "usage") from None


def _no_lock() -> Problem:
    return Problem(
        "no_lock",
        "no lock was given, and none is remembered on this machine",
        "the lock says which image the lab has agreed on",
        "provision me --lock FILE-or-URL, as your lab's admin has published it",
    )


def _no_such_seat(user: str, reasons: str) -> Problem:
    return Problem(
        "no_seat_for_account",
        f"{user} cannot have a seat of their own: {reasons}",
        "a seat runs as the person it belongs to, and never as root or a system account",
        "run it from your own account, with the right to use Docker",
    )
