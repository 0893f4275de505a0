"""Which tests share a bed of real nodes, and when each bed's turn comes. A plugin of pytest.

Under xdist all tests of a bed run in one worker, in the order of their files, while other beds are up in others.
xdist's own groups would need a marker at each test, and do nothing with pytest 9.2.
"""

from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

# The longest first, so that no long one begins when all others have ended. A file that has its own bed has a line of
# its own. "engine" needs the outer engine and no nodes.
BEDS: dict[str, tuple[str, ...]] = {
    "interrupted": ("journeys/test_back.py", "journeys/test_interrupted.py"),
    "seat": ("playbooks/test_on_nodes.py", "playbooks/test_trust_on_nodes.py"),
    "rollout": ("journeys/test_rollout.py",),
    "prepare": ("journeys/test_prepare.py",),
    "lab image": ("adapters/engine/test_lab_image.py",),
    "upgrade": ("journeys/test_upgrade.py",),
    "registry": ("journeys/test_registry.py",),
    "me": ("journeys/test_me.py", "lab_selftest/test_gpus_of_this_machine.py"),
    "three nodes": (
        "lab_selftest/test_fake_nvml.py",
        "lab_selftest/test_gpus_in_containers.py",
        "lab_selftest/test_lab.py",
        "lab_selftest/test_registry.py",
        "playbooks/test_probe_on_nodes.py",
    ),
    "presence": ("journeys/test_presence.py",),
    "control": ("journeys/test_control.py",),
    "mistakes": ("journeys/test_mistakes.py",),
    "ten nodes": ("journeys/test_ten_nodes.py",),
    "engine": (
        "adapters/engine/test_network.py",
        "playbooks/test_boot.py",
        "templates/test_gpu_check.py",
        "templates/test_install_sshd.py",
    ),
}
# No nodes, but fixtures that are too dear to be made by each worker.
TOGETHER = (
    "adapters/registry/test_real.py",
    "adapters/registry/test_faults.py",
    "templates/test_lab_env.py",
)
_BED_OF = {f"tests/{file}": bed for bed, files in BEDS.items() for file in files}
_TURNS = {bed: turn for turn, bed in enumerate(BEDS)}


def bed_of(nodeid: str) -> str | None:
    return _BED_OF.get(nodeid.partition("::")[0])


class OneWorkerForEachBed(LoadScopeScheduling):  # type: ignore[misc]  # xdist is not typed
    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        alone = bed_of(nodeid) is None and file.removeprefix("tests/") not in TOGETHER
        return nodeid if alone else bed_of(nodeid) or file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    return OneWorkerForEachBed(config, log)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Beds come first, then what needs no nodes and fills the time in which those wait."""
    for item in items:
        if "testbed" in getattr(item, "fixturenames", ()) and bed_of(item.nodeid) is None:
            raise pytest.UsageError(f"{item.nodeid} needs the test bed, and tests/beds.py does not name its file")
    items.sort(key=_turn)


def _turn(item: pytest.Item) -> int:
    bed = bed_of(item.nodeid)
    return len(_TURNS) if bed is None else _TURNS[bed]
