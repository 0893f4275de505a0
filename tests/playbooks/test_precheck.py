import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.playbooks.fake_engine import FakeEngine
from tests.playbooks.node_code import ProblemError, module_util
from tests.playbooks.orders import an_order

precheck, engines = module_util("seat.precheck"), module_util("docker.engine")


def code(caught: pytest.ExceptionInfo[Exception]) -> str:
    problem: dict[str, str] = caught.value.problem  # type: ignore[attr-defined]
    return problem["code"]


def a_seat(tmp_path: Path, port: int) -> dict[str, Any]:
    seat: dict[str, Any] = an_order(tmp_path)["seat"]
    return seat | {"ports": {"ssh": port}, "binds": {"ssh": "127.0.0.1"}}


@pytest.fixture
def listener() -> Any:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


@pytest.mark.usefixtures("engine")
def test_a_port_with_a_listener_is_refused_and_named(tmp_path: Path, listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    with pytest.raises(ProblemError, match=f"port {port} on 127.0.0.1 is taken") as caught:
        precheck.check_ports(a_seat(tmp_path, port))
    assert code(caught) == "port_taken"


@pytest.mark.parametrize(("missing", "waited"), [(0, 0), (3, 3), (99, 10)])
def test_wait_for_addresses_ends_when_the_address_returns_or_at_its_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: int, waited: int
) -> None:
    """The address is back after `missing` seconds."""
    now = [0.0]
    monkeypatch.setattr(precheck.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(precheck.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    real = precheck._has_address
    monkeypatch.setattr(precheck, "_has_address", lambda address: real(address if now[0] >= missing else "192.0.2.1"))
    precheck.wait_for_addresses(a_seat(tmp_path, 1), 10)
    assert now == [waited]


def a_network(name: str, subnet: str | None, project: str | None = None) -> dict[str, Any]:
    labels = {"com.docker.compose.project": project} if project else None
    return {"Id": name, "Name": name, "Labels": labels, "IPAM": {"Config": [{"Subnet": subnet}] if subnet else None}}


@pytest.mark.parametrize(
    ("used", "holder"),
    [
        (([], ["172.17.0.0/16", "10.213.0.16/28"]), None),
        (([], ["10.213.0.9/32"]), "a route of the node to 10.213.0.9/32"),
        (([], ["10.0.0.0/8"]), "a route of the node to 10.0.0.0/8"),
        (([a_network("host", None), a_network("v6", "fd00::/64"), a_network("bridge", "172.17.0.0/16")], []), None),
        (([a_network("other_seat", "10.213.0.0/28", "other")], []), "the network other_seat of the engine"),
        (([a_network("ours", "10.213.0.0/28", "demo-student")], ["10.213.0.0/28"]), None),
        (([a_network("ours", "172.18.0.0/16", "demo-student")], ["10.213.0.0/28"]), "a route of the node"),
    ],
)
def test_a_subnet_that_something_else_uses_is_refused_and_named(
    tmp_path: Path,
    engine: FakeEngine,
    monkeypatch: pytest.MonkeyPatch,
    used: tuple[list[dict[str, Any]], list[str]],
    holder: str | None,
) -> None:
    engine.networks, routes = used
    monkeypatch.setattr(precheck, "routes", lambda: routes)
    seat = an_order(tmp_path)["seat"]
    if holder is None:
        precheck.check_subnet(seat)
        return
    with pytest.raises(ProblemError, match=f"10.213.0.0/28 is taken: {holder}") as caught:
        precheck.check_subnet(seat)
    assert code(caught) == "subnet_taken"
    precheck.check_subnet({name: value for name, value in seat.items() if name != "subnet"})


def published(project: str | None, address: str, port: int) -> dict[str, Any]:
    labels = {"com.docker.compose.project": project} if project else {}
    return {"Names": ["/jenkins"], "Labels": labels, "Ports": [{"IP": address, "PublicPort": port}, {}]}


def test_a_port_of_the_seats_own_containers_counts_as_free(
    tmp_path: Path, engine: FakeEngine, listener: socket.socket
) -> None:
    port = listener.getsockname()[1]
    engine.containers = [published("demo-student", "127.0.0.1", port)]
    precheck.check_ports(a_seat(tmp_path, port))


@pytest.mark.parametrize(("project", "holder"), [("other", "other"), (None, "jenkins")])
def test_a_container_that_publishes_the_port_is_named_even_without_a_listener(
    tmp_path: Path, engine: FakeEngine, listener: socket.socket, project: str | None, holder: str
) -> None:
    port = listener.getsockname()[1]
    listener.close()  # without the engine's userland proxy a published port is only a firewall rule
    engine.containers = [published(project, "0.0.0.0", port)]
    with pytest.raises(ProblemError, match=f"the container {holder}"):
        precheck.check_ports(a_seat(tmp_path, port))


def test_the_same_port_on_another_address_is_free(tmp_path: Path, engine: FakeEngine, listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    listener.close()
    engine.containers = [published("other", "127.0.0.2", port)]
    precheck.check_ports(a_seat(tmp_path, port))


@pytest.mark.usefixtures("engine")
def test_an_address_that_the_node_does_not_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ProblemError, match=r"no address 192\.0\.2\.77") as caught:
        precheck.check_ports(a_seat(tmp_path, 22000) | {"binds": {"ssh": "192.0.2.77"}})
    assert code(caught) == "no_such_address"


def test_too_little_disk_space_is_refused_with_numbers(tmp_path: Path) -> None:
    info = {"DockerRootDir": str(tmp_path)}
    precheck.check_disk_space(info, 0)
    with pytest.raises(ProblemError, match=r"GB free; 3501\.1 GB are needed there") as caught:
        precheck.check_disk_space(info, 10**12)
    assert code(caught) == "disk_full"


@pytest.mark.parametrize(("full", "refused"), [("store", True), ("root", True), ("other", False)])
def test_disk_space_is_checked_at_the_image_store_and_in_the_folder_of_the_engine(
    monkeypatch: pytest.MonkeyPatch, full: str, refused: bool
) -> None:
    monkeypatch.setattr(precheck, "image_store", lambda _: "/store")
    monkeypatch.setattr(precheck, "free_bytes", lambda folder: 5 << 20 if folder == f"/{full}" else 50 << 30)
    if not refused:
        precheck.check_disk_space({"DockerRootDir": "/root"}, 4 << 30)
        return
    with pytest.raises(ProblemError, match=rf"^/{full} has 0\.0 GB free") as caught:
        precheck.check_disk_space({"DockerRootDir": "/root"}, 4 << 30)
    assert code(caught) == "disk_full"


def test_a_home_is_created_once_and_its_owner_and_mode_are_kept(tmp_path: Path) -> None:
    home = tmp_path / "homes/student"
    precheck.ensure_home(home, os.getuid(), os.getgid())
    assert home.stat().st_mode & 0o777 == 0o700
    home.chmod(0o755)
    precheck.ensure_home(home, os.getuid(), os.getgid() + 1)
    assert (home.stat().st_mode & 0o777, home.stat().st_gid) == (0o755, os.getgid())


def test_a_kill_while_a_home_is_made_leaves_none_and_the_next_attempt_makes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "homes/student"
    with monkeypatch.context() as patch:
        for name in ("chown", "fchown"):
            patch.setattr(os, name, lambda *_, **__: os._exit(9))
        with pytest.raises(ProblemError) as caught:
            precheck.ensure_home(home, os.getuid(), os.getgid())
    assert (code(caught), home.exists()) == ("home_not_made", False)
    precheck.ensure_home(home, os.getuid(), os.getgid())
    assert (home.stat().st_mode & 0o777, list(home.parent.iterdir())) == (0o700, [home])


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
def test_a_link_in_the_place_of_a_new_home_gives_nothing_else_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user owns the parent, and is faster than we are."""
    (tmp_path / "etc").mkdir()
    home, mkdir = tmp_path / "student/seat", os.mkdir

    def swapped(path: str, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        mkdir(path, mode, dir_fd=dir_fd)
        if "seat" in str(path):
            os.rmdir(path, dir_fd=dir_fd)
            os.symlink(tmp_path / "etc", path, dir_fd=dir_fd)

    monkeypatch.setattr(os, "mkdir", swapped)
    with pytest.raises(ProblemError) as caught:
        precheck.ensure_home(home, 4242, 4242)
    assert code(caught) == "home_not_made"
    assert (tmp_path / "etc").stat().st_uid == 0


def test_a_home_whose_file_system_hangs_while_it_is_made_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precheck, "STAT_SECONDS", 0.5)
    monkeypatch.setattr(os, "mkdir", lambda *_, **__: time.sleep(60))
    with pytest.raises(ProblemError, match=r"no answer within 0\.5 s"):
        precheck.ensure_home(tmp_path / "home", os.getuid(), os.getgid())


def test_a_home_of_another_user_is_refused_with_the_chown_command(tmp_path: Path) -> None:
    with pytest.raises(ProblemError, match=f"belongs to uid {os.getuid()}, but the seat has uid 4242") as caught:
        precheck.ensure_home(tmp_path, 4242, 4242)
    problem: dict[str, str] = caught.value.problem  # type: ignore[attr-defined]
    assert problem["code"] == "home_owner"
    assert f"chown 4242:4242 {tmp_path}" in problem["fix"]


def test_a_home_that_cannot_be_created_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ProblemError) as caught:
        precheck.ensure_home(tmp_path / "file/home", os.getuid(), os.getgid())
    assert code(caught) in {"home_not_made", "home_unreadable"}


def test_a_home_that_hangs_is_refused_after_a_time_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precheck, "STAT_SECONDS", 0.2)
    monkeypatch.setattr(precheck, "_look_at", lambda _: time.sleep(60))
    with pytest.raises(ProblemError) as caught:
        precheck.ensure_home(tmp_path, 1, 1)
    assert code(caught) == "home_hangs"


@pytest.mark.parametrize(
    ("host", "match"),
    [
        ("unix:///no/such/docker.sock", r"no engine answers at /no/such|is not installed"),
        ("ssh://elsewhere", "DOCKER_HOST is ssh://elsewhere"),
    ],
)
def test_a_missing_engine_is_reported_with_the_reason(monkeypatch: pytest.MonkeyPatch, host: str, match: str) -> None:
    monkeypatch.setenv("DOCKER_HOST", host)
    with pytest.raises(ProblemError, match=match):
        precheck.check_engine()


def test_a_stopped_engine_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "dead.sock"))
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/dead.sock")
    with pytest.raises(ProblemError, match="no engine answers"):
        engines.get("/info")


def test_client_environment_drops_compose_variables_and_contexts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///x.sock")
    monkeypatch.setenv("COMPOSE_FILE", "/tmp/evil.yaml")
    monkeypatch.setenv("DOCKER_CONTEXT", "elsewhere")
    environment = engines.client_environment()
    assert environment["DOCKER_HOST"] == "unix:///x.sock"
    assert not {"COMPOSE_FILE", "DOCKER_CONTEXT"} & set(environment)


@pytest.mark.parametrize(("version", "fails"), [("1.29.2", True), (None, True), ("2.26.1-4", False), ("dev", False)])
def test_compose_before_version_2_is_refused(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, version: str | None, fails: bool
) -> None:
    monkeypatch.setattr(precheck, "compose_version", lambda: version)
    if not fails:
        assert precheck.check_engine() == engine.info
        return
    with pytest.raises(ProblemError) as caught:
        precheck.check_engine()
    assert code(caught) == "no_compose"


def _open_to(mode: int, uid: int = 0) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        os.chown(folder, uid, 0)
        folder.chmod(mode)

    return change


def _linked(folder: Path) -> None:
    """Replace the folder by a link of its user to another place."""
    folder.rename(folder.with_name("real"))
    folder.symlink_to("real")
    os.lchown(folder, 4242, 4242)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
@pytest.mark.parametrize(
    ("change", "is_safe"),
    [
        (_open_to(0o755), True),
        (_open_to(0o775), True),  # of the group root
        (_open_to(0o1777), True),  # as /tmp: what is root's there stays in its place
        (_open_to(0o757), False),
        (_open_to(0o755, 4242), False),
        (_linked, False),
    ],
)
def test_only_root_can_replace_a_folder_above_the_home_of_a_person(
    tmp_path: Path, change: Callable[[Path], None], is_safe: bool
) -> None:
    (tmp_path / "homes/lab").mkdir(parents=True)
    change(tmp_path / "homes")
    if is_safe:
        precheck.check_home_parents(tmp_path / "homes/lab/ann")
        return
    with pytest.raises(ProblemError, match=f"can replace {tmp_path}/homes, ") as caught:
        precheck.check_home_parents(tmp_path / "homes/lab/ann")
    assert code(caught) == "home_unsafe"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
@pytest.mark.parametrize("is_made", [False, True])
@pytest.mark.parametrize("mode", [0o1777, 0o1757, 0o755])
def test_a_folder_for_all_holds_no_home(tmp_path: Path, mode: int, is_made: bool) -> None:
    """There an account can move its home away, and put a link in its place."""
    homes = tmp_path / "homes"
    homes.mkdir()
    homes.chmod(mode)
    if is_made:
        (homes / "ann").mkdir()
        os.chown(homes / "ann", 4242, 4242)
    if mode == 0o755:
        precheck.check_home_parents(homes / "ann")
        return
    for home in ("ann", "ann/work"):
        with pytest.raises(ProblemError, match=f"can replace {homes}, "):
            precheck.check_home_parents(homes / home)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
@pytest.mark.parametrize("target", ["../disk/ann/work", "/{}/disk/ann/work", "../homes/../disk/ann/work", "hop"])
def test_a_home_that_is_a_link_is_checked_behind_the_link(tmp_path: Path, target: str) -> None:
    for folder in ("homes", "disk/ann/work", "safe/work"):
        (tmp_path / folder).mkdir(parents=True)
    os.chown(tmp_path / "disk/ann", 4242, 4242)
    (tmp_path / "homes/hop").symlink_to("../disk/ann/hop")
    (tmp_path / "disk/ann/hop").symlink_to("../../safe/work")
    (tmp_path / "homes/ann").symlink_to(target.format(str(tmp_path)[1:]))
    with pytest.raises(ProblemError, match=f"can replace {tmp_path}/disk/ann, "):
        precheck.check_home_parents(tmp_path / "homes/ann")
    (tmp_path / "homes/bob").symlink_to("../safe/work")
    precheck.check_home_parents(tmp_path / "homes/bob")
    (tmp_path / "homes/loop").symlink_to("loop")
    precheck.check_home_parents(tmp_path / "homes/loop")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
def test_a_folder_behind_a_link_above_a_home_is_checked_too(tmp_path: Path) -> None:
    (tmp_path / "disk/ann").mkdir(parents=True)
    os.chown(tmp_path / "disk", 4242, 4242)
    (tmp_path / "homes").symlink_to("disk")
    with pytest.raises(ProblemError, match=f"can replace {tmp_path}/disk, "):
        precheck.check_home_parents(tmp_path / "homes/ann")
