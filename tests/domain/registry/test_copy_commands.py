"""Commands to paste into a shell: every argument is quoted, whatever characters it has."""

import shlex

import pytest

from provisioner.domain.registry.copy_commands import RegistryEndpoint, engine_commands, skopeo_commands
from provisioner.domain.values.reference import ImageReference
from tests.builders import a_digest

SOURCE = ImageReference(registry="docker.io", repository="pytorch/pytorch", tag="t", digest=a_digest("t"))
TARGET = ImageReference(registry="registry.lab:5000", repository="pytorch/pytorch", tag="t")
BY_DIGEST = f"docker.io/pytorch/pytorch@{a_digest('t')}"
FOLDER = "$HOME/.config/containers/certs.d"

COPY = ["skopeo", "copy", "--preserve-digests"]
CASES: list[tuple[RegistryEndpoint, RegistryEndpoint, list[list[str]]]] = [
    (
        RegistryEndpoint(address="docker.io"),
        RegistryEndpoint(address="registry.lab:5000"),
        [COPY],
    ),
    (
        RegistryEndpoint(address="docker.io", plain_http=True),
        RegistryEndpoint(address="registry.lab:5000", ca="/labs/it's ours/ca.pem"),
        [
            ["install", "-D", "-m", "0644", "/labs/it's ours/ca.pem", f"{FOLDER}/registry.lab:5000/ca.crt"],
            [*COPY, "--src-tls-verify=false", "--dest-cert-dir", f"{FOLDER}/registry.lab:5000"],
        ],
    ),
    (
        RegistryEndpoint(address="up.campus", ca="/ca.pem"),
        RegistryEndpoint(address="registry.lab:5000", plain_http=True),
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
def test_skopeo_commands_copy_by_digest(at: RegistryEndpoint, to: RegistryEndpoint, words: list[list[str]]) -> None:
    names = [f"docker://{BY_DIGEST}", f"docker://{TARGET}"]
    expected = [*words[:-1], words[-1] + names]
    assert [shlex.split(line) for line in skopeo_commands(SOURCE, at, TARGET, to)] == expected


def test_certificate_of_one_registry_is_installed_once() -> None:
    place = RegistryEndpoint(address="registry.lab:5000", ca="/ca.pem")
    assert len(skopeo_commands(SOURCE, place, TARGET, place)) == 2


def test_engine_commands_pull_tag_and_push() -> None:
    assert engine_commands(SOURCE, TARGET) == (
        f"docker pull {BY_DIGEST}",
        f"docker tag {BY_DIGEST} {TARGET}",
        f"docker push {TARGET}",
    )
