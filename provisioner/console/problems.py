"""Problems on a screen: code and whose it is, what was seen, why it matters, what to do; a rule down the left side."""

import re
from collections.abc import Iterable, Iterator, Sequence

from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.text import Text

from provisioner.console.tables import folded
from provisioner.console.text import block, fold
from provisioner.domain.values.problem import Problem

COMMAND = "    "  # in front of a line to be copied
_MOST = 8  # different things seen that are told of one kind of problem
Found = tuple[str, Problem]  # whose it is ("" where that is nobody in particular), and what


class Ruled:
    """Text with a rule down its left side, wrapped lines too, so that nobody wonders where a problem ends.

    Indented lines are commands, to be copied: they stand alone and whole. They may so be wider than the screen, which
    whoever prints must not crop.
    """

    def __init__(self, text: Text, style: str) -> None:
        self._text, self._style = text, style

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        top, side, end = "|||" if options.ascii_only else "╷│╵"
        first = True
        for written in self._text.split("\n"):
            if written.plain.startswith(COMMAND):
                written.no_wrap, written.overflow = True, "ignore"
                yield written
                continue
            for content in written.wrap(console, max(options.max_width - 2, 20)):
                yield Text.assemble((top if first else side, self._style), " ", content)
                first = False
        yield Text(end, self._style)


def problems(found: Iterable[Found], style: str = "red") -> Group:
    """Each kind of problem once, with all whom it concerns: a hundred nodes that are down are one problem."""
    kinds: dict[tuple[str, ...], list[Found]] = {}
    for name, problem in found:
        key = tuple(_of_any(name, text) for text in (problem.code, problem.why, problem.fix))
        kinds.setdefault(key, []).append((name, problem))
    return Group(*(Ruled(_told(kind, style), style) for kind in kinds.values()))


def _told(kind: Sequence[Found], style: str) -> Text:
    names = list(dict.fromkeys(name for name, _ in kind if name))
    first = kind[0][1] if len(names) <= 1 else _nameless(*kind[0])
    head = Text.assemble((block(first.code), f"bold {style}"), (f"  {fold(names)}" if names else "", "bold"))
    seen = _of_one(kind) if len(names) <= 1 else _of_many(kind)
    body = "".join(f"\n{text}" for text in seen)
    why = f"\nwhy: {block(first.why)}" if first.why else ""
    fix = f"\nfix: {block(first.fix)}" if first.fix else ""
    return Text.assemble(head, body, (why, "dim"), fix)


def _of_one(kind: Sequence[Found]) -> Iterator[str]:
    """What was seen, without the node's name before it: the head has it."""
    yield from dict.fromkeys(block(problem.what.removeprefix(f"{name}: ")) for name, problem in kind)


def _of_many(kind: Sequence[Found]) -> Iterator[str]:
    """What was seen, with the nodes where that is not the same for all."""
    seen = folded((name, _nameless(name, problem).what) for name, problem in kind)
    for names, what in seen[:_MOST]:
        yield block(what) if len(seen) == 1 else f"{names}: {block(what)}"
    if len(seen) > _MOST:
        yield f"and {len(seen) - _MOST} more"


def _nameless(name: str, problem: Problem) -> Problem:
    """The problem in words that fit every node that has it."""
    what = problem.what.removeprefix(f"{name}: ") if name else problem.what
    return problem.model_copy(update={"what": _of_any(name, what), "fix": _of_any(name, problem.fix)})


def _of_any(name: str, text: str) -> str:
    return re.sub(rf"(?<![\w.-]){re.escape(name)}(?![\w-])", "NODE", text) if name else text
