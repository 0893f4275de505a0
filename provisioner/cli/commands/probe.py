"""`provision probe`: read each node's GPUs, driver and engine."""

import hashlib
from collections.abc import Sequence
from typing import Any

import click

from provisioner.adapters.ansible.host_keys import NewHost, new_hosts, write_host_keys
from provisioner.adapters.ansible.inventory import hosts
from provisioner.adapters.lab.compatibility_data import load
from provisioner.adapters.lab.directory import LabDirectory, read_lab
from provisioner.adapters.lab.select_input import PROBE_SCHEMA
from provisioner.cli.exit_codes import DONE, FAILED
from provisioner.cli.options import AnsibleOptions, example, lab_argument, with_ansible_options, with_output
from provisioner.cli.output import Output
from provisioner.cli.progress_display import show_progress
from provisioner.cli.wiring import fleet, settings
from provisioner.console.nodes import host_key_table, probe_table
from provisioner.console.text import count, fold_names
from provisioner.domain.compatibility.toolkit import with_toolkit_problems
from provisioner.domain.values.node import NodeFacts
from provisioner.domain.values.problem import Problem
from provisioner.workflow.probe import probe as probe_nodes

_UNATTENDED = Problem(
    "nobody_to_ask",
    "--accept-new-host-keys asks you to compare fingerprints, and there is no terminal (or --json is given)",
    "a host key that was not compared may be that of any machine; no option accepts it without a question",
    "run it on a terminal, once; or put the keys into known_hosts yourself, from a source that you trust",
)


@click.command(epilog=example("provision probe ai-lab --limit gpu01\n  provision probe ai-lab --accept-new-host-keys"))
@lab_argument
@click.option(
    "--accept-new-host-keys",
    "accept",
    is_flag=True,
    help="First show the fingerprints of host keys that ssh does not know yet, ask, and write them to known_hosts.",
)
@with_ansible_options
@with_output
def probe(lab: str, accept: bool, ansible: AnsibleOptions, output: Output) -> int:
    """Read each node's GPUs and driver (by NVML, not from nvidia-smi's text) and its engine. Nothing is changed.

    Exit 1 if a node did not answer. A host key that has changed is never accepted. --json gives the rendered files of
    seats as hashes, not as text; `provision plan --json` has their differences.
    """
    directory = read_lab(lab)
    if accept:
        _accept_new_host_keys(directory, ansible, output)
    with show_progress(output) as on_event:
        found = probe_nodes(fleet(directory, ansible, output.verbose, on_event), on_event)
    data = load()
    probed = {
        name: with_toolkit_problems(value, data) if isinstance(value, NodeFacts) else value
        for name, value in found.items()
    }
    facts = [_facts_json(value) for value in probed.values() if isinstance(value, NodeFacts)]
    silent = [{"node": name, **value.model_dump()} for name, value in probed.items() if isinstance(value, Problem)]
    output.document(PROBE_SCHEMA, {"lab": directory.lab.name, "nodes": facts, "problems": silent})
    output.show(probe_table(probed))
    return FAILED if silent else DONE


def _facts_json(facts: NodeFacts) -> dict[str, Any]:
    """Return the facts with the hash of each rendered file instead of its text: a lab may have thousands of seats."""
    document = facts.model_dump(mode="json")
    for seat in document["seats"]:
        seat["files"] = {
            name: f"sha256:{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()}"
            for name, text in seat["files"].items()
        }
    return document


def _accept_new_host_keys(directory: LabDirectory, ansible: AnsibleOptions, output: Output) -> None:
    """Show new host keys, ask, and write them; again for what is behind a jump host that became known.

    Raises ProblemError (usage) without a terminal.
    """
    output.require_terminal(_UNATTENDED)
    used = settings(directory, ansible, output.verbose)
    nodes = [host.name for host in hosts(used, ansible.limit)]
    while new := new_hosts(used, nodes):
        found: dict[tuple[str, str, str], list[str]] = {}  # a line of known_hosts may have a random salt
        for node, host in new.items():
            found.setdefault((host.label, host.file, host.fingerprints), []).append(node)
        firsts = [new[nodes[0]] for nodes in found.values()]
        rows = zip(firsts, found.values(), strict=True)
        output.note(host_key_table((host.label, _purpose(host, names), host.fingerprints) for host, names in rows))
        files = ", ".join(dict.fromkeys(host.file for host in firsts))
        if not output.confirm(f"Are these the right fingerprints? Add {count(len(firsts), 'host')} to {files}?"):
            output.note("No key was accepted.")
            return
        write_host_keys(firsts)
        nodes = [node for node, host in new.items() if host.jump]


def _purpose(host: NewHost, nodes: Sequence[str]) -> str:
    return f"{'jump host to ' if host.jump else ''}{fold_names(nodes)}"
