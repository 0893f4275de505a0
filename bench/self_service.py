"""Measure a request to the broker until JupyterLab answers, compared with `docker compose up` of the same file by hand.

    python -m bench.self_service [MINUTES]

Then it measures for so many minutes (5) what the broker uses while seats run and no request comes. Needs root: the node
is a container of the test bed with an engine of its own. The output of one run is in bench/self_service.md.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import NamedTuple

from tests.journeys.self_service import ONE_GROUP, PEOPLE, SOCKET, UNIX_GROUP, SelfService, running_self_service, until
from tests.lab.demo import PROGRAM
from tests.lab.steps import setup

REPETITIONS = 5
MINUTES = 5
PERSON, ROOM_MATES = "anna", ("bob", "dora")  # the others have seats without a GPU

# Both print seconds from their beginning until Jupyter answers: to refuse a request without a token is an answer, too.
ANSWERS = """\
import json, os, socket, subprocess, sys, time, urllib.error, urllib.request
def wait(url):
    while True:
        try:
            urllib.request.urlopen(url, timeout=5)
        except urllib.error.HTTPError:
            return time.monotonic() - begun
        except OSError:
            time.sleep(0.02)
"""
# Root asks whether the seat runs: it is not limited in how often it may ask.
ASK = """\
path, uid, gid = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
def ask(uid, **words):
    os.seteuid(uid)
    with socket.socket(socket.AF_UNIX) as link:
        link.connect(path)
        os.seteuid(0)
        request = {"v": 1, "id": "0c7a9b2e-1f64-4c43-9a55-6f2f0a6f8f10", **words}
        link.sendall(json.dumps(request).encode() + b"\\n")
        return json.loads(link.makefile("rb").readline())
os.setgroups([gid])
begun = time.monotonic()
url = ask(uid, verb="up", gpus=1)["seat"]["jupyter"]
answered = wait(url.replace("/lab", "/api/status"))
while ask(0, verb="status")["leases"]["jobs"]:
    time.sleep(0.2)
print(json.dumps([answered, time.monotonic() - begun]))
"""
BY_HAND = """\
file, name, url = sys.argv[1:]
begun = time.monotonic()
argv = ["docker", "compose", "-f", file, "-p", name, "up", "-d"]
subprocess.run(argv, check=True, capture_output=True)
print(json.dumps([wait(url)]))
"""


class Times(NamedTuple):
    """Seconds until Jupyter answers, by the broker and by hand. `verified`: until the broker says that it runs."""

    answered: list[float]
    verified: list[float]
    by_hand: list[float]


def main(minutes: float = MINUTES) -> None:
    """Print both tables."""
    with running_self_service(setup(), PROGRAM, groups=ONE_GROUP) as node:
        node.up(PERSON, gpus=1)  # pulls the image, and fills the caches of the machine
        print(f"## From `up` to an answering JupyterLab: seconds, median of {REPETITIONS}\n")
        print("| | broker | by hand | ratio | above | all by the broker | all by hand | verified |")
        print("|:--|--:|--:|--:|--:|:--|:--|--:|")
        _print_row("new containers", _measure(node, _remove, _remove_by_hand))
        node.kill()  # which forgets how often anna has asked
        node.start()
        _print_row("a seat that was stopped", _measure(node, lambda _: None, _stop_by_hand))
        print(f"\nLoad of the machine in the end: {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors\n")
        _measure_idle(node, minutes)


def _measure(
    node: SelfService, before_up: Callable[[SelfService], None], end_by_hand: Callable[[SelfService], None]
) -> Times:
    """Start the seat by the broker and by hand in turns."""
    times = Times([], [], [])
    for _ in range(REPETITIONS):
        _stop(node)
        before_up(node)
        gid = node.node.exec("getent", "group", UNIX_GROUP).split(":")[2]
        program = ("python3", "-I", "-c", ANSWERS + ASK)
        answered, verified = json.loads(node.node.exec(*program, SOCKET, str(PEOPLE[PERSON]), gid))
        times.answered.append(answered)
        times.verified.append(verified)
        _stop(node)
        end_by_hand(node)
        folder = f"{node.seat_folder(PERSON)}/current"
        port = json.loads(node.node.exec("cat", f"{folder}/order.json"))["seat"]["ports"]["jupyter"]
        file, url = (
            node.node.exec("realpath", f"{folder}/compose.yaml"),
            f"http://{node.node.address}:{port}/api/status",
        )
        program = ("python3", "-I", "-c", ANSWERS + BY_HAND)
        times.by_hand.extend(json.loads(node.node.exec(*program, file, node.seat_name(PERSON), url)))
        end_by_hand(node)
    return times


def _stop(node: SelfService) -> None:
    node.ask(PERSON, "down")
    node.settled(PERSON)
    until(lambda: not node.containers(PERSON))


def _remove(node: SelfService) -> None:
    """Remove the stopped seat, so that the next one is the first of its person."""
    _remove_by_hand(node)
    node.node.exec("rm", "-rf", node.seat_folder(PERSON))


def _remove_by_hand(node: SelfService) -> None:
    node.node.exec("docker", "compose", "-p", node.seat_name(PERSON), "down")
    node.node.exec("rm", "-rf", f"/srv/provisioner/homes/{PERSON}/.local", f"/srv/provisioner/homes/{PERSON}/.jupyter")


def _stop_by_hand(node: SelfService) -> None:
    node.node.exec("docker", "compose", "-p", node.seat_name(PERSON), "stop")


def _print_row(name: str, times: Times) -> None:
    ours, theirs, verified = (median(seconds) for seconds in (times.answered, times.by_hand, times.verified))
    row = f"| {name} | {ours:.2f} | {theirs:.2f} | {ours / theirs:.2f} | {ours - theirs:.2f} |"
    print(f"{row} {_list(times.answered)} | {_list(times.by_hand)} | {verified:.2f} |", flush=True)


def _list(seconds: Sequence[float]) -> str:
    return ", ".join(f"{each:.1f}" for each in sorted(seconds))


def _measure_idle(node: SelfService, minutes: float) -> None:
    """Print what the broker and the processes that it starts use while no request comes."""
    node.up(PERSON, gpus=1)
    for person in ROOM_MATES:
        node.up(person, gpus=0)
    pid = node.pid()
    before, begun = _processor_seconds(node, pid), time.monotonic()
    time.sleep(minutes * 60)
    used, seconds = _processor_seconds(node, pid) - before, time.monotonic() - begun
    kilobytes = node.node.exec("sh", "-c", f"grep -w VmRSS /proc/{pid}/status").split()[1]
    seats = 1 + len(ROOM_MATES)
    print(f"## The broker while no request comes, with {seats} seats that run, over {minutes:g} minutes\n")
    print("| processor seconds | share of a core | memory (RSS) |\n|--:|--:|--:|")
    print(f"| {used:.2f} | {used / seconds:.2%} | {int(kilobytes) / 1024:.1f} MiB |\n", flush=True)


def _processor_seconds(node: SelfService, pid: str) -> float:
    """Return the processor time of a process and of its children that have ended."""
    fields = node.node.exec("cat", f"/proc/{pid}/stat").rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main(*map(float, sys.argv[1:]))
