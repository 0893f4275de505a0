from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from provisioner.domain import compose_text
from provisioner.domain.problem import CannotGoOn
from provisioner.domain.proof import prove
from provisioner.domain.render import render
from tests.builders import a_locked_image
from tests.domain.seats import TEMPLATES, a_seat

CASES = Path(__file__).parent / "cases"
REFUSED: list[dict[str, Any]] = yaml.safe_load((CASES / "compose_refused.yaml").read_text())
UNREADABLE: dict[str, str] = yaml.safe_load((CASES / "compose_unreadable.yaml").read_text())
GOOD = render(a_seat(), a_locked_image(), TEMPLATES).files["compose.yaml"]


def changed(case: dict[str, Any]) -> str:
    """The good project with one value set, added or, where the case has none, taken away."""
    document = yaml.safe_load(GOOD)
    *way, last = case.get("keys") or case["path"].split(".")
    place: Any = document
    for key in way:
        place = place[int(key)] if isinstance(place, list) else place[key]
    if isinstance(place, list):
        place[int(last) :] = [case["value"]]
    elif "value" in case:
        place[last] = case["value"]
    else:
        del place[last]
    return yaml.safe_dump(document)


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: f"{case['path']}={case.get('value', 'missing')}")
def test_what_a_seat_is_not_given_is_refused_at_its_place(case: dict[str, Any]) -> None:
    with pytest.raises(CannotGoOn) as refused:
        prove(changed(case), a_seat(), a_locked_image())
    assert {problem.code for problem in refused.value.problems} == {"compose_refused"}
    assert refused.value.problems[0].what.startswith(case.get("at", case["path"]))


def test_all_faults_are_told_at_once() -> None:
    text = GOOD.replace('"10m"', '"loud"').replace('"unless-stopped"', '"always"')
    with pytest.raises(CannotGoOn) as refused:
        prove(text, a_seat(), a_locked_image())
    assert len(refused.value.problems) == 4


@pytest.mark.parametrize("text", UNREADABLE.values(), ids=UNREADABLE)
def test_what_two_readers_could_read_in_two_ways_is_refused(text: str) -> None:
    with pytest.raises(CannotGoOn) as refused:
        prove(text, a_seat(), a_locked_image())
    assert {problem.code for problem in refused.value.problems} == {"compose_refused"}


def test_a_file_proved_for_one_seat_is_refused_for_another() -> None:
    others = [a_seat(uid=1001), a_seat(ports={"ssh": 22002, "jupyter": 22003}), a_seat(gpus=()), a_seat(user="other")]
    for other in others:
        with pytest.raises(CannotGoOn):
            prove(GOOD, other, a_locked_image())


def test_an_engine_too_old_for_a_start_interval_is_not_told_of_one() -> None:
    with pytest.raises(CannotGoOn, match="start_interval"):
        prove(GOOD, a_seat(start_interval=False), a_locked_image())


def test_what_was_proved_is_what_is_written() -> None:
    project = prove(GOOD, a_seat(), a_locked_image())
    assert compose_text.write(project.model_dump(mode="json", exclude_none=True)) == GOOD


DOCUMENTS = st.recursive(
    st.text(st.characters(exclude_categories=["Cs"])) | st.integers() | st.booleans() | st.none(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["no", "a", "x-1", "y"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(DOCUMENTS)
def test_reading_takes_back_what_writing_did(document: Any) -> None:
    assert compose_text.read(compose_text.write(document)) == document


@pytest.mark.parametrize("text", ["$", "$a", "${a}", "$$$", "a$", "$$$a", "$$ $"])
def test_a_single_dollar_is_a_variable(text: str) -> None:
    with pytest.raises(ValueError, match="variable"):
        compose_text.read(f"'{text}'")
