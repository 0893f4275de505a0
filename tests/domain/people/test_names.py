import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.domain.people.names import login_name
from provisioner.domain.seat.render import render
from tests.builders import a_locked_image
from tests.domain.seats import TEMPLATES, a_seat

PLAIN = r"[a-z0-9_][a-z0-9_-]{0,30}"


@pytest.mark.parametrize(
    ("person", "login"),
    [
        ("anna", "anna"),
        ("2024012345", "2024012345"),
        ("_svc-1_", "_svc-1_"),
        ("a" * 31, "a" * 31),
        ("a" * 32, "a" * 31),
        ("Li.Lei@campus.edu", "li-lei-campus-edu"),
        ("-x", "x"),
        ("--", "user"),
        ("李雷", "user"),
        ("", "user"),
        ("root", "user"),
        ("Root", "user"),
        ("@root", "user"),
        ("root@campus", "root-campus"),
    ],
)
def test_login_is_the_id_or_a_folded_form_of_it(person: str, login: str) -> None:
    assert login_name(person) == login


@given(st.from_regex(PLAIN, fullmatch=True).filter(lambda person: person != "root"))
def test_a_plain_id_is_the_login_itself(person: str) -> None:
    assert login_name(person) == person


@given(st.text())
def test_every_id_has_a_login_that_a_seat_accepts(person: str) -> None:
    login = login_name(person)
    assert re.fullmatch(PLAIN, login)
    assert login != "root"
    assert login_name(login) == login
    seat = a_seat(user=login)
    assert f'AllowUsers "{login}"\n' in render(seat, a_locked_image(), TEMPLATES).files["sshd_config"]
