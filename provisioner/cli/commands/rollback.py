"""`provision rollback`: return seats to an earlier generation."""

import click

from provisioner.adapters.lab.directory import read_lab
from provisioner.adapters.state.published import PublishedRuns
from provisioner.cli.options import ChangeOptions, changes_nodes, example, lab_argument
from provisioner.cli.seat_change import SeatChange, change_seats
from provisioner.cli.wiring import own_version
from provisioner.console.text import count
from provisioner.domain.rollout.plan import Plan
from provisioner.domain.rollout.run_spec import Rules
from provisioner.workflow.rollout.rollback import plan_rollback, rollback_orders, with_earlier_publications


@click.command(epilog=example("provision rollback ai-lab --limit gpu01"))
@lab_argument
@click.option("--to", metavar="N", type=click.IntRange(min=1), help="A generation that the nodes keep.")
@changes_nodes
def rollback(*, lab: str, to: int | None, options: ChangeOptions) -> int:
    """Return seats to what they ran before: in waves, verified like every switch, without network access.

    Self-service gets what was published before, except with --to; seats that people have started themselves stay as
    they are. The lock does not change, so `provision status` shows the seats as drift and `provision rollout` updates
    them again.
    """
    directory = read_lab(lab)
    lab_name, when_busy = directory.lab.name, options.overrides.when_busy
    user, earlier = directory.lab.seat.user, PublishedRuns(lab_name)
    change = SeatChange(
        verb="rollback",
        plan=lambda hosts, probed: plan_rollback(lab_name, user, hosts, probed, to, when_busy=when_busy),
        question=_question,
        rules=Rules.of(directory.lab.rollout, options.run.allow_unreachable),
        orders=lambda plan, run: rollback_orders(plan, run, to),
        publications=lambda plan, probed: (
            with_earlier_publications(plan, probed, earlier, own_version()) if to is None else (plan, {})
        ),
    )
    return change_seats(directory, change, options)


def _question(plan: Plan) -> str:
    """Return the question for confirmation: seats that go back are stopped, those that people have started are not."""
    of_seats, published = len({step.node for step in plan.pending}), len(plan.published)
    head = f"Roll {count(len(plan.changed_nodes), 'node')} back?"
    seats = f" Everything that runs in the seats of {count(of_seats, 'node')} ends." if of_seats else ""
    own = f" On {count(published, 'node')} self-service gets what was published before;" if published else ""
    return f"{head}{seats}{own}{' seats that people have started there run on.' if published else ''}"
