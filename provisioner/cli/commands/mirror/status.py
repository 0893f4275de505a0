"""`provision mirror status`: whether to wait for a tag, and until when."""

from datetime import UTC, datetime

import click

from provisioner.adapters.lab.directory import read_lab
from provisioner.cli import wiring
from provisioner.cli.exit_codes import DONE
from provisioner.cli.interference import find_interference
from provisioner.cli.options import example, fresh_option, lab_argument, platform_option, torch_option, with_output
from provisioner.cli.output import Output
from provisioner.cli.progress_display import show_progress
from provisioner.console.mirror_status import mirror_status_view
from provisioner.domain.forecast.mirror_status import MIRROR_STATUS_SCHEMA
from provisioner.workflow.mirror.mirror_status import read_mirror_status


@click.command(epilog=example("provision mirror status ai-lab --torch '>=2.10'"))
@lab_argument
@torch_option
@fresh_option
@platform_option
@with_output
def status(lab: str, torch: str | None, fresh: bool, platform: str, output: Output) -> int:
    """Show whether to wait or to act now: the mirror's kind, the state of its tags, and when missing ones are expected.

    Dates come from the mirror's sync feed (mirror.feed in lab.yml) and from earlier observations. The upstream
    (mirror.upstream) shows whether a tag will come at all.
    """
    directory, now = read_lab(lab), datetime.now(UTC)
    query = wiring.wanted(directory, torch, platform)
    with show_progress(output) as on_event, wiring.world(directory, query, now, on_event, fresh=fresh) as sources:
        found = read_mirror_status(query, sources, now)
    if found.reference is None:
        local = find_interference(query.host, found.problems, plain_http=query.mirror.plain_http)
        found = found.model_copy(update={"problems": (*found.problems, *local)})
    output.document(MIRROR_STATUS_SCHEMA, found)
    output.show(mirror_status_view(found))
    return DONE
