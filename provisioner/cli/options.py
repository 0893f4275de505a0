"""Arguments and flags that several commands share."""

import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, NamedTuple

import click
from click.shell_completion import CompletionItem
from pydantic import TypeAdapter, ValidationError

from provisioner.adapters.ansible.settings import PasswordKind, Passwords, asked_passwords
from provisioner.adapters.lab.directory import LAB_FILE, LABS, find_lab, read_lab
from provisioner.cli.output import Output
from provisioner.domain.lab.environments import TorchSpec
from provisioner.domain.rollout.busy import WhenBusy, when_busy
from provisioner.domain.values.image import PLATFORMS, base_platform
from provisioner.domain.values.line import one_line
from provisioner.domain.values.problem import Problem, ProblemError

Command = Callable[..., Any]
MAX_REASON = 120  # characters


class AnsibleOptions(NamedTuple):
    """Which nodes, and how Ansible reaches them: flags with the names that Ansible gives them."""

    limit: str | None = None
    forks: int | None = None
    vault_password_file: Path | None = None
    extra_vars: tuple[str, ...] = ()
    passwords: Passwords = Passwords()


class Overrides(NamedTuple):
    """Rules that the user overrides. `ignore_freeze`: the reason to change the lab in a freeze, or None."""

    when_busy: WhenBusy = WhenBusy()
    ignore_freeze: str | None = None


def example(text: str) -> str:
    """Return the part of a command's help that shows an example."""
    return f"\b\nExample:\n  {text}"


def with_output(command: Command) -> Command:
    """Pass `output` to the command."""

    @click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout; messages go to stderr.")
    @click.option("--no-color", is_flag=True, help="Print no colours, as with the variable NO_COLOR.")
    @click.option("-v", "--verbose", count=True, help="Print more; given twice, also what Ansible prints.")
    @wraps(command)
    def wrapper(*args: Any, as_json: bool, no_color: bool, verbose: int, **kwargs: Any) -> Any:
        return command(*args, output=Output(as_json=as_json, no_color=no_color, verbose=verbose), **kwargs)

    return wrapper


def with_ansible_options(command: Command) -> Command:
    """Pass `ansible` to the command."""

    @click.option("--limit", metavar="PATTERN", callback=_not_empty, help="Only these nodes, as --limit of Ansible.")
    @click.option("--forks", type=click.IntRange(1, 500), help="How many nodes at once.")
    @click.option("--vault-password-file", type=click.Path(exists=True, path_type=Path), help="As of ansible-playbook.")
    @click.option(
        "-e", "--extra-vars", multiple=True, metavar="VARS", help="As of ansible-playbook: key=value, JSON or @file."
    )
    @click.option("-k", "--ask-pass", is_flag=True, help="Ask for the SSH password, as ansible-playbook does.")
    @click.option("-K", "--ask-become-pass", is_flag=True, help="Ask for the password of sudo on the nodes.")
    @click.option("--ask-vault-pass", "--ask-vault-password", is_flag=True, help="Ask for the vault password.")
    @wraps(command)
    def wrapper(
        *args: Any, lab: str, ask_pass: bool, ask_become_pass: bool, ask_vault_pass: bool, **kwargs: Any
    ) -> Any:
        flags: dict[PasswordKind, bool] = {"connection": ask_pass, "become": ask_become_pass, "vault": ask_vault_pass}
        wanted = _configured_passwords(lab) | {kind for kind, flag in flags.items() if flag}
        if kwargs["vault_password_file"] is not None:
            if ask_vault_pass:
                raise click.UsageError("--ask-vault-pass and --vault-password-file exclude each other")
            wanted -= {"vault"}
        given = {name: kwargs.pop(name) for name in ("limit", "forks", "vault_password_file", "extra_vars")}
        ansible = AnsibleOptions(**given, passwords=_ask_passwords(wanted))
        return command(*args, lab=lab, ansible=ansible, **kwargs)

    return wrapper


def _configured_passwords(lab: str) -> set[PasswordKind]:
    try:
        path = find_lab(lab)
    except ProblemError:  # the command says so itself, after the mistakes in its own arguments
        return set()
    return asked_passwords(path)


def _ask_passwords(wanted: set[PasswordKind]) -> Passwords:
    """Ask for each password once. Raises ProblemError (usage) where one is wanted and there is no terminal."""
    if wanted and not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise ProblemError(_no_terminal_for(wanted), "usage")
    become = "BECOME password[defaults to SSH password]" if "connection" in wanted else "BECOME password"
    prompts: dict[PasswordKind, str] = {"connection": "SSH password", "become": become, "vault": "Vault password"}
    answers = {
        kind: click.prompt(prompt, default="", show_default=False, hide_input=True, err=True)
        for kind, prompt in prompts.items()
        if kind in wanted
    }
    return Passwords(**answers)


def _no_terminal_for(wanted: set[PasswordKind]) -> Problem:
    names: dict[PasswordKind, str] = {"connection": "SSH", "become": "sudo (become)", "vault": "vault"}
    kinds = " and ".join(name for kind, name in names.items() if kind in wanted)
    return Problem(
        "password_needed",
        f"a password is asked for ({kinds}), and there is no terminal to type it on",
        "an option or your ansible.cfg asks for it, and without a terminal the run would wait for ever",
        "run it on a terminal; or use an SSH key, sudo without a password, --vault-password-file, or "
        "become_password_file and connection_password_file in ansible.cfg",
    )


_busy_option = click.option(
    "--when-busy",
    "policy",
    metavar="defer|wait:2h|force",
    default="defer",
    show_default=True,
    help="For a seat whose GPUs are in use: skip it, wait at most this long for the work to end, or stop the work.",
)
_freeze_option = click.option(
    "--ignore-freeze", is_flag=True, help="Change the lab in a freeze or outside its maintenance windows."
)


def with_overrides(command: Command) -> Command:
    """Pass `overrides` to the command."""

    @_busy_option
    @_freeze_option
    @click.option(
        "--reason",
        default="",
        metavar="TEXT",
        help="The reason for force or --ignore-freeze, kept in the record of the run.",
    )
    @wraps(command)
    def wrapper(*args: Any, policy: str, ignore_freeze: bool, reason: str, **kwargs: Any) -> Any:
        if reason.strip() and not (ignore_freeze or policy == "force"):
            raise click.UsageError("--reason is for --when-busy force and --ignore-freeze, and neither is given")
        return command(*args, overrides=_build_overrides(policy, reason.strip(), ignore_freeze=ignore_freeze), **kwargs)

    return wrapper


def with_reason(command: Command) -> Command:
    """Pass `overrides` and `reason` to a command that is always given a reason: one line, at most MAX_REASON long."""

    @_busy_option
    @_freeze_option
    @click.option(
        "--reason",
        required=True,
        metavar="TEXT",
        callback=_reason,
        help="Why; one line, kept in the record of the run. It is the reason for force and --ignore-freeze, too.",
    )
    @wraps(command)
    def wrapper(*args: Any, policy: str, ignore_freeze: bool, reason: str, **kwargs: Any) -> Any:
        overrides = _build_overrides(policy, reason, ignore_freeze=ignore_freeze)
        return command(*args, overrides=overrides, reason=reason, **kwargs)

    return wrapper


def _reason(ctx: click.Context, param: click.Parameter, value: str) -> str:
    try:
        line = one_line(value, MAX_REASON)
    except ValueError as error:
        raise click.BadParameter(str(error), ctx, param) from None
    if not line:
        raise click.BadParameter("is empty", ctx, param)
    return line


def _build_overrides(policy: str, reason: str, *, ignore_freeze: bool) -> Overrides:
    if ignore_freeze and not reason:
        raise click.UsageError("--ignore-freeze needs a reason: --reason TEXT")
    try:
        return Overrides(when_busy(policy, reason), reason if ignore_freeze else None)
    except ValueError as error:
        raise click.BadParameter(_error_text(error), param_hint="--when-busy") from None


def _error_text(error: ValueError) -> str:
    return str(error.errors()[0]["ctx"]["error"]) if isinstance(error, ValidationError) else str(error)


class RunOptions(NamedTuple):
    """Which run it takes over from, and how many nodes may be unreachable beforehand."""

    break_lock: str = ""
    allow_unreachable: int = 0


def with_run_options(command: Command) -> Command:
    """Pass `run_options` to the command."""

    @click.option(
        "--break-lock", metavar="RUN", default="", help="Take over the nodes of this run; it can no longer change them."
    )
    @click.option(
        "--allow-unreachable",
        metavar="N",
        type=click.IntRange(min=0),
        default=0,
        help="Go on where up to N nodes are unreachable beforehand.",
    )
    @wraps(command)
    def wrapper(*args: Any, break_lock: str, allow_unreachable: int, **kwargs: Any) -> Any:
        return command(*args, run_options=RunOptions(break_lock, allow_unreachable), **kwargs)

    return wrapper


yes_option = click.option("--yes", is_flag=True, help="Do not ask for confirmation.")


class ChangeOptions(NamedTuple):
    """The flags that all commands share which change the nodes of a lab."""

    yes: bool
    run: RunOptions
    overrides: Overrides
    ansible: AnsibleOptions
    output: Output


def changes_nodes(command: Command) -> Command:
    """Pass `options` to a command that changes the nodes of a lab."""
    return _with_change_options(command, with_overrides)


def changes_nodes_for_a_reason(command: Command) -> Command:
    """Pass `options` and `reason` to a command that changes the nodes of a lab and is always given a reason."""
    return _with_change_options(command, with_reason)


def _with_change_options(command: Command, overriding: Callable[[Command], Command]) -> Command:
    @yes_option
    @with_run_options
    @overriding
    @with_ansible_options
    @with_output
    @wraps(command)
    def wrapper(
        *args: Any,
        yes: bool,
        run_options: RunOptions,
        overrides: Overrides,
        ansible: AnsibleOptions,
        output: Output,
        **kwargs: Any,
    ) -> Any:
        return command(*args, options=ChangeOptions(yes, run_options, overrides, ansible, output), **kwargs)

    return wrapper


class LeaseOptions(NamedTuple):
    """The flags of commands that change leases. `reason`: one line."""

    reason: str
    yes: bool
    ansible: AnsibleOptions
    output: Output


def changes_leases(command: Command) -> Command:
    """Pass `options` to a command that changes leases, for which a reason is always given."""

    @click.option(
        "--reason",
        required=True,
        metavar="TEXT",
        callback=_reason,
        help="Why; one line. Its person reads it, and the audit of the node and the record of the run keep it.",
    )
    @yes_option
    @with_ansible_options
    @with_output
    @wraps(command)
    def wrapper(*args: Any, reason: str, yes: bool, ansible: AnsibleOptions, output: Output, **kwargs: Any) -> Any:
        return command(*args, options=LeaseOptions(reason, yes, ansible, output), **kwargs)

    return wrapper


def _not_empty(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """Refuse an empty limit: Ansible would take it as every node."""
    if value is not None and not value.strip(" ,:"):
        raise click.BadParameter("is empty, and would mean every node", ctx, param)
    return value


def _known_platform(ctx: click.Context, param: click.Parameter, value: str) -> str:
    if base_platform(value) not in PLATFORMS:
        raise click.BadParameter(f"{value!r} is not {' or '.join(PLATFORMS)}", ctx, param)
    return value


def _torch(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    try:
        return TypeAdapter(TorchSpec | None).validate_python(value)
    except ValidationError as error:
        raise click.BadParameter(str(error.errors()[0]["ctx"]["error"]), ctx, param) from None


def complete_labs(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG001
    """Return the labs below inventories/ whose name starts with `incomplete`."""
    names = sorted(path.parent.name for path in LABS.glob(f"*/{LAB_FILE}"))
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def complete_people(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG001
    """Return the people of the lab's roster whose id starts with `incomplete`; none where it has mistakes."""
    try:
        people = read_lab(ctx.params["lab"]).people
    except ProblemError:
        return []
    return [CompletionItem(person.id) for person in people if person.id.startswith(incomplete)]


lab_argument = click.argument("lab", metavar="LAB", shell_complete=complete_labs)
person_argument = click.argument("person", metavar="PERSON", shell_complete=complete_people)
people_argument = click.argument("people", metavar="PERSON...", nargs=-1, required=True, shell_complete=complete_people)
fresh_option = click.option(
    "--fresh", is_flag=True, help="Check every layer, also those that the cache lists as complete."
)
torch_option = click.option(
    "--torch", metavar="SPEC", callback=_torch, help='A version or range, such as 2.8.0 or ">=2.6,<3".'
)
data_option = click.option(
    "--data",
    "data_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Your own rows over the compatibility data, like a lab's compatibility.yaml; see `provision facts show`.",
)
ca_option = click.option(
    "--ca", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="CA certificate (PEM)."
)
platform_option = click.option(
    "--platform", default="linux/amd64", show_default=True, callback=_known_platform, help="Platform of the nodes."
)
