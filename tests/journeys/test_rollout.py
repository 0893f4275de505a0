"""Rollout to two nodes with the oldest and the newest GPUs that one image fits.

Each test starts from the state that the one before left.
"""

import json
import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.journeys.conftest import CommandResult, Site, running_site
from tests.lab.demo import http_status, ssh_command, student_key
from tests.lab.engine import Engine
from tests.lab.gpus import profile_text
from tests.lab.registry import Access, fetched_blobs

pytestmark = pytest.mark.lab

# The newest torch with a build that has code for Volta and for Blackwell; all drivers run CUDA 12.
FITS_ALL = "pytorch/pytorch:2.10.0-cuda12.8-cudnn9-runtime"
UUID = re.compile(r"GPU-[0-9a-f-]{36}")
NODES = {"node1", "node2"}
OLD_TOOLKIT = "toolkit = 1.17.3\n"


@pytest.fixture(scope="module")
def site(testbed: Engine, program: Path) -> Iterator[Site]:
    with running_site(testbed, program, ["rtx5090x2-580", OLD_TOOLKIT + profile_text("v100-535")]) as site:
        yield site


@pytest.fixture(scope="module")
def first_rollout(site: Site) -> CommandResult:
    return site.roll_out()


def states(result: CommandResult) -> dict[str, str]:
    return {record["node"]: record["state"] for record in result.document["nodes"]}


@pytest.fixture(scope="module")
def first_seats(site: Site, first_rollout: CommandResult) -> dict[str, dict[str, Any]]:
    """The seats right after the first rollout."""
    assert first_rollout.code == 0, first_rollout.output
    return list_seats(site)


def list_seats(site: Site) -> dict[str, dict[str, Any]]:
    """Node -> its seat as `status --urls` shows it, with its `url`."""
    code, document, output = site.run_json("status", "--urls")
    assert code == 0, output
    return {seat["node"]: seat | {"url": document["urls"].get(seat["node"], "")} for seat in document["seats"]}


def test_every_node_commits_the_one_tag_that_fits_all(site: Site, first_rollout: CommandResult) -> None:
    assert (first_rollout.code, states(first_rollout)) == (0, dict.fromkeys(NODES, "committed")), first_rollout.output
    lock = json.loads((site.folder / "lab.lock").read_text())
    assert [image["reference"] for image in lock["images"]] == [f"{site.lab.mirror.address}/{FITS_ALL}"]
    assert {name: node["capabilities"][0] for name, node in lock["nodes"].items()} == {
        "node1": "12.0",
        "node2": "7.0",
    }


def test_output_gives_the_reasons_against_newer_tags(first_rollout: CommandResult) -> None:
    assert "One image for every node" in first_rollout.output
    assert {"no_kernel", "driver_too_old"} <= set(re.findall(r"\w+", first_rollout.output))


@pytest.mark.parametrize("node", sorted(NODES))
def test_exactly_the_reserved_gpus_compute_in_the_container(
    site: Site, first_rollout: CommandResult, node: str
) -> None:
    record = next(record for record in first_rollout.document["nodes"] if record["node"] == node)
    on_the_node = UUID.findall(site.lab.node(node).exec("nvidia-smi", "-L"))
    assert sorted(record["gpu"]["uuids"]) == sorted(on_the_node)
    assert record["gpu"]["method"] == "torch"


@pytest.mark.parametrize("node", sorted(NODES))
def test_jupyter_and_ssh_accept_only_the_student(site: Site, first_seats: dict[str, dict[str, Any]], node: str) -> None:
    seat = first_seats[node]
    assert http_status(seat["url"]) == 200
    assert http_status(seat["url"].partition("/lab")[0] + "/api/contents") == 403
    access = seat["access"]
    ssh = ssh_command(access["ssh"], access["host_key"], student_key(site.lab), site.lab.folder)
    inside = "id -un; python -c 'import jupyterlab, torch; print(torch.__version__)'; nvidia-smi -L"
    login = subprocess.run([*ssh, inside], capture_output=True, text=True, check=True).stdout.split("\n", 2)
    assert login[:2] == ["student", "2.10.0"]
    assert len(UUID.findall(login[2])) == (2 if node == "node1" else 1)
    stranger = [word if word != str(student_key(site.lab)) else str(site.lab.key) for word in ssh]
    assert subprocess.run([*stranger, "true"], capture_output=True, check=False).returncode == 255


def test_containers_are_unprivileged_and_publish_on_one_address(site: Site, first_rollout: CommandResult) -> None:
    assert first_rollout.code == 0
    node = site.lab.node("node2")
    for container in containers(site, "node2").split():
        found = json.loads(node.exec("docker", "inspect", container))[0]
        host = found["HostConfig"]
        assert (found["Config"]["User"], host["CapDrop"], host["Privileged"]) == ("1000:1000", ["ALL"], False)
        assert "no-new-privileges:true" in host["SecurityOpt"]
        published = [port["HostIp"] for ports in host["PortBindings"].values() for port in ports]
        assert published == [node.address]
        assert found["Config"]["Image"].startswith(f"{site.lab.registry.address}/provisioner/lab@sha256:")


def test_memory_cpus_and_open_files_are_limited_in_the_containers(site: Site, first_rollout: CommandResult) -> None:
    """By what the node has: this machine's memory and CPUs, and the engine's own limit of open files."""
    assert first_rollout.code == 0
    node = site.lab.node("node2")
    info = json.loads(node.exec("docker", "info", "--format", "{{json .}}"))
    memory = info["MemTotal"] * 9 // 10 >> 30 << 30
    cpus = info["NCPU"] - (info["NCPU"] >= 4)
    hard = int(node.exec("sh", "-c", "grep 'Max open files' /proc/$(pidof dockerd)/limits").split()[4])
    inside = "ulimit -Sn; ulimit -Hn; cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes; true"
    for container in containers(site, "node2").split():
        host = json.loads(node.exec("docker", "inspect", container))[0]["HostConfig"]
        assert (host["Memory"], host["MemorySwap"], host["NanoCpus"]) == (memory, memory, cpus * 10**9)
        seen = node.exec("docker", "exec", container, "sh", "-c", inside).split()
        assert seen == [str(min(65536, hard)), str(min(1 << 20, hard)), str(memory)]


def containers(site: Site, node: str) -> str:
    return site.lab.node(node).exec("docker", "ps", "-q", "--no-trunc", "--filter", "label=provisioner.seat")


def test_each_layer_is_downloaded_once_from_the_mirror(site: Site, first_rollout: CommandResult) -> None:
    assert first_rollout.code == 0
    log = site.lab.mirror.access_log()
    assert len({entry.client for entry in log}) == 1, "a node sent requests to the mirror"
    downloads = Counter(entry.path for entry in log if is_download(entry))
    times = {layer: downloads[f"/v2/pytorch/pytorch/blobs/{layer}"] for layer in site.lab.mirror.layers(FITS_ALL)}
    # The engine of this machine has the lowest layer already: it built these images.
    assert sorted(times.values()) == [0] + [1] * (len(times) - 1)
    assert len(times) >= 3
    # Each node pulls all layers from the lab's registry.
    pulled = Counter(fetched_blobs(site.lab.registry.access_log()))
    assert sum(count >= len(NODES) for count in pulled.values()) >= len(times)


def is_download(entry: Access) -> bool:
    """Whether this is a download of a whole blob; the mirror check reads a few bytes of each (206)."""
    return entry.method == "GET" and "/blobs/" in entry.path and entry.status == 200


def test_no_token_is_in_output_records_or_processes(
    site: Site, first_rollout: CommandResult, first_seats: dict[str, dict[str, Any]]
) -> None:
    tokens = [seat["url"].partition("token=")[2] for seat in first_seats.values()]
    assert all(len(token) == 64 for token in tokens)
    kept = [path for path in site.lab.folder.glob("xdg_*/**/*") if path.is_file()]
    kept += [site.folder / "lab.lock"]
    texts = [path.read_text(errors="replace") for path in kept] + [
        first_rollout.output,
        json.dumps(first_rollout.document),
    ]
    assert len(kept) > 3
    assert not [token for token in tokens for text in texts if token in text]
    for node in site.lab.nodes:
        inspected = node.exec("sh", "-c", "docker inspect $(docker ps -q); ps axww")
        assert not [token for token in tokens if token in inspected]


def test_a_second_rollout_changes_nothing(site: Site, first_rollout: CommandResult) -> None:
    assert first_rollout.code == 0
    before = {node: containers(site, node) for node in NODES}
    again = site.roll_out()
    assert (again.code, states(again)) == (0, dict.fromkeys(NODES, "unchanged"))
    assert "No changes" in again.output
    assert {node: containers(site, node) for node in NODES} == before
    assert site.run_json("plan", "--exit-code").code == 0


def test_one_rollout_restores_a_stopped_container_and_a_seat_after_a_power_cut(
    site: Site, first_seats: dict[str, dict[str, Any]]
) -> None:
    site.lab.node("node2").exec("sh", "-c", "docker stop -t 1 $(docker ps -q --filter label=provisioner.service=ssh)")
    node = site.lab.node("node1")
    node.kill()
    node.start()
    assert site.run_json("status").code == 3
    result = site.run_json("rollout", "--yes")
    assert (result.code, states(result)["node2"]) == (0, "committed"), result.output
    after = list_seats(site)
    for name in ("node1", "node2"):
        assert (after[name]["access"], after[name]["url"]) == (first_seats[name]["access"], first_seats[name]["url"])
        assert http_status(after[name]["url"]) == 200


def test_an_unreachable_node_is_reported_and_other_seats_keep_running(site: Site, first_rollout: CommandResult) -> None:
    assert first_rollout.code == 0
    before = containers(site, "node1")
    site.lab.node("node2").stop()
    try:
        result = site.roll_out()
    finally:
        site.lab.node("node2").start()
    assert (result.code, states(result)) == (1, {"node1": "unchanged", "node2": "unreachable"})
    (problem,) = next(record["problems"] for record in result.document["nodes"] if record["node"] == "node2")
    assert problem["code"] == "unreachable"
    assert problem["code"] in result.output
    assert containers(site, "node1") == before


def test_remove_removes_seats_and_keeps_homes(site: Site, first_rollout: CommandResult) -> None:
    assert first_rollout.code == 0
    home = "/srv/provisioner/homes/student"
    site.lab.node("node2").exec("sh", "-c", f"echo thesis >{home}/thesis.txt")
    removed = site.run_json("remove", "--limit", "node2", "--yes")
    assert removed.code == 0, removed.output
    assert containers(site, "node2") == ""
    assert site.lab.node("node2").exec("cat", f"{home}/thesis.txt") == "thesis"
    assert containers(site, "node1")


def test_a_probe_names_an_old_toolkit_and_leaves_no_temporary_folder(site: Site, first_rollout: CommandResult) -> None:
    """Neither the folder of an Ansible run nor the socket of a shared SSH connection is left."""
    assert first_rollout.code == 0
    before = set(Path("/tmp").glob("prov-*"))
    probed = site.run_json("probe")
    assert probed.code == 0
    problems = {node["name"]: [problem["code"] for problem in node["problems"]] for node in probed.document["nodes"]}
    assert problems == {"node1": [], "node2": ["toolkit_vulnerable"]}
    # Another lab may be in use on this machine; the name of a folder holds the process id.
    left = [path for path in set(Path("/tmp").glob("prov-*")) - before if not is_alive(path.name.split("-")[1])]
    assert left == []


def is_alive(pid: str) -> bool:
    return Path("/proc", pid).exists()
