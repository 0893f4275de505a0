import os
from pathlib import Path

import pytest

from tests.playbooks.fake_engine import FakeEngine, a_container, add_containers
from tests.playbooks.fake_nvml import a_gpu, a_process
from tests.playbooks.node_code import module_util

processes = module_util("gpu.processes")
ID, OUTER = "a" * 64, "b" * 64


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (f"0::/system.slice/docker-{ID}.scope\n", ID),
        (f"12:devices:/docker/{ID}\n11:cpu:/docker/{ID}\n", ID),
        (f"4:devices:/docker/{OUTER}/docker/{ID}\n1:name=systemd:/docker/{OUTER}\n0::/\n", ID),
        (f"0::/kubepods.slice/cri-containerd-{ID}.scope\n", ID),
        ("0::/user.slice/user-1000.slice/session-3.scope\n", None),
        ("", None),
    ],
)
def test_container_id_from_the_control_groups_of_a_process(
    text: str, found: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "read", lambda path: text if path == Path("/proc/4242/cgroup") else "")
    assert processes.container_id(4242) == found


def test_container_id_of_an_ended_process_is_none() -> None:
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    assert processes.container_id(child) is None


def test_containers_of_processes_are_named_if_the_engine_lists_them(engine: FakeEngine) -> None:
    add_containers(engine, a_container("jupyter", name="lab-student-jupyter-1"))
    engine.containers[0]["Id"] = ID
    found = [a_process(1, container=ID), a_process(2, container=OUTER), a_process(3)]
    (gpu,) = processes.with_container_names([a_gpu("GPU-1", processes=found)])
    assert [p["container"] for p in gpu["processes"]] == ["lab-student-jupyter-1", "b" * 12, None]


def test_processes_have_the_seat_that_the_label_of_their_container_names(engine: FakeEngine) -> None:
    add_containers(engine, a_container("jupyter", name=ID), seat="demo_li")
    add_containers(engine, a_container("jupyter", name=OUTER), seat="demo_li", own={})
    found = [a_process(1, container=ID), a_process(2, container=OUTER), a_process(3, container="c" * 64), a_process(4)]
    (gpu,) = processes.with_container_names([a_gpu("GPU-1", processes=found)])
    assert [p.get("seat", "no key") for p in gpu["processes"]] == ["demo_li", None, None, "no key"]
    assert engine.requests == ["GET /containers/json"]


def test_the_engine_is_not_queried_without_processes_in_containers(engine: FakeEngine) -> None:
    cards = [a_gpu("GPU-1", processes=[a_process(3)]), a_gpu("GPU-2", processes=None), {"index": 2, "problems": []}]
    assert processes.with_container_names(cards) == cards
    assert engine.requests == []


def test_containers_have_short_ids_without_an_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///no/such.sock")
    (gpu,) = processes.with_container_names([a_gpu("GPU-1", processes=[a_process(1, container=ID)])])
    assert gpu["processes"][0]["container"] == "a" * 12
    assert "seat" not in gpu["processes"][0]
