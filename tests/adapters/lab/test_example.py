"""What `provision init` writes is right, says the defaults as they are, and is the example in the repository."""

import re
from pathlib import Path

import pytest
import yaml

from provisioner.adapters.lab.directory import read_lab
from provisioner.adapters.lab.example import begin_lab, example, slug
from provisioner.domain.lab.lab import Lab

REPOSITORY = Path(__file__).parents[3]


def test_what_is_written_is_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    begun = begin_lab("AI Lab 2")
    assert begun.path == Path("inventories/AI Lab 2")
    assert begun.files == {"hosts.yml": "written", "lab.yml": "written"}
    assert read_lab("AI Lab 2").lab.name == "ai-lab-2"


def test_what_is_there_is_kept(tmp_path: Path) -> None:
    (tmp_path / "hosts.ini").write_text("n1\n")
    assert begin_lab(f"{tmp_path}").files == {"hosts.yml": "kept", "lab.yml": "written"}
    (tmp_path / "lab.yml").write_text("mine\n")
    assert begin_lab(f"{tmp_path}").files == {"hosts.yml": "kept", "lab.yml": "kept"}
    assert (tmp_path / "lab.yml").read_text() == "mine\n"
    assert not (tmp_path / "hosts.yml").exists(), "a second inventory"


def test_the_example_of_the_repository_is_what_init_writes() -> None:
    for file, text in example("example").items():
        assert (REPOSITORY / "inventories" / "example" / file).read_text() == text


def test_the_values_that_the_example_says_are_the_defaults() -> None:
    """With every `#key` put to work nothing changes, and no default of the model is left unsaid."""
    text = example("example")["lab.yml"]
    said = yaml.safe_load(re.sub(r"(?m)^( *)#(?=\w)", r"\1", text))
    wanted = {key: said[key] for key in ("name", "mirror", "registry")}
    required = Lab.model_validate(wanted | {key: {"address": said[key]["address"]} for key in ("mirror", "registry")})
    assert Lab.model_validate(said) == required
    assert said == required.model_dump(mode="json", by_alias=True, exclude_none=True)


def test_options_without_a_default_are_told_too() -> None:
    text = example("example")["lab.yml"]
    for option in ("ca", "feed", "upstream", "apt_mirror", "memory", "cpus", "forks", "timezone", "docker", "nvidia"):
        assert re.search(rf"(?m)^ *# {option}: \S", text), option


@pytest.mark.parametrize(
    ("name", "made"),
    [("ai-lab", "ai-lab"), ("AI_Lab 2", "ai-lab-2"), ("3rd", "rd"), ("实验室", "lab"), ("x" * 50, "x" * 31)],
)
def test_a_name_made_of_a_directorys(name: str, made: str) -> None:
    assert slug(name) == made
