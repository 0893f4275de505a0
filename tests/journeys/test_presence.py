"""What a lab is held to is gone from its registry, or has moved: told before any node is touched, and got back."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.journeys.conftest import Story, running_story
from tests.lab.engine import Engine
from tests.lab.host import program as host_program
from tests.lab.images import make_small

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def story(testbed: Engine, program: Path) -> Iterator[Story]:
    """One node, locked and not yet rolled out."""
    with running_story(testbed, program, ["rtx4090-570"]) as story:
        assert story.tell("lock").code == 0
        yield story


def held(story: Story) -> tuple[str, str, str]:
    """Repository, tag and digest of the lab image."""
    repository = "provisioner/lab"
    digest = json.loads((story.folder / "lab.lock").read_text())["images"][0]["lab"].partition("@")[2]
    tags = story.lab.registry.storage / "repositories" / repository / "_manifests/tags"
    (tag,) = (path.parents[1].name for path in tags.glob("*/current/link") if path.read_text() == digest)
    return repository, tag, digest


def test_a_layer_that_the_registry_lost_ends_the_run_before_a_node_is_touched(story: Story) -> None:
    node, registry = story.lab.node("node1"), story.lab.registry
    repository, tag, _ = held(story)
    lost = registry.layers(f"{repository}:{tag}")[-1]
    registry.delete_blob(lost)
    before = node.exec("sh", "-c", "docker ps -aq; ls -A /var/lib/provisioner 2>/dev/null || true")
    told = story.tell("rollout", "--yes")
    assert (told.code, {problem["code"] for problem in told.document["problems"]}) == (1, {"not_on_registry"})
    assert lost in told.people
    assert f"fix: provision lock {story.folder}" in told.people
    assert node.exec("sh", "-c", "docker ps -aq; ls -A /var/lib/provisioner 2>/dev/null || true") == before
    registry.restart()
    again = story.tell("lock")
    assert again.code == 0, again.people
    done = story.command.run("mirror", "check", again.document["images"][0]["lab"], "--ca", str(story.lab.ca))
    assert done.returncode == 0, done.stdout


WAYS: dict[str, dict[str, bool]] = {"forbidden": {}, "allowed": {"fallback": True}}


def another(story: Story, name: str, mirror: dict[str, Any]) -> Story:
    """The same lab with another mirror, and nothing locked yet."""
    folder = story.folder.with_name(name)
    shutil.copytree(story.folder, folder)
    (folder / "lab.lock").unlink()
    wish = yaml.safe_load((folder / "lab.yml").read_text())
    (folder / "lab.yml").write_text(yaml.safe_dump(wish | {"mirror": mirror}))
    return story._replace(folder=folder)


def lab_says(story: Story, verb: str) -> str:
    return story.command.run(verb, str(story.folder)).stdout


def test_where_the_mirror_has_nothing_the_whole_lab_is_taken_from_upstream_if_lab_yml_says_so(story: Story) -> None:
    lab = story.lab
    above = {"address": lab.mirror.address, "ca": str(lab.ca)}
    poor = {"address": lab.registry.address, "ca": str(lab.ca)}
    forbidden, allowed = (another(story, name, poor | {"upstream": above | more}) for name, more in WAYS.items())
    told = forbidden.tell("lock")
    assert (told.code, {problem["code"] for problem in told.document["problems"]}) == (1, {"repository_missing"})
    told = allowed.tell("lock")
    assert told.code == 0, told.people
    assert told.document["mirror"] == lab.mirror.address
    assert [problem["code"] for problem in told.document["problems"]] == ["taken_from_upstream"]
    assert "taken_from_upstream" in lab_says(allowed, "lock")


OLDER = "pytorch/pytorch:2.8.0-cuda12.8-cudnn9-runtime"


def test_a_newer_tag_that_only_upstream_has_is_named_and_the_commands_really_bring_it(
    story: Story, testbed: Engine, tmp_path: Path
) -> None:
    lab, mine = story.lab, {"HOME": str(tmp_path), **testbed.client_env()}
    there, here = (f"{registry.address}/{OLDER}" for registry in (lab.mirror, lab.registry))
    shell([f"docker pull {there}", f"docker tag {there} {here}", f"docker push {here}", f"docker rmi {here}"], mine)
    above = {"address": lab.mirror.address, "ca": str(lab.ca)}
    told = another(story, "newer", {"address": lab.registry.address, "ca": str(lab.ca), "upstream": above})
    first = told.tell("lock")
    assert first.code == 0, first.people
    assert first.document["images"][0]["reference"].endswith(OLDER)
    better = first.document["next_best"]
    assert (better["state"], better["elsewhere"][0]["registry"]) == ("absent", lab.mirror.address)
    newer = f"{lab.registry.address}/{better['reference'].partition('/')[2]}"
    assert host_program("skopeo", "skopeo")
    for way in ("engine", "skopeo"):
        shell(better[way], mine)
        words = ("mirror", "check", newer, "--ca", str(lab.ca), "--upstream", lab.mirror.address)
        done = story.command.run(*words)
        assert done.returncode == 0, done.stdout + done.stderr
    second = told.tell("lock")
    assert second.code == 0, second.people
    assert second.document["images"][0]["reference"] == newer
    assert second.document["next_best"] is None


def shell(lines: list[str], environment: dict[str, str]) -> None:
    script = "\n".join(["set -eu", *lines])
    subprocess.run(["sh", "-c", script], env={**os.environ, **environment}, check=True, capture_output=True)


def test_a_tag_that_moved_does_not_matter(story: Story) -> None:
    """On the mirror and on the lab's own registry alike: everything goes by digest."""
    lab, (repository, tag, digest) = story.lab, held(story)
    locked = json.loads((story.folder / "lab.lock").read_text())["images"][0]
    small = "provisioner-test/moved"
    make_small(lab.engine, small, layers=1)
    moved = {lab.registry.push(small, f"{repository}:{tag}")}
    moved.add(lab.mirror.push(small, locked["reference"].partition("/")[2]))
    assert digest not in moved
    told = story.tell("rollout", "--yes")
    assert told.code == 0, told.people
    running = lab.node("node1").exec("sh", "-c", "docker inspect -f '{{.Config.Image}}' $(docker ps -q)").split()
    assert set(running) == {locked["lab"]}
