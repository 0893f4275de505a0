"""Resolve a course's requirements for a base image with uv, which does so for another Python and platform.

torch and what belongs to it stay the base's: uv is given them as wheels of their metadata alone, as the only version.
"""

import re
import shlex
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from provisioner.adapters.engine.index_settings import IndexSettings
from provisioner.domain.lab.requirements import Named
from provisioner.domain.lab.requirements_lock import Entry, Target, entries_of
from provisioner.domain.values.problem import Problem, ProblemError

_UNSOLVABLE = 1  # uv's exit code where no versions fit; another is a failure of uv or of the index
_SECONDS = 900
_LINES = 20  # of uv's explanation
_PASSWORD = re.compile(r"//[^/@\s]+@")
_PACKAGE = re.compile(r"^(?P<name>[a-z0-9][a-z0-9._-]*)(?:==| @ )(?P<version>\S+)")
_VIA = re.compile(r"^    #(?: via)? +(?P<name>(?!via$)\S.*)$")


class Answer(NamedTuple):
    """What uv said. `code`: its exit code."""

    code: int
    output: str
    explanation: str


@dataclass(frozen=True)
class Question:
    """Which versions fit. `pins`: packages of the base with their full versions; `wheels`: a folder of own wheels.

    `preferred`: packages in the form of a lock, whose versions are kept where they fit. `source`: the requirements
    file as a person calls it. `setting`: the environment's place in lab.yml. `index`: the index of this machine.
    `ignored`: packages that count as needed by nothing.
    """

    requirements: tuple[Named, ...]
    constraints: tuple[Named, ...]
    target: Target
    pins: Mapping[str, str]
    wheels: Path
    preferred: str
    source: str
    setting: str
    index: IndexSettings
    ignored: tuple[str, ...] = ()


def resolve(question: Question) -> tuple[Entry, ...]:
    """Return the packages with their hashes, without those of the base.

    Raises ProblemError: `torch_conflict` with both requirements, `course_unresolved`, or `course_index_failed`.
    """
    answer = ask(question)
    if answer.code:
        raise ProblemError(tuple(_explain(question, answer)))
    return entries_of(answer.output)


def ask(question: Question) -> Answer:
    """Run uv. Raises ProblemError where it cannot run, does not end, or fails for another reason than versions."""
    with tempfile.TemporaryDirectory(prefix="provisioner-resolve-") as name:
        folder = Path(name)
        command, environment = _command(question, folder)
        try:
            done = subprocess.run(
                command, cwd="/", env=environment, capture_output=True, text=True, check=False, timeout=_SECONDS
            )
        except subprocess.TimeoutExpired:
            raise ProblemError(_index_failed(f"it was stopped after {_SECONDS} s")) from None
        explanation = "\n".join(_anonymous(done.stderr, folder).strip().splitlines()[:_LINES])
        if done.returncode not in {0, _UNSOLVABLE}:
            raise ProblemError(_index_failed(explanation))
        output = "" if done.returncode else (folder / "output.txt").read_text(encoding="utf-8")
        return Answer(done.returncode, _anonymous(output, folder), explanation)


def _anonymous(text: str, folder: Path) -> str:
    """Return a text of uv without passwords, and without the temporary folder."""
    for shown in (f"file://{folder}/", f"{folder}/", f"{folder}/".removeprefix("/")):
        text = text.replace(shown, "")
    return _PASSWORD.sub("//", text)


def _command(question: Question, folder: Path) -> tuple[list[str], dict[str, str]]:
    """Write what uv reads into the folder; return its command and environment."""
    # Absolute paths, and uv runs in /: it reads settings from the folders above, and everyone may write into /tmp.
    source, constraint, output = (folder / name for name in (Path(question.source).name, "constraints", "output.txt"))
    stubs = [f"{name} @ {_stub(folder, name, version).as_uri()}" for name, version in question.pins.items()]
    constraints = [*stubs, *(each.text for each in question.constraints)]
    source.write_text("".join(f"{each.text}\n" for each in question.requirements), encoding="utf-8")
    constraint.write_text("".join(f"{each}\n" for each in constraints), encoding="utf-8")
    output.write_text(question.preferred, encoding="utf-8")
    environment = dict(question.index.environment)
    command = [sys.executable, "-m", "uv", "pip", "compile", str(source), "-c", str(constraint), "-o", str(output)]
    command += ["--quiet", "--generate-hashes", "--no-header", "--only-binary", ":all:", "--python", sys.executable]
    command += ["--python-version", question.target.python, "--python-platform", question.target.platform]
    command += [word for name in question.pins for word in ("--no-emit-package", name)]
    if question.ignored:
        override = folder / "overrides"
        override.write_text("".join(f"{name} ; python_version < '0'\n" for name in question.ignored), encoding="utf-8")
        command += ["--override", str(override)]
    if question.wheels.is_dir():  # beside the folders of this machine: an option would replace these
        folders = [environment.get("UV_FIND_LINKS", ""), str(question.wheels)]
        environment["UV_FIND_LINKS"] = ",".join(filter(None, folders))
    return [*command, *question.index.options], environment


def _stub(folder: Path, name: str, version: str) -> Path:
    """Write a wheel that has a name and a version, and needs nothing: what it needs is in the base."""
    package = name.replace("-", "_")
    path, info = folder / f"{package}-{version}-py3-none-any.whl", f"{package}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return path


def _explain(question: Question, answer: Answer) -> list[Problem]:
    """Return a problem for each line that has no solution: with the base's packages, or at all.

    Each line is asked for alone; where every one has a solution, it is the smallest set without one.
    """
    alone = [replace(question, requirements=(each,)) for each in question.requirements]
    failed = [(each, found) for each in alone if (found := ask(each)).code]
    if not failed:
        smallest = _smallest(question)
        failed = [(smallest, ask(smallest))]
    return [_problem(each, found if found.code else answer) for each, found in failed]


def _smallest(question: Question) -> Question:
    """Leave out every line without which there is still no solution."""
    for line in question.requirements:
        fewer = replace(question, requirements=tuple(each for each in question.requirements if each != line))
        if ask(fewer).code:
            question = fewer
    return question


def _problem(question: Question, answer: Answer) -> Problem:
    """Return why no versions fit: because of a package of the base if some fit without it, else for other reasons."""
    free = ask(replace(question, pins={}, preferred=""))
    chosen, chains = read_chains(free.output)
    names = [name for name in ("torch", *question.pins) if name in question.pins and name in chosen]
    if free.code or not names:
        pin = _pin_in_the_way(question)
        return _unresolved(question, answer) if pin is None else _conflict(question, answer, pin, None)
    # One that alone leaves no solution: torch first, as its libraries' versions follow from its own.
    guilty = next((name for name in names if ask(_with_pin(question, name)).code), names[0])
    return _conflict(question, answer, guilty, (chosen[guilty], chains[guilty]))


def _pin_in_the_way(question: Question) -> str | None:
    """Return the package of the base of which another version is needed that the index does not have for this Python.

    None if no versions fit without the packages of the base, either.
    """
    pins = [name for name in ("torch", *question.pins) if name in question.pins]
    if ask(replace(question, ignored=tuple(pins))).code:
        return None
    return next((name for name in pins if not ask(replace(question, ignored=(name,))).code), pins[0])


def _with_pin(question: Question, name: str) -> Question:
    return replace(question, pins={name: question.pins[name]}, preferred="")


def read_chains(output: str) -> tuple[dict[str, str], dict[str, tuple[str, ...]]]:
    """Return version and chain of each package of uv's output: from the package of a line to the package itself."""
    versions, needed_by = dict[str, str](), dict[str, list[str]]()
    name = ""
    for line in output.splitlines():
        if package := _PACKAGE.match(line):
            name = package["name"]
            versions[name] = package["version"]
        elif (via := _VIA.match(line)) and name:
            needed_by.setdefault(name, []).append(via["name"])
    return versions, {package: _chain(package, needed_by) for package in versions}


def _chain(package: str, needed_by: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """Return the shortest way from a package that a person has asked for."""
    ways, seen = [tuple[str, ...]((package,))], {package}
    for way in ways:
        above = needed_by.get(way[0], ())
        if any(name.startswith("-r ") for name in above):
            return way
        for name in above:
            if name not in seen and not name.startswith("-"):
                seen.add(name)
                ways.append((name, *way))
    return (package,)


def _conflict(question: Question, answer: Answer, pin: str, found: tuple[str, tuple[str, ...]] | None) -> Problem:
    """Return the problem. `found`: what would be installed instead, and the chain to it; None: no version."""
    version, chain = found or ("", ())
    way = f" (through {' → '.join(chain)})" if len(chain) > 1 else ""
    instead = f"{pin}=={version} would be installed" if found else f"the index has no {pin} that it takes, either"
    kept = f"{pin}=={question.pins[pin]}"
    return Problem(
        "torch_conflict",
        (
            f"{_lines(question.requirements)}: does not fit the image's {kept}{way}; without it, {instead}\n"
            f"{answer.explanation}"
        ),
        "torch, its companions and the libraries of CUDA stay those of the image, which fit the drivers and GPUs",
        (
            f"choose versions that work with {kept}, or another image by {question.setting}.torch in lab.yml, "
            f"with a torch that this package takes"
        ),
    )


def _unresolved(question: Question, answer: Answer) -> Problem:
    target = question.target
    return Problem(
        "course_unresolved",
        (
            f"{_lines(question.requirements)}: no versions fit Python {target.python} on {target.platform}\n"
            f"{answer.explanation}"
        ),
        "every package is installed from a wheel: nothing is compiled while an image is built",
        (
            "correct the name or the versions; where a package has no wheel for this Python, take one that has, "
            f"or build one: pip wheel --no-deps --wheel-dir {shlex.quote(str(question.wheels))} NAME==VERSION"
        ),
    )


def _lines(requirements: Iterable[Named]) -> str:
    return ", ".join(f"{each.place}: {each.text}" for each in requirements)


def _index_failed(explanation: str) -> Problem:
    return Problem(
        "course_index_failed",
        f"the packages of a course could not be chosen:\n{explanation}",
        "versions and hashes come from the package index that this machine is configured with",
        "`pip config list` shows the index; try it with `pip download --no-deps NAME`, then run the command again",
    )
