"""People of the lab under random faults: they ask for seats of their own all the while, by the command of the node.

What they ask for depends on the seed, and when depends on how long the node takes. The laws of their seats are checked
while faults go on (a GPU has one seat) and after each round (all others).
"""

import json
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations
from threading import Event, Lock, Thread
from typing import Any

from tests.lab.host import BedError
from tests.lab.node import Node

GROUP = "lab-students"
PEOPLE = {f"s{number}": 5000 + number for number in range(5)}
STUDENT = {"memory": "1g", "cpus": 1, "shm": "64m", "gpus": 2, "hours": 4, "grace_minutes": 0}
STATE_ROOT = "/var/lib/provisioner"
FOLDER = f"{STATE_ROOT}/self_service"
SOCKET = "/run/provisioner/broker.sock"
HOMES = "/srv/provisioner/homes"
REQUEST_SECONDS = 1800  # a command of a person that takes longer hangs
ANSWER_SECONDS = 30  # until the broker answers, after a round
STOP_SECONDS = 180  # until a seat without a lease is stopped
SETTLE_SECONDS = 600  # until the seats with a lease run, and no job changes one
WATCH_SECONDS = 4.0
EXIT_CODES = (0, 1, 4)
KILLED = 137  # with the shell of the person
NEW_TOKEN = ("rotate-token", "down")  # a seat has a new token when it is started after a stop
UNKNOWN_ENDS = ("lost", "no_broker", "no_answer", "seat_not_started", "starting", "stopped")  # it may have been stopped
TICK_SECONDS = 60

Words = tuple[str, ...]
# What people ask for, and how often.
REQUESTS: tuple[tuple[Words, int], ...] = (
    (("up",), 3),
    *((("up", "--gpus", gpus, "--hours", "2", "--restart"), often) for gpus, often in (("0", 2), ("1", 4), ("2", 2))),
    (("up", "--gpus", "1", "--restart", "--wait", "40s"), 3),
    (("down",), 4),
    (("renew", "--hours", "3"), 3),
    (("keep-alive", "--hours", "1", "--reason", "training"), 1),
    (("cancel",), 1),
    (("rotate-token", "--now"), 2),
    (("upgrade", "--now"), 4),
    (("status",), 3),
    (("logs", "ssh"), 1),
    (("environments",), 1),
)
# Why the broker may refuse something, or why it cannot be asked, while faults go on.
REFUSALS = {
    *("no_free_gpu", "somebody_waits", "no_seat", "seat_changing", "too_often", "node_occupied", "gpu_in_use"),
    *("no_lease", "restart_needed", "released", "too_many_gpus", "no_broker", "no_answer", "too_many_connections"),
    *("io_error", "claimed"),
}  # fmt: skip

ASK = f"""
import json, socket, sys, uuid
link = socket.socket(socket.AF_UNIX)
link.settimeout(20)
link.connect("{SOCKET}")
link.sendall((json.dumps({{"v": 1, "id": str(uuid.uuid4()), **json.loads(sys.argv[1])}}) + "\\n").encode())
print(link.makefile().readline())
"""
KILL_BROKER = f"""
import os
pid = open("{FOLDER}/broker.lock").read()
if "{FOLDER}/program/broker.py" in open(f"/proc/{{pid}}/cmdline").read().split("\\0"):
    os.kill(int(pid), 9)
"""
START_BROKER = (
    f"cd / && [ ! -e {FOLDER}/program/broker.py ] || setsid python3 -I {FOLDER}/program/broker.py {STATE_ROOT} {SOCKET}"
    f" </dev/null >>{FOLDER}/broker.log 2>&1 &"
)
# The shell of each person is a process of theirs that is no program of a seat: it has the word `chaos-shell`.
KILL_SHELLS = """
import glob, os
for path in glob.glob("/proc/[0-9]*/cmdline"):
    try:
        words = open(path).read().split("\\0")
        if "chaos-shell" in words and words[0] == "sh":
            os.kill(int(path.split("/")[2]), 9)
    except (OSError, ValueError):
        pass
"""
LOOK = f"""
import glob, json, os, subprocess
def text(path):
    try:
        return open(path, errors="replace").read()
    except (FileNotFoundError, NotADirectoryError):
        return ""
def output(*words):
    return subprocess.run(words, capture_output=True, text=True).stdout
def read(seat):
    current = os.readlink(seat + "/current") if os.path.islink(seat + "/current") else ""
    wanted = json.loads(text(f"{{seat}}/{{current}}/order.json") or "{{}}").get("seat", {{}})
    names = ("token", "ssh_host_ed25519_key.pub")
    home = wanted.get("home", "")
    return {{**{{name: wanted.get(name) for name in ("person", "uid", "ports", "home", "gpus", "version", "kind")}},
        **{{name: text(f"{{seat}}/identity/{{name}}") for name in names}},
        "files": {{os.path.basename(path): text(path) for path in glob.glob(home + "/round-*")}},
        "owner": os.stat(home).st_uid if home and os.path.isdir(home) else None}}
def containers():
    ids = output("docker", "ps", "-q", "--filter", "label=provisioner.seat").split()
    for one in json.loads(output("docker", "inspect", *ids) or "[]") if ids else []:
        names = [name for wanted in one["HostConfig"]["DeviceRequests"] or [] for name in wanted["DeviceIDs"] or []]
        yield {{"seat": one["Config"]["Labels"]["provisioner.seat"], "name": one["Name"].strip("/"),
            "running": one["State"]["Running"], "health": one["State"].get("Health", {{}}).get("Status"),
            "capabilities": one["HostConfig"]["CapAdd"] or [], "privileged": one["HostConfig"]["Privileged"],
            "gpus": sorted(name.rpartition("=")[2] for name in names)}}
links = {{os.path.basename(os.path.dirname(path)): os.readlink(path)
    for path in glob.glob("{FOLDER}/environments/*/current")}}
found = {{os.path.basename(path): read(path) for path in glob.glob("{STATE_ROOT}/seats/*")}}
print(json.dumps({{
    "leases": json.loads(text("{FOLDER}/leases.json") or "null"),
    "damaged": os.path.exists("{FOLDER}/leases.json.damaged"),
    "seats": {{name: seat for name, seat in found.items() if seat["kind"] == "self_service"}},
    "containers": list(containers()), "published": links, "claim": text("{STATE_ROOT}/claim.json"),
    "pool": json.loads(text("{FOLDER}/config.json") or "{{}}").get("pool"),
}}))
"""

Found = dict[str, Any]


def make_accounts(node: Node) -> None:
    """Add the people and their unix group to a node, as the admin of the node does."""
    lines = [f"groupadd {GROUP}"]
    lines += [f"useradd --uid {uid} --create-home --groups {GROUP} {name}" for name, uid in PEOPLE.items()]
    node.exec("sh", "-ec", "\n".join(lines))


def look(node: Node) -> Found:
    """Return what a node has of the seats of people: leases, records, running containers, files in homes."""
    return dict(json.loads(node.exec("python3", "-c", LOOK)))


def leased(found: Found) -> dict[str, set[str]]:
    """Seat -> the GPUs of its leases."""
    gpus: dict[str, set[str]] = {}
    for lease in (found["leases"] or {"leases": {}})["leases"].values():
        gpus.setdefault(lease["seat"], set()).update(lease["gpus"])
    return gpus


def running(found: Found) -> dict[str, set[str]]:
    """Seat -> the GPUs of its running containers."""
    gpus: dict[str, set[str]] = {}
    for container in found["containers"]:
        if container["running"]:
            gpus.setdefault(container["seat"], set()).update(container["gpus"])
    return gpus


def shared_gpus(seats: Mapping[str, set[str]]) -> list[str]:
    """Return the GPUs that two seats have."""
    return sorted({gpu for one, other in combinations(seats.values(), 2) for gpu in one & other})


def command(person: str, words: Words) -> list[str]:
    """Return the command line that asks on the node as a person, from a shell of theirs."""
    account = ["setpriv", "--reuid", person, "--regid", person, "--init-groups"]
    shell = ["env", f"HOME=/home/{person}", "sh", "-c", 'provision me "$@"; exit $?', "chaos-shell"]
    return [*account, *shell, *words, "--json"]


def outcome(text: str) -> tuple[str, Found]:
    """Return how a command ended, and its document: a state, the code of a problem, or `lost` without a document."""
    try:
        document = json.loads(text)
    except ValueError:
        return "lost", {}
    if document["schema"].startswith("provisioner/problems/"):
        return str(document["problems"][0]["code"]), document
    return str(document.get("state", "done")), document


def _is_meant(code: int, end: str, document: Found) -> bool:
    """Whether a command may end so while faults go on: its shell was killed, a refusal, or a seat and its problems."""
    return (
        end == "lost" or code in (0, KILLED) or (code in EXIT_CODES and (end in REFUSALS or bool(document.get("seat"))))
    )


def _reasons(document: Found) -> str:
    return "; ".join(f"{one['code']}: {one['what'][:200]}" for one in document.get("problems", ()))


@dataclass
class People:
    """Five people of one node: what they have asked for, what became of it, and what the laws of their seats say.

    `violate` and `say` take one text each; they may be called from any thread.
    """

    node: Node
    seed: int
    violate: Callable[[str], None]
    say: Callable[[str], None]
    requests: Counter[str] = field(default_factory=Counter)
    laws: Counter[str] = field(default_factory=Counter)
    looks: int = 0
    until: dict[str, float] = field(default_factory=dict)  # the latest end of a lease that was asked for, monotonic
    rotated: set[str] = field(default_factory=set)  # who may have another token since their seat was last seen to run
    released: set[str] = field(default_factory=set)  # whose lease the admin has ended in this round
    known: dict[str, Found] = field(default_factory=dict)  # by person
    files: dict[str, dict[str, str]] = field(default_factory=dict)
    _stop: Event = field(default_factory=Event)
    _threads: list[Thread] = field(default_factory=list)
    _lock: Lock = field(default_factory=Lock)
    _round: int = 0

    # ---- what people do

    def start_all(self) -> None:
        """Let each person start a seat, without faults: from now on they have an identity and a home."""
        with ThreadPoolExecutor(len(PEOPLE)) as pool:
            ends = list(pool.map(lambda person: self._ask(person, ("up", "--gpus", "0")), PEOPLE))
        assert ends == ["running"] * len(PEOPLE), ends
        found = look(self.node)
        self.known = {seat["person"]: _identity(seat) for seat in found["seats"].values()}
        self.files = {person: {} for person in PEOPLE}
        assert self.known.keys() == PEOPLE.keys()

    def begin(self, number: int) -> None:
        """Let people ask at random, until `end`."""
        self._round = number
        self.released.clear()
        self._stop.clear()
        self._threads = [Thread(target=self._live, args=(person,), daemon=True) for person in PEOPLE]
        self._threads.append(Thread(target=self._watch, daemon=True))
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Let people ask for nothing more."""
        self._stop.set()

    def end(self) -> None:
        """Let people finish what they have begun."""
        self.stop()
        for thread in self._threads:
            thread.join(REQUEST_SECONDS)
            if thread.is_alive():
                self.violate(f"a command of a person did not end in {REQUEST_SECONDS} s")
        self._threads = []

    def _live(self, person: str) -> None:
        rng = random.Random(f"{self.seed}/{self._round}/{person}")
        words, weights = zip(*REQUESTS, strict=True)
        while not self._stop.wait(rng.uniform(0.5, 10)):
            self._ask(person, rng.choices(words, weights)[0])

    def _ask(self, person: str, words: Words) -> str:
        """Ask as a person, and note how it ended. A power cut may end the shell of the person, and so the answer."""
        if words[0] in NEW_TOKEN:
            self.rotated.add(person)
        argv = ["exec", "-i", self.node.container, *command(person, words)]
        done = self.node.engine.try_docker(*argv)
        end, document = outcome(done.stdout)
        self._note_lease(person, words)
        if words[0] == "up" and end in UNKNOWN_ENDS:
            self.rotated.add(person)
        with self._lock:
            self.requests[f"{words[0]}: {end}"] += 1
        self.say(f"    {person}: me {' '.join(words)}: {end} {_reasons(document)}")
        was_released = end == "seat_not_started" and person in self.released
        if "Traceback" in done.stderr or not (was_released or _is_meant(done.returncode, end, document)):
            self.violate(f"{person}: me {' '.join(words)} ended with {done.returncode}: {done.stdout}{done.stderr}")
        return end

    def _note_lease(self, person: str, words: Words) -> None:
        """Note the latest end that a lease may have after this request, also where its answer was lost."""
        if words[0] in ("up", "renew"):
            hours = float(words[words.index("--hours") + 1]) if "--hours" in words else float(str(STUDENT["hours"]))
            self.until[person] = max(self.until.get(person, 0.0), time.monotonic() + hours * 3600)

    def _watch(self) -> None:
        """Look again and again whether a GPU has two seats. A node that is off has none."""
        while not self._stop.wait(WATCH_SECONDS):
            try:
                self._check_gpus(look(self.node))
            except (BedError, ValueError):
                continue

    def _check_gpus(self, found: Found) -> None:
        self.looks += 1
        for what, seats in (("running containers", running(found)), ("leases", leased(found))):
            if twice := shared_gpus(seats):
                self.violate(f"{what} of two seats have {twice}: {seats}")

    # ---- laws after a round

    def check(self, until: Callable[[Callable[[], bool], float, str], None], published: Mapping[str, str]) -> None:
        """Check all laws; `until(condition, seconds, what)` waits, and notes what does not come in time.

        `published`: the version of each environment that the last rollout names.
        """
        until(self._answers, ANSWER_SECONDS, "the broker answers root")
        until(self._has_no_extra_seat, STOP_SECONDS, "no seat runs without a lease")
        until(self._is_settled, SETTLE_SECONDS, "the seats with a lease run, and no job changes one")
        found = look(self.node)
        for law, holds in self.laws_of(found, published).items():
            self.laws[law] += 1
            if not holds:
                self.violate(f"{self.node.name}: {law}: {json.dumps(found)[:6000]}; known: {json.dumps(self.known)}")
        self._take(found)
        self._write_files(found)

    def ask_as_root(self, **request: str) -> Found:
        """Return the answer of the broker to root. Raises BedError where it does not answer."""
        return dict(json.loads(self.node.exec("python3", "-c", ASK, json.dumps(request))))

    def release(self, number: int) -> None:
        """End a lease as the admin does."""
        seats = sorted(leased(look(self.node)))
        if seats:
            seat = seats[number % len(seats)]
            person = seat.rpartition("_")[2]
            self.rotated.add(person)
            self.released.add(person)
            self.ask_as_root(verb="release", seat=seat, reason="chaos")

    def expect_stops(self) -> None:
        """Expect that a fault ends containers: a seat that its person starts before the broker does has a new token."""
        self.rotated.update(PEOPLE)

    def _answers(self) -> bool:
        try:
            return self.ask_as_root(verb="environments")["ok"] is True
        except (BedError, ValueError):
            return False

    def _has_no_extra_seat(self) -> bool:
        found = look(self.node)
        return running(found).keys() <= leased(found).keys()

    def _is_settled(self) -> bool:
        found = look(self.node)
        return not found["leases"]["jobs"] and running(found) == leased(found) and not _is_starting(found)

    def laws_of(self, found: Found, published: Mapping[str, str]) -> dict[str, bool]:
        """Return the laws, and whether each one holds for what was found on the node (see `look`)."""
        seats, leases = list(found["seats"].values()), list(found["leases"]["leases"].values())
        now = {seat["person"]: _identity(seat) for seat in seats}
        kept = {person: one["token"] for person, one in self.known.items() if person not in self.rotated}
        has, runs, containers = leased(found), running(found), found["containers"]
        return {
            "no GPU has two seats": not shared_gpus(runs) and not shared_gpus(has),
            "a seat that runs has a lease with its GPUs": runs.items() <= has.items(),
            "a lease has a seat that runs": has.keys() <= runs.keys(),
            "a seat has one lease": len(leases) == len(has),
            "leases are of GPUs of the pool": set[str]().union(*has.values()) <= set(found["pool"] or ()),
            "no lease is over": all(lease["left_s"] > 0 for lease in leases),
            "no lease is longer than was asked for": all(map(self._is_in_time, leases)),
            "both containers of a seat run": _numbers(containers) == dict.fromkeys(has, 2),
            "containers have no rights": not any(one["capabilities"] or one["privileged"] for one in containers),
            "each person has one seat": sorted(seat["person"] for seat in seats) == sorted(PEOPLE),
            "each seat has the uid of its person": {seat["person"]: seat["uid"] for seat in seats} == PEOPLE,
            "host keys, ports and homes are those of before": _without_token(now) == _without_token(self.known),
            "tokens are those of before": {person: now[person]["token"] for person in kept if person in now} == kept,
            "each seat has a token": all(re.fullmatch("[0-9a-f]{64}", one["token"]) for one in now.values()),
            "homes have all their files": {seat["person"]: seat["files"] for seat in seats} == self.files,
            "homes belong to their person": all(seat["owner"] == seat["uid"] for seat in seats),
            "the file of leases was never damaged": not found["damaged"],
            "no claim is left": not found["claim"],
            "the published version is that of the report": found["published"] == published,
        }

    def _is_in_time(self, lease: Found) -> bool:
        person = next(name for name, uid in PEOPLE.items() if uid == lease["uid"])
        return time.monotonic() + float(lease["left_s"]) <= self.until[person] + TICK_SECONDS

    def _take(self, found: Found) -> None:
        for seat in found["seats"].values():
            if seat["person"] in self.rotated:
                self.known[seat["person"]] = _identity(seat)
        # A seat that does not run gets its new token when it starts.
        runs = {found["seats"][name]["person"] for name in running(found)}
        self.rotated -= runs

    def _write_files(self, found: Found) -> None:
        """Write a file into the home of each seat that runs, in its container as its person does."""
        for seat in sorted(running(found)):
            person = found["seats"][seat]["person"]
            name, text = f"round-{self._round}", f"{self._round}:{person}"
            write = partial(self.node.exec, "docker", "exec", "-i", f"{seat}-ssh-1", "sh", "-c")
            write(f"cat > $HOME/{name}", stdin=text)
            self.files[person][name] = text


def _numbers(containers: list[Found]) -> dict[str, int]:
    return dict(Counter(container["seat"] for container in containers if container["running"]))


def _is_starting(found: Found) -> bool:
    return any(container["health"] == "starting" for container in found["containers"])


def _identity(seat: Found) -> Found:
    return {name: seat[name] for name in ("token", "ssh_host_ed25519_key.pub", "ports", "home", "uid")}


def _without_token(people: Mapping[str, Found]) -> dict[str, Found]:
    return {person: {**one, "token": ""} for person, one in people.items()}
