"""A lab under random faults: controllers, engines, nodes and lines are killed or cut while runs go on.

In each round a run is started, faults are injected at random moments and healed, and the run is completed as an admin
would do it: `resume`, then `rollout`. On a node with self-service people ask for seats all the while. Then the laws of
every seat are checked. The faults of a round depend only on the seed and on the number of the round, so that a round
can be repeated:

    python -m tests.journeys.chaos SECONDS [SEED [ROUND]]
"""

import json
import os
import random
import secrets
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from provisioner.adapters.lab.lockfile import read_lock
from provisioner.domain.lab.lock import LockedImage
from tests.journeys.chaos_people import (
    GROUP,
    KILL_BROKER,
    KILL_SHELLS,
    PEOPLE,
    START_BROKER,
    STUDENT,
    People,
    make_accounts,
)
from tests.journeys.small_lab import find_leftovers, processes_with_folder
from tests.lab.bed import Lab
from tests.lab.demo import write_lab
from tests.lab.engine import Engine
from tests.lab.host import BedError, run
from tests.lab.node import Node
from tests.lab.steps import setup
from tests.long_parts import RECORDS
from tests.playbooks.on_nodes import push_base

Result = TypeVar("Result")

# The last node has self-service; the others have the seat of the node.
PROFILES = ("rtx4090-570", "rtx4090-570", "rtx4090-570", "rtx4090-570", "rtx5090x2-580")
TORCH = ("2.8.0", "2.9.1", "2.10.0")
SEATS = "/var/lib/provisioner/seats"
HOME = "/srv/provisioner/homes/student"
DISK_MIB = 96
RUN_SECONDS = 1800  # a run that takes longer hangs
ATTEMPTS = 4  # of resume and rollout, until a lab without faults is complete
# Texts of a run after which faults begin: its start, the first wave, which has one node, and the second wave.
ENDS_CONTAINERS = {
    *("node power cut", "node power cut, recovery at boot", "engine killed", "containers killed", "containers crashed"),
}  # fmt: skip
MOMENTS = ("", "wave 1 of", "wave 2 of", "wave 2 of")
# A dead connection is given up after 10 s instead of 30 s.
SSH_ARGS = "-C -o ControlMaster=auto -o ControlPersist=60s -o ServerAliveInterval=5 -o ServerAliveCountMax=2"
# Exit codes of a run under faults: done, a node failed, deferred, locked by another run; minus a signal.
CODES = {0, 1, 4, 5, 130, -signal.SIGKILL}
DEFERRED = 4
CAUTIONS = {"broker_not_at_boot", "proof_pending"}  # a node of the bed has no cron; people may have all GPUs


class SmallDiskLab(Lab):
    """A lab whose nodes keep seats and homes on a file system of their own, which a test can fill."""

    disks: Path

    def _node(self, index: int, address: str, *, has_engine: bool) -> Node:
        node = super()._node(index, address, has_engine=has_engine)
        disk = self.disks / node.name
        for folder in ("state", "srv"):
            (disk / folder).mkdir(parents=True)
        return replace(node, volumes=(f"{disk}/state:/var/lib/provisioner", f"{disk}/srv:/srv/provisioner"))


@contextmanager
def small_disks(names: Iterable[str]) -> Iterator[Path]:
    """Mount a file system of DISK_MIB in memory for each node; it survives the node's power cuts."""
    with TemporaryDirectory(prefix="chaos-disks-") as folder:
        disks = [Path(folder) / name for name in names]
        try:
            for disk in disks:
                disk.mkdir()
                run("mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m,mode=755", "tmpfs", disk)
            yield Path(folder)
        finally:
            for disk in disks:
                run("umount", "-l", disk, check=False)


@contextmanager
def chaos_lab(engine: Engine) -> Iterator[SmallDiskLab]:
    """Start nodes with small disks, and a mirror with three complete images."""
    lab = SmallDiskLab(f"chaos{os.getpid()}", engine=engine)
    with small_disks(f"node{index + 1}" for index in range(len(PROFILES))) as lab.disks:
        try:
            lab.up(PROFILES)
            for torch in TORCH:
                push_base(lab, torch)
            make_accounts(lab.nodes[-1])
            settings = {
                "image": {"complete": True, "torch": TORCH[0]},
                "rollout": {"waves": ["1", "100%"], "min_healthy_seconds": 1},
                "self_service": {"nodes": lab.nodes[-1].name, "unix_group": GROUP},
                "groups": {"student": STUDENT},
            }
            write_lab(lab, lab.folder / "lab", **settings)
            yield lab
        finally:
            lab.down()


@dataclass(frozen=True)
class Fault:
    """A fault of one kind: how it is injected and healed, and for how many seconds it lasts."""

    kind: str
    where: str
    inject: Callable[[], object]
    heal: Callable[[], object] = lambda: None
    seconds: float = 0


@dataclass
class Controller:
    """A running command: its process and the files with its output."""

    words: Sequence[str]
    process: subprocess.Popen[bytes]
    output: Path
    messages: Path

    def document(self) -> dict[str, Any]:
        read = json.loads(self.output.read_text() or "{}")
        assert isinstance(read, dict)
        return read

    def states(self) -> dict[str, dict[str, Any]]:
        """Return the record of each node; empty for a command that was killed or did not reach a report."""
        return {record["node"]: record for record in self.document().get("nodes", ()) if "state" in record}


def inspect(node: Node) -> dict[str, Any]:
    """Return what a node has: generation, files, journal, containers, claim, jobs and homes."""
    found = json.loads(node.exec("python3", "-c", INSPECT))
    assert isinstance(found, dict)
    return found


def has_no_job(node: Node) -> bool:
    return not inspect(node)["running jobs"]


INSPECT = f"""
import glob, hashlib, json, os, subprocess
def text(path):
    try:
        return open(path, errors="replace").read()
    except FileNotFoundError:
        return ""
def started(pid):  # the number of a process is used again after a power cut
    return (text("/proc/%s/stat" % pid).rpartition(")")[2].split() + [""] * 20)[19]
(seat,) = glob.glob("{SEATS}/*") or [""]
lines = text(seat + "/journal.jsonl").split("\\n")
current = os.readlink(seat + "/current") if os.path.islink(seat + "/current") else ""
order = json.loads(text(f"{{seat}}/{{current}}/order.json") or "{{}}")
ids = subprocess.run(["docker", "ps", "-aq"], capture_output=True, text=True).stdout.split()
inspected = json.loads(subprocess.run(["docker", "inspect", *ids], capture_output=True, text=True).stdout or "[]")
jobs = {{path: json.loads(text(path)) for path in glob.glob(seat + "/jobs/*.json")}}
print(json.dumps({{
    "seat": os.path.basename(seat),
    "current": int(os.path.basename(current) or 0),
    "image": order.get("image", {{}}).get("reference", ""),
    "ordered": order.get("files", {{}}),
    "files": {{name: text(f"{{seat}}/{{current}}/{{name}}") for name in order.get("files", {{}})}},
    "journal": [json.loads(line) for line in lines if line.strip()],
    "claim": text("/var/lib/provisioner/claim.json"),
    "identity": {{name: text(f"{{seat}}/identity/{{name}}") for name in ("token", "ssh_host_ed25519_key.pub")}},
    "running jobs": [
        path for path, job in jobs.items() if not job["finished"] and started(job["pid"]) == job["started"]],
    "containers": {{found["Name"].strip("/"): [
        found["State"]["Status"], found["State"].get("Health", {{}}).get("Status"), found["Config"]["Image"],
        found["Config"]["Labels"].get("com.docker.compose.project.config_files", ""),
        sorted(str(port) for port in found["HostConfig"]["PortBindings"].values())] for found in inspected}},
    "home": {{os.path.basename(path): text(path) for path in glob.glob("{HOME}/round-*")}},
    "owner": [os.stat("{HOME}").st_uid, os.stat("{HOME}").st_gid] if os.path.isdir("{HOME}") else [],
}}))
"""


@dataclass
class Chaos:
    """Runs rounds on a lab, counts faults and collects violations."""

    lab: SmallDiskLab
    seed: int
    log: Path
    faults: Counter[str] = field(default_factory=Counter)
    runs: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    checks: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    homes: dict[str, dict[str, str]] = field(default_factory=dict)
    identities: dict[str, object] = field(default_factory=dict)
    number: int = 0
    published: dict[str, str] = field(default_factory=dict)  # the version of each environment, as last reported
    _rng: random.Random = field(default_factory=random.Random)
    _commands: int = 0
    _processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Nothing has begun."""
        self.nodes, self.node = self.lab.nodes[:-1], self.lab.nodes[-1]
        self.people = People(self.node, self.seed, self._violate, self._say)

    # ---- rounds

    def first_rollout(self) -> None:
        """Roll out once without faults. Two folders of systemd exist meanwhile, so that nodes get their recovery."""
        for node in self.nodes:
            node.exec("mkdir", "-p", "/run/systemd/system", "/etc/systemd/system")
        done = self._wait(self._start("rollout", "--yes"))
        assert done == 0, self._tail()
        for node in self.nodes:
            node.exec("rm", "-r", "/run/systemd")
        self.identities = {name: self._identity(state) for name, state in self._inspected().items()}
        self.homes = {node.name: {} for node in self.nodes}
        self.people.start_all()

    def round(self, number: int) -> None:
        """Start a run, inject faults, heal them, complete the run and check the laws. People ask all the while."""
        self.number, self._rng = number, random.Random(f"{self.seed}/{number}")
        before = {name: state["current"] for name, state in self._inspected().items()}
        self._write_home()
        self.people.begin(number)
        words = self._choose_run()
        code = self._run_with_faults(words)
        self._check_ledger(words, code, before)
        if self._rng.random() < 1 / 3:
            self._run_with_faults(["resume"])
        self._complete()
        self.people.end()
        self.people.check(self._until, self.published)
        self._check_seats()
        self._say(f"round {number} is complete; violations: {len(self.violations)}")

    def _choose_run(self) -> list[str]:
        allowed = ["--allow-unreachable", str(self._rng.choice((1, 4)))] if self._rng.random() < 1 / 2 else []
        kind = self._rng.choices(("upgrade", "rollback", "damage"), (6, 3, 2))[0]
        if kind == "rollback":
            return ["rollback", "--yes", *allowed]
        if kind == "damage":  # a rollout that finds containers removed by hand
            for node in self._rng.sample(self.nodes, 3):
                node.exec("sh", "-c", "docker rm -f $(docker ps -q --filter label=provisioner.seat | head -n 1)")
            return ["rollout", "--yes", *allowed]
        others = [torch for torch in TORCH if torch != str(self._locked_image().torch)]
        return ["upgrade", "--torch", self._rng.choice(others), "--yes", *allowed]

    def _locked_image(self) -> LockedImage:
        lock = read_lock(self.lab.folder / "lab" / "lab.lock")
        assert lock is not None
        (image,) = lock.images
        return image

    def _run_with_faults(self, words: Sequence[str]) -> int:
        """Run a command; inject two to five faults meanwhile. All are healed at the end."""
        controller = self._start(*words)
        plan, open_faults, seen = self._plan_faults(controller), list[tuple[float, Fault]](), dict[str, float]()
        began = time.monotonic()
        while controller.process.poll() is None:
            now = time.monotonic() - began
            if now > RUN_SECONDS:
                self._violate(f"{' '.join(words)} did not end in {RUN_SECONDS} s")
                controller.process.kill()
            printed = controller.messages.read_text()
            for moment, delay, fault in list(plan):
                if moment in printed and now >= seen.setdefault(moment, now) + delay:
                    plan.remove((moment, delay, fault))
                    self._inject(fault, now)
                    open_faults.append((now + fault.seconds, fault))
            for item in [item for item in open_faults if item[0] <= now]:
                open_faults.remove(item)
                self._heal(item[1])
            time.sleep(0.1)
        for _, fault in open_faults:
            self._heal(fault)
        for node in self.lab.nodes:
            self._until(node.answers, 180, f"{node.name} is up")
        self._wait_for_jobs()
        code = self._wait(controller)
        self._check_end(words, code, controller)
        return code

    def _plan_faults(self, controller: Controller) -> list[tuple[str, float, Fault]]:
        """Return faults, each with a text that the command prints and the seconds after it at which the fault begins.

        They are of different nodes, and at most one of the controller and one of the registry. Those of the node with
        self-service come in addition.
        """
        rng, count = self._rng, self._rng.choice((2, 2, 3, 4))
        nodes = rng.sample(self.nodes, len(self.nodes))
        others = [self._controller_faults(controller), self._registry_faults()]
        plan = []
        for _ in range(count):
            moment = rng.choice(MOMENTS)
            if rng.random() < 1 / 3 and others:
                kinds = others.pop(rng.randrange(len(others)))
            else:
                first = moment == MOMENTS[1] and self.nodes[0] in nodes
                kinds = self._node_faults(nodes.pop(nodes.index(self.nodes[0]) if first else 0), RECOVER)
            plan.append((moment, rng.uniform(0, 30), rng.choice(kinds)))
        return plan + self._plan_self_service_faults()

    def _plan_self_service_faults(self) -> list[tuple[str, float, Fault]]:
        """Return one fault that lasts, and up to two kills, of the node with self-service."""
        rng = self._rng
        lasting = [rng.choice(self._node_faults(self.node, START_BROKER))] if rng.random() < 2 / 3 else []
        kills = [rng.choice(self._self_service_faults()) for _ in range(rng.choice((1, 1, 2)))]
        return [("", rng.uniform(0, 25), fault) for fault in (*lasting, *kills)]

    def _self_service_faults(self) -> list[Fault]:
        """Return what is killed on the node with self-service. A broker starts again as at boot, or by a rollout."""
        node, seconds = self.node, self._rng.uniform(0, 30)
        kill, restart = partial(node.exec, "python3", "-c", KILL_BROKER), shell(node, START_BROKER)
        job = partial(node.exec, "python3", "-c", KILL_JOBS)
        number = self._rng.randrange(len(PEOPLE))
        return [
            Fault("broker killed, restart", node.name, kill, restart, seconds),
            Fault("broker killed, restart", node.name, kill, restart, seconds),
            Fault("broker killed", node.name, kill),
            Fault("job of the broker killed", node.name, job),
            Fault("job of the broker killed", node.name, job),
            Fault("shells killed", node.name, partial(node.exec, "python3", "-c", KILL_SHELLS)),
            Fault("lease released", node.name, partial(self.people.release, number)),
        ]

    def _controller_faults(self, controller: Controller) -> list[Fault]:
        pid = controller.process.pid

        def send(number: int) -> Callable[[], None]:
            def signal_it() -> None:
                with suppress(ProcessLookupError):
                    os.kill(pid, number)

            return signal_it

        return [
            Fault("controller killed", "controller", send(signal.SIGKILL)),
            Fault("controller killed", "controller", send(signal.SIGKILL)),
            Fault("controller interrupted", "controller", send(signal.SIGINT)),
            Fault("controller suspended", "controller", send(signal.SIGSTOP), send(signal.SIGCONT), 20),
            Fault("ansible killed", "controller", lambda: kill_children(pid)),
            Fault("second controller", "controller", self._second_controller),
        ]

    def _registry_faults(self) -> list[Fault]:
        registry, engine = self.lab.registry, self.lab.engine
        seconds = self._rng.uniform(5, 40)
        return [
            Fault("registry stopped", "registry", registry.stop, registry.start, seconds),
            Fault(
                "registry hangs",
                "registry",
                lambda: engine.docker("pause", registry.name),
                lambda: engine.docker("unpause", registry.name),
                seconds,
            ),
        ]

    def _node_faults(self, node: Node, at_boot: str) -> list[Fault]:
        """Return the faults of a node. `at_boot`: a line of the shell that does what the node does at boot."""
        seconds, disk = self._rng.uniform(3, 40), self.lab.disks / node.name

        def boot() -> None:
            node.start()
            node.exec("sh", "-c", at_boot)

        kinds: list[tuple[str, Callable[[], object], Callable[[], object]]] = [
            ("node power cut", node.kill, node.start),
            ("node power cut, recovery at boot", node.kill, boot),
            ("node hangs", node.pause, node.unpause),
            ("line cut", node.disconnect, node.connect),
            ("node mute", lambda: mute(node, "add"), lambda: mute(node, "del")),
            ("engine killed", lambda: node.exec("pkill", "-9", "-x", "dockerd"), lambda: start_engine(node)),
            ("containers killed", shell(node, KILL_CONTAINERS), lambda: None),
            ("containers crashed", shell(node, CRASH_CONTAINERS), lambda: None),
            ("job killed", lambda: node.exec("python3", "-c", KILL_JOBS), lambda: None),
            ("disk full", lambda: fill(disk), lambda: (disk / "srv" / "ballast").unlink(missing_ok=True)),
            ("engine's disk full", shell(node, FILL_ENGINE), shell(node, FREE_ENGINE)),
        ]  # fmt: skip
        return [Fault(kind, node.name, inject, heal, seconds) for kind, inject, heal in kinds]

    def _inject(self, fault: Fault, now: float) -> None:
        self._say(f"  {now:5.1f} s  {fault.kind} ({fault.where}), {fault.seconds:.0f} s")
        if fault.where == self.node.name and fault.kind in ENDS_CONTAINERS:
            self.people.expect_stops()
        with self._noting(fault):
            fault.inject()
            self.faults[fault.kind] += 1

    def _heal(self, fault: Fault) -> None:
        with self._noting(fault):
            fault.heal()

    @contextmanager
    def _noting(self, fault: Fault) -> Iterator[None]:
        """Note where the bed could not inject or heal a fault, such as a kill of what has just ended."""
        try:
            yield
        except (BedError, OSError) as problem:
            self._say(f"  not possible: {fault.kind} ({fault.where}): {str(problem)[-200:]}")

    def _second_controller(self) -> None:
        other = self._start("rollout", "--yes")
        code = self._wait(other)
        self._check_end(other.words, code, other)

    # ---- commands

    def _start(self, verb: str, *words: str) -> Controller:
        self._commands += 1
        base = self.log.parent / f"{self._commands:03d}-{verb}"
        output, messages = base.with_suffix(".json"), base.with_suffix(".txt")
        argv = ["env", "--default-signal=INT", sys.executable, "-m", "provisioner", verb, str(self.lab.folder / "lab")]
        state = {name: str(self.lab.folder / name.lower()) for name in ("XDG_STATE_HOME", "XDG_CACHE_HOME")}
        environment = os.environ | self.lab.engine.client_env() | state | {"ANSIBLE_SSH_ARGS": SSH_ARGS}
        with output.open("w") as stdout, messages.open("w") as stderr:
            process = subprocess.Popen(
                [*argv, *words, "--json"],
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                env=environment,
                start_new_session=True,
            )
        self._processes.append(process)
        self.runs[verb] += 1
        self._say(f"  {base.name}: provision {verb} {' '.join(words)}")
        return Controller((verb, *words), process, output, messages)

    def _wait(self, controller: Controller) -> int:
        try:
            code = controller.process.wait(RUN_SECONDS)
        except subprocess.TimeoutExpired:
            self._violate(f"{' '.join(controller.words)} did not end in {RUN_SECONDS} s")
            controller.process.kill()
            code = controller.process.wait()
        self.ends[f"{controller.words[0]}: {code}"] += 1
        self._last = controller
        return code

    def _tail(self) -> str:
        return self._last.messages.read_text()[-3000:]

    def _complete(self) -> None:
        """Complete the run as an admin does: resume it, then roll out; where a seat needs attention, roll it back."""
        for _ in range(ATTEMPTS):
            resumed = self._start("resume")
            code = self._wait(resumed)
            self._check_end(resumed.words, code, resumed)
            self._resolve(resumed)
            rollout = self._start("rollout", "--yes")
            code = self._wait(rollout)
            self._check_end(rollout.words, code, rollout)
            if self._is_complete(rollout, code):
                return
            self._resolve(rollout)
        self._violate(f"a lab without faults is not complete after {ATTEMPTS} attempts: {self._tail()}")

    def _is_complete(self, rollout: Controller, code: int) -> bool:
        """Return whether a rollout has done everything, but for leases, which go on with the version of before."""
        records = rollout.states()
        record = records.get(self.node.name)
        if record:
            self.published = {name: one["version"] for name, one in record.get("environments", {}).items()}
        left = [problem["code"] for one in records.values() for problem in find_problems(one)]
        is_leased = code == DEFERRED and set(left) <= {"leased", *CAUTIONS}
        return code == 0 or is_leased

    def _resolve(self, ended: Controller) -> None:
        """Do what the report advises for seats whose undo failed."""
        stuck = [node for node, record in ended.states().items() if record["state"] == "needs_attention"]
        for node in stuck:
            self.ends["needs_attention"] += 1
            back = self._start("rollback", "--yes", "--limit", node)
            self._check_end(back.words, self._wait(back), back)

    # ---- laws

    def _check_end(self, words: Sequence[str], code: int, ended: Controller) -> None:
        self.checks["end of a command"] += 1
        messages = ended.messages.read_text()
        if code not in CODES or "Traceback" in messages:
            self._violate(f"{' '.join(words)} ended with {code}: {messages[-3000:]}")
        if left := find_leftovers(ended.process.pid):
            self._violate(f"{' '.join(words)} left {left}")

    def _check_ledger(self, words: Sequence[str], code: int, before: dict[str, int]) -> None:
        """Each node is where the report says: on the new generation if committed, on the old one if nothing changed."""
        if code == -signal.SIGKILL:
            return
        now = self._inspected()
        records = {node: record for node, record in self._last.states().items() if node in now}
        for node, record in records.items():
            self.checks["record of a node"] += 1
            expected = {"committed": {record["generation"]}, "unknown": {before[node], now[node]["current"]}}
            if now[node]["current"] not in expected.get(record["state"], {before[node]}):
                self._violate(
                    f"{' '.join(words)}: {node} is {record['state']}, generation {record['generation']}, "
                    f"was {before[node]}, and has {now[node]['current']}"
                )

    def _check_seats(self) -> None:
        """Every seat runs the locked image, whole, under its old identity, and everything says so."""
        status = self._start("status")
        code = self._wait(status)
        if code:
            self._violate(f"status ended with {code} after a complete rollout: {status.output.read_text()[:3000]}")
        reported = {seat["node"]: seat for seat in status.document().get("seats", ())}
        image = self._locked_image().lab
        for node, state in self._inspected().items():
            self.checks["seat"] += 1
            for law, holds in self._laws(node, state, reported.get(node, {}), image).items():
                self.checks["law of a seat"] += 1
                if not holds:
                    self._violate(f"{node}: {law}: {json.dumps(state | {'ordered': {}, 'files': {}})[:6000]}")
        if left := processes_with_folder(self.lab.folder / "xdg_state_home"):
            self._violate(f"processes of commands that have ended: {left}")

    def _laws(self, node: str, state: dict[str, Any], reported: dict[str, Any], image: str) -> dict[str, bool]:
        compose = f"{SEATS}/{state['seat']}/gens/{state['current']}/compose.yaml"
        names = {f"{state['seat']}-{service}-1" for service in ("jupyter", "ssh")}
        containers = state["containers"]
        last = [line for line in state["journal"] if line["state"] not in ("staged", "forced")][-1]
        return {
            "containers are those of the seat": set(containers) == names,
            "containers run": {found[0] for found in containers.values()} == {"running"},
            "containers are healthy": {found[1] for found in containers.values()} == {"healthy"},
            "containers run the locked image": {found[2] for found in containers.values()} == {image},
            "containers are of the current generation": {found[3] for found in containers.values()} == {compose},
            "the current generation is of the locked image": state["image"] == image,
            "files are those of the order": state["files"] == state["ordered"],
            "the journal has ended": last["state"] in ("committed", "rolled_back"),
            "the journal ends on the current generation": last["detail"].get("generation") == state["current"],
            "no job runs": not state["running jobs"],
            "no claim is left": not state["claim"],
            "status reports the generation": reported.get("generation") == state["current"],
            "status reports the image": reported.get("image") is not None and not reported.get("drift"),
            "token, host key and ports are those of the first rollout": self._identity(state) == self.identities[node],
            "the home has all its files": state["home"] == self.homes[node],
            "the home belongs to the student": state["owner"] == [1000, 1000],
        }  # fmt: skip

    def _identity(self, state: dict[str, Any]) -> object:
        return [state["identity"], {name: found[4] for name, found in state["containers"].items()}]

    # ---- nodes

    def _write_home(self) -> None:
        """Write a file into each home as the student does: in the container, over the seat's user."""
        for node in self.nodes:
            name, text = f"round-{self.number}", f"{self.number}:{self._rng.random()}"
            container = node.exec("sh", "-c", "docker ps -q --filter label=provisioner.service=ssh")
            node.exec("docker", "exec", "-i", container, "sh", "-c", f"cat > $HOME/{name}", stdin=text)
            self.homes[node.name][name] = text

    def _inspected(self) -> dict[str, dict[str, Any]]:
        with ThreadPoolExecutor(4) as pool:
            return dict(zip((n.name for n in self.nodes), pool.map(inspect, self.nodes), strict=True))

    def _wait_for_jobs(self) -> None:
        for node in self.nodes:
            self._until(partial(has_no_job, node), 900, f"the job on {node.name} has ended")

    def _until(self, condition: Callable[[], bool], seconds: float, what: str) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                self._violate(f"not within {seconds} s: {what}")
                return
            time.sleep(0.5)

    # ---- log

    def _violate(self, what: str) -> None:
        self.violations.append(f"seed {self.seed}, round {self.number}: {what}")
        self._say(f"  VIOLATION {what}")

    def _say(self, text: str) -> None:
        with self.log.open("a") as file:
            file.write(f"{datetime.now(UTC):%H:%M:%S} {text}\n")

    def end(self) -> None:
        """Kill what still runs after an error or an interrupt."""
        self.people.stop()
        for process in self._processes:
            if process.poll() is None:
                process.kill()

    def summary(self) -> str:
        """Return the counts as text."""
        parts = {
            "faults": self.faults,
            "commands": self.runs,
            "ends": self.ends,
            "checks": self.checks,
            "requests of people": self.people.requests,
            "laws of their seats": self.people.laws,
            "looks at their GPUs": Counter({"all": self.people.looks}),
        }
        rows = [
            f"| {part} | {name} | {number} |"
            for part, counts in parts.items()
            for name, number in sorted(counts.items())
        ]
        return "\n".join([f"seed {self.seed}, {self.number} rounds", *rows, *self.violations])


RECOVER = "cd / && python3 -I /var/lib/provisioner/node/program/recover.py || true"
KILL_CONTAINERS = "docker kill $(docker ps -q --filter label=provisioner.seat)"
CRASH_CONTAINERS = (
    "kill -9 $(docker inspect -f '{{.State.Pid}}' $(docker ps -q --filter label=provisioner.seat | head -n 1))"
)
FILL_ENGINE = "mkdir -p /var/lib/docker/tmp; mount -t tmpfs -o size=64k tmpfs /var/lib/docker/tmp"
FREE_ENGINE = "umount -l /var/lib/docker/tmp 2>/dev/null || true"
KILL_JOBS = f"""
import glob, json, os
for path in glob.glob("{SEATS}/*/jobs/*.json"):
    job = json.load(open(path))
    if not job.get("finished"):
        try:
            os.kill(job["pid"], 9)
        except OSError:
            pass
"""


def find_problems(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the problems of the record of a node, and of its seats and environments."""
    parts = [record, *record.get("seats", ()), *record.get("environments", {}).values()]
    return [problem for part in parts for problem in part.get("problems", ())]


def shell(node: Node, line: str) -> Callable[[], str]:
    return partial(node.exec, "sh", "-c", line)


def start_engine(node: Node) -> None:
    node.exec("sh", "-c", "rm -f /var/run/docker.pid; service docker start")


def mute(node: Node, verb: str) -> None:
    """Drop what the node sends, or stop doing so; after a power cut there is nothing to stop."""
    net = node.address.rpartition(".")[0]
    for half in (f"{net}.0/25", f"{net}.128/25"):  # each narrower than the route of its network
        node.exec("ip", "route", verb, "blackhole", half)


def fill(disk: Path) -> None:
    """Leave no byte on a disk; it has DISK_MIB in all."""
    with (disk / "srv" / "ballast").open("wb", buffering=0) as file, suppress(OSError):
        for _ in range(DISK_MIB * 256 + 1):
            file.write(b"\0" * 4096)


def kill_children(pid: int) -> None:
    """Kill the children of a process, as the kernel does when memory runs out."""
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with suppress(ProcessLookupError):
            os.kill(int(child), signal.SIGKILL)


def run_chaos(engine: Engine, seconds: float, seed: int | None = None, first: int = 1) -> Chaos:
    """Run rounds, from the round `first` on, for some seconds; at least one. The log is in .long/chaos/SEED/."""
    seed = secrets.randbelow(10**6) if seed is None else seed
    folder = RECORDS / "chaos" / str(seed)
    folder.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + seconds
    with chaos_lab(engine) as lab:
        chaos = Chaos(lab, seed, folder / "log.txt")
        try:
            chaos.first_rollout()
            number = first
            while number == first or time.monotonic() < deadline:
                chaos.round(number)
                (folder / "summary.txt").write_text(chaos.summary())
                number += 1
        finally:
            chaos.end()
            (folder / "summary.txt").write_text(chaos.summary())
    return chaos


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the lab is removed
    ended = run_chaos(setup(), float(sys.argv[1]), *map(int, sys.argv[2:]))
    print(ended.summary())
    sys.exit(1 if ended.violations else 0)
