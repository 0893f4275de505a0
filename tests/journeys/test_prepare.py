"""From machines as an installer left them to a seat on a GPU: told as one story, each test goes on from the last."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.journeys.conftest import QUICK, Story, Told
from tests.lab import packages
from tests.lab.bare import BOOKWORM
from tests.lab.bed import Lab, bare_lab
from tests.lab.demo import Command, http_status, write_lab
from tests.lab.engine import Engine
from tests.lab.gpus import profile_text
from tests.lab.node import Node
from tests.lab.tags import push_demo_tags
from tests.playbooks.on_nodes import push_base

pytestmark = pytest.mark.lab

BARE_WITH_GPU = "toolkit = none\n" + profile_text("rtx4090-570")
# What nobody but a person may change: packages, sources, the engine's configuration, who runs.
STATE = (
    "dpkg-query -W; find /etc/apt /etc/docker /etc/cdi -type f -exec sha256sum {} + | sort;"
    " cat /var/run/docker.pid; docker ps -q"
)


@pytest.fixture(scope="module")
def story(testbed: Engine, bare_bed: Path, program: Path) -> Iterator[Story]:
    """A node with a GPU and two without, none with an engine; packages are served by this test."""
    with bare_lab(testbed, bare_bed, [BARE_WITH_GPU, "cpu", "cpu"]) as lab:
        push_demo_tags(lab.mirror)
        yield bare_story(lab, bare_bed, program)


def bare_story(lab: Lab, stock: Path, program: Path, **wish: object) -> Story:
    """NVIDIA's packages come from this machine; the keys of all that it serves lie in the lab directory."""
    folder = lab.folder / "lab"
    write_lab(lab, folder, rollout=QUICK, prepare={"nvidia": source(lab, "nvidia")}, **wish)
    for key in ("nvidia", "docker-ce", "other"):
        shutil.copy(stock / f"{key}.asc", folder)
    return Story(lab, folder, Command(lab.engine, lab, program))


def source(lab: Lab, name: str, key: str | None = None) -> dict[str, str]:
    return {"uri": f"http://{lab.gateway}:{packages.PORT}/{name}", "key": f"{key or name}.asc"}


def state(node: Node) -> str:
    return node.exec("sh", "-c", f"{STATE} 2>&1 || true")


def nodes(told: Told) -> dict[str, dict[str, Any]]:
    return {node["node"]: node for node in told.document["nodes"]}


def codes(told: Told, node: str) -> list[str]:
    return [problem["code"] for problem in nodes(told)[node]["problems"]]


def test_a_check_says_what_is_lacking_and_changes_nothing(story: Story) -> None:
    before = [state(node) for node in story.lab.nodes]
    told = story.tell("prepare", "--check")
    assert told.code == 3, told.people
    assert {name: node["state"] for name, node in nodes(told).items()} == dict.fromkeys(
        ("node1", "node2", "node3"), "lacking"
    )
    with_gpu, without = (" ".join(nodes(told)[name]["changes"]) for name in ("node1", "node2"))
    assert all(word in with_gpu for word in ("docker.io", "docker-compose", "nvidia-container-toolkit", "CDI"))
    assert "nvidia" not in without
    assert [state(node) for node in story.lab.nodes] == before
    assert story.lab.node("node1").exec("sh", "-c", "command -v docker || true") == ""
    probed = story.tell("probe", "--limit", "node1")
    (facts,) = probed.document["nodes"]
    assert (probed.code, facts["engine"], facts["driver"]) == (0, None, "570.172.08")
    assert "not installed" in facts["absent_because"]["engine"]


def test_a_bare_node_is_made_ready(story: Story) -> None:
    told = story.tell("prepare", "--yes", "--limit", "node1")
    assert (told.code, nodes(told)["node1"]["state"]) == (0, "prepared"), told.people
    node = story.lab.node("node1")
    facts = story.tell("probe", "--limit", "node1").document["nodes"][0]
    assert facts["engine"]["compose_version"].startswith("2.")
    assert (facts["toolkit_mode"], facts["absent_because"]) == ("cdi", {})
    configuration = json.loads(node.exec("cat", "/etc/docker/daemon.json"))
    assert configuration["features"] == {"cdi": True}
    assert (configuration["default-runtime"], configuration["bip"]) == ("lab", "198.19.0.1/24")
    written = node.exec("cat", "/etc/apt/sources.list.d/provisioner-nvidia.sources")
    assert "Signed-By: /etc/apt/keyrings/provisioner-nvidia.asc" in written
    assert (
        node.exec("cat", f"/etc/docker/certs.d/{story.lab.registry.address}/ca.crt") == story.lab.ca.read_text().strip()
    )


def test_a_second_time_there_is_nothing_to_do_and_it_says_so(story: Story) -> None:
    node = story.lab.node("node1")
    before = state(node)
    told = story.tell("prepare", "--yes", "--limit", "node1")
    assert (told.code, nodes(told)["node1"]["state"], nodes(told)["node1"]["changes"]) == (0, "ready", []), told.people
    assert "nothing was to do" in story.command.run("prepare", str(story.folder), "--check", "--limit", "node1").stdout
    assert state(node) == before


def test_a_rollout_works_on_what_was_prepared(story: Story) -> None:
    told = story.tell("rollout", "--yes", "--limit", "node1")
    assert told.code == 0, told.people
    (record,) = told.document["nodes"]
    assert record["state"] == "committed"
    assert record["gpu"]["method"] == "torch"


def test_no_engine_is_restarted_under_a_container_unless_that_is_asked_for(story: Story) -> None:
    node = story.lab.node("node1")
    somebodys = "docker run -d --restart unless-stopped --entrypoint sleep $(docker images -q | head -n 1) infinity"
    node.exec("sh", "-c", somebodys)
    configuration = json.loads(node.exec("cat", "/etc/docker/daemon.json"))
    del configuration["features"]
    node.exec("tee", "/etc/docker/daemon.json", stdin=json.dumps(configuration))
    node.stop()
    node.start()
    wait = "until [ $(docker ps -q | wc -l) = 1 ]; do sleep 1; done"  # a seat with CDI devices does not start
    node.exec("timeout", "90", "sh", "-c", wait)
    before = state(node)
    told = story.tell("prepare", "--yes", "--limit", "node1")
    assert (told.code, nodes(told)["node1"]["state"]) == (4, "deferred"), told.people
    assert any("restart the engine" in words for words in nodes(told)["node1"]["pending"])
    assert state(node) == before
    told = story.tell("prepare", "--yes", "--limit", "node1", "--restart-engine")
    assert (told.code, nodes(told)["node1"]["state"]) == (0, "prepared"), told.people
    again = story.tell("rollout", "--yes", "--limit", "node1")
    assert again.code == 0, again.people
    document = story.tell("status", "--urls", "--limit", "node1").document
    assert http_status(document["urls"]["node1"]) == 200


def test_a_source_that_another_key_has_signed_is_refused_and_not_left_behind(story: Story) -> None:
    folder, node = lab_of(story, "wrong", source(story.lab, "docker-ce/linux", "other")), story.lab.node("node2")
    before = state(node)
    told = Story(story.lab, folder, story.command).tell("prepare", "--yes", "--limit", "node2")
    assert (told.code, codes(told, "node2")) == (1, ["source_refused"]), told.people
    after = state(node)
    assert "provisioner-docker.sources" not in after
    assert [line for line in after.splitlines() if "keyrings" not in line] == [
        line for line in before.splitlines() if "keyrings" not in line
    ]


def test_engine_and_compose_come_from_the_mirror_that_the_lab_names(story: Story) -> None:
    given = source(story.lab, "docker-ce/linux", "docker-ce")
    folder = lab_of(story, "docker-ce", given | {"uri": f"{given['uri']}/debian"})  # as people paste it
    mirrored = Story(story.lab, folder, story.command)
    told = mirrored.tell("prepare", "--yes", "--limit", "node2")
    assert told.code == 0, told.people
    assert "docker-ce" in story.lab.node("node2").exec("dpkg-query", "-W", "docker-ce")
    assert mirrored.tell("prepare", "--check", "--limit", "node2").code == 0


@pytest.fixture(scope="module")
def older(testbed: Engine, older_bare_bed: Path, program: Path) -> Iterator[Story]:
    """A bare Debian 12 with a GPU."""
    with bare_lab(testbed, older_bare_bed, [BARE_WITH_GPU], release=BOOKWORM) as lab:
        push_base(lab, "2.10.0")
        yield bare_story(lab, older_bare_bed, program, image={"complete": True})


def test_debian_12_has_no_compose_v2_and_that_is_said_before_anything_is_installed(older: Story) -> None:
    before = state(older.lab.node("node1"))
    for words in (("--check",), ("--yes",)):
        told = older.tell("prepare", *words)
        assert (told.code, codes(told, "node1")) == (1, ["no_compose_package"]), told.people
        assert "prepare.docker" in nodes(told)["node1"]["problems"][0]["fix"]
    assert state(older.lab.node("node1")) == before


def test_debian_12_is_made_ready_with_dockers_packages_and_serves(older: Story) -> None:
    """Its engine is older than CDI, so GPUs come into its containers by NVIDIA's hook."""
    ready = Story(
        older.lab, lab_of(older, "docker-ce", source(older.lab, "docker-ce/linux", "docker-ce")), older.command
    )
    told = ready.tell("prepare", "--yes")
    assert (told.code, nodes(told)["node1"]["state"]) == (0, "prepared"), told.people
    facts = ready.tell("probe").document["nodes"][0]
    assert facts["engine"]["version"].startswith("20.10.")
    assert facts["engine"]["compose_version"].startswith("2.")
    assert (facts["toolkit_mode"], facts["absent_because"]) == ("legacy", {})
    again = ready.tell("prepare", "--yes")
    assert (again.code, nodes(again)["node1"]["state"], nodes(again)["node1"]["changes"]) == (0, "ready", [])
    rolled = ready.tell("rollout", "--yes")
    assert rolled.code == 0, rolled.people
    (record,) = rolled.document["nodes"]
    assert (record["state"], record["gpu"]["method"]) == ("committed", "driver")


def lab_of(story: Story, name: str, docker: dict[str, str]) -> Path:
    """The same lab, with Docker's packages from a mirror."""
    folder = story.lab.folder / f"lab-{name}"
    shutil.copytree(story.folder, folder, dirs_exist_ok=True)
    text = (folder / "lab.yml").read_text()
    (folder / "lab.yml").write_text(f"{text}  docker: {json.dumps(docker)}\n")
    return folder


def test_a_node_without_a_way_to_its_packages_is_told_for_what_it_is(story: Story) -> None:
    node = story.lab.node("node3")
    node.exec("sed", "-i", f"s/:{packages.PORT}/:9/", "/etc/apt/sources.list.d/debian.sources")
    told = story.tell("prepare", "--yes", "--limit", "node3")
    assert (told.code, codes(told, "node3")) == (1, ["no_package"]), told.people
    node.exec("sed", "-i", "s/^ID=.*/ID=plan9/", "/etc/os-release")
    told = story.tell("prepare", "--check", "--limit", "node3")
    assert (told.code, codes(told, "node3")) == (1, ["unsupported_distribution"]), told.people
