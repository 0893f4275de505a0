"""The table of faults: the tests that it names exist, and docs/mirror-faults.md shows the same table."""

import pytest

from tests.adapters.registry import fault_table
from tests.adapters.registry.damage import DAMAGES
from tests.adapters.registry.fault_table import Group, groups
from tests.adapters.registry.registry_settings import SETTINGS


def test_document_shows_the_fault_table() -> None:
    lines = fault_table.DOCUMENT.read_text().splitlines()
    first = lines.index(fault_table.tables()[0])
    assert [line for line in lines[first:] if line.startswith(("|", "## "))] == fault_table.tables()


@pytest.mark.parametrize("group", groups(), ids=lambda group: group.name)
def test_each_group_names_an_existing_test(group: Group) -> None:
    file, _, name = group.test.partition("::")
    assert f"\ndef {name}(" in fault_table.DATA.with_name(file).read_text()


def test_every_damage_and_every_setting_is_used() -> None:
    real = [group for group in groups() if group.name not in {"servers", "shapes"}]
    assert {row.fault for group in real for row in group.rows} == DAMAGES.keys()
    assert {setting for group in real for setting in group.where} == SETTINGS.keys()


def test_no_row_expects_complete_where_the_deepest_check_finds_a_fault() -> None:
    rows = [row for group in groups() for row in group.rows]
    assert not [row for row in rows if not row.pull and (row.deep or row.expected).state == "complete"]
    assert not [row for row in rows if row.pull and row.expected.state not in {"complete", "cold"}]
