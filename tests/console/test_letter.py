"""Letters as text and as HTML: what a person copies from them works in ssh, and no value becomes markup."""

import subprocess
from datetime import date
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.adapters.resources import templates
from provisioner.adapters.templates import read_templates
from provisioner.console.letter import letter_html, letter_template, letter_text, letters_view
from provisioner.domain.rollout.letter import Letters
from provisioner.domain.values.problem import Problem
from tests.builders import a_uuid
from tests.console.screen import golden_text, render_text
from tests.domain.letters import HOST_KEY, a_letter

TEMPLATE = letter_template(read_templates(templates()))
FULL = a_letter(
    jump="jump.lab:2222", gpus=(a_uuid("a"), a_uuid("b")), until=date(2027, 1, 31), contact="李雷 <li@example.edu>"
)


def text_of(**over: Any) -> str:
    return letter_text(a_letter(**over), TEMPLATE)


def test_letter_with_every_part() -> None:
    assert letter_text(FULL, TEMPLATE).strip("\n") == golden_text("letter")


@pytest.mark.parametrize(
    ("over", "said"),
    [
        ({}, ("没有。\n家目录", "GPUs: none.")),
        ({"gpus": (a_uuid("a"),)}, ("只属于你的 1 张", f"1 of your own: {a_uuid('a')}.")),
        ({"gpus": (a_uuid("a"),), "shared": True}, ("与其他人共用", "you share those of the node")),
        ({}, ("请询问把这封信发给你的人。", "Ask the person who sent you this letter.")),
        ({"until": date(2027, 1, 31)}, ("到 2027-01-31", "Valid until: 2027-01-31, that day included.")),
    ],
)
def test_both_languages_say_the_same(over: dict[str, Any], said: tuple[str, str]) -> None:
    text = text_of(**over)
    chinese, english = text.split("\n# Lab ml")
    assert said[0] in chinese
    assert said[1] in english


@pytest.mark.parametrize("part", ["ProxyJump", "Valid until", "有效期"])
def test_what_a_seat_does_not_have_is_not_mentioned(part: str) -> None:
    assert part in letter_text(FULL, TEMPLATE)
    assert part not in text_of()


def test_a_published_jupyter_is_opened_without_a_tunnel() -> None:
    text = text_of(jupyter="http://198.18.0.11:22001/lab", tunnel=False)
    assert "    http://198.18.0.11:22001/lab\n" in text
    assert "ssh -N" not in text
    assert "ssh -N" in text_of()


def codes(text: str) -> list[str]:
    """The blocks of lines to copy, of the English half."""
    english = text.split("\n# Lab ml")[1]
    blocks = [block for block in english.split("\n\n") if block.startswith("    ")]
    return ["\n".join(line[4:] for line in block.splitlines()) + "\n" for block in blocks]


def test_ssh_reads_the_configuration_and_the_host_key_as_the_letter_means_them(tmp_path: Path) -> None:
    stanza, known, login, *_ = codes(letter_text(FULL, TEMPLATE))
    (tmp_path / "config").write_text(stanza)
    (tmp_path / "known_hosts").write_text(known)
    argv = ["ssh", "-G", "-F", str(tmp_path / "config"), login.strip().removeprefix("ssh ")]
    found = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()
    assert {
        "hostname 198.18.0.11",
        "port 22000",
        "user anna",
        "hostkeyalias ml_anna",
        "stricthostkeychecking true",
        "proxyjump jump.lab:2222",
    } <= set(found)
    argv = ["ssh-keygen", "-F", "ml_anna", "-f", str(tmp_path / "known_hosts")]
    assert HOST_KEY in subprocess.run(argv, capture_output=True, text=True, check=True).stdout


class Page(HTMLParser):
    """The tags of a page, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags, self.text = set[str](), ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags |= {tag, *(name for name, _ in attrs)}

    def handle_data(self, data: str) -> None:
        self.text += data


TAGS = {"html", "lang", "head", "meta", "charset", "title", "style", "body", "h2", "p", "br", "pre"}


@given(st.text(st.characters(categories=("L", "N", "P", "S")), min_size=1, max_size=100))
def test_no_value_becomes_markup(text: str) -> None:
    page = Page(letter_html(text_of(person=text, node=text, contact=text)))
    assert page.tags == TAGS
    assert f"Ask: {text}\n" in page.text


def test_html_has_every_line_of_the_text() -> None:
    text = letter_text(FULL, TEMPLATE)
    shown = Page(letter_html(text)).text
    assert not [line for line in text.splitlines() if line.removeprefix("# ").removeprefix("    ") not in shown]


def test_summary_names_who_has_no_letter_and_whose_file_is_old() -> None:
    missing = {
        f"p{number}": Problem("seat_not_there", f"p{number}: the seat on gpu1 is planned", "why", "fix", "gpu1")
        for number in range(1, 13)
    }
    unread = {node: (Problem("unreachable", f"{node}: no answer", "why", "fix"),) for node in ("gpu2", "gpu3")}
    shown = render_text(letters_view(Letters({"anna": FULL}, missing, unread), "letters-ml", ["eve.txt"]))
    listed = "\n".join(f"│ p{number}: the seat on gpu1 is planned" for number in range(1, 13))
    assert shown == (
        "╷ unreachable  gpu[2-3]\n│ no answer\n│ why: why\n│ fix: fix\n╵\n"
        f"╷ seat_not_there\n{listed}\n│ why: why\n│ fix: fix\n╵\n"
        "eve.txt is a letter to a person who is not in the roster; it was not deleted\n\n"
        "1 of 13 letters in letters-ml."
    )
