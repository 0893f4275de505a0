"""`provision probe`: passwords and host keys, without nodes."""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pexpect
import pytest

from provisioner.adapters.ansible.host_keys import HostKey, NewHost
from provisioner.domain.values.node import RunningSeat
from tests.adapters.ansible import vaulted
from tests.builders import a_node
from tests.cli.running import document, run

MODULE = "provisioner.cli.commands.probe"
LAB = """
name: physics
mirror: {address: "127.0.0.1:5999", plain_http: true}
registry: {address: "127.0.0.1:5998", plain_http: true}
"""


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith("ANSIBLE_")]:
        monkeypatch.delenv(name)
    (tmp_path / "lab.yml").write_text(LAB)
    (tmp_path / "hosts.yml").write_text("all: {hosts: {g1: {}}, vars: {ansible_connection: local}}\n")
    return tmp_path


@pytest.mark.parametrize(
    ("words", "config", "kind"),
    [
        (["-K"], "", "sudo (become)"),
        (["-k", "--ask-become-pass"], "", "SSH and sudo (become)"),
        (["--ask-vault-pass"], "", "vault"),
        ([], "[privilege_escalation]\nbecome_ask_pass = True\n", "sudo (become)"),
        ([], "[defaults]\nask_vault_pass = True\n", "vault"),
    ],
)
@pytest.mark.parametrize("verb", [["probe"], ["rollout", "--yes"], ["prepare", "--check"]], ids=lambda verb: verb[0])
def test_a_password_that_is_asked_for_is_exit_2_without_a_terminal(
    lab: Path, verb: list[str], words: list[str], config: str, kind: str
) -> None:
    (lab / "ansible.cfg").write_text(config)
    result = run(verb[0], str(lab), *verb[1:], *words, "--json")
    (problem,) = document(result)["problems"]
    assert (result.exit_code, problem["code"]) == (2, "password_needed")
    assert f"({kind})" in problem["what"]


def processes_with(secret: bytes) -> set[str]:
    found = set()
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # the process has ended
            found |= {path.name for name in ("cmdline", "environ") if secret in (path / name).read_bytes()}
    return found


def test_each_password_is_asked_for_once_and_is_in_no_process_or_file(lab: Path) -> None:
    (lab / "ansible.cfg").write_text("[privilege_escalation]\nbecome_ask_pass = True\n")
    (lab / "hosts.yml").write_text("all: {hosts: {g1: {}}}\n")
    (lab / "group_vars").mkdir()
    (lab / "group_vars/all.yml").write_text(vaulted.VARIABLES)
    argv = ["-m", "provisioner", "probe", str(lab), "--ask-vault-pass"]
    state = lab / "state"
    environment = os.environ | {"XDG_STATE_HOME": str(state), "XDG_CACHE_HOME": str(state)}
    child = pexpect.spawn(sys.executable, argv, env=environment, encoding="utf-8", timeout=60)
    child.expect("BECOME password: ")
    child.sendline("b3come-s3cret")
    child.expect("Vault password: ")
    child.sendline(vaulted.PASSWORD)
    seen = set()
    while child.expect([pexpect.EOF, pexpect.TIMEOUT], timeout=0.3):
        seen |= processes_with(b"s3cret")
        seen |= {str(path) for path in Path("/tmp").glob(f"prov-{child.pid}-*/**/*") if is_secret(path)}
    child.close()
    assert "1 of 1 node answered" in child.before
    assert ("password" in child.before, child.exitstatus, seen) == (False, 0, set())
    assert not [path for path in lab.rglob("*") if is_secret(path)]


def is_secret(path: Path) -> bool:
    with suppress(OSError):  # a folder, or it has been removed
        return b"s3cret" in path.read_bytes()
    return False


def test_a_vault_password_is_asked_for_or_read_from_a_file_not_both(lab: Path) -> None:
    (lab / "ansible.cfg").write_text("[defaults]\nask_vault_pass = True\n")
    password = lab / "password"
    password.touch()
    result = run("probe", str(lab), "--ask-vault-pass", "--vault-password-file", str(password), "--json")
    assert (result.exit_code, document(result)["problems"][0]["code"]) == (2, "usage")


@pytest.mark.parametrize("words", [[], ["--json"]])
def test_no_host_key_is_accepted_without_a_terminal(lab: Path, words: list[str]) -> None:
    result = run("probe", str(lab), "--accept-new-host-keys", *words, stdin="y\n")
    assert result.exit_code == 2
    assert "nobody_to_ask" in result.output


def test_yes_is_no_option_that_accepts_a_host_key(lab: Path) -> None:
    result = run("probe", str(lab), "--accept-new-host-keys", "--yes")
    assert (result.exit_code, "--yes" in result.output) == (2, True)


def a_new_host(label: str, file: Path, *, jump: bool = False, salt: str = "") -> NewHost:
    key = HostKey(line=f"{salt}{label} ssh-ed25519 AAAA", fingerprint=f"SHA256:{label}", type="ED25519")
    return NewHost(label=label, jump=jump, file=str(file), keys=(key,), said="")


@pytest.fixture
def answer(lab: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], tuple[str, list[Sequence[str]]]]:
    """Return the text shown, and the nodes asked in each round. g1 and g2 are behind one jump host, g3 is not."""
    known, asked = lab / "known_hosts", list[Sequence[str]]()
    rounds = [
        {node: a_new_host("jump", known, jump=True, salt=node) for node in ("g1", "g2")}
        | {"g3": a_new_host("g3", known)},
        {"g1": a_new_host("g1", known)},
        {},
    ]

    def new_hosts(_: Any, nodes: Sequence[str]) -> Mapping[str, NewHost]:
        asked.append(nodes)
        return rounds[len(asked) - 1]

    monkeypatch.setattr(f"{MODULE}.new_hosts", new_hosts)
    monkeypatch.setattr(f"{MODULE}.probe_nodes", lambda *_: {})
    monkeypatch.setattr("provisioner.cli.output.Output.require_terminal", lambda *_: None)
    (lab / "hosts.yml").write_text("all: {hosts: {g1: {}, g2: {}, g3: {}}}\n")

    def invoke(answers: str) -> tuple[str, list[Sequence[str]]]:
        return run("probe", str(lab), "--accept-new-host-keys", stdin=answers).output, asked

    return invoke


def test_accepted_keys_are_written_once_and_what_is_behind_a_jump_host_is_asked_for_next(
    lab: Path, answer: Callable[[str], tuple[str, list[Sequence[str]]]]
) -> None:
    shown, asked = answer("y\ny\n")
    assert "jump host to g[1-2]" in shown
    assert "SHA256:jump" in shown
    assert asked == [["g1", "g2", "g3"], ["g1", "g2"], []]
    lines = (lab / "known_hosts").read_text().splitlines()
    assert [line.split()[0] for line in lines] == ["g1jump", "g3", "g1"]


def test_after_a_no_nothing_is_written(lab: Path, answer: Callable[[str], tuple[str, list[Sequence[str]]]]) -> None:
    shown, asked = answer("n\n")
    assert "No key was accepted." in shown
    assert len(asked) == 1
    assert not (lab / "known_hosts").exists()


def test_json_has_the_hash_of_each_file_of_a_seat_instead_of_its_text(
    lab: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seat = RunningSeat(name="physics-li", generation=3, image="lab@sha256:0", files={"compose.yaml": "name: li\n"})
    monkeypatch.setattr(f"{MODULE}.probe_nodes", lambda *_: {"g1": a_node("g1", seats=(seat,))})
    result = run("probe", str(lab), "--json")
    (node,) = document(result)["nodes"]
    assert node["seats"][0]["files"] == {
        "compose.yaml": "sha256:49455842c0c3ba9bc8374bb6e7b47f77220844b8fe695fe729d2fd0b02684477"
    }
    assert "name: li" not in result.stdout
