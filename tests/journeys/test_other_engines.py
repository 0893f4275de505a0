"""Engines beside 26: 20.10, and 28 with containerd's image store, as engine 29 has it by default.

Each test starts from the state that the one before it left.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.journeys.conftest import COMPLETE, CommandResult, Site, running_site
from tests.lab.engine import Engine
from tests.lab.kinds import BOOKWORM, FORKY, Kind, build_image

pytestmark = [pytest.mark.lab, pytest.mark.long("engines")]

NODES = ("node1", "node2")
UNTIL_HEALTHY = "until [ $(docker ps -q --filter health=healthy | wc -l) = 2 ]; do sleep 1; done"


# Kind of node -> the beginning of its version, and the folder of images.
ENGINES = {BOOKWORM: ("20.10.", "/var/lib/docker"), FORKY: ("28.", "/var/lib/containerd")}


@pytest.fixture(scope="module", params=ENGINES, ids=str)
def kind(request: pytest.FixtureRequest) -> Kind:
    found: Kind = request.param
    return found


@pytest.fixture(scope="module")
def site(testbed: Engine, program: Path, kind: Kind) -> Iterator[Site]:
    build_image(testbed, kind)
    image = COMPLETE | {"torch": "2.8.0"}
    profiles = ["rtx4090-570", "rtx5090x2-580"]
    with running_site(testbed, program, profiles, bases=["2.8.0", "2.10.0"], kind=kind, image=image) as site:
        yield site


def states(result: CommandResult) -> dict[str, str]:
    return {record["node"]: record["state"] for record in result.document["nodes"]}


def seats(site: Site) -> dict[str, Any]:
    """Node -> its seat."""
    result = site.run_json("status")
    assert result.code == 0, result.output
    return {seat["node"]: seat for seat in result.document["seats"]}


def test_a_rollout_is_committed_and_leaves_nothing_to_do(site: Site, kind: Kind) -> None:
    result = site.run_json("rollout", "--yes")
    assert (result.code, states(result)) == (0, dict.fromkeys(NODES, "committed")), result.output
    for facts in site.run_json("probe").document["nodes"]:
        engine = facts["engine"]
        version, images = ENGINES[kind]
        assert engine["version"].startswith(version)
        assert (engine["root_dir"], engine["image_store"]) == ("/var/lib/docker", images)
    plan = site.run_json("plan", "--exit-code")
    assert plan.code == 0, plan.output


def test_an_upgrade_and_a_rollback_without_a_registry_keep_every_seat(site: Site) -> None:
    before = seats(site)
    upgraded = site.run_json("upgrade", "--torch", "2.10.0", "--yes")
    assert (upgraded.code, states(upgraded)) == (0, dict.fromkeys(NODES, "committed")), upgraded.output
    assert [seat["access"] for seat in seats(site).values()] == [seat["access"] for seat in before.values()]
    for node in site.lab.nodes:
        node.exec("docker", "image", "prune", "-f")
    site.lab.registry.stop()
    try:
        back = site.run_json("rollback", "--yes")
        assert (back.code, states(back)) == (0, dict.fromkeys(NODES, "committed")), back.output
    finally:
        site.lab.registry.start()


def test_seats_serve_again_after_a_power_cut_and_are_upgraded(site: Site) -> None:
    for node in site.lab.nodes:
        node.kill()
        node.start()
    for node in site.lab.nodes:
        node.exec("timeout", "90", "sh", "-c", UNTIL_HEALTHY)
    result = site.run_json("rollout", "--yes")
    assert (result.code, states(result)) == (0, dict.fromkeys(NODES, "committed")), result.output
    assert all(set(seat["services"].values()) == {"healthy"} for seat in seats(site).values())
