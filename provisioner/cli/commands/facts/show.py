"""`provision facts show`: show the compatibility data."""

from datetime import UTC, datetime
from pathlib import Path

import click

from provisioner.adapters.lab.compatibility_data import load, load_for_lab, load_with_overlay
from provisioner.adapters.lab.directory import find_lab
from provisioner.cli.exit_codes import DONE
from provisioner.cli.options import complete_labs, data_option, example, with_output
from provisioner.cli.output import Output
from provisioner.console.facts import age_days, check_data_age, facts_view
from provisioner.console.problems import problems


@click.command(epilog=example("provision facts show --json | jq .age_days"))
@click.argument("lab", metavar="[LAB]", required=False, shell_complete=complete_labs)
@data_option
@with_output
def show(lab: str | None, data_file: Path | None, output: Output) -> int:
    """Show the compatibility data: its date, the GPU code in builds of torch, and the source of each block.

    With LAB, the data of that lab: a file compatibility.yaml in its directory adds or replaces rows.
    """
    if lab and data_file:
        raise click.UsageError("give LAB or --data, not both")
    data = load_with_overlay(data_file) if data_file else load_for_lab(find_lab(lab)) if lab else load()
    today = datetime.now(UTC).date()
    output.document("provisioner/facts/1", {"age_days": age_days(data, today)} | data.model_dump(mode="json"))
    output.show(facts_view(data, today))
    if old := check_data_age(data, today):
        output.note(problems([("", old)], "yellow"))
    return DONE
