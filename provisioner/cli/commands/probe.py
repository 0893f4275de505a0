import click

from provisioner.adapters.lab.directory import read_lab
from provisioner.adapters.lab.select_input import PROBE_SCHEMA
from provisioner.cli.exit_codes import DONE, FAILED
from provisioner.cli.options import AnsibleOptions, example, lab_argument, with_ansible_options, with_output
from provisioner.cli.output import Output
from provisioner.cli.progress_display import show_progress
from provisioner.cli.wiring import fleet
from provisioner.console.nodes import probe_table
from provisioner.domain.values.node import NodeFacts
from provisioner.domain.values.problem import Problem
from provisioner.workflow.probe import probe as ask


@click.command(epilog=example("provision probe ai-lab --limit gpu01"))
@lab_argument
@with_ansible_options
@with_output
def probe(lab: str, ansible: AnsibleOptions, output: Output) -> int:
    """Ask each node for its GPUs, driver and engine (by NVML, not by nvidia-smi's text). Nothing is changed.

    Exit 1 where a node did not answer.
    """
    directory = read_lab(lab)
    with show_progress(output) as on_event:
        probed = ask(fleet(directory, ansible, output.verbose, on_event), on_event)
    facts = [value.model_dump(mode="json") for value in probed.values() if isinstance(value, NodeFacts)]
    silent = [{"node": name, **value.model_dump()} for name, value in probed.items() if isinstance(value, Problem)]
    output.document(PROBE_SCHEMA, {"lab": directory.lab.name, "nodes": facts, "problems": silent})
    output.say(probe_table(probed))
    return FAILED if silent else DONE
