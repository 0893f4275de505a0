"""The rendered tables: nodes, catalog, selection, lock."""

from datetime import UTC, date, datetime

import pytest

from provisioner.adapters.lab.compatibility_data import load
from provisioner.console.catalog import catalog_table, sync_table
from provisioner.console.facts import check_data_age, facts_view
from provisioner.console.lock import lock_diff, lock_view, people_change
from provisioner.console.nodes import probe_table
from provisioner.console.selection import better_tags_view, selection_view
from provisioner.domain.lab.lock import Placement
from provisioner.domain.registry.catalog import Catalog, Listing
from provisioner.domain.registry.image_problems import layer_missing
from provisioner.domain.selection.selection import Selection, select
from provisioner.domain.values.image import TaggedImage
from provisioner.domain.values.node import Gpu, NodeFacts, NodeProfile
from provisioner.domain.values.problem import Problem
from provisioner.domain.values.sync import SyncReport, SyncState
from tests.builders import a_digest, a_gpu, a_lock, a_node
from tests.console.screen import golden_text, render_text

TAG = "mirror.lab:5200/pytorch/pytorch:2.8.0-cuda12.8-cudnn9-runtime"


def test_equal_nodes_share_a_row_of_the_probe_table() -> None:
    lost = Problem("gpu_lost", "n1: GPU 1 fell off the bus", "w", "f")
    down = Problem("unreachable", "no route to host", "w", "f")
    probed: dict[str, NodeFacts | Problem] = {f"pc{number:03}": a_node(f"pc{number:03}") for number in range(1, 201)}
    probed["n1"] = a_node("n1", gpus=(a_gpu("n1"), a_gpu("n1", 1), Gpu(index=2, name="x\x1b[2J", problems=(lost,))))
    probed["n2"] = NodeFacts(name="n2", absent_because={"driver": "not loaded", "engine": "no docker.sock"})
    probed["n3"] = down
    assert render_text(probe_table(probed), 160) == golden_text("nodes")


COMPLETE = SyncReport(
    reference=TAG, platform="linux/amd64", state=SyncState.COMPLETE, digest=a_digest("a"), bytes=4_260_000_000
)
PARTIAL = SyncReport(
    reference=TAG.replace("2.8.0", "2.9.1"),
    platform="linux/amd64",
    state=SyncState.PARTIAL,
    digest=a_digest("b"),
    bytes=4_300_000_000,
    bytes_missing=210_000_000,
    missing=(a_digest("c"),),
    problems=(layer_missing(a_digest("c"), 210_000_000).problem,),
)


def a_catalog(*reports: SyncReport) -> Catalog:
    listings = tuple(Listing(image=TaggedImage(reference=r.reference, sync=r.state), report=r) for r in reports)
    return Catalog(mirror="mirror.lab:5200", checked_at=datetime(2026, 11, 23, tzinfo=UTC), listings=listings)


def test_the_catalog_of_a_mirror() -> None:
    assert render_text(catalog_table(a_catalog(COMPLETE, PARTIAL)), 140) == golden_text("catalog")


def test_a_check_shows_every_problem() -> None:
    text = render_text(sync_table([PARTIAL]), 140)
    assert "╷ layer_missing  mirror.lab:5200/pytorch/pytorch:2.9.1" in text
    assert "A layer of 210 MB is missing on the mirror" in text
    assert "0 of 1 image complete." in text


def profile(name: str, card: str, capability: str, driver: str, module: str) -> NodeProfile:
    gpus = [{"name": card, "compute_capability": capability}]
    return NodeProfile.model_validate({"name": name, "driver": driver, "kernel_module": module, "gpus": gpus})


def a_selection() -> Selection:
    nodes = [
        *(profile(f"a{number}", "NVIDIA GeForce RTX 5090", "12.0", "570.172.08", "open") for number in (1, 2)),
        profile("b1", "NVIDIA GeForce GTX 1080 Ti", "6.1", "535.104.05", "proprietary"),
        profile("c1", "NVIDIA GeForce RTX 4090", "8.9", "470.82.01", "proprietary"),
    ]
    tags = ["2.8.0-cuda12.8", "2.8.0-cuda12.6", "2.9.1-cuda13.0"]
    images = [TaggedImage(reference=f"m:5/pytorch/pytorch:{tag}-cudnn9-runtime") for tag in tags]
    return select(nodes, images, load())


def test_each_refused_cell_shows_the_reason() -> None:
    assert render_text(selection_view(a_selection(), 100), 110) == golden_text("selection")


def test_a_better_tag_is_shown_with_its_missing_layer() -> None:
    catalog = a_catalog(COMPLETE, PARTIAL, PARTIAL.model_copy(update={"reference": TAG.replace("2.8.0", "2.7.0")}))
    node = profile("n1", "NVIDIA GeForce RTX 5090", "12.0", "570.172.08", "open")
    selection = select([node], [listing.image for listing in catalog.listings], load())
    assert selection.tag == TAG
    text = render_text(better_tags_view(selection, catalog), 120)
    assert text.startswith(f"╷ layer_missing  {PARTIAL.reference}\n")
    assert a_digest("c") in text
    assert "2.7.0" not in text


def test_a_lock_and_its_difference_to_the_previous_one() -> None:
    text = render_text(lock_view(a_lock(), a_selection(), a_catalog(), 100), 120)
    assert "  lab   registry.lab:5201/provisioner/lab@sha256:" in text
    assert render_text(lock_diff("a\nb\n", "a\nb\n")) == "No changes: the lock holds this already."
    assert render_text(lock_diff("a\nb\n", "a\nc\n")) == "--- lab.lock\n+++ lab.lock\n@@ -1,2 +1,2 @@\n a\n-b\n+c"


def test_the_difference_of_a_lock_counts_people_instead_of_listing_them() -> None:
    anna, here, there = Placement(node="n1"), Placement(node="n1", uid=70001), Placement(node="n2", uid=70001)
    old, new = {"a": anna, "b": here, "c": here}, {"a": anna, "c": there, "d": here, "e": here}
    people = people_change(old, new)
    assert people == "4 places of people: 2 added, 1 removed, 1 with another place"
    assert render_text(lock_diff("a\n", "a\n", [people])) == people
    assert render_text(lock_diff("a\n", "b\n", [people])).splitlines()[-2:] == ["+b", people]
    assert people_change(old, old) == people_change({}, {}) == ""


@pytest.mark.parametrize(("day", "old"), [(0, False), (120, False), (121, True), (-3, False)])
def test_data_older_than_120_days_is_a_problem(day: int, old: bool) -> None:
    data = load()
    today = date.fromordinal(date.fromisoformat(data.version).toordinal() + day)
    found = check_data_age(data, today)
    assert (found is not None) is old
    assert f"Compatibility data of {data.version}, {max(day, 0)} days old." in render_text(facts_view(data, today))


def test_every_block_of_the_data_is_shown_with_its_source() -> None:
    text = render_text(facts_view(load(), date(2026, 12, 1)), 2000)
    for safe_block in ("releases (", "driver floors (", "architectures (", "products ("):
        assert safe_block in text
