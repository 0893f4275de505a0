"""A node of the bed with a broker, and people with accounts on it who ask through its socket.

`publish` writes by hand what a rollout is to install: program, configuration and documents.
"""

import json
import shutil
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from provisioner.adapters import resources
from provisioner.adapters.ansible.pynvml_part import pynvml_part
from provisioner.adapters.lab.lockfile import read_lock
from provisioner.domain.lab.lock import LockedImage
from provisioner.domain.lab.ordered import order_image
from provisioner.domain.rollout.order import STATE_ROOT
from provisioner.domain.seat.document import SeatDocument
from provisioner.domain.seat.seat import Seat
from provisioner.domain.seat.slotted import Documents
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
SOURCE, PROGRAM = "/opt/self_service", f"{FOLDER}/program"
UNIX_GROUP = "lab-students"
PEOPLE = {"anna": 5001, "bob": 5002, "dora": 5003, "emil": 5004, "carl": 5005}
STRANGER = "carl"  # an account that is not in the group
MEMORY, CPUS, PIDS = 2 << 30, 1.5, 1024
LIMITS = {"memory": "2g", "cpus": CPUS, "pids": PIDS, "shm": "64m", "nofile": {"soft": 4096, "hard": 8192}}
WAIT_S = 240

CLIENT = """\
import socket, sys
with socket.socket(socket.AF_UNIX) as link:
    link.connect(sys.argv[1])
    link.sendall(sys.stdin.buffer.readline())
    sys.stdout.buffer.write(link.makefile("rb").readline())
"""
WRITE_PROGRAM = f"""\
import sys
from pathlib import Path
sys.path.insert(0, {SOURCE!r})
from ansible.module_utils.provisioner.broker.program import write_program
from ansible.module_utils.provisioner.transaction.boot import own_code
write_program(Path({PROGRAM!r}), own_code())
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
    image: LockedImage
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
        url = f"http://127.0.0.1:{ports['jupyter']}/api/contents"
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

    def publish(self, document: SeatDocument, **over: Any) -> None:
        """Write the configuration, with this document as the environment `default`; `over` replaces parts of it."""
        version = document.digest[:12]
        path = f"{FOLDER}/environments/default/{version}/document.json"
        self.node.exec("sh", "-c", f"mkdir -p {Path(path).parent} && cat >{path}", stdin=document.model_dump_json())
        config = json.dumps(self.config(version) | over)
        script = f"cat >{FOLDER}/config.new && mv {FOLDER}/config.new {FOLDER}/config.json"
        self.node.exec("sh", "-c", script, stdin=config)

    def config(self, version: str) -> dict[str, Any]:
        """Return the configuration that the control machine is to write."""
        environment = {
            "version": version,
            "torch": TORCH,
            "image": order_image(self.image).model_dump(mode="json"),
            "registry": {"address": self.site.lab.registry.address, "ca": None},
            "deadlines": {"pull": 600, "healthy": 180, "min_healthy": 0},
            "start_interval": True,
        }
        return {
            "schema": "provisioner/self_service/1",
            "lab": self.site.lab.prefix,
            "node": self.node.name,
            "unix_group": UNIX_GROUP,
            "show_names": True,
            "pool": self.gpus(),
            "ports": {"first": 24000, "last": 24999},
            "subnets": ["10.213.0.0/16"],
            "homes": "/srv/provisioner/homes",
            "binds": {"ssh": self.node.address, "jupyter": "127.0.0.1"},
            "term_ends": None,
            "groups": {
                "short": a_group("lab-short", hours=0.02, grace_minutes=0.2),
                "idle": a_group("lab-idle", idle_hours=0.02),
                "student": a_group(None),
            },
            "environments": {"default": environment},
        }

    def gpus(self) -> list[str]:
        listed = self.node.exec("nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader")
        return listed.split()

    def start(self) -> None:
        """Start the broker and wait until it has looked at the node."""
        words = f"exec setsid --fork env -i PATH=$PATH python3 -I {PROGRAM}/broker.py {STATE_ROOT} {SOCKET}"
        self.node.exec("sh", "-c", f"{words} </dev/null >>/var/log/broker.log 2>&1")
        until(self._has_looked)

    def _has_looked(self) -> bool:
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
        return self.node.exec("sh", "-c", f"pgrep -fo '^python3 -I {PROGRAM}/broker.py' || true")

    def audit(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.node.exec("cat", f"{FOLDER}/audit.jsonl").splitlines()]


def a_group(unix: str | None, **over: Any) -> dict[str, Any]:
    usual = {"unix": unix, "gpus": 2, "hours": 24, "idle_hours": 0, "grace_minutes": 10, "environments": ["default"]}
    return {**usual, "limits": LIMITS, "disk": None, **over}


def until(is_so: Callable[[], bool], seconds: float = WAIT_S) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.3)


@contextmanager
def running_self_service(engine: Engine, program: Path) -> Iterator[SelfService]:
    """Start a node with two cards, lock a lab image with JupyterLab, add accounts, and start a broker."""
    with running_site(engine, program, [PROFILE], rollout=QUICK) as site:
        node, keys = site.lab.node("node1"), site.lab.folder / "keys"
        locked = site.command.run("lock", str(site.folder), "--torch", TORCH)
        assert locked.returncode == 0, locked.stderr
        lock = read_lock(site.folder / "lab.lock")
        assert lock
        (image,) = lock.images
        keys.mkdir()
        for person in PEOPLE:
            make_key(keys / person)
        add_accounts(node)
        made = SelfService(site, node, image, keys)
        write_program(node)
        made.publish(a_document(made))
        made.start()
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


def write_program(node: Node) -> None:
    """Let the Python of the node write the program from the sources of this checkout."""
    with TemporaryDirectory() as name:
        utils = Path(name, "source/ansible/module_utils")
        shutil.copytree(resources.playbooks() / "module_utils/provisioner", utils / "provisioner")
        for package in (utils, utils.parent):
            (package / "__init__.py").touch()
        (utils / "pynvml.py").write_text(pynvml_part())
        node.engine.docker("cp", f"{name}/source", f"{node.container}:{SOURCE}")
    node.exec("mkdir", "-p", FOLDER)
    node.exec("python3", "-I", "-c", WRITE_PROGRAM)


def a_document(made: SelfService, more: str = "") -> SeatDocument:
    """Return the document of self-service seats; `more` is added to a file of it, which makes another version."""
    seat = Seat(
        name=made.seat_name("anna"),
        lab=made.site.lab.prefix,
        node=made.node.name,
        person="anna",
        user="anna",
        uid=PEOPLE["anna"],
        gid=PEOPLE["anna"],
        home="/srv/provisioner/homes/anna",
        gpus=(),
        gpu_driver="nvidia",
        ports={"ssh": 24000, "jupyter": 24001},
        binds={"ssh": made.node.address, "jupyter": "127.0.0.1"},
        subnet="10.213.0.0/28",
    )
    templates = {path.name: path.read_text() for path in resources.templates().iterdir() if path.is_file()}
    document = Documents(templates).bundle(seat, made.image).document
    compose, notice = document.files["compose.yaml"], document.files["notice.sh"]
    # The engine starts no leased seat by itself.
    stays = tuple(part.replace('restart: "unless-stopped"', 'restart: "no"') for part in compose)
    changed = {"compose.yaml": stays, "notice.sh": (*notice[:-1], notice[-1] + more)}
    return document.model_copy(update={"files": document.files | changed})


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
