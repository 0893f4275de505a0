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
from provisioner.console.text import count
from provisioner.domain.rollout.run_spec import Rules
from provisioner.domain.seat.seat import seat_name
from provisioner.workflow.rollout.rollback import back_orders
from provisioner.workflow.rollout.rollback import rollback as plan_back


@click.command(epilog=example("provision rollback ai-lab --limit gpu01"))
@lab_argument
@click.option("--to", metavar="N", type=click.IntRange(min=1), help="A generation that the nodes keep.")
@yes_option
@with_run_options
@with_overrides
@with_ansible_options
@with_output
def rollback(  # noqa: PLR0913  (each is a flag, or a group of them)
    *,
    lab: str,
    to: int | None,
    yes: bool,
    run_options: RunOptions,
    overrides: Overrides,
    ansible: AnsibleOptions,
    output: Output,
) -> int:
    """Bring seats back to what they ran before: in waves, proved as every switch is, without the network.

    The lock stays as it is, so `provision status` shows them as drift, and `provision rollout` goes forward again.
    """
    directory = read_lab(lab)
    name = seat_name(directory.lab.name, directory.lab.seat.user)
    what = Withdrawal(
        verb="rollback",
        plan=lambda hosts, probed: plan_back(
            directory.lab.name, name, hosts, probed, to, when_busy=overrides.when_busy
        ),
        question=lambda nodes: f"Bring {count(len(nodes), 'node')} back? Whatever runs in their seats ends.",
        rules=Rules.of(directory.lab.rollout, run_options.allow_unreachable),
        back=lambda plan, run: back_orders(plan, run, to),
    )
    return withdraw(
        directory, what, yes=yes, run_options=run_options, overrides=overrides, ansible=ansible, output=output
    )
