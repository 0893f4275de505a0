"""What Ansible is started with: the user's own configuration, our defaults, and nothing that ansible-runner adds."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from provisioner.adapters import resources
from provisioner.adapters.ansible.play import play_folder, runner_config
from provisioner.adapters.ansible.settings import Passwords, Settings, _programs, asked_passwords, environment
from provisioner.domain.values.problem import ProblemError


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A lab; no other ansible.cfg and no variable of Ansible is in its way."""
    for name in [name for name in os.environ if name.startswith("ANSIBLE_")]:
        monkeypatch.delenv(name)
    for name in ("home", "here", "lab"):
        (tmp_path / name).mkdir()
    (tmp_path / "lab/hosts.yml").write_text("all: {hosts: {n1: {}}}\n")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "lab"


def started(lab: Path, **options: Any) -> Any:
    """Return how ansible-runner would start Ansible: env, cwd, command."""
    with play_folder({"n1": "{}"}) as folder:
        return runner_config(Settings(lab / "hosts.yml", **options), folder, "probe", 1, {})


def test_host_keys_are_checked_as_the_user_of_ansible_decides(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "ANSIBLE_HOST_KEY_CHECKING" not in started(lab).env
    monkeypatch.setenv("ANSIBLE_HOST_KEY_CHECKING", "no")
    assert started(lab).env["ANSIBLE_HOST_KEY_CHECKING"] == "no"


def test_nothing_else_is_set_that_a_user_of_ansible_does_not_expect(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (lab / "ansible.cfg").write_text("[defaults]\ncallback_plugins = mine:~/theirs\nmodule_utils = utils\n")
    for name, value in {"JOB_ID": "build-7", "AD_HOC_COMMAND_ID": "x", "ANSIBLE_STDOUT_CALLBACK": "yaml"}.items():
        monkeypatch.setenv(name, value)
    config = started(lab)
    set_by_runner = {name for name in config.env if name.startswith("ANSIBLE_")} - set(os.environ)
    assert set_by_runner - environment(Settings(lab / "hosts.yml"), 1).keys() == {
        "ANSIBLE_CALLBACK_PLUGINS",
        "ANSIBLE_MODULE_UTILS",
        "ANSIBLE_RETRY_FILES_ENABLED",
        "ANSIBLE_SSH_CONTROL_PATH_DIR",
    }
    assert config.env["ANSIBLE_CALLBACK_PLUGINS"].startswith(f"{lab}/mine:{lab.parent}/home/theirs:")
    assert config.env["ANSIBLE_MODULE_UTILS"].endswith(f"/module_utils:{lab}/utils")
    assert config.env["ORIGINAL_STDOUT_CALLBACK"] == "default"
    assert not {"JOB_ID", "AD_HOC_COMMAND_ID"} & config.env.keys()
    assert config.cwd == str(lab.parent / "here")
    monkeypatch.setenv("ANSIBLE_MODULE_UTILS", "/own")
    assert started(lab).env["ANSIBLE_MODULE_UTILS"].endswith("/module_utils:/own")


def test_the_users_own_ansible_cfg_at_home_wins_over_our_defaults(lab: Path) -> None:
    config = lab.parent / "home/.ansible.cfg"
    config.write_text("[defaults]\nforks = 3\ntimeout = 99\n")
    found = environment(Settings(lab / "hosts.yml"), 100)
    assert found["ANSIBLE_CONFIG"] == str(config)
    assert not {"ANSIBLE_FORKS", "ANSIBLE_TIMEOUT"} & found.keys()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"host_key_checking = False\n", ":1: no section such as [defaults] comes before 'host_key_checking = False'"),
        (b"\xef\xbb\xbf[defaults]\nforks = 5\n", ":1: the file begins with a byte order mark"),
        ("[defaults]\nforks = 5\n".encode("utf-16"), ":1: the file is in UTF-16"),
        (b"[defaults]\nforks 5 = \n= x\n", ":3: not NAME = VALUE: '= x\\n'"),
        (b"[defaults]\nforks\n", ":2: not NAME = VALUE: 'forks\\n'"),
        (b"[defaults]\nforks = 5\n\0\n", ":3: not NAME = VALUE: '\\x00\\n'"),
        (b"[defaults]\nforks = 5\nForks = 6\n", ":3: forks is here a second time in [defaults]"),
        (b"[defaults]\nforks = 5\n[defaults]\n", ":3: the section [defaults] is here a second time"),
    ],
    ids=["no section", "byte order mark", "UTF-16", "no name", "no value", "null", "option twice", "section twice"],
)
def test_an_ansible_cfg_that_cannot_be_read_is_a_mistake_in_a_file(lab: Path, content: bytes, words: str) -> None:
    (lab / "ansible.cfg").write_bytes(content)
    for use in (lambda: environment(Settings(lab / "hosts.yml"), 1), lambda: asked_passwords(lab)):
        with pytest.raises(ProblemError) as caught:
            use()
        (problem,) = caught.value.problems
        assert (caught.value.ending, problem.code) == ("usage", "bad_ansible_cfg")
        assert problem.what == f"{lab / 'ansible.cfg'}{words}"


def test_an_ansible_cfg_in_another_encoding_is_read_as_ansible_does(lab: Path) -> None:
    (lab / "ansible.cfg").write_bytes("[defaults]\n# 说明\nforks = 5\n".encode("gbk"))
    assert "ANSIBLE_FORKS" not in environment(Settings(lab / "hosts.yml"), 100)


@pytest.mark.parametrize(
    ("config", "variables", "wanted"),
    [
        ("", {}, set()),
        ("[privilege_escalation]\nbecome_ask_pass = True\n", {}, {"become"}),
        ("[defaults]\nask_pass = yes\nask_vault_pass: 1\n", {}, {"connection", "vault"}),
        ("[defaults]\nask_pass = yes\n", {"ANSIBLE_ASK_PASS": "False"}, set()),
        ("", {"ANSIBLE_BECOME_ASK_PASS": "on"}, {"become"}),
    ],
)
def test_the_users_configuration_says_which_passwords_are_asked_for(
    lab: Path, monkeypatch: pytest.MonkeyPatch, config: str, variables: dict[str, str], wanted: set[str]
) -> None:
    (lab / "ansible.cfg").write_text(config)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert asked_passwords(lab) == wanted
    env = environment(Settings(lab / "hosts.yml"), 1)
    assert {env[f"ANSIBLE_{name}"] for name in ("ASK_PASS", "BECOME_ASK_PASS", "ASK_VAULT_PASS")} == {"False"}


def test_a_vault_identity_that_ansible_would_ask_for_is_refused(lab: Path) -> None:
    (lab / "ansible.cfg").write_text("[defaults]\nvault_identity_list = a@file, dev@prompt\n")
    with pytest.raises(ProblemError) as caught:
        asked_passwords(lab)
    assert (caught.value.ending, caught.value.problems[0].code) == ("usage", "vault_prompt")


def test_a_password_is_an_answer_and_in_no_argument_variable_file_or_repr(lab: Path) -> None:
    passwords = Passwords(connection="s3cret-c", become="s3cret-b", vault="s3cret-v")
    settings = Settings(lab / "hosts.yml", passwords=passwords)
    with play_folder({"n1": "{}"}) as folder:
        config = runner_config(settings, folder, "probe", 1, {})
        written = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert {"--ask-pass", "--ask-become-pass", "--ask-vault-pass"} <= set(config.command)
    shown = f"{config.command} {config.env} {settings!r} {passwords!r} {written!r}"
    assert "s3cret" not in shown
    assert sorted(passwords.answers().values()) == ["no", "s3cret-b", "s3cret-c", "s3cret-v"]


QUESTIONS = {
    "\nSSH password: ": "c",
    "\nBECOME password: ": "b",
    "\nBECOME password[defaults to SSH password]: ": "b",
    "\nVault password: ": "v",
    "The ssh-rsa key fingerprint is b'12'.\nAre you sure you want to continue connecting (yes/no)?\n": "no",
    "ok: [n1] => BECOME password: \nmore": None,
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_each_question_has_its_own_answer(question: str) -> None:
    answers = Passwords(connection="c", become="b", vault="v").answers()
    found = [answer for pattern, answer in answers.items() if re.search(pattern, question, re.MULTILINE)]
    assert found == ([QUESTIONS[question]] if QUESTIONS[question] else [])


@pytest.mark.parametrize("config", ["[tags]\nrun = mine\nskip = all\n", "[defaults]\nno_log = True\n"])
def test_every_task_of_our_plays_runs_and_its_result_is_seen(lab: Path, config: str) -> None:
    (lab / "ansible.cfg").write_text(config)
    env = started(lab).env
    assert [env[f"ANSIBLE_{name}"] for name in ("RUN_TAGS", "SKIP_TAGS", "NO_LOG")] == ["all", "", "False"]


def test_a_path_below_a_home_that_is_unknown_is_left_as_it_is(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (lab / "ansible.cfg").write_text("[defaults]\nmodule_utils = ~stranger-of-this-machine/utils\n")
    assert started(lab).env["ANSIBLE_MODULE_UTILS"].endswith(":" + str(lab / "~stranger-of-this-machine/utils"))
    monkeypatch.setenv("ANSIBLE_CONFIG", "~stranger-of-this-machine/ansible.cfg")
    assert started(lab).env["ANSIBLE_CONFIG"] == str(lab / "ansible.cfg")


@pytest.mark.parametrize(("own", "used"), [("debug", "linear"), ("ansible.builtin.debug", "linear"), ("free", None)])
def test_no_debugger_waits_for_commands(lab: Path, own: str, used: str | None) -> None:
    (lab / "ansible.cfg").write_text(f"[defaults]\nstrategy = {own}\n")
    env = environment(Settings(lab / "hosts.yml"), 1)
    assert (env.get("ANSIBLE_STRATEGY"), env["ANSIBLE_ENABLE_TASK_DEBUGGER"]) == (used, "False")


LOCALE = """
from pathlib import Path
from provisioner.adapters.ansible.settings import Settings, environment
print(environment(Settings(None), 1).get("LC_ALL"))
"""


@pytest.mark.parametrize(
    ("own", "given"), [("C.UTF-8", "None"), ("C", "C.UTF-8"), ("xx_XX.UTF-8", "C.UTF-8"), ("POSIX", "C.UTF-8")]
)
def test_ansible_gets_a_locale_that_exists_and_is_utf8(own: str, given: str) -> None:
    argv = [sys.executable, "-c", LOCALE]
    env = os.environ | {"LC_ALL": own}
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == given


SEAT_ORDER = {"deadlines": {"pull": 86400, "healthy": 3600, "min_healthy": 60}}


@pytest.mark.parametrize(
    ("order", "seconds"),
    [
        ({}, 3 * 3600),
        ({"deadlines": {"pull": 86400, "healthy": 3600, "min_healthy": 60}}, 2 * 86400 + 4 * 3600),
        ({"deadline": 1800}, 4 * 1800),
        ({"when_busy": {"policy": "wait", "seconds": 604800}}, 604800),
        ({"when_busy": None}, 3 * 3600),
        ({"orders": [SEAT_ORDER]}, 2 * 86400 + 4 * 3600),
        ({"orders": [SEAT_ORDER] * 60}, 2 * 86400 + 60 * 2 * 3660),
        ({"orders": [SEAT_ORDER | {"image": {"reference": name}} for name in "aab"]}, 4 * 86400 + 4 * 3600),
        ({"orders": [{"when_busy": {"policy": "wait", "seconds": 604800}}, {}]}, 604800),
        ({"config": {"environments": {"default": SEAT_ORDER}}}, 2 * 86400 + 4 * 3600),
        ({"config": None, "when_busy": {"policy": "wait", "seconds": 604800}}, 604800),
    ],
)
def test_a_job_is_followed_for_longer_than_its_deadlines_and_not_for_ever(order: Any, seconds: int) -> None:
    with play_folder({"n1": json.dumps(order), "n2": "{}"}) as folder:
        config = runner_config(Settings(None), folder, "stage", 2, {})
    variables = json.loads(config.command[config.command.index("-e") + 1])
    shortest = variables["provisioner_patience"] / 2 + 1  # seconds of a look and the pause after it
    assert seconds < variables["provisioner_polls"] * shortest + 1 < 5 * seconds + 4 * 3600


@pytest.mark.parametrize(
    ("forks", "count", "looks"), [(None, 1, True), (None, 50, True), (None, 51, False), (10, 10, True), (10, 11, False)]
)
def test_a_job_is_looked_at_where_it_starts_unless_nodes_wait_for_a_worker(
    forks: int | None, count: int, looks: bool
) -> None:
    with play_folder({f"n{number}": "{}" for number in range(count)}) as folder:
        config = runner_config(Settings(None, forks=forks), folder, "stage", count, {})
    variables = json.loads(config.command[config.command.index("-e") + 1])
    assert variables["provisioner_first_look"] == (variables["provisioner_patience"] if looks else 0)


def test_the_programs_of_ansible_are_found_without_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As after `pip install --user`, which puts them into a folder that is often not on PATH."""
    programs = Path(sys.executable).parent
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python3"))
    _programs.cache_clear()
    assert _programs() == programs
    monkeypatch.setattr("provisioner.adapters.ansible.settings.distribution", lambda _: SimpleNamespace(files=None))
    _programs.cache_clear()
    with pytest.raises(ProblemError, match="no_ansible"):
        environment(Settings(None), 1)
    _programs.cache_clear()


def test_every_task_on_a_node_has_a_time_limit() -> None:
    files = [*resources.playbooks().glob("*.yml"), *resources.playbooks().glob("tasks/*.yml")]
    contents = [entry for file in files for entry in yaml.safe_load(file.read_text())]
    tasks = [task for entry in contents for task in entry.get("tasks", [entry])]
    unlimited = [task["name"] for task in tasks if "timeout" not in task and "ansible.builtin.import_tasks" not in task]
    assert len(tasks) >= len(files)
    assert not unlimited
