"""Which image each node gets, and in each refused cell the reason: nodes down, the best tags across."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import takewhile

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from provisioner.console.problems import problems
from provisioner.console.tables import cell, folded, table
from provisioner.console.text import count, fold, line
from provisioner.domain.registry.catalog import Catalog
from provisioner.domain.selection.advice import Advice, AdviceCode
from provisioner.domain.selection.choice import Decision
from provisioner.domain.selection.selection import NodeChoice, Selection
from provisioner.domain.values.problem import Problem
from provisioner.domain.values.sync import SyncState

_NODES_WIDTH, _TAG_WIDTH, _MOST_TAGS = 24, 20, 8
_MOST_ASKED = 2
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
    return Group(*parts, *_why_not(selection), advised(selection.advice))


def passed_over(selection: Selection, catalog: Catalog) -> Group:
    """Better tags than the given ones that the mirror does not have whole: what of each is missing.

    Before them, what is to be said of the source as a whole.
    """
    given = {choice.tag for choice in selection.nodes.values()}
    better = {
        tag for choice in selection.nodes.values() for tag in takewhile(lambda tag: tag not in given, choice.verdicts)
    }
    reports = [listing.report for listing in catalog.listings if listing.image.reference in better]
    partial = [report for report in reports if report.state is not SyncState.COMPLETE]
    found = [(report.reference, problem) for report in partial for problem in report.problems]
    newer = [] if catalog.next_best is None else [("", catalog.next_best.told())]
    return problems([*(("", problem) for problem in catalog.problems), *found, *newer], "yellow")


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


def _why_not(selection: Selection) -> Iterator[RenderableType]:
    """What is against the tags that people would ask about: those in front of the given ones, less what was said."""
    served = {name: choice for name, choice in selection.nodes.items() if choice.tag}
    given = {choice.tag for choice in served.values()}
    newer = {tag: None for one in served.values() for tag in takewhile(lambda tag: tag not in given, one.verdicts)}
    told: set[tuple[str, str]] = set()
    asked = 0
    for tag in newer:
        found = [(name, problem) for name, one in served.items() for problem in one.verdicts[tag].problems]
        new = {(problem.code, problem.why) for _, problem in found} - told
        if new and asked < _MOST_ASKED:
            yield Text(f"Why not {line(tag.rpartition('/')[2])}?", "bold")
            yield problems(found, "yellow")
            told, asked = told | new, asked + 1


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


_ACTS: Mapping[AdviceCode, str] = {
    "upgrade_driver": "upgrade the driver of {nodes} to {to} or newer",
    "downgrade_driver": "take the driver of {nodes} back to {to}, and hold it there",
    "open_kernel_module": "install the open kernel module on {nodes}",
    "proprietary_kernel_module": "install the proprietary kernel module on {nodes}",
    "exclude_node": "leave out {nodes}",
    "exclude_gpu": "leave out GPU {gpu} of {nodes}",
    "sync_tag": "have the mirror fetch the whole of {tag}",
    "wait_for_sync": "wait until the mirror has the whole of {tag}",
}


def advised(advice: Iterable[Advice]) -> Group:
    """Each change as a sentence: where, what, and what is won. Nodes with the same advice share one."""
    changes: dict[tuple[AdviceCode, int | None, str | None, str, str], list[str]] = {}
    for one in advice:
        changes.setdefault((one.code, one.gpu, one.to, one.gains, one.why), []).append(one.node or "")
    return Group(*(_sentence(*change, names) for change, names in changes.items()))


def _sentence(  # noqa: PLR0913, PLR0917  (one for each field)
    code: AdviceCode, gpu: int | None, to: str | None, gains: str, why: str, names: Sequence[str]
) -> Text:
    tag = line(gains.rpartition("/")[2])
    act = _ACTS[code].format(nodes=fold(names), to=line(to or ""), gpu=gpu, tag=tag)
    won = "" if "{tag}" in _ACTS[code] else f" ({tag})"
    return Text.assemble(("advice: ", "cyan"), f"{act}; then {line(why)}{won}.")
