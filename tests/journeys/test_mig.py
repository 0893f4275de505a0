"""A rollout to a node whose card is split into MIG devices.

Each test starts from the state that the one before left.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.journeys.conftest import CommandResult, Site, running_site
from tests.journeys.test_rollout import containers, states
from tests.lab.engine import Engine

pytestmark = [pytest.mark.lab, pytest.mark.long("mig")]


@pytest.fixture(scope="module")
def site(testbed: Engine, program: Path) -> Iterator[Site]:
    with running_site(testbed, program, ["h100-mig-570"]) as site:
        yield site


@pytest.fixture(scope="module")
def uuids(site: Site) -> list[str]:
    return sorted(re.findall(r"MIG-[0-9a-f-]{36}", site.lab.node("node1").exec("cat", "/etc/fake-nvml.conf")))


@pytest.fixture(scope="module")
def first_rollout(site: Site) -> CommandResult:
    return site.roll_out()


def test_the_seat_gets_the_mig_devices_and_each_of_them_computes(
    site: Site, first_rollout: CommandResult, uuids: list[str]
) -> None:
    assert states(first_rollout) == {"node1": "committed"}, first_rollout.output
    (record,) = first_rollout.document["nodes"]
    assert len(uuids) == 3
    assert (sorted(record["gpu"]["uuids"]), record["gpu"]["method"]) == (uuids, "torch")
    assert record["gpu"]["detail"].endswith("computes on 3 MIG devices")
    for container in containers(site, "node1").split():
        (found,) = json.loads(site.lab.node("node1").exec("docker", "inspect", container))
        (request,) = found["HostConfig"]["DeviceRequests"]
        assert sorted(request["DeviceIDs"]) == uuids


def test_a_second_rollout_changes_nothing_and_there_is_no_drift(site: Site, first_rollout: CommandResult) -> None:
    assert first_rollout.code == 0
    again = site.roll_out()
    assert states(again) == {"node1": "unchanged"}, again.output
    status = site.run_json("status")
    assert (status.code, status.document["seats"][0]["problems"]) == (0, []), status.output


def test_a_device_that_is_gone_is_drift_and_unknown_use_and_force_goes_on_with_the_others(
    site: Site, first_rollout: CommandResult, uuids: list[str]
) -> None:
    assert first_rollout.code == 0
    node = site.lab.node("node1")
    text = (node.folder / "gpu.conf").read_text()
    node.set_profile(text.replace("instance = 3g.40gb:40448\n", ""))
    assert site.run_json("status").code == 3
    deferred = site.roll_out()
    assert states(deferred) == {"node1": "deferred"}, deferred.output
    again = site.run_json("rollout", "--yes", "--when-busy", "force", "--reason", "the devices were changed")
    assert states(again) == {"node1": "committed"}, again.output
    (record,) = again.document["nodes"]
    assert set(record["gpu"]["uuids"]) < set(uuids)
