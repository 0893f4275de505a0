"""What is said of the self-service of a node: install, update with its differences, keep, or skip."""

from typing import Any

import pytest

from provisioner.domain.self_service.config import Published, SelfServiceConfig, build_published
from provisioner.domain.self_service.publication import build_publication, build_withdrawal, is_older
from provisioner.domain.values.node import RunningSeat, SelfServiceFacts
from tests.builders import a_lab, a_locked_image, a_node, a_uuid, publication_source
from tests.domain.seats import DOCUMENTS

A, B = a_uuid("n1/0"), a_uuid("n1/1")


def a_config(pool: tuple[str, ...] = (A,), tag: str = "", group: Any = None, **settings: Any) -> SelfServiceConfig:
    lab = a_lab(self_service={"unix_group": "students", **settings}, groups={"student": group or {}})
    image = a_locked_image(tag) if tag else a_locked_image()
    found = build_published(publication_source(lab, pool=pool, default=image), DOCUMENTS)
    assert isinstance(found, Published)
    return found.config


def installed(config: SelfServiceConfig, **over: Any) -> SelfServiceFacts:
    usual = {"lab": "demo", "config": config.digest, "pool": config.pool, "version": "0.2", "runs": True}
    return SelfServiceFacts.model_validate({**usual, "environments": config.versions, **over})


def test_a_node_without_self_service_gets_it() -> None:
    config = a_config()
    found = build_publication(a_node(), config, "0.2")
    assert (found.action, found.was, found.config) == ("install", "", config.digest)
    assert found.changes == ("1 GPU for members of students", f"environment default {config.versions['default']}")


def test_what_is_published_already_is_kept() -> None:
    config = a_config()
    found = build_publication(a_node(self_service=installed(config)), config, "0.2")
    assert (found.action, found.changes, found.was) == ("keep", (), config.digest)
    assert not found.changes_node


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ({}, {"pool": (A, B)}, [f"pool +{B}"]),
        ({"pool": (A, B)}, {}, [f"pool -{B}"]),
        (
            {},
            {"group": {"hours": 48, "idle_hours": 4}},
            ["group student hours 24 -> 48", "group student idle_hours none -> 4"],
        ),
        ({}, {"ports": {"first": 25000, "last": 25999}}, ["ports first 24000, last 24999 -> first 25000, last 25999"]),
        ({}, {"show_names": False, "unix_group": "x"}, ["unix_group students -> x", "show_names True -> False"]),
    ],
)
def test_differences_are_said_in_words(before: dict[str, Any], after: dict[str, Any], says: list[str]) -> None:
    old, new = a_config(**before), a_config(**after)
    found = build_publication(a_node(self_service=installed(old)), new, "0.2", old)
    assert found.action == "update"
    changes = [change for change in found.changes if not change.startswith("group student gpus")]
    assert changes == says


def test_a_new_version_of_an_environment_is_named_by_both() -> None:
    old, new = a_config(), a_config(tag="mirror.lab:5200/pytorch/pytorch:2.11.0-cuda12.8-cudnn9-runtime")
    found = build_publication(a_node(self_service=installed(old)), new, "0.2", old)
    assert found.changes == (f"environment default {old.versions['default']} -> {new.versions['default']}",)


def test_settings_that_were_published_from_elsewhere_are_said_to_be_unknown() -> None:
    found = build_publication(a_node(self_service=installed(a_config())), a_config(group={"hours": 2}), "0.2")
    (change,) = found.changes
    assert "is not known" in change


@pytest.mark.parametrize(
    ("over", "action", "says"),
    [
        ({"version": "0.1"}, "update", "broker 0.1 -> 0.2"),
        ({"version": ""}, "update", "broker unknown -> 0.2"),
        ({"version": "0.3"}, "keep", ""),
        ({"runs": False}, "update", ""),
    ],
)
def test_an_older_broker_or_one_that_does_not_run_is_updated(over: dict[str, Any], action: str, says: str) -> None:
    config = a_config()
    found = build_publication(a_node(self_service=installed(config, **over)), config, "0.2")
    assert (found.action, "".join(found.changes)) == (action, says)


def test_a_node_with_self_service_of_another_lab_is_left_to_it() -> None:
    config = a_config()
    found = build_publication(a_node(self_service=installed(config, lab="other")), config, "0.2")
    assert (found.action, [problem.code for problem in found.problems]) == ("skip", ["self_service_elsewhere"])


def test_a_damaged_configuration_is_replaced() -> None:
    """The node does not know then whose it was."""
    config = a_config()
    damaged = SelfServiceFacts(lab="", version="0.2", runs=True, environments=config.versions)
    found = build_publication(a_node(self_service=damaged), config, "0.2")
    assert (found.action, found.was) == ("update", "")


def test_a_withdrawal_names_the_work_in_seats_that_people_have_started() -> None:
    seats = (
        RunningSeat(name="demo_ann", kind="self_service", generation=1, image="i", at_work=("python of ann",)),
        RunningSeat(name="demo_bob", generation=1, image="i", at_work=("python of bob",)),
    )
    found = build_withdrawal(a_node(seats=seats, self_service=installed(a_config())), "because")
    assert (found.action, found.busy) == ("remove", ("python of ann",))


@pytest.mark.parametrize(
    ("found", "own", "older"), [("0.1", "0.2", True), ("0.10", "0.9", False), ("x", "1", True), ("1.0", "1.0", False)]
)
def test_versions_are_compared_as_versions(found: str, own: str, older: bool) -> None:
    assert is_older(found, own) is older
