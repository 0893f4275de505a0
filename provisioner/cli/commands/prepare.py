"""`provision prepare`: install what nodes and registry need."""

import click

from provisioner.adapters.ansible.inventory import hosts
from provisioner.adapters.ansible.prepare import nodes_preparer
from provisioner.cli.exit_codes import DEFERRED, DONE, FAILED, PENDING
from provisioner.cli.options import AnsibleOptions, example, lab_argument, with_ansible_options, with_output, yes_option
from provisioner.cli.output import Output
from provisioner.cli.prepare_context import PrepareContext, open_prepare_context
from provisioner.cli.registry_host import prepare_registry
from provisioner.console.preparation import preparation_view
from provisioner.console.text import count
from provisioner.domain.rollout.preparation import (
    PREPARATION_SCHEMA,
    READY,
    Preparation,
    PrepareOrder,
    RegistryPreparation,
    prepare_order,
)

check_option = click.option(
    "--check", is_flag=True, help="Show what is missing and change nothing; exit 3 where something is."
)
restart_option = click.option(
    "--restart-engine", is_flag=True, help="Restart an engine where that is needed, even if running containers end."
)


@click.command(epilog=example("provision prepare ai-lab --check --limit gpu07"))
@lab_argument
@check_option
@restart_option
@yes_option
@with_ansible_options
@with_output
def prepare(  # noqa: PLR0913, PLR0917  (flags)
    lab: str, check: bool, restart_engine: bool, yes: bool, ansible: AnsibleOptions, output: Output
) -> int:
    """Prepare bare nodes: install Docker Engine, compose v2 and, where there is a GPU, NVIDIA's toolkit with CDI.

    Packages come from the node's own sources, or from the mirrors that lab.yml names under prepare. The lab's registry
    is set up where lab.yml says that it is managed, else checked for an answer. A second run changes nothing.

    No engine is restarted while a container runs on it: a change that needs it is deferred, and the exit code is 4.
    """
    with open_prepare_context(lab, "prepare", ansible, output, yes=yes, check=check) as work:
        return _prepare(work, ansible.limit, restart_engine=restart_engine)


def _prepare(work: PrepareContext, limit: str | None, *, restart_engine: bool) -> int:
    output = work.output
    registry = prepare_registry(work)
    if registry is None:
        return _declined(output)
    order = prepare_order(
        work.directory.lab, work.run, work.directory.package_keys, registry.ca or work.directory.registry_ca
    ).model_copy(update={"restart_engine": restart_engine, "reach": registry.state in READY})
    found = _survey(work, order, registry, limit)
    if work.journal is not None and any(node.state == "lacking" for node in found.nodes):
        output.show(preparation_view(found))
        lacking = [node.node for node in found.nodes if node.state == "lacking"]
        if not work.confirm(f"Change {count(len(lacking), 'node')} like this?"):
            return _declined(output)
        found = _do(work, found, dict.fromkeys(lacking, order))
    if work.journal is not None:
        work.journal.keep("report", found)
    output.document(PREPARATION_SCHEMA, found)
    output.show(preparation_view(found))
    return _code(found)


def _declined(output: Output) -> int:
    output.note("Nothing was changed.")
    return FAILED


def _survey(work: PrepareContext, order: PrepareOrder, registry: RegistryPreparation, limit: str | None) -> Preparation:
    names = [host.name for host in hosts(work.settings, limit)]
    with work.progress() as on_event:
        nodes = nodes_preparer(work.settings, on_event).survey(dict.fromkeys(names, order))
    check = work.journal is None
    return Preparation(lab=work.directory.lab.name, check=check, registry=registry, nodes=tuple(nodes.values()))


def _do(work: PrepareContext, found: Preparation, orders: dict[str, PrepareOrder]) -> Preparation:
    with work.progress() as on_event:
        done = nodes_preparer(work.settings, on_event).prepare(orders)
    return found.model_copy(update={"nodes": tuple(done.get(node.node, node) for node in found.nodes)})


def _code(found: Preparation) -> int:
    states = {found.registry.state, *(node.state for node in found.nodes)}
    if states & {"failed", "unreachable", "unknown"}:
        return FAILED
    if "lacking" in states:
        return PENDING
    return DEFERRED if "deferred" in states else DONE
