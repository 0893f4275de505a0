"""Which package sources the build uses, in a container where a fake apt-get prints the sources it was given."""

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


def read_sources(testbed: Engine, mirror: str) -> str:
    """Return the sources that `apt-get update` read, and then the list of the base."""
    files = {**SOURCES, "/usr/local/sbin/apt-get": APT}
    writes = "".join(f"mkdir -p {Path(path).parent}; cat >{path} <<'END'\n{text}END\n" for path, text in files.items())
    script = (
        f"{writes}chmod +x /usr/local/sbin/apt-get; sh /templates/install_sshd.sh '{mirror}'; cat /etc/apt/sources.list"
    )
    mount = ("-v", f"{templates()}:/templates:ro")
    return testbed.docker("run", "--rm", "--network", "none", *mount, "lab/tree-python", "sh", "-euc", script)


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
