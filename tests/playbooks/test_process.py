import os
import resource
from pathlib import Path

import pytest

from tests.playbooks.node_code import module_util

process = module_util("docker.process")
TABLE = (
    "Limit                     Soft Limit           Hard Limit           Units     \n"
    "Max processes             95852                95852                processes \n"
    "Max open files            {}                {}               files     \n"
)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (TABLE.format(1024, 524288), 524288),
        (TABLE.format("unlimited", "unlimited"), 1 << 20),
        (TABLE.format(0, 0), None),
        (TABLE.format(1, "9" * 5000), None),
        ("", None),
        ("nonsense\n" * 1000, None),
    ],
)
def test_the_hard_limit_of_open_files_is_read_from_proc(text: str, found: int | None) -> None:
    assert process.parse_limits(text) == found


OWN_NAME = Path("/proc/self/comm").read_text().strip()
HARD = resource.getrlimit(resource.RLIMIT_NOFILE)[1]


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize(("name", "found"), [(OWN_NAME, HARD), ("dockerd", None)])
def test_the_engine_is_the_process_behind_its_socket(
    name: str, found: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fake engine runs in this process."""
    monkeypatch.setattr(process, "PID_FILE", Path("/no/such/file"))
    monkeypatch.setattr(process, "NAME", name)
    assert process.open_files() == found


@pytest.mark.parametrize(
    ("pid", "found"), [("own", HARD), ("", None), ("1" * 5000, None), ("-1", None), ("999999999", None)]
)
def test_an_engine_that_systemd_starts_on_demand_is_found_by_its_pid_file(
    pid: str, found: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "docker.pid").write_text(f"{os.getpid() if pid == 'own' else pid}\n")
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    monkeypatch.setattr(process, "PID_FILE", tmp_path / "docker.pid")
    monkeypatch.setattr(process, "NAME", OWN_NAME)
    assert process.open_files() == found
