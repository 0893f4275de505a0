"""Images that a node fetches before a rollout, with an engine that is a fake on a real socket."""

from pathlib import Path
from typing import Any

import pytest

from tests.playbooks.fake_engine import FakeEngine
from tests.playbooks.node_code import ProblemError, module_util
from tests.playbooks.orders import REFERENCE, an_order

fetches = module_util("fetch.fetch")
retention = module_util("transaction.retention")
OTHER = REFERENCE.replace("a" * 64, "b" * 64)
KEPT, OLD = f"provisioner/keep:fetched.demo.{'a' * 12}", f"provisioner/keep:fetched.demo.{'b' * 12}"
IMAGE: dict[str, Any] = {"RootFS": {"Layers": []}}


class Job:
    """A job that only collects its reports."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def report(self, text: str, *_: Any) -> None:
        self.texts.append(text)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module_util("docker.pull"), "PAUSE", 0)
    monkeypatch.setattr(module_util("seat.precheck"), "compose_version", lambda: "2.26.1")


def fetch(folder: Path, *references: str) -> tuple[dict[str, Any], list[str]]:
    seat = an_order(folder)
    images = [
        {
            "image": {**seat["image"], "reference": reference},
            "registry": {**seat["registry"], "ca": None},
            "deadlines": seat["deadlines"],
        }
        for reference in references
    ]
    keep = [reference.partition("@")[2] for reference in references]
    job = Job()
    order = {"run": "r1", "state_root": str(folder), "lab": "demo", "images": images, "keep": keep}
    return fetches.fetch(order, job), job.texts


def test_an_image_is_pulled_and_kept_from_prune(tmp_path: Path, engine: FakeEngine) -> None:
    engine.pulls, engine.brings = [[]], (REFERENCE, dict(IMAGE))
    record, texts = fetch(tmp_path, REFERENCE)
    assert record == {"state": "committed"}
    assert engine.images[REFERENCE]["RepoTags"] == [KEPT]
    assert texts == ["image 1 of 1: pulling"]


def test_an_image_that_is_there_is_kept_and_not_pulled_again(tmp_path: Path, engine: FakeEngine) -> None:
    engine.images[REFERENCE] = dict(IMAGE)
    assert fetch(tmp_path, REFERENCE) == ({"state": "unchanged"}, [])
    assert engine.images[REFERENCE]["RepoTags"] == [KEPT]


@pytest.mark.parametrize(
    ("tags", "left"),
    [
        ([OLD], None),
        ([OLD, "provisioner/keep:demo-student-g1"], ["provisioner/keep:demo-student-g1"]),
        (["provisioner/keep:fetched.other.bbbbbbbbbbbb"], ["provisioner/keep:fetched.other.bbbbbbbbbbbb"]),
        ([KEPT], [KEPT]),
    ],
)
def test_what_the_lab_no_longer_needs_is_given_up_unless_something_else_keeps_it(
    tmp_path: Path, engine: FakeEngine, tags: list[str], left: list[str] | None
) -> None:
    engine.images[REFERENCE] = dict(IMAGE)
    engine.images[OTHER] = {**IMAGE, "RepoTags": list(tags), "RepoDigests": [OTHER]}
    fetch(tmp_path, REFERENCE)
    assert engine.images.get(OTHER, {}).get("RepoTags") == left


def test_images_before_one_that_cannot_be_pulled_stay(tmp_path: Path, engine: FakeEngine) -> None:
    engine.images[REFERENCE] = dict(IMAGE)
    engine.pulls = [[{"error": "manifest unknown"}]] * 2
    with pytest.raises(ProblemError, match="manifest unknown"):
        fetch(tmp_path, REFERENCE, OTHER)
    assert engine.images[REFERENCE]["RepoTags"] == [KEPT]
