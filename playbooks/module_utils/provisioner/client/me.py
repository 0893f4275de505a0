"""`provision me` on a node: ask the broker for one's own seat. This one file is the whole program (see install.py).

So it uses the standard library only, as of Python 3.8. It runs as the person who calls it, without other rights.
"""
# ruff: noqa: RUF001  (Chinese punctuation)

from __future__ import annotations

import argparse
import base64
import calendar
import contextlib
import fcntl
import grp
import hashlib
import json
import os
import pwd
import re
import select
import shlex
import shutil
import socket
import stat
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any, Callable, Iterator, NamedTuple, NoReturn, Sequence, TextIO

SOCKET = "/run/provisioner/broker.sock"
SCHEMA, PROBLEMS = "provisioner/me/1", "provisioner/problems/1"
DONE, FAILED, USAGE, NO_CARD, INTERRUPTED = 0, 1, 2, 4, 130
ACTS: dict[str, tuple[str, ...]] = {
    "up": ("env", "gpus", "hours", "wait", "switch", "restart", "keys_from_stdin"),
    "status": (),
    "down": (),
    "renew": ("hours",),
    "keep-alive": ("hours", "reason"),
    "cancel": (),
    "upgrade": ("now",),
    "rotate-token": ("now",),
    "logs": ("service", "lines"),
    "environments": (),
}
SERVICES = ("jupyter", "ssh")
NEEDED = {"keep-alive": ("hours", "reason")}
FIELDS = {"env": "environment", "wait": "wait_s"}  # options whose field in a request has another name

# What the broker accepts, see broker/request.py: a mistake is to be explained here, and not to be a bug there.
ENVIRONMENT = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
KEY = re.compile(
    r"(ssh-(ed25519|rsa)|ecdsa-sha2-nistp(256|384|521)|sk-(ssh-ed25519|ecdsa-sha2-nistp256)@openssh\.com)"
    r" [A-Za-z0-9+/]{16,}={0,2}"
)
MOST_GPUS, MOST_HOURS, MOST_WAIT_S, MOST_LINES, LONGEST_REASON = 64, 24 * 366, 7 * 86400, 200, 120
MOST_KEYS, LONGEST_KEY = 4, 1000
KEYS_BYTES = 3500  # of a request, which has 4096 at most

MOST_ANSWER = 1 << 20  # bytes
TIMEOUT_S, LOGS_TIMEOUT_S = 20.0, 60.0
POLL_S = (*[0.5] * 4, *[1.0] * 8, 4.0)  # while a job runs; the last one goes on: 30 requests a minute are allowed
WAIT_POLL_S = 20.0  # who waits loses the place after a minute without a request
PATIENCE_S = 90.0  # for a broker that is started again, or that is asked too often
SLACK_S = 120.0  # of a lease that has begun a moment ago
LONGEST_JOB_S = 4 * 3600.0
OCCUPIED_S = 1800.0  # while the node starts the seats of others, some at once
OCCUPIED = "node_occupied"
PASSING = ("too_often", "too_many_connections", "no_broker", "no_answer")
WAITING = ("waiting", "offered")
RUNNING = ("running", "ending")

LABEL_COLUMNS = 9
UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
MOST_FILES, MOST_FILE = 20, 64 << 10  # of ~/.ssh, and bytes of each

TEXTS = {
    "en": {
        "running": "Your seat {name} on {node} is running.",
        "ending": "The time of your seat {name} on {node} ends.",
        "starting": "Your seat {name} on {node} is being started.",
        "stopping": "Your seat on {node} is being stopped.",
        "stopped": "Your seat on {node} is stopped. Your files are kept; its token is new when it is started again.",
        "absent": "You have no seat on {node}.",
        "waiting": "You wait for a GPU on {node}: place {position}.",
        "offered": "A GPU on {node} is held for you for up to 15 minutes.",
        "gpus": "GPUs",
        "none": "none",
        "until": "until",
        "left": "{until} ({hours} left)",
        "environment": "image",
        "from_elsewhere": "on your own computer first run: {tunnel}",
        "then_open": "then open {url}",
        "token": "token",
        "host_key": "host key {fingerprint}",
        "files": "files",
        "kept": "your home ~ is kept; other files of the seat are lost when it is upgraded or gets another environment",
        "disk": "disk",
        "used": "{used} used",
        "of": " of {limit}",
        "kernels": "kernels",
        "busy": "runs code",
        "idle": "idle",
        "idle_for": "idle for {hours}",
        "gpu_memory": ", holds {used} of GPU memory",
        "more": "and {number} more",
        "next_running": "Next: provision me renew (more time), provision me down (stop it; your files are kept)",
        "next_starting": "Next: provision me status",
        "next_none": "Next: provision me (start it), provision me environments (what there is)",
        "next_waiting": "Next: provision me --wait 2h (keep the place), provision me cancel (give it up)",
        "renewed": "Your seat runs until {until} ({hours} left).",
        "shorter": "Your seat runs already, and --hours does not prolong it: {left} are left. For {hours} hours from"
        " now on: provision me renew --hours {hours}",
        "made_key": "You had no SSH key. A new one was made, without a passphrase: {path}",
        "place": "waiting for a GPU: place {position}{holders}",
        "occupied": "the node is starting other seats; this command asks again",
        "begins": "the node begins",
        "in_use": "; in use by {names}",
        "somebody": "somebody",
        "interrupted": "Interrupted. What has begun goes on, see provision me status; a place in the queue is lost.",
        "why": "why: ",
        "fix": "fix: ",
        "environments": "{name}  PyTorch {torch}  up to {max_gpus:g} GPUs, {max_hours:g} hours",
        "is_used": "; your seat has it",
        "withdrawn": "{name}  not published any more; your seat keeps it until it stops or is upgraded",
        "next_environment": "Next: provision me --env NAME (for a seat that runs with another one: --switch)",
        "no_environment": "No environment is published for you.",
    },
    "zh": {
        "running": "你的座位 {name} 正在 {node} 上运行。",
        "ending": "你在 {node} 上的座位 {name} 即将到期。",
        "starting": "正在 {node} 上启动你的座位 {name}。",
        "stopping": "正在停止你在 {node} 上的座位。",
        "stopped": "你在 {node} 上的座位已停止，文件保留；再次启动时令牌是新的。",
        "absent": "你在 {node} 上没有座位。",
        "waiting": "你正在等待 {node} 上的 GPU：第 {position} 位。",
        "offered": "{node} 上有一张 GPU 为你保留，最多 15 分钟。",
        "gpus": "GPU",
        "none": "没有",
        "until": "到期",
        "left": "{until}（还有 {hours}）",
        "environment": "镜像",
        "from_elsewhere": "先在自己的电脑上运行：{tunnel}",
        "then_open": "再打开 {url}",
        "token": "令牌",
        "host_key": "主机密钥 {fingerprint}",
        "files": "文件",
        "kept": "家目录 ~ 保留；座位里其他位置的文件在升级或更换环境时会丢失",
        "disk": "磁盘",
        "used": "已用 {used}",
        "of": "，限额 {limit}",
        "kernels": "内核",
        "busy": "正在运行代码",
        "idle": "空闲",
        "idle_for": "已空闲 {hours}",
        "gpu_memory": "，占用 GPU 显存 {used}",
        "more": "还有 {number} 个",
        "next_running": "下一步：provision me renew（延长），provision me down（停止，文件保留）",
        "next_starting": "下一步：provision me status",
        "next_none": "下一步：provision me（启动），provision me environments（有哪些环境）",
        "next_waiting": "下一步：provision me --wait 2h（保住位置），provision me cancel（放弃）",
        "renewed": "你的座位运行到 {until}（还有 {hours}）。",
        "shorter": "座位已在运行，--hours 不会延长它：还有 {left}。要从现在起 {hours} 小时："
        "provision me renew --hours {hours}",
        "made_key": "你还没有 SSH 密钥，已生成一把新的（没有口令）：{path}",
        "place": "正在等待 GPU：第 {position} 位{holders}",
        "occupied": "节点正在启动其他座位，稍后会自动再问",
        "begins": "节点开始处理",
        "in_use": "；使用者：{names}",
        "somebody": "某人",
        "interrupted": "已中断。已经开始的操作会继续，见 provision me status；排队的位置会失去。",
        "why": "原因：",
        "fix": "处理：",
        "environments": "{name}  PyTorch {torch}  最多 {max_gpus:g} 张 GPU、{max_hours:g} 小时",
        "is_used": "；你的座位正在用它",
        "withdrawn": "{name}  已不再发布；你的座位在停止或升级之前继续用它",
        "next_environment": "下一步：provision me --env 名称（座位正在用另一个环境时：--switch）",
        "no_environment": "没有为你发布的环境。",
    },
}

DESCRIPTION = """\
Your own seat on this node: an environment with PyTorch, for Jupyter and SSH, with GPUs for some hours.

  up            start it, or show it if it runs (the default)
  status        show it
  down          stop it and give the GPUs back; your files are kept
  renew         more time, from now on: --hours, else as much as is allowed
  keep-alive    do not end it while it is idle: --hours and --reason
  cancel        give up the place in the queue
  upgrade       to the current version of its environment (--now: end what runs)
  rotate-token  a new token for Jupyter (--now: end what runs)
  logs          the last lines of jupyter (the default) or ssh
  environments  what can be started
"""
EPILOG = """\
Example:
    provision me --gpus 1 --hours 8 --wait 2h

Exit codes: 0 done, 1 refused or failed, 2 wrong command line, 4 no GPU until the end of --wait, 130 interrupted.
"""

Ask = Callable[..., Any]


class FaultError(Exception):
    """Why the command ends, and its exit code."""

    def __init__(self, problem: dict[str, str], code: int = FAILED) -> None:
        """`problem`: code, what, why, fix."""
        super().__init__(problem["what"])
        self.problem, self.code = problem, code


def fault(code: str, what: str, why: str, fix: str) -> FaultError:
    """Return the error with this problem."""
    return FaultError({"code": code, "what": what, "why": why, "fix": fix})


# --- texts


def escape(value: Any) -> str:
    """Return text that is safe on a terminal: what is not printable is written as in Python, a line feed as \\n."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(value))


def language(environment: Any) -> str:
    """Return `zh` or `en` for the locale of a process."""
    found = (environment.get(name) for name in ("LC_ALL", "LC_MESSAGES", "LANG"))
    return "zh" if next(filter(None, found), "").startswith("zh") else "en"


def say(key: str, **values: Any) -> str:
    """Return a text in the language of the person. Values are escaped, except for numbers."""
    shown = {name: value if isinstance(value, (int, float)) else escape(value) for name, value in values.items()}
    return TEXTS[language(os.environ)][key].format(**shown)


def moment(left_s: float) -> str:
    """Return when so many seconds are over, in the time zone of the person. Raises ValueError or OverflowError."""
    try:
        return time.strftime("%Y-%m-%d %H:%M", time.localtime(time.time() + left_s))
    except OSError as error:
        raise ValueError(str(error)) from None


def length(seconds: float) -> str:
    """Return seconds as hours and minutes."""
    minutes = round(seconds / 60)
    return f"{minutes // 60}:{minutes % 60:02} h"


def size(number: int) -> str:
    """Return bytes in powers of 1024, cut to tenths, as notices on the disk do (disk/limit.py)."""
    power = min(max(number.bit_length() - 1, 0) // 10, len(UNITS) - 1)
    return f"{(number * 10 >> 10 * power) / 10:g} {UNITS[power]}"


class Screen:
    """Prints progress on stderr: one line that is replaced on a terminal, and else a line for each change."""

    def __init__(self, stream: TextIO) -> None:
        """Nothing is shown yet."""
        self._stream, self._shown = stream, ""
        self._is_terminal = stream.isatty()

    def progress(self, text: str) -> None:
        """Show what is being done now."""
        line = escape(text)
        if line and line != self._shown:
            width = shutil.get_terminal_size().columns - 1
            self._write(f"\r\x1b[K{line[:width]}" if self._is_terminal else f"{line}\n")
            self._shown = line

    def note(self, text: str) -> None:
        """Print a line that stays. It holds no text that is not escaped."""
        self.clear()
        self._write(f"{text}\n")

    def clear(self) -> None:
        """Remove the line of progress."""
        if self._is_terminal and self._shown:
            self._write("\r\x1b[K")
        self._shown = ""

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError):  # who has closed stderr wants no progress
            self._stream.write(text)
            self._stream.flush()


def has_reader(stream: TextIO) -> bool:
    """Return whether anything still reads a stream. A connection of SSH that was lost ends no program on the node."""
    poll = select.poll()
    try:
        poll.register(stream.fileno(), 0)
    except (OSError, ValueError):
        return True
    return not any(events & (select.POLLERR | select.POLLHUP | select.POLLNVAL) for _, events in poll.poll(0))


# --- the broker


def connect(path: str) -> Ask:
    """Return the function that asks the broker at this socket: verb, and fields by name. It raises FaultError."""

    def ask(verb: str, **values: Any) -> Any:
        number = str(uuid.uuid4())
        request = json.dumps({"v": 1, "id": number, "verb": verb, **values}).encode() + b"\n"
        line = _exchange(path, request, LOGS_TIMEOUT_S if verb == "logs" else TIMEOUT_S)
        return parse_answer(line, number)

    return ask


def _exchange(path: str, request: bytes, seconds: float) -> bytes:
    deadline = time.monotonic() + seconds
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
            link.settimeout(seconds)
            link.connect(path)
            with contextlib.suppress(BrokenPipeError):  # it may refuse a connection without reading
                link.sendall(request)
            return _read_line(link, deadline)
    except PermissionError:
        raise _not_in_group(path) from None
    except (FileNotFoundError, ConnectionRefusedError):
        raise _no_broker(path) from None
    except OSError as error:
        raise _no_answer(str(error)) from None


def _read_line(link: socket.socket, deadline: float) -> bytes:
    data = bytearray()
    while b"\n" not in data:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        link.settimeout(left)
        chunk = link.recv(65536)
        data += chunk
        if not chunk or len(data) > MOST_ANSWER:
            raise _no_answer("the connection ended before the answer" if not chunk else "it is too long")
    return bytes(data.partition(b"\n")[0])


def parse_answer(line: bytes, number: str) -> dict[str, Any]:
    """Return the answer in a line to the request with this number. Raises FaultError, also for a refusal."""
    try:
        found = json.loads(line.decode())
    except (ValueError, RecursionError):
        raise _bad_answer("it is not JSON") from None
    if not isinstance(found, dict) or found.get("v") != 1 or found.get("id") not in (number, None):
        raise _bad_answer("it is not an answer to this request")
    if found.get("ok") is True:
        return found
    problem = found.get("problem")
    if not isinstance(problem, dict):
        raise _bad_answer("it neither agrees nor refuses")
    raise FaultError({name: str(problem.get(name, "")) for name in ("code", "what", "why", "fix")})


def _no_broker(path: str) -> FaultError:
    return fault(
        "no_broker",
        f"nothing answers at {path} on this machine",
        "seats are started by the broker of a node; this machine has none, or it does not run now",
        "use a node of the lab that has self-service; ask the admin: provision status LAB",
    )


def _not_in_group(path: str) -> FaultError:
    group, user = _group_of(path), account_name()
    return fault(
        "not_in_group",
        f"the account {user} may not use {path}: it is for the unix group {group}",
        "the admin decides by this group who may start seats",
        f"ask the admin: usermod -aG {group} {user}; then log in again",
    )


def _group_of(path: str) -> str:
    try:
        return grp.getgrgid(Path(path).stat().st_gid).gr_name
    except (OSError, KeyError):
        return "GROUP"


def account_name() -> str:
    """Return the name of the account that runs this program, its number where it has no name."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def _no_answer(why: str) -> FaultError:
    return fault(
        "no_answer",
        f"the broker of this node does not answer: {why}",
        "it may be busy, or it is being started again",
        "try again in a minute; if it stays so, ask the admin",
    )


def _bad_answer(why: str) -> FaultError:
    return fault(
        "bad_answer",
        f"the answer of the broker cannot be used: {why}",
        "it may be of another release than this command",
        "ask the admin to run `provision rollout` for this node",
    )


# --- public keys


def public_keys(text: str) -> list[str]:
    """Return the keys of a text, one a line, as `type base64`. Lines with options or anything else are left out."""
    lines = (" ".join(line.split()[:2]) for line in text.splitlines())
    return list(dict.fromkeys(line for line in lines if _is_key(line)))


def _is_key(line: str) -> bool:
    if len(line) > LONGEST_KEY or not KEY.fullmatch(line):
        return False
    kind, _, blob = line.partition(" ")
    try:
        return base64.b64decode(blob, validate=True)[4:].startswith(kind.encode())
    except ValueError:
        return False


def read_keys(folder: Path) -> list[str]:
    """Return the keys of id_*.pub and authorized_keys in a folder. What is no plain small file is left out."""
    try:
        found = sorted(path for path in folder.iterdir() if re.fullmatch(r"id_.*\.pub", path.name))
    except OSError:
        return []
    texts = map(read_small, [*found[:MOST_FILES], folder / "authorized_keys"])
    return [key for text in texts for key in public_keys(text)]


def read_small(path: Path) -> str:
    """Return the text of a plain file of at most MOST_FILE bytes, else an empty one. It waits for no pipe."""
    try:
        descriptor = os.open(str(path), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError:
        return ""
    try:
        found = os.fstat(descriptor)
        is_plain = stat.S_ISREG(found.st_mode) and found.st_size <= MOST_FILE
        return os.read(descriptor, MOST_FILE).decode(errors="replace") if is_plain else ""
    except OSError:
        return ""
    finally:
        os.close(descriptor)


def make_key(folder: Path) -> Path:
    """Make the key pair id_ed25519, without a passphrase. Raises FaultError `no_key` where that fails.

    A private key that is there already is left as it is, and gets its public file.
    """
    path = folder / "id_ed25519"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _lock(folder):
            if read_keys(folder):
                return path
            if path.exists():
                public = _run("ssh-keygen", "-y", "-P", "", "-f", str(path))
                path.with_name("id_ed25519.pub").write_text(public)
            else:
                _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", account_name(), "-f", str(path))
    except (OSError, subprocess.SubprocessError) as error:
        raise _no_key(folder, _reason(error)) from None
    return path


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[None]:
    descriptor = os.open(str(folder), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):  # some network file systems have no locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _run(*argv: str) -> str:
    ran = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, check=True, timeout=60, text=True)
    return ran.stdout


def _reason(error: Exception) -> str:
    return str(getattr(error, "stderr", None) or error).strip()


def _no_key(folder: Path, why: str) -> FaultError:
    return fault(
        "no_key",
        f"there is no public SSH key in {folder}, and none could be made: {why}",
        "you log in to your seat with a key; there is no password",
        "run: ssh-keygen -t ed25519, then run this command again",
    )


def chosen_keys(given: str, folder: Path) -> list[str]:
    """Return the keys to send, those of the text first: as many as a request may have."""
    keys = list(dict.fromkeys(public_keys(given) + read_keys(folder)))[:MOST_KEYS]
    while sum(map(len, keys)) > KEYS_BYTES:
        keys = keys[:-1]
    return keys


# --- what is asked for


class Result(NamedTuple):
    """The answer to show, the problems of the job that was carried out, and the exit code."""

    answer: dict[str, Any]
    problems: Sequence[Any] = ()
    code: int = DONE


class Session:
    """Asks the broker until what was wanted is done. `ask`: see `connect`."""

    def __init__(
        self,
        ask: Ask,
        screen: Screen,
        sleep: Callable[[float], Any] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`sleep`, `clock`: seconds."""
        self.ask, self.screen, self._sleep, self._clock = ask, screen, sleep, clock
        self.has_reader: Callable[[], bool] = lambda: has_reader(sys.stdout)

    def up(self, wish: dict[str, Any]) -> Result:
        """Start the seat, and wait for GPUs as long as the wish says. Raises FaultError, with NO_CARD without any."""
        answer = self._begin(wish)
        deadline = self._clock() + wish.get("wait_s", 0)
        while _waits(answer):
            left = deadline - self._clock()
            if left <= 0:
                self._patiently("cancel")
                raise _no_card(answer)
            self.screen.progress(_place(answer))
            self._pause(min(WAIT_POLL_S, left))
            answer = self._patiently("up", **{**wish, "wait_s": max(1, int(left))})
        result = self.follow(begun=answer["state"] == "starting")
        if result.answer["state"] not in RUNNING and not result.code:
            raise _not_started(result.answer["state"])
        self._note_shorter(result.answer, wish.get("hours", 0))
        return result

    def _note_shorter(self, answer: dict[str, Any], hours: int) -> None:
        """Say how a seat that ran before is prolonged, where it ends earlier than was asked for."""
        left = (answer["seat"] or {}).get("left_s", 0)
        if answer["state"] in RUNNING and left < hours * 3600 - SLACK_S:
            self.screen.note(say("shorter", left=length(left), hours=hours))

    def _begin(self, wish: dict[str, Any]) -> dict[str, Any]:
        """Ask for the seat; one that is being changed or stopped is asked for when that has ended."""
        try:
            return dict(self._patiently("up", (OCCUPIED,), **wish))
        except FaultError as error:
            if error.problem["code"] != "seat_changing":
                raise
        self.follow(begun=False)
        return dict(self._patiently("up", **wish))

    def follow(self, *, begun: bool) -> Result:
        """Wait until no job changes the seat. `begun`: a job is known to have begun, so its end counts."""
        deadline = self._clock() + LONGEST_JOB_S
        pauses = iter(POLL_S)
        while True:
            found = self._patiently("status")
            job = found["job"]
            if job is None and (found["state"] not in ("starting", "stopping") or _is_refused(found)):
                return _ended(found) if begun else Result(found)
            begun = begun or job is not None
            if self._clock() > deadline:
                raise _no_answer("the change of the seat does not end")
            self.screen.progress(_job_text(job) if job else say(found["state"], name="", node=""))
            self._pause(next(pauses, POLL_S[-1]))

    def _patiently(self, verb: str, passing: Sequence[str] = (*PASSING, OCCUPIED), **values: Any) -> Any:
        """Ask again for some time where the reason of a refusal passes: one of these codes."""
        begun = self._clock()
        while True:
            try:
                return self.ask(verb, **values)
            except FaultError as error:
                code = error.problem["code"]
                patience = OCCUPIED_S if code == OCCUPIED else PATIENCE_S
                if code not in passing or self._clock() - begun > patience:
                    raise
                if code == OCCUPIED:
                    self.screen.progress(say("occupied"))
            self._pause(POLL_S[-1])

    def _pause(self, seconds: float) -> None:
        """Wait. Raises KeyboardInterrupt where the result has no reader any more."""
        if not self.has_reader():
            raise KeyboardInterrupt
        self._sleep(seconds)

    def longest(self) -> int:
        """Return the most hours that the caller may have with an environment of theirs."""
        listed = self.ask("environments")["environments"]
        return max([1, *(int(one["max_hours"]) for one in listed)])


def _is_refused(found: dict[str, Any]) -> bool:
    """Return whether a seat that does not run could not be started again: the node goes on trying."""
    ended = found["ended"] or {}
    is_down = found["state"] == "starting" and found["job"] is None
    return is_down and ended.get("kind") == "resume" and ended["state"] != "committed"


def _ended(found: dict[str, Any]) -> Result:
    ended = found["ended"]
    problems = ended["problems"] if ended else []
    is_done = ended is None or ended["state"] in ("committed", "unchanged")
    return Result(found, problems, DONE if is_done and not problems else FAILED)


def _waits(answer: dict[str, Any]) -> bool:
    """Return whether an answer to `up` gives a place in the queue; the person may have a seat that runs meanwhile."""
    return answer["state"] in WAITING or "holders" in answer


def _place(answer: dict[str, Any]) -> str:
    names = [str(one["name"] or say("somebody")) for one in answer.get("holders", [])]
    holders = say("in_use", names=", ".join(names[:8])) if names else ""
    return say("place", position=int(answer["position"]), holders=holders)


def _job_text(job: dict[str, Any]) -> str:
    done, total = job["done"], job["total"]
    part = f" {100 * done // total}%" if isinstance(done, int) and isinstance(total, int) and total > 0 else ""
    return f"{job['text'] or say('begins')}{part}"


def _no_card(answer: dict[str, Any]) -> FaultError:
    error = fault(
        "no_free_gpu",
        f"no GPU was free until the end of the time to wait ({_place(answer)})",
        "a GPU has one person at a time; the place in the queue is given up",
        "wait longer: provision me --wait 8h; or start without a GPU: provision me --gpus 0",
    )
    error.code = NO_CARD
    return error


def _not_started(state: str) -> FaultError:
    return fault(
        "seat_not_started",
        f"the seat was to be started, and it is {state}",
        "the broker was started again meanwhile, or somebody stopped the seat",
        "run the same command again; provision me logs shows what the seat printed",
    )


def carry_out(act: str, options: dict[str, Any], session: Session) -> Result:
    """Do what was asked for. `options`: those that were given, see ACTS. Raises FaultError."""
    fields = {FIELDS.get(name, name): value for name, value in options.items()}
    if act == "up":
        given = sys.stdin.buffer.read(MOST_FILE).decode(errors="replace") if fields.pop("keys_from_stdin", 0) else ""
        return session.up({**fields, "keys": own_keys(given, ssh_folder(), session)})
    if act == "renew":
        fields.setdefault("hours", session.longest())
    if act == "logs":
        fields.setdefault("service", "jupyter")
    answer = session.ask(act.replace("-", "_"), **fields)
    if "leases" in answer:
        raise _is_root()
    if act == "status" and _is_refused(answer):
        return Result(answer, answer["ended"]["problems"])
    if act == "down":  # why a start has failed before is no concern of it
        return Result(session.follow(begun=False).answer)
    return session.follow(begun=False) if act in ("upgrade", "rotate-token") else Result(answer)


def _is_root() -> FaultError:
    return fault(
        "not_allowed",
        "root has no seat of its own",
        "a seat runs as the account that asks for it",
        "use your own account; as the admin: provision seats list LAB, on your machine",
    )


def own_keys(given: str, folder: Path, session: Session) -> list[str]:
    """Return the keys to send. Who has none, and may have a seat, gets a new one. Raises FaultError."""
    keys = chosen_keys(given, folder)
    if keys:
        return keys
    session.ask("status")  # it refuses who may have no seat
    session.screen.note(say("made_key", path=make_key(folder)))
    keys = chosen_keys("", folder)
    if not keys:
        raise _no_key(folder, "ssh-keygen has written none that can be read")
    return keys


def ssh_folder() -> Path:
    """Return the person's folder of SSH keys. Raises FaultError `no_key` for an account without a home."""
    try:
        return Path.home() / ".ssh"
    except RuntimeError:
        raise _no_key(Path("~/.ssh"), "this account has no home") from None


# --- what is shown


def shown(act: str, answer: dict[str, Any]) -> str:
    """Return the screen at the end of an act, in which no text of the broker is left as it is."""
    if act == "environments":
        return "\n".join(_environment_lines(answer)) or say("no_environment")
    if act == "logs":
        return "\n".join(escape(line.rstrip("\r").expandtabs(4)) for line in str(answer["text"]).split("\n"))
    if act in ("renew", "keep-alive"):
        return say("renewed", until=moment(answer["left_s"]), hours=length(answer["left_s"]))
    return "\n".join(_seat_lines(answer))


def _environment_lines(answer: dict[str, Any]) -> Iterator[str]:
    """Yield what can be started; where there is more than one, also which of them the person's seat has."""
    listed, used = answer["environments"], answer.get("used")
    names = [one["name"] for one in listed]
    for one in listed:
        yield say("environments", **one) + (say("is_used") if len(names) > 1 and one["name"] == used else "")
    if used and used not in names:
        yield say("withdrawn", name=used)
    if len(names) > 1:
        yield say("next_environment")


def _seat_lines(answer: dict[str, Any]) -> Iterator[str]:
    state, seat = answer["state"], answer.get("seat") or {}
    yield say(state, name=seat.get("name", ""), node=socket.gethostname(), position=int(answer.get("position", 0)))
    if state in RUNNING:
        rows = [*_rows(seat, answer.get("disk")), *_kernel_rows(answer.get("kernels"))]
        yield from (f"  {_padded(label)}{text}" for label, text in rows)
    kind = "running" if state in RUNNING else "waiting" if state in WAITING else "none"
    yield say("next_starting" if state in ("starting", "stopping") else f"next_{kind}")


def _padded(label: str) -> str:
    wide = sum(not character.isascii() for character in label)  # Chinese: two columns each
    return label + " " * (LABEL_COLUMNS - len(label) - wide)


def _rows(seat: dict[str, Any], disk: Any) -> Iterator[tuple[str, str]]:
    gpus = [escape(gpu) for gpu in seat["gpus"]]
    yield say("gpus"), f"{len(gpus)}: {', '.join(gpus)}" if gpus else say("none")
    yield say("until"), say("left", until=moment(seat["left_s"]), hours=length(seat["left_s"]))
    yield say("environment"), escape(f"{seat['environment']} {seat['version']}")
    yield from _jupyter_rows(str(seat["jupyter"]))
    login = _login(seat["ssh"])
    yield say("token"), f"{login} provision-url"
    yield "SSH", login
    if seat["ssh"]["host_key"]:
        yield "", say("host_key", fingerprint=fingerprint(str(seat["ssh"]["host_key"])))
    yield say("files"), say("kept")
    if disk and disk["use"]:
        yield say("disk"), _disk_text(disk["use"], disk["limit"])


def _kernel_rows(kernels: Any) -> Iterator[tuple[str, str]]:
    """Yield a line for each kernel that the broker lists, with what it does; none where that is not known."""
    listed = kernels["listed"] if kernels else []
    for place, kernel in enumerate(listed):
        memory = say("gpu_memory", used=size(kernel["gpu_bytes"])) if kernel["gpu_bytes"] else ""
        yield "" if place else say("kernels"), f"{escape(kernel['name']) or '-'}: {_kernel_text(kernel)}{memory}"
    if listed and kernels["all"] > len(listed):
        yield "", say("more", number=int(kernels["all"]) - len(listed))


def _kernel_text(kernel: dict[str, Any]) -> str:
    if kernel["state"] != "idle":
        return say("busy") if kernel["state"] == "busy" else escape(kernel["state"])
    if not kernel["since"]:
        return say("idle")
    since = calendar.timegm(time.strptime(kernel["since"], "%Y-%m-%dT%H:%M:%SZ"))
    return say("idle_for", hours=length(max(0.0, time.time() - since)))


def _disk_text(use: dict[str, Any], limit: int | None) -> str:
    used = size(use["home_bytes"] + (use["layer_bytes"] or 0))
    shown = used if use["complete"] else f"\u2265 {used}"
    return say("used", used=shown) + (say("of", limit=size(limit)) if limit else "")


def _jupyter_rows(url: str) -> Iterator[tuple[str, str]]:
    """Yield the URL; where only the node itself reaches it, also the tunnel for another computer."""
    yield "Jupyter", escape(url)
    port = re.fullmatch(r"http://127\.0\.0\.1:([0-9]{1,5})/lab", url)
    if port:
        tunnel = f"ssh -N -L 8888:127.0.0.1:{port[1]} {account_name()}@{own_address()}"
        yield "", say("from_elsewhere", tunnel=tunnel)
        yield "", say("then_open", url="http://127.0.0.1:8888/lab")


def own_address() -> str:
    """Return the address by which the person has reached this node by SSH, else the name of the node."""
    words = os.environ.get("SSH_CONNECTION", "").split()
    is_plain = len(words) == 4 and re.fullmatch(r"[0-9a-fA-F.:]+", words[2])  # noqa: PLR2004  (see ssh(1))
    return words[2] if is_plain else socket.gethostname()


def _login(ssh: dict[str, Any]) -> str:
    """Return the command that logs in to a seat: on the node, or where it was asked for by a bare command of SSH."""
    host, user = str(ssh["host"]), str(ssh["user"])
    is_elsewhere = "SSH_CONNECTION" in os.environ and not sys.stdout.isatty()
    jump = f"-J {account_name()}@{own_address()} " if is_elsewhere and host.startswith("127.") else ""
    return escape(f"ssh {jump}-p {int(ssh['port'])} {shlex.quote(f'{user}@{host}')}")


def fingerprint(key: str) -> str:
    """Return the fingerprint of a public key, as `ssh-keygen -l` prints it. Raises ValueError."""
    digest = hashlib.sha256(base64.b64decode(key.split()[1], validate=True)).digest()
    return f"SHA256:{base64.b64encode(digest).decode().rstrip('=')}"


def problem_text(problem: Any) -> str:
    """Return a problem as lines."""
    texts = {name: escape(problem[name]) for name in ("code", "what", "why", "fix")}
    why = f"\n  {say('why')}{texts['why']}" if texts["why"] else ""
    fix = f"\n  {say('fix')}{texts['fix']}" if texts["fix"] else ""
    return f"{texts['code']}: {texts['what']}{why}{fix}"


# --- the command line


class Parser(argparse.ArgumentParser):
    """Raises a FaultError for a mistake instead of ending the program."""

    def error(self, message: str) -> NoReturn:
        """Raise the error `usage`."""
        raise usage(message)


def usage(what: str) -> FaultError:
    """Return the error of a mistake on the command line."""
    error = fault("usage", what, "the command line is wrong", "see provision me --help")
    error.code = USAGE
    return error


def _number(least: int, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch("[0-9]{1,6}", text) or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number from {least} to {most}")
        return int(text)

    return parse


def duration(text: str) -> int:
    """Return the seconds of 90s, 30m, 2h, 1h30m or 3d, as the control machine reads them. Raises ArgumentTypeError."""
    found = re.fullmatch("(?:([0-9]{1,6})d)?(?:([0-9]{1,6})h)?(?:([0-9]{1,6})m)?(?:([0-9]{1,6})s)?", text)
    if not text or not found:
        raise argparse.ArgumentTypeError(f"invalid duration {text!r}: write it like 90s, 30m, 2h, 1h30m or 3d")
    seconds = sum(int(number) * unit for number, unit in zip(found.groups("0"), (86400, 3600, 60, 1)))
    if seconds > MOST_WAIT_S:
        raise argparse.ArgumentTypeError(f"{text} is more than 7d")
    return seconds


def _environment(text: str) -> str:
    if not ENVIRONMENT.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not the name of an environment")
    return text


def _line(text: str) -> str:
    if not text.strip() or len(text) > LONGEST_REASON or not text.isprintable():
        raise argparse.ArgumentTypeError(f"give one line of 1 to {LONGEST_REASON} printable characters")
    return text


def build_parser() -> Parser:
    """Return the parser of what follows `provision me`."""
    parser = Parser(
        prog="provision me",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("act", nargs="?", default=None, choices=list(ACTS), metavar="ACT", help="one of the above")
    add("service", nargs="?", default=None, choices=SERVICES, metavar="SERVICE", help="logs: jupyter or ssh")
    add("--env", metavar="NAME", type=_environment, help="up: the environment; see environments")
    add("--gpus", metavar="N", type=_number(0, MOST_GPUS), help="up: how many GPUs; 0 for none")
    add("--hours", metavar="H", type=_number(1, MOST_HOURS), help="up, renew, keep-alive: for how long")
    add("--wait", metavar="2h", type=duration, help="up: wait so long for a GPU that others have")
    add("--switch", action="store_true", help="up: change the environment of a seat that runs; ends what runs in it")
    add("--restart", action="store_true", help="up: change the GPUs of a seat that runs; ends what runs in it")
    add("--reason", metavar="TEXT", type=_line, help="keep-alive: why; the admin sees it")
    add("--now", action="store_true", help="upgrade, rotate-token: end what runs in the seat")
    add("--lines", metavar="N", type=_number(1, MOST_LINES), help="logs: how many lines")
    add("--keys-from-stdin", action="store_true", help="up: read public keys from standard input, too")
    add("--json", action="store_true", help="print one JSON document")
    return parser


def parse(words: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """Return the act and the options that were given. Raises FaultError `usage`."""
    found = vars(build_parser().parse_intermixed_args(list(words)))
    options = {name: value for name, value in found.items() if value is not None and name != "json"}
    act = options.pop("act", "up")
    foreign = [name for name in options if name not in ACTS[act]]
    if foreign:
        raise usage(f"{_option(foreign[0])} is not for `{act}`")
    missing = [name for name in NEEDED.get(act, ()) if name not in options]
    if missing:
        raise usage(f"`{act}` needs {' and '.join(map(_option, missing))}")
    return act, options


def _option(name: str) -> str:
    return "SERVICE" if name == "service" else f"--{name.replace('_', '-')}"


def _check_verb(words: Sequence[str]) -> list[str]:
    """Return what follows `me`. Raises FaultError `usage` for any other verb."""
    if not words or words[0] in ("-h", "--help"):
        return ["--help"]
    if words[0] == "me":
        return list(words[1:])
    error = usage(f"this is the small `provision` of a node; it knows only `provision me`, not {escape(words[0])!r}")
    error.problem["why"] = "labs are managed with the whole program, on the machine of the admin"
    raise error


def main(words: Sequence[str], path: str = SOCKET) -> int:
    """Carry out a command line (without the name of the program) with the broker at `path`. Return the exit code."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # a terminal may have no Chinese
    as_json, screen = "--json" in words, Screen(sys.stderr)
    try:
        act, options = parse(_check_verb(words))
        result = carry_out(act, options, Session(connect(path), screen))
        screen.clear()
        _print(act, result, as_json=as_json)
    except FaultError as error:
        return _report(error, screen, as_json=as_json)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        return _report(_bad_answer(repr(error)), screen, as_json=as_json)
    except KeyboardInterrupt:
        screen.note(say("interrupted"))
        return INTERRUPTED
    except OSError as error:  # of the output: all others were handled where they occur
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python reports it once more at its end
        return FAILED if isinstance(error, BrokenPipeError) else _report(_failed(error), screen, as_json=as_json)
    return result.code


def _print(act: str, result: Result, *, as_json: bool) -> None:
    text = shown(act, result.answer)
    for problem in result.problems:
        sys.stderr.write(f"{problem_text(problem)}\n")
    if as_json:
        words = {name: value for name, value in result.answer.items() if name not in ("v", "id", "ok")}
        head = {"schema": SCHEMA, "act": act, "node": socket.gethostname(), "account": account_name()}
        text = json.dumps({**head, **words, "problems": list(result.problems)})
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _failed(error: OSError) -> FaultError:
    return fault(
        "io_error",
        f"the operating system reports: {error}",
        "the output may be lost; what has begun on the node goes on",
        "free space where the output goes; provision me status shows your seat",
    )


def _report(error: FaultError, screen: Screen, *, as_json: bool) -> int:
    screen.clear()
    sys.stderr.write(f"{problem_text(error.problem)}\n")
    if as_json:
        sys.stdout.write(f"{json.dumps({'schema': PROBLEMS, 'problems': [error.problem]})}\n")
    return error.code
