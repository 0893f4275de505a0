"""Two environments on three nodes: `default`, and a course's with packages by apt and pip; kept, rolled back, removed.

Each test starts from the state that the one before left.
"""

import json
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml

from tests.journeys.conftest import QUICK, CommandResult, Site, running_site
from tests.lab.bed import make_key
from tests.lab.demo import http_status, ssh_command
from tests.lab.engine import Engine
from tests.made_wheel import a_wheel

pytestmark = [pytest.mark.lab, pytest.mark.long("course")]

PROFILE = "rtx4090-570"
TODAY, COURSE = "2.8.0", "2.10.0"  # torch of `default` and of the course
APT = ("jq", "tree", "bc")
PIP = ("six", "toolz", "tqdm", "einops", "tabulate", "wcwidth", "termcolor", "humanize", "sortedcontainers", "labmate")
REQUIREMENTS = "environments/nlp/requirements.txt"
DATA = "/srv/data"
# id, uid, node, environment
ROWS = {"ann": ("70001", "node1", "default"), "bob": ("70002", "node2", "nlp"), "eve": ("70003", "node3", "nlp")}
Seats = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def site(testbed: Engine, program: Path) -> Iterator[Site]:
    settings: dict[str, Any] = {
        "image": {"torch": TODAY, "tools": False},
        "environments": {"nlp": {"torch": f"=={COURSE}", "tools": True, "apt": list(APT), "pip": REQUIREMENTS}},
        "inside": {
            "pip_index": "http://mirror.lab.invalid/simple",
            "timezone": "Asia/Shanghai",
            "env": {"TERM_OF": "2026"},
        },
        "mounts": [{"source": DATA, "target": "/data"}],
        "services": {"jupyter": {"bind": "lan"}, "ssh": {"bind": "lan"}, "extra": {"tensorboard": 6006}},
        "people": {"roster": "roster.csv"},
        "groups": {"student": {"environments": ["default", "nlp"], "memory": "1g", "cpus": 1, "shm": "64m"}},
        "rollout": QUICK | {"waves": ["100%"]},
    }
    with running_site(testbed, program, [PROFILE] * 3, **settings) as site, serving_index(site) as address:
        set_keys(site, "inside", pip_index=f"http://{address}/simple")
        (site.folder / "keys").mkdir()
        for person in ("ann", "bob", "eve", "old"):
            make_key(site.folder / "keys" / person)
        for node in site.lab.nodes:
            node.exec("sh", "-c", f"mkdir -p {DATA} && echo digits >{DATA}/mnist.txt")
        wheels = site.folder / "environments/nlp/wheels"
        wheels.mkdir(parents=True)
        a_wheel(wheels, "labmate", "1.0")
        a_wheel(wheels, "olddetect", "0.3", needs=["torch<2"])
        write_roster(site, ROWS)
        write_requirements(site, *PIP)
        git(site, "init", "-q")
        yield site


@contextmanager
def serving_index(site: Site) -> Iterator[str]:
    """Serve a package index with the packages `seattool` and `pip` to the nodes; yield its address."""
    folder = site.lab.folder / "index"
    for name in ("seattool", "pip"):
        (folder / "simple" / name).mkdir(parents=True)
        wheel = a_wheel(folder / "simple" / name, name, "1.0")
        (folder / "simple" / name / "index.html").write_text(f'<!DOCTYPE html><a href="{wheel.name}">{wheel.name}</a>')
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer((site.lab.gateway, 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"{site.lab.gateway}:{server.server_port}"
        server.shutdown()


def set_keys(site: Site, section: str, **values: str) -> None:
    """Set keys in a section of lab.yml."""
    settings = yaml.safe_load((site.folder / "lab.yml").read_text())
    settings[section] |= values
    (site.folder / "lab.yml").write_text(yaml.safe_dump(settings, sort_keys=False))


def write_roster(site: Site, rows: Mapping[str, tuple[str, str, str]]) -> None:
    lines = [f"{person},{','.join(row)},keys/{person}.pub" for person, row in rows.items()]
    (site.folder / "roster.csv").write_text("\n".join(["id,uid,node,environment,key", *lines, ""]))


def write_requirements(site: Site, *names: str, comment: str = "of the course") -> None:
    (site.folder / REQUIREMENTS).write_text("\n".join([f"# {comment}", *names, ""]))


def git(site: Site, *words: str) -> str:
    who = ("-c", "user.name=admin", "-c", "user.email=admin@example.edu")
    return subprocess.run(
        ["git", "-C", str(site.folder), *who, *words], capture_output=True, text=True, check=True
    ).stdout


def lock_of(site: Site) -> dict[str, Any]:
    return dict(json.loads((site.folder / "lab.lock").read_text()))


def seats(site: Site) -> Seats:
    """Person -> seat as `status --urls` shows it, with its `url`."""
    document = site.run_json("status", "--urls").document
    return {seat["person"]: seat | {"url": document["urls"].get(seat["person"])} for seat in document["seats"]}


def inside(site: Site, person: str, command: str) -> str:
    """Run a command in the seat of a person, by SSH with their key."""
    seat = seats(site)[person]
    ssh = ssh_command(seat["access"]["ssh"], seat["access"]["host_key"], site.folder / "keys" / person, site.lab.folder)
    done = subprocess.run([*ssh, command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def torch_of(site: Site, person: str) -> str:
    return inside(site, person, "python -c 'import torch; print(torch.__version__)'").strip()


def codes(result: CommandResult) -> list[str]:
    return [problem["code"] for problem in result.document["problems"]]


def test_a_package_that_wants_another_torch_is_refused_with_both_names(site: Site) -> None:
    write_requirements(site, *PIP, "olddetect")
    result = site.run_json("lock")
    assert (result.code, codes(result)) == (1, ["torch_conflict"]), result.output
    text = json.dumps(result.document["problems"])
    assert "olddetect" in text
    assert f"torch=={COURSE}" in text.replace(" ", "")
    assert not (site.folder / "lab.lock").exists()
    assert not (site.folder / "environments/nlp/requirements.lock").exists()
    write_requirements(site, *PIP)


@pytest.fixture(scope="module")
def rolled_out(site: Site) -> CommandResult:
    result = site.roll_out()
    assert result.code == 0, result.output
    git(site, "add", "-A", ":!keys", ":!*.whl")
    git(site, "commit", "-qm", "The lab")
    return result


def test_a_rollout_gives_each_person_their_environment(site: Site, rolled_out: CommandResult) -> None:
    assert rolled_out.document["nodes"]
    assert {person: torch_of(site, person) for person in ROWS} == {"ann": TODAY, "bob": COURSE, "eve": COURSE}
    packages = [f"'import {name}'" for name in ("six", "toolz", "labmate")]
    for person in ("bob", "eve"):
        inside(
            site, person, " && ".join([f"which {name}" for name in APT] + [f"python -c {each}" for each in packages])
        )
    image = lock_of(site)["environments"]["nlp"]["images"][0]
    assert set(image["packages"]) == set(APT)
    text = (site.folder / "environments/nlp/requirements.lock").read_text()
    assert {line.partition("==")[0] for line in text.splitlines() if "==" in line and line[0].isalpha()} >= set(PIP)


def test_a_seat_has_what_students_expect(site: Site, rolled_out: CommandResult) -> None:
    assert rolled_out
    words = ["git", "tmux", "vim", "nano", "less", "htop", "curl", "wget", "rsync", "unzip", "ps", "ssh", "nvitop"]
    inside(site, "bob", " && ".join(f"command -v {word}" for word in words))
    assert "WenQuanYi" in inside(site, "bob", "ls /usr/share/fonts/truetype/wqy; fc-list 2>/dev/null || echo WenQuanYi")
    assert "zh_CN.utf8" in inside(site, "bob", "locale -a")
    assert inside(site, "bob", "cat /data/mnist.txt; touch /data/x 2>/dev/null || echo refused").split() == [
        "digits",
        "refused",
    ]
    assert inside(site, "bob", "date +%Z; echo $TERM_OF").split() == ["CST", "2026"]


def test_pip_in_a_seat_asks_the_index_of_the_lab(site: Site, rolled_out: CommandResult) -> None:
    assert not [code for code in codes_of_seats(rolled_out) if code.startswith("index_")]
    inside(site, "bob", "pip install -q --user seattool && python -c 'import seattool'")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def codes_of_seats(result: CommandResult) -> list[str]:
    seats = (seat for record in result.document["nodes"] for seat in record["seats"])
    return [problem["code"] for seat in seats for problem in seat["problems"]]


def test_an_editor_copies_its_server_and_reaches_it_through_the_line(site: Site, rolled_out: CommandResult) -> None:
    """As editors with a remote side do: a copy, a program that goes on, a forwarded port."""
    assert rolled_out
    seat = seats(site)["bob"]
    ssh = ssh_command(seat["access"]["ssh"], seat["access"]["host_key"], site.folder / "keys/bob", site.lab.folder)
    server = site.lab.folder / "server.py"
    server.write_text(
        "from http.server import *; HTTPServer(('127.0.0.1', 45678), SimpleHTTPRequestHandler).serve_forever()\n"
    )
    *options, target = [str(word) for word in ssh]
    copy = ["scp", *("-P" if word == "-p" else word for word in options[1:]), str(server), f"{target}:server.py"]
    subprocess.run(copy, check=True, capture_output=True, timeout=60)
    inside(site, "bob", "setsid python server.py </dev/null >/dev/null 2>&1 & sleep 1")
    port = free_port()
    with subprocess.Popen([*options, "-N", "-L", f"127.0.0.1:{port}:127.0.0.1:45678", target]) as line:
        time.sleep(2)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/server.py", timeout=10) as answer:
            assert answer.read() == server.read_bytes()
        line.terminate()


def test_a_terminal_goes_on_after_a_lost_line(site: Site, rolled_out: CommandResult) -> None:
    assert rolled_out
    inside(site, "bob", "tmux new-session -d -s work 'sleep 600' && sleep 1")
    assert "work" in inside(site, "bob", "tmux list-sessions")


def test_a_seat_pushes_and_pulls_and_copies(site: Site, rolled_out: CommandResult) -> None:
    assert rolled_out
    script = """
    set -e; cd; rm -rf r.git w c; git init -q --bare r.git; git daemon --base-path=$HOME --export-all --reuseaddr \
      --listen=127.0.0.1 --enable=receive-pack --detach --pid-file=$HOME/git.pid $HOME/r.git
    sleep 1; git clone -q git://127.0.0.1/r.git w 2>/dev/null; cd w
    git -c user.name=b -c user.email=b@example.edu commit -q --allow-empty -m one; git push -q origin HEAD:main
    cd; git clone -q -b main git://127.0.0.1/r.git c; git -C c log --format=%s; kill $(cat git.pid)
    mkdir -p from && echo text >from/a && rsync -a from/ to/ && cat to/a
    """
    assert inside(site, "bob", script).split() == ["one", "text"]


def test_jupyter_shows_an_extra_port_and_needs_the_token_for_it(site: Site, rolled_out: CommandResult) -> None:
    assert rolled_out
    seat = seats(site)["bob"]
    page, _, token = seat["url"].partition("/lab?token=")
    container = f"{seat['seat']}-jupyter-1"
    assert http_status(f"{page}/tensorboard/", token) == 503, "nothing listens yet"
    serve = "cd /tmp && exec python3 -m http.server --bind 127.0.0.1 6006 >/dev/null 2>&1"
    site.lab.node("node2").exec("docker", "exec", "-d", container, "sh", "-c", serve)
    site.lab.node("node2").exec("sleep", "2")
    assert http_status(f"{page}/tensorboard/", token) == 200
    with urllib.request.urlopen(f"{page}/tensorboard/") as answer:  # no token: the page to log in
        assert "/login" in answer.url


def test_the_second_machine_changes_and_builds_nothing(site: Site, rolled_out: CommandResult, tmp_path: Path) -> None:
    assert rolled_out
    other = tmp_path / "copy"
    shutil.copytree(site.folder, other)
    hosts = yaml.safe_load((other / "hosts.yml").read_text())
    env = {"TZ": "America/New_York", "LC_ALL": "C"}
    env |= {name: str(tmp_path / name) for name in ("XDG_STATE_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME")}
    env |= {"DOCKER_HOST": "unix:///nothing/here.sock"}  # an engine would be needed to build
    (other / "hosts.yml").write_text(yaml.safe_dump(_reversed(hosts), sort_keys=False))
    done = site.command.run("lock", str(other), env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("lab.lock", "environments/nlp/requirements.lock"):
        assert (other / name).read_bytes() == (site.folder / name).read_bytes()
    done = site.command.run("plan", str(other), "--json", env=env)
    assert {step["action"] for step in json.loads(done.stdout)["steps"]} == {"keep"}, done.stdout


def _reversed(data: Any) -> Any:
    """Return an inventory with the order of its names reversed."""
    return {key: _reversed(data[key]) for key in reversed(data)} if isinstance(data, dict) else data


def test_another_comment_changes_nothing(site: Site, rolled_out: CommandResult) -> None:
    assert rolled_out
    lock, packages = lock_of(site), (site.folder / "environments/nlp/requirements.lock").read_bytes()
    write_requirements(site, *reversed(PIP), comment="for the course of Mrs Wang")
    result = site.run_json("lock", env={"DOCKER_HOST": "unix:///nothing/here.sock"})
    assert result.code == 0, result.output
    assert (lock_of(site), (site.folder / "environments/nlp/requirements.lock").read_bytes()) == (lock, packages)


@pytest.fixture(scope="module")
def upgraded(site: Site, rolled_out: CommandResult) -> CommandResult:
    assert rolled_out
    set_keys(site, "image", torch="2.9.1")
    result = site.run_json("upgrade", "--keep-as", "2026s", "--yes")
    assert result.code == 0, result.output
    return result


def test_an_upgrade_keeps_the_environment_of_before(site: Site, upgraded: CommandResult) -> None:
    assert upgraded
    assert {person: torch_of(site, person) for person in ROWS} == {"ann": "2.9.1", "bob": COURSE, "eve": COURSE}
    kept = lock_of(site)["environments"]["2026s"]
    assert (kept["kept_from"], kept["torch"]) == ("default", TODAY)


def test_a_rollback_goes_back_to_the_image_of_before(site: Site, upgraded: CommandResult) -> None:
    assert upgraded
    result = site.run_json("rollback", "--limit", "node1", "--yes")
    assert result.code == 0, result.output
    assert torch_of(site, "ann") == TODAY


def test_a_row_may_name_the_environment_that_was_kept(site: Site, upgraded: CommandResult) -> None:
    assert upgraded
    write_roster(site, ROWS | {"old": ("70004", "node1", "2026s")})
    result = site.roll_out()
    assert result.code == 0, result.output
    assert (torch_of(site, "old"), torch_of(site, "ann")) == (TODAY, "2.9.1")
    difference = git(site, "diff", "--stat")
    assert "requirements.lock" not in difference


def test_an_environment_that_a_row_names_is_not_removed(site: Site, upgraded: CommandResult) -> None:
    assert upgraded
    refused = site.command.run("environments", "remove", str(site.folder), "2026s", "--yes")
    assert refused.returncode == 2, refused.stdout + refused.stderr
    write_roster(site, ROWS)
    removed = site.command.run("environments", "remove", str(site.folder), "2026s", "--yes")
    assert removed.returncode == 0, removed.stdout + removed.stderr
    assert "2026s" not in lock_of(site).get("environments", {})
