"""The control machine as the registry's host: a bare Debian on which `provision` is installed and runs, as root."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.journeys.conftest import Told, run
from tests.journeys.test_prepare import source
from tests.lab.bare import BOOKWORM
from tests.lab.bed import Lab, bare_lab
from tests.lab.demo import student_key, write_lab
from tests.lab.engine import Engine
from tests.lab.node import Node

pytestmark = pytest.mark.lab

PORT = 5000
SITE = "/opt/provision"
# What pip would have written for the Python of that machine.
PROGRAMS = {"provision": "provisioner", **{f"ansible-{name}": f"ansible {name}" for name in ("playbook", "inventory")}}


@pytest.fixture(scope="module")
def lab(testbed: Engine, older_bare_bed: Path, program: Path) -> Iterator[Lab]:
    """node1 is the control machine; node2 is the only node of its lab, and bare, too."""
    with bare_lab(testbed, older_bare_bed, ["cpu", "cpu"], release=BOOKWORM) as lab:
        control = lab.node("node1")
        write_directory(lab, control, (older_bare_bed / "docker-ce.asc").read_text())
        install(program, control, lab.folder)
        yield lab


def write_directory(lab: Lab, control: Node, key: str) -> None:
    """Where it lies here, it lies there."""
    folder = lab.folder / "lab"
    registry = {"address": f"{control.address}:{PORT}", "managed": True}
    write_lab(lab, folder, registry=registry, prepare={"docker": source(lab, "docker-ce/linux", "docker-ce")})
    (folder / "docker-ce.asc").write_text(key)
    inventory = yaml.safe_load(lab.inventory_text())
    del inventory["nodes"]["hosts"][control.name]
    (folder / "hosts.yml").write_text(yaml.safe_dump(inventory))
    control.exec("mkdir", "-p", str(lab.folder), str(lab.ca.parent))
    for path in (folder, lab.key, lab.known_hosts, lab.ca, student_key(lab).with_suffix(".pub")):
        lab.engine.docker("cp", path, f"{control.container}:{path}")
    control.exec("chown", "-R", "0:0", str(lab.folder))


def install(program: Path, control: Node, scratch: Path) -> None:
    """The wheel and all that it needs, for a Python that may not be the one of this machine."""
    place = program.parents[2]
    (wheel,) = place.glob("*.whl")
    where = ("--target", scratch / "site", "--python-version", "3.11", "--only-binary", ":all:")
    run(sys.executable, "-m", "pip", "install", "-q", *where, "-c", place / "constraints.txt", wheel)
    control.engine.docker("cp", scratch / "site", f"{control.container}:{SITE}")
    for name, module in PROGRAMS.items():
        text = f'#!/bin/sh\nPYTHONPATH={SITE} exec python3 -m {module} "$@"\n'
        control.exec("sh", "-c", f"cat >/usr/local/bin/{name} && chmod 755 /usr/local/bin/{name}", stdin=text)


def prepare(lab: Lab, *words: str) -> Told:
    container = lab.node("node1").container
    done = lab.engine.try_docker("exec", container, "provision", "prepare", lab.folder / "lab", *words, "--json")
    return Told(done.returncode, json.loads(done.stdout), done.stderr)


def test_without_a_host_for_it_the_registry_is_the_control_machines(lab: Lab) -> None:
    control, node = lab.nodes
    looked = prepare(lab, "--check")
    assert looked.code == 3, looked
    assert looked.document["registry"]["state"] == "lacking"
    assert looked.document["registry"]["node"] == control.name
    told = prepare(lab, "--yes")
    assert told.code == 0, told
    assert told.document["registry"]["state"] == "prepared"
    assert {found["node"]: found["state"] for found in told.document["nodes"]} == {node.name: "prepared"}
    ca = control.exec("cat", f"{lab.folder}/lab/registry-ca.pem")
    assert node.exec("cat", f"/etc/docker/certs.d/{control.address}:{PORT}/ca.crt") == ca
    # The engine of the node trusts it and is answered: the image is not there, and nothing else is wrong.
    refused = node.exec("sh", "-c", f"docker pull {control.address}:{PORT}/none:1 2>&1 || true")
    assert "manifest unknown" in refused or "not found" in refused


def test_a_second_time_there_is_nothing_to_do(lab: Lab) -> None:
    told = prepare(lab, "--yes")
    assert (told.code, told.document["registry"]["state"]) == (0, "ready"), told.people
    assert [found["state"] for found in told.document["nodes"]] == ["ready"]
