"""A managed registry: `prepare` sets it up, images are rolled out from it, and `registry gc` removes unused ones."""

import json
import ssl
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.journeys.conftest import COMPLETE, CommandResult, Site
from tests.journeys.small_lab import image_of_seat
from tests.journeys.test_prepare import BARE_WITH_GPU, create_bare_site
from tests.lab.bed import bare_lab
from tests.lab.engine import Engine
from tests.playbooks.on_nodes import push_base

pytestmark = pytest.mark.lab

STORAGE = "/var/lib/docker-registry/docker/registry/v2/blobs"
PORT, PUSH_PORT = 5000, 5001
PROCESSES = {"config.yml", "push.yml"}  # the last part of their command lines
OUTAGE_SECONDS = 10
# Prints the status of requests without a login. Arguments: method and URL of each.
ASK = """
import ssl, sys, urllib.error, urllib.request
for method, url in zip(sys.argv[1::2], sys.argv[2::2]):
    try:
        asked = urllib.request.Request(url, method=method)
        print(urllib.request.urlopen(asked, context=ssl._create_unverified_context()).status)
    except urllib.error.HTTPError as refused:
        print(refused.code)
"""
# How release 0.1.0 set the registry up: one process, to which every client could push.
OLD_CONFIGURATION = f"""\
# Written by provision prepare; what is changed here by hand is written over.
version: 0.1
log:
  accesslog: {{disabled: false}}
  fields: {{service: registry}}
storage:
  filesystem: {{rootdirectory: /var/lib/docker-registry}}
  delete: {{enabled: true}}
http:
  addr: :{PORT}
  headers: {{X-Content-Type-Options: [nosniff]}}
  tls:
    certificate: /etc/docker/registry/tls/server.crt
    key: /etc/docker/registry/tls/server.key
health:
  storagedriver: {{enabled: true, interval: 10s, threshold: 3}}
"""
TO_OLD_FORM = """
service provisioner-registry-push stop; update-rc.d -f provisioner-registry-push remove
cd /etc/docker/registry && rm push.yml htpasswd tls/push_started /etc/init.d/provisioner-registry-push
cat >config.yml
service docker-registry stop; while pgrep -x docker-registry; do sleep 0.1; done; service docker-registry start
until pgrep -x docker-registry; do sleep 0.1; done; sleep 1
"""
UNUSED, OLD, NEW = "2.11.0", "2.9.0", "2.10.0"


@pytest.fixture(scope="module")
def site(testbed: Engine, debian13_packages: Path, program: Path) -> Iterator[Site]:
    """node1 gets a seat; node2 is the host of the registry and not a node of the lab."""
    with bare_lab(testbed, debian13_packages, [BARE_WITH_GPU, "cpu"]) as lab:
        for torch in (UNUSED, OLD, NEW):
            push_base(lab, torch)
        address = f"{lab.node('node2').address}:{PORT}"
        site = create_bare_site(
            lab, debian13_packages, program, registry={"address": address, "managed": True}, image=COMPLETE
        )
        inventory = yaml.safe_load(lab.inventory_text())
        inventory["all"] = {"vars": inventory["nodes"].pop("vars")}
        inventory["registry"] = {"hosts": {"node2": inventory["nodes"]["hosts"].pop("node2")}}
        (site.folder / "hosts.yml").write_text(yaml.safe_dump(inventory))
        yield site


def blobs(site: Site) -> set[str]:
    return set(site.lab.node("node2").exec("find", STORAGE, "-name", "data").split())


def locked_image(site: Site) -> str:
    (image,) = json.loads((site.folder / "lab.lock").read_text())["images"]
    return str(image["lab"])


def lock_digest(site: Site, torch: str) -> str:
    """Lock the lab to this torch, which pushes its image; return the digest of the lab image."""
    result = site.run_json("lock", "--torch", torch)
    assert result.code == 0, result.output
    return locked_image(site).rpartition("@")[2]


def processes(site: Site) -> dict[str, str]:
    """Return the PID of each process of the registry, by its configuration."""
    listed = site.lab.node("node2").exec("pgrep", "-a", "-x", "docker-registry").splitlines()
    return {line.rpartition("/")[2]: line.split()[0] for line in listed}


def statuses(site: Site, *requests: tuple[str, int, str]) -> list[int]:
    """Send requests (method, port, path) from node1, without a login; return their statuses."""
    host = site.lab.node("node2").address
    words = (word for method, port, path in requests for word in (method, f"https://{host}:{port}/v2/{path}"))
    return [int(line) for line in site.lab.node("node1").exec("python3", "-c", ASK, *words).split()]


def push_login(site: Site) -> dict[str, str]:
    (path,) = site.lab.folder.glob("xdg_state_home/provisioner/push_logins/*.json")
    assert path.stat().st_mode & 0o777 == 0o600
    return dict(json.loads(path.read_text()))


def reference(site: Site, digest: str) -> str:
    return f"{site.lab.node('node2').address}:{PORT}/provisioner/lab@{digest}"


def write_generation(site: Site, number: int, digest: str) -> None:
    """Write a generation to the node, as a rollout does."""
    order = json.dumps({"seat": {"name": "demo-student"}, "image": {"reference": reference(site, digest)}})
    folder = f"/var/lib/provisioner/seats/demo-student/gens/{number}"
    script = f"mkdir -p {folder} && cat >{folder}/order.json && echo '{{}}' >{folder}/meta.json"
    site.lab.node("node1").exec("sh", "-c", script, stdin=order)


def run_gc(site: Site, *words: str) -> CommandResult:
    done = site.command.run("registry", "gc", str(site.folder), *words, "--json")
    return CommandResult(done.returncode, json.loads(done.stdout), done.stderr)


def digests(found: list[dict[str, Any]]) -> set[str]:
    return {image["digest"] for image in found}


def test_prepare_check_sets_up_no_registry(site: Site) -> None:
    result = site.run_json("prepare", "--check")
    registry = result.document["registry"]
    assert (result.code, registry["state"], registry["node"]) == (3, "lacking", "node2"), result.output
    assert [node["node"] for node in result.document["nodes"]] == ["node1"]
    assert not (site.folder / "registry-ca.pem").exists()
    assert not [*site.lab.folder.glob("xdg_state_home/provisioner/push_logins/*")]
    assert site.lab.node("node2").exec("sh", "-c", "command -v docker-registry || true") == ""


def test_prepare_sets_up_a_registry_with_tls_that_nodes_trust(site: Site) -> None:
    settings = (site.folder / "lab.yml").read_text()
    result = site.run_json("prepare", "--yes")
    assert (result.code, result.document["registry"]["state"]) == (0, "prepared"), result.output
    ca = (site.folder / "registry-ca.pem").read_text()
    address = f"{site.lab.node('node2').address}:{PORT}"
    assert site.lab.node("node1").exec("cat", f"/etc/docker/certs.d/{address}/provisioner.crt") == ca.strip()
    kept = site.lab.node("node2").exec(
        "stat", "-c", "%a %U %n", "/etc/docker/registry/tls/ca.key", "/etc/docker/registry/tls/server.key"
    )
    assert [line.split()[:2] for line in kept.splitlines()] == [["600", "root"], ["600", "docker-registry"]]
    assert (site.folder / "lab.yml").read_text() == settings, "prepare changed lab.yml"
    assert processes(site).keys() == PROCESSES


def test_after_a_power_cut_both_processes_serve_again_and_prepare_leaves_them_unchanged(site: Site) -> None:
    node, state = site.lab.node("node2"), "cat /etc/docker/registry/*.yml /etc/docker/registry/tls/*.crt"
    before = node.exec("sh", "-c", state)
    node.kill()
    node.start()
    running = processes(site)
    assert running.keys() == PROCESSES
    result = site.run_json("prepare", "--yes")
    assert (result.code, result.document["registry"]["state"]) == (0, "ready"), result.output
    assert (processes(site), node.exec("sh", "-c", state)) == (running, before)


def test_gc_keeps_rollback_images_and_removes_images_that_no_node_had(site: Site) -> None:
    unused, old, new = (lock_digest(site, torch) for torch in (UNUSED, OLD, NEW))
    write_generation(site, 1, old)
    write_generation(site, 2, new)
    before = blobs(site)
    result = run_gc(site, "--dry-run")
    assert (digests(result.document["kept"]), digests(result.document["removed"])) == ({old, new}, {unused}), (
        result.output
    )
    assert result.document["bytes"] > 0
    assert blobs(site) == before


def test_no_node_can_push_or_delete_and_the_password_is_on_none(site: Site) -> None:
    manifest = f"provisioner/lab/manifests/{locked_image(site).rpartition('@')[2]}"
    changes = [("POST", "provisioner/lab/blobs/uploads/"), ("DELETE", manifest), ("PUT", "provisioner/lab/manifests/x")]
    assert statuses(site, *((method, PORT, path) for method, path in changes)) == [405] * 3
    assert statuses(site, *((method, PUSH_PORT, path) for method, path in changes)) == [401] * 3
    assert statuses(site, ("GET", PORT, manifest), ("GET", PUSH_PORT, manifest)) == [200, 401]
    login = push_login(site)
    for each in site.lab.nodes:
        search = f"grep -rlF -- '{login['password']}' /etc /var /root /home /tmp /run || true"
        assert each.exec("sh", "-c", search) == ""
    texts = [
        path.read_text() for path in site.lab.folder.glob("xdg_state_home/provisioner/*/runs/**/*") if path.is_file()
    ]
    assert texts
    assert not [text for text in texts if login["password"] in text]


def longest_outage(address: str, done: threading.Event) -> float:
    """Ask the registry until `done`; return for how many seconds it did not answer at most."""
    trust, answered, longest = ssl._create_unverified_context(), time.monotonic(), 0.0
    while not done.wait(0.1):
        with suppress(OSError):
            urllib.request.urlopen(f"https://{address}/v2/", context=trust, timeout=5).close()
            longest, answered = max(longest, time.monotonic() - answered), time.monotonic()
    return max(longest, time.monotonic() - answered)


def test_an_open_registry_of_an_earlier_release_is_migrated_with_its_store(site: Site) -> None:
    node, before, done = site.lab.node("node2"), blobs(site), threading.Event()
    upload = ("POST", PORT, "provisioner/lab/blobs/uploads/")
    node.exec("sh", "-c", TO_OLD_FORM, stdin=OLD_CONFIGURATION)
    assert statuses(site, upload) == [202], "the earlier release accepts pushes"
    with ThreadPoolExecutor() as pool:
        outage = pool.submit(longest_outage, f"{node.address}:{PORT}", done)
        result = site.run_json("prepare", "--yes")
        done.set()
    changes = [words.split()[:2] for words in result.document["registry"]["changes"]]
    assert (result.code, changes) == (
        0,
        [
            ["write", "/etc/docker/registry/config.yml:"],
            ["start", "the"],
            ["let", "this"],
            ["write", "/etc/docker/registry/push.yml:"],
            ["install", "the"],
            ["start", "the"],
        ],
    ), result.output
    assert outage.result() < OUTAGE_SECONDS
    assert statuses(site, upload) == [405]
    assert before <= blobs(site)
    site.lab.node("node1").exec("docker", "pull", "-q", locked_image(site))


def test_a_process_that_is_down_is_named_and_a_migration_that_was_killed_is_completed(site: Site) -> None:
    """It was killed when it had made the registry read-only, and had not yet set up the process that takes pushes."""
    node, reader = site.lab.node("node2"), processes(site)["config.yml"]
    node.exec("sh", "-c", f"kill -9 {processes(site)['push.yml']} && rm /etc/docker/registry/push.yml")
    result = site.run_json("status")
    assert (result.code, [found["code"] for found in result.document["problems"]]) == (1, ["push_unavailable"])
    site.lab.node("node1").exec("docker", "pull", "-q", locked_image(site))
    planned = site.run_json("prepare", "--check").document["registry"]["changes"]
    assert [words.split()[0] for words in planned] == ["write", "start"]
    assert all("push" in words for words in planned)
    result = site.run_json("prepare", "--yes")
    assert (result.code, result.document["registry"]["changes"]) == (0, planned), result.output
    assert processes(site).keys() == PROCESSES
    assert processes(site)["config.yml"] == reader, "nodes can pull all the time"


def test_gc_removes_nothing_while_a_node_is_unreachable(site: Site) -> None:
    before = blobs(site)
    site.lab.node("node1").stop()
    try:
        done = site.command.run("registry", "gc", str(site.folder), "--yes")
    finally:
        site.lab.node("node1").start()
    assert done.returncode == 1
    assert "silent_nodes" in done.stderr
    assert blobs(site) == before


def test_gc_is_refused_while_a_push_may_be_under_way_and_the_registry_keeps_serving(site: Site) -> None:
    before = blobs(site)
    result = run_gc(site, "--yes")
    assert (result.code, [problem["code"] for problem in result.document["problems"]]) == (1, ["push_under_way"]), (
        result.output
    )
    assert blobs(site) == before
    address = f"{site.lab.node('node2').address}:{PORT}"
    answer = site.lab.node("node1").exec("sh", "-c", f"docker pull {address}/none:1 2>&1 || true")
    assert "manifest unknown" in answer or "not found" in answer


def test_gc_frees_the_disk_and_kept_images_stay_complete(site: Site) -> None:
    before = blobs(site)
    result = run_gc(site, "--yes", "--quiet-seconds", "0")
    assert result.code == 0, result.output
    assert blobs(site) < before
    for image in result.document["kept"]:
        site.lab.node("node1").exec("docker", "pull", "-q", reference(site, image["digest"]))


def test_rollout_to_a_prepared_node_from_the_managed_registry_commits(site: Site) -> None:
    result = site.run_json("rollout", "--yes")
    assert result.code == 0, result.output
    (record,) = result.document["nodes"]
    assert (record["node"], record["state"], record["gpu"]["method"]) == ("node1", "committed", "driver")
    assert image_of_seat(site.lab.node("node1")) == locked_image(site)
