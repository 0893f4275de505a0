"""The sync state of wheels on a mirror."""

from rich.console import Group

from provisioner.console.problems import problems
from provisioner.console.tables import cell, make_table, state_cell
from provisioner.domain.forecast.wheel import WheelReports
from provisioner.domain.values.size import human_size


def wheels_table(reports: WheelReports) -> Group:
    """Render a row for each wheel, then all problems."""
    rows = make_table("wheel", "state", "size", "upstream", right=("size",))
    for report in reports.wheels:
        size = human_size(report.bytes) if report.bytes else ""
        rows.add_row(cell(report.name), state_cell(report.state), size, report.upstream.replace("_", " "))
    found = [(report.name, problem) for report in reports.wheels for problem in report.problems]
    return Group(rows, problems([*found, *(("", problem) for problem in reports.problems)]))
