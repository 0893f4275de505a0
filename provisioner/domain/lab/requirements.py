"""A course's requirements file as a person writes it: names and versions of packages, without their places."""

import re
from collections.abc import Iterator
from typing import NamedTuple

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from provisioner.domain.values.problem import Problem

_COMMENT = re.compile(r"(?:^|\s)#.*")
_CONTINUED = re.compile(r"\\\r?\n|\\\r")
_OPTION = re.compile(r"(?P<name>--?[A-Za-z][A-Za-z-]*)(?:[ =]\s*|(?<=^-[rc]))(?P<value>.*)")
_FILES = {"-r": "requirement", "--requirement": "requirement", "-c": "constraint", "--constraint": "constraint"}
_INDEX_OPTIONS = frozenset(
    {"-i", "--index-url", "--extra-index-url", "-f", "--find-links", "--no-index", "--trusted-host", "--pypi-url"}
)
_LOOKS_LIKE_PLACE = re.compile(r"^(?:\.{0,2}/|[a-z+]+://|git\+|~|[A-Za-z]:\\)|\.(?:whl|zip|tar\.gz)$")
_IN_WHEELS = (
    "build a wheel of it and put that into the folder wheels/ beside requirements.lock, then write NAME==VERSION"
)


class Named(NamedTuple):
    """One requirement in its normal form, and the line of the file that it starts in, from 1."""

    text: str
    file: str
    line: int

    @property
    def place(self) -> str:
        """`file:line`."""
        return f"{self.file}:{self.line}"

    @property
    def package(self) -> str:
        """The canonical name of the package."""
        return canonicalize_name(Requirement(self.text).name)


class Include(NamedTuple):
    """Another file that a line names: of requirements, or of constraints."""

    path: str
    is_constraint: bool
    place: str


class Parsed(NamedTuple):
    """The content of one requirements file, with its mistakes."""

    requirements: tuple[Named, ...] = ()
    includes: tuple[Include, ...] = ()
    problems: tuple[Problem, ...] = ()


def parse_requirements(file: str, text: str) -> Parsed:
    """Parse a requirements file. `file`: its name in problems."""
    found = [_read_line(line, file, number) for number, line in _logical_lines(text)]
    return Parsed(
        tuple(item for item in found if isinstance(item, Named)),
        tuple(item for item in found if isinstance(item, Include)),
        tuple(item for item in found if isinstance(item, Problem)),
    )


def normal_form(requirement: Requirement) -> str:
    """Return the one way to write a requirement: two texts that mean the same differ in nothing."""
    extras = ",".join(sorted(canonicalize_name(extra) for extra in requirement.extras))
    name = canonicalize_name(requirement.name) + (f"[{extras}]" if extras else "")
    return f"{name}{requirement.specifier}" + (f" ; {requirement.marker}" if requirement.marker else "")


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield the lines that hold more than a comment, continued ones joined, with the number of their first line."""
    number = 1
    # A continued line keeps its line breaks as another character, so that the numbers of later lines are right.
    for line in re.split(r"\r\n|\r|\n", _CONTINUED.sub("\v", text)):
        content = _COMMENT.sub("", line.replace("\v", " ")).strip()
        if content:
            yield number, content
        number += 1 + line.count("\v")


def _read_line(line: str, file: str, number: int) -> Named | Include | Problem:
    place = f"{file}:{number}"
    if option := _OPTION.fullmatch(line):
        return _read_option(option["name"], option["value"].strip(), place)
    if line.startswith("-"):
        return _unknown_option(line.split(maxsplit=1)[0], place)
    if " --" in line:
        return _hash_or_option(line.partition(" --")[2], place)
    if _LOOKS_LIKE_PLACE.search(line):
        return _not_a_name(line, place)
    try:
        requirement = Requirement(line)
    except InvalidRequirement as error:
        return _not_a_requirement(str(error).splitlines()[0], line, place)
    return _not_a_name(line, place) if requirement.url else Named(normal_form(requirement), file, number)


def _read_option(name: str, value: str, place: str) -> Include | Problem:
    if name in _FILES and value:
        return Include(value.strip("\"'"), _FILES[name] == "constraint", place)
    if name in _INDEX_OPTIONS:
        return Problem(
            "requirements_index",
            f"{place}: {name} names a package index in a requirements file",
            "the index is a setting of this machine; in a file of the lab it would go to every copy, with its password",
            "remove the line, and configure the index with pip: `pip config set global.index-url URL`",
        )
    return _not_a_name(value, place) if name in {"-e", "--editable"} else _unknown_option(name, place)


def _unknown_option(name: str, place: str) -> Problem:
    return Problem(
        "requirements_option",
        f"{place}: the option {name} is not allowed in a course's requirements",
        "it would change how packages are chosen or installed, which is the same for every environment",
        "remove it; other files are included by `-r FILE`, and limited by `-c FILE`",
    )


def _hash_or_option(rest: str, place: str) -> Problem:
    if not rest.startswith("hash"):
        return _unknown_option(f"--{rest.split('=', maxsplit=1)[0].split(maxsplit=1)[0]}", place)
    return Problem(
        "requirements_option",
        f"{place}: the requirement has hashes of its own",
        "the hashes of all packages, also of those that this one needs, are written into requirements.lock",
        "remove --hash from the line",
    )


def _not_a_name(line: str, place: str) -> Problem:
    return Problem(
        "requirements_place",
        f"{place}: not the name of a package: {_without_password(line)}",
        "a path or a URL is something else on another machine or another day, so it cannot be locked",
        f"write NAME==VERSION; for a package that no index has, {_IN_WHEELS}",
    )


def _not_a_requirement(reason: str, line: str, place: str) -> Problem:
    return Problem(
        "bad_requirement",
        f"{place}: not a requirement: {_without_password(line)} ({_without_password(reason)})",
        "each line is the name of a package with its versions, as pip reads it",
        "write it as NAME, NAME==1.2.3 or NAME>=1.2,<2",
    )


def _without_password(text: str) -> str:
    return re.sub(r"//[^/@\s]+@", "//", text)[:200]
