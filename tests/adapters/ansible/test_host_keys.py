"""Host keys that ssh does not know, through the real Ansible; ssh is a program that answers as OpenSSH does."""

import os
import sys
from pathlib import Path

import pytest
import yaml

from provisioner.adapters.ansible.host_keys import HostKey, NewHost, known_host_keys, new_hosts, write_host_keys
from provisioner.adapters.ansible.settings import Settings
from provisioner.domain.values.problem import ProblemError

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIO7yfn9YZQZHNOwuHp1UstoeXgwds/WLBwVyWpE5NBSn"
OLD = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB0Xim1UePUhxDZdg2Uzughxq8Kw2n6ihgej86KYuagY"
FINGERPRINTS = "ED25519 SHA256:5J/PosKagI4yNNch5aIce3oYImTTvPPhwyxQhLWX50g"
FAKE_SSH = f"""#!{sys.executable} -IS
import sys
from pathlib import Path

def end(text):
    sys.stderr.write(text + "\\n")
    sys.exit(255)

words, key, own = sys.argv[1:], {KEY!r}, Path(__file__).parent / "known_hosts"
options = dict(reversed([word.split("=", 1) for word in words if "=" in word]))  # the first value counts
files = options.get("UserKnownHostsFile", str(own)).split()
host = next(word for word in reversed(words) if word.startswith(("10.", "ssh://"))).removeprefix("ssh://")
jump = options.get("ProxyJump")
if "-G" in words:
    print("hostname", host)
    print("userknownhostsfile", *files)
    print("proxyjump", jump or "none")
    sys.exit()
known = [line for file in files if Path(file).exists() for line in Path(file).read_text().splitlines()]
if jump and f"{{jump}} {{key}}" not in own.read_text().splitlines():
    end("Host key verification failed.\\nConnection closed by UNKNOWN port 65535")
if f"{{host}} {{key}}" in known:
    end("root@h: Permission denied (publickey).")
if any(line.startswith(f"{{host}} ") for line in known):
    end("@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\\nHost key verification failed.")
if options.get("StrictHostKeyChecking") == "accept-new":
    Path(files[0]).write_text(f"{{host}} {{key}}\\n")
    end("root@h: Permission denied (publickey).")
end("Host key verification failed.")
"""
NODES = ["n1", "n2", "n3", "here"]


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A lab of four nodes: a new one, one behind a jump host, one whose key has changed, and this machine."""
    for name in [name for name in os.environ if name.startswith("ANSIBLE_")]:
        monkeypatch.delenv(name)
    ssh = tmp_path / "ssh"
    ssh.write_text(FAKE_SSH)
    ssh.chmod(0o755)
    monkeypatch.setenv("ANSIBLE_SSH_EXECUTABLE", str(ssh))
    (tmp_path / "known_hosts").write_text(f"10.0.0.3 {OLD}")  # and no line feed at its end
    hosts = {name: {"ansible_host": f"10.0.0.{number}"} for number, name in enumerate(NODES[:3], 1)}
    hosts["n2"]["ansible_ssh_common_args"] = "-o ProxyJump={{ 'ssh://10.0.0.9'[6:] }}"
    hosts["here"] = {"ansible_connection": "local"}
    variables = {"ansible_become": True}
    (tmp_path / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": hosts, "vars": variables}}))
    return Settings(tmp_path / "hosts.yml")


def test_new_keys_are_shown_as_ssh_meets_them_and_a_changed_one_is_not(lab: Settings, tmp_path: Path) -> None:
    found = new_hosts(lab, NODES)
    shown = {node: (host.label, host.jump, host.file, host.fingerprints) for node, host in found.items()}
    file = str(tmp_path / "known_hosts")
    assert shown == {"n1": ("10.0.0.1", False, file, FINGERPRINTS), "n2": ("10.0.0.9", True, file, FINGERPRINTS)}
    assert Path(file).read_text() == f"10.0.0.3 {OLD}"  # to look writes nothing
    write_host_keys(found.values())
    behind = new_hosts(lab, NODES)
    assert {node: (host.label, host.jump) for node, host in behind.items()} == {"n2": ("10.0.0.2", False)}
    write_host_keys(behind.values())
    assert Path(file).read_text().splitlines() == [
        f"10.0.0.3 {OLD}",
        *(f"10.0.0.{number} {KEY}" for number in (1, 9, 2)),
    ]


def test_known_keys_are_those_by_which_ssh_knows_a_node_and_none_is_asked_for(lab: Settings, tmp_path: Path) -> None:
    """Neither a key that ssh refuses now, nor one of two."""
    file = tmp_path / "known_hosts"
    assert known_host_keys(lab, NODES) == {}
    file.write_text(f"10.0.0.1 {KEY}\n10.0.0.3 {OLD}\n")
    assert known_host_keys(lab, NODES) == {"n1": KEY}
    file.write_text(f"10.0.0.1 {KEY}\n10.0.0.1 {OLD}\n10.0.0.2 {KEY}\n10.0.0.9 {KEY}\n")
    assert known_host_keys(lab, NODES) == {"n2": KEY}
    assert known_host_keys(lab, []) == {}


def a_host(file: Path) -> NewHost:
    key = HostKey(line=f"h {KEY}", fingerprint="SHA256:x", type="ED25519")
    return NewHost(label="h", jump=False, file=str(file), keys=(key,), said="")


def test_known_hosts_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    file = tmp_path / "home/.ssh/known_hosts"
    write_host_keys([a_host(file)])
    assert file.read_text() == f"h {KEY}\n"
    assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o600, 0o700)


def test_a_file_that_cannot_be_written_is_a_mistake_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(ProblemError) as caught:
        write_host_keys([a_host(tmp_path)])
    assert (caught.value.ending, caught.value.problems[0].code) == ("usage", "known_hosts_unwritable")
    assert str(tmp_path) in caught.value.problems[0].what
