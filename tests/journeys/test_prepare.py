"""From freshly installed machines to a seat on a GPU. Each test starts from the state that the one before it left."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.journeys.conftest import QUICK, CommandResult, Site
from tests.lab import packages
from tests.lab.bare import BOOKWORM
from tests.lab.bed import Lab, bare_lab
from tests.lab.demo import Command, write_lab
from tests.lab.engine import Engine
from tests.lab.gpus import profile_text
from tests.lab.node import Node
from tests.playbooks.on_nodes import push_base

pytestmark = pytest.mark.lab

BARE_WITH_GPU = "toolkit = none\n" + profile_text("rtx4090-570")
COMPLETE = {"complete": True}  # images are used as they are, and none is built
# Prints what `prepare` may change only on request: packages, sources, configuration of the engine, containers.
READ_STATE = (
    "dpkg-query -W; find /etc/apt /etc/docker /etc/cdi -type f -exec sha256sum {} + | sort;"
    " cat /var/run/docker.pid; docker ps -q"
)


@pytest.fixture(scope="module")
def site(testbed: Engine, debian13_packages: Path, program: Path) -> Iterator[Site]:
    """One node with a GPU and one without; none has an engine. The test serves the packages."""
    with bare_lab(testbed, debian13_packages, [BARE_WITH_GPU, "cpu"]) as lab:
        push_base(lab, "2.10.0")
        yield create_bare_site(lab, debian13_packages, program, image=COMPLETE)


def create_bare_site(lab: Lab, stock: Path, program: Path, **settings: object) -> Site:
    """Write a lab directory in which NVIDIA's packages come from this machine, with the keys of all its sources."""
    folder = lab.folder / "lab"
    write_lab(lab, folder, rollout=QUICK, prepare={"nvidia": package_source(lab, "nvidia")}, **settings)
    for key in ("nvidia", "docker-ce", "other"):
        shutil.copy(stock / f"{key}.asc", folder)
    return Site(lab, folder, Command(lab.engine, lab, program))


def package_source(lab: Lab, name: str, key: str | None = None) -> dict[str, str]:
    return {"uri": f"http://{lab.gateway}:{packages.PORT}/{name}", "key": f"{key or name}.asc"}


def read_state(node: Node) -> str:
    return node.exec("sh", "-c", f"{READ_STATE} 2>&1 || true")


def nodes(result: CommandResult) -> dict[str, dict[str, Any]]:
    return {node["node"]: node for node in result.document["nodes"]}


def problem_codes(result: CommandResult, node: str) -> list[str]:
    return [problem["code"] for problem in nodes(result)[node]["problems"]]


def test_prepare_check_lists_what_is_lacking_and_changes_nothing(site: Site) -> None:
    before = [read_state(node) for node in site.lab.nodes]
    result = site.run_json("prepare", "--check")
    assert result.code == 3, result.output
    assert {name: node["state"] for name, node in nodes(result).items()} == dict.fromkeys(("node1", "node2"), "lacking")
    with_gpu, without = (" ".join(nodes(result)[name]["changes"]) for name in ("node1", "node2"))
    assert all(word in with_gpu for word in ("docker.io", "docker-compose", "nvidia-container-toolkit", "CDI"))
    assert "nvidia" not in without
    assert [read_state(node) for node in site.lab.nodes] == before
    assert site.lab.node("node1").exec("sh", "-c", "command -v docker || true") == ""
    probed = site.run_json("probe", "--limit", "node1")
    (facts,) = probed.document["nodes"]
    assert (probed.code, facts["engine"], facts["driver"]) == (0, None, "570.172.08")
    assert "not installed" in facts["absent_because"]["engine"]


def test_prepare_makes_a_bare_node_ready(site: Site) -> None:
    result = site.run_json("prepare", "--yes", "--limit", "node1")
    assert (result.code, nodes(result)["node1"]["state"]) == (0, "prepared"), result.output
    node = site.lab.node("node1")
    facts = site.run_json("probe", "--limit", "node1").document["nodes"][0]
    assert facts["engine"]["compose_version"].startswith("2.")
    assert (facts["toolkit_mode"], facts["absent_because"]) == ("cdi", {})
    configuration = json.loads(node.exec("cat", "/etc/docker/daemon.json"))
    assert configuration["features"] == {"cdi": True}
    assert (configuration["default-runtime"], configuration["bip"]) == ("lab", "198.19.0.1/24")
    written = node.exec("cat", "/etc/apt/sources.list.d/provisioner-nvidia.sources")
    assert "Signed-By: /etc/apt/keyrings/provisioner-nvidia.asc" in written
    assert (
        node.exec("cat", f"/etc/docker/certs.d/{site.lab.registry.address}/ca.crt") == site.lab.ca.read_text().strip()
    )


def test_prepare_again_changes_nothing(site: Site) -> None:
    node = site.lab.node("node1")
    before = read_state(node)
    result = site.run_json("prepare", "--yes", "--limit", "node1")
    assert (result.code, nodes(result)["node1"]["state"], nodes(result)["node1"]["changes"]) == (0, "ready", []), (
        result.output
    )
    assert "nothing to do" in site.command.run("prepare", str(site.folder), "--check", "--limit", "node1").stdout
    assert read_state(node) == before


def test_rollout_on_a_prepared_node_commits(site: Site) -> None:
    result = site.run_json("rollout", "--yes", "--limit", "node1")
    assert result.code == 0, result.output
    (record,) = result.document["nodes"]
    assert (record["state"], record["gpu"]["method"]) == ("committed", "driver")


def test_prepare_restarts_an_engine_with_running_containers_only_on_request(site: Site) -> None:
    node = site.lab.node("node1")
    image = node.exec("sh", "-c", "docker images -q | head -n 1")
    node.exec("docker", "run", "-d", "--restart", "unless-stopped", "--entrypoint", "sleep", image, "infinity")
    configuration = json.loads(node.exec("cat", "/etc/docker/daemon.json"))
    del configuration["features"]
    node.exec("tee", "/etc/docker/daemon.json", stdin=json.dumps(configuration))
    node.stop()
    node.start()
    wait = "until [ $(docker ps -q | wc -l) = 1 ]; do sleep 1; done"  # a seat with CDI devices does not start
    node.exec("timeout", "90", "sh", "-c", wait)
    before = read_state(node)
    result = site.run_json("prepare", "--yes", "--limit", "node1")
    assert (result.code, nodes(result)["node1"]["state"]) == (4, "deferred"), result.output
    assert any("restart the engine" in words for words in nodes(result)["node1"]["pending"])
    assert read_state(node) == before
    result = site.run_json("prepare", "--yes", "--limit", "node1", "--restart-engine")
    assert (result.code, nodes(result)["node1"]["state"]) == (0, "prepared"), result.output
    again = site.run_json("rollout", "--yes", "--limit", "node1")
    assert again.code == 0, again.output
    assert site.run_json("status", "--limit", "node1").code == 0


def test_a_package_source_signed_by_another_key_is_refused_and_removed(site: Site) -> None:
    node = site.lab.node("node2")
    wrong = with_docker_packages(site, "wrong", package_source(site.lab, "docker-ce/linux", "other"))
    before = read_state(node)
    result = wrong.run_json("prepare", "--yes", "--limit", "node2")
    assert (result.code, problem_codes(result, "node2")) == (1, ["source_refused"]), result.output
    after = read_state(node)
    assert "provisioner-docker.sources" not in after
    assert [line for line in after.splitlines() if "keyrings" not in line] == [
        line for line in before.splitlines() if "keyrings" not in line
    ]


@pytest.fixture(scope="module")
def debian12_site(testbed: Engine, debian12_packages: Path, program: Path) -> Iterator[Site]:
    """A lab of one bare Debian 12 with a GPU."""
    with bare_lab(testbed, debian12_packages, [BARE_WITH_GPU], release=BOOKWORM) as lab:
        push_base(lab, "2.10.0")
        yield create_bare_site(lab, debian12_packages, program, image=COMPLETE)


def test_missing_compose_v2_on_debian_12_is_reported_before_any_installation(debian12_site: Site) -> None:
    before = read_state(debian12_site.lab.node("node1"))
    for words in (("--check",), ("--yes",)):
        result = debian12_site.run_json("prepare", *words)
        assert (result.code, problem_codes(result, "node1")) == (1, ["no_compose_package"]), result.output
        assert "prepare.docker" in nodes(result)["node1"]["problems"][0]["fix"]
    assert read_state(debian12_site.lab.node("node1")) == before


def test_debian_12_with_packages_of_docker_is_prepared_and_rolled_out(debian12_site: Site) -> None:
    """Docker 20.10 does not support CDI, so NVIDIA's hook adds the GPUs to its containers."""
    docker = package_source(debian12_site.lab, "docker-ce/linux", "docker-ce")
    docker["uri"] += "/debian"  # the form that people paste
    ready = with_docker_packages(debian12_site, "docker-ce", docker)
    result = ready.run_json("prepare", "--yes")
    assert (result.code, nodes(result)["node1"]["state"]) == (0, "prepared"), result.output
    assert "docker-ce" in debian12_site.lab.node("node1").exec("dpkg-query", "-W", "docker-ce")
    facts = ready.run_json("probe").document["nodes"][0]
    assert facts["engine"]["version"].startswith("20.10.")
    assert facts["engine"]["compose_version"].startswith("2.")
    assert (facts["toolkit_mode"], facts["absent_because"]) == ("legacy", {})
    again = ready.run_json("prepare", "--yes")
    assert (again.code, nodes(again)["node1"]["state"], nodes(again)["node1"]["changes"]) == (0, "ready", [])
    rolled = ready.run_json("rollout", "--yes")
    assert rolled.code == 0, rolled.output
    (record,) = rolled.document["nodes"]
    assert (record["state"], record["gpu"]["method"]) == ("committed", "driver")


def with_docker_packages(site: Site, name: str, docker: dict[str, str]) -> Site:
    """Copy the lab directory and take Docker's packages from a mirror; return the copy."""
    folder = site.lab.folder / f"lab-{name}"
    shutil.copytree(site.folder, folder, dirs_exist_ok=True)
    settings = yaml.safe_load((folder / "lab.yml").read_text())
    settings["prepare"]["docker"] = docker
    (folder / "lab.yml").write_text(yaml.safe_dump(settings, sort_keys=False))
    return site._replace(folder=folder)


def test_missing_packages_and_unsupported_distributions_are_reported(site: Site) -> None:
    node = site.lab.node("node2")
    node.exec("sed", "-i", f"s/:{packages.PORT}/:9/", "/etc/apt/sources.list.d/debian.sources")
    result = site.run_json("prepare", "--yes", "--limit", "node2")
    assert (result.code, problem_codes(result, "node2")) == (1, ["no_package"]), result.output
    node.exec("sed", "-i", "s/^ID=.*/ID=plan9/", "/etc/os-release")
    result = site.run_json("prepare", "--check", "--limit", "node2")
    assert (result.code, problem_codes(result, "node2")) == (1, ["unsupported_distribution"]), result.output
