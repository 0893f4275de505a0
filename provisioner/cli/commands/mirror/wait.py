"""`provision mirror wait`: block until the mirror has an image complete."""

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
from provisioner.domain.values.duration import parse_duration
from provisioner.domain.values.event import Event
from provisioner.domain.values.problem import Problem
from provisioner.domain.values.reference import ImageReference
from provisioner.domain.values.sync import SyncReport
from provisioner.workflow.mirror.mirror_listing import MirrorQuery
from provisioner.workflow.mirror.mirror_status import read_mirror_status
from provisioner.workflow.mirror.wait import WaitResult, WaitSettings, wait_for_image


def _parse_seconds(ctx: click.Context, param: click.Parameter, value: str) -> float:
    try:
        return float(parse_duration(value))
    except ValueError as error:
        raise click.BadParameter(str(error), ctx, param) from None


def _parse_hook(ctx: click.Context, param: click.Parameter, value: str | None) -> list[str]:
    """Return the arguments of the hook. A command that does not exist is refused before the wait."""
    try:
        words = shlex.split(value or "")
    except ValueError as error:
        raise click.BadParameter(str(error), ctx, param) from None
    if words and shutil.which(words[0]) is None:
        raise click.BadParameter(f"{words[0]} is not an executable command on this machine", ctx, param)
    return words


@click.command(epilog=example("provision mirror wait ai-lab --torch 2.10 --deadline 12h && provision lock ai-lab"))
@lab_argument
@torch_option
@click.option("--deadline", callback=_parse_seconds, default="12h", show_default=True, help="Give up after this time.")
@click.option(
    "--every",
    callback=_parse_seconds,
    default="10m",
    show_default=True,
    help="Time between readings; at least 10m on a public mirror.",
)
@click.option(
    "--notify", metavar="CMD", callback=_parse_hook, help="Run this at the end, with the image as last argument."
)
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

    Prints a line for each reading, so it can be run from cron or CI. A cache is asked for the image, which makes it
    fetch it. --notify is run without a shell.
    """
    directory = read_lab(lab)
    query = wiring.wanted(directory, torch, platform)
    began = _now()
    every = limit_rate(query, every, output)
    settings = WaitSettings(_now, time.sleep, every, began + timedelta(seconds=deadline))
    result = run_wait(directory, query, settings, output)
    return report_wait(output, result, notify, (_now() - began).total_seconds())


def limit_rate(query: MirrorQuery, every: float, output: Output) -> float:
    """Return the seconds between readings: at least 10 minutes on a public mirror, which syncs no more often."""
    if not query.is_public or every >= RECHECK:
        return max(every, 1)
    output.note(f"{query.host} is a public mirror: it is read every 10 min at most.")
    return RECHECK


def run_wait(directory: LabDirectory, query: MirrorQuery, settings: WaitSettings, output: Output) -> WaitResult:
    """Wait for the image, with a line on stderr for each reading."""

    def read_status() -> MirrorStatus:
        now = settings.clock()
        with wiring.world(directory, query, now, _ignore, fresh=True) as sources:
            return read_mirror_status(query, sources, now)

    def inspect(reference: ImageReference) -> SyncReport:
        with wiring.mirror(directory, _ignore, fresh=True) as registry:
            return registry.inspect(reference, query.platform).report

    def report(status: MirrorStatus, pause: float, left: float) -> None:
        output.note(heartbeat(status, pause, left))

    return wait_for_image(settings, read_status, inspect, report)


def report_wait(output: Output, result: WaitResult, notify: list[str], seconds: float) -> int:
    """Run the hook if the image came, print the result, and return the exit code. `seconds`: how long the wait was."""
    found = [_not_there(result.status)] if result.reference is None else _run_hook(notify, result.reference)
    document = {"reference": result.reference, "waited_seconds": round(seconds)}
    rest = {"problems": [problem.model_dump() for problem in found], "outlook": result.status.model_dump(mode="json")}
    output.document("provisioner/waited/1", document | rest)
    if result.reference is not None:
        output.show(result.reference)
    output.note(problems(("", problem) for problem in found))
    return FAILED if found else DONE


def _run_hook(words: list[str], reference: str) -> list[Problem]:
    """Run the hook with the image as its last argument. Its output goes to stderr: stdout is the result."""
    if not words:
        return []
    code = subprocess.run([*words, reference], check=False, stdin=subprocess.DEVNULL, stdout=2).returncode
    what = f"the image is complete, but {words[0]} ended with exit code {code}"
    return [Problem("notify_failed", what, "the notification may not have been sent", "run it by hand")] if code else []


def _not_there(status: MirrorStatus) -> Problem:
    problem = status.forecast.problem
    return Problem(
        "not_there_in_time" if problem is None or problem.code != "no_such_service" else problem.code,
        f"{status.mirror} has no complete image with torch {status.torch}",
        "it did not come in time" if problem is None else f"{problem.what.removesuffix('.')}; {problem.why}",
        "wait longer (--deadline)" if problem is None else problem.fix,
    )


def _now() -> datetime:
    return datetime.now(UTC)


def _ignore(_: Event) -> None:
    """Drop an event: the line for each reading is enough."""
