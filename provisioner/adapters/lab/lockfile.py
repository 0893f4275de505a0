"""Read lab.lock from a file or a URL, and write it in a stable form."""

import hashlib
import json
from http import HTTPStatus
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from provisioner.adapters.lab.documents import read_document
from provisioner.adapters.lab.signature import SUFFIX, missing_signature, sign, verify
from provisioner.adapters.registry.fetch import Fetcher
from provisioner.adapters.registry.http import Downgrade, RequestFailed
from provisioner.adapters.state.files import MAX_BYTES, decode, read_bytes, read_text, write_text
from provisioner.domain.lab.lock import Lockfile
from provisioner.domain.lab.lock_trust import VerifiedBy
from provisioner.domain.values.problem import Problem, ProblemError
from provisioner.domain.values.proxy import is_loopback

_REMOTE = ("http", "https")
_NOT_THERE = {"no_such_file", "no_lock_there"}
_NOT_GUESSED = "the lock determines which image this machine runs, so it is not guessed"
_ASK_ADMIN = "ask the lab's admin where lab.lock is published"


def lock_text(lock: Lockfile) -> str:
    """Return the lock as JSON, one value a line, sorted by the names of nodes, environments and people.

    Equal locks give equal bytes.
    """
    document = _with_sorted(lock.model_dump(mode="json"), "nodes", "environments", "people")
    if "environments" in document:
        document["environments"] = {
            name: _with_sorted(environment, "nodes") for name, environment in document["environments"].items()
        }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _with_sorted(document: dict[str, Any], *names: str) -> dict[str, Any]:
    return document | {name: dict(sorted(document[name].items())) for name in names if name in document}


def write_lock(path: Path, lock: Lockfile) -> None:
    """Replace lab.lock, or a lock to publish, atomically. Raises ProblemError where it cannot be written."""
    write_text(path, lock_text(lock))


def signature_of(path: Path) -> Path:
    """Return where the signature of a lock lies, if there is one."""
    return path.with_name(path.name + SUFFIX)


def sign_lock(path: Path, key: Path, *, may_ask: bool) -> Path:
    """Write the signature of a lock beside it and return its path.

    Raises ProblemError (usage) where ssh-keygen cannot sign with `key`.
    """
    write_text(signature_of(path), sign(read_bytes(path, "provision lock"), key, may_ask=may_ask))
    return signature_of(path)


def read_lock(path: Path) -> Lockfile | None:
    """Return the lock, None where the file does not exist. Raises ProblemError (usage) where it cannot be read."""
    return read_document(str(path), read_text(path, "provision lock"), Lockfile) if path.exists() else None


class PublishedLock(NamedTuple):
    """A lock from elsewhere. `source`: path or URL without secrets. `verified_by`: how its content was verified.

    `signer`: the principal of the signer, if there is a valid signature of an allowed signer.
    """

    lock: Lockfile
    source: str
    verified_by: VerifiedBy = ""
    signer: str | None = None


def fetch_lock(
    source: str, ca: Path | None = None, *, sha256: str | None = None, signers: Path | None = None
) -> PublishedLock:
    """Return a published lock, from a path or a URL (https, http, file).

    `ca` is a file with the CA of the web server. `sha256`: the hash that the bytes must have. `signers`: a file of
    allowed signers, one of whom must have signed the bytes, in the file beside the lock that ends in .sig.

    Plain http is taken only from loopback, or where hash or signature protect the content; no redirect leads from
    https to http. Raises ProblemError where the lock cannot be fetched or read, (usage) where it is refused.
    """
    try:
        name, place = _without_secrets(source), urlsplit(source)
    except ValueError:
        raise ProblemError(Problem("bad_url", "--lock is not a URL", _NOT_GUESSED, _ASK_ADMIN), "usage") from None
    is_remote = place.scheme in _REMOTE
    if place.scheme and place.scheme != "file" and not is_remote:
        problem = Problem(
            "unknown_scheme",
            f"{name}: the scheme {place.scheme} is not supported",
            "a lock is read from a path or from an https, http or file URL",
            "give one of these",
        )
        raise ProblemError(problem, "usage")
    channel = _Channel(ca, is_protected=bool(sha256 or signers))
    content = channel.read(source)
    verified_by: VerifiedBy = "" if is_remote else "file"
    if sha256 is not None:
        _check_sha256(name, content, sha256)
        verified_by = "sha256"
    signer = None
    if signers is not None:
        signer = verify(name, content, _read_signature(source, channel, signers), signers)
        verified_by = "signature"
    return PublishedLock(read_document(name, decode(content, name), Lockfile), name, verified_by, signer)


def _check_sha256(name: str, content: bytes, wanted: str) -> None:
    found = hashlib.sha256(content).hexdigest()
    if found != wanted.lower():
        problem = Problem(
            "sha256_differs",
            f"{name}: its SHA-256 is {found}, not {wanted.lower()}",
            "it is another lock than the one whose hash you were given: a newer one, or a forged one",
            "ask the lab's admin for the hash of the published lock (sha256sum lab.lock)",
        )
        raise ProblemError(problem, "usage")


def _read_signature(source: str, channel: "_Channel", signers: Path) -> bytes:
    """Return the path or URL of a lock's signature: that of the lock with .sig; the query of a URL is kept."""
    place = urlsplit(source)
    beside = place._replace(path=place.path + SUFFIX).geturl() if place.scheme else source + SUFFIX
    try:
        return channel.read(beside)
    except ProblemError as error:
        if error.problems[0].code in _NOT_THERE:
            raise missing_signature(_without_secrets(beside), signers) from None
        raise


class _Channel(NamedTuple):
    """Reads paths and URLs. `ca`: of the web server. `is_protected`: a hash or a signature protects the content."""

    ca: Path | None
    is_protected: bool

    def read(self, source: str) -> bytes:
        """Return at most MAX_BYTES. Messages never contain a password of the URL."""
        place = urlsplit(source)
        if place.scheme not in _REMOTE:
            return read_bytes(Path(unquote(place.path)) if place.scheme == "file" else Path(source), _ASK_ADMIN)
        self._check(source)
        name = _without_secrets(source)
        try:
            with Fetcher(ca=self.ca) as fetcher:
                reply = fetcher.get(source, MAX_BYTES + 1, check=self._check)
        except Downgrade as refused:
            url, target = _without_secrets(refused.url), _without_secrets(refused.target)
            raise ProblemError(_downgraded(url, target), "usage") from None
        except RequestFailed as failed:
            raise ProblemError(_not_fetched(name, failed.fault.problem)) from None
        if reply.status != HTTPStatus.OK:
            raise ProblemError(_not_there(name, f"HTTP {reply.status}"))
        if len(reply.received) > MAX_BYTES:
            raise ProblemError(_not_there(name, f"larger than {MAX_BYTES >> 20} MiB"))
        return reply.received

    def _check(self, url: str) -> None:
        """Raise ProblemError (usage) where anybody on the way could exchange the content."""
        place = urlsplit(url)
        if place.scheme == "http" and not (self.is_protected or is_loopback(place.hostname or "")):
            raise ProblemError(_unprotected(_without_secrets(url)), "usage")


def _without_secrets(url: str) -> str:
    """Return the URL without user, password, query and fragment; a path as it is."""
    parts = urlsplit(url)
    if not parts.scheme:
        return url
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def _not_there(url: str, reason: str) -> Problem:
    return Problem("no_lock_there", f"{url}: {reason}", _NOT_GUESSED, _ASK_ADMIN)


def _unprotected(url: str) -> Problem:
    return Problem(
        "lock_unprotected",
        f"{url}: plain http, and the lock is verified by neither a hash nor a signature",
        "anybody on the way could give another lock, and so choose the image and the registry of this machine",
        "use https; or give the hash that the lab's admin gives you: --sha256 HEX; or their keys: "
        "--allowed-signers FILE",
    )


def _downgraded(url: str, target: str) -> Problem:
    return Problem(
        "redirect_downgrade",
        f"{url} redirects to {target}, from https to http",
        "plain http lets anybody on the network exchange the lock",
        "ask the lab's admin for the address that lab.lock is published at",
    )


def _not_fetched(url: str, problem: Problem) -> Problem:
    untrusted = problem.code == "tls_untrusted"
    fix = "give the certificate of the CA: --ca FILE" if untrusted else "check the address, and try again"
    return Problem(problem.code, f"{url}: {problem.what}", _NOT_GUESSED, fix)
