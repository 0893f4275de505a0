"""`provision fetch` with nodes that are values."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from click.testing import CliRunner

from provisioner.cli.app import provision
from provisioner.domain.rollout.fetch import FetchOrder
from provisioner.domain.rollout.order import Orders
from provisioner.domain.rollout.report import NodeRecord
from provisioner.domain.values.node import NodeFacts
from provisioner.domain.values.problem import Problem
from tests.builders import a_lock, a_node
from tests.cli.commands.people import Nodes, RosterLab

DIGEST = a_lock().images[0].lab.rpartition("@")[2]
DEAD = Problem("unreachable", "x", "y", "z")


class FetchingNodes(Nodes):
    """Nodes on which every fetch succeeds."""

    def fetch(self, orders: Orders[FetchOrder]) -> Mapping[str, NodeRecord]:
        return {node: NodeRecord(node=node, state="committed", seconds=2.0) for node in orders}


@pytest.fixture
def fetch(roster_lab: RosterLab, monkeypatch: pytest.MonkeyPatch) -> Any:
    @contextmanager
    def open_nodes(*_: Any) -> Iterator[Nodes]:
        yield FetchingNodes(roster_lab.facts)

    monkeypatch.setenv("XDG_STATE_HOME", str(roster_lab.path / "state"))
    monkeypatch.setattr("provisioner.cli.commands.fetch.open_fleet", open_nodes)
    monkeypatch.setattr("provisioner.cli.commands.fetch.recheck_registry", lambda *_: None)
    return lambda *words: CliRunner().invoke(provision, ["fetch", str(roster_lab.path), "--json", *words])


def has_image(name: str) -> NodeFacts:
    return a_node(name, images=(DIGEST,))


@pytest.mark.parametrize(
    ("facts", "states", "code"),
    [
        ({}, ["committed", "committed"], 0),
        ({"gpu1": has_image("gpu1")}, ["unchanged", "committed"], 0),
        ({name: has_image(name) for name in ("gpu1", "gpu2")}, ["unchanged", "unchanged"], 0),
        ({"gpu2": DEAD}, ["committed", "unreachable"], 1),
    ],
)
def test_the_nodes_that_lack_the_image_fetch_it(
    fetch: Any, roster_lab: RosterLab, facts: dict[str, NodeFacts | Problem], states: list[str], code: int
) -> None:
    roster_lab.facts = facts
    result = fetch()
    assert (result.exit_code, [one["state"] for one in json.loads(result.stdout)["nodes"]]) == (code, states)


@pytest.mark.parametrize(("facts", "code"), [({}, 4), ({n: has_image(n) for n in ("gpu1", "gpu2")}, 0)])
def test_no_pull_begins_outside_the_window_unless_nothing_is_lacking(
    fetch: Any, roster_lab: RosterLab, facts: dict[str, NodeFacts | Problem], code: int
) -> None:
    roster_lab.facts = facts
    opens = datetime.now(UTC) + timedelta(hours=6)
    window = f"{{from: '{opens:%H}:00', to: '{opens:%H}:59'}}"
    with (roster_lab.path / "lab.yml").open("a") as file:
        file.write(f"rollout: {{timezone: UTC, fetch: {{windows: [{window}]}}}}\n")
    result = fetch()
    assert result.exit_code == code
    if code:
        assert json.loads(result.stdout)["problems"][0]["code"] == "outside_window"


def test_a_lab_without_a_lock_is_told_to_make_one(fetch: Any, roster_lab: RosterLab) -> None:
    (roster_lab.path / "lab.lock").unlink()
    result = fetch()
    assert (result.exit_code, json.loads(result.stdout)["problems"][0]["code"]) == (2, "no_lock")


def test_windows_for_fetching_need_a_timezone(fetch: Any, roster_lab: RosterLab) -> None:
    with (roster_lab.path / "lab.yml").open("a") as file:
        file.write("rollout: {fetch: {windows: [{from: '01:00', to: '06:00'}]}}\n")
    result = fetch()
    assert result.exit_code == 2
    assert "timezone" in result.stdout
