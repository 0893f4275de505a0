"""Logins of a registry's htpasswd file. The distribution project's registry accepts bcrypt alone."""

import ctypes
import ctypes.util
import secrets

from provisioner.adapters.state.push_logins import PushLogin
from provisioner.domain.values.problem import Problem, ProblemError

# 2^5 rounds. More make a password that can be guessed safer, and each request to the registry slower; this one is 32
# random bytes.
_BCRYPT, _ROUNDS = b"$2b$", 5
_PASSWORD_BYTES = 32


def make_push_login(registry: str, address: str, holder: str) -> PushLogin:
    """Return a new login for pushes at `address`. `holder`: PERSON@MACHINE, for those who read the registry's file.

    Raises ProblemError (`no_bcrypt`).
    """
    user = f"{holder.replace(':', '')}-{secrets.token_hex(4)}"
    password = secrets.token_urlsafe(_PASSWORD_BYTES)
    entry = f"{user}:{_hash_password(password)}"
    return PushLogin(registry=registry, address=address, user=user, password=password, entry=entry)


def _hash_password(password: str) -> str:
    """Hash by the C library's crypt(3): Python has had no module for it since 3.13."""
    try:
        library = ctypes.CDLL(ctypes.util.find_library("crypt") or "libcrypt.so.1")
        library.crypt_gensalt.restype = library.crypt.restype = ctypes.c_char_p
        salt = library.crypt_gensalt(_BCRYPT, ctypes.c_ulong(_ROUNDS), None, 0)
        found: bytes | None = library.crypt(password.encode(), salt) if salt else None
    except (OSError, AttributeError):
        found = None
    if not (found or b"").startswith(_BCRYPT):
        raise ProblemError(_no_bcrypt())
    return (found or b"").decode()


def _no_bcrypt() -> Problem:
    return Problem(
        "no_bcrypt",
        "the C library of this machine cannot make bcrypt hashes",
        "the lab's registry takes pushes only with a login, whose password it knows as a bcrypt hash",
        "install libxcrypt, which Debian, Ubuntu and Fedora have: apt-get install libcrypt1",
    )
