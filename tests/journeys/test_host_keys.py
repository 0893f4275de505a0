"""New host keys through a real sshd, ssh and Ansible: of a jump host and of a node that is reached only through it."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest
import yaml

from tests.lab.bed import Lab, make_key, running_lab
from tests.lab.demo import write_lab
from tests.lab.engine import Engine
from tests.lab.host import run
from tests.lab.node import USER

pytestmark = pytest.mark.lab

SSH_CONFIG = """
Host {jump} {node}
  User {user}
  IdentityFile {key}
  UserKnownHostsFile {known_hosts}
Host {node}
  ProxyJump {jump}
"""


@pytest.fixture(scope="module")
def lab(testbed: Engine) -> Iterator[Lab]:
    """A lab whose second node does not answer this machine, and whose host keys ssh does not know."""
    with running_lab(testbed, ["none", "none"], engines=False) as lab:
        jump, node = (node.address for node in lab.nodes)
        lab.node("node2").exec("ip", "route", "add", "blackhole", f"{lab.gateway}/32")
        write_lab(lab, lab.folder / "lab")
        config = lab.folder / "lab/ssh_config"
        config.write_text(
            SSH_CONFIG.format(jump=jump, node=node, user=USER, key=lab.key, known_hosts=lab.folder / "lab/known_hosts")
        )
        hosts = {node.name: {"ansible_host": node.address} for node in lab.nodes}
        variables = {"ansible_ssh_common_args": f"-F {config}", "ansible_become": True}
        inventory = {"nodes": {"hosts": hosts, "vars": variables}}
        (lab.folder / "lab/hosts.yml").write_text(yaml.safe_dump(inventory))
        yield lab


def probe(lab: Lab) -> "pexpect.spawn[str]":
    """Start a probe on a terminal."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    environment |= {name: str(lab.folder / "state") for name in ("XDG_STATE_HOME", "XDG_CACHE_HOME")}
    words = ["-m", "provisioner", "probe", str(lab.folder / "lab"), "--accept-new-host-keys"]
    return pexpect.spawn(sys.executable, words, env=environment, encoding="utf-8", timeout=120, dimensions=(50, 200))


def fingerprint(key: Path) -> str:
    return run("ssh-keygen", "-l", "-f", key).stdout.split()[1]


def test_keys_of_a_jump_host_and_of_a_node_behind_it_are_shown_accepted_and_used(lab: Lab) -> None:
    known = lab.folder / "lab/known_hosts"
    jump, node = ((node.folder / "ssh_host_ed25519_key.pub", node.address) for node in lab.nodes)
    child = probe(lab)
    for (key, _), lines in ((jump, 0), (node, 1)):
        child.expect(r"Are these the right fingerprints\?")
        assert fingerprint(key) in str(child.before)
        assert len(known.read_text().splitlines() if known.exists() else []) == lines
        child.sendline("y")
    child.expect("2 of 2 nodes answered")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
    expected = [f"{address} {' '.join(key.read_text().split()[:2])}" for key, address in (jump, node)]
    assert known.read_text().splitlines() == expected


def test_a_changed_key_behind_a_jump_host_is_never_asked_about(lab: Lab) -> None:
    """It ends as a problem of its node, and known_hosts stays as it is."""
    other, known = lab.folder / "other_ed25519", lab.folder / "lab/known_hosts"
    make_key(other)
    jump, node = (node.address for node in lab.nodes)
    first = f"{jump} {lab.node('node1').host_key()}\n"
    known.write_text(f"{first}{node} {' '.join(other.with_suffix('.pub').read_text().split()[:2])}\n")
    before = known.read_text()
    child = probe(lab)
    child.expect(pexpect.EOF)
    child.close()
    shown = str(child.before)
    assert child.exitstatus == 1
    assert "1 of 2 nodes answered" in shown
    assert "host_key_changed" in shown
    assert "Are these the right fingerprints" not in shown
    assert known.read_text() == before
