"""The broker on a node with a real engine: accounts without rights on Docker ask for seats with JupyterLab and SSH.

Each test starts from the state that the one before left.
"""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from provisioner.adapters.lab.lockfile import read_lock, write_lock
from tests.journeys.self_service import (
    CPUS,
    FOLDER,
    MEMORY,
    PEOPLE,
    PIDS,
    SOCKET,
    SelfService,
    login,
    refused,
    running_self_service,
    started_at,
)
from tests.lab.engine import Engine
from tests.lab.host import BedError

pytestmark = pytest.mark.lab

Status = dict[str, Any]


@pytest.fixture(scope="module")
def node(testbed: Engine, program: Path) -> Iterator[SelfService]:
    with running_self_service(testbed, program) as made:
        yield made


@pytest.fixture(scope="module")
def anna(node: SelfService) -> Status:
    """The seat of anna after her first request."""
    return dict(node.up("anna", gpus=1)["seat"])


@pytest.fixture(scope="module")
def bob(node: SelfService, anna: Status) -> Status:
    """The seat of bob, who comes second."""
    assert anna
    return dict(node.up("bob", gpus=1)["seat"])


def test_a_person_without_rights_on_docker_gets_jupyterlab_and_ssh(node: SelfService, anna: Status) -> None:
    with pytest.raises(BedError, match="permission denied"):
        node.as_user("anna", "docker", "ps")
    statuses = [node.jupyter("anna", token) for token in (node.token("anna"), "", "0" * 64)]
    assert statuses == [200, 403, 403]
    inside = login(node, anna, "anna", "id -un; id -u; nvidia-smi -L; python -c 'import jupyterlab'")
    assert inside.returncode == 0, inside.stderr
    user, uid, card = inside.stdout.splitlines()
    assert (user, uid) == ("anna", str(PEOPLE["anna"]))
    assert anna["gpus"] == [gpu for gpu in node.gpus() if gpu in card]


def test_the_containers_have_no_rights_and_exactly_the_leased_card(node: SelfService, anna: Status) -> None:
    for found in node.inspect("anna"):
        host, user = found["HostConfig"], f"{PEOPLE['anna']}:{PEOPLE['anna']}"
        assert (host["Privileged"], host["CapAdd"], host["CapDrop"]) == (False, None, ["ALL"])
        assert (found["Config"]["User"], host["SecurityOpt"]) == (user, ["no-new-privileges:true"])
        assert (host["Memory"], host["NanoCpus"], host["PidsLimit"]) == (MEMORY, round(CPUS * 1e9), PIDS)
        assert host["MemorySwap"] == MEMORY
        modes = [host[mode] for mode in ("NetworkMode", "PidMode", "IpcMode", "UTSMode", "UsernsMode")]
        assert modes == [f"{anna['name']}_seat", "", "private", "", ""]
        assert (host["Devices"] or [], host["RestartPolicy"]["Name"]) == ([], "no")
        (request,) = host["DeviceRequests"]
        assert request["Driver"] == "cdi"
        assert request["DeviceIDs"] == [f"nvidia.com/gpu={uuid}" for uuid in anna["gpus"]]
        writable = {mount["Destination"] for mount in found["Mounts"] if mount["RW"]}
        assert writable == {"/home/anna"}
        assert not [mount for mount in found["Mounts"] if "docker" in mount["Source"] + mount["Destination"]]


def test_another_key_is_added_while_the_seat_runs(node: SelfService, anna: Status) -> None:
    before = started_at(node, "anna")
    assert login(node, anna, "dora", "true").returncode == 255
    answer = node.ask("anna", "up", gpus=1, keys=[node.public_key("dora")])
    assert answer["ok"], answer
    assert node.settled("anna")["ended"]["state"] == "committed"
    assert [login(node, anna, key, "true").returncode for key in ("dora", "anna")] == [0, 0]
    assert started_at(node, "anna") == before


def test_the_second_one_gets_the_other_card_and_reaches_nothing_of_the_first(
    node: SelfService, anna: Status, bob: Status
) -> None:
    assert {*anna["gpus"], *bob["gpus"]} == set(node.gpus())
    assert login(node, anna, "bob", "true").returncode == 255
    assert node.jupyter("anna", node.token("bob"), by="bob") == 403
    home, token = "/srv/provisioner/homes/anna", f"{node.seat_folder('anna')}/identity/token"
    for path in (home, f"{home}/.jupyter", token, f"{FOLDER}/leases.json", f"{FOLDER}/audit.jsonl"):
        with pytest.raises(BedError, match="Permission denied"):
            node.as_user("bob", "cat", path)
    shown = json.dumps(node.ask("bob", "status"))
    assert bob["name"] in shown
    assert "anna" not in shown


def test_who_is_not_in_the_group_reaches_no_broker(node: SelfService, anna: Status) -> None:
    assert anna
    with pytest.raises(BedError, match="PermissionError"):
        node.ask("carl", "status")
    with pytest.raises(BedError, match="Permission denied"):
        node.as_user("bob", "rm", "-f", SOCKET)


@pytest.mark.parametrize("service", ["jupyter", "ssh"])
def test_logs_have_no_token(node: SelfService, anna: Status, service: str) -> None:
    assert anna
    answer = node.ask("anna", "logs", service=service, lines=200)
    assert answer["ok"], answer
    assert answer["text"]
    assert node.token("anna") not in json.dumps(answer)


def test_the_third_one_waits_and_is_offered_the_card_that_is_given_back(node: SelfService, bob: Status) -> None:
    none_free = node.ask("dora", "up", gpus=1)["problem"]
    assert none_free["code"] == "no_free_gpu"
    assert {"anna", "bob"} <= set(none_free["what"].replace(",", " ").replace("(", " ").split()), none_free
    waits = node.ask("dora", "up", gpus=1, wait_s=600, keys=[node.public_key("dora")])
    assert (waits["state"], waits["position"]) == ("waiting", 1)
    assert refused(node, "anna", "renew", hours=24) == "somebody_waits"
    assert node.ask("bob", "down")["ok"]
    assert node.settled("bob")["state"] == "stopped"
    assert node.ask("dora", "status")["state"] == "offered"
    assert refused(node, "bob", "up", gpus=1) == "no_free_gpu"
    assert node.up("dora", gpus=1)["seat"]["gpus"] == bob["gpus"]


def test_from_another_computer_one_command_gives_a_seat_that_ssh_knows_by_name(
    node: SelfService, tmp_path: Path
) -> None:
    """ssh finds its files by the account and not by HOME: the folder takes the place of the own one for the command."""
    at = f"emil@{node.node.address}"
    add_login(node, "emil")
    shutil.copy(node.keys / "emil", tmp_path / "id_ed25519")
    shutil.copy(node.keys / "emil.pub", tmp_path / "id_ed25519.pub")
    (tmp_path / "config").write_text("Host *\n  StrictHostKeyChecking accept-new\n")

    def run(*words: str) -> str:
        mount = 'mkdir -p ~/.ssh && mount --bind "$0" ~/.ssh && exec "$@"'
        command = ["unshare", "--mount", "sh", "-c", mount, str(tmp_path), *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    program = str(node.site.command.program)
    shown = run(program, "me", "--on", at, "--gpus", "0", "--yes")
    (entry,) = (tmp_path / "config.d").iterdir()
    alias = entry.name.removeprefix("provisioner-").removesuffix(".conf")
    assert f"ssh {alias}" in shown
    assert run("ssh", alias, "id -un") == "emil\n"
    assert run("ssh", alias, "provision-url").startswith(f"http://{node.node.address}:")
    assert "running" in run(program, "me", "status", "--on", at)
    assert "is stopped" in run(program, "me", "down", "--on", at)


def test_a_second_environment_is_published_used_withdrawn_and_rolled_back(node: SelfService, anna: Status) -> None:
    assert anna
    with_environments(node, "nlp")
    done = node.site.roll_out()
    assert done.code == 0, done.output
    assert "environment nlp none -> " in done.output
    listed = node.ask("anna", "environments")
    assert ([one["name"] for one in listed["environments"]], listed["used"]) == (["default", "nlp"], "default")
    assert [one["name"] for one in node.ask("emil", "environments")["environments"]] == ["default"]
    assert refused(node, "emil", "up", environment="nlp") == "no_such_environment"
    before = node.containers("anna")
    assert refused(node, "anna", "up", environment="nlp") == "other_environment"
    seat = node.up("anna", environment="nlp", switch=True)["seat"]
    assert (seat["environment"], seat["ssh"]["port"]) == ("nlp", anna["ssh"]["port"])
    assert not {*before.values()} & {*node.containers("anna").values()}
    with_environments(node)
    started = started_at(node, "anna")
    done = node.site.roll_out()
    assert (done.code, "-> none" in done.output) == (0, True), done.output
    assert node.up("anna")["seat"]["environment"] == "nlp"
    assert refused(node, "anna", "upgrade", now=True) == "no_such_environment"
    assert started_at(node, "anna") == started
    back = node.site.run_json("rollback", "--yes")
    assert back.code == 0, back.output
    assert node.ask("anna", "environments")["environments"] == listed["environments"]
    assert started_at(node, "anna") == started


def with_environments(node: SelfService, *names: str) -> None:
    """Let lab.yml and lab.lock have these environments, with the images of default, for the group of students."""
    path = node.site.folder / "lab.yml"
    lab = yaml.safe_load(path.read_text())
    lab["environments"] = {name: {} for name in names}
    lab["groups"]["student"]["environments"] = ["default", *names]
    path.write_text(yaml.safe_dump(lab, sort_keys=False))
    lock = read_lock(node.site.folder / "lab.lock")
    assert lock is not None
    write_lock(
        node.site.folder / "lab.lock", lock.model_copy(update={"environments": dict.fromkeys(names, lock.default)})
    )


def add_login(node: SelfService, person: str) -> None:
    """Let a person log in to the node with their key."""
    home = f"/home/{person}"
    lines = [
        f"usermod --shell /bin/sh --home {home} {person}",
        f"install -d -o {person} -g {person} -m 700 {home} {home}/.ssh",
        f"cat >{home}/.ssh/authorized_keys",
    ]
    node.node.exec("sh", "-ec", "\n".join(lines), stdin=f"{node.public_key(person)}\n")
