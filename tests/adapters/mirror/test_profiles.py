import re
from datetime import date

import pytest

from provisioner.adapters.mirror.profiles import load


def test_every_profile_has_date_source_note_and_hosts() -> None:
    for profile in load().profiles:
        assert date.fromisoformat(profile.as_of) <= date.fromisoformat(load().version)
        assert re.search(r"#\d+|docs\.|public|README", profile.source), profile.name
        assert profile.note.endswith(".")
        assert profile.hosts


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("docker.tuna.tsinghua.edu.cn", "TUNA"),
        ("m.daocloud.io", "DaoCloud"),
        ("docker.m.daocloud.io:443", "DaoCloud"),
        ("docker.io", "Docker Hub"),
        ("mirror.sjtu.edu.cn", "SJTU wheels"),
        ("registry.lab:5000", None),
        ("notm.daocloud.io.example", None),
    ],
)
def test_profile_of_an_address(address: str, name: str | None) -> None:
    found = load().of(address)
    assert (found.name if found else None) == name


def test_no_host_has_two_profiles() -> None:
    hosts = [host for profile in load().profiles for host in profile.hosts]
    assert len(hosts) == len(set(hosts))
