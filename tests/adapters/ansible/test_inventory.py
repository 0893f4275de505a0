import json
import sys
from pathlib import Path

import pytest

from provisioner.adapters.ansible.inventory import InventoryHost, hosts, registry_host
from provisioner.adapters.ansible.settings import Settings, _programs, environment
from provisioner.domain.values.problem import ProblemError
from tests.adapters.ansible import vaulted

HOSTS = """
nodes:
  hosts:
    n10: {ansible_host: 198.51.100.10}
    n2:
  children:
    gpu:
      hosts:
        n3: {ansible_host: "{{ 7 * 7 }}"}
        n2:
"""


@pytest.fixture
def inventory(tmp_path: Path) -> Path:
    path = tmp_path / "lab/hosts.yml"
    path.parent.mkdir()
    path.write_text(HOSTS)
    return path


def names(inventory: Path, limit: str | None = None) -> list[str]:
    return [host.name for host in hosts(Settings(inventory), limit)]


def test_hosts_keep_the_order_without_duplicates_and_without_a_host_of_the_registry_alone(inventory: Path) -> None:
    inventory.write_text(f"{HOSTS}registry:\n  hosts:\n    store: {{ansible_host: 198.51.100.99}}\n")
    assert registry_host(Settings(inventory)) == InventoryHost("store", "198.51.100.99")
    assert hosts(Settings(inventory), None) == (
        InventoryHost("n10", "198.51.100.10"),
        InventoryHost("n2", None),
        InventoryHost("n3", None),
    )


def test_limit_takes_every_form_of_ansible_pattern(inventory: Path) -> None:
    assert names(inventory, "gpu,~n1.,!n2") == ["n10", "n3"]


def failure(inventory: Path, limit: str | None = None) -> tuple[str, str, str]:
    with pytest.raises(ProblemError) as caught:
        hosts(Settings(inventory), limit)
    (problem,) = caught.value.problems
    return caught.value.ending, problem.code, f"{problem.what} {problem.fix}"


@pytest.mark.parametrize("limit", ["n2,typo", "gpu,!n2,!n3", "", "  "])
def test_a_limit_that_is_empty_or_matches_no_host_is_refused(inventory: Path, limit: str) -> None:
    ending, code, text = failure(inventory, limit)
    assert (ending, code) == ("usage", "no_hosts_matched")
    assert repr(limit) in text
    assert "n10" in text or not limit.strip()


def test_a_killed_ansible_is_not_a_mistake_in_the_inventory(tmp_path: Path) -> None:
    script = tmp_path / "hosts.sh"
    script.write_text("#!/bin/sh\nkill -9 $PPID\n")
    script.chmod(0o755)
    ending, code, text = failure(script)
    assert (ending, code) == ("failed", "ansible_failed")
    assert "signal 9" in text


def test_an_inventory_without_hosts_is_refused(inventory: Path) -> None:
    inventory.write_text("nodes: {hosts: {}}\n")
    ending, code, text = failure(inventory)
    assert (ending, code) == ("usage", "no_hosts_matched")
    assert text.endswith(f"add nodes to {inventory}")


@pytest.mark.parametrize(("text", "limit"), [("a: [b\n", "n2"), (None, None)])
def test_an_unreadable_inventory_is_reported_with_ansibles_message(
    inventory: Path, text: str | None, limit: str | None
) -> None:
    inventory.write_text(text) if text else inventory.unlink()
    ending, code, message = failure(inventory, limit)
    assert (ending, code) == ("usage", "inventory_unreadable")
    assert str(inventory) in message
    assert "parse" in message


def test_what_ansible_prints_beside_the_document_does_not_count(
    inventory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (inventory.parent / "ansible.cfg").write_text("[defaults]\nverbosity = 4\nstdout_callback = none\n")
    monkeypatch.setenv("ANSIBLE_DEBUG", "1")
    assert names(inventory) == ["n10", "n2", "n3"]


def test_a_group_written_twice_is_refused_or_warned_of_as_the_user_of_ansible_decides(inventory: Path) -> None:
    inventory.write_text("all: {children: {a: {hosts: {n1: {}}}, a: {hosts: {n2: {}}}}}\n")
    assert "duplicate mapping key 'a'" in failure(inventory)[2]
    (inventory.parent / "ansible.cfg").write_text("[defaults]\nduplicate_dict_key = warn\n")
    warnings: list[str] = []
    assert [host.name for host in hosts(Settings(inventory, on_warning=warnings.append), None)] == ["n2"]
    assert ["duplicate mapping key 'a'" in text for text in warnings] == [True]


@pytest.mark.parametrize(
    ("config", "variables", "words"),
    [
        ("forks = many", {}, "/ansible.cfg:2: Config 'DEFAULT_FORKS' from "),
        ("forks = 5\n  timeout = 6", {}, "/ansible.cfg:2: Config 'DEFAULT_FORKS' from "),
        ("\nduplicate_dict_key: perhaps ; maybe", {}, "/ansible.cfg:3: Invalid value 'perhaps' "),
        ("timeout = 10", {"ANSIBLE_TIMEOUT": "10s"}, "ANSIBLE_TIMEOUT: Config 'DEFAULT_TIMEOUT' from "),
        ("", {"ANSIBLE_CONFIG": "/dev/zero"}, "/dev/zero: Unsupported configuration file extension "),
    ],
)
def test_a_setting_that_ansible_refuses_is_named_with_its_line_or_variable(
    inventory: Path, monkeypatch: pytest.MonkeyPatch, config: str, variables: dict[str, str], words: str
) -> None:
    (inventory.parent / "ansible.cfg").write_text(f"[defaults]\n{config}\n")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    ending, code, message = failure(inventory)
    assert (ending, code) == ("usage", "bad_ansible_cfg")
    assert words in message
    assert "Traceback" not in message


FORMS = {
    "not executable": (b"#!/bin/sh\necho '{}'\n", 0o644, "inventory_unreadable", "chmod +x "),
    "no such program": (b"#!/nonexistent\n", 0o755, "no_hosts_matched", "hosts.ini"),
    "byte order mark": (b"\xef\xbb\xbf[gpu]\nn1\n", 0o644, "inventory_unreadable", "without a byte order mark"),
    "UTF-16": ("[gpu]\nn1\n".encode("utf-16"), 0o644, "inventory_unreadable", "without a byte order mark"),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_form_that_ansible_cannot_read_is_named(tmp_path: Path, form: str) -> None:
    content, mode, code, words = FORMS[form]
    path = tmp_path / "hosts.ini"
    path.write_bytes(content)
    path.chmod(mode)
    found = failure(path)
    assert found[:2] == ("usage", code)
    assert words in found[2]


def test_a_mistake_in_a_file_of_variables_is_placed(inventory: Path) -> None:
    folder = inventory.parent / "group_vars"
    (folder / "nodes").mkdir(parents=True)
    (folder / "all.yml").write_text("# one\na: [b\n")
    (folder / "nodes/vault.yml").write_text(vaulted.VARIABLES)
    (folder / "nodes/notes.md").write_text("a: [b\n")
    (folder / "gpu").write_bytes("# 节点\na: 1\n".encode("gbk"))
    ending, code, message = failure(inventory)
    assert (ending, code) == ("usage", "inventory_unreadable")
    assert message.endswith(f" correct {folder}/all.yml:3:1, {folder}/gpu")


def test_programs_of_an_environment_that_was_moved_are_named(
    inventory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ansible-playbook", "ansible-inventory"):
        (tmp_path / name).write_text("#!/nonexistent/bin/python3\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python3"))
    _programs.cache_clear()
    ending, code, message = failure(inventory)
    _programs.cache_clear()
    assert (ending, code) == ("usage", "no_ansible")
    assert message.startswith("ansible-inventory does not start: No such file or directory")


def test_a_home_that_cannot_be_written_is_not_a_fault_of_the_inventory(
    inventory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/dev/null")
    ending, code, message = failure(inventory)
    assert (ending, code) == ("usage", "home_unwritable")
    assert "/dev/null/.ansible" in message


def test_a_host_name_with_other_than_plain_characters_is_refused(inventory: Path) -> None:
    bad = ["-oProxyCommand=touch /tmp/x", "a b", "ümlaut", ".hidden", "a/../b"]
    inventory.write_text(json.dumps({"nodes": {"hosts": {name: {} for name in ("n1", *bad)}}}))
    with pytest.raises(ProblemError) as caught:
        hosts(Settings(inventory), None)
    assert caught.value.ending == "usage"
    assert [problem.code for problem in caught.value.problems] == ["bad_host_name"] * len(bad)
    assert all(repr(name) in problem.what for name, problem in zip(bad, caught.value.problems, strict=True))


def test_a_vault_is_opened_with_the_given_password_file(inventory: Path, tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text(f"{vaulted.PASSWORD}\n")
    folder = inventory.parent / "group_vars/nodes"
    folder.mkdir(parents=True)
    (folder / "vault.yml").write_text(vaulted.VARIABLES)
    assert hosts(Settings(inventory, vault_password_file=password), "n2") == (InventoryHost("n2", "198.51.100.99"),)


def test_the_users_own_ansible_settings_win_over_our_defaults(inventory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANSIBLE_CONFIG", raising=False)
    plain = environment(Settings(inventory), 100)
    assert (plain["ANSIBLE_FORKS"], plain["ANSIBLE_TIMEOUT"], plain["ANSIBLE_PIPELINING"]) == ("50", "10", "True")
    assert "ServerAliveInterval" in plain["ANSIBLE_SSH_ARGS"]
    assert "ANSIBLE_CONFIG" not in plain
    config = inventory.parent / "ansible.cfg"
    config.write_text("[defaults]\nforks = 3\n[ssh_connection]\nssh_args = -o X=%(y)s\npipelining = False ; sudo\n")
    monkeypatch.setenv("ANSIBLE_TIMEOUT", "99")
    own = environment(Settings(inventory), 100)
    assert own["ANSIBLE_CONFIG"] == str(config)
    assert not {"ANSIBLE_FORKS", "ANSIBLE_SSH_ARGS", "ANSIBLE_PIPELINING", "ANSIBLE_TIMEOUT"} & set(own)
    assert environment(Settings(inventory, forks=7), 100)["ANSIBLE_FORKS"] == "7"


def test_forks_do_not_exceed_the_number_of_nodes(inventory: Path) -> None:
    assert environment(Settings(inventory), 3)["ANSIBLE_FORKS"] == "3"


def test_ansible_cfg_is_found_by_variable_then_here_then_in_the_lab(
    inventory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ANSIBLE_CONFIG", raising=False)
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    for folder in (here, inventory.parent):
        (folder / "ansible.cfg").touch()
    found = [environment(Settings(inventory), 1)["ANSIBLE_CONFIG"]]
    here.chmod(0o777)  # world-writable: ignored, as Ansible does
    found.append(environment(Settings(inventory), 1)["ANSIBLE_CONFIG"])
    monkeypatch.setenv("ANSIBLE_CONFIG", "own.cfg")  # there is none: Ansible goes on looking, too
    found.append(environment(Settings(inventory), 1)["ANSIBLE_CONFIG"])
    (here / "own.cfg").touch()
    found.append(environment(Settings(inventory), 1)["ANSIBLE_CONFIG"])
    beside = str(inventory.parent / "ansible.cfg")
    assert found == [str(here / "ansible.cfg"), beside, beside, str(here / "own.cfg")]


def test_an_inventory_without_the_registry_group_has_no_registry_host(inventory: Path) -> None:
    assert registry_host(Settings(inventory)) is None


def test_two_hosts_in_the_registry_group_are_refused_and_one_of_them_may_be_a_node(inventory: Path) -> None:
    inventory.write_text(f"{HOSTS}registry:\n  hosts:\n    n2:\n    store:\n")
    assert names(inventory) == ["n10", "n2", "n3"]
    with pytest.raises(ProblemError) as caught:
        registry_host(Settings(inventory))
    assert (caught.value.ending, caught.value.problems[0].code) == ("usage", "two_registries")


def test_a_jump_is_read_from_the_ssh_arguments_of_a_host_and_only_where_it_is_plain(inventory: Path) -> None:
    """Of several jumps ssh uses the first; a text with anything else in it is none."""
    cases: dict[str, tuple[dict[str, object], str | None]] = {
        "short": ({"ansible_ssh_common_args": "-J jump.lab"}, "jump.lab"),
        "joined": ({"ansible_ssh_extra_args": "-C -Jli@jump.lab:2222"}, "li@jump.lab:2222"),
        "option": ({"ansible_ssh_args": "-o ControlMaster=auto -o ProxyJump=a,li@[2001:db8::1]"}, "a,li@[2001:db8::1]"),
        "blanks": ({"ansible_ssh_common_args": "-o 'proxyjump jump.lab'"}, "jump.lab"),
        "no-space": ({"ansible_ssh_common_args": "-oProxyJump=jump.lab"}, "jump.lab"),
        "order": ({"ansible_ssh_extra_args": "-J second", "ansible_ssh_args": "-J first"}, "first"),
        "off": ({"ansible_ssh_args": "-o ProxyJump=none", "ansible_ssh_extra_args": "-J jump.lab"}, None),
        "command": ({"ansible_ssh_common_args": "-o ProxyCommand='ssh -W %h:%p jump.lab'"}, None),
        "template": ({"ansible_ssh_common_args": "-J {{ jump }}"}, None),
        "flag": ({"ansible_ssh_common_args": "-J -oProxyCommand=id"}, None),
        "shell": ({"ansible_ssh_common_args": "-J 'a;id'"}, None),
        "line": ({"ansible_ssh_common_args": "-J 'a\nProxyCommand id'"}, None),
        "quote": ({"ansible_ssh_common_args": "-J 'a"}, None),
        "last": ({"ansible_ssh_common_args": "-C -J"}, None),
        "list": ({"ansible_ssh_common_args": ["-J", "a"]}, None),
        "none": ({}, None),
    }
    inventory.write_text(json.dumps({"nodes": {"hosts": {name: given for name, (given, _) in cases.items()}}}))
    found = {host.name: host.jump for host in hosts(Settings(inventory), None)}
    assert found == {name: jump for name, (_, jump) in cases.items()}


def test_a_port_is_read_where_it_is_one(inventory: Path) -> None:
    cases = {"number": (2222, 2222), "text": ("2222", 2222), "zero": (0, 22), "high": (65536, 22), "none": (None, 22)}
    cases |= {"template": ("{{ port }}", 22), "negative": (-1, 22), "words": ("22 -J a", 22), "true": (True, 22)}
    given = {name: {"ansible_port": port} for name, (port, _) in cases.items()}
    inventory.write_text(json.dumps({"nodes": {"hosts": given | {"plain": {}}}}))
    found = {host.name: host.port for host in hosts(Settings(inventory), None)}
    assert found == {name: port for name, (_, port) in cases.items()} | {"plain": 22}
