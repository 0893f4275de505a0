"""Who was told something, and who could not be."""

from rich.console import Group
from rich.text import Text

from provisioner.console.problems import problems
from provisioner.console.tables import folded
from provisioner.domain.rollout.notice import NoticeReport
from provisioner.domain.rollout.report import DONE


def notice_view(report: NoticeReport) -> Group:
    done = "told" if report.text is not None else "taken back"
    words = {"committed": done, "unchanged": f"{done} before"}
    nodes = folded((record.node, record.state) for record in report.nodes if record.state in DONE)
    told = (Text.assemble((names, "bold"), f"  {words[state]}") for names, state in nodes)
    return Group(*told, problems((record.node, problem) for record in report.nodes for problem in record.problems))
