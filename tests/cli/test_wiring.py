"""The last look of somebody who has a lock and nothing else."""

import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from provisioner.cli.wiring import recheck_own
from provisioner.domain.lab.lock import LockedImage
from provisioner.domain.values.event import Event
from provisioner.domain.values.problem import ProblemError
from tests.adapters.registry.made_image import an_image
from tests.adapters.registry.scripted_registry import ScriptedRegistry, served
from tests.builders import a_lock, a_locked_image
from tests.lab import pki
from tests.workflow.rollout.test_preflight import prepared

IMAGE = an_image()
REPOSITORY = "provisioner/lab"


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    pki.make_ca(tmp_path)
    pki.issue(tmp_path, tmp_path / "server", ["IP:127.0.0.1"])
    return tmp_path


@pytest.fixture
def registry(authority: Path) -> Iterator[ScriptedRegistry]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority / "server/server.crt", authority / "server/server.key")
    made = ScriptedRegistry()
    made.put(REPOSITORY, "t", IMAGE)
    with served(made, tls=context):
        yield made


def look(image: LockedImage, ca: str | None) -> list[str]:
    news: list[Event] = []
    lock = a_lock(image).model_copy(update={"registry_ca": ca})
    recheck_own(lock, prepared(("create", image, 5)), news.append)
    return [event.kind for event in news if event.phase == "stage"]


def locked(registry: ScriptedRegistry) -> LockedImage:
    return a_locked_image(lab=f"{registry.host}/{REPOSITORY}@{IMAGE.manifest}")


def test_by_the_authority_that_the_lock_carries(registry: ScriptedRegistry, authority: Path) -> None:
    ca = pki.ca_certificate(authority).read_text()
    assert look(locked(registry), ca) == ["started", "done"]
    assert any(IMAGE.layers[0] in asked.path for asked in registry.asked)
    registry.lose(IMAGE.layers[0])
    with pytest.raises(ProblemError) as ended:
        look(locked(registry), ca)
    assert IMAGE.layers[0] in ended.value.problems[0].what
    assert "ask the lab's admin" in ended.value.problems[0].fix


def test_a_registry_that_cannot_be_asked_from_here_is_left_to_the_pull(registry: ScriptedRegistry) -> None:
    assert look(locked(registry), None) == ["started", "note"]
    assert look(a_locked_image(lab=f"127.0.0.1:1/{REPOSITORY}@{IMAGE.manifest}"), None) == ["started", "note"]
