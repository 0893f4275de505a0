"""Problems: code and nodes, what was seen, why it matters and what to do, with a rule down the left side."""

import re
from collections.abc import Iterable, Iterator, Sequence

from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.text import Text

from provisioner.console.encoded import encode
from provisioner.console.text import fold_some_names, safe_block
from provisioner.domain.values.problem import Problem

COMMAND = "    "  # in front of a line to be copied
_MOST = 8  # different observations shown for one kind of problem
Found = tuple[str, Problem]  # the node or image it belongs to ("" for none), and the problem


class Ruled:
    """Text with a rule down its left side, also beside wrapped lines, that shows where a problem ends.

    Indented lines are commands to copy: they have no rule and are never wrapped. They may be wider than the screen, so
    print with crop=False.
    """

    def __init__(self, text: Text, style: str) -> None:
        """Keep the text and the style of the rule."""
        self._text, self._style = text, style

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the lines for a console."""
        top, side, end = "|||" if options.ascii_only else "╷│╵"
        first = True
        for written in encode(self._text, options).split("\n"):
            if written.plain.startswith(COMMAND):
                written.no_wrap, written.overflow = True, "ignore"
                yield written
                continue
            for content in written.wrap(console, max(options.max_width - 2, 20)):
                yield Text.assemble((top if first else side, self._style), " ", content)
                first = False
        yield Text(end, self._style)


def problems(found: Iterable[Found], style: str = "red", *, noun: str = "NODE") -> Group:
    """Render each kind of problem once with all its nodes: a hundred unreachable nodes are one problem.

    `noun` stands in a text in place of their names.
    """
    kinds: dict[tuple[str, ...], list[Found]] = {}
    for name, problem in found:
        key = tuple(_replace_name(name, text, noun) for text in (problem.code, problem.why, problem.fix))
        kinds.setdefault(key, []).append((name, problem))
    return Group(*(Ruled(_problem_text(kind, style, noun), style) for kind in kinds.values()))


def _problem_text(kind: Sequence[Found], style: str, noun: str) -> Text:
    names = list(dict.fromkeys(name for name, _ in kind if name))
    first = kind[0][1] if len(names) <= 1 else _generalize(*kind[0], noun)
    whose = f"  {fold_some_names(names)}" if names else ""
    head = Text.assemble((safe_block(first.code), f"bold {style}"), (whose, "bold"))
    seen = _observations(kind) if len(names) <= 1 else _observations_by_node(kind, noun)
    body = "".join(f"\n{text}" for text in seen)
    why = f"\nwhy: {safe_block(first.why)}" if first.why else ""
    fix = f"\nfix: {safe_block(first.fix)}" if first.fix else ""
    return Text.assemble(head, body, (why, "dim"), fix)


def _observations(kind: Sequence[Found]) -> Iterator[str]:
    """Yield what was seen, without the node's name in front: the head line has it."""
    yield from dict.fromkeys(safe_block(problem.what.removeprefix(f"{name}: ")) for name, problem in kind)


def _observations_by_node(kind: Sequence[Found], noun: str) -> Iterator[str]:
    """Yield what was seen, with the nodes if it differs between them. What one node alone said is left as it is."""
    seen: dict[str, list[Found]] = {}
    for name, problem in kind:
        seen.setdefault(_generalize(name, problem, noun).what, []).append((name, problem))
    for what, found in list(seen.items())[:_MOST]:
        names = list(dict.fromkeys(name for name, _ in found))
        own = found[0][1].what.removeprefix(f"{names[0]}: ")
        text = safe_block(what if len(names) > 1 else own)
        yield text if len(seen) == 1 else f"{fold_some_names(names)}: {text}"
    if len(seen) > _MOST:
        yield f"and {len(seen) - _MOST} more"


def _generalize(name: str, problem: Problem, noun: str) -> Problem:
    """Return the problem with the noun in place of the name, so that it fits every node."""
    what = problem.what.removeprefix(f"{name}: ") if name else problem.what
    changes = {"what": _replace_name(name, what, noun), "fix": _replace_name(name, problem.fix, noun)}
    return problem.model_copy(update=changes)


def _replace_name(name: str, text: str, noun: str) -> str:
    if not name or name not in text:
        return text
    return re.sub(rf"(?<![\w.-]){re.escape(name)}(?![\w-])", noun, text)
