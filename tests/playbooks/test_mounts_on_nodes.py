"""Mounts of a seat on a real node. A file system of FUSE that hangs stands for NFS whose server is down."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.lab.bed import running_lab
from tests.lab.engine import Engine
from tests.lab.host import BedError
from tests.lab.node import Node
from tests.playbooks import fuse_server
from tests.playbooks.direct_fleet import PROGRAM
from tests.playbooks.on_nodes import SEAT, Images, Rollout, new_run_id

pytestmark = pytest.mark.lab

DATA = {"source": "/data", "target": "/data"}
HUNG = {"source": "/mnt/nfs", "target": "/nfs", "mounted": True}
LATE = {"source": "/net", "target": "/net", "autofs": True}
SILENCE, PID = "/run/fuse.silence", "/run/fuse.pid"
CONTAINER = f"{SEAT}-jupyter-1"


@pytest.fixture(scope="module")
def rollout(testbed: Engine) -> Iterator[Rollout]:
    with running_lab(testbed, ["rtx5090x2-580"]) as lab:
        yield Rollout(lab, mounts=[DATA, HUNG, LATE])


@pytest.fixture(scope="module")
def images(rollout: Rollout) -> Images:
    return Images(rollout.lab)


@pytest.fixture(scope="module")
def node(rollout: Rollout) -> Node:
    """A node with the folder /data, a file system of FUSE at /mnt/nfs, and /net for autofs."""
    node = rollout.lab.node("node1")
    node.exec("sh", "-c", "mkdir -p /data /mnt/nfs /net && echo numbers > /data/set && mount --bind /net /net")
    node.exec("mount", "--make-shared", "/net")
    node.exec("sh", "-c", "cat > /opt/fuse_server.py", stdin=Path(fuse_server.__file__).read_text())
    return node


def serve(node: Node) -> None:
    node.exec("sh", "-c", f"rm -f {SILENCE}; test -e /dev/fuse || mknod /dev/fuse c 10 229")
    server = f"echo $$ > {PID}; exec python3 /opt/fuse_server.py /mnt/nfs {SILENCE} > /dev/null 2>&1"
    node.exec("sh", "-c", f"setsid sh -c '{server}' &")
    for _ in range(100):
        if " /mnt/nfs " in node.exec("cat", "/proc/mounts"):
            return
        time.sleep(0.1)
    raise AssertionError("the file system is not mounted")


def inside(node: Node, command: str) -> str:
    return node.exec("docker", "exec", CONTAINER, "sh", "-c", command)


def test_a_seat_is_not_staged_before_its_file_system_is_mounted(rollout: Rollout, images: Images, node: Node) -> None:
    record = rollout.stage(rollout.order(images.first, new_run_id()))
    assert [problem.code for problem in record.problems] == ["not_mounted"]
    assert node.exec("docker", "ps", "-aq") == ""


def test_a_seat_reads_its_mounts_and_cannot_write_to_them(rollout: Rollout, images: Images, node: Node) -> None:
    serve(node)
    record = rollout.roll_out(images.first)
    assert (record.state, record.problems) == ("committed", ())
    assert inside(node, "cat /data/set; ls /nfs") == "numbers\nsample"
    with pytest.raises(BedError, match="Read-only file system"):
        inside(node, "touch /data/own")
    policy = node.exec("docker", "inspect", "-f", "{{.HostConfig.RestartPolicy.Name}}", CONTAINER)
    assert policy == "no"
    assert rollout.seat().drift == ()


def test_what_is_mounted_later_is_seen_and_is_read_only_from_the_next_start_on(
    rollout: Rollout, images: Images, node: Node
) -> None:
    """The kernel passes a new mount on with the rights that it has on the node: so lab.yml says, see Mount."""
    node.exec("sh", "-c", "mkdir -p /net/late && mount -t tmpfs -o mode=777 late /net/late")
    assert inside(node, "echo new > /net/late/file; cat /net/late/file") == "new"
    record = rollout.roll_out(images.second)
    assert (record.state, record.problems) == ("committed", ())
    with pytest.raises(BedError, match="Read-only file system"):
        inside(node, "touch /net/late/file")
    node.exec("umount", "/net/late")
    assert inside(node, "ls /net/late") == ""


RECOVER = f"""
import sys
sys.path.insert(0, {PROGRAM!r})
from ansible.module_utils.provisioner.transaction.recover_node import recover_at_boot
sys.exit(recover_at_boot("/var/lib/provisioner"))
"""


def test_after_a_boot_a_seat_starts_when_its_file_system_is_mounted(rollout: Rollout, node: Node) -> None:
    node.kill()
    node.start()
    node.exec("sh", "-c", "mount --bind /net /net && mount --make-shared /net")
    states = "docker ps -a --format {{.State}}"
    assert set(node.exec(*states.split()).split()) == {"exited"}
    with ThreadPoolExecutor(1) as pool:
        recovery = pool.submit(node.exec, "python3", "-I", "-c", RECOVER)
        time.sleep(3)
        assert not recovery.done()
        assert "not_mounted" in [problem.code for problem in rollout.seat().drift]
        serve(node)
        recovery.result()
    assert set(node.exec(*states.split()).split()) == {"running"}
    assert inside(node, "ls /nfs") == "sample"


def test_a_server_that_is_down_stops_neither_probe_nor_plan_and_the_seat_runs_on(
    rollout: Rollout, images: Images, node: Node
) -> None:
    before = rollout.seat()
    node.exec("docker", "exec", "-d", CONTAINER, "sh", "-c", "while :; do ls /nfs; done")  # it is blocked in the kernel
    node.exec("touch", SILENCE)
    began = time.monotonic()
    after = rollout.seat()
    assert [problem.code for problem in after.drift] == ["mount_hangs"]
    staged = rollout.stage(rollout.order(images.third, new_run_id()))
    assert (staged.state, [problem.code for problem in staged.problems]) == ("failed", ["mount_hangs"])
    assert rollout.roll_back().state == "failed"
    assert time.monotonic() - began < 60
    assert (rollout.seat().generation, set(rollout.seat().services.values())) == (before.generation, {"healthy"})


def test_a_process_that_waits_for_the_server_keeps_its_seat_until_the_server_is_gone(
    rollout: Rollout, node: Node
) -> None:
    """The kernel ends no process whose request the server has read, and the engine gives up in time.

    Whether the last request is that of a process in the seat is a race: if it is not, the seat is removed at once.
    """
    began = time.monotonic()
    record = rollout.take_down("remove")
    assert (record.state, [problem.code for problem in record.problems]) in (
        ("failed", ["stop_failed"]),
        ("committed", []),
    )
    assert time.monotonic() - began < 120
    node.exec("sh", "-c", f"kill -9 $(cat {PID})")
    assert rollout.take_down("remove").state == "committed"
    assert node.exec("docker", "ps", "-aq") == ""
