"""Commands that a person pastes into a shell: each word means what it says, whatever is in it."""

import shlex

import pytest

from provisioner.domain.registry.copy_commands import Place, with_engine, with_skopeo
from provisioner.domain.values.reference import ImageReference
from tests.builders import a_digest

SOURCE = ImageReference(registry="docker.io", repository="pytorch/pytorch", tag="t", digest=a_digest("t"))
TARGET = ImageReference(registry="registry.lab:5000", repository="pytorch/pytorch", tag="t")
BY_DIGEST = f"docker.io/pytorch/pytorch@{a_digest('t')}"
FOLDER = "$HOME/.config/containers/certs.d"

COPY = ["skopeo", "copy", "--preserve-digests"]
CASES: list[tuple[Place, Place, list[list[str]]]] = [
    (
        Place(address="docker.io"),
        Place(address="registry.lab:5000"),
        [COPY],
    ),
    (
        Place(address="docker.io", plain_http=True),
        Place(address="registry.lab:5000", ca="/labs/it's ours/ca.pem"),
        [
            ["install", "-D", "-m", "0644", "/labs/it's ours/ca.pem", f"{FOLDER}/registry.lab:5000/ca.crt"],
            [*COPY, "--src-tls-verify=false", "--dest-cert-dir", f"{FOLDER}/registry.lab:5000"],
        ],
    ),
    (
        Place(address="up.campus", ca="/ca.pem"),
        Place(address="registry.lab:5000", plain_http=True),
        [
            ["install", "-D", "-m", "0644", "/ca.pem", f"{FOLDER}/up.campus/ca.crt"],
            [
                "skopeo",
                "copy",
                "--preserve-digests",
                "--src-cert-dir",
                f"{FOLDER}/up.campus",
                "--dest-tls-verify=false",
            ],
        ],
    ),
]


@pytest.mark.parametrize(("at", "to", "words"), CASES)
def test_with_skopeo(at: Place, to: Place, words: list[list[str]]) -> None:
    names = [f"docker://{BY_DIGEST}", f"docker://{TARGET}"]
    expected = [*words[:-1], words[-1] + names]
    assert [shlex.split(line) for line in with_skopeo(SOURCE, at, TARGET, to)] == expected


def test_one_certificate_is_put_in_place_once() -> None:
    place = Place(address="registry.lab:5000", ca="/ca.pem")
    assert len(with_skopeo(SOURCE, place, TARGET, place)) == 2


def test_with_an_engine() -> None:
    assert with_engine(SOURCE, TARGET) == (
        f"docker pull {BY_DIGEST}",
        f"docker tag {BY_DIGEST} {TARGET}",
        f"docker push {TARGET}",
    )
