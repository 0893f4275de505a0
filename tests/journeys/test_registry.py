"""A managed registry: `prepare` sets it up, images are rolled out from it, and `registry gc` removes unused ones."""

import json
from collections.abc import Iterator
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
PORT = 5000
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


def lock_digest(site: Site, torch: str) -> str:
    """Lock the lab to this torch, which pushes its image; return the digest of the lab image."""
    result = site.run_json("lock", "--torch", torch)
    assert result.code == 0, result.output
    (image,) = json.loads((site.folder / "lab.lock").read_text())["images"]
    return str(image["lab"].rpartition("@")[2])


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


def test_after_a_power_cut_the_registry_serves_again_and_prepare_leaves_it_unchanged(site: Site) -> None:
    node, state = site.lab.node("node2"), "cat /etc/docker/registry/config.yml /etc/docker/registry/tls/*.crt"
    before = node.exec("sh", "-c", state)
    node.kill()
    node.start()
    pid = node.exec("pgrep", "-x", "docker-registry")
    result = site.run_json("prepare", "--yes")
    assert (result.code, result.document["registry"]["state"]) == (0, "ready"), result.output
    assert (node.exec("pgrep", "-x", "docker-registry"), node.exec("sh", "-c", state)) == (pid, before)


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
    (image,) = json.loads((site.folder / "lab.lock").read_text())["images"]
    assert image_of_seat(site.lab.node("node1")) == image["lab"]
