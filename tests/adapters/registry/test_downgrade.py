"""Redirects from https to http: only blobs, which are verified by their digest, may come from there."""

import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from provisioner.adapters.registry.client import Registry
from provisioner.adapters.registry.fetch import Fetcher
from provisioner.adapters.registry.http import RequestFailed
from provisioner.domain.values.problem import ProblemError
from provisioner.domain.values.reference import ImageReference
from provisioner.domain.values.sync import SyncState
from tests.adapters.registry.made_image import an_image
from tests.adapters.registry.scripted_registry import API, Answer, ReceivedRequest, ScriptedRegistry, served
from tests.lab import pki

IMAGE, OTHER = an_image(), an_image(env=["OTHER=1"])
TAG = ImageReference(repository="a/b", tag="t")


class Secure(NamedTuple):
    """A registry over https that redirects requests whose paths contain one of `moved` to the plain one.

    `address`: its URL, with a login. `ca`: the file that verifies it.
    """

    registry: Registry
    moved: set[str]
    address: str
    ca: Path


@pytest.fixture
def plain() -> Iterator[ScriptedRegistry]:
    made = ScriptedRegistry()
    made.put("a/b", "t", OTHER)
    made.put("a/b", "same", IMAGE)
    with served(made):
        yield made


@pytest.fixture
def secure(plain: ScriptedRegistry, tmp_path: Path) -> Iterator[Secure]:
    pki.make_ca(tmp_path)
    pki.issue(tmp_path, tmp_path / "server", ["IP:127.0.0.1"])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server/server.crt", tmp_path / "server/server.key")

    def redirect(asked: ReceivedRequest) -> Answer | None:
        is_moved = any(f"/{part}/" in asked.path for part in moved)
        return Answer(307, {**API, "Location": f"http://{plain.host}{asked.path}"}) if is_moved else None

    moved, made = set[str](), ScriptedRegistry(redirect)
    made.put("a/b", "t", IMAGE)
    ca = pki.ca_certificate(tmp_path)
    with served(made, tls=context), Registry(made.host, ca=ca, environment={}) as registry:
        yield Secure(registry, moved, f"https://ann:hunter2@{made.host}", ca)


@pytest.mark.parametrize("moved", ["manifests", "tags", "v2"])
def test_what_a_tag_means_is_not_asked_over_http(secure: Secure, plain: ScriptedRegistry, moved: str) -> None:
    secure.moved.add(moved)
    with pytest.raises(ProblemError, match="redirects from https to http"):
        secure.registry.tags("a/b") if moved == "tags" else secure.registry.identity(TAG, "linux/amd64")
    assert plain.asked == []


def test_blobs_may_come_over_http(secure: Secure) -> None:
    secure.moved.add("blobs")
    assert secure.registry.inspect(TAG, "linux/amd64").report.state is SyncState.COMPLETE


def test_pages_are_not_fetched_over_http(secure: Secure, plain: ScriptedRegistry) -> None:
    secure.moved.add("jobs")
    with Fetcher(ca=secure.ca) as fetcher, pytest.raises(RequestFailed, match="redirects from https to http"):
        fetcher.get(f"{secure.address}/jobs/", 10)
    assert plain.asked == []
