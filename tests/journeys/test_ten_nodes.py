"""Load of ten nodes on the mirror: one download of each layer, by the control machine only."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.journeys.conftest import Site, running_site
from tests.journeys.test_rollout import is_download, states
from tests.lab.engine import Engine
from tests.lab.registry import fetched_blobs
from tests.lab.tags import DEMO_TAGS

pytestmark = [pytest.mark.lab, pytest.mark.long("scale")]

NODES = 10


@pytest.fixture
def site(testbed: Engine, program: Path) -> Iterator[Site]:
    # Ten engines and their controller share this machine, so the deadline is long.
    slow = {"healthy_deadline_seconds": 900}
    with running_site(testbed, program, ["rtx4090-570"] * NODES, rollout=slow) as site:
        yield site


def test_ten_nodes_cost_one_download_of_each_layer_from_the_mirror(site: Site) -> None:
    result = site.roll_out()
    assert result.code == 0, result.output
    assert states(result) == {f"node{number + 1}": "committed" for number in range(NODES)}
    log = site.lab.mirror.access_log()
    downloads = [entry for entry in log if is_download(entry)]
    assert max(Counter(entry.path for entry in downloads).values()) == 1
    assert len({entry.client for entry in log}) == 1, "a node sent requests to the mirror"
    (name,) = {tag.name for tag in DEMO_TAGS if tag.tag in result.output.split("pytorch/pytorch:", 1)[1][:60]}
    layers = site.lab.mirror.layers(name)
    fetched = {entry.path.rpartition("/")[2] for entry in downloads}
    assert len(set(layers) & fetched) >= len(layers) - 1, (
        "all but the lowest layer, which the engine of this machine has already"
    )
    # Each node pulls all layers from the lab's registry.
    pulled = Counter(fetched_blobs(site.lab.registry.access_log()))
    assert sum(times >= NODES for times in pulled.values()) >= len(layers)
