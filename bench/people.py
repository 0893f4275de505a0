"""Measure the plan of a lab with a roster of 30 people a node, and compare it with rendering each seat by itself."""

from datetime import UTC, datetime
from resource import RUSAGE_SELF, getrusage
from time import process_time

from provisioner.domain.people.person import Person
from provisioner.domain.rollout.order import build_order
from provisioner.domain.rollout.run_spec import Rules, build_run_spec
from provisioner.domain.seat.render import render
from provisioner.domain.values.node import Account
from provisioner.workflow.rollout.plan import PreparedPlan
from tests.domain.seats import TEMPLATES
from tests.workflow.rollout.roster_lab import LAB, after_rollout, nodes, person, plan_people

PEOPLE, CARDS = 30, 8  # of each node
_OWN = {0, 15}  # who have a card of their own; every third other person has none, the rest share
_RENDERED = 300  # seats: more would take the baseline too long


def people(node_count: int) -> list[Person]:
    """Return the people of a roster, who are placed by their rows."""
    return [
        person(
            f"p{number:05}",
            uid=70_000 + number,
            node=f"n{number // PEOPLE}",
            gpus=1 if number % PEOPLE in _OWN else "shared" if number % 3 else 0,
        )
        for number in range(node_count * PEOPLE)
    ]


def main() -> None:
    """Print the table."""
    print("## Plans for people\n\n| nodes | seats | first plan s | plan MB | orders MB | second plan s | peak MiB |")
    print("|--:|--:|--:|--:|--:|--:|--:|")
    for node_count in (10, 50):
        _row(node_count)
    _compare(_row(200))


def _row(node_count: int) -> PreparedPlan:
    rows = people(node_count)
    bare = nodes({f"n{number}": CARDS for number in range(node_count)}, {})
    known = {f"n{number}": rows[number * PEOPLE : (number + 1) * PEOPLE] for number in range(node_count)}
    probed = {
        name: facts.model_copy(update={"accounts": {one.id: Account() for one in known[name]}})
        for name, facts in bare.items()
    }
    begun = process_time()
    planned = plan_people(rows, probed)
    first = process_time() - begun
    orders = {
        node: {seat: build_order(bundle, LAB, "r1", ca=None) for seat, bundle in seats.items()}
        for node, seats in planned.bundles.items()
    }
    plan_bytes = len(planned.plan.model_dump_json())
    spec = build_run_spec("r1", planned.plan, orders, Rules(), datetime.now(UTC))
    order_bytes = len(spec.model_dump_json()) - plan_bytes
    probed_again = after_rollout(planned, probed)
    begun = process_time()
    assert not plan_people(rows, probed_again, planned.plan.places).plan.pending
    second, peak = process_time() - begun, getrusage(RUSAGE_SELF).ru_maxrss >> 10
    sizes = f"{plan_bytes / 1e6:.1f} | {order_bytes / 1e6:.1f}"
    print(f"| {node_count} | {len(rows)} | {first:.1f} | {sizes} | {second:.1f} | {peak} |", flush=True)
    return planned


def _compare(planned: PreparedPlan) -> None:
    bundles = [bundle for seats in planned.bundles.values() for bundle in seats.values()]
    begun = process_time()
    for bundle in bundles[:_RENDERED]:
        render(bundle.seat, bundle.image, TEMPLATES)
    rendering = (process_time() - begun) / _RENDERED
    begun = process_time()
    for bundle in bundles:
        bundle.document.fill(bundle.seat)
    filling = (process_time() - begun) / len(bundles)
    both = f"{rendering * 1000:.1f} ms to render and prove a seat, {filling * 1000:.2f} ms to fill its document"
    print(f"\n{both}: {rendering / filling:.0f} times as fast\n")
