"""The main job on three machines with three generations of GPUs, told as one story: each test goes on from the last."""

import json
import re
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.journeys.conftest import Story, Told
from tests.lab.demo import http_status, ssh_command, student_key
from tests.lab.registry import Access, fetched_blobs

pytestmark = pytest.mark.lab

# The one build that has code for Volta and for Blackwell, and the newest torch that has it; all drivers run CUDA 12.
FITS_ALL = "pytorch/pytorch:2.10.0-cuda12.8-cudnn9-runtime"
UUID = re.compile(r"GPU-[0-9a-f-]{36}")
NODES = {"node1", "node2", "node3"}


@pytest.fixture(scope="module")
def first(story: Story) -> Told:
    return story.roll_out()


def states(told: Told) -> dict[str, str]:
    return {record["node"]: record["state"] for record in told.document["nodes"]}


def seats(story: Story) -> dict[str, dict[str, Any]]:
    """Node -> its seat as `status --urls` shows it, with `url`."""
    document = story.tell("status", "--urls").document
    return {seat["node"]: seat | {"url": document["urls"].get(seat["node"], "")} for seat in document["seats"]}


def test_every_node_ends_on_the_one_tag_that_fits_them_all(story: Story, first: Told) -> None:
    assert (first.code, states(first)) == (0, dict.fromkeys(NODES, "committed")), first.people
    lock = json.loads((story.folder / "lab.lock").read_text())
    assert [image["reference"] for image in lock["images"]] == [f"{story.lab.mirror.address}/{FITS_ALL}"]
    assert {name: node["capabilities"][0] for name, node in lock["nodes"].items()} == {
        "node1": "12.0",
        "node2": "8.9",
        "node3": "7.0",
    }


def test_the_reader_is_told_why_not_a_newer_one(first: Told) -> None:
    assert "One image for every node" in first.people
    assert {"no_kernel", "driver_too_old"} <= set(re.findall(r"\w+", first.people))


@pytest.mark.parametrize("node", sorted(NODES))
def test_inside_the_container_exactly_the_reserved_gpus_compute(story: Story, first: Told, node: str) -> None:
    record = next(record for record in first.document["nodes"] if record["node"] == node)
    on_the_node = UUID.findall(story.lab.node(node).exec("nvidia-smi", "-L"))
    assert sorted(record["gpu"]["uuids"]) == sorted(on_the_node)
    assert record["gpu"]["method"] == "torch"


@pytest.mark.parametrize("node", sorted(NODES))
def test_jupyter_and_ssh_answer_to_the_student_and_to_nobody_else(story: Story, first: Told, node: str) -> None:
    assert first.code == 0
    seat = seats(story)[node]
    assert http_status(seat["url"]) == 200
    assert http_status(seat["url"].partition("/lab")[0] + "/api/contents") == 403
    access = seat["access"]
    ssh = ssh_command(access["ssh"], access["host_key"], student_key(story.lab), story.lab.folder)
    inside = "id -un; python -c 'import jupyterlab, torch; print(torch.__version__)'; nvidia-smi -L"
    login = subprocess.run([*ssh, inside], capture_output=True, text=True, check=True).stdout.split("\n", 2)
    assert login[:2] == ["student", "2.10.0"]
    assert len(UUID.findall(login[2])) == (2 if node == "node1" else 1)
    stranger = [word if word != str(student_key(story.lab)) else str(story.lab.key) for word in ssh]
    assert subprocess.run([*stranger, "true"], capture_output=True, check=False).returncode == 255


def test_the_containers_are_what_was_promised(story: Story, first: Told) -> None:
    assert first.code == 0
    node = story.lab.node("node2")
    for container in containers(story, "node2").split():
        found = json.loads(node.exec("docker", "inspect", container))[0]
        host = found["HostConfig"]
        assert (found["Config"]["User"], host["CapDrop"], host["Privileged"]) == ("1000:1000", ["ALL"], False)
        assert "no-new-privileges:true" in host["SecurityOpt"]
        published = [port["HostIp"] for ports in host["PortBindings"].values() for port in ports]
        assert published == [node.address]
        assert found["Config"]["Image"].startswith(f"{story.lab.registry.address}/provisioner/lab@sha256:")


def containers(story: Story, node: str) -> str:
    return story.lab.node(node).exec("docker", "ps", "-q", "--no-trunc", "--filter", "label=provisioner.seat")


def test_the_outside_mirror_was_asked_once_for_each_layer(story: Story, first: Told) -> None:
    assert first.code == 0
    log = story.lab.mirror.access_log()
    assert len({entry.client for entry in log}) == 1, "no node asks the mirror"
    downloads = Counter(entry.path for entry in log if is_download(entry))
    times = {layer: downloads[f"/v2/pytorch/pytorch/blobs/{layer}"] for layer in story.lab.mirror.layers(FITS_ALL)}
    # The lowest one the engine of this machine has: it built these images.
    assert sorted(times.values()) == [0] + [1] * (len(times) - 1)
    assert len(times) >= 3
    # And the lab's registry, where each node has all of them from.
    pulled = Counter(fetched_blobs(story.lab.registry.access_log()))
    assert sum(count >= len(NODES) for count in pulled.values()) >= len(times)


def is_download(entry: Access) -> bool:
    """A whole blob; the check of the mirror reads a few bytes of each (206)."""
    return entry.method == "GET" and "/blobs/" in entry.path and entry.status == 200


def test_no_secret_is_in_what_was_kept_or_said(story: Story, first: Told) -> None:
    tokens = [seat["url"].partition("token=")[2] for seat in seats(story).values()]
    assert all(len(token) == 64 for token in tokens)
    kept = [path for path in story.lab.folder.glob("xdg_*/**/*") if path.is_file()]
    kept += [story.folder / "lab.lock"]
    texts = [path.read_text(errors="replace") for path in kept] + [first.people, json.dumps(first.document)]
    assert len(kept) > 3
    assert not [token for token in tokens for text in texts if token in text]
    for node in story.lab.nodes:
        inspected = node.exec("sh", "-c", "docker inspect $(docker ps -q); ps axww")
        assert not [token for token in tokens if token in inspected]


def test_again_there_is_nothing_to_do_and_it_says_so(story: Story, first: Told) -> None:
    assert first.code == 0
    before = {node: containers(story, node) for node in NODES}
    again = story.roll_out()
    assert (again.code, states(again)) == (0, dict.fromkeys(NODES, "unchanged"))
    assert "No changes" in again.people
    assert {node: containers(story, node) for node in NODES} == before
    assert story.tell("plan", "--exit-code").code == 0
    assert story.tell("status").code == 0


def test_a_container_that_was_stopped_by_hand_is_drift_and_comes_back(story: Story, first: Told) -> None:
    assert first.code == 0
    was = seats(story)["node2"]
    story.lab.node("node2").exec("sh", "-c", "docker stop -t 1 $(docker ps -q --filter label=provisioner.service=ssh)")
    assert story.tell("status").code == 3
    told = story.tell("rollout", "--yes")
    assert states(told) == {"node1": "unchanged", "node2": "committed", "node3": "unchanged"}, told.people
    now = seats(story)["node2"]
    assert (now["access"], now["url"]) == (was["access"], was["url"])


def test_a_node_that_is_off_is_reported_and_the_others_are_unharmed(story: Story, first: Told) -> None:
    assert first.code == 0
    before = {node: containers(story, node) for node in NODES - {"node3"}}
    story.lab.node("node3").stop()
    try:
        told = story.roll_out()
    finally:
        story.lab.node("node3").start()
    assert (told.code, states(told)) == (1, {"node1": "unchanged", "node2": "unchanged", "node3": "unreachable"})
    (problem,) = next(record["problems"] for record in told.document["nodes"] if record["node"] == "node3")
    assert problem["code"] == "unreachable"
    assert problem["code"] in told.people
    assert {node: containers(story, node) for node in NODES - {"node3"}} == before


def test_after_a_power_cut_a_seat_serves_again_by_itself(story: Story, first: Told) -> None:
    assert first.code == 0
    node = story.lab.node("node1")
    node.kill()
    node.start()
    told = story.tell("rollout", "--yes")
    assert told.code == 0, told.people
    assert http_status(seats(story)["node1"]["url"]) == 200


def test_remove_takes_the_seats_and_leaves_the_homes(story: Story, first: Told) -> None:
    assert first.code == 0
    home = "/srv/provisioner/homes/student"
    story.lab.node("node3").exec("sh", "-c", f"echo thesis >{home}/thesis.txt")
    removed = story.tell("remove", "--limit", "node3", "--yes")
    assert removed.code == 0, removed.people
    assert containers(story, "node3") == ""
    assert story.lab.node("node3").exec("cat", f"{home}/thesis.txt") == "thesis"
    assert containers(story, "node1")


def test_nothing_is_left_behind_on_the_control_machine(story: Story, first: Told) -> None:
    """Neither the folder of a play nor a connection that was to be shared by several."""
    assert first.code == 0
    before = set(Path("/tmp").glob("prov-*"))
    assert story.tell("probe").code == 0
    # Another lab on this machine may be at work; a folder is named after its process.
    left = [path for path in set(Path("/tmp").glob("prov-*")) - before if not is_alive(path.name.split("-")[1])]
    assert left == []


def is_alive(pid: str) -> bool:
    return Path("/proc", pid).exists()
