import json
from pathlib import Path

import pytest

from tests.playbooks.node_code import module_util

plugins = module_util("docker.plugins")


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """The folders in which docker looks for plugins, by what names them; none exists yet."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "config"))
    monkeypatch.setattr(plugins, "FOLDERS", (tmp_path / "local", tmp_path / "system"))
    (tmp_path / "config").mkdir()
    (tmp_path / "config/config.json").write_text(json.dumps({"cliPluginsExtraDirs": [str(tmp_path / "extra")]}))
    own = {"own": tmp_path / "config/cli-plugins"}
    return own | {name: tmp_path / name for name in ("extra", "local", "system")}


def add(folder: Path, mode: int = 0o755) -> None:
    folder.mkdir(parents=True)
    (folder / "docker-compose").touch(mode)


@pytest.mark.parametrize(
    ("added", "found"),
    [
        (["system"], "system"),
        (["system", "local"], "local"),
        (["system", "local", "own"], "own"),
        (["own", "extra"], "extra"),
    ],
)
def test_compose_is_found_where_docker_finds_it(places: dict[str, Path], added: list[str], found: str) -> None:
    for name in added:
        add(places[name])
    start, environment = plugins.compose_program()
    assert start == [str(places[found] / "docker-compose")]
    assert environment == {"DOCKER_CLI_PLUGIN_ORIGINAL_CLI_COMMAND": "docker"}


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"cliPluginsExtraDirs": null}'])
def test_a_configuration_without_folders_of_plugins_is_no_error(places: dict[str, Path], text: str) -> None:
    (places["own"].parent / "config.json").write_text(text)
    add(places["system"])
    assert plugins.compose_program()[0] == [str(places["system"] / "docker-compose")]


def test_docker_looks_for_a_plugin_that_is_not_found(places: dict[str, Path]) -> None:
    assert plugins.compose_program() == (["docker"], {})
    add(places["system"], mode=0o644)  # docker says why it does not start this one
    assert plugins.compose_program() == (["docker"], {})
