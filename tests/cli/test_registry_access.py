"""How this control machine reaches the two processes of a managed registry, which are real ones."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from provisioner.adapters.engine.docker_engine import DockerEngine
from provisioner.adapters.lab.directory import LabDirectory, read_lab
from provisioner.adapters.state.push_logins import PushLogins
from provisioner.cli.registry_access import connect_engine, find_registry_problems
from provisioner.domain.values.problem import ProblemError
from tests.adapters.registry.real_registry import free_port
from tests.lab import pki
from tests.playbooks.registry_pair import RegistryPair, registry_pair

pytestmark = pytest.mark.lab

HOSTS = "all: {hosts: {n1: {ansible_host: 127.0.0.1}}}\n"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryPair]:
    with registry_pair(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture
def directory(pair: RegistryPair, tmp_path: Path) -> LabDirectory:
    return a_directory(pair, tmp_path, managed=True)


def a_directory(pair: RegistryPair, folder: Path, *, managed: bool) -> LabDirectory:
    (folder / "ca.pem").write_text(pair.ca.read_text())
    registry = f'{{address: "{pair.reader}", managed: {str(managed).lower()}, ca: ca.pem}}'
    (folder / "lab.yml").write_text(f'name: demo\nmirror: {{address: "r:1"}}\nregistry: {registry}\n')
    (folder / "hosts.yml").write_text(HOSTS)
    return read_lab(str(folder))


def connect(directory: LabDirectory) -> DockerEngine:
    return connect_engine(directory, {}, lambda _: None)


def codes(caught: pytest.ExceptionInfo[ProblemError]) -> list[str]:
    return [problem.code for problem in caught.value.problems]


@pytest.fixture
def _engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Docker client that does not ask the engine for its version when it is made."""
    monkeypatch.setattr("docker.api.client.APIClient._retrieve_server_version", lambda _: "1.41")


@pytest.mark.usefixtures("_engine")
def test_the_engine_gets_the_login_of_a_registry_that_takes_pushes(pair: RegistryPair, directory: LabDirectory) -> None:
    PushLogins().save(pair.login)
    assert find_registry_problems(directory) == ()
    with closing(connect(directory)) as engine:
        assert {address: access.login for address, access in engine._accesses.items()} == {pair.reader: pair.login}
        assert engine._authorities == {}, "engines verify no registry on loopback"


@pytest.mark.usefixtures("_engine")
def test_other_registries_are_used_with_the_users_own_login(pair: RegistryPair, tmp_path: Path) -> None:
    PushLogins().save(pair.login)
    other = a_directory(pair, tmp_path, managed=False)
    assert find_registry_problems(other) == ()
    with closing(connect(other)) as engine:
        assert engine._accesses == {}


def test_a_machine_without_a_login_does_not_push_and_names_the_command(directory: LabDirectory) -> None:
    with pytest.raises(ProblemError) as caught:
        connect(directory)
    assert codes(caught) == ["no_push_login"]
    assert caught.value.problems[0].fix == f"provision prepare {directory.path}"
    assert find_registry_problems(directory) == (), "this machine cannot know the other process"


@pytest.mark.parametrize("fault", ["wrong password", "down", "another certificate"])
def test_a_process_that_takes_no_pushes_is_named_before_anything_is_built(
    pair: RegistryPair, directory: LabDirectory, tmp_path: Path, fault: str
) -> None:
    """With another certificate a program of another user listens there: it is not sent the login."""
    login = pair.login
    if fault == "wrong password":
        login = login.model_copy(update={"password": "guessed"})
    elif fault == "down":
        login = login.model_copy(update={"address": f"127.0.0.1:{free_port()}"})
    else:
        pki.make_ca(tmp_path)
        (tmp_path / "ca.pem").write_text(pki.ca_certificate(tmp_path).read_text())
    PushLogins().save(login)
    with pytest.raises(ProblemError) as caught:
        connect(directory)
    assert codes(caught) == ["push_unavailable"]
    assert login.address in caught.value.problems[0].what
    assert login.password not in str(caught.value)
    found = [problem.code for problem in find_registry_problems(directory)]
    assert found == ["registry_unavailable", "push_unavailable"][int(fault != "another certificate") :]
