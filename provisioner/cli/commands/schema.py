import click
from pydantic import BaseModel

from provisioner.cli.exit_codes import DONE
from provisioner.cli.options import example
from provisioner.cli.output import print_json
from provisioner.domain.lab.lab import Lab
from provisioner.domain.lab.lock import Lockfile
from provisioner.domain.registry.gc import GarbageReport
from provisioner.domain.rollout.plan import Plan
from provisioner.domain.rollout.preparation import Preparation
from provisioner.domain.rollout.report import RolloutReport
from provisioner.domain.rollout.status import LabStatus

DIALECT = "https://json-schema.org/draft/2020-12/schema"
DOCUMENTS: dict[str, type[BaseModel]] = {
    "lab": Lab,
    "lock": Lockfile,
    "plan": Plan,
    "preparation": Preparation,
    "report": RolloutReport,
    "status": LabStatus,
    "sweep": GarbageReport,
}


@click.command(epilog=example("provision schema > inventories/ai-lab/lab.schema.json"))
@click.argument("document", type=click.Choice(list(DOCUMENTS)), default="lab")
def schema(document: str) -> int:
    """Print the JSON Schema of lab.yml, or of another DOCUMENT.

    An editor completes lab.yml by it where lab.yml says `$schema: lab.schema.json`.
    """
    print_json({"$schema": DIALECT} | DOCUMENTS[document].model_json_schema(by_alias=True))
    return DONE
