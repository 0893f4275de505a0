"""The socket of the broker: one thread, which never blocks. Each connection has one request and one answer.

A connection has TIMEOUT_S in all, from its opening to the end of the answer; only logs may take longer to be collected.
"""

from __future__ import annotations

import contextlib
import fcntl
import grp
import json
import os
import selectors
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any, Callable

from ansible.module_utils.provisioner.base import stream
from ansible.module_utils.provisioner.base.child import Child
from ansible.module_utils.provisioner.base.problem import ProblemError, as_fault, printable
from ansible.module_utils.provisioner.broker import refusals
from ansible.module_utils.provisioner.broker.callers import Accounts, peer_of
from ansible.module_utils.provisioner.broker.config import FOLDER, LOCK_FILE
from ansible.module_utils.provisioner.broker.keeper import Keeper, job_program
from ansible.module_utils.provisioner.broker.observe import SECONDS as LOOK_SECONDS
from ansible.module_utils.provisioner.broker.observe import observe, parse_seen
from ansible.module_utils.provisioner.broker.request import MOST_BYTES, Request, parse_request, request_id
from ansible.module_utils.provisioner.broker.verbs import Later, Verbs
from ansible.module_utils.provisioner.jobs.job import problem_of
from ansible.module_utils.provisioner.lease.rates import CONNECTIONS, MINUTE_S, REQUESTS_A_MINUTE, Connections, Window
from ansible.module_utils.provisioner.lease.tick import Seen

TIMEOUT_S = 5.0
LOOK_EVERY_S = 60.0
POLL_S = 0.5  # while a job runs
MODE = 0o660
BACKLOG = 32
NO_ACCOUNT = -1  # in place of a uid


class Connection:
    """A connection with the part of its request that has come, and the part of its answer that has still to go."""

    def __init__(self, link: socket.socket, now: float) -> None:
        """Raise OSError when the kernel does not say who it is."""
        self.link, self.deadline = link, now + TIMEOUT_S
        self.pid, self.uid = peer_of(link)
        self.data, self.rest = bytearray(), b""
        self.request: Request | None = None
        self.later: Later | None = None

    def fileno(self) -> int:
        """Return the descriptor of the socket."""
        return self.link.fileno()


class Server:
    """Accepts connections, reads requests, and lets the keeper look at the node each minute."""

    def __init__(self, keeper: Keeper, listener: socket.socket) -> None:
        """`listener` is bound and listens."""
        self._keeper, self._listener = keeper, listener
        self._verbs, self._accounts = Verbs(keeper), Accounts()
        self._rate, self._open = Window(MINUTE_S, REQUESTS_A_MINUTE), Connections()
        self._connections: set[Connection] = set()
        self._lookups: dict[int, Child] = {}
        self._look: Child | None = None
        self._changes = 0
        self._samples: list[Any] = []  # of the processor time of seats
        self._next_look = 0.0
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ, self._accept)
        listener.setblocking(False)

    def run(self, wake: int, after_step: Callable[[], None]) -> None:
        """Serve until the descriptor `wake` can be read. `after_step` is called at least each minute."""
        ends: list[int] = []
        self._selector.register(wake, selectors.EVENT_READ, lambda: ends.append(wake))
        while not ends:
            self.step()
            after_step()

    def step(self) -> None:
        """Wait for what happens next, and handle it."""
        for key, _ in self._selector.select(self._patience()):
            key.data()
        now = time.monotonic()
        self._expire(now)
        self._keeper.poll()
        if self._look is None and now >= self._next_look:
            self._begin_look(now)

    def _patience(self) -> float:
        """Return for how many seconds nothing has to be done without an event."""
        ends = [connection.deadline for connection in self._connections]
        ends += [child.deadline for child in self._lookups.values()]
        ends.append(self._look.deadline if self._look else self._next_look)
        patience = max(0.0, min(ends) - time.monotonic())
        return min(patience, POLL_S) if self._keeper.state.jobs else patience

    # --- the node

    def _begin_look(self, now: float) -> None:
        holders = {gpu: lease.seat for lease in self._keeper.state.leases.values() for gpu in lease.gpus}
        state_root, samples = self._keeper.state_root, self._samples
        self._changes, self._next_look = self._keeper.changes, now + LOOK_EVERY_S
        try:
            child = Child(lambda: observe(state_root, holders, samples), LOOK_SECONDS)
        except OSError:  # no memory for a process now
            self._go_on()
            return
        self._look = self._add_child(child, self._end_look)

    def _end_look(self) -> None:
        """Take what was seen. Which seats run is left out where a job has begun or ended meanwhile."""
        child, self._look = self._look, None
        if child is None:
            return
        self._selector.unregister(child)
        try:
            found = child.result()
        except (TimeoutError, ChildProcessError):
            self._go_on()
            return
        seen, self._samples = parse_seen(found), found["samples"]
        if self._changes != self._keeper.changes:  # a seat that a job has changed all the while is left out by `tick`
            seen = seen._replace(running=None, own={}, others=frozenset())
        self._keeper.tick(seen)

    def _go_on(self) -> None:
        """Let time go by without a look: the GPUs are as they were seen before, and each seat counts as used."""
        self._keeper.tick(Seen(self._keeper.state.cards))

    def _add_child(self, child: Child, done: Callable[[], None]) -> Child:
        """Call `done` when a child has written all of its result."""
        self._selector.register(child, selectors.EVENT_READ, lambda: done() if child.read() else None)
        return child

    # --- connections

    def _accept(self) -> None:
        try:
            link, _ = self._listener.accept()
        except OSError:
            return
        try:
            stream.prepare(link)
            connection = Connection(link, time.monotonic())
        except OSError:
            stream.close(link)
            return
        if not self._has_room(connection.uid):
            self._refuse_at_once(connection)
            return
        self._open.opened(connection.uid)
        self._connections.add(connection)
        self._selector.register(connection, selectors.EVENT_READ, lambda: self._guarded(connection, self._read))

    def _has_room(self, uid: int) -> bool:
        """Return whether one more connection may be opened. If all are taken, one that is not in use makes room."""
        if not self._open.has_room(uid) and not self._open.has_own(uid):
            unused = [one for one in self._connections if one.uid and self._is_unused(one)]
            for oldest in sorted(unused, key=lambda one: one.deadline)[:1]:
                self._close(oldest)
        return self._open.has_room(uid)

    def _is_unused(self, connection: Connection) -> bool:
        """Return whether no whole request has come, or one of an account that the node is not known to have.

        One person may have many of these: the user namespaces of Linux give an account thousands of numbers.
        """
        has_asked = connection.request or connection.rest
        return not (connection.later or (has_asked and self._accounts.has_found(connection.uid)))

    def _refuse_at_once(self, connection: Connection) -> None:
        """Answer a connection for which there is no room, if its buffer takes the answer, and close it."""
        with contextlib.suppress(OSError):
            connection.link.send(_encode(None, refusals.no_room("").problem))
        stream.close(connection.link)

    def _guarded(self, connection: Connection, act: Callable[[Connection], None]) -> None:
        """Call `act`, and close the connection where it fails: no client may end the broker."""
        if connection not in self._connections:  # it was closed since the event
            return
        try:
            act(connection)
        except OSError:
            self._close(connection)

    def _read(self, connection: Connection) -> None:
        chunk = stream.receive(connection.link, MOST_BYTES + 2)
        connection.data += chunk
        end = connection.data.find(b"\n")
        if end >= 0:
            self._received(connection, bytes(connection.data[:end]))
        elif not chunk:
            self._close(connection)
        elif len(connection.data) > MOST_BYTES:
            self._received(connection, bytes(connection.data))

    def _received(self, connection: Connection, line: bytes) -> None:
        """Take a request; nothing more is read of this connection."""
        self._selector.unregister(connection)
        now = time.monotonic()
        if connection.uid and self._rate.is_full(connection.uid, now):
            fault = refusals.too_often(REQUESTS_A_MINUTE, "requests", "a minute")
            self._answer(connection, request_id(line), fault.problem)
            return
        self._rate.count(connection.uid, now)
        try:
            connection.request = parse_request(line)
        except ProblemError as fault:
            self._audit(connection, printable(line[:100].decode(errors="replace")), fault.problem["code"])
            self._answer(connection, request_id(line), fault.problem)
            return
        self._look_up(connection, now)

    def _look_up(self, connection: Connection, now: float) -> None:
        """Carry the request out as soon as its account is known."""
        uid = connection.uid
        if uid == 0 or self._accounts.known(uid, now):
            self._carry_out(connection)
        elif uid not in self._lookups and len(self._lookups) >= CONNECTIONS:  # also for connections that were closed
            self._answer(connection, connection.request and connection.request.id, refusals.no_room("").problem)
        elif uid not in self._lookups:
            child = self._accounts.look_up(uid)
            self._lookups[uid] = self._add_child(child, lambda: self._found(uid))

    def _found(self, uid: int) -> None:
        child = self._lookups.pop(uid)
        self._selector.unregister(child)
        self._accounts.found(uid, child, time.monotonic())
        for connection in [one for one in self._connections if one.uid == uid and one.request and not one.rest]:
            if connection.later is None:
                self._carry_out(connection)

    def _carry_out(self, connection: Connection) -> None:
        request = connection.request
        if request is None:
            return
        try:
            answer = self._verbs.answer(request, self._accounts.caller(connection.uid))
        except Exception as error:  # noqa: BLE001  (no request may end the broker)
            problem = as_fault(error).problem if isinstance(error, (ProblemError, OSError)) else problem_of(error)
            self._audit(connection, request.values, problem["code"])
            self._answer(connection, request.id, problem)
            return
        if isinstance(answer, Later):
            self._answer_later(connection, answer)
            return
        self._audit(connection, request.values, answer["state"])
        self._answer(connection, request.id, None, answer)

    def _answer_later(self, connection: Connection, later: Later) -> None:
        connection.later, connection.deadline = later, later.child.deadline
        self._add_child(later.child, lambda: self._end_later(connection))

    def _end_later(self, connection: Connection) -> None:
        later, request = connection.later, connection.request
        if later is None or request is None:
            return
        connection.later, connection.deadline = None, time.monotonic() + TIMEOUT_S
        self._selector.unregister(later.child)
        try:
            answer = {**later.answer, later.field: later.child.result()}
        except (TimeoutError, ChildProcessError) as error:
            problem = problem_of(OSError(str(error) or "no answer in time"))
            self._audit(connection, request.values, problem["code"])
            self._answer(connection, request.id, problem)
            return
        self._audit(connection, request.values, "ok")
        self._answer(connection, request.id, None, answer)

    def _answer(
        self,
        connection: Connection,
        number: str | None,
        problem: dict[str, str] | None,
        answer: dict[str, Any] | None = None,
    ) -> None:
        connection.rest = _encode(number, problem, answer)
        self._selector.register(connection, selectors.EVENT_WRITE, lambda: self._guarded(connection, self._write))

    def _write(self, connection: Connection) -> None:
        connection.rest = connection.rest[connection.link.send(connection.rest) :]
        if not connection.rest:
            self._close(connection)

    def _audit(self, connection: Connection, asked: Any, outcome: str) -> None:
        verb = connection.request.verb if connection.request else None
        if not self._has_line(connection.uid):
            return
        self._keeper.store.audit(uid=connection.uid, pid=connection.pid, verb=verb, asked=asked, outcome=outcome)

    def _has_line(self, uid: int) -> bool:
        """Return whether a line is added to the audit: numbers without an account have those of one person together."""
        if uid == 0 or self._accounts.has_found(uid):
            return True
        now = time.monotonic()
        is_full = self._rate.is_full(NO_ACCOUNT, now)
        if not is_full:
            self._rate.count(NO_ACCOUNT, now)
        return not is_full

    def _expire(self, now: float) -> None:
        """Close what has taken too long."""
        for connection in [one for one in self._connections if now >= one.deadline]:
            if connection.later:
                self._end_later(connection)
            else:
                self._close(connection)
        for uid in [uid for uid, child in self._lookups.items() if now >= child.deadline]:
            self._found(uid)
        if self._look and now >= self._look.deadline:
            self._end_look()

    def _close(self, connection: Connection) -> None:
        with contextlib.suppress(KeyError):
            self._selector.unregister(connection)
        self._connections.discard(connection)
        self._open.closed(connection.uid)
        stream.close(connection.link)


def _encode(number: str | None, problem: dict[str, str] | None, answer: dict[str, Any] | None = None) -> bytes:
    """Return an answer as a line."""
    words = {"ok": False, "problem": problem} if problem else {"ok": True, **(answer or {})}
    return f"{json.dumps({'v': 1, 'id': number, **words})}\n".encode()


def serve(state_root: str, path: str, job: list[str]) -> int:
    """Serve on the socket at `path` until SIGTERM; `job` starts the program of a job. Return the exit status.

    Jobs go on when it ends. Another broker for the same state root is refused.
    """
    os.umask(0o022)  # whatever starts it: the socket has to be reached, and folders are root's to write
    wake, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.set_wakeup_fd(writer)
    try:
        lock = _lock(state_root)
        keeper = Keeper(state_root, job_program([*job, state_root]))
        listener = listen(path, keeper)
    except (OSError, ProblemError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    with listener:
        Server(keeper, listener).run(wake, SocketRights(path, keeper).follow)
    keeper.usage.write(keeper.clock().boottime, is_end=True)
    os.close(lock)
    return 0


def _lock(state_root: str) -> int:
    """Return the lock that a broker holds while it runs. Raises BlockingIOError when another one does."""
    folder = Path(state_root) / FOLDER
    Path(state_root).mkdir(mode=0o700, parents=True, exist_ok=True)  # below it are the names of all seats
    folder.mkdir(mode=0o700, exist_ok=True)
    lock = os.open(str(folder / LOCK_FILE), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.ftruncate(lock, 0)
    os.write(lock, str(os.getpid()).encode())
    return lock


def listen(path: str, keeper: Keeper) -> socket.socket:
    """Return the listening socket; its group is the unix group of the configuration, if there is one.

    It is made under another name, and renamed when its rights are set. Raises OSError.
    """
    folder = Path(path).parent
    if not folder.is_dir():
        folder.mkdir(parents=True)
        folder.chmod(0o755)  # whatever the umask is: accounts of the group have to reach the socket
    temporary = Path(f"{path}.new")
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listener.bind(str(temporary))
    finally:
        os.umask(before)
    SocketRights(str(temporary), keeper).follow()
    listener.listen(BACKLOG)
    temporary.replace(path)
    return listener


class SocketRights:
    """The rights of the socket: it belongs to the unix group of the configuration; without one, only root may connect.

    A configuration that names another group takes effect without a restart.
    """

    def __init__(self, path: str, keeper: Keeper) -> None:
        """Nothing is set yet."""
        self._path, self._keeper = Path(path), keeper
        self._is_set, self._tried, self._retry_at = "", "", 0.0

    def follow(self) -> None:
        """Set the rights if the group is another one. A group that is not known is looked for again after a minute."""
        group, now = self._group(), time.monotonic()
        if group in ("", self._is_set) or (group == self._tried and now < self._retry_at):
            return
        self._tried, self._retry_at = group, now + LOOK_EVERY_S
        with contextlib.suppress(KeyError, OSError):
            os.chown(str(self._path), -1, grp.getgrnam(group).gr_gid)
            self._path.chmod(MODE)
            self._is_set = group

    def _group(self) -> str:
        try:
            return self._keeper.config.read().unix_group
        except ProblemError:
            return ""
