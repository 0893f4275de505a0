"""What a mirror has, and how far."""

from collections.abc import Iterable, Sequence

from rich.console import Group
from rich.table import Table
from rich.text import Text

from provisioner.console.problems import problems
from provisioner.console.tables import cell, state, table
from provisioner.console.text import count
from provisioner.domain.registry.catalog import Catalog
from provisioner.domain.values.size import human_size
from provisioner.domain.values.sync import SyncReport, SyncState

_SHORT = len("sha256:") + 12


def catalog_table(catalog: Catalog) -> Group:
    reports = [listing.report for listing in catalog.listings]
    found = [("", problem) for problem in catalog.problems]
    return Group(_table(reports), problems(found), _sum(reports))


def sync_table(reports: Sequence[SyncReport]) -> Group:
    """Reports with their problems told in full."""
    found = [(report.reference, problem) for report in reports for problem in report.problems]
    return Group(_table(reports), problems(found), _sum(reports))


def _table(reports: Iterable[SyncReport]) -> Table:
    made = table("image", "state", "size", "digest", "missing", right=("size",))
    for report in reports:
        made.add_row(
            cell(report.reference),
            state(report.state),
            human_size(report.bytes) if report.bytes else "",
            (report.digest or "")[:_SHORT],
            cell(_missing(report)),
        )
    return made


def _missing(report: SyncReport) -> str:
    if report.missing:
        return f"{human_size(report.bytes_missing)} in {count(len(report.missing), 'part')}"
    return ", ".join(dict.fromkeys(problem.code for problem in report.problems))


def _sum(reports: Sequence[SyncReport]) -> Text:
    complete = sum(report.state is SyncState.COMPLETE for report in reports)
    return Text(f"\n{complete} of {count(len(reports), 'image')} complete.")
