from pathlib import Path

import pytest

from provisioner.adapters.engine.trust import install_ca
from provisioner.domain.values.problem import ProblemError


@pytest.fixture
def ca(tmp_path: Path) -> Path:
    path = tmp_path / "ca.pem"
    path.write_text("a certificate\n")
    return path


def test_the_ca_is_installed_once_in_the_engines_folder(tmp_path: Path, ca: Path) -> None:
    certs = tmp_path / "certs.d"
    for _ in range(2):
        install_ca("registry.lab:5201", ca, certs)
    assert [path.read_text() for path in (certs / "registry.lab:5201").iterdir()] == ["a certificate\n"]


def test_certificates_of_others_stay(tmp_path: Path, ca: Path) -> None:
    theirs = tmp_path / "certs.d/registry.lab:5201/ca.crt"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("another\n")
    install_ca("registry.lab:5201", ca, tmp_path / "certs.d")
    assert sorted(path.name for path in theirs.parent.iterdir()) == ["ca.crt", "provisioner.crt"]
    assert theirs.read_text() == "another\n"


def test_a_ca_installed_under_another_name_is_not_installed_again(tmp_path: Path, ca: Path) -> None:
    theirs = tmp_path / "certs.d/registry.lab:5201/campus.crt"
    theirs.parent.mkdir(parents=True)
    theirs.write_text(ca.read_text())
    install_ca("registry.lab:5201", ca, tmp_path / "certs.d")
    assert list(theirs.parent.iterdir()) == [theirs]


def test_a_folder_that_cannot_be_written_is_reported_with_the_command_to_run(tmp_path: Path, ca: Path) -> None:
    (tmp_path / "certs.d").write_text("a file in the way")
    with pytest.raises(ProblemError) as refused:
        install_ca("registry.lab:5201", ca, tmp_path / "certs.d")
    (problem,) = refused.value.problems
    assert problem.code == "engine_ca"
    assert problem.fix.startswith(f"sudo install -D -m 0644 {ca} {tmp_path}/certs.d/registry.lab:5201/")


def test_a_missing_ca_file_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(ProblemError) as refused:
        install_ca("registry.lab:5201", tmp_path / "missing.pem", tmp_path / "certs.d")
    assert refused.value.ending == "usage"
