"""Sources of mounts on a node: real folders, mounts in a namespace of their own, and a file system that hangs."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.playbooks.node_code import ProblemError, module_util, problem
from tests.playbooks.orders import an_order, with_seat

checks, inside, table, looks = (module_util(f"mount.{name}") for name in ("check", "inside", "table", "look"))
IS_ROOT = os.geteuid() == 0
UID = 70001 if IS_ROOT else os.getuid()
needs_root = pytest.mark.skipif(not IS_ROOT, reason="only root looks at the rights of others")


def a_mount(source: Path, **over: Any) -> dict[str, Any]:
    return {"source": str(source), "target": "/data", "read_only": True, "mounted": False, "autofs": False, **over}


def order_with(root: Path, *mounts: dict[str, Any]) -> dict[str, Any]:
    order = with_seat(an_order(root), uid=UID, gid=UID if IS_ROOT else os.getgid())
    return order | {"files": {**order["files"], checks.FILE: json.dumps(mounts)}}


def fault(root: Path, *mounts: dict[str, Any]) -> tuple[str, str]:
    """Return code and text of the problem with these mounts, empty without one."""
    try:
        checks.check_mounts(order_with(root, *mounts))
    except ProblemError as error:
        return vars(error)["problem"]["code"], vars(error)["problem"]["what"]
    return "", ""


@pytest.fixture
def safe() -> Iterator[Path]:
    """A folder into which only root puts something, also above it."""
    folder = Path(f"/provisioner-test-{os.getpid()}")
    folder.mkdir()
    yield folder
    subprocess.run(["rm", "-rf", "--one-file-system", folder], check=True)


@needs_root
def test_a_folder_that_the_seat_can_read_is_fine(safe: Path, tmp_path: Path) -> None:
    (safe / "data").mkdir()
    assert fault(tmp_path, a_mount(safe / "data")) == ("", "")


def test_a_seat_of_an_earlier_release_has_no_mounts(tmp_path: Path) -> None:
    checks.check_mounts(an_order(tmp_path))
    assert not checks.has_to_be_mounted({**an_order(tmp_path), "files": None})
    for text in ("damaged", "{}", "[1]", "[{}]", "null", "7", '{"source": 1}', "[" * 99999, '[{"source": "/data"}]'):
        assert checks.mounts_of({"files": {checks.FILE: text}}) == []


def _nothing(folder: Path) -> None:
    folder.rmdir()


def _a_file(folder: Path) -> None:
    folder.rmdir()
    folder.touch()


def _a_link(folder: Path) -> None:
    folder.rmdir()
    folder.symlink_to("/")


def _closed(folder: Path) -> None:
    folder.chmod(0o750)


def _open_above(folder: Path) -> None:
    folder.parent.chmod(0o777)


def _group_above(folder: Path) -> None:
    folder.parent.chmod(0o775)
    os.chown(folder.parent, 0, 70009)


def _of_a_person_above(folder: Path) -> None:
    os.chown(folder.parent, 70009, 0)


def _link_above(folder: Path) -> None:
    folder.parent.rename(folder.parent.with_name("moved"))
    folder.parent.symlink_to("moved")


@needs_root
@pytest.mark.parametrize(
    ("spoil", "code", "text"),
    [
        (_nothing, "mount_missing", "No such file"),
        (_a_file, "mount_missing", "Not a directory"),
        (_a_link, "mount_path_unsafe", "data is a link"),
        (_link_above, "mount_path_unsafe", "/above is a link"),
        (_closed, "mount_denied", "mode 750) cannot be read by 70001:70001"),
        (_open_above, "mount_path_unsafe", "can replace"),
        (_group_above, "mount_path_unsafe", "can replace"),
        (_of_a_person_above, "mount_path_unsafe", "can replace"),
    ],
)
def test_each_fault_of_a_source_has_its_code(safe: Path, tmp_path: Path, spoil: Any, code: str, text: str) -> None:
    folder = safe / "above/data"
    folder.mkdir(parents=True)
    spoil(folder)
    found = fault(tmp_path, a_mount(folder))
    assert found[0] == code
    assert text in found[1]


@needs_root
def test_what_is_above_a_source_need_not_be_open_to_the_seat(safe: Path, tmp_path: Path) -> None:
    (safe / "closed/data").mkdir(parents=True)
    (safe / "closed").chmod(0o700)
    assert fault(tmp_path, a_mount(safe / "closed/data")) == ("", "")


@needs_root
def test_a_sticky_folder_keeps_what_is_roots(safe: Path, tmp_path: Path) -> None:
    (safe / "sticky/data").mkdir(parents=True)
    (safe / "sticky").chmod(0o1777)
    assert fault(tmp_path, a_mount(safe / "sticky/data")) == ("", "")
    os.chown(safe / "sticky/data", UID, UID)
    assert fault(tmp_path, a_mount(safe / "sticky/data"))[0] == "mount_path_unsafe"


@needs_root
def test_a_folder_that_is_not_mounted_is_refused_where_it_has_to_be(safe: Path, tmp_path: Path) -> None:
    assert fault(tmp_path, a_mount(safe, mounted=True))[0] == "not_mounted"


@needs_root
@pytest.mark.parametrize("home", ["{}/homes/li", "{}"])
def test_a_source_and_the_home_are_apart(safe: Path, tmp_path: Path, home: str) -> None:
    order = with_seat(order_with(tmp_path, a_mount(safe)), home=home.format(safe))
    with pytest.raises(ProblemError) as caught:
        checks.check_mounts(order)
    assert problem(caught)["code"] == "mount_path_unsafe"


@needs_root
def test_of_several_mounts_the_one_at_fault_is_named(safe: Path, tmp_path: Path) -> None:
    found = fault(tmp_path, a_mount(safe), a_mount(safe / "gone"), a_mount(safe))
    assert found == ("mount_missing", f"{safe}/gone: No such file or directory")


def test_the_table_of_the_kernel_names_mounts_and_whether_they_are_shared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = (
        "1 0 0:1 / / rw shared:1 - ext4 /dev/sda rw",
        "2 1 0:2 / /a\\040b rw - nfs x:/y rw",
        "3 1 0:3 / /net rw master:1 - autofs x rw",
        "short",
    )
    (tmp_path / "mountinfo").write_text("\n".join(lines))
    monkeypatch.setattr(table, "TABLE", tmp_path / "mountinfo")
    assert table.mount_points() == {"/", "/a b", "/net"}
    assert [table.is_shared(path) for path in ("/data", "/a b/c", "/net/x", "/network")] == [True, False, True, True]


@pytest.mark.parametrize(
    ("line", "is_seen"),
    [
        ("9 1 0:52 / /data ro - nfs x:/y rw", True),
        ("9 1 8:1 /mnt /data ro - ext4 /dev/sda rw", False),
        ("9 1 0:52 / /other ro - nfs x:/y rw", False),
        ("", True),  # this is not root, and the kernel does not say it
    ],
)
def test_a_container_has_what_is_mounted_on_the_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, is_seen: bool
) -> None:
    (tmp_path / "node").write_text("2 1 0:52 / /mnt/nfs rw - nfs x:/y rw\n")
    monkeypatch.setattr(table, "TABLE", tmp_path / "node")
    tables: dict[int | None, dict[str, str]] = {None: table.devices()}
    (tmp_path / "node").write_text(f"{line}\n")
    tables[4242] = table.devices()
    monkeypatch.setattr(inside, "devices", lambda pid=None: tables[pid])
    mounts = [a_mount(Path("/mnt/nfs"), mounted=True), a_mount(Path("/folder"), target="/more")]
    if is_seen:
        inside.check_seen(4242, mounts, "demo")
        return
    with pytest.raises(ProblemError, match="at /data the containers have another folder"):
        inside.check_seen(4242, mounts, "demo")


# --- in a mount namespace

PROGRAM = """
import json, os, sys, time
from pathlib import Path
from tests.playbooks.fuse_server import served
from tests.playbooks.node_code import module_util
checks, looks = module_util("mount.check"), module_util("mount.look")
folder = Path(sys.argv[1])
looks.LOCKS = folder / "locks"
def faults(mount, seconds=2, uid=70001):
    mount = {"read_only": True, "mounted": True, "autofs": False, **mount}
    found = checks.find_faults([mount], looks.Account(uid, uid), seconds)
    return [fault and fault.problem["code"] for fault in found][0]
"""


def in_namespace(safe: Path, script: str) -> Any:
    argv = ["unshare", "--mount", "--propagation", "private", sys.executable, "-c", PROGRAM + script, str(safe)]
    ran = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    if ran.returncode and ("not permitted" in ran.stderr or "/dev/fuse" in ran.stderr):
        pytest.skip("no mount namespaces or no FUSE here")
    assert not ran.returncode, ran.stderr
    return json.loads(ran.stdout)


@needs_root
def test_a_server_that_is_down_is_named_in_time_and_again_when_it_is_back(safe: Path) -> None:
    found = in_namespace(
        safe,
        """
(folder / "nfs").mkdir()
with served(folder / "nfs") as server:
    before = faults({"source": str(folder / "nfs")})
    server.hang()
    began = time.monotonic()
    during = faults({"source": str(folder / "nfs")})
    below = faults({"source": str(folder / "nfs/deep"), "mounted": False})
    seconds = time.monotonic() - began
print(json.dumps([before, during, below, seconds < 6, faults({"source": str(folder / "nfs")})]))
""",
    )
    assert found == [None, "mount_hangs", "mount_hangs", True, "not_mounted"]


@needs_root
def test_sixteen_hung_mounts_take_as_long_as_one(safe: Path) -> None:
    found = in_namespace(
        safe,
        """
(folder / "nfs").mkdir()
with served(folder / "nfs") as server:
    server.hang()
    mount = {"source": str(folder / "nfs"), "read_only": True, "mounted": True, "autofs": False}
    began = time.monotonic()
    found = checks.find_faults([mount] * 16, None, 2)
    print(json.dumps([sorted({fault.problem["code"] for fault in found}), len(found), time.monotonic() - began < 4]))
""",
    )
    assert found == [["mount_hangs"], 16, True]


@needs_root
def test_however_often_it_is_looked_at_one_process_hangs(safe: Path) -> None:
    """A process that waits in the kernel for an answer does not end when it is killed."""
    found = in_namespace(
        safe,
        """
def alive():
    own = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return sum(" Z " not in Path(f"/proc/{pid}/stat").read_text() for pid in own)
(folder / "nfs").mkdir()
with served(folder / "nfs") as server:
    server.hang()
    before = alive()
    codes = [faults({"source": str(folder / "nfs")}, seconds=1) for _ in range(5)]
    time.sleep(0.2)
    print(json.dumps([codes, alive() - before <= 1]))
""",
    )
    assert found == [["mount_hangs"] * 5, True]


@needs_root
def test_a_server_that_ended_is_a_mount_that_is_missing(safe: Path) -> None:
    """The kernel answers `Transport endpoint is not connected`, and with NFS `Stale file handle`."""
    found = in_namespace(
        safe,
        """
import signal
from multiprocessing import active_children
(folder / "nfs").mkdir()
with served(folder / "nfs"):
    (server,) = active_children()  # asked once: it leaves out a child that has ended
    os.kill(server.pid, signal.SIGKILL)
    server.join()
    print(json.dumps(faults({"source": str(folder / "nfs")})))
""",
    )
    assert found == "mount_missing"


@needs_root
def test_a_bind_mount_counts_and_may_lie_in_a_folder_of_another(safe: Path) -> None:
    """The owner of the folder cannot rename what is mounted in it, but the owner of one above that can rename this."""
    found = in_namespace(
        safe,
        """
import subprocess
(folder / "real").mkdir()
(folder / "above/data").mkdir(parents=True)
subprocess.run(["mount", "--bind", folder / "real", folder / "above/data"], check=True)
os.chown(folder / "above", 70009, 70009)
print(json.dumps([
    faults({"source": str(folder / "above/data")}),
    faults({"source": str(folder / "above/data")}, uid=70009),
    faults({"source": str(folder / "real")}),
    faults({"source": str(folder / "above/data"), "autofs": True}),
    subprocess.run(["setpriv", "--reuid=70009", "mv", folder / "above/data", folder / "above/x"]).returncode,
    os.chown(folder / "above", 0, 0), os.chown(folder, 70009, 0), faults({"source": str(folder / "above/data")}),
]))
""",
    )
    assert found == [None, "mount_path_unsafe", "not_mounted", "mount_not_shared", 1, None, None, "mount_path_unsafe"]


@needs_root
def test_root_squash_is_named_with_the_folder_that_root_may_not_pass(safe: Path) -> None:
    """Root without its capabilities has the rights of others, as it has on NFS with root_squash."""
    (safe / "closed/data").mkdir(parents=True)
    os.chown(safe / "closed", UID, UID)
    (safe / "closed").chmod(0o700)
    script = """
found = checks.find_faults(
    [{"source": str(folder / "closed/data"), "read_only": True, "mounted": False, "autofs": False}],
    looks.Account(70001, 70001), 5)
print(json.dumps(found[0].problem))
"""
    argv = [
        "setpriv",
        "--bounding-set",
        "-dac_override,-dac_read_search",
        "--inh-caps",
        "-dac_override,-dac_read_search",
    ]
    ran = subprocess.run(
        [*argv, sys.executable, "-c", PROGRAM + script, str(safe)], capture_output=True, text=True, check=False
    )
    assert not ran.returncode, ran.stderr
    found = json.loads(ran.stdout)
    assert found["code"] == "mount_denied"
    assert f"root may not pass {safe}/closed" in found["what"]
    assert "root_squash" in found["what"]


# --- waiting


def waited(monkeypatch: pytest.MonkeyPatch, *codes: str, seconds: float = 60) -> list[str]:
    """Wait where the first look finds the first of these codes, the second the second; return what was reported."""
    found, texts = [[ProblemError(code, code, "", "")] for code in codes], list[str]()
    monkeypatch.setattr(checks, "faults_of", lambda _: found.pop(0) if found else [])
    monkeypatch.setattr(time, "sleep", lambda _: None)
    checks.wait_for_mounts({}, time.monotonic() + seconds, texts.append)
    return texts


def test_a_mount_that_comes_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = waited(monkeypatch, "mount_hangs", "not_mounted")
    assert texts == ["waiting for a mount: mount_hangs", "waiting for a mount: not_mounted"]


def test_a_seat_that_ran_without_the_right_to_read_a_mount_starts_again(monkeypatch: pytest.MonkeyPatch) -> None:
    assert waited(monkeypatch, "mount_denied", seconds=0) == []


@pytest.mark.parametrize(("code", "seconds"), [("mount_missing", 0), ("mount_path_unsafe", 3600)])
def test_a_mount_is_waited_for_until_the_deadline(code: str, seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ProblemError, match=code):
        waited(monkeypatch, code, seconds=seconds)


# --- from inside


def looked(folder: Path, monkeypatch: pytest.MonkeyPatch, *, enforce: str = "", **over: Any) -> list[str]:
    monkeypatch.setattr(inside, "SELINUX", folder / "enforce")
    (folder / "enforce").write_text(enforce)
    argv = [sys.executable, "-I", "-"]
    found = inside.look_inside(argv, [{"target": str(folder), "read_only": False, **over}], "demo")
    return [f"{one['code']} {one['what']} {one['why']}" for one in found]


def test_a_mount_that_can_be_read_inside_is_fine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert looked(tmp_path, monkeypatch) == []


def test_a_read_only_mount_that_can_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [text.split()[0] for text in looked(tmp_path, monkeypatch, read_only=True)] == ["mount_writable"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["enforce"]


@pytest.mark.parametrize("enforce", ["", "0", "1\n"])
def test_selinux_is_named_where_it_is_enforced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, enforce: str) -> None:
    (text,) = looked(tmp_path, monkeypatch, enforce=enforce, target=str(tmp_path / "gone"))
    assert text.startswith("mount_unreadable demo: ")
    assert ("SELinux" in text) == (enforce == "1\n")


def test_a_program_inside_that_prints_anything_is_a_caution() -> None:
    for text in ("", "[1]", "null", "{}", '[{"target": "/x"}]', "no json", "[" * 9999):
        argv = ["printf", "%s", text]
        found = inside.look_inside(argv, [{"target": "/data", "read_only": True}], "demo")
        assert [one["code"] for one in found] == ["mount_unreadable"], text
