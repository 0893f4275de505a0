"""What goes wrong around a switch, on real nodes: the old seat serves on, with the same face, and the node says why."""

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from provisioner.domain.busy import WhenBusy
from provisioner.domain.node import RunningSeat
from provisioner.domain.order import Order
from tests.lab.gpus import profile_text
from tests.lab.node import Node
from tests.playbooks.on_nodes import FOLDER, SEAT, Images, Rollout, away_in_mid_switch, journal, killed_in, token_of

pytestmark = pytest.mark.lab

PROFILE = profile_text("rtx5090x2-580")
JUPYTER = f"{SEAT}-jupyter-1"


def until(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 300
    while not (value := condition()):
        assert time.monotonic() < deadline, condition
        time.sleep(0.2)
    return value


def seat_of(rollout: Rollout) -> RunningSeat:
    (seat,) = rollout.facts().seats
    return seat


def face(seat: RunningSeat, node: Node) -> tuple[object, ...]:
    """What a student knows the seat by."""
    return seat.ports, seat.host_key, token_of(node), seat.gpus


def containers(node: Node) -> str:
    return node.exec("docker", "ps", "-q", "--no-trunc")


def staged(rollout: Rollout, order: Order) -> Order:
    record = rollout.stage(order)
    assert (record.state, record.problems) == ("staged", ())
    return order


def test_back_and_forth_in_place_without_the_network(rollout: Rollout, serving: Node, images: Images) -> None:
    before = seat_of(rollout)
    newer = rollout.roll_out(images.second)
    assert newer.state == "committed"
    serving.exec("docker", "image", "prune", "-f")
    rollout.lab.registry.stop()
    try:
        back = rollout.roll_back(run="r-back")
        assert (back.state, back.generation, back.problems) == ("committed", before.generation, ())
        assert set(back.checks) == {"image", "jupyter", "ssh", "gpu", "healthy"}
        now = seat_of(rollout)
        assert (now.image, now.services, now.drift) == (images.first.lab, before.services, ())
        assert face(now, serving) == face(before, serving)
        assert rollout.roll_back(run="r-back").generation == before.generation
        assert seat_of(rollout) == now
        forth = rollout.roll_back(newer.generation)
        assert (forth.state, forth.generation) == ("committed", newer.generation)
    finally:
        rollout.lab.registry.start()
    assert seat_of(rollout).previous == before.generation
    serving.exec("docker", "image", "prune", "-af")  # what no container uses goes, tagged or not
    running = containers(serving)
    refused = rollout.roll_back()
    assert (refused.state, refused.problems[0].code) == ("failed", "no_rollback_target")
    assert (containers(serving), seat_of(rollout).previous) == (running, 0)
    assert rollout.roll_out(images.first).state == "committed"  # what runs has its name again, and so a way back
    assert seat_of(rollout).previous == newer.generation


def test_a_rollback_that_does_not_verify_goes_forward_again(rollout: Rollout, serving: Node, images: Images) -> None:
    old = seat_of(rollout).generation
    assert rollout.roll_out(images.second).state == "committed"
    before = seat_of(rollout)
    serving.exec("sh", "-c", f"echo 'raise SystemExit(1)' > {FOLDER}/gens/{old}/health.py")
    record = rollout.roll_back()
    assert (record.state, record.generation) == ("rolled_back", before.generation)
    assert [problem.code for problem in record.problems] == ["not_healthy"]
    after = seat_of(rollout)
    assert (after.services, face(after, serving)) == (before.services, face(before, serving))


@contextmanager
def gpus(node: Node, text: str) -> Iterator[None]:
    node.set_profile(text)
    try:
        yield
    finally:
        node.set_profile(PROFILE)


def test_nobodys_work_is_stopped_without_consent_on_record(rollout: Rollout, serving: Node, images: Images) -> None:
    order = staged(rollout, rollout.order(images.second, "r-busy"))
    pid = serving.exec("docker", "inspect", "-f", "{{.State.Pid}}", JUPYTER)
    running = containers(serving)
    with gpus(serving, f"{PROFILE}used_mib = 2100\nproc = {pid}:2048:python\n"):
        (process,) = rollout.facts().gpus[1].processes or ()
        assert (process.pid, process.container) == (int(pid), JUPYTER)
        deferred = rollout.switch(order)
        assert (deferred.state, deferred.problems[0].code) == ("deferred", "busy")
        assert f"GPU 1: pid {pid}" in deferred.problems[0].what
        assert JUPYTER in deferred.problems[0].what
        assert serving.exec("ps", "-o", "stat=", "-p", pid)
    with gpus(serving, f"{PROFILE}used_mib = 2100\n"):
        assert "GPU 1: 2.2 GB are held" in rollout.switch(order).problems[0].what
    with gpus(serving, profile_text("mismatch")):  # the library was replaced under the running kernel module
        unknown = rollout.switch(order)
        assert (unknown.state, "differ in version" in unknown.problems[0].what) == ("deferred", True)
    with gpus(serving, f"{PROFILE}fail = 15\n"):  # a card has fallen off the bus
        assert rollout.switch(order).state == "deferred"
    assert containers(serving) == running
    with gpus(serving, f"{PROFILE}proc = {pid}:2048:python\n"):
        nameless = WhenBusy.model_construct(policy="force", seconds=0, reason="")  # no release of ours sends it
        forced = order.model_copy(update={"when_busy": nameless})
        assert rollout.switch(forced).problems[0].code == "force_without_reason"
        assert containers(serving) == running
        reason = WhenBusy(policy="force", reason="exam at noon")
        assert rollout.switch(order.model_copy(update={"when_busy": reason})).state == "committed"
    (forced_line,) = [
        json.loads(line)["detail"]
        for line in serving.exec("cat", f"{FOLDER}/journal.jsonl").splitlines()
        if '"forced"' in line
    ]
    assert forced_line["reason"] == "exam at noon"
    assert f"pid {pid}" in forced_line["stopped"][0]


LISTENER = "import socket, time; s = socket.create_server(('{}', {})); print('on', flush=True); time.sleep(600)"


def test_what_changed_between_plan_and_switch_is_seen(rollout: Rollout, bare: Node, images: Images) -> None:
    order = rollout.order(images.first, "r-moved")
    stale = rollout.stage(order.model_copy(update={"expects": 3}))
    assert (stale.state, stale.problems[0].code) == ("stale", "stale_plan")
    assert not bare.exec("docker", "image", "ls", "-q")
    order = staged(rollout, order.model_copy(update={"expects": 0}))
    code = LISTENER.format(order.seat.binds["ssh"], order.seat.ports["ssh"])
    bare.exec("sh", "-c", f'nohup python3 -c "{code}" >/tmp/listener 2>&1 & echo $! >/tmp/listener.pid')
    until(lambda: bare.exec("cat", "/tmp/listener"))
    taken = rollout.switch(order)
    assert (taken.state, taken.problems[0].code) == ("failed", "port_taken")
    assert not bare.exec("docker", "ps", "-aq")
    bare.exec("sh", "-c", "kill $(cat /tmp/listener.pid)")
    until(lambda: not bare.exec("sh", "-c", f"ss -ltn | grep :{order.seat.ports['ssh']} || true"))
    assert rollout.switch(order).state == "committed"


def test_what_is_no_longer_as_it_was_committed_is_told(rollout: Rollout, serving: Node) -> None:
    seat = seat_of(rollout)
    assert seat.drift == ()
    pid = serving.exec("docker", "inspect", "-f", "{{.State.Pid}}", JUPYTER)
    serving.exec("docker", "exec", "-u", "root", JUPYTER, "sh", "-c", "head -c 3000000 /dev/zero > /tmp/installed")
    serving.exec("docker", "exec", "-u", "root", JUPYTER, "sed", "-i", "1i fail.nvmlInit = 999", "/etc/fake-nvml.conf")
    serving.exec("sh", "-c", f"echo '# mine' >> {FOLDER}/gens/{seat.generation}/compose.yaml")
    key = f"{FOLDER}/identity/ssh_host_ed25519_key.pub"
    serving.exec(
        "sh", "-c", f"cp {key} /tmp/key && ssh-keygen -q -t ed25519 -N '' -f /tmp/other && cp /tmp/other.pub {key}"
    )
    try:
        with gpus(serving, f"{PROFILE}proc = 1:2048:miner\n"):
            found = seat_of(rollout)
    finally:
        serving.exec("cp", "/tmp/key", key)
    told = {problem.code: problem.what for problem in found.drift}
    assert set(told) == {"gpu_lost_inside", "files_edited", "host_key_changed", "foreign_on_gpu"}
    assert "nvmlInit_v2 answered 999" in told["gpu_lost_inside"]
    assert "pid 1 of root" in told["foreign_on_gpu"]
    assert (found.layer_bytes or 0) >= 3_000_000 > (seat.layer_bytes or 0)
    assert pid == serving.exec("docker", "inspect", "-f", "{{.State.Pid}}", JUPYTER)  # told, and left alone


def test_after_a_power_cut_the_node_recovers_by_itself(rollout: Rollout, serving: Node, images: Images) -> None:
    """systemd is not on the bed: two folders say that it is, and the test does what its unit would do at boot."""
    assert rollout.roll_out(images.second).state == "committed"
    serving.exec("mkdir", "-p", "/run/systemd/system", "/etc/systemd/system")
    staged(rollout, rollout.order(images.third, "r-boot"))
    before = seat_of(rollout)
    unit = serving.exec("cat", "/etc/systemd/system/multi-user.target.wants/provisioner-recover.service")
    (command,) = [line.partition("=")[2].split() for line in unit.splitlines() if line.startswith("ExecStart=")]
    with killed_in(serving, "r-back", "verifying", "rollback"):
        rollout.roll_back(run="r-back")
    serving.kill()
    serving.start()
    serving.exec("rm", "-rf", "/tmp/.ansible", "/root/.ansible", "/home/lab/.ansible")
    record = json.loads(serving.exec(*command).splitlines()[-1])
    assert (record["state"], record["generation"]) == ("rolled_back", before.generation)
    assert journal(serving)[-2:] == ["rolling_back", "rolled_back"]
    after = seat_of(rollout)
    assert (after.services, face(after, serving)) == (before.services, face(before, serving))
    assert json.loads(serving.exec(*command).splitlines()[-1])["state"] == "unchanged"
    serving.exec("rm", "-rf", "/etc/systemd/system/provisioner-recover.service")


def test_an_address_that_goes_away_in_mid_switch_is_waited_for(rollout: Rollout, serving: Node, images: Images) -> None:
    """As a cable that is pulled takes it along: neither the new containers can publish on it nor the old ones."""
    before = seat_of(rollout)
    order = staged(rollout, rollout.order(images.without_ssh, "r-away"))
    with away_in_mid_switch(serving):
        record = rollout.switch(order)
    assert (record.state, record.generation) == ("rolled_back", before.generation)
    assert [problem.code for problem in record.problems] == ["start_failed"]
    after = seat_of(rollout)
    assert (after.services, face(after, serving)) == (before.services, face(before, serving))


def test_whoever_comes_first_ends_what_was_killed_and_it_is_ended_once(
    rollout: Rollout, serving: Node, images: Images
) -> None:
    before = seat_of(rollout)
    order = staged(rollout, rollout.order(images.without_ssh, "r-open"))
    with killed_in(serving, "r-open", "rolling_back"):
        assert rollout.switch(order).state == "unknown"
    ended = journal(serving).count("rolled_back")
    for run in ("r-next", "r-later"):
        assert rollout.stage(rollout.order(images.without_ssh, run)).state == "staged"
        assert journal(serving).count("rolled_back") == ended + 1
    after = seat_of(rollout)
    assert (after.services, face(after, serving)) == (before.services, face(before, serving))


@pytest.mark.parametrize("image", ["exits_at_once", "flaps"])
def test_an_image_that_does_not_stay_is_undone_and_its_last_words_are_kept(
    rollout: Rollout, serving: Node, images: Images, image: str
) -> None:
    before = seat_of(rollout)
    order = staged(
        rollout, rollout.order(getattr(images, image), f"r-{image}".replace("_", "-"), min_healthy_seconds=40)
    )
    record = rollout.switch(order)
    assert (record.state, record.generation) == ("rolled_back", before.generation)
    assert [problem.code for problem in record.problems] == ["not_healthy"]
    assert "\x1b" not in record.problems[0].why
    log = serving.exec("sh", "-c", f"cat {FOLDER}/gens/*/failure.log")
    assert "\x1b" not in log
    assert token_of(serving) not in log
    after = seat_of(rollout)
    assert (after.services, face(after, serving)) == (before.services, face(before, serving))


def test_only_our_own_leftovers_are_in_nobodys_way(rollout: Rollout, serving: Node, images: Images) -> None:
    label = f"com.docker.compose.project={SEAT}"
    ours = ("--label", label, "--label", "com.docker.compose.service=ssh")
    serving.exec("docker", "create", "--name", f"0123456789ab_{SEAT}-ssh-1", *ours, images.first.lab, "true")
    serving.exec("docker", "create", "--name", "0123456789ab_theirs-1", images.first.lab, "true")
    serving.exec("docker", "network", "create", "--label", label, f"{SEAT}_default2")
    assert rollout.roll_out(images.second).state == "committed"
    names = serving.exec("docker", "ps", "-a", "--format", "{{.Names}}").split()
    assert f"0123456789ab_{SEAT}-ssh-1" not in names
    assert "0123456789ab_theirs-1" in names
    serving.exec("docker", "rm", "0123456789ab_theirs-1")
    serving.exec("docker", "network", "rm", f"{SEAT}_default2")


def test_no_room_in_the_middle_of_a_pull_stops_nothing(rollout: Rollout, serving: Node, images: Images) -> None:
    before, running = seat_of(rollout), containers(serving)
    order = rollout.order(images.big, "r-full")
    serving.exec("mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", "/var/lib/docker/tmp")
    try:
        record = rollout.stage(order)
    finally:
        serving.exec("umount", "/var/lib/docker/tmp")
    assert (record.state, record.problems[0].code) == ("failed", "pull_failed")
    assert "no space left" in record.problems[0].what
    assert (containers(serving), seat_of(rollout)) == (running, before)
    assert rollout.stage(order.model_copy(update={"run": "r-room"})).state == "staged"


def test_an_engine_that_is_killed_in_the_middle_of_a_pull_comes_back_to_it(
    rollout: Rollout, serving: Node, images: Images
) -> None:
    before = seat_of(rollout)
    serving.exec("sh", "-c", f"docker rmi -f {images.second.lab} {images.third.lab} || true")
    rollout.lab.engine.docker("pause", rollout.lab.registry.name)
    with ThreadPoolExecutor(1) as pool:
        stage = pool.submit(rollout.stage, rollout.order(images.third, "r-killed-engine"))
        job = f"{FOLDER}/jobs/r-killed-engine.stage.json"
        until(lambda: "pulling" in serving.exec("sh", "-c", f"cat {job} 2>/dev/null || true"))
        serving.exec("pkill", "-9", "-x", "dockerd")
        rollout.lab.engine.docker("unpause", rollout.lab.registry.name)
        serving.exec("sh", "-c", "rm -f /var/run/docker.pid; service docker start")
        record = stage.result()
    assert (record.state, record.problems) == ("staged", ())
    # An engine that was killed stops what it finds running when it starts, and counts it as stopped by a person.
    assert seat_of(rollout).generation == before.generation
    assert rollout.roll_out(images.first).state == "committed"
    after = seat_of(rollout)
    assert (after.services, face(after, serving)) == (before.services, face(before, serving))
