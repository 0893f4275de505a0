import re
import shlex
import shutil
import subprocess
import time
from datetime import UTC, datetime, timedelta

import click

from provisioner.adapters.lab.directory import LabDirectory, read_lab
from provisioner.cli import wiring
from provisioner.cli.exit_codes import DONE, FAILED
from provisioner.cli.options import example, lab_argument, platform_option, torch_option, with_output
from provisioner.cli.output import Output
from provisioner.console.mirror_status import heartbeat
from provisioner.console.problems import problems
from provisioner.domain.forecast.forecast import RECHECK
from provisioner.domain.forecast.mirror_status import MirrorStatus
from provisioner.domain.values.event import Event
from provisioner.domain.values.problem import Problem
from provisioner.domain.values.reference import ImageReference
from provisioner.domain.values.sync import SyncReport
from provisioner.workflow.mirror.mirror_listing import Wanted
from provisioner.workflow.mirror.mirror_status import look
from provisioner.workflow.mirror.wait import Pace, Waited
from provisioner.workflow.mirror.wait import wait as wait_for

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def _span(ctx: click.Context, param: click.Parameter, value: str) -> float:
    """90s, 10m, 12h, 1h30m, 2d: in seconds."""
    parts = re.findall(r"(\d+)([smhd])", value)
    if not parts or "".join(number + unit for number, unit in parts) != value:
        raise click.BadParameter(f"{value!r} is no length of time such as 90s, 10m, 12h or 1h30m", ctx, param)
    return float(sum(int(number) * _UNITS[unit] for number, unit in parts))


def _words(ctx: click.Context, param: click.Parameter, value: str | None) -> list[str]:
    """The words of the hook. Nobody should learn after twelve hours that it cannot be run."""
    try:
        words = shlex.split(value or "")
    except ValueError as error:
        raise click.BadParameter(str(error), ctx, param) from None
    if words and shutil.which(words[0]) is None:
        raise click.BadParameter(f"{words[0]} is no command that can be run here", ctx, param)
    return words


@click.command(epilog=example("provision mirror wait ai-lab --torch 2.10 --deadline 12h && provision lock ai-lab"))
@lab_argument
@torch_option
@click.option("--deadline", callback=_span, default="12h", show_default=True, help="Give up after this time.")
@click.option(
    "--every", callback=_span, default="10m", show_default=True, help="Between looks; at least 10m in public."
)
@click.option("--notify", metavar="CMD", callback=_words, help="Run this at the end, with the image behind it.")
@platform_option
@with_output
def wait(  # noqa: PLR0913  (each is a flag)
    *,
    lab: str,
    torch: str | None,
    deadline: float,
    every: float,
    notify: list[str],
    platform: str,
    output: Output,
) -> int:
    """Block until the mirror has a complete image with that torch: exit 0 then, 1 at the deadline.

    Prints a line for each look, so it can be run from cron or CI. A cache is asked for the image, which makes it fetch
    it. --notify is run without a shell.
    """
    directory = read_lab(lab)
    wanted = wiring.wanted(directory, torch, platform)
    began = _now()
    pace = Pace(_now, time.sleep, polite(wanted, every, output), began + timedelta(seconds=deadline))
    return conclude(output, waiting(directory, wanted, pace, output), notify, (_now() - began).total_seconds())


def polite(wanted: Wanted, every: float, output: Output) -> float:
    """Seconds between looks: a public mirror is never asked more often than it syncs anything."""
    if not wanted.is_public or every >= RECHECK:
        return max(every, 1)
    output.note(f"{wanted.host} is a public mirror: looking every 10 min, not more often.")
    return RECHECK


def waiting(directory: LabDirectory, wanted: Wanted, pace: Pace, output: Output) -> Waited:
    def at_it() -> MirrorStatus:
        now = pace.clock()
        with wiring.world(directory, wanted, now, _silent, fresh=True) as world:
            return look(wanted, world, now)

    def ask(reference: ImageReference) -> SyncReport:
        with wiring.mirror(directory, _silent, fresh=True) as registry:
            return registry.inspect(reference, wanted.platform).report

    return wait_for(pace, at_it, ask, lambda outlook, pause, left: output.note(heartbeat(outlook, pause, left)))


def conclude(output: Output, waited: Waited, notify: list[str], seconds: float) -> int:
    """Say how it ended, run the hook where it ended well, and give the exit code."""
    found = [] if waited.reference is not None else [_not_there(waited.outlook)]
    if waited.reference is not None and notify and (code := _notified(notify, waited.reference)) != 0:
        found.append(_hook_failed(notify, code))
    told = {"reference": waited.reference, "waited_seconds": round(seconds)}
    rest = {"problems": [problem.model_dump() for problem in found], "outlook": waited.outlook.model_dump(mode="json")}
    output.document("provisioner/waited/1", told | rest)
    if waited.reference is not None:
        output.say(waited.reference)
    output.note(problems(("", problem) for problem in found))
    return FAILED if found else DONE


def _notified(words: list[str], reference: str) -> int:
    """The hook's exit code. What it prints goes to stderr: stdout is the answer."""
    return subprocess.run([*words, reference], check=False, stdin=subprocess.DEVNULL, stdout=2).returncode


def _not_there(outlook: MirrorStatus) -> Problem:
    told = outlook.forecast.problem
    return Problem(
        "not_there_in_time" if told is None or told.code != "no_such_service" else told.code,
        f"{outlook.mirror} has no complete image with torch {outlook.torch}",
        "it did not come in time" if told is None else f"{told.what.removesuffix('.')}; {told.why}",
        "wait longer (--deadline)" if told is None else told.fix,
    )


def _hook_failed(words: list[str], code: int) -> Problem:
    return Problem(
        "notify_failed",
        f"the image is there, but {words[0]} ended with exit code {code}",
        "whoever was to be told may not know",
        "run it by hand",
    )


def _now() -> datetime:
    return datetime.now(UTC)


def _silent(_: Event) -> None:
    """The line for each look is news enough."""
