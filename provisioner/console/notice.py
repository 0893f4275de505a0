"""The result of `provision notify` on each node."""

from rich.console import Group
from rich.text import Text

from provisioner.console.problems import problems
from provisioner.console.tables import group_rows
from provisioner.domain.rollout.notice import NoticeReport
from provisioner.domain.rollout.report import DONE


def notice_view(report: NoticeReport) -> Group:
    """Render on which nodes the notice was shown or removed, then the problems."""
    done = "notice shown" if report.text is not None else "notice removed"
    words = {"committed": done, "unchanged": f"{done} already"}
    nodes = group_rows((record.node, record.state) for record in report.nodes if record.state in DONE)
    lines = (Text.assemble((names, "bold"), f"  {words[state]}") for names, state in nodes)
    return Group(*lines, problems((record.node, problem) for record in report.nodes for problem in record.problems))
