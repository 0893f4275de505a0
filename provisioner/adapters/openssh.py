"""The user's own ssh: a command on a node, the configuration of ssh for a seat, and a tunnel to its Jupyter."""

import fcntl
import os
import shlex
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, NamedTuple

from provisioner.adapters.state.files import home, make_private_folder, read_text, write_text
from provisioner.domain.rollout.own_seat import (
    INCLUDE,
    KNOWN_HOSTS,
    SshEntry,
    changes_key,
    entry_file,
    has_include,
    is_of_other_node,
    known_host,
    stanza,
    with_include,
    with_known_host,
)
from provisioner.domain.values.problem import Problem, ProblemError

# The user's configuration may say more for this host: only the command is to be run.
_PLAIN = ("-T", "-o", "RemoteCommand=none", "-o", "ClearAllForwardings=yes")
_MOST_OUTPUT = 1 << 20
_MOST_LINE = 2000
_REACH_S = 3.0
_TUNNEL_S = 60.0
_TOKEN_S = 60.0
_JUPYTER_PORT = 8888
_FIX = f"add this line at the top of ~/.ssh/config yourself: Include {INCLUDE}; then run the same command again"


class Ran(NamedTuple):
    """The exit code of a command on a node, 255 for a failure of ssh itself, and its output."""

    code: int
    stdout: str


def ssh_folder() -> Path:
    """Return the user's folder of ssh."""
    return home() / ".ssh"


def run_on(node: str, words: Sequence[str], stdin: str, on_line: Callable[[str], None]) -> Ran:
    """Run a command on a node as the user's ssh reaches it. `on_line` gets each line of its stderr.

    The words reach the command as they are: the shell of the node reads them quoted. Raises ProblemError `no_ssh`.
    """
    chunks: list[bytes] = []
    with tempfile.TemporaryFile() as given:
        given.write(stdin.encode())
        given.seek(0)
        pipe = subprocess.PIPE
        with _start([*_PLAIN, node, shlex.join(words)], stdin=given, stdout=pipe, stderr=pipe) as process:
            reader = threading.Thread(target=_read, args=(process.stdout, chunks), daemon=True)
            reader.start()
            while process.stderr and (line := process.stderr.readline(_MOST_LINE)):
                on_line(line.decode(errors="replace").rstrip("\r\n"))
            reader.join()
    return Ran(process.returncode, b"".join(chunks).decode(errors="replace"))


def _read(stream: IO[bytes] | None, chunks: list[bytes]) -> None:
    """Read all of a stream, and keep its first part."""
    left = _MOST_OUTPUT
    while stream and (chunk := stream.read(65536)):
        chunks.append(chunk[:left])
        left -= len(chunks[-1])


def _start(
    words: Sequence[str], *, stdin: int | IO[bytes], stdout: int | None = None, stderr: int | None = None
) -> subprocess.Popen[bytes]:
    argv = ["ssh", *words]
    try:
        return subprocess.Popen(argv, stdin=stdin, stdout=stdout, stderr=stderr)
    except FileNotFoundError:
        raise ProblemError(_no_ssh(), "usage") from None


def is_reachable(host: str, port: int) -> bool:
    """Return whether this computer can connect to a port of a seat without going through its node."""
    if host.startswith("127."):
        return False
    try:
        with socket.create_connection((host, port), _REACH_S):
            return True
    except OSError:
        return False


# --- the configuration of ssh


def is_included() -> bool:
    """Return whether the user's configuration of ssh includes ours. Raises ProblemError where it cannot be read."""
    return has_include(_read_config())


def write_entry(entry: SshEntry) -> bool:
    """Write a seat's lines for ssh, its host key, and the line that includes them. Return whether the key is another.

    Another program may write at the same time; other lines are kept. Raises ProblemError.
    """
    folder = ssh_folder()
    make_private_folder(folder / "config.d")
    with _locked(folder):
        known = _read_if_there(folder / KNOWN_HOSTS)
        _write_private(folder / KNOWN_HOSTS, with_known_host(known, entry))
        _write_private(_path_of(entry), entry_file(entry))
        config = _read_config()
        if not has_include(config):
            _write_private(folder / "config", with_include(config))
    return changes_key(known, entry)


def is_taken(entry: SshEntry) -> bool:
    """Return whether a seat on another node has the name of an entry in ssh's configuration. Raises ProblemError."""
    text = _read_if_there(_path_of(entry))
    return is_of_other_node(text, _read_if_there(ssh_folder() / KNOWN_HOSTS), entry)


def _path_of(entry: SshEntry) -> Path:
    return ssh_folder() / INCLUDE.replace("*", entry.alias)


def _read_if_there(path: Path) -> str:
    return read_text(path, "remove the file") if path.exists() else ""


def entry_text(entry: SshEntry) -> str:
    """Return what `write_entry` writes, for a person."""
    return f"~/.ssh/config:\n{stanza(entry)}\n~/.ssh/{KNOWN_HOSTS}:\n{known_host(entry)}"


def _read_config() -> str:
    path = ssh_folder() / "config"
    if not path.exists():
        return ""
    if not path.is_file():
        raise ProblemError(
            Problem("unreadable", f"{path} is no file", "ssh is to find your seat by its name", _FIX), "usage"
        )
    return read_text(path, _FIX)


def _write_private(path: Path, text: str) -> None:
    """Replace a file, or the one that a link leads to, where its text changes. It keeps its mode; a new one: 0600."""
    target = path.resolve()
    mode = target.stat().st_mode & 0o777 if target.exists() else 0o600
    if not target.exists() or target.read_text() != text:
        write_text(target, text, mode)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):  # some network file systems have no locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


# --- Jupyter


def free_port() -> int:
    """Return a free port of this computer, 8888 if it is free."""
    for port in (_JUPYTER_PORT, 0):
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return int(probe.getsockname()[1])
    return _JUPYTER_PORT


def read_token_url(alias: str) -> str:
    """Return what the seat prints as the URL of Jupyter with its token; empty where it prints nothing in time."""
    try:
        ran = subprocess.run(
            ["ssh", "-T", alias, "provision-url"],  # noqa: S607
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            check=False,
            timeout=_TOKEN_S,
        )
    except subprocess.TimeoutExpired:
        return ""
    return ran.stdout[:_MOST_LINE].decode(errors="replace") if ran.returncode == 0 else ""


@contextmanager
def tunnel(alias: str, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Keep a tunnel from this port to Jupyter of a seat open. Raises ProblemError `no_tunnel`."""
    forward = f"127.0.0.1:{port}:jupyter:{_JUPYTER_PORT}"
    words = ["-N", "-o", "ExitOnForwardFailure=yes", "-L", forward, alias]
    process = _start(words, stdin=subprocess.DEVNULL)
    try:
        if not _listens(port, process):
            raise ProblemError(_no_tunnel(alias))
        yield process
    finally:
        process.terminate()
        process.wait()


def _listens(port: int, process: subprocess.Popen[bytes]) -> bool:
    deadline = time.monotonic() + _TUNNEL_S
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return process.poll() is None
        time.sleep(0.05)
    return False


def _no_ssh() -> Problem:
    return Problem(
        "no_ssh", "this computer has no program `ssh`", "a node is reached by it", "install the OpenSSH client"
    )


def _no_tunnel(alias: str) -> Problem:
    return Problem(
        "no_tunnel",
        f"the tunnel to {alias} could not be opened; ssh has printed why",
        "Jupyter of a seat is reached through SSH",
        f"try: ssh {alias}",
    )
