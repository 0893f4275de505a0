"""Find and read the directory of a lab: lab.yml, the inventory, and the files that lab.yml names."""

import os
import shlex
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from provisioner.adapters.lab.environments import EnvironmentNames, name_problems, read_names, requirements_problems
from provisioner.adapters.lab.keyfiles import certificates, package_key, public_keys
from provisioner.adapters.lab.rosterfile import read_roster
from provisioner.adapters.lab.source_location import SourceDocument, items, mapping, read_yaml, texts
from provisioner.adapters.lab.validation import validate_document
from provisioner.adapters.state.files import read_text
from provisioner.domain.lab.groups import disk_cautions
from provisioner.domain.lab.lab import Lab, Registry
from provisioner.domain.people.person import Person
from provisioner.domain.people.roster import Roster
from provisioner.domain.values.problem import Problem, ProblemError
from provisioner.domain.values.spelling import did_you_mean

LAB_FILE, LOCK_FILE = "lab.yml", "lab.lock"
# The CA of a registry that `provision prepare` set up. It is read where lab.yml names no other.
MANAGED_CA = "registry-ca.pem"
LABS = Path("inventories")

# What a field of lab.yml may hold, for the messages about fields whose rule is a pattern.
EXPECTED = {
    "address": "HOST or HOST:PORT, such as registry.lab:5000",
    "repositories": "a list of lower-case names such as pytorch/pytorch",
    "repository": "a lower-case name such as provisioner/lab",
    "url": "https://HOST/PATH, or a file below this directory",
    "uri": "http://HOST/PATH or https://HOST/PATH, such as https://mirror.example/docker-ce/linux",
    "pip_index": "the URL of a package index, without a user, such as https://mirror.example/pypi/simple",
    "conda_channels": "names or URLs of channels, such as https://mirror.example/anaconda/pkgs/main",
    "hf_endpoint": "the URL that takes the place of https://huggingface.co, such as https://hf-mirror.com",
    "http": "the URL of a proxy, without a user, such as http://proxy.example:3128",
    "https": "the URL of a proxy, without a user, such as http://proxy.example:3128",
    "no_proxy": "a list of hosts, such as localhost or .campus.example",
    "env": "variables that every student may read, such as WANDB_MODE: offline",
    "extra": "ports by name, such as tensorboard: 6006",
    "job": "the name of the sync job in the feed",
    "name": "lower-case letters, digits and -, starting with a letter, at most 31",
    "user": "a Linux user name: lower-case letters, digits, _ and -, at most 31",
    "homes": "an absolute path of letters, digits, dots, _ and -, such as /srv/homes",
    "source": "the path of a folder on the nodes: letters, digits, dots, _ and -, such as /mnt/nfs/imagenet",
    "target": "the path of the folder inside of a seat, such as /data",
    "subnets": "private IPv4 networks such as 10.213.0.0/16; each seat gets a /28",
    "memory": 'auto, none, or a size such as "512m" or "8g"',
    "cpus": "auto, none, or a number such as 8",
    "shm": 'a size such as "512m" or "8g"',
    "disk": 'a size such as "100g"',
    "roster": "the name of a file in this directory, such as roster.csv",
    "term_ends": "a day such as 2027-01-31",
    "groups": "names of lower-case letters, digits, _ and -, starting with a letter, at most 31",
    "unix": "the name of a group of accounts on the nodes, such as lab-staff",
    "unix_group": "the name of a group of accounts on the nodes, such as lab-students",
    "nodes": "the name of a node, or a pattern such as gpu*",
    "days": "a list of mon, tue, wed, thu, fri, sat and sun",
    "from": 'a day such as 2026-12-20 in freeze, an hour in quotes such as "22:00" in windows',
    "to": 'a day such as 2027-01-10 in freeze, an hour in quotes such as "06:00" in windows',
    "why": "the reason that users are shown, in a few words",
    "timezone": "a name such as Europe/Berlin or Asia/Shanghai",
    "environment": "the name of an environment, such as default",
    "environments": "names of lower-case letters, digits, _ and -, the first a letter or a digit, at most 31",
    "pip": "the path of a requirements file below this directory, such as environments/nlp/requirements.txt",
    "apt": "names of packages without a version, such as git-lfs",
    "torch": 'a version or a range in quotes, such as "2.8.0" or ">=2.6,<3"',
}

_INVENTORIES = ("hosts.yml", "hosts.yaml", "hosts.ini", "hosts", "hosts.*", "inventory*")
# What Ansible ignores in a folder of inventories; further copies that editors, people and package managers keep; and
# documents.
_NOT_INVENTORIES: tuple[str, ...] = (
    ".pyc",
    ".pyo",
    ".swp",
    ".bak",
    "~",
    ".rpm",
    ".md",
    ".txt",
    ".rst",
    ".orig",
    ".cfg",
    ".retry",
)
_NOT_INVENTORIES += (".old", ".save", ".tmp", ".rej", ".rpmsave", ".rpmnew", ".dpkg-old", ".dpkg-dist", ".dpkg-new")
_NOT_INVENTORIES += (".sample", ".example", ".dist", ".tmpl", ".j2", ".lock", ".log", ".csv", ".xls", ".xlsx", ".ods")
_NOT_INVENTORIES += (".pdf", ".doc", ".docx", ".odt", ".png", ".jpg", ".svg", ".html", ".allow", ".deny")
_PLUGINS = "inventory_plugins"
# The source of a program is an inventory only where it may be run.
_PROGRAMS = (".py", ".sh", ".pl", ".rb", ".js")


class LabDirectory(NamedTuple):
    """A lab that has been read. `keys`: the public SSH keys of seat.authorized_keys, one line each.

    `registry_ca`: the CA certificates of the registry (PEM). `package_keys`: the text of the signing key of each
    package source (docker, nvidia). `people`: of the roster; empty in a lab without one. `cautions`: what may be wrong
    in the roster, and which limits do not hold by themselves.
    """

    path: Path
    lab: Lab
    inventory: Path
    keys: tuple[str, ...] = ()
    registry_ca: str | None = None
    package_keys: Mapping[str, str] = {}
    people: tuple[Person, ...] = ()
    cautions: tuple[Problem, ...] = ()

    @property
    def lock(self) -> Path:
        """The path of lab.lock. The file may not exist."""
        return self.path / LOCK_FILE

    def below(self, name: str | None) -> Path | None:
        """Return the path of a file that lab.yml names relative to the lab's directory; None for None."""
        return None if name is None else self.path / name


def find_lab(name: str) -> Path:
    """Find the directory of LAB: a path, or a name that is looked up here and in inventories/.

    Raises ProblemError (usage) where no such directory exists.
    """
    places = [Path(name)] if "/" in name else [Path(name), LABS / name]
    found = next((p for p in places if (p / LAB_FILE).exists()), None) or next((p for p in places if p.is_dir()), None)
    if found is None:
        raise ProblemError(_no_such_lab(name, places), "usage")
    return found


def read_lab(name: str) -> LabDirectory:
    """Read lab.yml and the files that it names. Raises ProblemError (usage) with every mistake in them.

    The named files are read even where lab.yml has mistakes, so that all problems are shown at once.
    """
    path = find_lab(name)
    lab_file = path / LAB_FILE
    document = read_yaml(str(lab_file), read_text(lab_file, _init(path)))
    keys, authorities = list(_read_ssh_keys(path, document)), dict(_read_authorities(path, document))
    packages, inventory = dict(_read_package_keys(path, document)), _find_inventory(path)
    names = read_names(path / LOCK_FILE, document)
    roster, requirements = _read_roster(path, document, names), requirements_problems(path, document)
    named = list(name_problems(document, names))
    found = [*keys, *authorities.values(), *packages.values(), inventory, roster, *requirements, *named]
    people = roster if isinstance(roster, Roster) else Roster()
    beside = (*people.problems, *names.unread_if_missed([*named, *people.problems]))
    lab = _validate(document, [value for value in found if isinstance(value, Problem)], beside)
    lab = lab.model_copy(update={"registry": _with_managed_ca(path, lab.registry)})
    return LabDirectory(
        path=path,
        lab=lab,
        inventory=path / str(inventory),
        keys=tuple(dict.fromkeys(line for lines in keys if not isinstance(lines, Problem) for line in lines)),
        registry_ca=_registry_ca(path, lab.registry, authorities),
        package_keys={name: key for name, key in packages.items() if isinstance(key, str)},
        people=people.people,
        cautions=(*people.cautions, *disk_cautions(lab)),
    )


def _validate(document: SourceDocument, others: Iterable[Problem], beside: Iterable[Problem]) -> Lab:
    """Return the lab. Raises ProblemError (usage) with the mistakes of lab.yml and `others`, and then `beside`."""
    found = list[Problem]()
    lab = None
    try:
        lab = validate_document(document, Lab, EXPECTED, others)
    except ProblemError as error:
        found.extend(error.problems)
    found.extend(beside)
    if lab is None or found:
        raise ProblemError(found, "usage")
    return lab


def _with_managed_ca(path: Path, registry: Registry) -> Registry:
    exists = registry.managed and registry.ca is None and (path / MANAGED_CA).exists()
    return registry.model_copy(update={"ca": MANAGED_CA}) if exists else registry


def _registry_ca(path: Path, registry: Registry, authorities: Mapping[str, str | Problem]) -> str | None:
    """Return the CA of the registry. Raises ProblemError where the file of a managed registry is not a certificate."""
    if registry.ca is None:
        return None
    found = authorities.get("registry") or certificates(path / registry.ca, str(path / registry.ca))
    if isinstance(found, Problem):
        raise ProblemError(found, "usage")
    return found


def _read_ssh_keys(path: Path, document: SourceDocument) -> Iterator[tuple[str, ...] | Problem]:
    for index, name in enumerate(texts(document.data, "seat", "authorized_keys")):
        yield public_keys(path / name, document.place(("seat", "authorized_keys", index)))


def _read_roster(path: Path, document: SourceDocument, names: EnvironmentNames) -> Roster | Problem:
    name = next(texts(document.data, "people", "roster"), "")
    if not name:
        return Roster()
    groups = mapping(document.data, "groups")
    return read_roster(path, name, document.place(("people", "roster")), groups, names.origins)


def _read_authorities(path: Path, document: SourceDocument) -> Iterator[tuple[str, str | Problem]]:
    for section in (("mirror",), ("mirror", "upstream"), ("registry",)):
        for name in texts(document.data, *section, "ca"):
            yield section[-1], certificates(path / name, document.place((*section, "ca")))


def _read_package_keys(path: Path, document: SourceDocument) -> Iterator[tuple[str, str | Problem]]:
    for name in ("docker", "nvidia"):
        for index, source in enumerate(items(document.data, "prepare", name)):
            for file in texts(source, "key"):
                yield file, package_key(path / file, document.place(("prepare", name, index, "key")))


def inventories(path: Path) -> list[str]:
    """Return the file names of the inventories in a lab's directory. A valid lab has exactly one.

    The source of a program that may not be run counts where there is nothing else, for the message about it.
    """
    found = (candidate.name for pattern in _INVENTORIES for candidate in sorted(path.glob(pattern)))
    names = [name for name in dict.fromkeys(found) if not name.endswith(_NOT_INVENTORIES) and name != _PLUGINS]
    return [name for name in names if not name.endswith(_PROGRAMS) or os.access(path / name, os.X_OK)] or names


def _find_inventory(path: Path) -> str | Problem:
    found = inventories(path)
    if len(found) == 1:
        return found[0]
    if found:
        return Problem(
            "two_inventories",
            f"{path}: more than one inventory: {', '.join(found)}",
            "using one of them would silently leave out nodes",
            "keep one, or put them into a directory named inventory/, which Ansible merges",
        )
    return Problem(
        "no_inventory",
        f"{path}: no inventory: none of {', '.join(_INVENTORIES)}",
        "the nodes of a lab are those of its Ansible inventory",
        _init(path),
    )


def _init(path: Path) -> str:
    return f"provision init {shlex.quote(str(path))}"


def _no_such_lab(name: str, places: list[Path]) -> Problem:
    known = sorted(file.parent.name for file in LABS.glob(f"*/{LAB_FILE}"))
    looked = " and ".join(str(place) if place.is_absolute() else f"./{place}" for place in places)
    file = next((place for place in places if place.is_file()), None)
    return Problem(
        "no_such_lab",
        f"{file} is a file" if file else f"there is no lab {name}: looked at {looked}{did_you_mean(name, known)}",
        "a lab is a directory that holds hosts.yml and lab.yml",
        f"give the directory: {file.parent}" if file else _init(Path(name)),
    )
