"""How the time of a selection grows with nodes and tags, and against judging every node with every tag."""

from collections.abc import Callable
from time import perf_counter

from bench.group import nodes, tags
from provisioner.adapters.lab.compatibility_data import load
from provisioner.domain.compatibility.tags import read_facts
from provisioner.domain.compatibility.verdict import judge
from provisioner.domain.selection.selection import select

MOST_NODES, MOST_TAGS = 10_000, 500
_BASELINE = 1_000, 50  # nodes, tags: the baseline's own time is what bounds it


def seconds(work: Callable[[], object]) -> float:
    """Of the quicker of two runs."""
    took = []
    for _ in range(2):
        start = perf_counter()
        work()
        took.append(perf_counter() - start)
    return min(took)


def selecting(node_count: int, tag_count: int) -> float:
    fleet, offer, data = nodes(node_count), tags(tag_count), load()
    return seconds(lambda: select(fleet, offer, data))


def judging(node_count: int, tag_count: int) -> float:
    """The plain way: every node with every tag, nothing remembered."""
    fleet, data = nodes(node_count), load()
    images = [read_facts(tag, data) for tag in tags(tag_count)]
    return seconds(lambda: [judge(node, image, data) for node in fleet for image in images])


def main() -> None:
    print("## Selection: growth\n\n| nodes | tags | seconds | per node and tag |\n|--:|--:|--:|--:|")
    for node_count in (100, 1_000, MOST_NODES):
        _row(node_count, MOST_TAGS)
    for tag_count in (50, 125, 250):
        _row(MOST_NODES, tag_count)
    plain, grouped = judging(*_BASELINE), selecting(*_BASELINE)
    print(f"\n{_BASELINE[0]} nodes, {_BASELINE[1]} tags: {plain:.2f} s judging each pair (no choice, no advice),")
    print(f"{grouped:.2f} s selecting, choice and advice included: {plain / grouped:.1f} times as fast\n")


def _row(node_count: int, tag_count: int) -> None:
    took = selecting(node_count, tag_count)
    print(f"| {node_count} | {tag_count} | {took:.2f} | {took / node_count / tag_count * 1e6:.2f} µs |", flush=True)
