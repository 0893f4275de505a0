"""Scripted servers with one fault each, by the names of the faults in mirror_faults.yaml."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from provisioner.adapters.registry.transport import RetryPolicy
from provisioner.domain.lab.lab import MirrorKind
from tests.adapters.registry.made_image import BIG, Made, a_layer, an_image, an_index
from tests.adapters.registry.scripted_registry import API, Answer, ReceivedRequest, Script, ranged
from tests.adapters.registry.token_service import TokenService

AMD64, ARM64 = "linux/amd64", "linux/arm64"
FAIL_FAST = RetryPolicy(connect=2, read=5, whole=10, first_wait=0.01, longest_wait=2)
BRIEF = RetryPolicy(read=2, whole=0.2, attempts=1)
IMAGE = an_image()
ARM = an_image([a_layer(seed=20)], platform=ARM64)
LAYER, SMALL = IMAGE.layers[0], IMAGE.layers[2]
DATA = IMAGE.blobs[LAYER]
LAST = str(len(DATA) - 1)
PAGE = b"<!DOCTYPE html><title>Log in to the campus network</title>"
WEB_PAGE = Answer(200, {"Content-Type": "text/html"}, PAGE)
CHANGED = DATA[: BIG // 2] + bytes([DATA[BIG // 2] ^ 1]) + DATA[BIG // 2 + 1 :]


@dataclass(frozen=True)
class FaultyServer:
    """`scripts` are made for each server. `lost`: blobs it does not have. `pinned`: the check asks for the digest."""

    scripts: Callable[[], Sequence[Script]] = tuple
    image: Made = IMAGE
    lost: tuple[str, ...] = ()
    kind: MirrorKind = "static"
    policy: RetryPolicy = FAIL_FAST
    tag: str | None = None
    pinned: bool = False


def for_path(part: str, answer: Callable[[ReceivedRequest], Answer | None]) -> Script:
    return lambda asked: answer(asked) if part in asked.path else None


def always(answer: Answer) -> Callable[[ReceivedRequest], Answer]:
    return lambda _: answer


def first_times(path: str, times: int, answer: Answer) -> Script:
    left = iter([answer] * times)
    return lambda asked: next(left, None) if path in asked.path else None


def whole_despite_range(asked: ReceivedRequest) -> Answer | None:
    if "/blobs/" not in asked.path:
        return None
    return ranged(IMAGE.blobs[asked.path.rsplit("/", 1)[1]], replace(asked, headers={}))


def _always_at(part: str, answer: Answer) -> FaultyServer:
    return FaultyServer(lambda: [for_path(part, always(answer))])


def _at(part: str, answer: Callable[[ReceivedRequest], Answer | None]) -> FaultyServer:
    return FaultyServer(lambda: [for_path(part, answer)])


def _refused_ranges(status: int) -> FaultyServer:
    return FaultyServer(lambda: [lambda asked: Answer(status) if "Range" in asked.headers else None])


def _refused_head(asked: ReceivedRequest) -> Answer | None:
    return Answer(404, API) if asked.method == "HEAD" else None


def _no_last_byte(asked: ReceivedRequest) -> Answer | None:
    answer = ranged(DATA, asked)
    if "Range" not in asked.headers:
        return replace(answer, body=DATA[:-1], announced=len(DATA))
    return replace(answer, body=b"") if LAST in asked.headers["Range"] else answer


def _no_byte(asked: ReceivedRequest) -> Answer:
    return replace(ranged(DATA, asked), body=b"", announced=1)


def _greeting(answer: Answer) -> FaultyServer:
    return FaultyServer(lambda: [lambda asked: answer if asked.path == "/v2/" else None])


def _elsewhere(location: str, there: Script) -> FaultyServer:
    """Redirect the layer to `location`, where `there` answers if it is on this server."""
    return FaultyServer(
        lambda: [for_path("/cdn/", there), for_path(LAYER, always(Answer(307, {"Location": location})))]
    )


def _tokens(first: int, later: int) -> FaultyServer:
    """Require tokens: the first is valid for `first` requests, the others for `later`."""

    def scripts() -> Sequence[Script]:
        service = TokenService(uses=first)

        def guarded(asked: ReceivedRequest) -> Answer | None:
            service.realm = f"http://{asked.headers['Host']}/token"
            service.uses = later if service.issued else first
            return service.tokens(asked) or (None if asked.path.startswith("/token") else service.guard(asked))

        return [guarded]

    return FaultyServer(scripts)


def _limited(seconds: int) -> FaultyServer:
    """Answer 429: once if the wait is short, always if it is long."""
    answer = Answer(429, {"Retry-After": str(seconds)})
    return FaultyServer(lambda: [first_times("/manifests/", 1 if seconds == 1 else 99, answer)])


OTHER_BYTES = Answer(200, {"Docker-Content-Digest": IMAGE.manifest}, IMAGE.body + b" ")

FAULTY_SERVERS: dict[str, FaultyServer] = {
    "nothing": FaultyServer(),
    "HEAD says 404 and GET works (Harbor)": FaultyServer(lambda: [_refused_head]),
    "ranges ignored": FaultyServer(lambda: [whole_despite_range]),
    "ranges ignored by a cache": FaultyServer(lambda: [whole_despite_range], kind="registry-proxy"),
    "ranges refused with 405": _refused_ranges(405),
    "ranges refused with 501": _refused_ranges(501),
    "manifest 200 and layer 403 (DaoCloud)": _always_at(LAYER, Answer(403)),
    "layer 404": _always_at(LAYER, Answer(404)),
    "layer 410": _always_at(LAYER, Answer(410)),
    "layer 418": _always_at(LAYER, Answer(418)),
    "layer 429": _always_at(LAYER, Answer(429)),
    "layer 500": _always_at(LAYER, Answer(500)),
    "layer 200 without a byte": _always_at(LAYER, Answer(200)),
    "config 404": _always_at(IMAGE.config, Answer(404)),
    "config 503": _always_at(IMAGE.config, Answer(503)),
    "config of other bytes": _always_at(IMAGE.config, Answer(200, {}, b"{}")),
    "web page with 200 for a layer": _always_at(LAYER, WEB_PAGE),
    "web page of the right length in ranges": _at(LAYER, lambda asked: ranged(PAGE.ljust(len(DATA)), asked)),
    "web page with 200 for a manifest": _always_at("/manifests/", WEB_PAGE),
    "layer in ranges but short": _at(LAYER, lambda asked: ranged(DATA[:-1], asked)),
    "layer in ranges but long": _at(LAYER, lambda asked: ranged(DATA + b"0", asked)),
    "layer as a whole but short": _at(LAYER, lambda asked: ranged(DATA[:-1], replace(asked, headers={}))),
    "range announced and no byte sent": _at(LAYER, _no_byte),
    "range of the last byte with an empty body": _at(LAYER, _no_last_byte),
    "small layer cut short": _always_at(
        SMALL, Answer(200, {}, IMAGE.blobs[SMALL][:9], announced=len(IMAGE.blobs[SMALL]))
    ),
    "one byte changed": _at(LAYER, lambda asked: ranged(CHANGED, asked)),
    "manifest of other bytes": _always_at("/manifests/", OTHER_BYTES),
    "manifest 403": _always_at("/manifests/", Answer(403)),
    "manifest 502": _always_at("/manifests/", Answer(502)),
    "campus only": _always_at("/", Answer(403)),
    "a web server": _always_at("/", Answer(404)),
    "a proxy that passes on its repositories alone": _greeting(Answer(404)),
    "an empty 200 for /v2/ (Spegel)": _greeting(Answer(200)),
    "two ranges in one request refused with 500": FaultyServer(
        lambda: [lambda asked: Answer(500) if "," in asked.headers.get("Range", "") else None]
    ),
    "digest of the manifest announced twice": _always_at(
        "/manifests/", Answer(200, {"Docker-Content-Digest": f"{IMAGE.manifest}, {IMAGE.manifest}"}, IMAGE.body)
    ),
    "digest of the manifest announced in upper case": _always_at(
        "/manifests/", Answer(200, {"Docker-Content-Digest": f"sha256:{IMAGE.manifest[7:].upper()}"}, IMAGE.body)
    ),
    "a web page for everything": _always_at("/", WEB_PAGE),
    "out of order": _always_at("/", Answer(503)),
    "CDN redirect and all is well": _elsewhere("/cdn/layer", lambda asked: ranged(DATA, asked)),
    "CDN redirect to nothing": _elsewhere("/cdn/layer", always(Answer(404))),
    "CDN redirect to a dead host": _elsewhere("http://127.0.0.1:1/signed", always(Answer(404))),
    "CDN redirect to a web page": _elsewhere("/cdn/layer", always(WEB_PAGE)),
    "redirects without end": _at(LAYER, lambda asked: Answer(307, {"Location": asked.path})),
    "redirect to a file": _always_at(LAYER, Answer(307, {"Location": "file:///etc/passwd"})),
    "401 because the token ran out in mid-run": _tokens(3, 1000),
    "401 that stays": _tokens(0, 0),
    "429 with a short Retry-After": _limited(1),
    "429 with a long Retry-After": _limited(3600),
    "slow-loris in a manifest": replace(_always_at("/manifests/", Answer(200, {}, b"x" * 40, drip=0.02)), policy=BRIEF),
    "slow-loris in a layer": replace(_always_at(SMALL, Answer(200, {}, b"x" * 40, drip=0.02)), policy=BRIEF),
    "index of amd64 and arm64 with arm64 lost": FaultyServer(
        image=an_index((AMD64, IMAGE), (ARM64, ARM)), lost=(ARM.layers[0], ARM.config)
    ),
    "index of arm64 alone": FaultyServer(image=an_index((ARM64, ARM))),
    "image of arm64 without an index": FaultyServer(image=ARM),
    "index whose manifest is gone": replace(
        _always_at(IMAGE.manifest, Answer(404, API)), image=an_index((AMD64, IMAGE))
    ),
    "tag never copied": FaultyServer(tag="9.9.9"),
    "tag moved after the lock and the locked digest kept": FaultyServer(pinned=True),
    "tag moved after the lock and the locked digest gone": replace(
        _always_at(IMAGE.manifest, Answer(404, API)), pinned=True
    ),
}
