"""`provision letters`: write a letter to each person of the roster."""

from pathlib import Path

import click
from jinja2 import Template

from provisioner.adapters.lab.directory import LabDirectory, read_lab
from provisioner.adapters.lab.letters import ENDINGS, old_letters, write_letters
from provisioner.cli.exit_codes import DONE, FAILED
from provisioner.cli.options import AnsibleOptions, example, lab_argument, with_ansible_options, with_output
from provisioner.cli.output import Output
from provisioner.cli.plan_context import read_seats
from provisioner.cli.wiring import templates
from provisioner.console.letter import letter_html, letter_template, letter_text, letters_view
from provisioner.domain.rollout.letter import LETTERS_SCHEMA, Letter, build_letters, contact_text, letter_name
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
    """
    directory = read_lab(lab)
    _require_people(directory)
    folder = folder or Path(f"letters-{directory.lab.name}")
    context = read_seats(directory, ansible, output)
    jumps = {host.name: host.jump for host in context.hosts}
    built = build_letters(context.people, context.status, jumps, contact, context.places)
    template = letter_template(templates(None))
    files = {person: _files(letter, template) for person, letter in built.written.items()}
    write_letters(folder, {name: text for texts in files.values() for name, text in texts.items()})
    old = old_letters(folder, {letter_name(person.id) for person in directory.people})
    fields = {
        "lab": directory.lab.name,
        "folder": str(folder),
        "letters": {person: [str(folder / name) for name in texts] for person, texts in files.items()},
        "without": {person: problem.model_dump() for person, problem in built.missing.items()},
        "unread": {node: [problem.model_dump() for problem in found] for node, found in built.unread.items()},
        "old": [str(folder / name) for name in old],
    }
    output.document(LETTERS_SCHEMA, fields)
    output.show(letters_view(built, str(folder), old))
    return FAILED if built.missing else DONE


def _files(letter: Letter, template: Template) -> dict[str, str]:
    """Return the texts of a letter by file name."""
    text, name = letter_text(letter, template), letter_name(letter.person)
    return dict(zip((f"{name}{ending}" for ending in ENDINGS), (text, letter_html(text)), strict=True))


def _require_people(directory: LabDirectory) -> None:
    if not directory.people:
        problem = Problem(
            "no_roster",
            f"{directory.path}: the lab has no roster, or an empty one",
            "a letter is written to a person of the roster",
            "list the people in roster.csv and name the file in lab.yml: people: {roster: roster.csv}",
        )
        raise ProblemError(problem, "usage")
