"""Letters to people with a seat and to those who may start one, as text and HTML, and what became of them."""

import html
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby

from jinja2 import DictLoader, StrictUndefined, Template
from jinja2.sandbox import ImmutableSandboxedEnvironment
from rich.console import Group, RenderableType
from rich.text import Text

from provisioner.console.problems import COMMAND, problems
from provisioner.console.text import count, safe_line
from provisioner.domain.rollout.common_letter import EVERYBODY, BuiltLetter, CommonLetter
from provisioner.domain.rollout.letter import Letter, Letters

TEMPLATE = "letter.txt.j2"
COMMON_TEMPLATE = "common_letter.txt.j2"
_HEADING = "# "
_PAGES = "https://github.com/lab-provisioner/provisioner/blob/main/docs/"
_HEAD = """<!DOCTYPE html>
<html lang="zh-CN">
<head>
<meta charset="utf-8">
<title>{title}</title>
<style>
body {{ max-width: 48em; margin: 2em auto; padding: 0 1em; font-family: sans-serif; line-height: 1.5 }}
pre {{ padding: .6em; background: #f2f2f2; overflow-x: auto }}
</style>
</head>
<body>
"""


def letter_template(templates: Mapping[str, str], name: str = TEMPLATE) -> Template:
    """Return a compiled template: of a letter to a person, or COMMON_TEMPLATE. `templates`: text by file name."""
    loader = DictLoader(templates)
    environment = ImmutableSandboxedEnvironment(
        loader=loader, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    return environment.get_template(name)


def letter_text(letter: Letter, template: Template) -> str:
    """Return a letter as plain text, Chinese first and English below."""
    return template.render(letter.model_dump() | {"page": _PAGES})


def common_letter_text(letter: CommonLetter, template: Template) -> str:
    """Return the letter to everybody as plain text, Chinese first and English below."""
    return template.render(letter=letter, page=_PAGES)


def letter_html(text: str) -> str:
    """Return the text of a letter as a page of HTML. Every character of it is escaped."""
    title = html.escape(text.partition("\n")[0].removeprefix(_HEADING))
    blocks = (list(lines) for is_block, lines in groupby(text.split("\n"), key=bool) if is_block)
    return _HEAD.format(title=title) + "".join(f"{_html_block(block)}\n" for block in blocks) + "</body>\n</html>\n"


def _html_block(lines: list[str]) -> str:
    if lines[0].startswith(_HEADING):
        return f"<h2>{html.escape(lines[0].removeprefix(_HEADING))}</h2>"
    if lines[0].startswith(COMMAND):
        code = "\n".join(line.removeprefix(COMMAND) for line in lines)
        return f"<pre>{html.escape(code)}</pre>"
    return "<p>" + "<br>\n".join(map(html.escape, lines)) + "</p>"


def letters_view(letters: Letters, folder: str, old: Iterable[str], common: BuiltLetter | None = None) -> Group:
    """Render nodes without a known seat, people without a letter, files of people who have left, and the sum.

    `common`: the letter to everybody, None in a lab without self-service.
    """
    # In one list: a node that does not answer is in both for the same reason, which is shown once.
    left_out = [(node, problem) for node, found in letters.unread.items() for problem in found]
    left_out += common.missing.items() if common else ()
    # Without the names of nodes, which would be folded: each person is listed.
    missing = (("", problem) for problem in letters.missing.values())
    parts: list[RenderableType] = [problems(left_out), problems(missing)]
    parts += [Text(f"{safe_line(name)} is {_why_old(name)}; it was not deleted") for name in old]
    return Group(*parts, Text("\n" + "\n".join(_sums(letters, folder, common))))


def _why_old(name: str) -> str:
    if name.startswith(f"{EVERYBODY}."):
        return "the letter of a lab with self-service, which this lab does not have"
    return "a letter to a person who is not in the roster"


def _sums(letters: Letters, folder: str, common: BuiltLetter | None) -> Iterator[str]:
    total = len(letters.written) + len(letters.missing)
    if total or common is None:
        yield f"{len(letters.written)} of {count(total, 'letter')} in {safe_line(folder)}."
    if common is not None:
        named = len(common.letter.nodes) if common.letter else 0
        nodes = f"{named} of {count(named + len(common.missing), 'node')} with self-service"
        where = f"{EVERYBODY} in {safe_line(folder)}" if common.letter else "not written"
        yield f"The letter to everybody, with {nodes}: {where}."
