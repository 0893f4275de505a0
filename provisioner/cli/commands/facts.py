from datetime import UTC, datetime
from pathlib import Path

import click

from provisioner.adapters.lab.compatibility_data import load, load_for, load_with
from provisioner.adapters.lab.directory import find_lab
from provisioner.cli.exit_codes import DONE
from provisioner.cli.options import complete_labs, data_option, example, with_output
from provisioner.cli.output import Output
from provisioner.console.facts import age_days, facts_view, too_old
from provisioner.console.problems import problems


@click.command(epilog=example("provision facts --json | jq .age_days"))
@click.argument("lab", metavar="[LAB]", required=False, shell_complete=complete_labs)
@data_option
@with_output
def facts(lab: str | None, data_file: Path | None, output: Output) -> int:
    """Show the compatibility data: its date, what torch builds hold, and where each block of it is from.

    With LAB, as that lab has it: a file compatibility.yaml in its directory adds rows or replaces them.
    """
    if lab and data_file:
        raise click.UsageError("give LAB or --data, not both")
    data = load_with(data_file) if data_file else load_for(find_lab(lab)) if lab else load()
    today = datetime.now(UTC).date()
    output.document("provisioner/facts/1", {"age_days": age_days(data, today)} | data.model_dump(mode="json"))
    output.say(facts_view(data, today))
    if old := too_old(data, today):
        output.note(problems([("", old)], "yellow"))
    return DONE
