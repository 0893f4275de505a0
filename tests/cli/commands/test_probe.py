"""`provision probe`: passwords and host keys, without nodes."""

import os
from pathlib import Path

import pytest

from tests.cli.running import document, run

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


def test_a_vault_password_is_asked_for_or_read_from_a_file_not_both(lab: Path) -> None:
    (lab / "ansible.cfg").write_text("[defaults]\nask_vault_pass = True\n")
    password = lab / "password"
    password.touch()
    result = run("probe", str(lab), "--ask-vault-pass", "--vault-password-file", str(password), "--json")
    assert (result.exit_code, document(result)["problems"][0]["code"]) == (2, "usage")
