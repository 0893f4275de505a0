from datetime import UTC, datetime

import click

from provisioner.adapters.lab.directory import read_lab
from provisioner.cli import wiring
from provisioner.cli.exit_codes import DONE
from provisioner.cli.interference import look_alikes
from provisioner.cli.options import example, fresh_option, lab_argument, platform_option, torch_option, voiced
from provisioner.cli.output import Voice
from provisioner.cli.progress_display import watching
from provisioner.console.mirror_status import outlook_view
from provisioner.domain.forecast.mirror_status import OUTLOOK_SCHEMA
from provisioner.workflow.mirror.mirror_status import look


@click.command(epilog=example("provision mirror status ai-lab --torch '>=2.10'"))
@lab_argument
@torch_option
@fresh_option
@platform_option
@voiced
def status(lab: str, torch: str | None, fresh: bool, platform: str, voice: Voice) -> int:
    """Say when to wait and when to move: what the mirror is, how far the tags are, and when the rest will come.

    A date rests on the mirror's own feed (mirror.feed in lab.yml) and on what was seen of it before; whether a tag will
    come at all, on its upstream (mirror.upstream).
    """
    directory, now = read_lab(lab), datetime.now(UTC)
    wanted = wiring.wanted(directory, torch, platform)
    with watching(voice) as on_event, wiring.world(directory, wanted, now, on_event, fresh=fresh) as world:
        outlook = look(wanted, world, now)
    if outlook.reference is None:
        alike = look_alikes(wanted.host, outlook.problems, plain_http=wanted.mirror.plain_http)
        outlook = outlook.model_copy(update={"problems": (*outlook.problems, *alike)})
    voice.document(OUTLOOK_SCHEMA, outlook)
    voice.say(outlook_view(outlook))
    return DONE
