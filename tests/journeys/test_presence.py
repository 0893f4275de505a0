"""What a lab is held to is gone from its registry, or has moved: told before any node is touched, and got back."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.journeys.conftest import Story
from tests.lab.bed import Lab
from tests.lab.demo import Command, write_lab
from tests.lab.engine import Engine
from tests.lab.images import make_small
from tests.lab.tags import push_demo_tags

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def story(testbed: Engine, program: Path) -> Iterator[Story]:
    """One node, locked and not yet rolled out."""
    lab = Lab("jpresence", engine=testbed)
    lab.down()
    try:
        lab.up(["rtx4090-570"])
        push_demo_tags(lab.mirror)
        write_lab(lab, lab.folder / "lab")
        told = Story(lab, lab.folder / "lab", Command(testbed, lab, program))
        assert told.tell("lock").code == 0
        yield told
    finally:
        lab.down()


def held(story: Story) -> tuple[str, str, str]:
    """Repository, tag and digest of the lab image."""
    repository = "provisioner/lab"
    digest = json.loads((story.folder / "lab.lock").read_text())["images"][0]["lab"].partition("@")[2]
    tags = story.lab.registry.storage / "repositories" / repository / "_manifests/tags"
    (tag,) = (path.parents[1].name for path in tags.glob("*/current/link"))
    return repository, tag, digest


def test_a_layer_that_the_registry_lost_ends_the_run_before_a_node_is_touched(story: Story) -> None:
    node, registry = story.lab.node("node1"), story.lab.registry
    repository, tag, _ = held(story)
    lost = registry.layers(f"{repository}:{tag}")[-1]
    registry.delete_blob(lost)
    before = node.exec("sh", "-c", "docker ps -aq; ls -A /var/lib/provisioner 2>/dev/null || true")
    told = story.tell("rollout", "--yes")
    assert (told.code, {problem["code"] for problem in told.document["problems"]}) == (1, {"not_on_registry"})
    assert lost in told.people
    assert f"fix: provision lock {story.folder}" in told.people
    assert node.exec("sh", "-c", "docker ps -aq; ls -A /var/lib/provisioner 2>/dev/null || true") == before
    registry.restart()
    assert story.tell("lock").code == 0
    assert registry.blob(lost).exists()


def test_a_tag_that_moved_does_not_matter(story: Story) -> None:
    """On the mirror and on the lab's own registry alike: everything goes by digest."""
    lab, (repository, tag, digest) = story.lab, held(story)
    locked = json.loads((story.folder / "lab.lock").read_text())["images"][0]
    small = "provisioner-test/moved"
    make_small(lab.engine, small, layers=1)
    moved = {lab.registry.push(small, f"{repository}:{tag}")}
    moved.add(lab.mirror.push(small, locked["reference"].partition("/")[2]))
    assert digest not in moved
    told = story.tell("rollout", "--yes")
    assert told.code == 0, told.people
    running = lab.node("node1").exec("sh", "-c", "docker inspect -f '{{.Config.Image}}' $(docker ps -q)").split()
    assert set(running) == {locked["lab"]}
