"""Answers of registries in the wild, by their names in mirror_faults.yaml, with images that an engine can unpack."""

import gzip
import io
import json
import random
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tests.adapters.registry.made_image import CONFIG, GZIP_LAYER, INDEX, MANIFEST, Made, digest_of
from tests.adapters.registry.scripted_registry import API, Answer, ReceivedRequest, Script, ranged

Edit = Callable[[dict[str, Any]], object]
Text = Callable[[str], str]
LOGIN = "Basic dTpw"  # u:p
AMD64 = {"os": "linux", "architecture": "amd64"}
BASIC = {"WWW-Authenticate": 'Basic realm="x"'}


@dataclass(frozen=True)
class Shape:
    """`script` is made for the image, `login`: the client has the login u:p."""

    image: Callable[[str], Made]
    script: Callable[[Made], Script | None] = lambda _: None
    login: bool = False


def _keep(_: dict[str, Any]) -> None:
    """Change nothing."""


def _described(media_type: str, data: bytes, **more: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest_of(data), "size": len(data), **more}


def _layer(name: str) -> tuple[bytes, bytes]:
    """Return a tar with a file of 90 kB, and the same compressed. No engine has it already: it differs by name."""
    raw, content = io.BytesIO(), random.Random(name).randbytes(90_000)
    with tarfile.open(fileobj=raw, mode="w") as tar:
        entry = tarfile.TarInfo("file")
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))
    return raw.getvalue(), gzip.compress(raw.getvalue(), compresslevel=1, mtime=0)


def an_image_with(
    manifest: Edit = _keep, config: Edit = _keep, *, text: Text = str, config_text: Text = str, compress: bool = True
) -> Callable[[str], Made]:
    """Return a function that makes an image of a name. The documents are changed before and after they are JSON."""

    def make(name: str) -> Made:
        raw, packed = _layer(name)
        layer = packed if compress else raw
        about: dict[str, Any] = AMD64 | {
            "config": {"Env": ["PYTORCH_VERSION=2.8.0"]},
            "history": [{"created_by": name}],
            "rootfs": {"type": "layers", "diff_ids": [digest_of(raw)]},
        }
        config(about)
        about_bytes = config_text(json.dumps(about)).encode("utf-8", "surrogateescape")
        document = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": _described(CONFIG, about_bytes),
            "layers": [_described(GZIP_LAYER, layer)],
        }
        manifest(document)
        body = text(json.dumps(document)).encode("utf-8", "surrogateescape")
        blobs = {digest_of(blob): blob for blob in (about_bytes, layer)}
        return Made(body, MANIFEST, digest_of(about_bytes), (digest_of(layer),), blobs, digest_of(body))

    return make


def _nested(name: str) -> Made:
    image = an_image_with()(name)
    inner = _index([_described(MANIFEST, image.body, platform=AMD64)])
    outer = _index([_described(INDEX, inner, platform=AMD64)])
    others = {image.manifest: image.body, digest_of(inner): inner}
    return Made(outer, INDEX, image.config, image.layers, image.blobs, image.manifest, others)


def _index(entries: list[dict[str, Any]]) -> bytes:
    return json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}).encode()


PLAIN = an_image_with()


def _greeting(answer: Answer) -> Shape:
    return Shape(PLAIN, lambda _: lambda asked: answer if asked.path == "/v2/" else None)


def _manifest(answer: Callable[[Made], Answer]) -> Shape:
    return Shape(PLAIN, lambda image: lambda asked: answer(image) if "/manifests/" in asked.path else None)


def _sent_as(**headers: str) -> Shape:
    """Send the manifest with these headers, `_` for `-`; D and U in them stand for its digest in small and capitals."""

    def answer(image: Made) -> Answer:
        digests = {"D": image.manifest, "U": f"sha256:{image.manifest[7:].upper()}"}
        named = {name.replace("_", "-"): digests.get(value, value) for name, value in headers.items()}
        return Answer(200, {"Content-Type": MANIFEST} | named, image.body)

    return _manifest(answer)


def _layer_answer(answer: Callable[[bytes, ReceivedRequest], Answer | None]) -> Shape:
    def script(image: Made) -> Script:
        layer = image.layers[0]
        return lambda asked: answer(image.blobs[layer], asked) if asked.path.endswith(layer) else None

    return Shape(PLAIN, script)


def _refused_range(status: int, part: str) -> Shape:
    return _layer_answer(lambda _, asked: Answer(status) if part in asked.headers.get("Range", "") else None)


def _tokens(
    reply: bytes = b'{"token":"abc"}', *, status: int = 200, redirect: int = 0, challenge: str = "", login: bool = False
) -> Shape:
    challenge = challenge or 'Bearer realm="http://{host}/token",service="x"'

    def script(asked: ReceivedRequest) -> Answer | None:
        if asked.path.startswith("/token") and redirect:
            return Answer(redirect, {"Location": asked.path.replace("/token", "/real")})
        if asked.path.startswith(("/token", "/real")):
            return Answer(status, {}, reply)
        if asked.headers.get("Authorization") == "Bearer abc":
            return None
        return Answer(401, API | {"WWW-Authenticate": challenge.replace("{host}", asked.headers["Host"])})

    return Shape(PLAIN, lambda _: script, login)


def _hidden(status: int) -> Shape:
    def script(asked: ReceivedRequest) -> Answer | None:
        if asked.headers.get("Authorization"):
            return None
        return Answer(401, API | BASIC) if asked.path == "/v2/" else Answer(status, API)

    return Shape(PLAIN, lambda _: script, login=True)


def _presigned(status: int, location: str = "/bucket/{digest}?X-Amz-Signature=1") -> Shape:
    """Redirect layers to a place that refuses a second login. `location` may name {host} or {other}: its other name."""

    def script(image: Made) -> Script:
        def answer(asked: ReceivedRequest) -> Answer | None:
            name = asked.path.rpartition("/")[2].partition("?")[0]
            if "/bucket/" in asked.path:
                return Answer(400) if asked.headers.get("Authorization") else ranged(image.blobs[name], asked)
            if asked.headers.get("Authorization") != LOGIN:
                return Answer(401, API | BASIC)
            host = asked.headers["Host"]
            to = location.format(digest=name, host=host, other=host.replace("127.0.0.1", "localhost"))
            return Answer(status, {"Location": to}) if "/blobs/" in asked.path else None

        return answer

    return Shape(PLAIN, script, login=True)


def _set(**fields: Any) -> Edit:
    return lambda document: document.update(fields)


def _in(part: str, **fields: Any) -> Edit:
    """Set fields of a part of a document; of its first where there are several."""

    def edit(document: dict[str, Any]) -> None:
        found = document[part]
        (found[0] if isinstance(found, list) else found).update(fields)

    return edit


def _without(part: str, name: str) -> Edit:
    return lambda document: document[part].pop(name)


def _replaced(old: str, new: str) -> Text:
    return lambda text: text.replace(old, new)


def _added(more: str) -> Text:
    return lambda text: f"{text[:-1]},{more}}}"


def _read(image: Callable[[str], Made]) -> Shape:
    return Shape(image)


SHAPES: Mapping[str, Shape] = {
    "token service redirects with 301": _tokens(redirect=301),
    "token service redirects with 302": _tokens(redirect=302),
    "token service redirects with 303": _tokens(redirect=303),
    "token service redirects with 307": _tokens(redirect=307),
    "token service redirects with 308": _tokens(redirect=308),
    "token in the status 201": _tokens(status=201),
    "token named Token": _tokens(b'{"Token":"abc"}'),
    "access_token beside an empty token": _tokens(b'{"access_token":"abc","token":null}'),
    "token and another access_token": _tokens(b'{"token":"abc","access_token":"other"}'),
    "token with expires_in as text": _tokens(b'{"token":"abc","expires_in":"300"}'),
    "token with expires_in as a fraction": _tokens(b'{"token":"abc","expires_in":300.0}'),
    "token whose issued_at is not a time": _tokens(b'{"token":"abc","issued_at":"yesterday"}'),
    "token after a byte order mark": _tokens(b'\xef\xbb\xbf{"token":"abc"}'),
    "token with NaN": _tokens(b'{"token":"abc","x":NaN}'),
    "token service at a relative address": _tokens(challenge='Bearer realm="/token",service="x"'),
    "token service without quotes": _tokens(challenge="Bearer realm=http://{host}/token"),
    "challenge in capitals": _tokens(challenge='BEARER Realm="http://{host}/token",Service="x"'),
    "challenge with an escape": _tokens(challenge=r'Bearer realm="http://{host}/to\ken",service="x"'),
    "challenge of Bearer, then Basic": _tokens(
        challenge='Bearer realm="http://{host}/token",service="x", Basic realm="x"'
    ),
    "challenge of Basic, then Bearer": _tokens(
        challenge='Basic realm="x", Bearer realm="http://{host}/token",service="x"'
    ),
    "digest announced twice": _sent_as(Docker_Content_Digest="D", docker_content_digest="D"),
    "digest announced in capitals": _sent_as(Docker_Content_Digest="U"),
    "digest announced twice in one line": _sent_as(Docker_Content_Digest="D, D"),
    "digest announced is not a digest": _sent_as(Docker_Content_Digest="zzz"),
    "manifest as JSON": _sent_as(Docker_Content_Digest="D", Content_Type="application/json"),
    "manifest as a web page": _sent_as(Docker_Content_Digest="D", Content_Type="text/html"),
    "manifest as an index": _sent_as(Docker_Content_Digest="D", Content_Type=INDEX),
    "manifest with a character set": _sent_as(Docker_Content_Digest="D", Content_Type=f"{MANIFEST}; charset=utf-8"),
    "manifest in the status 206": _manifest(
        lambda image: Answer(206, {"Content-Type": MANIFEST, "Docker-Content-Digest": image.manifest}, image.body)
    ),
    "index within an index": Shape(_nested),
    "two ranges cut off": _layer_answer(
        lambda _, asked: Answer(206, ends="in its head") if "," in asked.headers.get("Range", "") else None
    ),
    "two ranges refused with 500": _refused_range(500, ","),
    "two ranges refused with 403": _refused_range(403, ","),
    "every range refused with 403": _refused_range(403, "-"),
    "every range refused with 404": _refused_range(404, "-"),
    "every range refused with 500": _refused_range(500, "-"),
    "layer in the status 201": _layer_answer(lambda data, _: Answer(201, {}, data)),
    "layer as Content-Encoding gzip": _layer_answer(lambda data, _: Answer(200, {"Content-Encoding": "gzip"}, data)),
    "layer that is not compressed, of a type that is": _read(an_image_with(compress=False)),
    "/v2/ 200 and empty": _greeting(Answer(200)),
    "/v2/ 200 and a word": _greeting(Answer(200, {}, b"true")),
    "/v2/ 200 and a web page": _greeting(Answer(200, {"Content-Type": "text/html"}, b"<html>")),
    "/v2/ 204": _greeting(Answer(204)),
    "/v2/ 401 without a challenge": _greeting(Answer(401)),
    "/v2/ 403": _greeting(Answer(403)),
    "/v2/ 404": _greeting(Answer(404)),
    "/v2/ 405": _greeting(Answer(405)),
    "/v2/ 503": _greeting(Answer(503)),
    "repository hidden by 404 without a login": _hidden(404),
    "repository hidden by 401 without a challenge": _hidden(401),
    "repository hidden by 403 without a login": _hidden(403),
    "layer presigned on the same host, 307": _presigned(307),
    "layer presigned on the same host, 302": _presigned(302),
    "layer presigned on the same host, whole address": _presigned(307, "http://{host}/bucket/{digest}"),
    "layer presigned below /v2/": _presigned(307, "/v2/bucket/{digest}"),
    "layer presigned on another host": _presigned(307, "http://{other}/bucket/{digest}"),
    "manifest with layers in another case": _read(an_image_with(text=_replaced('"layers"', '"Layers"'))),
    "manifest with sizes in another case": _read(an_image_with(text=_replaced('"size"', '"SIZE"'))),
    "manifest with urls null": _read(an_image_with(_in("layers", urls=None))),
    "manifest without a type of its config": _read(an_image_with(_without("config", "mediaType"))),
    "manifest with a byte that is not UTF-8": _read(an_image_with(text=_added('"x":"\udcff"'))),
    "manifest with a size as text": _read(an_image_with(_in("layers", size="5"))),
    "manifest with NaN": _read(an_image_with(text=_added('"x":NaN'))),
    "manifest with layers twice, the last empty": _read(an_image_with(text=_added('"layers":[]'))),
    "manifest with Layers after layers": _read(an_image_with(text=_added('"Layers":[]'))),
    "manifest with an empty list of layers before": _read(an_image_with(text=lambda text: '{"layers":[],' + text[1:])),
    "manifest that calls itself an index": _read(an_image_with(_set(mediaType=INDEX))),
    "manifest with a layer of an odd type": _read(an_image_with(_in("layers", mediaType="x/y"))),
    "config with null for what is not set": _read(
        an_image_with(config=_set(variant=None, created=None, **{"os.features": None}))
    ),
    "config with fields in another case": _read(an_image_with(config_text=_replaced('"os"', '"OS"'))),
    "config with a label that is null": _read(an_image_with(config=_in("config", Labels={"a": None}))),
    "config whose time is not a time": _read(an_image_with(config=_set(created="yesterday"))),
    "config with a user that is a number": _read(an_image_with(config=_in("config", User=5))),
    "config with more layers than the manifest": _read(
        an_image_with(config=lambda about: about["rootfs"]["diff_ids"].append(digest_of(b"")))
    ),
}
