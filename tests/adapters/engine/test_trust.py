from pathlib import Path

import pytest

from provisioner.adapters.engine.trust import trust
from provisioner.domain.values.problem import ProblemError


@pytest.fixture
def ca(tmp_path: Path) -> Path:
    path = tmp_path / "ca.pem"
    path.write_text("a certificate\n")
    return path


def test_the_ca_lies_where_the_engine_looks(tmp_path: Path, ca: Path) -> None:
    certs = tmp_path / "certs.d"
    for _ in range(2):
        trust("registry.lab:5201", ca, certs)
    assert [path.read_text() for path in (certs / "registry.lab:5201").iterdir()] == ["a certificate\n"]


def test_what_others_have_put_there_stays(tmp_path: Path, ca: Path) -> None:
    theirs = tmp_path / "certs.d/registry.lab:5201/ca.crt"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("another\n")
    trust("registry.lab:5201", ca, tmp_path / "certs.d")
    assert sorted(path.name for path in theirs.parent.iterdir()) == ["ca.crt", "provisioner.crt"]
    assert theirs.read_text() == "another\n"


def test_a_ca_that_is_there_under_any_name_is_not_put_there_again(tmp_path: Path, ca: Path) -> None:
    theirs = tmp_path / "certs.d/registry.lab:5201/campus.crt"
    theirs.parent.mkdir(parents=True)
    theirs.write_text(ca.read_text())
    trust("registry.lab:5201", ca, tmp_path / "certs.d")
    assert list(theirs.parent.iterdir()) == [theirs]


def test_where_it_cannot_be_put_the_command_is_told(tmp_path: Path, ca: Path) -> None:
    (tmp_path / "certs.d").write_text("a file in the way")
    with pytest.raises(ProblemError) as refused:
        trust("registry.lab:5201", ca, tmp_path / "certs.d")
    (problem,) = refused.value.problems
    assert problem.code == "engine_ca"
    assert problem.fix.startswith(f"sudo install -D -m 0644 {ca} {tmp_path}/certs.d/registry.lab:5201/")


def test_a_ca_that_is_not_there_is_a_mistake_in_the_wish(tmp_path: Path) -> None:
    with pytest.raises(ProblemError) as refused:
        trust("registry.lab:5201", tmp_path / "missing.pem", tmp_path / "certs.d")
    assert refused.value.ending == "usage"
