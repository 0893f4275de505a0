from pathlib import Path

import pytest

from tests.cli.commands.people import RosterLab


@pytest.fixture
def roster_lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RosterLab:
    monkeypatch.chdir(tmp_path)
    return RosterLab(tmp_path / "ml", monkeypatch)
