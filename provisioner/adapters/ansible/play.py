"""One play, from its orders to the last word of every node. Events are the only witness.

Exit codes and the recap are not: a playbook that does not load looks like a host that is unreachable, and one that
matches no host like a success.
"""

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from provisioner.adapters import resources
from provisioner.adapters.ansible.settings import Settings, environment, module_utils
from provisioner.domain.values.problem import Problem, ProblemError

Word = Literal["start", "ok", "failed", "unreachable", "retry"]
_WORDS: dict[str, Word] = {
    "runner_on_start": "start",
    "runner_on_ok": "ok",
    "runner_on_failed": "failed",
    "runner_on_unreachable": "unreachable",
    "runner_retry": "retry",
}
_TAIL = 30  # lines of what Ansible printed, for the case that it did not run the play
# Short: the path of an ssh control socket may have 108 bytes, and TMPDIR can be long.
_TMP, _PREFIX = Path("/tmp"), "prov-"  # noqa: S108  (each folder in it is made by mkdtemp)
_LEFT_SECONDS = 3600  # a run in another PID namespace is none that we can see alive
_ANSI = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class HostEvent:
    """One event of one node. `start` and `end` are the control machine's clock (ISO 8601), where there are any."""

    node: str
    word: Word
    result: Mapping[str, Any]
    start: str | None = None
    end: str | None = None


@contextmanager
def connections() -> Iterator[Path]:
    """A folder for connections that several plays share; they end with it."""
    with _private_folder() as folder:
        try:
            yield folder
        finally:
            _close_connections(folder)


@contextmanager
def scratch(orders: Mapping[str, str], shared: Path | None = None) -> Iterator[Path]:
    """A folder that only we can enter, with an order (JSON) for each node, and what is left of its play ends with it.

    So do its connections, but for those that are `shared`.
    """
    _sweep()
    with _private_folder() as folder, nullcontext(shared) if shared else connections() as sockets:
        for name in ("orders", "module_utils"):
            (folder / name).mkdir()
        (folder / "cp").symlink_to(sockets)
        for node, text in orders.items():
            (folder / "orders" / f"{node}.json").write_text(text)
        (folder / "limit").write_text("".join(f"{node}\n" for node in orders))
        try:
            yield folder
        except BaseException:
            _end_processes(folder)
            raise


@contextmanager
def _private_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=_TMP))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _sweep() -> None:
    """What killed runs have left: orders, sockets and, where they were killed at the wrong moment, tokens."""
    for folder in _TMP.glob(f"{_PREFIX}[0-9]*-*"):
        with suppress(OSError):  # another run sweeps it just now
            found, owner = folder.lstat(), folder.name.split("-")[1]
            old = time.time() - found.st_mtime > _LEFT_SECONDS
            if old and found.st_uid == os.geteuid() and not Path("/proc", owner).exists():
                _end_processes(folder)
                shutil.rmtree(folder)


def _end_processes(folder: Path) -> None:
    """Of a play that was left: its workers have sessions of their own, which no signal of ours reaches."""
    mark = f"={folder}/cp\0".encode()
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):  # it has ended, or is somebody else's
            if mark in path.read_bytes():
                os.kill(int(path.parent.name), signal.SIGTERM)


def play(settings: Settings, folder: Path, playbook: str, heard: Callable[[HostEvent], None]) -> None:
    """Runs `playbook` on the nodes that have an order in `folder`.

    Raises ProblemError where Ansible did not run it, and ValueError where no node has an order.
    """
    import ansible_runner  # noqa: PLC0415  (a second of imports that `--help` does not need)

    nodes = (folder / "limit").read_text().split()
    if not nodes:
        raise ValueError("a play over no nodes: to Ansible an empty limit means all of them")
    _stage_pynvml(folder)
    listener = _Listener(heard)
    ansible_runner.run(
        private_data_dir=str(folder),
        project_dir=str(resources.playbooks()),
        playbook=f"{playbook}.yml",
        inventory=str(_inventory(settings, folder)),
        limit=f"@{folder}/limit",
        cmdline=shlex.join(settings.arguments()) or None,
        extravars={"provisioner_orders": f"{folder}/orders", "provisioner_patience": _patience(len(nodes))},
        envvars=_environment(settings, folder, len(nodes)),
        verbosity=settings.verbosity or None,
        event_handler=listener.hear,
        # Without one of our own, the runner takes over the signals, never gives them back, and ^C is dead.
        cancel_callback=lambda: False,
        suppress_env_files=True,
        quiet=True,
    )
    if not listener.reached_the_end:
        raise ProblemError(_did_not_run(playbook, listener.printed()))


class _Listener:
    def __init__(self, heard: Callable[[HostEvent], None]) -> None:
        self.reached_the_end = False
        self._heard = heard
        self._lines: deque[str] = deque(maxlen=_TAIL)

    def hear(self, event: Mapping[str, Any]) -> bool:
        """False: the runner need not write the event to a file."""
        self._lines.extend(_ANSI.sub("", event.get("stdout") or "").splitlines())
        self.reached_the_end |= event["event"] == "playbook_on_stats"
        data = event.get("event_data", {})
        if word := _WORDS.get(event["event"]):
            self._heard(HostEvent(data["host"], word, data.get("res") or {}, data.get("start"), data.get("end")))
        return False

    def printed(self) -> str:
        return "\n".join(line for line in self._lines if line.strip())


def _environment(settings: Settings, folder: Path, count: int) -> dict[str, str]:
    given = environment(settings, count)
    return {
        **given,
        "ANSIBLE_MODULE_UTILS": module_utils(folder / "module_utils", given),
        "ANSIBLE_SSH_CONTROL_PATH_DIR": f"{folder}/cp",
    }


def _patience(count: int) -> int:
    """Seconds for which a node is asked to wait with its answer: each answer costs us a third of a second of CPU."""
    return min(2 + count // 3, 12)


def _inventory(settings: Settings, folder: Path) -> Path:
    if settings.inventory:
        return settings.inventory.absolute()
    variables = {"ansible_connection": "local", "ansible_become": False, "ansible_python_interpreter": sys.executable}
    path = folder / "hosts.json"
    path.write_text(json.dumps({"all": {"hosts": {this_machine(): variables}}}))
    return path


def this_machine() -> str:
    name = socket.gethostname().split(".")[0]
    return name if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name) else "localhost"


def _stage_pynvml(folder: Path) -> None:
    """Nothing is installed on a node: the one file travels with the modules, in the version that is locked here."""
    import pynvml  # noqa: PLC0415  (10 000 lines)

    shutil.copy(pynvml.__file__, folder / "module_utils" / "pynvml.py")


def _close_connections(sockets: Path) -> None:
    for path in sockets.iterdir():
        argv = ["ssh", "-o", f"ControlPath={path}", "-O", "exit", "none"]
        with suppress(OSError, subprocess.TimeoutExpired):  # it ends by itself within a minute
            subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=10)


def _did_not_run(playbook: str, printed: str) -> Problem:
    return Problem(
        "ansible_failed",
        f"Ansible did not run {playbook}.yml: {printed or 'it printed nothing'}",
        "so nothing is known of any node",
        "correct what Ansible names; `-vvv` shows more",
    )
