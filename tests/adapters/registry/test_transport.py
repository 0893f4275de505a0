"""The limit of an exchange holds for every kind of connection."""

import socket
from contextlib import closing

import pytest
from urllib3.connection import HTTPConnection
from urllib3.util.ssltransport import SSLTransport

from provisioner.adapters.registry.transport import OpenSockets, TimedConnection


@pytest.mark.parametrize("within_tls", [False, True], ids=["one TLS or none", "TLS within that of an https proxy"])
def test_a_late_exchange_is_cut(monkeypatch: pytest.MonkeyPatch, within_tls: bool) -> None:
    ours, theirs = socket.socketpair()
    with closing(ours), closing(theirs):
        inner = SSLTransport.__new__(SSLTransport)
        inner.socket = ours  # shutdown alone is used of it
        made = inner if within_tls else ours
        monkeypatch.setattr(HTTPConnection, "connect", lambda self: setattr(self, "sock", made))
        monkeypatch.setattr(TimedConnection, "open_sockets", OpenSockets(), raising=False)
        connection = TimedConnection("registry.lab")
        connection.connect()
        connection.ends = 1.0
        connection.open_sockets.cut(0.5)
        theirs.setblocking(False)
        with pytest.raises(BlockingIOError):
            theirs.recv(1)
        connection.open_sockets.cut(1.0)
        assert theirs.recv(1) == b""
        connection.sock = None
