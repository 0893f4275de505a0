"""Mistakes of users: each gives one clear message, the right exit code and no traceback."""

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


class LabCopy(NamedTuple):
    """A lab of one node whose mirror requires a login; `folder` is a copy of its lab directory for one test."""

    lab: Lab
    folder: Path
    command: Command

    def run(self, *words: str, config: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run the command; `config` is the folder of the Docker configuration with the passwords."""
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
def lab_copy(locked_lab: Lab, testbed: Engine, program: Path, tmp_path: Path) -> LabCopy:
    folder = tmp_path / "lab"
    shutil.copytree(locked_lab.folder / "lab", folder)
    return LabCopy(locked_lab, folder, Command(testbed, locked_lab, program))


def logged_in(lab: Lab, folder: Path, password: str) -> Path:
    """Write a Docker configuration as `docker login` does, for mirror and registry; return its folder."""
    folder.mkdir()
    for registry in (lab.mirror, lab.registry):
        shutil.copy(registry.folder / "config.json", folder / "config.json")
    token = json.loads((folder / "config.json").read_text())["auths"].popitem()[1]
    if password != PASSWORD:
        token = {"username": USER, "password": password}
    auths = {registry.address: token for registry in (lab.mirror, lab.registry)}
    (folder / "config.json").write_text(json.dumps({"auths": auths}))
    return folder


def test_every_typo_in_lab_yml_is_reported_with_its_line(lab_copy: LabCopy) -> None:
    lab_copy.change(lambda text: text.replace("  address:", "  adress:", 1).replace("jupyter:", "jupiter:"))
    done = lab_copy.run("rollout", str(lab_copy.folder), "--yes")
    assert done.returncode == 2
    assert re.search(r"lab\.yml:\d+:\d+: .*adress.*did you mean.*address", done.stderr)
    assert re.search(r"lab\.yml:\d+:\d+: .*jupiter.*did you mean.*jupyter", done.stderr)


@pytest.mark.parametrize("words", [["--limit", "nosuch"], ["--limit", ""]])
def test_a_limit_that_matches_no_node_is_a_usage_error(lab_copy: LabCopy, words: list[str]) -> None:
    done = lab_copy.run("rollout", str(lab_copy.folder), "--yes", *words)
    assert done.returncode == 2
    assert done.stdout == ""


def test_a_host_with_an_unknown_name_is_reported_as_unreachable(lab_copy: LabCopy) -> None:
    inventory = yaml.safe_load((lab_copy.folder / "hosts.yml").read_text())
    inventory["nodes"]["hosts"]["ghost"] = {"ansible_host": "ghost.invalid"}
    (lab_copy.folder / "hosts.yml").write_text(yaml.safe_dump(inventory))
    done = lab_copy.run("probe", str(lab_copy.folder), "--json")
    document = json.loads(done.stdout)
    assert done.returncode == 1
    assert [(problem["node"], problem["code"]) for problem in document["problems"]] == [("ghost", "unreachable")]
    assert [node["name"] for node in document["nodes"]] == ["node1"]


def test_a_wrong_ca_is_reported_with_the_setting_to_change(lab_copy: LabCopy, tmp_path: Path) -> None:
    pki.make_ca(tmp_path / "other")
    lab_copy.change(lambda text: text.replace(str(lab_copy.lab.ca), str(pki.ca_certificate(tmp_path / "other"))))
    done = lab_copy.run("mirror", "tags", str(lab_copy.folder))
    assert done.returncode == 1
    assert "tls_untrusted" in done.stderr
    assert "ca" in done.stderr.split("fix:")[1]


def test_a_wrong_password_is_reported_with_its_file(lab_copy: LabCopy, tmp_path: Path) -> None:
    config = logged_in(lab_copy.lab, tmp_path / "docker", "swordfish")
    done = lab_copy.run("mirror", "tags", str(lab_copy.folder), config=config)
    assert done.returncode == 1
    assert "auth_failed" in done.stderr
    assert str(config / "config.json") in done.stderr
    assert "docker login" in done.stderr
    assert "swordfish" not in done.stderr


def test_the_right_password_gives_access_to_the_mirror(lab_copy: LabCopy, tmp_path: Path) -> None:
    config = logged_in(lab_copy.lab, tmp_path / "docker", PASSWORD)
    done = lab_copy.run("mirror", "tags", str(lab_copy.folder), "--json", config=config)
    assert done.returncode == 0
    assert json.loads(done.stdout)["schema"].startswith("provisioner/")


def test_a_tag_with_a_missing_layer_is_not_chosen_and_the_plan_gives_the_reason(
    lab_copy: LabCopy, tmp_path: Path
) -> None:
    """With all layers, an RTX 4090 with driver 570 gets torch 2.14.1 with CUDA 12.6."""
    newest, next_best = "2.14.1-cuda12.6-cudnn9-runtime", "2.11.0-cuda12.8-cudnn9-runtime"
    # The topmost layer is one folder: images built within the same second share it.
    shared = {layer for tag in DEMO_TAGS if tag.tag != newest for layer in lab_copy.lab.mirror.layers(tag.name)}
    layer = next(
        layer for layer in reversed(lab_copy.lab.mirror.layers(f"{REPOSITORY}:{newest}")) if layer not in shared
    )
    blob = lab_copy.lab.mirror.blob(layer)
    content = blob.read_bytes()
    blob.unlink()
    try:
        done = lab_copy.run(
            "plan", str(lab_copy.folder), "--fresh", config=logged_in(lab_copy.lab, tmp_path / "docker", PASSWORD)
        )
    finally:
        blob.write_bytes(content)
    assert done.returncode == 0, done.stderr
    assert f"{next_best}" in done.stdout.splitlines()[0]
    output = done.stdout + done.stderr
    assert "not_synced" in output
    assert newest in output
    assert layer[:19] in output
