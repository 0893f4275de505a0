"""Run one play and pass on the event of every task of every node.

Only events are trusted, not the exit code or the recap: there, a playbook that does not load looks like an unreachable
host, and a play that matches no host looks like a success.
"""

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from provisioner.adapters import resources
from provisioner.adapters.ansible.guard import signal_plays, start_guard
from provisioner.adapters.ansible.pynvml_part import pynvml_part
from provisioner.adapters.ansible.settings import Settings, environment, search_path
from provisioner.domain.values.problem import Problem, ProblemError

if TYPE_CHECKING:
    from ansible_runner import RunnerConfig

HostStatus = Literal["start", "ok", "failed", "unreachable", "retry"]
_STATUS_BY_EVENT: dict[str, HostStatus] = {
    "runner_on_start": "start",
    "runner_on_ok": "ok",
    "runner_on_failed": "failed",
    "runner_on_unreachable": "unreachable",
    "runner_retry": "retry",
}
_JOB_SECONDS = 3 * 3600  # what a job may take beside its deadlines; garbage collection of a registry has one hour
_OUTPUT_LINES = 30  # kept from what Ansible printed, for the message that it did not run the play
# The path of an ssh control socket is limited to 108 bytes, and TMPDIR can be long.
_TMP, _PREFIX = Path("/tmp"), "prov-"  # noqa: S108  (each folder in it is made by mkdtemp)
_STALE_SECONDS = 3600  # a process in another PID namespace is not visible here, so a missing owner alone proves nothing
_ANSI = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class HostEvent:
    """One event of one node. `start` and `end`: when its task began and ended, by the control machine (ISO 8601).

    `inventory`: the file that names the node; None for this machine alone.
    """

    node: str
    status: HostStatus
    result: Mapping[str, Any]
    start: str | None = None
    end: str | None = None
    inventory: Path | None = None


@contextmanager
def connections() -> Iterator[Path]:
    """Make a folder for the SSH connections that several plays share. They are closed when it is left."""
    with _private_folder() as folder:
        try:
            yield folder
        finally:
            _close_connections(folder)


@contextmanager
def play_folder(orders: Mapping[str, str], shared: Path | None = None) -> Iterator[Path]:
    """Make a folder with mode 0700 for one play, holding an order (JSON) for each node.

    The folder, the processes of an interrupted play and its connections end with the context, except for connections in
    the folder `shared`.
    """
    _remove_stale_folders()
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
            signal_plays(f"{folder}/")  # Ansible's workers run in sessions that ^C and hang-ups do not reach
            raise


_guard = cache(start_guard)  # one for this process; it ends with it


@contextmanager
def _private_folder() -> Iterator[Path]:
    prefix = f"{_PREFIX}{os.getpid()}-"
    _guard(_TMP / prefix)
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=_TMP))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_stale_folders() -> None:
    """Remove the folders of runs whose guard was killed, too: orders, sockets, and tokens if `access` was running."""
    for folder in _TMP.glob(f"{_PREFIX}[0-9]*-*"):
        with suppress(OSError):  # another run may be removing it
            found, owner = folder.lstat(), folder.name.split("-")[1]
            stale = time.time() - found.st_mtime > _STALE_SECONDS
            if stale and found.st_uid == os.geteuid() and not Path("/proc", owner).exists():
                signal_plays(f"{folder}/")
                shutil.rmtree(folder)


def run_playbook(
    settings: Settings,
    folder: Path,
    playbook: str,
    on_host_event: Callable[[HostEvent], None],
    variables: Mapping[str, Any] | None = None,
) -> None:
    """Run `playbook` on the nodes that have an order in `folder`. `variables` win over all others.

    Raises ProblemError where Ansible did not run it, and ValueError where no node has an order.
    """
    import ansible_runner  # noqa: PLC0415  (as below)

    nodes = (folder / "limit").read_text().split()
    if not nodes:
        raise ValueError("no nodes to run on: to Ansible an empty limit means all of them")
    (folder / "module_utils/pynvml.py").write_text(pynvml_part())
    listener = _Listener(on_host_event, settings)
    ansible_runner.Runner(
        runner_config(settings, folder, playbook, len(nodes), variables or {}),
        event_handler=listener.on_runner_event,
        # Without a callback ansible-runner's own `run` replaces the signal handlers and never restores them.
        cancel_callback=lambda: False,
    ).run()
    if not listener.has_ended:
        printed = "\n".join(line for line in listener.lines if line.strip())
        raise ProblemError(
            Problem(
                "ansible_failed",
                f"Ansible did not run {playbook}.yml: {printed or 'it printed nothing'}",
                "so the state of every node is unknown",
                "correct what Ansible reports; `-vvv` shows more",
            )
        )


class _Listener:
    """Converts the events of ansible-runner. `has_ended`: the play reached its recap. `lines`: the last output."""

    def __init__(self, on_host_event: Callable[[HostEvent], None], settings: Settings) -> None:
        self.has_ended = False
        self.lines: deque[str] = deque(maxlen=_OUTPUT_LINES)
        self._on_host_event, self._inventory, self._on_output = on_host_event, settings.inventory, settings.on_output

    def on_runner_event(self, event: Mapping[str, Any]) -> bool:
        """Handle one event. Returns False: the runner does not need to write the event to a file."""
        text = _ANSI.sub("", event.get("stdout") or "").replace("\r\n", "\n")
        self.lines.extend(text.splitlines())
        if text and self._on_output:
            self._on_output(text)
        self.has_ended |= event["event"] == "playbook_on_stats"
        data = event.get("event_data", {})
        if status := _STATUS_BY_EVENT.get(event["event"]):
            result = data.get("res") or {}
            times = data.get("start"), data.get("end")
            self._on_host_event(HostEvent(data["host"], status, result, *times, self._inventory))
        return False


def runner_config(
    settings: Settings, folder: Path, playbook: str, count: int, variables: Mapping[str, Any]
) -> "RunnerConfig":
    """Return how ansible-runner calls ansible-playbook, without what it sets that a user of Ansible does not expect.

    Kept are: the callback that reports events in place of the user's stdout callback, whose output is not shown; no
    retry files, which would name our playbook; results of at most 700 000 characters.
    """
    import ansible_runner  # noqa: PLC0415  (takes a second, and `--help` does not need it)

    envvars = _environment(settings, folder, count)
    config = ansible_runner.RunnerConfig(
        private_data_dir=str(folder),
        playbook=str(resources.playbooks() / f"{playbook}.yml"),
        inventory=str(_inventory(settings, folder)),
        limit=f"@{folder}/limit",
        cmdline=shlex.join([*settings.arguments(), *settings.passwords.flags()]) or None,
        extravars={
            "provisioner_orders": f"{folder}/orders",
            "provisioner_patience": _patience(count),
            "provisioner_first_look": _first_look(envvars, count),
            "provisioner_polls": _polls(folder, _patience(count)),
            **variables,
        },
        envvars=envvars,
        passwords=settings.passwords.answers(),
        verbosity=settings.verbosity or None,
        fact_cache_type="",  # the user's own cache, which the variables of an inventory may need
        quiet=True,
    )
    config.prepare()
    # Host keys are checked as ansible.cfg, inventory and environment say: ansible-runner turns that off.
    # Schedulers of clusters and of tests set JOB_ID; the callback of ansible-runner expects a number of AWX in it.
    for name in ("ANSIBLE_HOST_KEY_CHECKING", "JOB_ID", "AD_HOC_COMMAND_ID", "PROJECT_UPDATE_ID"):
        config.env.pop(name, None)
    if "ANSIBLE_HOST_KEY_CHECKING" in os.environ:
        config.env["ANSIBLE_HOST_KEY_CHECKING"] = os.environ["ANSIBLE_HOST_KEY_CHECKING"]
    config.cwd = str(Path.cwd())  # relative paths of keys, of known_hosts and after -e; not the folder of the playbook
    return config


def _environment(settings: Settings, folder: Path, count: int) -> dict[str, str]:
    return {
        **environment(settings, count),
        "ANSIBLE_MODULE_UTILS": search_path("ANSIBLE_MODULE_UTILS", "module_utils", settings, folder / "module_utils"),
        # ansible-runner adds its own folder, and with it hides the one that ansible.cfg names.
        "ANSIBLE_CALLBACK_PLUGINS": search_path("ANSIBLE_CALLBACK_PLUGINS", "callback_plugins", settings),
        "ANSIBLE_STDOUT_CALLBACK": "default",  # ansible-runner builds on the user's own, and fails where it has none
        "ANSIBLE_SSH_CONTROL_PATH_DIR": f"{folder}/cp",
    }


def _patience(count: int) -> int:
    """Return how many seconds a node may delay a progress report.

    Each report costs a third of a second of our CPU and a quarter of a second of the node's.
    """
    return min(6 + count // 2, 30)


def _first_look(environment: Mapping[str, str], count: int) -> int:
    """Return for how many seconds a job is looked at by the task that starts it: most end within them.

    Not at all where a node has to wait for a worker, as there are more nodes than workers: its job would begin only
    after the first look at others.
    """
    return _patience(count) if int(environment.get("ANSIBLE_FORKS", 0)) >= count else 0


def _polls(folder: Path, patience: int) -> int:
    """Return how often a job is looked at before it is given up: for longer than the deadlines of its order add up to.

    A look takes half of `patience` at least, and the pause after it a second.
    """
    orders = [json.loads(path.read_text()) for path in folder.glob("orders/*.json")]
    return round(max(map(_longest, orders)) / (patience / 2 + 1))


def _longest(order: Mapping[str, Any]) -> int:
    """Return for how many seconds the job of an order, or of a batch of orders, may run.

    Each deadline counts for several commands. The seats of a batch may run one after the other, but each image is
    pulled once: the first seat with it pulls it for the others. An order to publish has the images and the deadlines of
    its environments, and one to fetch those of each image.
    """
    environments = (order.get("config") or {}).get("environments", {})
    orders = order.get("orders") or order.get("images") or [*environments.values()] or [order]
    pulls = {(one.get("image") or {}).get("reference"): _deadlines(one).get("pull", 0) for one in orders}
    pull = sum(pulls.values())
    others = sum(sum(_deadlines(one).values()) - _deadlines(one).get("pull", 0) for one in orders)
    waits = sum((one.get("when_busy") or {}).get("seconds", 0) for one in orders)
    return int(_JOB_SECONDS + 4 * (pull + others) + waits)


def _deadlines(order: Mapping[str, Any]) -> Mapping[str, int]:
    return {"deadline": order.get("deadline", 0), **order.get("deadlines", {})}


def _inventory(settings: Settings, folder: Path) -> Path:
    if settings.inventory:
        return settings.inventory.absolute()
    variables = {"ansible_connection": "local", "ansible_become": False, "ansible_python_interpreter": sys.executable}
    path = folder / "hosts.json"
    path.write_text(json.dumps({"all": {"hosts": {local_hostname(): variables}}}))
    return path


def local_hostname() -> str:
    """Return the short host name of this machine, or `localhost` where Ansible could misread it as a pattern."""
    name = socket.gethostname().split(".")[0]
    return name if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name) else "localhost"


def _close_connections(sockets: Path) -> None:
    for path in sockets.iterdir():
        argv = ["ssh", "-o", f"ControlPath={path}", "-O", "exit", "none"]
        with suppress(OSError, subprocess.TimeoutExpired):  # ControlPersist closes it within ten minutes
            subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=10)
