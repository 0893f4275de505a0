"""What people get wrong: one clear message each, the right exit code, no traceback."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from tests.lab import pki
from tests.lab.bed import Lab, running_lab
from tests.lab.demo import Command, write_lab
from tests.lab.engine import Engine
from tests.lab.tags import DEMO_TAGS, REPOSITORY, push_demo_tags

pytestmark = pytest.mark.lab

USER, PASSWORD = "lab", "correct horse"


class Desk(NamedTuple):
    """One node and a mirror that lets in one user; `folder` is a lab directory of the test's own."""

    lab: Lab
    folder: Path
    command: Command

    def run(self, *words: str, config: Path | None = None) -> subprocess.CompletedProcess[str]:
        """`config`: the folder of Docker's own configuration, where passwords are."""
        done = self.command.run(*words, env={"DOCKER_CONFIG": str(config)} if config else {})
        assert "Traceback" not in done.stderr + done.stdout
        return done

    def change(self, change: Callable[[str], str], name: str = "lab.yml") -> None:
        path = self.folder / name
        path.write_text(change(path.read_text()))


@pytest.fixture(scope="module")
def locked_lab(testbed: Engine) -> Iterator[Lab]:
    with running_lab(testbed, ["rtx4090-570"], auth=(USER, PASSWORD)) as lab:
        push_demo_tags(lab.mirror)
        write_lab(lab, lab.folder / "lab")
        yield lab


@pytest.fixture
def desk(locked_lab: Lab, testbed: Engine, program: Path, tmp_path: Path) -> Desk:
    folder = tmp_path / "lab"
    shutil.copytree(locked_lab.folder / "lab", folder)
    return Desk(locked_lab, folder, Command(testbed, locked_lab, program))


def logged_in(lab: Lab, folder: Path, password: str) -> Path:
    """A Docker configuration as `docker login` leaves it, for mirror and registry."""
    folder.mkdir()
    for registry in (lab.mirror, lab.registry):
        shutil.copy(registry.folder / "config.json", folder / "config.json")
    token = json.loads((folder / "config.json").read_text())["auths"].popitem()[1]
    if password != PASSWORD:
        token = {"username": USER, "password": password}
    auths = {registry.address: token for registry in (lab.mirror, lab.registry)}
    (folder / "config.json").write_text(json.dumps({"auths": auths}))
    return folder


def test_a_typo_in_lab_yml_is_shown_with_its_place_and_all_of_them_at_once(desk: Desk) -> None:
    desk.change(lambda text: text.replace("  address:", "  adress:", 1).replace("jupyter:", "jupiter:"))
    done = desk.run("rollout", str(desk.folder), "--yes")
    assert done.returncode == 2
    assert re.search(r"lab\.yml:\d+:\d+: .*adress.*did you mean.*address", done.stderr)
    assert re.search(r"lab\.yml:\d+:\d+: .*jupiter.*did you mean.*jupyter", done.stderr)


@pytest.mark.parametrize("words", [["--limit", "nosuch"], ["--limit", ""]])
def test_a_limit_that_names_nobody_is_a_mistake_and_never_everybody(desk: Desk, words: list[str]) -> None:
    done = desk.run("rollout", str(desk.folder), "--yes", *words)
    assert done.returncode == 2
    assert done.stdout == ""


def test_a_host_that_nobody_knows_is_unreachable_and_named(desk: Desk) -> None:
    inventory = yaml.safe_load((desk.folder / "hosts.yml").read_text())
    inventory["nodes"]["hosts"]["ghost"] = {"ansible_host": "ghost.invalid"}
    (desk.folder / "hosts.yml").write_text(yaml.safe_dump(inventory))
    done = desk.run("probe", str(desk.folder), "--json")
    document = json.loads(done.stdout)
    assert done.returncode == 1
    assert [(problem["node"], problem["code"]) for problem in document["problems"]] == [("ghost", "unreachable")]
    assert [node["name"] for node in document["nodes"]] == ["node1"]


def test_a_wrong_ca_is_named_with_the_place_to_mend_it(desk: Desk, tmp_path: Path) -> None:
    pki.make_ca(tmp_path / "other")
    desk.change(lambda text: text.replace(str(desk.lab.ca), str(pki.ca_certificate(tmp_path / "other"))))
    done = desk.run("mirror", "tags", str(desk.folder))
    assert done.returncode == 1
    assert "tls_untrusted" in done.stderr
    assert "ca" in done.stderr.split("fix:")[1]


def test_a_wrong_password_is_named_with_the_file_it_came_from(desk: Desk, tmp_path: Path) -> None:
    config = logged_in(desk.lab, tmp_path / "docker", "swordfish")
    done = desk.run("mirror", "tags", str(desk.folder), config=config)
    assert done.returncode == 1
    assert "auth_failed" in done.stderr
    assert str(config / "config.json") in done.stderr
    assert "docker login" in done.stderr
    assert "swordfish" not in done.stderr


def test_the_right_password_opens(desk: Desk, tmp_path: Path) -> None:
    config = logged_in(desk.lab, tmp_path / "docker", PASSWORD)
    done = desk.run("mirror", "tags", str(desk.folder), "--json", config=config)
    assert done.returncode == 0
    assert json.loads(done.stdout)["schema"].startswith("provisioner/")


def test_a_tag_that_lacks_a_layer_is_not_chosen_and_the_plan_says_why(desk: Desk, tmp_path: Path) -> None:
    """A RTX 4090 on driver 570 would get torch 2.14.1 with CUDA 12.6."""
    newest, next_best = "2.14.1-cuda12.6-cudnn9-runtime", "2.11.0-cuda12.8-cudnn9-runtime"
    # The topmost, a folder, is the same in images that were built within one second.
    shared = {layer for tag in DEMO_TAGS if tag.tag != newest for layer in desk.lab.mirror.layers(tag.name)}
    own = next(layer for layer in reversed(desk.lab.mirror.layers(f"{REPOSITORY}:{newest}")) if layer not in shared)
    blob = desk.lab.mirror.blob(own)
    content = blob.read_bytes()
    blob.unlink()
    try:
        done = desk.run("plan", str(desk.folder), "--fresh", config=logged_in(desk.lab, tmp_path / "docker", PASSWORD))
    finally:
        blob.write_bytes(content)
    assert done.returncode == 0, done.stderr
    assert f"{next_best}" in done.stdout.splitlines()[0]
    said = done.stdout + done.stderr
    assert "not_synced" in said
    assert newest in said
    assert own[:19] in said
