import click

from provisioner.adapters.lab.directory import read_lab
from provisioner.cli.options import (
    AnsibleOptions,
    Overrides,
    RunOptions,
    example,
    lab_argument,
    with_ansible_options,
    with_output,
    with_overrides,
    with_run_options,
    yes_option,
)
from provisioner.cli.output import Output
from provisioner.cli.seat_change import Withdrawal, withdraw
from provisioner.console.text import count, fold
from provisioner.domain.rollout.run_spec import Rules
from provisioner.domain.seat.seat import seat_name
from provisioner.workflow.rollout.removal import removal


@click.command(epilog=example("provision remove ai-lab --limit gpu01"))
@lab_argument
@yes_option
@with_run_options
@with_overrides
@with_ansible_options
@with_output
def remove(  # noqa: PLR0913  (each is a flag, or a group of them)
    *, lab: str, yes: bool, run_options: RunOptions, overrides: Overrides, ansible: AnsibleOptions, output: Output
) -> int:
    """Take seats down, and forget their generations. Homes, tokens and host keys stay on the nodes."""
    directory = read_lab(lab)
    name = seat_name(directory.lab.name, directory.lab.seat.user)
    what = Withdrawal(
        verb="remove",
        plan=lambda _, probed: removal(directory.lab.name, name, probed, when_busy=overrides.when_busy),
        question=lambda nodes: (
            f"Take {name} down on {count(len(nodes), 'node')} ({fold(nodes)})? Whatever runs in it ends."
        ),
        # Every node is asked: what could not be taken down here is no reason to leave it running there.
        rules=Rules(max_failures="100%"),
    )
    return withdraw(
        directory, what, yes=yes, run_options=run_options, overrides=overrides, ansible=ansible, output=output
    )
