"""The table of beds lists existing files, each once."""

from collections import Counter
from pathlib import Path

from tests.beds import BEDS, TOGETHER, bed_of

TESTS = Path(__file__).parent
FILES = [file for files in BEDS.values() for file in files]


def test_every_file_of_the_table_exists() -> None:
    assert not [file for file in (*FILES, *TOGETHER) if not (TESTS / file).is_file()]


def test_no_file_is_listed_twice() -> None:
    assert max(Counter([*FILES, *TOGETHER]).values()) == 1


def test_all_tests_of_a_file_share_its_bed() -> None:
    assert bed_of("tests/journeys/test_rollback.py::test_x[a::b]") == bed_of(
        "tests/journeys/test_interrupted.py::test_y"
    )
    assert bed_of("tests/test_beds.py::test_x") is None
