"""Which package sources the build uses, in a container where a fake apt-get prints the sources it was given."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from provisioner.adapters.resources import templates
from tests.lab.engine import Engine

pytestmark = pytest.mark.lab

SOURCES = {
    "/etc/apt/sources.list": "deb http://archive.example/ubuntu jammy main\n",
    "/etc/apt/sources.list.d/ubuntu.sources": "Types: deb\nURIs: http://security.example/ubuntu/\nSuites: noble\n",
    "/etc/apt/sources.list.d/ports.sources": "Types: deb\nURIs: http://ports.example/ubuntu-ports/\nSuites: noble\n",
    "/etc/apt/sources.list.d/debian.list": "deb https://deb.example/debian trixie main\n"
    "deb https://deb.example/debian-security trixie-security main\n",
    "/etc/apt/sources.list.d/cuda.list": "deb https://developer.example/compute/cuda/repos/ubuntu2204/x86_64 /\n",
}
APT = """#!/bin/sh
for word; do case "$word" in *sourceparts=*) cat "${word#*=}"/* ;; esac; done
"""
# The names that the sources have, and what is installed in the end.
CACHE = "#!/bin/sh\nprintf 'openssh-server\nsox\n'\n"
DPKG = """#!/bin/sh
case "$*" in
*nvidia*) [ ! -e /driver ] || echo 'installed libcuda1' ;;
*sox) exit 1 ;;
*) echo 'installed 1:9.6' ;;
esac
"""


def install(testbed: Engine, mirror: str, *names: str, sources: Mapping[str, str] = SOURCES, apt: str = APT) -> str:
    """Run the script in a container with fakes of the distribution's tools; return its output, then what is left."""
    tools = {"apt-get": apt, "apt-cache": CACHE, "dpkg-query": DPKG}
    files = {**sources, **{f"/usr/local/sbin/{name}": text for name, text in tools.items()}}
    writes = "".join(f"mkdir -p {Path(path).parent}; cat >{path} <<'END'\n{text}END\n" for path, text in files.items())
    run = f"sh /templates/install_packages.sh '{mirror}' {' '.join(names)} 2>&1 || true"
    empty = "rm -rf /etc/apt/sources.list*"
    left = "cat /etc/apt/sources.list /opt/provisioner/packages 2>/dev/null; ls /tmp /var/lib/apt/lists"
    script = f"{empty}; {writes} chmod +x /usr/local/sbin/*; {run}; {left}"
    mount = ("-v", f"{templates()}:/templates:ro")
    return testbed.docker("run", "--rm", "--network", "none", *mount, "lab/tree-python", "sh", "-uc", script)


def read_sources(testbed: Engine, mirror: str) -> str:
    """Return the sources that apt read, and then the list of the base."""
    return install(testbed, mirror, "openssh-server").partition("openssh-server 1:9.6")[0].strip()


def test_only_the_sources_of_the_distribution_are_used(testbed: Engine) -> None:
    sources = read_sources(testbed, "")
    assert "http://archive.example/ubuntu jammy" in sources
    assert "URIs: http://security.example/ubuntu/\n" in sources
    assert "developer.example" not in sources


def test_a_mirror_replaces_the_hosts_and_the_lists_of_the_base_stay(testbed: Engine) -> None:
    *update, kept = read_sources(testbed, "http://mirrors.example.edu/apt").splitlines()
    assert kept == SOURCES["/etc/apt/sources.list"].strip()
    mirror = "http://mirrors.example.edu/apt"
    for line in (
        f"deb {mirror}/ubuntu jammy main",
        f"URIs: {mirror}/ubuntu",
        f"URIs: {mirror}/ubuntu-ports",
        f"deb {mirror}/debian trixie main",
        f"deb {mirror}/debian-security trixie-security main",
    ):
        assert line in update


def test_versions_are_recorded_and_nothing_is_left(testbed: Engine) -> None:
    assert install(testbed, "", "openssh-server").endswith("openssh-server 1:9.6\n/tmp:\n\n/var/lib/apt/lists:")


FAILING = "#!/bin/sh\nfor word; do case $word in {words}) echo why; exit 100 ;; esac; done\n"


@pytest.mark.parametrize(
    ("names", "apt", "mark"),
    [
        ("no-such openssh-server openssh-", APT, "provisioner: apt_package no-such openssh-"),
        ("sox", APT, "provisioner: apt_package sox"),  # installed without a version: only others provide it
        ("openssh-server", FAILING.format(words="update"), "why\n\nprovisioner: apt_mirror_failed"),
        ("openssh-server", FAILING.format(words="install"), "why\n\nprovisioner: apt_package openssh-server"),
        (
            "openssh-server",
            '#!/bin/sh\ncase "$*" in *install*) touch /driver ;; esac\n',
            "provisioner: apt_driver libcuda1",
        ),
        # It can be chosen, and not downloaded.
        (
            "openssh-server",
            '#!/bin/sh\ncase "$*" in *simulate*|*update*) ;; *install*) echo why; exit 100 ;; esac\n',
            "why\n\nprovisioner: apt_mirror_failed",
        ),
        # It can be downloaded, and not set up.
        (
            "openssh-server",
            '#!/bin/sh\ncase "$*" in *simulate*|*only*|*update*) ;; *install*) echo why; exit 100 ;; esac\n',
            "why\n\nprovisioner: apt_package openssh-server",
        ),
    ],
)
def test_a_failure_ends_with_its_mark(testbed: Engine, names: str, apt: str, mark: str) -> None:
    assert mark in install(testbed, "", *names.split(), apt=apt)


def test_a_mirror_that_answers_the_second_time_is_no_failure(testbed: Engine) -> None:
    once = "[ -e /tried ] || { touch /tried; exit 100; }"
    apt = f'#!/bin/sh\ncase "$*" in *simulate*|*update*) ;; *install*) {once} ;; esac\n'
    output = install(testbed, "", "openssh-server", apt=apt)
    assert "provisioner:" not in output
    assert "openssh-server 1:9.6" in output


def test_a_base_without_sources_of_its_own_is_another_failure(testbed: Engine) -> None:
    cuda = {name: text for name, text in SOURCES.items() if "cuda" in name}
    assert "provisioner: apt_no_sources" in install(testbed, "", "openssh-server", sources=cuda)
