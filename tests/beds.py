"""Which tests share a bed of real nodes, and when each bed's turn comes. A plugin of pytest.

`pytest.mark.lab("NAME")`: all tests of this bed run one after another in one process, in the order of their files;
`pytest.mark.lab` alone needs the outer engine and no bed. Under xdist (--dist loadgroup) several beds are up at once.
"""

import pytest

# By the time that they take, the longest first, so that no long one begins when all others have ended.
LONGEST_FIRST = (
    *("interrupted", "seat", "rollout", "prepare", "lab-image", "upgrade"),
    *("registry", "me", "selftest", "presence", "control", "mistakes"),
)


def bed_of(item: pytest.Item) -> str | None:
    mark = item.get_closest_marker("lab")
    return str(mark.args[0]) if mark is not None and mark.args else None


def turn(item: pytest.Item) -> int:
    """Beds come first, then what needs no nodes and fills the time in which those wait."""
    bed = bed_of(item)
    if bed is None:
        return len(LONGEST_FIRST) + 1
    return LONGEST_FIRST.index(bed) if bed in LONGEST_FIRST else len(LONGEST_FIRST)


def pytest_itemcollected(item: pytest.Item) -> None:
    if bed := bed_of(item):
        item.add_marker(pytest.mark.xdist_group(bed))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=turn)
