"""Table of the tests that share a bed of real nodes, in the order in which beds are started. A plugin of pytest.

Under xdist one worker runs all tests of a bed, in the order of the table; other workers run other beds.
Groups of xdist itself need a marker on each test, and have no effect with pytest 9.2.
"""

import os
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

# Bed -> its test files, in their order. The longest bed comes first, so that no long bed starts when all others have
# ended. The bed "engine" needs the outer engine and no nodes.
BEDS: dict[str, tuple[str, ...]] = {
    "interrupted": ("journeys/test_interrupted.py", "journeys/test_rollback.py"),
    "faults": ("playbooks/test_faults_on_nodes.py",),
    "seat": ("playbooks/test_on_nodes.py",),
    "mounts": ("playbooks/test_mounts_on_nodes.py",),
    "rollout": ("journeys/test_rollout.py",),
    "roster": ("journeys/test_roster.py",),
    "self-service": ("journeys/test_self_service.py", "journeys/test_self_service_over_time.py"),
    "lab image": ("adapters/engine/test_lab_image.py",),
    "gpu tools": ("journeys/test_gpu_tools.py",),
    "environments": ("journeys/test_environments.py",),
    "upgrade": ("journeys/test_upgrade.py",),
    "prepare": ("journeys/test_prepare.py",),
    "debian 12": ("journeys/test_debian12.py",),
    "registry": ("journeys/test_registry.py",),
    "me": ("journeys/test_me.py", "lab_selftest/test_gpus_of_this_machine.py"),
    "three nodes": (
        "lab_selftest/test_fake_nvml.py",
        "lab_selftest/test_gpus_in_containers.py",
        "lab_selftest/test_lab.py",
        "lab_selftest/test_registry.py",
        "playbooks/test_probe_on_nodes.py",
    ),
    "containerd store": ("playbooks/test_containerd_store.py",),
    "preflight": ("journeys/test_preflight.py",),
    "mistakes": ("journeys/test_mistakes.py",),
    "twenty people": ("journeys/test_people_start_seats.py",),
    "sixty people": ("journeys/test_many_people.py",),
    "five seats": ("journeys/test_five_seats.py",),
    "sixty seats": ("journeys/test_sixty_on_a_node.py",),
    "ten nodes": ("journeys/test_ten_nodes.py",),
    "mig": ("journeys/test_mig.py",),
    "chaos": ("journeys/test_chaos.py",),
    "host keys": ("journeys/test_host_keys.py",),
    "attack": ("journeys/test_attack.py", "journeys/test_secrets.py"),
    # Of the part "engines" alone.
    "engines": (
        "adapters/engine/test_build_with_containerd.py",
        "journeys/test_other_engines.py",
        "journeys/test_ansible_core.py",
    ),
    "engine": (
        "adapters/engine/test_course_image.py",  # of the part "course" alone
        "adapters/engine/test_measure.py",
        "adapters/engine/test_network.py",
        "adapters/engine/test_push.py",
        "playbooks/test_boot.py",
        "playbooks/test_registry_process.py",
        "templates/test_gpu_check.py",
        "templates/test_install_packages.py",
    ),
}
# Files without nodes whose fixtures are too expensive to be set up in each worker.
TOGETHER = (
    "adapters/ansible/test_fleet.py",
    "adapters/registry/test_real.py",
    "adapters/registry/test_faults.py",
    "templates/test_lab_env.py",
    "templates/test_matplotlib.py",
)
_BED_OF = {f"tests/{file}": bed for bed, files in BEDS.items() for file in files}
_POSITIONS = {file: position for position, file in enumerate(_BED_OF)}


def bed_of(nodeid: str) -> str | None:
    """Return the bed of a test, None for a test without a bed."""
    return _BED_OF.get(nodeid.partition("::")[0])


class BedScheduling(LoadScopeScheduling):  # type: ignore[misc]  # xdist is not typed
    """Sends all tests of a bed to one worker; of other tests, all cases of a function."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        alone = bed_of(nodeid) is None and file.removeprefix("tests/") not in TOGETHER
        return nodeid.partition("[")[0] if alone else bed_of(nodeid) or file


def pytest_xdist_auto_num_workers() -> int:
    """One more than processors: a sixth of the time of the tests without a lab is spent waiting."""
    return len(os.sched_getaffinity(0)) + 1


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    return BedScheduling(config, log)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort the tests with a bed to the front: tests without one fill the time in which beds wait."""
    for item in items:
        if "testbed" in getattr(item, "fixturenames", ()) and bed_of(item.nodeid) is None:
            raise pytest.UsageError(f"{item.nodeid} needs the test bed, and tests/beds.py does not name its file")
    items.sort(key=_position)


def _position(item: pytest.Item) -> int:
    return _POSITIONS.get(item.nodeid.partition("::")[0], len(_POSITIONS))
