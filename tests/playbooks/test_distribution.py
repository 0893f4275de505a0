"""Names of packages and package sources by distribution, without a node."""

from typing import Any

import pytest

from tests.playbooks.node_code import ProblemError, module_util, problem

distribution: Any = module_util("prepare.distribution")

DEBIAN_13 = 'PRETTY_NAME="Debian GNU/Linux 13 (trixie)"\nVERSION_CODENAME=trixie\nID=debian\n'
DEBIAN_12 = 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nVERSION_CODENAME=bookworm\nID=debian\n'
UBUNTU_24 = 'PRETTY_NAME="Ubuntu 24.04.1 LTS"\nVERSION_CODENAME=noble\nID=ubuntu\nID_LIKE=debian\n'
UBUNTU_22 = 'PRETTY_NAME="Ubuntu 22.04.5 LTS"\nVERSION_CODENAME=jammy\nID=ubuntu\nID_LIKE=debian\n'
MIRROR = {"uri": "https://mirror.example/docker-ce/linux", "key": "KEY"}
DOCKER_CE = ("docker-ce", "docker-ce-cli", "containerd.io", "docker-compose-plugin")


@pytest.mark.parametrize(
    ("text", "own"),
    [
        (DEBIAN_13, ("docker.io", "docker-cli", "docker-compose")),
        (UBUNTU_24, ("docker.io", "docker-compose-v2")),
        (UBUNTU_22, ("docker.io", "docker-compose-v2")),
    ],
)
def test_packages_of_engine_and_compose_by_distribution(text: str, own: tuple[str, ...]) -> None:
    at = distribution.parse_os_release(text)
    assert distribution.engine_packages(at, docker_ce=False) == own
    assert distribution.engine_packages(at, docker_ce=True) == DOCKER_CE
    assert set(distribution.compose_packages(at, docker_ce=False)) <= set(own)
    assert distribution.compose_packages(at, docker_ce=True) == ("docker-compose-plugin",)


def test_bookworm_without_a_docker_mirror_is_refused() -> None:
    at = distribution.parse_os_release(DEBIAN_12)
    for packages in (distribution.engine_packages, distribution.compose_packages):
        with pytest.raises(ProblemError) as caught:
            packages(at, docker_ce=False)
        assert problem(caught)["code"] == "no_compose_package"
        assert "prepare.docker" in problem(caught)["fix"]
    assert distribution.engine_packages(at, docker_ce=True) == DOCKER_CE


@pytest.mark.parametrize(
    "text", ["", "ID=fedora\nVERSION_ID=41\n", "ID=debian\nVERSION_CODENAME=bullseye\n", "ID=linuxmint\n", "\0\xff"]
)
def test_an_unknown_distribution_is_refused(text: str) -> None:
    with pytest.raises(ProblemError) as caught:
        distribution.parse_os_release(text)
    assert problem(caught)["code"] == "unsupported_distribution"


@pytest.mark.parametrize(
    ("text", "uri", "suite"),
    [
        (DEBIAN_12, "https://mirror.example/docker-ce/linux/debian", "bookworm"),
        (UBUNTU_22, "https://mirror.example/docker-ce/linux/ubuntu", "jammy"),
    ],
)
def test_docker_source_has_folder_suite_and_key_of_the_distribution(text: str, uri: str, suite: str) -> None:
    source = distribution.docker_source(MIRROR, distribution.parse_os_release(text))
    assert source.text == (
        f"# Written by provision prepare.\nTypes: deb\nURIs: {uri}\nSuites: {suite}\nComponents: stable\n"
        "Signed-By: /etc/apt/keyrings/provisioner-docker.asc\n"
    )


@pytest.mark.parametrize(("platform", "folder"), [("linux/amd64", "amd64"), ("linux/arm64", "arm64")])
def test_nvidia_source_is_flat_and_has_the_folder_of_the_architecture(platform: str, folder: str) -> None:
    given = {"uri": "https://mirror.example/libnvidia-container/stable/deb/$(ARCH)/", "key": "KEY"}
    source = distribution.nvidia_source(given, platform)
    assert f"URIs: https://mirror.example/libnvidia-container/stable/deb/{folder}\nSuites: /\nSigned-By" in source.text
