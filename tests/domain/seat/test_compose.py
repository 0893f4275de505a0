import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from provisioner.domain.seat import compose_text
from provisioner.domain.seat.proof import prove
from provisioner.domain.seat.render import render
from provisioner.domain.values.problem import ProblemError
from tests.builders import a_locked_image
from tests.domain.seats import TEMPLATES, a_seat

CASES = Path(__file__).parents[1] / "cases"
REFUSED: list[dict[str, Any]] = yaml.safe_load((CASES / "compose_refused.yaml").read_text())
UNREADABLE: dict[str, str] = yaml.safe_load((CASES / "compose_unreadable.yaml").read_text())
GOOD = render(a_seat(), a_locked_image(), TEMPLATES).files["compose.yaml"]
DOCUMENT = yaml.safe_load(GOOD)


def changed(case: dict[str, Any]) -> str:
    """Return the valid project with one value set, added or, if the case has no value, removed."""
    document = copy.deepcopy(DOCUMENT)
    *parents, last = case.get("keys") or case["path"].split(".")
    place: Any = document
    for key in parents:
        place = place[int(key)] if isinstance(place, list) else place[key]
    if isinstance(place, list):
        place[int(last) :] = [case["value"]]
    elif "value" in case:
        place[last] = case["value"]
    else:
        del place[last]
    return yaml.dump(document, Dumper=yaml.CSafeDumper)


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: f"{case['path']}={case.get('value', 'missing')}")
def test_deviation_from_the_seat_is_refused_at_its_path(case: dict[str, Any]) -> None:
    with pytest.raises(ProblemError) as refused:
        prove(changed(case), a_seat(), a_locked_image())
    assert {problem.code for problem in refused.value.problems} == {"compose_refused"}
    assert refused.value.problems[0].what.startswith(case.get("at", case["path"]))


def test_python_that_is_not_the_students_runs_isolated_from_the_home() -> None:
    """Else usercustomize.py of the home decides whether the seat is healthy, and whether its sshd starts."""
    services = DOCUMENT["services"].values()
    started = [service["entrypoint"] for service in services] + [s["healthcheck"]["test"][1:] for s in services]
    assert [argv[:2] for argv in started if argv[0] == "python3"] == [["python3", "-I"]] * 3


def test_all_faults_are_reported_at_once() -> None:
    text = GOOD.replace('"10m"', '"loud"').replace('"unless-stopped"', '"always"')
    with pytest.raises(ProblemError) as refused:
        prove(text, a_seat(), a_locked_image())
    assert len(refused.value.problems) == 4


@pytest.mark.parametrize("text", UNREADABLE.values(), ids=UNREADABLE)
def test_ambiguous_yaml_is_refused(text: str) -> None:
    with pytest.raises(ProblemError) as refused:
        prove(text, a_seat(), a_locked_image())
    assert {problem.code for problem in refused.value.problems} == {"compose_refused"}


@pytest.mark.parametrize("opening", ["[", "{a: ", "- "])
def test_nesting_that_would_exhaust_the_stack_of_a_parser_is_refused(opening: str) -> None:
    with pytest.raises(ValueError, match="nested too deeply"):
        compose_text.read(opening * 100_000)


def test_compose_file_of_one_seat_is_refused_for_another() -> None:
    others = [a_seat(uid=1001), a_seat(ports={"ssh": 22002, "jupyter": 22003}), a_seat(gpus=()), a_seat(user="other")]
    for other in others:
        with pytest.raises(ProblemError):
            prove(GOOD, other, a_locked_image())


def test_start_interval_is_refused_for_an_older_engine() -> None:
    with pytest.raises(ProblemError, match="start_interval"):
        prove(GOOD, a_seat(start_interval=False), a_locked_image())


def test_proved_project_is_written_unchanged() -> None:
    project = prove(GOOD, a_seat(), a_locked_image())
    assert compose_text.write(project.model_dump(mode="json", exclude_none=True)) == GOOD


DOCUMENTS = st.recursive(
    st.text(st.characters(exclude_categories=["Cs"])) | st.integers() | st.booleans() | st.none(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["no", "a", "x-1", "y"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(deadline=None)
@given(DOCUMENTS)
def test_written_document_is_read_back_unchanged(document: Any) -> None:
    """By libyaml, which writes it, and by the parser of PyYAML."""
    text = compose_text.write(document)
    assert compose_text.read(text) == document
    assert json.dumps(yaml.safe_load(text)).replace("$$", "$") == json.dumps(document)


@pytest.mark.parametrize("text", ["$", "$a", "${a}", "$$$", "a$", "$$$a", "$$ $"])
def test_single_dollar_is_refused_as_a_variable(text: str) -> None:
    with pytest.raises(ValueError, match="variable"):
        compose_text.read(f"'{text}'")
