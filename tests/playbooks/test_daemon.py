"""The engine's configuration: provisioner sets one key and keeps every other."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.playbooks.node_code import ProblemError, module_util, problem

daemon: Any = module_util("docker.daemon")

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), JSON), st.dictionaries(st.text(), st.booleans()))
def test_with_cdi_keeps_every_other_key_in_order(found: dict[str, Any], features: dict[str, bool]) -> None:
    configured = found | {"features": features}
    made = daemon.with_cdi(configured)
    assert made["features"] == features | {"cdi": True}
    assert {k: v for k, v in made.items() if k != "features"} == {k: v for k, v in found.items() if k != "features"}
    assert list(made) == list(configured)
    assert daemon.with_cdi(made) == made


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "docker/daemon.json"
    monkeypatch.setattr(daemon, "CONFIGURATION", place)
    return place


def test_enable_cdi_creates_a_missing_file(path: Path) -> None:
    assert daemon.read_configuration() == {}
    daemon.enable_cdi()
    assert json.loads(path.read_text()) == {"features": {"cdi": True}}


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644])
def test_enable_cdi_keeps_the_mode_of_the_file(path: Path, mode: int) -> None:
    path.parent.mkdir()
    path.write_text('{"http-proxy": "http://user:secret@proxy:3128"}')
    path.chmod(mode)
    daemon.enable_cdi()
    assert path.stat().st_mode & 0o777 == mode
    assert json.loads(path.read_text())["features"] == {"cdi": True}


@pytest.mark.parametrize("text", ["{", "[]", "null", "42", '"text"', "// {}\n{}"])
def test_an_unreadable_daemon_json_is_not_overwritten(path: Path, text: str) -> None:
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(ProblemError) as caught:
        daemon.enable_cdi()
    assert problem(caught)["code"] == "daemon_json_unreadable"
    assert path.read_text() == text


def test_a_configuration_that_cannot_be_read_is_not_replaced(path: Path) -> None:
    path.mkdir(parents=True)  # reading it fails, as it does on a damaged disk
    with pytest.raises(ProblemError) as caught:
        daemon.enable_cdi()
    assert problem(caught)["code"] == "daemon_json_unreadable"
