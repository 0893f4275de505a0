"""The verbs. Each is a module that is only imported once it is called, so that help and completion come at once."""

import difflib
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import click
from click.shell_completion import CompletionItem

# verb -> what it does, in a line. `provisioner.cli.commands.<verb>` holds a click command of the same name; of a verb
# with commands of its own, `group` in the package of that name does.
VERBS = {
    "init": "Begin a lab: a commented hosts.yml and lab.yml",
    "probe": "Show each node's GPUs, driver and engine",
    "mirror": "What the mirror has, and how far",
    "select": "Choose an image from files alone, offline",
    "lock": "Choose, build the lab image, pin both by digest in lab.lock",
    "prepare": "Make bare nodes ready: engine, compose, NVIDIA's toolkit; and the lab's registry",
    "registry": "The lab's own registry: take out what no lock and no node wants any more",
    "plan": "Show what a rollout would do, seat by seat; change nothing",
    "rollout": "The main job: probe, plan, agree, roll out in waves, verify, report",
    "upgrade": "The next semester: a new lock, shown as what changes for whom, and rolled out",
    "notify": "Tell whoever works in the seats something, or take it back",
    "resume": "Finish a run that was cut off",
    "rollback": "Bring seats back to what they ran before, offline",
    "status": "What runs where, held against the lock",
    "remove": "Take seats down; homes and volumes stay",
    "me": "Your own seat on this machine",
    "facts": "The compatibility data: its date, its sources, its rows",
    "schema": "Print the JSON Schema of lab.yml for your editor",
    "completion": "Print the completion script of your shell",
}
GROUPS = {"mirror", "registry"}
WIDTH = 100


class Verbs(click.Group):
    """A group that knows its commands by name, and the one place where whatever went wrong is caught."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  (click's signature, here and below)
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in VERBS:
            return None
        module = f"{cmd_name}.group" if cmd_name in GROUPS else cmd_name
        command = getattr(import_module(f"provisioner.cli.commands.{module}"), cmd_name)
        return command if isinstance(command, click.Command) else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in VERBS and not ctx.resilient_parsing:
            near = difflib.get_close_matches(args[0], VERBS, n=1)
            ctx.fail(f"there is no verb {args[0]}{f'; did you mean {near[0]}?' if near else ''}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem[str]]:
        options = super(click.Group, self).shell_complete(ctx, incomplete)
        return [CompletionItem(v, help=text) for v, text in VERBS.items() if v.startswith(incomplete)] + options

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run and exit. Whatever is raised below ends here, once, as an exit code and words."""
        words = sys.argv[1:] if extra.get("args") is None else extra["args"]
        try:
            code = super().main(*args, **(extra | {"standalone_mode": False}))
        except Exception as error:  # noqa: BLE001  (nothing may leave as a traceback)
            code = _end(error, words)
        sys.exit(code)


def _end(error: BaseException, words: Sequence[str]) -> int:
    from provisioner.cli.errors import end  # noqa: PLC0415  (rich and pydantic; most runs end well)

    return end(error, words)


@click.group(
    cls=Verbs,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": WIDTH},
    epilog="provision VERB --help shows an example of each. Exit codes: 0 done or nothing to do, 1 a node or check "
    "failed, 2 usage or a file that you wrote, 3 changes pending or drift, 4 deferred because busy or "
    "because it is no hour for changes, 5 locked by another run, 6 the saved plan is stale, 70 a bug of ours, "
    "130 interrupted.",
)
@click.version_option(package_name="lab-provisioner", prog_name="provision")
def provision() -> None:
    """The same PyTorch GPU environment on every machine of a lab: picked, pinned, rolled out, proved, undone."""
