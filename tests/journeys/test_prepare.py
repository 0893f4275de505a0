"""Freshly installed machines are prepared for seats. Each test starts from the state that the one before it left."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.journeys.conftest import QUICK, CommandResult, Site
from tests.lab import packages
from tests.lab.bed import Lab, bare_lab
from tests.lab.demo import Command, write_lab
from tests.lab.engine import Engine
from tests.lab.gpus import profile_text
from tests.lab.node import Node

pytestmark = pytest.mark.lab

BARE_WITH_GPU = "toolkit = none\n" + profile_text("rtx4090-570")
# Prints what `prepare` may change only on request: packages, sources, configuration of the engine, containers.
READ_STATE = (
    "dpkg-query -W; find /etc/apt /etc/docker /etc/cdi -type f -exec sha256sum {} + | sort;"
    " cat /var/run/docker.pid; docker ps -q"
)

# Makes an image of one program, and runs it.
SLEEPER = "tar -chC / $(ldd /usr/bin/sleep | grep -o '/[^ )]*') /usr/bin/sleep | docker import - sleeper"
SLEEP = "docker run -d --restart unless-stopped --stop-signal KILL sleeper sleep infinity"
UNTIL_IT_RUNS = "until [ $(docker ps -q | wc -l) = 1 ]; do sleep 1; done"


@pytest.fixture(scope="module")
def site(testbed: Engine, debian13_packages: Path, program: Path) -> Iterator[Site]:
    """One node with a GPU and one without; none has an engine. The test serves the packages."""
    with bare_lab(testbed, debian13_packages, [BARE_WITH_GPU, "cpu"]) as lab:
        yield create_bare_site(lab, debian13_packages, program)


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
        node.exec("cat", f"/etc/docker/certs.d/{site.lab.registry.address}/provisioner.crt")
        == site.lab.ca.read_text().strip()
    )


def test_prepare_again_changes_nothing(site: Site) -> None:
    node = site.lab.node("node1")
    before = read_state(node)
    done = site.command.run("prepare", str(site.folder), "--yes", "--limit", "node1")
    assert done.returncode == 0, done.stderr
    assert "nothing to do" in done.stdout
    assert read_state(node) == before


def test_prepare_restarts_an_engine_with_running_containers_only_on_request(site: Site) -> None:
    node = site.lab.node("node1")
    node.exec("sh", "-c", f"{SLEEPER} && {SLEEP}")
    configuration = json.loads(node.exec("cat", "/etc/docker/daemon.json"))
    del configuration["features"]
    node.exec("tee", "/etc/docker/daemon.json", stdin=json.dumps(configuration))
    node.stop()
    node.start()
    node.exec("timeout", "90", "sh", "-c", UNTIL_IT_RUNS)
    before = read_state(node)
    result = site.run_json("prepare", "--yes", "--limit", "node1")
    assert (result.code, nodes(result)["node1"]["state"]) == (4, "deferred"), result.output
    assert any("restart the engine" in words for words in nodes(result)["node1"]["pending"])
    assert read_state(node) == before
    result = site.run_json("prepare", "--yes", "--limit", "node1", "--restart-engine")
    assert (result.code, nodes(result)["node1"]["state"]) == (0, "prepared"), result.output
    node.exec("timeout", "90", "sh", "-c", UNTIL_IT_RUNS)
    assert json.loads(node.exec("docker", "info", "-f", "{{json .}}"))["CDISpecDirs"]


def test_package_sources_of_another_key_or_without_lists_are_refused_by_name_and_removed(site: Site) -> None:
    node = site.lab.node("node2")
    sources = [package_source(site.lab, "docker-ce/linux", "other"), package_source(site.lab, "none", "docker-ce")]
    wrong = with_docker_packages(site, "wrong", sources)
    before = read_state(node)
    result = wrong.run_json("prepare", "--yes", "--limit", "node2")
    assert (result.code, problem_codes(result, "node2")) == (1, ["source_refused"]), result.output
    what = nodes(result)["node2"]["problems"][0]["what"]
    assert all(source["uri"] in what for source in sources)
    after = read_state(node)
    assert "provisioner-docker.sources" not in after
    assert [line for line in after.splitlines() if "keyrings" not in line] == [
        line for line in before.splitlines() if "keyrings" not in line
    ]


def with_docker_packages(site: Site, name: str, docker: list[dict[str, str]]) -> Site:
    """Copy the lab directory and take Docker's packages from these mirrors; return the copy."""
    folder = site.lab.folder / f"lab-{name}"
    shutil.copytree(site.folder, folder, dirs_exist_ok=True)
    settings = yaml.safe_load((folder / "lab.yml").read_text())
    settings["prepare"]["docker"] = docker
    (folder / "lab.yml").write_text(yaml.safe_dump(settings, sort_keys=False))
    return site._replace(folder=folder)


def test_missing_packages_are_reported(site: Site) -> None:
    node = site.lab.node("node2")
    node.exec("sed", "-i", f"s/:{packages.PORT}/:9/", "/etc/apt/sources.list.d/debian.sources")
    result = site.run_json("prepare", "--yes", "--limit", "node2")
    assert (result.code, problem_codes(result, "node2")) == (1, ["no_package"]), result.output
