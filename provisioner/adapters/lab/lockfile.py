"""Read lab.lock from a file or a URL, and write it in a stable form."""

import json
import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from urllib3 import PoolManager, Retry, Timeout
from urllib3.exceptions import HTTPError, SSLError

from provisioner.adapters.lab.documents import read_document
from provisioner.adapters.registry.http import split_login
from provisioner.adapters.registry.transport import proxy_manager
from provisioner.adapters.state.files import MAX_BYTES, decode, read_text, write_text
from provisioner.domain.lab.lock import Lockfile
from provisioner.domain.values.problem import Problem, ProblemError
from provisioner.domain.values.proxy import proxy_for

_REMOTE = ("http", "https")
_NOT_GUESSED = "the lock determines which image this machine runs, so it is not guessed"
_ASK_ADMIN = "ask the lab's admin where lab.lock is published"


def lock_text(lock: Lockfile) -> str:
    """Return the lock as JSON, one value a line, nodes sorted by name. Equal locks give equal bytes."""
    document = lock.model_dump(mode="json")
    document["nodes"] = dict(sorted(document["nodes"].items()))
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def write_lock(path: Path, lock: Lockfile) -> None:
    """Replace lab.lock atomically. Raises ProblemError where it cannot be written."""
    write_text(path, lock_text(lock))


def read_lock(path: Path) -> Lockfile | None:
    """Return the lock, None where the file does not exist. Raises ProblemError (usage) where it cannot be read."""
    return read_document(str(path), read_text(path, "provision lock"), Lockfile) if path.exists() else None


def fetch_lock(source: str, ca: Path | None = None) -> Lockfile:
    """Return a published lock, from a path or a URL (https, http, file).

    `ca` is a file with the CA of the web server. Raises ProblemError where the lock cannot be fetched or read.
    """
    url = urlsplit(source)
    if url.scheme in _REMOTE:
        return read_document(_without_secrets(source), _download(source, ca), Lockfile)
    if url.scheme and url.scheme != "file":
        problem = Problem(
            "unknown_scheme",
            f"{_without_secrets(source)}: the scheme {url.scheme} is not supported",
            "a lock is read from a path or from an https, http or file URL",
            "give one of these",
        )
        raise ProblemError(problem, "usage")
    path = Path(unquote(url.path)) if url.scheme == "file" else Path(source)
    return read_document(str(path), read_text(path, _ASK_ADMIN), Lockfile)


def _download(url: str, ca: Path | None) -> str:
    """Download at most MAX_BYTES. Messages never contain a password of the URL."""
    timeout, retries = Timeout(connect=10, read=30), Retry(2, backoff_factor=0.5, redirect=3)
    options: dict[str, Any] = {"ca_certs": None if ca is None else str(ca), "timeout": timeout, "retries": retries}
    url, login = split_login(url)
    proxied = proxy_for(url, os.environ)
    try:
        with PoolManager(**options) if proxied is None else proxy_manager(proxied, options) as pool:
            reply = pool.request("GET", url, headers={**pool.headers, **login}, preload_content=False)
            body = reply.read(MAX_BYTES + 1)
            reply.close()
    except (HTTPError, OSError) as error:
        raise ProblemError(_unreachable(_without_secrets(url), error)) from None
    if reply.status != 200 or len(body) > MAX_BYTES:  # noqa: PLR2004  (OK, RFC 9110)
        reason = f"HTTP {reply.status}" if reply.status != 200 else f"larger than {MAX_BYTES >> 20} MiB"  # noqa: PLR2004
        raise ProblemError(Problem("no_lock_there", f"{_without_secrets(url)}: {reason}", _NOT_GUESSED, _ASK_ADMIN))
    return decode(body, _without_secrets(url))


def _without_secrets(url: str) -> str:
    """Return the URL without user, password, query and fragment."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def _unreachable(url: str, error: Exception) -> Problem:
    reason = getattr(error, "reason", None)
    untrusted = isinstance(error, SSLError) or isinstance(reason, SSLError)
    return Problem(
        "tls_untrusted" if untrusted else "unreachable",
        f"{url}: {_error_text(reason or error)}",
        _NOT_GUESSED,
        "give the certificate of the CA: --ca FILE" if untrusted else "check the address, and try again",
    )


def _error_text(error: Exception) -> str:
    """Return the text of an error of urllib3 without the connection before it: `HTTPConnection(host=…): text`."""
    return re.sub(r"^\S*Connection\S*\(.*?\): ", "", str(error))
