"""Servers that lie, stall, refuse or redirect, by the names that they have in mirror_faults.yaml."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from provisioner.adapters.registry.transport import Patience
from provisioner.domain.lab.lab import MirrorKind
from tests.adapters.registry.made_image import BIG, Made, a_layer, an_image, an_index
from tests.adapters.registry.scripted_registry import API, Answer, Asked, Script, ranged
from tests.adapters.registry.token_service import TokenService

AMD64, ARM64 = "linux/amd64", "linux/arm64"
HASTY = Patience(connect=2, read=5, whole=10, first_wait=0.01, longest_wait=2)
BRIEF = Patience(read=2, whole=0.5, attempts=1)
IMAGE = an_image()
ARM = an_image([a_layer(seed=20)], platform=ARM64)
LAYER, SMALL = IMAGE.layers[0], IMAGE.layers[2]
DATA = IMAGE.blobs[LAYER]
LAST = str(len(DATA) - 1)
PAGE = b"<!DOCTYPE html><title>Log in to the campus network</title>"
WEB_PAGE = Answer(200, {"Content-Type": "text/html"}, PAGE)
CHANGED = DATA[: BIG // 2] + bytes([DATA[BIG // 2] ^ 1]) + DATA[BIG // 2 + 1 :]


@dataclass(frozen=True)
class Lie:
    """`scripts` are made anew for each server. `lost`: of what it holds. `pinned`: asked for by the image's digest."""

    scripts: Callable[[], Sequence[Script]] = tuple
    image: Made = IMAGE
    lost: tuple[str, ...] = ()
    kind: MirrorKind = "static"
    patience: Patience = HASTY
    tag: str | None = None
    pinned: bool = False


def for_path(part: str, answer: Callable[[Asked], Answer | None]) -> Script:
    return lambda asked: answer(asked) if part in asked.path else None


def always(answer: Answer) -> Callable[[Asked], Answer]:
    return lambda _: answer


def passing(path: str, times: int, answer: Answer) -> Script:
    left = iter([answer] * times)
    return lambda asked: next(left, None) if path in asked.path else None


def whole_despite_range(asked: Asked) -> Answer | None:
    if "/blobs/" not in asked.path:
        return None
    return ranged(IMAGE.blobs[asked.path.rsplit("/", 1)[1]], replace(asked, headers={}))


def _where(part: str, answer: Answer) -> Lie:
    return Lie(lambda: [for_path(part, always(answer))])


def _told(part: str, answer: Callable[[Asked], Answer | None]) -> Lie:
    return Lie(lambda: [for_path(part, answer)])


def _refused_ranges(status: int) -> Lie:
    return Lie(lambda: [lambda asked: Answer(status) if "Range" in asked.headers else None])


def _refused_head(asked: Asked) -> Answer | None:
    return Answer(404, API) if asked.method == "HEAD" else None


def _no_last_byte(asked: Asked) -> Answer | None:
    answer = ranged(DATA, asked)
    if "Range" not in asked.headers:
        return replace(answer, body=DATA[:-1], announced=len(DATA))
    return replace(answer, body=b"") if LAST in asked.headers["Range"] else answer


def _no_byte(asked: Asked) -> Answer:
    return replace(ranged(DATA, asked), body=b"", announced=1)


def _greeting(answer: Answer) -> Lie:
    return Lie(lambda: [lambda asked: answer if asked.path == "/v2/" else None])


def _elsewhere(location: str, there: Script) -> Lie:
    """The layer's address redirects to `location`; what lies there, if it is of this server, is `there`."""
    return Lie(lambda: [for_path("/cdn/", there), for_path(LAYER, always(Answer(307, {"Location": location})))])


def _tokens(first: int, later: int) -> Lie:
    """For how many requests the first token is good, and those after it."""

    def scripts() -> Sequence[Script]:
        service = TokenService(uses=first)

        def guarded(asked: Asked) -> Answer | None:
            service.realm = f"http://{asked.headers['Host']}/token"
            service.uses = later if service.given else first
            return service.tokens(asked) or (None if asked.path.startswith("/token") else service.guard(asked))

        return [guarded]

    return Lie(scripts)


def _limited(seconds: int) -> Lie:
    """Once where the wait is short, for good where it is long."""
    answer = Answer(429, {"Retry-After": str(seconds)})
    return Lie(lambda: [passing("/manifests/", 1 if seconds == 1 else 99, answer)])


OTHER_BYTES = Answer(200, {"Docker-Content-Digest": IMAGE.manifest}, IMAGE.body + b" ")

LIES: dict[str, Lie] = {
    "nothing": Lie(),
    "HEAD says 404 and GET works (Harbor)": Lie(lambda: [_refused_head]),
    "ranges ignored": Lie(lambda: [whole_despite_range]),
    "ranges ignored by a cache": Lie(lambda: [whole_despite_range], kind="registry-proxy"),
    "ranges refused with 405": _refused_ranges(405),
    "ranges refused with 501": _refused_ranges(501),
    "manifest 200 and layer 403 (DaoCloud)": _where(LAYER, Answer(403)),
    "layer 404": _where(LAYER, Answer(404)),
    "layer 410": _where(LAYER, Answer(410)),
    "layer 418": _where(LAYER, Answer(418)),
    "layer 429": _where(LAYER, Answer(429)),
    "layer 500": _where(LAYER, Answer(500)),
    "layer 200 without a byte": _where(LAYER, Answer(200)),
    "config 404": _where(IMAGE.config, Answer(404)),
    "config 503": _where(IMAGE.config, Answer(503)),
    "config of other bytes": _where(IMAGE.config, Answer(200, {}, b"{}")),
    "web page with 200 for a layer": _where(LAYER, WEB_PAGE),
    "web page of the right length in ranges": _told(LAYER, lambda asked: ranged(PAGE.ljust(len(DATA)), asked)),
    "web page with 200 for a manifest": _where("/manifests/", WEB_PAGE),
    "layer in ranges but short": _told(LAYER, lambda asked: ranged(DATA[:-1], asked)),
    "layer in ranges but long": _told(LAYER, lambda asked: ranged(DATA + b"0", asked)),
    "layer as a whole but short": _told(LAYER, lambda asked: ranged(DATA[:-1], replace(asked, headers={}))),
    "range announced and no byte sent": _told(LAYER, _no_byte),
    "range of the last byte with an empty body": _told(LAYER, _no_last_byte),
    "small layer cut short": _where(SMALL, Answer(200, {}, IMAGE.blobs[SMALL][:9], announced=len(IMAGE.blobs[SMALL]))),
    "one byte changed": _told(LAYER, lambda asked: ranged(CHANGED, asked)),
    "manifest of other bytes": _where("/manifests/", OTHER_BYTES),
    "manifest 403": _where("/manifests/", Answer(403)),
    "manifest 502": _where("/manifests/", Answer(502)),
    "campus only": _greeting(Answer(403)),
    "a web server": _greeting(Answer(404)),
    "a web page for everything": _where("/", WEB_PAGE),
    "out of order": _greeting(Answer(503)),
    "CDN redirect and all is well": _elsewhere("/cdn/layer", lambda asked: ranged(DATA, asked)),
    "CDN redirect to nothing": _elsewhere("/cdn/layer", always(Answer(404))),
    "CDN redirect to a dead host": _elsewhere("http://127.0.0.1:1/signed", always(Answer(404))),
    "CDN redirect to a web page": _elsewhere("/cdn/layer", always(WEB_PAGE)),
    "redirects without end": _told(LAYER, lambda asked: Answer(307, {"Location": asked.path})),
    "redirect to a file": _where(LAYER, Answer(307, {"Location": "file:///etc/passwd"})),
    "401 because the token ran out in mid-run": _tokens(3, 1000),
    "401 that stays": _tokens(0, 0),
    "429 with a short Retry-After": _limited(1),
    "429 with a long Retry-After": _limited(3600),
    "slow-loris in a manifest": replace(_where("/manifests/", Answer(200, {}, b"x" * 40, drip=0.05)), patience=BRIEF),
    "slow-loris in a layer": replace(_where(SMALL, Answer(200, {}, b"x" * 40, drip=0.05)), patience=BRIEF),
    "index of amd64 and arm64 with arm64 lost": Lie(
        image=an_index((AMD64, IMAGE), (ARM64, ARM)), lost=(ARM.layers[0], ARM.config)
    ),
    "index of arm64 alone": Lie(image=an_index((ARM64, ARM))),
    "image of arm64 without an index": Lie(image=ARM),
    "index whose manifest is gone": replace(_where(IMAGE.manifest, Answer(404, API)), image=an_index((AMD64, IMAGE))),
    "tag never copied": Lie(tag="9.9.9"),
    "tag moved after the lock and the locked digest kept": Lie(pinned=True),
    "tag moved after the lock and the locked digest gone": replace(
        _where(IMAGE.manifest, Answer(404, API)), pinned=True
    ),
}
