"""A lab without a registry of its own: prepare sets one up, images go through it, and what nobody wants leaves it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.journeys.conftest import Story, Told
from tests.journeys.small_lab import served
from tests.journeys.test_prepare import BARE_WITH_GPU, bare_story
from tests.lab.bed import bare_lab
from tests.lab.engine import Engine
from tests.lab.tags import push_demo_tags
from tests.playbooks.on_nodes import push_base

pytestmark = pytest.mark.lab

STORAGE = "/var/lib/docker-registry/docker/registry/v2/blobs"
PORT = 5000
# What moves is looked at here, not what runs: images are taken as they are, and none is built.
COMPLETE = {"complete": True}
UNUSED, OLD, NEW = "2.14.1", "2.11.0", "2.10.0"
WHOLE = "2.9.0"  # the one that also has what a seat needs


@pytest.fixture(scope="module")
def story(testbed: Engine, bare_bed: Path, program: Path) -> Iterator[Story]:
    """node1 is to have a seat; node2 is the host that holds the registry, and no node of the lab."""
    with bare_lab(testbed, bare_bed, [BARE_WITH_GPU, "cpu"]) as lab:
        push_demo_tags(lab.mirror)
        address = f"{lab.node('node2').address}:{PORT}"
        story = bare_story(lab, bare_bed, program, registry={"address": address, "managed": True}, image=COMPLETE)
        inventory = yaml.safe_load(lab.inventory_text())
        inventory["all"] = {"vars": inventory["nodes"].pop("vars")}
        inventory["registry"] = {"hosts": {"node2": inventory["nodes"]["hosts"].pop("node2")}}
        (story.folder / "hosts.yml").write_text(yaml.safe_dump(inventory))
        yield story


def blobs(story: Story) -> set[str]:
    return set(story.lab.node("node2").exec("find", STORAGE, "-name", "data").split())


def locked(story: Story, torch: str) -> str:
    """The digest that the lab is held to from now on."""
    made = story.tell("lock", "--torch", torch)
    assert made.code == 0, made.people
    (image,) = json.loads((story.folder / "lab.lock").read_text())["images"]
    return str(image["lab"].rpartition("@")[2])


def reference(story: Story, digest: str) -> str:
    return f"{story.lab.node('node2').address}:{PORT}/provisioner/lab@{digest}"


def give_generation(story: Story, number: int, digest: str) -> None:
    """As a rollout leaves it on the node."""
    order = json.dumps({"image": {"reference": reference(story, digest)}})
    folder = f"/var/lib/provisioner/seats/demo-student/gens/{number}"
    script = f"mkdir -p {folder} && cat >{folder}/order.json && echo '{{}}' >{folder}/meta.json"
    story.lab.node("node1").exec("sh", "-c", script, stdin=order)


def gc(story: Story, *words: str) -> Told:
    done = story.command.run("registry", "gc", str(story.folder), *words, "--json")
    return Told(done.returncode, json.loads(done.stdout), done.stderr)


def digests(found: list[dict[str, Any]]) -> set[str]:
    return {image["digest"] for image in found}


def test_a_check_sets_nothing_up(story: Story) -> None:
    told = story.tell("prepare", "--check")
    registry = told.document["registry"]
    assert (told.code, registry["state"], registry["node"]) == (3, "lacking", "node2"), told.people
    assert [node["node"] for node in told.document["nodes"]] == ["node1"]
    assert not (story.folder / "registry-ca.pem").exists()
    assert story.lab.node("node2").exec("sh", "-c", "command -v docker-registry || true") == ""


def test_prepare_sets_it_up_behind_tls_and_nodes_trust_it(story: Story) -> None:
    wish = (story.folder / "lab.yml").read_text()
    told = story.tell("prepare", "--yes")
    assert (told.code, told.document["registry"]["state"]) == (0, "prepared"), told.people
    ca = (story.folder / "registry-ca.pem").read_text()
    address = f"{story.lab.node('node2').address}:{PORT}"
    assert story.lab.node("node1").exec("cat", f"/etc/docker/certs.d/{address}/ca.crt") == ca.strip()
    kept = story.lab.node("node2").exec(
        "stat", "-c", "%a %U %n", "/etc/docker/registry/tls/ca.key", "/etc/docker/registry/tls/server.key"
    )
    assert [line.split()[:2] for line in kept.splitlines()] == [["600", "root"], ["600", "docker-registry"]]
    assert (story.folder / "lab.yml").read_text() == wish, "a person's file"


def test_a_second_time_nothing_changes(story: Story) -> None:
    state = "cat /etc/docker/registry/config.yml /etc/docker/registry/tls/*.crt; pgrep -x docker-registry"
    before = story.lab.node("node2").exec("sh", "-c", state)
    told = story.tell("prepare", "--yes")
    assert (told.code, told.document["registry"]["state"]) == (0, "ready"), told.people
    assert story.lab.node("node2").exec("sh", "-c", state) == before


def test_after_a_power_cut_it_serves_again(story: Story) -> None:
    node = story.lab.node("node2")
    node.kill()
    node.start()
    told = story.tell("prepare", "--yes")
    assert told.code == 0, told.people


def test_what_a_node_could_go_back_to_stays_and_what_no_node_ever_had_goes(story: Story) -> None:
    unused, old, new = (locked(story, torch) for torch in (UNUSED, OLD, NEW))
    give_generation(story, 1, old)
    give_generation(story, 2, new)
    before = blobs(story)
    told = gc(story, "--dry-run")
    assert (digests(told.document["kept"]), digests(told.document["removed"])) == ({old, new}, {unused}), told.people
    assert told.document["bytes"] > 0
    assert blobs(story) == before


def test_nothing_is_removed_while_a_node_is_silent(story: Story) -> None:
    before = blobs(story)
    story.lab.node("node1").stop()
    try:
        done = story.command.run("registry", "gc", str(story.folder), "--yes")
    finally:
        story.lab.node("node1").start()
    assert done.returncode == 1
    assert "silent_nodes" in done.stderr
    assert blobs(story) == before


def test_a_push_that_may_be_under_way_is_waited_for_and_the_registry_goes_on_serving(story: Story) -> None:
    before = blobs(story)
    told = gc(story, "--yes")
    assert (told.code, [problem["code"] for problem in told.document["problems"]]) == (1, ["push_under_way"]), (
        told.people
    )
    assert blobs(story) == before
    assert story.tell("prepare", "--check").code == 0


def test_what_nobody_wants_leaves_the_disk_and_the_rest_is_whole(story: Story) -> None:
    before = blobs(story)
    told = gc(story, "--yes", "--quiet-seconds", "0")
    assert told.code == 0, told.people
    assert blobs(story) < before
    for image in told.document["kept"]:
        story.lab.node("node1").exec("docker", "pull", "-q", reference(story, image["digest"]))
    again = gc(story, "--yes", "--quiet-seconds", "0")
    assert (again.code, again.document["removed"]) == (0, []), again.people


def test_a_seat_is_rolled_out_of_it(story: Story) -> None:
    push_base(story.lab, WHOLE)
    digest = locked(story, WHOLE)
    told = story.tell("rollout", "--yes")
    assert told.code == 0, told.people
    (record,) = told.document["nodes"]
    assert (record["node"], record["state"], record["gpu"]["method"]) == ("node1", "committed", "driver")
    assert served(story.lab.node("node1")) == reference(story, digest)
