from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from provisioner.adapters.mirror.history import MirrorHistory
from provisioner.adapters.state.files import state_home
from provisioner.domain.forecast.feed import Job
from provisioner.domain.forecast.history import FeedObservation, ListingObservation, Observation, TagObservation
from provisioner.domain.values.problem import ProblemError
from provisioner.domain.values.sync import SyncState

NOW = datetime(2026, 9, 19, 12, tzinfo=UTC)
SEEN: list[Observation] = [
    FeedObservation(at=NOW, job=Job(name="images", last_ended=NOW)),
    ListingObservation(at=NOW, repository="r", tag="a"),
    TagObservation(at=NOW, repository="r", tag="a", state=SyncState.PARTIAL, bytes_missing=2),
]


def test_sightings_are_read_back_and_repeats_not_written() -> None:
    history = MirrorHistory()
    assert history.read("m.example:5000") == []
    history.add("m.example:5000", [], SEEN)
    later = [seen.model_copy(update={"at": NOW + timedelta(hours=1)}) for seen in SEEN]
    history.add("m.example:5000", history.read("m.example:5000"), later)
    assert history.read("m.example:5000") == SEEN
    assert history.read("other") == []


def test_host_name_is_made_a_safe_file_name() -> None:
    MirrorHistory().add("../[::1]:5000/x", [], SEEN[:1])
    (file,) = (state_home() / "mirrors").iterdir()
    assert file.name == ".._[__1]_5000_x.jsonl".replace("[", "_").replace("]", "_")


def test_unreadable_lines_are_skipped() -> None:
    history = MirrorHistory()
    history.add("m", [], SEEN[:1])
    with (state_home() / "mirrors" / "m.jsonl").open("ab") as file:
        file.write(b'{"kind": "dream", "at": "2026-09-19T12:00:00Z"}\n\xff\n{"kind": "tag", "at": "20')
    assert history.read("m") == SEEN[:1]


def test_unwritable_history_raises_history_unusable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    with pytest.raises(ProblemError, match="history_unusable"):
        MirrorHistory().add("m", [], SEEN)
