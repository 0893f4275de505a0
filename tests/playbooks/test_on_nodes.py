"""Node code on real nodes: engines, compose, sshd and containers are real; profiles describe the GPUs."""

import json
import shlex
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import yaml

from provisioner.domain.seat.document import SeatDocument
from provisioner.domain.values.node import RunningSeat
from tests.lab.bed import Lab, make_key
from tests.lab.host import BedError, run
from tests.lab.node import Node
from tests.playbooks.on_nodes import (
    FOLDER,
    REPOSITORY,
    SEAT,
    Images,
    Rollout,
    journal,
    kill_job_in_state,
    new_run_id,
    token_of,
    watch_for_token,
)

pytestmark = pytest.mark.lab


def test_a_first_seat_that_does_not_verify_leaves_nothing_running(
    rollout: Rollout, empty_node: Node, images: Images
) -> None:
    record = rollout.roll_out(images.without_ssh)
    assert (record.state, record.generation) == ("rolled_back", 0)
    assert not empty_node.exec("docker", "ps", "-aq")
    assert rollout.facts().seats == ()


def test_a_first_seat_is_staged_switched_and_reachable_by_ssh(
    by_ansible: Rollout, empty_node: Node, images: Images
) -> None:
    order = by_ansible.order(images.first, "r1")
    with ThreadPoolExecutor() as pool:
        with by_ansible.lab.registry.paused():  # otherwise the pull may end before its progress is read
            staging = pool.submit(by_ansible.stage, order)
            by_ansible.wait_for_bytes()
        staged = staging.result()
    assert (staged.state, staged.generation, staged.problems) == ("staged", 1, ())
    assert not empty_node.exec("docker", "ps", "-aq")
    record = by_ansible.switch(order)
    assert (record.state, record.generation, record.problems) == ("committed", 1, ())
    assert set(record.checks) == {"image", "jupyter", "ssh", "gpu", "healthy"}
    assert record.gpu is not None
    assert set(record.gpu.uuids) == set(order.seat.gpus)
    assert record.access is not None
    assert who_am_i(by_ansible.lab, empty_node.address, order.seat.ports["ssh"], record.access.host_key) == "student\n"
    assert images.first.bytes in {event.total for event in by_ansible.events if event.unit == "B"}
    (running,) = by_ansible.facts().seats
    assert (running.files, running.image, running.ports) == (order.files, images.first.lab, order.seat.ports)
    assert running.services == {"jupyter": "healthy", "ssh": "healthy"}
    texts = "".join(event.model_dump_json() for event in by_ansible.events) + record.model_dump_json()
    assert token_of(empty_node) not in texts


def test_other_keys_admit_others_at_once_and_no_container_restarts(
    by_ansible: Rollout, serving_node: Node, serving_seat: RunningSeat, images: Images
) -> None:
    lab, order = by_ansible.lab, by_ansible.order(images.current, new_run_id())
    host_key = " ".join(serving_node.exec("cat", f"{FOLDER}/identity/ssh_host_ed25519_key.pub").split()[:2])
    login = partial(who_am_i, lab, serving_node.address, order.seat.ports["ssh"], host_key)
    containers, own = serving_node.exec("docker", "ps", "-q"), order.seat.authorized_keys
    assert login() == "student\n"
    make_key(lab.folder / "other_key")
    assert by_ansible.set_keys(order, (lab.folder / "other_key.pub").read_text().strip()).state == "committed"
    with pytest.raises(BedError, match="Permission denied"):
        login()
    assert by_ansible.set_keys(order, *own).state == "committed"
    assert login() == "student\n"
    assert serving_node.exec("docker", "ps", "-q") == containers
    assert by_ansible.seat().generation == serving_seat.generation


INSIDE = {
    "pip_index": "http://127.0.0.1:8888/simple",  # the stand-in of Jupyter, which is no index
    "conda_channels": ["conda-forge"],
    "timezone": "Asia/Shanghai",
    "env": {"NOTE": 'a "b" $HOME \\ 李雷'},
}


def test_settings_inside_and_a_forwarded_agent_are_seen_by_ssh_and_an_index_that_refuses_is_a_caution(
    rollout: Rollout, serving_node: Node, images: Images
) -> None:
    image = images.other.model_copy(update={"format": 2})
    order = rollout.order(image, new_run_id(), INSIDE)
    assert rollout.stage(order).state == "staged"
    record = rollout.switch(order)
    assert (record.state, [problem.code for problem in record.problems]) == ("committed", ["index_refused"])
    assert "http://127.0.0.1:8888/simple/pip/: HTTP 403" in record.problems[0].what
    program = (
        "cat /etc/pip.conf /etc/uv/uv.toml /etc/conda/.condarc; echo $TZ $NOTE; test -S $SSH_AUTH_SOCK && echo agent"
    )
    found = by_agent(rollout.lab, serving_node.address, order.seat.ports["ssh"], program)
    assert found.startswith("[global]\nindex-url = http://127.0.0.1:8888/simple\n")
    assert found.endswith('Asia/Shanghai a "b" $HOME \\ 李雷\nagent\n')
    jupyter = serving_node.exec("docker", "exec", f"{SEAT}-jupyter-1", "sh", "-c", "echo $TZ $NOTE; cat /etc/pip.conf")
    assert jupyter.startswith('Asia/Shanghai a "b" $HOME \\ 李雷\n[global]')


def by_agent(lab: Lab, address: str, port: int, program: str) -> str:
    """Return what a program prints in a seat, in a login that forwards an agent."""
    options = "-o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"
    login = f"ssh -F none -A -i {lab.key} {options} -p {port} student@{address} {shlex.quote(program)}"
    return run("ssh-agent", "sh", "-c", f"ssh-add -q {lab.key} && {login}").stdout


def who_am_i(lab: Lab, address: str, port: int, host_key: str) -> str:
    known = lab.folder / "seat_known_hosts"
    known.write_text(f"[{address}]:{port} {host_key}\n")
    options = ("-o", f"UserKnownHostsFile={known}", "-o", "BatchMode=yes", "-i", lab.key)
    return run("ssh", "-F", "none", *options, "-p", str(port), f"student@{address}", "whoami").stdout


def test_the_token_is_in_one_file_of_the_node_and_in_no_process_or_container(
    by_ansible: Rollout, serving_node: Node, images: Images
) -> None:
    token = token_of(serving_node)
    with watch_for_token(serving_node) as shown:
        assert by_ansible.roll_out(images.other).state == "committed"
        assert by_ansible.fleet.access({"node1": [SEAT]}) == {"node1": {SEAT: token}}
        serving_node.exec("sh", "-c", f"WATCHED={token} sleep 1")
    assert {"sleep\n"} <= shown <= {"sh\n", "sleep\n"}, "a process other than those of this test"
    found = serving_node.exec("grep", "-rl", "--", token, "/var/lib/provisioner", "/var/log", "/root", "/tmp")
    assert found == f"{FOLDER}/identity/token"
    assert token not in serving_node.exec("sh", "-c", "docker inspect $(docker ps -q)")


@pytest.mark.parametrize("fault", [("without_ssh", "not_healthy"), ("open_to_all", "jupyter_fails")])
def test_a_seat_that_does_not_verify_is_rolled_back_by_the_node(
    rollout: Rollout, serving_node: Node, serving_seat: RunningSeat, images: Images, fault: tuple[str, str]
) -> None:
    token = token_of(serving_node)
    record = rollout.roll_out(getattr(images, fault[0]))
    assert (record.state, record.generation) == ("rolled_back", serving_seat.generation)
    assert [problem.code for problem in record.problems] == [fault[1]]
    assert token not in record.model_dump_json()
    (after,) = rollout.facts().seats
    assert after == serving_seat.model_copy(
        update={"state": "rolled_back", "run": after.run, "layer_bytes": after.layer_bytes}
    )
    assert token_of(serving_node) == token
    assert journal(serving_node)[-4:] == ["switching", "verifying", "rolling_back", "rolled_back"]
    assert serving_node.exec("sh", "-c", f"cat {FOLDER}/gens/*/failure.log")


def test_an_order_that_cannot_be_staged_stops_no_container(
    rollout: Rollout, serving_node: Node, images: Images
) -> None:
    before = serving_node.exec("docker", "ps", "-q", "--no-trunc")
    order = rollout.order(images.third, "r-cannot")  # no layer of this image is on the node
    huge = order.model_copy(update={"image": order.image.model_copy(update={"bytes": 10**15})})
    other = order.model_copy(update={"image": order.image.model_copy(update={"rootfs": ("sha256:" + "0" * 64,)})})
    serving_node.exec("chown", "4242", "/srv/provisioner/homes/student")
    home = rollout.stage(order)
    serving_node.exec("chown", "1000", "/srv/provisioner/homes/student")
    rollout.lab.registry.stop()
    away = rollout.stage(order)
    rollout.lab.registry.start()
    failed = [home, away, rollout.stage(huge), rollout.stage(other)]
    assert [(record.state, record.problems[0].code) for record in failed] == [
        ("failed", "home_owner"),
        ("failed", "pull_failed"),
        ("failed", "disk_full"),
        ("failed", "rootfs_mismatch"),
    ]
    assert rollout.switch(order).problems[0].code == "not_staged"
    assert serving_node.exec("docker", "ps", "-q", "--no-trunc") == before


def test_a_missing_manifest_or_corrupt_layer_is_refused_and_stops_no_container(
    rollout: Rollout, serving_node: Node, images: Images
) -> None:
    before, registry = serving_node.exec("docker", "ps", "-q", "--no-trunc"), rollout.lab.registry
    order = rollout.order(images.big, "r-wrong")
    name = order.image.reference.partition("@")[0]
    missing = order.image.model_copy(update={"reference": f"{name}@sha256:{'0' * 64}"})
    refused = [rollout.stage(order.model_copy(update={"image": missing}))]
    layer = registry.layers(f"{REPOSITORY}:8")[-1]
    registry.flip_byte(layer)
    refused.append(rollout.stage(order))
    registry.flip_byte(layer)
    assert [(record.state, record.problems[0].code) for record in refused] == [("failed", "pull_failed")] * 2
    # The engine's words with its own image store, and with that of containerd.
    assert any(words in refused[1].problems[0].what for words in ("verification failed", "unexpected commit digest"))
    assert rollout.switch(order).problems[0].code == "not_staged"
    assert serving_node.exec("docker", "ps", "-q", "--no-trunc") == before
    assert rollout.stage(order).state == "staged"


COMMITTED = ["switching", "verifying", "committed"]


def test_a_killed_switch_is_rolled_back_and_the_same_run_commits(
    rollout: Rollout, serving_node: Node, serving_seat: RunningSeat, images: Images
) -> None:
    order = rollout.order(images.other, "r-killed")
    assert rollout.stage(order).state == "staged"
    with kill_job_in_state(serving_node, "r-killed", "switching"):
        record = rollout.switch(order)
    assert (record.state, [problem.code for problem in record.problems]) == ("unknown", ["job_died"])
    (seat,) = rollout.facts().seats
    assert (seat.generation, seat.state) == (serving_seat.generation, "switching")
    assert rollout.switch(order).state == "committed"
    states = journal(serving_node)
    assert states[-6:] == ["switching", "rolling_back", "rolled_back", *COMMITTED]
    assert rollout.switch(order).state == "committed"
    assert journal(serving_node) == states


def test_a_power_cut_during_verification_ends_on_the_old_generation(
    rollout: Rollout, serving_node: Node, serving_seat: RunningSeat, images: Images
) -> None:
    order = rollout.order(images.other, "r-cut", min_healthy_seconds=5)
    assert rollout.stage(order).state == "staged"
    with kill_job_in_state(serving_node, "r-cut", "verifying"):
        rollout.switch(order)
    serving_node.kill()
    serving_node.start()
    (seat,) = rollout.facts().seats
    assert (seat.generation, seat.state) == (serving_seat.generation, "verifying")
    assert rollout.stage(rollout.order(images.other, "r-after")).state == "staged"
    assert journal(serving_node)[-3:] == ["rolling_back", "rolled_back", "staged"]
    (seat,) = rollout.facts().seats
    assert (seat.generation, set(seat.services.values())) == (serving_seat.generation, {"healthy"})


def test_two_controllers_with_the_same_run_share_one_job(rollout: Rollout, serving_node: Node, images: Images) -> None:
    order = rollout.order(images.other, "r-both", min_healthy_seconds=10)
    with ThreadPoolExecutor(2) as pool:
        records = list(pool.map(lambda _: rollout.stage(order), range(2)))
    assert [record.state for record in records] == ["staged", "staged"]
    assert records[0].generation == records[1].generation
    with ThreadPoolExecutor(1) as pool:
        switching = pool.submit(rollout.switch, order)
        while journal(serving_node)[-1] == "staged":
            time.sleep(0.1)
        refused = rollout.switch(order.model_copy(update={"run": "r-other"}))
        assert switching.result().state == "committed"
    assert (refused.state, [problem.code for problem in refused.problems]) == ("failed", ["seat_locked"])


def test_the_rollback_image_survives_a_prune_and_older_generations_are_removed(
    rollout: Rollout, serving_node: Node, images: Images
) -> None:
    records = [rollout.roll_out(image) for image in (images.other, images.third)]
    assert [record.state for record in records] == ["committed", "committed"]
    serving_node.exec("docker", "image", "prune", "-f")
    kept = serving_node.exec("docker", "image", "ls", "--digests", "--format", "{{.Digest}}").split()
    assert set(kept) - {"<none>"} == {image.lab.partition("@")[2] for image in (images.other, images.third)}
    assert serving_node.exec("ls", "-v", f"{FOLDER}/gens").split() == [str(record.generation) for record in records]


def test_a_seat_of_an_earlier_release_gets_a_subnet_of_its_own_and_can_go_back(
    rollout: Rollout, serving_node: Node, images: Images
) -> None:
    """Earlier releases left the choice to the engine. The network of the other generation is removed each time."""
    order = rollout.order(images.other, new_run_id())
    compose = yaml.safe_load(order.files["compose.yaml"])
    del compose["networks"]
    for service in compose["services"].values():
        del service["networks"]
    files, seat = order.files | {"compose.yaml": yaml.safe_dump(compose)}, order.seat.model_copy(update={"subnet": ""})
    older = order.model_copy(update={"document": SeatDocument.of_texts(files), "seat": seat})
    assert networks(serving_node) == {f"{SEAT}_seat": "10.213.0.0/28"}
    assert (rollout.stage(older).state, rollout.switch(older).state) == ("staged", "committed")
    assert networks(serving_node).keys() == {f"{SEAT}_default"}
    assert (rollout.seat().subnet, rollout.roll_out(images.other).state) == ("", "committed")
    assert networks(serving_node) == {f"{SEAT}_seat": "10.213.0.0/28"}
    assert rollout.seat().subnet == "10.213.0.0/28"


def networks(node: Node) -> dict[str, str]:
    """Return the subnet of each network of the seat, by name."""
    names = node.exec("docker", "network", "ls", "-q", "--filter", f"label=com.docker.compose.project={SEAT}").split()
    found = json.loads(node.exec("docker", "network", "inspect", *names))
    return {network["Name"]: network["IPAM"]["Config"][0]["Subnet"] for network in found}


def test_a_stopped_seat_keeps_ports_and_host_key_and_a_removed_seat_keeps_its_home(
    rollout: Rollout, serving_node: Node, serving_seat: RunningSeat, images: Images
) -> None:
    serving_node.exec("sh", "-c", "echo work > /srv/provisioner/homes/student/thesis")
    assert (rollout.take_down("stop").state, serving_node.exec("docker", "ps", "-aq")) == ("committed", "")
    assert rollout.roll_out(images.current).state == "committed"
    (back,) = rollout.facts().seats
    assert (back.ports, back.host_key) == (serving_seat.ports, serving_seat.host_key)
    assert rollout.take_down("remove").state == "committed"
    assert rollout.facts().seats == ()
    assert serving_node.exec("cat", "/srv/provisioner/homes/student/thesis") == "work"
    assert not serving_node.exec("docker", "image", "ls", "-q")
    assert isinstance(rollout.fleet.access({"node1": [SEAT]})["node1"][SEAT], str)
