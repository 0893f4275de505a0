"""Engines that keep images in containerd's store: in the engine's own folder, or in that of a containerd service.

The faults of a switch are tried on the second kind, too: see the fixture `bed`. Each test starts from the state that
the one before it left.
"""

import gzip
import json
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.client import HTTPSConnection

import pytest

from provisioner.domain.lab.lock import LockedImage
from tests.adapters.registry.made_image import Made, digest_of, push_over
from tests.lab.bed import Lab, running_lab
from tests.lab.engine import Engine
from tests.lab.kinds import DEBIAN13_CONTAINERD, FORKY, Kind, build_image
from tests.playbooks.on_nodes import REPOSITORY, SEAT, Images, Rollout

pytestmark = pytest.mark.lab

SMALL_FORKY = replace(FORKY, containerd_size="2g")
SMALL = pytest.param(SMALL_FORKY, marks=pytest.mark.long("engines"))
BALLAST = "/var/lib/containerd/ballast"
# Leaves a megabyte.
FILL_UP = f"fallocate -l $(( $(df --output=avail -B1 /var/lib/containerd | tail -1) - 1000000 )) {BALLAST}"
STORES = {DEBIAN13_CONTAINERD: "/var/lib/docker/containerd/daemon", SMALL_FORKY: "/var/lib/containerd"}


@pytest.fixture(scope="module")
def kind(request: pytest.FixtureRequest) -> Kind:
    found: Kind = request.param
    return found


@pytest.fixture(scope="module")
def rollout(testbed: Engine, kind: Kind) -> Iterator[Rollout]:
    build_image(testbed, kind)
    with running_lab(testbed, ["rtx5090x2-580"], kind=kind) as lab:
        yield Rollout(lab)


@pytest.fixture(scope="module")
def images(rollout: Rollout) -> Images:
    return Images(rollout.lab)


@pytest.mark.parametrize("kind", [DEBIAN13_CONTAINERD, SMALL], indirect=True, ids=str)
def test_a_seat_is_rolled_out_and_a_staged_image_survives_a_prune(rollout: Rollout, images: Images, kind: Kind) -> None:
    node = rollout.lab.node("node1")
    order = rollout.order(images.first, "r-first")
    with ThreadPoolExecutor(1) as pool:
        with rollout.lab.registry.paused():  # otherwise the pull may end before its progress is read
            staging = pool.submit(rollout.stage, order)
            rollout.wait_for_bytes()
        assert staging.result().state == "staged"
    record = rollout.switch(order)
    assert (record.state, record.problems) == ("committed", ())
    assert images.first.bytes in {event.total for event in rollout.events if event.unit == "B"}
    assert rollout.stage(rollout.order(images.second, "r-staged")).state == "staged"
    node.exec("docker", "image", "prune", "-f")
    node.exec("docker", "image", "inspect", images.second.lab)
    node.exec("docker", "exec", "-u", "root", f"{SEAT}-ssh-1", "sh", "-c", "head -c 3000000 /dev/zero >/added")
    facts = rollout.facts()
    (seat,) = facts.seats
    assert (seat.image, seat.drift, set(seat.services.values())) == (images.first.lab, (), {"healthy"})
    assert 3_000_000 <= (seat.layer_bytes or 0) < 6_000_000
    assert facts.engine is not None
    assert (facts.engine.root_dir, facts.engine.image_store) == ("/var/lib/docker", STORES[kind])


def push_recompressed(lab: Lab, image: LockedImage) -> LockedImage:
    """Push an image with its layers compressed in another way: other digests, the same content."""
    manifest = json.loads(lab.registry.blob(image.lab.rpartition("@")[2]).read_text())
    config = lab.registry.blob(manifest["config"]["digest"]).read_bytes()
    data = [gzip.decompress(lab.registry.blob(layer["digest"]).read_bytes()) for layer in manifest["layers"]]
    layers = [gzip.compress(content, compresslevel=1, mtime=0) for content in data]
    digests = tuple(map(digest_of, layers))
    assert not {layer["digest"] for layer in manifest["layers"]} & set(digests)
    described = [
        {**old, "digest": digest, "size": len(layer)}
        for old, digest, layer in zip(manifest["layers"], digests, layers, strict=True)
    ]
    body = json.dumps({**manifest, "layers": described}).encode()
    blobs = {digest_of(blob): blob for blob in (config, *layers)}
    made = Made(body, manifest["mediaType"], digest_of(config), digests, blobs, digest_of(body))
    trusted = ssl.create_default_context(cafile=str(lab.registry.ca))
    push_over(HTTPSConnection(lab.registry.address, timeout=60, context=trusted), REPOSITORY, "recompressed", made)
    reference = f"{lab.registry.address}/{REPOSITORY}@{made.manifest}"
    return image.model_copy(update={"lab": reference, "bytes": sum(map(len, layers))})


@pytest.mark.parametrize("kind", [SMALL], indirect=True, ids=str)
def test_a_seat_is_upgraded_and_rolled_back_after_a_prune(rollout: Rollout, images: Images) -> None:
    first = rollout.seat()
    assert rollout.roll_out(images.second).state == "committed"
    rollout.lab.node("node1").exec("docker", "image", "prune", "-f")
    back = rollout.roll_back()
    assert (back.state, back.generation, back.problems) == ("committed", first.generation, ())
    seat = rollout.seat()
    assert (seat.image, seat.drift, set(seat.services.values())) == (images.first.lab, (), {"healthy"})
    assert (seat.layer_bytes or 0) < 3_000_000


@pytest.mark.parametrize("kind", [SMALL], indirect=True, ids=str)
def test_a_store_of_2_gb_beside_a_large_data_root_is_too_small_before_anything_stops(
    rollout: Rollout, images: Images
) -> None:
    node = rollout.lab.node("node1")
    running, seat, engine = node.exec("docker", "ps", "-q", "--no-trunc"), rollout.seat(), rollout.facts().engine
    assert engine is not None
    free = int(node.exec("df", "--output=avail", "-B1", "/var/lib/docker").split()[1])
    assert (engine.free_bytes or 0) < 2 << 30 < free
    order = rollout.order(images.third, "r-large")
    large = order.model_copy(update={"image": order.image.model_copy(update={"bytes": 500_000_000})})
    refused = [rollout.stage(large)]
    node.exec("fallocate", "-l", "1G", BALLAST)
    refused.append(rollout.stage(order))
    node.exec("rm", BALLAST)
    for record in refused:
        assert (record.state, [problem.code for problem in record.problems]) == ("failed", ["disk_full"])
        assert "/var/lib/containerd has" in record.problems[0].what
    assert not node.exec("docker", "image", "ls", "-q", images.third.lab)
    assert (node.exec("docker", "ps", "-q", "--no-trunc"), rollout.seat()) == (running, seat)
    assert rollout.stage(order).state == "staged"


@pytest.mark.parametrize("kind", [SMALL], indirect=True, ids=str)
def test_a_store_that_fills_up_during_a_pull_stops_no_container(rollout: Rollout, images: Images) -> None:
    node, seat = rollout.lab.node("node1"), rollout.seat()
    running, order = node.exec("docker", "ps", "-q", "--no-trunc"), rollout.order(images.big, "r-full")
    rollout.events.clear()
    with ThreadPoolExecutor(1) as pool:
        with rollout.lab.registry.paused():
            staging = pool.submit(rollout.stage, order)
            rollout.wait_for_bytes()
            node.exec("sh", "-c", FILL_UP)
        record = staging.result()
    node.exec("rm", BALLAST)
    assert (record.state, [problem.code for problem in record.problems]) == ("failed", ["pull_failed"])
    assert "no space left" in record.problems[0].what
    assert (node.exec("docker", "ps", "-q", "--no-trunc"), rollout.seat()) == (running, seat)
    assert rollout.stage(order.model_copy(update={"run": "r-room"})).state == "staged"


@pytest.mark.parametrize("kind", [SMALL], indirect=True, ids=str)
def test_layers_that_are_compressed_anew_are_refused_until_the_unpacked_ones_are_gone(
    rollout: Rollout, images: Images
) -> None:
    """The engine does not load them, and cannot say then which layers the image has."""
    node, seat = rollout.lab.node("node1"), rollout.seat()
    running, again = node.exec("docker", "ps", "-q", "--no-trunc"), push_recompressed(rollout.lab, images.first)
    refused = rollout.stage(rollout.order(again, "r-anew"))
    assert (refused.state, [problem.code for problem in refused.problems]) == ("failed", ["image_incomplete"])
    assert (node.exec("docker", "ps", "-q", "--no-trunc"), rollout.seat()) == (running, seat)
    assert rollout.take_down("remove").state == "committed"
    node.exec("docker", "image", "prune", "-af")
    assert rollout.roll_out(again).state == "committed"
