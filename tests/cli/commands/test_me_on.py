"""`provision me --on NODE`: a stand-in for ssh answers as a node would, or as none would."""

import json
import os
import shlex
import socket
import sys
import webbrowser
from pathlib import Path
from typing import Any

import pytest

from provisioner.adapters import node_client, openssh
from provisioner.domain.rollout.own_seat import ME_SCHEMA, PROBLEMS_SCHEMA
from tests.cli.commands.test_me import answering
from tests.cli.running import document, run
from tests.domain.rollout.test_own_seat import HOST_KEY, PROBLEM, a_login, an_answer, an_own_seat
from tests.playbooks.node_code import module_util

FAKE = r"""#!/bin/sh
folder=$(dirname "$0")
for last; do :; done
case "$1 $last" in
  -N*) exec {python} -c "$(cat "$folder/listen.py")" "$folder" "$@" ;;
  *" provision-url") cat "$folder/url"; exit 0 ;;
esac
cat > "$folder/stdin"
printf '%s\n' "$@" > "$folder/argv"
cat "$folder/stderr" >&2
cat "$folder/stdout"
exit "$(cat "$folder/code")"
"""
LISTEN = """
import pathlib, socket, sys
forward = sys.argv[sys.argv.index("-L") + 1]
pathlib.Path(sys.argv[1], "tunnel").write_text(" ".join(sys.argv[2:]))
with socket.create_server(("127.0.0.1", int(forward.split(":")[1]))) as listener:
    listener.settimeout(60)
    listener.accept()[0].close()
"""
TOKEN = "ab" * 32


class Node:
    """A node behind the stand-in for ssh: what it answers, and what it was asked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "ssh").write_text(FAKE.format(python=sys.executable))
        (folder / "ssh").chmod(0o755)
        (folder / "listen.py").write_text(LISTEN)
        self.url(f"http://127.0.0.1:24001/lab?token={TOKEN}\n")
        self.answers(an_answer())

    def answers(self, stdout: Any, code: int = 0, stderr: str = "") -> None:
        text = stdout if isinstance(stdout, str) else json.dumps(stdout)
        for name, content in (("stdout", text), ("stderr", stderr), ("code", str(code))):
            (self.folder / name).write_text(content)

    def url(self, text: str) -> None:
        (self.folder / "url").write_text(text)

    @property
    def argv(self) -> list[str]:
        """The arguments of ssh, with the command for the node as words."""
        *words, command = (self.folder / "argv").read_text().splitlines()
        assert words[:-1] == ["-T", "-o", "RemoteCommand=none", "-o", "ClearAllForwardings=yes"]
        return [words[-1], *shlex.split(command)]

    @property
    def stdin(self) -> str:
        return (self.folder / "stdin").read_text()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "home"
    path.mkdir()
    monkeypatch.setenv("HOME", str(path))
    monkeypatch.setattr(openssh, "is_reachable", lambda host, port: (host, port) == ("192.0.2.22", 24000))
    return path


@pytest.fixture
def node(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    (home / ".ssh").mkdir(mode=0o700)
    (home / ".ssh/id_lab.pub").write_text(f"{HOST_KEY} anna@laptop\n")
    # Not 8888, which `free_port` prefers: a test that runs at the same time may listen there.
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    monkeypatch.setattr(openssh, "free_port", lambda: port)
    return Node(folder)


def files(home: Path) -> set[str]:
    return {path.relative_to(home / ".ssh").as_posix() for path in (home / ".ssh").rglob("*") if path.is_file()}


def test_one_command_starts_a_seat_and_makes_it_known_to_ssh(node: Node, home: Path) -> None:
    done = run("me", "--on", "anna@gpu1", "--gpus", "1", "--wait", "2h", "--yes")
    assert done.exit_code == 0, done.output
    asked = ["provision", "me", "up", "--gpus=1", "--wait=2h", "--json", "--keys-from-stdin"]
    assert node.argv == ["anna@gpu1", *asked]
    assert node.stdin == f"{HOST_KEY}\n"
    stanza = (home / ".ssh/config.d/provisioner-gpu1-ml.conf").read_text()
    assert "  HostName 192.0.2.22\n" in stanza
    assert "  IdentityFile ~/.ssh/id_lab\n" in stanza
    assert "ProxyJump" not in stanza
    for shown in (
        "gpu1-ml",
        "ssh -N -L 8888:jupyter:8888 gpu1-ml",
        "ssh gpu1-ml provision-url",
        "me renew --on anna@gpu1",
    ):
        assert shown in done.stdout
    assert len(done.stdout.splitlines()) <= 15


def test_a_seat_that_is_not_reachable_directly_is_reached_through_its_node(node: Node, home: Path) -> None:
    node.answers(an_answer(seat=an_own_seat(ssh=a_login(host="127.0.0.1"))))
    found = document(run("me", "--on", "gpu1", "--yes", "--json"))
    assert found["schema"] == ME_SCHEMA
    assert (found["alias"], found["seat"]["name"], found["act"]) == ("gpu1-ml", "ml_anna", "up")
    assert "  ProxyJump gpu1\n" in found["ssh_config"]
    assert found["ssh_config"] in (home / ".ssh/config.d/provisioner-gpu1-ml.conf").read_text()
    assert (home / ".ssh/provisioner_known_hosts").read_text() == found["known_hosts"] == f"gpu1-ml {HOST_KEY}\n"


def test_a_new_host_key_is_written_and_mentioned(node: Node, home: Path) -> None:
    assert "host key" not in run("me", "--on", "gpu1", "--yes").stderr
    other = HOST_KEY.replace("IAHg", "IAHh")
    node.answers(an_answer(seat=an_own_seat(ssh=a_login(host_key=other))))
    done = run("me", "--on", "gpu1", "--yes")
    assert (done.exit_code, "The host key of gpu1-ml is another one" in done.stderr) == (0, True)
    assert (home / ".ssh/provisioner_known_hosts").read_text() == f"gpu1-ml {other}\n"


def test_seats_on_two_nodes_with_the_same_first_label_have_two_names(node: Node, home: Path) -> None:
    assert document(run("me", "--on", "gpu1.a", "--yes", "--json"))["alias"] == "gpu1-ml"
    other = HOST_KEY.replace("IAHg", "IAHh")
    node.answers(an_answer(seat=an_own_seat(ssh=a_login(host_key=other))))
    assert document(run("me", "--on", "anna@gpu1.b", "--yes", "--json"))["alias"] == "gpu1-b-ml"
    node.answers(an_answer())
    assert document(run("me", "--on", "gpu1.a", "--yes", "--json"))["alias"] == "gpu1-ml"
    assert (home / ".ssh/provisioner_known_hosts").read_text() == f"gpu1-b-ml {other}\ngpu1-ml {HOST_KEY}\n"
    assert {"config.d/provisioner-gpu1-ml.conf", "config.d/provisioner-gpu1-b-ml.conf"} <= files(home)


def test_a_first_use_without_a_key_makes_one_and_says_where(node: Node, home: Path) -> None:
    (home / ".ssh/id_lab.pub").unlink()
    done = run("me", "--on", "gpu1", "--yes")
    assert str(home / ".ssh/id_ed25519") in done.stderr.replace("\n", "")
    assert node.stdin.split()[:2] == (home / ".ssh/id_ed25519.pub").read_text().split()[:2]
    assert "IdentityFile ~/.ssh/id_ed25519" in (home / ".ssh/config.d/provisioner-gpu1-ml.conf").read_text()


@pytest.mark.parametrize("words", [(), ("--json",)])
def test_the_configuration_of_ssh_is_not_touched_without_agreement(
    node: Node, home: Path, words: tuple[str, ...]
) -> None:
    done = run("me", "--on", "gpu1", *words)
    assert done.exit_code == 2
    assert "ssh_config_not_agreed" in done.stderr
    assert files(home) == {"id_lab.pub"}
    assert not (node.folder / "argv").exists()


@pytest.mark.parametrize("answer", [True, False])
def test_a_user_is_asked_once(node: Node, home: Path, monkeypatch: pytest.MonkeyPatch, answer: bool) -> None:
    asked = answering(monkeypatch, answer)
    done = run("me", "--on", "gpu1")
    assert (done.exit_code, len(asked)) == (0, 1)
    assert ("config" in files(home)) == answer
    assert ("Host gpu1-ml" in done.stdout) != answer
    assert run("me", "--on", "gpu1").exit_code == 0
    assert len(asked) == (1 if answer else 2)
    assert node.argv[-1] == "--keys-from-stdin"


@pytest.mark.usefixtures("node")
def test_print_only_prints_the_lines_and_writes_none(home: Path) -> None:
    done = run("me", "--on", "gpu1", "--print-only")
    assert done.exit_code == 0
    assert f"gpu1-ml {HOST_KEY}" in done.stdout
    assert "Host gpu1-ml\n  HostName 192.0.2.22\n" in done.stdout
    assert files(home) == {"id_lab.pub"}


def test_a_refusal_of_the_node_is_shown_once_with_its_exit_code(node: Node, home: Path) -> None:
    node.answers({"schema": PROBLEMS_SCHEMA, "problems": [PROBLEM]}, 4, "no_free_gpu: w\n")
    done = run("me", "--on", "gpu1", "--yes")
    assert (done.exit_code, done.stdout) == (4, "")
    assert (done.stdout + done.stderr).count("no_free_gpu") == 1
    assert document(run("me", "--on", "gpu1", "--yes", "--json"))["problems"] == [PROBLEM]
    assert files(home) == {"id_lab.pub"}


@pytest.mark.parametrize(
    ("stdout", "code", "expected"),
    [
        ("", 255, "ssh_failed"),
        ("", 127, "no_client"),
        ("", 0, "bad_answer"),
        ("usage: provision", 2, "bad_answer"),
        (an_answer(seat=an_own_seat(ssh=a_login(user="x\n  ProxyCommand sh"))), 0, "bad_answer"),
        (an_answer(seat=an_own_seat(name="../../x")), 0, "bad_answer"),
        (an_answer(state="starting"), 0, "bad_answer"),
    ],
)
def test_what_is_no_seat_is_a_problem_and_nothing_is_written(
    node: Node, home: Path, stdout: Any, code: int, expected: str
) -> None:
    node.answers(stdout, code)
    done = run("me", "--on", "gpu1", "--yes")
    assert done.exit_code == 1
    assert expected in done.stderr
    assert files(home) == {"id_lab.pub"}


def test_a_hostile_node_controls_no_terminal(node: Node) -> None:
    escapes = "\x1b]0;owned\x07\x9b2J\u202e\r"
    node.answers({"schema": ME_SCHEMA, "problems": [], "state": escapes}, 0, f"{escapes}\n")
    for words in (["up", "--yes"], ["status"], ["status", "--json"], ["up", "--yes", "--json"]):
        done = run("me", *words, "--on", "gpu1")
        assert all(character.isprintable() or character == "\n" for character in done.stdout + done.stderr)
    node.answers(escapes, 0, escapes)
    done = run("me", "logs", "--on", "gpu1")
    assert all(character.isprintable() or character == "\n" for character in done.stdout + done.stderr)


def test_other_acts_are_relayed_with_text_or_document_and_exit_code(node: Node, home: Path) -> None:
    node.answers("line one\nline two\n", 0)
    done = run("me", "logs", "ssh", "--lines", "2", "--on", "gpu1")
    assert (done.exit_code, done.stdout) == (0, "line one\nline two\n")
    assert node.argv == ["gpu1", "provision", "me", "logs", "ssh", "--lines=2"]
    node.answers({"schema": ME_SCHEMA, "state": "stopped", "problems": []}, 0)
    assert document(run("me", "down", "--on", "gpu1", "--json"))["state"] == "stopped"
    node.answers({"schema": PROBLEMS_SCHEMA, "problems": [PROBLEM]}, 1, "somebody_waits: x\n")
    done = run("me", "renew", "--on", "gpu1", "--hours", "2", "--json")
    assert (done.exit_code, document(done)["problems"]) == (1, [PROBLEM])
    node.answers("x", 99)
    assert run("me", "status", "--on", "gpu1").exit_code == 1
    assert files(home) == {"id_lab.pub"}


def test_an_environment_and_the_consent_to_switch_reach_the_node(node: Node, home: Path) -> None:
    assert run("me", "--on", "gpu1", "--env", "nlp", "--switch", "--yes").exit_code == 0
    assert node.argv[3:6] == ["up", "--env=nlp", "--switch"]
    assert run("me", "--on", "gpu1", "--env", "../nlp").exit_code == 2
    assert files(home) >= {"id_lab.pub"}


def test_a_reason_reaches_the_node_as_one_word(node: Node) -> None:
    node.answers("done\n")
    reason = "it's $(id); `x` \u8bad\u7ec3"
    assert run("me", "keep-alive", "--hours", "2", "--reason", reason, "--on", "gpu1").exit_code == 0
    assert node.argv[-1] == f"--reason={reason}"


def test_open_starts_a_tunnel_and_opens_jupyter_with_the_token(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    def open_url(url: str) -> bool:
        opened.append(url)
        return True

    monkeypatch.setattr(webbrowser, "open", open_url)
    done = run("me", "--on", "gpu1", "--yes", "--open")
    assert done.exit_code == 0, done.stderr
    port = openssh.free_port()
    assert opened == [f"http://127.0.0.1:{port}/lab?token={TOKEN}"]
    tunnel = (node.folder / "tunnel").read_text()
    assert tunnel == f"-N -o ExitOnForwardFailure=yes -L 127.0.0.1:{port}:jupyter:8888 gpu1-ml"
    assert TOKEN not in done.output


def test_open_without_a_browser_shows_the_address(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webbrowser, "open", lambda _: False)
    done = run("me", "--on", "gpu1", "--yes", "--open")
    assert f"/lab?token={TOKEN}" in done.stderr
    node.url("http://evil.example/\n")
    done = run("me", "--on", "gpu1", "--yes", "--open")
    assert done.exit_code == 1
    assert "no_token" in done.stderr


def test_a_tunnel_that_cannot_be_opened_is_a_problem(node: Node) -> None:
    (node.folder / "listen.py").write_text("import sys; sys.exit('refused')")
    done = run("me", "--on", "gpu1", "--yes", "--open")
    assert done.exit_code == 1
    assert "no_tunnel" in done.stderr


# --- the command line


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--on", "-oProxyCommand=sh"], "is not HOST or USER@HOST"),
        (["--on", "gpu1", "--lock", "x"], "--lock is for a seat on this machine"),
        (["--on", "gpu1", "--gpus", "many"], "'many' is not a number from 0 to 64"),
        (["down", "--on", "gpu1", "--gpus", "1"], "--gpus is not for `down`"),
        (["status", "--on", "gpu1", "--open"], "--open and --print-only are not for `status`"),
        (["keep-alive", "--on", "gpu1", "--hours", "2"], "`keep-alive` needs --reason"),
        (["--on", "gpu1", "--urls"], "--urls and --ca are for a seat from a lab's lock"),
        (["--gpus", "1"], "name one with --on NODE"),
        (["renew"], "name one with --on NODE"),
        (["up", "--open"], "name one with --on NODE"),
    ],
    ids=str,
)
def test_a_mistake_on_the_command_line_is_exit_2(
    words: list[str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_client, "has_broker", lambda: False)
    done = run("me", *words)
    assert done.exit_code == 2
    assert expected in done.stderr


def test_the_acts_are_those_of_the_client_of_a_node() -> None:
    choice: Any = run.__globals__["provision"].get_command(None, "me").params[0].type
    assert list(choice.choices) == list(module_util("client.me").ACTS)


# --- on a node itself


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What the broker of this machine is asked for: an account that it answers."""
    found: list[list[str]] = []

    def ask(words: list[str]) -> int:
        found.append(words)
        return 4

    monkeypatch.setattr(node_client, "has_broker", lambda: True)
    monkeypatch.setattr(node_client, "may_ask_broker", lambda: True)
    monkeypatch.setattr(node_client, "run", ask)
    return found


def test_on_a_node_the_broker_is_asked(asked: list[list[str]]) -> None:
    assert run("me", "--gpus", "2", "--json").exit_code == 4
    assert run("me", "down").exit_code == 4
    assert asked == [["up", "--gpus=2", "--json"], ["down"]]
    assert run("me", "--open").exit_code == 2


def test_a_lock_means_this_machine_also_on_a_node(asked: list[list[str]], tmp_path: Path) -> None:
    done = run("me", "--lock", str(tmp_path / "none"))
    assert (done.exit_code, asked) == (2, [])
    assert "no_such_file" in done.stderr


def test_who_may_not_ask_the_broker_sees_that_unless_a_lock_is_remembered(
    asked: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_client, "may_ask_broker", lambda: False)
    assert run("me").exit_code == 4
    remembered = Path(os.environ["XDG_DATA_HOME"]) / "provisioner/lab.lock"
    remembered.parent.mkdir(parents=True)
    remembered.write_text("damaged")
    assert run("me").exit_code == 2
    assert asked == [["up"]]
