"""Registries of a lab: their access log, and damage to their blobs."""

from collections.abc import Iterator

import pytest

from tests.lab.bed import Lab
from tests.lab.host import BedError
from tests.lab.images import make_small
from tests.lab.registry import Access, fetched_blobs, parse_access

LOG = """\
{"level":"info","msg":"listening on [::]:5200, tls","time":"2026-01-01T00:00:00Z"}
198.18.0.11 - - [01/Jan/2026:00:00:00 +0000] "GET /v2/ HTTP/1.1" 401 87 "" "docker/26.1.5 go/go1.24"
198.18.0.11 - - [01/Jan/2026:00:00:00 +0000] "GET /v2/a/blobs/sha256:ab HTTP/1.1" 200 4096 "" "docker/26.1.5"
198.18.0.11 - - [01/Jan/2026:00:00:00 +0000] "GET /v2/a/blobs/sha256:cd HTTP/1.1" 404 157 "" "docker/26.1.5"
"""


def test_access_log_is_parsed() -> None:
    log = parse_access(LOG)
    assert log[0] == Access("198.18.0.11", "GET", "/v2/", 401, 87)
    assert [access.status for access in log] == [401, 200, 404]
    assert fetched_blobs(log) == ["sha256:ab"]


@pytest.fixture
def small(lab3: Lab) -> Iterator[str]:
    image = f"lab/{lab3.prefix}-small"
    make_small(lab3.engine, image)
    yield image
    lab3.engine.docker("rmi", "-f", image)


@pytest.mark.lab
def test_each_layer_is_fetched_once(lab3: Lab, small: str) -> None:
    registry, node = lab3.registry, lab3.node("node3")
    digest = registry.push(small, "selftest/fetched:1")
    assert registry.digest("selftest/fetched:1") == digest
    before = len(registry.access_log())
    node.exec("docker", "pull", "-q", f"{registry.address}/selftest/fetched:1")
    log = registry.access_log()[before:]
    assert {access.client for access in log} == {node.address}
    blobs = fetched_blobs(log)
    assert [blobs.count(layer) for layer in registry.layers("selftest/fetched:1")] == [1, 1]


@pytest.mark.lab
@pytest.mark.parametrize("damage", ["delete_blob", "truncate_blob", "flip_byte"])
def test_damage_breaks_a_pull(lab3: Lab, small: str, damage: str) -> None:
    registry, name = lab3.registry, f"selftest/{damage.replace('_', '-')}:1"
    registry.push(small, name)
    getattr(registry, damage)(registry.layers(name)[-1])
    registry.restart()  # otherwise the registry answers from its cache, and the engine retries for 75 s
    with pytest.raises(BedError, match="ended with 1"):
        lab3.node("node2").exec("docker", "pull", "-q", f"{registry.address}/{name}")
