import re
from pathlib import Path

import pytest

from provisioner.adapters.engine.base_image import BaseFacts
from provisioner.adapters.engine.wheels import download_wheels, platform_tags, select_requirements
from provisioner.adapters.resources import templates
from provisioner.domain.values.problem import ProblemError
from tests.made_wheel import a_wheel, locked

LOCK = (templates() / "requirements-lab.txt").read_text()


def a_base(version: str = "3.12.3", machine: str = "x86_64", glibc: str = "2.39") -> BaseFacts:
    return BaseFacts(
        python="/usr/bin/python3", version=version, machine=machine, glibc=glibc, jupyter=False, sshd=False, apt=True
    )


def names(requirements: str) -> list[str]:
    return re.findall(r"^([A-Za-z0-9_.-]+)==\S+ \\$", requirements, re.MULTILINE)


def test_the_lock_names_no_index_and_hashes_everything() -> None:
    assert "://" not in LOCK
    entries = re.findall(r"^[a-z0-9]", LOCK, re.MULTILINE)
    assert entries == re.findall(r"^([a-z0-9]).* \\\n    --hash=sha256:[0-9a-f]{64}", LOCK, re.MULTILINE)
    assert {"jupyterlab", "ipykernel", "pip"} <= set(names(select_requirements(LOCK, a_base())))


@pytest.mark.parametrize("version", ["3.10.12", "3.11.13", "3.12.3", "3.13.5", "3.14.0"])
@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_each_package_is_selected_once_for_every_python(version: str, machine: str) -> None:
    found = select_requirements(LOCK, a_base(version, machine))
    assert len(names(found)) == len(set(names(found)))
    assert ";" not in found
    assert not {"pywinpty", "appnope", "colorama"} & set(names(found))


def test_markers_are_evaluated_for_the_bases_python() -> None:
    old, new = (names(select_requirements(LOCK, a_base(version))) for version in ("3.10.12", "3.13.0"))
    assert {"exceptiongroup", "tomli"} <= set(old)
    assert not {"exceptiongroup", "tomli"} & set(new)


def test_platform_tags_include_older_c_libraries() -> None:
    found = platform_tags(a_base(machine="aarch64", glibc="2.19"))
    assert found == [
        "manylinux_2_19_aarch64",
        "manylinux_2_18_aarch64",
        "manylinux_2_17_aarch64",
        "manylinux2014_aarch64",
    ]


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only package index of this machine's pip."""
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    (tmp_path / "index").mkdir()
    return tmp_path / "index"


def test_wheels_come_from_the_index_that_pip_is_configured_with(tmp_path: Path, index: Path) -> None:
    wheel = a_wheel(index, "hello", "1.0")
    requirements = tmp_path / "requirements.txt"
    requirements.write_text(locked(wheel))
    download_wheels(requirements, tmp_path / "wheels", a_base("3.10.1"))
    assert [path.name for path in (tmp_path / "wheels").iterdir()] == [wheel.name]


def test_a_wheel_with_another_hash_is_refused(tmp_path: Path, index: Path) -> None:
    requirements = tmp_path / "requirements.txt"
    requirements.write_text(locked(a_wheel(index, "hello", "1.0")))
    a_wheel(index, "hello", "1.0", {"hello.py": "import os\n"})
    with pytest.raises(ProblemError) as refused:
        download_wheels(requirements, tmp_path / "wheels", a_base())
    (problem,) = refused.value.problems
    assert problem.code == "no_wheels"
    assert "DO NOT MATCH THE HASHES" in problem.what


def test_a_download_that_does_not_end_is_stopped(tmp_path: Path, index: Path) -> None:
    requirements = tmp_path / "requirements.txt"
    requirements.write_text(locked(a_wheel(index, "hello", "1.0")))
    with pytest.raises(ProblemError, match=r"stopped after 0\.01 s"):
        download_wheels(requirements, tmp_path / "wheels", a_base(), seconds=0.01)
