"""What ten nodes cost the outside: the mirror hands out each layer once, and to nobody but the control machine."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.journeys.conftest import Story, running_story
from tests.journeys.test_rollout import is_download, states
from tests.lab.engine import Engine
from tests.lab.registry import fetched_blobs
from tests.lab.tags import DEMO_TAGS

pytestmark = [pytest.mark.lab, pytest.mark.long("scale")]

NODES = 10


@pytest.fixture
def story(testbed: Engine, program: Path) -> Iterator[Story]:
    # Ten engines and their controller share this machine: how fast they are is not what this is about.
    slow = {"healthy_deadline_seconds": 900}
    with running_story(testbed, program, ["rtx4090-570"] * NODES, rollout=slow) as story:
        yield story


def test_the_mirror_is_asked_once_for_each_layer_however_many_nodes_there_are(story: Story) -> None:
    told = story.roll_out()
    assert told.code == 0, told.people
    assert states(told) == {f"node{number + 1}": "committed" for number in range(NODES)}
    log = story.lab.mirror.access_log()
    downloads = [entry for entry in log if is_download(entry)]
    assert max(Counter(entry.path for entry in downloads).values()) == 1
    assert len({entry.client for entry in log}) == 1, "no node asks the mirror"
    (name,) = {tag.name for tag in DEMO_TAGS if tag.tag in told.people.split("pytorch/pytorch:", 1)[1][:60]}
    layers = story.lab.mirror.layers(name)
    fetched = {entry.path.rpartition("/")[2] for entry in downloads}
    assert len(set(layers) & fetched) >= len(layers) - 1, (
        "all but the lowest, which the engine of this machine built on"
    )
    # And the lab's registry, where each node has all of them from.
    pulled = Counter(fetched_blobs(story.lab.registry.access_log()))
    assert sum(times >= NODES for times in pulled.values()) >= len(layers)
