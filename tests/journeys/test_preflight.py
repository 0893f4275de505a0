"""A locked image is missing on the registry or a tag has moved: reported before any node changes, and repaired."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.journeys.conftest import COMPLETE, Site, running_site
from tests.lab.engine import Engine
from tests.lab.host import program as host_program
from tests.lab.images import make_small
from tests.lab.registry import fetched_blobs

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def site(testbed: Engine, program: Path) -> Iterator[Site]:
    """A lab of one node, locked and not yet rolled out."""
    with running_site(testbed, program, ["rtx4090-570"], bases=["2.8.0", "2.10.0"], image=COMPLETE) as site:
        assert site.run_json("lock").code == 0
        yield site


def locked_image(site: Site) -> tuple[str, str, str]:
    """Return repository, tag and digest of the lab image."""
    repository = "provisioner/lab"
    digest = json.loads((site.folder / "lab.lock").read_text())["images"][0]["lab"].partition("@")[2]
    tags = site.lab.registry.storage / "repositories" / repository / "_manifests/tags"
    (tag,) = (path.parents[1].name for path in tags.glob("*/current/link") if path.read_text() == digest)
    return repository, tag, digest


def test_a_layer_missing_on_the_registry_ends_the_run_before_any_node_is_changed(site: Site) -> None:
    node, registry = site.lab.node("node1"), site.lab.registry
    repository, tag, _ = locked_image(site)
    lost = registry.layers(f"{repository}:{tag}")[-1]
    registry.delete_blob(lost)
    before = node.exec("sh", "-c", "docker ps -aq; ls -A /var/lib/provisioner 2>/dev/null || true")
    result = site.run_json("rollout", "--yes")
    assert (result.code, {problem["code"] for problem in result.document["problems"]}) == (1, {"not_on_registry"})
    assert lost in result.output
    assert f"fix: provision lock {site.folder}" in result.output
    assert node.exec("sh", "-c", "docker ps -aq; ls -A /var/lib/provisioner 2>/dev/null || true") == before
    registry.restart()
    again = site.run_json("lock")
    assert again.code == 0, again.output
    done = site.command.run("mirror", "check", again.document["images"][0]["lab"], "--ca", str(site.lab.ca))
    assert done.returncode == 0, done.stdout


FALLBACK_SETTINGS: dict[str, dict[str, bool]] = {"forbidden": {}, "allowed": {"fallback": True}}


def copy_with_mirror(site: Site, name: str, mirror: dict[str, Any]) -> Site:
    """Copy the lab directory without its lock and set another mirror."""
    folder = site.folder.with_name(name)
    shutil.copytree(site.folder, folder)
    (folder / "lab.lock").unlink()
    settings = yaml.safe_load((folder / "lab.yml").read_text())
    (folder / "lab.yml").write_text(yaml.safe_dump(settings | {"mirror": mirror}))
    return site._replace(folder=folder)


def test_upstream_replaces_an_empty_mirror_only_if_lab_yml_allows_it(site: Site) -> None:
    lab = site.lab
    upstream = {"address": lab.mirror.address, "ca": str(lab.ca)}
    empty_mirror = {"address": lab.registry.address, "ca": str(lab.ca)}
    forbidden, allowed = (
        copy_with_mirror(site, name, empty_mirror | {"upstream": upstream | more})
        for name, more in FALLBACK_SETTINGS.items()
    )
    result = forbidden.run_json("lock")
    assert (result.code, {problem["code"] for problem in result.document["problems"]}) == (1, {"repository_missing"})
    done = allowed.command.run("lock", str(allowed.folder))
    assert done.returncode == 0, done.stderr
    assert "taken_from_upstream" in done.stdout
    assert json.loads((allowed.folder / "lab.lock").read_text())["mirror"] == lab.mirror.address


OLDER = "pytorch/pytorch:2.8.0-cuda12.8-cudnn9-runtime"


def test_listed_commands_copy_a_newer_tag_from_upstream_to_the_mirror(
    site: Site, testbed: Engine, tmp_path: Path
) -> None:
    lab, environment = site.lab, {"HOME": str(tmp_path), **testbed.client_env()}
    source, target = (f"{registry.address}/{OLDER}" for registry in (lab.mirror, lab.registry))
    run_shell(
        [f"docker pull {source}", f"docker tag {source} {target}", f"docker push {target}", f"docker rmi {target}"],
        environment,
    )
    upstream = {"address": lab.mirror.address, "ca": str(lab.ca)}
    mirrored = copy_with_mirror(
        site, "newer", {"address": lab.registry.address, "ca": str(lab.ca), "upstream": upstream}
    )
    first = mirrored.run_json("lock")
    assert first.code == 0, first.output
    assert first.document["images"][0]["reference"].endswith(OLDER)
    better = first.document["next_best"]
    assert (better["state"], better["elsewhere"][0]["registry"]) == ("absent", lab.mirror.address)
    newer = f"{lab.registry.address}/{better['reference'].partition('/')[2]}"
    assert host_program("skopeo", "skopeo")
    for way in ("engine", "skopeo"):
        run_shell(better[way], environment)
        words = ("mirror", "check", newer, "--ca", str(lab.ca), "--upstream", lab.mirror.address)
        done = site.command.run(*words)
        assert done.returncode == 0, done.stdout + done.stderr
    second = mirrored.run_json("lock")
    assert second.code == 0, second.output
    assert second.document["images"][0]["reference"] == newer
    assert second.document["next_best"] is None


def run_shell(lines: list[str], environment: dict[str, str]) -> None:
    script = "\n".join(["set -eu", *lines])
    subprocess.run(["sh", "-c", script], env={**os.environ, **environment}, check=True, capture_output=True)


def test_a_moved_tag_does_not_change_the_fetched_and_rolled_out_image(site: Site) -> None:
    """The tag moves on the mirror and on the lab's registry; images are pulled by digest, before the rollout."""
    lab, (repository, tag, digest) = site.lab, locked_image(site)
    locked = json.loads((site.folder / "lab.lock").read_text())["images"][0]
    small = "provisioner-test/moved"
    make_small(lab.engine, small, layers=1)
    moved = {lab.registry.push(small, f"{repository}:{tag}")}
    moved.add(lab.mirror.push(small, locked["reference"].partition("/")[2]))
    assert digest not in moved
    fetched = site.run_json("fetch")
    assert (fetched.code, [one["state"] for one in fetched.document["nodes"]]) == (0, ["committed"]), fetched.output
    node = lab.node("node1")
    node.exec("docker", "image", "prune", "--force")
    assert node.exec("docker", "image", "ls", "-q", f"provisioner/keep:fetched.*.{digest[7:19]}")
    again = site.run_json("fetch")
    assert (again.code, [one["state"] for one in again.document["nodes"]]) == (0, ["unchanged"]), again.output
    sent = len(fetched_blobs(lab.registry.access_log()))
    result = site.run_json("rollout", "--yes")
    assert result.code == 0, result.output
    assert len(fetched_blobs(lab.registry.access_log())) == sent
    assert not node.exec("docker", "image", "ls", "-q", "provisioner/keep:fetched.*")
    running = lab.node("node1").exec("sh", "-c", "docker inspect -f '{{.Config.Image}}' $(docker ps -q)").split()
    assert set(running) == {locked["lab"]}
