"""Mirrors that send wrong answers, stall or redirect: what a check reports. Never complete, unless it is."""

import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace

import pytest
from urllib3.exceptions import SSLError

from provisioner.adapters.registry.client import Registry
from provisioner.adapters.registry.transport import RetryPolicy, Transport
from provisioner.domain.lab.lab import MirrorKind
from provisioner.domain.values.event import Event
from provisioner.domain.values.reference import ImageReference
from provisioner.domain.values.sync import SyncReport
from tests.adapters.registry import pull
from tests.adapters.registry.fault_table import Outcome, Row, finding_of, group
from tests.adapters.registry.faulty_servers import (
    AMD64,
    BRIEF,
    DATA,
    FAIL_FAST,
    FAULTY_SERVERS,
    IMAGE,
    LAYER,
    PAGE,
    always,
    first_times,
    for_path,
    whole_despite_range,
)
from tests.adapters.registry.made_image import Made, a_layer, an_image, an_index
from tests.adapters.registry.scripted_registry import Answer, ReceivedRequest, Script, ScriptedRegistry, ranged, served

REPOSITORY = "pytorch/pytorch"
TAG = "2.8.0-cuda12.8-cudnn9-runtime"
REFERENCE = ImageReference(repository=REPOSITORY, tag=TAG)
SERVERS = group("servers")


@pytest.fixture
def serve() -> Iterator[Callable[..., ScriptedRegistry]]:
    """Start registries that have the image and run the scripts."""
    with ExitStack() as stack:

        def start(*scripts: Script, image: Made = IMAGE) -> ScriptedRegistry:
            registry = ScriptedRegistry(*scripts)
            registry.put(REPOSITORY, TAG, image)
            return stack.enter_context(served(registry))

        yield start


Serve = Callable[..., ScriptedRegistry]


def check(
    host: str,
    *,
    kind: MirrorKind = "static",
    policy: RetryPolicy = FAIL_FAST,
    deep: bool = False,
    platform: str = AMD64,
) -> SyncReport:
    with Registry(host, plain_http=True, kind=kind, policy=policy, environment={}) as registry:
        return registry.check([REFERENCE], platform, deep=deep)[0]


def found(report: SyncReport) -> tuple[str, list[str]]:
    return report.state.value, [problem.code for problem in report.problems]


@pytest.fixture(scope="module")
def outcomes() -> dict[str, Outcome]:
    """The result of every row of the table. Each has a server of its own, and most of them wait."""
    with ThreadPoolExecutor(8) as threads:
        return {its.row.fault: its for its in threads.map(_outcome, SERVERS.rows)}


def _outcome(row: Row) -> Outcome:
    lie = FAULTY_SERVERS[row.fault]
    registry = ScriptedRegistry(*lie.scripts())
    registry.put(REPOSITORY, TAG, lie.image)
    for digest in lie.lost:
        registry.lose(digest)
    if lie.pinned:
        registry.put(REPOSITORY, TAG, an_image(env=["PYTORCH_VERSION=2.8.1"]))
    reference = REFERENCE.pinned(lie.image.manifest) if lie.pinned else REFERENCE
    reference = reference if lie.tag is None else reference.model_copy(update={"tag": lie.tag})
    with (
        served(registry),
        Registry(registry.host, plain_http=True, kind=lie.kind, policy=lie.policy, environment={}) as mirror,
    ):
        report = mirror.check([reference], AMD64)[0]
        deep = mirror.check([reference], AMD64, deep=True)[0] if row.deep else None
        pulled = pull.works(registry.host, REPOSITORY, reference.digest or str(reference.tag))
    return Outcome(row, report, deep, pulled)


def test_fault_table_has_each_faulty_server() -> None:
    assert list(FAULTY_SERVERS) == [row.fault for row in SERVERS.rows]


@pytest.mark.parametrize("fault", [row.fault for row in SERVERS.rows])
def test_check_reports_each_fault(outcomes: dict[str, Outcome], fault: str) -> None:
    its = outcomes[fault]
    assert (finding_of(its.report), finding_of(its.deep), its.pulled) == (its.row.expected, its.row.deep, its.row.pull)


def test_no_false_complete_and_no_false_alarm(outcomes: dict[str, Outcome]) -> None:
    assert not [fault for fault, its in outcomes.items() if its.is_false_complete]
    assert not [fault for fault, its in outcomes.items() if its.is_false_alarm]


def test_index_needs_only_the_image_of_the_platform(serve: Serve) -> None:
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
    ids=["index", "manifest", "index with a wrong platform"],
)
def test_image_for_another_platform_is_absent(serve: Serve, image: Made) -> None:
    assert found(check(serve(image=image).host)) == ("absent", ["wrong_platform"])


@pytest.mark.parametrize("kind", ["registry-proxy", "harbor-proxy", "lazy"])
def test_caching_mirror_that_ignores_ranges_is_cold(serve: Serve, kind: MirrorKind) -> None:
    assert found(check(serve(whole_despite_range).host, kind=kind)) == ("cold", ["cold"])
    assert found(check(serve().host, kind=kind)) == ("complete", [])


def test_web_page_for_a_layer_is_not_cold(serve: Serve) -> None:
    registry = serve(for_path(LAYER, always(Answer(200, {}, PAGE.ljust(len(DATA))))))
    assert found(check(registry.host, kind="harbor-proxy")) == ("partial", ["not_a_layer"])


@pytest.mark.parametrize(
    ("cdn_script", "state", "codes"),
    [
        (lambda asked: ranged(DATA, asked), "complete", []),
        (always(Answer(404)), "partial", ["layer_missing"]),
        (always(Answer(401, {"WWW-Authenticate": "Basic"})), "denied", ["denied"]),
        (always(Answer(200, {"Content-Type": "text/html"}, PAGE)), "partial", ["not_a_layer"]),
    ],
    ids=["healthy", "gone", "requires a login", "web page"],
)
def test_layer_redirected_to_another_host(serve: Serve, cdn_script: Script, state: str, codes: list[str]) -> None:
    cdn = serve(cdn_script)
    registry = serve(for_path(LAYER, lambda _: Answer(307, {"Location": f"http://{cdn.host}/signed?x=1"})))
    assert found(check(registry.host)) == (state, codes)


@pytest.mark.parametrize(("code", "fix"), [(9, "clocks"), (10, "--ca"), (18, "--ca")])  # of OpenSSL's verification
def test_a_certificate_that_is_not_valid_yet_is_a_matter_of_clocks(
    monkeypatch: pytest.MonkeyPatch, code: int, fix: str
) -> None:
    refused = ssl.SSLCertVerificationError("not trusted")
    refused.verify_code, refused.verify_message = code, "not trusted"

    def exchange(*_: object) -> None:
        raise SSLError(refused)

    monkeypatch.setattr(Transport, "exchange", exchange)
    report = check("mirror.lab")
    assert found(report) == ("unknown", ["tls_untrusted"])
    assert fix in report.problems[0].fix


@pytest.mark.parametrize("host", ["127.0.0.1:1", "registry.invalid"])
def test_missing_host_is_no_such_service(host: str) -> None:
    report = check(host)
    assert found(report) == ("no_such_service", ["no_such_service"])
    assert "Do not wait" in report.problems[0].why


DRIPS: dict[str, Script] = {
    "head": lambda asked: Answer(200, {}, b"{}", drip_head=0.05) if "/manifests/" in asked.path else None,
    "manifest": lambda asked: Answer(200, {}, b"x" * 100, drip=0.05) if "/manifests/" in asked.path else None,
    "small layer": for_path(IMAGE.layers[2], always(Answer(200, {}, b"x" * 100, drip=0.05))),
    "deep": for_path(LAYER, always(Answer(200, {}, b"x" * 200, drip=0.05))),
}


@pytest.mark.parametrize("drip", DRIPS)
def test_slow_server_is_unknown(serve: Serve, monkeypatch: pytest.MonkeyPatch, drip: str) -> None:
    """Each byte arrives within `read`: only the limit of the whole exchange ends it."""
    monkeypatch.setattr("provisioner.adapters.registry.blob_probe._MIN_RATE", 10 * len(DATA))
    registry = serve(DRIPS[drip])
    report = check(registry.host, policy=BRIEF, deep=drip == "deep")
    slow = LAYER if drip == "deep" else IMAGE.layers[2] if drip == "small layer" else TAG
    assert found(report) == ("unknown", ["unreachable"])
    assert not [asked for asked in registry.delivered if asked.path.endswith(slow)]


RELEASED = threading.Event()


def _wait_for_release(asked: ReceivedRequest) -> Answer | None:
    if "/manifests/" in asked.path:
        RELEASED.wait(20)
    return None


SILENT = Answer(200, {}, b"12345", announced=100, ends="in silence")
STALLS: dict[str, Script] = {
    "before the answer": _wait_for_release,
    "within the manifest": lambda asked: SILENT if "/manifests/" in asked.path else None,
    "within a small layer": for_path(IMAGE.layers[2], lambda _: SILENT),
}


@pytest.mark.parametrize("policy", [RetryPolicy(read=0.15, attempts=2), RetryPolicy(read=9, whole=0.15, attempts=2)])
@pytest.mark.parametrize("stall", STALLS)
def test_stalled_server_is_unknown(serve: Serve, stall: str, policy: RetryPolicy) -> None:
    report = check(serve(STALLS[stall]).host, policy=replace(policy, first_wait=0.01))
    assert found(report) == ("unknown", ["unreachable"])


def test_reply_cut_off_in_its_headers_is_retried(serve: Serve) -> None:
    """http.client reads it as a 200 with an empty body."""
    broken = Answer(200, {}, b"", ends="in its head")
    for_good = serve(for_path(IMAGE.layers[2], always(broken)))
    once = serve(first_times(IMAGE.layers[2], 1, broken), first_times(LAYER, 1, broken), first_times(TAG, 1, broken))
    assert found(check(for_good.host)) == ("unknown", ["unreachable"])
    assert found(check(once.host)) == ("complete", [])


def test_registry_that_goes_down_during_a_run_is_unreachable() -> None:
    last_answer = Answer(200, {}, b"{}", announced=2)  # and the connection is closed
    registry = ScriptedRegistry(lambda asked: last_answer if "/tags/" in asked.path else None)
    with ExitStack() as stack:
        with served(registry):
            mirror = stack.enter_context(Registry(registry.host, plain_http=True, policy=FAIL_FAST, environment={}))
            assert mirror.tags(REPOSITORY) == ()
        report = mirror.check([REFERENCE], AMD64)[0]
    assert found(report) == ("unknown", ["unreachable"])


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_temporary_status_is_retried(serve: Serve, status: int) -> None:
    registry = serve(first_times("/blobs/", 2, Answer(status)), first_times("/manifests/", 2, Answer(status)))
    assert found(check(registry.host)) == ("complete", [])


def test_long_retry_after_is_reported_and_not_waited_for(serve: Serve) -> None:
    late = serve(first_times("/manifests/", 1, Answer(429, {"Retry-After": "9"})))
    report = check(late.host)
    assert found(report) == ("limited", ["rate_limited"])
    assert "9 s" in report.problems[0].fix
    assert sum("/manifests/" in asked.path for asked in late.asked) == 1


def test_budget_limits_all_retries_of_a_session_together(serve: Serve) -> None:
    registry = serve(lambda asked: Answer(503) if "/manifests/" in asked.path else None)
    references = [ImageReference(repository=REPOSITORY, tag=f"t{number}") for number in range(20)]
    policy = replace(FAIL_FAST, budget=0)
    with Registry(registry.host, plain_http=True, policy=policy, environment={}) as mirror:
        reports = mirror.check(references, AMD64)
    assert {report.state.value for report in reports} == {"unknown"}
    assert sum("/manifests/" in asked.path for asked in registry.asked) == 20


def test_interrupt_ends_all_threads_and_requests(serve: Serve) -> None:
    """The server would delay each request for 20 s and the client would wait for 60."""
    registry = serve(lambda asked: _wait_for_release(asked) if asked.path.endswith("slow") else None)
    references = [ImageReference(repository=REPOSITORY, tag=f"{n}-slow" if n else TAG) for n in range(30)]

    def interrupt(_: Event) -> None:
        raise KeyboardInterrupt

    long_timeout = RetryPolicy(read=60)
    with (
        pytest.raises(KeyboardInterrupt),
        Registry(registry.host, plain_http=True, policy=long_timeout, environment={}, on_event=interrupt) as mirror,
    ):
        mirror.check(references, AMD64)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("registry")]
    assert sum("slow" in asked.path for asked in registry.asked) < 30
    assert not [asked for asked in registry.delivered if "slow" in asked.path]
