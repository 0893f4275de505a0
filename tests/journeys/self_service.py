"""A node of the bed with self-service, and people with accounts on it who ask through the broker's socket."""

import hashlib
import json
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from provisioner.domain.rollout.order import STATE_ROOT
from tests.journeys.conftest import QUICK, Site, running_site
from tests.lab.bed import make_key
from tests.lab.demo import ssh_command
from tests.lab.engine import Engine
from tests.lab.gpus import profile_text
from tests.lab.host import BedError
from tests.lab.node import Node

PROFILE = "cdi = 1\n" + profile_text("rtx5090x2-580")
TORCH = "2.10.0"
SOCKET = "/run/provisioner/broker.sock"
FOLDER = f"{STATE_ROOT}/self_service"
UNIX_GROUP = "lab-students"
PEOPLE = {"anna": 5001, "bob": 5002, "dora": 5003, "emil": 5004, "carl": 5005}
STRANGER = "carl"  # an account that is not in the group
MEMORY, CPUS, PIDS = 2 << 30, 1.5, 1024
LIMITS = {"gpus": 2, "memory": "2g", "cpus": CPUS, "pids": PIDS, "shm": "64m"}
ONE_GROUP = {"student": LIMITS}
# dora is in the first group and emil in the second.
GROUPS = {
    "short": LIMITS | {"unix": "lab-short", "hours": 0.02, "grace_minutes": 0.2},
    "idle": LIMITS | {"unix": "lab-idle", "idle_hours": 0.02},
    "student": LIMITS,
}
WAIT_S = 240

CLIENT = """\
import socket, sys
with socket.socket(socket.AF_UNIX) as link:
    link.connect(sys.argv[1])
    link.sendall(sys.stdin.buffer.readline())
    sys.stdout.buffer.write(link.makefile("rb").readline())
"""
# GET of a page of Jupyter, as any program on the node can do it; prints the status, 0 without an answer.
GET = """\
import sys, urllib.error, urllib.request
asked = urllib.request.Request(sys.argv[1], headers={"Authorization": f"token {sys.argv[2]}"} if sys.argv[2:] else {})
try:
    print(urllib.request.urlopen(asked, timeout=20).status)
except urllib.error.HTTPError as refused:
    print(refused.code)
except OSError:
    print(0)
"""


class SelfService(NamedTuple):
    """A node with accounts and a broker. `keys`: the folder of their SSH keys, by name."""

    site: Site
    node: Node
    keys: Path

    def as_user(self, person: str, *command: str, stdin: str | None = None) -> str:
        """Run a command on the node with the account of a person; return its stdout. Raises BedError if it fails."""
        return self.node.exec("setpriv", "--reuid", person, "--regid", person, "--init-groups", *command, stdin=stdin)

    def ask(self, person: str, verb: str, **values: Any) -> dict[str, Any]:
        """Return the answer to a request. Raises BedError where the person reaches no broker."""
        request = json.dumps({"v": 1, "id": str(uuid.uuid4()), "verb": verb, **values})
        answer: dict[str, Any] = json.loads(
            self.as_user(person, "python3", "-I", "-c", CLIENT, SOCKET, stdin=f"{request}\n")
        )
        return answer

    def leases(self) -> dict[str, Any]:
        """Return the state of all leases, as root sees it: it is not limited in how often it asks."""
        return dict(self.ask("root", "status")["leases"])

    def settled(self, person: str) -> dict[str, Any]:
        """Wait until no job changes the seat of a person; return what `status` answers them."""
        until(lambda: self.seat_name(person) not in self.leases()["jobs"])
        return self.ask(person, "status")

    def up(self, person: str, **values: Any) -> dict[str, Any]:
        """Start a seat, with the key of the person; wait for it and return its status."""
        answer = self.ask(person, "up", **{"keys": [self.public_key(person)], **values})
        assert answer["ok"], answer
        status = self.settled(person)
        assert status["state"] in ("running", "ending"), status
        return status

    def public_key(self, person: str) -> str:
        return (self.keys / f"{person}.pub").read_text().strip()

    def seat_name(self, person: str) -> str:
        return f"{self.site.lab.prefix}_{person}"

    def seat_folder(self, person: str) -> str:
        return f"{STATE_ROOT}/seats/{self.seat_name(person)}"

    def token(self, person: str) -> str:
        return self.node.exec("cat", f"{self.seat_folder(person)}/identity/token")

    def jupyter(self, person: str, token: str = "", by: str = STRANGER) -> int:
        """Return the HTTP status that another account of the node gets from Jupyter of a person."""
        ports = json.loads(self.node.exec("cat", f"{self.seat_folder(person)}/current/order.json"))["seat"]["ports"]
        url = f"http://{self.node.address}:{ports['jupyter']}/api/contents"
        return int(self.as_user(by, "python3", "-I", "-c", GET, url, *filter(None, [token])))

    def containers(self, person: str, *, stopped: bool = False) -> dict[str, str]:
        """Return the containers of a seat by service: those that run, or all of them."""
        label, shown = f"label=provisioner.seat={self.seat_name(person)}", '{{.Label "provisioner.service"}} {{.ID}}'
        every = ["--all"] if stopped else []
        lines = self.node.exec("docker", "ps", "--no-trunc", *every, "--filter", label, "--format", shown).splitlines()
        return {service: container for service, _, container in (line.partition(" ") for line in lines)}

    def inspect(self, person: str) -> list[dict[str, Any]]:
        """Return what the engine says of the running containers of a seat."""
        found: list[dict[str, Any]] = json.loads(self.node.exec("docker", "inspect", *self.containers(person).values()))
        return found

    # --- the broker

    def publish_next_version(self) -> str:
        """Publish the environment with one more line in a file, as a rollout does it; return its version."""
        config = json.loads(self.node.exec("cat", f"{FOLDER}/config.json"))
        environment = config["environments"]["default"]
        folder = f"{FOLDER}/environments/default"
        document = json.loads(self.node.exec("cat", f"{folder}/{environment['version']}/document.json"))
        document["files"]["notice.sh"][-1] += "\n# the next version\n"
        text = json.dumps(document, sort_keys=True)
        environment["version"] = hashlib.sha256(text.encode()).hexdigest()[:12]
        version = f"{folder}/{environment['version']}"
        self.node.exec("sh", "-c", f"mkdir {version} && cat >{version}/document.json", stdin=text)
        replace = f"cat >{FOLDER}/config.new && mv {FOLDER}/config.new {FOLDER}/config.json"
        self.node.exec("sh", "-c", replace, stdin=json.dumps(config))
        return str(environment["version"])

    def gpus(self) -> list[str]:
        listed = self.node.exec("nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader")
        return listed.split()

    def start(self) -> None:
        """Start the broker, as cron does it at boot, and wait until it has looked at the node."""
        command = f"python3 -I {FOLDER}/program/broker.py {STATE_ROOT} {SOCKET}"
        self.node.exec("sh", "-c", f"exec setsid --fork {command} </dev/null >>{FOLDER}/broker.log 2>&1")
        until(self.has_looked)

    def has_looked(self) -> bool:
        try:
            cards = self.leases()["cards"]
        except BedError:
            return False
        return bool(cards)

    def kill(self) -> None:
        self.node.exec("kill", "-9", self.pid())
        until(lambda: not self.pid())

    def pid(self) -> str:
        """Return the process of the broker, empty without one."""
        return self.node.exec("sh", "-c", f"pid=$(cat {FOLDER}/broker.lock); ! kill -0 $pid 2>/dev/null || echo $pid")

    def audit(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.node.exec("cat", f"{FOLDER}/audit.jsonl").splitlines()]


def until(is_so: Callable[[], bool], seconds: float = WAIT_S) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.3)


@contextmanager
def running_self_service(
    engine: Engine, program: Path, groups: Mapping[str, Mapping[str, object]] = GROUPS
) -> Iterator[SelfService]:
    """Start a node with two cards and accounts, and roll self-service out with an image that has JupyterLab."""
    with running_site(
        engine,
        program,
        [PROFILE],
        rollout=QUICK,
        image={"torch": TORCH, "tools": False},
        self_service={"unix_group": UNIX_GROUP},
        groups=groups,
    ) as site:
        made = SelfService(site, site.lab.node("node1"), site.lab.folder / "keys")
        made.keys.mkdir()
        for person in PEOPLE:
            make_key(made.keys / person)
        add_accounts(made.node)
        done = site.roll_out()
        assert done.code == 0, done.output
        until(made.has_looked)
        yield made


def add_accounts(node: Node) -> None:
    """Add the people, who have no rights on Docker."""
    groups = [UNIX_GROUP, "lab-short", "lab-idle"]
    members = {STRANGER: "", "dora": f"{UNIX_GROUP},lab-short", "emil": f"{UNIX_GROUP},lab-idle"}
    lines = [f"groupadd {group}" for group in groups]
    for person, uid in PEOPLE.items():
        member = members.get(person, UNIX_GROUP)
        lines.append(f"useradd --uid {uid} --user-group --no-create-home --groups '{member}' {person}")
    node.exec("sh", "-ec", "\n".join(lines))


def login(node: SelfService, seat: dict[str, Any], person: str, command: str) -> "subprocess.CompletedProcess[str]":
    """Log in to a seat with the key of a person, and run a command."""
    access = seat["ssh"]
    way = f"ssh -p {access['port']} {access['user']}@{access['host']}"
    ssh = ssh_command(way, access["host_key"], node.keys / person, node.site.lab.folder)
    return subprocess.run([*ssh, command], capture_output=True, text=True, check=False)


def started_at(node: SelfService, person: str) -> dict[str, str]:
    """Container -> when it was started, of the running ones."""
    return {found["Id"]: found["State"]["StartedAt"] for found in node.inspect(person)}


def refused(node: SelfService, person: str, verb: str, **values: Any) -> str:
    """Return the code with which a request is refused."""
    return str(node.ask(person, verb, **values)["problem"]["code"])
