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
from provisioner.workflow.mirror.mirror_status import look


@click.command(epilog=example("provision mirror status ai-lab --torch '>=2.10'"))
@lab_argument
@torch_option
@fresh_option
@platform_option
@with_output
def status(lab: str, torch: str | None, fresh: bool, platform: str, output: Output) -> int:
    """Say when to wait and when to move: what the mirror is, how far the tags are, and when the rest will come.

    A date rests on the mirror's own feed (mirror.feed in lab.yml) and on what was seen of it before; whether a tag will
    come at all, on its upstream (mirror.upstream).
    """
    directory, now = read_lab(lab), datetime.now(UTC)
    wanted = wiring.wanted(directory, torch, platform)
    with show_progress(output) as on_event, wiring.world(directory, wanted, now, on_event, fresh=fresh) as world:
        outlook = look(wanted, world, now)
    if outlook.reference is None:
        alike = find_interference(wanted.host, outlook.problems, plain_http=wanted.mirror.plain_http)
        outlook = outlook.model_copy(update={"problems": (*outlook.problems, *alike)})
    output.document(MIRROR_STATUS_SCHEMA, outlook)
    output.say(mirror_status_view(outlook))
    return DONE
