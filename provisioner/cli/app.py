"""The command `provision` and its verbs. A verb's module is imported when the verb is called, so that help is fast."""

import difflib
import sys
from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

# verb -> one line of help. `provisioner.cli.commands.<verb>` holds a click command of the same name; a verb with
# commands of its own is a package, and its module `group` holds the click group.
VERBS = {
    "init": "Create a lab: a commented hosts.yml and lab.yml",
    "probe": "Show each node's GPUs, driver and engine",
    "mirror": "Show which images the mirror has, and how complete they are",
    "select": "Choose images from files, offline",
    "lock": "Choose images, build the lab image, pin both by digest in lab.lock",
    "prepare": "Install the engine, compose and NVIDIA's toolkit on nodes; set up the lab's registry",
    "registry": "Maintain the lab's own registry: remove unused images",
    "plan": "Show what a rollout would change, seat by seat; change nothing",
    "fetch": "Bring the locked images to the nodes before a rollout; change nothing that runs",
    "rollout": "Probe, plan, confirm, roll out in waves, verify, report",
    "upgrade": "Make a new lock for a newer torch, show the changes per node, roll out",
    "notify": "Show a notice in the seats, or remove it",
    "resume": "Finish an interrupted run",
    "rollback": "Return seats to their previous generation, offline",
    "status": "Show what runs on each node, compared with the lock",
    "seats": "Show who sits where, with which GPUs; move or stop the seat of a person; end or prolong leases",
    "environments": "Show the environments of a lab; remove one that an upgrade has kept",
    "usage": "Show for how long people have held and used GPUs",
    "letters": "Write letters: to each person of the roster, and to those who may start a seat",
    "remove": "Remove seats; homes and volumes are kept",
    "me": "Your own seat, on a node with self-service or on this machine",
    "facts": "Show the compatibility data with its sources; measure what an image was compiled for",
    "schema": "Print the JSON Schema of lab.yml for your editor",
    "completion": "Print the completion script of your shell",
    "help": "Show the help of a verb",
}
GROUPS = {"environments", "facts", "mirror", "registry", "seats"}
_OPTIONS_OF_VERBS = {"--json", "--no-color", "-v", "--verbose"}
WIDTH = 100
_DATA = Path(__file__).parent.parent / "data" / "compatibility.yaml"


class VerbGroup(click.Group):
    """A group that imports its commands by name and handles every exception of a run."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  (click's signature, here and below)
        """Return the verbs in the order of the help text."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import the verb's module and return its command; None for an unknown verb."""
        if cmd_name not in VERBS:
            return None
        if cmd_name == "help":
            return show_help
        module = f"{cmd_name}.group" if cmd_name in GROUPS else cmd_name
        command = getattr(import_module(f"provisioner.cli.commands.{module}"), cmd_name)
        return command if isinstance(command, click.Command) else None

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse what is before the verb. An option of a verb is a usage error that says where it belongs."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            if error.option_name not in _OPTIONS_OF_VERBS:
                raise
            where = f"write it after the verb, such as: provision probe LAB {error.option_name}"
            raise click.UsageError(f"{error.option_name} is an option of verbs: {where}", ctx) from None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command and its arguments. An unknown verb is a usage error that suggests a similar one."""
        if args[0] not in VERBS and not ctx.resilient_parsing:
            ctx.fail(_unknown("verb", args[0], VERBS))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write the verbs and their help lines without importing them."""
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem[str]]:
        """Return the verbs and options that begin with `incomplete`."""
        options = super(click.Group, self).shell_complete(ctx, incomplete)
        return [CompletionItem(v, help=text) for v, text in VERBS.items() if v.startswith(incomplete)] + options

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run and exit. Every exception becomes a message and an exit code here."""
        words = sys.argv[1:] if extra.get("args") is None else extra["args"]
        try:
            code = super().main(*args, **(extra | {"standalone_mode": False}))
            sys.stdout.flush()
        except Exception as error:  # noqa: BLE001  (nothing may leave as a traceback)
            code = _report(error, words)
        sys.exit(code)


def _report(error: BaseException, words: Sequence[str]) -> int:
    from provisioner.cli.errors import report_error  # noqa: PLC0415  (imports rich and pydantic)

    return report_error(error, words)


def _unknown(kind: str, word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f"unknown {kind} {word}{f'; did you mean {near[0]}?' if near else ''}"


def data_date() -> str:
    """Return the date of the compatibility data, ISO 8601. Only the first lines of the file are read, without YAML."""
    with _DATA.open(encoding="utf-8") as file:
        return next(line for line in file if line.startswith("version:")).split('"')[1]


def _print_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:  # noqa: ARG001
    if value and not ctx.resilient_parsing:
        from importlib.metadata import version  # noqa: PLC0415  (slow to import; not for `--help`)

        click.echo(f"provision {version('lab-provisioner')} (compatibility data of {data_date()})")
        ctx.exit()


def _complete_verbs(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:  # noqa: ARG001
    return [] if ctx.params.get("words") else [verb for verb in VERBS if verb.startswith(incomplete)]


@click.command("help", epilog="\b\nExample:\n  provision help mirror check")
@click.argument("words", metavar="[VERB [COMMAND]]", nargs=-1, shell_complete=_complete_verbs)
@click.pass_context
def show_help(ctx: click.Context, words: tuple[str, ...]) -> None:
    """Show the help of VERB, or of one of its commands; the same text as with --help."""
    shown = ctx.find_root()
    for word in words:
        group = shown.command
        if not isinstance(group, click.Group):
            raise click.UsageError(f"{shown.command_path} has no commands", ctx)
        command = group.get_command(shown, word)
        if command is None:
            kind = "verb" if shown.parent is None else f"command of {shown.command_path}:"
            raise click.UsageError(_unknown(kind, word, group.list_commands(shown)), ctx)
        shown = click.Context(command, info_name=word, parent=shown)
    click.echo(shown.get_help())


@click.group(
    cls=VerbGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": WIDTH},
    epilog="provision VERB --help shows an example of each. Exit codes: 0 done or nothing to do, 1 a node or check "
    "failed, 2 a mistake in the command or in a file of yours, 3 changes pending or drift, 4 deferred: a node is busy, "
    "or it is outside the maintenance window, 5 locked by another run, 6 the saved plan is stale, 70 a bug of "
    "provision, 130 interrupted.",
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show the version and the date of the compatibility data.",
)
def provision() -> None:
    """The same PyTorch GPU environment on every machine of a lab: selected, locked, rolled out, verified."""
