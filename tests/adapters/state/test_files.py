from pathlib import Path

import pytest

from provisioner.adapters.state.files import MAX_BYTES, cache_home, read_bytes, read_text, state_home, write_text
from provisioner.domain.values.problem import ProblemError


def test_write_text_replaces_the_file_and_leaves_no_temporary_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "lab.lock"
    write_text(path, "old\n")
    before = path.stat().st_ino
    write_text(path, "ä 新\n", 0o600)
    assert path.read_bytes() == "ä 新\n".encode()
    assert path.stat().st_ino != before, "written in place: a reader could see half of it"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [file.name for file in path.parent.iterdir()] == ["lab.lock"]


def test_a_failed_write_keeps_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "lab.lock"
    path.mkdir()
    (path / "kept").touch()
    with pytest.raises(ProblemError, match="unwritable") as refusal:
        write_text(path, "new")
    assert refusal.value.ending == "failed"
    assert [file.name for file in tmp_path.iterdir()] == ["lab.lock"]


@pytest.mark.parametrize(("value", "directory"), [("/x/state", "/x/state"), ("relative", ""), ("", "")])
def test_state_and_cache_directories_follow_xdg(
    value: str, directory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", value)
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert state_home() == Path(directory or tmp_path / ".local" / "state") / "provisioner"
    assert cache_home() == tmp_path / ".cache" / "provisioner"


def test_missing_unreadable_and_oversized_files_are_refused(tmp_path: Path) -> None:
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    for path, code in (
        (tmp_path / "none", "no_such_file"),
        (tmp_path, "unreadable"),
        (large, "unreadable"),
        (tmp_path / "a\0b", "unreadable"),
    ):
        with pytest.raises(ProblemError) as refusal:
            read_text(path, "do this")
        (problem,) = refusal.value.problems
        assert (problem.code, problem.fix, refusal.value.ending) == (code, "do this", "usage")
        assert problem.what.startswith(str(path))


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/urandom"])
def test_a_device_without_an_end_is_refused(device: str) -> None:
    with pytest.raises(ProblemError, match="larger than 8 MiB"):
        read_bytes(Path(device), "name a file")
