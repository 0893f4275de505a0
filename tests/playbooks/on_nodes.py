"""Seats on real nodes: small images, and orders for them as a rollout builds them."""

import json
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from provisioner.adapters import resources
from provisioner.adapters.ansible.fleet import AnsibleFleet
from provisioner.adapters.ansible.settings import Settings
from provisioner.domain.lab.lab import Lab as LabSettings
from provisioner.domain.lab.lock import LockedImage
from provisioner.domain.rollout.order import AssignOrder, Order, RemovalOrder, RollbackOrder, SeatName, build_order
from provisioner.domain.rollout.report import NodeRecord
from provisioner.domain.seat.seat import Seat, lab_owner, seat_of
from provisioner.domain.seat.slotted import Documents
from provisioner.domain.values.event import Event
from provisioner.domain.values.node import NodeFacts, RunningSeat
from tests.lab import images, seeds
from tests.lab.bed import Lab
from tests.lab.engine import Engine
from tests.lab.host import locked
from tests.lab.images import Recipe
from tests.lab.node import Node
from tests.lab.trees import PYTHON
from tests.playbooks.direct_fleet import DirectFleet

HERE = Path(__file__).parent
REPOSITORY = "provisioner/lab"
SEAT = "demo-student"
FOLDER = f"/var/lib/provisioner/seats/{SEAT}"


# Tag of a seat image -> its fault; see the Dockerfile.
BROKEN = {"1": "", "2": "", "3": "", "4": "ssh", "5": "jupyter", "6": "exits", "7": "flaps", "8": "big"}


def seat_recipe(tag: str) -> Recipe:
    arguments = {"GENERATION": tag, "BREAK": BROKEN.get(tag, "")}
    return Recipe(f"lab/seat:{tag}", str(HERE / "image"), f"lab/tree-{PYTHON.name}", args=arguments)


def push_seat_images(lab: Lab) -> dict[str, LockedImage]:
    """Put the seat images of BROKEN into the lab's registry; return them by tag."""
    recipes = {tag: seat_recipe(tag) for tag in BROKEN}
    build(lab.engine, recipes.values())

    def push() -> None:
        for tag, recipe in recipes.items():
            lab.registry.push(recipe.name, f"{REPOSITORY}:{tag}")

    seeds.fill(lab.registry, "seats", [recipe.name for recipe in recipes.values()], push)
    return {tag: locked_image(lab, tag, recipe.name) for tag, recipe in recipes.items()}


def build(engine: Engine, recipes: Iterable[Recipe]) -> None:
    with locked("setup"):  # the lock of all image builds of the bed
        images.build(engine, recipes)


def locked_image(lab: Lab, tag: str, name: str) -> LockedImage:
    digest = lab.registry.digest(f"{REPOSITORY}:{tag}")
    manifest = json.loads(lab.registry.blob(digest).read_text())
    return LockedImage(
        reference=f"mirror.lab/pytorch:{tag}",
        base=f"mirror.lab/pytorch@{digest}",
        lab=f"{lab.registry.address}/{REPOSITORY}@{digest}",
        platform="linux/amd64",
        rootfs=tuple(json.loads(lab.engine.docker("image", "inspect", name))[0]["RootFS"]["Layers"]),
        bytes=sum(layer["size"] for layer in manifest["layers"]),
    )


def push_base(lab: Lab, torch: str) -> None:
    """Push a base image of 60 MB that meets the requirements of a seat; its tag names a version of torch.

    Images for two versions share all layers except a tiny one.
    """
    seat = seat_recipe(torch)
    base = Recipe(f"lab/base:{torch}", str(HERE / "base"), seat.name, args={"SEAT": seat.name, "TORCH": torch})
    build(lab.engine, [seat])
    build(lab.engine, [base])
    name = f"pytorch/pytorch:{torch}-cuda12.8-cudnn9-runtime"
    seeds.fill(lab.mirror, f"base-{torch}", [base.name], lambda: lab.mirror.push(base.name, name))


class Images:
    """The seat images; the attribute names the fault of an image.

    `current` is the image that a serving node runs, `other` the one that it is switched to: the first and the second.
    """

    def __init__(self, lab: Lab) -> None:
        pushed = push_seat_images(lab)
        self.first, self.second, self.third = (pushed[tag] for tag in ("1", "2", "3"))
        self.without_ssh, self.open_to_all, self.exits_at_once = (pushed[tag] for tag in ("4", "5", "6"))
        self.flaps, self.big = pushed["7"], pushed["8"]
        self.current, self.other = self.first, self.second

    def is_current(self, reference: str) -> bool:
        """Return whether a node may keep this image for the next test; if so, it becomes `current`."""
        if reference == self.other.lab:
            self.current, self.other = self.other, self.current
        return reference == self.current.lab


@dataclass
class Rollout:
    """Runs the steps of a rollout on one node of a lab and collects its events."""

    lab: Lab
    events: list[Event] = field(default_factory=list)
    node: str = "node1"
    ansible: bool = False  # through Ansible
    mounts: Sequence[Mapping[str, object]] = ()  # as in lab.yml

    @cached_property
    def fleet(self) -> AnsibleFleet:
        if self.ansible:
            return AnsibleFleet(Settings(self.lab.inventory), self.events.append)
        return DirectFleet(self.lab.inventory, self.lab.node(self.node), self.events.append)

    def facts(self) -> NodeFacts:
        facts = self.fleet.probe([self.node])[self.node]
        assert isinstance(facts, NodeFacts), facts
        return facts

    def seat(self) -> RunningSeat:
        """Return the only seat of the node."""
        (seat,) = self.facts().seats
        return seat

    @cached_property
    def _facts_without_seats(self) -> NodeFacts:
        """Facts for orders. Without seats and routes, ports and subnets are always allocated from the first one."""
        return self.facts().model_copy(update={"seats": (), "routes": ()})

    def order(
        self, image: LockedImage, run: str, inside: Mapping[str, Any] = MappingProxyType({}), **over: int
    ) -> Order:
        """Build an order. `inside`: as in lab.yml; `over` replaces settings of the rollout."""
        # Engine 20.10 runs the first health check after 30 s.
        deadline = 75 if self.lab.node(self.node).kind.old else 30
        settings = {"healthy_deadline_seconds": deadline, "min_healthy_seconds": 1} | over
        base = {"name": "demo", "mirror": {"address": "m.lab"}, "registry": {"address": self.lab.registry.address}}
        lab = LabSettings.model_validate(base | {"rollout": settings, "mounts": self.mounts, "inside": inside})
        gpus = tuple(gpu.uuid for gpu in self._facts_without_seats.gpus if gpu.uuid)
        keys = (self.lab.key.with_suffix(".pub").read_text().strip(),)
        facts, host = self._facts_without_seats, self.lab.node(self.node).address
        seat = seat_of(lab, facts, lab_owner(lab, facts, keys), gpus, host=host)
        assert isinstance(seat, Seat), seat
        templates = {path.name: path.read_text() for path in resources.templates().iterdir() if path.is_file()}
        return build_order(Documents(templates).bundle(seat, image), lab, run, ca=None)

    def stage(self, order: Order) -> NodeRecord:
        return self.fleet.stage({self.node: {SEAT: order}})[self.node]

    def wait_for_bytes(self, seconds: float = 60) -> None:
        """Wait for an event with the bytes of a pull."""
        deadline = time.monotonic() + seconds
        while not any(event.unit == "B" for event in self.events):
            assert time.monotonic() < deadline, self.events
            time.sleep(0.1)

    def switch(self, order: Order) -> NodeRecord:
        return self.fleet.switch({self.node: {SEAT: order}})[self.node]

    def set_keys(self, of: Order, *keys: str) -> NodeRecord:
        seat = of.seat.model_copy(update={"authorized_keys": keys})
        order = AssignOrder(run=new_run_id(), seat=seat)
        return self.fleet.switch({self.node: {SEAT: order}})[self.node]

    def roll_out(self, image: LockedImage) -> NodeRecord:
        order = self.order(image, new_run_id())
        record = self.stage(order)
        return self.switch(order) if record.state == "staged" else record

    def roll_back(self, to: int = 0, run: str | None = None) -> NodeRecord:
        order = RollbackOrder(run=run or new_run_id(), seat=SeatName(name=SEAT), to=to)
        return self.fleet.roll_back({self.node: {SEAT: order}})[self.node]

    def take_down(self, act: Literal["remove", "stop"]) -> NodeRecord:
        order = RemovalOrder(run=new_run_id(), act=act, seat=SeatName(name=SEAT))
        return self.fleet.take_down({self.node: {SEAT: order}})[self.node]


def new_run_id() -> str:
    return f"r{secrets.token_hex(4)}"


def journal(node: Node) -> list[str]:
    """Return the states in the seat's journal, oldest first."""
    lines = node.exec("cat", f"{FOLDER}/journal.jsonl").splitlines()
    return [json.loads(line)["state"] for line in lines if line]


def token_of(node: Node) -> str:
    return node.exec("cat", f"{FOLDER}/identity/token")


KILLER = """
import json, os, time
while True:
    try:
        job = json.load(open(JOB))
        if json.loads(open(JOURNAL).read().splitlines()[-1])["state"] == STATE and not job["finished"]:
            os.kill(job["pid"], 9)
            break
    except (OSError, ValueError):
        pass
    time.sleep(0.01)
"""


@contextmanager
def kill_job_in_state(node: Node, run: str, state: str, act: str = "switch") -> Iterator[None]:
    """Kill the job of this run with SIGKILL as soon as its journal has `state`."""
    names = {"JOB": f"{FOLDER}/jobs/{run}.{act}.json", "JOURNAL": f"{FOLDER}/journal.jsonl", "STATE": state}
    script = "".join(f"{name} = {value!r}\n" for name, value in names.items()) + KILLER
    with ThreadPoolExecutor(1) as pool:
        killer = pool.submit(node.exec, "timeout", "60", "python3", "-c", script)
        yield
        killer.result()


REMOVE_ADDRESS = """
import json, subprocess, time
states = lambda: [json.loads(line)["state"] for line in open(JOURNAL).read().splitlines()]
while states()[-1] != "switching":
    time.sleep(0.01)
subprocess.run(["ip", "address", "del", ADDRESS, "dev", "eth0"], check=True)
while states()[-1] != "rolling_back":
    time.sleep(0.01)
time.sleep(3)
subprocess.run(["ip", "address", "add", ADDRESS, "dev", "eth0"], check=True)
"""


@contextmanager
def remove_address_during_switch(node: Node) -> Iterator[None]:
    """Remove the node's address when a switch begins; add it again 3 s after the rollback has begun."""
    address = node.exec("ip", "-o", "-4", "address", "show", "eth0").split()[3]
    script = f"JOURNAL, ADDRESS = {f'{FOLDER}/journal.jsonl'!r}, {address!r}\n{REMOVE_ADDRESS}"
    with ThreadPoolExecutor(1) as pool:
        watcher = pool.submit(node.exec, "timeout", "120", "python3", "-c", script)
        yield
        watcher.result()


WATCHER = """
import json, pathlib, time
token, found, rounds = open(TOKEN).read(), set(), 0
while not pathlib.Path(END).exists():
    for path in [way for name in ("cmdline", "environ") for way in pathlib.Path("/proc").glob("[0-9]*/" + name)]:
        try:
            if token in path.read_text(errors="replace"):
                found.add(path.with_name("comm").read_text())
        except OSError:
            pass
    rounds += 1
    time.sleep(0.1)
print(json.dumps([rounds, sorted(found)]))
"""


@contextmanager
def watch_for_token(node: Node) -> Iterator[set[str]]:
    """Yield a set; at the end it holds the names of processes that had the token in arguments or environment."""
    names, found = {"TOKEN": f"{FOLDER}/identity/token", "END": "/tmp/watched"}, set[str]()
    script = "".join(f"{name} = {value!r}\n" for name, value in names.items()) + WATCHER
    node.exec("rm", "-f", names["END"])
    with ThreadPoolExecutor(1) as pool:
        watcher = pool.submit(node.exec, "timeout", "300", "python3", "-c", script)
        yield found
        node.exec("touch", names["END"])
        rounds, names_found = json.loads(watcher.result())
    assert rounds > 1
    found.update(names_found)
