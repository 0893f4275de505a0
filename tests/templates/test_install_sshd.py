"""Which package sources the build asks, in a container where apt-get only says what it was told."""

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


def asked(testbed: Engine, mirror: str) -> str:
    """What `apt-get update` read."""
    files = {**SOURCES, "/usr/local/sbin/apt-get": APT}
    writes = "".join(f"mkdir -p {Path(path).parent}; cat >{path} <<'END'\n{text}END\n" for path, text in files.items())
    script = (
        f"{writes}chmod +x /usr/local/sbin/apt-get; sh /templates/install_sshd.sh '{mirror}'; cat /etc/apt/sources.list"
    )
    mount = ("-v", f"{templates()}:/templates:ro")
    return testbed.docker("run", "--rm", "--network", "none", *mount, "lab/tree-python", "sh", "-euc", script)


def test_only_the_distributions_own_sources_are_asked(testbed: Engine) -> None:
    said = asked(testbed, "")
    assert "http://archive.example/ubuntu jammy" in said
    assert "URIs: http://security.example/ubuntu/\n" in said
    assert "developer.example" not in said


def test_a_mirror_takes_the_place_of_their_hosts_and_the_bases_lists_stay(testbed: Engine) -> None:
    *update, kept = asked(testbed, "http://mirrors.example.edu/apt").splitlines()
    assert kept == SOURCES["/etc/apt/sources.list"].strip()
    here = "http://mirrors.example.edu/apt"
    for line in (
        f"deb {here}/ubuntu jammy main",
        f"URIs: {here}/ubuntu",
        f"URIs: {here}/ubuntu-ports",
        f"deb {here}/debian trixie main",
        f"deb {here}/debian-security trixie-security main",
    ):
        assert line in update
