"""lab.lock: read from a file or from where an admin published it, and written the same way every time."""

import json
import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from urllib3 import PoolManager, Retry, Timeout
from urllib3.exceptions import HTTPError, SSLError

from provisioner.adapters.lab.documents import read_document
from provisioner.adapters.registry.transport import through
from provisioner.adapters.state.files import MAX_BYTES, decode, read_text, write_text
from provisioner.domain.lab.lock import Lockfile
from provisioner.domain.values.problem import Problem, ProblemError
from provisioner.domain.values.proxy import proxy_for

_REMOTE = ("http", "https")


def lock_text(lock: Lockfile) -> str:
    """JSON, one thing a line: fields in the order of the model, nodes by name. The same lock is the same bytes."""
    document = lock.model_dump(mode="json")
    document["nodes"] = dict(sorted(document["nodes"].items()))
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def write_lock(path: Path, lock: Lockfile) -> None:
    write_text(path, lock_text(lock))


def read_lock(path: Path) -> Lockfile | None:
    """None where there is no lock yet. Raises ProblemError where there is one that this release cannot read."""
    return _parse(str(path), read_text(path, "provision lock")) if path.exists() else None


def fetch_lock(source: str, ca: Path | None = None) -> Lockfile:
    """A published lock: a path, or a URL (https, http, file). Raises ProblemError where it cannot be had or read."""
    url = urlsplit(source)
    if url.scheme in _REMOTE:
        return _parse(_public(source), _download(source, ca))
    if url.scheme and url.scheme != "file":
        raise ProblemError(_unknown_scheme(_public(source), url.scheme), "usage")
    path = Path(unquote(url.path)) if url.scheme == "file" else Path(source)
    return _parse(str(path), read_text(path, "ask the lab's admin where lab.lock is published"))


def _parse(name: str, text: str) -> Lockfile:
    return read_document(name, text, Lockfile)


def _download(url: str, ca: Path | None) -> str:
    """At most MAX_BYTES, and not forever. What a URL may hold of a password never reaches a message."""
    timeout, retries = Timeout(connect=10, read=30), Retry(2, backoff_factor=0.5, redirect=3)
    given: dict[str, Any] = {"ca_certs": None if ca is None else str(ca), "timeout": timeout, "retries": retries}
    proxied = proxy_for(url, os.environ)
    try:
        with PoolManager(**given) if proxied is None else through(proxied, given) as pool:
            reply = pool.request("GET", url, preload_content=False)
            body = reply.read(MAX_BYTES + 1)
            reply.close()
    except (HTTPError, OSError) as error:
        raise ProblemError(_unreachable(_public(url), error)) from None
    if reply.status != 200 or len(body) > MAX_BYTES:  # noqa: PLR2004  (OK, RFC 9110)
        reason = f"HTTP {reply.status}" if reply.status != 200 else "far too large for a lock"  # noqa: PLR2004
        raise ProblemError(_not_there(_public(url), reason))
    return decode(body, _public(url))


def _public(url: str) -> str:
    """The URL without user, password and query."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def _unknown_scheme(source: str, scheme: str) -> Problem:
    return Problem(
        "unknown_scheme",
        f"{source}: {scheme} is not read",
        "a lock is read from a path or from an https, http or file URL",
        "give one of these",
    )


def _unreachable(url: str, error: Exception) -> Problem:
    reason = getattr(error, "reason", None)
    untrusted = isinstance(error, SSLError) or isinstance(reason, SSLError)
    return Problem(
        "tls_untrusted" if untrusted else "unreachable",
        f"{url}: {_plain(reason or error)}",
        "the lock says which image this machine runs, so it is not guessed",
        "give the authority's certificate: --ca FILE" if untrusted else "check the address, and try again",
    )


def _plain(error: Exception) -> str:
    """urllib3 puts the connection object before its words: `HTTPConnection(host=…, port=…): words`."""
    return re.sub(r"^\S*Connection\S*\(.*?\): ", "", str(error))


def _not_there(url: str, reason: str) -> Problem:
    return Problem(
        "no_lock_there",
        f"{url}: {reason}",
        "the lock says which image this machine runs, so it is not guessed",
        "ask the lab's admin where lab.lock is published",
    )
