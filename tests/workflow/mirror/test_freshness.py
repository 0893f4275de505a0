"""When the mirror's image is still upstream's, and what it costs to know."""

import pytest

from provisioner.domain.values.image_identity import Identity
from provisioner.domain.values.reference import ImageReference
from provisioner.domain.values.sync import SyncReport, SyncState
from provisioner.workflow.mirror.freshness import Freshness, named_above
from tests.builders import a_digest, a_lab

HERE = Identity(tag=a_digest("index"), manifest=a_digest("amd64"), config=a_digest("id"))


class ASource:
    def __init__(self, has: Identity | None) -> None:
        self.has, self.asked = has, list[str]()

    def digest(self, reference: ImageReference) -> str | None:
        self.asked.append(f"HEAD {reference}")
        return None if self.has is None else self.has.tag

    def identity(self, reference: ImageReference, platform: str) -> Identity | None:
        self.asked.append(f"GET {reference} {platform}")
        return self.has


def a_report(tag: str = "t", state: SyncState = SyncState.COMPLETE) -> SyncReport:
    reference = f"mirror.lab:5200/pytorch/pytorch:{tag}"
    return SyncReport(reference=reference, platform="linux/amd64", state=state, digest=HERE.manifest)


def above(reference: ImageReference) -> ImageReference | None:
    return reference.model_copy(update={"registry": "docker.io"})


def over(**parts: str) -> Identity:
    return HERE.model_copy(update={name: a_digest(text) for name, text in parts.items()})


OTHER = over(tag="x", manifest="y", config="z")


@pytest.mark.parametrize(
    ("there", "state", "gets"),
    [
        (HERE, "complete", 0),
        (over(tag="amd64"), "complete", 0),  # upstream names the one manifest that the mirror serves
        (over(tag="new index"), "complete", 1),  # a platform more, or an attestation: ours is the same
        (over(tag="new index", manifest="compressed anew"), "complete", 1),
        (OTHER, "stale", 1),
        (None, "complete", 0),
    ],
)
def test_stale_is_another_image_and_not_another_wrapping(there: Identity | None, state: str, gets: int) -> None:
    upstream = ASource(there)
    assert Freshness(ASource(HERE), upstream, above).report(a_report()).state == state
    assert upstream.asked[0] == "HEAD docker.io/pytorch/pytorch:t"
    assert len(upstream.asked) == 1 + gets


@pytest.mark.parametrize("state", [state for state in SyncState if state is not SyncState.COMPLETE])
def test_what_is_not_there_is_not_compared(state: SyncState) -> None:
    upstream = ASource(OTHER)
    assert Freshness(ASource(HERE), upstream, above).report(a_report(state=state)).state is state
    assert upstream.asked == []


def test_no_more_tags_are_asked_for_than_a_campus_can_share() -> None:
    upstream = ASource(HERE)
    fresh = Freshness(ASource(HERE), upstream, above)
    assert {fresh.report(a_report(f"t{number}")).state for number in range(200)} == {SyncState.COMPLETE}
    assert len(upstream.asked) == 5


@pytest.mark.parametrize(
    ("repositories", "there", "named"),
    [
        (["a/b"], [], "docker.io/a/b:t"),
        (["x/y", "a/b"], ["one", "two"], "docker.io/two:t"),
        (["x/y", "a/b"], ["one"], None),  # nobody knows which of them it is
        (["x/y"], [], None),
    ],
)
def test_what_a_repository_is_called_upstream(repositories: list[str], there: list[str], named: str | None) -> None:
    upstream = {"address": "docker.io", "repositories": there}
    wish = a_lab(mirror={"address": "m:5000", "repositories": repositories, "upstream": upstream}).mirror
    found = named_above(wish)(ImageReference(registry="m:5000", repository="a/b", tag="t"))
    assert (found and str(found)) == named
