"""Comparison of the mirror's tags with upstream, and the number of requests it needs."""

import pytest

from provisioner.domain.values.image_identity import ImageIdentity
from provisioner.domain.values.reference import ImageReference
from provisioner.domain.values.sync import SyncReport, SyncState
from provisioner.workflow.mirror.freshness import Freshness, upstream_mapper
from tests.builders import a_digest, a_lab

HERE = ImageIdentity(tag=a_digest("index"), manifest=a_digest("amd64"), config=a_digest("id"))


class ASource:
    def __init__(self, has: ImageIdentity | None) -> None:
        self.has, self.asked = has, list[str]()

    def digest(self, reference: ImageReference) -> str | None:
        self.asked.append(f"HEAD {reference}")
        return None if self.has is None else self.has.tag

    def identity(self, reference: ImageReference, platform: str) -> ImageIdentity | None:
        self.asked.append(f"GET {reference} {platform}")
        return self.has


def a_report(tag: str = "t", state: SyncState = SyncState.COMPLETE) -> SyncReport:
    reference = f"mirror.lab:5200/pytorch/pytorch:{tag}"
    return SyncReport(reference=reference, platform="linux/amd64", state=state, digest=HERE.manifest)


def on_docker_hub(reference: ImageReference) -> ImageReference | None:
    return reference.model_copy(update={"registry": "docker.io"})


def identity_with(**parts: str) -> ImageIdentity:
    return HERE.model_copy(update={name: a_digest(text) for name, text in parts.items()})


OTHER = identity_with(tag="x", manifest="y", config="z")


@pytest.mark.parametrize(
    ("there", "state", "gets"),
    [
        (HERE, "complete", 0),
        (identity_with(tag="amd64"), "complete", 0),  # upstream names the one manifest that the mirror serves
        (identity_with(tag="new index"), "complete", 1),  # a platform more, or an attestation: ours is the same
        (identity_with(tag="new index", manifest="compressed anew"), "complete", 1),
        (OTHER, "stale", 1),
        (None, "complete", 0),
    ],
)
def test_only_a_different_image_upstream_is_stale(there: ImageIdentity | None, state: str, gets: int) -> None:
    upstream = ASource(there)
    assert Freshness(ASource(HERE), upstream, on_docker_hub).report(a_report()).state == state
    assert upstream.asked[0] == "HEAD docker.io/pytorch/pytorch:t"
    assert len(upstream.asked) == 1 + gets


@pytest.mark.parametrize("state", [state for state in SyncState if state is not SyncState.COMPLETE])
def test_incomplete_images_are_not_compared(state: SyncState) -> None:
    upstream = ASource(OTHER)
    assert Freshness(ASource(HERE), upstream, on_docker_hub).report(a_report(state=state)).state is state
    assert upstream.asked == []


def test_at_most_five_tags_are_compared() -> None:
    upstream = ASource(HERE)
    fresh = Freshness(ASource(HERE), upstream, on_docker_hub)
    assert {fresh.report(a_report(f"t{number}")).state for number in range(200)} == {SyncState.COMPLETE}
    assert len(upstream.asked) == 5


@pytest.mark.parametrize(
    ("repositories", "there", "named"),
    [
        (["a/b"], [], "docker.io/a/b:t"),
        (["x/y", "a/b"], ["one", "two"], "docker.io/two:t"),
        (["x/y", "a/b"], ["one"], None),  # the lists have different lengths
        (["x/y"], [], None),
    ],
)
def test_upstream_name_of_a_repository(repositories: list[str], there: list[str], named: str | None) -> None:
    upstream = {"address": "docker.io", "repositories": there}
    settings = a_lab(mirror={"address": "m:5000", "repositories": repositories, "upstream": upstream}).mirror
    found = upstream_mapper(settings)(ImageReference(registry="m:5000", repository="a/b", tag="t"))
    assert (found and str(found)) == named
