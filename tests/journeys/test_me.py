"""`provision me`: a student's seat on their own machine, which stays the same after `down` and `up`."""

import json
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.journeys.conftest import COMPLETE, running_site
from tests.lab.bed import make_key
from tests.lab.demo import Command, http_status, ssh_command
from tests.lab.engine import Engine
from tests.lab.gpus import HostGpu, profile_text

pytestmark = pytest.mark.lab


class Student:
    """A student with home, SSH key and Docker on a machine with a GPU, and with the published lock of a lab."""

    def __init__(self, command: Command, home: Path, gpu: Mapping[str, str], lock: Path) -> None:
        self.home, self.key, self._command, self._lock = home, home / ".ssh/id_ed25519", command, lock
        self._env = {"HOME": str(home), **gpu}

    def me(self, *words: str) -> subprocess.CompletedProcess[str]:
        done = self._command.run("me", *words, env=self._env)
        assert "Traceback" not in done.stderr + done.stdout
        return done

    def up(self) -> dict[str, Any]:
        """Run `me up`, which must succeed; return its one node record."""
        done = self.me("up", "--lock", str(self._lock), "--yes", "--json")
        assert done.returncode == 0, done.stderr
        (record,) = json.loads(done.stdout)["nodes"]
        return dict(record)

    def seat(self) -> dict[str, Any]:
        """Return the seat as `status` shows it, with its `url`."""
        document = json.loads(self.me("status", "--urls", "--json").stdout)
        (seat,) = document["seats"]
        return {**seat, "url": document["urls"][seat["node"]]}


@pytest.fixture(scope="module")
def student(testbed: Engine, program: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Student]:
    gpu = HostGpu(testbed.root)
    home = tmp_path_factory.mktemp("home")
    (home / ".ssh").mkdir()
    make_key(home / ".ssh/id_ed25519")
    with running_site(testbed, program, ["rtx4090-570"], bases=["2.10.0"], image=COMPLETE) as lab:
        assert lab.run_json("lock").code == 0
        gpu.set_profile(profile_text("rtx4090-570"))
        student = Student(lab.command, home, gpu.env(), lab.folder / "lab.lock")
        try:
            yield student
        finally:
            gpu.set_profile(profile_text("none"))
            remove_seat(testbed, f"{lab.lab.prefix}-student")


def remove_seat(engine: Engine, project: str) -> None:
    label = ("--filter", f"label=com.docker.compose.project={project}")
    for kind, everything, remove in (("container", ["-a"], ["rm", "-f"]), ("network", [], ["rm"])):
        if left := engine.docker(kind, "ls", "-q", *everything, *label).split():
            engine.docker(kind, *remove, *left)


@pytest.fixture(scope="module")
def first_seat(student: Student) -> dict[str, Any]:
    """The seat after the first `me up`."""
    assert student.up()["state"] == "committed"
    return student.seat()


def test_me_up_gives_jupyter_and_ssh_on_loopback(student: Student, first_seat: dict[str, Any], tmp_path: Path) -> None:
    seat = first_seat
    url, _, token = seat["url"].partition("?token=")
    assert url.startswith("http://127.0.0.1:")
    assert [http_status(url, token), http_status(url)] == [200, 403]
    ssh = ssh_command(seat["access"]["ssh"], seat["access"]["host_key"], student.key, tmp_path)
    assert "@127.0.0.1" in ssh[-1]
    login = subprocess.run([*ssh, "nvidia-smi -L"], capture_output=True, text=True, check=True)
    assert "RTX 4090" in login.stdout


def test_down_and_two_concurrent_ups_give_one_seat_with_the_same_access_and_home(
    student: Student, first_seat: dict[str, Any], tmp_path: Path
) -> None:
    ssh = ssh_command(first_seat["access"]["ssh"], first_seat["access"]["host_key"], student.key, tmp_path)
    subprocess.run([*ssh, "echo thesis > thesis.txt"], check=True)
    assert student.me("down").returncode == 0
    assert subprocess.run([*ssh, "true"], capture_output=True, check=False).returncode == 255
    with ThreadPoolExecutor(2) as pool:
        records = list(pool.map(lambda _: student.up(), range(2)))
    assert sorted(record["state"] for record in records) == ["committed", "unchanged"]
    ways = [{name: text for name, text in record["access"].items() if name != "host_key"} for record in records]
    assert ways[0] == ways[1]
    after = student.seat()
    assert (after["url"], after["access"]) == (first_seat["url"], first_seat["access"])
    assert subprocess.run([*ssh, "cat thesis.txt"], capture_output=True, text=True, check=True).stdout == "thesis\n"


def test_me_up_without_a_lock_is_refused(student: Student, tmp_path: Path) -> None:
    stranger = Student(student._command, tmp_path, {"XDG_DATA_HOME": str(tmp_path)}, tmp_path / "none")
    shutil.copytree(student.home / ".ssh", tmp_path / ".ssh")
    done = stranger.me("up")
    assert done.returncode == 2
    assert "no_lock" in done.stderr
