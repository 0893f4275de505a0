"""GPU tools in a seat, as the student: they see the seat's card and no other, by CDI and by NVIDIA's legacy hook."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.journeys.conftest import QUICK, Site, running_site
from tests.lab.bed import make_key
from tests.lab.demo import ssh_command
from tests.lab.engine import Engine
from tests.lab.gpus import profile_text

pytestmark = [pytest.mark.lab, pytest.mark.long("course")]

# The second card of each node holds memory, so that the two are told apart where no UUID is shown.
CARDS = profile_text("rtx5090x2-580").replace("bus = 00000000:41:00.0", "bus = 00000000:41:00.0\nused_mib = 512")
MODES = {"node1": "cdi", "node2": "legacy"}
PEOPLE = {"ann": "node1", "bob": "node2", "cem": "node1", "dan": "node2"}
TORCH = """
import torch
assert torch.cuda.is_available()
assert (torch.rand(2, 2).to("cuda:0") @ torch.rand(2, 2).to("cuda:0")).cpu().tolist()
print(torch.cuda.device_count(), torch.cuda.get_device_name(0), sep="\\n")
"""


@pytest.fixture(scope="module")
def site(testbed: Engine, program: Path) -> Iterator[Site]:
    """Two nodes with two cards each, and two people on each of them with one card each."""
    settings: dict[str, Any] = {
        "image": {"torch": "2.10.0", "tools": False},
        "people": {"roster": "roster.csv"},
        "groups": {"student": {"gpus": 1, "memory": "1g", "cpus": 1, "shm": "64m"}},
        "rollout": QUICK | {"waves": ["100%"]},
    }
    with running_site(testbed, program, [f"cdi = 1\n{CARDS}", CARDS], **settings) as site:
        (site.folder / "keys").mkdir()
        for person in PEOPLE:
            make_key(site.folder / "keys" / person)
        rows = [
            f"{person},{70001 + uid},{node},1,keys/{person}.pub" for uid, (person, node) in enumerate(PEOPLE.items())
        ]
        (site.folder / "roster.csv").write_text("\n".join(["id,uid,node,gpus,key", *rows, ""]))
        done = site.roll_out()
        assert done.code == 0, done.output
        yield site


@pytest.fixture(scope="module")
def seats(site: Site) -> dict[str, dict[str, Any]]:
    return {seat["person"]: seat for seat in site.run_json("status").document["seats"]}


@pytest.fixture(params=PEOPLE)
def seat(request: pytest.FixtureRequest, seats: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return seats[request.param]


def inside(site: Site, seat: dict[str, Any], command: str) -> str:
    """Run a command as the student, by SSH; return its output. What it prints beside that is an error."""
    key = site.folder / "keys" / seat["person"]
    ssh = ssh_command(seat["access"]["ssh"], seat["access"]["host_key"], key, site.lab.folder)
    done = subprocess.run([*ssh, command], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return done.stdout


def test_one_node_uses_cdi_and_the_other_the_hook(site: Site) -> None:
    facts = site.run_json("probe").document["nodes"]
    assert {node["name"]: node["toolkit_mode"] for node in facts} == MODES


def test_the_people_of_a_node_have_different_cards(seats: dict[str, dict[str, Any]]) -> None:
    assert len({uuid for seat in seats.values() for uuid in seat["gpus"]}) == len(PEOPLE)


def test_nvidia_smi_lists_the_card_of_the_seat(site: Site, seat: dict[str, Any]) -> None:
    listed = re.findall("GPU-[0-9a-f-]{36}", inside(site, seat, "nvidia-smi -L"))
    assert listed == seat["gpus"]


def test_nvitop_shows_the_card_of_the_seat_with_its_memory(site: Site, seat: dict[str, Any]) -> None:
    (uuid,) = seat["gpus"]
    query = "nvidia-smi --query-gpu=uuid,memory.used --format=csv,noheader,nounits"
    used = dict(line.split(", ") for line in site.lab.node(seat["node"]).exec("sh", "-c", query).splitlines())[uuid]
    shown = inside(site, seat, "TERM=xterm nvitop --once --ascii")
    assert shown.count("RTX 5090") == 1, shown
    assert re.findall(r"(\S+) / 31.84GiB", shown) == [{"0": "0B", "512": "512.0MiB"}[used]], shown


def test_torch_computes_on_the_card_of_the_seat_and_counts_no_other(site: Site, seat: dict[str, Any]) -> None:
    assert inside(site, seat, f"python -c '{TORCH}'").splitlines() == ["1", "NVIDIA GeForce RTX 5090"]
