"""Labs as a whole: reachability, faults of nodes, and complete removal."""

import pytest
import yaml

from tests.lab.bed import Lab
from tests.lab.engine import Engine
from tests.lab.fixtures import MakeLab
from tests.lab.host import BedError
from tests.lab.images import make_small
from tests.lab.networks import LABEL
from tests.lab.node import Node

pytestmark = [pytest.mark.lab, pytest.mark.long("bed")]


def ssh(lab: Lab, node: Node, command: str) -> str:
    return node.ssh(lab.key, lab.known_hosts, command)


def test_admin_logs_in_with_checked_host_keys(lab3: Lab) -> None:
    assert ssh(lab3, lab3.nodes[0], "sudo -n id -u; hostname").split() == ["0", "node1"]


def test_inventory_has_addresses_and_checked_host_keys(lab3: Lab) -> None:
    nodes = yaml.safe_load(lab3.inventory.read_text())["nodes"]
    assert {name: host["ansible_host"] for name, host in nodes["hosts"].items()} == {
        n.name: n.address for n in lab3.nodes
    }
    assert nodes["vars"]["ansible_ssh_common_args"] == f"-o UserKnownHostsFile={lab3.known_hosts}"


def test_nodes_reach_their_registry_and_nothing_else(lab3: Lab) -> None:
    def get(address: str) -> str:
        return ssh(lab3, lab3.nodes[0], f"curl -sk -m 2 -o /dev/null -w '%{{http_code}}' https://{address}/v2/ || true")

    assert get(lab3.registry.address) == "200"
    assert get(lab3.mirror.address) == "000"


def test_proc_and_sys_show_driver_and_pci_devices(lab3: Lab) -> None:
    read = "sudo sh -c 'head -1 $PROVISIONER_PROC_ROOT/driver/nvidia/version; ls $PROVISIONER_SYS_ROOT/bus/pci/devices'"
    first, *buses = ssh(lab3, lab3.nodes[0], read).splitlines()
    assert first.startswith("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build")
    assert buses == ["0000:01:00.0", "0000:41:00.0"]
    first, *buses = ssh(lab3, lab3.nodes[2], read).splitlines()
    assert first.startswith("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  ")
    assert buses == ["0000:1a:00.0"]


def test_faults_and_clean_up(testbed: Engine, make_lab: MakeLab) -> None:
    lab = make_lab(["rtx4090-570", "none"], trust_registry=False, auth=("student", "s3cret"))
    first, second = lab.nodes
    first.pause()
    assert not first.answers()
    first.unpause()
    first.wait()
    second.disconnect()
    assert not second.answers()
    second.connect()
    second.wait()

    image = f"lab/{lab.prefix}-private"
    make_small(testbed, image)
    lab.registry.push(image, "selftest/private:1")
    testbed.docker("rmi", image)
    reference = f"{lab.registry.address}/selftest/private:1"
    with pytest.raises(BedError, match="certificate signed by unknown authority"):
        first.exec("docker", "pull", "-q", reference)
    trusted = f"/etc/docker/certs.d/{lab.registry.address}"
    first.exec("sh", "-c", f"mkdir -p {trusted} && cat >{trusted}/ca.crt", stdin=lab.ca.read_text())
    with pytest.raises(BedError, match="no basic auth credentials"):
        first.exec("docker", "pull", "-q", reference)
    first.exec("docker", "login", "-u", "student", "--password-stdin", lab.registry.address, stdin="s3cret")
    first.exec("docker", "pull", "-q", reference)
    second.exec("sh", "-c", "tar -c /etc/hostname | docker import - tiny")
    with pytest.raises(BedError, match="could not select device driver"):
        second.exec("docker", "run", "--rm", "--gpus", "all", "tiny", "true")

    first.kill()
    first.start()
    assert reference.rpartition(":")[0] in first.exec("docker", "images")

    lab.down()
    for kind in ("container", "volume", "network"):
        everything = ["-a"] if kind == "container" else []
        assert not testbed.docker(kind, "ls", "-q", *everything, "--filter", f"label={LABEL}={lab.prefix}")
    assert not lab.folder.exists()
    lab.up(["cpu"])
    assert lab.nodes[0].answers()


def test_sshd_only_nodes(make_lab: MakeLab) -> None:
    lab = make_lab(["cpu"], engines=False)
    assert lab.nodes[0].answers()
    with pytest.raises(BedError, match="Cannot connect to the Docker daemon"):
        lab.nodes[0].exec("docker", "ps")
