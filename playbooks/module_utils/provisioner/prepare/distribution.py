"""The Linux distribution of a node, and the names of its packages for engine, compose and toolkit."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

from ansible.module_utils.provisioner.base.files import read
from ansible.module_utils.provisioner.base.problem import ProblemError

OS_RELEASE = Path("/etc/os-release")
LINE = re.compile(r"""^([A-Z_]+)=["']?([^"'\n]*)["']?$""", re.MULTILINE)
ARCHITECTURES = {"linux/amd64": "amd64", "linux/arm64": "arm64"}  # as dpkg calls them

# Docker's own packages have these names on every distribution (docs.docker.com/engine/install).
DOCKER_CE = ("docker-ce", "docker-ce-cli", "containerd.io", "docker-compose-plugin")
DOCKER_CE_COMPOSE = ("docker-compose-plugin",)
TOOLKIT = ("nvidia-container-toolkit",)


class Release(NamedTuple):
    """Packages of a distribution. `engine` is empty when its archive has no compose v2; then Docker's are used."""

    name: str
    engine: tuple[str, ...]
    compose: tuple[str, ...]


# packages.debian.org, packages.ubuntu.com. Jammy's docker-compose-v2 is in jammy-updates, universe.
RELEASES = {
    ("debian", "bookworm"): Release("Debian 12", (), ()),
    ("debian", "trixie"): Release("Debian 13", ("docker.io", "docker-cli", "docker-compose"), ("docker-compose",)),
    ("ubuntu", "jammy"): Release("Ubuntu 22.04", ("docker.io", "docker-compose-v2"), ("docker-compose-v2",)),
    ("ubuntu", "noble"): Release("Ubuntu 24.04", ("docker.io", "docker-compose-v2"), ("docker-compose-v2",)),
}


class Distribution(NamedTuple):
    """A known distribution; `family` and `codename` as in os-release, such as debian and trixie."""

    family: str
    codename: str
    release: Release


class Source(NamedTuple):
    """A package source: one deb822 entry. `suite` "/" is a flat repository, which has no components."""

    name: str
    uri: str
    suite: str
    component: str
    key: str

    @property
    def path(self) -> Path:
        """The file of the entry."""
        return Path("/etc/apt/sources.list.d") / f"provisioner-{self.name}.sources"

    @property
    def keyring(self) -> Path:
        """The file of the key."""
        return Path("/etc/apt/keyrings") / f"provisioner-{self.name}.asc"

    @property
    def text(self) -> str:
        """The text of the entry."""
        component = f"Components: {self.component}\n" if self.component else ""
        head = f"Types: deb\nURIs: {self.uri}\nSuites: {self.suite}\n"
        return f"# Written by provision prepare.\n{head}{component}Signed-By: {self.keyring}\n"


def parse_os_release(text: str) -> Distribution:
    """Return the distribution in the text of os-release. Raises ProblemError `unsupported_distribution`."""
    fields = dict(LINE.findall(text))
    family, codename = fields.get("ID", ""), fields.get("VERSION_CODENAME", "")
    release = RELEASES.get((family, codename))
    if release is None:
        raise _unknown(fields.get("PRETTY_NAME") or family or "an unknown distribution")
    return Distribution(family, codename, release)


def read_distribution() -> Distribution:
    """Return the distribution of this node. Raises ProblemError `unsupported_distribution`."""
    return parse_os_release(read(OS_RELEASE))


def docker_source(given: dict[str, Any], at: Distribution) -> Source:
    """Return a mirror of Docker's repository, which has a folder for each family. `given`: `uri` and `key`."""
    return Source("docker", f"{given['uri'].rstrip('/')}/{at.family}", at.codename, "stable", given["key"])


def nvidia_source(given: dict[str, Any], platform: str) -> Source:
    """Return a mirror of NVIDIA's repository: flat, one for each architecture, the same for every distribution."""
    url = given["uri"].replace("$(ARCH)", ARCHITECTURES.get(platform, platform.rpartition("/")[2]))
    return Source("nvidia", url.rstrip("/"), "/", "", given["key"])


def engine_packages(at: Distribution, *, docker_ce: bool) -> tuple[str, ...]:
    """Return the packages of the engine: Docker's (`docker_ce`) or the distribution's.

    Raises ProblemError `no_compose_package`.
    """
    if docker_ce:
        return DOCKER_CE
    if not at.release.engine:
        raise _no_compose_in(at)
    return at.release.engine


def compose_packages(at: Distribution, *, docker_ce: bool) -> tuple[str, ...]:
    """Return the packages of compose for the installed engine; those of Docker and of the distribution conflict.

    Raises ProblemError `no_compose_package`.
    """
    if docker_ce:
        return DOCKER_CE_COMPOSE
    if not at.release.compose:
        raise _no_compose_in(at)
    return at.release.compose


def _unknown(name: str) -> ProblemError:
    known = ", ".join(release.name for release in RELEASES.values())
    return ProblemError(
        "unsupported_distribution",
        f"the node runs {name}",
        f"the names of its packages are not known; supported are {known}",
        "install Docker Engine with compose v2 and, for GPUs, NVIDIA's container toolkit by hand; other commands work",
    )


def _no_compose_in(at: Distribution) -> ProblemError:
    return ProblemError(
        "no_compose_package",
        f"the archive of {at.release.name} has no compose v2",
        "a seat is started by `docker compose`, version 2 or newer",
        "add a mirror of Docker's packages to lab.yml: prepare.docker, with uri and key",
    )
