"""Digest and identity of a tag: on a real registry, and on one that returns no digest to a HEAD."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from provisioner.adapters.registry.client import Registry
from provisioner.adapters.state.files import cache_home
from provisioner.domain.values.image_identity import ImageIdentity
from provisioner.domain.values.problem import ProblemError
from provisioner.domain.values.reference import ImageReference
from tests.adapters.registry.made_image import an_image, an_index, digest_of, push
from tests.adapters.registry.real_registry import real_registry
from tests.adapters.registry.scripted_registry import API, Answer, ReceivedRequest, Script, ScriptedRegistry, served

AMD64, ARM64 = "linux/amd64", "linux/arm64"
IMAGE, ARM = an_image(), an_image(platform=ARM64)
BOTH = an_index((AMD64, IMAGE), (ARM64, ARM))
ONE, INDEX, NONE = (ImageReference(repository="a/b", tag=tag) for tag in ("one", "index", "none"))


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    place: Path = tmp_path_factory.mktemp("registry") / "data"
    with real_registry(place) as registry:
        push(registry.host, "a/b", "one", IMAGE)
        push(registry.host, "a/b", "index", BOTH)
        yield registry.host


@pytest.mark.lab
def test_digest_and_identity_on_a_real_registry(real: str) -> None:
    with Registry(real, plain_http=True, environment={}) as registry:
        assert registry.digest(ONE) == IMAGE.manifest
        assert registry.digest(INDEX) == digest_of(BOTH.body)
        assert registry.digest(NONE) is None
        assert registry.identity(ONE, AMD64) == ImageIdentity(
            tag=IMAGE.manifest, manifest=IMAGE.manifest, config=IMAGE.config
        )
        assert registry.identity(INDEX, ARM64) == ImageIdentity(
            tag=digest_of(BOTH.body), manifest=ARM.manifest, config=ARM.config
        )
        assert registry.identity(NONE, AMD64) is None


def _no_head(asked: ReceivedRequest) -> Answer | None:
    return Answer(405, API) if asked.method == "HEAD" else None


def _no_digest(asked: ReceivedRequest) -> Answer | None:
    return Answer(200, API, b"{}") if asked.method == "HEAD" else None


@pytest.mark.parametrize("script", [_no_head, _no_digest])
def test_digest_comes_from_the_manifest_if_head_has_none(script: Script) -> None:
    made = ScriptedRegistry(script)
    made.put("a/b", "one", IMAGE)
    with served(made), Registry(made.host, plain_http=True, environment={}) as registry:
        assert registry.digest(ONE) == IMAGE.manifest


def test_digest_costs_one_head_request() -> None:
    made = ScriptedRegistry()
    made.put("a/b", "one", IMAGE)
    with served(made), Registry(made.host, plain_http=True, environment={}) as registry:
        assert registry.digest(ONE) == IMAGE.manifest
    assert [asked.method for asked in made.asked if "/manifests/" in asked.path] == ["HEAD"]


def test_digest_and_identity_raise_without_an_answer() -> None:
    made = ScriptedRegistry(lambda asked: Answer(403) if "/manifests/" in asked.path else None)
    with served(made), Registry(made.host, plain_http=True, environment={}) as registry:
        for ask in (lambda: registry.digest(ONE), lambda: registry.identity(ONE, AMD64)):
            with pytest.raises(ProblemError) as ended:
                ask()
            assert ended.value.problems[0].code == "denied"


def test_identity_of_a_digest_is_cached_and_of_a_tag_is_not() -> None:
    made = ScriptedRegistry()
    made.put("a/b", "one", BOTH)
    pinned = ONE.pinned(digest_of(BOTH.body))
    with served(made), Registry(made.host, plain_http=True, environment={}) as registry:
        first = registry.identity(pinned, AMD64)
        made.asked.clear()
        assert registry.identity(pinned, AMD64) == first
        assert made.asked == []
        assert registry.identity(pinned, ARM64) != first
        made.asked.clear()
        assert registry.identity(ONE, AMD64) == first
    assert [asked.path for asked in made.asked if asked.path.endswith("/one")]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"x": {"tag": "y"}}'])
def test_damaged_identity_cache_is_ignored(content: str) -> None:
    made = ScriptedRegistry()
    made.put("a/b", "one", IMAGE)
    pinned = ONE.pinned(IMAGE.manifest)
    with served(made), Registry(made.host, plain_http=True, environment={}) as registry:
        first = registry.identity(pinned, AMD64)
        (cache_home() / "identities.json").write_text(content)
        assert registry.identity(pinned, AMD64) == first
