"""`provision mirror check`: looks at every layer of the images named. Needs no lab."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, get_args

import click
from pydantic import TypeAdapter, ValidationError

from provisioner.adapters.registry.client import Registry
from provisioner.cli.exit_codes import DONE, FAILED
from provisioner.cli.interference import find_interference
from provisioner.cli.options import ca_option, example, platform_option, with_output
from provisioner.cli.output import Output
from provisioner.cli.progress_display import show_progress
from provisioner.console.catalog import sync_table
from provisioner.console.problems import problems
from provisioner.domain.lab.lab import Address, MirrorKind
from provisioner.domain.values.event import Event, OnEvent
from provisioner.domain.values.problem import Problem
from provisioner.domain.values.reference import ImageReference
from provisioner.domain.values.sync import SyncReport, SyncState
from provisioner.workflow.mirror.freshness import Freshness


class Origin(NamedTuple):
    """Another registry under whose name the same repositories are."""

    host: str
    plain_http: bool

    def named(self, reference: ImageReference) -> ImageReference | None:
        above = reference.model_copy(update={"registry": self.host, "digest": None})
        return above if reference.tag else None


def _origin(ctx: click.Context, param: click.Parameter, value: str | None) -> Origin | None:
    if value is None:
        return None
    host = value.removeprefix("http://")
    try:
        TypeAdapter(Address).validate_python(host)
    except ValidationError:
        raise click.BadParameter(f"{value} is not of the form HOST or HOST:PORT", ctx, param) from None
    return Origin(host, plain_http=host != value)


@click.command(epilog=example("provision mirror check registry.lab:5000/pytorch/pytorch:2.8.0-cuda12.8-cudnn9-runtime"))
@click.argument("references", metavar="HOST[:PORT]/REPO:TAG...", nargs=-1, required=True)
@click.option("--kind", type=click.Choice(get_args(MirrorKind)), default="static", show_default=True)
@ca_option
@click.option("--plain-http", is_flag=True, help="No TLS.")
@platform_option
@click.option("--deep", is_flag=True, help="Read and hash every byte of every layer.")
@click.option(
    "--upstream",
    metavar="[http://]HOST[:PORT]",
    callback=_origin,
    help="The registry that the mirror copies: an image that is another there is stale.",
)
@click.option("--allow-cold", is_flag=True, help="A cache that would fetch the image first is good enough.")
@with_output
def check(  # noqa: PLR0913  (each is a flag)
    *,
    references: tuple[str, ...],
    kind: MirrorKind,
    ca: Path | None,
    plain_http: bool,
    platform: str,
    deep: bool,
    upstream: Origin | None,
    allow_cold: bool,
    output: Output,
) -> int:
    """Look at every layer of each image; exit 0 only if all are complete. Needs no lab."""
    wanted = [_parsed(text) for text in references]
    reports: dict[str, SyncReport] = {}
    with show_progress(output) as on_event:
        for host in dict.fromkeys(str(reference.registry) for reference in wanted):
            here = [reference for reference in wanted if reference.registry == host]
            with Registry(host, ca=ca, plain_http=plain_http, kind=kind, on_event=on_event) as registry:
                found: Sequence[SyncReport] = registry.check(here, platform, deep=deep)
                if upstream is not None:
                    found = _compared(found, registry, upstream, ca, on_event)
            reports |= {str(reference): report for reference, report in zip(here, found, strict=True)}
    ordered = [reports[str(reference)] for reference in wanted]
    good = _good(ordered, allow_cold=allow_cold)
    alike = () if good else _alike(ordered, plain_http=plain_http)
    images = [report.model_dump(mode="json") for report in ordered]
    output.document("provisioner/sync/1", {"images": images, "problems": [problem.model_dump() for problem in alike]})
    output.say(sync_table(ordered), problems([("", problem) for problem in alike], "yellow"))
    return DONE if good else FAILED


def _alike(reports: Sequence[SyncReport], *, plain_http: bool) -> list[Problem]:
    """What of this machine may make each mirror look so, less what its images say already."""
    hosts = dict.fromkeys(report.reference.partition("/")[0] for report in reports)
    told = [problem for report in reports for problem in report.problems]
    found = [problem for host in hosts for problem in find_interference(host, told, plain_http=plain_http)]
    return list(dict.fromkeys(found))


def _compared(
    reports: Sequence[SyncReport], registry: Registry, upstream: Origin, ca: Path | None, on_event: OnEvent
) -> list[SyncReport]:
    """Each complete one held against upstream; a note where that does not answer."""
    with Registry(upstream.host, ca=ca, plain_http=upstream.plain_http, connections=2) as above:
        fresh = Freshness(registry, above, upstream.named, most=len(reports))
        found = [fresh.report(report) for report in reports]
    for problem in fresh.unknown:
        on_event(Event(phase="catalog", kind="note", text=f"upstream is not known: {problem.what}"))
    return found


def _parsed(text: str) -> ImageReference:
    try:
        reference = ImageReference.parse(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    if reference.registry is None:
        raise click.BadParameter(f"{text} names no registry: write HOST/{text}")
    return reference


def _good(reports: Iterable[SyncReport], *, allow_cold: bool) -> bool:
    enough: Sequence[SyncState] = [SyncState.COMPLETE, *([SyncState.COLD] if allow_cold else [])]
    return all(report.state in enough for report in reports)
