"""The engine of the control machine with containerd's image store: base, build and push by a node's engine."""

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from provisioner.adapters.engine.docker_engine import DockerEngine
from provisioner.domain.values.reference import ImageReference
from tests.lab.bed import Lab, running_lab
from tests.lab.engine import Engine
from tests.lab.kinds import FORKY, build_image
from tests.lab.node import USER
from tests.playbooks.on_nodes import REPOSITORY, push_seat_images

pytestmark = [pytest.mark.lab, pytest.mark.long("engines")]

FACTS = (Path(__file__).parents[3] / "templates/base_facts.py").read_text()


@pytest.fixture(scope="module")
def lab(testbed: Engine) -> Iterator[Lab]:
    build_image(testbed, FORKY)
    with running_lab(testbed, ["cpu"], kind=FORKY) as lab:
        yield lab


@pytest.fixture
def engine(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DockerEngine]:
    """The engine of the node as that of the control machine. The node has the CA of the registry."""
    socket, node = tmp_path / "docker.sock", lab.node("node1")
    options = ("-o", f"UserKnownHostsFile={lab.known_hosts}", "-o", "BatchMode=yes", "-i", str(lab.key))
    forward = ("-N", "-L", f"{socket}:/var/run/docker.sock", f"{USER}@{node.address}")
    with subprocess.Popen(["ssh", "-F", "none", *options, *forward]) as ssh:
        try:
            while not socket.exists():
                assert ssh.poll() is None
                time.sleep(0.1)
            monkeypatch.setenv("DOCKER_HOST", f"unix://{socket}")
            engine = DockerEngine.connect({}, lambda _: None)
            yield engine
            engine.close()
        finally:
            ssh.terminate()


def config(lab: Lab, digest: str) -> tuple[str, list[str]]:
    """Return digest and layers (diff IDs) of the configuration of an image in the lab's registry."""
    found = json.loads(lab.registry.blob(digest).read_text())["config"]["digest"]
    return found, json.loads(lab.registry.blob(found).read_text())["rootfs"]["diff_ids"]


def test_a_base_is_copied_and_built_upon_by_an_engine_with_containerds_store(
    lab: Lab, engine: DockerEngine, tmp_path: Path
) -> None:
    base = push_seat_images(lab)["1"]
    pinned = ImageReference.parse(base.lab)
    engine.pull(pinned, base.bytes)
    assert engine.base_facts(pinned.by_digest(), FACTS).sshd
    copy, built = (ImageReference.parse(f"{lab.registry.address}/{REPOSITORY}:{tag}") for tag in ("copy", "built"))
    engine.tag(pinned.by_digest(), copy)
    digest = engine.push(copy)
    assert digest == lab.registry.digest(f"{REPOSITORY}:copy")
    assert config(lab, digest) == config(lab, base.lab.rpartition("@")[2])
    (tmp_path / "context").mkdir()
    (tmp_path / "context/Dockerfile").write_text("ARG BASE\nFROM $BASE\nRUN echo 1 >/added\n")
    engine.build(tmp_path / "context", built, {"BASE": pinned.by_digest()}, {"provisioner.inputs": "x"})
    digest = engine.push(built)
    assert digest == lab.registry.digest(f"{REPOSITORY}:built")
    assert config(lab, digest)[1][:-1] == list(base.rootfs)
