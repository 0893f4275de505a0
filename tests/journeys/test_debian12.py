"""Debian 12: packages of Docker in place of its own, and a registry on the control machine.

Each test starts from the state that the one before it left.
"""

import json
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from tests.journeys.conftest import COMPLETE, CommandResult, Site, run
from tests.journeys.test_prepare import (
    BARE_WITH_GPU,
    create_bare_site,
    nodes,
    package_source,
    problem_codes,
    read_state,
    with_docker_packages,
)
from tests.lab.bare import BOOKWORM
from tests.lab.bed import bare_lab
from tests.lab.demo import student_key
from tests.lab.engine import Engine
from tests.lab.node import Node
from tests.lab.packages import LISTS_ONLY
from tests.playbooks.on_nodes import push_base

pytestmark = pytest.mark.lab

PORT = 5000
PLACE = "/opt/provision"
# Console scripts, as pip writes them for the Python of the control machine.
PROGRAMS = {"provision": "provisioner", **{f"ansible-{name}": f"ansible {name}" for name in ("playbook", "inventory")}}


@pytest.fixture(scope="module")
def site(testbed: Engine, debian12_packages: Path, program: Path) -> Iterator[Site]:
    """A lab of one node with a GPU; node2 will be its control machine. Both are bare."""
    with bare_lab(testbed, debian12_packages, [BARE_WITH_GPU, "cpu"], release=BOOKWORM) as lab:
        push_base(lab, "2.10.0")
        site = create_bare_site(lab, debian12_packages, program, image=COMPLETE)
        inventory = yaml.safe_load(lab.inventory_text())
        del inventory["nodes"]["hosts"]["node2"]
        (site.folder / "hosts.yml").write_text(yaml.safe_dump(inventory))
        yield site


def test_missing_compose_v2_on_debian_12_is_reported_before_any_installation(site: Site) -> None:
    before = read_state(site.lab.node("node1"))
    result = site.run_json("prepare", "--yes")
    assert (result.code, problem_codes(result, "node1")) == (1, ["no_compose_package"]), result.output
    assert "prepare.docker" in nodes(result)["node1"]["problems"][0]["fix"]
    assert read_state(site.lab.node("node1")) == before


def test_debian_12_with_packages_of_docker_is_prepared_and_rolled_out(site: Site) -> None:
    """Docker 20.10 does not support CDI, so NVIDIA's hook adds the GPUs to its containers."""
    ready = with_packages_of_docker(site)
    result = ready.run_json("prepare", "--yes")
    assert (result.code, nodes(result)["node1"]["state"]) == (0, "prepared"), result.output
    assert "docker-ce" in site.lab.node("node1").exec("dpkg-query", "-W", "docker-ce")
    used = site.lab.node("node1").exec("cat", "/etc/apt/sources.list.d/provisioner-docker.sources")
    assert LISTS_ONLY not in used
    facts = ready.run_json("probe").document["nodes"][0]
    assert facts["engine"]["version"].startswith("20.10.")
    assert facts["engine"]["compose_version"].startswith("2.")
    assert (facts["toolkit_mode"], facts["absent_because"]) == ("legacy", {})
    rolled = ready.run_json("rollout", "--yes")
    assert rolled.code == 0, rolled.output
    (record,) = rolled.document["nodes"]
    assert (record["state"], record["gpu"]["method"]) == ("committed", "driver")


def with_packages_of_docker(site: Site) -> Site:
    """The first source has no more than the lists of the packages; addresses have the form that people paste."""
    sources = [package_source(site.lab, f"{place}docker-ce/linux", "docker-ce") for place in (f"{LISTS_ONLY}/", "")]
    return with_docker_packages(site, "docker-ce", [{**source, "uri": f"{source['uri']}/debian"} for source in sources])


@pytest.fixture(scope="module")
def control(site: Site, program: Path) -> Node:
    """node2 as a control machine on which `provision` is installed and runs as root."""
    node = site.lab.node("node2")
    ready = with_packages_of_docker(site)
    path = ready.folder / "lab.yml"
    settings = yaml.safe_load(path.read_text())
    settings["registry"] = {"address": f"{node.address}:{PORT}", "managed": True}
    path.write_text(yaml.safe_dump(settings))
    copy_to_control(ready, node)
    install(program, node, site.lab.folder, python="3.11")
    return node


def copy_to_control(site: Site, control: Node) -> None:
    """Copy the lab directory to the same path."""
    lab = site.lab
    control.exec("mkdir", "-p", str(lab.folder), str(lab.ca.parent))
    for item in (site.folder, lab.key, lab.known_hosts, lab.ca, student_key(lab).with_suffix(".pub")):
        lab.engine.docker("cp", item, f"{control.container}:{item}")
    control.exec("chown", "-R", "0:0", str(lab.folder))


def install(program: Path, control: Node, scratch: Path, *, python: str, core: str = "") -> None:
    """Install the wheel for the Python of the control machine, with the locked versions of its dependencies.

    `core`: another version of ansible-core, such as 2.21.
    """
    place = program.parents[2]
    (wheel,) = place.glob("*.whl")
    locked = (place / "constraints.txt").read_text().splitlines()
    kept = [line for line in locked if not (core and line.startswith("ansible-core=="))]
    (scratch / "constraints.txt").write_text("\n".join(kept))
    # pip takes conditions such as python_version from the Python that runs it, so it gets names without conditions.
    needs = sorted({Requirement(line).name for line in metadata.requires("lab-provisioner") or ()} - {"ansible-core"})
    needs.append(f"ansible-core=={core}.*" if core else "ansible-core")
    where = ("--target", scratch / "site", "--python-version", python, "--only-binary", ":all:")
    pip = (sys.executable, "-m", "pip", "install", "-q", "--no-compile", *where)
    run(*pip, "-c", scratch / "constraints.txt", *needs)
    run(*pip, "--no-deps", wheel)
    control.engine.docker("cp", scratch / "site", f"{control.container}:{PLACE}")
    for name, module in PROGRAMS.items():
        text = f'#!/bin/sh\nPYTHONPATH={PLACE} exec python3 -m {module} "$@"\n'
        control.exec("sh", "-c", f"cat >/usr/local/bin/{name} && chmod 755 /usr/local/bin/{name}", stdin=text)


def test_prepare_sets_up_the_registry_on_the_control_machine_if_no_host_is_named(site: Site, control: Node) -> None:
    """The node is ready except for the CA of the new registry; its engine and its seat keep running."""
    node, folder = site.lab.node("node1"), site.lab.folder / "lab-docker-ce"
    before = read_state(node)
    done = site.lab.engine.try_docker("exec", control.container, "provision", "prepare", folder, "--yes", "--json")
    result = CommandResult(done.returncode, json.loads(done.stdout), done.stderr)
    assert result.code == 0, result
    registry, prepared = result.document["registry"], nodes(result)["node1"]
    assert (registry["state"], registry["node"], prepared["state"]) == ("prepared", control.name, "prepared")
    assert len(prepared["changes"]) == 1
    ca = control.exec("cat", f"{folder}/registry-ca.pem")
    trusted = f"/etc/docker/certs.d/{control.address}:{PORT}/provisioner.crt"
    assert node.exec("cat", trusted) == ca
    assert [line for line in read_state(node).splitlines() if trusted not in line] == before.splitlines()
    # The node's engine trusts the registry and gets its answer: the only error is that the image does not exist.
    refused = node.exec("sh", "-c", f"docker pull {control.address}:{PORT}/none:1 2>&1 || true")
    assert "manifest unknown" in refused or "not found" in refused
    listening = {line.split()[3] for line in control.exec("ss", "-ltnH").splitlines()}
    assert {f"127.0.0.1:{PORT + 1}"} == {where for where in listening if where.endswith(f":{PORT + 1}")}
