"""`provision letters`: write a letter to each person of the roster, and one to everybody who may start a seat."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from provisioner.adapters.ansible.host_keys import known_host_keys
from provisioner.adapters.lab.directory import LabDirectory, read_lab
from provisioner.adapters.lab.letters import ENDINGS, old_letters, write_letters
from provisioner.cli.exit_codes import DONE, FAILED
from provisioner.cli.options import AnsibleOptions, example, lab_argument, with_ansible_options, with_output
from provisioner.cli.output import Output
from provisioner.cli.plan_context import SeatsContext, read_seats
from provisioner.cli.wiring import settings, templates
from provisioner.console.letter import (
    COMMON_TEMPLATE,
    common_letter_text,
    letter_html,
    letter_template,
    letter_text,
    letters_view,
)
from provisioner.domain.rollout.common_letter import EVERYBODY, BuiltLetter, Way, build_common_letter
from provisioner.domain.rollout.letter import LETTERS_SCHEMA, Letter, build_letters, contact_text, letter_name
from provisioner.domain.values.node import NodeFacts
from provisioner.domain.values.problem import Problem, ProblemError


def _contact(ctx: click.Context, param: click.Parameter, value: str) -> str:
    try:
        return contact_text(value)
    except ValueError as error:
        raise click.BadParameter(str(error), ctx, param) from None


@click.command(epilog=example('provision letters ai-lab --to letters --contact "Li Lei, room 312"'))
@lab_argument
@click.option(
    "--to",
    "folder",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where to write them.  [default: letters-LAB in this folder]",
)
@click.option("--contact", metavar="TEXT", default="", callback=_contact, help="Whom to ask, as the letters say it.")
@with_ansible_options
@with_output
def letters(*, lab: str, folder: Path | None, contact: str, ansible: AnsibleOptions, output: Output) -> int:
    """Write a letter to each person of the roster: how to reach their seat, with SSH configuration and host key.

    A text file and a page of HTML for each, in Chinese and English. They hold no token: `provision status --urls` shows
    the URLs with tokens. Letters of people who have left are listed and not deleted. Exit 1 where a person got none.

    In a lab with self-service, also one letter to everybody who may start a seat, everybody.self-service: with the
    nodes, of those in --limit, where self-service runs. Exit 1 where a node is left out.
    """
    directory = read_lab(lab)
    _require_readers(directory)
    folder = folder or Path(f"letters-{directory.lab.name}")
    context = read_seats(directory, ansible, output)
    jumps = {host.name: host.jump for host in context.hosts}
    built = build_letters(context.people, context.status, jumps, contact, context.places)
    common = _common_letter(directory, context, ansible, output, contact)
    files = _files_of_people(built.written) | _files_of_everybody(common)
    write_letters(folder, {name: text for texts in files.values() for name, text in texts.items()})
    old = old_letters(folder, _current(directory))
    fields = {
        "lab": directory.lab.name,
        "folder": str(folder),
        "letters": {person: _paths(folder, files[letter_name(person)]) for person in built.written},
        "without": {person: problem.model_dump() for person, problem in built.missing.items()},
        "unread": {node: [problem.model_dump() for problem in found] for node, found in built.unread.items()},
        "self_service": _common_fields(common, _paths(folder, files.get(EVERYBODY, {}))),
        "old": [str(folder / name) for name in old],
    }
    output.document(LETTERS_SCHEMA, fields)
    output.show(letters_view(built, str(folder), old, common))
    lacks_nodes = common is not None and (common.letter is None or common.missing)
    return FAILED if built.missing or lacks_nodes else DONE


def _common_letter(
    directory: LabDirectory, context: SeatsContext, ansible: AnsibleOptions, output: Output, contact: str
) -> BuiltLetter | None:
    """Build the letter to everybody; None where the lab, or what --limit leaves of it, is to have no self-service."""
    wanted = directory.lab.self_service
    hosts = {host.name: host for host in context.hosts if wanted and wanted.covers(host.name)}
    if wanted is None or (ansible.limit is not None and not hosts):
        return None
    probed = {name: context.probed[name] for name in hosts}
    answered = [name for name, facts in probed.items() if isinstance(facts, NodeFacts)]
    keys = known_host_keys(settings(directory, ansible, output.verbose), answered)
    ways = {name: Way(host.address, host.jump, host.port, keys.get(name, "")) for name, host in hosts.items()}
    return build_common_letter(directory.lab, wanted, probed, ways, contact)


def _files_of_people(written: Mapping[str, Letter]) -> dict[str, dict[str, str]]:
    """Return the texts of letters by file name, by the name of the letter."""
    template = letter_template(templates(None))
    return {
        letter_name(person): _files(letter_name(person), letter_text(letter, template))
        for person, letter in written.items()
    }


def _files_of_everybody(common: BuiltLetter | None) -> dict[str, dict[str, str]]:
    if common is None or common.letter is None:
        return {}
    text = common_letter_text(common.letter, letter_template(templates(None), COMMON_TEMPLATE))
    return {EVERYBODY: _files(EVERYBODY, text)}


def _files(name: str, text: str) -> dict[str, str]:
    """Return the texts of a letter by file name."""
    return dict(zip((f"{name}{ending}" for ending in ENDINGS), (text, letter_html(text)), strict=True))


def _paths(folder: Path, texts: Mapping[str, str]) -> list[str]:
    return [str(folder / name) for name in texts]


def _current(directory: LabDirectory) -> set[str]:
    """Return the names of the letters that the lab has, also of those that were not written now."""
    names = {letter_name(person.id) for person in directory.people}
    return names | {EVERYBODY} if directory.lab.self_service else names


def _common_fields(common: BuiltLetter | None, paths: list[str]) -> dict[str, Any] | None:
    if common is None:
        return None
    nodes = [node.name for node in common.letter.nodes] if common.letter else []
    return {
        "files": paths,
        "nodes": nodes,
        "without": {node: problem.model_dump() for node, problem in common.missing.items()},
    }


def _require_readers(directory: LabDirectory) -> None:
    if not directory.people and directory.lab.self_service is None:
        problem = Problem(
            "no_roster",
            f"{directory.path}: the lab has no roster, or an empty one, and no self_service",
            "a letter is written to a person of the roster, or to those who may start a seat of their own",
            "list the people in roster.csv and name the file in lab.yml: people: {roster: roster.csv}",
        )
        raise ProblemError(problem, "usage")
