"""The two processes of a managed registry: the real program, on loopback, with the configurations that nodes write."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from provisioner.adapters.registry.htpasswd import make_push_login
from tests.adapters.registry.made_image import a_layer, an_image, push_over
from tests.adapters.registry.real_registry import free_port
from tests.lab.host import registry_program
from tests.playbooks.node_code import ProblemError, module_util, problem
from tests.playbooks.orders import NoJob
from tests.playbooks.registry_pair import RegistryPair, registry_pair

pytestmark = pytest.mark.lab

process: Any = module_util("prepare.registry_process")
gc: Any = module_util("prepare.gc")
registry: Any = module_util("prepare.registry")

REPOSITORY = "provisioner/lab"
SHARED = a_layer(seed=1)
OLD, NEW = an_image([SHARED, a_layer(seed=2)]), an_image([SHARED, a_layer(seed=3)])
MANIFEST, BLOB = f"{REPOSITORY}/manifests/{OLD.manifest}", f"{REPOSITORY}/blobs/{OLD.layers[1]}"
UPLOAD = f"{REPOSITORY}/blobs/uploads/"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryPair]:
    with registry_pair(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", UPLOAD, 405),
        ("POST", f"{UPLOAD}?mount={OLD.config}&from=other", 405),
        ("PATCH", f"{UPLOAD}some-upload", 404),  # it knows no upload
        ("PUT", f"{UPLOAD}some-upload?digest={OLD.config}", 404),
        ("PUT", f"{REPOSITORY}/manifests/new", 405),
        ("DELETE", f"{REPOSITORY}/manifests/new", 405),
        ("DELETE", MANIFEST, 405),
        ("DELETE", BLOB, 405),
    ],
)
def test_a_change_is_refused_where_nodes_read_and_needs_the_login_elsewhere(
    pair: RegistryPair, method: str, path: str, status: int
) -> None:
    assert pair.status(pair.reader, method, path) == status
    assert pair.status(pair.pusher, method, path) == 401
    assert pair.status(pair.pusher, method, path, {"Authorization": "Basic YW5uOmFubg=="}) == 401


def test_nodes_read_without_a_login_only_where_nothing_can_be_changed(pair: RegistryPair) -> None:
    assert (pair.status(pair.reader, "GET", ""), pair.status(pair.pusher, "GET", "")) == (200, 401)
    assert process.find_fault(process.READER, pair.reader) == process.find_fault(process.PUSHER, pair.pusher) == ""
    assert process.find_fault(process.READER, pair.pusher) == "it answers HTTP 401 to a push"
    assert process.find_fault(process.PUSHER, pair.reader) == "it answers HTTP 200 without a login"
    assert "refused" in process.find_fault(process.PUSHER, f"127.0.0.1:{free_port()}")


def collect(pair: RegistryPair, monkeypatch: pytest.MonkeyPatch, *remove: str, quiet: int = 0) -> list[str]:
    """Collect garbage as the job on the registry's host does; return which processes were stopped and started."""
    done: list[str] = []
    monkeypatch.setattr(gc, "stop", lambda which: done.append(f"stop {which.service}"))
    monkeypatch.setattr(gc, "start", lambda which, address: done.append(f"start {which.service} {address}"))
    order = {"address": pair.reader, "push_address": pair.pusher, "repository": REPOSITORY, "remove": remove}
    gc.collect_garbage({**order, "quiet": quiet}, NoJob())
    return done


def test_nodes_read_what_was_pushed_and_no_longer_what_was_collected(
    pair: RegistryPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No process is restarted in between, so neither may remember what the other has changed."""
    for path in (MANIFEST, BLOB):
        assert pair.status(pair.reader, "GET", path) == 404
    for tag, image in (("old", OLD), ("new", NEW)):
        push_over(pair.connect(pair.pusher), REPOSITORY, tag, image, pair.authorization)
    for path in (MANIFEST, BLOB):
        assert pair.status(pair.reader, "GET", path) == 200
        assert pair.status(pair.pusher, "DELETE", path, pair.authorization) == 405, "only gc may remove"
    with pytest.raises(ProblemError) as refused:
        collect(pair, monkeypatch, OLD.manifest, quiet=600)
    assert problem(refused)["code"] == "push_under_way"
    assert pair.status(pair.reader, "GET", MANIFEST) == 200, "nothing is removed while a push may be under way"
    service = process.PUSHER.service
    assert collect(pair, monkeypatch, OLD.manifest) == [f"stop {service}", f"start {service} {pair.pusher}"]
    for path in (MANIFEST, BLOB):
        assert pair.status(pair.reader, "GET", path) == 404
        assert pair.status(pair.pusher, "HEAD", path, pair.authorization) == 404
    assert pair.status(pair.reader, "GET", f"{REPOSITORY}/manifests/old") == 404, "its tag goes with the image"
    for path in (f"manifests/{NEW.manifest}", f"blobs/{NEW.layers[0]}", f"blobs/{NEW.layers[1]}"):
        assert pair.status(pair.reader, "GET", f"{REPOSITORY}/{path}") == 200
    assert collect(pair, monkeypatch) == [], "without garbage pushes are not interrupted"
    push_over(pair.connect(pair.pusher), REPOSITORY, "old", OLD, pair.authorization)
    assert pair.status(pair.reader, "GET", BLOB) == 200, "a layer that was removed can be pushed again"


def test_a_registry_that_any_client_can_push_to_is_not_swept(
    pair: RegistryPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = gc.READER.configuration.read_text()
    for changed, code in ((text.replace("readonly", "other"), "registry_outdated"), ("x: 1\n", "registry_not_managed")):
        gc.READER.configuration.write_text(changed)
        with pytest.raises(ProblemError) as refused:
            collect(pair, monkeypatch)
        assert problem(refused)["code"] == code
    gc.READER.configuration.write_text(text)


def test_a_login_is_added_beside_those_of_other_control_machines_and_is_a_hash(
    pair: RegistryPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = make_push_login(pair.reader, pair.pusher, "bob:x@control2")
    assert not process.has_login(other.entry)
    assert not process.has_login("")
    process.add_login(other.entry)
    process.add_login(other.entry)
    assert process.has_login(other.entry)
    assert process.has_login(pair.login.entry)
    assert process.LOGINS.stat().st_mode & 0o777 == 0o600
    monkeypatch.setattr(process, "ACCOUNT", "daemon")  # as after a kill between the writing and the change of owner
    assert not process.has_login(other.entry), "a file that the registry cannot read holds no login"
    lines = process.LOGINS.read_text().splitlines()
    assert [line.count(":") for line in lines] == [1, 1]
    assert not any(secret in line for line in lines for secret in (pair.login.password, other.password))
    assert pair.status(pair.pusher, "GET", "", pair.authorization) == 200, "the file is read again without a restart"


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("registry.lab:5000", ("registry.lab", 5000)),
        ("198.18.0.3:5201", ("198.18.0.3", 5201)),
        ("r.lab", ("r.lab", 443)),
    ],
)
def test_host_and_port_of_a_registry_address(address: str, expected: tuple[str, int]) -> None:
    assert process.host_and_port(address) == expected


@pytest.mark.parametrize(
    ("address", "listens"),
    [("127.0.0.1:5001", "127.0.0.1:5001"), ("r.lab:5001", ":5001"), ("203.0.113.9:5001", ":5001")],
    ids=["loopback", "a name", "not an address of this host"],
)
def test_pushes_are_taken_only_at_the_address_that_is_needed(address: str, listens: str) -> None:
    read = yaml.safe_load(process.pusher_configuration(address))
    assert (read["http"]["addr"], read["storage"]["delete"]) == (listens, {"enabled": False})


@pytest.mark.usefixtures("testbed")
def test_systemd_analyze_accepts_the_unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process.daemon, "SYSTEMD", tmp_path)
    monkeypatch.setattr(process, "UNITS", tmp_path)
    monkeypatch.setattr(process, "PROGRAM", str(registry_program()))
    assert not process.has_service()
    process.install_service()
    assert process.has_service()
    (unit,) = tmp_path.iterdir()
    ran = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


def test_no_process_remembers_which_blobs_exist() -> None:
    """With a descriptor cache, a damaged layer would be present, and so would one that the other process removed."""
    for text in (process.reader_configuration("r:5000"), process.pusher_configuration("r:5001")):
        assert "cache" not in yaml.safe_load(text)["storage"]
    assert yaml.safe_load(process.reader_configuration("r:5000"))["http"]["addr"] == ":5000"


def test_a_registry_configuration_changed_by_hand_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, ran = tmp_path / "config.yml", module_util("base.command").CommandResult
    conffiles = "\n /etc/init.d/docker-registry aaaa\n"
    monkeypatch.setattr(registry, "run", lambda *_: ran(0, conffiles, ""))
    registry._check_is_ours(path)
    path.write_text("version: 0.1\n")
    with pytest.raises(ProblemError) as caught:
        registry._check_is_ours(path)
    assert problem(caught)["code"] == "registry_in_use"
    conffiles += f" {path} {registry.hashlib.md5(path.read_bytes()).hexdigest()}\n"
    registry._check_is_ours(path)  # the file of the package
    path.write_text(process.reader_configuration("r:5000"))
    registry._check_is_ours(path)
