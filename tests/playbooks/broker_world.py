"""A node with a broker whose jobs are carried out here, at once or when a test says so. Containers are names."""

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.builders import a_uuid
from tests.playbooks.node_code import ProblemError, module_util
from tests.playbooks.orders import HERE, REFERENCE

keepers, verbs, requests, callers, orders, states, ticks, jobfiles, seats = (
    module_util(name)
    for name in (
        "broker.keeper",
        "broker.verbs",
        "broker.request",
        "broker.callers",
        "broker.orders",
        "lease.state",
        "lease.tick",
        "jobs.jobfile",
        "seat.seat",
    )
)

GPUS = tuple(a_uuid(f"n1/{index}") for index in range(3))
ID = "0c7a9b2e-1f64-4c43-9a55-6f2f0a6f8f10"
LIMITS = {"memory": "32g", "cpus": 8.0, "pids": 4096, "shm": "8g", "nofile": {"soft": 65536, "hard": 1048576}}
PEOPLE = {"anna": 5001, "bob": 5002, "cem": 5003, "dora": 5004, "eve": 5005}
DOCUMENT = {
    "environment": "default",
    "files": {
        "compose.yaml": ["services: {}\n# ", "seat", " ", "uid", " ", "home", "\n", "deploy", ""],
        "authorized_keys": ["", "authorized_keys", ""],
        "gpu_check.py": ["print(1)\n"],
    },
}


def version_of(document: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:12]


def an_environment(document: dict[str, Any] = DOCUMENT, **over: Any) -> dict[str, Any]:
    return {
        "version": version_of(document),
        "torch": "2.8.0",
        "image": {"reference": REFERENCE, "tag": "t:1", "platform": "linux/amd64", "rootfs": [], "bytes": 0},
        "registry": {"address": "registry.lab:5201", "ca": None},
        "deadlines": {"pull": 3600, "healthy": 120, "min_healthy": 0},
        "start_interval": True,
        **over,
    }


def a_group(**over: Any) -> dict[str, Any]:
    usual = {"unix": None, "gpus": 2, "hours": 24, "idle_hours": 4, "grace_minutes": 10, "environments": ["default"]}
    return {**usual, "limits": LIMITS, "disk": None, **over}


def a_config(**over: Any) -> dict[str, Any]:
    return {
        "schema": "provisioner/self_service/1",
        "lab": "ml",
        "node": "n1",
        "unix_group": "lab-students",
        "show_names": True,
        "pool": list(GPUS),
        "ports": {"first": 24000, "last": 24999},
        "subnets": ["10.213.0.0/16"],
        "homes": "/srv/provisioner/homes",
        "binds": {"ssh": HERE, "jupyter": HERE},
        "term_ends": None,
        "groups": {"student": a_group()},
        "environments": {"default": an_environment()},
        **over,
    }


class Node:
    """A node with a configuration, and the broker in it. `holds`: jobs begin and do not end until `finish`."""

    def __init__(self, root: Path) -> None:
        self.state_root = str(root / "state")
        self.folder = root / "state/self_service"
        self.now, self.boot, self.holds = 1000.0, "b1", False
        self.launched: list[tuple[str, str, str]] = []  # kind, run, seat
        self.running: set[str] = set()
        self.ends: dict[str, str] = {}  # kind of a job -> how it ends, if not well
        self.problems = [{"code": "x", "what": "w", "why": "y", "fix": "f"}]  # of jobs that do not end well
        self.exits: int | None = None  # the exit code of a program that does not begin its job
        self.foreign: set[str] = set()
        self.kernels: dict[str, Any] = {}  # what those of a seat do
        self.gpus = GPUS
        self.publish(DOCUMENT)
        self.configure()
        self.start()

    def configure(self, **over: Any) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        new = self.folder / "config.new"
        new.write_text(json.dumps(a_config(**over)))
        new.replace(self.folder / "config.json")

    def publish(self, document: dict[str, Any]) -> dict[str, Any]:
        """Publish a document; return its environment."""
        path = self.folder / "environments" / document["environment"] / version_of(document) / "document.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document))
        return an_environment(document)

    def start(self) -> None:
        """Start a broker, as after the end of the one before it."""
        self.keeper = keepers.Keeper(self.state_root, self._launch, lambda: states.Moment(self.boot, self.now))
        self.verbs = verbs.Verbs(self.keeper)
        self.look()

    def look(self) -> None:
        """Let the broker look at the node."""
        held = {gpu: states.Card("foreign", 7, "root") for gpu in self.foreign}
        cards = {**dict.fromkeys(self.gpus, states.Card("free")), **held}
        wanted = {name: self.order(name)["seat"] for name in self.running}
        own = {name: one for name, one in wanted.items() if one.get("kind") == "self_service"}
        leased = {name: (one["uid"], tuple(one["gpus"])) for name, one in own.items()}
        others = frozenset(wanted.keys() - own.keys())
        self.keeper.tick(ticks.Seen(cards, frozenset(self.running), {}, leased, others, kernels=self.kernels))
        self.settle()

    def settle(self) -> None:
        while self.keeper.poll():
            pass

    def after(self, seconds: float, step: float = 60) -> None:
        """Let time go by, with a look after each step."""
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + step)
            self.look()

    def _launch(self, kind: str, run: str, seat: str, order: str) -> Any:
        self.launched.append((kind, run, seat))
        if self.exits is None:
            path = jobfiles.job_path(self.seat(seat), run, kind)
            job = jobfiles.Job(path, run, kind)
            job.report("working")
            if not self.holds:
                self._carry_out(job, kind, seat, order)
        return SimpleNamespace(poll=lambda: self.exits)

    def finish(self) -> None:
        """End the jobs that were begun and have not ended."""
        for kind, run, seat in list(self.launched):
            path = jobfiles.job_path(self.seat(seat), run, kind)
            if path.exists() and not jobfiles.read_job(path)["finished"]:
                self._carry_out(jobfiles.Job(path, run, kind), kind, seat, str(self.keeper.store.order_path(run)))
        self.settle()

    def _carry_out(self, job: Any, kind: str, name: str, order_file: str) -> None:
        ends = self.ends.get(kind, "committed")
        if ends == "committed" and kind in ("up", "upgrade"):
            seat, order = self.seat(name), json.loads(Path(order_file).read_text())
            number = seat.next_number()
            seat.write(number, order, {})
            seat.commit(number)
        if ends == "committed" and kind in ("up", "upgrade", "resume"):
            self.running.add(name)
        if ends == "committed" and kind == "stop":
            self.running.discard(name)
        job.finish({"state": ends, "problems": [] if ends == "committed" else self.problems})

    def seat(self, name: str) -> Any:
        return seats.Seat(self.state_root, name)

    def order(self, name: str = "ml_anna") -> dict[str, Any]:
        seat = self.seat(name)
        order: dict[str, Any] = seat.order(seat.current())
        return order

    def ask(self, name: str, verb: str, **values: Any) -> Any:
        """Return the answer to a request of a person, and let its jobs end unless they are held."""
        request = requests.parse_request(json.dumps({"v": 1, "id": ID, "verb": verb, **values}).encode())
        uid = 0 if name == "root" else PEOPLE[name]
        caller = callers.Caller(uid, 100 if uid else 0, name, ("lab-students",) if uid else ())
        answer = self.verbs.answer(request, caller)
        self.settle()
        return answer

    def refused(self, name: str, verb: str, **values: Any) -> dict[str, str]:
        """Return the problem with which a request is refused."""
        with pytest.raises(ProblemError) as caught:
            self.ask(name, verb, **values)
        return dict(vars(caught.value)["problem"])

    def kinds(self) -> list[str]:
        return [kind for kind, _, _ in self.launched]

    def audit(self) -> list[dict[str, Any]]:
        path = self.folder / "audit.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
