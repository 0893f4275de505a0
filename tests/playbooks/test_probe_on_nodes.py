"""The probe on real nodes: each profile of the bed, and missing GPUs, drivers and engines."""

import os
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from provisioner.adapters.ansible.fleet import AnsibleFleet
from provisioner.adapters.ansible.settings import Settings
from provisioner.domain.values.node import NodeFacts
from tests.lab.bed import Lab
from tests.lab.fixtures import LAB3
from tests.lab.gpus import profile_text
from tests.lab.node import Node

pytestmark = pytest.mark.lab


class Expected(NamedTuple):
    """Expected facts of a profile: driver, module flavour, capability of each GPU (None: lost), problem codes."""

    driver: str | None
    module: str | None
    gpus: list[str | None]
    problems: list[str] = []
    reason: str = ""


PROFILES = {
    "rtx5090x2-580": Expected("580.95.05", "open", ["12.0", "12.0"]),
    "rtx4090-570": Expected("570.172.08", "open", ["8.9"]),
    "v100-535": Expected("535.183.01", "proprietary", ["7.0"]),
    "gtx1080ti-535": Expected("535.183.01", "proprietary", ["6.1"]),
    "h100x2-570": Expected("570.172.08", "open", ["9.0", "9.0"]),
    "mixed-v100-4090-570": Expected("570.172.08", "proprietary", ["7.0", "8.9"]),
    "lost": Expected("570.172.08", "open", ["8.9", None]),
    "mismatch": Expected("570.133.07", "open", [], ["driver_mismatch"], "differ in version"),
    "unloaded": Expected(None, None, [], ["driver_not_loaded"], "kernel module is not loaded"),
    "none": Expected(None, None, [], ["no_driver"], "no NVIDIA driver is installed"),
    "cpu": Expected(None, None, [], [], "no NVIDIA driver is installed"),
}
EXPECTED = {profile_text(name): wanted for name, wanted in PROFILES.items()}
EXPECTED["pci_extra = 1\ntoolkit = 1.17.3\n" + profile_text("h100-mig-570")] = Expected(
    "570.172.08", "open", [None, "9.0", "9.0", "9.0"], ["gpu_missing"]
)


@pytest.fixture
def nodes(lab3: Lab) -> Iterator[list[Node]]:
    """The nodes; a test may change their GPUs."""
    yield lab3.nodes
    for node, profile in zip(lab3.nodes, LAB3, strict=True):
        node.set_profile(profile_text(profile))


@pytest.fixture
def fleet(lab3: Lab) -> AnsibleFleet:
    return AnsibleFleet(Settings(lab3.inventory), lambda _: None)


def test_probe_reports_every_profile_and_fault(fleet: AnsibleFleet, nodes: list[Node]) -> None:
    left = iter(EXPECTED)
    while described := dict(zip(nodes, left, strict=False)):
        for node, profile in described.items():
            node.set_profile(profile)
        probed = fleet.probe([node.name for node in described])
        for node, profile in described.items():
            facts, wanted = probed[node.name], EXPECTED[profile]
            assert isinstance(facts, NodeFacts)
            assert summary(facts) == wanted[:4], profile
            assert wanted.reason in facts.absent_because.get("gpus", ""), profile
            assert facts.addresses[0] == node.address
            assert facts.clock_offset == 0.0
            versions = {str(facts.toolkit_version), str(facts.libnvidia_container_version)}
            assert versions == {toolkit_of(profile)}, profile


def test_probe_reports_engine_versions_and_no_engine_where_it_is_off(fleet: AnsibleFleet, nodes: list[Node]) -> None:
    on, off = nodes[:2]
    off.exec("pkill", "-x", "dockerd")
    try:
        probed = fleet.probe([on.name, off.name])
    finally:
        off.exec(
            "sh", "-c", "while pgrep -x dockerd; do sleep 0.1; done >&2; rm -f /run/docker.pid; service docker start"
        )
        off.wait()
    facts, without = probed[on.name], probed[off.name]
    assert isinstance(facts, NodeFacts)
    assert isinstance(without, NodeFacts)
    assert without.engine is None
    assert facts.engine is not None
    assert (facts.engine.version[:4], (facts.engine.compose_version or "")[:2]) == ("26.1", "2.")
    assert facts.engine.free_bytes
    capacity = facts.engine.capacity
    limits = on.exec("sh", "-c", "grep 'Max open files' /proc/$(pidof dockerd)/limits")
    assert (capacity.cpus, capacity.open_files) == (int(on.exec("nproc")), int(limits.split()[4]))
    assert (capacity.memory or 0) >> 30 == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 30


def toolkit_of(profile: str) -> str:
    """Return the version of the toolkit on a node with this profile, see gpu_state.py."""
    if "state = none" in profile:
        return "None"
    return "1.17.3" if "toolkit = 1.17.3" in profile else "1.17.8"


def summary(facts: NodeFacts) -> tuple[str | None, str | None, list[str | None], list[str]]:
    capabilities = [str(gpu.compute_capability) if gpu.usable else None for gpu in facts.gpus]
    driver = str(facts.driver) if facts.driver else None
    return driver, facts.kernel_module, capabilities, [problem.code for problem in facts.problems]
