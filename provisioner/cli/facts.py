from datetime import UTC, datetime

import click

from provisioner.adapters.compatdata import load
from provisioner.cli.exits import DONE
from provisioner.cli.options import example, voiced
from provisioner.cli.voice import Voice
from provisioner.console.facts import age_days, facts_view, too_old
from provisioner.console.problems import problems


@click.command(epilog=example("provision facts --json | jq .age_days"))
@voiced
def facts(voice: Voice) -> int:
    """Show the compatibility data: its date, what torch builds hold, and where each block of it is from."""
    data, today = load(), datetime.now(UTC).date()
    voice.document("provisioner/facts/1", {"age_days": age_days(data, today)} | data.model_dump(mode="json"))
    voice.say(facts_view(data, today))
    if old := too_old(data, today):
        voice.note(problems([("", old)], "yellow"))
    return DONE
