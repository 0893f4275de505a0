"""The pip packages of environments: from a requirements file to wheels in the context of a build.

The builder calls, for an environment with `pip`, in this order:

1. `find(environment, base digest)`, before the base is pulled: the course as requirements.lock has it, if that was made
   from the same inputs. It needs neither an engine nor a network, and finds all mistakes in the requirements file.
2. Where it is None: the base is pulled, its facts are read, and `resolve(environment, base digest, facts)` takes what
   requirements.lock has for such a base, or chooses versions anew.
3. `Course.sha256` is part of the inputs of the image, and is `LockedImage.requirements`.
4. Where the image has to be built: `fill(folder, course, facts)` writes requirements.txt and wheels/ into the folder of
   the context that course_env.py reads: `course_env.py /opt/provisioner/course FOLDER`, run by the base's Python in a
   stage that has /opt/provisioner/env, if the image gets one.

`files()` are then the texts of requirements.lock. Who writes lab.lock writes them before it, by `save_requirements`;
--check does not.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from packaging.utils import canonicalize_name

from provisioner.adapters.engine import wheels
from provisioner.adapters.engine.base_image import BaseFacts
from provisioner.adapters.engine.index_settings import uv_settings
from provisioner.adapters.engine.resolve import Question, resolve
from provisioner.adapters.state.files import read_bytes, read_text, write_text
from provisioner.domain.lab.environments import setting_of
from provisioner.domain.lab.requirements import Named, parse_requirements
from provisioner.domain.lab.requirements_lock import (
    RequirementsLock,
    Target,
    format_lock,
    hash_inputs,
    is_pinned,
    parse_lock,
    pinned_packages,
    public_versions,
    valid_packages,
)
from provisioner.domain.people.table import decode_table
from provisioner.domain.values.event import Event, OnEvent
from provisioner.domain.values.model import Value
from provisioner.domain.values.problem import Problem, ProblemError

FOLDER, LOCK, OWN_WHEELS = "environments", "requirements.lock", "wheels"
_GLIBC = (17, 28, *range(31, 41))  # the minor versions that uv has platforms for


class Course(Value):
    """The packages of an environment for one base. `requirements`: each with its version and hashes, by name."""

    environment: str
    requirements: str

    @property
    def sha256(self) -> str:
        """The hash of the packages, which a comment in requirements.lock does not change."""
        return hashlib.sha256(self.requirements.encode()).hexdigest()


@dataclass
class _Wanted:
    """What people wrote for an environment, and what its folder has. `locks`: as they were, by file name."""

    source: str
    requirements: tuple[Named, ...]
    constraints: tuple[Named, ...]
    own: dict[str, str]
    locks: dict[str, RequirementsLock]
    made: list[RequirementsLock] = field(default_factory=list)

    def inputs(self, target: Target) -> str:
        """Return the hash of all that decides on the lock for a target."""
        requirements, constraints = ([each.text for each in part] for part in (self.requirements, self.constraints))
        return hash_inputs(requirements, constraints, self.own, target)


class CourseRequirements:
    """The packages of a lab's environments. `files`: the requirements file of each environment that has one.

    `directory`: of the lab. `lab_requirements`: the text of requirements-lab.txt, which has the pip that installs.
    """

    def __init__(self, directory: Path, files: Mapping[str, str], lab_requirements: str, on_event: OnEvent) -> None:
        """Store the settings. Files are read when an environment is first asked for."""
        self._directory = directory
        self._files = files
        self._lab_requirements = lab_requirements
        self._on_event = on_event
        self._read: dict[str, _Wanted] = {}

    def find(self, environment: str, base: str) -> Course | None:
        """Return the course for a base with this digest, None where the committed lock does not have it.

        Raises ProblemError (usage) with every mistake in the requirements file and the lock.
        """
        wanted = self._wanted(environment)
        for lock in (*wanted.made, *wanted.locks.values()):
            if base in lock.bases and lock.inputs == wanted.inputs(lock.target):
                return self._take(environment, lock)
        return None

    def resolve(self, environment: str, base: str, facts: BaseFacts) -> Course:
        """Return the course for a base, from a lock with the same inputs, else from the package index.

        Raises ProblemError where no versions fit, or the index does not answer.
        """
        wanted = self._wanted(environment)
        pins = pinned_packages(facts.packages)
        target = Target(
            python=".".join(facts.version.split(".")[:2]), platform=_platform(facts), pins=public_versions(pins)
        )
        inputs = wanted.inputs(target)
        known = (*wanted.made, *wanted.locks.values())
        lock = next((lock for lock in known if (lock.target, lock.inputs) == (target, inputs)), None)
        if lock is None:
            self._on_event(Event(phase="build", kind="started", text=f"choosing the packages of {wanted.source}"))
            lock = RequirementsLock(target, inputs, (), resolve(self._question(environment, target, pins, facts)))
        return self._take(environment, lock._replace(bases=tuple(sorted({*lock.bases, base}))))

    def fill(self, folder: Path, course: Course, facts: BaseFacts) -> None:
        """Write requirements.txt and wheels/, with a wheel of pip, into a folder. Raises ProblemError (`no_wheels`)."""
        (folder / "requirements.txt").write_text(course.requirements, encoding="utf-8")
        wanted = course.requirements
        if "\npip==" not in f"\n{wanted}":
            wanted += _pip_of(wheels.select_requirements(self._lab_requirements, facts))
        download = folder / "download.txt"
        download.write_text(wanted, encoding="utf-8")
        self._on_event(Event(phase="build", kind="started", text=f"downloading the packages of {course.environment}"))
        wheels.download_wheels(download, folder / "wheels", facts, own=self._folder(course.environment) / OWN_WHEELS)
        download.unlink()

    def files(self) -> dict[Path, str]:
        """Return the text of requirements.lock of every environment that was asked for, by path."""
        return {
            self._folder(environment) / name: format_lock(lock, wanted.source)
            for environment, wanted in self._read.items()
            for name, lock in _named(wanted.made)
        }

    def _take(self, environment: str, lock: RequirementsLock) -> Course:
        """Keep the lock for `files`, in the place of one for the same target."""
        made = self._wanted(environment).made
        same = next((at for at, other in enumerate(made) if other.target == lock.target), len(made))
        made[same : same + 1] = [lock]
        return Course(environment=environment, requirements=lock.requirements)

    def _folder(self, environment: str) -> Path:
        return self._directory / FOLDER / environment

    def _wanted(self, environment: str) -> _Wanted:
        if environment not in self._read:
            self._read[environment] = self._read_wanted(environment)
        return self._read[environment]

    def _read_wanted(self, environment: str) -> _Wanted:
        source, folder = self._files[environment], self._folder(environment)
        read = _Reader(self._directory)
        read.file(source, f"create the file, or remove {setting_of(environment)}.pip in lab.yml")
        locks, problems = _read_locks(folder)
        if read.problems or problems:
            raise ProblemError([*read.problems, *problems], "usage")
        own = {path.name: _hash_file(path) for path in sorted((folder / OWN_WHEELS).glob("*.whl"))}
        return _Wanted(source, tuple(read.requirements), tuple(read.constraints), own, locks)

    def _question(self, environment: str, target: Target, pins: Mapping[str, str], facts: BaseFacts) -> Question:
        wanted, folder = self._wanted(environment), self._folder(environment)
        return Question(
            requirements=wanted.requirements,
            constraints=wanted.constraints,
            target=target,
            pins=pins,
            wheels=folder / OWN_WHEELS,
            preferred=_preferred(wanted, target, facts),
            source=wanted.source,
            setting=setting_of(environment),
            index=uv_settings(),
        )


def save_requirements(files: Mapping[Path, str]) -> None:
    """Write each file that does not have its text yet. Raises ProblemError where one cannot be written."""
    for path, text in files.items():
        if not path.is_file() or path.read_bytes() != text.encode():
            write_text(path, text)


class _Reader:
    """Reads a requirements file, and those that it names, each once."""

    def __init__(self, directory: Path) -> None:
        self.requirements: list[Named] = []
        self.constraints: list[Named] = []
        self.problems: list[Problem] = []
        self._directory = directory
        self._seen: set[tuple[Path, bool]] = set()

    def file(self, name: str, fix: str, *, place: str = "", is_constraint: bool = False) -> None:
        """Read a file below the lab's directory. `place`: of the line that names it."""
        path = self._directory / name
        if (path.resolve(), is_constraint) in self._seen:
            return
        self._seen.add((path.resolve(), is_constraint))
        text = self._text(path, place, fix)
        if text is None:
            return
        parsed = parse_requirements(str(path), text)
        self.problems += parsed.problems
        (self.constraints if is_constraint else self.requirements).extend(parsed.requirements)
        for include in parsed.includes:
            named = str(Path(name).parent / include.path)
            self.file(
                named,
                "create the file, or remove the line",
                place=f"{include.place}: ",
                is_constraint=is_constraint or include.is_constraint,
            )

    def _text(self, path: Path, place: str, fix: str) -> str | None:
        if not path.resolve().is_relative_to(self._directory.resolve()):
            self.problems.append(_outside(path, place))
            return None
        try:
            decoded = decode_table(read_bytes(path, fix), str(path))
        except ProblemError as error:
            self.problems += [each.model_copy(update={"what": f"{place}{each.what}"}) for each in error.problems]
            return None
        if isinstance(decoded, Problem):
            self.problems.append(decoded)
            return None
        return decoded


def _read_locks(folder: Path) -> tuple[dict[str, RequirementsLock], list[Problem]]:
    """Return the locks of an environment by file name, requirements.lock first, and their mistakes."""
    files = sorted(folder.glob("requirements*.lock"), key=lambda path: (path.name != LOCK, path.name))
    locks, problems = dict[str, RequirementsLock](), list[Problem]()
    for path in files:
        lock = parse_lock(str(path), read_text(path, f"restore the file from git, or delete it (rm {path})"))
        if isinstance(lock, RequirementsLock):
            locks[path.name] = lock
        else:
            problems += lock
    return locks, problems


def _named(locks: Iterable[RequirementsLock]) -> Iterator[tuple[str, RequirementsLock]]:
    """Yield the locks with their file names: the first is requirements.lock, others say what they are for."""
    taken = set[str]()
    for lock in locks:
        purpose = f"requirements-{lock.target.torch}-py{lock.target.python}"
        names = [LOCK] if not taken else [f"{purpose}{end}.lock" for end in ("", *(f"-{n}" for n in range(2, 100)))]
        name = next(name for name in names if name not in taken)
        taken.add(name)
        yield name, lock


def _preferred(wanted: _Wanted, target: Target, facts: BaseFacts) -> str:
    """Return the versions to keep where they fit: those of the lock, then those that the base has already.

    Without an own wheel's hash, which is that of an earlier file of this name.
    """
    locks = sorted(wanted.locks.values(), key=lambda lock: (lock.target != target, lock.target.python != target.python))
    own = {canonicalize_name(name.partition("-")[0]) for name in wanted.own}
    entries = {entry.name: entry.text for entry in (locks[0].entries if locks else ()) if entry.name not in own}
    base = {
        name: f"{name}=={version}\n" for name, version in valid_packages(facts.packages).items() if not is_pinned(name)
    }
    return "".join(({name: text for name, text in base.items() if name not in own} | entries).values())


def _platform(facts: BaseFacts) -> str:
    """Return the platform as uv names it, for the newest glibc that is not newer than the base's."""
    if not facts.glibc:
        raise ProblemError(_no_glibc())
    minor = int(facts.glibc.split(".")[1])
    return f"{facts.machine}-manylinux_2_{max(known for known in _GLIBC if known <= max(minor, _GLIBC[0]))}"


def _pip_of(requirements: str) -> str:
    """Return the requirement of pip, with its hashes, of those of the lab image."""
    start = f"\n{requirements}".index("\npip==")
    return re.split(r"\n(?=[A-Za-z0-9])", requirements[start:], maxsplit=1)[0] + "\n"


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _no_glibc() -> Problem:
    return Problem(
        "course_unfit",
        "a course's packages cannot be installed in this base image: its C library is not glibc",
        "wheels of the package indexes are made for glibc",
        "choose another base by image.torch or image.flavour in lab.yml",
    )


def _outside(path: Path, place: str) -> Problem:
    return Problem(
        "requirements_outside",
        f"{place}{path} is not below the directory of the lab",
        "the lab's directory in git has all that its environments are made of",
        "copy the file into the lab's directory",
    )
