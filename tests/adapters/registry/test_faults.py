"""Mirrors that lie, stall, redirect or are none: what each is told as. Never complete, unless it is."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace

import pytest

from provisioner.adapters.registry.client import Registry
from provisioner.adapters.registry.wire import Patience
from provisioner.domain.event import Event
from provisioner.domain.lab import MirrorKind
from provisioner.domain.reference import ImageReference
from provisioner.domain.sync import SyncReport
from tests.adapters.registry.made_image import BIG, Made, a_layer, an_image, an_index
from tests.adapters.registry.scripted_registry import API, Answer, Asked, Script, ScriptedRegistry, ranged, served

REPOSITORY = "pytorch/pytorch"
TAG = "2.8.0-cuda12.8-cudnn9-runtime"
REFERENCE = ImageReference(repository=REPOSITORY, tag=TAG)
AMD64 = "linux/amd64"
HASTY = Patience(connect=2, read=5, whole=10, first_wait=0.01, longest_wait=2)
IMAGE = an_image()
PAGE = b"<!DOCTYPE html><title>Log in to the campus network</title>"


@pytest.fixture
def serve() -> Iterator[Callable[..., ScriptedRegistry]]:
    """A registry with the image, doing what the scripts say."""
    with ExitStack() as stack:

        def start(*scripts: Script, image: Made = IMAGE) -> ScriptedRegistry:
            registry = ScriptedRegistry(*scripts)
            registry.put(REPOSITORY, TAG, image)
            return stack.enter_context(served(registry))

        yield start


Serve = Callable[..., ScriptedRegistry]


def check(
    host: str, *, kind: MirrorKind = "static", patience: Patience = HASTY, deep: bool = False, platform: str = AMD64
) -> SyncReport:
    with Registry(host, plain_http=True, kind=kind, patience=patience, environment={}) as registry:
        return registry.check([REFERENCE], platform, deep=deep)[0]


def found(report: SyncReport) -> tuple[str, list[str]]:
    return report.state.value, [problem.code for problem in report.problems]


def for_blob(digest: str, answer: Callable[[Asked], Answer | None]) -> Script:
    return lambda asked: answer(asked) if asked.path.endswith(digest) else None


def always(answer: Answer) -> Callable[[Asked], Answer]:
    return lambda _: answer


def refuse_head(asked: Asked) -> Answer | None:
    return Answer(404, API) if asked.method == "HEAD" else None


def whole_despite_range(asked: Asked) -> Answer | None:
    return ranged(IMAGE.blobs[asked.path.rsplit("/", 1)[1]], replace(asked, headers={})) if _is_blob(asked) else None


def _is_blob(asked: Asked) -> bool:
    return "/blobs/" in asked.path


def no_ranges(status: int) -> Script:
    return lambda asked: Answer(status) if "Range" in asked.headers else None


LAYER = IMAGE.layers[0]
DATA = IMAGE.blobs[LAYER]

LAST = str(len(DATA) - 1)

# What the scripts make of a healthy image, and how a static mirror's must be called then.
FAULTS: dict[str, tuple[Script, str, list[str]]] = {
    "HEAD says 404, GET works": (refuse_head, "complete", []),
    "ranges ignored": (whole_despite_range, "complete", []),
    "ranges refused with 405": (no_ranges(405), "complete", []),
    "ranges refused with 501": (no_ranges(501), "complete", []),
    "manifest 200, layer 403": (for_blob(LAYER, always(Answer(403))), "denied", ["denied"]),
    "layer 404": (for_blob(LAYER, always(Answer(404))), "partial", ["layer_missing"]),
    "layer 410": (for_blob(LAYER, always(Answer(410))), "partial", ["layer_missing"]),
    "layer 500": (for_blob(LAYER, always(Answer(500))), "unknown", ["unreachable"]),
    "layer 418": (for_blob(LAYER, always(Answer(418))), "unknown", ["unreachable"]),
    "layer 429": (for_blob(LAYER, always(Answer(429))), "limited", ["rate_limited"]),
    "config 404": (for_blob(IMAGE.config, always(Answer(404))), "partial", ["config_missing"]),
    "config 503": (for_blob(IMAGE.config, always(Answer(503))), "unknown", ["unreachable"]),
    "config of other bytes": (for_blob(IMAGE.config, always(Answer(200, {}, b"{}"))), "partial", ["digest_mismatch"]),
    "web page for layer": (
        for_blob(LAYER, always(Answer(200, {"Content-Type": "text/html"}, PAGE))),
        "partial",
        ["not_a_layer"],
    ),
    "web page of the right length, in ranges": (
        for_blob(LAYER, lambda asked: ranged(PAGE.ljust(len(DATA)), asked)),
        "partial",
        ["not_a_layer"],
    ),
    "web page for manifest": (
        lambda asked: Answer(200, {"Content-Type": "text/html"}, PAGE) if "/manifests/" in asked.path else None,
        "unknown",
        ["not_an_image"],
    ),
    "layer in ranges, but short": (
        for_blob(LAYER, lambda asked: ranged(DATA[:-1], asked)),
        "partial",
        ["layer_truncated"],
    ),
    "layer in ranges, but long": (
        for_blob(LAYER, lambda asked: ranged(DATA + b"0", asked)),
        "partial",
        ["layer_truncated"],
    ),
    "layer as a whole, but short": (
        for_blob(LAYER, lambda asked: ranged(DATA[:-1], replace(asked, headers={}))),
        "partial",
        ["layer_truncated"],
    ),
    "a range announced, no byte sent": (
        for_blob(LAYER, lambda asked: replace(ranged(DATA, asked), body=b"", announced=1)),
        "partial",
        ["layer_missing"],
    ),
    "a range with an empty body": (
        for_blob(
            LAYER, lambda asked: replace(ranged(DATA, asked), body=b"") if LAST in asked.headers["Range"] else None
        ),
        "partial",
        ["layer_truncated"],
    ),
    "small layer cut short": (
        for_blob(IMAGE.layers[2], always(Answer(200, {}, IMAGE.blobs[IMAGE.layers[2]][:9], announced=123))),
        "partial",
        ["layer_truncated"],
    ),
    "manifest of other bytes": (
        lambda asked: (
            Answer(200, {"Docker-Content-Digest": IMAGE.manifest}, IMAGE.body + b" ")
            if "/manifests/" in asked.path
            else None
        ),
        "partial",
        ["digest_mismatch"],
    ),
    "manifest 403": (lambda asked: Answer(403) if "/manifests/" in asked.path else None, "denied", ["denied"]),
    "manifest 502": (lambda asked: Answer(502) if "/manifests/" in asked.path else None, "unknown", ["unreachable"]),
    "campus only": (lambda asked: Answer(403) if asked.path == "/v2/" else None, "denied", ["denied"]),
    "a web server": (
        lambda asked: Answer(404) if asked.path == "/v2/" else None,
        "no_such_service",
        ["no_such_service"],
    ),
    "a web page at /v2/": (
        lambda asked: Answer(200, {"Content-Type": "text/html"}, PAGE) if asked.path == "/v2/" else None,
        "no_such_service",
        ["no_such_service"],
    ),
    "out of order": (lambda asked: Answer(503) if asked.path == "/v2/" else None, "unknown", ["unreachable"]),
    "redirects without end": (
        for_blob(LAYER, lambda asked: Answer(307, {"Location": asked.path})),
        "unknown",
        ["unreachable"],
    ),
    "redirects to a file": (
        for_blob(LAYER, always(Answer(307, {"Location": "file:///etc/passwd"}))),
        "unknown",
        ["unreachable"],
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_has_its_name(serve: Serve, fault: str) -> None:
    script, state, codes = FAULTS[fault]
    assert found(check(serve(script).host)) == (state, codes)


def test_absent_is_told_from_partial(serve: Serve) -> None:
    registry = serve()
    with Registry(registry.host, plain_http=True, environment={}) as mirror:
        absent = mirror.check([ImageReference(repository=REPOSITORY, tag="9.9.9")], AMD64)[0]
    assert found(absent) == ("absent", ["manifest_missing"])


def test_what_an_index_needs_is_only_its_platform(serve: Serve) -> None:
    arm = an_image([a_layer(seed=20)], platform="linux/arm64")
    registry = serve(image=an_index((AMD64, IMAGE), ("linux/arm64", arm)))
    for lost in (arm.layers[0], arm.config):
        registry.lose(lost)
    with Registry(registry.host, plain_http=True, environment={}) as mirror:
        listing = mirror.inspect(REFERENCE, AMD64)
    assert found(listing.report) == ("complete", [])
    assert listing.image.platforms == (AMD64, "linux/arm64")
    assert listing.report.digest == IMAGE.manifest
    assert found(check(registry.host, platform="linux/arm64")) == ("partial", ["config_missing", "layer_missing"])


@pytest.mark.parametrize(
    "image",
    [
        an_index(("linux/arm64", an_image(platform="linux/arm64"))),
        an_image(platform="linux/arm64"),
        an_index((AMD64, an_image(platform="linux/arm64"))),  # pytorch/pytorch#125094
    ],
    ids=["index", "manifest", "index that errs"],
)
def test_an_image_for_other_machines_is_absent(serve: Serve, image: Made) -> None:
    assert found(check(serve(image=image).host)) == ("absent", ["wrong_platform"])


def test_an_index_whose_manifest_is_gone_is_partial(serve: Serve) -> None:
    registry = serve(
        lambda asked: Answer(404, API) if asked.path.endswith(IMAGE.manifest) else None,
        image=an_index((AMD64, IMAGE)),
    )
    report = check(registry.host)
    assert found(report) == ("partial", ["manifest_missing"])
    assert report.missing == (IMAGE.manifest,)


@pytest.mark.parametrize("kind", ["registry-proxy", "harbor-proxy", "lazy"])
def test_a_proxy_that_sends_the_whole_is_cold(serve: Serve, kind: MirrorKind) -> None:
    assert found(check(serve(whole_despite_range).host, kind=kind)) == ("cold", ["cold"])
    assert found(check(serve().host, kind=kind)) == ("complete", [])


def test_a_web_page_is_not_a_cold_layer(serve: Serve) -> None:
    registry = serve(for_blob(LAYER, always(Answer(200, {}, PAGE.ljust(len(DATA))))))
    assert found(check(registry.host, kind="harbor-proxy")) == ("partial", ["not_a_layer"])


def test_only_reading_all_of_it_finds_a_changed_byte(serve: Serve) -> None:
    changed = DATA[: BIG // 2] + bytes([DATA[BIG // 2] ^ 1]) + DATA[BIG // 2 + 1 :]
    registry = serve(for_blob(LAYER, lambda asked: ranged(changed, asked)))
    assert found(check(registry.host)) == ("complete", [])
    assert found(check(registry.host, deep=True)) == ("partial", ["digest_mismatch"])


@pytest.mark.parametrize(
    ("cdn_script", "state", "codes"),
    [
        (lambda asked: ranged(DATA, asked), "complete", []),
        (always(Answer(404)), "partial", ["layer_missing"]),
        (always(Answer(401, {"WWW-Authenticate": "Basic"})), "denied", ["denied"]),
        (always(Answer(200, {"Content-Type": "text/html"}, PAGE)), "partial", ["not_a_layer"]),
    ],
    ids=["healthy", "gone", "wants a login", "web page"],
)
def test_layers_elsewhere(serve: Serve, cdn_script: Script, state: str, codes: list[str]) -> None:
    cdn = serve(cdn_script)
    registry = serve(for_blob(LAYER, lambda _: Answer(307, {"Location": f"http://{cdn.host}/signed?x=1"})))
    assert found(check(registry.host)) == (state, codes)


def test_layers_on_a_host_that_is_down_are_unknown(serve: Serve) -> None:
    registry = serve(for_blob(LAYER, always(Answer(307, {"Location": "http://127.0.0.1:1/signed"}))))
    assert found(check(registry.host)) == ("unknown", ["unreachable"])


@pytest.mark.parametrize("host", ["127.0.0.1:1", "registry.invalid"])
def test_nothing_there(host: str) -> None:
    report = check(host)
    assert found(report) == ("no_such_service", ["no_such_service"])
    assert "Do not wait" in report.problems[0].why


DRIPS: dict[str, Script] = {
    "head": lambda asked: Answer(200, {}, b"{}", drip_head=0.05) if "/manifests/" in asked.path else None,
    "manifest": lambda asked: Answer(200, {}, b"x" * 100, drip=0.05) if "/manifests/" in asked.path else None,
    "small layer": for_blob(IMAGE.layers[2], always(Answer(200, {}, b"x" * 100, drip=0.05))),
    "deep": for_blob(LAYER, always(Answer(200, {}, b"x" * 200, drip=0.05))),
}


@pytest.mark.parametrize("drip", DRIPS)
def test_a_server_that_drips_is_unknown(serve: Serve, drip: str) -> None:
    """Each byte comes well within `read`: only the bound on the whole exchange ends it."""
    registry = serve(DRIPS[drip])
    report = check(registry.host, patience=Patience(read=2, whole=0.5, attempts=1), deep=drip == "deep")
    slow = LAYER if drip == "deep" else IMAGE.layers[2] if drip == "small layer" else TAG
    assert found(report) == ("unknown", ["unreachable"])
    assert not [asked for asked in registry.delivered if asked.path.endswith(slow)]


HELD = threading.Event()


def _hold(asked: Asked) -> Answer | None:
    if "/manifests/" in asked.path:
        HELD.wait(20)
    return None


SILENT = Answer(200, {}, b"12345", announced=100, ends="in silence")
STALLS: dict[str, Script] = {
    "before its answer": _hold,
    "within the manifest": lambda asked: SILENT if "/manifests/" in asked.path else None,
    "within a small layer": for_blob(IMAGE.layers[2], lambda _: SILENT),
}


@pytest.mark.parametrize("patience", [Patience(read=0.3, attempts=2), Patience(read=9, whole=0.3, attempts=2)])
@pytest.mark.parametrize("stall", STALLS)
def test_a_server_that_falls_silent_is_unknown(serve: Serve, stall: str, patience: Patience) -> None:
    report = check(serve(STALLS[stall]).host, patience=replace(patience, first_wait=0.01))
    assert found(report) == ("unknown", ["unreachable"])


def test_a_head_that_breaks_off_is_unknown_and_asked_again(serve: Serve) -> None:
    """http.client reads it as a 200 with an empty body."""
    broken = Answer(200, {}, b"", ends="in its head")
    for_good = serve(for_blob(IMAGE.layers[2], always(broken)))
    once = serve(passing(IMAGE.layers[2], 1, broken), passing(LAYER, 1, broken), passing(TAG, 1, broken))
    assert found(check(for_good.host)) == ("unknown", ["unreachable"])
    assert found(check(once.host)) == ("complete", [])


def test_a_registry_that_goes_down_in_mid_run_was_one() -> None:
    last_words = Answer(200, {}, b"{}", announced=2)  # and it hangs up
    registry = ScriptedRegistry(lambda asked: last_words if "/tags/" in asked.path else None)
    with ExitStack() as stack:
        with served(registry):
            mirror = stack.enter_context(Registry(registry.host, plain_http=True, patience=HASTY, environment={}))
            assert mirror.tags(REPOSITORY) == ()
        report = mirror.check([REFERENCE], AMD64)[0]
    assert found(report) == ("unknown", ["unreachable"])


def passing(path: str, times: int, answer: Answer) -> Script:
    left = iter([answer] * times)
    return lambda asked: next(left, None) if path in asked.path else None


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_faults_that_pass_are_asked_again(serve: Serve, status: int) -> None:
    registry = serve(passing("/blobs/", 2, Answer(status)), passing("/manifests/", 2, Answer(status)))
    assert found(check(registry.host)) == ("complete", [])


def test_a_short_wait_is_waited_and_a_long_one_is_not(serve: Serve) -> None:
    soon = serve(passing("/manifests/", 1, Answer(429, {"Retry-After": "1"})))
    late = serve(passing("/manifests/", 1, Answer(429, {"Retry-After": "9"})))
    assert found(check(soon.host)) == ("complete", [])
    report = check(late.host)
    assert found(report) == ("limited", ["rate_limited"])
    assert "9 s" in report.problems[0].fix
    assert sum("/manifests/" in asked.path for asked in late.asked) == 1


def test_retries_of_a_look_are_bounded_together(serve: Serve) -> None:
    registry = serve(lambda asked: Answer(503) if "/manifests/" in asked.path else None)
    references = [ImageReference(repository=REPOSITORY, tag=f"t{number}") for number in range(20)]
    patience = replace(HASTY, budget=0)
    with Registry(registry.host, plain_http=True, patience=patience, environment={}) as mirror:
        reports = mirror.check(references, AMD64)
    assert {report.state.value for report in reports} == {"unknown"}
    assert sum("/manifests/" in asked.path for asked in registry.asked) == 20


def test_interrupted_nothing_goes_on(serve: Serve) -> None:
    """The server would hold each request for 20 s and the client would wait for 60."""
    registry = serve(lambda asked: _hold(asked) if asked.path.endswith("slow") else None)
    references = [ImageReference(repository=REPOSITORY, tag=f"{n}-slow" if n else TAG) for n in range(30)]

    def interrupt(_: Event) -> None:
        raise KeyboardInterrupt

    patient = Patience(read=60)
    with (
        pytest.raises(KeyboardInterrupt),
        Registry(registry.host, plain_http=True, patience=patient, environment={}, on_event=interrupt) as mirror,
    ):
        mirror.check(references, AMD64)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("registry")]
    assert sum("slow" in asked.path for asked in registry.asked) < 30
    assert not [asked for asked in registry.delivered if "slow" in asked.path]
