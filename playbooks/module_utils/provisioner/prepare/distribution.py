"""Which distribution a node runs, and what engine, compose and toolkit are called in its packages."""

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
    """What a distribution has of its own. `engine` empty: no compose v2 is in its archive, so it takes Docker's."""

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
    """`family` and `codename` as os-release has them: debian, trixie."""

    family: str
    codename: str
    release: Release


class Source(NamedTuple):
    """A repository of packages: one deb822 entry. `suite` "/" is a flat one, which has no components."""

    name: str
    uri: str
    suite: str
    component: str
    key: str

    @property
    def path(self) -> Path:
        return Path("/etc/apt/sources.list.d") / f"provisioner-{self.name}.sources"

    @property
    def keyring(self) -> Path:
        return Path("/etc/apt/keyrings") / f"provisioner-{self.name}.asc"

    @property
    def text(self) -> str:
        component = f"Components: {self.component}\n" if self.component else ""
        head = f"Types: deb\nURIs: {self.uri}\nSuites: {self.suite}\n"
        return f"# Written by provision prepare.\n{head}{component}Signed-By: {self.keyring}\n"


def parse_os_release(text: str) -> Distribution:
    """From the text of os-release. Raises ProblemError where it is none that we know the packages of."""
    fields = dict(LINE.findall(text))
    family, codename = fields.get("ID", ""), fields.get("VERSION_CODENAME", "")
    release = RELEASES.get((family, codename))
    if release is None:
        raise _unknown(fields.get("PRETTY_NAME") or family or "it does not say")
    return Distribution(family, codename, release)


def read_distribution() -> Distribution:
    return parse_os_release(read(OS_RELEASE))


def docker_source(given: dict[str, Any] | None, at: Distribution) -> Source | None:
    """Docker's repository has a folder for each family. `given`: uri and key, as the lab's wish names them."""
    if given is None:
        return None
    return Source("docker", f"{given['uri'].rstrip('/')}/{at.family}", at.codename, "stable", given["key"])


def nvidia_source(given: dict[str, Any] | None, platform: str) -> Source | None:
    """NVIDIA's is flat, one for each architecture, the same for every distribution."""
    if given is None:
        return None
    url = given["uri"].replace("$(ARCH)", ARCHITECTURES.get(platform, platform.rpartition("/")[2]))
    return Source("nvidia", url.rstrip("/"), "/", "", given["key"])


def engine_packages(at: Distribution, source: Source | None) -> tuple[str, ...]:
    """Raises ProblemError where neither the distribution nor the lab has them."""
    if source is not None:
        return DOCKER_CE
    if not at.release.engine:
        raise _no_compose_in(at)
    return at.release.engine


def compose_packages(at: Distribution, *, docker_ce: bool) -> tuple[str, ...]:
    """What fits the engine that is there: the two kinds of package exclude one another."""
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
        f"the names of its packages are not known; known are {known}",
        "install Docker Engine with compose v2 and, for GPUs, NVIDIA's container toolkit by hand; all other verbs work",
    )


def _no_compose_in(at: Distribution) -> ProblemError:
    return ProblemError(
        "no_compose_package",
        f"{at.release.name} has no compose v2 in its own archive, and its engine is older than one",
        "a seat is started by `docker compose`, version 2 or newer",
        "name a mirror of Docker's packages in lab.yml: prepare.docker, with uri and key",
    )
