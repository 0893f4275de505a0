"""Public keys and certificates that a lab names: read, proved to be what they claim, and never a private one."""

import base64
import binascii
import re
from pathlib import Path

from provisioner.adapters.state.files import read_text
from provisioner.domain.values.problem import Problem, ProblemError

_PRIVATE = re.compile(r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY( BLOCK)?-----|^PuTTY-User-Key-File-\d", re.MULTILINE)
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----\n[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----")
_PACKAGE_KEY = re.compile(
    r"-----BEGIN PGP PUBLIC KEY BLOCK-----\n[A-Za-z0-9+/=:.,()\s-]+-----END PGP PUBLIC KEY BLOCK-----"
)
# DSA is left out: OpenSSH 10 no longer knows it.
_KEY_TYPES = re.compile(
    r"ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp(256|384|521)|sk-(ssh-ed25519|ecdsa-sha2-nistp256)@openssh\.com"
)
_KEY_LINE = re.compile(
    r"(?P<type>[a-z0-9@.-]+)[ \t]+(?P<blob>[A-Za-z0-9+/]+={0,3})(?P<comment>[ \t]+[^\x00-\x1f\x7f]+)?"
)


def public_keys(path: Path, place: str) -> tuple[str, ...] | Problem:
    """The keys of a file, one a line, each with its comment. `place` is where a person named the file."""
    text = _text(path, place)
    return text if isinstance(text, Problem) else _keys(path, place, text)


def certificates(path: Path, place: str) -> str | Problem:
    """The PEM text of one or more CA certificates."""
    text = _text(path, place)
    if isinstance(text, Problem):
        return text
    found = _CERTIFICATE.findall(text.replace("\r\n", "\n"))
    return "\n".join(found) + "\n" if found else _no_certificate(path, place)


def package_key(path: Path, place: str) -> str | Problem:
    """The ASCII-armoured keys that a repository of packages is signed by."""
    text = _text(path, place)
    if isinstance(text, Problem):
        return text
    found = _PACKAGE_KEY.findall(text.replace("\r\n", "\n"))
    return "\n".join(found) + "\n" if found else _no_package_key(path, place)


def _text(path: Path, place: str) -> str | Problem:
    try:
        text = read_text(path, "write the file, or name another one (paths are relative to the lab's directory)")
    except ProblemError as error:
        problem = error.problems[0]
        return problem.model_copy(update={"what": f"{place}: {problem.what}"})
    return _private(path, place) if _PRIVATE.search(text) else text


def _keys(path: Path, place: str, text: str) -> tuple[str, ...] | Problem:
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1)]
    keys = [(number, line) for number, line in lines if line and not line.startswith("#")]
    wrong = next((number for number, line in keys if not _is_key(line)), None)
    if wrong is not None or not keys:
        return _no_key(f"{path}:{wrong or 1}", place)
    return tuple(" ".join(line.split(None, 2)) for _, line in keys)


def _is_key(line: str) -> bool:
    """Whether the line says `type base64 [comment]` and the base64 begins with that same type (RFC 4253, 6.6)."""
    match = _KEY_LINE.fullmatch(line)
    if match is None or not _KEY_TYPES.fullmatch(match["type"]):
        return False
    try:
        blob = base64.b64decode(match["blob"], validate=True)
    except binascii.Error:
        return False
    name = match["type"].encode()
    return blob.startswith(len(name).to_bytes(4, "big") + name) and len(blob) > len(name) + 4


def _no_certificate(path: Path, place: str) -> Problem:
    return Problem(
        "not_a_certificate",
        f"{place}: {path} holds no PEM certificate",
        "a registry is trusted by the certificate of the authority that signed its own",
        "give the authority's certificate as PEM (-----BEGIN CERTIFICATE-----)",
    )


def _no_package_key(path: Path, place: str) -> Problem:
    return Problem(
        "not_a_package_key",
        f"{place}: {path} holds no ASCII-armoured OpenPGP public key",
        "apt takes packages of that source only where they are signed by it",
        "fetch the vendor's key as text (-----BEGIN PGP PUBLIC KEY BLOCK-----); gpg --enarmor makes text of a .gpg",
    )


def _private(path: Path, place: str) -> Problem:
    return Problem(
        "private_key",
        f"{place}: {path} holds a PRIVATE key",
        "it would have been copied to every node; a private key never leaves the machine it was made on",
        "name the public half (the file that ends in .pub); if this file was ever shared, make a new key pair",
    )


def _no_key(where: str, place: str) -> Problem:
    return Problem(
        "not_a_public_key",
        f"{place}: {where}: not an SSH public key",
        "sshd skips a line that it does not understand, and its owner is locked out",
        "one key a line, `ssh-ed25519 AAAA… comment`, as in the .pub file that ssh-keygen writes",
    )
