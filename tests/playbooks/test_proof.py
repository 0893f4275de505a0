"""On which GPUs a check computes: not on those that others use, and on shared ones once per image, driver and boot."""

import fcntl
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.playbooks.fake_nvml import a_gpu, a_process
from tests.playbooks.node_code import ProblemError, module_util
from tests.playbooks.orders import an_order, with_seat

proofs, verify, command = (module_util(name) for name in ("gpu.proof", "transaction.verify", "base.command"))

OURS = a_process(11, container="demo-student-jupyter-1", seat="demo-student")
OTHERS = a_process(12, container="demo_mei-ssh-1", seat="demo_mei")
DESKTOP = a_process(13, "graphics", used_memory=200 << 20)
NOWHERE = a_process(15, user=None, command=None)  # not in /proc
UNNAMED = a_process(16, container="0123456789ab")  # the engine does not answer
HEAVY = 9 << 30  # bytes that no listed process holds
MIG = "MIG-5a3fbe51-0a55-4b7a-9c62-000000000001"


class Node:
    """A node whose NVML lists `gpus`, and a check in containers, which does as it is told. `calls`: its arguments."""

    def __init__(self, root: Path) -> None:
        self.order = with_seat(an_order(root), shared=True)
        self.gpus = [a_gpu("GPU-1")]
        self.driver = "570.172.08"
        self.boot = "boot-1"
        self.calls: list[list[str]] = []
        self.ok = True

    def query(self) -> dict[str, Any]:
        return {"driver": self.driver, "gpus": self.gpus} if self.driver else {"error": 18, "reason": "NVML: 18"}

    def container(self, service: str) -> dict[str, str]:
        return {"Id": service}

    def run(self, argv: list[str], *_: Any, **__: Any) -> Any:
        spared = argv[argv.index("-") + 1 :]
        self.calls.append(spared)
        uuids = self.order["seat"]["gpus"]
        method = "driver" if set(spared) >= set(uuids) else "torch"
        result = {"method": method, "ok": self.ok, "uuids": uuids, "skipped": spared, "detail": method}
        return command.CommandResult(0, json.dumps(result), "")

    def verify(self, **seat: Any) -> dict[str, Any]:
        """Return the result of `verify_gpus` for the order, whose seat has `seat`."""
        self.order = with_seat(self.order, **seat)
        self.calls.clear()
        result: dict[str, Any] = verify.verify_gpus(self, self.order)
        return result

    @property
    def computes(self) -> bool:
        """Whether the last check computed on every GPU, in both services."""
        assert len(self.calls) == 2
        assert self.calls[0] == self.calls[1]
        return not self.calls[0]

    @property
    def file(self) -> Path:
        return Path(self.order["state_root"]) / "node/gpu_proof.json"

    @property
    def kept(self) -> list[dict[str, str]]:
        return list(json.loads(self.file.read_text())["proofs"])


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    made = Node(tmp_path)
    monkeypatch.setattr(proofs, "query_nvml", made.query)
    monkeypatch.setattr(proofs, "with_container_names", lambda gpus: gpus)
    monkeypatch.setattr(proofs, "boot_id", lambda: made.boot)
    monkeypatch.setattr(verify, "client_environment", dict)
    monkeypatch.setattr(verify, "run", made.run)
    return made


def test_a_second_seat_on_a_shared_gpu_does_not_compute_with_the_same_image(node: Node) -> None:
    first = node.verify()
    assert (node.computes, first["problems"], first["gpu"]["method"]) == (True, [], "torch")
    second = node.verify(name="demo_li")
    assert (node.calls, second["problems"], second["gpu"]["method"]) == ([["GPU-1"], ["GPU-1"]], [], "driver")
    assert second["detail"] == f"jupyter: driver; ssh: driver; not computed on GPU-1: {proofs.PROVED}"


def _other_image(node: Node) -> None:
    node.order["image"]["reference"] = "registry.lab:5201/provisioner/lab@sha256:" + "b" * 64


def _other_driver(node: Node) -> None:
    node.driver = "580.65.06"


def _other_boot(node: Node) -> None:
    node.boot = "boot-2"


def _other_card(node: Node) -> None:
    node.order["seat"]["gpus"], node.gpus = ["GPU-2"], [a_gpu("GPU-2")]


def _mig_device(node: Node) -> None:
    node.order["seat"]["gpus"], node.gpus = [MIG], [a_gpu("GPU-1"), a_gpu(MIG, instance=0)]


def _damaged(node: Node) -> None:
    node.file.write_text('{"proofs": [{"gpu": ')


def _not_a_list(node: Node) -> None:
    node.file.write_text('{"proofs": 3}')


def _list_of_numbers(node: Node) -> None:
    node.file.write_text('{"proofs": [3]}')


def _other_document(node: Node) -> None:
    node.file.write_text("[]")


@pytest.mark.parametrize(
    "change",
    [
        _other_image,
        _other_driver,
        _other_boot,
        _other_card,
        _mig_device,
        _damaged,
        _not_a_list,
        _list_of_numbers,
        _other_document,
    ],
)
def test_a_proof_holds_for_one_gpu_image_driver_and_boot(node: Node, change: Callable[[Node], None]) -> None:
    node.verify()
    change(node)
    node.verify()
    assert node.computes
    node.verify()
    assert not node.computes


@pytest.mark.parametrize("change", [_other_driver, _other_boot])
def test_proofs_of_another_driver_or_boot_are_dropped_at_the_next_write(
    node: Node, change: Callable[[Node], None]
) -> None:
    node.verify()
    _other_image(node)
    node.verify()
    assert len(node.kept) == 2
    change(node)
    node.verify()
    assert [(one["driver"], one["boot"]) for one in node.kept] == [(node.driver, node.boot)]


def test_the_latest_proofs_are_kept(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proofs, "MOST", 2)
    for uuid in ("GPU-1", "GPU-2", "GPU-3"):
        proofs.record_proof(node.order, node.driver, [uuid])
    proofs.record_proof(node.order, node.driver, ["GPU-2"])
    assert [one["gpu"] for one in node.kept] == ["GPU-3", "GPU-2"]


@pytest.mark.parametrize(
    ("shared", "gpu", "computes"),
    [
        (True, a_gpu("GPU-1"), True),
        (True, a_gpu("GPU-1", processes=[OURS, DESKTOP]), True),
        (True, a_gpu("GPU-1", processes=[OTHERS]), False),
        (True, a_gpu("GPU-1", processes=[a_process(14)]), False),  # outside of containers
        (True, a_gpu("GPU-1", processes=[NOWHERE]), False),
        (True, a_gpu("GPU-1", processes=[UNNAMED]), False),
        (True, a_gpu("GPU-1", memory_used=HEAVY), False),
        (True, a_gpu("GPU-1", processes=None), False),
        (True, a_gpu("GPU-1", problems=[{"what": "GPU 0: NVML answers X"}]), False),
        (True, a_gpu("GPU-9"), False),
        (False, a_gpu("GPU-1"), True),
        (False, a_gpu("GPU-1", processes=[OURS]), True),
        (False, a_gpu("GPU-1", processes=[OTHERS]), False),
        (False, a_gpu("GPU-1", processes=[a_process(14)]), False),
        (False, a_gpu("GPU-1", processes=[NOWHERE]), True),
        (False, a_gpu("GPU-1", processes=[UNNAMED]), True),
        (False, a_gpu("GPU-1", memory_used=HEAVY), True),
        (False, a_gpu("GPU-1", processes=None), True),
        (False, a_gpu("GPU-9"), True),
        (False, {"index": 0, "problems": [{"what": "GPU 0 is lost"}]}, True),
    ],
)
def test_a_check_computes_only_on_a_gpu_that_no_other_uses(
    node: Node, shared: bool, gpu: dict[str, Any], computes: bool
) -> None:
    node.gpus = [gpu]
    found = node.verify(shared=shared)
    assert node.computes is computes
    assert [problem["code"] for problem in found["problems"]] == ([] if computes else ["proof_pending"])
    assert node.kept == ([{"gpu": "GPU-1", **_key(node)}] if computes else [])


def _key(node: Node) -> dict[str, str]:
    return {"image": node.order["image"]["reference"], "driver": node.driver, "boot": node.boot}


def test_a_proof_that_is_pending_names_the_gpu_and_its_user(node: Node) -> None:
    node.gpus = [a_gpu("GPU-1", processes=[OTHERS])]
    found = node.verify()
    (pending,) = found["problems"]
    assert pending["what"] == (
        "demo-student: its image has not computed yet on GPU-1: GPU 0: pid 12 python of li in demo_mei-ssh-1"
    )
    assert found["detail"].endswith("not computed on GPU-1: GPU 0: pid 12 python of li in demo_mei-ssh-1")
    node.gpus = [a_gpu("GPU-1")]
    assert (node.verify()["problems"], node.computes) == ([], True)


def test_a_seat_computes_on_its_own_idle_gpus_at_each_switch(node: Node) -> None:
    for _ in range(2):
        node.verify(shared=False)
        assert node.computes


def test_a_gpu_that_is_in_use_but_was_proved_is_not_pending(node: Node) -> None:
    node.verify(shared=False)
    node.gpus = [a_gpu("GPU-1", processes=[OTHERS])]
    assert node.verify()["problems"] == []
    assert not node.computes


def test_only_the_idle_gpus_of_a_seat_are_computed_on_and_proved(node: Node) -> None:
    node.gpus = [a_gpu("GPU-1", processes=[OTHERS]), a_gpu("GPU-2", 1)]
    found = node.verify(gpus=["GPU-1", "GPU-2"])
    assert node.calls == [["GPU-1"], ["GPU-1"]]
    assert [one["gpu"] for one in node.kept] == ["GPU-2"]
    assert "on GPU-1: GPU 0: pid 12" in found["problems"][0]["what"]


def test_a_check_of_an_earlier_release_which_computes_on_all_gpus_is_a_proof(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = {"method": "torch", "ok": True, "uuids": ["GPU-1"], "detail": "torch computes on 1 GPUs"}
    monkeypatch.setattr(verify, "run", lambda *_, **__: command.CommandResult(0, json.dumps(result), ""))
    node.gpus = [a_gpu("GPU-1", processes=[OTHERS])]
    found = node.verify(shared=False)
    assert (found["problems"], found["detail"]) == (
        [],
        "; ".join(f"{s}: {result['detail']}" for s in ("jupyter", "ssh")),
    )
    assert [one["gpu"] for one in node.kept] == ["GPU-1"]


def test_a_failed_check_is_no_proof(node: Node) -> None:
    node.ok = False
    with pytest.raises(ProblemError, match="jupyter: torch"):
        node.verify()
    assert not node.file.exists()


@pytest.mark.parametrize("shared", [True, False])
def test_without_an_answer_of_nvml_only_own_gpus_are_computed_on(node: Node, shared: bool) -> None:
    node.driver = ""
    node.verify(shared=shared)
    assert (node.computes, node.file.exists()) == (not shared, False)


def test_nvml_is_not_queried_for_a_seat_without_gpus(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proofs, "query_nvml", lambda: pytest.fail("queried"))
    assert node.verify(gpus=[])["problems"] == []
    assert not node.file.exists()


@pytest.mark.parametrize("uuid", ["GPU-1", MIG])
def test_a_self_service_seat_only_lists_its_gpus_and_proves_nothing(
    node: Node, monkeypatch: pytest.MonkeyPatch, uuid: str
) -> None:
    """The image was tried when its environment was published."""
    monkeypatch.setattr(proofs, "query_nvml", lambda: pytest.fail("queried"))
    found = node.verify(gpus=[uuid], shared=False, kind="self_service")
    assert (node.calls, found["gpu"]["method"]) == ([[uuid], [uuid]], "driver")
    assert (found["problems"], node.file.exists()) == ([], False)
    assert "not computed on" in found["detail"]


def test_a_self_service_seat_without_its_gpus_fails_the_check(node: Node) -> None:
    node.ok = False
    with pytest.raises(ProblemError, match="jupyter: driver"):
        node.verify(kind="self_service")


def test_a_proof_that_cannot_be_written_does_not_fail_the_check(node: Node) -> None:
    node.file.mkdir(parents=True)
    assert node.verify()["problems"] == []


def test_only_one_job_at_a_time_computes_on_shared_gpus(node: Node) -> None:
    lock = node.file.with_name("gpu_check.lock")

    def is_free() -> bool:
        with lock.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

    with proofs.chosen_gpus(node.order):
        assert not is_free()
        proofs.record_proof(node.order, node.driver, ["GPU-1"])
    with proofs.chosen_gpus(node.order):
        assert is_free()  # nothing is computed
