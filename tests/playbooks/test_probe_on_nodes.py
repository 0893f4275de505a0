"""The probe on real nodes: each profile of the bed, and each way in which GPUs, driver and engine can be missing."""

from typing import NamedTuple

import pytest

from provisioner.adapters.ansible.fleet import AnsibleFleet
from provisioner.adapters.ansible.settings import Settings
from provisioner.domain.values.node import NodeFacts
from tests.lab.fixtures import MakeLab
from tests.lab.gpus import profile_text

pytestmark = pytest.mark.lab


class Expected(NamedTuple):
    """What a probe must say of a profile: driver, flavour, capability of each card (None: lost), codes of problems."""

    driver: str | None
    module: str | None
    cards: list[str | None]
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
MISSING = "pci_extra = 1\n" + profile_text("rtx4090-570")


def test_every_profile_and_fault_is_told_for_what_it_is(make_lab: MakeLab) -> None:
    lab = make_lab([*PROFILES, MISSING])
    lab.nodes[1].exec("pkill", "-x", "dockerd")
    fleet = AnsibleFleet(Settings(lab.inventory), lambda _: None)
    probed = fleet.probe([host.name for host in fleet.hosts()])
    expected = [*PROFILES.values(), Expected("570.172.08", "open", ["8.9"], ["gpu_missing"])]
    for node, wanted in zip(lab.nodes, expected, strict=True):
        facts = probed[node.name]
        assert isinstance(facts, NodeFacts)
        assert seen(facts) == wanted[:4], node.name
        assert wanted.reason in facts.absent_because.get("gpus", ""), node.name
        assert facts.addresses[0] == node.address
        assert facts.clock_offset == 0.0
    engines = [facts.engine for facts in probed.values() if isinstance(facts, NodeFacts)]
    assert engines[1] is None
    assert engines[0] is not None
    assert (engines[0].version[:4], (engines[0].compose_version or "")[:2]) == ("26.1", "2.")
    assert engines[0].free_bytes


def seen(facts: NodeFacts) -> tuple[str | None, str | None, list[str | None], list[str]]:
    capabilities = [str(gpu.compute_capability) if gpu.usable else None for gpu in facts.gpus]
    driver = str(facts.driver) if facts.driver else None
    return driver, facts.kernel_module, capabilities, [problem.code for problem in facts.problems]
