import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from provisioner.domain.values.node import RunningSeat
from tests.lab.bed import Lab, running_lab
from tests.lab.engine import Engine
from tests.lab.kinds import BOOKWORM, DEBIAN13, FORKY, build_image
from tests.lab.node import Node
from tests.playbooks import fake_engine
from tests.playbooks.fake_engine import FakeEngine
from tests.playbooks.fake_nvml import a_gpu
from tests.playbooks.node_code import module_util
from tests.playbooks.on_nodes import FOLDER, Images, Rollout


@pytest.fixture
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let loops of the node code that wait for something look for it fifty times a second."""
    sleep = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: sleep(min(seconds, 0.02)))


@pytest.fixture(autouse=True)
def _locks_of_mounts(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module_util("mount.look"), "LOCKS", tmp_path_factory.getbasetemp() / "locks-of-mounts")


@pytest.fixture(autouse=True)
def _no_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the node code start compose through docker, whatever this machine has."""
    monkeypatch.setattr(module_util("seat.compose"), "compose_program", lambda: (["docker"], {}))


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeEngine]:
    """A fake engine that the node code connects to, on a machine without routes.

    The routes of this machine change while tests run: a seat that another test starts on it has one.
    """
    socket = tmp_path / "engine.sock"
    monkeypatch.setenv("DOCKER_HOST", f"unix://{socket}")
    monkeypatch.setattr(module_util("seat.precheck"), "routes", list)
    with fake_engine.serving(FakeEngine(), socket) as fake:
        yield fake


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other accounts may enter. pytest closes its own ones whenever it starts."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The GPUs that NVML reports, without processes; a test may change them."""
    gpus = [a_gpu("GPU-1")]
    monkeypatch.setattr(module_util("seat.busy"), "query_nvml", lambda: {"gpus": gpus})
    monkeypatch.setattr(module_util("seat.busy"), "with_container_names", lambda found: found)
    return gpus


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that were called; none of them is executed."""
    calls: list[list[str]] = []

    def run(argv: list[str], *_: Any, **__: Any) -> Any:
        calls.append(argv)
        return module_util("base.command").CommandResult(0, "the url is http://x/?token=secret-token \x1b[2J\n", "")

    monkeypatch.setattr(module_util("seat.compose"), "run", run)
    return calls


OTHER_ENGINES = [pytest.param(kind, marks=pytest.mark.long("engines")) for kind in (BOOKWORM, FORKY)]


@pytest.fixture(scope="session", params=[DEBIAN13, *OTHER_ENGINES], ids=str)
def bed(testbed: Engine, request: pytest.FixtureRequest) -> Iterator[Lab]:
    build_image(testbed, request.param)
    with running_lab(testbed, ["rtx5090x2-580"], kind=request.param) as lab:
        yield lab


@pytest.fixture(scope="session")
def images(bed: Lab) -> Images:
    return Images(bed)


@pytest.fixture(scope="session")
def rollout(bed: Lab) -> Rollout:
    return Rollout(bed)


@pytest.fixture
def by_ansible(bed: Lab) -> Rollout:
    return Rollout(bed, ansible=True)


@pytest.fixture
def empty_node(rollout: Rollout) -> Node:
    """The node without a seat and without images."""
    node = rollout.lab.node(rollout.node)
    rollout.take_down("remove")
    node.exec("rm", "-rf", FOLDER)
    node.exec("docker", "image", "prune", "-af")
    return node


@pytest.fixture
def serving_seat(rollout: Rollout, images: Images) -> RunningSeat:
    """A committed, healthy seat that runs the current image."""
    seats = rollout.facts().seats
    if not (seats and images.is_current(seats[0].image) and set(seats[0].services.values()) == {"healthy"}):
        assert rollout.roll_out(images.current).state == "committed"
        seats = rollout.facts().seats
    return seats[0]


@pytest.fixture
def serving_node(rollout: Rollout, serving_seat: RunningSeat) -> Node:
    """The node with the serving seat."""
    assert serving_seat.services
    return rollout.lab.node(rollout.node)
