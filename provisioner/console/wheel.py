"""How far a mirror has a wheel."""

from rich.console import Group

from provisioner.console.problems import problems
from provisioner.console.tables import cell, state, table
from provisioner.domain.forecast.wheel import WheelReports
from provisioner.domain.values.size import human_size


def wheels_table(told: WheelReports) -> Group:
    made = table("wheel", "state", "size", "upstream", right=("size",))
    for report in told.wheels:
        size = human_size(report.bytes) if report.bytes else ""
        made.add_row(cell(report.name), state(report.state), size, report.upstream.replace("_", " "))
    found = [(report.name, problem) for report in told.wheels for problem in report.problems]
    return Group(made, problems([*found, *(("", problem) for problem in told.problems)]))
