"""SIGKILL of the jobs that publish and remove self-service, at every boundary: the next job ends well.

A boundary is each file, link and folder that is put in its place or removed, each tag of an image, and each command
that starts or stops the broker.
"""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.playbooks.fake_engine import FakeEngine
from tests.playbooks.node_code import module_util
from tests.playbooks.self_service_world import CODE, Site
from tests.playbooks.test_self_service_removal import a_running_seat
from tests.playbooks.world import Killed

BOUNDARIES = {
    "self_service.environments": ("drop_image",),
    "self_service.publish": ("keep_image",),
    "self_service.daemon": ("run",),
    "self_service.units": ("_enable",),
}
NEW = {**CODE, "provisioner/one.py": "x = 2\n"}


class Killer:
    """Ends the process before the boundary of a number; before the first one it only counts."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left, self.passed = -1, 0
        owners = [(module_util(module), name) for module, names in BOUNDARIES.items() for name in names]
        for owner, name in (*owners, (Path, "unlink"), (Path, "replace"), (shutil, "rmtree")):
            monkeypatch.setattr(owner, name, self._marked(getattr(owner, name)))

    def _marked(self, inner: Callable[..., Any]) -> Callable[..., Any]:
        def marked(*arguments: Any, **words: Any) -> Any:
            self.passed += 1
            self.left -= 1
            if self.left == 0:
                raise Killed
            return inner(*arguments, **words)

        return marked


class Crashes:
    """Makes nodes of the same kind, and kills an act on each of them at another boundary."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch, engine: FakeEngine) -> None:
        self._root, self._monkeypatch, self._engine = root, monkeypatch, engine

    def _site(self, number: int, prepare: Callable[[Site], object]) -> tuple[Site, Killer]:
        self._monkeypatch.undo()
        self._monkeypatch.setenv("DOCKER_HOST", f"unix://{self._root}/engine.sock")
        self._engine.images.clear()
        root = self._root / str(number)
        root.mkdir()
        site = Site(root, self._monkeypatch, self._engine)
        prepare(site)
        return site, Killer(self._monkeypatch)

    def of(self, prepare: Callable[[Site], object], act: Callable[[Site], object]) -> Iterator[Site]:
        """Yield a node for each boundary of `act`, which was killed there."""
        site, killer = self._site(0, prepare)
        act(site)
        total = killer.passed
        assert total > 10
        for number in range(1, total + 1):
            site, killer = self._site(number, prepare)
            killer.left = number
            with pytest.raises(Killed):
                act(site)
            killer.left = -1
            yield site


@pytest.fixture
def crashes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: FakeEngine) -> Crashes:
    return Crashes(tmp_path, monkeypatch, engine)


def nothing(_: Site) -> None:
    """The node is bare."""


def published(site: Site) -> None:
    site.publish("1")


def check_published(site: Site, text: str, code: dict[str, str]) -> None:
    """The broker runs from what is on disk, and nothing is left of a job that was killed."""
    assert site.config()["environments"]["default"]["version"] == site.version(text)
    assert site.layout.link("default", "current") == site.version(text)
    assert set(code.values()) <= set(site.program().values())
    assert (site.pid is not None, site.runs_from) == (True, site.program())
    left = {path.name for path in site.layout.folder.glob("[!.]*")}  # the others are written over
    assert left <= {"config.json", "environments", "program", "started.json", "jobs"}
    kept = {site.layout.link("default", link) for link in ("current", "previous")} - {""}
    assert set(site.layout.versions("default")) == kept
    assert site.tags() == {f"provisioner/keep:self-service-default-{version}" for version in kept}
    assert not list(site.layout.environments.glob("*/.*"))


def check_environments(site: Site, *names: str) -> None:
    """These are published, and each image that is kept is that of a version on the node."""
    assert {name: site.layout.link(name, "current") for name in site.layout.names()} == {
        **dict.fromkeys(site.layout.names(), ""),
        **{name: site.version(name) for name in names},
    }
    on_node = [(name, version) for name in site.layout.names() for version in site.layout.versions(name)]
    assert site.tags() == {f"provisioner/keep:self-service-{name}-{version}" for name, version in on_node}
    assert site.config()["environments"].keys() == set(names)
    assert not list(site.layout.environments.glob("*/.*"))


def test_a_second_environment_whose_publication_was_killed_is_published_by_the_next_one(crashes: Crashes) -> None:
    def both(site: Site) -> None:
        site.publish_environments("default", "nlp")

    for site in crashes.of(lambda site: site.publish_environments("default"), both):
        assert site.publish_environments("default", "nlp", run="r2")["state"] in {"committed", "unchanged"}
        check_environments(site, "default", "nlp")


def test_a_withdrawal_of_an_environment_that_was_killed_is_carried_out_by_the_next_one(crashes: Crashes) -> None:
    def one(site: Site) -> None:
        site.publish_environments("default")

    for site in crashes.of(lambda site: site.publish_environments("default", "nlp"), one):
        assert site.publish_environments("default", run="r2")["state"] in {"committed", "unchanged"}
        check_environments(site, "default")


def test_a_first_publication_that_was_killed_is_carried_out_by_the_next_one(crashes: Crashes) -> None:
    for site in crashes.of(nothing, published):
        assert site.publish("1", run="r2")["state"] in {"committed", "unchanged"}
        check_published(site, "1", CODE)


def test_an_update_that_was_killed_is_carried_out_by_the_next_one(crashes: Crashes) -> None:
    for site in crashes.of(published, lambda site: site.publish("2", code=NEW)):
        assert site.publish("2", code=NEW, run="r2")["state"] in {"committed", "unchanged"}
        check_published(site, "2", NEW)
        assert site.layout.link("default", "previous") == site.version("1")


def test_an_update_that_was_killed_can_be_taken_back(crashes: Crashes) -> None:
    for site in crashes.of(published, lambda site: site.publish("2", code=NEW)):
        assert site.publish("1", run="r2")["state"] in {"committed", "unchanged"}
        check_published(site, "1", CODE)


def bad(site: Site) -> dict[str, Any]:
    """Publish what the broker does not understand."""
    site.unreadable = {"n2"}
    return site.publish("2", code=NEW, node="n2", version="0.3.0")


def test_an_update_that_fails_and_is_killed_goes_back_to_what_was_verified_last(crashes: Crashes) -> None:
    for site in crashes.of(published, bad):
        assert bad(site)["state"] == "rolled_back"
        assert (site.config()["node"], site.layout.program_version()) == ("n1", "0.2.0")
        assert (site.pid is not None, site.runs_from) == (True, site.program())
        assert site.publish("1", run="r3")["state"] in {"committed", "unchanged"}
        check_published(site, "1", CODE)


def test_a_failure_after_a_kill_goes_back_to_configuration_and_program_that_belong_together(crashes: Crashes) -> None:
    found = set()
    for site in crashes.of(published, lambda site: site.publish("2", code=NEW)):
        site.unreadable = {"n3"}
        assert site.publish("3", code={**CODE, "provisioner/one.py": "x = 3\n"}, node="n3")["state"] == "rolled_back"
        version = site.config()["environments"]["default"]["version"]
        found.add((version, site.program()["ansible/module_utils/provisioner/one.py"]))
        assert (site.pid is not None, site.runs_from) == (True, site.program())
        assert site.layout.link("default", "current") == version
    assert found == {(site.version("1"), "x = 1\n"), (site.version("2"), "x = 2\n")}


def test_a_first_publication_that_fails_and_is_killed_leaves_no_broker(crashes: Crashes) -> None:
    for site in crashes.of(nothing, bad):
        assert bad(site)["state"] == "failed"
        assert (site.config(), site.program(), site.pid) == ({}, {}, None)
        assert not list(site.units.rglob("*.service"))


def with_seat(site: Site) -> None:
    site.publish("1")
    a_running_seat(site, "ml_anna")


def test_a_removal_that_was_killed_is_carried_out_by_the_next_one(crashes: Crashes) -> None:
    for site in crashes.of(with_seat, lambda site: site.remove()):
        assert site.remove(run="r10")["state"] in {"committed", "unchanged"}
        assert {path.name for path in site.layout.folder.glob("*")} <= {"jobs"}
        assert (site.pid, site.tags(), list(site.units.rglob("*.service"))) == (None, set(), [])
        assert site.remove(run="r11")["state"] == "unchanged"
