"""What the pages name exists: tests, states, codes, commands with their options, keys of lab.yml, files and headings.

docs/faults.md has a row for every fault of a rollout, docs/lab-yml.md every key of the model.
"""

import ast
import re
import shlex
from collections.abc import Iterator
from functools import cache
from itertools import takewhile
from pathlib import Path

import click
import pytest
import yaml

from provisioner.cli.app import provision
from provisioner.domain.lab.lab import Lab
from tests import lab_reference

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs/faults.md"
ATTACKS = TESTS.parent / "docs/security.md"
ROW = re.compile(r"^\| (?P<fault>[A-Z]\d\d) \|.*\|$", re.MULTILINE)
ATTACK = re.compile(r"^\| [A-Z]\d* \|.*\|$", re.MULTILINE)
NAMED = re.compile(r"`([\w/]+\.py)::(test_\w+)`")
WORD = re.compile(r"`([a-z]+(?:_[a-z]+)*)`")  # a state, a problem code or a command
CODE = ("provisioner", "playbooks/module_utils")
REPOSITORY = TESTS.parent
PAGES = sorted(str(page.relative_to(REPOSITORY)) for page in [*REPOSITORY.glob("*.md"), *PAGE.parent.glob("*.md")])
# The Chinese README is a shorter one.
TWINS = [page for page in PAGES if page != "README.md" and page.replace(".md", ".zh-CN.md") in PAGES]
BLOCK = re.compile(r"^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`provision ([^`]+)`")
LINK = re.compile(r"\]\((?!https?:)(?P<file>[^)#\s]*)(?:#(?P<anchor>[^)]*))?\)")
PLACEHOLDERS = {"VERB", "COMMAND", "…", "..."}


def rows() -> dict[str, str]:
    return {row["fault"]: row[0] for row in ROW.finditer(PAGE.read_text())}


@cache
def functions(path: Path) -> set[str]:
    return {node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)}


def test_every_fault_has_a_row_and_every_row_names_tests() -> None:
    found = rows()
    assert [fault for fault in found if fault.startswith("F")] == [f"F{number:02}" for number in range(1, 32)]
    assert not [fault for fault, row in found.items() if not NAMED.search(row)]


@pytest.mark.parametrize("fault", sorted(rows()))
def test_every_test_named_in_a_row_exists(fault: str) -> None:
    named = NAMED.findall(rows()[fault])
    assert len(named) == rows()[fault].count(".py::")
    assert not [f"{file}::{name}" for file, name in named if name not in functions(TESTS / file)]


@pytest.mark.parametrize("fault", ["F24", "F26", "F29", "F30"])
def test_the_faults_of_self_service_name_tests_of_the_broker_and_of_its_client(fault: str) -> None:
    files = {Path(file).stem for file, _ in NAMED.findall(rows()[fault])}
    assert any(name.startswith("test_broker_") for name in files)
    assert any(name.startswith("test_client_") for name in files)


@pytest.mark.parametrize("page", ["broker.md", "broker.zh-CN.md"])
def test_the_files_of_tests_that_a_page_names_exist(page: str) -> None:
    named = set(re.findall(r"`(test_\w+\.py)`", (PAGE.parent / page).read_text()))
    assert named
    assert named <= {path.name for path in TESTS.rglob("test_*.py")}


def test_every_state_and_code_in_a_row_exists_in_the_code() -> None:
    code = "".join(path.read_text() for folder in CODE for path in (TESTS.parent / folder).rglob("*.py"))
    words = {word for row in rows().values() for word in WORD.findall(row)}
    assert words >= {"committed", "rolled_back", "unreachable"}
    assert not [word for word in sorted(words) if f'"{word}"' not in code]


def test_every_attack_has_tests_and_every_test_named_for_it_exists() -> None:
    found = ATTACK.findall(ATTACKS.read_text())
    assert found
    for row in found:
        named = NAMED.findall(row)
        assert named, row
        assert len(named) == row.count(".py::")
        assert not [f"{file}::{name}" for file, name in named if name not in functions(TESTS / file)]


def blocks(page: str, language: str) -> list[str]:
    found = BLOCK.finditer((REPOSITORY / page).read_text())
    return [block["text"] for block in found if block["language"] == language]


def typed(page: str) -> Iterator[str]:
    """Yield what follows `provision` in each command line of a page."""
    for block in blocks(page, "console"):
        for line in block.replace("\\\n", " ").splitlines():
            if found := re.match(r"[$#] (?:ssh \S+ )?provision (.*)", line):
                yield found[1]
    prose = BLOCK.sub("", (REPOSITORY / page).read_text())
    yield from (" ".join(span.split()) for span in SPAN.findall(prose))


def mistake(line: str) -> str | None:
    """Return why click refuses the words or options of a line; None if it accepts them."""
    given = shlex.split(re.sub(r"\[[^]]*\]", "", line), comments=True)
    words = [*takewhile(lambda word: word not in {">", "|", "&&"}, given)]
    command: click.Command = provision
    context = click.Context(command)
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        found = command.get_command(context, words[0])
        if found is None:
            return None if words[0] in PLACEHOLDERS else f"no verb {words[0]}"
        command, words = found, words[1:]
        context = click.Context(command, parent=context)
    try:
        _, left, _ = command.make_parser(context).parse_args(words)
    except click.BadOptionUsage:
        return None  # an option is named without its value
    except click.UsageError as error:
        return error.format_message()
    return f"unexpected: {left}" if left else None


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_page_exists_with_its_options(page: str) -> None:
    wrong = [f"provision {line}: {why}" for line in typed(page) if (why := mistake(line))]
    assert not wrong


@pytest.mark.parametrize("line", ["rolout ml", "rollout ml --forty", "plan ml gpu1", "seats lists ml"])
def test_a_command_that_does_not_exist_is_found(line: str) -> None:
    assert mistake(line)


@cache
def anchors(page: Path) -> set[str]:
    headings = re.findall(r"(?m)^#+ (.*)$", BLOCK.sub("", page.read_text()))
    return {re.sub(r"[^\w -]", "", heading).strip().replace(" ", "-").lower() for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_every_link_of_a_page_has_a_file_and_a_heading(page: str) -> None:
    path = REPOSITORY / page
    links = [
        (path.parent / link["file"] if link["file"] else path, link["anchor"])
        for link in LINK.finditer(path.read_text())
    ]
    assert not [target for target, _ in links if not target.exists()]
    assert not [f"{target.name}#{anchor}" for target, anchor in links if anchor and anchor not in anchors(target)]


@pytest.mark.parametrize("page", [page for page in PAGES if page != "docs/lab-yml.md"])
def test_every_yaml_of_a_page_is_a_part_of_lab_yml(page: str) -> None:
    needed = {"name": "ml", "mirror": {"address": "m.example:5000"}, "registry": {"address": "r.example:5000"}}
    for block in blocks(page, "yaml"):
        with_people = {"people": {"roster": "roster.csv"}} if "groups:" in block else {}
        Lab.model_validate(needed | with_people | yaml.safe_load(block))


@pytest.mark.parametrize("page", TWINS)
@pytest.mark.parametrize("language", ["yaml", "console"])
def test_a_page_and_its_chinese_twin_show_the_same_commands_and_settings(page: str, language: str) -> None:
    # Comments, and what is said to people.
    words = re.compile(r"\s+# .*|\"[^\"\n]*( |[^\x00-\x7f])[^\"\n]*\"")
    pair = [
        [words.sub("", block) for block in blocks(name, language)] for name in (page, page.replace(".md", ".zh-CN.md"))
    ]
    assert pair[0] == pair[1]


def test_the_reference_of_lab_yml_is_that_of_the_model() -> None:
    assert lab_reference.PAGE.read_text() == lab_reference.reference(), "run: python -m tests.lab_reference"


def test_the_examples_of_all_keys_are_together_a_lab() -> None:
    """An example that the model refuses would be copied into a lab.yml."""
    example = lab_reference.whole_example()
    given = Lab.model_validate(example).model_dump(mode="json", by_alias=True)
    assert set(given) == set(example)


def test_every_key_of_the_model_has_a_description() -> None:
    schema = Lab.model_json_schema(by_alias=True)
    models = {"Lab": schema, **schema["$defs"]}
    keys = [(name, key, value) for name, node in models.items() for key, value in node["properties"].items()]
    assert not [f"{name}.{key}" for name, key, value in keys if not value.get("description")]
    # A line break or a bar would end the cell of its table.
    assert not [f"{name}.{key}" for name, key, value in keys if re.search(r"[|\n]|\.$", value["description"])]


def codes(page: str) -> list[str]:
    """Return the codes in the tables of a page that have them in their first column."""
    cells = re.findall(r"(?m)^\| ([^|]*) \|", (REPOSITORY / page).read_text())
    return [code for cell in cells for code in re.findall(r"`([a-z]+(?:_[a-z]+)+)`", cell)]


def test_every_problem_of_environments_exists_and_both_languages_have_it() -> None:
    found = [code for code in codes("docs/environments.md") if not code.endswith(("_index", "_channels", "_endpoint"))]
    code = "".join(path.read_text() for folder in CODE for path in (REPOSITORY / folder).rglob("*.py"))
    assert codes("docs/environments.zh-CN.md") == codes("docs/environments.md")
    assert found
    # Those of an index and of an endpoint are put together of its name and what it answers.
    parts = {word: [word] if f'"{word}"' in code else word.split("_", 1) for word in found}
    assert not [word for word in found if not all(f'"{part}"' in code for part in parts[word])]
