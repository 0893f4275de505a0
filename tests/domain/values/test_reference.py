import pytest

from provisioner.domain.values.reference import ImageReference
from tests.builders import a_digest

DIGEST = a_digest("x")


@pytest.mark.parametrize(
    ("text", "registry", "repository", "tag", "digest"),
    [
        (
            "pytorch/pytorch:2.8.0-cuda12.8-cudnn9-runtime",
            None,
            "pytorch/pytorch",
            "2.8.0-cuda12.8-cudnn9-runtime",
            None,
        ),
        ("127.0.0.1:5000/pytorch/pytorch:x", "127.0.0.1:5000", "pytorch/pytorch", "x", None),
        ("localhost/a", "localhost", "a", None, None),
        ("reg:5000/a/b/c", "reg:5000", "a/b/c", None, None),
        ("m.daocloud.io/docker.io/pytorch/pytorch:1", "m.daocloud.io", "docker.io/pytorch/pytorch", "1", None),
        ("[::1]:5000/a:t", "[::1]:5000", "a", "t", None),
        (f"a.b/c@{DIGEST}", "a.b", "c", None, DIGEST),
        (f"a.b/c:t@{DIGEST}", "a.b", "c", "t", DIGEST),
    ],
)
def test_parts_and_back(text: str, registry: str | None, repository: str, tag: str | None, digest: str | None) -> None:
    reference = ImageReference.parse(text)
    assert reference == ImageReference(registry=registry, repository=repository, tag=tag, digest=digest)
    assert str(reference) == text


@pytest.mark.parametrize(
    "text", ["", "UPPER/x", "a:", "a b", "a/../b", "a@sha256:12", "-x", "http://a/b", "a:t:u", "a\n", "a//b"]
)
def test_what_is_no_reference_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not an image reference"):
        ImageReference.parse(text)


def test_an_engine_pulls_by_digest_alone() -> None:
    reference = ImageReference.parse("reg:5000/a:t").pinned(DIGEST)
    assert reference.by_digest() == f"reg:5000/a@{DIGEST}"


def test_without_a_digest_nothing_is_pinned() -> None:
    with pytest.raises(ValueError, match="no digest"):
        ImageReference.parse("a:t").by_digest()
