import click
from pydantic import BaseModel

from provisioner.cli.exits import DONE
from provisioner.cli.options import example
from provisioner.cli.voice import print_json
from provisioner.domain.lab import Lab
from provisioner.domain.lock import Lockfile
from provisioner.domain.plan import Plan
from provisioner.domain.preparation import Preparation
from provisioner.domain.report import RolloutReport
from provisioner.domain.status import LabStatus
from provisioner.domain.sweep import Sweep

DIALECT = "https://json-schema.org/draft/2020-12/schema"
DOCUMENTS: dict[str, type[BaseModel]] = {
    "lab": Lab,
    "lock": Lockfile,
    "plan": Plan,
    "preparation": Preparation,
    "report": RolloutReport,
    "status": LabStatus,
    "sweep": Sweep,
}


@click.command(epilog=example("provision schema > inventories/ai-lab/lab.schema.json"))
@click.argument("document", type=click.Choice(list(DOCUMENTS)), default="lab")
def schema(document: str) -> int:
    """Print the JSON Schema of lab.yml, or of another DOCUMENT.

    An editor completes lab.yml by it where lab.yml says `$schema: lab.schema.json`.
    """
    print_json({"$schema": DIALECT} | DOCUMENTS[document].model_json_schema(by_alias=True))
    return DONE
