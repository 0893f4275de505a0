"""Arguments and flags that several verbs share, each explained once."""

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, NamedTuple

import click
from click.shell_completion import CompletionItem
from pydantic import TypeAdapter, ValidationError

from provisioner.adapters.lab.directory import LABS, WISH
from provisioner.cli.output import Output
from provisioner.domain.lab.lab import TorchSpec
from provisioner.domain.rollout.busy import WhenBusy, when_busy

Verb = Callable[..., Any]


class AnsibleOptions(NamedTuple):
    """Which nodes, and how Ansible gets to them: the flags of an Ansible user."""

    limit: str | None = None
    forks: int | None = None
    vault_password_file: Path | None = None
    extra_vars: tuple[str, ...] = ()


class Overrides(NamedTuple):
    """What a person takes upon them, for the record. `ignore_freeze`: the reason to change a closed lab, or None."""

    when_busy: WhenBusy = WhenBusy()
    ignore_freeze: str | None = None


def example(text: str) -> str:
    """The part of a verb's help that shows it in use."""
    return f"\b\nExample:\n  {text}"


def with_output(verb: Verb) -> Verb:
    """Gives the verb its `output`."""

    @click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout; people read stderr.")
    @click.option("--no-color", is_flag=True, help="No colours; so does the variable NO_COLOR.")
    @click.option("-v", "--verbose", count=True, help="Say more; from the second on it is Ansible's.")
    @wraps(verb)
    def wrapper(*args: Any, as_json: bool, no_color: bool, verbose: int, **kwargs: Any) -> Any:
        return verb(*args, output=Output(as_json=as_json, no_color=no_color, verbose=verbose), **kwargs)

    return wrapper


def with_ansible_options(verb: Verb) -> Verb:
    """Gives the verb its `ansible`."""

    @click.option("--limit", metavar="PATTERN", callback=_not_empty, help="Only these nodes, as Ansible's --limit.")
    @click.option("--forks", type=click.IntRange(1, 500), help="How many nodes at once.")
    @click.option("--vault-password-file", type=click.Path(exists=True, path_type=Path), help="As of ansible-playbook.")
    @click.option(
        "-e", "--extra-vars", multiple=True, metavar="VARS", help="As of ansible-playbook: key=value, JSON or @file."
    )
    @wraps(verb)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        ansible = AnsibleOptions(**{name: kwargs.pop(name) for name in AnsibleOptions._fields})
        return verb(*args, ansible=ansible, **kwargs)

    return wrapper


def with_overrides(verb: Verb) -> Verb:
    """Gives the verb its `overrides`."""

    @click.option(
        "--when-busy",
        "policy",
        metavar="defer|wait:2h|force",
        default="defer",
        show_default=True,
        help="Leave a seat whose GPUs are in use alone; wait so long for the end of its work; or stop the work.",
    )
    @click.option("--ignore-freeze", is_flag=True, help="Change the lab in a freeze, or outside of its windows.")
    @click.option("--reason", default="", metavar="TEXT", help="Why: for force and --ignore-freeze, kept on record.")
    @wraps(verb)
    def wrapper(*args: Any, policy: str, ignore_freeze: bool, reason: str, **kwargs: Any) -> Any:
        return verb(*args, overrides=_consent(policy, reason.strip(), ignore_freeze=ignore_freeze), **kwargs)

    return wrapper


def _consent(policy: str, reason: str, *, ignore_freeze: bool) -> Overrides:
    if ignore_freeze and not reason:
        raise click.UsageError("--ignore-freeze needs a reason: --reason TEXT")
    if reason and not (ignore_freeze or policy == "force"):
        raise click.UsageError("--reason is for --when-busy force and --ignore-freeze, and neither is given")
    try:
        return Overrides(when_busy(policy, reason), reason if ignore_freeze else None)
    except ValueError as error:
        raise click.BadParameter(_in_words(error), param_hint="--when-busy") from None


def _in_words(error: ValueError) -> str:
    return str(error.errors()[0]["ctx"]["error"]) if isinstance(error, ValidationError) else str(error)


class RunOptions(NamedTuple):
    """How careful a run is with a lab: whom it takes over from, and how many nodes it may find switched off."""

    break_lock: str = ""
    allow_unreachable: int = 0


def with_run_options(verb: Verb) -> Verb:
    """Gives the verb its `run_options`."""

    @click.option(
        "--break-lock", metavar="RUN", default="", help="Take over from this run, which is refused from then on."
    )
    @click.option(
        "--allow-unreachable",
        metavar="N",
        type=click.IntRange(min=0),
        default=0,
        help="Go on where up to N nodes cannot be reached beforehand.",
    )
    @wraps(verb)
    def wrapper(*args: Any, break_lock: str, allow_unreachable: int, **kwargs: Any) -> Any:
        return verb(*args, run_options=RunOptions(break_lock, allow_unreachable), **kwargs)

    return wrapper


def _not_empty(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """To Ansible an empty limit means every node, which nobody means who has typed one."""
    if value is not None and not value.strip(" ,:"):
        raise click.BadParameter("is empty, and would mean every node", ctx, param)
    return value


def _torch(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    try:
        return TypeAdapter(TorchSpec | None).validate_python(value)
    except ValidationError as error:
        raise click.BadParameter(str(error.errors()[0]["ctx"]["error"]), ctx, param) from None


def complete_labs(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG001
    names = sorted(wish.parent.name for wish in LABS.glob(f"*/{WISH}"))
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


lab_argument = click.argument("lab", metavar="LAB", shell_complete=complete_labs)
yes_option = click.option("--yes", is_flag=True, help="Agree beforehand: ask nothing.")
fresh_option = click.option(
    "--fresh", is_flag=True, help="Ask for every layer, also for those that were seen whole a moment ago."
)
torch_option = click.option(
    "--torch", metavar="SPEC", callback=_torch, help='A version or range, such as 2.8.0 or ">=2.6,<3".'
)
data_option = click.option(
    "--data",
    "data_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Rows of your own over the compatibility data, as a lab's compatibility.yaml; see `provision facts`.",
)
ca_option = click.option(
    "--ca", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Certificate of the authority (PEM)."
)
platform_option = click.option("--platform", default="linux/amd64", show_default=True, help="Of the nodes.")
