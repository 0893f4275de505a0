"""Letters as text and as HTML: what a person copies from them works in ssh, and no value becomes markup."""

import re
import shlex
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
from provisioner.cli.commands.me import me
from provisioner.cli.commands.me_options import NodeOptions
from provisioner.console.letter import (
    COMMON_TEMPLATE,
    common_letter_text,
    letter_html,
    letter_template,
    letter_text,
    letters_view,
)
from provisioner.domain.rollout.common_letter import BuiltLetter
from provisioner.domain.rollout.letter import Letters
from provisioner.domain.values.problem import Problem
from tests.builders import a_uuid
from tests.console.screen import golden_text, render_text
from tests.domain.letters import HOST_KEY, a_common_letter, a_letter, a_letter_node, some_ceilings
from tests.playbooks.node_code import module_util

TEMPLATE = letter_template(read_templates(templates()))
COMMON = letter_template(read_templates(templates()), COMMON_TEMPLATE)
FULL = a_letter(
    jump="jump.lab:2222", gpus=(a_uuid("a"), a_uuid("b")), until=date(2027, 1, 31), contact="李雷 <li@example.edu>"
)

FULL_COMMON = a_common_letter(
    a_letter_node(host_key=HOST_KEY),
    a_letter_node("gpu2", address="198.18.0.12", port=2222, jump="jump.lab:2022", host_key=HOST_KEY),
    contact="李雷 <li@example.edu>",
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


# --- the letter to everybody


def common_text(**over: Any) -> str:
    return common_letter_text(a_common_letter(**over), COMMON)


def test_letter_to_everybody_with_every_part() -> None:
    assert common_letter_text(FULL_COMMON, COMMON).strip("\n") == golden_text("common_letter")


@pytest.mark.parametrize(
    ("over", "said"),
    [
        (
            {},
            (
                "gpu1\uff1aACCOUNT@198.18.0.11\uff0c可借用的 GPU\uff1a2 张。",
                "gpu1: ACCOUNT@198.18.0.11, GPUs for leases: 2.",
            ),
        ),
        ({}, ("unix 组 lab-students 里", "in the unix group lab-students.")),
        ({}, ("最多 1 张 GPU\uff0c最长 24 小时", "1 GPU at most, for 24 hours at most")),
        ({"ceilings": some_ceilings(gpus=2)}, ("最多 2 张 GPU", "2 GPUs at most")),
        ({"ceilings": some_ceilings(gpus=None)}, ("不超过可借用的数量", "as many GPUs as there are for leases")),
        ({"ceilings": some_ceilings(hours=0.5)}, ("最长 0.5 小时", "for 0.5 hours at most")),
        ({"ceilings": some_ceilings(idle_hours=4)}, ("4 小时没有使用", "not used for 4 hours stops earlier")),
        ({"ceilings": some_ceilings(grace_minutes=15)}, ("到期之后再过 15 分钟", "15 minutes after the end")),
        ({}, ("请询问把这封信发给你的人。", "Ask the person who sent you this letter.")),
        ({"contact": "Li"}, ("请联系\uff1aLi\n", "Ask: Li\n")),
        ({}, ("/me.zh-CN.md\n", "/me.md\n")),
    ],
)
def test_both_languages_of_the_letter_to_everybody_say_the_same(over: dict[str, Any], said: tuple[str, str]) -> None:
    chinese, english = common_text(**over).split("\n# Lab ml")
    assert said[0] in chinese
    assert said[1] in english


@pytest.mark.parametrize("part", ["ProxyJump", "跳板机", "jump host", "known_hosts", ".ssh/config", "Before the first"])
def test_what_no_node_needs_is_not_mentioned(part: str) -> None:
    assert part in common_letter_text(FULL_COMMON, COMMON)
    assert part not in common_text()


@pytest.mark.parametrize("part", ["没有使用", "is not used"])
def test_a_group_without_an_idle_time_is_not_warned_of_one(part: str) -> None:
    assert part not in common_text(ceilings=some_ceilings(idle_hours=None))


LETTERS = {
    "full": FULL_COMMON,
    "no GPU": a_common_letter(a_letter_node(gpus=0)),
    "short": a_common_letter(ceilings=some_ceilings(hours=0.5, gpus=None)),
    "long": a_common_letter(ceilings=some_ceilings(hours=8784, gpus=64)),
    "jump": a_common_letter(a_letter_node(jump="jump.lab")),
}


@pytest.mark.parametrize("name", LETTERS)
def test_each_command_of_the_letter_is_accepted_where_it_is_typed(name: str) -> None:
    client, letter = module_util("client.me"), LETTERS[name]
    text = common_letter_text(letter, COMMON)
    lines = [shlex.split(line) for line in text.splitlines() if line.startswith("    ")]
    target = f"ACCOUNT@{letter.example.target}"
    asked = [client.parse(words[4:]) for words in lines if words[:4] == ["ssh", target, "provision", "me"]]
    assert [act for act, _ in asked] == 2 * ["up", "status", "renew", "down"]
    seats = [me_options(words[2:]) for words in lines if words[:2] == ["provision", "me"]]
    assert [(seat.node, seat.opens) for seat in seats] == 2 * [(target, True)]
    assert [client.parse(seat.words("up")) for seat in seats] == 2 * asked[:1]
    assert set(re.findall("provision me ([a-z][a-z-]*)", text)) <= set(client.ACTS)


def me_options(words: list[str]) -> NodeOptions:
    """What `provision me` reads in these words."""
    params = me.make_context("me", words).params
    seat = {name: params.pop(name) for name in ("service", "node", "opens", "prints")}
    own = ("act", "source", "sha256", "signers", "ca", "urls", "yes", "as_json", "no_color", "verbose")
    assert params["act"] == "up"
    return NodeOptions({name: value for name, value in params.items() if name not in own}, **seat)


def test_ssh_reads_the_lines_of_the_letter_to_everybody_as_it_means_them(tmp_path: Path) -> None:
    stanza, known, *_ = codes(common_letter_text(FULL_COMMON, COMMON))
    (tmp_path / "config").write_text(stanza)
    (tmp_path / "known_hosts").write_text(known)
    for host in ("ACCOUNT@gpu2", "ACCOUNT@198.18.0.12"):
        argv = ["ssh", "-G", "-F", str(tmp_path / "config"), host]
        found = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()
        assert {"hostname 198.18.0.12", "port 2222", "user ACCOUNT", "proxyjump jump.lab:2022"} <= set(found)
    for label in ("198.18.0.11", "[198.18.0.12]:2222"):
        argv = ["ssh-keygen", "-F", label, "-f", str(tmp_path / "known_hosts")]
        assert HOST_KEY in subprocess.run(argv, capture_output=True, text=True, check=True).stdout


@given(st.text(st.characters(categories=("L", "N", "P", "S")), min_size=1, max_size=100))
def test_no_contact_becomes_markup_in_the_letter_to_everybody(text: str) -> None:
    page = Page(letter_html(common_text(contact=text)))
    assert page.tags == TAGS
    assert f"Ask: {text}\n" in page.text


def test_html_of_the_letter_to_everybody_has_every_line_of_the_text() -> None:
    text = common_letter_text(FULL_COMMON, COMMON)
    shown = Page(letter_html(text)).text
    assert not [line for line in text.splitlines() if line.removeprefix("# ").removeprefix("    ") not in shown]


NONE = Letters({}, {}, {})
DOWN = {"gpu3": Problem("broker_down", "gpu3: the broker does not run", "why", "fix", "gpu3")}
SUM = "The letter to everybody, with {} of {} nodes with self-service: everybody.self-service in letters-ml."
LEFT_OUT = "╷ broker_down  gpu3\n│ the broker does not run\n│ why: why\n│ fix: fix\n╵\n\n"


@pytest.mark.parametrize(
    ("letters", "common", "shown"),
    [
        (
            NONE,
            BuiltLetter(FULL_COMMON, {}),
            SUM.format(2, 2),
        ),
        (
            Letters({"anna": FULL}, {}, {}),
            BuiltLetter(FULL_COMMON, DOWN),
            f"{LEFT_OUT}1 of 1 letter in letters-ml.\n{SUM.format(2, 3)}",
        ),
        (
            NONE,
            BuiltLetter(None, DOWN),
            f"{LEFT_OUT}The letter to everybody, with 0 of 1 node with self-service: not written.",
        ),
    ],
)
def test_summary_names_the_nodes_that_the_letter_to_everybody_leaves_out(
    letters: Letters, common: BuiltLetter, shown: str
) -> None:
    assert render_text(letters_view(letters, "letters-ml", [], common)).strip("\n") == shown.strip("\n")


def test_a_node_that_both_kinds_of_letters_lack_is_named_once() -> None:
    off = Problem("unreachable", "gpu2: no answer", "why", "fix", "gpu2")
    shown = render_text(
        letters_view(Letters({}, {}, {"gpu2": (off,)}), "letters-ml", [], BuiltLetter(FULL_COMMON, {"gpu2": off}))
    )
    assert (shown.count("unreachable  gpu2"), shown.count("no answer")) == (1, 1)


def test_the_letter_to_everybody_of_a_lab_without_self_service_is_old() -> None:
    shown = render_text(letters_view(NONE, "letters-ml", ["everybody.self-service.txt"]))
    assert "everybody.self-service.txt is the letter of a lab with self-service, which this lab does not have" in shown
