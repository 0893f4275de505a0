"""Images made without an engine. Layers are gzip of random content, so none equals another."""

import gzip
import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

GZIP_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.docker.container.image.v1+json"
BIG = 200_000  # bytes; more than a check reads as a whole


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@dataclass(frozen=True)
class Made:
    """`body`: the manifest or index of the tag; `others`: the manifests that the index names. `layers` in order."""

    body: bytes
    media_type: str
    config: str
    layers: tuple[str, ...]
    blobs: dict[str, bytes]
    manifest: str
    others: dict[str, bytes] = field(default_factory=dict)


def a_layer(size: int = BIG, seed: int = 0) -> bytes:
    return gzip.compress(random.Random(seed).randbytes(size), compresslevel=1, mtime=0)


def _descriptor(media_type: str, data: bytes, **more: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest_of(data), "size": len(data), **more}


def an_image(
    layers: Sequence[bytes] | None = None,
    *,
    env: Sequence[str] = ("PYTORCH_VERSION=2.8.0",),
    platform: str = "linux/amd64",
    layer_type: str = GZIP_LAYER,
) -> Made:
    data = [a_layer(seed=1), a_layer(seed=2), a_layer(100, seed=3)] if layers is None else list(layers)
    os, architecture = platform.split("/")
    config = json.dumps(
        {
            "os": os,
            "architecture": architecture,
            "config": {"Env": list(env), "Labels": {"made.by": "test"}},
            "history": [{"created_by": "RUN |1 CUDA_VERSION=12.8.1 /bin/sh -c true"}],
            "rootfs": {"type": "layers", "diff_ids": [digest_of(gzip_open(layer)) for layer in data]},
        }
    ).encode()
    body = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": _descriptor(CONFIG, config),
            "layers": [_descriptor(layer_type, layer) for layer in data],
        }
    ).encode()
    blobs = {digest_of(blob): blob for blob in (config, *data)}
    return Made(body, MANIFEST, digest_of(config), tuple(map(digest_of, data)), blobs, digest_of(body))


def gzip_open(layer: bytes) -> bytes:
    return gzip.decompress(layer) if layer[:2] == b"\x1f\x8b" else layer


ATTESTATION = an_image([a_layer(50, seed=99)], platform="unknown/unknown")


def an_index(*images: tuple[str, Made]) -> Made:
    """Build an index of images by platform, with an attestation. Config and layers are those of the first."""
    entries = []
    for platform, image in images:
        os, architecture = platform.split("/")
        entries.append(_descriptor(MANIFEST, image.body, platform={"os": os, "architecture": architecture}))
    unknown = {"os": "unknown", "architecture": "unknown"}
    entries.insert(0, _descriptor(MANIFEST, ATTESTATION.body, platform=unknown))
    body = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}).encode()
    first = images[0][1]
    held = [ATTESTATION, *(image for _, image in images)]
    others = {image.manifest: image.body for image in held}
    blobs = {digest: blob for image in held for digest, blob in image.blobs.items()}
    return Made(body, INDEX, first.config, first.layers, blobs, first.manifest, others)


def push(host: str, repository: str, tag: str, image: Made) -> None:
    """Push to a registry on plain http."""
    push_over(HTTPConnection(host, timeout=10), repository, tag, image)


def push_over(
    connection: HTTPConnection, repository: str, tag: str, image: Made, headers: Mapping[str, str] | None = None
) -> None:
    """Push by the distribution specification's monolithic upload, and close the connection."""

    def send(method: str, path: str, body: bytes, kind: str) -> str:
        """Return the path of the next step."""
        connection.request(method, path, body, {"Content-Type": kind, **(headers or {})})
        reply = connection.getresponse()
        text = reply.read()
        assert reply.status in (201, 202), (method, path, reply.status, text)
        where = urlsplit(str(reply.headers["Location"]))
        return f"{where.path}?{where.query}"

    with closing(connection):
        for digest, blob in image.blobs.items():
            where = send("POST", f"/v2/{repository}/blobs/uploads/", b"", "text/plain")
            send("PUT", f"{where}&digest={digest}", blob, "application/octet-stream")
        for name, body in image.others.items():
            send("PUT", f"/v2/{repository}/manifests/{name}", body, MANIFEST)
        send("PUT", f"/v2/{repository}/manifests/{tag}", image.body, image.media_type)
