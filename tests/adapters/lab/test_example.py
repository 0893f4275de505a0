"""The files that `provision init` writes: valid, with the real defaults, and equal to inventories/example."""

import re
from pathlib import Path

import pytest
import yaml

from provisioner.adapters.lab.directory import read_lab
from provisioner.adapters.lab.example import create_lab, example_files, slug
from provisioner.domain.lab.lab import Lab

REPOSITORY = Path(__file__).parents[3]


def test_a_created_lab_is_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    created = create_lab("AI Lab 2")
    assert created.path == Path("inventories/AI Lab 2")
    assert created.files == {"hosts.yml": "written", "lab.yml": "written"}
    assert read_lab("AI Lab 2").lab.name == "ai-lab-2"


def test_existing_files_are_kept(tmp_path: Path) -> None:
    (tmp_path / "hosts.ini").write_text("n1\n")
    assert create_lab(f"{tmp_path}").files == {"hosts.yml": "kept", "lab.yml": "written"}
    (tmp_path / "lab.yml").write_text("mine\n")
    assert create_lab(f"{tmp_path}").files == {"hosts.yml": "kept", "lab.yml": "kept"}
    assert (tmp_path / "lab.yml").read_text() == "mine\n"
    assert not (tmp_path / "hosts.yml").exists(), "it would be a second inventory"


def test_init_writes_the_example_of_the_repository() -> None:
    for file, text in example_files("example").items():
        assert (REPOSITORY / "inventories" / "example" / file).read_text() == text


def test_the_commented_values_of_the_example_are_the_defaults() -> None:
    """Uncommenting every `#key` changes nothing, and every default of the model is shown."""
    text = example_files("example")["lab.yml"]
    shown = yaml.safe_load(re.sub(r"(?m)^( *)#(?=\w)", r"\1", text))
    wanted = {key: shown[key] for key in ("name", "mirror", "registry")}
    required = Lab.model_validate(wanted | {key: {"address": shown[key]["address"]} for key in ("mirror", "registry")})
    assert Lab.model_validate(shown) == required
    assert shown == required.model_dump(mode="json", by_alias=True, exclude_none=True)


def test_options_without_a_default_are_shown_too() -> None:
    text = example_files("example")["lab.yml"]
    options = (
        "ca",
        "push_port",
        "feed",
        "upstream",
        "apt_mirror",
        "pip",
        "pip_index",
        "hf_endpoint",
        "proxy",
        "people",
        "self_service",
        "forks",
        "timezone",
        "docker",
        "nvidia",
    )
    for option in options:
        assert re.search(rf"(?m)^ *# {option}: \S", text), option


@pytest.mark.parametrize(
    ("name", "expected"),
    [("ai-lab", "ai-lab"), ("AI_Lab 2", "ai-lab-2"), ("3rd", "rd"), ("实验室", "lab"), ("x" * 50, "x" * 31)],
)
def test_slug_makes_a_valid_lab_name_of_a_directory_name(name: str, expected: str) -> None:
    assert slug(name) == expected
