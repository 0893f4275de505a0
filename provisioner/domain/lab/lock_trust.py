"""What a published lock lets happen on the machine that uses it, and when its user has to agree to that."""

import base64
import binascii
import hashlib
import re
from typing import Literal, NamedTuple

from provisioner.domain.lab.lock import Lockfile
from provisioner.domain.values.model import Value
from provisioner.domain.values.problem import Problem, ProblemError

# How the content of a lock was verified: the user named a file of this machine, gave the hash of its bytes, or it
# carries the signature of a known signer. "": it came over the network, protected by TLS alone.
VerifiedBy = Literal["", "file", "sha256", "signature"]

# Registries for everybody, whose certificates every machine can verify. A private CA for one of them would let its
# owner answer for the images of all other users of this machine. A name stands for all names below it, too.
_PUBLIC = (
    "amazonaws.com",
    "azurecr.io",
    "docker.io",
    "gcr.io",
    "ghcr.io",
    "gitlab.com",
    "icr.io",
    "k8s.io",
    "mcr.microsoft.com",
    "ngc.nvidia.com",
    "nvcr.io",
    "pkg.dev",
    "public.ecr.aws",
    "quay.io",
    "redhat.com",
    "redhat.io",
)
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----\s([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----")
_ASK_ADMIN = "ask the lab's admin to run `provision lock` and to publish lab.lock again"


class LockTrust(Value):
    """What a lock lets happen: which images may run, from where, and which CA the engine then trusts for that registry.

    `registry` is HOST[:PORT]; `ca` holds SHA-256 fingerprints, none if the certificates of the system count.
    """

    lab: str
    registry: str
    ca: tuple[str, ...] = ()
    images: tuple[str, ...] = ()


class TrustChange(NamedTuple):
    """One field of LockTrust with the values that were agreed to before, and those of now."""

    field: Literal["lab", "registry", "ca", "images"]
    before: tuple[str, ...]
    now: tuple[str, ...]


class Consent(NamedTuple):
    """What the user has to agree to. `is_first`: no lock was agreed to before.

    `by_hand`: --yes is not enough, because the lock is not verified and it brings a registry or a CA that the user
    has not agreed to.
    """

    changes: tuple[TrustChange, ...]
    is_first: bool
    by_hand: bool

    @property
    def is_needed(self) -> bool:
        """Whether there is anything to agree to."""
        return self.is_first or bool(self.changes)


def read_trust(lock: Lockfile) -> LockTrust:
    """Return what a lock lets happen.

    Raises ProblemError for a lock without an image, and (usage) for one whose images lie in several registries, whose
    CA is no certificate, or that brings a CA for a public registry. The CA of a lock is for its own registry alone.
    """
    registries = sorted({image.lab.partition("/")[0] for image in lock.all_images})
    if not registries:
        raise ProblemError(_empty_lock(lock))
    if len(registries) > 1:
        raise ProblemError(_several_registries(lock, registries), "usage")
    fingerprints = () if lock.registry_ca is None else _fingerprints(lock, lock.registry_ca)
    if fingerprints and _is_public(registries[0]):
        raise ProblemError(_ca_for_public(lock, registries[0]), "usage")
    images = tuple(dict.fromkeys(image.lab for image in lock.all_images))
    return LockTrust(lab=lock.lab, registry=registries[0], ca=fingerprints, images=images)


def build_consent(before: LockTrust | None, now: LockTrust, verified_by: VerifiedBy) -> Consent:
    """Compare with what the user agreed to before, None: nothing yet."""
    if before is None:
        return Consent((), is_first=True, by_hand=not verified_by)
    pairs = (
        TrustChange("lab", (before.lab,), (now.lab,)),
        TrustChange("registry", (before.registry,), (now.registry,)),
        TrustChange("ca", before.ca, now.ca),
        TrustChange("images", before.images, now.images),
    )
    changes = tuple(change for change in pairs if change.before != change.now)
    is_other_source = any(change.field in {"registry", "ca"} for change in changes)
    return Consent(changes, is_first=False, by_hand=is_other_source and not verified_by)


def _fingerprints(lock: Lockfile, pem: str) -> tuple[str, ...]:
    """Return the SHA-256 of each certificate, as `openssl x509 -fingerprint -sha256` writes it."""
    blocks = _CERTIFICATE.findall(pem)
    if not blocks or _CERTIFICATE.sub("", pem).strip():
        raise ProblemError(_not_a_ca(lock), "usage")
    try:
        decoded = [base64.b64decode("".join(block.split()), validate=True) for block in blocks]
    except binascii.Error:
        raise ProblemError(_not_a_ca(lock), "usage") from None
    return tuple(hashlib.sha256(one).digest().hex(":").upper() for one in decoded)


def _is_public(registry: str) -> bool:
    host = re.sub(r":\d+$", "", registry).lower().rstrip(".")
    return any(host == name or host.endswith(f".{name}") for name in _PUBLIC)


def _empty_lock(lock: Lockfile) -> Problem:
    return Problem(
        "empty_lock",
        f"the lock of {lock.lab} holds no image",
        "a seat runs an image that the lab has locked",
        _ASK_ADMIN,
    )


def _several_registries(lock: Lockfile, registries: list[str]) -> Problem:
    return Problem(
        "several_registries",
        f"the images of the lock of {lock.lab} lie in {len(registries)} registries: {', '.join(registries)}",
        "a lab has one registry, and the CA of a lock is for that one alone",
        _ASK_ADMIN,
    )


def _not_a_ca(lock: Lockfile) -> Problem:
    return Problem(
        "not_a_certificate",
        f"registry_ca in the lock of {lock.lab} is not one or more PEM certificates and nothing else",
        "the Docker Engine would trust it for the lab's registry",
        _ASK_ADMIN,
    )


def _ca_for_public(lock: Lockfile, registry: str) -> Problem:
    return Problem(
        "ca_for_public_registry",
        f"the lock of {lock.lab} brings a CA of its own for {registry}, a public registry",
        "its owner could answer for every image that this machine pulls from there, for any purpose",
        "do not use this lock; report it to the lab's admin",
    )
