"""`provision mirror check`: check every layer of the given images. Needs no lab."""

from collections.abc import Sequence
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
from provisioner.domain.lab.lab import Address, MirrorKind, check_address
from provisioner.domain.values.event import Event, OnEvent
from provisioner.domain.values.problem import Problem
from provisioner.domain.values.reference import ImageReference
from provisioner.domain.values.sync import SyncReport, SyncState
from provisioner.workflow.mirror.freshness import Freshness


class UpstreamOption(NamedTuple):
    """The registry given by --upstream. Its repositories have the same names as on the mirror."""

    host: str
    plain_http: bool

    def map_name(self, reference: ImageReference) -> ImageReference | None:
        """Return the upstream name of a reference, or None for one without a tag."""
        name = reference.model_copy(update={"registry": self.host, "digest": None})
        return name if reference.tag else None


def _parse_upstream(ctx: click.Context, param: click.Parameter, value: str | None) -> UpstreamOption | None:
    if value is None:
        return None
    host = value.removeprefix("http://")
    try:
        TypeAdapter(Address).validate_python(host)
    except ValidationError:
        raise click.BadParameter(f"{value} is not of the form HOST or HOST:PORT", ctx, param) from None
    return UpstreamOption(host, plain_http=host != value)


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
    callback=_parse_upstream,
    help="The registry that the mirror copies: an image that differs there is stale.",
)
@click.option("--allow-cold", is_flag=True, help="Accept an image that a cache would have to fetch first.")
@with_output
def check(  # noqa: PLR0913  (each is a flag)
    *,
    references: tuple[str, ...],
    kind: MirrorKind,
    ca: Path | None,
    plain_http: bool,
    platform: str,
    deep: bool,
    upstream: UpstreamOption | None,
    allow_cold: bool,
    output: Output,
) -> int:
    """Check every layer of each image; exit 0 only if all are complete. Needs no lab."""
    wanted = [_parse_reference(text) for text in references]
    reports: dict[str, SyncReport] = {}
    with show_progress(output) as on_event:
        for host in dict.fromkeys(str(reference.registry) for reference in wanted):
            here = [reference for reference in wanted if reference.registry == host]
            with Registry(host, ca=ca, plain_http=plain_http, kind=kind, on_event=on_event) as registry:
                found: Sequence[SyncReport] = registry.check(here, platform, deep=deep)
                if upstream is not None:
                    found = _compare(found, registry, upstream, ca, on_event)
            reports |= {str(reference): report for reference, report in zip(here, found, strict=True)}
    ordered = [reports[str(reference)] for reference in wanted]
    accepted = {SyncState.COMPLETE, *([SyncState.COLD] if allow_cold else [])}
    is_complete = all(report.state in accepted for report in ordered)
    local = [] if is_complete else _find_local_problems(ordered, plain_http=plain_http)
    images = [report.model_dump(mode="json") for report in ordered]
    output.document("provisioner/sync/1", {"images": images, "problems": [problem.model_dump() for problem in local]})
    output.show(sync_table(ordered), problems([("", problem) for problem in local], "yellow"))
    return DONE if is_complete else FAILED


def _find_local_problems(reports: Sequence[SyncReport], *, plain_http: bool) -> list[Problem]:
    """Return what on this machine may disturb requests to the mirrors, without what the reports hold already."""
    hosts = dict.fromkeys(report.reference.partition("/")[0] for report in reports)
    known = [problem for report in reports for problem in report.problems]
    found = [problem for host in hosts for problem in find_interference(host, known, plain_http=plain_http)]
    return list(dict.fromkeys(found))


def _compare(
    reports: Sequence[SyncReport], registry: Registry, upstream: UpstreamOption, ca: Path | None, on_event: OnEvent
) -> list[SyncReport]:
    """Return the reports with stale images marked; send a note where upstream does not answer."""
    with Registry(upstream.host, ca=ca, plain_http=upstream.plain_http, connections=2) as origin:
        fresh = Freshness(registry, origin, upstream.map_name, limit=len(reports))
        found = [fresh.report(report) for report in reports]
    for problem in fresh.unknown:
        on_event(Event(phase="catalog", kind="note", text=f"not compared with upstream: {problem.what}"))
    return found


def _parse_reference(text: str) -> ImageReference:
    try:
        reference = ImageReference.parse(text)
        if reference.registry is not None:
            check_address(reference.registry)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    if reference.registry is None:
        raise click.BadParameter(f"{text} names no registry: write HOST/{text}")
    return reference
