"""A selection: its tables, then problems and advice."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import takewhile

from rich.console import Group, RenderableType
from rich.text import Text

from provisioner.console.encoded import EncodedText
from provisioner.console.problems import problems
from provisioner.console.text import fold_names, safe_line
from provisioner.console.verdict_table import verdict_tables
from provisioner.domain.registry.catalog import Catalog
from provisioner.domain.selection.advice import Advice, AdviceCode
from provisioner.domain.selection.choice import Decision
from provisioner.domain.selection.selection import Selection
from provisioner.domain.values.problem import Problem
from provisioner.domain.values.sync import SyncState

_MOST_EXPLAINED = 2

_DECISIONS: Mapping[Decision, str] = {
    "single_tag": "One image for every node",
    "split_same_torch": "The same torch everywhere, from more than one image",
    "split": "No torch version runs on every node: each gets the best one for it",
    "none": "No image serves any node",
}


def selection_view(selection: Selection, width: int) -> Group:
    """Render a selection. `width` in columns."""
    tables = verdict_tables(selection, width)
    parts = [problems(_unserved(selection)), problems(_left_out(selection), "yellow"), _cautions(selection)]
    parts += _why_not(selection)
    head = Text(f"{_headline(selection)}\n", "bold")
    return Group(head, *tables, Text(), *parts, advice_view(selection.advice))


def better_tags_view(selection: Selection, catalog: Catalog) -> Group:
    """Render the problems of the catalog, then what is missing of better tags that are incomplete on the mirror."""
    given = {choice.tag for choice in selection.nodes.values()}
    better = {
        tag for choice in selection.nodes.values() for tag in takewhile(lambda tag: tag not in given, choice.verdicts)
    }
    reports = [listing.report for listing in catalog.listings if listing.image.reference in better]
    partial = [report for report in reports if report.state is not SyncState.COMPLETE]
    found = [(report.reference, problem) for report in partial for problem in report.problems]
    newer = [] if catalog.next_best is None else [("", catalog.next_best.to_problem())]
    return problems([*(("", problem) for problem in catalog.problems), *found, *newer], "yellow")


def _headline(selection: Selection) -> str:
    what = _DECISIONS[selection.decision]
    torch = f", torch {safe_line(selection.torch)}" if selection.torch else ""
    return f"{what}{torch}{f': {safe_line(selection.tag)}' if selection.tag else '.'}"


def _cautions(selection: Selection) -> RenderableType:
    """Render what is known to go wrong with the chosen tags."""
    chosen = selection.nodes.items()
    return problems(((name, caution) for name, choice in chosen for caution in choice.cautions), "yellow")


def _why_not(selection: Selection) -> Iterator[RenderableType]:
    """Yield why better tags than the chosen ones were refused: the first few, without reasons shown before."""
    served = {name: choice for name, choice in selection.nodes.items() if choice.tag}
    given = {choice.tag for choice in served.values()}
    newer = {tag: None for one in served.values() for tag in takewhile(lambda tag: tag not in given, one.verdicts)}
    shown: set[tuple[str, str]] = set()
    explained = 0
    for tag in newer:
        found = [(name, problem) for name, one in served.items() for problem in one.verdicts[tag].problems]
        new = {(problem.code, problem.why) for _, problem in found} - shown
        if new and explained < _MOST_EXPLAINED:
            yield EncodedText(f"Why not {safe_line(tag.rpartition('/')[2])}?", "bold")
            yield problems(found, "yellow")
            shown, explained = shown | new, explained + 1


def _unserved(selection: Selection) -> Iterator[tuple[str, Problem]]:
    """Yield the problems of the best tag for each node that gets none."""
    for name, choice in selection.nodes.items():
        if choice.tag is None:
            best = min(choice.verdicts.values(), key=lambda verdict: len(verdict.problems), default=None)
            yield from ((name, problem) for problem in (best.problems if best else ()))


def _left_out(selection: Selection) -> Iterator[tuple[str, Problem]]:
    for name, choice in selection.nodes.items():
        for gpu in choice.left_out:
            yield from ((f"{name} GPU {gpu.gpu}", problem) for problem in gpu.problems)


_CHANGES: Mapping[AdviceCode, str] = {
    "upgrade_driver": "upgrade the driver of {nodes} to {to} or a newer one of its branch",
    "downgrade_driver": "downgrade the driver of {nodes} to {to} and pin it",
    "open_kernel_module": "install the open kernel module on {nodes}",
    "proprietary_kernel_module": "install the proprietary kernel module on {nodes}",
    "exclude_node": "leave out {nodes}",
    "exclude_gpu": "leave out GPU {gpu} of {nodes}",
    "sync_tag": "make the mirror fetch {tag} completely",
    "wait_for_sync": "wait until the mirror has {tag} complete",
    "measure_image": "run `provision facts measure {reference}`",
}


def advice_view(advice: Iterable[Advice]) -> Group:
    """Render each advice as a sentence: the change and its gain. Nodes with the same advice share one."""
    changes: dict[tuple[AdviceCode, int | None, str | None, str, str], list[str]] = {}
    for one in advice:
        changes.setdefault((one.code, one.gpu, one.to, one.gains, one.why), []).append(one.node or "")
    return Group(*(_sentence(*key, names) for key, names in changes.items()))


def _sentence(  # noqa: PLR0913, PLR0917  (one for each field)
    code: AdviceCode, gpu: int | None, to: str | None, gains: str, why: str, names: Sequence[str]
) -> Text:
    tag = safe_line(gains.rpartition("/")[2])
    change = _CHANGES[code].format(
        nodes=fold_names(names), to=safe_line(to or ""), gpu=gpu, tag=tag, reference=safe_line(gains)
    )
    gained = "" if "{tag}" in _CHANGES[code] else f" ({tag})"
    return EncodedText.assemble(("advice: ", "cyan"), f"{change}; then {safe_line(why)}{gained}.")
