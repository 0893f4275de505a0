"""Faults around a switch on real nodes: the old seat keeps serving unchanged, and the node reports the reason."""

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from provisioner.domain.rollout.busy import WhenBusy
from provisioner.domain.rollout.order import Order
from provisioner.domain.values.node import RunningSeat
from tests.lab.gpus import profile_text
from tests.lab.node import Node
from tests.playbooks.on_nodes import (
    FOLDER,
    SEAT,
    Images,
    Rollout,
    journal,
    kill_job_in_state,
    remove_address_during_switch,
    token_of,
)

pytestmark = pytest.mark.lab

PROFILE = profile_text("rtx5090x2-580")
JUPYTER = f"{SEAT}-jupyter-1"


def wait_until(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 300
    while not (value := condition()):
        assert time.monotonic() < deadline, condition
        time.sleep(0.5)
    return value


def seat_of(rollout: Rollout) -> RunningSeat:
    return rollout.seat()


def identity(seat: RunningSeat, node: Node) -> tuple[object, ...]:
    """Return what identifies the seat to its student."""
    return seat.ports, seat.host_key, token_of(node), seat.gpus


def assert_serves_as(before: RunningSeat, rollout: Rollout, node: Node) -> None:
    after = seat_of(rollout)
    assert (after.services, identity(after, node)) == (before.services, identity(before, node))


def containers(node: Node) -> str:
    return node.exec("docker", "ps", "-q", "--no-trunc")


def stage(rollout: Rollout, order: Order) -> Order:
    record = rollout.stage(order)
    assert (record.state, record.problems) == ("staged", ())
    return order


def test_rollback_and_forward_again_without_a_registry(
    rollout: Rollout, serving_node: Node, serving_seat: RunningSeat, images: Images
) -> None:
    newer = rollout.roll_out(images.other)
    assert newer.state == "committed"
    serving_node.exec("docker", "image", "prune", "-f")
    rollout.lab.registry.stop()
    try:
        back = rollout.roll_back(run="r-back")
        assert (back.state, back.generation, back.problems) == ("committed", serving_seat.generation, ())
        assert set(back.checks) == {"image", "jupyter", "ssh", "gpu", "healthy"}
        now = seat_of(rollout)
        assert (now.image, now.services, now.drift) == (serving_seat.image, serving_seat.services, ())
        assert identity(now, serving_node) == identity(serving_seat, serving_node)
        assert rollout.roll_back(run="r-back").generation == serving_seat.generation
        assert seat_of(rollout) == now
        forth = rollout.roll_back(newer.generation)
        assert (forth.state, forth.generation) == ("committed", newer.generation)
    finally:
        rollout.lab.registry.start()
    assert seat_of(rollout).previous == serving_seat.generation
    serving_node.exec("docker", "image", "prune", "-af")  # removes every image without a container, tagged or not
    running = containers(serving_node)
    refused = rollout.roll_back()
    assert (refused.state, refused.problems[0].code) == ("failed", "no_rollback_target")
    assert (containers(serving_node), seat_of(rollout).previous) == (running, 0)
    # The rollout names the running image again, so that it is a rollback target.
    assert rollout.roll_out(images.current).state == "committed"
    assert seat_of(rollout).previous == newer.generation


def test_a_rollback_that_does_not_verify_returns_to_the_newer_generation(
    rollout: Rollout, serving_node: Node, serving_seat: RunningSeat, images: Images
) -> None:
    assert rollout.roll_out(images.other).state == "committed"
    before = seat_of(rollout)
    serving_node.exec("sh", "-c", f"echo 'raise SystemExit(1)' > {FOLDER}/gens/{serving_seat.generation}/health.py")
    record = rollout.roll_back()
    assert (record.state, record.generation) == ("rolled_back", before.generation)
    assert [problem.code for problem in record.problems] == ["not_healthy"]
    assert_serves_as(before, rollout, serving_node)


def test_containers_of_others_in_a_project_with_the_name_of_the_seat_are_not_touched(
    rollout: Rollout, serving_node: Node, serving_seat: RunningSeat, images: Images
) -> None:
    file, service = "/srv/web/compose.yaml", {"image": serving_seat.image, "entrypoint": ["sleep", "600"]}
    serving_node.exec("mkdir", "-p", "/srv/web")
    serving_node.exec("tee", file, stdin=json.dumps({"services": {"web": service}}))
    compose = ("docker", "compose", "-p", SEAT, "-f", file)
    serving_node.exec(*compose, "up", "-d")
    try:
        before = containers(serving_node)
        for record in (rollout.roll_out(images.other), rollout.take_down("stop"), rollout.take_down("remove")):
            assert (record.state, [problem.code for problem in record.problems]) == ("failed", ["foreign_project"])
        assert containers(serving_node) == before
    finally:
        serving_node.exec(*compose, "rm", "-sf", "web")
    assert_serves_as(serving_seat, rollout, serving_node)


@contextmanager
def gpu_profile(node: Node, text: str) -> Iterator[None]:
    node.set_profile(text)
    try:
        yield
    finally:
        node.set_profile(PROFILE)


def test_a_busy_seat_is_switched_only_with_force_and_a_recorded_reason(
    rollout: Rollout, serving_node: Node, images: Images
) -> None:
    order = stage(rollout, rollout.order(images.other, "r-busy"))
    pid = serving_node.exec("docker", "inspect", "-f", "{{.State.Pid}}", JUPYTER)
    running = containers(serving_node)
    with gpu_profile(serving_node, f"{PROFILE}used_mib = 2100\nproc = {pid}:2048:python\n"):
        (process,) = rollout.facts().gpus[1].processes or ()
        assert (process.pid, process.container) == (int(pid), JUPYTER)
        deferred = rollout.switch(order)
        assert (deferred.state, deferred.problems[0].code) == ("deferred", "busy")
        assert f"GPU 1: pid {pid}" in deferred.problems[0].what
        assert JUPYTER in deferred.problems[0].what
        assert serving_node.exec("ps", "-o", "stat=", "-p", pid)
    with gpu_profile(serving_node, f"{PROFILE}used_mib = 2100\n"):
        assert "GPU 1: 2.2 GB are in use" in rollout.switch(order).problems[0].what
    with gpu_profile(serving_node, profile_text("mismatch")):  # the library is newer than the kernel module
        unknown = rollout.switch(order)
        assert (unknown.state, "differ in version" in unknown.problems[0].what) == ("deferred", True)
    with gpu_profile(serving_node, f"{PROFILE}fail = 15\n"):  # a GPU has fallen off the bus
        assert rollout.switch(order).state == "deferred"
    assert containers(serving_node) == running
    with gpu_profile(serving_node, f"{PROFILE}proc = {pid}:2048:python\n"):
        without_reason = WhenBusy.model_construct(policy="force", seconds=0, reason="")  # no release sends this
        forced = order.model_copy(update={"when_busy": without_reason})
        assert rollout.switch(forced).problems[0].code == "force_without_reason"
        assert containers(serving_node) == running
        reason = WhenBusy(policy="force", reason="exam at noon")
        assert rollout.switch(order.model_copy(update={"when_busy": reason})).state == "committed"
    (forced_line,) = [
        json.loads(line)["detail"]
        for line in serving_node.exec("cat", f"{FOLDER}/journal.jsonl").splitlines()
        if '"forced"' in line
    ]
    assert forced_line["reason"] == "exam at noon"
    assert f"pid {pid}" in forced_line["stopped"][0]


LISTENER = "import socket, time; s = socket.create_server(('{}', {})); print('on', flush=True); time.sleep(600)"


def test_a_change_between_plan_and_switch_is_detected(rollout: Rollout, empty_node: Node, images: Images) -> None:
    order = rollout.order(images.first, "r-moved")
    stale = rollout.stage(order.model_copy(update={"expects": 3}))
    assert (stale.state, stale.problems[0].code) == ("stale", "stale_plan")
    assert not empty_node.exec("docker", "image", "ls", "-q")
    order = stage(rollout, order.model_copy(update={"expects": 0}))
    code = LISTENER.format(order.seat.binds["ssh"], order.seat.ports["ssh"])
    empty_node.exec("sh", "-c", f'nohup python3 -c "{code}" >/tmp/listener 2>&1 & echo $! >/tmp/listener.pid')
    wait_until(lambda: empty_node.exec("cat", "/tmp/listener"))
    taken = rollout.switch(order)
    assert (taken.state, taken.problems[0].code) == ("failed", "port_taken")
    assert not empty_node.exec("docker", "ps", "-aq")
    empty_node.exec("sh", "-c", "kill $(cat /tmp/listener.pid)")
    wait_until(lambda: not empty_node.exec("sh", "-c", f"ss -ltn | grep :{order.seat.ports['ssh']} || true"))
    assert rollout.switch(order).state == "committed"


def test_each_drift_from_the_committed_seat_is_reported(
    rollout: Rollout, serving_node: Node, serving_seat: RunningSeat
) -> None:
    assert serving_seat.drift == ()
    pid = serving_node.exec("docker", "inspect", "-f", "{{.State.Pid}}", JUPYTER)
    serving_node.exec("docker", "exec", "-u", "root", JUPYTER, "sh", "-c", "head -c 3000000 /dev/zero > /tmp/installed")
    serving_node.exec(
        "docker", "exec", "-u", "root", JUPYTER, "sed", "-i", "1i fail.nvmlInit = 999", "/etc/fake-nvml.conf"
    )
    serving_node.exec("sh", "-c", f"echo '# mine' >> {FOLDER}/gens/{serving_seat.generation}/compose.yaml")
    key = f"{FOLDER}/identity/ssh_host_ed25519_key.pub"
    serving_node.exec(
        "sh", "-c", f"cp {key} /tmp/key && ssh-keygen -q -t ed25519 -N '' -f /tmp/other && cp /tmp/other.pub {key}"
    )
    try:
        with gpu_profile(serving_node, f"{PROFILE}proc = 1:2048:miner\n"):
            found = seat_of(rollout)
    finally:
        serving_node.exec("cp", "/tmp/key", key)
    drift = {problem.code: problem.what for problem in found.drift}
    assert set(drift) == {"gpu_lost_inside", "files_edited", "host_key_changed", "foreign_on_gpu"}
    assert "nvmlInit_v2 answered 999" in drift["gpu_lost_inside"]
    assert "pid 1 of root" in drift["foreign_on_gpu"]
    assert (found.layer_bytes or 0) >= 3_000_000 > (serving_seat.layer_bytes or 0)
    assert pid == serving_node.exec("docker", "inspect", "-f", "{{.State.Pid}}", JUPYTER)  # reported, not restarted


def test_the_node_recovers_after_a_power_cut_without_a_controller(
    rollout: Rollout, serving_node: Node, images: Images
) -> None:
    """The bed has no systemd: two folders stand in for it, and the test runs the command of the unit."""
    assert rollout.roll_out(images.other).state == "committed"
    serving_node.exec("mkdir", "-p", "/run/systemd/system", "/etc/systemd/system")
    stage(rollout, rollout.order(images.third, "r-boot"))
    before = seat_of(rollout)
    unit = serving_node.exec("cat", "/etc/systemd/system/multi-user.target.wants/provisioner-recover.service")
    (command,) = [line.partition("=")[2].split() for line in unit.splitlines() if line.startswith("ExecStart=")]
    with kill_job_in_state(serving_node, "r-back", "verifying", "rollback"):
        rollout.roll_back(run="r-back")
    serving_node.kill()
    serving_node.start()
    serving_node.exec("rm", "-rf", "/tmp/.ansible", "/root/.ansible", "/home/lab/.ansible")
    record = json.loads(serving_node.exec(*command).splitlines()[-1])
    assert (record["state"], record["generation"]) == ("rolled_back", before.generation)
    assert journal(serving_node)[-2:] == ["rolling_back", "rolled_back"]
    assert_serves_as(before, rollout, serving_node)
    assert json.loads(serving_node.exec(*command).splitlines()[-1])["state"] == "unchanged"
    serving_node.exec("rm", "-rf", "/etc/systemd/system/provisioner-recover.service")


def test_rollback_waits_for_an_address_lost_during_the_switch(
    rollout: Rollout, serving_node: Node, serving_seat: RunningSeat, images: Images
) -> None:
    """Without the address neither new nor old containers can publish their ports, as without a network cable."""
    order = stage(rollout, rollout.order(images.without_ssh, "r-away"))
    with remove_address_during_switch(serving_node):
        record = rollout.switch(order)
    assert (record.state, record.generation) == ("rolled_back", serving_seat.generation)
    assert [problem.code for problem in record.problems] == ["start_failed"]
    assert_serves_as(serving_seat, rollout, serving_node)


def test_the_next_job_completes_a_killed_rollback_exactly_once(
    rollout: Rollout, serving_node: Node, serving_seat: RunningSeat, images: Images
) -> None:
    order = stage(rollout, rollout.order(images.without_ssh, "r-open"))
    with kill_job_in_state(serving_node, "r-open", "rolling_back"):
        assert rollout.switch(order).state == "unknown"
    ended = journal(serving_node).count("rolled_back")
    for run in ("r-next", "r-later"):
        assert rollout.stage(rollout.order(images.without_ssh, run)).state == "staged"
        assert journal(serving_node).count("rolled_back") == ended + 1
    assert_serves_as(serving_seat, rollout, serving_node)


@pytest.mark.parametrize("image", [pytest.param("exits_at_once", marks=pytest.mark.long("chaos")), "flaps"])
def test_an_image_whose_service_exits_is_rolled_back_and_its_log_is_kept(
    rollout: Rollout, serving_node: Node, serving_seat: RunningSeat, images: Images, image: str
) -> None:
    order = stage(
        rollout, rollout.order(getattr(images, image), f"r-{image}".replace("_", "-"), min_healthy_seconds=40)
    )
    record = rollout.switch(order)
    assert (record.state, record.generation) == ("rolled_back", serving_seat.generation)
    assert [problem.code for problem in record.problems] == ["not_healthy"]
    assert "\x1b" not in record.problems[0].why
    log = serving_node.exec("sh", "-c", f"cat {FOLDER}/gens/*/failure.log")
    assert "\x1b" not in log
    assert token_of(serving_node) not in log
    assert_serves_as(serving_seat, rollout, serving_node)


def test_a_switch_removes_leftovers_of_its_own_project_only(
    rollout: Rollout, serving_node: Node, images: Images
) -> None:
    label = f"com.docker.compose.project={SEAT}"
    own = (label, "com.docker.compose.service=ssh", f"provisioner.seat={SEAT}")
    own_labels = [word for each in own for word in ("--label", each)]
    serving_node.exec(
        "docker", "create", "--name", f"0123456789ab_{SEAT}-ssh-1", *own_labels, images.current.lab, "true"
    )
    serving_node.exec("docker", "create", "--name", "0123456789ab_theirs-1", images.current.lab, "true")
    serving_node.exec("docker", "network", "create", "--label", label, f"{SEAT}_default")
    serving_node.exec("docker", "network", "create", "theirs")
    assert rollout.roll_out(images.other).state == "committed"
    names = serving_node.exec("docker", "ps", "-a", "--format", "{{.Names}}").split()
    assert f"0123456789ab_{SEAT}-ssh-1" not in names
    assert "0123456789ab_theirs-1" in names
    networks = serving_node.exec("docker", "network", "ls", "--format", "{{.Name}}").split()
    assert {f"{SEAT}_default", f"{SEAT}_seat", "theirs"} & set(networks) == {f"{SEAT}_seat", "theirs"}
    serving_node.exec("docker", "rm", "0123456789ab_theirs-1")
    serving_node.exec("docker", "network", "rm", "theirs")


def test_a_full_disk_during_a_pull_stops_no_container(
    rollout: Rollout, serving_node: Node, serving_seat: RunningSeat, images: Images
) -> None:
    if serving_node.kind.containerd:
        pytest.skip("test_containerd_store.py fills the disk of a containerd service")
    running = containers(serving_node)
    order = rollout.order(images.big, "r-full")
    serving_node.exec("mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", "/var/lib/docker/tmp")
    try:
        record = rollout.stage(order)
    finally:
        serving_node.exec("umount", "/var/lib/docker/tmp")
    assert (record.state, record.problems[0].code) == ("failed", "pull_failed")
    assert "no space left" in record.problems[0].what
    assert (containers(serving_node), seat_of(rollout)) == (running, serving_seat)
    assert rollout.stage(order.model_copy(update={"run": "r-room"})).state == "staged"


def test_staging_completes_after_the_engine_is_killed_during_a_pull(
    rollout: Rollout, serving_node: Node, serving_seat: RunningSeat, images: Images
) -> None:
    serving_node.exec("sh", "-c", f"docker rmi -f {images.other.lab} {images.third.lab} || true")
    rollout.lab.engine.docker("pause", rollout.lab.registry.name)
    with ThreadPoolExecutor(1) as pool:
        stage = pool.submit(rollout.stage, rollout.order(images.third, "r-killed-engine"))
        job = f"{FOLDER}/jobs/r-killed-engine.stage.json"
        wait_until(lambda: "pulling" in serving_node.exec("sh", "-c", f"cat {job} 2>/dev/null || true"))
        serving_node.exec("pkill", "-9", "-x", "dockerd")
        rollout.lab.engine.docker("unpause", rollout.lab.registry.name)
        serving_node.exec("sh", "-c", "rm -f /var/run/docker.pid; service docker start")
        record = stage.result()
    assert (record.state, record.problems) == ("staged", ())
    # After a crash the engine stops running containers at its start and treats them as stopped by hand.
    assert seat_of(rollout).generation == serving_seat.generation
    assert rollout.roll_out(images.current).state == "committed"
    assert_serves_as(serving_seat, rollout, serving_node)
