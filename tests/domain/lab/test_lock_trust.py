"""What a published lock may bring with it, and what its user has to agree to."""

import base64
import hashlib

import pytest
from pydantic import ValidationError

from provisioner.domain.lab.lock import LockedEnvironment, LockedImage, Lockfile
from provisioner.domain.lab.lock_trust import LockTrust, VerifiedBy, build_consent, read_trust
from provisioner.domain.values.problem import ProblemError
from tests.builders import a_digest, a_lock, a_lock_of, a_locked_image


def a_certificate(text: str) -> str:
    body = base64.encodebytes(text.encode()).decode()
    return f"-----BEGIN CERTIFICATE-----\n{body}-----END CERTIFICATE-----\n"


def fingerprint(text: str) -> str:
    return hashlib.sha256(text.encode()).digest().hex(":").upper()


def image_at(address: str) -> LockedImage:
    return a_locked_image(lab=f"{address}/provisioner/lab@{a_digest(address)}")


def with_ca(ca: str | None, *images: LockedImage) -> Lockfile:
    return a_lock(*images).model_copy(update={"registry_ca": ca})


def test_trust_names_registry_fingerprints_and_images() -> None:
    lock = with_ca(a_certificate("one") + a_certificate("two"))
    assert read_trust(lock) == LockTrust(
        lab="demo",
        registry="registry.lab:5201",
        ca=(fingerprint("one"), fingerprint("two")),
        images=(lock.images[0].lab,),
    )


def test_images_of_every_environment_count() -> None:
    nlp = image_at("registry.lab:5201").model_copy(update={"lab": f"registry.lab:5201/lab@{a_digest('nlp')}"})
    lock = a_lock_of(default=image_at("registry.lab:5201"), nlp=nlp)
    assert read_trust(lock).images == (lock.images[0].lab, nlp.lab)
    elsewhere = a_lock_of(default=image_at("registry.lab:5201"), nlp=image_at("other.lab"))
    assert code(elsewhere) == "several_registries"


def code(lock: Lockfile) -> str:
    with pytest.raises(ProblemError) as refused:
        read_trust(lock)
    assert refused.value.ending == "usage"
    (problem,) = refused.value.problems
    return problem.code


@pytest.mark.parametrize(
    "address",
    ["docker.io", "registry-1.docker.io", "Registry-1.Docker.IO:443", "index.docker.io:443", "ghcr.io", "nvcr.io",
     "eu.gcr.io", "123.dkr.ecr.eu-west-1.amazonaws.com", "quay.io"],
)  # fmt: skip
def test_an_own_ca_for_a_public_registry_is_refused(address: str) -> None:
    """As with certs.d/registry-1.docker.io: its owner could answer for every pull of this machine."""
    assert code(with_ca(a_certificate("evil"), image_at(address))) == "ca_for_public_registry"
    assert read_trust(with_ca(None, image_at(address))).ca == ()


def test_a_name_that_only_ends_like_a_public_registry_may_have_a_ca() -> None:
    for address in ("mydocker.io", "registry.lab", "docker.io.lab.example:5000"):
        assert read_trust(with_ca(a_certificate("lab"), image_at(address))).registry == address


def test_a_lock_names_one_registry() -> None:
    """The CA of the lock would be installed for each of them."""
    assert code(with_ca(None, image_at("registry.lab:5201"), image_at("harbor.campus.example"))) == "several_registries"


@pytest.mark.parametrize(
    "ca",
    ["", "x", "-----BEGIN CERTIFICATE-----\nA\n-----END CERTIFICATE-----\n",
     a_certificate("one") + "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"],
)  # fmt: skip
def test_a_ca_that_is_not_only_certificates_is_refused(ca: str) -> None:
    assert code(with_ca(ca)) == "not_a_certificate"


@pytest.mark.parametrize(
    "lab",
    [f"../x@{a_digest('x')}", f"..@{a_digest('x')}", f"/etc/x@{a_digest('x')}", "registry.lab/x:latest",
     f"-o/x@{a_digest('x')}", f"registry.lab/../x@{a_digest('x')}", f"registry.lab/x@{a_digest('x')}\n"],
)  # fmt: skip
def test_an_image_without_a_registry_and_a_digest_is_no_lock(lab: str) -> None:
    """Its first part becomes a folder in /etc/docker/certs.d."""
    with pytest.raises(ValidationError):
        a_locked_image(lab=lab)
    with pytest.raises(ValidationError):
        a_locked_image(base=lab)


NOW = LockTrust(lab="demo", registry="registry.lab", ca=("AA",), images=("i1",))


@pytest.mark.parametrize(
    ("before", "verified_by", "needed", "by_hand", "fields"),
    [
        (None, "", True, True, []),
        (None, "file", True, False, []),
        (None, "sha256", True, False, []),
        (None, "signature", True, False, []),
        (NOW, "", False, False, []),
        (NOW.model_copy(update={"images": ("i0",)}), "", True, False, ["images"]),
        (NOW.model_copy(update={"ca": ()}), "", True, True, ["ca"]),
        (NOW.model_copy(update={"ca": ("BB",)}), "signature", True, False, ["ca"]),
        (NOW.model_copy(update={"registry": "other.lab", "lab": "x"}), "", True, True, ["lab", "registry"]),
    ],
)
def test_consent_is_needed_for_what_was_not_agreed_to(
    before: LockTrust | None, verified_by: VerifiedBy, needed: bool, by_hand: bool, fields: list[str]
) -> None:
    consent = build_consent(before, NOW, verified_by)
    assert (consent.is_needed, consent.by_hand) == (needed, by_hand)
    assert [change.field for change in consent.changes] == fields


def test_images_of_every_environment_are_agreed_to() -> None:
    nlp = image_at("registry.lab:5201")
    lock = a_lock().model_copy(update={"environments": {"nlp": LockedEnvironment(images=(nlp,))}})
    assert read_trust(lock).images == (a_lock().images[0].lab, nlp.lab)
    assert not build_consent(read_trust(a_lock()), read_trust(a_lock()), "").is_needed
    assert build_consent(read_trust(a_lock()), read_trust(lock), "").is_needed


def test_an_environment_of_another_registry_is_refused() -> None:
    other = LockedEnvironment(images=(image_at("evil.example:5000"),))
    lock = a_lock().model_copy(update={"environments": {"nlp": other}})
    with pytest.raises(ProblemError, match="several_registries"):
        read_trust(lock)
