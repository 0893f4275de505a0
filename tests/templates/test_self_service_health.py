"""The health check of a self-service seat says how many kernels run code; that never makes a service unhealthy."""

import io
import json
import runpy
from pathlib import Path
from typing import Any, Self

import pytest

from provisioner.adapters.resources import templates

STATUS = "/api/status"
KERNELS = "/api/kernels"
SESSIONS = "/api/sessions"
TOKEN = "5f" * 32


class Link:
    """A connection to Jupyter, or to sshd where nothing is asked."""

    def __init__(self, answers: dict[str, bytes | Exception]) -> None:
        self.answers, self.request = answers, b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def sendall(self, request: bytes) -> None:
        self.request = request

    def makefile(self, _mode: str) -> io.BytesIO:
        assert f"Authorization: token {TOKEN}".encode() in self.request
        answer = self.answers[self.request.split()[1].decode()]
        if isinstance(answer, Exception):
            raise answer
        return io.BytesIO(answer)

    def recv(self, _size: int) -> bytes:
        answer = self.answers["ssh"]
        assert isinstance(answer, bytes)
        return answer


def ok(found: Any) -> bytes:
    return b"HTTP/1.1 200 OK\r\nServer: x\r\n\r\n" + (found if isinstance(found, bytes) else json.dumps(found).encode())


def kernels(*states: str) -> bytes:
    return ok([{"id": "x", "execution_state": state} for state in states])


def a_kernel(number: int, state: str = "idle") -> dict[str, str]:
    """Return a kernel as Jupyter describes it, that was used at minute `number`."""
    return {"id": f"k{number}", "execution_state": state, "last_activity": f"2026-11-30T08:{number:02}:00.000000Z"}


def a_session(kernel: str, path: str, kind: str = "notebook") -> dict[str, Any]:
    return {"path": path, "name": "Console 1", "type": kind, "kernel": {"id": kernel}}


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    (tmp_path / "token").write_text(TOKEN)
    monkeypatch.setenv("JUPYTER_TOKEN_FILE", str(tmp_path / "token"))

    def run(service: str, **answers: bytes | Exception) -> tuple[int, str]:
        program = runpy.run_path(str(templates() / "self_service_health.py"))
        asked = {
            STATUS: answers.get("status", ok({})),
            KERNELS: answers.get("kernels", b""),
            SESSIONS: answers.get("sessions", b""),
            "ssh": answers.get("ssh", b""),
        }
        monkeypatch.setattr(program["socket"], "create_connection", lambda *_, **__: Link(asked))
        code = program["main"](service)
        return code, capsys.readouterr().out.strip()

    return run


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (kernels(), "0"),
        (kernels("idle", "dead", "starting"), "0"),
        (kernels("busy", "idle", "busy"), "2"),
        (b"", "unknown"),
        (ok(b"{"), "unknown"),
        (ok({"a": 1}), "unknown"),
        (ok([7]), "unknown"),
        (ok(b"[" * 100_000), "unknown"),
        (ok(b" " * (1 << 20) + b"[]"), "unknown"),
        (TimeoutError("late"), "unknown"),
        (b"HTTP/1.1 403 Forbidden\r\n\r\n{}", "0"),
    ],
)
def test_busy_kernels_are_counted_and_never_decide_the_health(check: Any, answer: bytes | Exception, said: str) -> None:
    assert check("jupyter", kernels=answer) == (0, f"HTTP 200, busy kernels: {said}")


@pytest.mark.parametrize(
    ("sessions", "names"),
    [
        (ok([a_session("k1", "ml/作业.ipynb"), a_session("k2", "x", "console")]), ["", "ml/作业.ipynb", "Console 1"]),
        (ok([a_session("k1", "x" * 99 + "/last.ipynb")]), ["", "x" * 37 + "/last.ipynb", ""]),
        (ok([]), ["", "", ""]),
        (ok([{"path": "a"}]), ["", "", ""]),
        (ok(b"{"), ["", "", ""]),
        (TimeoutError("late"), ["", "", ""]),
    ],
)
def test_kernels_are_listed_by_notebook_with_those_first_that_are_idle_longest(
    check: Any, sessions: bytes | Exception, names: list[str]
) -> None:
    found = ok([a_kernel(2, "busy"), a_kernel(1), a_kernel(0)])
    code, said = check("jupyter", kernels=found, sessions=sessions)
    first, second = said.splitlines()
    assert (code, first) == (0, "HTTP 200, busy kernels: 1")
    times = [f"2026-11-30T08:0{number}:00.000000Z" for number in range(3)]
    ids, states = ["k0", "k1", "k2"], ["idle", "idle", "busy"]
    assert json.loads(second) == [3, [list(row) for row in zip(ids, names, states, times, strict=True)]]


def test_more_kernels_than_the_engine_keeps_are_counted(check: Any) -> None:
    found = [a_kernel(number) for number in range(50)]
    sessions = [a_session(kernel["id"], "作业" * 40) for kernel in found]
    said = check("jupyter", kernels=ok(found), sessions=ok(sessions))[1]
    count, rows = json.loads(said.splitlines()[1])
    assert (count, len(rows) <= 20, len(said) < 4096) == (50, True, True)
    assert [row[0] for row in rows] == [f"k{number}" for number in range(len(rows))]


@pytest.mark.parametrize("status", [b"HTTP/1.1 503 x\r\n\r\n", b"", OSError("refused")])
def test_a_jupyter_that_does_not_answer_is_not_healthy(check: Any, status: bytes | Exception) -> None:
    code, said = check("jupyter", status=status)
    assert (code, "kernels" in said) == (1, False)


@pytest.mark.parametrize(("banner", "code"), [(b"SSH-2.0-OpenSSH_9\r\n", 0), (b"220 mail", 1)])
def test_sshd_is_healthy_with_its_banner(check: Any, banner: bytes, code: int) -> None:
    assert check("ssh", ssh=banner)[0] == code
