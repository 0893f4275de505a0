from typing import Any

import pytest
from pydantic import ValidationError

from provisioner.domain.lab.groups import limits_of, with_default_group
from provisioner.domain.lab.lab import Group, Lab, Limits

SMALL = {"memory": "8g", "cpus": 2, "pids": 512, "shm": "1g"}


def a_lab(**groups: Any) -> Lab:
    fields = {
        "name": "demo",
        "mirror": {"address": "m:5000"},
        "registry": {"address": "r:5000"},
        "people": {"roster": "roster.csv"},
        "seat": {"limits": {"memory": "32g", "pids": 1024}},
        "groups": groups,
    }
    return Lab.model_validate(fields)


@pytest.mark.parametrize(
    ("groups", "group", "expected"),
    [
        ({}, "", {}),
        ({}, "student", {}),
        ({"staff": SMALL}, "", {}),
        ({"staff": SMALL}, "staff", SMALL),
        ({"student": {"memory": "none"}}, "", {"memory": "none"}),
        ({"student": {"memory": "16g"}, "staff": {"gpus": 4, "cpus": "auto"}}, "staff", {"cpus": "auto"}),
        ({"student": {"memory": "16g"}}, "gone", {"memory": "16g"}),
    ],
)
def test_limits_of_a_group_replace_those_of_the_seat(
    groups: dict[str, Any], group: str, expected: dict[str, Any]
) -> None:
    assert limits_of(a_lab(**groups), group) == Limits.model_validate({"memory": "32g", "pids": 1024} | expected)


def test_the_default_group_exists_in_every_lab() -> None:
    staff, student = Group(gpus=4), Group(gpus=1)
    assert with_default_group({}) == {"student": Group()}
    assert with_default_group({"staff": staff}) == {"student": Group(), "staff": staff}
    assert with_default_group({"staff": staff, "student": student}) == {"staff": staff, "student": student}


def test_a_group_without_a_roster_is_refused() -> None:
    with pytest.raises(ValidationError, match="without a roster"):
        Lab.model_validate(a_lab(staff=SMALL).model_dump(by_alias=True) | {"people": None})
