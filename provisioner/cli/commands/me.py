"""`provision me`: a user's own seat, on a node with self-service or on the user's own machine."""

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import click
from pydantic import ValidationError

from provisioner.adapters import node_client
from provisioner.adapters.ansible.fleet import AnsibleFleet, local_fleet
from provisioner.adapters.lab import compatibility_data
from provisioner.adapters.lab.lockfile import PublishedLock, fetch_lock, read_lock, write_lock
from provisioner.adapters.state.files import read_text, write_text
from provisioner.adapters.state.journal import open_run
from provisioner.adapters.state.run_lock import hold_seat_lock
from provisioner.adapters.user import account, read_user_keys, seat_home, seat_root
from provisioner.cli.commands.me_on import Up, relay
from provisioner.cli.commands.me_on import up as start_on
from provisioner.cli.commands.me_options import ACTS, NodeOptions, with_node_options
from provisioner.cli.commands.status import read_tokens, show_status, urls_option
from provisioner.cli.execute import execute_locally, remove_locally, show_plan
from provisioner.cli.exit_codes import DONE, FAILED
from provisioner.cli.options import ca_option, example, with_output, yes_option
from provisioner.cli.output import Output
from provisioner.cli.plan_context import PlanContext
from provisioner.cli.progress_display import show_progress
from provisioner.cli.run_context import OpenRun
from provisioner.cli.wiring import recheck_with_lock, templates
from provisioner.console.lock import consent_view
from provisioner.console.own_seat import environments_view
from provisioner.console.status import urls_view, with_token
from provisioner.domain.lab.lab import Lab
from provisioner.domain.lab.lock import Lockfile
from provisioner.domain.lab.lock_trust import LockTrust, build_consent, read_trust
from provisioner.domain.rollout.order import RemovalOrder, SeatName, build_order
from provisioner.domain.rollout.own_seat import ME_SCHEMA
from provisioner.domain.rollout.report import build_access
from provisioner.domain.rollout.run_spec import Rules, build_run_spec
from provisioner.domain.seat.seat import seat_name_on
from provisioner.domain.seat.slotted import Documents
from provisioner.domain.values.event import OnEvent
from provisioner.domain.values.problem import Problem, ProblemError
from provisioner.workflow.me import Account, build_personal_lab, choose_environment
from provisioner.workflow.probe import probe
from provisioner.workflow.protocols import Probed
from provisioner.workflow.rollout.plan import PlanInputs, PreparedPlan, build_plan
from provisioner.workflow.status import build_status

_ACTS = ("up", "status", "down", "environments")  # without a broker
_GIVE_SIGNERS = "give the public keys of those who sign the lab's lock: a file of allowed signers, see ssh-keygen(1)"


def _sha256(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    if value is None:
        return None
    digits = value.strip().lower().removeprefix("sha256:")
    if not re.fullmatch("[0-9a-f]{64}", digits):
        raise click.BadParameter("is not a SHA-256: 64 hexadecimal digits, as sha256sum prints them", ctx, param)
    return digits


sha256_option = click.option(
    "--sha256", metavar="HEX", callback=_sha256, help="The SHA-256 of the lock, from the lab's admin."
)
signers_option = click.option(
    "--allowed-signers",
    "signers",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Who may sign the lock, see ssh-keygen(1); remembered: from then on no lock without a signature is used.",
)


class PersonalLab(NamedTuple):
    """The published lock, the lab with one seat that is made from it, and the environment that was asked for."""

    lock: Lockfile
    lab: Lab
    environment: str | None = None


@click.command(epilog=example("provision me --on gpu1 --gpus 1 --hours 8 --open"))
@click.argument("act", type=click.Choice(ACTS), default="up")
@with_node_options
@click.option(
    "--lock", "source", metavar="FILE|URL", help="The lab's published lock; it is remembered after first use."
)
@sha256_option
@signers_option
@ca_option
@urls_option
@yes_option
@with_output
def me(  # noqa: PLR0913  (each is a flag)
    *,
    act: str,
    seat: NodeOptions,
    source: str | None,
    sha256: str | None,
    signers: Path | None,
    ca: Path | None,
    urls: bool,
    yes: bool,
    output: Output,
) -> int:
    """Start your own seat (up, the default), show it (status) or stop it (down); your files are kept.

    On a node with self-service, and on another computer with --on NODE, the node decides what you may have: renew,
    keep-alive, cancel, upgrade, rotate-token and logs are for such a seat. --on writes a file
    ~/.ssh/config.d/provisioner-*.conf, so that ssh and editors know your seat by its name. environments shows what
    there is for --env; to change it while your seat runs, add --switch.

    On your own machine with Docker: with the lab's image, as its published lock says. Token, host key and ports stay
    the same through down and up. The ports are open to this machine only. A lock names the images that run here and
    the CA that Docker trusts for their registry: both are shown, and asked about, at first use and when they change.
    Plain http needs --sha256 or --allowed-signers.
    """
    if source is None and (sha256 or signers):
        raise click.UsageError("--sha256 and --allowed-signers are for the lock that --lock names")
    if seat.node is not None and source is not None:
        raise click.UsageError("--lock is for a seat on this machine, --on for one on a node")
    words = seat.words(act)
    if seat.node is not None or (source is None and _asks_broker()):
        if urls or ca:
            raise click.UsageError(
                "--urls and --ca are for a seat from a lab's lock; the token: ssh SEAT provision-url"
            )
        return _ask_node(act, words, seat, output, yes=yes)
    if seat.need_broker or act not in _ACTS:
        raise click.UsageError("this machine is no node with self-service: name one with --on NODE")
    published = _read_lock(source, ca, sha256, signers)
    personal = PersonalLab(published.lock, _personal_lab(published.lock), seat.environment)
    if act == "status":
        return _status(personal, output, urls=urls)
    if act == "environments":
        return _environments(personal, output)
    with hold_seat_lock(personal.lab.name, lambda: output.note("Waiting for another `provision me` of yours to end.")):
        run = OpenRun.of(open_run(personal.lab.name), output)
        if act == "down":
            return _down(personal, run)
        agreement = _ask_for(published, signers, output, yes=yes)
        return _up(personal, agreement, run, yes=yes, switch=bool(seat.asked["switch"]))


def _ask_node(act: str, words: list[str], seat: NodeOptions, output: Output, *, yes: bool) -> int:
    """Ask the node that was named, or the broker of this one."""
    if seat.node is None:
        if seat.opens or seat.prints:
            raise click.UsageError("--open and --print-only are for your own computer: with --on NODE")
        return node_client.run([*words, *(["--json"] if output.as_json else [])])
    if act == "up":
        return start_on(Up(seat.node, words, seat.opens, seat.prints, yes), output)
    return relay(seat.node, words, output)


def _asks_broker() -> bool:
    """Return whether the seat is one of the node's broker; where it may not be asked, a remembered lock counts."""
    return node_client.may_ask_broker() or (node_client.has_broker() and not _remembered_lock().exists())


class Agreement(NamedTuple):
    """What the user still has to agree to, and what to keep once that is done.

    `is_open`: the question was neither asked nor answered by --yes.
    """

    published: PublishedLock
    signers: Path | None
    is_open: bool

    def keep(self) -> None:
        """Remember the lock, and its signers where the user named them, for the next use."""
        write_lock(_remembered_lock(), self.published.lock.without_people())
        if self.signers is not None:
            write_text(_remembered_signers(), read_text(self.signers, _GIVE_SIGNERS), mode=0o600)


def _ask_for(published: PublishedLock, signers: Path | None, output: Output, *, yes: bool) -> Agreement:
    """Show what the lock brings that the user has not agreed to.

    Raises ProblemError (usage) where only a person can agree to it and there is no terminal.
    """
    now = read_trust(published.lock)
    consent = build_consent(_agreed_before(), now, published.verified_by)
    if consent.is_needed:
        output.note(consent_view(published.source, now, consent, published.verified_by, published.signer))
    if consent.by_hand and not output.can_ask:
        raise ProblemError(_not_agreed(published.source, now), "usage")
    return Agreement(published, signers, consent.by_hand or (consent.is_needed and not yes))


def _agreed_before() -> LockTrust | None:
    """Return what the remembered lock brought; None also where an older release remembered one that is refused now."""
    try:
        agreed = read_lock(_remembered_lock())
        return None if agreed is None else read_trust(agreed)
    except ProblemError:
        return None


def _up(personal: PersonalLab, agreement: Agreement, run: OpenRun, *, yes: bool, switch: bool) -> int:
    began, output, fleet = datetime.now(UTC), run.output, _fleet(run.on_event)
    with run.progress():
        prepared = _plan_context(personal, fleet, run.on_event).prepared
    run.journal.keep("plan", prepared.plan)
    show_plan(output, prepared.plan)
    replaces = any(step.action == "update" for step in prepared.plan.steps) and not switch
    if (agreement.is_open or (replaces and not yes)) and not output.confirm(_question(agreement, replaces=replaces)):
        output.note("Nothing was changed.")
        return FAILED
    agreement.keep()
    with run.progress():
        recheck_with_lock(personal.lock, prepared, run.on_event)
    ca, root = personal.lock.registry_ca, str(seat_root())
    orders = {
        node: {
            name: build_order(bundle, personal.lab, run.journal.run, ca=ca, state_root=root)
            for name, bundle in bundles.items()
        }
        for node, bundles in prepared.bundles.items()
    }
    run_spec = build_run_spec(run.journal.run, prepared.plan, orders, Rules(), began, local=True)
    code = execute_locally(run, run_spec, fleet)
    if code == DONE and not output.as_json:
        _show_urls(prepared, output)
    return code


def _question(agreement: Agreement, *, replaces: bool) -> str:
    end = "Your seat is replaced: everything that runs in it ends. Continue?"
    if not agreement.is_open:
        return end
    return f"Use this lock on this machine? {end}" if replaces else "Use this lock on this machine?"


def _down(personal: PersonalLab, run: OpenRun) -> int:
    lab, fleet = personal.lab, _fleet(run.on_event)
    with run.progress():
        ((node, facts),) = probe(fleet, run.on_event).items()
    if isinstance(facts, Problem):
        raise ProblemError(facts)
    seat = SeatName(name=seat_name_on(facts, lab.name, lab.seat.user))
    order = RemovalOrder(run=run.journal.run, act="stop", state_root=str(seat_root()), seat=seat)
    return remove_locally(run, lab.name, fleet, {node: {seat.name: order}})


def _show_urls(prepared: PreparedPlan, output: Output) -> None:
    """Print the URLs with the token: the user of this machine owns the seat."""
    with show_progress(output) as on_event:
        ((node, bundles),) = prepared.bundles.items()
        ((name, bundle),) = bundles.items()
        token = _fleet(on_event).access({node: [name]})[node][name]
    access = build_access(bundle.seat, "", local=True)
    urls = {node: with_token(access, token)} if isinstance(token, str) else {}
    output.show(urls_view(urls, {node: token}))


def _status(personal: PersonalLab, output: Output, *, urls: bool) -> int:
    with show_progress(output) as on_event:
        fleet = _fleet(on_event)
        context = _plan_context(personal, fleet, on_event, is_choice=False)
        found = build_status(context.prepared, context.probed, local=True)
        tokens = read_tokens(fleet, found) if urls else None
    return show_status(output, found, tokens)


def _environments(personal: PersonalLab, output: Output) -> int:
    with show_progress(output) as on_event:
        used = _environment_in_force(personal.lab, probe(_fleet(on_event), on_event))
    output.show(environments_view(personal.lock, used))
    listed = [
        {"name": name, "torch": environment.torch, "images": [image.reference for image in environment.images]}
        for name, environment in personal.lock.all_environments.items()
        if environment.images
    ]
    output.document(ME_SCHEMA, {"act": "environments", "environments": listed, "used": used})
    return DONE


def _plan_context(
    personal: PersonalLab, fleet: AnsibleFleet, on_event: OnEvent, *, is_choice: bool = True
) -> PlanContext:
    """Probe this machine, and plan its seat: in the environment that was asked for, else in the one that it has.

    `is_choice`: it is an error if the lock has lost the environment of the seat. False, where only the state is shown:
    the plan is then for the first environment of the lock.
    """
    lab, lock, probed = personal.lab, personal.lock, probe(fleet, on_event)
    running = _environment_in_force(lab, probed)
    is_gone = not is_choice and running not in lock.all_environments
    environment = choose_environment(lock, personal.environment, "" if is_gone else running)
    lab = lab.model_copy(update={"seat": lab.seat.model_copy(update={"environment": environment})})
    data, keys, home = compatibility_data.load(), read_user_keys(), str(seat_home())
    inputs = PlanInputs(lab, lock, data, Documents(templates(None)), keys, home)
    return PlanContext(probed, build_plan(inputs, fleet.hosts(), probed))


def _environment_in_force(lab: Lab, probed: Probed) -> str:
    """Return the environment of the seat on this machine, empty where there is none or it is not known."""
    (facts,) = probed.values()
    if isinstance(facts, Problem):
        return ""
    running = facts.seat(seat_name_on(facts, lab.name, lab.seat.user))
    return running.environment if running else ""


def _fleet(on_event: OnEvent) -> AnsibleFleet:
    return local_fleet(on_event, state_root=str(seat_root()))


def _remembered_lock() -> Path:
    return seat_root() / "lab.lock"


def _remembered_signers() -> Path:
    return seat_root() / "allowed_signers"


def _read_lock(source: str | None, ca: Path | None, sha256: str | None, signers: Path | None) -> PublishedLock:
    """Read the lock that was named, or the remembered one. Signers who are known must have signed a lock."""
    if source is not None:
        known = _remembered_signers() if _remembered_signers().exists() else None
        return fetch_lock(source, ca, sha256=sha256, signers=signers or known)
    lock = read_lock(_remembered_lock())
    if lock is None:
        raise ProblemError(_no_lock(), "usage")
    return PublishedLock(lock, str(_remembered_lock()), "file")


def _personal_lab(lock: Lockfile) -> Lab:
    """Build the lab for the user's account. Raises ProblemError where a seat cannot run as that account."""
    found = account()
    user = Account(user=found.pw_name, uid=found.pw_uid, gid=found.pw_gid) if found else None
    try:
        return build_personal_lab(lock, user)
    except ValidationError as error:
        reasons = "; ".join(f"{found['loc'][-1]} {found['input']}: {found['msg']}" for found in error.errors())
        raise ProblemError(_unsuitable_account(user.user if user else "root", reasons), "usage") from None


def _no_lock() -> Problem:
    return Problem(
        "no_lock",
        "no lock was given, and none is remembered on this machine",
        "the lock names the image that the lab uses",
        "provision me --lock FILE-or-URL, as your lab's admin has published it; for a seat on a node: --on NODE",
    )


def _not_agreed(source: str, trust: LockTrust) -> Problem:
    return Problem(
        "lock_not_agreed",
        f"{source}: the use of {trust.registry} and its CA here is not agreed to, and there is no terminal to ask on",
        "the lock determines which images run here, and which CA Docker trusts for their registry",
        "run it once on a terminal; or give --yes and what verifies the lock: --sha256 HEX, from the lab's "
        "admin, or --allowed-signers FILE",
    )


def _unsuitable_account(user: str, reasons: str) -> Problem:
    return Problem(
        "no_seat_for_account",
        f"the account {user} cannot have a seat: {reasons}",
        "a seat runs as the account of its user, and never as root or a system account",
        "run it from your own account, which needs permission to use Docker",
    )
