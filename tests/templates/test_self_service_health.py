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


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    (tmp_path / "token").write_text(TOKEN)
    monkeypatch.setenv("JUPYTER_TOKEN_FILE", str(tmp_path / "token"))

    def run(service: str, **answers: bytes | Exception) -> tuple[int, str]:
        program = runpy.run_path(str(templates() / "self_service_health.py"))
        asked = {
            STATUS: answers.get("status", ok({})),
            KERNELS: answers.get("kernels", b""),
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


@pytest.mark.parametrize("status", [b"HTTP/1.1 503 x\r\n\r\n", b"", OSError("refused")])
def test_a_jupyter_that_does_not_answer_is_not_healthy(check: Any, status: bytes | Exception) -> None:
    code, said = check("jupyter", status=status)
    assert (code, "kernels" in said) == (1, False)


@pytest.mark.parametrize(("banner", "code"), [(b"SSH-2.0-OpenSSH_9\r\n", 0), (b"220 mail", 1)])
def test_sshd_is_healthy_with_its_banner(check: Any, banner: bytes, code: int) -> None:
    assert check("ssh", ssh=banner)[0] == code
