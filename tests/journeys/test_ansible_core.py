"""The releases of ansible-core: 2.21 on a control machine with Python 3.13, and the locked one on this machine.

The sudo password of the node is also the port of a seat: ansible-core 2.22 would mask the port in every result.
Each test starts from the state that the one before it left.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.journeys.conftest import COMPLETE, CommandResult, Site, running_site
from tests.journeys.test_debian12 import copy_to_control, install
from tests.lab.engine import Engine
from tests.lab.node import USER, Node

pytestmark = [pytest.mark.lab, pytest.mark.long("engines")]

PASSWORD = "22000"  # also the first port of seats
PORTS = {"ssh": 22000, "jupyter": 22001}
REQUIRE_PASSWORD = f"echo {USER}:{PASSWORD} | chpasswd && sed -i 's/NOPASSWD: *//' /etc/sudoers.d/lab"


@pytest.fixture(scope="module")
def site(testbed: Engine, program: Path) -> Iterator[Site]:
    """A lab of one locked node; node2 will be its control machine."""
    image = COMPLETE | {"torch": "2.8.0"}
    with running_site(testbed, program, ["rtx4090-570", "cpu"], bases=["2.8.0"], image=image) as site:
        site.lab.node("node1").exec("sh", "-c", REQUIRE_PASSWORD)
        inventory = yaml.safe_load(site.lab.inventory_text())
        del inventory["nodes"]["hosts"]["node2"]
        inventory["nodes"]["vars"]["ansible_become_password"] = PASSWORD
        (site.folder / "hosts.yml").write_text(yaml.safe_dump(inventory))
        locked = site.run_json("lock")
        assert locked.code == 0, locked.output
        yield site


@pytest.fixture(scope="module")
def control(site: Site, program: Path) -> Node:
    """node2 as a control machine with Python 3.13 and ansible-core 2.21, on which `provision` runs as root."""
    node = site.lab.node("node2")
    copy_to_control(site, node)
    install(program, node, site.lab.folder, python="3.13", core="2.21")
    assert "core 2.21" in node.exec("ansible-playbook", "--version").splitlines()[0]
    return node


def run_on(control: Node, site: Site, verb: str, *words: str) -> CommandResult:
    done = control.engine.try_docker("exec", control.container, "provision", verb, site.folder, *words, "--json")
    assert "Traceback" not in done.stderr, done.stderr
    return CommandResult(done.returncode, json.loads(done.stdout), done.stderr)


def test_a_rollout_by_ansible_core_2_21_is_committed(site: Site, control: Node) -> None:
    result = run_on(control, site, "rollout", "--yes")
    assert (result.code, [record["state"] for record in result.document["nodes"]]) == (0, ["committed"]), result.output
    assert result.output.count("DEPRECATION") == 0, result.output
    assert [seat["ports"] for seat in run_on(control, site, "probe").document["nodes"][0]["seats"]] == [PORTS]


def test_the_locked_ansible_core_finds_the_same_seat_and_replaces_it(site: Site) -> None:
    plan = site.run_json("plan", "--exit-code")
    assert plan.code == 0, plan.output
    removed = site.run_json("remove", "--yes")
    assert removed.code == 0, removed.output
    result = site.run_json("rollout", "--yes")
    assert (result.code, [record["state"] for record in result.document["nodes"]]) == (0, ["committed"]), result.output
    assert [seat["ports"] for seat in site.run_json("probe").document["nodes"][0]["seats"]] == [PORTS]
