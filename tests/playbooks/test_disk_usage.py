"""What a home uses, measured on real files; as root by a child that has become another account."""

import os
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.playbooks.node_code import module_util

usage = module_util("disk.usage")
IS_ROOT = os.geteuid() == 0
UID = 70001 if IS_ROOT else os.getuid()
GID = 70001 if IS_ROOT else os.getgid()
needs_root = pytest.mark.skipif(not IS_ROOT, reason="another account is needed")
MIB = 1 << 20
WALK = usage._Walk
ENTER, STEPS = WALK._enter, WALK.steps


@pytest.fixture
def home(open_folder: Path) -> Iterator[Path]:
    """The home of a person, below folders that they may pass through."""
    made = a_folder(open_folder / "home")
    yield made
    subprocess.run(["chmod", "-R", "u+rwx", str(made)], check=True)


def own(path: Path) -> Path:
    os.chown(path, UID, GID, follow_symlinks=False)
    return path


def a_file(path: Path, size: int = MIB) -> Path:
    path.write_bytes(os.urandom(size))
    return own(path)


def a_folder(path: Path, mode: int = 0o755) -> Path:
    path.mkdir()
    path.chmod(mode)
    return own(path)


def measured(home: Path, seconds: float = 60) -> tuple[int, bool]:
    found = usage.measure_home(str(home), UID, GID, seconds)
    return found.bytes, found.complete


def walked(home: Path) -> tuple[int, bool]:
    """Count without a child, so that a test can act in between."""
    *_, last = usage._reports(WALK(str(home)))
    found, complete = last
    return found, complete


def du(home: Path) -> int:
    return int(subprocess.run(["du", "-sx", "-B1", str(home)], capture_output=True, check=True).stdout.split()[0])


def links(home: Path) -> None:
    a_file(home / "one")
    a_folder(home / "deep")
    os.link(home / "one", home / "two")
    os.link(home / "one", home / "deep/three")


def sparse(home: Path) -> None:
    with a_file(home / "sparse").open("r+b") as file:
        file.truncate(100 << 30)


def loops(home: Path) -> None:
    a_file(home / "file")
    (home / "self").symlink_to("self")
    (home / "up").symlink_to("..")
    (home / "root").symlink_to("/")
    (home / "home").symlink_to(home)


def special(home: Path) -> None:
    os.mkfifo(home / "fifo")
    own(home / "fifo")
    a_file(home / "a\nname \udcff")


def nested(home: Path) -> None:
    folder = home
    for _ in range(100):
        folder = a_folder(folder / "d")
        a_file(folder / "f", 5000)


@pytest.mark.parametrize("fill", [links, sparse, loops, special, nested])
def test_a_home_is_counted_as_du_counts_it(home: Path, fill: Callable[[Path], None]) -> None:
    fill(home)
    found, complete = measured(home)
    assert (found, complete) == (du(home), True)
    assert found < 4 * MIB


@needs_root
def test_the_home_is_counted_with_the_rights_of_its_person_alone(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = home / "status"

    def walk(path: str) -> Any:
        seen.write_text(Path("/proc/self/status").read_text())
        return WALK(path)

    monkeypatch.setattr(usage, "_Walk", walk)
    measured(home)
    lines = dict(line.split(":", 1) for line in seen.read_text().splitlines())
    assert lines["Uid"].split() == [str(UID)] * 4
    assert lines["Gid"].split() == [str(GID)] * 4
    assert lines["Groups"].split() == []
    assert int(lines["CapEff"], 16) == int(lines["CapPrm"], 16) == 0


@needs_root
@pytest.mark.parametrize("account", [(0, 0), (0, GID), (UID, 0)])
def test_a_home_is_never_counted_as_root(home: Path, account: tuple[int, int]) -> None:
    a_file(home / "file")
    found = usage.measure_home(str(home), *account, 60)
    assert (found.bytes, found.complete) == (0, False)


@needs_root
def test_a_folder_of_somebody_else_makes_the_result_incomplete(home: Path) -> None:
    a_file(home / "file")
    secret = home / "secret"
    secret.mkdir(mode=0o700)
    (secret / "large").write_bytes(os.urandom(3 * MIB))
    found, complete = measured(home)
    assert not complete
    assert MIB <= found < 2 * MIB


@needs_root
def test_the_home_of_somebody_else_counts_as_nothing_and_incomplete(home: Path) -> None:
    a_file(home / "file")
    os.chown(home, 0, 0)
    home.chmod(0o700)
    assert measured(home) == (0, False)


def test_a_home_that_is_missing_is_incomplete(tmp_path: Path) -> None:
    assert measured(tmp_path / "no/home") == (0, False)


@needs_root
def test_an_unreadable_folder_of_the_person_makes_the_result_incomplete(home: Path) -> None:
    a_file(a_folder(home / "closed") / "file")
    (home / "closed").chmod(0)
    found, complete = measured(home)
    assert not complete
    assert found < MIB


@needs_root
def test_another_file_system_below_the_home_is_not_counted(home: Path) -> None:
    """The mount is made in a mount namespace of its own, which ends with the process."""
    a_folder(home / "mnt")
    a_folder(home / "bind")
    a_file(a_folder(home / "data") / "file", 2 * MIB)
    code = (
        f"from tests.playbooks.node_code import module_util; u = module_util('disk.usage');"
        f"print(*u.measure_home({str(home)!r}, {UID}, {GID}, 60), sorted(u.mounts_below({str(home)!r})))"
    )
    script = (
        f"mount -t tmpfs none '{home}/mnt' && head -c 5000000 /dev/urandom > '{home}/mnt/large'"
        f" && mount --bind '{home}/data' '{home}/bind' && exec \"$0\" -c \"$1\""
    )
    others = measured(home)[0] - sum((home / name).stat().st_blocks * 512 for name in ("mnt", "bind"))
    argv = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, sys.executable, code]
    ran = subprocess.run(argv, capture_output=True, text=True, check=False)
    if ran.returncode and "not permitted" in ran.stderr:
        pytest.skip("no mount namespaces here")
    assert ran.stdout == f"{others} True ['{home}/bind', '{home}/mnt']\n", ran.stderr


def test_a_mount_point_is_not_even_looked_at(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look at a FUSE file system that hangs would hang, too."""
    a_file(a_folder(home / "fuse mount") / "file")
    a_file(home / "file")
    mounts = home.parent / "mountinfo"
    at = str(home / "fuse mount").replace(" ", "\\040")
    mounts.write_text(f"22 1 0:21 / / rw - ext4 /dev/sda rw\n23 22 0:22 / {at} rw - fuse.x none rw\nshort line\n")
    monkeypatch.setattr(module_util("mount.table"), "TABLE", mounts)
    entered: list[str] = []

    def enter(walk: Any, name: str, path: str, parent: int | None) -> None:
        entered.append(name)
        ENTER(walk, name, path, parent)

    monkeypatch.setattr(WALK, "_enter", enter)
    assert walked(home)[1]
    assert entered == [str(home)]


def test_a_folder_that_becomes_a_link_while_it_is_walked_is_not_followed(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = home.parent / "outside"
    a_file(a_folder(outside) / "large", 5 * MIB)
    a_folder(home / "folder")

    def swap(walk: Any, name: str, path: str, parent: int | None) -> None:
        if name == "folder":
            (home / "folder").rmdir()
            (home / "folder").symlink_to(outside)
        ENTER(walk, name, path, parent)

    monkeypatch.setattr(WALK, "_enter", swap)
    found, complete = walked(home)
    assert found < MIB
    assert not complete


def test_files_that_vanish_while_they_are_counted_do_no_harm(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(20):
        a_file(home / f"file{number}", 1)
    folder = a_folder(home / "folder")
    add = WALK._add

    def remove_others(walk: Any, entry: Any, where: Any) -> None:
        for path in home.glob("file*"):
            path.unlink()
        if folder.exists():
            folder.rmdir()
        add(walk, entry, where)

    monkeypatch.setattr(WALK, "_add", remove_others)
    assert walked(home)[1]


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_tree_that_is_too_deep_is_incomplete_and_needs_few_descriptors(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage, "MOST_DEPTH", 50)
    nested(home)
    walk, before = WALK(str(home)), open_files()
    most = max(open_files() for _ in walk.steps())
    assert not walk.complete
    assert most - before <= 2 * 50
    assert walk._open == []


def test_many_links_are_counted_up_to_a_number(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage, "MOST_LINKS", 3)
    for number in range(5):
        os.link(a_file(home / f"f{number}", 4096), home / f"g{number}")
    walk = WALK(str(home))
    list(walk.steps())
    assert not walk.complete
    assert len(walk._links) == 3


def test_what_was_counted_until_the_time_limit_counts_and_the_child_is_killed(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_file(home / "one")
    hung = home / "pid"

    def steps(walk: Any) -> Iterator[None]:
        """Count something and then never end, as where a file system does not answer."""
        yield from STEPS(walk)
        hung.write_text(str(os.getpid()))
        os.read(os.pipe()[0], 1)

    monkeypatch.setattr(WALK, "steps", steps)
    monkeypatch.setattr(usage, "REPORT_SECONDS", 0)
    began = time.monotonic()
    found, complete = measured(home, 1)
    assert time.monotonic() - began < 10
    assert not complete
    assert found >= MIB
    with suppress(ChildProcessError):  # its end was seen already
        assert os.waitpid(int(hung.read_text()), 0)[1] == signal.SIGKILL


def test_the_memory_of_a_walk_does_not_grow_with_the_files(home: Path) -> None:
    for number in range(3000):
        (home / f"f{number}").touch()
    walk = WALK(str(home))
    tracemalloc.start()
    for _ in walk.steps():
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 300_000
