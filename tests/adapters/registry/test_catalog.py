"""Lists of tags, catalogs and configs, and how many requests they cost."""

import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from provisioner.adapters.registry.client import Registry
from provisioner.adapters.registry.transport import RetryPolicy
from provisioner.domain.lab.lab import MirrorKind
from provisioner.domain.values.event import Event
from provisioner.domain.values.problem import ProblemError
from provisioner.domain.values.reference import ImageReference
from tests.adapters.registry.made_image import a_layer, an_image, digest_of
from tests.adapters.registry.scripted_registry import Answer, ReceivedRequest, Script, ScriptedRegistry, ranged, served
from tests.lab import pki

REPOSITORY = "pytorch/pytorch"
AMD64 = "linux/amd64"
SHARED = a_layer(seed=30)
FAIL_FAST = RetryPolicy(connect=2, read=5, whole=10, attempts=2, first_wait=0.01)

Serve = Callable[..., ScriptedRegistry]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start registries with images a, b, c that share a layer."""
    with ExitStack() as stack:

        def start(*scripts: Script, tls: ssl.SSLContext | None = None) -> ScriptedRegistry:
            registry = ScriptedRegistry(*scripts)
            for number, tag in enumerate("cab"):
                registry.put(REPOSITORY, tag, an_image([SHARED, a_layer(seed=number)], env=[f"N={number}", "EMPTY="]))
            return stack.enter_context(served(registry, tls))

        yield start


def mirror(host: str, *, kind: MirrorKind = "static", on_event: Callable[[Event], None] = lambda _: None) -> Registry:
    return Registry(host, plain_http=True, kind=kind, policy=FAIL_FAST, environment={}, on_event=on_event)


def pages(*answers: Answer) -> Script:
    """Answer with the pages of the list of tags, in turn."""
    left = iter(answers)
    return lambda asked: next(left) if "/tags/list" in asked.path else None


def test_tags_follow_the_links_of_their_pages(serve: Serve) -> None:
    registry = serve()
    elsewhere = f"http://{registry.host}/v2/{REPOSITORY}/tags/list?last=z"
    registry.scripts.append(
        pages(
            Answer(
                200, {"Link": f'</v2/{REPOSITORY}/tags/list?last=2.9.1>; rel="next"'}, b'{"tags": ["2.13.0", "2.9.1"]}'
            ),
            Answer(200, {"Link": '<list?last=y>; rel="next"'}, b'{"tags": []}'),
            Answer(200, {"Link": f"<{elsewhere}>; rel=next"}, b'{"tags": null}'),
            Answer(
                200,
                {"Link": '<list>; rel="prev"'},
                b'{"tags": ["latest", "2.9.1", "../x", "sha256-%s.sig"]}' % (b"0" * 64),
            ),
        )
    )
    with mirror(registry.host) as client:
        assert client.tags(REPOSITORY) == ("2.13.0", "2.9.1", "latest")
    asked = [a.path for a in registry.asked if "tags" in a.path]
    assert asked[1:] == [f"/v2/{REPOSITORY}/tags/list?last={last}" for last in ("2.9.1", "y", "z")]


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (Answer(404), "repository_missing"),
        (Answer(200, {}, b"<html>"), "unreachable"),
        (Answer(200, {}, b'{"tags": {"a": 1}}'), "unreachable"),
        (Answer(403), "denied"),
        (Answer(200, {"Link": '<list>; rel="next"'}, b'{"tags": []}'), "unreachable"),
    ],
)
def test_unreadable_tag_list_raises_its_problem(serve: Serve, answer: Answer, code: str) -> None:
    registry = serve(lambda asked: answer if "/tags/list" in asked.path else None)
    with mirror(registry.host) as client:
        for ask in (lambda: client.tags(REPOSITORY), lambda: client.catalog([REPOSITORY], AMD64)):
            with pytest.raises(ProblemError) as refused:
                ask()
            assert [problem.code for problem in refused.value.problems] == [code]


def test_catalog_reads_configs_and_checks_shared_layer_once(serve: Serve) -> None:
    registry, events = serve(), list[Event]()
    moment = datetime(2026, 9, 1, tzinfo=UTC)
    with mirror(registry.host, on_event=events.append) as client:
        catalog = client.catalog([REPOSITORY], AMD64, wanted=lambda tag: tag != "b", clock=lambda: moment)
    assert (catalog.mirror, catalog.checked_at, catalog.problems) == (registry.host, moment, ())
    assert [entry.image.reference for entry in catalog.listings] == [f"{registry.host}/{REPOSITORY}:{t}" for t in "ca"]
    assert [entry.image.env for entry in catalog.listings] == [{"N": "0", "EMPTY": ""}, {"N": "1", "EMPTY": ""}]
    image = catalog.listings[0].image
    assert (image.sync, image.platforms, image.labels) == ("complete", (AMD64,), {"made.by": "test"})
    assert image.history == ("RUN |1 CUDA_VERSION=12.8.1 /bin/sh -c true",)
    asked = [(a.headers.get("Range"), a.path) for a in registry.asked if digest_of(SHARED) in a.path]
    assert len(asked) == 1
    assert {(event.text, event.done, event.total) for event in events} >= {("Checking layers", 3, 3)}


def one_range(asked: ReceivedRequest) -> str:
    return f"bytes={asked.headers['Range'].rpartition(',')[2]}"


# How servers without multipart ranges answer the request for both ends of a layer.
WITHOUT_PARTS: dict[str, Callable[[ReceivedRequest], Answer]] = {
    "the whole": lambda _: Answer(200, {}, SHARED),
    "one of the two": lambda asked: ranged(SHARED, replace(asked, headers={"Range": one_range(asked)})),
    "refused": lambda _: Answer(403),
    "bad request": lambda _: Answer(400),
    "not satisfiable": lambda _: Answer(416),
    "multipart without a part": lambda _: Answer(206, {"Content-Type": "multipart/byteranges; boundary=x"}, b"--x--"),
}


@pytest.mark.parametrize("answer", WITHOUT_PARTS)
def test_server_without_multipart_ranges_is_asked_for_each_end(serve: Serve, answer: str) -> None:
    """And, where it showed once that it does not know them, never again for both."""
    registry = serve(lambda asked: WITHOUT_PARTS[answer](asked) if "," in asked.headers.get("Range", "") else None)
    with Registry(registry.host, plain_http=True, environment={}, connections=1) as client:
        catalog = client.catalog([REPOSITORY], AMD64)
    both = [asked for asked in registry.asked if "," in asked.headers.get("Range", "")]
    each = [asked for asked in registry.asked if "Range" in asked.headers and asked not in both]
    assert {entry.image.sync for entry in catalog.listings} == {"complete"}
    assert (len(both), len(each)) == (1, 8)


def test_caching_mirror_is_not_asked_for_both_ends_in_one_request(serve: Serve) -> None:
    registry = serve()
    with mirror(registry.host, kind="registry-proxy") as client:
        assert client.inspect(ImageReference(repository=REPOSITORY, tag="a"), AMD64).image.sync == "complete"
    assert not [asked for asked in registry.asked if "," in asked.headers.get("Range", "")]


@pytest.mark.parametrize("kind", ["registry-proxy", "harbor-proxy", "lazy"])
def test_catalog_of_caching_mirror_requests_no_blob(serve: Serve, kind: MirrorKind) -> None:
    registry = serve()
    with mirror(registry.host, kind=kind) as client:
        catalog = client.catalog([REPOSITORY], AMD64)
        assert not [asked for asked in registry.asked if "/blobs/" in asked.path]
        deliberate = client.inspect(ImageReference(repository=REPOSITORY, tag="a"), AMD64)
    assert [entry.image.sync for entry in catalog.listings] == ["cold"] * 3
    assert (deliberate.image.sync, deliberate.image.env) == ("complete", {"N": "1", "EMPTY": ""})


def test_missing_repository_does_not_affect_others(serve: Serve) -> None:
    registry = serve()
    with mirror(registry.host) as client:
        catalog = client.catalog([REPOSITORY, "no/such"], AMD64)
    assert len(catalog.listings) == 3
    assert [problem.code for problem in catalog.problems] == ["repository_missing"]


@pytest.mark.parametrize(("kind", "width"), [("static", 32), ("redirector", 8), ("lazy", 8)])
def test_connections_stay_within_limit_for_kind_of_mirror(serve: Serve, kind: MirrorKind, width: int) -> None:
    busy, most, lock = [0], [0], threading.Lock()

    def crowded(asked: ReceivedRequest) -> Answer | None:
        if "/manifests/" in asked.path:
            with lock:
                busy[0] += 1
                most[0] = max(most[0], busy[0])
            time.sleep(0.02)
            with lock:
                busy[0] -= 1
        return None

    registry = serve(crowded)
    references = [ImageReference(repository=REPOSITORY, tag=f"t{number}") for number in range(60)]
    with mirror(registry.host, kind=kind) as client:
        client.check(references, AMD64)
    assert 1 < most[0] <= width


def test_existence_and_config_of_an_image(serve: Serve) -> None:
    registry = serve(lambda asked: Answer(500) if asked.path.endswith("broken") else None)
    image = an_image([SHARED, a_layer(seed=1)], env=["N=1", "EMPTY="])
    known, unknown = (ImageReference(repository=REPOSITORY, tag=tag) for tag in ("a", "z"))
    with mirror(registry.host) as client:
        assert client.exists(known) == image.manifest
        assert client.exists(known.pinned(image.manifest)) == image.manifest
        config = client.inspect(known, AMD64).config
        assert config is not None
        assert (config.labels, len(config.diff_ids), config.digest) == ({"made.by": "test"}, 2, image.config)
        assert (client.exists(unknown), client.inspect(unknown, AMD64).config) == (None, None)
        with pytest.raises(ProblemError) as refused:
            client.exists(ImageReference(repository=REPOSITORY, tag="broken"))
    assert refused.value.problems[0].code == "unreachable"


def test_requests_carry_user_agent(serve: Serve) -> None:
    registry = serve()
    with mirror(registry.host) as client:
        client.tags(REPOSITORY)
    assert {asked.headers["User-Agent"].split("/")[0] for asked in registry.asked} == {"provisioner"}


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a certificate authority, and its certificate for 127.0.0.1 in `server`."""
    root = tmp_path_factory.mktemp("pki")
    pki.make_ca(root)
    pki.issue(root, root / "server", ["IP:127.0.0.1"])
    return root


def server_side(authority: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority / "server/server.crt", authority / "server/server.key")
    return context


def test_tls_certificate_is_trusted_by_given_authority_alone(serve: Serve, authority: Path) -> None:
    registry = serve(tls=server_side(authority))
    reference = ImageReference(repository=REPOSITORY, tag="a")
    with Registry(registry.host, ca=pki.ca_certificate(authority), environment={}) as client:
        assert client.inspect(reference, AMD64).report.state == "complete"
    with Registry(registry.host, environment={}) as client:
        report = client.inspect(reference, AMD64).report
        with pytest.raises(ProblemError):
            client.tags(REPOSITORY)
    assert (report.state, [problem.code for problem in report.problems]) == ("unknown", ["tls_untrusted"])
    assert "--ca" in report.problems[0].fix


def test_plain_http_and_tls_mismatch_is_reported(serve: Serve, authority: Path) -> None:
    reference = ImageReference(repository=REPOSITORY, tag="a")
    with Registry(serve().host, environment={}) as client:
        report = client.inspect(reference, AMD64).report
    assert (report.state, "--plain-http" in report.problems[0].fix) == ("no_such_service", True)
    with mirror(serve(tls=server_side(authority)).host) as client:
        assert client.inspect(reference, AMD64).report.state != "complete"


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_unreadable_ca_file_is_a_usage_error(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ProblemError) as refused:
        Registry("127.0.0.1:1", ca=file, environment={})
    assert (refused.value.ending, refused.value.problems[0].code) == ("usage", "ca_unreadable")
    assert str(file) in refused.value.problems[0].what
