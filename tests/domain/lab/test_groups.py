from typing import Any

import pytest
from pydantic import ValidationError

from provisioner.domain.lab.groups import disk_cautions, disk_limit_of, limits_of, with_default_group
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


DISKS = {"student": {"disk": "100g"}, "staff": {"memory": "8g"}, "guest": {"disk": "512m"}}


@pytest.mark.parametrize(
    ("group", "limit"),
    [("student", 100 << 30), ("", 100 << 30), ("gone", 100 << 30), ("staff", None), ("guest", 512 << 20)],
)
def test_a_group_has_its_own_limit_of_the_disk_or_none(group: str, limit: int | None) -> None:
    assert disk_limit_of(a_lab(**DISKS), group) == limit


def test_a_limit_of_the_disk_is_no_limit_of_containers() -> None:
    assert limits_of(a_lab(**DISKS), "student") == Limits(memory="32g", pids=1024)


def test_one_caution_names_the_groups_whose_limit_is_not_enforced() -> None:
    assert disk_cautions(a_lab(staff={"memory": "8g"})) == ()
    (caution,) = disk_cautions(a_lab(**DISKS))
    assert caution.code == "disk_not_enforced"
    assert caution.what.startswith("groups.student.disk, groups.guest.disk: ")


@pytest.mark.parametrize("disk", ["100", "100gb", "1t", "none", "auto", "0g", "-1g", 100])
def test_a_limit_of_the_disk_is_a_size(disk: Any) -> None:
    with pytest.raises(ValidationError):
        a_lab(student={"disk": disk})
