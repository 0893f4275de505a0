"""Which image each node gets, and in each refused cell the reason: nodes down, the best tags across."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from provisioner.console.problems import problems
from provisioner.console.tables import cell, folded, table
from provisioner.console.text import count, fold, line
from provisioner.domain.advice import Advice
from provisioner.domain.catalog import Catalog
from provisioner.domain.choice import Decision
from provisioner.domain.problem import Problem
from provisioner.domain.selection import NodeChoice, Selection
from provisioner.domain.sync import SyncState

_NODES_WIDTH, _TAG_WIDTH, _MOST_TAGS = 24, 20, 8
_GIVEN, _FITS = "chosen", "fits"

_DECISIONS: Mapping[Decision, str] = {
    "single_tag": "One image for every node",
    "split_same_torch": "The same torch everywhere, from more than one image",
    "split": "No torch serves every node: each has the best that runs there",
    "none": "No image serves any node",
}


def selection_view(selection: Selection, width: int) -> Group:
    """`width` in columns: as many tags are shown as fit, the given ones first."""
    tags = _tags(selection)
    shown = tags[: max(1, min(_MOST_TAGS, (width - _NODES_WIDTH) // _TAG_WIDTH))]
    parts: list[RenderableType] = [Text(_decided(selection), "bold"), Text(), _table(selection, shown)]
    if len(shown) < len(tags):
        parts.append(Text(f"{count(len(tags) - len(shown), 'more tag')} not shown; --json has all.", "dim"))
    parts += [problems(_unserved(selection)), problems(_left_out(selection), "yellow")]
    return Group(*parts, *(_advice(advice) for advice in selection.advice))


def passed_over(selection: Selection, catalog: Catalog) -> Group:
    """Better tags than the given ones that the mirror does not have whole: what of each is missing."""
    given = {choice.tag for choice in selection.nodes.values()}
    better = {
        tag for choice in selection.nodes.values() for tag in takewhile(lambda tag: tag not in given, choice.verdicts)
    }
    reports = [listing.report for listing in catalog.listings if listing.image.reference in better]
    partial = [report for report in reports if report.state is not SyncState.COMPLETE]
    return problems(((report.reference, problem) for report in partial for problem in report.problems), "yellow")


def _decided(selection: Selection) -> str:
    what = _DECISIONS[selection.decision]
    torch = f", torch {line(selection.torch)}" if selection.torch else ""
    return f"{what}{torch}{f': {line(selection.tag)}' if selection.tag else '.'}"


def _tags(selection: Selection) -> list[str]:
    given = [choice.tag for choice in selection.nodes.values() if choice.tag]
    others = (tag for choice in selection.nodes.values() for tag in choice.verdicts)
    return list(dict.fromkeys([*sorted(set(given), key=given.count, reverse=True), *others]))


def _table(selection: Selection, tags: Sequence[str]) -> Table:
    made = table("nodes", *(line(name) for name in _short(tags)))
    rows = ((name, tuple(_said(choice, tag) for tag in tags)) for name, choice in selection.nodes.items())
    for names, cells in folded(rows):
        made.add_row(names, *(cell(text, _style(text)) for text in cells))
    return made


def _said(choice: NodeChoice, tag: str) -> str:
    if choice.tag == tag:
        return _GIVEN
    verdict = choice.verdicts.get(tag)
    if verdict is None:
        return "?"
    return _FITS if verdict.ok else ", ".join(dict.fromkeys(problem.code for problem in verdict.problems))


def _style(text: str) -> str:
    return {_GIVEN: "bold green", _FITS: "green"}.get(text, "red")


def _short(tags: Sequence[str]) -> list[str]:
    """Tags without the repository, where they are all of one, and each part on a line where it is long."""
    repositories = {tag.rpartition(":")[0] for tag in tags}
    short = [tag.rpartition(":")[2] for tag in tags] if len(repositories) == 1 else tags
    return [text.replace("-cudnn", " cudnn") for text in short]


def _unserved(selection: Selection) -> Iterator[tuple[str, Problem]]:
    """Why a node gets nothing: what stands against the best tag for it."""
    for name, choice in selection.nodes.items():
        if choice.tag is None:
            best = min(choice.verdicts.values(), key=lambda verdict: len(verdict.problems), default=None)
            yield from ((name, problem) for problem in (best.problems if best else ()))


def _left_out(selection: Selection) -> Iterator[tuple[str, Problem]]:
    for name, choice in selection.nodes.items():
        for card in choice.left_out:
            yield from ((f"{name} GPU {card.gpu}", problem) for problem in card.problems)


def _advice(advice: Advice) -> Text:
    where = f" {fold([advice.node])}" if advice.node else ""
    gpu = "" if advice.gpu is None else f" GPU {advice.gpu}"
    to = f" to {line(advice.to)}" if advice.to else ""
    return Text.assemble(("advice: ", "cyan"), f"{advice.code}{where}{gpu}{to}: {line(advice.why)}")
