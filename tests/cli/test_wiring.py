"""A new lock, and the check of the registry with the lock alone, as `provision me` does it."""

import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from provisioner.adapters.lab.directory import read_lab
from provisioner.adapters.lab.lockfile import write_lock
from provisioner.cli import wiring
from provisioner.cli.wiring import new_lock, recheck_with_lock
from provisioner.domain.lab.lock import LockedImage, Placement
from provisioner.domain.registry.catalog import Catalog
from provisioner.domain.selection.selection import Selection
from provisioner.domain.values.event import Event
from provisioner.domain.values.problem import ProblemError
from provisioner.workflow.lock.lock import Choice
from tests.adapters.registry.made_image import an_image
from tests.adapters.registry.scripted_registry import ScriptedRegistry, served
from tests.builders import a_lock, a_locked_image
from tests.cli.running import run
from tests.lab import pki
from tests.workflow.rollout.test_preflight import prepared

IMAGE = an_image()
REPOSITORY = "provisioner/lab"


@pytest.fixture
def ca_folder(tmp_path: Path) -> Path:
    pki.make_ca(tmp_path)
    pki.issue(tmp_path, tmp_path / "server", ["IP:127.0.0.1"])
    return tmp_path


@pytest.fixture
def registry(ca_folder: Path) -> Iterator[ScriptedRegistry]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(ca_folder / "server/server.crt", ca_folder / "server/server.key")
    made = ScriptedRegistry()
    made.put(REPOSITORY, "t", IMAGE)
    with served(made, tls=context):
        yield made


def recheck(image: LockedImage, ca: str | None) -> list[str]:
    news: list[Event] = []
    lock = a_lock(image).model_copy(update={"registry_ca": ca})
    recheck_with_lock(lock, prepared(("create", image, 5)), news.append)
    return [event.kind for event in news if event.phase == "stage"]


def locked(registry: ScriptedRegistry) -> LockedImage:
    return a_locked_image(lab=f"{registry.host}/{REPOSITORY}@{IMAGE.manifest}")


def test_the_registry_is_checked_with_the_ca_of_the_lock(registry: ScriptedRegistry, ca_folder: Path) -> None:
    ca = pki.ca_certificate(ca_folder).read_text()
    assert recheck(locked(registry), ca) == ["started", "done"]
    assert any(IMAGE.layers[0] in asked.path for asked in registry.asked)
    registry.lose(IMAGE.layers[0])
    with pytest.raises(ProblemError) as ended:
        recheck(locked(registry), ca)
    assert IMAGE.layers[0] in ended.value.problems[0].what
    assert "ask the lab's admin" in ended.value.problems[0].fix


def test_a_registry_that_cannot_be_checked_from_here_is_no_error(registry: ScriptedRegistry) -> None:
    assert recheck(locked(registry), None) == ["started", "note"]
    assert recheck(a_locked_image(lab=f"127.0.0.1:1/{REPOSITORY}@{IMAGE.manifest}"), None) == ["started", "note"]


def test_a_new_lock_takes_the_people_of_the_one_before_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run("init", "demo")
    directory, people, events = read_lab("demo"), {"anna": Placement(node="n1")}, list[Event]()
    chosen = Choice(
        Selection(decision="none", torch=None, tag=None, nodes={}, advice=()),
        Catalog(mirror="mirror.lab:5200", checked_at=datetime(2026, 11, 29, tzinfo=UTC)),
    )
    monkeypatch.setattr(wiring, "_choose", lambda *_, **__: {"default": chosen})
    assert new_lock(directory, {}, events.append).result.lock.people == {}
    write_lock(directory.lock, a_lock().model_copy(update={"people": people}))
    assert new_lock(directory, {}, events.append).result.lock.people == people
