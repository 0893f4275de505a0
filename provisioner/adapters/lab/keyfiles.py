"""Read the public keys and certificates that a lab names. Private keys and other content are refused."""

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
# Without DSA: OpenSSH 10 no longer supports it.
_KEY_TYPES = re.compile(
    r"ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp(256|384|521)|sk-(ssh-ed25519|ecdsa-sha2-nistp256)@openssh\.com"
)
_KEY_LINE = re.compile(
    r"(?P<type>[a-z0-9@.-]+)[ \t]+(?P<blob>[A-Za-z0-9+/]{32,}={0,3})"
    r"(?P<comment>[ \t]+[^\x00-\x1f\x7f-\x9f\u2028\u2029]+)?"
)
# What was meant as a key, with or without options, and not as the name of a file.
_MEANT_AS_KEY = re.compile(r"(ssh|ecdsa|sk)-\S+\s|AAAA[A-Za-z0-9+/]{8}|.*\s(ssh|ecdsa|sk)-\S+\s+AAAA", re.DOTALL)
_MAX_FILE_NAME = 255


def public_keys(path: Path, place: str) -> tuple[str, ...] | Problem:
    """Return the SSH keys of a file, one a line, each with its comment. `place` is where lab.yml names the file."""
    text = _read(path, place)
    return text if isinstance(text, Problem) else _parse_keys(text, place, path)


def keys_of_cell(folder: Path, text: str, place: str) -> tuple[str, ...] | Problem:
    """Return the SSH keys of a cell of the roster: those in it, one a line, or those of the file that it names.

    The name is relative to `folder`. `place`: of the cell.
    """
    if _PRIVATE.search(text):
        return _private_key(place)
    if _MEANT_AS_KEY.match(text) or len(text) > _MAX_FILE_NAME or not text.isprintable():
        return _parse_keys(text, place)
    return public_keys(folder / text, place)


def certificates(path: Path, place: str) -> str | Problem:
    """Return the PEM text of one or more CA certificates, without any text between them."""
    not_found = Problem(
        "not_a_certificate",
        f"{place}: {path} holds no PEM certificate",
        "a registry is trusted by the certificate of the CA that signed its own",
        "give the CA's certificate as PEM (-----BEGIN CERTIFICATE-----)",
    )
    return _read_blocks(path, place, _CERTIFICATE, not_found)


def package_key(path: Path, place: str) -> str | Problem:
    """Return the ASCII-armoured OpenPGP keys that sign a package repository."""
    not_found = Problem(
        "not_a_package_key",
        f"{place}: {path} holds no ASCII-armoured OpenPGP public key",
        "apt accepts packages of that source only if they are signed with this key",
        "fetch the vendor's key as text (-----BEGIN PGP PUBLIC KEY BLOCK-----); gpg --enarmor converts a .gpg file",
    )
    return _read_blocks(path, place, _PACKAGE_KEY, not_found)


def _read_blocks(path: Path, place: str, block: re.Pattern[str], not_found: Problem) -> str | Problem:
    text = _read(path, place)
    if isinstance(text, Problem):
        return text
    found = block.findall(text.replace("\r\n", "\n"))
    return "\n".join(found) + "\n" if found else not_found


def _read(path: Path, place: str) -> str | Problem:
    try:
        text = read_text(path, "create the file, or name another one (paths are relative to the lab's directory)")
    except ProblemError as error:
        problem = error.problems[0]
        return problem.model_copy(update={"what": f"{place}: {problem.what}"})
    return _private_key(f"{place}: {path}") if _PRIVATE.search(text) else text


def _private_key(source: str) -> Problem:
    return Problem(
        "private_key",
        f"{source} holds a PRIVATE key",
        "it would be copied to every node; a private key must never leave the machine that created it",
        "name the public key (the file that ends in .pub); if this file was ever shared, create a new key pair",
    )


def _parse_keys(text: str, place: str, path: Path | None = None) -> tuple[str, ...] | Problem:
    lines = [(number, line.strip()) for number, line in enumerate(text.split("\n"), 1)]
    keys = [(number, line) for number, line in lines if line and not line.startswith("#")]
    wrong = next((number for number, line in keys if not _is_key(line)), None)
    if wrong is not None or not keys:
        return Problem(
            "not_a_public_key",
            f"{place}: {f'{path}:{wrong or 1}: ' if path else ''}not an SSH public key",
            "sshd skips a line that it cannot parse, and the owner of the key cannot log in",
            "one key a line, `ssh-ed25519 AAAA… comment`, as in the .pub file that ssh-keygen writes",
        )
    return tuple(" ".join(line.split(None, 2)) for _, line in keys)


def _is_key(line: str) -> bool:
    """Return whether the line is `type base64 [comment]` and the base64 starts with the same type (RFC 4253, 6.6)."""
    match = _KEY_LINE.fullmatch(line)
    if match is None or not _KEY_TYPES.fullmatch(match["type"]):
        return False
    try:
        blob = base64.b64decode(match["blob"], validate=True)
    except binascii.Error:
        return False
    name = match["type"].encode()
    return blob.startswith(len(name).to_bytes(4, "big") + name) and len(blob) > len(name) + 4
