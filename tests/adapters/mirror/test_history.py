from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from provisioner.adapters.mirror.history import MirrorHistory
from provisioner.adapters.state.files import state_home
from provisioner.domain.forecast.feed import Job
from provisioner.domain.forecast.history import FeedSeen, ListedSeen, Sighting, TagSeen
from provisioner.domain.values.problem import ProblemError
from provisioner.domain.values.sync import SyncState

NOW = datetime(2026, 9, 19, 12, tzinfo=UTC)
SEEN: list[Sighting] = [
    FeedSeen(at=NOW, job=Job(name="images", last_ended=NOW)),
    ListedSeen(at=NOW, repository="r", tag="a"),
    TagSeen(at=NOW, repository="r", tag="a", state=SyncState.PARTIAL, bytes_missing=2),
]


def test_what_is_written_is_read_back_and_nothing_twice() -> None:
    history = MirrorHistory()
    assert history.read("m.example:5000") == []
    history.add("m.example:5000", [], SEEN)
    later = [seen.model_copy(update={"at": NOW + timedelta(hours=1)}) for seen in SEEN]
    history.add("m.example:5000", history.read("m.example:5000"), later)
    assert history.read("m.example:5000") == SEEN
    assert history.read("other") == []


def test_a_name_is_no_path() -> None:
    MirrorHistory().add("../[::1]:5000/x", [], SEEN[:1])
    (file,) = (state_home() / "mirrors").iterdir()
    assert file.name == ".._[__1]_5000_x.jsonl".replace("[", "_").replace("]", "_")


def test_lines_that_were_cut_or_are_of_a_newer_release_are_passed_over() -> None:
    history = MirrorHistory()
    history.add("m", [], SEEN[:1])
    with (state_home() / "mirrors" / "m.jsonl").open("ab") as file:
        file.write(b'{"kind": "dream", "at": "2026-09-19T12:00:00Z"}\n\xff\n{"kind": "tag", "at": "20')
    assert history.read("m") == SEEN[:1]


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    with pytest.raises(ProblemError, match="history_unusable"):
        MirrorHistory().add("m", [], SEEN)
