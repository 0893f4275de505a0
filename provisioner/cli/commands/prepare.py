import click

from provisioner.adapters.ansible.inventory import hosts
from provisioner.adapters.ansible.prepare import nodes_preparer
from provisioner.cli.exit_codes import DEFERRED, DONE, FAILED, PENDING
from provisioner.cli.options import AnsibleOptions, example, lab_argument, with_ansible_options, with_output, yes_option
from provisioner.cli.output import Output
from provisioner.cli.prepare_context import Work, open_work
from provisioner.cli.registry_host import lab_registry
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
    "--check", is_flag=True, help="Show what is lacking and change nothing; exit 3 where it is."
)
restart_option = click.option(
    "--restart-engine", is_flag=True, help="Restart an engine that must be, also where it ends containers that run."
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
    """Make bare nodes ready: Docker Engine, compose v2 and, where there is a GPU, NVIDIA's toolkit with CDI.

    Packages come from the node's own sources, or from the mirrors that lab.yml names under prepare. The lab's registry
    is set up where lab.yml says that it is managed, and else proved to answer. A second run changes nothing.

    No engine is restarted while a container runs on it: what would need that is pending, and ends in exit 4.
    """
    work = open_work(lab, ansible, output, yes=yes, check=check)
    registry = lab_registry(work)
    if registry is None:
        return _left(output)
    order = prepare_order(
        work.directory.lab, work.run, work.directory.package_keys, registry.ca or work.directory.registry_ca
    ).model_copy(update={"restart_engine": restart_engine, "reach": registry.state in READY})
    found = _survey(work, order, registry, ansible.limit)
    if work.journal is not None and any(node.state == "lacking" for node in found.nodes):
        output.say(preparation_view(found))
        lacking = [node.node for node in found.nodes if node.state == "lacking"]
        if not work.agreed(f"Do this on {count(len(lacking), 'node')}?"):
            return _left(output)
        found = _do(work, found, dict.fromkeys(lacking, order))
    if work.journal is not None:
        work.journal.keep("report", found)
    output.document(PREPARATION_SCHEMA, found)
    output.say(preparation_view(found))
    return _code(found)


def _left(output: Output) -> int:
    output.note("Nothing was changed.")
    return FAILED


def _survey(work: Work, order: PrepareOrder, registry: RegistryPreparation, limit: str | None) -> Preparation:
    names = [host.name for host in hosts(work.settings, limit)]
    with work.telling() as on_event:
        nodes = nodes_preparer(work.settings, on_event).survey(dict.fromkeys(names, order))
    check = work.journal is None
    return Preparation(lab=work.directory.lab.name, check=check, registry=registry, nodes=tuple(nodes.values()))


def _do(work: Work, found: Preparation, orders: dict[str, PrepareOrder]) -> Preparation:
    with work.telling() as on_event:
        done = nodes_preparer(work.settings, on_event).do(orders)
    return found.model_copy(update={"nodes": tuple(done.get(node.node, node) for node in found.nodes)})


def _code(found: Preparation) -> int:
    states = {found.registry.state, *(node.state for node in found.nodes)}
    if states & {"failed", "unreachable", "unknown"}:
        return FAILED
    if "lacking" in states:
        return PENDING
    return DEFERRED if "deferred" in states else DONE
