from pathlib import Path

import pytest

from provisioner.adapters.resources import templates
from provisioner.adapters.templates import read_templates
from provisioner.domain.seat.render import render
from provisioner.domain.values.problem import ProblemError
from tests.builders import a_locked_image
from tests.domain.seats import a_seat

OWN = "templates/compose.yaml.j2"


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    (tmp_path / "templates").mkdir()
    return tmp_path


def test_a_lab_without_templates_has_the_shipped_ones(lab: Path) -> None:
    assert read_templates(templates(), lab) == read_templates(templates())


def test_a_labs_own_compose_template_takes_the_place_of_the_shipped_one(lab: Path) -> None:
    shipped = read_templates(templates())
    (lab / OWN).write_text(shipped["compose.yaml.j2"].replace("stop_grace_period: 30s", "stop_grace_period: 90s"))
    (lab / "templates/health.py").write_text("raise SystemExit(0)\n")
    own = read_templates(templates(), lab)
    assert own["health.py"] == shipped["health.py"]
    assert 'stop_grace_period: "90s"' in render(a_seat(), a_locked_image(), own).files["compose.yaml"]


def test_the_same_proof_holds_a_labs_own_template(lab: Path) -> None:
    shipped = read_templates(templates())["compose.yaml.j2"]
    (lab / OWN).write_text(shipped.replace("cap_drop: [ALL]", "privileged: true"))
    with pytest.raises(ProblemError, match=r"services\.jupyter\.privileged"):
        render(a_seat(), a_locked_image(), read_templates(templates(), lab))


def test_a_template_that_is_no_text_is_named(lab: Path) -> None:
    (lab / OWN).write_bytes(b"name: \xff\n")
    with pytest.raises(ProblemError) as refused:
        read_templates(templates(), lab)
    assert f"{lab / OWN}:1:7" in refused.value.problems[0].what
