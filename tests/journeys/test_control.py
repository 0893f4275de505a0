"""The registry on the control machine: a bare Debian on which `provision` is installed and runs as root."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.journeys.conftest import CommandResult, run
from tests.journeys.test_prepare import package_source
from tests.lab.bare import BOOKWORM
from tests.lab.bed import Lab, bare_lab
from tests.lab.demo import student_key, write_lab
from tests.lab.engine import Engine
from tests.lab.node import Node

pytestmark = pytest.mark.lab

PORT = 5000
SITE = "/opt/provision"
# Console scripts, as pip writes them for the Python of that machine.
PROGRAMS = {"provision": "provisioner", **{f"ansible-{name}": f"ansible {name}" for name in ("playbook", "inventory")}}


@pytest.fixture(scope="module")
def lab(testbed: Engine, debian12_packages: Path, program: Path) -> Iterator[Lab]:
    """node1 is the control machine; node2 is the only node of its lab. Both are bare."""
    with bare_lab(testbed, debian12_packages, ["cpu", "cpu"], release=BOOKWORM) as lab:
        control = lab.node("node1")
        write_directory(lab, control, (debian12_packages / "docker-ce.asc").read_text())
        install(program, control, lab.folder)
        yield lab


def write_directory(lab: Lab, control: Node, key: str) -> None:
    """Write the lab directory and copy it to the control machine, to the same path."""
    folder = lab.folder / "lab"
    registry = {"address": f"{control.address}:{PORT}", "managed": True}
    write_lab(lab, folder, registry=registry, prepare={"docker": package_source(lab, "docker-ce/linux", "docker-ce")})
    (folder / "docker-ce.asc").write_text(key)
    inventory = yaml.safe_load(lab.inventory_text())
    del inventory["nodes"]["hosts"][control.name]
    (folder / "hosts.yml").write_text(yaml.safe_dump(inventory))
    control.exec("mkdir", "-p", str(lab.folder), str(lab.ca.parent))
    for path in (folder, lab.key, lab.known_hosts, lab.ca, student_key(lab).with_suffix(".pub")):
        lab.engine.docker("cp", path, f"{control.container}:{path}")
    control.exec("chown", "-R", "0:0", str(lab.folder))


def install(program: Path, control: Node, scratch: Path) -> None:
    """Install the wheel and its dependencies for the Python 3.11 of the control machine."""
    place = program.parents[2]
    (wheel,) = place.glob("*.whl")
    where = ("--target", scratch / "site", "--python-version", "3.11", "--only-binary", ":all:")
    run(sys.executable, "-m", "pip", "install", "-q", "--no-compile", *where, "-c", place / "constraints.txt", wheel)
    control.engine.docker("cp", scratch / "site", f"{control.container}:{SITE}")
    for name, module in PROGRAMS.items():
        text = f'#!/bin/sh\nPYTHONPATH={SITE} exec python3 -m {module} "$@"\n'
        control.exec("sh", "-c", f"cat >/usr/local/bin/{name} && chmod 755 /usr/local/bin/{name}", stdin=text)


def prepare(lab: Lab, *words: str) -> CommandResult:
    container = lab.node("node1").container
    done = lab.engine.try_docker("exec", container, "provision", "prepare", lab.folder / "lab", *words, "--json")
    return CommandResult(done.returncode, json.loads(done.stdout), done.stderr)


def test_prepare_sets_up_the_registry_on_the_control_machine_if_no_host_is_named(lab: Lab) -> None:
    control, node = lab.nodes
    check = prepare(lab, "--check")
    assert check.code == 3, check
    assert check.document["registry"]["state"] == "lacking"
    assert check.document["registry"]["node"] == control.name
    result = prepare(lab, "--yes")
    assert result.code == 0, result
    assert result.document["registry"]["state"] == "prepared"
    assert {found["node"]: found["state"] for found in result.document["nodes"]} == {node.name: "prepared"}
    ca = control.exec("cat", f"{lab.folder}/lab/registry-ca.pem")
    assert node.exec("cat", f"/etc/docker/certs.d/{control.address}:{PORT}/ca.crt") == ca
    # The node's engine trusts the registry and gets its answer: the only error is that the image does not exist.
    refused = node.exec("sh", "-c", f"docker pull {control.address}:{PORT}/none:1 2>&1 || true")
    assert "manifest unknown" in refused or "not found" in refused


def test_prepare_again_changes_nothing(lab: Lab) -> None:
    result = prepare(lab, "--yes")
    assert (result.code, result.document["registry"]["state"]) == (0, "ready"), result.output
    assert [found["state"] for found in result.document["nodes"]] == ["ready"]
