"""requirements.lock of an environment: the wheels of a course by hash, and what they were chosen from."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from provisioner.domain.values.model import Value
from provisioner.domain.values.problem import Problem

_PINNED = re.compile(r"torch|torchvision|torchaudio|triton|pytorch-triton|(?:nvidia|cuda)-.+")
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,126}[a-z0-9])?")
_NVML = "nvidia-ml-py"  # it reads the driver's library, and has no part in CUDA
_HEADER = re.compile(r"# (python|platform|pin|base|inputs): (\S+)")
_COMMENT = re.compile(r"\s*(?:#.*)?")
_ENTRY = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)==(?P<version>[A-Za-z0-9.!+_-]+)(?P<more> \\)?")
_HASH = re.compile(r"    --hash=(sha256:[0-9a-f]{64})(?P<more> \\)?")


class Target(Value):
    """What a course's packages are chosen for.

    `python`: its minor version, `platform`: as in the name of a wheel, `pins`: the packages of the base that are
    neither replaced nor installed again, each with its public version.
    """

    python: str
    platform: str
    pins: dict[str, str]

    @property
    def torch(self) -> str:
        """The public version of torch, empty where the base has none."""
        return self.pins.get("torch", "")


class Entry(NamedTuple):
    """A package of the lock, with the hashes of its wheels. `comment`: the lines on who needs it."""

    name: str
    version: str
    hashes: tuple[str, ...]
    comment: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The lines by which pip installs exactly this."""
        return f"{self.name}=={self.version}" + "".join(f" \\\n    --hash={each}" for each in self.hashes) + "\n"


class RequirementsLock(NamedTuple):
    """The content of the file. `bases`: digests of the base images that it was written for."""

    target: Target
    inputs: str
    bases: tuple[str, ...]
    entries: tuple[Entry, ...]

    @property
    def requirements(self) -> str:
        """The packages without a comment, by name: what is installed."""
        return "".join(entry.text for entry in sorted(self.entries))


def valid_packages(packages: Mapping[str, str]) -> dict[str, str]:
    """Return the packages of a base with canonical names and normalised versions, without what is neither.

    They come from a program of the image, and become names of files and lines of a lock.
    """
    named = {canonicalize_name(name): version for name, version in packages.items()}
    return {
        name: str(Version(named[name])) for name in sorted(named) if _NAME.fullmatch(name) and _is_version(named[name])
    }


def pinned_packages(packages: Mapping[str, str]) -> dict[str, str]:
    """Return those of a base's packages that a course never replaces: torch, its companions, and CUDA's libraries."""
    return {name: version for name, version in valid_packages(packages).items() if is_pinned(name)}


def is_pinned(name: str) -> bool:
    """Whether a course never replaces the package with this canonical name."""
    return name != _NVML and _PINNED.fullmatch(name) is not None


def public_versions(pins: Mapping[str, str]) -> dict[str, str]:
    """Return the versions without the part after `+`, which says how a package was built."""
    return {name: Version(version).public for name, version in pins.items()}


def hash_inputs(requirements: Iterable[str], constraints: Iterable[str], own: Mapping[str, str], target: Target) -> str:
    """Return the hash of all that decides on a lock, except for the index: a name of a hash, and the hash.

    `requirements`, `constraints`: in their normal form; neither order nor repetition counts. `own`: the hash of each
    wheel of the environment's own, by file name.
    """
    parts = [sorted(set(requirements)), sorted(set(constraints)), dict(sorted(own.items())), target.model_dump()]
    return f"sha256:{hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()}"


def format_lock(lock: RequirementsLock, source: str) -> str:
    """Return the text of the file. `source`: the requirements file that a person changes."""
    lines = [
        f"# Written by `provision lock` from {source}: edit that file, and run it again.",
        f"# python: {lock.target.python}",
        f"# platform: {lock.target.platform}",
        *(f"# pin: {name}=={version}" for name, version in sorted(lock.target.pins.items())),
        *(f"# base: {base}" for base in sorted(lock.bases)),
        f"# inputs: {lock.inputs}",
    ]
    body = "".join(entry.text + "".join(f"{line}\n" for line in entry.comment) for entry in sorted(lock.entries))
    return "\n".join(lines) + "\n" + body


def parse_lock(name: str, text: str) -> RequirementsLock | tuple[Problem, ...]:
    """Return the lock, or its mistakes, each with its line: nothing else than `provision lock` writes is accepted."""
    header, entries, problems = _Header(), list[Entry](), list[Problem]()
    for item in _read_lines(name, text):
        if isinstance(item, Problem):
            problems.append(item)
        elif isinstance(item, Entry):
            entries.append(item)
        else:
            header.add(*item)
    problems += header.problems(name)
    names = [entry.name for entry in entries]
    repeated = sorted({package for package in names if names.count(package) > 1})
    problems += [_damaged(name, 1, f"the package {package} stands there twice") for package in repeated]
    problems += [
        _damaged(name, 1, f"{package} is of the base image, and must not be replaced")
        for package in sorted(header.pins.keys() & set(names))
    ]
    if problems:
        return tuple(problems)
    return RequirementsLock(header.target, header.last("inputs"), tuple(header.values["base"]), tuple(entries))


def entries_of(text: str) -> tuple[Entry, ...]:
    """Return the packages of a resolver's output. Raises ValueError where it has something else in it."""
    found = list(_read_lines("output", text))
    if problems := [item for item in found if isinstance(item, Problem)]:
        raise ValueError(problems[0].what)
    return tuple(item for item in found if isinstance(item, Entry))


class _Header:
    """The lines `# key: value`."""

    def __init__(self) -> None:
        self.values: dict[str, list[str]] = {key: [] for key in ("python", "platform", "pin", "base", "inputs")}

    def add(self, key: str, value: str) -> None:
        self.values[key].append(value)

    def last(self, key: str) -> str:
        return self.values[key][-1]

    def problems(self, name: str) -> list[Problem]:
        missing = [key for key in ("python", "platform", "inputs") if len(self.values[key]) != 1]
        return [_damaged(name, 1, f"its head does not have one line `# {key}: …`") for key in missing]

    @property
    def pins(self) -> dict[str, str]:
        return {name: version for name, _, version in (pin.partition("==") for pin in self.values["pin"])}

    @property
    def target(self) -> Target:
        return Target(python=self.last("python"), platform=self.last("platform"), pins=self.pins)


def _read_lines(name: str, text: str) -> Iterator[Entry | tuple[str, str] | Problem]:
    """Yield packages, lines of the header, and what is neither."""
    lines, at = text.replace("\r\n", "\n").split("\n"), 0
    while at < len(lines):
        if entry := _ENTRY.fullmatch(lines[at]):
            start, at = at, at + 1
            hashes, at = _read_hashes(lines, at) if entry["more"] else ((), at)
            comment, at = _read_comment(lines, at)
            found = Entry(entry["name"], entry["version"], hashes, comment)
            reason = _problem_of(found)
            yield _damaged(name, start + 1, reason) if reason else found
            continue
        if header := _HEADER.fullmatch(lines[at]):
            yield header[1], header[2]
        elif not _COMMENT.fullmatch(lines[at]):
            yield _damaged(name, at + 1, f"unexpected: {lines[at].strip()[:80]!r}")
        at += 1


def _read_hashes(lines: list[str], at: int) -> tuple[tuple[str, ...], int]:
    """Return the hashes that begin at a line, none where the last of them is not the end, and the line after them."""
    hashes = []
    while at < len(lines) and (found := _HASH.fullmatch(lines[at])):
        hashes.append(found[1])
        at += 1
        if not found["more"]:
            return tuple(hashes), at
    return (), at


def _read_comment(lines: list[str], at: int) -> tuple[tuple[str, ...], int]:
    end = at
    while end < len(lines) and lines[end].startswith("    #"):
        end += 1
    return tuple(lines[at:end]), end


def _problem_of(entry: Entry) -> str:
    """Return why an entry is not one that `provision lock` writes, an empty text where it is."""
    if canonicalize_name(entry.name) != entry.name or not _is_version(entry.version):
        return f"{entry.name}=={entry.version} is not the name of a package and its version"
    return "" if entry.hashes else f"{entry.name} has no hash at its end"


def _is_version(text: str) -> bool:
    try:
        Version(text)
    except InvalidVersion:
        return False
    return True


def _damaged(name: str, line: int, reason: str) -> Problem:
    return Problem(
        "requirements_lock_damaged",
        f"{name}:{line}: {reason}",
        "what is installed for everyone is only what `provision lock` has written there, by hash",
        f"restore the file from git, or delete it: `provision lock` writes it anew (rm {name})",
    )
