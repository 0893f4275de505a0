"""What the client asks for until a seat runs, and what a person sees then. Time goes by as the client waits."""

import json
import os
import socket
import subprocess
import time
from collections.abc import Callable
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.domain.values.size import binary_size
from tests.playbooks.broker_world import DOCUMENT, GPUS, Node, a_group, an_environment, orders
from tests.playbooks.node_code import ProblemError, module_util
from tests.playbooks.test_broker_verbs import KEY

me, request_of = module_util("client.me"), module_util("broker.request")
pytestmark = pytest.mark.usefixtures("engine")
NEWER = {**DOCUMENT, "files": {**DOCUMENT["files"], "gpu_check.py": ["print(2)\n"]}}  # type: ignore[dict-item]


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    monkeypatch.setattr(orders, "routes", list)
    monkeypatch.setattr(me.socket, "gethostname", lambda: "gpu1")
    monkeypatch.setattr(me, "account_name", lambda: "anna")
    monkeypatch.delenv("SSH_CONNECTION", raising=False)
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    monkeypatch.setenv("TZ", "UTC")
    return Node(tmp_path)


class Person:
    """A person at the node. `asked`: the verbs of their requests; `events`: what happens on the node as they wait."""

    def __init__(self, node: Node, name: str = "anna") -> None:
        self.node, self.name, self.asked, self.slept = node, name, list[str](), 0.0
        self.events: list[Callable[[], Any]] = []
        self.stream = StringIO()
        self.session = me.Session(self._ask, me.Screen(self.stream), self._sleep, lambda: node.now)

    def _ask(self, verb: str, **values: Any) -> Any:
        self.asked.append(verb)
        try:
            return json.loads(json.dumps(self.node.ask(self.name, verb, **values)))
        except ProblemError as error:
            raise me.FaultError(vars(error)["problem"]) from None

    def _sleep(self, seconds: float) -> None:
        self.slept += seconds
        self.node.after(seconds, 20)
        if self.events:
            self.events.pop(0)()
        self.node.settle()

    def up(self, **wish: Any) -> Any:
        return self.session.up({"keys": [KEY], **wish})

    def does(self, act: str, **options: Any) -> Any:
        return me.carry_out(act, options, self.session)

    def fault(self, act: Callable[[], Any]) -> Any:
        with pytest.raises(me.FaultError) as caught:
            act()
        return caught.value


@pytest.fixture
def anna(node: Node) -> Person:
    return Person(node)


def test_up_follows_the_job_and_up_again_gives_the_same_seat(anna: Person) -> None:
    anna.node.holds = True
    anna.events = [lambda: None, lambda: None, anna.node.finish]
    first = anna.up(gpus=1)
    assert (first.code, first.answer["state"], first.answer["seat"]["name"]) == (0, "running", "ml_anna")
    assert anna.stream.getvalue() == "working\n"
    again = anna.up(gpus=1)
    assert (again.code, again.answer["seat"]) == (0, {**first.answer["seat"], "left_s": again.answer["seat"]["left_s"]})
    assert anna.node.kinds() == ["up"]


@pytest.mark.parametrize("ends", ["failed", "rolled_back", "needs_attention"])
def test_a_start_that_fails_is_exit_1_with_its_problems(anna: Person, ends: str) -> None:
    anna.node.ends["up"] = ends
    result = anna.up()
    assert (result.code, [problem["code"] for problem in result.problems]) == (1, ["x"])
    assert (result.answer["state"], anna.does("down").code) == ("absent", 0)


def test_a_home_that_does_not_work_is_shown_although_the_seat_runs(anna: Person) -> None:
    anna.up()
    anna.node.keeper.ended["ml_anna"] = {"kind": "up", "state": "committed", "problems": [{"code": "home_fault"}]}
    result = anna.session.follow(begun=True)
    assert (result.code, result.answer["state"]) == (1, "running")
    assert anna.session.follow(begun=False).code == 0


def test_a_seat_that_is_gone_without_a_record_was_not_started(anna: Person) -> None:
    anna.node.holds = True

    def broker_starts_again() -> None:
        anna.node.ends["up"] = "failed"
        anna.node.finish()
        anna.node.keeper.ended.clear()

    anna.events = [broker_starts_again]
    assert anna.fault(anna.up).problem["code"] == "seat_not_started"


def test_who_waits_keeps_the_place_and_gets_the_gpu_that_becomes_free(anna: Person) -> None:
    node = anna.node
    node.ask("bob", "up", gpus=2)
    node.ask("cem", "up", gpus=1)
    assert anna.fault(lambda: anna.up(gpus=1)).problem["code"] == "no_free_gpu"
    anna.events = [lambda: None] * 5 + [lambda: node.ask("cem", "down")]
    result = anna.up(gpus=1, wait_s=7200)
    assert (result.code, result.answer["seat"]["gpus"]) == (0, [GPUS[2]])
    assert anna.stream.getvalue() == "waiting for a GPU: place 1; in use by bob, bob, cem\n"


def test_a_wait_that_ends_without_a_gpu_is_exit_4_and_leaves_the_queue(anna: Person) -> None:
    anna.node.ask("bob", "up", gpus=2)
    anna.node.ask("cem", "up", gpus=1)
    error = anna.fault(lambda: anna.up(gpus=1, wait_s=90))
    assert (error.code, error.problem["code"]) == (4, "no_free_gpu")
    assert anna.slept == pytest.approx(90)
    assert anna.node.keeper.state.queue == ()


def test_who_waits_for_a_gpu_beside_a_seat_that_runs_gets_it_or_exit_4(anna: Person) -> None:
    node = anna.node
    anna.up(gpus=0)
    node.ask("bob", "up", gpus=2)
    node.ask("cem", "up", gpus=1)
    error = anna.fault(lambda: anna.up(gpus=1, restart=True, wait_s=90))
    assert (error.code, error.problem["code"], node.keeper.state.queue) == (4, "no_free_gpu", ())
    assert anna.does("status").answer["state"] == "running"
    anna.events = [lambda: None] * 3 + [lambda: node.ask("cem", "down")]
    result = anna.up(gpus=1, restart=True, wait_s=7200)
    assert (result.code, result.answer["seat"]["gpus"]) == (0, [GPUS[2]])


def test_who_has_closed_the_connection_does_not_wait_on(anna: Person) -> None:
    anna.node.ask("bob", "up", gpus=2)
    anna.node.ask("cem", "up", gpus=1)
    readers = [True, True, False]
    anna.session.has_reader = lambda: readers.pop(0)
    with pytest.raises(KeyboardInterrupt):
        anna.up(gpus=1, wait_s=7200)
    anna.node.after(80, 20)
    assert anna.node.keeper.state.queue == ()


def test_a_stream_without_a_reader_is_noticed(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as stream, (tmp_path / "file").open("w") as file:
        assert me.has_reader(stream)
        assert me.has_reader(file)
        assert me.has_reader(StringIO())
        os.close(reader)
        assert not me.has_reader(stream)


def test_an_end_of_the_input_of_sshd_is_no_end_of_its_connection() -> None:
    mine, of_sshd = socket.socketpair()
    with mine, mine.makefile("w") as stream:
        of_sshd.shutdown(socket.SHUT_WR)
        assert me.has_reader(stream)
        of_sshd.close()
        assert not me.has_reader(stream)


def test_polls_come_often_enough_for_the_queue_and_seldom_enough_for_the_limit() -> None:
    minute = [*me.POLL_S, *[me.POLL_S[-1]] * 60]
    polls = next(number for number in range(1, 60) if sum(minute[:number]) > 60)
    assert polls + 3 < module_util("lease.rates").REQUESTS_A_MINUTE
    assert module_util("lease.queue").UNPOLLED_S / 2 > me.WAIT_POLL_S


@pytest.mark.parametrize("code", ["too_often", "too_many_connections", "no_broker", "no_answer"])
def test_a_broker_that_is_away_for_a_moment_is_asked_again(anna: Person, code: str) -> None:
    anna.node.holds = True
    ask, left = anna.session.ask, [code] * 3

    def sometimes(verb: str, **values: Any) -> Any:
        if verb == "status" and left:
            raise me.fault(left.pop(), "w", "y", "f")
        return ask(verb, **values)

    anna.session.ask = sometimes
    anna.events = [lambda: None] * 4 + [anna.node.finish]
    assert anna.up().code == 0
    left += [code] * 1000
    assert anna.fault(lambda: anna.session.follow(begun=False)).problem["code"] == code
    assert len(left) > 900


def test_up_while_the_seat_is_being_stopped_starts_it_again_after_that(anna: Person) -> None:
    anna.up()
    anna.node.holds = True
    anna.node.ask("anna", "down")

    def finish() -> None:
        anna.node.holds = False
        anna.node.finish()

    anna.events = [lambda: None, finish]
    assert anna.up().answer["state"] == "running"
    assert anna.node.kinds() == ["up", "stop", "up"]


def test_root_is_sent_to_the_commands_of_the_admin(node: Node) -> None:
    root = Person(node, "root")
    for act in ("status", "down", "renew"):
        assert root.fault(partial(root.does, act)).problem["code"] == "not_allowed"
    assert root.does("environments").answer["environments"][0]["name"] == "default"


def test_a_whole_class_that_starts_at_once_is_started_without_a_second_command(node: Node) -> None:
    node.configure(groups={"student": a_group(gpus=0)})
    node.holds = True
    for name in ("bob", "cem", "dora", "eve"):
        node.ask(name, "up")
    anna = Person(node)
    anna.events = [lambda: None] * 3 + [node.finish] * 2
    assert anna.up(gpus=0).answer["state"] == "running"
    assert anna.stream.getvalue() == f"{me.TEXTS['en']['occupied']}\nworking\n"

    def refuse(_verb: str, **_: Any) -> Any:
        raise me.fault("node_occupied", "w", "y", "f")

    anna.session.ask = refuse
    before = node.now
    assert anna.fault(anna.up).problem["code"] == "node_occupied"
    assert 1800 < node.now - before < 2000


def test_a_refusal_is_not_asked_again(anna: Person) -> None:
    assert anna.fault(lambda: anna.up(gpus=9)).problem["code"] == "too_many_gpus"
    assert anna.asked == ["up"]


def test_down_ends_when_the_seat_is_stopped(anna: Person) -> None:
    anna.up()
    anna.node.holds = True
    anna.events = [lambda: None, anna.node.finish]
    result = anna.does("down")
    assert (result.code, result.answer["state"]) == (0, "stopped")
    assert anna.does("down").answer["state"] == "stopped"


def test_renew_asks_for_as_many_hours_as_are_allowed(anna: Person) -> None:
    anna.up(hours=2)
    assert anna.does("renew", hours=3).answer["left_s"] == 3 * 3600
    assert anna.does("renew").answer["left_s"] == 24 * 3600


@pytest.mark.parametrize(
    ("wish", "is_shorter"), [({"hours": 8}, True), ({"hours": 1}, False), ({}, False), ({"hours": 8, "gpus": 2}, True)]
)
def test_hours_for_a_seat_that_runs_already_are_not_ignored_silently(
    anna: Person, wish: dict[str, Any], is_shorter: bool
) -> None:
    anna.up(hours=2, gpus=1)
    assert anna.stream.getvalue() == ""
    anna.node.after(1800)
    assert anna.up(restart=True, **wish).answer["seat"]["left_s"] == 5400
    noted = anna.stream.getvalue()
    assert ("1:30 h are left" in noted, "provision me renew --hours 8" in noted) == (is_shorter, is_shorter)


def test_the_other_acts_are_verbs_of_the_broker(anna: Person) -> None:
    node = anna.node
    anna.up(hours=4)
    assert anna.does("keep-alive", hours=2, reason="long run").answer["state"] == "running"
    assert anna.fault(lambda: anna.does("rotate-token")).problem["code"] == "restart_needed"
    assert anna.does("rotate-token", now=True).code == 0
    node.configure(environments={"default": an_environment(NEWER)})
    node.publish(NEWER)
    assert anna.does("upgrade", now=True).answer["seat"]["version"] == an_environment(NEWER)["version"]
    assert [one["name"] for one in anna.does("environments").answer["environments"]] == ["default"]
    assert anna.does("cancel").answer["state"] == anna.does("status").answer["state"] == "running"
    assert node.kinds() == ["up", "rotate_token", "upgrade"]


def test_an_upgrade_that_fails_is_exit_1(anna: Person) -> None:
    anna.up()
    anna.node.configure(environments={"default": an_environment(NEWER)})
    anna.node.publish(NEWER)
    anna.node.holds, anna.node.ends["upgrade"] = True, "rolled_back"
    anna.events = [anna.node.finish]
    result = anna.does("upgrade", now=True)
    assert (result.code, result.problems[0]["code"], result.answer["state"]) == (1, "x", "running")


IN_USE = {"code": "gpu_in_use", "what": "pid 7 of root", "why": "leases bind seats only", "fix": "provision me down"}


@pytest.fixture
def blocked(anna: Person, monkeypatch: pytest.MonkeyPatch) -> Person:
    """Her seat crashed, and somebody's program is on its GPU."""
    anna.up(gpus=1)
    monkeypatch.setattr(anna.node, "problems", [IN_USE])
    anna.node.ends["resume"] = "unchanged"
    anna.node.running.clear()
    anna.node.look()
    return anna


def test_who_cannot_get_the_seat_back_because_of_others_keeps_the_lease_and_sees_why(blocked: Person) -> None:
    blocked.node.after(600)
    result = blocked.does("status")
    assert (result.code, result.answer["state"], result.problems) == (0, "starting", [IN_USE])
    assert len(blocked.node.keeper.state.leases) == 1
    again = blocked.up(gpus=1)
    assert (again.code, again.problems, blocked.slept) == (1, [IN_USE], 0)
    blocked.node.ends.clear()
    blocked.node.after(60)
    assert (blocked.does("status").answer["state"], blocked.does("status").problems) == ("running", ())


def test_a_seat_that_somebody_else_has_started_again_is_no_longer_said_to_be_down(blocked: Person) -> None:
    blocked.node.running.add("ml_anna")
    blocked.node.look()
    assert blocked.does("status").answer["state"] == "running"


# --- what is shown

SCREEN = """\
Your seat ml_anna on gpu1 is running.
  GPUs     1: {gpu}
  until    {until} (8:00 h left)
  image    default {version}
  Jupyter  http://127.0.0.1:24001/lab
           on your own computer first run: ssh -N -L 8888:127.0.0.1:24001 anna@192.0.2.7
           then open http://127.0.0.1:8888/lab
  token    ssh -p 24000 anna@192.0.2.22 provision-url
  SSH      ssh -p 24000 anna@192.0.2.22
           host key {digest}
  files    your home ~ is kept; other files of the seat are lost when it is upgraded or gets another environment
Next: provision me renew (more time), provision me down (stop it; your files are kept)"""


def test_one_screen_says_how_to_reach_a_seat_and_what_is_next(anna: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    anna.node.configure(binds={"ssh": "192.0.2.22", "jupyter": "127.0.0.1"})
    monkeypatch.setenv("SSH_CONNECTION", "198.51.100.9 50000 192.0.2.7 22")
    monkeypatch.setattr(me, "moment", lambda left_s: f"<{left_s}>")
    answer = anna.up(gpus=1, hours=8).answer
    answer["seat"]["ssh"]["host_key"] = KEY
    values = {"gpu": GPUS[0], "until": "<28800>", "version": answer["seat"]["version"]}
    assert me.shown("up", answer) == SCREEN.format(**values, digest=me.fingerprint(KEY))


@pytest.mark.parametrize(
    ("use", "limit", "expected"),
    [
        ({"home_bytes": 3 << 30, "layer_bytes": 1 << 29, "complete": True}, 100 << 30, "3.5 GiB used of 100 GiB"),
        ({"home_bytes": 3 << 20, "layer_bytes": None, "complete": False}, None, "\u2265 3 MiB used"),
        (None, 100 << 30, None),
    ],
)
def test_the_disk_is_shown_once_it_was_measured(
    anna: Person, use: Any, limit: int | None, expected: str | None
) -> None:
    anna.up()
    seat = anna.node.seat("ml_anna")
    if use:
        (seat.folder / "disk.json").write_text(json.dumps({"measured_at": "2026-11-30T03:10:00Z", **use}))
    if limit:
        (seat.folder / "disk_limit").write_text(str(limit))
    lines = me.shown("status", anna.does("status").answer).splitlines()
    assert [line[11:] for line in lines if line.startswith("  disk ")] == ([expected] if expected else [])


@pytest.mark.parametrize(
    ("locale", "label", "lines"),
    [
        (
            "en_US.UTF-8",
            "kernels",
            [
                "ml/a.ipynb: idle for 3:20 h, holds 2 GiB of GPU memory",
                "-: idle",
                "b: runs code",
                "c: dead",
                "and 5 more",
            ],
        ),
        (
            "zh_CN.UTF-8",
            "内核",
            ["ml/a.ipynb: 已空闲 3:20 h，占用 GPU 显存 2 GiB", "-: 空闲", "b: 正在运行代码", "c: dead", "还有 5 个"],  # noqa: RUF001
        ),
    ],
)
def test_kernels_are_shown_with_what_they_do(
    anna: Person, monkeypatch: pytest.MonkeyPatch, locale: str, label: str, lines: list[str]
) -> None:
    anna.up()
    monkeypatch.setenv("LC_ALL", locale)
    used = (("ml/a.ipynb", "idle", 2 << 30), ("", "idle", 0), ("b", "busy", 0), ("c", "dead", 0))
    listed = [{"name": name, "state": state, "since": None, "gpu_bytes": held} for name, state, held in used]
    since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 12_000))
    anna.node.kernels = {"ml_anna": {"all": 9, "listed": [{**listed[0], "since": since}, *listed[1:]]}}
    anna.node.look()
    shown = me.shown("status", anna.does("status").answer).splitlines()[-len(lines) - 1 : -1]
    assert [line.strip().removeprefix(label).strip() for line in shown] == lines


def test_without_kernels_there_is_no_line_about_them(anna: Person) -> None:
    anna.up()
    anna.node.kernels = {"ml_anna": {"all": 0, "listed": []}}
    anna.node.look()
    assert "kernels" not in me.shown("status", anna.does("status").answer)


@given(st.integers(0, 1 << 60))
def test_sizes_are_written_as_everywhere(number: int) -> None:
    assert me.size(number) == binary_size(number)


def test_the_fingerprint_is_that_of_ssh_keygen(tmp_path: Path) -> None:
    (tmp_path / "key.pub").write_text(f"{KEY}\n")
    ran = subprocess.run(
        ["ssh-keygen", "-l", "-f", str(tmp_path / "key.pub")], capture_output=True, text=True, check=True
    )
    assert ran.stdout.split()[1] == me.fingerprint(KEY)


def test_jupyter_on_the_network_needs_no_tunnel(anna: Person) -> None:
    text = me.shown("up", anna.up().answer)
    assert "http://127.0.0.22:24001/lab" in text
    assert "ssh -N" not in text


@pytest.mark.parametrize(
    ("host", "connection", "expected"),
    [
        ("127.0.0.1", "198.51.100.9 50000 192.0.2.7 22", "ssh -J anna@192.0.2.7 -p 24000 anna@127.0.0.1"),
        ("192.0.2.22", "198.51.100.9 50000 192.0.2.7 22", "ssh -p 24000 anna@192.0.2.22"),
        ("127.0.0.1", "", "ssh -p 24000 anna@127.0.0.1"),
        ("127.0.0.1", "$(id) ; x 22", "ssh -J anna@gpu1 -p 24000 anna@127.0.0.1"),
    ],
)
@pytest.mark.usefixtures("node")
def test_who_asks_by_a_bare_ssh_command_goes_through_the_node(
    host: str, connection: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if connection:
        monkeypatch.setenv("SSH_CONNECTION", connection)
    assert me._login({"host": host, "port": 24000, "user": "anna"}) == expected


SEAT = {"name": "ml_anna", "gpus": [], "left_s": 0}


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({"state": "absent", "seat": None}, "You have no seat on gpu1.\nNext: provision me (start it)"),
        (
            {"state": "stopped", "seat": SEAT},
            "Your seat on gpu1 is stopped. Your files are kept; its token is new when it is started again.\nNext: ",
        ),
        ({"state": "starting", "seat": SEAT}, "Your seat ml_anna on gpu1 is being started.\nNext: provision me status"),
        ({"state": "stopping", "seat": SEAT}, "Your seat on gpu1 is being stopped.\nNext: provision me status"),
        (
            {"state": "waiting", "seat": None, "position": 3},
            "You wait for a GPU on gpu1: place 3.\nNext: provision me -",
        ),
        (
            {"state": "offered", "seat": None, "position": 1},
            "A GPU on gpu1 is held for you for up to 15 minutes.\nNext:",
        ),
    ],
)
@pytest.mark.usefixtures("node")
def test_each_state_has_its_lines(answer: dict[str, Any], expected: str) -> None:
    assert me.shown("status", answer).startswith(expected)


def test_the_states_of_the_broker_are_known(anna: Person) -> None:
    node, seen = anna.node, {anna.does("status").answer["state"]}
    node.holds = True
    seen.add(node.ask("anna", "up")["state"])
    node.finish()
    seen |= {node.ask("anna", "status")["state"], node.ask("anna", "down")["state"]}
    node.finish()
    seen.add(node.ask("anna", "status")["state"])
    assert seen == {"absent", "starting", "running", "stopping", "stopped"}
    assert seen <= me.TEXTS["en"].keys()


def test_both_languages_have_the_same_texts_and_values() -> None:
    fields = {
        language: {key: set(me.re.findall(r"\{(\w+)", text)) for key, text in texts.items()}
        for language, texts in me.TEXTS.items()
    }
    assert fields["en"] == fields["zh"]


@pytest.mark.parametrize(
    ("environment", "expected"),
    [({}, "en"), ({"LANG": "zh_CN.UTF-8"}, "zh"), ({"LANG": "zh_CN", "LC_ALL": "C"}, "en"), ({"LC_ALL": ""}, "en")],
)
def test_the_language_is_that_of_the_locale(environment: dict[str, str], expected: str) -> None:
    assert me.language(environment) == expected


def test_chinese_is_shown_in_a_chinese_locale(anna: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    assert me.shown("up", anna.up().answer).startswith("你的座位 ml_anna 正在 gpu1 上运行。")


def test_lines_of_a_log_stay_lines() -> None:
    assert me.shown("logs", {"text": "a\tb\r\n\x1b[31mred\n"}) == "a   b\n\\x1b[31mred\n"


def listed(*names: str) -> list[dict[str, Any]]:
    return [{"name": name, "torch": "2.8.0", "max_gpus": 2, "max_hours": 24} for name in names]


@pytest.mark.parametrize(
    ("answer", "lines"),
    [
        ({"environments": listed("default"), "used": "default"}, ["default  PyTorch 2.8.0  up to 2 GPUs, 24 hours"]),
        ({"environments": listed("default")}, ["default  PyTorch 2.8.0  up to 2 GPUs, 24 hours"]),
        ({"environments": [], "used": ""}, ["No environment is published for you."]),
        (
            {"environments": listed("default", "nlp"), "used": "nlp"},
            [
                "default  PyTorch 2.8.0  up to 2 GPUs, 24 hours",
                "nlp  PyTorch 2.8.0  up to 2 GPUs, 24 hours; your seat has it",
                "Next: provision me --env NAME (for a seat that runs with another one: --switch)",
            ],
        ),
        (
            {"environments": listed("default"), "used": "nlp"},
            [
                "default  PyTorch 2.8.0  up to 2 GPUs, 24 hours",
                "nlp  not published any more; your seat keeps it until it stops or is upgraded",
            ],
        ),
    ],
)
def test_environments_show_which_one_the_seat_has(answer: dict[str, Any], lines: list[str]) -> None:
    assert me.shown("environments", answer).split("\n") == lines


TEXT = st.text(st.characters() | st.sampled_from("\x1b\x07\x9b\u202e\r\n\ud800"))


@given(TEXT, TEXT, st.sampled_from(["running", "ending", "stopped"]))
def test_no_text_of_the_broker_reaches_the_terminal_as_it_is(one: str, two: str, state: str) -> None:
    ssh = {"host": one, "port": 22, "user": two, "host_key": None}
    seat = {"name": one, "gpus": [two], "left_s": 1, "environment": one, "version": two, "jupyter": one, "ssh": ssh}
    environment = {"name": one, "torch": two, "max_gpus": 1, "max_hours": 1.5}
    texts = [
        me.shown("up", {"state": state, "seat": seat}),
        me.shown("environments", {"environments": [environment, {**environment, "name": two}], "used": one}),
        me.shown("logs", {"text": one}),
        me.problem_text({"code": one, "what": two, "why": one, "fix": two}),
        me._place({"position": 1, "holders": [{"name": one}]}).replace("\n", ""),
    ]
    stream = StringIO()
    me.Screen(stream).progress(one + two)
    assert all(character == "\n" or character.isprintable() for text in texts for character in text)
    assert all(character.isprintable() for character in stream.getvalue().rstrip("\n"))


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_one_line_on_a_terminal_and_a_line_for_each_change_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    for stream, expected in (
        (Terminal(), f"\r\x1b[Ka\r\x1b[K{'b' * 19}\r\x1b[Kdone\n"),
        (StringIO(), f"a\n{'b' * 30}\ndone\n"),
    ):
        screen = me.Screen(stream)
        for text in ("a", "a", "b" * 30, ""):
            screen.progress(text)
        screen.note("done")
        assert stream.getvalue() == expected


# --- the command line


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("", ("up", {})),
        ("--json status", ("status", {})),
        ("--gpus 2 --wait 1h30m --switch", ("up", {"gpus": 2, "wait": 5400, "switch": True})),
        ("logs ssh --lines 3", ("logs", {"service": "ssh", "lines": 3})),
        ("keep-alive --hours 3 --reason training", ("keep-alive", {"hours": 3, "reason": "training"})),
    ],
)
def test_a_command_line_is_read(words: str, expected: Any) -> None:
    assert me.parse(words.split()) == expected


@pytest.mark.parametrize(
    "words",
    [
        ["down", "--gpus", "1"],
        ["status", "ssh"],
        ["keep-alive", "--hours", "2"],
        ["keep-alive", "--hours", "2", "--reason", "\x1b[2J"],
        ["keep-alive", "--hours", "2", "--reason", "x" * 121],
        ["up", "--gpu", "1"],
        ["up", "--gpus", "65"],
        ["up", "--gpus", "-1"],
        ["up", "--gpus", "\u0661"],
        ["up", "--hours", "0"],
        ["up", "--env", "../x"],
        ["--wait", "8d"],
        ["--wait", "soon"],
        ["logs", "jupyter", "--lines", "201"],
        ["reboot"],
    ],
    ids=" ".join,
)
def test_a_mistake_on_the_command_line_is_exit_2(words: list[str]) -> None:
    with pytest.raises(me.FaultError) as caught:
        me.parse(words)
    assert caught.value.code == 2
    assert "me --help" in caught.value.problem["fix"]


@pytest.mark.parametrize(
    ("words", "verb"),
    [
        (["--env", "nlp", "--gpus", "64", "--hours", "8784", "--wait", "7d", "--switch", "--restart"], "up"),
        (["--gpus", "0", "--hours", "1", "--wait", "0s"], "up"),
        (["renew", "--hours", "8784"], "renew"),
        (["keep-alive", "--hours", "1", "--reason", "x" * 120], "keep_alive"),
        (["upgrade", "--now"], "upgrade"),
        (["rotate-token", "--now"], "rotate_token"),
        (["logs", "ssh", "--lines", "200"], "logs"),
        (["status"], "status"),
        (["down"], "down"),
        (["cancel"], "cancel"),
        (["environments"], "environments"),
    ],
    ids=str,
)
def test_what_the_command_line_accepts_the_broker_does_too(words: list[str], verb: str) -> None:
    act, options = me.parse(words)
    fields = {me.FIELDS.get(name, name): value for name, value in options.items()}
    number = "0c7a9b2e-1f64-4c43-9a55-6f2f0a6f8f10"
    request = json.dumps({"v": 1, "id": number, "verb": act.replace("-", "_"), **fields})
    assert request_of.parse_request(request.encode()).verb == verb
    assert {act.replace("-", "_") for act in me.ACTS} == request_of.VERBS.keys()


def test_a_group_with_part_of_an_hour_may_renew_for_whole_hours(anna: Person) -> None:
    anna.node.configure(groups={"student": a_group(hours=1.5)})
    anna.up(hours=1)
    assert anna.does("renew").answer["left_s"] == 3600
