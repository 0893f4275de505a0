"""A pull as an engine makes it: manifest, config and every layer, read to the end and verified by digest."""

import json
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

from provisioner.adapters.registry.auth import read_challenge
from provisioner.domain.registry.manifest import ACCEPT
from tests.adapters.registry.made_image import digest_of

_OPENER = build_opener(ProxyHandler({}))
_SECONDS = 10


class PullError(Exception):
    pass


def works(host: str, repository: str, name: str, platform: str = "linux/amd64") -> bool:
    """Return whether all of `name` (a tag or a digest) for `platform` arrives with the right digests."""
    try:
        _pull(f"http://{host}/v2/{repository}", name, platform)
    except (PullError, OSError, HTTPException, ValueError, KeyError):
        return False
    return True


def _pull(base: str, name: str, platform: str) -> None:
    document = _manifest(base, name)
    if "manifests" in document:
        entries = [entry for entry in document["manifests"] if _platform(entry["platform"]) == platform]
        document = _manifest(base, entries[0]["digest"]) if entries else {}
    config = json.loads(_blob(base, document["config"]))
    for layer in document["layers"]:
        _blob(base, layer)
    if _platform(config) != platform:
        raise PullError("built for another platform")


def _platform(platform: dict[str, Any]) -> str:
    return f"{platform['os']}/{platform['architecture']}"


def _manifest(base: str, name: str) -> dict[str, Any]:
    body, announced = _get(f"{base}/manifests/{name}")
    wanted = name if name.startswith("sha256:") else (announced or "").partition(",")[0].lower()
    document: dict[str, Any] = json.loads(_verify(body, wanted or digest_of(body)))
    return document


def _blob(base: str, part: dict[str, Any]) -> bytes:
    return _verify(_get(f"{base}/blobs/{part['digest']}")[0], part["digest"])


def _verify(body: bytes, digest: str) -> bytes:
    if digest_of(body) != digest:
        raise PullError("other bytes")
    return body


def _get(url: str) -> tuple[bytes, str | None]:
    """Return the body and the announced digest. Obtains a token if one is required."""
    try:
        return _read(url, {})
    except HTTPError as refused:
        challenge = read_challenge(refused.headers.get("WWW-Authenticate", "")) if refused.code == 401 else None
        refused.close()
        if challenge is None:
            raise PullError(refused.code) from None
    scope = f"?service={challenge.service}&scope={challenge.scope}"
    granted = json.loads(_read(challenge.realm + scope, {})[0])
    return _read(url, {"Authorization": f"Bearer {granted.get('token') or granted['access_token']}"})


def _read(url: str, headers: dict[str, str]) -> tuple[bytes, str | None]:
    with _OPENER.open(Request(url, headers={"Accept": ACCEPT, **headers}), timeout=_SECONDS) as response:
        return response.read(), response.headers.get("Docker-Content-Digest")
