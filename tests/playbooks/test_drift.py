"""Each difference from the committed seat is reported; an unchanged seat has none."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.playbooks.fake_engine import FakeEngine, a_container, add_containers
from tests.playbooks.fake_nvml import a_gpu, a_process
from tests.playbooks.node_code import ProblemError, module_util
from tests.playbooks.orders import REFERENCE, an_order

drifts, seats, journals, command = (
    module_util(name) for name in ("seat.drift", "seat.seat", "seat.journal", "base.command")
)

KEY = "ssh-ed25519 AAAAkey"


class CommittedSeat:
    """A committed seat that runs as it should; a test changes one thing. `seen` is what the GPU check in it prints."""

    def __init__(self, root: Path, engine: FakeEngine) -> None:
        self.engine = engine
        self.order = an_order(root)
        self.seat = seats.seat_of(self.order)
        self.seat.make_folders()
        self.seat.write(3, self.order, {})
        self.seat.commit(3)
        (self.seat.identity / "ssh_host_ed25519_key.pub").write_text(f"{KEY} comment\n")
        self.journal = journals.Journal(self.seat.folder, "r1")
        self.journal.append("committed", generation=3, host_key=KEY)
        self.gpus = [a_gpu("GPU-1"), a_gpu("GPU-2", 1)]
        self.seen = command.CommandResult(0, json.dumps(["GPU-1"]), "")
        self.found: dict[str, Any] = {service: self._container(service) for service in ("jupyter", "ssh")}
        self.commands: list[list[str]] = []

    def _container(self, service: str) -> dict[str, Any]:
        container = a_container(service, name=f"demo-student-{service}-1")
        file = str(self.seat.generation(3) / "compose.yaml")
        labels = {"com.docker.compose.project.config_files": file}
        return container | {"Config": {"Image": REFERENCE, "Labels": labels}}

    def run(self, argv: list[str], *_: Any, **__: Any) -> Any:
        self.commands.append(argv)
        if isinstance(self.seen, Exception):
            raise self.seen
        return self.seen

    def drift(self) -> dict[str, str]:
        """Return code and text of each difference."""
        found = drifts.find_drift(self.seat, self.order, self.found, self.gpus, self.engine.containers)
        assert all(problem["fix"] and problem["why"] for problem in found)
        return {problem["code"]: problem["what"] for problem in found}


@pytest.fixture
def committed(tmp_path: Path, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> CommittedSeat:
    made = CommittedSeat(tmp_path, engine)
    monkeypatch.setattr(drifts, "run", made.run)
    return made


def test_an_unchanged_seat_has_no_drift_and_needs_one_exec(committed: CommittedSeat) -> None:
    committed.gpus[0]["processes"] = [a_process(1, container="demo-student-jupyter-1"), a_process(2, "graphics")]
    assert committed.drift() == {}
    (argv,) = committed.commands
    assert argv[:2] == ["docker", "exec"]
    assert argv[-4:] == ["demo-student-jupyter-1", "python3", "-I", "-"]


def test_the_work_of_another_seat_on_a_shared_gpu_is_no_drift(committed: CommittedSeat) -> None:
    committed.order["seat"]["shared"] = True
    committed.gpus[0]["processes"] = [a_process(1, container="demo_mei-ssh-1", seat="demo_mei")]
    assert committed.drift() == {}
    committed.gpus[0]["processes"] = [a_process(2, container="mining-1", seat=None)]
    assert list(committed.drift()) == ["foreign_on_gpu"]


def _other_image(committed: CommittedSeat) -> None:
    committed.found["ssh"]["Config"]["Image"] = "student/own:latest"


def _other_file(committed: CommittedSeat) -> None:
    committed.found["ssh"]["Config"]["Labels"]["com.docker.compose.project.config_files"] = "/root/compose.yaml"


def _edited(committed: CommittedSeat) -> None:
    (committed.seat.generation(3) / "compose.yaml").write_text("edited")
    (committed.seat.generation(3) / "more.txt").write_text("new")


def _new_key(committed: CommittedSeat) -> None:
    (committed.seat.identity / "ssh_host_ed25519_key.pub").write_text("ssh-ed25519 AAAAother\n")


def _no_key(committed: CommittedSeat) -> None:
    (committed.seat.identity / "ssh_host_ed25519_key.pub").unlink()


def _port_held(committed: CommittedSeat) -> None:
    committed.found = {"jupyter": None, "ssh": None}
    add_containers(committed.engine, a_container("web", name="nginx"), seat="other")
    committed.engine.containers[0] |= {"Ports": [{"IP": "0.0.0.0", "PublicPort": 22001}]}


def _gpu_held(committed: CommittedSeat) -> None:
    committed.gpus[0]["processes"] = [a_process(77, container="mining-1"), a_process(78)]


def _lost(committed: CommittedSeat) -> None:
    committed.seen = command.CommandResult(1, "", "nvmlInit_v2 answered 999")


def _only_other(committed: CommittedSeat) -> None:
    committed.seen = command.CommandResult(0, '["GPU-2"]', "")


def _nested(committed: CommittedSeat) -> None:
    committed.seen = command.CommandResult(0, "[" * 60000, "")


def _hangs(committed: CommittedSeat) -> None:
    committed.seen = command.CommandResult(None, "", "")


def _no_tool(committed: CommittedSeat) -> None:
    committed.seen = ProblemError("tool_missing", "there is no program docker", "", "")


@pytest.mark.parametrize(
    ("change", "code", "text"),
    [
        (_other_image, "image_drift", "ssh runs student/own:latest, not the image of generation 3"),
        (_other_file, "compose_drift", "ssh was started from /root/compose.yaml"),
        (_edited, "files_edited", "compose.yaml, more.txt"),
        (_new_key, "host_key_changed", "is ssh-ed25519 AAAAother; the committed key is ssh-ed25519 AAAAkey"),
        (_no_key, "host_key_changed", "is missing"),
        (_port_held, "foreign_on_port", "its port 22001 is used by the container other"),
        (_gpu_held, "foreign_on_gpu", "its GPU 0 is used by pid 78 of li"),
        (_lost, "gpu_lost_inside", "sees no GPU (nvmlInit_v2 answered 999); the node has all of its GPUs"),
        (_only_other, "gpu_lost_inside", "sees GPU-2"),
        (_nested, "gpu_lost_inside", "sees no GPU"),
        (_hangs, "gpu_lost_inside", "timed out"),
        (_no_tool, "gpu_lost_inside", "no program docker"),
    ],
)
def test_each_change_of_a_seat_is_reported_with_its_code(
    committed: CommittedSeat, change: Callable[[CommittedSeat], None], code: str, text: str
) -> None:
    change(committed)
    found = committed.drift()
    assert list(found) == [code]
    assert text in found[code]


def test_a_gpu_that_the_node_lost_is_not_drift_of_the_container(committed: CommittedSeat) -> None:
    committed.gpus = committed.gpus[1:]
    _lost(committed)
    assert committed.drift() == {}


def test_no_drift_is_reported_during_a_switch(committed: CommittedSeat) -> None:
    _other_image(committed)
    committed.journal.append("switching", to=4, back=3)
    assert committed.drift() == {}


def test_a_commit_without_a_recorded_host_key_gives_no_drift(committed: CommittedSeat) -> None:
    (committed.seat.folder / "journal.jsonl").unlink()
    committed.journal.append("committed", generation=3)
    _new_key(committed)
    assert committed.drift() == {}


def test_control_characters_from_a_container_are_replaced_and_its_text_is_shortened(committed: CommittedSeat) -> None:
    committed.seen = command.CommandResult(1, "", "\x1b[2J\x00" + "x" * 100_000)
    text = committed.drift()["gpu_lost_inside"]
    assert "\x1b" not in text
    assert "\x00" not in text
    assert len(text) < 500
