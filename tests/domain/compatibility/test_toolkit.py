import pytest

from provisioner.domain.compatibility.toolkit import toolkit_problems, with_toolkit_problems
from provisioner.domain.values.version import DottedVersion
from tests.builders import a_node
from tests.domain.group import DATA

NEW, LIBRARY = ["CVE-2025-23266", "CVE-2025-23267"], ["CVE-2025-23359"]
OLD = ["CVE-2024-0132", "CVE-2024-0133"]


@pytest.mark.parametrize(
    ("toolkit", "library", "cves", "fixed"),
    [
        (None, None, [], ""),
        ("1.17.8", "1.17.8", [], ""),
        ("1.18.1", "1.17.4", [], ""),
        ("1.17.7", "1.17.7", NEW, "1.17.8"),
        ("1.17.4", "1.17.4", NEW, "1.17.8"),
        ("1.17.3", "1.17.3", [*LIBRARY, *NEW], "1.17.8"),
        ("1.16.1", "1.16.1", [*OLD, *LIBRARY, *NEW], "1.17.8"),
        ("1.16.2", None, [*LIBRARY, *NEW], "1.17.8"),
        ("1.9.0", "1.9.0", [*OLD, *LIBRARY, *NEW], "1.17.8"),
        ("1.17.8", "1.17.3", LIBRARY, "1.17.4"),
        (None, "1.16.1", [*OLD, *LIBRARY], "1.17.4"),
    ],
)
def test_published_holes_of_a_toolkit(toolkit: str | None, library: str | None, cves: list[str], fixed: str) -> None:
    node = a_node(
        toolkit_version=toolkit and DottedVersion(toolkit),
        libnvidia_container_version=library and DottedVersion(library),
    )
    problems = toolkit_problems(node, DATA)
    assert [problem.code for problem in problems] == ["toolkit_vulnerable"] * bool(cves)
    assert with_toolkit_problems(node, DATA).problems == problems
    for problem in problems:
        assert problem.what.endswith(f"has published holes: {', '.join(cves)}")
        assert f"install {fixed} or newer" in problem.fix
