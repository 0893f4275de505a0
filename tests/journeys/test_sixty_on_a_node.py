"""Sixty idle seats on one node: what they use of it."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.journeys.conftest import COMPLETE, QUICK, Site, running_site
from tests.journeys.test_many_people import IDLE_SECONDS, INOTIFY, MEMORY, processor_seconds
from tests.journeys.test_roster import counts, key_of, write_roster
from tests.lab.bed import make_key
from tests.lab.engine import Engine

pytestmark = [pytest.mark.lab, pytest.mark.long("roster")]

PEOPLE = 60
ROWS = {f"p{number:02}": (f"p{number:02}", "", str(70000 + number), "node1", "0") for number in range(PEOPLE)}


@pytest.fixture(scope="module")
def site(testbed: Engine, program: Path) -> Iterator[Site]:
    groups = {"student": {"memory": "512m", "cpus": 1, "shm": "64m"}}
    people = {"roster": "roster.csv"}
    with running_site(
        testbed,
        program,
        ["rtx4090-570"],
        bases=["2.10.0"],
        image=COMPLETE,
        people=people,
        groups=groups,
        rollout=QUICK,
    ) as made:
        (made.folder / "keys").mkdir()
        for person in ROWS:
            make_key(key_of(made, person))
        write_roster(made, ROWS)
        yield made


def test_sixty_idle_seats_use_little_of_a_node(site: Site) -> None:
    """120 containers in 60 networks: an engine's own address pools end after 31."""
    done = site.roll_out()
    assert (done.code, counts(done)) == (0, {"node1": {"committed": PEOPLE}}), done.output
    node = site.lab.node("node1")
    before = processor_seconds(node)
    time.sleep(IDLE_SECONDS)  # the time over which their use is measured
    cores = (processor_seconds(node) - before) / IDLE_SECONDS
    memory = int(node.exec("sh", "-c", MEMORY).split()[1]) >> 20
    watches = int(node.exec("sh", "-c", INOTIFY))
    networks = node.exec("docker", "network", "ls", "--filter", "name=_seat$", "-q").split()
    print(f"{PEOPLE} idle seats: {cores:.3f} cores over {IDLE_SECONDS} s, {memory} MiB, {watches} inotify instances")
    assert len(networks) == PEOPLE
    assert cores < 0.02 * PEOPLE
    assert memory < 200 * PEOPLE
